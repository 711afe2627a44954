//! What the kernel's own sched_ext selftests and scx's CI look for, for this scheduler.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Test, full, short};
use crate::harness::{self, Sched, Verdict, mean_ejections, metric, sysfs, wait_until};
use crate::load::{self, Hog, shares};
use crate::unkind::Unkind;

pub const TESTS: &[Test] = &[
    short("vm_rt_hog_on_one_cpu", "hostile", 14, rt_one::<6, 3000>),
    full("vm_full_rt_hog_25s", "rt", 35, rt_one::<25, 10_000>),
    full("vm_full_rt_hog_unthrottled", "rt", 25, rt_unthrottled),
    full("vm_full_rt_hogs_on_all_cpus", "rt", 25, rt_all),
    full("vm_full_reload_loop_under_load", "reload", 20, reload),
    full(
        "vm_full_error_under_load_loses_nobody",
        "reload",
        14,
        error_under_load,
    ),
    short("vm_deadline_bandwidth_is_kept", "hostile", 6, total_bw),
    Test {
        tries: 3,
        ..full(
            "vm_full_lone_hog_survives_its_quantum",
            "crowd",
            5,
            enq_last,
        )
    },
    full(
        "vm_full_wakeups_stay_within_affinity",
        "crowd",
        6,
        allowed_cpus,
    ),
    full("vm_full_scx_ci_load", "reload", 60, ci_load),
];

/// Does this kernel keep CPU time for normal tasks beside real-time ones?
fn ext_server() -> bool {
    Path::new("/sys/kernel/debug/sched/ext_server").exists()
}

/// With an ext server nobody is ejected and other work goes on; without one the reason
/// names who held the CPU.
fn survived_or_named(sched: &Sched, what: &str) -> Result<()> {
    let ejected = sched.no_ejection().is_err();
    metric("rt_hog", &[("ejected", f64::from(ejected))]);
    if ext_server() {
        return sched.no_ejection().context(what.to_owned());
    }
    if !ejected {
        return Ok(());
    }
    ensure!(
        wait_until(Duration::from_secs(10), || sched
            .text()
            .contains("ejected:")),
        "{what}: no reason: {}",
        sched.text()
    );
    // As often as it attaches again: what counts is that each reason names who held the CPU.
    mean_ejections(4);
    for line in sched.text().lines().filter(|l| l.contains("ejected:")) {
        ensure!(
            line.contains("rt-hog[") && line.contains("real-time"),
            "{what}: the reason does not name the real-time thread: {line}"
        );
    }
    Ok(())
}

fn rt_one<const SECS: u64, const TIMEOUT_MS: u64>() -> Result<Verdict> {
    let sched = Sched::start(&["--timeout-ms", &TIMEOUT_MS.to_string()])?;
    let hogs = Hog::default().start_many(3)?;
    std::thread::sleep(Duration::from_millis(300));
    let time = Duration::from_secs(SECS);
    load::rt_hog(1, time)?;
    // The second half, when whoever was on CPU 1 had time to move.
    std::thread::sleep(time / 2);
    let got = shares(&hogs, time / 2 - Duration::from_millis(300))?;
    std::thread::sleep(Duration::from_secs(1));
    survived_or_named(&sched, "one CPU held")?;
    metric(
        "rt_one",
        &[("least_s", got.iter().copied().fold(f64::MAX, f64::min))],
    );
    ensure!(
        got.iter().all(|&s| s > 0.1 * time.as_secs_f64() / 2.0),
        "a hog stands still beside a real-time one on the other CPU: {got:.2?}"
    );
    drop(hogs);
    Ok(Verdict::Ok)
}

const RT_RUNTIME: &str = "/proc/sys/kernel/sched_rt_runtime_us";

/// `body` without a throttle of real-time tasks.
fn unthrottled<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let default = fs::read_to_string(RT_RUNTIME)?;
    fs::write(RT_RUNTIME, "-1")?;
    let result = body();
    fs::write(RT_RUNTIME, default.trim())?;
    result
}

fn rt_unthrottled() -> Result<Verdict> {
    unthrottled(rt_one::<12, 3000>)
}

/// All CPUs held, by the default of sched_rt_runtime_us and without any throttle.
fn rt_all() -> Result<Verdict> {
    rt_all_with("default")?;
    harness::clean_up();
    unthrottled(|| rt_all_with("-1"))?;
    Ok(Verdict::Ok)
}

fn rt_all_with(runtime: &str) -> Result<()> {
    let sched = Sched::start(&["--timeout-ms", "3000"])?;
    let hogs = Hog::default().start_many(2)?;
    std::thread::sleep(Duration::from_millis(300));
    let cpus = std::thread::available_parallelism()?.get();
    // From the last to the first: we are not held up before all run.
    for cpu in (0..cpus).rev() {
        load::rt_hog(cpu, Duration::from_secs(6))?;
    }
    std::thread::sleep(Duration::from_secs(9));
    survived_or_named(
        &sched,
        &format!("all CPUs held, sched_rt_runtime_us {runtime}"),
    )?;
    for share in shares(&hogs, Duration::from_secs(1))? {
        ensure!(
            share > 0.1,
            "a hog got {share:.2} s of 1 s after the real-time hogs"
        );
    }
    Ok(())
}

