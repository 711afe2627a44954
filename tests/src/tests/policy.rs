//! That each policy keeps its promise on real threads. The policies alone are tested in
//! `policy/tests`, in simulated time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Test, full, short, timed};
use crate::harness::{Sched, Verdict, metric};
use crate::load::{Hog, Spinner, shares};
use crate::race::{self, Job, Racer};

pub const TESTS: &[Test] = &[
    Test {
        tries: 3,
        ..full(
            "vm_full_policy_lifo_is_last_first",
            "decide,newest",
            5,
            lifo,
        )
    },
    timed(
        "vm_policy_arrival_keeps_the_order",
        "decide,newest",
        8,
        arrival,
    ),
    timed("vm_policy_priority_is_strict", "decide,newest", 5, strict),
    timed("vm_policy_priority_ages", "decide,newest", 8, ages),
    timed("vm_policy_rr_turns_are_even", "decide,newest", 12, turns),
    timed("vm_policy_quota_tiers", "decide,newest", 10, quota),
    full(
        "vm_full_policy_quota_maximum_and_absent_tier",
        "decide,newest",
        14,
        quota_bounds,
    ),
    short(
        "vm_policy_deadlines_are_met",
        "cost,newest,icount,cpus=1",
        40,
        deadlines::<3>,
    ),
    full(
        "vm_full_policy_10000_deadlines_are_met",
        "cost,newest,icount,cpus=1",
        900,
        deadlines_beside_fair,
    ),
];

/// No slice ends before a racer does: what is seen is the policy's choice.
const LONG: [&str; 2] = ["--slice-us", "100000"];

fn racers(nice: &[i32]) -> Vec<Racer> {
    nice.iter().map(|&nice| Racer { nice }).collect()
}

/// The order in which they end when they wake in the order `wake`, all while the CPU is taken.
fn race(policy: &str, nice: &[i32], wake: &[usize]) -> Result<Vec<usize>> {
    let sched = Sched::start(&["--policy", policy, LONG[0], LONG[1]])?;
    let order = race::run(&racers(nice), wake)?;
    sched.stop()?;
    Ok(order)
}

/// All but the first one: that choice may be the kernel's, while the server is being woken.
fn chosen(order: &[usize]) -> &[usize] {
    &order[1..]
}

fn lifo() -> Result<Verdict> {
    let wake = [2, 5, 0, 4, 1, 3];
    let order = race("lifo", &[0; 6], &wake)?;
    let late = wake.iter().rev().copied();
    let want: Vec<usize> = late.filter(|&at| at != order[0]).collect();
    ensure!(
        chosen(&order) == want,
        "woke in the order {wake:?}, ran in {order:?}"
    );
    Ok(Verdict::Ok)
}

/// They were started in the order of their numbers, and woken in others.
fn arrival() -> Result<Verdict> {
    for (decide, wakes) in [
        ("key", &[[5, 4, 3, 2, 1, 0], [2, 5, 0, 4, 1, 3]][..]),
        ("staged", &[[2, 5, 0, 4, 1, 3]]),
    ] {
        let args = ["--policy", "arrival", "--decide", decide, LONG[0], LONG[1]];
        let sched = Sched::start(&args)?;
        for wake in wakes {
            let order = race::run(&racers(&[0; 6]), wake)?;
            // See chosen(); by keys the kernel's choice is the policy's.
            let fits = match decide {
                "key" => order == [0, 1, 2, 3, 4, 5],
                _ => chosen(&order).is_sorted(),
            };
            ensure!(
                fits,
                "{decide}: woke in the order {wake:?}, ran in {order:?}"
            );
        }
        sched.stop()?;
    }
    Ok(Verdict::Ok)
}

fn strict() -> Result<Verdict> {
    let nice = [4, -3, 10, 0, -8, 1];
    let order = race("priority:aging_ms=60000", &nice, &[0, 1, 2, 3, 4, 5])?;
    let got: Vec<i32> = chosen(&order).iter().map(|&at| nice[at]).collect();
    ensure!(
        got.is_sorted(),
        "ran in the order of nice {got:?}, {order:?}"
    );
    Ok(Verdict::Ok)
}

