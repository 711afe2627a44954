//! shortest: who is expected to run shortest comes first. The example of `docs/write-a-policy.md`:
//! a policy outside of the project, for servers of an application.
//!
//! Promise: of all candidates the one with the least key is picked, the time at which it came plus
//! `PATIENCE` times the average of its bursts.
//! Starvation: none. A worker that needs 1 ms on average is passed only by what comes within 20 ms
//! of it.
//! Source: shortest job first, with the estimates of the past in place of lengths; the bound is
//! that of highest response ratio next (Brinch Hansen 1971), made linear.

use umcg::policy::{Facts, Heap, Policy, Terms, Traits, WorkerId};

/// So many times its own length a worker waits for shorter ones.
const PATIENCE: u64 = 20;

/// The policy.
#[derive(Debug)]
pub struct Shortest {
    waiting: Heap,
}

impl Shortest {
    /// For ids below `capacity`; what `umcg::runtime::Builder::policy_with` takes.
    pub fn make(capacity: u32) -> Box<dyn Policy> {
        let waiting = Heap::new(capacity);
        Box::new(Shortest { waiting })
    }
}

impl Policy for Shortest {
    fn name(&self) -> &'static str {
        "shortest"
    }

    fn traits(&self) -> Traits {
        Traits::STAGED
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    // Shorter ones may come while a choice made ahead waits.
    fn stage_budget_ns(&self) -> u64 {
        0
    }

    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms {
        let length = u64::from(facts.avg_ns.max(facts.burst_ns));
        let key = facts.since_ns.wrapping_add(PATIENCE * length);
        self.waiting.push(w, key);
        Terms::default()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use umcg::GroupConfig;
    use umcg::runtime::{Builder, yield_now};

    use super::*;

    #[test]
    fn shortest_is_picked_first_unless_another_waited_long() {
        let mut policy = Shortest::make(4);
        let mut come = |id, since_ms: u64, avg_ms: u32| {
            let facts = Facts {
                since_ns: since_ms * 1_000_000,
                avg_ns: avg_ms * 1_000_000,
                ..Facts::default()
            };
            policy.enqueue(WorkerId(id), &facts);
        };
        come(0, 100, 10);
        come(1, 101, 1);
        come(2, 290, 1);
        let order: Vec<_> = std::iter::from_fn(|| policy.pick().map(|w| w.0)).collect();
        assert_eq!(order, [1, 0, 2]);
    }

    #[test]
    fn shortest_runs_tasks() {
        let group = GroupConfig {
            futex_only: true,
            ..GroupConfig::default()
        };
        let builder = Builder::new().group(group).policy_with(Shortest::make);
        let runtime = builder.build().expect("a runtime");
        let tasks: Vec<_> = (0..20)
            .map(|n| {
                runtime.spawn(move || {
                    yield_now();
                    umcg::runtime::sleep(Duration::from_millis(1));
                    n
                })
            })
            .collect();
        let sum: u32 = tasks
            .into_iter()
            .map(|task| task.join().expect("no panic"))
            .sum();
        assert_eq!(sum, 190);
    }
}
