//! System groups whose threads, orders and CPUs change: what is still right a moment later.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use scx_umcg::runfile::RunFile;
use scx_umcg::shared::Shared;
use umcg::record::Worker;
use umcg::sync::Ordering::Relaxed;

use super::config::{file, join};
use super::{Test, short};
use crate::cgroup::Cgroup;
use crate::harness::{Sched, Verdict, metric, wait_until};
use crate::load::{clock_ns, end, sleepers};

pub const TESTS: &[Test] = &[
    short(
        "vm_config_limited_thread_changes_order",
        "cgroup",
        8,
        limited,
    ),
];

fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The record of process `pid`.
fn record_of(shared: &Shared, pid: i32) -> Result<&Worker> {
    let mut records = shared.workers.records().iter();
    let found = records.find(|w| w.pid.load(Relaxed) == pid);
    found.with_context(|| format!("no record of {pid}"))
}

/// What used up its cgroup's time comes to a group whose CPU has another order, and waits for
/// more there: by that order.
fn limited() -> Result<Verdict> {
    if !scx_umcg::kernel::tells_of_limits() {
        let why = "this kernel does not tell of cpu.max";
        return Ok(Verdict::Skip(why.to_owned()));
    }
    let text = "[daemon]\ncpus = \"0\"\n[[group]]\nname = \"fifo\"\n\
                match.cgroup = \"/cfg-limit/b\"\ncpus = \"1\"\npolicy = \"fifo\"\n";
    let path = file("limited", text)?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    join(&[], "default")?;
    let run_file = RunFile::read()?.context("no agent runs")?;
    let shared = scx_umcg::status::open_shared(&run_file)?;
    let limit = Cgroup::new("cfg-limit")?;
    let (a, b) = (limit.child("a")?, limit.child("b")?);
    limit.set("cpu.max", "1000 100000")?;
    let naps = sleepers(1)?;
    let record = record_of(&shared, naps[0])?;
    let (mut seen, began) = (0, now_ns());
    for _ in 0..10 {
        a.add(naps[0])?;
        let home = |cpu| move || record.home.load(Relaxed) == cpu;
        ensure!(wait_until(Duration::from_secs(5), home(0)), "not on CPU 0");
        std::thread::sleep(Duration::from_millis(300));
        b.add(naps[0])?;
        // The first one may be of CPU 0 yet: `home` is written before it.
        let (mut keys, end) = (Vec::new(), now_ns() + 2_000_000_000);
        while keys.len() < 4 && now_ns() < end {
            let key = record.key.load(Relaxed);
            if home(1)() && keys.last() != Some(&key) {
                keys.push(key);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        seen += keys.len();
        let came = began..=now_ns();
        ensure!(
            keys.iter().skip(1).all(|key| came.contains(key)),
            "keys {keys:?} are no arrivals of {came:?}"
        );
    }
    metric("limited_order", &[("keys", seen as f64)]);
    ensure!(seen >= 20, "{seen} keys in ten moves");
    end(naps);
    sched.stop()?;
    Ok(Verdict::Ok)
}
