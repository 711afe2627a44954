//! Servers that go idle, wake by themselves and are woken, under native threads. Roles
//! and checks are those of `tests/bpf/idle.bpf.c`, which drives the real functions.
//!
//! A waker publishes work, takes a server and waits until its work was seen: a wake that
//! is lost stays lost. A server that was taken is woken once.

use std::thread;
use std::time::{Duration, Instant};

use super::{IdleServers, Mask, Ring, Stack};
use crate::stress::{pause, random};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicU64, AtomicUsize};

/// Of each: puts, takes that found somebody, and drops.
const RACES: usize = 100_000;
const SERVERS: u32 = 3;
const WAKERS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);

struct Race<S> {
    idle: S,
    work: [AtomicU64; WAKERS],
    seen: [AtomicU64; WAKERS],
    /// Wakes sent to each server.
    wakes: Vec<AtomicU64>,
    puts: AtomicUsize,
    takes: AtomicUsize,
    drops: AtomicUsize,
    wakers_done: AtomicUsize,
}

impl<S: IdleServers> Race<S> {
    fn new() -> Self {
        Self {
            idle: S::with_servers(SERVERS),
            work: Default::default(),
            seen: Default::default(),
            wakes: (0..=SERVERS).map(|_| AtomicU64::new(0)).collect(),
            puts: AtomicUsize::new(0),
            takes: AtomicUsize::new(0),
            drops: AtomicUsize::new(0),
            wakers_done: AtomicUsize::new(0),
        }
    }

    fn enough(&self) -> bool {
        [&self.puts, &self.takes, &self.drops]
            .iter()
            .all(|it| it.load(Relaxed) >= RACES)
    }

    fn over(&self) -> bool {
        self.wakers_done.load(Acquire) == WAKERS
    }

    fn has_news(&self) -> bool {
        let pairs = self.work.iter().zip(&self.seen);
        pairs
            .into_iter()
            .any(|(work, seen)| work.load(Acquire) != seen.load(Acquire))
    }

    fn look(&self) {
        for (work, seen) in self.work.iter().zip(&self.seen) {
            seen.fetch_max(work.load(Acquire), AcqRel);
        }
    }

    fn wake(&self, me: usize) {
        let mut random = random(me as u32);
        while !self.enough() {
            let mine = self.work[me].fetch_add(1, AcqRel) + 1;
            let home = random.below(SERVERS + 1);
            if let Some(server) = self.idle.take(home).waits() {
                self.wakes[server as usize].fetch_add(1, Release);
                self.takes.fetch_add(1, Relaxed);
            }
            if random.below(64) == 0
                && let Some(server) = self.idle.collect()
            {
                self.wakes[server as usize].fetch_add(1, Release);
            }
            let end = Instant::now() + PATIENCE;
            for spins in 1u32.. {
                if self.seen[me].load(Acquire) >= mine {
                    break;
                }
                assert!(
                    !pause(spins) || Instant::now() < end,
                    "waker {me}: a wake was lost"
                );
            }
        }
        self.wakers_done.fetch_add(1, Release);
    }

    /// The wake of who has taken `server`, which comes once; false: it is over.
    fn receive(&self, server: u32, received: &mut u64) {
        let end = Instant::now() + PATIENCE;
        for spins in 1u32.. {
            if self.wakes[server as usize].load(Acquire) > *received {
                break;
            }
            assert!(
                !pause(spins) || Instant::now() < end,
                "server {server} was taken and not woken"
            );
        }
        *received += 1;
        let sent = self.wakes[server as usize].load(Acquire);
        assert_eq!(sent, *received, "server {server} was woken twice");
    }

    /// Sleeps until it is woken, or its time is over: a short one.
    fn sleep(&self, server: u32, spins: u32, received: &mut u64) {
        for spin in 1..=spins {
            if self.wakes[server as usize].load(Acquire) > *received || self.over() {
                break;
            }
            pause(spin);
        }
        if !self.idle.leave(server) {
            self.receive(server, received);
        } else {
            self.drops.fetch_add(1, Relaxed);
        }
    }

    fn serve(&self, server: u32) {
        let mut random = random(100 + server);
        let mut received = 0;
        while !self.over() {
            self.look();
            self.idle.set_running(server, false);
            assert!(self.idle.put(server), "64 tries are enough for this test");
            self.puts.fetch_add(1, Relaxed);
            let spins = match self.has_news() {
                true => 0,
                false => random.below(200),
            };
            self.sleep(server, spins, &mut received);
            self.idle.set_running(server, true);
        }
        assert_eq!(
            self.wakes[server as usize].load(Acquire),
            received,
            "sent and received differ"
        );
    }
}

fn stress<S: IdleServers>() {
    let race = Race::<S>::new();
    thread::scope(|scope| {
        for server in 1..=SERVERS {
            let race = &race;
            scope.spawn(move || race.serve(server));
        }
        for waker in 0..WAKERS {
            let race = &race;
            scope.spawn(move || race.wake(waker));
        }
    });
    assert!(!race.has_news(), "work was never seen");
    assert_eq!(race.idle.take(1).waits(), None, "one is left that waits");
    assert!(race.enough());
}

#[test]
fn idle_stress_stack_loses_no_wake() {
    stress::<Stack>();
}

#[test]
fn idle_stress_ring_loses_no_wake() {
    stress::<Ring>();
}

#[test]
fn idle_stress_mask_loses_no_wake() {
    stress::<Mask>();
}
