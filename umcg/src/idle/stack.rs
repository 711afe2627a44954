//! A stack that wakers pop; who leaves it elsewhere is marked, and collected later.

use super::{DELETED, Entry, IdleServers, OUT, Taken, WAITS, entries, full_barrier, ring};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Acquire};

const TAG: u64 = 1 << 32;
const INDEX: u64 = TAG - 1;
/// `UMCG_IDLE_POPS`; few in models, so that the walk is reached.
pub(super) const POPS: u32 = if cfg!(loom) { 2 } else { 16 };
const PUT_TRIES: u32 = 64;

/// Oskolkov's: the server that waits for the shortest time is on top.
#[derive(Debug)]
pub struct Stack {
    /// tag << 32 | index: the tag goes up with each change.
    top: AtomicU64,
    entries: Box<[Entry]>,
}

impl Stack {
    fn entry(&self, index: u64) -> &Entry {
        &self.entries[(index & INDEX) as usize]
    }

    fn next_tag(top: u64) -> u64 {
        (top & !INDEX).wrapping_add(TAG)
    }

    /// Takes the top that was read as `top` off: its entry is the caller's to make OUT.
    fn pop(&self, top: u64) -> bool {
        let next = Self::next_tag(top) | self.entry(top).below();
        self.top
            .compare_exchange(top, next, AcqRel, Acquire)
            .is_ok()
    }

    /// Linked as a deleted one: who pops it now takes nobody, and the put begins anew.
    fn link(&self, server: u32) -> bool {
        let entry = &self.entries[server as usize];
        let mut top = self.top.load(Acquire);
        for _ in 0..PUT_TRIES {
            entry.link(top & INDEX);
            let next = Self::next_tag(top) | u64::from(server);
            match self.top.compare_exchange(top, next, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(seen) => top = seen,
            }
        }
        entry.clear();
        false
    }
}

impl IdleServers for Stack {
    fn with_servers(count: u32) -> Self {
        Self {
            top: AtomicU64::new(0),
            entries: entries(count),
        }
    }

    fn put(&self, server: u32) -> bool {
        let entry = &self.entries[server as usize];
        for _ in 0..PUT_TRIES {
            match entry.state() {
                WAITS => return true,
                OUT if !self.link(server) => return false,
                OUT => continue,
                _ => {}
            }
            if entry.pass(DELETED, WAITS) {
                full_barrier();
                return true;
            }
        }
        false
        // pairs with take()
    }

    fn take(&self, home: u32) -> Taken {
        full_barrier();
        if home != 0 && self.entries[home as usize].pass(WAITS, DELETED) {
            return Taken::Waits(home);
        }
        for _ in 0..POPS {
            let top = self.top.load(Acquire);
            if top & INDEX == 0 {
                return Taken::Nobody;
            }
            if self.pop(top) && self.entry(top).clear() == WAITS {
                return Taken::Waits(top as u32);
            }
        }
        // Below what was met there may be one that waits.
        ring::walk(&self.entries, home, DELETED, |_| false)
        // pairs with put()
    }

    fn leave(&self, server: u32) -> bool {
        self.entries[server as usize].pass(WAITS, DELETED)
    }

    fn collect(&self) -> Option<u32> {
        for _ in 0..self.entries.len() {
            let top = self.top.load(Acquire);
            if top & INDEX == 0 || self.entry(top).state() != DELETED {
                return None;
            }
            // Put meanwhile, it may have been missed by a waker while it was popped.
            if self.pop(top) && self.entry(top).clear() == WAITS {
                return Some(top as u32);
            }
        }
        None
        // pairs with put()
    }
}
