//! Times and how they are distributed: `100us`, `exp:1ms`, `bimodal:20us/2ms/5`, ...

use anyhow::{Result, bail, ensure};
use rand::Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};

/// Longer than any run.
const LONGEST_NS: f64 = 1e15;

/// Reads `250ns`, `10us`, `1.5ms`, `2s`.
///
/// # Errors
///
/// No number, no unit, or a time that is negative or longer than 11 days.
pub fn time_ns(text: &str) -> Result<f64> {
    let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
    let read = units.iter().find_map(|(unit, ns)| {
        let number = text.strip_suffix(unit)?;
        Some(number.trim().parse::<f64>().ok()? * ns)
    });
    match read {
        Some(ns) if (0.0..=LONGEST_NS).contains(&ns) => Ok(ns),
        _ => bail!("time {text:?}: not a number with ns, us, ms or s, within 0s..=1000000s"),
    }
}

/// A distribution of times, in ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dist {
    /// Always the same.
    Const(f64),
    /// Exponential with this mean.
    Exp(f64),
    /// The second one in this share of cases, else the first.
    Bimodal(f64, f64, f64),
    /// Pareto: the least, and the exponent (above 1, so that it has a mean).
    Pareto(f64, f64),
    /// Log-normal: the median, and sigma.
    LogNormal(f64, f64),
}

impl Dist {
    /// Reads one; a plain time is constant.
    ///
    /// # Errors
    ///
    /// An unknown form or a value out of bounds.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((name, rest)) = text.split_once(':') else {
            return Ok(Dist::Const(time_ns(text)?));
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let number = |text: &str, low: f64, high: f64| -> Result<f64> {
            match text.parse::<f64>() {
                Ok(it) if it > low && it <= high => Ok(it),
                _ => bail!("{name}: {text:?}: not a number above {low}, at most {high}"),
            }
        };
        Ok(match (name, parts.as_slice()) {
            ("const", [at]) => Dist::Const(time_ns(at)?),
            ("exp", [mean]) => Dist::Exp(time_ns(mean)?),
            ("bimodal", [short, long, pct]) => Dist::Bimodal(
                time_ns(short)?,
                time_ns(long)?,
                number(pct, 0.0, 100.0)? / 100.0,
            ),
            ("pareto", [least, alpha]) => Dist::Pareto(time_ns(least)?, number(alpha, 1.0, 100.0)?),
            ("lognormal", [median, sigma]) => {
                Dist::LogNormal(time_ns(median)?, number(sigma, 0.0, 5.0)?)
            }
            _ => bail!(
                "distribution {text:?}: not TIME, exp:MEAN, bimodal:SHORT/LONG/PERCENT, \
                 pareto:LEAST/ALPHA or lognormal:MEDIAN/SIGMA"
            ),
        })
    }

    /// Its mean, in ns.
    pub fn mean(&self) -> f64 {
        match *self {
            Dist::Const(ns) | Dist::Exp(ns) => ns,
            Dist::Bimodal(short, long, share) => short + share * (long - short),
            Dist::Pareto(least, alpha) => least * alpha / (alpha - 1.0),
            Dist::LogNormal(median, sigma) => median * (sigma * sigma / 2.0).exp(),
        }
    }

    /// The same shape with another mean, which its own must not be 0 for.
    ///
    /// # Errors
    ///
    /// This one's mean is 0.
    pub fn with_mean(&self, mean: f64) -> Result<Self> {
        let own = self.mean();
        ensure!(own > 0.0, "a distribution of mean 0 has no shape to scale");
        let by = mean / own;
        Ok(match *self {
            Dist::Const(ns) => Dist::Const(ns * by),
            Dist::Exp(ns) => Dist::Exp(ns * by),
            Dist::Bimodal(short, long, share) => Dist::Bimodal(short * by, long * by, share),
            Dist::Pareto(least, alpha) => Dist::Pareto(least * by, alpha),
            Dist::LogNormal(median, sigma) => Dist::LogNormal(median * by, sigma),
        })
    }

    /// Draws one, in whole ns.
    pub fn draw(&self, random: &mut impl Rng) -> u64 {
        let ns = match *self {
            Dist::Const(ns) => ns,
            Dist::Exp(mean) => {
                let one: f64 = Exp1.sample(random);
                mean * one
            }
            Dist::Bimodal(short, long, share) => {
                if random.random::<f64>() < share {
                    long
                } else {
                    short
                }
            }
            // 1 - u is never 0.
            Dist::Pareto(least, alpha) => least * (1.0 - random.random::<f64>()).powf(-1.0 / alpha),
            Dist::LogNormal(median, sigma) => {
                let z: f64 = StandardNormal.sample(random);
                median * (sigma * z).exp()
            }
        };
        ns.min(LONGEST_NS).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    #[test]
    fn dist_samples_have_the_mean_that_it_tells() {
        for text in [
            "100us",
            "exp:100us",
            "bimodal:10us/1ms/5",
            "pareto:20us/3",
            "lognormal:50us/1",
        ] {
            let dist = Dist::parse(text).expect(text);
            let mut random = Pcg64Mcg::seed_from_u64(1);
            let n = 400_000;
            let sum: f64 = (0..n).map(|_| dist.draw(&mut random) as f64).sum();
            let off = sum / f64::from(n) / dist.mean() - 1.0;
            assert!(off.abs() < 0.02, "{text}: off by {off}");
            let twice = dist.with_mean(2.0 * dist.mean()).expect("a shape");
            assert!((twice.mean() / dist.mean() - 2.0).abs() < 1e-9);
        }
    }

    #[test]
    fn dist_bad_text_is_told_with_its_value() {
        for (text, part) in [
            ("10", "\"10\""),
            ("-1us", "-1us"),
            ("exp:soon", "soon"),
            ("pareto:10us/1", "\"1\""),
            ("bimodal:1us/2us", "bimodal:1us/2us"),
            ("weibull:1us", "weibull"),
        ] {
            let text = Dist::parse(text).expect_err(text).to_string();
            assert!(text.contains(part), "{text}");
        }
    }
}
