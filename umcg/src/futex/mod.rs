//! Futex-only mode: all voluntary calls, without a daemon.
//!
//! Words live in the group's [`book`] and are moved by the library itself, in the
//! encoding of `intf.h`; RUNNABLE workers reach servers over the same lists as in
//! kernel mode ([`crate::list`]). What is missing is the kernel's eye: a worker that
//! blocks stays RUNNING and keeps its slot.
//!
//! - [`edge`]: the edges of a worker's word
//! - [`park`]: how a thread sleeps
//! - [`book`]: the records, in a sealed memory file
//! - [`group`]: the calls
//! - [`hand`]: listing workers, and the slot's way back to its server
//! - [`serve`]: a server's side; [`news`]: what it has not been told of yet
//! - [`reap`]: members that died without a word
//! - [`alive`]: who a thread is
//!
//! Invariant: the thread of a worker that is not RUNNING sleeps in [`park`] or is on
//! its way there.
//! Invariant: a slot's `holds` names at most one worker, and only that one is RUNNING
//! for the slot; a worker whose server died runs on without a slot until its next call.

pub(crate) mod edge;
pub(crate) mod mask;
pub(crate) mod park;

#[cfg(not(loom))]
pub(crate) mod alive;
#[cfg(not(loom))]
pub(crate) mod book;
#[cfg(not(loom))]
mod group;
#[cfg(not(loom))]
mod hand;
#[cfg(all(test, loom))]
#[allow(clippy::unwrap_used)]
mod models;
#[cfg(not(loom))]
mod news;
#[cfg(not(loom))]
mod reap;
#[cfg(not(loom))]
mod serve;
#[cfg(not(loom))]
pub(crate) mod sys;

#[cfg(not(loom))]
pub(crate) use group::FutexGroup;
