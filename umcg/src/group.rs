//! Groups: servers and workers under one policy.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Kind;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Member, Snapshot, Woken};
use crate::futex::sys;
use crate::home::Home;
use crate::member::{Server, Worker};
use crate::mode::{GroupConfig, Mode};
use crate::queue;
use crate::sync::Ordering::Relaxed;
use crate::tls::{self, Busy};

/// Servers and workers that belong together.
///
/// A handle: clones name the same group, in this process and in others that [`open`]
/// its file. The group lives as long as any of them, or a member, does; then nothing
/// of it is left.
///
/// [`open`]: Group::open
#[doc(alias = "umcg_group")]
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles of a process share.
pub(crate) struct Inner {
    home: Home,
}

impl Group {
    /// Makes a group. Members: none yet. Any thread.
    ///
    /// Served by the daemon if there is one, else by futexes: ask [`mode`](Self::mode).
    ///
    /// # Errors
    ///
    /// `Invalid`: a value of `config` outside of its bounds. `Quantum`, `Policy`: its quantum, or
    /// its policy is. `Full`: no memory or no file for it.
    ///
    /// Source: the groups of UMCG's first version (May 2021), `umcg_create_group`.
    #[doc(alias = "umcg_group_create")]
    pub fn create(config: &GroupConfig) -> Result<Self> {
        if !config.policy.is_empty() {
            // To see whether there is such a one, and thrown away: for as few as there may be.
            queue::made(&config.policy, 1, 1, "group_create")?;
        }
        Ok(Self::over(Home::create(config)?))
    }

    /// The group whose file another process of the same user passed on. Any thread.
    ///
    /// Requires: the file comes from [`as_fd`](Self::as_fd) of a group in the same pid
    /// namespace.
    ///
    /// # Errors
    ///
    /// `Invalid`: no group's file. `Foreign`: another user's, or of another pid
    /// namespace. `Version`: made by another version of the library.
    ///
    /// Source: ours; a file in place of the ids of UMCG's first version.
    #[doc(alias = "umcg_group_open")]
    pub fn open(fd: OwnedFd) -> Result<Self> {
        Ok(Self::over(Home::open(fd)?))
    }

    fn over(home: Home) -> Self {
        sys::watch_forks();
        // Read here, so that no signal handler is the first to need it.
        clock::offset();
        Self {
            inner: Arc::new(Inner { home }),
        }
    }

