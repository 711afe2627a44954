//! Work of a known length, and threads that count it while a window of time is open.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use crate::pace::Budget;

/// Computes for `ns` of CPU time, which the time off the CPU does not count to.
pub fn compute(ns: u64) {
    steps((ns as f64 * steps_per_ns()) as u64);
}

fn steps(count: u64) {
    // Not spin_loop(): its pause leaves an emulated CPU.
    (0..count).for_each(|step| {
        std::hint::black_box(step);
    });
}

/// Measured once; the best of some tries, which nobody interrupted.
fn steps_per_ns() -> f64 {
    static SPEED: OnceLock<f64> = OnceLock::new();
    const STEPS: u64 = 300_000;
    *SPEED.get_or_init(|| {
        let one = || {
            let began = umcg::now();
            steps(STEPS);
            STEPS as f64 / (umcg::now() - began).max(1) as f64
        };
        (0..9).map(|_| one()).fold(0.0, f64::max)
    })
}

/// Counters of threads that do the same over and over.
#[derive(Debug)]
pub struct Counted {
    counts: Vec<Count>,
    stop: AtomicBool,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU64);

impl Counted {
    /// For `threads` of them.
    pub fn new(threads: usize) -> Self {
        steps_per_ns();
        Self {
            counts: (0..threads).map(|_| Count::default()).collect(),
            stop: AtomicBool::new(false),
        }
    }

    /// What thread `number` does until the window is closed.
    pub fn repeat(&self, number: usize, mut work: impl FnMut()) {
        while !self.stop.load(Relaxed) {
            work();
            self.counts[number].0.fetch_add(1, Relaxed);
        }
    }

    /// Waits for the warm-up, then for the window, and ends the threads: the window's length
    /// and what each thread did in it.
    pub fn window(&self, budget: Budget) -> (u64, Vec<u64>) {
        let read = || -> Vec<u64> { self.counts.iter().map(|it| it.0.load(Relaxed)).collect() };
        thread::sleep(Duration::from_nanos(budget.warm_ns));
        let (began, before) = (umcg::now(), read());
        thread::sleep(Duration::from_nanos(budget.ns));
        let (ended, after) = (umcg::now(), read());
        self.stop.store(true, Relaxed);
        let counts = after.iter().zip(before).map(|(a, b)| a - b).collect();
        (ended - began, counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::thread_cpu_ns;

    #[test]
    fn compute_takes_the_cpu_time_that_it_says() {
        steps_per_ns();
        // The best of some, and wide bounds: a neighbour on the core makes it longer, or made
        // the measured speed less.
        let took = (0..10).map(|_| {
            let before = thread_cpu_ns();
            compute(2_000_000);
            thread_cpu_ns() - before
        });
        let best = took.min().unwrap();
        assert!((500_000..8_000_000).contains(&best), "{best} ns");
    }

    #[test]
    fn window_counts_what_is_done_while_it_is_open() {
        let counted = Counted::new(2);
        let (ns, counts) = thread::scope(|scope| {
            scope.spawn(|| counted.repeat(0, || thread::sleep(Duration::from_millis(1))));
            scope.spawn(|| counted.repeat(1, || thread::sleep(Duration::from_millis(4))));
            counted.window(Budget::of(60_000_000))
        });
        assert!(ns >= 60_000_000);
        assert!(counts[0] > counts[1] && counts[1] > 1, "{counts:?} in {ns}");
        assert!(counts[0] <= ns / 1_000_000 + 1, "{counts:?} in {ns}");
    }
}
