//! CPUs that are isolated, odd in number, come and go; more threads than anybody expects.

use std::fs;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Test, full, short};
use crate::cgroup::{self, Cgroup};
use crate::harness::{self, Sched, Verdict, metric, sibling, wait_until};
use crate::leak::Held;
use crate::load::{self, Hog, Spinner, shares};
use crate::unkind::Unkind;

pub const TESTS: &[Test] = &[
    short(
        "vm_agent_may_be_kept_off_a_cpu",
        "hostile",
        14,
        own_affinity,
    ),
    full(
        "vm_full_isolcpus_are_refused",
        "isolated,cpus=3,append=isolcpus=2",
        4,
        isolated,
    ),
    full(
        "vm_full_nohz_cpu_is_left_alone",
        "nohz,cpus=3,append=nohz_full=2",
        14,
        nohz,
    ),
    full("vm_full_odd_cpus_with_a_hole", "odd,cpus=3", 14, odd),
    full("vm_full_smt_off_and_on", "smt,topology=1:2:2", 14, smt),
    full("vm_full_hotplug_50_cycles", "hotplug", 240, hotplug_cycles),
    short("vm_frequency_target_follows_load", "hostile", 10, frequency),
    short("vm_freezer_stops_and_thaws", "hostile", 10, freezer),
    full("vm_full_ten_thousand_threads", "crowd", 50, ten_thousand),
    full("vm_full_more_threads_than_records", "crowd", 10, anonymous),
    full(
        "vm_full_reused_pids_are_new_workers",
        "crowd",
        10,
        reused_pids,
    ),
];

fn online(cpu: usize) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/online")
}

fn all_run(hogs: &[load::Spinner], when: &str) -> Result<f64> {
    let got = shares(hogs, Duration::from_millis(1500))?;
    ensure!(
        got.iter().all(|&s| s > 0.02),
        "a hog stands still {when}: {got:.2?} of 1.5 s"
    );
    Ok(got.iter().sum())
}

/// Its servers inherit the affinity of who started it, and CPU 1 is not in that. With a
/// staged policy, which needs its server most.
fn own_affinity() -> Result<Verdict> {
    load::pin(0, 0);
    let sched = Sched::start(&["--timeout-ms", "2000", "--policy", "fifo"]);
    load::unpin(0);
    let sched = sched?;
    let hogs = Hog {
        cpu: Some(1),
        ..Hog::default()
    }
    .start_many(3)?;
    std::thread::sleep(Duration::from_secs(4));
    sched.no_ejection()?;
    all_run(&hogs, "where no server may run")?;
    let status = sched.status()?;
    ensure!(status["mode"] == "server", "mode {}", status["mode"]);
    let staged = sched.counter("staged")?;
    ensure!(staged > 50, "staged {staged}");
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Local timer interrupts of `cpu` so far.
fn ticks(cpu: usize) -> Result<u64> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let line = text.lines().find(|l| l.trim_start().starts_with("LOC:"));
    let field = line.and_then(|l| l.split_whitespace().nth(1 + cpu));
    Ok(field.context("LOC in /proc/interrupts")?.parse()?)
}

/// What timers ran on `cpu` while `body` ran: lines of the trace.
fn timers_on(cpu: usize, body: impl FnOnce() -> Result<()>) -> Result<String> {
    let dir = "/sys/kernel/tracing";
    let event = format!("{dir}/events/timer/hrtimer_expire_entry/enable");
    fs::write(format!("{dir}/tracing_cpumask"), format!("{:x}", 1 << cpu))?;
    fs::write(format!("{dir}/trace"), "")?;
    fs::write(&event, "1")?;
    let result = body();
    fs::write(&event, "0")?;
    let text = fs::read_to_string(format!("{dir}/trace"))?;
    fs::write(format!("{dir}/trace"), "")?;
    result.map(|()| text)
}

/// The kernel takes no sched_ext scheduler beside isolcpus: that is said, and nothing changes.
fn isolated() -> Result<Verdict> {
    let isolated = fs::read_to_string("/sys/devices/system/cpu/isolated")?;
    ensure!(isolated.trim() == "2", "isolated CPUs: {isolated:?}");
    let out = Command::new(sibling("scx_umcg")).output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.code() == Some(3), "{:?}: {text}", out.status);
    ensure!(
        text.contains("isolcpus") && text.contains("cannot attach"),
        "says {text:?}"
    );
    Ok(Verdict::Ok)
}

