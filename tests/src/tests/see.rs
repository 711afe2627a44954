//! What an operator is shown.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Test, short, timed};
use crate::harness::{Sched, Verdict, metric, wait_until};
use crate::load::{self, Hog};

pub const TESTS: &[Test] = &[
    short(
        "vm_status_shows_longest_wait_and_rescued",
        "see,newest",
        12,
        longest_wait,
    ),
    timed(
        "vm_wait_histograms_tell_tiers_apart",
        "see,newest",
        25,
        histograms,
    ),
];

/// Two hogs on CPU 0 in strict order: the one with the higher thread id starves.
fn longest_wait() -> Result<Verdict> {
    let sched = Sched::start(&["--policy", "test-pid"])?;
    let pinned = Hog {
        cpu: Some(0),
        ..Hog::default()
    };
    let hogs = pinned.start_many(2)?;
    let loser = i64::from(hogs[0].pid().max(hogs[1].pid()));
    let long_wait = |status: &Value| {
        let wait = &status["longest_wait"];
        wait["pid"] == loser && wait["ms"].as_f64().is_some_and(|ms| ms > 500.0)
    };
    let seen = |done: &dyn Fn(&Value) -> bool| {
        let mut last = Value::Null;
        let found = wait_until(Duration::from_secs(20), || {
            last = sched.status().unwrap_or_default();
            done(&last)
        });
        ensure!(found, "pid {loser} should wait or be rescued: {last}");
        Ok(last)
    };
    let status = seen(&long_wait)?;
    let wait = &status["longest_wait"];
    ensure!(wait["cpu"] == 0, "it waits on CPU 0: {wait}");
    ensure!(wait["comm"] == "umcg-vmtest", "its name: {wait}");
    let on_cpu = status["cpus"][0]["longest_wait_ms"].as_f64();
    ensure!(on_cpu == wait["ms"].as_f64(), "the row of CPU 0: {status}");

    sched.signal(libc::SIGSTOP);
    let rescued = |status: &Value| {
        let workers = status["rescued"]["workers"].as_array();
        workers.is_some_and(|w| w.iter().any(|w| w["pid"] == loser))
    };
    let status = seen(&rescued)?;
    let total = status["rescued"]["total"].as_u64().context("no total")?;
    ensure!(total >= 1, "rescued: {}", status["rescued"]);
    seen(&long_wait).context("while the agent was stopped")?;
    sched.signal(libc::SIGCONT);
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Each load adds to its own tier, and what is shown is as long as it was made to be.
fn histograms() -> Result<Verdict> {
    let sched = Sched::start(&["--stats", "1"])?;
    let names = ["high", "normal", "low", "idle", "preempted"];
    let figures = |what: &str| -> Result<Vec<f64>> {
        let status = sched.status()?;
        let of = |tier: &&str| status["waits"][*tier][what].as_f64().context("no waits");
        names.iter().map(of).collect()
    };

    // Hogs on one CPU wait for their turn: a slice of 4 ms for each of the two others.
    let before = figures("count")?;
    let hogs = Hog {
        cpu: Some(0),
        ..Hog::default()
    }
    .start_many(3)?;
    std::thread::sleep(Duration::from_secs(3));
    let grown = figures("count")?[4] - before[4];
    let p50 = figures("p50_us")?[4];
    ensure!(grown > 100.0, "only {grown} waits of preempted hogs");
    ensure!(
        (2_000.0..=34_000.0).contains(&p50),
        "three hogs on a CPU wait about 8 ms for their turn, p50 {p50} us"
    );
    drop(hogs);

    // Sleepers: by their nice value, on a machine with nothing else to do.
    for (tier, nice) in [(0, -5), (1, 0), (2, 5)] {
        let before = figures("count")?;
        let pids = load::sleepers(2)?;
        for &pid in &pids {
            // SAFETY: no pointers.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, pid as u32, nice) };
        }
        std::thread::sleep(Duration::from_secs(1));
        let grown: Vec<f64> = (figures("count")?.iter().zip(before))
            .map(|(n, b)| n - b)
            .collect();
        for pid in pids {
            // SAFETY: our own child; clean_up() reaps it.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let woken = &grown[..4];
        let own = woken[tier];
        ensure!(
            own > 200.0 && woken.iter().all(|&n| n <= own),
            "nice {nice}: grown by {grown:?} of {names:?}"
        );
    }
    let p99 = figures("p99_us")?[1];
    metric(
        "waits",
        &[("preempted_p50_us", p50), ("normal_p99_us", p99)],
    );
    ensure!(p99 > 0.0 && p99 < 1e6, "p99 of normal wake-ups: {p99} us");
    let text = sched.text();
    ensure!(
        text.lines()
            .any(|l| l.contains("waits p50/p99/max:") && l.contains("preempted ")),
        "--stats shows no waits: {text}"
    );
    sched.stop()?;
    Ok(Verdict::Ok)
}
