//! priority: levels, strictly, but a wait makes up for a level. Staged only: who has aged shows
//! when somebody is picked, not when a key was told.
//!
//! Level 0 is the first, 39 the last: [`Attrs::level`], or the nice value + 20. Within a level
//! workers take turns, as rr does.
//!
//! Promise: a worker of level q that became RUNNABLE at t is picked before one of level p > q that
//! became RUNNABLE after t - (p - q) x `aging_ms`. With `aging_ms=0` strictly, whatever the wait.
//! Starvation: bounded. A worker of level p is passed only by what comes within (p - q) x
//! `aging_ms` of its own coming, 39 x 50 ms at most, and then by what waited before that. With
//! `aging_ms=0` certain: the kernel side's relief valve is the only bound.
//! Source: the linear aging of decay-free time-sharing (Kleinrock 1970), which keeps one key per
//! wait: time of coming + level x step. BFS (Kolivas 2009) has the same as virtual deadline.

use crate::attrs::{Asked, within};
use crate::config::Setup;
use crate::error::PolicyError;
use crate::heap::Heap;
use crate::nice::{self, LAST_LEVEL};
use crate::{Attrs, Decide, Facts, Order, Policy, Refused, Terms, Traits, WorkerId};

pub(crate) const OPTIONS: &[&str] = &["aging_ms"];

/// All 39 steps are just below the 2 s of the relief valve.
const AGING_MS: u64 = 50;
/// Longer than any machine runs, in ns: a step that no wait makes up for.
const NEVER_NS: u64 = 1 << 55;

#[derive(Debug)]
pub(crate) struct Priority {
    step_ns: u64,
    waiting: Heap,
    levels: Asked,
}

impl Priority {
    pub(crate) fn make(setup: &Setup<'_>) -> Result<Self, PolicyError> {
        let aging_ms = setup.number("aging_ms", AGING_MS, 0, 60_000)?;
        Ok(Priority {
            step_ns: match aging_ms {
                0 => NEVER_NS,
                ms => ms * 1_000_000,
            },
            waiting: Heap::new(setup.capacity),
            levels: Asked::new(setup.capacity),
        })
    }

    fn key(&self, level: u8, facts: &Facts) -> u64 {
        1 + facts.since_ns.min(NEVER_NS - 1) + u64::from(level) * self.step_ns
    }
}

impl Policy for Priority {
    fn name(&self) -> &'static str {
        "priority"
    }

    fn bytes_per_worker(&self) -> usize {
        Heap::bytes_per_worker(Decide::Staged) + Asked::BYTES
    }

    fn traits(&self) -> Traits {
        Traits {
            order: Order::Own,
            alone: true,
            ..Traits::STAGED
        }
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    // A choice made ahead would run before a better one that comes meanwhile.
    fn stage_budget_ns(&self) -> u64 {
        0
    }

    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms {
        if !self.levels.knows(w) {
            return Terms::default();
        }
        let asked = self.levels.get(w);
        let level = asked.unwrap_or_else(|| nice::level(facts.weight));
        let own_key = self.key(level, facts);
        self.waiting.push(w, own_key);
        Terms {
            own_key,
            ..Terms::default()
        }
    }

    fn pick(&mut self) -> Option<WorkerId> {
        self.waiting.pop()
    }

    fn block(&mut self, w: WorkerId, _facts: &Facts) -> Option<Terms> {
        self.waiting.remove(w);
        None
    }

    fn remove(&mut self, w: WorkerId) {
        self.waiting.remove(w);
        self.levels.forget(w);
    }

    fn assign(&mut self, w: WorkerId, attrs: &Attrs) -> Result<(), Refused> {
        attrs.only("level", self.name())?;
        if let Some(level) = attrs.level {
            within("level", level.into(), 0, LAST_LEVEL.into())?;
        }
        self.levels.set(w, attrs.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create;

    const MS: u64 = 1_000_000;

    fn level(level: u8) -> Attrs {
        Attrs {
            level: Some(level),
            ..Attrs::default()
        }
    }

    fn at(since_ms: u64, weight: u32) -> Facts {
        Facts {
            since_ns: since_ms * MS,
            weight,
            ..Facts::default()
        }
    }

    fn order(policy: &mut dyn Policy) -> Vec<u32> {
        std::iter::from_fn(|| policy.pick().map(|w| w.0)).collect()
    }

    #[test]
    fn priority_goes_by_level_and_within_one_by_coming() {
        let mut policy = create("priority", None, 8).expect("priority");
        for (id, since, weight) in [(0, 1, 80), (1, 2, 125), (2, 3, 100), (3, 0, 125)] {
            policy.enqueue(WorkerId(id), &at(since, weight));
        }
        assert_eq!(order(policy.as_mut()), [3, 1, 2, 0]);
    }

    #[test]
    fn priority_wait_makes_up_for_a_level() {
        for (option, want) in [("100", [1, 0]), ("99", [0, 1]), ("0", [1, 0])] {
            let text = format!("priority:aging_ms={option}");
            let mut policy = create(&text, None, 8).expect("priority");
            // Two levels apart, 199 ms apart: two steps of 100 ms are not made up for.
            policy.assign(WorkerId(0), &level(7)).expect("a level");
            policy.assign(WorkerId(1), &level(5)).expect("a level");
            policy.enqueue(WorkerId(0), &at(1000, 100));
            policy.enqueue(WorkerId(1), &at(1199, 100));
            assert_eq!(order(policy.as_mut()), want, "{option}");
        }
    }

    #[test]
    fn priority_refuses_levels_that_are_none() {
        let mut policy = create("priority", None, 8).expect("priority");
        let refused = policy.assign(WorkerId(0), &level(40));
        assert!(matches!(refused, Err(Refused::Range { value: 40, .. })));
        let refused = policy.assign(WorkerId(8), &level(4));
        assert!(matches!(refused, Err(Refused::Worker { id: 8, .. })));
        let tier = Attrs {
            tier: Some(0),
            ..Attrs::default()
        };
        let refused = policy.assign(WorkerId(0), &tier);
        assert!(matches!(
            refused,
            Err(Refused::Unknown { attr: "tier", .. })
        ));
    }

    #[test]
    fn priority_removed_worker_leaves_no_level_to_its_id() {
        let mut policy = create("priority", None, 8).expect("priority");
        policy.assign(WorkerId(0), &level(39)).expect("a level");
        policy.remove(WorkerId(0));
        policy.enqueue(WorkerId(0), &at(5, 100));
        policy.enqueue(WorkerId(1), &at(5, 80));
        assert_eq!(order(policy.as_mut()), [0, 1]);
    }
}
