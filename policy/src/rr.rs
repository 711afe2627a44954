//! rr: round robin. Turns of one slice each, in the order in which workers came back for one.
//!
//! Keyed, the default: BPF's order is arrival and the policy tells the slice, once per worker.
//! Staged: the policy keeps the queue, for servers of an application.
//! Against fifo: turns have a length of their own, in an application too, where fifo runs a worker
//! until it stops.
//!
//! Promise: between two turns of one worker that wants the CPU each other one has at most one, of
//! at most `slice_us`; so with n of them a turn comes after (n - 1) slices. Turns are even, CPU
//! time is not: who sleeps in the middle of a slice has had its turn.
//! Starvation: none.
//! Source: SCHED_RR of POSIX, with one level.

use crate::config::Setup;
use crate::error::PolicyError;
use crate::queue::Queue;
use crate::{Decide, Facts, Policy, Terms, Traits, WorkerId};

pub(crate) const OPTIONS: &[&str] = &["slice_us"];

/// A tick of most kernels: shorter ones end late by as much.
const SLICE_US: u64 = 4000;

#[derive(Debug)]
pub(crate) struct RoundRobin {
    decide: Decide,
    capacity: u32,
    slice_us: u32,
    /// Keyed: without capacity, so that it ignores all workers.
    queue: Queue,
}

impl RoundRobin {
    pub(crate) fn make(setup: &Setup<'_>) -> Result<Self, PolicyError> {
        let slice_us = setup.number("slice_us", SLICE_US, 100, 100_000)?;
        Ok(RoundRobin {
            decide: setup.decide,
            capacity: setup.capacity,
            slice_us: slice_us as u32,
            queue: Queue::new(match setup.decide {
                Decide::Keyed => 0,
                Decide::Staged => setup.capacity,
            }),
        })
    }
}

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "rr"
    }

    fn bytes_per_worker(&self) -> usize {
        match self.decide {
            Decide::Keyed => 0,
            Decide::Staged => Queue::BYTES,
        }
    }

    fn traits(&self) -> Traits {
        Traits {
            decide: self.decide,
            keyed: true,
            alone: true,
            ..Traits::STAGED
        }
    }

    fn len(&self) -> usize {
        self.queue.len()
    }

    fn enqueue(&mut self, w: WorkerId, _facts: &Facts) -> Terms {
        if w.0 >= self.capacity {
            return Terms::default();
        }
        self.queue.push_back(w);
        Terms {
            slice_us: self.slice_us,
            ..Terms::default()
        }
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
    use crate::{Order, create};

    #[test]
    fn rr_tells_its_slice_either_way() {
        for decide in [Decide::Keyed, Decide::Staged] {
            let mut rr = create("rr:slice_us=700", Some(decide), 4).expect("rr does both");
            let terms = rr.enqueue(WorkerId(1), &Facts::default());
            assert_eq!(terms.slice_us, 700);
            assert_eq!(rr.len(), usize::from(decide == Decide::Staged));
            assert_eq!(rr.traits().order, Order::Arrival);
        }
    }
}
