//! Memory locking, and giving up the capabilities that are not needed any more.

use log::warn;
use scx_rustland_core::ALLOCATOR;

/// Changed by the allocator's `lock_memory` while memory is locked.
const SYSCTL: &str = "/proc/sys/vm/compact_unevictable_allowed";

/// The sysctl that [`lock_memory`] changes, as it is now.
pub fn unevictable_sysctl() -> Option<String> {
    Some(std::fs::read_to_string(SYSCTL).ok()?.trim().to_owned())
}

/// Puts back what an instance that was killed could not; to be called before [`lock_memory`].
pub fn restore_sysctl(value: &str) {
    if let Err(err) = std::fs::write(SYSCTL, value) {
        warn!("{SYSCTL}: cannot restore {value}, which an earlier instance left at 0: {err}");
    }
}

/// Locks all memory, so that a server never waits for a page.
pub fn lock_memory() {
    ALLOCATOR.lock_memory();
}

/// Undoes [`lock_memory`], the sysctl it changed included.
pub fn unlock_memory() {
    ALLOCATOR.unlock_memory();
    // SAFETY: no arguments; pages may be taken from now on, which only costs time.
    unsafe { libc::munlockall() };
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
