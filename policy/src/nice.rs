//! Nice values from weights: what a policy without attributes goes by.
//!
//! A hosted server knows a worker's weight, 100 = nice 0 in the root cgroup. In a cgroup the
//! weight is the product of both, so a policy that works by nice values ranks whole cgroups by
//! `cpu.weight` as well.

/// Weights of nice -20..=19: the kernel's table, scaled to 100 = nice 0 as it does for cgroups.
const WEIGHTS: [u32; 40] = [
    8668, 7007, 5516, 4519, 3544, 2847, 2271, 1827, 1460, 1164, 932, 744, 596, 479, 381, 305, 244,
    194, 155, 125, 100, 80, 64, 51, 41, 33, 27, 21, 17, 13, 11, 8, 7, 5, 4, 4, 3, 2, 2, 1,
];

/// The last of the levels; the first is 0.
pub(crate) const LAST_LEVEL: u8 = 39;

/// Nice value + 20 of a worker with that weight, rounded to the heavier; 0 counts as nice 0.
pub(crate) fn level(weight: u32) -> u8 {
    if weight == 0 {
        return 20;
    }
    let heavier = WEIGHTS.partition_point(|&known| known > weight);
    heavier.min(usize::from(LAST_LEVEL)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_follows_the_nice_value() {
        for (weight, nice) in [
            (u32::MAX, -20),
            (8668, -20),
            (125, -1),
            (100, 0),
            (0, 0),
            (80, 1),
            (81, 1),
            (11, 10),
            (1, 19),
        ] {
            assert_eq!(i32::from(level(weight)) - 20, nice, "{weight}");
        }
    }

    #[test]
    fn level_falls_with_the_weight() {
        let levels: Vec<u8> = (1..10_000).map(level).collect();
        assert!(levels.is_sorted_by(|a, b| a >= b));
    }
}
