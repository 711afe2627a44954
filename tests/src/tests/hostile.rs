//! Tasks of an unprivileged user that want too much, and real-time hogs: nobody gets the
//! scheduler ejected, starves others beyond its share or makes it leak.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Test, full, short, timed};
use crate::beside::Bars;
use crate::harness::{self, Sched, Verdict, median, metric, sysfs, wait_until};
use crate::leak::Held;
use crate::load::{self, Hog, shares};
use crate::unkind::{SET, Unkind};

pub const TESTS: &[Test] = &[
    short("vm_hostile_set_harms_nobody", "hostile", 40, set::<0>),
    full("vm_full_hostile_set_5min", "hostile-full", 500, set::<300>),
    full(
        "vm_full_probe_beside_hostile_set",
        "beside",
        600,
        beside_eevdf,
    ),
    short("vm_handing_over_starves_nobody", "hostile", 12, pipes),
    full("vm_full_crowd_of_hogs_is_no_stall", "crowd", 25, crowd::<0>),
    full(
        "vm_full_crowd_of_nice_hogs_is_no_stall",
        "crowd",
        25,
        crowd::<1>,
    ),
    timed("vm_nice_sleeper_pays_its_debt", "hostile", 10, debt),
    full(
        "vm_full_changed_worker_keeps_its_place",
        "crowd",
        22,
        changed,
    ),
    full(
        "vm_full_busy_kernel_thread_is_no_tyrant",
        "crowd",
        10,
        kernel_thread,
    ),
    Test {
        tries: 3,
        ..full(
            "vm_full_polling_thread_gets_one_share",
            "crowd",
            10,
            polling,
        )
    },
    full(
        "vm_full_memory_pressure_5min",
        "swap,mem=1G,disk=1024",
        330,
        memory::<300>,
    ),
];

/// Late wake-ups, in ms, of threads that sleep for 8 ms at a time. So seldom because beside 60
/// hogs on two emulated CPUs a thread that wakes up each 2 ms wants more than its share.
struct Probe {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Vec<f64>>>,
}

const PROBES: usize = 4;
const PROBE_SLEEP: Duration = Duration::from_millis(8);

impl Probe {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                // SAFETY: no pointers.
                unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
                let mut late = Vec::with_capacity(10_000);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    std::thread::sleep(PROBE_SLEEP);
                    late.push((began.elapsed() - PROBE_SLEEP).as_secs_f64() * 1e3);
                }
                late
            })
        };
        let threads = (0..PROBES).map(spawn).collect();
        Self { stop, threads }
    }

    /// p99, and the longest.
    fn end(self) -> Result<(f64, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut late = Vec::new();
        for thread in self.threads {
            late.extend(thread.join().ok().context("a probe panicked")?);
        }
        ensure!(
            late.len() >= 20,
            "the probes woke up {} times only",
            late.len()
        );
        late.sort_by(f64::total_cmp);
        Ok((late[late.len() * 99 / 100], late[late.len() - 1]))
    }
}

/// The probes beside one load.
fn probed(name: &str, secs: u64) -> Result<(f64, f64)> {
    let load = Unkind::start(name)?;
    let probe = Probe::start();
    std::thread::sleep(Duration::from_secs(secs));
    let late = probe.end();
    drop(load);
    late.with_context(|| name.to_owned())
}

/// p99 and longest of the probes beside each load of the set.
type Late = Vec<(f64, f64)>;

fn pass(secs: u64, mut after: impl FnMut(&str) -> Result<()>) -> Result<Late> {
    let mut late = Vec::new();
    for name in SET {
        late.push(probed(name, secs)?);
        after(name)?;
    }
    Ok(late)
}