/// reload_loop: attached and detached over and over under load.
fn reload() -> Result<Verdict> {
    let load = Unkind::start("micro")?;
    let hogs = Hog::default().start_many(3)?;
    for _ in 0..4 {
        let sched = Sched::start(&["--timeout-ms", "3000"])?;
        for share in shares(&hogs, Duration::from_secs(1))? {
            ensure!(share > 0.02, "a hog got {share:.2} s of 1 s");
        }
        ensure!(sched.counter("edge_illegal")? == 0, "illegal edges");
        sched.stop()?;
    }
    drop((load, hogs));
    Ok(Verdict::Ok)
}

/// exit: an error ends it while all kinds of calls are under way; nobody is lost, and the
/// next attachment finds all as new.
fn error_under_load() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    let load = [Unkind::start("yield")?, Unkind::start("stop")?];
    let hogs = Hog::default().start_many(2)?;
    mean_ejections(1);
    crate::tests::hammer::inject_error()?;
    ensure!(
        wait_until(Duration::from_secs(60), || sched
            .text()
            .matches("attached:")
            .count()
            == 2
            && sysfs("state") == "enabled"),
        "not attached again: {}",
        sched.text()
    );
    for share in shares(&hogs, Duration::from_secs(3))? {
        ensure!(share > 0.05, "a hog got {share:.2} s of 3 s after an error");
    }
    ensure!(sched.counter("edge_illegal")? == 0, "illegal edges");
    drop((load, hogs));
    Ok(Verdict::Ok)
}

/// total_bw: the deadline servers' bandwidth of each CPU is the same before, while and after.
fn total_bw() -> Result<Verdict> {
    harness::end_shared();
    let read = || -> Result<Vec<String>> {
        let text = fs::read_to_string("/sys/kernel/debug/sched/debug")?;
        let lines = text.lines().filter(|l| l.contains("dl_bw->total_bw"));
        Ok(lines.map(str::to_owned).collect())
    };
    let before = read()?;
    if before.is_empty() {
        return Ok(Verdict::Skip("this kernel does not show total_bw".into()));
    }
    let sched = Sched::start(&[])?;
    let during = read()?;
    sched.stop()?;
    let after = read()?;
    ensure!(
        before == during && before == after,
        "total_bw {before:?} -> {during:?} -> {after:?}"
    );
    Ok(Verdict::Ok)
}

/// enq_last: forced off a CPU where nobody else waits, a worker goes on at once. `resumed`
/// and the quantum do not apply: a kick is what is asked for.
fn enq_last() -> Result<Verdict> {
    let sched = harness::shared()?;
    let hogs = Hog {
        cpu: Some(1),
        ..Hog::default()
    }
    .start_many(1)?;
    std::thread::sleep(Duration::from_millis(300));
    let (before, forced) = (sched.counter("enq_last")?, sched.counter("preempt_forced")?);
    for _ in 0..50 {
        crate::tests::decide::kick_running_on(1)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    let got = shares(&hogs, Duration::from_secs(1))?[0];
    let last = sched.counter("enq_last")? - before;
    let forced = sched.counter("preempt_forced")? - forced;
    metric(
        "enq_last",
        &[("kicked_off", forced as f64), ("as_last", last as f64)],
    );
    ensure!(forced > 10, "50 kicks forced it off {forced} times");
    ensure!(got > 0.8, "a lone hog got {got:.2} s of 1 s after kicks");
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// The load that scx's CI gives each scheduler.
fn ci_load() -> Result<Verdict> {
    let sched = harness::shared()?;
    let load = "stress-ng -t 31 --aggressive -M -c 2 -f 2 \
                --affinity 1 --affinity-delay 1 --affinity-pin";
    let words: Vec<_> = load.split_whitespace().collect();
    load::run(Duration::from_secs(150), &words)?;
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// allowed_cpus, select_cpu: whatever is idle, nobody starts where it may not run.
fn allowed_cpus() -> Result<Verdict> {
    let sched = harness::shared()?;
    let pids = load::sleepers(6)?;
    for (i, &pid) in pids.iter().enumerate() {
        load::pin(pid, i % 2);
    }
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..200 {
        for (i, &pid) in pids.iter().enumerate() {
            let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let rest = text.rsplit_once(") ").context("stat")?.1;
            let cpu = rest.split(' ').nth(36).context("stat")?;
            ensure!(
                cpu == (i % 2).to_string(),
                "a thread of CPU {} ran on {cpu}",
                i % 2
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
