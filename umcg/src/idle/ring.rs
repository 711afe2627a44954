//! The servers' records in a circle that never changes, walked by the waker.

use super::{Entry, IdleServers, OUT, Taken, WAITS, entries, full_barrier};
use crate::sync::AtomicU32;
use crate::sync::Ordering::{AcqRel, Acquire, Release};

/// Zijlstra's: no state but that of each server.
#[derive(Debug)]
pub struct Ring {
    entries: Box<[Entry]>,
    running: Box<[AtomicU32]>,
}

impl IdleServers for Ring {
    fn with_servers(count: u32) -> Self {
        Self {
            entries: entries(count),
            running: (0..=count).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    fn put(&self, server: u32) -> bool {
        self.entries[server as usize].0.swap(WAITS, AcqRel);
        full_barrier();
        true
        // pairs with take()
    }

    fn take(&self, home: u32) -> Taken {
        full_barrier();
        walk(&self.entries, home, OUT, |server| {
            self.running[server as usize].load(Acquire) != 0
        })
        // pairs with put()
    }

    fn leave(&self, server: u32) -> bool {
        self.entries[server as usize].pass(WAITS, OUT)
    }

    fn set_running(&self, server: u32, runs: bool) {
        self.running[server as usize].store(runs.into(), Release);
    }
}

/// Twin of `walk_take()`: the first from `home` that waits, whose entry goes to `to`; else
/// the first that runs its own code.
pub(super) fn walk(entries: &[Entry], home: u32, to: u64, runs: impl Fn(u32) -> bool) -> Taken {
    let end = entries.len() as u32 - 1;
    let mut taken = Taken::Nobody;
    let mut server = if (1..=end).contains(&home) { home } else { 1 };
    for _ in 0..end {
        if entries[server as usize].pass(WAITS, to) {
            return Taken::Waits(server);
        }
        if taken == Taken::Nobody && runs(server) {
            taken = Taken::Runs(server);
        }
        server = if server == end { 1 } else { server + 1 };
    }
    taken
}
