//! Keys: which worker forces which one off when it wakes up.

use crate::tls;

/// No key: forces nobody off, and is forced off by who has one. What a thread begins with.
#[doc(alias = "UMCG_KEY_NONE")]
pub const KEY_NONE: u64 = u64::MAX;

/// Says where the calling thread wants to be in its server's order, as a worker now or
/// later: lower keys come first. No system call.
///
/// When a worker becomes RUNNABLE, no server waits for events, and the server that it is
/// told to runs a worker with a higher key, that one is forced off
/// ([`Source::Wake`](crate::Source::Wake)). The server then has both to choose from; keys
/// of those that wait for it mean nothing to the library, its own order is what counts.
/// Workers with equal keys leave each other alone.
///
/// In kernel mode only; in futex-only mode nobody is forced off by a wake. A change counts
/// from the next wake on. [`no_preempt`](crate::no_preempt()) puts it off as any kick.
///
/// Source: preemption on wake-up of the kernel's own fair class, by a key as in ghOSt's
/// per-CPU agents.
#[doc(alias = "umcg_set_key")]
pub fn set_key(key: u64) {
    tls::set_key(key);
}
