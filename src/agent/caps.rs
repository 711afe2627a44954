//! Memory locking, and giving up the capabilities that are not needed any more.

use log::warn;
use scx_rustland_core::ALLOCATOR;

/// Locks all memory, so that a server never waits for a page. True: it is locked.
pub fn lock_memory() -> bool {
    ALLOCATOR.lock_memory();
    true
}

/// Undoes [`lock_memory`], the sysctl it changed included.
pub fn unlock_memory() {
    ALLOCATOR.unlock_memory();
}

/// Keeps only what a running agent uses, for the calling thread.
pub fn drop_unneeded() {
    use caps::{CapSet, Capability::*, CapsHashSet};
    let keep: CapsHashSet = [CAP_BPF, CAP_PERFMON, CAP_SYS_NICE, CAP_IPC_LOCK].into();
    let Ok(have) = caps::read(None, CapSet::Permitted) else {
        return;
    };
    let keep: CapsHashSet = keep.intersection(&have).copied().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        if let Err(err) = caps::set(None, set, &keep) {
            warn!("keeps its capabilities: {err}");
            return;
        }
    }
}
