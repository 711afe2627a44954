//! The bars of a release: throughput and shares beside EEVDF, attaching over and over.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::fair::{self, hogs_spread, short_sleeper};
use super::{Test, full, timed};
use crate::beside::{Bars, Figure, Rounds};
use crate::harness::{Sched, Verdict, metric};
use crate::load::{self, Hog, Spinner, clock_ns, shares};
use crate::stall::Witnesses;
use crate::unkind::Unkind;

pub const TESTS: &[Test] = &[
    timed("vm_free_hogs_share_evenly", "share,newest", 14, free_hogs),
    timed(
        "vm_short_sleeper_keeps_its_half",
        "share,newest",
        8,
        sleeper,
    ),
    full(
        "vm_full_throughput_beside_eevdf",
        "bars-default",
        240,
        throughput::<0>,
    ),
    full(
        "vm_full_staged_throughput_beside_eevdf",
        "bars-staged",
        240,
        throughput::<1>,
    ),
    full(
        "vm_full_throughput_by_instructions",
        "bars-count,icount,cpus=1",
        270,
        throughput::<2>,
    ),
    full("vm_full_attach_25_cycles_a", "cycles-a", 200, cycles),
    full("vm_full_attach_25_cycles_b", "cycles-b", 200, cycles),
    full("vm_full_attach_25_cycles_c", "cycles-c", 200, cycles),
    full("vm_full_attach_25_cycles_d", "cycles-d", 200, cycles),
];

fn three() -> Result<Vec<Figure>> {
    Ok(vec![
        ("messaging", load::messaging()?),
        ("pipe", load::perf_bench(&["sched", "pipe", "-l", "5000"])?),
        ("hackbench", load::hackbench()?),
    ])
}

/// A way to run it, and what it may take of EEVDF's time.
struct Way {
    name: &'static str,
    args: &'static [&'static str],
    rounds: usize,
    bars: [f64; 3],
}

/// Wall clock with the defaults, and staged; instructions, which repeat within 2 %.
const WAYS: [Way; 3] = [
    Way {
        name: "bar_default",
        args: &[],
        rounds: 9,
        bars: [0.85, 0.95, 0.9],
    },
    Way {
        name: "bar_staged",
        args: &["--decide", "staged"],
        rounds: 9,
        bars: [1.0, 1.05, 1.0],
    },
    Way {
        name: "bar_count",
        args: &[],
        rounds: 9,
        bars: [1.0, 1.05, 1.0],
    },
];

fn throughput<const WAY: usize>() -> Result<Verdict> {
    let way = &WAYS[WAY];
    three()?;
    let rounds = Rounds::take(
        way.rounds,
        way.args,
        &["contended", "staged", "activations"],
        || load::messaging().map(|_| ()),
        three,
    )?;
    let mut bars = Bars::default();
    for (name, most) in ["messaging", "pipe", "hackbench"].iter().zip(way.bars) {
        bars.ratio(&rounds, way.name, name, most)?;
    }
    let [contended, staged, activations] = rounds.counted[..] else {
        unreachable!("three counters were asked for");
    };
    metric(
        &format!("{}_decided", way.name),
        &[
            ("staged_share", staged as f64 / contended.max(1) as f64),
            ("contended", contended as f64),
            ("activations", activations as f64),
        ],
    );
    let wants = way.args.contains(&"staged");
    ensure!(
        contended > 1000 && (staged > 0) == wants,
        "{contended} contended switches, {staged} of them staged"
    );
    ensure!(
        activations > 50,
        "{activations} activations: the agent was not at work"
    );
    bars.kept()?;
    Ok(Verdict::Ok)
}

/// Four hogs that may run anywhere on two CPUs.
fn free_hogs() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    let spread = hogs_spread()?;
    metric("free_hogs", &[("spread", spread)]);
    ensure!(
        spread <= 1.05,
        "of four hogs on two CPUs one got {spread:.3} times another's time"
    );
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Beside a hog on its CPU: a sleep of 10 us costs nothing.
fn sleeper() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    let both = [short_sleeper(0)?, fair::pinned(0, 0)?];
    let [share] = fair::parts([[&both[0], &both[1]]], Duration::from_secs(5))?;
    metric("short_sleeper", &[("share", share)]);
    ensure!(
        (share - 0.5).abs() <= 0.05,
        "it got {:.1} % beside a hog",
        share * 100.0
    );
    // The kernel's own scheduler may run this pair so that no tick ever meets the hog in
    // user mode, and RCU tasks, which the end of a traced program waits for, need one.
    drop(both);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Attached and detached 25 times under load; four tests, each in a boot of its own, make 100.
/// The agents that come and go are of nice -20: else most of the time goes by while they wait for the
/// CPU, to load their program.
fn cycles() -> Result<Verdict> {
    const CYCLES: usize = 25;
    let load = Unkind::start("micro")?;
    let hogs = Hog::default().start_many(3)?;
    load::set_nice(-20)?;
    let began = std::time::Instant::now();
    for cycle in 0..CYCLES {
        let sched = Sched::start(&[])?;
        served(&hogs).with_context(|| format!("cycle {cycle}"))?;
        let illegal = sched.counter("edge_illegal")?;
        ensure!(illegal == 0, "cycle {cycle}: {illegal} illegal edges");
        sched.stop()?;
    }
    served(&hogs).context("after the last one")?;
    load::set_nice(0)?;
    let took = began.elapsed().as_secs_f64();
    metric("cycles", &[("n", CYCLES as f64), ("seconds", took)]);
    drop((load, hogs));
    Ok(Verdict::Ok)
}

/// None of `hogs` stands still for as long as a look takes. Not counted is one in which threads of a
/// real-time class were late on a CPU: there nobody ran.
fn served(hogs: &[Spinner]) -> Result<()> {
    const LATE: Duration = Duration::from_millis(100);
    let mut late = Duration::ZERO;
    for _ in 0..5 {
        let witnesses = Witnesses::start(2, Duration::from_millis(10));
        let began = clock_ns(libc::CLOCK_MONOTONIC);
        let got = shares(hogs, Duration::from_millis(700))?;
        let ended = clock_ns(libc::CLOCK_MONOTONIC);
        late = witnesses.end()?.within(began, ended);
        if got.iter().all(|&s| s > 0.02) {
            return Ok(());
        }
        ensure!(late > LATE, "a hog stands still: {got:.2?} of 0.7 s");
    }
    bail!("the machine was late for {late:.1?} of 0.7 s, and at four looks before");
}
