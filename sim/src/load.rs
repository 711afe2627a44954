//! Loads: what workers do, as one text: `KIND:KEY=VALUE,KEY=VALUE`.
//!
//! | kind | a worker |
//! |---|---|
//! | `cpu` | computes for ever; an operation is `work` of CPU time |
//! | `sleepers` | computes `work`, sleeps `sleep`; or sleeps so long that all together want `load` of the machine |
//! | `request` | takes the next request, computes `service`; requests come as a Poisson process of `rate` per second, or of so many that they want `load` of the machine |
//! | `messaging` | is a boss, who computes `work` and wakes its `fan` children one by one, and goes on when all have answered; or a child, who computes `work` and answers |
//!
//! `load` counts the work alone, not what the scheduler costs. `weights=A/B/...` gives weights to the
//! workers, in turn; 100 is nice 0.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};

use crate::dist::Dist;

/// What the workers do; see [the module](self).
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Hogs.
    Cpu {
        /// CPU time that counts as one operation.
        work: Dist,
    },
    /// Work and sleep.
    Sleepers {
        /// CPU time between two sleeps.
        work: Dist,
        /// How long they sleep, or the shape of that if `load` is set.
        sleep: Dist,
        /// Share of the machine that they want together.
        load: Option<f64>,
    },
    /// Open-loop requests, served by any worker.
    Request {
        /// CPU time of a request.
        service: Dist,
        /// Requests per second.
        rate: Option<f64>,
        /// Share of the machine that they want.
        load: Option<f64>,
    },
    /// Bosses and children.
    Messaging {
        /// CPU time of a message.
        work: Dist,
        /// Children of a boss.
        fan: u32,
    },
}

/// A load as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// What the workers do.
    pub kind: Kind,
    /// Their weights, in turn.
    pub weights: Vec<u32>,
    text: String,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// The pairs of a load's text, each to be taken once.
struct Pairs<'a> {
    kind: &'a str,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Pairs<'a> {
    fn read(text: &'a str) -> Result<Self> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in rest.split(',').filter(|part| !part.is_empty()) {
            let pair = part.split_once('=');
            let (key, value) = pair.with_context(|| format!("load: {part:?}: not KEY=VALUE"))?;
            ensure!(
                pairs.iter().all(|(known, _)| *known != key),
                "load: {key}: given twice"
            );
            pairs.push((key, value));
        }
        Ok(Pairs { kind, pairs })
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.pairs.iter().position(|(known, _)| *known == key)?;
        Some(self.pairs.swap_remove(at).1)
    }

    fn dist(&mut self, key: &str, default: &str) -> Result<Dist> {
        let text = self.take(key).unwrap_or(default);
        Dist::parse(text).with_context(|| format!("load: {key}"))
    }

    fn number(&mut self, key: &str, most: f64) -> Result<Option<f64>> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        match text.parse::<f64>() {
            Ok(it) if it > 0.0 && it <= most => Ok(Some(it)),
            _ => bail!("load: {key} {text}: not a number above 0, at most {most}"),
        }
    }

    fn weights(&mut self) -> Result<Vec<u32>> {
        let texts = self.take("weights").unwrap_or("100").split('/');
        texts
            .map(|text| match text.parse() {
                Ok(weight) if (1..=10_000).contains(&weight) => Ok(weight),
                _ => bail!("load: weights {text}: not within 1..=10000"),
            })
            .collect()
    }
}

impl FromStr for Load {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut pairs = Pairs::read(text)?;
        let weights = pairs.weights()?;
        let kind = match pairs.kind {
            "cpu" => Kind::Cpu {
                work: pairs.dist("work", "1ms")?,
            },
            "sleepers" => Kind::Sleepers {
                work: pairs.dist("work", "exp:100us")?,
                load: pairs.number("load", 100.0)?,
                sleep: pairs.dist("sleep", "exp:1ms")?,
            },
            "request" => Kind::Request {
                service: pairs.dist("service", "exp:100us")?,
                rate: pairs.number("rate", 1e9)?,
                load: pairs.number("load", 100.0)?,
            },
            "messaging" => Kind::Messaging {
                work: pairs.dist("work", "exp:10us")?,
                fan: pairs.number("fan", 1000.0)?.unwrap_or(20.0) as u32,
            },
            kind => bail!("load {kind:?}: not cpu, sleepers, request or messaging"),
        };
        if let Some((key, _)) = pairs.pairs.first() {
            bail!("load: {key}: load {} has no such key", pairs.kind);
        }
        let load = Load {
            kind,
            weights,
            text: text.to_owned(),
        };
        load.check()?;
        Ok(load)
    }
}

