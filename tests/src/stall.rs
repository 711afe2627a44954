//! How long a thread that sleeps for 1 ms at a time stands still, without what the machine
//! itself is late by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load;

const NAP: Duration = Duration::from_millis(1);
/// What a witness notes.
const LATE: Duration = Duration::from_millis(1);

/// From when on somebody should have run, and when they did.
type Late = (Instant, Instant);

/// What the thread met.
#[derive(Clone, Copy, Debug)]
pub struct Stalls {
    /// The longest one.
    pub longest: Duration,
    /// The longest one without the time that a SCHED_FIFO thread was late by as well.
    pub own: Duration,
}

fn naps(over: &AtomicBool) -> Vec<Late> {
    let mut list = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let due = Instant::now() + NAP;
        std::thread::sleep(NAP);
        let now = Instant::now();
        if now > due + LATE {
            list.push((due, now));
        }
    }
    list
}

fn witness(cpu: usize, over: &AtomicBool) -> Result<Vec<Late>> {
    load::pin(0, cpu);
    load::fifo(0)?;
    Ok(naps(over))
}

/// How much of `stall` one of the witnesses was late, too; `seen`: sorted by the start.
fn shared(stall: Late, seen: &[Late]) -> Duration {
    let (mut sum, mut from) = (Duration::ZERO, stall.0);
    for &(start, end) in seen {
        let (start, end) = (start.max(from), end.min(stall.1));
        sum += end.saturating_duration_since(start);
        from = from.max(end);
    }
    sum
}

/// The stalls while `work` runs, on the first `cpus` CPUs.
pub fn during(cpus: usize, work: impl FnOnce() -> Result<()>) -> Result<Stalls> {
    let over = Arc::new(AtomicBool::new(false));
    let witnesses: Vec<_> = (0..cpus)
        .map(|cpu| {
            let over = over.clone();
            std::thread::spawn(move || witness(cpu, &over))
        })
        .collect();
    let flag = over.clone();
    let probe = std::thread::spawn(move || naps(&flag));
    let done = work();
    over.store(true, Ordering::Relaxed);
    let met = probe.join().ok().context("the probe panicked")?;
    let mut seen: Vec<Late> = Vec::new();
    for witness in witnesses {
        seen.extend(witness.join().ok().context("a witness panicked")??);
    }
    done?;
    seen.sort();
    let own = |stall: &Late| (stall.1 - stall.0).saturating_sub(shared(*stall, &seen));
    Ok(Stalls {
        longest: met.iter().map(|s| s.1 - s.0).max().unwrap_or_default(),
        own: met.iter().map(own).max().unwrap_or_default(),
    })
}
