//! The structures of idle servers: raced, and what a wake costs with each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::Idle;

use super::{Test, full, short};
use crate::harness::{Verdict, median, metric};
use crate::made_up::{Call, MadeUp};
use crate::noise::Noise;

pub const TESTS: &[Test] = &[
    short("vm_hammer_idle_stack", "hammer,newest", 5, race::<0, FEWER>),
    short("vm_hammer_idle_ring", "hammer,newest", 5, race::<1, FEWER>),
    short("vm_hammer_idle_mask", "hammer,newest", 5, race::<2, FEWER>),
    full("vm_full_hammer_idle_stack", "hammer", 15, race::<0, RACES>),
    full("vm_full_hammer_idle_ring", "hammer", 15, race::<1, RACES>),
    full("vm_full_hammer_idle_mask", "hammer", 15, race::<2, RACES>),
    short("vm_idle_wake_cost", "cost,newest,icount,cpus=1", 20, cost),
];

pub const KINDS: [Idle; 3] = [Idle::Stack, Idle::Ring, Idle::Mask];

/// Of each: puts, takes that found somebody, drops.
const RACES: u64 = 100_000;
const FEWER: u64 = 20_000;
/// Steps of one call: who waits gives its CPU up then.
const STEPS: u32 = 200;
/// Nothing goes on for so long: a wake was lost.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Sums {
    puts: AtomicU64,
    takes: AtomicU64,
    drops: AtomicU64,
    none: AtomicU64,
    twice: AtomicU64,
    stop: AtomicBool,
}

impl Sums {
    fn add(&self, call: &Call) {
        self.puts.fetch_add(call.puts, Relaxed);
        self.takes.fetch_add(call.takes, Relaxed);
        self.drops.fetch_add(call.drops, Relaxed);
        self.none.fetch_add(call.none, Relaxed);
        self.twice.fetch_add(call.twice, Relaxed);
    }

    /// The least of what has to be enough.
    fn races(&self) -> u64 {
        let sums = [&self.puts, &self.takes, &self.drops];
        sums.into_iter()
            .map(|it| it.load(Relaxed))
            .min()
            .unwrap_or(0)
    }

    fn play(
        &self,
        mut step: impl FnMut(&mut Call) -> Result<()>,
        first: u32,
        span: u32,
    ) -> Result<()> {
        while !self.stop.load(Relaxed) {
            let mut call = Call {
                loops: STEPS,
                first,
                span,
                ..Call::default()
            };
            step(&mut call)?;
            self.add(&call);
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Until there are enough; a wake that was lost stops its waker for ever.
    fn watch(&self, races: u64) -> Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        while self.races() < races {
            let wakes = self.takes.load(Relaxed) + self.none.load(Relaxed);
            if wakes != last {
                (last, since) = (wakes, Instant::now());
            }
            ensure!(since.elapsed() < PATIENCE, "a wake was lost after {wakes}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// Threads that play `players` times two servers, and `wakers` of them, until there were
/// so many races.
fn race_of(kind: Idle, players: u32, wakers: u32, races: u64) -> Result<Sums> {
    let made = MadeUp::new(2 * players)?;
    made.arrange(kind, &[])?;
    let sums = Sums::default();
    let watched = std::thread::scope(|scope| -> Result<()> {
        let (made, sums) = (&made, &sums);
        let mut threads: Vec<_> = (0..players)
            .map(|i| scope.spawn(move || sums.play(|call| made.serve(call), 1 + 2 * i, 2)))
            .collect();
        threads.extend(
            (0..wakers).map(|i| scope.spawn(move || sums.play(|call| made.wake(call), i, 1))),
        );
        let watched = sums.watch(races);
        sums.stop.store(true, Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        }
        watched
    })
    .with_context(|| format!("{kind:?}: {players} players, {wakers} wakers"));
    watched?;
    let twice = sums.twice.load(Relaxed);
    ensure!(twice == 0, "{kind:?}: {twice} servers were woken twice");
    Ok(sums)
}

/// One waker, whom a lost wake stops; then two, who race for servers.
fn race<const KIND: usize, const EACH: u64>() -> Result<Verdict> {
    let kind = KINDS[KIND];
    for (players, wakers) in [(1, 1), (2, 2)] {
        let sums = race_of(kind, players, wakers, EACH / 2)?;
        let value = |it: &AtomicU64| it.load(Relaxed) as f64;
        metric(
            "hammer_idle",
            &[
                ("kind", KIND as f64),
                ("wakers", wakers.into()),
                ("puts", value(&sums.puts)),
                ("takes", value(&sums.takes)),
                ("drops", value(&sums.drops)),
                ("none", value(&sums.none)),
            ],
        );
    }
    Ok(Verdict::Ok)
}

/// `count` of `servers`, in no order.
fn choose(noise: &mut Noise, servers: u32, count: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (1..=servers).collect();
    for at in 0..count {
        let other = at + noise.below((servers - at).into()) as u32;
        all.swap(at as usize, other as usize);
    }
    all.truncate(count as usize);
    all
}

const SERVERS: [u32; 10] = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
const SHARES: [u32; 5] = [0, 1, 10, 50, 100];
const ROUNDS: u32 = 15;
const LOOPS: u32 = 32;

/// Instructions of a wake, by structure, number of servers and share of idle ones, rounded
/// up to whole servers; the worker's home is any of them. Median of rounds, as a tick may
/// fall into one.
fn cost() -> Result<Verdict> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for servers in SERVERS {
        let made = MadeUp::new(servers)?;
        for kind in KINDS {
            for share in SHARES {
                let mut costs = Vec::new();
                for _ in 0..ROUNDS {
                    let waiting = choose(&mut noise, servers, (servers * share).div_ceil(100));
                    made.arrange(kind, &waiting)?;
                    made.cost(1)?;
                    costs.push(made.cost(LOOPS)?);
                }
                metric(
                    "idle_cost",
                    &[
                        ("kind", kind.number().into()),
                        ("servers", servers.into()),
                        ("share", share.into()),
                        ("insns", median(&mut costs)),
                    ],
                );
            }
        }
    }
    Ok(Verdict::Ok)
}
