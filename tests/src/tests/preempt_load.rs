//! What a quantum is for: short requests beside a few long ones, which arrive as they please.

use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::GroupConfig;
use umcg::runtime::{Builder, Receiver, channel};

use super::app::{Board, no_slack};
use super::app_share::{compute, steps_in};
use super::{Test, full};
use crate::client::{self, is_sound};
use crate::harness::{self, Verdict, median, metric};
use crate::load::{self, clock_ns};
use crate::noise::Noise;

pub const TESTS: &[Test] = &[
    Test {
        tries: 3,
        ..full(
            "vm_full_group_quantum_serves_short_ones",
            "app-quantum",
            150,
            || bimodal("quantum_bimodal"),
        )
    },
    // The servers take turns on one CPU; no host is late, and no timer interrupt dearer than it is.
    full(
        "vm_full_group_quantum_by_instructions",
        "app-quantum-count,icount,cpus=1",
        600,
        || bimodal("quantum_bimodal_count"),
    ),
];

const LIMIT: Duration = Duration::from_secs(300);
const QUANTUM: Duration = Duration::from_micros(500);
const SERVERS: usize = 2;
/// More than there are requests under way at 80 % of what two servers can do, but when luck is bad.
const WORKERS: usize = 128;
const SHORT_NS: u64 = 200_000;
const LONG_NS: u64 = 100_000_000;
/// One of so many is long.
const LONG_EVERY: u64 = 200;
const LOAD: f64 = 0.8;
/// To find out how many a second can be served, without arrivals.
const SATURATED: u64 = 4000;
const ARRIVALS: u64 = 16_000;
const ROUNDS: u64 = 5;