/// Nine rounds, interleaved; medians of p99 against the bar.
fn beside_eevdf() -> Result<Verdict> {
    harness::end_shared();
    let mut rounds = Vec::new();
    for _ in 0..9 {
        let eevdf = pass(2, |_| Ok(()))?;
        let sched = Sched::start(&[])?;
        probed(SET[0], 1)?;
        rounds.push((eevdf, pass(2, |_| sched.no_ejection())?));
        sched.stop()?;
    }
    let mut bars = Bars::default();
    for (i, name) in SET.iter().enumerate() {
        let p99 = |side: fn(&(Late, Late)) -> &Late| {
            let mut p99: Vec<_> = rounds.iter().map(|r| side(r)[i].0).collect();
            median(&mut p99)
        };
        let (eevdf, ours) = (p99(|r| &r.0), p99(|r| &r.1));
        metric(
            &format!("beside_{name}"),
            &[
                ("eevdf_p99_ms", eevdf),
                ("p99_ms", ours),
                ("ratio", ours / eevdf),
            ],
        );
        bars.at_most(&format!("p99 in ms beside {name}"), ours, 1.25 * eevdf);
    }
    bars.kept()?;
    Ok(Verdict::Ok)
}

/// The set, one load after the other; then, for `LONG` seconds, all of it in turn once more.
/// The probes only have to go on: how late they are beside EEVDF takes more than one pass.
fn set<const LONG: u64>() -> Result<Verdict> {
    let sched = harness::shared()?;
    // Loads leave caches of their own behind, in the kernel too.
    probed(SET[0], 1)?;
    std::thread::sleep(Duration::from_secs(3));
    let before = Held::now(&sched)?;
    let began = Instant::now();
    let late = pass(1, |name| {
        sched.no_ejection().with_context(|| name.to_owned())
    })?;
    for (name, (p99, max)) in SET.iter().zip(late) {
        metric(
            &format!("hostile_{name}"),
            &[("p99_ms", p99), ("max_ms", max)],
        );
        ensure!(p99 < 500.0, "beside {name} the probes' p99 was {p99:.0} ms");
    }
    while began.elapsed() < Duration::from_secs(LONG) {
        for name in SET {
            let load = Unkind::start(name)?;
            std::thread::sleep(Duration::from_secs(3));
            drop(load);
            sched.no_ejection().with_context(|| name.to_owned())?;
        }
    }
    let mut settled = Held::now(&sched)?;
    wait_until(Duration::from_secs(10), || {
        if let Ok(now) = Held::now(&sched) {
            settled = now;
        }
        settled.back_at(&before).is_ok()
    });
    settled.back_at(&before)?;
    settled.tell(&before);
    std::thread::sleep(Duration::from_secs(1));
    Held::now(&sched)?.none_pending_since(&settled, 1.0)?;
    for zero in ["edge_illegal", "word_race", "server_wake_fail"] {
        ensure!(
            sched.counter(zero)? == 0,
            "{zero} = {}",
            sched.counter(zero)?
        );
    }
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Pairs that hand over on every CPU never leave a local queue empty: what dispatch alone
/// serves has its turn all the same. ksmd, an unbound kernel thread, wakes up all the time.
fn pipes() -> Result<Verdict> {
    let Some(ksmd) = ksm(20)? else {
        return Ok(Verdict::Skip("this kernel has no ksmd".into()));
    };
    let sched = Sched::start(&["--timeout-ms", "2000"])?;
    let load = Unkind::start("pipes")?;
    std::thread::sleep(Duration::from_millis(500));
    let before = ksmd.switches()?;
    std::thread::sleep(Duration::from_secs(5));
    let turns = ksmd.switches()? - before;
    metric("handing_over", &[("ksmd_turns", turns as f64)]);
    sched.no_ejection()?;
    ensure!(
        turns >= 50,
        "ksmd ran {turns} times in 5 s, it wants 50 a second"
    );
    drop(load);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// With a watchdog of two seconds and whole slices, 450 hogs on a CPU are too many. `NICE`:
/// most of them of nice 19, for whom the fair order alone is a wait of many seconds.
fn crowd<const NICE: usize>() -> Result<Verdict> {
    let (name, want, timeout) = [("hogs", 900, "2000"), ("nice-hogs", 460, "5000")][NICE];
    let sched = Sched::start(&["--timeout-ms", timeout])?;
    let load = Unkind::start(name)?;
    let began = Instant::now();
    while load.processes()? < want && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(load.processes()? >= want, "only {} hogs", load.processes()?);
    let forked = began.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(11));
    sched.no_ejection()?;
    metric(
        &format!("crowd_{name}"),
        &[
            ("fork_s", forked),
            ("forced", sched.counter("preempt_forced")? as f64),
            ("rescued", sched.counter("rescued")? as f64),
        ],
    );
    drop(load);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Nice 19 that sleeps for a microsecond per slice, beside nice 0 on one CPU: 15 : 1024 by
/// the weights. A sleep must not forgive what it ran for.
fn debt() -> Result<Verdict> {
    let sched = harness::shared()?;
    let hog = Hog {
        cpu: Some(0),
        ..Hog::default()
    }
    .start()?;
    let nice = load::Napper {
        cpu: 0,
        nice: 19,
        work: Duration::from_millis(3),
        sleep: Duration::from_micros(1),
        ..load::Napper::default()
    }
    .start()?;
    std::thread::sleep(Duration::from_millis(500));
    let (a, b) = (hog.cpu_seconds()?, nice.cpu_seconds()?);
    std::thread::sleep(Duration::from_secs(5));
    let (a, b) = (hog.cpu_seconds()? - a, nice.cpu_seconds()? - b);
    let share = b / (a + b);
    metric("debt", &[("nice_share", share)]);
    ensure!(
        share < 0.05,
        "nice 19 with naps got {:.1} % beside nice 0",
        share * 100.0
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// One of three hogs on CPU 0 has its nice value changed all the time, from CPU 1: each change takes
/// it off its queue and puts it back, and that is no new wait.
fn changed() -> Result<Verdict> {
    for policy in ["fair", "fifo"] {
        let sched = Sched::start(&["--timeout-ms", "3000", "--policy", policy])?;
        let hogs = Hog {
            cpu: Some(0),
            ..Hog::default()
        }
        .start_many(3)?;
        load::pin(0, 1);
        let before = hogs[0].cpu_seconds()?;
        let began = Instant::now();
        let mut changes = 0;
        while began.elapsed() < Duration::from_secs(5) {
            changes += 1;
            // SAFETY: no pointers; a child of ours.
            unsafe {
                libc::setpriority(libc::PRIO_PROCESS, hogs[0].pid() as u32, changes % 2);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        load::unpin(0);
        let got = hogs[0].cpu_seconds()? - before;
        metric(
            &format!("changed_{policy}"),
            &[("seconds", got), ("changes", f64::from(changes))],
        );
        sched.no_ejection()?;
        ensure!(
            (1.0..2.4).contains(&got),
            "{policy}: one of three hogs got {got:.2} s of 5 s as its nice value changed"
        );
        drop(hogs);
        sched.stop()?;
    }
    Ok(Verdict::Ok)
}

/// A kernel thread that may use one CPU only and never sleeps leaves the others their shares.
fn kernel_thread() -> Result<Verdict> {
    let Some(ksmd) = ksm(0)? else {
        return Ok(Verdict::Skip("this kernel has no ksmd".into()));
    };
    load::pin(ksmd.pid, 1);
    let sched = Sched::start(&["--timeout-ms", "3000"])?;
    let hogs = Hog {
        cpu: Some(1),
        ..Hog::default()
    }
    .start_many(2)?;
    let before = load::cpu_seconds(ksmd.pid)?;
    let got: f64 = shares(&hogs, Duration::from_secs(4))?.iter().sum();
    let busy = load::cpu_seconds(ksmd.pid)? - before;
    metric("kernel_thread", &[("hogs_s", got), ("ksmd_s", busy)]);
    sched.no_ejection()?;
    ensure!(busy > 0.4, "ksmd ran for {busy:.2} s of 4 s: no load");
    ensure!(got > 1.5, "two hogs beside ksmd got {got:.2} s of 4 s");
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// A thread of the kernel that a user started, polling on CPU 0 beside three hogs there: a
/// fair share is a quarter.
fn polling() -> Result<Verdict> {
    let load = match Unkind::start("poll") {
        Ok(load) => load,
        Err(err) => return Ok(Verdict::Skip(format!("no polling io_uring: {err:#}"))),
    };
    let sched = harness::shared()?;
    let hogs = Hog {
        cpu: Some(0),
        ..Hog::default()
    }
    .start_many(3)?;
    std::thread::sleep(Duration::from_millis(500));
    let got = shares(&hogs, Duration::from_secs(4))?.iter().sum::<f64>() / 4.0;
    metric("polling", &[("hogs_share", got)]);
    ensure!(
        (0.65..0.9).contains(&got),
        "three hogs beside one polling thread got {:.1} %, fair is 75 %",
        got * 100.0
    );
    drop((load, hogs));
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// ksmd, switched on with this pause in ms; off again when dropped.
struct Ksmd {
    pid: i32,
    /// Without any it sleeps.
    _pages: load::Mergeable,
}

fn ksm(pause_ms: u32) -> Result<Option<Ksmd>> {
    let dir = "/sys/kernel/mm/ksm";
    let Some(pid) = load::find_process("ksmd")? else {
        return Ok(None);
    };
    let _ = std::fs::write(format!("{dir}/advisor_mode"), "none");
    for (name, value) in [
        ("sleep_millisecs", pause_ms.to_string()),
        ("pages_to_scan", "1000".to_owned()),
        ("run", "1".to_owned()),
    ] {
        std::fs::write(format!("{dir}/{name}"), value).context(name)?;
    }
    let pages = load::mergeable(16 << 20)?;
    Ok(Some(Ksmd { pid, _pages: pages }))
}

impl Ksmd {
    fn switches(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid))?;
        let turns = text.split_whitespace().nth(2).context("schedstat")?;
        Ok(turns.parse()?)
    }
}

impl Drop for Ksmd {
    fn drop(&mut self) {
        let _ = std::fs::write("/sys/kernel/mm/ksm/run", "2");
        let _ = std::fs::write("/sys/kernel/mm/ksm/run", "0");
    }
}

/// More memory in use than there is, with swap: the agent never waits for a page of its own from
/// the disk, decides all the time, and is the last to be killed.
fn memory<const SECS: u64>() -> Result<Verdict> {
    load::run(Duration::from_secs(30), &["mkswap", "/dev/vda"])?;
    load::run(Duration::from_secs(30), &["swapon", "/dev/vda"])?;
    let result = memory_swapped(SECS);
    let _ = load::run(Duration::from_secs(120), &["swapoff", "/dev/vda"]);
    result
}

fn memory_swapped(secs: u64) -> Result<Verdict> {
    let sched = Sched::start(&["--policy", "fifo"])?;
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", sched.pid()))?;
    ensure!(score.trim() == "-900", "oom_score_adj {score:?}");
    let hogs = Hog::default().start_many(2)?;
    let before = sched.counter("activations")?;
    let faults = load::faults(sched.pid())?;
    let secs = format!("{secs}s");
    // 150 % of what is free, over and over; the out-of-memory killer is no failure.
    let out = load::run(
        Duration::from_secs(600),
        &[
            "stress-ng",
            "--vm",
            "3",
            "--vm-bytes",
            "150%",
            "--vm-keep",
            "--oomable",
            "-t",
            &secs,
        ],
    );
    let swapped = std::fs::read_to_string("/proc/vmstat")?;
    let swapped = swapped.lines().find_map(|l| l.strip_prefix("pswpout "));
    let swapped: f64 = swapped.context("pswpout")?.parse()?;
    sched.no_ejection()?;
    let turns = sched.counter("activations")? - before;
    let waited = load::faults(sched.pid())?.major - faults.major;
    metric(
        "memory",
        &[
            ("swapped_pages", swapped),
            ("activations", turns as f64),
            ("major_faults", waited as f64),
        ],
    );
    ensure!(
        swapped > 1000.0,
        "{swapped} pages went to swap: no pressure; {out:?}"
    );
    ensure!(turns > 50, "the servers decided {turns} times");
    ensure!(waited == 0, "the agent waited for {waited} pages");
    ensure!(sysfs("state") == "enabled", "state {:?}", sysfs("state"));
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}
