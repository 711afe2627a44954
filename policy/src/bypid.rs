//! test-pid, test-pid-reverse: strict order by thread id. FOR TESTS ONLY.
//!
//! A test can tell from outside who had to run first, which no real policy allows; so a wrong
//! order cannot hide. Hidden from the list of names.
//!
//! Order: lowest thread id first, or highest first; the kernel's order is the policy's own.
//! Starvation: certain. A worker runs only while no better one wants the CPU; one lowest thread
//! that never sleeps starves all others until the relief valve or the watchdog steps in.

use crate::ordered::{Ordered, Rule};
use crate::{Decide, Facts, Order, Traits};

#[derive(Debug)]
pub(crate) struct PidOrder {
    decide: Decide,
    reverse: bool,
}

pub(crate) type ByPid = Ordered<PidOrder>;

impl ByPid {
    pub(crate) fn new(decide: Decide, reverse: bool, capacity: u32) -> Self {
        Ordered::by(PidOrder { decide, reverse }, capacity)
    }
}

impl Rule for PidOrder {
    fn name(&self) -> &'static str {
        match self.reverse {
            false => "test-pid",
            true => "test-pid-reverse",
        }
    }

    fn traits(&self) -> Traits {
        Traits {
            decide: self.decide,
            keyed: true,
            order: Order::Own,
            ..Traits::STAGED
        }
    }

    fn key(&self, facts: &Facts) -> Option<u64> {
        let pid = u64::from(facts.pid.cast_unsigned());
        Some(match self.reverse {
            false => pid,
            true => (1 << 32) - pid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, WorkerId};

    const PIDS: [i32; 5] = [17, 1, 4_194_304, 2, 900];

    fn enqueue(policy: &mut ByPid, id: u32, pid: i32) -> u64 {
        let facts = Facts {
            pid,
            ..Facts::default()
        };
        policy.enqueue(WorkerId(id), &facts).own_key
    }

    fn order(reverse: bool) -> Vec<i32> {
        let mut policy = ByPid::new(Decide::Staged, reverse, 8);
        for (id, pid) in (0..).zip(PIDS) {
            enqueue(&mut policy, id, pid);
        }
        std::iter::from_fn(|| policy.pick().map(|w| PIDS[w.0 as usize])).collect()
    }

    #[test]
    fn bypid_staged_lowest_first() {
        assert_eq!(order(false), [1, 2, 17, 900, 4_194_304]);
    }

    #[test]
    fn bypid_reverse_staged_highest_first() {
        assert_eq!(order(true), [4_194_304, 900, 17, 2, 1]);
    }

    #[test]
    fn bypid_keyed_keys_are_the_pids_order() {
        let mut up = ByPid::new(Decide::Keyed, false, 8);
        let mut down = ByPid::new(Decide::Keyed, true, 8);
        for pid in [1, 300, i32::MAX] {
            // BPF puts those without terms at 0: before all of these.
            assert_eq!(enqueue(&mut up, 0, pid), pid as u64);
            assert_eq!(enqueue(&mut down, 0, pid), (1 << 32) - pid as u64);
        }
        assert_eq!((up.len(), up.pick()), (0, None));
    }

    #[test]
    fn bypid_odd_pids_do_not_panic() {
        let mut down = ByPid::new(Decide::Staged, true, 8);
        assert_eq!(enqueue(&mut down, 0, 0), 1 << 32);
        assert_eq!(enqueue(&mut down, 1, -1), 1);
    }
}
