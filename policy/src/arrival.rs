//! arrival: who came first runs first, whenever it wants to. A worker's place is the time at which
//! it became one, kept across blocks, preemptions and moves to another server.
//!
//! Keyed, the default: BPF keeps this order by itself, and the policy has nothing to tell. Staged:
//! the same in the policy, for servers of an application.
//! In an application each task of a runtime counts as a newcomer.
//!
//! Promise: no worker is picked while an earlier one is a candidate.
//! Starvation: certain. The first one, if it never sleeps, shuts out all others but for the relief
//! valve. CAUTION: a yield of the first one picks it again.
//! Source: the run-to-completion order of transaction queues: old requests end before new ones
//! begin, so the number under way stays small; here by worker.

use crate::ordered::{Ordered, Rule};
use crate::{Decide, Facts, Order, Traits};

#[derive(Debug)]
pub(crate) struct ByBirth {
    decide: Decide,
}

pub(crate) type Arrival = Ordered<ByBirth>;

impl Arrival {
    pub(crate) fn new(decide: Decide, capacity: u32) -> Self {
        Ordered::by(ByBirth { decide }, capacity)
    }
}

impl Rule for ByBirth {
    fn name(&self) -> &'static str {
        "arrival"
    }

    fn traits(&self) -> Traits {
        Traits {
            decide: self.decide,
            keyed: true,
            order: match self.decide {
                Decide::Keyed => Order::Birth,
                Decide::Staged => Order::Own,
            },
            alone: true,
            ..Traits::STAGED
        }
    }

    // An earlier one may come while a choice made ahead waits.
    fn stage_budget_ns(&self) -> u64 {
        match self.decide {
            Decide::Keyed => u64::MAX,
            Decide::Staged => 0,
        }
    }

    fn key(&self, facts: &Facts) -> Option<u64> {
        // Without terms is 0.
        (self.decide == Decide::Staged).then(|| facts.born_ns.clamp(1, 1 << 61))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, WorkerId};

    fn enqueue(arrival: &mut Arrival, id: u32, born_ns: u64) -> u64 {
        let facts = Facts {
            born_ns,
            ..Facts::default()
        };
        arrival.enqueue(WorkerId(id), &facts).own_key
    }

    #[test]
    fn arrival_place_is_the_same_after_a_block() {
        let mut arrival = Arrival::new(Decide::Staged, 4);
        for (id, born) in [(3, 30), (0, 10), (2, 20)] {
            enqueue(&mut arrival, id, born);
        }
        assert_eq!(arrival.pick(), Some(WorkerId(0)));
        arrival.block(WorkerId(0), &Facts::default());
        enqueue(&mut arrival, 0, 10);
        let order: Vec<_> = std::iter::from_fn(|| arrival.pick().map(|w| w.0)).collect();
        assert_eq!(order, [0, 2, 3]);
    }

    #[test]
    fn arrival_keyed_leaves_it_to_the_kernel() {
        let mut arrival = Arrival::new(Decide::Keyed, 4);
        assert_eq!(enqueue(&mut arrival, 1, 77), 0);
        assert_eq!(arrival.traits().order, Order::Birth);
        assert_eq!((arrival.len(), arrival.pick()), (0, None));
    }
}
