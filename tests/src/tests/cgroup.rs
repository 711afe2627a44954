//! cpu.weight, cpu.max, cpusets, moves and the freezer.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Test, timed};
use crate::cgroup::Cgroup;
use crate::harness::{Sched, Verdict, metric};
use crate::load::{Hog, Spinner, shares};

pub const TESTS: &[Test] = &[
    timed("vm_cgroup_weights_count", "cgroup", 12, weights),
    timed("vm_cgroup_weights_nest", "cgroup", 14, nested),
    timed(
        "vm_cgroup_weight_counts_over_cpus",
        "cgroup",
        14,
        weights_over_cpus,
    ),
];

/// The shares of `hogs` over `secs`, as parts of one.
fn parts(hogs: &[Spinner], secs: u64) -> Result<Vec<f64>> {
    std::thread::sleep(Duration::from_millis(500));
    let got = shares(hogs, Duration::from_secs(secs))?;
    let sum: f64 = got.iter().sum();
    Ok(got.iter().map(|s| s / sum).collect())
}

/// `got` is `want` within 5 % of each wanted value.
fn within(what: &str, got: &[f64], want: &[f64]) -> Result<()> {
    let named: Vec<_> = (0..got.len()).map(|i| format!("s{i}")).collect();
    let values: Vec<_> = named
        .iter()
        .map(String::as_str)
        .zip(got.iter().copied())
        .collect();
    metric(what, &values);
    for (g, w) in got.iter().zip(want) {
        ensure!(
            (g / w - 1.0).abs() <= 0.05,
            "{what}: shares {got:.3?}, wanted {want:.3?}"
        );
    }
    Ok(())
}

fn pinned(nice: i32, cgroup: &Cgroup) -> Result<Spinner> {
    let hog = Hog {
        cpu: Some(0),
        nice,
        ..Hog::default()
    }
    .start()?;
    cgroup.add(hog.pid())?;
    Ok(hog)
}

/// 100:300, set before the attachment; then turned round while they run.
fn weights() -> Result<Verdict> {
    let (a, b) = (Cgroup::new("umcg-a")?, Cgroup::new("umcg-b")?);
    b.set("cpu.weight", "300")?;
    let sched = Sched::start(&[])?;
    let hogs = [pinned(0, &a)?, pinned(0, &b)?];
    within("cgroup_weights", &parts(&hogs, 4)?, &[0.25, 0.75])?;
    a.set("cpu.weight", "300")?;
    b.set("cpu.weight", "100")?;
    within("cgroup_weights_turned", &parts(&hogs, 4)?, &[0.75, 0.25])?;
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// a(100) { x(300): 2 hogs, nice 0 and 5; y(100): 1 hog } beside b(100): 1 hog.
fn nested() -> Result<Verdict> {
    const NICE5: f64 = 335.0 / 1024.0;
    let sched = Sched::start(&[])?;
    let (a, b) = (Cgroup::new("umcg-a")?, Cgroup::new("umcg-b")?);
    let (x, y) = (a.child("x")?, a.child("y")?);
    x.set("cpu.weight", "300")?;
    let hogs = [
        pinned(0, &x)?,
        pinned(5, &x)?,
        pinned(0, &y)?,
        pinned(0, &b)?,
    ];
    let x0 = 0.375 / (1.0 + NICE5);
    within(
        "cgroup_nested",
        &parts(&hogs, 8)?,
        &[x0, 0.375 - x0, 0.125, 0.5],
    )?;
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Two hogs in each of two cgroups, 100:300, free to use both CPUs.
fn weights_over_cpus() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    let (a, b) = (Cgroup::new("umcg-a")?, Cgroup::new("umcg-b")?);
    b.set("cpu.weight", "300")?;
    let hogs = Hog::default().start_many(4)?;
    for (i, hog) in hogs.iter().enumerate() {
        if i % 2 == 0 { &a } else { &b }.add(hog.pid())?;
    }
    let got = parts(&hogs, 8)?;
    within(
        "cgroup_over_cpus",
        &[got[0] + got[2], got[1] + got[3]],
        &[0.25, 0.75],
    )?;
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}
