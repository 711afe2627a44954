//! What is asked for one worker: its part in what a policy promises.
//!
//! An application sets these for its own workers. Whoever has none set gets what the policy makes
//! of its weight, so a hosted server's policy works by nice values alone.

use std::error::Error;
use std::fmt;

use crate::WorkerId;

/// CPU time that a worker needs in each period, and until when after its release.
///
/// A release is a wake-up. Needs `runtime_us <= deadline_us <= period_us`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reservation {
    /// CPU time per job, 100..=1000000.
    pub runtime_us: u32,
    /// From the release to the time at which the job has to be done.
    pub deadline_us: u32,
    /// Between two releases, at least; at most 10 s.
    pub period_us: u32,
}

impl Reservation {
    /// A job of `runtime_us` in each `period_us`, due when the next one comes.
    pub const fn periodic(runtime_us: u32, period_us: u32) -> Self {
        Reservation {
            runtime_us,
            deadline_us: period_us,
            period_us,
        }
    }
}

/// All that can be asked for; `None` = nothing was, the policy goes by the weight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Attrs {
    /// `fair`, staged: share of CPU time against others, 1..=10000, 100 = one that asked for
    /// nothing. Who keeps the order charges by it, see [`Facts::key`](crate::Facts::key).
    pub weight: Option<u32>,
    /// `priority`: 0 = first, 39 = last.
    pub level: Option<u8>,
    /// `quota`: index of its tier.
    pub tier: Option<u8>,
    /// `deadline`: what it needs.
    pub reservation: Option<Reservation>,
}

/// Attributes that a policy does not take; those from before stay in force.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refused {
    /// The policy knows no such attribute.
    Unknown {
        /// The policy's name.
        policy: &'static str,
        /// The attribute's.
        attr: &'static str,
    },
    /// A value is out of its bounds.
    Range {
        /// The attribute, or the part of it.
        attr: &'static str,
        /// What was asked for.
        value: u64,
        /// The lowest value.
        low: u64,
        /// The highest one.
        high: u64,
    },
    /// The deadlines of all that were admitted, and this one, cannot be promised.
    Unmet {
        /// Density of the whole set, in millionths of a server.
        density_ppm: u64,
        /// What the servers can be promised for, given the densest worker of the set.
        limit_ppm: u64,
        /// Servers that share the queue.
        servers: u32,
    },
    /// The caller is no task of a runtime.
    NoTask,
    /// The policy was not made for so many workers.
    Worker {
        /// The id.
        id: u32,
        /// Ids are below this.
        capacity: u32,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |ppm: &u64| format!("{}.{:04}", ppm / 1_000_000, ppm % 1_000_000 / 100);
        match self {
            Refused::Unknown { policy, attr } => {
                write!(f, "attribute {attr}: policy {policy} knows no such one")
            }
            Refused::Range {
                attr,
                value,
                low,
                high,
            } => write!(f, "{attr} {value}: not within {low}..={high}"),
            Refused::Unmet {
                density_ppm,
                limit_ppm,
                servers,
            } => write!(
                f,
                "deadlines cannot be met: density {} of all; at most {} on {servers} server(s); \
                 ask for less runtime or a longer period",
                share(density_ppm),
                share(limit_ppm)
            ),
            Refused::NoTask => write!(f, "attributes: the calling thread is no task of a runtime"),
            Refused::Worker { id, capacity } => {
                write!(f, "worker {id}: not below the capacity, {capacity}")
            }
        }
    }
}

impl Error for Refused {}

impl Attrs {
    /// Refuses whatever is set but for `known`, the name of the one attribute a policy has.
    ///
    /// # Errors
    ///
    /// [`Refused::Unknown`] with the first one that is set and not known.
    pub fn only(&self, known: &str, policy: &'static str) -> Result<(), Refused> {
        let set = [
            ("weight", self.weight.is_some()),
            ("level", self.level.is_some()),
            ("tier", self.tier.is_some()),
            ("reservation", self.reservation.is_some()),
        ];
        match set.iter().find(|(attr, set)| *set && *attr != known) {
            Some(&(attr, _)) => Err(Refused::Unknown { policy, attr }),
            None => Ok(()),
        }
    }
}

/// One number per worker, as asked for; or none, and the policy goes by the weight.
#[derive(Debug)]
pub(crate) struct Asked(Box<[u8]>);

impl Asked {
    const NOTHING: u8 = u8::MAX;
    /// See [`Policy::bytes_per_worker`](crate::Policy::bytes_per_worker).
    pub(crate) const BYTES: usize = size_of::<u8>();

    /// For ids below `capacity`; the only call that allocates.
    pub(crate) fn new(capacity: u32) -> Self {
        Asked(vec![Self::NOTHING; capacity as usize].into())
    }

    /// Whether `w` is one of its workers.
    pub(crate) fn knows(&self, w: WorkerId) -> bool {
        (w.0 as usize) < self.0.len()
    }

    /// What was asked for `w`, which it knows.
    pub(crate) fn get(&self, w: WorkerId) -> Option<u8> {
        let value = self.0[w.0 as usize];
        (value != Self::NOTHING).then_some(value)
    }

    pub(crate) fn set(&mut self, w: WorkerId, value: Option<u8>) -> Result<(), Refused> {
        let capacity = self.0.len() as u32;
        let slot = self.0.get_mut(w.0 as usize);
        *slot.ok_or(Refused::Worker { id: w.0, capacity })? = value.unwrap_or(Self::NOTHING);
        Ok(())
    }

    /// `w` is gone: the next one with its id has asked for nothing.
    pub(crate) fn forget(&mut self, w: WorkerId) {
        if let Some(slot) = self.0.get_mut(w.0 as usize) {
            *slot = Self::NOTHING;
        }
    }
}

/// `value`, if it is within the bounds.
pub(crate) fn within(attr: &'static str, value: u64, low: u64, high: u64) -> Result<(), Refused> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Refused::Range {
        attr,
        value,
        low,
        high,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attrs_of_another_policy_are_refused_by_name() {
        let attrs = Attrs {
            tier: Some(1),
            ..Attrs::default()
        };
        assert_eq!(attrs.only("tier", "quota"), Ok(()));
        assert_eq!(Attrs::default().only("", "fifo"), Ok(()));
        let weight = Attrs {
            weight: Some(300),
            ..Attrs::default()
        };
        assert_eq!(weight.only("weight", "fair"), Ok(()));
        assert!(weight.only("", "fifo").is_err());
        let text = attrs.only("level", "priority").map_err(|e| e.to_string());
        let want = "attribute tier: policy priority knows no such one";
        assert_eq!(text, Err(want.to_owned()));
    }

    #[test]
    fn refused_texts_have_value_and_bounds() {
        let text = within("level", 40, 0, 39).map_err(|e| e.to_string());
        assert_eq!(text, Err("level 40: not within 0..=39".to_owned()));
        let unmet = Refused::Unmet {
            density_ppm: 1_050_000,
            limit_ppm: 950_000,
            servers: 1,
        };
        let text = unmet.to_string();
        assert!(text.contains("1.0500") && text.contains("0.9500"), "{text}");
    }
}
