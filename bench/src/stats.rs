//! Medians and how far to trust them.
//!
//! Rounds of a benchmark have no known distribution: a late timer or a busy neighbour makes
//! some of them far too long. So all of it goes by order: the median, and an interval between
//! two of the samples that holds the true median with a given chance whatever the distribution.

/// The middle of `samples`, the mean of the two middle ones if their number is even. `None`:
/// there are none.
pub fn median(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The narrowest symmetric pair of samples that holds the true median with a chance of 95 %.
///
/// Below 6 samples no pair does: these are the lowest and the highest then, which hold it with
/// a chance of 1 - 2^(1 - n). `None`: there are no samples.
pub fn interval(samples: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(samples);
    let cut = cut(sorted.len());
    Some((*sorted.get(cut)?, *sorted.get(sorted.len() - 1 - cut)?))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// How many samples of `n` may be cut off at each end.
///
/// With k cut off, the true median is missed at the lower end if at most k of n fell below it,
/// each with a chance of 1/2; with both ends that is 2 * P(Bin(n, 1/2) <= k).
fn cut(n: usize) -> usize {
    const MISSED: f64 = 0.05;
    // C(n, k) / 2^n by its logarithm: 2^n overflows beyond 1023 rounds.
    let mut log_chance = -(n as f64) * std::f64::consts::LN_2;
    let mut below = 0.0;
    for k in 0..n / 2 {
        below += log_chance.exp();
        if 2.0 * below > MISSED {
            // With k cut off it would be missed too often.
            return k.saturating_sub(1);
        }
        log_chance += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (n / 2).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(n: u32) -> Vec<f64> {
        (1..=n).rev().map(f64::from).collect()
    }

    #[test]
    fn median_of_odd_and_even_and_none() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
        // One that went astray does not matter.
        assert_eq!(median(&[1.0, 2.0, 3.0, 4.0, 1e12]), Some(3.0));
    }

    /// As in the tables of the sign test for 95 %, for example Conover's A3: the ranks of
    /// n = 6, 8, 9, 12, 15, 20, 25, 30, 50.
    #[test]
    fn interval_has_the_ranks_of_the_sign_test() {
        for (n, low) in [
            (6, 1),
            (8, 1),
            (9, 2),
            (12, 3),
            (15, 4),
            (20, 6),
            (25, 8),
            (30, 10),
            (50, 18),
        ] {
            let high = n + 1 - low;
            let want = Some((f64::from(low), f64::from(high)));
            assert_eq!(interval(&counted(n)), want, "{n} samples");
        }
    }

    #[test]
    fn interval_of_few_samples_is_all_of_them() {
        assert_eq!(interval(&[]), None);
        for n in 1..=5 {
            assert_eq!(interval(&counted(n)), Some((1.0, f64::from(n))), "{n}");
        }
    }

    #[test]
    fn interval_of_thousands_does_not_overflow() {
        // By the normal approximation the lower rank is 5000 - 0.98 * 100.
        let (low, high) = interval(&counted(10_000)).unwrap();
        assert!((4901.0..=4903.0).contains(&low), "{low}");
        assert_eq!(low + high, 10_001.0);
    }

    /// Of many experiments with a known median, 95 % and more have it in their interval.
    #[test]
    fn interval_covers_the_median_as_often_as_it_says() {
        use rand::SeedableRng;
        use rand::rngs::Xoshiro256PlusPlus;
        use rand_distr::{Distribution, Exp};
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let exp = Exp::new(1.0).unwrap();
        const TRIES: u32 = 4000;
        for n in [6, 9, 15] {
            let covered = (0..TRIES).filter(|_| {
                let samples: Vec<f64> = (0..n).map(|_| exp.sample(&mut rng)).collect();
                let (low, high) = interval(&samples).unwrap();
                (low..=high).contains(&std::f64::consts::LN_2)
            });
            let share = covered.count() as f64 / f64::from(TRIES);
            assert!((0.945..1.0).contains(&share), "{n} samples: {share}");
        }
    }
}
