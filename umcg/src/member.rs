//! The handles of members: what a server and a worker may do.
//!
//! A handle is the calling thread's and cannot leave it. Dropping it unregisters; so
//! does the end of the thread, however it ends. In the child of a fork it is void:
//! its calls return `NotFound` and its drop does nothing.

use std::marker::PhantomData;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Woken};
use crate::group::Group;
use crate::tls;

/// The calling thread as a server: runs one worker at a time.
#[doc(alias = "umcg_register_server")]
#[derive(Debug)]
#[must_use = "dropping it unregisters the server"]
pub struct Server {
    group: Group,
    id: Id,
    forks: u32,
    not_send: PhantomData<*mut ()>,
}

/// The calling thread as a worker: runs while a server runs it.
#[doc(alias = "umcg_register_worker")]
#[derive(Debug)]
#[must_use = "dropping it unregisters the worker"]
pub struct Worker {
    group: Group,
    id: Id,
    forks: u32,
    not_send: PhantomData<*mut ()>,
}

fn check(call: &'static str, id: Id, forks: u32) -> Result<()> {
    match forks == tls::forks() {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::NotFound, call, id.raw())),
    }
}

impl Server {
    pub(crate) fn new(group: Group, id: Id) -> Self {
        Self {
            group,
            id,
            forks: tls::forks(),
            not_send: PhantomData,
        }
    }

    /// Its name in calls.
    pub const fn id(&self) -> Id {
        self.id
    }

    /// Its group.
    pub const fn group(&self) -> &Group {
        &self.group
    }

    /// Runs `worker` until it leaves RUNNING. Worker: RUNNABLE or IDLE -> RUNNING;
    /// server: RUNNING -> IDLE -> RUNNING. RUNNABLE workers -1, or 0 if it was IDLE (then
    /// its wait ends as woken).
    ///
    /// The event says which worker left and why; after a [`Worker::switch`] it is
    /// another one than was run. When the time is over first the worker is kicked and
    /// `Preempted` comes back; if it cannot be forced off, `TimedOut`: then it is still
    /// RUNNING in the slot, and its event comes by [`next_event`](Self::next_event).
    ///
    /// # Errors
    ///
    /// `WrongState`: `worker` runs or is about to, blocked, or was taken by another
    /// server; nothing changed. `Again`: the slot is occupied, or `worker` is on its way
    /// and will be listed again. `NotFound`, `Invalid`: no such worker. `NotHere`: it may
    /// not run on this CPU. `TimedOut`: see above.
    ///
    /// Source: UMCG, `umcg_run_worker` and the server's `umcg_wait` with `next_tid`.
    #[doc(alias = "umcg_run")]
    pub fn run(&mut self, worker: Id, deadline_ns: u64) -> Result<Event> {
        check("run", self.id, self.forks)?;
        self.group.inner.run(self.id, worker, true, deadline_ns)
    }

    /// As [`run`](Self::run), for the worker of an event, or of a queue of such: RUNNABLE ->
    /// RUNNING. One that waits by now is left alone.
    ///
    /// An event may be old by the time that its worker is run: where no server takes a worker
    /// for long, scx_umcg lets it go on, and another server may have run it since. `run`
    /// would end a wait of its that nobody has woken.
    ///
    /// # Errors
    ///
    /// As `run`; `WrongState` also if it waits: when that ends it is told again.
    ///
    /// Source: UMCG, `umcg_run_worker`.
    pub fn run_listed(&mut self, worker: Id, deadline_ns: u64) -> Result<Event> {
        check("run", self.id, self.forks)?;
        self.group.inner.run(self.id, worker, false, deadline_ns)
    }

    /// The oldest news: a worker that is RUNNABLE and waits for a server, one that has
    /// left without a slot (`Exited`), or what the worker in the slot did after a `run` that timed out. Server: RUNNING -> IDLE ->
    /// RUNNING while there is none. RUNNABLE workers 0.
    ///
    /// Each entry of a worker into RUNNABLE is told once, to one server: its home, which
    /// ran it last, or an idle one. An idle server also takes over what busy ones, in kernel
    /// mode of the same process, have not looked at. By the time that it is run the worker may have moved on: `run`
    /// then says so, and nothing is lost.
    ///
    /// # Errors
    ///
    /// `TimedOut`: none came in time. `Again`: somebody woke the server itself.
    ///
    /// Source: UMCG's idle workers list, and the events of its 2023 version.
    #[doc(alias = "umcg_next_event")]
    pub fn next_event(&mut self, deadline_ns: u64) -> Result<Event> {
        check("next_event", self.id, self.forks)?;
        self.group.inner.next_event(self.id, deadline_ns)
    }