/// Five levels of 40 ms behind a hog: a turn each 200 ms, and a slice or two.
fn ages() -> Result<Verdict> {
    let sched = Sched::start(&["--policy", "priority:aging_ms=40"])?;
    let hog = Hog {
        cpu: Some(0),
        ..Hog::default()
    }
    .start()?;
    let gaps = race::gaps(5, Duration::from_secs(4))?;
    metric(
        "aging",
        &[("gap_ms", gaps.longest_ms), ("turns", gaps.count as f64)],
    );
    ensure!(
        gaps.longest_ms <= 240.0 && gaps.count >= 12,
        "{} waits of up to {:.0} ms, with 200 ms to make up for five levels",
        gaps.count,
        gaps.longest_ms
    );
    let share = hog.cpu_seconds()?;
    ensure!(
        share > 3.0,
        "the hog of the better level had {share:.1} of 4 s"
    );
    drop(hog);
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn hogs(nice: &[i32]) -> Result<Vec<Spinner>> {
    let start = |&nice| {
        Hog {
            cpu: Some(0),
            nice,
            ..Hog::default()
        }
        .start()
    };
    nice.iter().map(start).collect()
}

/// Of what all of them had.
fn parts(seconds: &[f64]) -> Vec<f64> {
    let all: f64 = seconds.iter().sum();
    seconds.iter().map(|own| own / all).collect()
}

fn turns() -> Result<Verdict> {
    for decide in ["key", "staged"] {
        let sched = Sched::start(&["--policy", "rr:slice_us=8000", "--decide", decide])?;
        // The weights do not count.
        let hogs = hogs(&[0, 5, -5])?;
        std::thread::sleep(Duration::from_millis(300));
        let before = race::preemptions(&hogs)?;
        let got = parts(&shares(&hogs, Duration::from_secs(3))?);
        let after = race::preemptions(&hogs)?;
        let turns: Vec<f64> = after
            .iter()
            .zip(before)
            .map(|(a, b)| (a - b) as f64)
            .collect();
        metric(
            &format!("rr_{decide}"),
            &[
                ("turns0", turns[0]),
                ("turns1", turns[1]),
                ("turns2", turns[2]),
            ],
        );
        let all: f64 = turns.iter().sum();
        let even = |share: f64| (share - 1.0 / 3.0).abs() <= 0.03;
        ensure!(
            turns.iter().all(|turns| even(turns / all)) && got.iter().all(|got| even(*got)),
            "{decide}: turns {turns:?}, shares {got:.3?}"
        );
        // Slices of 8 ms that end at ticks of 4 ms, in 3 s.
        ensure!(
            (180.0..=420.0).contains(&all),
            "{decide}: {all} turns of 8 ms in 3 s"
        );
        drop(hogs);
        sched.stop()?;
    }
    Ok(Verdict::Ok)
}

/// CPU time of hogs of these nice values, and so tiers, by the time that passed.
fn tiers(name: &str, policy: &str, nice: &[i32]) -> Result<Vec<f64>> {
    let sched = Sched::start(&["--policy", policy])?;
    let hogs = hogs(nice)?;
    // Longer than any period here: the one in which they start has less of them, so that a part
    // of it beside whole ones would be no share of a period. From then on 3 s are whole ones.
    std::thread::sleep(Duration::from_millis(1200));
    let began = Instant::now();
    let got = shares(&hogs, Duration::from_secs(3))?;
    let passed = began.elapsed().as_secs_f64();
    let got: Vec<f64> = got.iter().map(|seconds| seconds / passed).collect();
    let names = ["first", "second", "third"];
    let values: Vec<_> = names.into_iter().zip(got.iter().copied()).collect();
    metric(name, &values);
    drop(hogs);
    sched.stop()?;
    Ok(got)
}

/// Within two points.
fn are_near(what: &str, got: &[f64], want: &[f64]) -> Result<()> {
    let off = |(got, want): (&f64, &f64)| (got - want).abs();
    let worst = got.iter().zip(want).map(off).fold(0.0, f64::max);
    ensure!(worst <= 0.02, "{what}: shares {got:.3?}, want {want:.3?}");
    Ok(())
}

fn quota() -> Result<Verdict> {
    let got = tiers("quota", "quota:tiers=60/30/10", &[-5, 0, 5])?;
    are_near("60/30/10", &parts(&got), &[0.6, 0.3, 0.1])?;
    Ok(Verdict::Ok)
}

/// A maximum below what the tier would get is one of the period, of which others may use a part as
/// well, and is passed by a slice: a point of a period of 1 s at most. What a tier without a
/// candidate leaves over is shared in proportion.
fn quota_bounds() -> Result<Verdict> {
    let bounded = "quota:tiers=20-20/20/20,period_ms=1000";
    let got = tiers("quota_maximum", bounded, &[-5, 0, 5])?;
    are_near("a maximum of 20 %", &got[..1], &[0.2])?;
    are_near("beside it", &parts(&got[1..]), &[0.5, 0.5])?;
    let got = tiers("quota_absent", "quota:tiers=60/30/10", &[-5, 5])?;
    are_near("60/10", &parts(&got), &[6.0 / 7.0, 1.0 / 7.0])?;
    Ok(Verdict::Ok)
}

/// U = 0.9: periods of 21 to 477 ms, which the policy knows by the nice values.
const JOBS: [Job; 6] = [
    Job::of(-7, 40),
    Job::of(-4, 10),
    Job::of(-1, 10),
    Job::of(2, 10),
    Job::of(5, 10),
    Job::of(7, 10),
];

fn periodic(args: &[&str], jobs: &[Job], name: &str, seconds: u64) -> Result<race::Tally> {
    let sched = Sched::start(args)?;
    let tally = race::periodic(jobs, Duration::from_secs(seconds))?;
    metric(
        name,
        &[
            ("jobs", tally.jobs as f64),
            ("missed", tally.missed as f64),
            ("late_ms", tally.latest_ms),
        ],
    );
    sched.stop()?;
    Ok(tally)
}

const EDF: [&str; 4] = ["--policy", "deadline:budget_pct=50", "--quantum-us", "1000"];

fn deadlines<const SECONDS: u64>() -> Result<Verdict> {
    let tally = periodic(&EDF, &JOBS, "deadlines", SECONDS)?;
    ensure!(
        tally.missed == 0 && tally.jobs >= 91 * SECONDS,
        "{} of {} jobs missed, by {:.1} ms at most",
        tally.missed,
        tally.jobs,
        tally.latest_ms
    );
    Ok(Verdict::Ok)
}

fn deadlines_beside_fair() -> Result<Verdict> {
    deadlines::<110>()?;
    // Who knows of no deadlines gets no nice values for them either.
    let fair = periodic(&[], &JOBS.map(Job::plain), "deadlines_fair", 20)?;
    let share = fair.missed as f64 / fair.jobs.max(1) as f64;
    ensure!(share > 0.05, "fair missed only {:.1} %", share * 100.0);
    Ok(Verdict::Ok)
}
