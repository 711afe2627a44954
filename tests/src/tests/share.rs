//! Who gets how much, and how fast.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Test, fair, full, short, timed};
use crate::harness::{self, Sched, Verdict, median, metric};
use crate::load::{self, Hog};

pub const TESTS: &[Test] = &[
    timed("vm_pinned_hogs_share_evenly", "share,newest", 8, pinned),
    timed("vm_nice_is_honoured", "share,newest", 10, nice),
    timed("vm_batch_and_idle_keep_behind", "share,newest", 18, classes),
    timed(
        "vm_idle_cpu_beside_work_is_rare",
        "share,newest",
        12,
        conservation::<8>,
    ),
    timed(
        "vm_messaging_is_no_slower",
        "share,newest",
        30,
        messaging_short,
    ),
    full(
        "vm_full_messaging_beside_eevdf",
        "bars",
        300,
        messaging_full,
    ),
    full("vm_full_conservation_60s", "bars", 75, conservation::<60>),
    short(
        "vm_agent_has_no_page_faults",
        "share,newest",
        26,
        page_faults,
    ),
];

fn pinned() -> Result<Verdict> {
    let sched = harness::shared()?;
    let hogs = [fair::pinned(0, 0)?, fair::pinned(0, 0)?];
    let [share] = fair::parts([[&hogs[0], &hogs[1]]], Duration::from_secs(4))?;
    metric("pinned", &[("share", share)]);
    ensure!(
        (share - 0.5).abs() <= 0.02,
        "two hogs on one CPU: {:.1} % for one",
        share * 100.0
    );
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

fn nice() -> Result<Verdict> {
    let sched = harness::shared()?;
    let hogs = [fair::pinned(0, 0)?, fair::pinned(0, 5)?];
    let [part] = fair::parts([[&hogs[0], &hogs[1]]], Duration::from_secs(6))?;
    let (ratio, want) = (part / (1.0 - part), fair::NICE_0_TO_5);
    metric("nice", &[("ratio", ratio), ("want", want)]);
    ensure!(
        (ratio / want - 1.0).abs() <= 0.05,
        "nice 0 : nice 5 = {ratio:.3}, weights {want:.3}"
    );
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// How often who runs on CPU 0 was preempted by somebody who woke up, in two seconds of a hog
/// of one class beside a short sleeper of another.
fn preemptions(sched: &Sched, hog: i32, sleeper: i32) -> Result<f64> {
    let hog = Hog {
        cpu: Some(0),
        class: hog,
        ..Hog::default()
    }
    .start()?;
    let sleeper = load::Napper {
        cpu: 0,
        work: Duration::from_micros(100),
        sleep: Duration::from_millis(5),
        class: sleeper,
        ..load::Napper::default()
    }
    .start()?;
    let count =
        || -> Result<u64> { Ok(sched.counter("preempt_wake")? + sched.counter("preempt_tick")?) };
    std::thread::sleep(Duration::from_millis(300));
    let before = count()?;
    std::thread::sleep(Duration::from_secs(2));
    let many = count()? - before;
    drop((hog, sleeper));
    Ok(many as f64)
}

/// SCHED_BATCH preempts SCHED_IDLE alone, SCHED_IDLE nobody, and a hog of SCHED_IDLE gets next to
/// nothing of a CPU that another one wants.
fn classes() -> Result<Verdict> {
    const NORMAL: i32 = libc::SCHED_OTHER;
    const BATCH: i32 = libc::SCHED_BATCH;
    const IDLE: i32 = libc::SCHED_IDLE;
    let sched = harness::shared()?;
    let normal = preemptions(&sched, NORMAL, NORMAL)?;
    let batch = preemptions(&sched, NORMAL, BATCH)?;
    let idle = preemptions(&sched, BATCH, IDLE)?;
    let over_idle = preemptions(&sched, IDLE, BATCH)?;
    let last = Hog {
        cpu: Some(0),
        class: IDLE,
        ..Hog::default()
    };
    let hogs = [last.start()?, fair::pinned(0, 0)?];
    let [share] = fair::parts([[&hogs[0], &hogs[1]]], Duration::from_secs(3))?;
    drop(hogs);
    metric(
        "preemptions",
        &[
            ("idle_share", share),
            ("normal", normal),
            ("batch", batch),
            ("idle", idle),
            ("batch_over_idle", over_idle),
        ],
    );
    ensure!(normal > 100.0, "a normal sleeper preempted {normal} times");
    ensure!(
        over_idle > 100.0,
        "SCHED_BATCH preempted SCHED_IDLE {over_idle} times"
    );
    // Others wake up on this machine, too.
    ensure!(batch < normal / 3.0, "SCHED_BATCH: {batch} of {normal}");
    ensure!(idle < normal / 3.0, "SCHED_IDLE: {idle} of {normal}");
    ensure!(
        share <= 0.03,
        "a hog of SCHED_IDLE got {:.1} % beside another one",
        share * 100.0
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

fn conservation<const SECS: u64>() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    let hogs = Hog::default().start_many(2)?;
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(SECS) {
        load::messaging()?;
    }
    let wall = began.elapsed().as_secs_f64() * 2.0;
    let idle = sched.counter("idle_work_ns")? as f64 / 1e9;
    let worst = sched.status()?["max_idle_work_ns"]
        .as_u64()
        .context("status")? as f64
        / 1e6;
    metric(
        "conservation",
        &[("idle_share", idle / wall), ("worst_ms", worst)],
    );
    ensure!(
        idle / wall <= 0.001,
        "idle beside work {:.3} % of the time",
        idle / wall * 100.0
    );
    ensure!(worst <= 4.0, "a CPU idled {worst:.2} ms beside work");
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Wall time of messaging as a multiple of EEVDF's in the same boot: `rounds`
/// interleaved, two runs on each side, the first after each attach discarded. The
/// ratio of the medians over all runs, and the lowest and highest of a round.
fn messaging_ratio(name: &str, args: &[&str], rounds: usize) -> Result<f64> {
    harness::end_shared();
    let (mut theirs, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        load::messaging()?;
        let eevdf = [load::messaging()?, load::messaging()?];
        let sched = Sched::start(args)?;
        load::messaging()?;
        let here = [load::messaging()?, load::messaging()?];
        sched.stop()?;
        ratios.push((here[0] + here[1]) / (eevdf[0] + eevdf[1]));
        theirs.extend(eevdf);
        ours.extend(here);
    }
    let (low, high) = (
        ratios.iter().copied().fold(f64::MAX, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    );
    let ratio = median(&mut ours) / median(&mut theirs);
    metric(
        &format!("messaging_{name}"),
        &[
            ("ratio", ratio),
            ("low", low),
            ("high", high),
            ("n", rounds as f64),
        ],
    );
    Ok(ratio)
}

/// Coarse, for every run: nothing has become twice as slow.
fn messaging_short() -> Result<Verdict> {
    for (name, args) in [("default", &[][..]), ("fifo", &["--policy", "fifo"])] {
        let ratio = messaging_ratio(name, args, 1)?;
        ensure!(ratio < 1.6, "messaging {name}: {ratio:.2}x of EEVDF");
    }
    Ok(Verdict::Ok)
}

/// The bars.
fn messaging_full() -> Result<Verdict> {
    let fair = messaging_ratio("default", &[], 9)?;
    let fifo = messaging_ratio("fifo", &["--policy", "fifo"], 9)?;
    messaging_ratio("fair_staged", &["--decide", "staged"], 9)?;
    ensure!(
        fair <= 0.95,
        "messaging default: {fair:.3}x of EEVDF, at most 0.95"
    );
    ensure!(
        fifo <= 0.85,
        "messaging fifo: {fifo:.3}x of EEVDF, at most 0.85"
    );
    Ok(Verdict::Ok)
}

/// `read` once it stands still: what starts up is over, however long twelve children beside two
/// hogs take for it.
fn settled(read: impl Fn() -> Result<u64>) -> Result<u64> {
    let end = Instant::now() + Duration::from_secs(20);
    let mut last = read()?;
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = read()?;
        if now == last || Instant::now() >= end {
            return Ok(now);
        }
        last = now;
    }
}

/// How many tasks were ever started in this guest.
fn started() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().find_map(|l| l.strip_prefix("processes "));
    Ok(line.context("no processes in /proc/stat")?.trim().parse()?)
}

fn page_faults() -> Result<Verdict> {
    const TURNS: u64 = 100;
    let faults = |pid: u32| load::faults(pid).map(|f| f.minor + f.major);
    for (name, args) in [("default", &[][..]), ("fifo", &["--policy", "fifo"])] {
        let sched = Sched::start(args)?;
        let hogs = Hog::default().start_many(2)?;
        let sleepers = load::sleepers(12)?;
        let mut tries = 0;
        let (grown, done) = loop {
            let before = settled(|| faults(sched.pid()))?;
            let (turns, tasks) = (sched.counter("activations")?, started()?);
            // Until the servers were at work for some time, however fast the machine is.
            let end = Instant::now() + Duration::from_secs(20);
            let mut done = 0;
            while done <= TURNS && Instant::now() < end {
                std::thread::sleep(Duration::from_secs(4));
                done = sched.counter("activations")? - turns;
            }
            let grown = faults(sched.pid())? - before;
            // On the guest's virtiofs an open of libc drops its cached pages, those of the agent
            // too: what the guest started meanwhile (udev, a kernel's helper) spoils the reading.
            let strangers = started()? - tasks;
            tries += 1;
            if grown == 0 || strangers == 0 || tries == 3 {
                break (grown, done);
            }
            metric("page_faults_again", &[("tasks", strangers as f64)]);
        };
        metric(
            &format!("page_faults_{name}"),
            &[("faults", grown as f64), ("activations", done as f64)],
        );
        ensure!(
            done > TURNS,
            "{name}: only {done} activations: the servers were not at work"
        );
        ensure!(
            grown == 0,
            "{name}: {grown} page faults of the agent in the steady state"
        );
        // Beside them the agent would take 10 s to end.
        drop(hogs);
        load::end(sleepers);
        sched.stop()?;
    }
    Ok(Verdict::Ok)
}
