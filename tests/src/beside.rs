//! Figures of this scheduler beside EEVDF's, taken in turn in one boot.

use anyhow::{Result, ensure};

use crate::harness::{Sched, end_shared, median, metric};

/// One figure of a load: its name and its value, lower is better.
pub type Figure = (&'static str, f64);

/// The figures of both, round by round.
#[derive(Default)]
pub struct Rounds {
    eevdf: Vec<Vec<Figure>>,
    ours: Vec<Vec<Figure>>,
    /// Of the counters that were asked for, over all counted runs.
    pub counted: Vec<u64>,
}

/// One figure over all rounds.
pub struct Pair {
    /// Its median under EEVDF.
    pub eevdf: f64,
    /// Its median under this scheduler.
    pub ours: f64,
    /// The one by the other.
    pub ratio: f64,
}

impl Rounds {
    /// Takes `rounds` of `measure` under EEVDF and with `args` in turn. After each change
    /// `discard` runs first: what follows an attachment is slow, and caches are cold.
    pub fn take(
        rounds: usize,
        args: &[&str],
        counters: &[&str],
        mut discard: impl FnMut() -> Result<()>,
        mut measure: impl FnMut() -> Result<Vec<Figure>>,
    ) -> Result<Self> {
        end_shared();
        let mut this = Self {
            counted: vec![0; counters.len()],
            ..Self::default()
        };
        for _ in 0..rounds {
            discard()?;
            this.eevdf.push(measure()?);
            let sched = Sched::start(args)?;
            discard()?;
            let read = || counters.iter().map(|name| sched.counter(name));
            let before: Vec<u64> = read().collect::<Result<_>>()?;
            this.ours.push(measure()?);
            for ((sum, now), before) in this.counted.iter_mut().zip(read()).zip(before) {
                *sum += now? - before;
            }
            sched.stop()?;
        }
        Ok(this)
    }

    /// One figure, which is a metric as well: medians, ratio, and the lowest and highest ratio
    /// of a round.
    pub fn pair(&self, prefix: &str, name: &str) -> Result<Pair> {
        let all = |side: &[Vec<Figure>]| -> Vec<f64> {
            let found = side.iter().flatten().filter(|f| f.0 == name);
            found.map(|f| f.1).collect()
        };
        let (mut eevdf, mut ours) = (all(&self.eevdf), all(&self.ours));
        ensure!(
            !ours.is_empty() && ours.len() == eevdf.len(),
            "no figure {name}"
        );
        let ratios = || ours.iter().zip(&eevdf).map(|(a, b)| a / b);
        let (low, high) = (
            ratios().fold(f64::MAX, f64::min),
            ratios().fold(0.0, f64::max),
        );
        let n = ours.len() as f64;
        let (eevdf, ours) = (median(&mut eevdf), median(&mut ours));
        ensure!(eevdf > 0.0 && ours > 0.0, "{name}: {eevdf} and {ours}");
        let ratio = ours / eevdf;
        metric(
            &format!("{prefix}_{name}"),
            &[
                ("eevdf", eevdf),
                ("ours", ours),
                ("ratio", ratio),
                ("low", low),
                ("high", high),
                ("n", n),
            ],
        );
        Ok(Pair { eevdf, ours, ratio })
    }
}

/// Bars that were missed: all are told at the end, not the first alone.
#[derive(Default)]
pub struct Bars(Vec<String>);

impl Bars {
    /// `value` may be `most` at most.
    pub fn at_most(&mut self, what: &str, value: f64, most: f64) {
        if value.is_nan() || value > most {
            self.0
                .push(format!("{what}: {value:.3}, at most {most:.3}"));
        }
    }

    /// Takes a figure's ratio against its bar.
    pub fn ratio(&mut self, rounds: &Rounds, prefix: &str, name: &str, most: f64) -> Result<()> {
        let pair = rounds.pair(prefix, name)?;
        self.at_most(&format!("{prefix} {name} by EEVDF's"), pair.ratio, most);
        Ok(())
    }

    /// Fails if one was missed.
    pub fn kept(self) -> Result<()> {
        ensure!(self.0.is_empty(), "{}", self.0.join("; "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_is_of_medians_and_names_what_is_missing() {
        let rounds = Rounds {
            eevdf: vec![vec![("a", 1.0)], vec![("a", 4.0)], vec![("a", 2.0)]],
            ours: vec![vec![("a", 9.0)], vec![("a", 1.0)], vec![("a", 1.0)]],
            counted: Vec::new(),
        };
        let pair = rounds.pair("test", "a").unwrap();
        assert_eq!((pair.eevdf, pair.ours, pair.ratio), (2.0, 1.0, 0.5));
        assert!(rounds.pair("test", "b").is_err());
    }

    #[test]
    fn bars_missed_ones_are_all_named() {
        let mut bars = Bars::default();
        bars.at_most("a", 1.0, 1.0);
        assert!(Bars::default().kept().is_ok());
        bars.at_most("b", 1.1, 1.0);
        bars.at_most("c", f64::NAN, 1.0);
        let text = bars.kept().unwrap_err().to_string();
        assert!(!text.contains("a:") && text.contains("b:") && text.contains("c:"));
    }
}
