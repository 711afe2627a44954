//! How long a thread that sleeps for 1 ms at a time stands still, without what the machine
//! itself is late by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::{self, clock_ns};

const NAP: Duration = Duration::from_millis(1);
/// CPU time from nap to nap that is not its own: an interrupt's, or the emulator's.
const CHARGED: Duration = Duration::from_micros(500);
/// With a tenth of a share it pays ten times that, in turns with nine others.
const OWES_TIMES: u64 = 100;
/// What a witness notes.
const LATE: Duration = Duration::from_millis(1);

/// From when on somebody should have run, and when they did, by CLOCK_MONOTONIC.
type Late = (u64, u64);

/// What the thread met.
#[derive(Clone, Copy, Debug)]
pub struct Stalls {
    /// The longest one.
    pub longest: Duration,
    /// The longest one without the time in which a SCHED_FIFO thread was late as well.
    pub own: Duration,
}

fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// When it was late, but for what is `forgiven`, which is asked after each nap.
fn naps(nap: Duration, over: &AtomicBool, mut forgiven: impl FnMut(Late) -> bool) -> Vec<Late> {
    let mut list = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let due = now_ns() + nap.as_nanos() as u64;
        std::thread::sleep(nap);
        let now = now_ns();
        if !forgiven((due, now)) && now > due + LATE.as_nanos() as u64 {
            list.push((due, now));
        }
    }
    list
}

/// Forgives what follows CPU time that the machine used in this thread's name: of a small share it
/// waits for many times that, as is fair.
fn while_in_debt() -> impl FnMut(Late) -> bool {
    let cpu_ns = || clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    let (mut used, mut owes_until) = (cpu_ns(), 0);
    move |(due, now)| {
        let in_debt = due <= owes_until;
        let all = cpu_ns();
        let charged = Duration::from_nanos(all - used);
        used = all;
        if charged > CHARGED {
            owes_until = now + charged.as_nanos() as u64 * OWES_TIMES;
        }
        in_debt
    }
}

/// Threads of a real-time class, one on each of the first CPUs: when they are late the machine
/// is, and nobody else could run.
pub struct Witnesses {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Late>>>>,
}

impl Witnesses {
    /// Who look at the clock each `nap`.
    pub fn start(cpus: usize, nap: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..cpus).map(|cpu| {
            let over = over.clone();
            std::thread::spawn(move || {
                load::pin(0, cpu);
                load::fifo(0)?;
                Ok(naps(nap, &over, |_| false))
            })
        });
        let threads = threads.collect();
        Self { over, threads }
    }

    /// What they saw.
    pub fn end(self) -> Result<Seen> {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().ok().context("a witness panicked")??);
        }
        all.sort_unstable();
        Ok(Seen(all))
    }
}

/// When witnesses were late, by the start.
pub struct Seen(Vec<Late>);

impl Seen {
    /// With the `nap` before each: a machine that is slow for a while was so between two late looks,
    /// too, where nobody looked.
    fn with_naps(self, nap: Duration) -> Self {
        let nap = nap.as_nanos() as u64;
        let begun = |&(late, there): &Late| (late.saturating_sub(nap), there);
        Self(self.0.iter().map(begun).collect())
    }

    /// For how much of the time from `start` to `end` one of them was.
    pub fn within(&self, start: u64, end: u64) -> Duration {
        let (mut sum, mut from) = (0, start);
        for &(late, there) in &self.0 {
            sum += there.min(end).saturating_sub(late.max(from));
            from = from.max(there);
        }
        Duration::from_nanos(sum)
    }
}

/// The stalls while `work` runs, on the first `cpus` CPUs.
pub fn during(cpus: usize, work: impl FnOnce() -> Result<()>) -> Result<Stalls> {
    let witnesses = Witnesses::start(cpus, NAP);
    let over = witnesses.over.clone();
    let probe = std::thread::spawn(move || naps(NAP, &over, while_in_debt()));
    let done = work();
    let seen = witnesses.end();
    let met = probe.join().ok().context("the probe panicked")?;
    let seen = seen?.with_naps(NAP);
    done?;
    let whole = |stall: &Late| Duration::from_nanos(stall.1 - stall.0);
    let own = |stall: &Late| whole(stall).saturating_sub(seen.within(stall.0, stall.1));
    Ok(Stalls {
        longest: met.iter().map(whole).max().unwrap_or_default(),
        own: met.iter().map(own).max().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_counts_what_overlaps_once_and_within_the_bounds() {
        let seen = Seen(vec![(0, 10), (5, 8), (9, 20), (40, 50)]);
        let ns = |start, end| seen.within(start, end).as_nanos();
        assert_eq!((ns(0, 100), ns(5, 15), ns(20, 40)), (30, 10, 0));
        assert_eq!((ns(45, 46), ns(60, 70)), (1, 0));
    }

    #[test]
    fn seen_with_naps_leaves_no_gap_between_late_looks() {
        let seen = Seen(vec![(2, 5), (12, 14), (24, 26), (50, 51)]);
        let seen = seen.with_naps(Duration::from_nanos(10));
        assert_eq!(seen.within(0, 60), Duration::from_nanos(26 + 11));
    }
}
