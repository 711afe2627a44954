//! What a process asks of the kernel for itself: locked memory, fewer capabilities, a place.

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

/// The out-of-memory killer's view of the agent.
const OOM: &str = "/proc/self/oom_score_adj";
/// As systemd's own daemons; -1000 would leave nobody to kill in a container of our own.
const OOM_SCORE: i32 = -900;

/// A user who runs the machine out of memory must not get the scheduler killed for it.
pub fn spare_from_oom() {
    let now = std::fs::read_to_string(OOM).ok();
    let now = now.and_then(|text| text.trim().parse::<i32>().ok());
    if now.is_some_and(|now| now <= OOM_SCORE) {
        return;
    }
    if let Err(err) = std::fs::write(OOM, OOM_SCORE.to_string()) {
        warn!("{OOM}: cannot write {OOM_SCORE}, the agent may be killed for others: {err}");
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
    keep_only(&keep.intersection(&have).copied().collect());
}

/// Keeps what reading the program of another user's process takes, for the calling thread.
pub fn keep_ptrace() {
    let have = caps::has_cap(
        None,
        caps::CapSet::Permitted,
        caps::Capability::CAP_SYS_PTRACE,
    );
    let keep = have
        .unwrap_or(false)
        .then_some(caps::Capability::CAP_SYS_PTRACE);
    keep_only(&keep.into_iter().collect());
}

/// Keeps none, for the calling thread.
pub fn drop_all() {
    keep_only(&caps::CapsHashSet::new());
}

fn keep_only(keep: &caps::CapsHashSet) {
    use caps::CapSet;
    for set in [CapSet::Effective, CapSet::Permitted] {
        if let Err(err) = caps::set(None, set, keep) {
            warn!("keeps its capabilities: {err}");
            return;
        }
    }
}

/// The CPUs that the calling thread may use.
pub fn affinity() -> std::io::Result<libc::cpu_set_t> {
    // SAFETY: an all-zero cpu_set_t is valid, and it lives through the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) {
            0 => Ok(set),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

/// `set` without `cpu`.
pub fn leave_out(set: &mut libc::cpu_set_t, cpu: usize) {
    if cpu < libc::CPU_SETSIZE as usize {
        // SAFETY: the number is within the set.
        unsafe { libc::CPU_CLR(cpu, set) };
    }
}

/// Lets the calling thread use only these.
pub fn set_affinity(set: &libc::cpu_set_t) -> std::io::Result<()> {
    // SAFETY: set lives through the call.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const *set) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