/// A limit holds there too, one that comes as the thread runs without a tick; it owes nothing for
/// what it ran before.
fn nohz_limit(alone: &Spinner) -> Result<()> {
    let limited = Cgroup::new("umcg-max")?;
    limited.add(alone.pid())?;
    std::thread::sleep(Duration::from_millis(500));
    limited.set("cpu.max", "20000 100000")?;
    // What runs without a tick is accounted for when it is stopped: for the limit.
    std::thread::sleep(Duration::from_millis(20));
    let (began, before) = (Instant::now(), alone.cpu_seconds()?);
    std::thread::sleep(Duration::from_secs(3));
    let got = (alone.cpu_seconds()? - before) / began.elapsed().as_secs_f64();
    metric("nohz_limit", &[("cpus", got)]);
    ensure!(
        (got - 0.2).abs() <= 0.02,
        "alone on a nohz_full CPU below 20 %: {got:.3} of it"
    );
    cgroup::leave(alone.pid())
}

/// CPU 2 is without ticks: a thread that has it alone keeps it so, and no timer of ours is
/// there. A second one gets its half from the start on, and leaves the first one its own.
fn nohz() -> Result<Verdict> {
    let nohz = fs::read_to_string("/sys/devices/system/cpu/nohz_full")?;
    ensure!(nohz.trim() == "2", "nohz_full CPUs: {nohz:?}");
    load::pin(0, 0);
    let sched = Sched::start(&["--timeout-ms", "3000"])?;
    let on = |cpu| Hog {
        cpu: Some(cpu),
        ..Hog::default()
    };
    let others = [on(0).start()?, on(1).start()?];
    let alone = on(2).start()?;
    std::thread::sleep(Duration::from_millis(500));
    let (before, mut got) = (ticks(2)?, 0.0);
    let timers = timers_on(2, || {
        let was = alone.cpu_seconds()?;
        std::thread::sleep(Duration::from_secs(4));
        got = alone.cpu_seconds()? - was;
        Ok(())
    })?;
    let ticks = (ticks(2)? - before) as f64 / 4.0;
    let ours = timers.lines().filter(|l| l.contains("bpf")).count();
    metric(
        "nohz",
        &[
            ("hog_s_of_4", got),
            ("ticks_per_s", ticks),
            ("our_timers", ours as f64),
        ],
    );
    sched.no_ejection()?;
    ensure!(ours == 0, "{ours} timers of ours on the nohz_full CPU");
    ensure!(got > 3.0, "the hog that is alone got {got:.2} s of 4 s");
    ensure!(
        ticks < 100.0,
        "{ticks:.0} timer interrupts/s below a lone thread of a nohz_full CPU"
    );
    let both = [alone, load::late_hog(2, Duration::from_secs(1))?];
    std::thread::sleep(Duration::from_millis(900));
    let begun = both[1].cpu_seconds()?;
    let came = || both[1].cpu_seconds().is_ok_and(|now| now > begun + 1e-3);
    ensure!(wait_until(Duration::from_secs(3), came), "it does not come");
    let got = shares(&both, Duration::from_millis(400))?;
    metric("nohz_next", &[("alone_s", got[0]), ("next_s", got[1])]);
    ensure!(
        got.iter().all(|&s| s > 0.14),
        "who was alone on a nohz_full CPU and who came got {got:.2?} of 0.4 s"
    );
    let got = shares(&both, Duration::from_secs(2))?;
    ensure!(
        got.iter().all(|&s| s > 0.7),
        "two hogs on a nohz_full CPU got {got:.2?} of 2 s"
    );
    all_run(&others, "beside a nohz_full CPU")?;
    let [alone, other] = both;
    drop(other);
    if scx_umcg::kernel::tells_of_limits() {
        nohz_limit(&alone)?;
    }
    load::unpin(0);
    drop((others, alone));
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Three CPUs; then the middle one goes, so that numbers have a hole.
fn odd() -> Result<Verdict> {
    let sched = Sched::start(&["--timeout-ms", "3000"])?;
    let hogs = Hog::default().start_many(4)?;
    let _ = load::sleepers(6)?;
    std::thread::sleep(Duration::from_millis(300));
    all_run(&hogs, "on three CPUs")?;
    fs::write(online(1), "0")?;
    let with_hole = all_run(&hogs, "with a hole").and_then(|t| load::messaging().map(|_| t));
    fs::write(online(1), "1")?;
    with_hole?;
    all_run(&hogs, "after the hole")?;
    sched.no_ejection()?;
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn smt() -> Result<Verdict> {
    let control = "/sys/devices/system/cpu/smt/control";
    let state = fs::read_to_string(control).unwrap_or_default();
    if state.trim() != "on" {
        return Ok(Verdict::Skip(format!("no SMT here: {state:?}")));
    }
    let sched = Sched::start(&["--timeout-ms", "4000"])?;
    let hogs = Hog::default().start_many(5)?;
    let _ = load::sleepers(4)?;
    for _ in 0..2 {
        fs::write(control, "off").context("smt off")?;
        let off = fs::read_to_string("/sys/devices/system/cpu/online")?;
        let run = all_run(&hogs, "with SMT off");
        fs::write(control, "on").context("smt on")?;
        run?;
        ensure!(off.trim() == "0,2", "online with SMT off: {off:?}");
        all_run(&hogs, "with SMT on again")?;
    }
    sched.no_ejection()?;
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn hotplug_cycles() -> Result<Verdict> {
    let sched = harness::shared()?;
    let hogs = Hog::default().start_many(3)?;
    let mixed = ["churn", "handoff", "micro"].map(Unkind::start);
    for load in &mixed {
        ensure!(load.is_ok(), "a load did not start");
    }
    for cycle in 0..50 {
        fs::write(online(1), "0")?;
        std::thread::sleep(Duration::from_millis(50 * (cycle % 8)));
        fs::write(online(1), "1")?;
        std::thread::sleep(Duration::from_millis(30 * (cycle % 5)));
        sched
            .no_ejection()
            .with_context(|| format!("cycle {cycle}"))?;
    }
    drop(mixed);
    let total = all_run(&hogs, "after 50 cycles")?;
    metric("hotplug", &[("cycles", 50.0), ("hogs_s", total)]);
    ensure!(
        total > 2.4,
        "three hogs got {total:.2} s of 3 s after 50 cycles"
    );
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// The freezer's path of a suspend: it stops all tasks, the agent too, and thaws them when it
/// finds that something wakes the machine up. No device is suspended: not all of a VM's can be.
fn freezer() -> Result<Verdict> {
    let power = Path::new("/sys/power");
    if !power.join("wakeup_count").exists() {
        return Ok(Verdict::Skip("this kernel cannot suspend".into()));
    }
    let sched = Sched::start(&["--timeout-ms", "5000"])?;
    let hogs = Hog::default().start_many(3)?;
    let load = Unkind::start("micro")?;
    // Kernels from 7.0 on look for it as early as there.
    let _ = fs::write(power.join("sync_on_suspend"), "0");
    let before = freezes()?;
    for _ in 0..3 {
        let awake = Awake::after(|| {
            let count = fs::read_to_string(power.join("wakeup_count"))?;
            fs::write(power.join("wakeup_count"), count.trim())
        })?;
        ensure!(
            fs::write(power.join("state"), "freeze").is_err(),
            "a suspend went through"
        );
        drop(awake);
        std::thread::sleep(Duration::from_millis(300));
    }
    let tries = freezes()? - before;
    metric("freezer", &[("tries", tries as f64)]);
    ensure!(tries == 3, "the freezer ran {tries} times");
    all_run(&hogs, "after the freezer")?;
    let turns = sched.counter("activations")?;
    ensure!(
        wait_until(Duration::from_secs(5), || sched
            .counter("activations")
            .is_ok_and(|n| n > turns)),
        "the servers do not run after the freezer"
    );
    sched.no_ejection()?;
    drop((hogs, load));
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// How often the freezer stopped tasks and gave up.
fn freezes() -> Result<usize> {
    let log = Command::new("dmesg").output().context("dmesg")?;
    let log = String::from_utf8_lossy(&log.stdout);
    Ok(log.matches("Freezing user space processes aborted").count())
}

/// Something that wakes the machine up while it lives: an epoll with EPOLLWAKEUP.
struct Awake {
    _fds: [OwnedFd; 2],
}

impl Awake {
    /// Wakes it up after `armed`.
    fn after(armed: impl FnOnce() -> std::io::Result<()>) -> Result<Self> {
        // SAFETY: new descriptors that nobody else owns; event lives through the call.
        let (event, epoll) = unsafe {
            let (event, epoll) = (libc::eventfd(0, 0), libc::epoll_create1(0));
            ensure!(event >= 0 && epoll >= 0, "no eventfd or epoll");
            let mut on = libc::epoll_event {
                events: (libc::EPOLLIN | libc::EPOLLWAKEUP) as u32,
                u64: 0,
            };
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, event, &raw mut on);
            (OwnedFd::from_raw_fd(event), OwnedFd::from_raw_fd(epoll))
        };
        armed().context("wakeup_count")?;
        let mut event = fs::File::from(event);
        event.write_all(&1u64.to_ne_bytes())?;
        Ok(Self {
            _fds: [event.into(), epoll],
        })
    }
}

fn ten_thousand() -> Result<Verdict> {
    let sched = harness::shared()?;
    let before = Held::settled(&sched)?;
    let load = Unkind::start("threads")?;
    let began = Instant::now();
    let up = wait_until(Duration::from_secs(90), || {
        load.processes().is_ok_and(|n| n >= 10_000)
    });
    ensure!(up, "only {} threads", load.processes()?);
    metric("threads", &[("start_s", began.elapsed().as_secs_f64())]);
    let switches = sched.counter("switches")?;
    load::messaging()?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        sched.counter("switches")? > switches + 1000,
        "ten thousand threads stand still"
    );
    sched.no_ejection()?;
    drop(load);
    ensure!(
        wait_until(Duration::from_secs(15), || Held::now(&sched)
            .is_ok_and(|now| now.back_at(&before).is_ok())),
        "{:?} -> {:?}",
        before,
        Held::now(&sched)?
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// With fewer records than threads the rest runs without one, and nobody fails.
fn anonymous() -> Result<Verdict> {
    // SAFETY: this program has one thread here.
    unsafe { std::env::set_var("UMCG_DEBUG_RECORDS", "30") };
    let sched = Sched::start(&["--timeout-ms", "4000"]);
    // SAFETY: as above.
    unsafe { std::env::remove_var("UMCG_DEBUG_RECORDS") };
    let sched = sched?;
    let hogs = Hog::default().start_many(4)?;
    let sleepers = load::sleepers(40)?;
    std::thread::sleep(Duration::from_secs(1));
    let before: Vec<_> = sleepers
        .iter()
        .map(|&p| load::cpu_seconds(p))
        .collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_secs(4));
    for (&pid, before) in sleepers.iter().zip(before) {
        ensure!(load::cpu_seconds(pid)? > before, "a thread stands still");
    }
    ensure!(
        sched.counter("anonymous")? > 100,
        "anonymous {}",
        sched.counter("anonymous")?
    );
    all_run(&hogs, "beside threads without a record")?;
    sched.no_ejection()?;
    ensure!(sched.counter("edge_illegal")? == 0, "illegal edges");
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Few pids, so that they come round many times a minute.
fn reused_pids() -> Result<Verdict> {
    let limit = "/proc/sys/kernel/pid_max";
    let whole = fs::read_to_string(limit)?;
    let sched = Sched::start(&["--policy", "fifo"])?;
    let before = Held::settled(&sched)?;
    let last = || -> Result<u64> {
        let text = fs::read_to_string("/proc/loadavg")?;
        Ok(text.split_whitespace().nth(4).context("loadavg")?.parse()?)
    };
    fs::write(limit, (last()? + 150).to_string())?;
    let result = (|| {
        let load = Unkind::start("fork")?;
        let (mut wraps, mut at, began) = (0, last()?, Instant::now());
        while began.elapsed() < Duration::from_secs(5) {
            let now = last()?;
            wraps += u32::from(now < at);
            at = now;
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(load);
        Ok::<u32, anyhow::Error>(wraps)
    })();
    fs::write(limit, whole.trim())?;
    let wraps = result?;
    metric("reused_pids", &[("wraps", f64::from(wraps))]);
    ensure!(wraps >= 1, "pids did not come round");
    sched.no_ejection()?;
    for zero in ["edge_illegal", "word_race", "lst_resync"] {
        ensure!(
            sched.counter(zero)? == 0,
            "{zero} = {}",
            sched.counter(zero)?
        );
    }
    ensure!(
        wait_until(Duration::from_secs(15), || Held::now(&sched)
            .is_ok_and(|now| now.back_at(&before).is_ok())),
        "{before:?} -> {:?}",
        Held::now(&sched)?
    );
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// What the frequency governor is told: no machine here has one, but the kernel takes it.
fn frequency() -> Result<Verdict> {
    let sched = harness::shared()?;
    let told = |cpu: usize| -> Result<f64> {
        let status = sched.status()?;
        status["cpus"][cpu]["perf_pct"].as_f64().context("perf_pct")
    };
    let settled = |cpu: usize, range: std::ops::RangeInclusive<f64>| {
        wait_until(Duration::from_secs(5), || {
            told(cpu).is_ok_and(|pct| range.contains(&pct))
        })
    };
    ensure!(settled(1, 0.0..=30.0), "idle: CPU 1 is told {} %", told(1)?);
    let hog = Hog {
        cpu: Some(1),
        ..Hog::default()
    }
    .start()?;
    let began = Instant::now();
    ensure!(settled(1, 95.0..=100.0), "a hog: told {} %", told(1)?);
    let up = began.elapsed().as_secs_f64() * 1e3;
    drop(hog);
    // Half of the time: 5 ms of work, 5 ms of sleep.
    let half = load::Napper {
        cpu: 1,
        work: Duration::from_millis(5),
        sleep: Duration::from_millis(5),
        ..load::Napper::default()
    }
    .start()?;
    std::thread::sleep(Duration::from_millis(500));
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.push(told(1)?);
        std::thread::sleep(Duration::from_millis(37));
    }
    let mean = seen.iter().sum::<f64>() / seen.len() as f64;
    drop(half);
    metric("frequency", &[("up_ms", up), ("half_pct", mean)]);
    ensure!((35.0..=95.0).contains(&mean), "half busy: told {mean:.0} %");
    ensure!(settled(1, 0.0..=30.0), "idle again: told {} %", told(1)?);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
