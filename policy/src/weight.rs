//! test-weight: fair, but workers with an even thread id weigh three times as much from 8 s
//! after the policy's first `enqueue` on. FOR TESTS ONLY.
//!
//! A test sees a changed weight come into force, and its share with it. Workers that never block
//! hear of it too: by `retune`, in the first turn after that time. Hidden from the list of names.
//!
//! Order: as fair, keyed.
//! Starvation: none; shares of 3 to 1 among workers of equal nice.

use crate::fair::Fair;
use crate::{Decide, Facts, Policy, Terms, Traits, WorkerId};

const HEAVY_PCT: u32 = 300;
/// Late enough that a test knows its workers by then.
const FROM_NS: u64 = 8_000_000_000;
/// Half of what a test grants from the decision to its effect.
const TICK_NS: u64 = 10_000_000;

#[derive(Debug)]
pub(crate) struct TestWeight {
    fair: Fair,
    first_ns: Option<u64>,
    heavy: Box<[bool]>,
    /// Even thread id, by worker; what `retune` walks once, when the time has come.
    even: Box<[bool]>,
    walked: usize,
}

impl TestWeight {
    pub(crate) fn new(capacity: u32) -> Self {
        TestWeight {
            fair: Fair::new(Decide::Keyed, capacity),
            first_ns: None,
            heavy: vec![false; capacity as usize].into(),
            even: vec![false; capacity as usize].into(),
            walked: 0,
        }
    }

    fn terms(&self, w: WorkerId, facts: &Facts) -> Terms {
        let heavy = self.heavy.get(w.0 as usize).is_some_and(|&heavy| heavy);
        Terms {
            weight_pct: if heavy { HEAVY_PCT } else { 100 },
            ..self.fair.terms(w, facts)
        }
    }

    /// Weighs `w` anew.
    fn weigh(&mut self, w: WorkerId, facts: &Facts) {
        let Some(heavy) = self.heavy.get_mut(w.0 as usize) else {
            return;
        };
        let even = facts.pid % 2 == 0;
        self.even[w.0 as usize] = even;
        *heavy = even && begun(self.first_ns, facts.now_ns);
    }
}

fn begun(first_ns: Option<u64>, now_ns: u64) -> bool {
    first_ns.is_some_and(|first| now_ns.saturating_sub(first) >= FROM_NS)
}

impl Policy for TestWeight {
    fn name(&self) -> &'static str {
        "test-weight"
    }

    fn bytes_per_worker(&self) -> usize {
        self.fair.bytes_per_worker() + 2 // heavy and even
    }

    fn traits(&self) -> Traits {
        Traits {
            staged: false,
            tick_ns: TICK_NS,
            ..self.fair.traits()
        }
    }

    fn len(&self) -> usize {
        0
    }

    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms {
        self.first_ns.get_or_insert(facts.now_ns);
        self.weigh(w, facts);
        self.terms(w, facts)
    }

    fn pick(&mut self) -> Option<WorkerId> {
        None
    }

    fn block(&mut self, w: WorkerId, facts: &Facts) -> Option<Terms> {
        self.weigh(w, facts);
        self.fair.block(w, facts).map(|_| self.terms(w, facts))
    }

    fn remove(&mut self, w: WorkerId) {
        self.fair.remove(w);
        if let Some(heavy) = self.heavy.get_mut(w.0 as usize) {
            *heavy = false;
            self.even[w.0 as usize] = false;
        }
    }

    fn retune(&mut self, now_ns: u64) -> Option<(WorkerId, Terms)> {
        if !begun(self.first_ns, now_ns) {
            return None;
        }
        while self.walked < self.even.len() {
            let w = self.walked;
            self.walked += 1;
            if self.even[w] && !std::mem::replace(&mut self.heavy[w], true) {
                let w = WorkerId(w as u32);
                return Some((w, self.terms(w, &Facts::default())));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A hog, so that no bias comes in.
    fn facts(now_ms: u64, pid: i32) -> Facts {
        Facts {
            now_ns: now_ms * MS,
            avg_ns: 5_000_000,
            pid,
            ..Facts::default()
        }
    }

    #[test]
    fn weight_even_pid_is_heavy_from_then_on() {
        let mut policy = TestWeight::new(4);
        let mut pct = |now, pid| policy.enqueue(WorkerId(1), &facts(now, pid)).weight_pct;
        assert_eq!([pct(1000, 42), pct(8999, 42)], [100, 100]);
        assert_eq!(
            [pct(9000, 42), pct(9000, 43), pct(19000, 44)],
            [300, 100, 300]
        );
    }

    #[test]
    fn weight_change_is_told_at_a_block() {
        let mut policy = TestWeight::new(4);
        let w = WorkerId(1);
        policy.enqueue(w, &facts(1000, 42));
        let mut pct = |now| policy.block(w, &facts(now, 42)).map(|t| t.weight_pct);
        assert_eq!([pct(8999), pct(9000)], [Some(100), Some(300)]);
    }

    #[test]
    fn weight_change_reaches_a_hog_by_retune_once() {
        let mut policy = TestWeight::new(4);
        policy.enqueue(WorkerId(1), &facts(1000, 42));
        policy.enqueue(WorkerId(2), &facts(1000, 43));
        assert_eq!(policy.retune(8999 * MS), None);
        let told = policy.retune(9000 * MS);
        assert_eq!(told.map(|(w, t)| (w.0, t.weight_pct)), Some((1, 300)));
        assert_eq!(policy.retune(9001 * MS), None);
    }

    #[test]
    fn weight_removed_worker_leaves_no_weight_to_its_id() {
        let mut policy = TestWeight::new(4);
        let w = WorkerId(1);
        policy.enqueue(w, &facts(1000, 42));
        policy.enqueue(w, &facts(9300, 42));
        policy.remove(w);
        let told = policy.block(w, &facts(9400, 44));
        assert_eq!(told.map(|terms| terms.weight_pct), Some(300));
    }

    #[test]
    fn weight_short_sleeper_keeps_the_bias_of_fair() {
        let mut policy = TestWeight::new(4);
        let w = WorkerId(1);
        policy.enqueue(w, &facts(1000, 42));
        let short = Facts {
            avg_ns: 10,
            ..facts(10000, 42)
        };
        let want = Terms {
            bias_ns: -500_000,
            weight_pct: 300,
            ..Terms::default()
        };
        assert_eq!(policy.block(w, &short), Some(want));
    }
}
