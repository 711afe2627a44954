//! How long workers waited from RUNNABLE to RUNNING: histograms that BPF keeps per CPU.

use scx_stats_derive::{Stats, stat_doc};
use serde::{Deserialize, Serialize};
use umcg::record::{NR_TIERS, WAIT_BUCKETS};

/// Names of the tiers, by `enum umcg_tier`.
pub const TIERS: [&str; NR_TIERS] = ["high", "normal", "low", "idle", "preempted"];

/// Waits by their length: bucket 0 up to 1024 ns, each further one to twice as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hist(pub [u64; WAIT_BUCKETS]);

impl Default for Hist {
    fn default() -> Self {
        Self([0; WAIT_BUCKETS])
    }
}

/// Where a bucket ends, in µs: so long at most were the waits in it.
fn end_us(bucket: usize) -> f64 {
    1.024 * (1u64 << bucket) as f64
}

impl Hist {
    /// How many waits there were.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// So long at most waited the share `q` of all, in µs; 0 if nobody did.
    pub fn quantile_us(&self, q: f64) -> f64 {
        let rank = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut sum = 0;
        let found = self.0.iter().position(|&n| {
            sum += n;
            sum >= rank
        });
        found.map_or(0.0, end_us)
    }

    /// No wait was longer than this, in µs; 0 if nobody waited.
    pub fn max_us(&self) -> f64 {
        self.0.iter().rposition(|&n| n > 0).map_or(0.0, end_us)
    }

    /// The waits since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|i| {
            self.0[i].saturating_sub(before.0[i])
        }))
    }
}

/// What statistics show of one tier.
#[stat_doc]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Stats)]
#[stat(
    desc = "Waits from RUNNABLE to RUNNING of one tier",
    _om_prefix = "wait_",
    _om_label = "tier"
)]
pub struct TierWaits {
    #[stat(desc = "Waits")]
    pub count: u64,
    #[stat(desc = "Half of them took at most so long, us")]
    pub p50_us: f64,
    #[stat(desc = "99 of 100 took at most so long, us")]
    pub p99_us: f64,
    #[stat(desc = "None took longer, us")]
    pub max_us: f64,
    #[stat(
        desc = "Waits by length: up to 1.024 us, up to twice as much, and so on",
        _om_skip
    )]
    pub buckets: Vec<u64>,
}

impl From<&Hist> for TierWaits {
    fn from(hist: &Hist) -> Self {
        Self {
            count: hist.count(),
            p50_us: hist.quantile_us(0.5),
            p99_us: hist.quantile_us(0.99),
            max_us: hist.max_us(),
            buckets: hist.0.to_vec(),
        }
    }
}

impl TierWaits {
    /// The histogram that this was made of.
    pub fn hist(&self) -> Hist {
        let mut hist = Hist::default();
        for (to, &from) in hist.0.iter_mut().zip(&self.buckets) {
            *to = from;
        }
        hist
    }

    /// `p50/p99/max`, for a terminal.
    pub fn compact(&self) -> String {
        let [p50, p99, max] = [self.p50_us, self.p99_us, self.max_us].map(short);
        format!("{p50}/{p99}/{max}")
    }
}

fn short(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.1}us"),
        us if us < 1000.0 => format!("{us:.0}us"),
        us if us < 10_000.0 => format!("{:.1}ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0}ms", us / 1e3),
        us => format!("{:.1}s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hist(cells: &[(usize, u64)]) -> Hist {
        let mut hist = Hist::default();
        for &(bucket, n) in cells {
            hist.0[bucket] = n;
        }
        hist
    }

    #[test]
    fn quantile_is_the_end_of_the_bucket_with_that_rank() {
        let h = hist(&[(0, 50), (3, 49), (10, 1)]);
        assert_eq!(h.count(), 100);
        assert_eq!(h.quantile_us(0.5), 1.024);
        assert_eq!(h.quantile_us(0.51), 8.192);
        assert_eq!(h.quantile_us(0.99), 8.192);
        assert_eq!(h.quantile_us(1.0), 1048.576);
        assert_eq!(h.max_us(), 1048.576);
    }

    #[test]
    fn quantile_of_nobody_and_of_one() {
        assert_eq!(Hist::default().quantile_us(0.99), 0.0);
        assert_eq!(Hist::default().max_us(), 0.0);
        assert_eq!(hist(&[(2, 1)]).quantile_us(0.5), 4.096);
    }

    #[test]
    fn since_is_cell_by_cell_and_survives_a_new_attachment() {
        let delta = hist(&[(1, 5), (2, 7)]).since(&hist(&[(1, 3), (9, 1)]));
        assert_eq!(delta, hist(&[(1, 2), (2, 7)]));
    }

    #[test]
    fn compact_has_a_unit_for_each_length() {
        let waits = TierWaits::from(&hist(&[(1, 50), (8, 49), (22, 1)]));
        assert_eq!(waits.compact(), "2.0us/262us/4.3s");
        assert_eq!(waits.hist().count(), 100);
        assert_eq!(short(5.0e3), "5.0ms");
        assert_eq!(short(5.0e4), "50ms");
    }

    #[test]
    fn tiers_are_those_of_the_header() {
        use umcg::intf::*;
        let names = [
            (umcg_tier_UMCG_TIER_HIGH, "high"),
            (umcg_tier_UMCG_TIER_NORMAL, "normal"),
            (umcg_tier_UMCG_TIER_LOW, "low"),
            (umcg_tier_UMCG_TIER_IDLE, "idle"),
            (umcg_tier_UMCG_TIER_PREEMPTED, "preempted"),
        ];
        assert_eq!(names.len(), TIERS.len());
        for (tier, name) in names {
            assert_eq!(TIERS[tier as usize], name);
        }
    }
}
