//! A group's quantum and a worker whom nobody waits behind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::GroupConfig;
use umcg::runtime::{Builder, Runtime};

use super::app_share::{compute, steps_in};
use super::preempt::counted;
use super::{Test, short};
use crate::harness::{Verdict, metric};
use crate::load::clock_ns;

pub const TESTS: &[Test] = &[short(
    "vm_group_alone_goes_on_unprivileged",
    // By instructions: no stall of the host makes anybody late.
    "cost,newest,icount,cpus=1",
    6,
    alone,
)];

const QUANTUM: Duration = Duration::from_micros(500);
const MS: u64 = 1_000_000;
/// Of CPU time, in each load: 200 quanta.
const LOAD_MS: u64 = 100;
const LATECOMERS: usize = 20;

fn runtime(servers: usize, policy: &str) -> Result<Runtime> {
    let group = GroupConfig {
        quantum: QUANTUM,
        ..GroupConfig::default()
    };
    let builder = Builder::new().servers(servers).policy(policy).group(group);
    Ok(builder.build()?)
}

/// How often one of so many tasks, which have the load between them, was forced off.
fn forced(servers: usize, policy: &str, tasks: u64) -> Result<u64> {
    let steps = steps_in(LOAD_MS / tasks * MS);
    let runtime = runtime(servers, policy)?;
    let tasks: Vec<_> = (0..tasks)
        .map(|_| runtime.spawn(move || compute(steps)))
        .collect();
    for task in tasks {
        task.join().ok().context("a task panicked")?;
    }
    Ok(runtime.shutdown().preempted)
}

/// How long a task waits at most that comes while others run alone, in us. Two servers have
/// slices of the one CPU beside that, of 4 ms.
fn latecomers(servers: usize) -> Result<f64> {
    let steps = steps_in(20 * MS);
    let runtime = runtime(servers, "fifo")?;
    let mut worst = 0;
    for _ in 0..LATECOMERS {
        let long: Vec<_> = (0..servers)
            .map(|_| runtime.spawn(move || compute(steps)))
            .collect();
        std::thread::sleep(Duration::from_millis(7));
        let came = clock_ns(libc::CLOCK_MONOTONIC);
        // A server that hears of both runs one, and another server may run the other.
        let late = [(); 2].map(|()| runtime.spawn(|| clock_ns(libc::CLOCK_MONOTONIC)));
        for task in late {
            worst = worst.max(task.join().ok().context("a task panicked")? - came);
        }
        for task in long {
            task.join().ok().context("a task panicked")?;
        }
    }
    runtime.shutdown();
    Ok(worst as f64 / 1000.0)
}

fn alone_body() -> Result<()> {
    let alone = forced(1, "fifo", 1)?;
    let each_alone = forced(2, "fifo", 2)?;
    let in_turns = forced(1, "fifo", 2)?;
    let by_accounts = forced(1, "fair", 1)?;
    let (late, late_of_two) = (latecomers(1)?, latecomers(2)?);
    metric(
        "group_alone",
        &[
            ("alone", alone as f64),
            ("each_alone", each_alone as f64),
            ("in_turns", in_turns as f64),
            ("by_accounts", by_accounts as f64),
            ("late_us", late),
            ("late_of_two_us", late_of_two),
        ],
    );
    // A quantum may end before its server knows that the second task's thread is there.
    ensure!(
        alone <= 4 && each_alone <= 8,
        "forced off {alone} and {each_alone} times for nobody"
    );
    ensure!(
        in_turns >= 150 && by_accounts >= 150,
        "forced off {in_turns} and {by_accounts} times of 200"
    );
    ensure!(
        late < 2500.0 && late_of_two < 25_000.0,
        "a task waited for {late} us, of two servers' for {late_of_two}"
    );
    Ok(())
}

fn alone() -> Result<Verdict> {
    counted("grp_alone", 300, alone_body)
}
