//! Policies that are an order and nothing else: a worker gets a key when it becomes a candidate,
//! the earliest candidate is picked, and nothing is remembered of one that is none.
//!
//! O(log candidates) per call; memory is made at the start. The order itself is a [`Rule`].

use crate::heap::Heap;
use crate::{Facts, Policy, Terms, Traits, WorkerId};

/// What such policies differ in.
pub(crate) trait Rule: Send {
    fn name(&self) -> &'static str;

    /// Constant over its life.
    fn traits(&self) -> Traits;

    /// See [`Policy::stage_budget_ns`].
    fn stage_budget_ns(&self) -> u64 {
        u64::MAX
    }

    /// The worker's key now; `None`: the kernel has this order by itself, there is nothing to tell.
    fn key(&self, facts: &Facts) -> Option<u64>;
}

/// The policy that a rule makes.
#[derive(Debug)]
pub(crate) struct Ordered<R> {
    rule: R,
    capacity: u32,
    /// Candidates. Keyed: without capacity, so that it ignores all workers.
    waiting: Heap,
}

impl<R: Rule> Ordered<R> {
    pub(crate) fn by(rule: R, capacity: u32) -> Self {
        let waiting = Heap::candidates(rule.traits().decide, capacity);
        Ordered {
            rule,
            capacity,
            waiting,
        }
    }
}

impl<R: Rule> Policy for Ordered<R> {
    fn name(&self) -> &'static str {
        self.rule.name()
    }

    fn bytes_per_worker(&self) -> usize {
        Heap::bytes_per_worker(self.rule.traits().decide)
    }

    fn traits(&self) -> Traits {
        self.rule.traits()
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    fn stage_budget_ns(&self) -> u64 {
        self.rule.stage_budget_ns()
    }

    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms {
        let known = w.0 < self.capacity;
        let Some(own_key) = self.rule.key(facts).filter(|_| known) else {
            return Terms::default();
        };
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
    }
}
