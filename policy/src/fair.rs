//! fair: CPU time in proportion to weight, and short sleepers a little earlier.
//!
//! Keyed, the default: BPF charges virtual time, orders by it and preempts by itself; what the
//! policy adds is a bias for workers whose bursts are short. Their place is then ahead of
//! equals, so they wait less; as the bias is not charged, shares stay exact.
//! Staged: picks by virtual time as of the worker's `enqueue`, at most 4 ms of work ahead. What
//! a worker asks for, [`Attrs::weight`], whoever keeps that time charges by.
//! Measured (`docs/design.md#fair`): staging costs more and is less responsive, because a choice made
//! ahead is old when it runs.
//!
//! Order: the kernel's virtual time, lowest first; ties by arrival.
//! Starvation: none. Virtual time of those that run grows without bound, and a sleeper may return
//! at most 5 ms (plus a bias of 0.5 ms) before the clock, so each waiting worker becomes the
//! earliest. Staged, those picked ahead go first, which the budget bounds.

use crate::attrs::within;
use crate::heap::Heap;
use crate::{Attrs, Decide, Facts, Order, Policy, Refused, Terms, Traits, WorkerId};

/// Bursts below this make a short sleeper.
const SHORT_NS: u32 = 1_000_000;
/// Half of SHORT_NS, and a tenth of what BPF lets a sleeper bank: enough to pass equals, too
/// little to pass a worker that is owed time.
const SHORT_BIAS_NS: i64 = -500_000;
/// About one slice: a better arrival waits no longer than for a slice that began before it.
const STAGE_BUDGET_NS: u64 = 4_000_000;

#[derive(Debug)]
pub(crate) struct Fair {
    decide: Decide,
    waiting: Heap,
    capacity: u32,
}

impl Fair {
    pub(crate) fn new(decide: Decide, capacity: u32) -> Self {
        Fair {
            decide,
            waiting: Heap::candidates(decide, capacity),
            capacity,
        }
    }

    /// The terms that its history earns a worker; one that never slept has none. They follow from
    /// the facts alone: each server has a policy of its own, and workers move between servers.
    pub(crate) fn terms(&self, w: WorkerId, facts: &Facts) -> Terms {
        let keyed = self.decide == Decide::Keyed && w.0 < self.capacity;
        let short = keyed && (1..SHORT_NS).contains(&facts.avg_ns);
        Terms {
            bias_ns: if short { SHORT_BIAS_NS } else { 0 },
            ..Terms::default()
        }
    }
}

impl Policy for Fair {
    fn name(&self) -> &'static str {
        "fair"
    }

    fn bytes_per_worker(&self) -> usize {
        Heap::bytes_per_worker(self.decide)
    }

    fn traits(&self) -> Traits {
        Traits {
            decide: self.decide,
            keyed: true,
            staged: true,
            order: Order::Fair,
            history: self.decide == Decide::Keyed,
            tick_ns: 0,
            alone: false,
        }
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    fn stage_budget_ns(&self) -> u64 {
        match self.decide {
            Decide::Keyed => u64::MAX,
            Decide::Staged => STAGE_BUDGET_NS,
        }
    }

    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms {
        self.waiting.push(w, facts.key);
        self.terms(w, facts)
    }

    fn pick(&mut self) -> Option<WorkerId> {
        self.waiting.pop()
    }

    // Judged by the average that BPF keeps over every burst. One of our own over the bursts that
    // we hear of would be wrong: BPF tells a block only when that average has moved by a factor
    // of two, so ours would stop half-way, and `burst_ns` is 0 again by the time of the call.
    fn block(&mut self, w: WorkerId, facts: &Facts) -> Option<Terms> {
        self.waiting.remove(w);
        (self.decide == Decide::Keyed && w.0 < self.capacity).then(|| self.terms(w, facts))
    }

    fn remove(&mut self, w: WorkerId) {
        self.waiting.remove(w);
    }

    // Keyed: the kernel charges, by nice values and cgroups.
    fn assign(&mut self, w: WorkerId, attrs: &Attrs) -> Result<(), Refused> {
        let known = match self.decide {
            Decide::Keyed => "",
            Decide::Staged => "weight",
        };
        attrs.only(known, self.name())?;
        if w.0 >= self.capacity {
            let (id, capacity) = (w.0, self.capacity);
            return Err(Refused::Worker { id, capacity });
        }
        match attrs.weight {
            Some(weight) => within("weight", weight.into(), 1, 10_000),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: WorkerId = WorkerId(1);

    fn avg(avg_ns: u32) -> Facts {
        Facts {
            avg_ns,
            ..Facts::default()
        }
    }

    fn bias(bias_ns: i64) -> Terms {
        Terms {
            bias_ns,
            ..Terms::default()
        }
    }

    #[test]
    fn fair_keyed_short_sleeper_gets_a_bias() {
        let mut fair = Fair::new(Decide::Keyed, 4);
        assert_eq!(fair.enqueue(W, &avg(0)), Terms::default());
        assert_eq!(fair.block(W, &avg(999_999)), Some(bias(-500_000)));
        assert_eq!(fair.enqueue(W, &avg(20_000)), bias(-500_000));
        assert_eq!(fair.block(W, &avg(1_000_000)), Some(Terms::default()));
        assert_eq!(fair.block(W, &avg(u32::MAX)), Some(Terms::default()));
    }

    #[test]
    fn fair_keyed_keeps_nothing_for_pick() {
        let mut fair = Fair::new(Decide::Keyed, 4);
        fair.enqueue(W, &avg(0));
        assert_eq!((fair.len(), fair.pick()), (0, None));
        assert_eq!(fair.stage_budget_ns(), u64::MAX);
        assert!(fair.traits().history);
    }

    #[test]
    fn fair_staged_picks_by_virtual_time() {
        let mut fair = Fair::new(Decide::Staged, 4);
        for (id, key) in [(0, 30), (1, u64::MAX), (2, 10)] {
            let facts = Facts {
                key,
                ..Facts::default()
            };
            assert_eq!(fair.enqueue(WorkerId(id), &facts), Terms::default());
        }
        assert_eq!(fair.block(WorkerId(3), &avg(10)), None);
        let order = [fair.pick(), fair.pick(), fair.pick(), fair.pick()];
        assert_eq!(
            order,
            [Some(1), Some(2), Some(0), None].map(|id| id.map(WorkerId))
        );
        assert_eq!(fair.stage_budget_ns(), 4_000_000);
        assert!(!fair.traits().history);
    }

    #[test]
    fn fair_takes_weights_where_virtual_time_is_not_the_kernels() {
        let weight = |weight| Attrs {
            weight: Some(weight),
            ..Attrs::default()
        };
        let mut fair = Fair::new(Decide::Staged, 4);
        for good in [1, 10_000] {
            assert_eq!(fair.assign(W, &weight(good)), Ok(()));
        }
        for bad in [0, 10_001] {
            let text = fair.assign(W, &weight(bad)).map_err(|e| e.to_string());
            assert_eq!(text, Err(format!("weight {bad}: not within 1..=10000")));
        }
        let none = fair.assign(WorkerId(4), &weight(100));
        assert_eq!(none, Err(Refused::Worker { id: 4, capacity: 4 }));
        assert!(Fair::new(Decide::Keyed, 4).assign(W, &weight(300)).is_err());
    }
}
