//! What a runtime has done.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) spawned: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) panicked: AtomicU64,
    pub(super) runs: AtomicU64,
    pub(super) blocked: AtomicU64,
    pub(super) waits: AtomicU64,
    pub(super) yields: AtomicU64,
    pub(super) preempted: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) stolen: AtomicU64,
    pub(super) threads: AtomicU64,
}

/// What a runtime has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks given to it.
    pub spawned: u64,
    /// Tasks that returned.
    pub completed: u64,
    /// Tasks that panicked.
    pub panicked: u64,
    /// Times that a server ran a worker.
    pub runs: u64,
    /// Slots given back by a block in the kernel: kernel mode only.
    pub blocked: u64,
    /// Slots given back by a wait.
    pub waits: u64,
    /// Slots given back by a yield.
    pub yields: u64,
    /// Slots taken back by force.
    pub preempted: u64,
    /// Times that a worker could not be forced off at the end of its quantum.
    pub timeouts: u64,
    /// Workers taken from another server's queue.
    pub stolen: u64,
    /// Worker threads made.
    pub threads: u64,
}

impl Counters {
    /// All of them, each read when its turn comes.
    pub(super) fn read(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            spawned: load(&self.spawned),
            completed: load(&self.completed),
            panicked: load(&self.panicked),
            runs: load(&self.runs),
            blocked: load(&self.blocked),
            waits: load(&self.waits),
            yields: load(&self.yields),
            preempted: load(&self.preempted),
            timeouts: load(&self.timeouts),
            stolen: load(&self.stolen),
            threads: load(&self.threads),
        }
    }
}
