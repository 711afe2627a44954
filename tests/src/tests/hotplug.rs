//! CPUs that come and go where a server is needed, and one that was not there at the start.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Test, full};
use crate::harness::{Sched, Verdict, metric};
use crate::load::{Hog, shares};
use crate::unkind::Unkind;

pub const TESTS: &[Test] = &[
    full(
        "vm_full_cpu_that_comes_later_is_used",
        "hotplug-late",
        12,
        comes_later,
    ),
    full("vm_full_hotplug_staged", "hotplug-late", 30, staged),
];

fn online(up: bool) -> Result<()> {
    let text = if up { "1" } else { "0" };
    fs::write("/sys/devices/system/cpu/cpu1/online", text).context("CPU 1")
}

fn comes_later() -> Result<Verdict> {
    crate::harness::end_shared();
    online(false)?;
    let sched = Sched::start(&["--timeout-ms", "3000"]);
    let hogs = Hog::default().start_many(2)?;
    std::thread::sleep(Duration::from_millis(500));
    online(true)?;
    let sched = sched?;
    std::thread::sleep(Duration::from_millis(500));
    let got = shares(&hogs, Duration::from_secs(3))?;
    metric("comes_later", &[("least_s", got[0].min(got[1]))]);
    ensure!(
        got.iter().all(|&s| s > 2.4),
        "two hogs got {got:.2?} of 3 s once there were two CPUs"
    );
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// A policy that stages loses its server's CPU, ten times; no worker is lost.
fn staged() -> Result<Verdict> {
    let sched = Sched::start(&["--policy", "fifo"])?;
    let hogs = Hog::default().start_many(3)?;
    let mixed = ["churn", "handoff", "micro"]
        .map(Unkind::start)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for cycle in 0..10 {
        online(false)?;
        std::thread::sleep(Duration::from_millis(50 * (cycle % 4)));
        online(true)?;
        std::thread::sleep(Duration::from_millis(200));
        sched
            .no_ejection()
            .with_context(|| format!("cycle {cycle}"))?;
    }
    for share in shares(&hogs, Duration::from_secs(4))? {
        ensure!(share > 0.02, "a hog got {share:.2} s of 4 s after them");
    }
    for load in &mixed {
        ensure!(load.processes()? > 1, "a load lost its processes");
    }
    drop((mixed, hogs));
    for zero in ["edge_illegal", "word_race"] {
        let count = sched.counter(zero)?;
        ensure!(count == 0, "{zero} = {count}");
    }
    sched.stop()?;
    Ok(Verdict::Ok)
}