    /// The group's file, for another process of the same user. Never blocks.
    #[doc(alias = "umcg_group_fd")]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.home.futex.book().as_fd()
    }

    /// The name that it was created with.
    pub fn name(&self) -> String {
        self.inner.home.futex.book().name()
    }

    /// The largest index of an id, for tables of one's own.
    pub fn max_members(&self) -> u32 {
        self.inner.home.futex.book().max_members()
    }

    /// How this process is served now; it may change at any time. Never blocks.
    #[doc(alias = "umcg_group_mode")]
    pub fn mode(&self) -> Mode {
        self.inner.home.mode()
    }

    /// How long a worker may use its slot in one go: [`GroupConfig::quantum`]. `None`: for as
    /// long as its server lets it; always so in futex-only mode. Never blocks.
    #[doc(alias = "umcg_group_quantum")]
    pub fn quantum(&self) -> Option<Duration> {
        let us = self
            .inner
            .home
            .futex
            .book()
            .header()
            .quantum_us
            .load(Relaxed);
        let kept = us != 0 && self.mode().detects_blocking();
        kept.then(|| Duration::from_micros(us.into()))
    }

    /// In which order its servers run RUNNABLE workers: [`GroupConfig::policy`], the same in every
    /// process and mode. `None`: the application has its own. Never blocks.
    #[doc(alias = "umcg_group_policy")]
    pub fn policy(&self) -> Option<String> {
        let policy = self.inner.home.futex.book().policy();
        (!policy.is_empty()).then_some(policy)
    }

    /// Whether this process was found to be denied bpf(2) in kernel mode, by a seccomp filter
    /// or a security module. Calls go other ways then and mean the same; registration, and
    /// wakes and kicks by threads that are no members, take longer. Never blocks.
    #[doc(alias = "umcg_group_bpf_denied")]
    pub fn is_bpf_denied(&self) -> bool {
        self.inner.home.is_bpf_denied()
    }

    /// The calling thread becomes a server. Its state: NONE -> RUNNING.
    ///
    /// Workers that wait for want of a server are listed to it.
    ///
    /// # Errors
    ///
    /// `Registered`: the thread is a member of some group already. `Full`: no record is
    /// free, or the group has [`MAX_SERVERS`](crate::MAX_SERVERS) servers.
    ///
    /// Source: UMCG, `umcg_ctl(REGISTER)` without `WORKER`.
    #[doc(alias = "umcg_register_server")]
    pub fn register_server(&self) -> Result<Server> {
        let id = self.inner.register(Kind::Server, 0)?;
        Ok(Server::new(self.clone(), id))
    }

    /// The calling thread becomes a worker. Its state: NONE -> RUNNABLE, and it is
    /// listed as `New`; the call returns when a server runs it: RUNNING.
    ///
    /// `cookie` comes back in every event of it. Without a server the call waits for
    /// one.
    ///
    /// # Errors
    ///
    /// `Registered`: the thread is a member of some group already. `Full`: no record is
    /// free. `Invalid`: the group's signal cannot be handled.
    ///
    /// Source: UMCG, `umcg_ctl(REGISTER | WORKER)`; the cookie: its 2023 version's
    /// `worker_id`.
    #[doc(alias = "umcg_register_worker")]
    pub fn register_worker(&self, cookie: u64) -> Result<Worker> {
        let id = self.inner.register(Kind::Worker, cookie)?;
        Ok(Worker::new(self.clone(), id))
    }

    /// Wakes a worker. Its state: IDLE -> RUNNABLE, and it is listed: RUNNABLE workers
    /// +1. In any other state 0: the wake is remembered, once, and its next wait returns
    /// at once. Any thread of any process of the group; async-signal-safe in futex-only
    /// mode; commutes with `wait`.
    ///
    /// A server that is woken returns from `next_event` with `Again`, now or next time;
    /// a change of mode may do that, too.
    ///
    /// On a tie with the wait's deadline either may win; a wake that loses is
    /// remembered. In kernel mode more than 200,000 wakes and kicks of a group in a
    /// second are slowed down to that rate; none is dropped.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such member.
    ///
    /// Source: SwitchTo's resume; "remembered once": UMCG's libumcg, gloop's `Resume`.
    #[doc(alias = "umcg_wake")]
    pub fn wake(&self, who: Id) -> Result<()> {
        self.inner.wake(who)
    }

    /// Forces a worker off. Its state: RUNNING -> RUNNABLE with `PREEMPTED`, and it is
    /// listed; its server continues. Any thread of the group; returns before it is done.
    ///
    /// In futex-only mode it takes effect at the worker's next call, or at once where
    /// the group has a signal for it ([`crate::Preempt`]). A kick is for the stint that
    /// the worker is in: it never hits a later one.
    ///
    /// # Errors
    ///
    /// `WrongState`: it is not RUNNING. `NotFound`, `Invalid`: no such worker.
    ///
    /// Source: Zijlstra's `umcg_kick` (January 2022).
    #[doc(alias = "umcg_kick")]
    pub fn kick(&self, who: Id) -> Result<()> {
        if let Some((group, me, false)) = tls::current()
            && me == who
            && std::ptr::eq(group, &*self.inner)
        {
            return tls::kick_self();
        }
        self.inner.home.kick(who)
    }

    /// The state of a member, in one consistent piece. Any thread; never blocks. By the
    /// time of the return it may be an older one: compare tags.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such member.
    ///
    /// Source: UMCG's state word.
    #[doc(alias = "umcg_state")]
    pub fn state(&self, who: Id) -> Result<Snapshot> {
        self.inner.home.state(who)
    }

    /// All members. Any thread. Race: not one moment's picture; who comes or goes meanwhile
    /// may be in it or not.
    ///
    /// # Errors
    ///
    /// `Gone`: the daemon that kept them is no more.
    ///
    /// Source: ours.
    #[doc(alias = "umcg_list")]
    pub fn list(&self) -> Result<Vec<Member>> {
        self.inner.home.list()
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        Group::as_fd(self)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name())
            .field("mode", &self.mode())
            .field("max_members", &self.max_members())
            .finish()
    }
}

