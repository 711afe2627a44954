//! cpu.weight, cpu.max, cpusets, moves and the freezer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use umcg::Kind;
use umcg::backend::Backend;
use umcg::kernel::sys;

use super::{Test, fair, full, limits, short, timed};
use crate::cgroup::{self, Cgroup};
use crate::client::{self, Name};
use crate::harness::{self, Sched, Verdict, metric, wait_until};
use crate::load::{self, Hog, Spinner, shares};

pub const TESTS: &[Test] = &[
    timed("vm_cgroup_weights_nest", "cgroup", 14, nested),
    timed(
        "vm_cgroup_weight_counts_over_cpus",
        "cgroup",
        14,
        weights_over_cpus,
    ),
    timed("vm_cpu_max_is_kept", "cgroup", 16, cpu_max),
    timed("vm_cpu_max_nests", "cgroup", 11, cpu_max_nested),
    timed(
        "vm_cpu_max_tiny_ejects_nobody",
        "cgroup",
        14,
        cpu_max_tiny::<6>,
    ),
    timed("vm_cpu_max_holds_groups", "cgroup", 9, cpu_max_group),
    short("vm_cgroup_freezes", "cgroup", 12, freezes),
    full("vm_full_cgroup_weights_count", "cgroups", 12, weights),
    full("vm_full_cpu_max_knows_burst", "cgroups", 10, cpu_max_burst),
    full(
        "vm_full_cpu_max_holds_sleepers",
        "cgroups",
        25,
        cpu_max_sleepers,
    ),
    full(
        "vm_full_cpu_max_tiny_40s",
        "cgroups",
        50,
        cpu_max_tiny::<40>,
    ),
    full("vm_full_cpuset_changes_lose_nobody", "cgroups", 12, cpusets),
    full(
        "vm_full_cgroup_moves_lose_nobody",
        "cgroups",
        40,
        moves::<30>,
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
    let hog = fair::pinned(0, nice)?;
    cgroup.add(hog.pid())?;
    Ok(hog)
}

/// 100:300, set before the attachment; then turned round while they run.
fn weights() -> Result<Verdict> {
    let (a, b) = (Cgroup::new("umcg-a")?, Cgroup::new("umcg-b")?);
    b.set("cpu.weight", "300")?;
    let sched = harness::shared()?;
    let hogs = [pinned(0, &a)?, pinned(0, &b)?];
    within("cgroup_weights", &parts(&hogs, 4)?, &[0.25, 0.75])?;
    a.set("cpu.weight", "300")?;
    b.set("cpu.weight", "100")?;
    within("cgroup_weights_turned", &parts(&hogs, 4)?, &[0.75, 0.25])?;
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// a(100) { x(300): 2 hogs, nice 0 and 5; y(100): 1 hog } beside b(100): 1 hog.
fn nested() -> Result<Verdict> {
    const NICE5: f64 = 335.0 / 1024.0;
    let sched = harness::shared()?;
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
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Two hogs in each of two cgroups, 100:300, free to use both CPUs.
fn weights_over_cpus() -> Result<Verdict> {
    let sched = harness::shared()?;
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
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// CPU seconds per second that all of `hogs` get together.
fn cpus(hogs: &[Spinner], during: Duration) -> Result<f64> {
    let began = Instant::now();
    let got: f64 = shares(hogs, during)?.iter().sum();
    Ok(got / began.elapsed().as_secs_f64())
}

fn near(what: &str, got: f64, want: f64) -> Result<()> {
    metric(what, &[("cpus", got)]);
    ensure!(
        (got - want).abs() <= 0.02,
        "{what}: {:.1} % of a CPU, wanted {:.0} +- 2 %",
        got * 100.0,
        want * 100.0
    );
    Ok(())
}

fn hogs_in(cgroup: &Cgroup, n: usize) -> Result<Vec<Spinner>> {
    let hogs = Hog::default().start_many(n)?;
    for hog in &hogs {
        cgroup.add(hog.pid())?;
    }
    Ok(hogs)
}

/// Is the kernel one that tells of limits?
fn without_limits() -> Option<Verdict> {
    (!scx_umcg::kernel::tells_of_limits())
        .then(|| Verdict::Skip("this kernel does not tell of cpu.max".to_owned()))
}

/// 20 % with one hog, set before the attachment; with eight.
fn cpu_max() -> Result<Verdict> {
    if let Some(skip) = without_limits() {
        return Ok(skip);
    }
    let limited = Cgroup::new("umcg-max")?;
    limited.set("cpu.max", "20000 100000")?;
    let sched = harness::shared()?;
    for (name, n) in [("cpu_max_1", 1), ("cpu_max_8", 8)] {
        near(
            name,
            fair::used_by(&limited, n, Duration::from_secs(5))?,
            0.2,
        )?;
    }
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// a(50 %) { x(20 %): 2 hogs; y: 2 hogs }: x gets 20 %, y the 30 % that are left.
fn cpu_max_nested() -> Result<Verdict> {
    if let Some(skip) = without_limits() {
        return Ok(skip);
    }
    let sched = harness::shared()?;
    let a = Cgroup::new("umcg-max")?;
    let (x, y) = (a.child("x")?, a.child("y")?);
    a.set("cpu.max", "50000 100000")?;
    x.set("cpu.max", "20000 100000")?;
    let mut hogs = hogs_in(&x, 2)?;
    hogs.extend(hogs_in(&y, 2)?);
    std::thread::sleep(Duration::from_millis(1500));
    let began = Instant::now();
    let got = shares(&hogs, Duration::from_secs(6))?;
    let wall = began.elapsed().as_secs_f64();
    let (in_x, in_y) = ((got[0] + got[1]) / wall, (got[2] + got[3]) / wall);
    metric("cpu_max_nested", &[("x", in_x), ("y", in_y)]);
    near("cpu_max_outer", in_x + in_y, 0.5)?;
    ensure!(in_x <= 0.22, "x got {in_x:.3} of a CPU, at most 0.2");
    ensure!(in_y >= 0.2, "y got {in_y:.3}: its brother took its part");
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// CPU seconds that all members of `cgroup` have used.
fn used_in(cgroup: &Cgroup) -> Result<f64> {
    let text = cgroup.get("cpu.stat")?;
    let usage = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
    Ok(usage.context("cpu.stat")?.parse::<f64>()? / 1e6)
}

const GROUP_PHASE: Duration = Duration::from_millis(2400);

/// Eight workers and a server on one CPU. First each hands over to the next, then each
/// yields to the server; nobody runs for so long that a tick meets him often.
fn handing_over() -> Result<()> {
    load::pin(0, 0);
    let group = client::group(16)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let names: Arc<[Name; 8]> = Arc::default();
    let began = Instant::now();
    let threads: Vec<_> = (0..names.len())
        .map(|i| {
            let names = names.clone();
            client::worker(&group, i as u64, move |group, me| {
                names[i].set(me);
                let next = names[(i + 1) % names.len()].get();
                while began.elapsed() < 2 * GROUP_PHASE {
                    let stint = Instant::now();
                    while stint.elapsed() < Duration::from_micros(50) {
                        std::hint::spin_loop();
                    }
                    let deadline = sys::now_ns() + 500_000_000;
                    // One that is not there to take over: by way of the server.
                    if began.elapsed() > GROUP_PHASE || group.switch(me, next, deadline).is_err() {
                        group.yield_now(me)?;
                    }
                }
                Ok(())
            })
        })
        .collect();
    client::serve(&group, me, names.len() as u64)?;
    for thread in threads {
        let ended = thread.join().map_err(|_| anyhow!("a worker panicked"))?;
        ended?;
    }
    group.unregister(me)?;
    Ok(())
}

/// A group that is moved below a limit of 20 % gets that, however its slot goes round.
fn cpu_max_group() -> Result<Verdict> {
    if let Some(skip) = without_limits() {
        return Ok(skip);
    }
    let sched = harness::shared()?;
    let limited = Cgroup::new("umcg-max")?;
    limited.set("cpu.max", "20000 100000")?;
    let began = Instant::now();
    let group = client::spawn(handing_over)?;
    std::thread::sleep(Duration::from_millis(300));
    limited.add(group.pid)?;
    let mut got = [0.0; 2];
    for (phase, got) in got.iter_mut().enumerate() {
        let start = GROUP_PHASE * phase as u32 + Duration::from_millis(700);
        std::thread::sleep(start.saturating_sub(began.elapsed()));
        let (from, before) = (Instant::now(), used_in(&limited)?);
        std::thread::sleep(Duration::from_millis(1600));
        *got = (used_in(&limited)? - before) / from.elapsed().as_secs_f64();
    }
    let (switches, runs) = (sched.counter("grp_switch")?, sched.counter("grp_run")?);
    metric(
        "cpu_max_group",
        &[
            ("switching", got[0]),
            ("yielding", got[1]),
            ("switches", switches as f64),
            ("runs", runs as f64),
        ],
    );
    ensure!(
        switches > 1000 && runs > 1000,
        "{switches} switches and {runs} runs: no group that hands over"
    );
    ensure!(
        got.iter().all(|g| (g - 0.2).abs() <= 0.03),
        "a group below 20 % got {got:.3?} of a CPU as it switched, and as it yielded"
    );
    group.result(Duration::from_secs(20))?;
    ensure!(sched.counter("edge_illegal")? == 0, "illegal edges");
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// What was not used is there at once: quota and burst, not more.
fn cpu_max_burst() -> Result<Verdict> {
    if let Some(skip) = without_limits() {
        return Ok(skip);
    }
    let sched = harness::shared()?;
    let limited = Cgroup::new("umcg-max")?;
    limited.set("cpu.max", "100000 1000000")?;
    limited.set("cpu.max.burst", "100000")?;
    let hogs = Hog::default().start_many(1)?;
    std::thread::sleep(Duration::from_millis(300));
    let before = hogs[0].cpu_seconds()?;
    limited.add(hogs[0].pid())?;
    std::thread::sleep(Duration::from_secs(1));
    let got = hogs[0].cpu_seconds()? - before;
    metric("cpu_max_burst", &[("seconds", got)]);
    // 0.1 s of quota, 0.1 s of burst, 0.1 s that came meanwhile.
    ensure!((0.27..=0.33).contains(&got), "got {got:.3} s, wanted 0.3");
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Threads that sleep all the time are held too, and none of their wakes is lost.
fn cpu_max_sleepers() -> Result<Verdict> {
    if let Some(skip) = without_limits() {
        return Ok(skip);
    }
    let sched = harness::shared()?;
    let limited = Cgroup::new("umcg-max")?;
    limited.set("cpu.max", "30000 100000")?;
    let script = format!(
        "echo 0 > {}; exec hackbench -g 2 -l 300 -T",
        limited.file("cgroup.procs").display()
    );
    let (began, before) = (Instant::now(), used_in(&limited)?);
    load::run(Duration::from_secs(120), &["sh", "-c", &script])?;
    let wall = began.elapsed().as_secs_f64();
    let got = (used_in(&limited)? - before) / wall;
    metric("cpu_max_sleepers", &[("cpus", got), ("seconds", wall)]);
    ensure!(wall > 1.0, "over after {wall:.2} s: too short to tell");
    // What the bucket held at the start is on top.
    ensure!(
        got <= 0.32 + 0.03 / wall,
        "hackbench got {got:.3} of a CPU, limit 0.3"
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// A limit so small that nobody could run in time, then none.
fn cpu_max_tiny<const SECS: u64>() -> Result<Verdict> {
    if let Some(skip) = without_limits() {
        return Ok(skip);
    }
    let sched = Sched::start(&["--timeout-ms", "3000"])?;
    let limited = Cgroup::new("umcg-max")?;
    limited.set("cpu.max", "1000 1000000")?;
    let hogs = hogs_in(&limited, 8)?;
    std::thread::sleep(Duration::from_secs(SECS));
    sched.no_ejection()?;
    let got = shares(&hogs, Duration::from_secs(3))?;
    let (sum, least) = (
        got.iter().sum::<f64>(),
        got.iter().copied().fold(1.0, f64::min),
    );
    metric("cpu_max_tiny", &[("sum", sum), ("least", least)]);
    ensure!(least > 0.0, "a hog did not run for 3 s: {got:.4?}");
    ensure!(
        sum < 0.3,
        "8 hogs with a limit of 0.1 % got {sum:.3} s of 3 s"
    );
    limited.set("cpu.max", "max")?;
    let worst = limits::all_run_again(&hogs)?;
    metric("cpu_max_gone", &[("worst_ms", worst)]);
    let free = cpus(&hogs, Duration::from_secs(1))?;
    ensure!(free > 1.6, "8 hogs get {free:.2} CPUs once they are free");
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// The cpuset of a busy cgroup changes; who waits follows.
fn cpusets() -> Result<Verdict> {
    let sched = harness::shared()?;
    let set = Cgroup::new("umcg-set")?;
    let hogs = hogs_in(&set, 4)?;
    for pid in load::sleepers(4)? {
        set.add(pid)?;
    }
    for round in 0..40 {
        set.set("cpuset.cpus", ["0", "1", "0-1"][round % 3])?;
        std::thread::sleep(Duration::from_millis(25));
    }
    set.set("cpuset.cpus", "1")?;
    std::thread::sleep(Duration::from_millis(100));
    let inside = cpus(&hogs, Duration::from_secs(2))?;
    metric("cpuset", &[("cpus", inside)]);
    ensure!(inside <= 1.02, "hogs of one CPU got {inside:.2}");
    for (i, share) in shares(&hogs, Duration::from_secs(2))?.iter().enumerate() {
        ensure!(*share > 0.2, "hog {i} got {share:.3} s of 2 s");
    }
    sched.no_ejection()?;
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Members wander between cgroups, a limited one among them, as they run and wait.
fn moves<const SECS: u64>() -> Result<Verdict> {
    let sched = harness::shared()?;
    let homes = [
        Cgroup::new("umcg-a")?,
        Cgroup::new("umcg-b")?,
        Cgroup::new("umcg-max")?,
    ];
    homes[1].set("cpu.weight", "300")?;
    homes[2].set("cpu.max", "30000 100000")?;
    let hogs = Hog::default().start_many(4)?;
    let mut pids = load::sleepers(4)?;
    pids.extend(hogs.iter().map(Spinner::pid));
    let began = Instant::now();
    let mut moved = 0usize;
    while began.elapsed() < Duration::from_secs(SECS) {
        for (i, &pid) in pids.iter().enumerate() {
            match (moved + i) % 4 {
                3 => cgroup::leave(pid)?,
                home => homes[home].add(pid)?,
            }
        }
        moved += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    metric("cgroup_moves", &[("moves", (moved * pids.len()) as f64)]);
    // Nothing is left counted where it is not: the weights still hold.
    for (i, hog) in hogs.iter().enumerate() {
        load::pin(hog.pid(), 0);
        homes[i % 2].add(hog.pid())?;
    }
    let got = parts(&hogs, 4)?;
    within(
        "cgroup_weights_after_moves",
        &[got[0] + got[2], got[1] + got[3]],
        &[0.25, 0.75],
    )?;
    ensure!(
        sched.counter("edge_illegal")? == 0,
        "illegal edges: {}",
        sched.counter("edge_illegal")?
    );
    sched.no_ejection()?;
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// A cgroup freezes soon though its members wait: for a CPU (12 turns of 4 ms at a fifth
/// of 2 CPUs are 120 ms), for tokens.
fn freezes() -> Result<Verdict> {
    let sched = harness::shared()?;
    let (busy, limited) = (Cgroup::new("umcg-a")?, Cgroup::new("umcg-max")?);
    limited.set("cpu.max", "1000 1000000")?;
    let around = Hog::default().start_many(4)?;
    let mut worst = [0.0f64; 2];
    for (i, cgroup) in [&busy, &limited].into_iter().enumerate() {
        let hogs = hogs_in(cgroup, 12)?;
        std::thread::sleep(Duration::from_millis(700));
        for _ in 0..5 {
            let began = Instant::now();
            cgroup.set("cgroup.freeze", "1")?;
            let frozen = wait_until(Duration::from_secs(5), || {
                cgroup
                    .get("cgroup.events")
                    .is_ok_and(|text| text.contains("frozen 1"))
            });
            ensure!(frozen, "cgroup {i} is not frozen after 5 s");
            worst[i] = worst[i].max(began.elapsed().as_secs_f64() * 1e3);
            // The last one says that all are frozen a moment before it sleeps, and what it
            // has used shows at the next tick: soon there is a while without any.
            let mut used = 0.0;
            let still = wait_until(Duration::from_secs(1), || {
                used = cpus(&hogs, Duration::from_millis(200)).unwrap_or(f64::NAN);
                used == 0.0
            });
            ensure!(still, "frozen hogs used {used:.4} CPUs");
            cgroup.set("cgroup.freeze", "0")?;
            std::thread::sleep(Duration::from_millis(300));
        }
        if i == 0 {
            // One cgroup beside four hogs of the root: a fifth of 2 CPUs.
            let got = cpus(&hogs, Duration::from_secs(2))?;
            ensure!(got > 0.2, "thawed hogs got {got:.2} CPUs");
        }
    }
    metric(
        "freeze",
        &[("waiting_ms", worst[0]), ("throttled_ms", worst[1])],
    );
    ensure!(
        worst.iter().all(|ms| *ms <= 400.0),
        "freezing took {worst:.0?} ms, at most 400"
    );
    sched.no_ejection()?;
    drop(around);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
