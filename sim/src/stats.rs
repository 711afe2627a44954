//! What a run counts, and its report.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that a histogram tells apart: an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Times of a kind, in ns, with three digits.
#[derive(Clone, Debug)]
pub struct Times {
    histogram: Histogram<u64>,
    sum_ns: f64,
}

impl Times {
    fn new() -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        Ok(Times {
            histogram: histogram.context("a histogram of times")?,
            sum_ns: 0.0,
        })
    }

    /// One more.
    pub fn record(&mut self, ns: u64) {
        self.sum_ns += ns as f64;
        self.histogram.saturating_record(ns);
    }

    /// What the report says of them.
    pub fn summary(&self) -> Summary {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile| us(self.histogram.value_at_quantile(quantile));
        let count = self.histogram.len();
        Summary {
            count,
            mean_us: self.sum_ns / 1e3 / count.max(1) as f64,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(self.histogram.max()),
        }
    }
}

/// Times in short, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "named as what they are")]
pub struct Summary {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// Counters of a run, since its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Operations that ended.
    pub ops: u64,
    /// A worker was put on a CPU.
    pub switches: u64,
    /// A server was given a CPU.
    pub activations: u64,
    /// Servers that slept and were woken.
    pub bells: u64,
    /// Notices that servers read.
    pub notices: u64,
    /// Choices that servers staged.
    pub picks: u64,
    /// Staged choices that were no longer true.
    pub stale: u64,
    /// Workers of which a server could not hear for want of a seat.
    pub unseated: u64,
    /// Picks with two or more waiting.
    pub contended: u64,
    /// Of these, by a staged choice.
    pub staged: u64,
    /// Of these, by key.
    pub by_key: u64,
    /// Of these, in kernel order for an absent server.
    pub absent: u64,
    /// Wake-ups that went to an idle CPU.
    pub direct: u64,
    /// Workers taken from another CPU's queue by one that had nothing.
    pub stolen: u64,
    /// Hogs that changed the CPU with the end of a slice.
    pub rotated: u64,
    /// Workers preempted by a wakee.
    pub preempted: u64,
    /// Workers that went on after a slice.
    pub kept: u64,
}

/// What a CPU's time went to, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Workers' own code.
    pub work: u64,
    /// Servers, with the switches to them.
    pub agent: u64,
    /// Switches, wake-ups and all else of the kernel.
    pub kernel: u64,
}

/// All that a run counts.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Since then.
    pub since_ns: u64,
    /// Counters.
    pub counts: Counts,
    /// From wanting a CPU to the first step on it.
    pub waits: Times,
    /// From asking for an operation to its end.
    pub responses: Times,
}

impl Stats {
    /// Nothing yet.
    ///
    /// # Errors
    ///
    /// No histogram.
    pub fn new(since_ns: u64) -> Result<Self> {
        Ok(Stats {
            since_ns,
            counts: Counts::default(),
            waits: Times::new()?,
            responses: Times::new()?,
        })
    }
}

/// Jain's index of what each got: 1 = all the same, 1 / n = one has all. 1 for nobody.
pub fn jain(got: impl Iterator<Item = f64>) -> f64 {
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for it in got {
        n += 1.0;
        sum += it;
        squares += it * it;
    }
    if squares == 0.0 {
        return 1.0;
    }
    sum * sum / (n * squares)
}

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The load, as it was asked for.
    pub load: String,
    /// The policy.
    pub policy: String,
    /// `key` or `staged`.
    pub decide: String,
    /// CPUs.
    pub cpus: u32,
    /// Workers.
    pub workers: u32,
    /// Of the load's random numbers.
    pub seed: u64,
    /// Simulated time that was counted.
    pub seconds: f64,
    /// Operations per second.
    pub throughput: f64,
    /// From wanting a CPU to the first step on it.
    pub waits: Summary,
    /// From asking for an operation to its end.
    pub responses: Summary,
    /// Share of all CPU time: workers' own code.
    pub work_share: f64,
    /// Servers, with the switches to them.
    pub agent_share: f64,
    /// The kernel: switches, wake-ups.
    pub kernel_share: f64,
    /// Jain's index of CPU time by weight, of the workers that wanted any.
    pub fairness: f64,
    /// Counters.
    pub counts: Counts,
    /// Events of the simulation, warm-up included.
    pub events: u64,
    /// Keys of costs that nobody measured.
    pub assumed: Vec<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_of_equals_is_one_and_of_one_that_has_all_its_share() {
        assert!((jain([3.0, 3.0, 3.0].into_iter()) - 1.0).abs() < 1e-12);
        assert!((jain([1.0, 0.0, 0.0, 0.0].into_iter()) - 0.25).abs() < 1e-12);
        assert_eq!(jain(std::iter::empty()), 1.0);
    }

    #[test]
    fn times_quantiles_are_those_recorded() {
        let mut times = Times::new().expect("bounds");
        (1..=1000).for_each(|ms| times.record(ms * 1_000_000));
        let summary = times.summary();
        assert_eq!(summary.count, 1000);
        assert!((summary.p99_us / 990_000.0 - 1.0).abs() < 0.002);
        assert!((summary.mean_us / 500_500.0 - 1.0).abs() < 1e-9);
    }
}