/// Above 0, at most 1.
fn unit(noise: &mut Noise) -> f64 {
    ((noise.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

#[derive(Clone, Copy)]
struct Request {
    due_ns: u64,
    long: bool,
}

/// What a piece of each kind is in steps.
#[derive(Clone, Copy)]
struct Steps {
    short: u64,
    long: u64,
}

/// Serves until no request is left; the latencies of the short ones, from when they were due.
fn serve(requests: &Receiver<Request>, steps: Steps) -> Vec<u64> {
    no_slack();
    let mut short_ns = Vec::with_capacity(ARRIVALS as usize);
    while let Some(request) = requests.recv() {
        compute(if request.long {
            steps.long
        } else {
            steps.short
        });
        if !request.long {
            short_ns.push(clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(request.due_ns));
        }
    }
    short_ns
}

/// What came of one load.
struct Served {
    seconds: f64,
    cpu_ns: u64,
    short_ns: Vec<u64>,
}

/// Lets `feed` send requests to a runtime with this quantum, from a thread of a real-time class: it
/// runs for moments, and what it sends late was due all the same.
fn run(
    quantum: Duration,
    steps: Steps,
    feed: impl FnOnce(&dyn Fn(Request)) + Send,
) -> Result<Served> {
    let group = GroupConfig {
        quantum,
        ..GroupConfig::default()
    };
    let runtime = Builder::new()
        .servers(SERVERS)
        .max_workers(WORKERS)
        .group(group)
        .build()?;
    let (sender, receiver) = channel((SATURATED + ARRIVALS) as usize);
    let tasks: Vec<_> = (0..WORKERS)
        .map(|_| {
            let requests = receiver.clone();
            runtime.spawn(move || serve(&requests, steps))
        })
        .collect();
    drop(receiver);
    // They start, and wait for the first.
    std::thread::sleep(Duration::from_millis(300));
    let (began, cpu) = (
        clock_ns(libc::CLOCK_MONOTONIC),
        clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID),
    );
    let feeder = std::thread::scope(|scope| {
        let feed = || {
            load::fifo(0)?;
            no_slack();
            feed(&|request| {
                let _ = sender.send(request);
            });
            Ok(clock_ns(libc::CLOCK_THREAD_CPUTIME_ID))
        };
        let panicked = |_| Err(anyhow::anyhow!("the feeder panicked"));
        scope.spawn(feed).join().unwrap_or_else(panicked)
    });
    let fed_ns = feeder?;
    drop(sender);
    let mut short_ns = Vec::new();
    for task in tasks {
        let served = task
            .join()
            .map_err(|_| anyhow::anyhow!("a task panicked"))?;
        short_ns.extend(served);
    }
    Ok(Served {
        seconds: (clock_ns(libc::CLOCK_MONOTONIC) - began) as f64 / 1e9,
        cpu_ns: clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu - fed_ns,
        short_ns,
    })
}

/// All at once: requests per second.
fn saturated(quantum: Duration, steps: Steps) -> Result<Served> {
    run(quantum, steps, |send| {
        for nth in 1..=SATURATED {
            send(Request {
                due_ns: 0,
                long: nth % LONG_EVERY == 0,
            });
        }
    })
}

/// As they come: a Poisson process of `rate` per second.
fn open(quantum: Duration, steps: Steps, rate: f64, seed: u64) -> Result<Served> {
    // Both kinds of a round get the same arrivals.
    let mut noise = Noise(seed);
    let (mut at_s, mut arrivals) = (0.0, Vec::with_capacity(ARRIVALS as usize));
    for _ in 0..ARRIVALS {
        at_s -= unit(&mut noise).ln() / rate;
        arrivals.push((at_s, noise.below(LONG_EVERY) == 0));
    }
    run(quantum, steps, |send| {
        let began = clock_ns(libc::CLOCK_MONOTONIC);
        for (at_s, long) in arrivals {
            let due_ns = began + (at_s * 1e9) as u64;
            let left = due_ns.saturating_sub(clock_ns(libc::CLOCK_MONOTONIC));
            if left > 0 {
                std::thread::sleep(Duration::from_nanos(left));
            }
            send(Request { due_ns, long });
        }
    })
}

fn p99(short_ns: &mut [u64]) -> u64 {
    short_ns.sort_unstable();
    short_ns[short_ns.len() * 99 / 100]
}

/// Per kind, without a quantum and with it: p99 of the short ones, CPU time per request, saturation.
const KINDS: [Duration; 2] = [Duration::ZERO, QUANTUM];
const FIELDS: usize = 3;

fn round(board: Board, seed: u64) -> Result<()> {
    let steps = Steps {
        short: steps_in(SHORT_NS),
        long: steps_in(LONG_NS),
    };
    let full: Vec<_> = KINDS
        .iter()
        .map(|&quantum| saturated(quantum, steps))
        .collect::<Result<_>>()?;
    let per_s = |served: &Served| SATURATED as f64 / served.seconds;
    let rate = LOAD * per_s(&full[0]);
    for (kind, (&quantum, full)) in KINDS.iter().zip(&full).enumerate() {
        let mut served = open(quantum, steps, rate, seed)?;
        let p99_ns = p99(&mut served.short_ns);
        let at = kind * FIELDS;
        board.set(at, p99_ns);
        board.set(at + 1, served.cpu_ns / ARRIVALS);
        board.set(at + 2, per_s(full) as u64);
    }
    Ok(())
}

fn bimodal(name: &str) -> Result<Verdict> {
    let sched = harness::shared()?;
    let board = Board::new()?;
    let mut ratios: [Vec<f64>; FIELDS] = Default::default();
    for seed in 1..=ROUNDS {
        client::spawn_as(0, move || round(board, seed))?.result(LIMIT)?;
        let value = |kind: usize, field: usize| board.get(kind * FIELDS + field) as f64;
        metric(
            &format!("{name}_round"),
            &[
                ("p99_ms", value(0, 0) / 1e6),
                ("p99_ms_quantum", value(1, 0) / 1e6),
                ("cpu_us", value(0, 1) / 1e3),
                ("cpu_us_quantum", value(1, 1) / 1e3),
                ("per_s", value(0, 2)),
                ("per_s_quantum", value(1, 2)),
            ],
        );
        for (field, ratios) in ratios.iter_mut().enumerate() {
            ratios.push(value(1, field) / value(0, field));
        }
    }
    let [p99, cpu, saturation] = ratios.each_mut().map(|ratios| median(ratios));
    metric(
        name,
        &[("p99", p99), ("cpu", cpu), ("saturation", saturation)],
    );
    ensure!(p99 <= 0.1, "p99 of the short ones: {p99:.3}x, at most 0.1");
    ensure!(cpu <= 1.05, "CPU time per request: {cpu:.3}x, at most 1.05");
    ensure!(
        saturation >= 0.95,
        "saturation: {saturation:.3}x, at least 0.95"
    );
    is_sound(&sched)?;
    Ok(Verdict::Ok)
}
