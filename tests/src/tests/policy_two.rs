//! Deadlines on two CPUs, in an application: what is promised to its tasks is kept, but where the
//! machine itself stood still.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::policy::{Attrs, Reservation};
use umcg::runtime::{Builder, assign};
use umcg::{GroupConfig, set_key};

use super::app::{Board, no_slack};
use super::{Test, full};
use crate::client::{self, is_sound};
use crate::harness::{self, Verdict, metric};
use crate::load::clock_ns;
use crate::race::{burn, sleep_until};
use crate::stall::{Seen, Witnesses};

pub const TESTS: &[Test] = &[Test {
    tries: 3,
    ..full(
        "vm_full_policy_deadlines_on_two_cpus",
        "policy-two",
        90,
        two_cpus,
    )
}];

const CPUS: usize = 2;
/// U = 1.8, none above 0.2.
const TASKS: u64 = 20;
const NEEDS_PER_MILLE: u64 = 90;
/// Reserved: for the way to the job and back, too. 20 of 0.095 is what can be promised.
const RESERVED_PER_MILLE: u64 = 95;
const MS: u64 = 1_000_000;
const DURING_NS: u64 = 30_000 * MS;
/// Of 3268 jobs, so many in time.
const LEAST: u64 = 2000;
const QUANTUM: Duration = Duration::from_millis(2);
/// A witness's: a tenth of the shortest period is more.
const NAP: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(200);

/// 50 to 500 ms.
fn period_ns(task: u64) -> u64 {
    (50 + task * 450 / (TASKS - 1)) * MS
}

/// A job that was done.
#[derive(Clone, Copy)]
struct Job {
    release_ns: u64,
    due_ns: u64,
    done_ns: u64,
}

impl Job {
    fn is_late(&self) -> bool {
        self.done_ns > self.due_ns
    }

    /// The machine stood still for more than a tenth of its period.
    fn is_excused(&self, seen: &Seen) -> bool {
        let period = Duration::from_nanos(self.due_ns - self.release_ns);
        seen.within(self.release_ns, self.due_ns) > period / 10
    }
}

/// One job a period from `start_ns` on; `promised`: its policy knows of deadlines.
fn task(period_ns: u64, start_ns: u64, promised: bool) -> Result<Vec<Job>> {
    no_slack();
    if promised {
        let us = |per_mille: u64| (period_ns * per_mille / 1_000_000) as u32;
        let attrs = Attrs {
            reservation: Some(Reservation::periodic(us(RESERVED_PER_MILLE), us(1000))),
            ..Attrs::default()
        };
        assign(&attrs)?;
    }
    let mut done = Vec::new();
    let mut release_ns = start_ns;
    while release_ns + period_ns < start_ns + DURING_NS {
        let due_ns = release_ns + period_ns;
        if promised {
            set_key(due_ns);
        }
        sleep_until(release_ns.cast_signed());
        burn(period_ns * NEEDS_PER_MILLE / 1000);
        done.push(Job {
            release_ns,
            due_ns,
            done_ns: clock_ns(libc::CLOCK_MONOTONIC),
        });
        release_ns = due_ns;
    }
    Ok(done)
}

/// Jobs that were in time, those missed while the machine went on, those missed while it stood
/// still, and how late the latest one of all was, in us.
type Tally = [u64; 4];

fn run(policy: &str, promised: bool) -> Result<Tally> {
    let group = GroupConfig {
        quantum: QUANTUM,
        ..GroupConfig::default()
    };
    let runtime = Builder::new()
        .servers(CPUS)
        .max_workers(TASKS as usize)
        .policy(policy)
        .group(group)
        .build()?;
    let witnesses = Witnesses::start(CPUS, NAP);
    let start_ns = clock_ns(libc::CLOCK_MONOTONIC) + 500 * MS;
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let start_ns = start_ns + number * 7 * MS;
            runtime.spawn(move || task(period_ns(number), start_ns, promised))
        })
        .collect();
    let mut jobs = Vec::new();
    for task in tasks {
        jobs.extend(task.join().ok().context("a task panicked")??);
    }
    let seen = witnesses.end()?;
    let (late, in_time): (Vec<Job>, Vec<Job>) = jobs.iter().partition(|it| it.is_late());
    let excused = late.iter().filter(|it| it.is_excused(&seen)).count();
    let latest = jobs.iter().map(|it| it.done_ns.saturating_sub(it.due_ns));
    Ok([
        in_time.len() as u64,
        (late.len() - excused) as u64,
        excused as u64,
        latest.max().unwrap_or(0) / 1000,
    ])
}

/// Of `policy`, in a client that may have witnesses.
fn tally(policy: &'static str, promised: bool, name: &str) -> Result<Tally> {
    let board = Board::new()?;
    let body = move || {
        for (at, value) in run(policy, promised)?.into_iter().enumerate() {
            board.set(at, value);
        }
        Ok(())
    };
    client::spawn_as(0, body)?.result(LIMIT)?;
    let tally = [0, 1, 2, 3].map(|at| board.get(at));
    let [in_time, missed, excused, late_us] = tally.map(|it| it as f64);
    metric(
        name,
        &[
            ("in_time", in_time),
            ("missed", missed),
            ("excused", excused),
            ("late_ms", late_us / 1000.0),
        ],
    );
    Ok(tally)
}

/// And what a policy that knows of no deadlines makes of the same jobs, for comparison.
fn two_cpus() -> Result<Verdict> {
    let sched = harness::shared()?;
    let [in_time, missed, excused, late_us] =
        tally("deadline:limit_pct=100", true, "deadlines_on_two_cpus")?;
    ensure!(
        missed == 0 && in_time >= LEAST,
        "{in_time} jobs in time, {missed} missed, and {excused} while the machine stood still, by {late_us} us at most"
    );
    tally("fair", false, "deadlines_on_two_cpus_fair")?;
    is_sound(&sched)?;
    Ok(Verdict::Ok)
}
