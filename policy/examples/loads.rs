//! What each policy makes of five loads, in simulated time: prints the table of docs/policies.md.
//!
//! One server, slices of 4 ms, 20 s per load; switches cost nothing, and nobody is taken off before
//! a slice ends. `cargo run --release -p umcg-policy --example loads`

#[path = "../tests/sim/mod.rs"]
mod sim;

use sim::{Life, MS, Random, Sim, Task, US};
use umcg_policy::{Decide, NAMES, create};

const SECONDS: u64 = 20;
/// By the kernel's table, 100 = nice 0.
const NICE_M5: u32 = 305;
const NICE_5: u32 = 33;

fn run(policy: &str, tasks: Vec<Task>) -> Sim {
    let policy = create(policy, Some(Decide::Staged), tasks.len() as u32);
    let mut sim = Sim::new(policy.expect("a listed name"), 1, 4000, tasks, 1);
    sim.run(SECONDS * 1000 * MS);
    sim
}

/// Three that never sleep, nice -5, 0 and 5: their shares.
fn hogs(policy: &str) -> String {
    let hog = |weight| Task::new(Life::Hog).weight(weight);
    let sim = run(policy, [NICE_M5, 100, NICE_5].map(hog).into());
    let share = |id| sim.run_ns(id) as f64 / (SECONDS * 10 * MS) as f64;
    format!("{:.0} / {:.0} / {:.0}", share(0), share(1), share(2))
}

/// 40 workers with pieces of 0.2 ms, 40 % in all, and two with pieces of 100 ms, about 35 %: the
/// response of the short ones.
fn bimodal(policy: &str) -> String {
    let sleeper = |compute_us: u64, sleep_ms: u64| {
        Task::new(Life::Sleeper {
            sleep_ns: sleep_ms * MS,
            compute_ns: compute_us * US,
        })
    };
    let mut tasks = vec![sleeper(200, 20); 40];
    tasks.extend([sleeper(100_000, 450); 2]);
    let sim = run(policy, tasks);
    let mut waits: Vec<u64> = sim
        .done
        .iter()
        .filter(|done| done.id < 40)
        .map(|done| done.done_ns - done.released_ns)
        .collect();
    waits.sort_unstable();
    let mean = waits.iter().sum::<u64>() / waits.len() as u64;
    let p99 = waits[waits.len() * 99 / 100];
    format!("{} / {}", ms(mean), ms(p99))
}

/// U = 0.9 by six periodic workers, 21 to 477 ms, nice -7 to 7, the first with 0.4 and the others
/// with 0.1: jobs that were late.
fn periodic(policy: &str) -> String {
    let periods_us = [
        (476, 21_008),
        (244, 40_983),
        (125, 80_000),
        (64, 156_250),
        (33, 303_030),
        (21, 476_190),
    ];
    let task = |(weight, period_us): (u32, u64)| {
        let life = Life::Periodic {
            offset_ns: u64::from(weight) * US,
            period_ns: period_us * US,
            compute_ns: period_us * if weight == 476 { 400 } else { 100 },
        };
        Task::new(life).weight(weight)
    };
    // Room for the one that needs 0.4.
    let policy = match policy {
        "deadline" => "deadline:budget_pct=50",
        other => other,
    };
    let sim = run(policy, periods_us.map(task).into());
    let due = |id: usize| periods_us[id].1 * US;
    let late = sim
        .done
        .iter()
        .filter(|done| done.done_ns > done.released_ns + due(done.id));
    // What was released and is not done has missed as well.
    let released: u64 = periods_us
        .iter()
        .map(|(_, us)| SECONDS * 1_000_000 / us)
        .sum();
    let missing = released.saturating_sub(sim.done.len() as u64 + periods_us.len() as u64);
    format!(
        "{:.1}",
        (late.count() as u64 + missing) as f64 * 100.0 / released as f64
    )
}

/// One that needs 1 ms after sleeps of about 20 ms, nice -5, beside four hogs: its p99 response, and
/// the longest wait of anybody.
fn interactive(policy: &str) -> String {
    let life = Life::Sleeper {
        sleep_ns: 20 * MS,
        compute_ns: MS,
    };
    let mut tasks = vec![Task::new(life).weight(NICE_M5)];
    tasks.extend([Task::new(Life::Hog); 4]);
    let sim = run(policy, tasks);
    let mut waits: Vec<u64> = sim
        .done
        .iter()
        .map(|done| done.done_ns - done.released_ns)
        .collect();
    waits.sort_unstable();
    let p99 = waits
        .get(waits.len() * 99 / 100)
        .map_or("never".to_owned(), |&ns| ms(ns));
    let longest = |id: usize| {
        let mut last = sim::START;
        let mut longest = 0;
        for turn in sim.turns.iter().filter(|turn| turn.id == id) {
            longest = longest.max(turn.from_ns - turn.since_ns.max(last));
            last = turn.to_ns;
        }
        match id {
            0 => longest,
            // A hog wants to run at any time.
            _ => longest.max(sim.now().saturating_sub(last)),
        }
    };
    let worst = (0..5).map(longest).max().expect("five");
    format!(
        "{p99} / {}",
        if worst > 10_000 * MS {
            "for ever".to_owned()
        } else {
            ms(worst)
        }
    )
}

/// 30 jobs of 10 to 200 ms that come one after the other: mean and worst time until they are done.
fn batch(policy: &str) -> String {
    let mut random = Random::new(7);
    let mut job = || {
        Task::new(Life::Batch {
            compute_ns: (10 + random.below(190)) * MS,
        })
    };
    let sim = run(policy, (0..30).map(|_| job()).collect());
    let times: Vec<u64> = sim
        .done
        .iter()
        .map(|done| done.done_ns - done.released_ns)
        .collect();
    assert_eq!(times.len(), 30, "{policy}: all are done within the time");
    let mean = times.iter().sum::<u64>() / times.len() as u64;
    format!(
        "{:.1} / {:.1}",
        mean as f64 / 1e9,
        *times.iter().max().expect("30") as f64 / 1e9
    )
}

fn ms(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e6)
}

fn table() -> String {
    let head = "| policy | hogs, % | bimodal, ms | periodic, % late | interactive, ms | batch, s |\n\
                |---|---|---|---|---|---|\n";
    let rows = NAMES.iter().map(|name| {
        let cells = [hogs, bimodal, periodic, interactive, batch].map(|load| load(name));
        format!("| `{name}` | {} |\n", cells.join(" | "))
    });
    head.to_owned() + &rows.collect::<String>()
}

fn main() {
    print!("{}", table());
}

#[cfg(test)]
mod tests {
    #[test]
    fn loads_table_is_that_of_the_docs() {
        let (docs, table) = (include_str!("../../docs/policies.md"), super::table());
        assert!(
            docs.contains(&table),
            "docs/policies.md has another one than:\n{table}"
        );
    }
}
