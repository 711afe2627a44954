//! Which servers of a group wait for events: twins of `src/bpf/gidle.bpf.h`.
//!
//! The protocol stands at `enum umcg_idle_kind` in `intf_group.h`; these are for the
//! models, the stress tests and the simulation (feature `twins`), as only BPF calls the real
//! ones. Entries, words and orders are the same. A full barrier of BPF is `fence(SeqCst)` here.

use crate::intf;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use crate::sync::fence;

mod mask;
mod ring;
mod stack;

#[cfg(all(test, loom))]
#[allow(clippy::unwrap_used)]
mod models;
#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod stress;
#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod suite;

pub use mask::Mask;
pub use ring::Ring;
pub use stack::Stack;

/// What a waker was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// This server waited and is the waker's to wake.
    Waits(u32),
    /// None waits; this one runs its own code and looks at its list before it will.
    Runs(u32),
    /// None waits.
    Nobody,
}

impl Taken {
    /// The server to wake.
    pub fn waits(self) -> Option<u32> {
        match self {
            Self::Waits(server) => Some(server),
            _ => None,
        }
    }
}

/// The contract of the three. Servers are 1..=`count`.
pub trait IdleServers: Send + Sync + 'static {
    /// For so many servers; none waits.
    fn with_servers(count: u32) -> Self;

    /// `server` waits from here on; then it looks at its news. Its thread only. False:
    /// it must not wait.
    #[doc(alias = "idle_put")]
    fn put(&self, server: u32) -> bool;

    /// One server that waits, `home` if it does; its news are visible. Any thread.
    #[doc(alias = "idle_take")]
    fn take(&self, home: u32) -> Taken;

    /// `server` waits no more; false: a waker has it, or it did not wait.
    #[doc(alias = "idle_drop")]
    fn leave(&self, server: u32) -> bool;

    /// Deleted entries go; a server that is returned has to be woken. Any thread.
    #[doc(alias = "idle_collect")]
    fn collect(&self) -> Option<u32> {
        None
    }

    /// `server` runs its own code, or does not.
    #[cfg_attr(loom, allow(dead_code))]
    fn set_running(&self, _server: u32, _runs: bool) {}
}

pub(crate) const OUT: u64 = intf::umcg_entry_UMCG_E_OUT as u64;
pub(crate) const WAITS: u64 = intf::umcg_entry_UMCG_E_WAITS as u64;
pub(crate) const DELETED: u64 = intf::umcg_entry_UMCG_E_DELETED as u64;
const STATE: u64 = 0xffff_ffff;
const BELOW_SHIFT: u32 = intf::umcg_entry_UMCG_E_BELOW_SHIFT;

/// A server's entry: index of the one below << 32 | state.
#[derive(Debug, Default)]
pub(crate) struct Entry(AtomicU64);

impl Entry {
    fn state(&self) -> u64 {
        self.0.load(Acquire) & STATE
    }

    fn below(&self) -> u64 {
        self.0.load(Acquire) >> BELOW_SHIFT
    }

    /// From the state `from` to `to`, by one of those who try; the link stays.
    fn pass(&self, from: u64, to: u64) -> bool {
        let entry = self.0.load(Acquire);
        entry & STATE == from
            && self
                .0
                .compare_exchange(entry, entry & !STATE | to, AcqRel, Relaxed)
                .is_ok()
    }

    /// Its state before; OUT now. Who has popped it.
    fn clear(&self) -> u64 {
        self.0.swap(OUT, AcqRel) & STATE
    }

    /// Out of a structure and not WAITS: its server's alone.
    fn link(&self, below: u64) {
        self.0.store(below << BELOW_SHIFT | DELETED, Relaxed);
    }
}

/// The records of `count` servers; index 0 is nobody.
fn entries(count: u32) -> Box<[Entry]> {
    (0..=count).map(|_| Entry::default()).collect()
}

/// A barrier of the diagram at `enum umcg_idle_kind`.
fn full_barrier() {
    fence(SeqCst);
}
