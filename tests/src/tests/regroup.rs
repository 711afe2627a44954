//! System groups whose threads, orders and CPUs change: what is still right a moment later.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use scx_umcg::agent::sysgroups::Sums;
use scx_umcg::runfile::RunFile;
use scx_umcg::shared::Shared;
use umcg::record::Worker;
use umcg::runtime::Builder;
use umcg::sync::Ordering::Relaxed;

use super::app_share::compute;
use super::config::{file, join};
use super::{Test, short};
use crate::cgroup::Cgroup;
use crate::client;
use crate::harness::{Sched, Verdict, metric, wait_until};
use crate::load::{Hog, clock_ns, end, sleepers};

pub const TESTS: &[Test] = &[
    short(
        "vm_config_child_of_one_asked_for_is_asked_for",
        "cgroup",
        3,
        born_meanwhile,
    ),
    short(
        "vm_config_limited_thread_changes_order",
        "cgroup",
        8,
        limited,
    ),
    short("vm_config_members_stay_on_their_cpus", "cgroup", 6, members),
    short(
        "vm_config_reload_knows_cpus_that_came",
        "see,newest",
        4,
        cpus_come,
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

/// A child that comes while the agent has to look at all of its parent's process: what it
/// inherits is an old group by then.
fn born_meanwhile() -> Result<Verdict> {
    let text = "[[group]]\nname = \"moved\"\nmatch.cgroup = \"/cfg-moved\"\n";
    let path = file("born", text)?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    join(&[], "moved")?;
    let run_file = RunFile::read()?.context("no agent runs")?;
    let shared = scx_umcg::status::open_shared(&run_file)?;
    let me = record_of(&shared, std::process::id() as i32)?;
    let cgroup = Cgroup::new("cfg-moved")?;
    let answered = || {
        let all = me.ask_all.load(Relaxed) == me.answered_all.load(Relaxed);
        all && !me.is_asked()
    };
    ensure!(
        wait_until(Duration::from_secs(3), answered),
        "still asked for"
    );
    let calm = [Hog::default().start()?];
    ensure!(
        !record_of(&shared, calm[0].pid())?.is_asked(),
        "a child of one that nobody asks for is asked for"
    );
    // The agent cannot look.
    sched.signal(libc::SIGSTOP);
    let moved = cgroup.add(0);
    let child = Hog::default().start();
    let asked = child.as_ref().is_ok_and(|child| {
        let record = record_of(&shared, child.pid());
        record.is_ok_and(Worker::is_asked)
    });
    sched.signal(libc::SIGCONT);
    moved?;
    let there = [child?];
    let joined = join(&there, "moved");
    crate::cgroup::leave(std::process::id() as i32)?;
    crate::cgroup::leave(there[0].pid())?;
    joined?;
    ensure!(asked, "its group is taken for sure");
    drop((calm, there));
    sched.stop()?;
    Ok(Verdict::Ok)
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

/// An application group's members sleep and wake up all the time, in a system group of CPU 0,
/// beside an idle CPU 1.
fn members() -> Result<Verdict> {
    let text = format!(
        "[[group]]\nname = \"app\"\nmatch.uid = {}\ncpus = \"0\"\n",
        client::NOBODY
    );
    let path = file("members", &text)?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    join(&[], "app")?;
    let run_file = RunFile::read()?.context("no agent runs")?;
    let shared = scx_umcg::status::open_shared(&run_file)?;
    let group = client::spawn(|| {
        let runtime = Builder::new().servers(2).max_workers(16).build()?;
        for _ in 0..16 {
            runtime.spawn(|| {
                loop {
                    compute(20_000);
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
        }
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    })?;
    std::thread::sleep(Duration::from_millis(1500));
    let used_ns = || [0, 1].map(|cpu| Sums::of(&shared.sys_cpus.records()[cpu..=cpu], 1).run_ns);
    let (before, calls) = (used_ns(), sched.counter("grp_run")?);
    std::thread::sleep(Duration::from_secs(2));
    let now = used_ns();
    let [here, there] = [0, 1].map(|cpu| (now[cpu] - before[cpu]) as f64 / 1e6);
    let calls = sched.counter("grp_run")? - calls;
    metric(
        "members_cpus",
        &[
            ("here_ms", here),
            ("there_ms", there),
            ("runs", calls as f64),
        ],
    );
    group.kill();
    ensure!(calls > 100, "only {calls} runs in 2 s");
    ensure!(
        there < here / 100.0,
        "{there:.1} ms on CPU 1, {here:.1} on CPU 0"
    );
    client::is_sound(&sched)?;
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// A CPU that was offline when the daemon started is one of its node with the next reload.
fn cpus_come() -> Result<Verdict> {
    let online = |on: bool| {
        let file = "/sys/devices/system/cpu/cpu1/online";
        fs::write(file, if on { "1" } else { "0" }).context(file)
    };
    let text = "[[group]]\nname = \"node\"\nmatch = {}\ncpus = \"node:0\"\n";
    let path = file("come", text)?;
    online(false)?;
    let sched = Sched::start(&["--config", &path.display().to_string()]);
    let cpus = || -> Result<String> {
        let file = RunFile::read()?.context("no agent runs")?;
        Ok(file.system.get(1).context("no group")?.cpus.clone())
    };
    let are = |want: &str| wait_until(Duration::from_secs(5), || cpus().is_ok_and(|c| c == want));
    let without = are("0");
    online(true)?;
    let sched = sched?;
    ensure!(without, "{:?} with CPU 1 offline", cpus());
    sched.signal(libc::SIGHUP);
    ensure!(are("0-1"), "{:?} with CPU 1 online", cpus());
    sched.stop()?;
    Ok(Verdict::Ok)
}
