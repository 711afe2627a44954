//! What a mode of a group has to do: the one seam between the public calls and the
//! two ways to serve them, BPF ([`Mode::Kernel`]) and futexes ([`Mode::FutexOnly`]).
//!
//! Ids are the backend's own; who is who in which backend is the group's business.
//! Unless a call says otherwise, `me` is the calling thread's member and no other
//! thread names it at the same time.
//!
//! Two errors mean "ask another backend": [`ErrorKind::Gone`] (what served this group
//! is no more) and [`ErrorKind::Stale`] (it is there again, but knows nobody of us).
//! A call that returns one of them has changed nothing that a later backend could
//! see, and will return it again. The caller asks [`Backend::state`], which goes on
//! to answer, what the last state of a member was.
//!
//! [`ErrorKind::Gone`]: crate::ErrorKind::Gone
//! [`ErrorKind::Stale`]: crate::ErrorKind::Stale

use crate::error::Result;
use crate::event::{Event, Id, Member, Snapshot, Woken};
use crate::mode::Mode;

/// What a thread registers as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It schedules workers.
    Server,
    /// It is scheduled by servers.
    Worker,
}

/// One way to serve a group. All calls may come from any thread of the group at once.
///
/// Deadlines are those of the public calls: absolute CLOCK_MONOTONIC ns of the caller's
/// time namespace, 0 = poll, `u64::MAX` = for ever.
#[cfg_attr(loom, allow(dead_code))]
pub trait Backend: Send + Sync {
    /// How this backend serves; never blocks.
    fn mode(&self) -> Mode;

    /// The calling thread becomes a member. A server is RUNNING at once. A worker
    /// becomes RUNNABLE, is listed to a server, and the call returns when it is run.
    ///
    /// `told` hears the worker's id before it first waits, so that others find it.
    fn register(&self, kind: Kind, cookie: u64, told: &mut dyn FnMut(Id)) -> Result<Id>;

    /// `me` is a member no more: any state -> NONE; a worker's server gets `Exited`.
    fn unregister(&self, me: Id) -> Result<()>;

    /// Server `me`: `worker` RUNNABLE, or with `ends_wait` also IDLE, -> RUNNING in my slot;
    /// returns when a worker (after a switch not the same one) has left RUNNING there, or
    /// with `TimedOut`.
    fn run_if(&self, me: Id, worker: Id, ends_wait: bool, deadline_ns: u64) -> Result<Event>;

    /// Whoever waits to run, or for a wake.
    fn run(&self, me: Id, worker: Id, deadline_ns: u64) -> Result<Event> {
        self.run_if(me, worker, true, deadline_ns)
    }

    /// The worker of an event: where it waits by now, its new wait stands.
    fn run_listed(&self, me: Id, worker: Id, deadline_ns: u64) -> Result<Event> {
        self.run_if(me, worker, false, deadline_ns)
    }

    /// Server `me`: the oldest event of its lists, `TimedOut` if none came in time.
    fn next_event(&self, me: Id, deadline_ns: u64) -> Result<Event>;

    /// Worker `me`: RUNNING -> IDLE, until woken and run, or timed out and run.
    fn wait(&self, me: Id, deadline_ns: u64) -> Result<Woken>;

    /// Worker `me`: as `wait`, but `to` RUNNABLE|IDLE -> RUNNING takes the slot over.
    fn switch(&self, me: Id, to: Id, deadline_ns: u64) -> Result<Woken>;

    /// Worker `me`: RUNNING -> RUNNABLE|YIELDED and listed, until run.
    fn yield_now(&self, me: Id) -> Result<()>;

    /// `who` IDLE -> RUNNABLE and listed; remembered once in any other state.
    fn wake(&self, who: Id) -> Result<()>;

    /// `who` RUNNING -> RUNNABLE|PREEMPTED and listed, as soon as may be.
    fn kick(&self, who: Id) -> Result<()>;

    /// As `kick` of the calling thread's worker. Async-signal-safe: no allocation, no
    /// lock that the interrupted code may hold.
    fn kick_self(&self, me: Id) -> Result<()>;

    /// The word of `who` and what goes with it.
    fn state(&self, who: Id) -> Result<Snapshot>;

    /// All members.
    fn list(&self) -> Result<Vec<Member>>;
}
