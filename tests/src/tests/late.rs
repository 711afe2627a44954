//! The bars of a release: how late threads wake up beside hogs, beside EEVDF.

use std::time::Instant;

use anyhow::Result;

use super::{Test, full};
use crate::beside::{Bars, Figure, Rounds};
use crate::cyclic::{Cyclic, Late};
use crate::harness::{Verdict, median, metric};
use crate::load::{self, Hog};
use crate::relay;

pub const TESTS: &[Test] = &[
    full(
        "vm_full_probe_by_instructions",
        "late-count,icount,cpus=1",
        300,
        by_instructions::<false>,
    ),
    full(
        "vm_full_staged_probe_by_instructions",
        "late-count-staged,icount,cpus=1",
        300,
        by_instructions::<true>,
    ),
    full("vm_full_probe_beside_hogs", "late", 240, beside_hogs),
    full("vm_full_mixed_load_beside_eevdf", "mixed", 240, || {
        mixed("mixed", 9, false)
    }),
    full(
        "vm_full_mixed_load_by_instructions",
        "mixed-count,icount,cpus=1",
        300,
        || mixed("mixed_count", 3, true),
    ),
    full("vm_full_loopback_tcp_beside_eevdf", "tcp", 200, tcp),
];

fn figures(late: Late) -> Vec<Figure> {
    vec![
        ("mean_us", late.mean),
        ("p99_us", late.p99),
        ("max_us", late.max),
        ("worst_mean_us", late.worst_mean),
    ]
}

fn discard() -> Result<()> {
    load::messaging().map(|_| ())
}

/// Two hogs and a probe without timer slack on one CPU.
fn by_instructions<const STAGED: bool>() -> Result<Verdict> {
    let (name, args): (_, &[&str]) = match STAGED {
        true => ("count_staged_probe", &["--decide", "staged"]),
        false => ("count_probe", &[]),
    };
    // Three rounds, not nine: a guest second costs six, and nine would be a quarter of an hour. By
    // instructions they repeat within 2 %.
    let probe = Cyclic {
        seconds: 2,
        fifo: None,
        exact: true,
    };
    let rounds = Rounds::take(3, args, &[], discard, || {
        let _hogs = Hog::default().start_many(2)?;
        probe.run().map(figures)
    })?;
    let mut bars = Bars::default();
    if STAGED {
        bars.ratio(&rounds, name, "p99_us", 0.5)?;
        for other in ["mean_us", "max_us"] {
            rounds.pair(name, other)?;
        }
    } else {
        bars.ratio(&rounds, name, "p99_us", 0.15)?;
        bars.ratio(&rounds, name, "mean_us", 0.5)?;
        bars.ratio(&rounds, name, "max_us", 1.0)?;
    }
    bars.kept()?;
    Ok(Verdict::Ok)
}

/// Four hogs on two CPUs. Timers of a VM are late by themselves: what a SCHED_FIFO probe meets,
/// before whom nobody runs, is the floor.
fn beside_hogs() -> Result<Verdict> {
    let probe = Cyclic {
        seconds: 3,
        fifo: None,
        exact: false,
    };
    let floor_probe = Cyclic {
        fifo: Some(90),
        ..probe
    };
    let mut floors = Vec::new();
    let rounds = Rounds::take(9, &[], &[], discard, || {
        let _hogs = Hog::default().start_many(4)?;
        if !crate::harness::attached() {
            floors.push(floor_probe.run()?);
        }
        probe.run().map(figures)
    })?;
    let mut bars = Bars::default();
    for (name, of) in [
        ("mean_us", (|l| l.mean) as fn(&Late) -> f64),
        ("p99_us", |l| l.p99),
    ] {
        let floor = median(&mut floors.iter().map(of).collect::<Vec<_>>());
        metric(&format!("hogs_fifo_probe_{name}"), &[("eevdf", floor)]);
        let pair = rounds.pair("hogs_probe", name)?;
        let most = (0.5 * pair.eevdf).max(1.15 * floor);
        bars.at_most(&format!("probe {name}"), pair.ours, most);
    }
    bars.ratio(&rounds, "hogs_probe", "worst_mean_us", 1.0)?;
    rounds.pair("hogs_probe", "max_us")?;
    bars.kept()?;
    Ok(Verdict::Ok)
}

/// Messaging again and again beside two hogs, beside the probe. What the hogs get counts as the
/// time that they take for the same work.
fn mixed(what: &str, rounds: usize, exact: bool) -> Result<Verdict> {
    let probe = Cyclic {
        seconds: 4,
        fifo: None,
        exact,
    };
    let counters = ["preempt_wake", "preempt_tick"];
    let rounds = Rounds::take(rounds, &[], &counters, discard, || {
        let hogs = Hog::default().start_many(2)?;
        let used = || {
            hogs.iter()
                .map(load::Spinner::cpu_seconds)
                .sum::<Result<f64>>()
        };
        let (began, before) = (Instant::now(), used()?);
        let mut times = Vec::new();
        let late = probe.beside(|| {
            times.push(load::messaging()?);
            Ok(())
        })?;
        let slow = began.elapsed().as_secs_f64() / (used()? - before);
        // The last one went on alone after the probe had ended.
        if times.len() > 1 {
            times.pop();
        }
        let load = vec![("messaging", median(&mut times)), ("hogs_inverse", slow)];
        Ok([load, figures(late)].concat())
    })?;
    let counted = counters.iter().zip(&rounds.counted);
    let counted: Vec<_> = counted.map(|(name, n)| (*name, *n as f64)).collect();
    metric(&format!("{what}_counted"), &counted);
    let mut bars = Bars::default();
    for name in [
        "messaging",
        "hogs_inverse",
        "mean_us",
        "p99_us",
        "max_us",
        "worst_mean_us",
    ] {
        bars.ratio(&rounds, what, name, 1.05)?;
    }
    bars.kept()?;
    Ok(Verdict::Ok)
}

/// One thread that serves eight over loopback TCP, whose wake-ups come from softirqs; alone, and
/// beside two hogs. The latter is short and noisy (0.8 to 5 in a round), and no bar of a release: it
/// fails where something has gone wrong.
fn tcp() -> Result<Verdict> {
    let rounds = Rounds::take(9, &[], &["preempt_wake"], discard, || {
        let alone = relay::tcp(8, 250)?;
        let _hogs = Hog::default().start_many(2)?;
        Ok(vec![("alone", alone), ("beside_hogs", relay::tcp(8, 50)?)])
    })?;
    metric(
        "tcp_preempted",
        &[("per_round", rounds.counted[0] as f64 / 9.0)],
    );
    let mut bars = Bars::default();
    bars.ratio(&rounds, "tcp", "alone", 1.05)?;
    bars.ratio(&rounds, "tcp", "beside_hogs", 2.0)?;
    bars.kept()?;
    Ok(Verdict::Ok)
}
