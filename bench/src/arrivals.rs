//! Schedules of requests: when each is due, and how much work it is.
//!
//! They are made before a round begins and do not depend on how it goes (an *open loop*). A
//! request's latency counts from when it was due, not from when somebody got round to sending
//! it: who is slow does not get to ask less.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, Exp1, Pareto, StandardUniform};

/// How much work a request is, with a mean of [`MEAN_NS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// All the same.
    Fixed,
    /// Nine of ten are [`SHORT_NS`], one is [`LONG_NS`].
    Bimodal,
    /// Pareto's, with the tail index [`TAIL_INDEX`], cut at [`MOST_NS`].
    HeavyTail,
}

/// Mean work of a request.
pub const MEAN_NS: f64 = 200_000.0;
/// The short ones of [`Service::Bimodal`].
pub const SHORT_NS: f64 = 100_000.0;
/// The long ones of [`Service::Bimodal`].
pub const LONG_NS: f64 = 1_100_000.0;
/// A request above x comes x^-1.5 times as often: the variance of the uncut law is infinite.
pub const TAIL_INDEX: f64 = 1.5;
/// The most work of a request of [`Service::HeavyTail`]: 100 mean ones.
pub const MOST_NS: f64 = 100.0 * MEAN_NS;
/// Where the law begins. Of the uncut one the mean is `START_NS * 1.5 / 0.5`, and
/// `2 * START_NS * sqrt(START_NS / MOST_NS)` of that is beyond the cut.
const START_NS: f64 = 69_500.0;

const SHORT_SHARE: f64 = 0.9;

impl Service {
    /// Its name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "poisson",
            Self::Bimodal => "bimodal",
            Self::HeavyTail => "heavy",
        }
    }

    fn draw(self, rng: &mut Xoshiro256PlusPlus) -> f64 {
        match self {
            Self::Fixed => MEAN_NS,
            Self::Bimodal => {
                let at: f64 = StandardUniform.sample(rng);
                if at < SHORT_SHARE { SHORT_NS } else { LONG_NS }
            }
            Self::HeavyTail => {
                let law = Pareto::new(START_NS, TAIL_INDEX).expect("constants above zero");
                law.sample(rng).min(MOST_NS)
            }
        }
    }
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it is due, in ns from the beginning.
    pub due_ns: u64,
    /// CPU time that it takes.
    pub work_ns: u64,
}

/// Requests of a Poisson process with `per_second` of them over `span_ns`. The same seed makes
/// the same ones.
pub fn schedule(service: Service, per_second: f64, span_ns: u64, seed: u64) -> Vec<Request> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mean_gap_ns = 1e9 / per_second;
    let mut all = Vec::new();
    let mut at = 0.0;
    loop {
        let gap: f64 = Exp1.sample(&mut rng);
        at += gap * mean_gap_ns;
        if at >= span_ns as f64 {
            return all;
        }
        all.push(Request {
            due_ns: at as u64,
            work_ns: service.draw(&mut rng) as u64,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: f64 = 200_000.0;

    fn many(service: Service) -> Vec<Request> {
        schedule(service, 1e6, (N * 1e3) as u64, 11)
    }

    fn mean(values: impl Iterator<Item = f64>) -> f64 {
        let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
        sum / n
    }

    #[test]
    fn schedule_is_poisson() {
        let all = many(Service::Fixed);
        // The number in a span is Poisson's: its deviation is the root of its mean.
        assert!(
            (all.len() as f64 - N).abs() < 4.0 * N.sqrt(),
            "{}",
            all.len()
        );
        assert!(all.is_sorted_by_key(|it| it.due_ns));
        let gaps: Vec<f64> = all
            .windows(2)
            .map(|pair| (pair[1].due_ns - pair[0].due_ns) as f64)
            .collect();
        let m = mean(gaps.iter().copied());
        let variance = mean(gaps.iter().map(|gap| (gap - m).powi(2)));
        assert!((m / 1000.0 - 1.0).abs() < 0.01, "mean gap {m}");
        // Deviation over mean is 1 for gaps without memory, 0 for a metronome.
        assert!((variance.sqrt() / m - 1.0).abs() < 0.02, "{variance}");
        let longer = gaps.iter().filter(|&&gap| gap > 3000.0).count() as f64;
        assert!((longer / gaps.len() as f64 / (-3f64).exp() - 1.0).abs() < 0.05);
    }

    #[test]
    fn service_means_are_as_said() {
        for (service, within) in [
            (Service::Fixed, 1e-9),
            // Deviations of 1.5 and 2.6 means: these are four standard errors.
            (Service::Bimodal, 0.014),
            (Service::HeavyTail, 0.024),
        ] {
            let m = mean(many(service).iter().map(|it| it.work_ns as f64));
            assert!((m / MEAN_NS - 1.0).abs() < within, "{service:?}: {m}");
        }
    }

    #[test]
    fn bimodal_has_two_sizes_in_their_shares() {
        let all = many(Service::Bimodal);
        let short = all.iter().filter(|it| it.work_ns == SHORT_NS as u64);
        let share = short.count() as f64 / all.len() as f64;
        assert!((share - SHORT_SHARE).abs() < 0.005, "{share}");
        let long = all.iter().filter(|it| it.work_ns == LONG_NS as u64);
        assert!((long.count() as f64 / all.len() as f64 - 0.1).abs() < 0.005);
    }

    /// By Hill's estimate over the largest ones below the cut: the mean of their logarithms
    /// over the threshold is one by the index, less what the cut takes.
    #[test]
    fn heavy_tail_has_its_index() {
        let all = many(Service::HeavyTail);
        let threshold = 2.0 * START_NS;
        let tail: Vec<f64> = all
            .iter()
            .map(|it| it.work_ns as f64)
            .filter(|&work| work > threshold)
            .collect();
        // Of a sample that is cut at c, the cut ones count as survivors.
        let uncut = tail.iter().filter(|&&work| work < MOST_NS - 1.0).count() as f64;
        let logs: f64 = tail.iter().map(|work| (work / threshold).ln()).sum();
        let index = uncut / logs;
        assert!((index / TAIL_INDEX - 1.0).abs() < 0.03, "{index}");
        let most = tail.iter().copied().fold(0.0, f64::max);
        assert!(most <= MOST_NS && most > 0.9 * MOST_NS, "{most}");
    }

    #[test]
    fn schedule_repeats_by_its_seed() {
        let make = |seed| schedule(Service::HeavyTail, 1000.0, 1_000_000_000, seed);
        assert_eq!(make(3), make(3));
        assert_ne!(make(3), make(4));
    }
}
