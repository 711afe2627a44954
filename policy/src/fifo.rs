//! fifo: workers run in the order in which they became RUNNABLE. Staged only: BPF's order by
//! arrival needs no agent, so a keyed fifo would tell it nothing.
//!
//! Order: arrival, by the last `enqueue`. A worker named again goes to the tail, a preempted one
//! too: the facts do not say whether its slice was used up, and at the head a hog whose slice is
//! cut short again and again would keep everybody behind it waiting.
//! Starvation: none. A candidate waits for at most those that were there before it. It may wait
//! long behind hogs: nobody is preempted for it.

use crate::queue::Queue;
use crate::{Facts, Policy, Terms, Traits, WorkerId};

#[derive(Debug)]
pub(crate) struct Fifo {
    queue: Queue,
}

impl Fifo {
    pub(crate) fn new(capacity: u32) -> Self {
        Fifo {
            queue: Queue::new(capacity),
        }
    }
}

impl Policy for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn bytes_per_worker(&self) -> usize {
        Queue::BYTES
    }

    fn traits(&self) -> Traits {
        Traits {
            alone: true,
            ..Traits::STAGED
        }
    }

    fn len(&self) -> usize {
        self.queue.len()
    }

    fn enqueue(&mut self, w: WorkerId, _facts: &Facts) -> Terms {
        self.queue.push_back(w);
        Terms::default()
    }

    fn pick(&mut self) -> Option<WorkerId> {
        self.queue.pop_front()
    }

    fn block(&mut self, w: WorkerId, _facts: &Facts) -> Option<Terms> {
        self.queue.remove(w);
        None
    }

    fn remove(&mut self, w: WorkerId) {
        self.queue.remove(w);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifo_key_and_weight_do_not_matter() {
        let mut fifo = Fifo::new(4);
        for (id, key) in [(3, 9), (0, 1), (2, 5)] {
            let facts = Facts {
                key,
                weight: 1000 * id,
                ..Facts::default()
            };
            assert_eq!(fifo.enqueue(WorkerId(id), &facts), Terms::default());
        }
        let order = [fifo.pick(), fifo.pick(), fifo.pick(), fifo.pick()];
        assert_eq!(
            order,
            [Some(3), Some(0), Some(2), None].map(|id| id.map(WorkerId))
        );
    }

    #[test]
    fn fifo_preempted_worker_goes_to_the_tail() {
        let mut fifo = Fifo::new(2);
        let preempted = Facts {
            preempted: true,
            ..Facts::default()
        };
        fifo.enqueue(WorkerId(0), &Facts::default());
        fifo.enqueue(WorkerId(1), &Facts::default());
        fifo.enqueue(WorkerId(0), &preempted);
        assert_eq!(fifo.pick(), Some(WorkerId(1)));
        assert_eq!(fifo.pick(), Some(WorkerId(0)));
    }
}
