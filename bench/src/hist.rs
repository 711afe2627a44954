//! Latencies of one round: an HDR histogram and the percentiles that are told of it.

use hdrhistogram::Histogram;

use crate::plan::Metric;

/// The longest time that is told apart; longer ones count as this.
const LONGEST_NS: u64 = 120_000_000_000;

/// What is told of a round: the place in the order, and a name.
const TOLD: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// As metrics of a plan, the longest one last.
pub const METRICS: [Metric; 5] = [
    Metric::ns(TOLD[0].1),
    Metric::ns(TOLD[1].1),
    Metric::ns(TOLD[2].1),
    Metric::ns(TOLD[3].1),
    Metric::ns("max"),
];

/// Latencies, to three digits.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        Self(histogram.expect("constant bounds that are in range"))
    }
}

impl Latencies {
    /// One more.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of [`METRICS`]. A percentile of which there are too few samples for even
    /// one to lie beyond it is not told: it would be the longest one by another name.
    pub fn figures(&self) -> Vec<Option<f64>> {
        let told = TOLD.iter().map(|&(quantile, _)| {
            let beyond = self.len() as f64 * (1.0 - quantile);
            // 1000 samples and 0.999: a little below 1 in binary.
            (beyond > 0.999).then(|| self.0.value_at_quantile(quantile) as f64)
        });
        let max = (!self.is_empty()).then(|| self.0.max() as f64);
        told.chain([max]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_known_sample() {
        let mut all = Latencies::default();
        (1..=10_000).for_each(|ns| all.record(ns * 1000));
        let figures: Vec<f64> = all.figures().into_iter().flatten().collect();
        let want = [5_000e3, 9_000e3, 9_900e3, 9_990e3, 10_000e3];
        assert_eq!(figures.len(), want.len());
        for (figure, want) in figures.iter().zip(want) {
            assert!((figure / want - 1.0).abs() < 0.002, "{figure}, not {want}");
        }
    }

    #[test]
    fn figures_that_too_few_samples_tell_are_left_out() {
        let mut all = Latencies::default();
        assert_eq!(all.figures(), [None; 5]);
        (0..99).for_each(|_| all.record(5));
        assert_eq!(all.figures(), [Some(5.0), Some(5.0), None, None, Some(5.0)]);
        all.record(0);
        assert_eq!(all.figures()[2], Some(5.0));
        (0..900).for_each(|_| all.record(5));
        assert_eq!((all.len(), all.figures()[3]), (1000, Some(5.0)));
    }

    #[test]
    fn record_beyond_the_bound_is_kept_as_the_longest() {
        let mut all = Latencies::default();
        all.record(u64::MAX);
        let max = all.figures()[4].unwrap();
        assert!((max / LONGEST_NS as f64 - 1.0).abs() < 0.002, "{max}");
    }
}
