//! The bars of a release: shares, as medians of nine rounds beside EEVDF; the bound of a wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use scx_umcg::runfile::RunFile;
use umcg::sync::Ordering::Relaxed;
use umcg::word::{State, Word};

use super::{Test, full, short};
use crate::beside::{Bars, Figure, Rounds};
use crate::cgroup::Cgroup;
use crate::harness::{self, Sched, Verdict, metric};
use crate::load::{self, Hog, Spinner, shares};
use crate::stall::Witnesses;

pub const TESTS: &[Test] = &[
    short(
        "vm_fair_clock_waits_for_who_is_behind",
        "cost,newest,icount,cpus=1",
        6,
        clock,
    ),
    short(
        "vm_fair_clock_goes_on_with_who_is_alone",
        "cost,icount,cpus=1",
        14,
        alone,
    ),
    full(
        "vm_full_free_hogs_beside_eevdf",
        "fair-free",
        260,
        free_hogs,
    ),
    full(
        "vm_full_shares_beside_eevdf",
        "fair-shares",
        290,
        all_shares,
    ),
    full(
        "vm_full_waits_stay_below_the_bound",
        "fair-count,icount,cpus=1",
        120,
        waits,
    ),
];

/// sched_prio_to_weight: nice 0 = 1024, nice 5 = 335, nice -5 = 3121.
pub const NICE_0_TO_5: f64 = 1024.0 / 335.0;
const NICE_M5_TO_0: f64 = 3121.0 / 1024.0;
const SETTLE: Duration = Duration::from_millis(300);

pub fn pinned(cpu: usize, nice: i32) -> Result<Spinner> {
    Hog {
        cpu: Some(cpu),
        nice,
        ..Hog::default()
    }
    .start()
}

/// Four hogs that may run anywhere on two CPUs: most by least.
pub fn hogs_spread() -> Result<f64> {
    let hogs = Hog::default().start_many(4)?;
    std::thread::sleep(Duration::from_millis(500));
    let got = shares(&hogs, Duration::from_secs(10))?;
    let least = got.iter().copied().fold(f64::MAX, f64::min);
    let most = got.iter().copied().fold(0.0, f64::max);
    Ok(most / least)
}

/// Runs for 200 us and sleeps for 10, on this CPU.
pub fn short_sleeper(cpu: usize) -> Result<Spinner> {
    load::Napper {
        cpu,
        work: Duration::from_micros(200),
        sleep: Duration::from_micros(10),
        ..load::Napper::default()
    }
    .start()
}

/// What the first one of each pair gets of what both get, while `during` passes.
pub fn parts<const N: usize>(pairs: [[&Spinner; 2]; N], during: Duration) -> Result<[f64; N]> {
    std::thread::sleep(SETTLE);
    let read = || -> Result<Vec<f64>> { pairs.iter().flatten().map(|s| s.cpu_seconds()).collect() };
    let before = read()?;
    std::thread::sleep(during);
    let after = read()?;
    let got: Vec<f64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    Ok(std::array::from_fn(|i| {
        got[2 * i] / (got[2 * i] + got[2 * i + 1])
    }))
}

/// CPUs that `n` hogs in `cgroup` get together.
pub fn used_by(cgroup: &Cgroup, n: usize, during: Duration) -> Result<f64> {
    let hogs = Hog::default().start_many(n)?;
    for hog in &hogs {
        cgroup.add(hog.pid())?;
    }
    // What the bucket held at the start is gone by then.
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    let got: f64 = shares(&hogs, during)?.iter().sum();
    Ok(got / began.elapsed().as_secs_f64())
}