impl Load {
    fn check(&self) -> Result<()> {
        match &self.kind {
            Kind::Request { rate, load, .. } => ensure!(
                rate.is_some() != load.is_some(),
                "load: request needs rate=PER_SECOND or load=SHARE, one of them"
            ),
            Kind::Messaging { fan, .. } => ensure!(*fan >= 1, "load: fan: at least 1"),
            _ => {}
        }
        let (work, name) = match &self.kind {
            Kind::Cpu { work } | Kind::Sleepers { work, .. } | Kind::Messaging { work, .. } => {
                (work, "work")
            }
            Kind::Request { service, .. } => (service, "service"),
        };
        ensure!(work.mean() >= 1.0, "load: {name}: its mean is below 1ns");
        Ok(())
    }

    /// The same for a machine of `cpus` and for `workers`: `load` is turned into times and rates.
    ///
    /// # Errors
    ///
    /// Too few workers.
    pub fn resolve(&self, cpus: u32, workers: u32) -> Result<Kind> {
        let mut kind = self.kind.clone();
        match &mut kind {
            Kind::Cpu { .. } => {}
            Kind::Sleepers { work, sleep, load } => {
                if let Some(share) = *load {
                    // Of each worker's cycle, work + sleep, work is share * cpus / workers.
                    let cycle = work.mean() * f64::from(workers) / (share * f64::from(cpus));
                    *sleep = sleep.with_mean((cycle - work.mean()).max(0.0))?;
                }
            }
            Kind::Request {
                service,
                rate,
                load,
            } => {
                if let Some(share) = *load {
                    *rate = Some(share * f64::from(cpus) * 1e9 / service.mean());
                }
            }
            Kind::Messaging { fan, .. } => ensure!(
                workers > *fan,
                "workers {workers}: not enough for a boss and its {fan} children; \
                 at least {}",
                *fan + 1
            ),
        }
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Load {
        text.parse().expect(text)
    }

    #[test]
    fn load_share_of_the_machine_becomes_a_rate_and_a_sleep() {
        let kind = load("request:load=0.5,service=exp:100us").resolve(4, 10);
        let Ok(Kind::Request { rate, .. }) = kind else {
            panic!("a request load");
        };
        assert_eq!(rate, Some(20_000.0));
        let kind = load("sleepers:load=0.8,work=100us").resolve(10, 100);
        let Ok(Kind::Sleepers { sleep, .. }) = kind else {
            panic!("a load of sleepers");
        };
        assert!((sleep.mean() - 1_150_000.0).abs() < 1.0, "{sleep:?}");
    }

    #[test]
    fn load_that_one_machine_cannot_serve_never_sleeps() {
        let kind = load("sleepers:load=2,work=100us").resolve(10, 10);
        let Ok(Kind::Sleepers { sleep, .. }) = kind else {
            panic!("a load of sleepers");
        };
        assert_eq!(sleep.mean(), 0.0);
    }

    #[test]
    fn load_bad_texts_are_told() {
        for (text, part) in [
            ("disk", "\"disk\": not cpu, sleepers, request or messaging"),
            ("cpu:sleep=1ms", "sleep: load cpu has no such key"),
            ("cpu:work", "not KEY=VALUE"),
            ("cpu:work=1ms,work=2ms", "given twice"),
            ("cpu:work=0us", "its mean is below 1ns"),
            ("cpu:weights=0", "not within 1..=10000"),
            ("request:service=1us", "needs rate"),
            ("request:load=0.5,rate=7", "one of them"),
            ("request:load=-1", "load -1: not a number above 0"),
            ("messaging:fan=0.5", "at least 1"),
        ] {
            let told = format!("{:#}", text.parse::<Load>().expect_err(text));
            assert!(told.contains(part), "{text}: {told}");
        }
        let told = load("messaging:fan=20")
            .resolve(1, 20)
            .expect_err("one short");
        assert!(told.to_string().contains("at least 21"));
    }
}