    /// Server: RUNNING -> NONE. Its workers go to other servers, or wait for one.
    ///
    /// Race: a wake or kick that names it meanwhile is without effect, or is refused.
    ///
    /// # Errors
    ///
    /// `NotFound`: the thread is the child of a fork.
    ///
    /// Source: UMCG, `umcg_ctl(UNREGISTER)`.
    #[doc(alias = "umcg_unregister")]
    pub fn unregister(self) -> Result<()> {
        tls::stand_up(self.id)
    }
}

impl Worker {
    pub(crate) fn new(group: Group, id: Id) -> Self {
        Self {
            group,
            id,
            forks: tls::forks(),
            not_send: PhantomData,
        }
    }

    /// Its name in calls.
    pub const fn id(&self) -> Id {
        self.id
    }

    /// Its group.
    pub const fn group(&self) -> &Group {
        &self.group
    }

    /// Waits for a wake. State: RUNNING -> IDLE, the server continues at once; later
    /// RUNNABLE, and RUNNING when a server runs it, which ends the call.
    ///
    /// A remembered wake ends it at once, in state RUNNING. When the time is over first,
    /// that is a wake: the worker is listed, run, and returns [`Woken::TimedOut`]. With
    /// deadline 0 it never leaves RUNNING.
    ///
    /// CAUTION: check the condition again after it: a server may run an idle worker,
    /// and a wake may be an old one.
    ///
    /// # Errors
    ///
    /// `WrongState`: not RUNNING; `NotFound`: the child of a fork.
    ///
    /// Source: SwitchTo's wait; timeouts: UMCG v0.4.
    #[doc(alias = "umcg_wait")]
    pub fn wait(&mut self, deadline_ns: u64) -> Result<Woken> {
        check("wait", self.id, self.forks)?;
        self.group.inner.wait(self.id, deadline_ns)
    }

    /// Hands the slot to worker `to` and waits. States: this one RUNNING -> IDLE, `to`
    /// RUNNABLE or IDLE -> RUNNING in the same slot, on the same CPU; no server is
    /// involved. The rest is as for [`wait`](Self::wait).
    ///
    /// A remembered wake: this worker becomes RUNNABLE, not IDLE, and is listed. Two
    /// workers that switch to each other at once: one is refused.
    ///
    /// # Errors
    ///
    /// `WrongState`: `to` runs or is about to, or is blocked. `Myself`: `to` is the
    /// caller. `NotFound`, `Invalid`: no such worker. In each case it goes on RUNNING.
    ///
    /// Source: SwitchTo's swap (Turner, 2013).
    #[doc(alias = "umcg_switch")]
    pub fn switch(&mut self, to: Id, deadline_ns: u64) -> Result<Woken> {
        check("switch", self.id, self.forks)?;
        self.group.inner.switch(self.id, to, deadline_ns)
    }

    /// Gives the slot up. State: RUNNING -> RUNNABLE with `YIELDED`, and it is listed;
    /// returns when it is run again. RUNNABLE workers +1.
    ///
    /// CAUTION: the server may pick the same worker for ever. Race: with a kick it is told
    /// once, as either of the two.
    ///
    /// # Errors
    ///
    /// `WrongState`: not RUNNING; `NotFound`: the child of a fork.
    ///
    /// Source: UMCG, `umcg_wait` of a worker that has made itself RUNNABLE (Zijlstra, 2022).
    #[doc(alias = "umcg_yield")]
    pub fn yield_now(&mut self) -> Result<()> {
        check("yield", self.id, self.forks)?;
        self.group.inner.yield_now(self.id)
    }

    /// Follows a kick that stands: for loops without other calls, in futex-only mode
    /// without a signal. Two loads when there is none.
    pub fn checkpoint(&mut self) {
        tls::follow_kick();
    }

    /// Worker: RUNNING -> NONE; its server, or another one, gets `Exited`. The thread goes on, outside of
    /// the group.
    ///
    /// Race: a wake or kick that names it meanwhile is without effect, or is refused.
    ///
    /// # Errors
    ///
    /// `NotFound`: the thread is the child of a fork.
    ///
    /// Source: UMCG, `umcg_ctl(UNREGISTER)`.
    #[doc(alias = "umcg_unregister")]
    pub fn unregister(self) -> Result<()> {
        tls::stand_up(self.id)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = tls::stand_up(self.id);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = tls::stand_up(self.id);
    }
}
