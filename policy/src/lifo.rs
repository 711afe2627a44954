//! lifo: who woke last runs first, so that what is warm in the caches goes on. Staged only: the
//! place of a worker is known when it wakes, and keys are told before.
//!
//! Promise: of all candidates the one with the latest wake-up is picked. A preempted worker keeps
//! the place that it woke at; one that yielded goes behind all that have not.
//! Starvation: certain. Who woke early waits while later ones come, without any bound but the
//! relief valve of the kernel side; one that never sleeps shuts out all below it.
//! Source: the LIFO slot of work-stealing pools (Blumofe and Leiserson 1999), here for the whole
//! queue; gloop's LIFO scheduler, which is for tasks that wait for their children.

use crate::ordered::{Ordered, Rule};
use crate::{Facts, Order, Traits};

/// Above all times in ns that will ever be.
const TOP: u64 = 1 << 61;

#[derive(Debug)]
pub(crate) struct LastFirst;

pub(crate) type Lifo = Ordered<LastFirst>;

impl Lifo {
    pub(crate) fn new(capacity: u32) -> Self {
        Ordered::by(LastFirst, capacity)
    }
}

impl Rule for LastFirst {
    fn name(&self) -> &'static str {
        "lifo"
    }

    fn traits(&self) -> Traits {
        Traits {
            order: Order::Own,
            alone: true,
            ..Traits::STAGED
        }
    }

    // A choice made ahead would run before who wakes meanwhile.
    fn stage_budget_ns(&self) -> u64 {
        0
    }

    /// Early for a late wake-up. Of yielders the first comes first, or two would pass the CPU to
    /// and fro for ever.
    fn key(&self, facts: &Facts) -> Option<u64> {
        Some(match facts.yielded {
            false => TOP - facts.woke_ns.min(TOP - 1),
            true => TOP + facts.since_ns.min(TOP - 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, WorkerId};

    fn enqueue(lifo: &mut Lifo, id: u32, woke_ns: u64, since_ns: u64, yielded: bool) {
        let facts = Facts {
            woke_ns,
            since_ns,
            yielded,
            ..Facts::default()
        };
        lifo.enqueue(WorkerId(id), &facts);
    }

    fn order(lifo: &mut Lifo) -> Vec<u32> {
        std::iter::from_fn(|| lifo.pick().map(|w| w.0)).collect()
    }

    #[test]
    fn lifo_last_to_wake_is_first() {
        let mut lifo = Lifo::new(4);
        for (id, woke) in [(2, 10), (0, 30), (3, 20)] {
            enqueue(&mut lifo, id, woke, woke, false);
        }
        assert_eq!(order(&mut lifo), [0, 3, 2]);
    }

    #[test]
    fn lifo_preempted_keeps_its_place_and_a_yielder_goes_last() {
        let mut lifo = Lifo::new(4);
        enqueue(&mut lifo, 0, 10, 90, false);
        enqueue(&mut lifo, 1, 20, 20, false);
        enqueue(&mut lifo, 2, 40, 80, true);
        enqueue(&mut lifo, 3, 50, 70, true);
        assert_eq!(order(&mut lifo), [1, 0, 3, 2]);
    }
}