impl Inner {
    fn register(self: &Arc<Self>, kind: Kind, cookie: u64) -> Result<Id> {
        if let Some((_, id, _)) = tls::current() {
            return Err(Error::new(ErrorKind::Registered, "register", id.raw()));
        }
        let signal = self.home.futex.signal();
        if kind == Kind::Worker && signal != 0 {
            sys::set_handler(signal, tls::on_signal)?;
        }
        let _busy = Busy::enter();
        let mut seated = None;
        let registered = self.home.register(kind, cookie, &mut |id| {
            tls::sit(self, id, kind);
            seated = Some(id);
        });
        if let (Err(_), Some(id)) = (&registered, seated) {
            // There was a record for it, and no room where it is served.
            tls::stand_up(id)?;
        }
        registered
    }

    pub(crate) fn unregister(&self, me: Id) -> Result<()> {
        self.home.unregister(me)
    }

    pub(crate) fn run(
        &self,
        me: Id,
        worker: Id,
        ends_wait: bool,
        deadline_ns: u64,
    ) -> Result<Event> {
        self.home.run(me, worker, ends_wait, deadline_ns)
    }

    pub(crate) fn next_event(&self, me: Id, deadline_ns: u64) -> Result<Event> {
        self.home.next_event(me, deadline_ns)
    }

    pub(crate) fn wake(&self, who: Id) -> Result<()> {
        let _busy = Busy::enter();
        self.home.wake(who)
    }

    pub(crate) fn wait(&self, me: Id, deadline_ns: u64) -> Result<Woken> {
        let _busy = Busy::enter();
        self.home.wait(me, deadline_ns)
    }

    pub(crate) fn switch(&self, me: Id, to: Id, deadline_ns: u64) -> Result<Woken> {
        let _busy = Busy::enter();
        self.home.switch(me, to, deadline_ns)
    }

    pub(crate) fn yield_now(&self, me: Id) -> Result<()> {
        let _busy = Busy::enter();
        self.home.yield_now(me)
    }

    /// Async-signal-safe.
    pub(crate) fn kick_self(&self, me: Id) -> Result<()> {
        self.home.kick_self(me)
    }

    /// Async-signal-safe.
    pub(crate) fn is_running(&self, me: Id) -> bool {
        self.home.is_running(me)
    }

    /// Whether `server` knows of nobody but the worker that it runs: then a quantum ends nothing.
    pub(crate) fn show_alone(&self, server: Id, alone: bool) {
        self.home.show_alone(server, alone);
    }

    /// `me`, the calling worker, is in so many sections. Async-signal-safe.
    pub(crate) fn show_sections(&self, me: Id, count: u32) {
        self.home.show_sections(me, count);
    }

    /// `me`, the calling worker, has this key. Async-signal-safe.
    pub(crate) fn show_key(&self, me: Id, key: u64) {
        self.home.show_key(me, key);
    }

    /// Gives the slot up if a kick by the kernel was put off. Async-signal-safe.
    pub(crate) fn follow_put_off(&self, me: Id) {
        self.home.follow_put_off(me);
    }

    /// Whether a kick of `me` stands. Async-signal-safe.
    pub(crate) fn has_request(&self, me: Id) -> bool {
        self.home.futex.has_request(me)
    }
}

/// Forces the calling thread's worker off, as [`Group::kick`] does: returns when it is
/// run again. Async-signal-safe: made for handlers of SIGALRM, SIGPROF, SIGVTALRM and
/// of a per-thread timer, where it means the worker that the signal interrupted.
///
/// Inside a call of the library it takes effect when that call ends. errno stays.
///
/// # Errors
///
/// `NotFound`: the thread is no worker. `WrongState`: it is not RUNNING.
///
/// Source: the seed's preemption by signals; UMCG v0.4 did it by signals as well.
#[doc(alias = "umcg_kick_self")]
pub fn kick_self() -> Result<()> {
    tls::kick_self()
}