/// A thread of a real-time class interrupts a hog of nice 19 once a millisecond, whose virtual time
/// runs 100 times as fast. Were the CPU's clock that time, whoever wakes up would be placed behind
/// all that the other hog is owed.
fn clock() -> Result<Verdict> {
    let sched = harness::shared()?;
    let file = RunFile::read()?.context("no agent runs")?;
    let shared = scx_umcg::status::open_shared(&file)?;
    let hogs = [pinned(0, 19)?, pinned(0, 0)?];
    std::thread::sleep(SETTLE);
    let mut records = shared.workers.records().iter();
    let hog = records.find(|w| w.pid.load(Relaxed) == hogs[1].pid());
    let hog = hog.context("no record of the hog")?;
    let witnesses = Witnesses::start(1, Duration::from_millis(1));
    let (began, mut most, mut seen) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_micros(1700));
        let key = hog.key.load(Relaxed);
        let clock = shared.cpus.records()[0].vnow.load(Relaxed);
        if Word(hog.word.load(Relaxed)).state() == Some(State::Runnable) {
            seen += 1;
            most = most.max(clock.wrapping_sub(key).cast_signed());
        }
    }
    witnesses.end()?;
    drop(hogs);
    let ms = most as f64 / 1e6;
    metric("clock_ahead", &[("ms", ms), ("looks", f64::from(seen))]);
    ensure!(seen > 100, "the hog waited at {seen} looks");
    ensure!(ms < 15.0, "the clock is {ms:.1} ms ahead of who waits");
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// A hog alone on its CPU passes no edge. Did the clock stand still meanwhile, who wakes up there
/// would have the CPU for as long as that.
fn alone() -> Result<Verdict> {
    const ALONE: Duration = Duration::from_millis(1500);
    const TOGETHER: Duration = Duration::from_millis(120);
    let sched = harness::shared()?;
    let mut least = f64::MAX;
    for _ in 0..4 {
        let late = load::late_hog(0, ALONE)?;
        let hog = pinned(0, 0)?;
        // Not by naps: who wakes up has the hog pass an edge.
        std::thread::sleep(ALONE + Duration::from_millis(20));
        let got = shares(&[hog, late], TOGETHER)?;
        ensure!(got[1] > 0.0, "the sleeper has not come: {got:.3?} s");
        least = least.min(got[0] / TOGETHER.as_secs_f64());
    }
    metric("alone_before", &[("part", least)]);
    ensure!(
        least > 0.4,
        "who was alone has {least:.2} beside who comes, not a half"
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// One and how far off: bars are above it, and ratios of it mean something.
fn off(got: f64, want: f64) -> f64 {
    1.0 + (got / want - 1.0).abs()
}

fn discard() -> Result<()> {
    load::messaging().map(|_| ())
}

fn free_hogs() -> Result<Verdict> {
    let rounds = Rounds::take(9, &[], &[], discard, || {
        Ok(vec![("spread", hogs_spread()?)])
    })?;
    let mut bars = Bars::default();
    let spread = rounds.pair("free_hogs", "spread")?;
    bars.at_most("most by least of four hogs", spread.ours, 1.05);
    bars.kept()?;
    Ok(Verdict::Ok)
}

/// Pairs on a CPU each, two at a time; then limits.
fn one_round(limits: bool) -> Result<Vec<Figure>> {
    const DURING: Duration = Duration::from_secs(3);
    let hogs = [pinned(0, 0)?, pinned(0, 5)?, pinned(1, -5)?, pinned(1, 0)?];
    let [low, high] = parts([[&hogs[0], &hogs[1]], [&hogs[2], &hogs[3]]], DURING)?;
    drop(hogs);
    let (a, b) = (Cgroup::new("umcg-a")?, Cgroup::new("umcg-b")?);
    b.set("cpu.weight", "300")?;
    let hogs = [pinned(0, 0)?, pinned(0, 0)?, pinned(1, 0)?];
    a.add(hogs[0].pid())?;
    b.add(hogs[1].pid())?;
    let sleeper = short_sleeper(1)?;
    let [light, half] = parts([[&hogs[0], &hogs[1]], [&sleeper, &hogs[2]]], DURING)?;
    drop((hogs, sleeper));
    let mut figures = vec![
        ("nice_0_5", off(low / (1.0 - low), NICE_0_TO_5)),
        ("nice_m5_0", off(high / (1.0 - high), NICE_M5_TO_0)),
        ("weights", off(light, 0.25).max(off(1.0 - light, 0.75))),
        ("sleeper_points", 1.0 + (half - 0.5).abs()),
    ];
    if limits {
        let limited = Cgroup::new("umcg-max")?;
        limited.set("cpu.max", "20000 100000")?;
        for (name, n) in [("max_1_points", 1), ("max_8_points", 8)] {
            let used = used_by(&limited, n, Duration::from_secs(2))?;
            figures.push((name, 1.0 + (used - 0.2).abs()));
        }
    }
    Ok(figures)
}

fn all_shares() -> Result<Verdict> {
    let limits = scx_umcg::kernel::tells_of_limits();
    let rounds = Rounds::take(9, &[], &[], discard, || one_round(limits))?;
    let mut bars = Bars::default();
    for (name, most) in [
        ("nice_0_5", 1.05),
        ("nice_m5_0", 1.05),
        ("weights", 1.05),
        ("sleeper_points", 1.05),
        ("max_1_points", 1.02),
        ("max_8_points", 1.02),
    ] {
        if limits || !name.starts_with("max") {
            bars.at_most(name, rounds.pair("shares", name)?.ours, most);
        }
    }
    bars.kept()?;
    Ok(Verdict::Ok)
}

/// docs/design.md: n x 14 ms, n x 4 ms where nobody sleeps. Who reads the longest wait is one more,
/// and one that sleeps. By instructions, as a host that is busy stops a CPU for longer than that.
fn waits() -> Result<Verdict> {
    const HOGS: usize = 20;
    let sched = Sched::start(&[])?;
    let hogs = (0..HOGS)
        .map(|_| pinned(0, 0))
        .collect::<Result<Vec<_>>>()?;
    let longest = |secs| -> Result<f64> {
        std::thread::sleep(Duration::from_secs(1));
        let (began, mut longest) = (Instant::now(), 0.0f64);
        while began.elapsed() < Duration::from_secs(secs) {
            let status = sched.status()?;
            let ms = status["cpus"][0]["longest_wait_ms"].as_f64();
            longest = longest.max(ms.context("longest_wait_ms")?);
        }
        Ok(longest)
    };
    let alone = longest(4)?;
    let sleepers = (0..4)
        .map(|_| short_sleeper(0))
        .collect::<Result<Vec<_>>>()?;
    let beside = longest(4)?;
    drop((hogs, sleepers));
    metric("waits_ms", &[("hogs", alone), ("and_sleepers", beside)]);
    let bounds = [HOGS + 1, HOGS + 5].map(|n| 14.0 * n as f64);
    ensure!(
        alone > 20.0 && alone <= bounds[0] && beside <= bounds[1],
        "the longest waits were {alone:.0} and {beside:.0} ms, at most {bounds:.0?}"
    );
    sched.stop()?;
    Ok(Verdict::Ok)
}
