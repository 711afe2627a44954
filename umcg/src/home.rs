//! Where a member lives: at the kernel, served by the daemon's BPF, or in the words of
//! the book, served by futexes. Each thread moves by itself; nobody waits for another.
//!
//! `kernel` in the book's header is odd while a daemon serves the group; each time that
//! it becomes odd is another *instance*. `home` in a member's record names the instance
//! and its id there; 0 = it lives in the book. A member that does not live in the book is
//! RUNNING without a slot there: the one state in which a wake is remembered and that it
//! may leave in any direction when it comes back.
//!
//! - *To the book.* A call at the kernel says `Gone`. The thread makes `kernel` even, rouses
//!   who sleeps there, makes its `home` 0, and then looks at its last word there: RUNNABLE
//!   or RUNNING, it queues in the book; a wake remembered, it takes it along.
//! - *To the kernel.* Only from RUNNING without a slot. A server that runs nobody gives
//!   its slot in the book up first. IDLE workers stay where they sleep: while `kernel`
//!   is odd, whoever makes one RUNNABLE lets it go on without a slot
//!   ([`send_off`](crate::futex)), and it asks the kernel's servers for one on its way out.
//!
//! No wake is lost when a thread moves, either way, in two columns:
//!
//! ```text
//! waker                              | mover
//!   h = home                         |   home = the new one      (full barrier)
//!   wakes where h says  (full barr.) |   looks for a wake where it was, and
//!   home is another now: again       |   takes it along
//! ```
//!
//! Either the waker finds the new home, or the mover finds the wake. Both: one wake too
//! many, which each wait allows. Models: `loom_home_wake_vs_move_*`.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use crate::backend::{Backend, Kind};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Member, Reason, Snapshot, Woken};
use crate::futex::FutexGroup;
use crate::kernel::{self, KernelGroup, proto};
use crate::mode::{GroupConfig, Mode, Why};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::sync::{AtomicU32, AtomicU64, fence};
use crate::tls::{self, Busy};
use crate::word::{PENDING, State, TIMEDOUT, Word};

/// How often servers look for a daemon while there is none.
const TRY_NS: u64 = 250_000_000;
/// Who asks the daemon for longer than this has died meanwhile.
const ENTER_NS: u64 = 5_000_000_000;
/// Moves that a waker follows.
const MOVES: u32 = 8;

/// An instance as this process sees it.
#[derive(Clone)]
struct Served {
    number: u32,
    forks: u32,
    group: Arc<KernelGroup>,
}

/// `home` of a member: instance, index and generation there.
fn home_of(number: u32, id: Id) -> u64 {
    u64::from(number as u16) << 48 | u64::from(id.index() as u16) << 32 | u64::from(id.generation())
}

fn is_at(home: u64, served: &Served) -> bool {
    (home >> 48) as u16 == served.number as u16
}

fn id_at_kernel(home: u64) -> Id {
    Id::new((home >> 32) as u16 as u32, home as u32)
}

fn lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Gone | ErrorKind::Stale)
}

fn is_unknown(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// A group with both ways to serve it.
pub(crate) struct Home {
    pub(crate) futex: Arc<FutexGroup>,
    served: RwLock<Option<Served>>,
    /// One thread of the process at a time asks the daemon.
    entering: Mutex<()>,
    /// The instance that this process could not join.
    refused: AtomicU32,
    next_try_ns: AtomicU64,
    why: AtomicU32,
    config: GroupConfig,
}

impl Home {
    pub(crate) fn create(config: &GroupConfig) -> Result<Self> {
        let home = Self::over(FutexGroup::create(config, Why::NoDaemon)?, config.clone());
        home.enter();
        Ok(home)
    }

    pub(crate) fn open(fd: OwnedFd) -> Result<Self> {
        let futex = FutexGroup::open(fd, Why::NoDaemon)?;
        let config = GroupConfig {
            max_members: futex.book().max_members(),
            name: futex.book().name(),
            share: futex.book().header().share.load(Relaxed),
            ..GroupConfig::default()
        };
        let home = Self::over(futex, config);
        home.enter();
        Ok(home)
    }

    fn over(futex: FutexGroup, config: GroupConfig) -> Self {
        let asked = futex.book().header().futex_only.load(Relaxed) != 0;
        let why = if asked { Why::Asked } else { Why::NoDaemon };
        Self {
            futex: Arc::new(futex),
            served: RwLock::new(None),
            entering: Mutex::new(()),
            refused: AtomicU32::new(0),
            next_try_ns: AtomicU64::new(if asked { u64::MAX } else { 0 }),
            why: AtomicU32::new(why as u32),
            config,
        }
    }

    fn number(&self) -> u32 {
        self.futex.book().header().kernel.load(Acquire)
    }

    /// The instance that this process has joined, if it still is the group's.
    fn served(&self) -> Option<Served> {
        // A handler must not find the lock held by its own thread.
        let _busy = Busy::enter();
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        let it = served.as_ref()?;
        (it.number == self.number() && it.forks == tls::forks()).then(|| it.clone())
    }

    /// The same, from a handler: `None` also when the lock is taken.
    fn served_now(&self) -> Option<Served> {
        let served = self.served.try_read().ok()?;
        let it = served.as_ref()?;
        (it.number == self.number()).then(|| it.clone())
    }

    /// The instance that serves the group; asks the daemon for one, or to join it, at
    /// most every [`TRY_NS`].
    fn enter(&self) -> Option<Served> {
        if let Some(served) = self.served() {
            return Some(served);
        }
        let number = self.number();
        let now = clock::machine_now();
        let soon = number & 1 == 0 || number == self.refused.load(Relaxed);
        if soon && now < self.next_try_ns.load(Relaxed) {
            return None;
        }
        let _busy = Busy::enter();
        let _one = match self.entering.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            // A daemon that does not answer holds up the one who asks, nobody else.
            Err(TryLockError::WouldBlock) if number & 1 == 0 => return None,
            Err(TryLockError::WouldBlock) => {
                self.entering.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        if let Some(served) = self.served() {
            return Some(served);
        }
        if soon && now < self.next_try_ns.load(Relaxed) {
            return None;
        }
        self.next_try_ns.store(now.saturating_add(TRY_NS), Relaxed);
        let made = match number & 1 {
            1 => self.join(number),
            _ => self.found(number, now),
        };
        match made {
            Ok(served) => {
                let mut slot = self.served.write().unwrap_or_else(PoisonError::into_inner);
                *slot = Some(served.clone());
                drop(slot);
                if number & 1 == 0 {
                    self.futex.call_servers();
                }
                Some(served)
            }
            Err(error) => {
                let why = match error.kind() {
                    ErrorKind::Denied => Why::Denied,
                    ErrorKind::Quota | ErrorKind::Version | ErrorKind::Foreign => Why::Refused,
                    ErrorKind::Full | ErrorKind::Invalid => Why::Refused,
                    _ if number == 0 => Why::NoDaemon,
                    _ => Why::DaemonGone,
                };
                self.why.store(why as u32, Relaxed);
                self.refused.store(number, Relaxed);
                None
            }
        }
    }

    fn socket() -> PathBuf {
        std::env::var_os("UMCG_SOCKET").map_or_else(|| PathBuf::from(proto::SOCKET), PathBuf::from)
    }

    fn serve_by(&self, mut group: KernelGroup, number: u32) -> Served {
        let futex = self.futex.clone();
        group.watch(move || futex.book().header().kernel.load(Acquire) == number);
        Served {
            number,
            forks: tls::forks(),
            group: Arc::new(group),
        }
    }

    fn join(&self, number: u32) -> Result<Served> {
        let words = &self.futex.book().header().ticket;
        let mut ticket = [0; 32];
        for (bytes, word) in ticket.chunks_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Relaxed).to_le_bytes());
        }
        match kernel::join(&Self::socket(), &ticket) {
            Ok(group) => Ok(self.serve_by(group, number)),
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    self.retire(number, None);
                }
                Err(error)
            }
        }
    }

    /// Asks the daemon for a new instance. One process at a time.
    fn found(&self, number: u32, now: u64) -> Result<Served> {
        let header = self.futex.book().header();
        let since = header.entering_ns.load(Relaxed);
        let busy = || Error::new(ErrorKind::Again, "group_create", since);
        let mine = (since == 0 || now.saturating_sub(since) > ENTER_NS)
            && header
                .entering_ns
                .compare_exchange(since, now, AcqRel, Relaxed)
                .is_ok();
        if !mine {
            return Err(busy());
        }
        let made = kernel::connect(&Self::socket(), &self.config).and_then(|group| {
            let ticket = group.ticket();
            for (bytes, word) in ticket.chunks(8).zip(&header.ticket) {
                let mut eight = [0; 8];
                eight.copy_from_slice(bytes);
                word.store(u64::from_le_bytes(eight), Relaxed);
            }
            let next = number.wrapping_add(1);
            let won = header
                .kernel
                .compare_exchange(number, next, AcqRel, Relaxed)
                .is_ok();
            won.then(|| self.serve_by(group, next)).ok_or_else(busy)
        });
        header.entering_ns.store(0, Release);
        made
    }

    /// Instance `number` serves nobody any more.
    fn retire(&self, number: u32, group: Option<&KernelGroup>) {
        let kernel = &self.futex.book().header().kernel;
        let next = number.wrapping_add(1);
        let first = kernel
            .compare_exchange(number, next, AcqRel, Relaxed)
            .is_ok();
        self.why.store(Why::DaemonGone as u32, Relaxed);
        if first && let Some(group) = group {
            fence(SeqCst);
            group.rouse();
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.served() {
            Some(served) => served.group.mode(),
            None => Mode::FutexOnly(Why::from_number(self.why.load(Relaxed))),
        }
    }

    fn home(&self, id: Id) -> u64 {
        let member = self.futex.book().member(id);
        member.map_or(0, |(_, side)| side.home.load(Acquire))
    }

    /// Where `id` lives, if that is an instance that this process has joined.
    fn at_kernel(&self, id: Id) -> Option<(Served, Id)> {
        let home = self.home(id);
        if home == 0 {
            return None;
        }
        let served = self.served().filter(|it| is_at(home, it))?;
        Some((served, id_at_kernel(home)))
    }

    /// The calling thread's member `me`, RUNNING without a slot in the book, moves to the
    /// kernel; a worker returns when a server there runs it. False: it stays.
    fn to_kernel(&self, me: Id, kind: Kind, served: &Served) -> bool {
        let Some((_, side)) = self.futex.book().member(me) else {
            return false;
        };
        let mut told = |id: Id| {
            side.home.store(home_of(served.number, id), SeqCst);
            fence(SeqCst);
            if kind == Kind::Worker && self.futex.take_wake(me) {
                let _ = served.group.wake(id);
            }
            // pairs with wake()
        };
        let newcomer = side.runs.load(Relaxed) == 0;
        let mut enlist = || served.group.enlist(kind, me.raw(), newcomer, &mut told);
        let mut result = enlist();
        if (result.as_ref()).is_err_and(|error| error.kind() == ErrorKind::Registered) {
            // In an instance that is over for the group, but not for BPF.
            served.group.leave_any();
            result = enlist();
        }
        match result {
            Ok(_) => true,
            Err(error) => {
                if lost(&error) {
                    self.retire(served.number, Some(&served.group));
                }
                self.to_book(me, kind, Some(served));
                false
            }
        }
    }

    /// The calling thread's member `me` moves to the book, RUNNING without a slot; a
    /// worker takes its wake along. Its last word at the kernel.
    fn to_book(&self, me: Id, kind: Kind, served: Option<&Served>) -> Word {
        let Some((_, side)) = self.futex.book().member(me) else {
            return Word(0);
        };
        let home = side.home.swap(0, SeqCst);
        fence(SeqCst);
        // pairs with wake()
        if home == 0 {
            return Word(0);
        }
        let id = id_at_kernel(home);
        let word = match served {
            Some(served) => served.group.last_word(id),
            None => Word(PENDING), // nobody knows: one wake too many
        };
        if kind == Kind::Worker && word.flags() & PENDING != 0 {
            let _ = self.futex.wake(me);
        }
        if let Some(served) = served {
            // It may be served yet, when only this thread was not.
            let _ = served.group.move_away(id);
        }
        word
    }

    /// What the kernel says of the calling worker is over: it goes on in the book.
    /// Returns when it is run there, `Some` if its wait is over.
    ///
    /// RUNNING, not only RUNNABLE, means that it is: as BPF ends, it lets all run, with
    /// no slot. Or the wait had not begun: then it ends early, as if woken.
    fn worker_to_book(&self, me: Id, served: &Served, deadline_ns: u64) -> Result<Option<Woken>> {
        self.retire(served.number, Some(&served.group));
        let word = self.to_book(me, Kind::Worker, Some(served));
        if !matches!(word.state(), Some(State::Runnable | State::Running)) {
            return Ok(None);
        }
        let late = word.flags() & TIMEDOUT != 0 && clock::now() >= deadline_ns;
        self.futex.queue_me(me)?;
        self.move_on(me);
        Ok(Some(if late { Woken::TimedOut } else { Woken::Woken }))
    }

    /// A worker that was let go without a slot asks the kernel's servers for one.
    fn move_on(&self, me: Id) {
        while self.home(me) == 0 && self.number() & 1 == 1 && self.futex.is_slotless(me) {
            let Some(served) = self.enter() else { break };
            if self.to_kernel(me, Kind::Worker, &served) {
                break;
            }
            if self.number() == served.number {
                break; // refused: it runs on without a slot
            }
            if self.futex.queue_me(me).is_err() {
                break;
            }
        }
    }

    /// A server that runs nobody moves to where the group is served.
    fn settle(&self, me: Id) -> Result<()> {
        if self.home(me) != 0 {
            return Ok(());
        }
        let Some(served) = self.enter() else {
            return Ok(());
        };
        if self.futex.try_exit_slot(me) {
            if !self.to_kernel(me, Kind::Server, &served) {
                return self.arrive(me);
            }
            // As in arrive().
            let _ = served.group.wake(id_at_kernel(self.home(me)));
        }
        Ok(())
    }

    /// Server `me` takes a slot in the book. A wake of the server itself may have missed
    /// it on the way: it finds one.
    fn arrive(&self, me: Id) -> Result<()> {
        self.futex.enter_slot(me)?;
        self.futex.wake(me)
    }

    fn server_to_book(&self, me: Id, served: &Served) -> Result<()> {
        self.retire(served.number, Some(&served.group));
        for event in served.group.take_all_left() {
            self.futex
                .tell_left(Id::from_raw(event.cookie), Word(event.tag));
        }
        self.to_book(me, Kind::Server, Some(served));
        self.arrive(me)
    }

    /// The kernel's event in the group's names.
    fn named(&self, event: Event) -> Event {
        let id = Id::from_raw(event.cookie);
        let mut named = Event {
            worker: id,
            at_ns: clock::to_caller(event.at_ns),
            ..event
        };
        if let Some(side) = self.futex.book().sides().get(id.index() as usize) {
            named.cookie = self.futex.book().cookie(id);
            if event.reason == Reason::Exited {
                side.first_told(id);
                self.futex.forget_dead(id);
            }
            if event.reason == Reason::New && side.runs.load(Relaxed) != 0 {
                named.reason = Reason::Woken;
            }
        }
        named
    }

    pub(crate) fn register(&self, kind: Kind, cookie: u64, told: &mut dyn FnMut(Id)) -> Result<Id> {
        let id = match self.futex.admit(kind, cookie) {
            Err(error) if error.kind() == ErrorKind::Full => {
                self.futex.bury_dead_servers();
                self.futex.admit(kind, cookie)?
            }
            admitted => admitted?,
        };
        told(id);
        let done = match self.enter() {
            Some(served) => self.to_kernel(id, kind, &served),
            None => false,
        };
        if !done {
            match kind {
                Kind::Server => self.futex.enter_slot(id)?,
                Kind::Worker => {
                    self.futex.queue_me(id)?;
                    self.move_on(id);
                }
            }
        }
        Ok(id)
    }

    pub(crate) fn unregister(&self, me: Id) -> Result<()> {
        let told = self.at_kernel(me).is_some_and(|(served, id)| {
            // BPF may have seen it leave before, by a change of class.
            served.group.unregister(id).is_ok() || served.group.has_left(id)
        });
        self.futex.leave(me, told)?;
        self.call_for_unlisted();
        Ok(())
    }

    /// A server at the kernel has to look at the book, where somebody left a notice.
    fn call_for_unlisted(&self) {
        if self.futex.book().header().unlisted.load(Relaxed) == 0 {
            return;
        }
        let members = self.futex.list().unwrap_or_default();
        let server = members.iter().find(|it| it.kind == Kind::Server);
        if let Some(server) = server {
            let _ = self.wake(server.id);
        }
        // pairs with next_event()
    }

    pub(crate) fn run(&self, me: Id, worker: Id, deadline_ns: u64) -> Result<Event> {
        self.settle(me)?;
        let theirs = self.home(worker);
        let Some((served, id)) = self.at_kernel(me) else {
            if self.home(me) != 0 {
                self.lost_server(me)?;
            }
            if theirs != 0 {
                return Err(self.not_here_yet(worker));
            }
            return self.futex.run(me, worker, deadline_ns);
        };
        if theirs == 0 || !is_at(theirs, &served) {
            self.futex_member(worker)?;
            return Err(self.not_here_yet(worker));
        }
        if let Some((_, side)) = self.futex.book().member(worker) {
            side.runs.store(1, Relaxed);
        }
        let to = clock_to_machine(deadline_ns);
        match served.group.run(id, id_at_kernel(theirs), to) {
            Ok(event) => Ok(self.named(event)),
            Err(error) if lost(&error) => {
                self.server_to_book(me, &served)?;
                Ok(self.rescued(worker))
            }
            Err(error) => Err(error),
        }
    }

    fn futex_member(&self, id: Id) -> Result<()> {
        self.futex.state(id).map(|_| ())
    }

    /// `worker` lives elsewhere than the server that wants to run it: one that waits is
    /// woken, one that sits in the book, RUNNABLE and maybe on nobody's list any more,
    /// is sent off; it is listed when it has moved.
    fn not_here_yet(&self, worker: Id) -> Error {
        let idle = self.state(worker).is_ok_and(|it| it.state == State::Idle);
        if idle {
            let _ = self.wake(worker);
        } else {
            self.futex.send_off(worker.index());
        }
        let kind = if idle {
            ErrorKind::Again
        } else {
            ErrorKind::WrongState
        };
        Error::new(kind, "run", worker.raw())
    }

    /// What `run` says when the daemon went away meanwhile.
    fn rescued(&self, worker: Id) -> Event {
        let side = self.futex.book().sides().get(worker.index() as usize);
        Event {
            worker,
            cookie: side.map_or(0, |side| side.cookie.load(Relaxed)),
            reason: Reason::Rescued,
            tag: 0,
            at_ns: clock::now(),
            run_ns: 0,
            wait_ns: 0,
        }
    }

    /// Server `me` lives at an instance that is over.
    fn lost_server(&self, me: Id) -> Result<()> {
        self.to_book(me, Kind::Server, None);
        self.arrive(me)
    }

    pub(crate) fn next_event(&self, me: Id, deadline_ns: u64) -> Result<Event> {
        loop {
            self.settle(me)?;
            let Some((served, id)) = self.at_kernel(me) else {
                if self.home(me) != 0 {
                    self.lost_server(me)?;
                }
                return self.futex.next_event(me, deadline_ns);
            };
            if let Some(event) = self.futex.take_unlisted() {
                return Ok(event);
            }
            match served.group.next_event(id, clock_to_machine(deadline_ns)) {
                Ok(event) => return Ok(self.named(event)),
                Err(error) if lost(&error) => self.server_to_book(me, &served)?,
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn wait(&self, me: Id, deadline_ns: u64) -> Result<Woken> {
        if let Some((served, id)) = self.at_kernel(me) {
            match served.group.wait(id, clock_to_machine(deadline_ns)) {
                Err(error) if lost(&error) => {
                    if let Some(woken) = self.worker_to_book(me, &served, deadline_ns)? {
                        return Ok(woken);
                    }
                }
                result => return result,
            }
        } else if self.home(me) != 0 {
            self.to_book(me, Kind::Worker, None);
        }
        let woken = self.futex.wait(me, deadline_ns);
        self.move_on(me);
        woken
    }

    pub(crate) fn switch(&self, me: Id, to: Id, deadline_ns: u64) -> Result<Woken> {
        let theirs = self.home(to);
        if let Some((served, id)) = self.at_kernel(me) {
            if is_at(theirs, &served) && theirs != 0 {
                let deadline = clock_to_machine(deadline_ns);
                match served.group.switch(id, id_at_kernel(theirs), deadline) {
                    Err(error) if lost(&error) => {
                        let _ = self.wake(to);
                        if let Some(woken) = self.worker_to_book(me, &served, deadline_ns)? {
                            return Ok(woken);
                        }
                    }
                    result => return result,
                }
            } else {
                self.wake(to)?;
            }
            return self.wait(me, deadline_ns);
        }
        if self.home(me) != 0 {
            self.to_book(me, Kind::Worker, None);
        }
        if theirs != 0 {
            self.wake(to)?;
            return self.wait(me, deadline_ns);
        }
        let woken = self.futex.switch(me, to, deadline_ns);
        self.move_on(me);
        woken
    }

    pub(crate) fn yield_now(&self, me: Id) -> Result<()> {
        if let Some((served, id)) = self.at_kernel(me) {
            match served.group.yield_now(id) {
                Err(error) if lost(&error) => {
                    if self.worker_to_book(me, &served, 0)?.is_some() {
                        return Ok(());
                    }
                }
                result => return result,
            }
        } else if self.home(me) != 0 {
            self.to_book(me, Kind::Worker, None);
        }
        let done = self.futex.yield_now(me);
        self.move_on(me);
        done
    }

    pub(crate) fn wake(&self, who: Id) -> Result<()> {
        self.futex_member(who)?;
        for _ in 0..MOVES {
            let home = self.home(who);
            let served = match home {
                0 => None,
                _ => self.enter().filter(|it| is_at(home, it)),
            };
            // An instance that nobody serves: it looks here when it comes.
            let woken = match served {
                Some(served) => served.group.wake(id_at_kernel(home)),
                None => self.futex.wake(who),
            };
            fence(SeqCst);
            if self.home(who) == home {
                match woken {
                    Err(error) if home != 0 && error.kind() == ErrorKind::WrongState => continue,
                    Err(error) if home != 0 && (lost(&error) || is_unknown(&error)) => break,
                    woken => return woken,
                }
            }
            // pairs with to_kernel() and to_book()
        }
        self.futex.wake(who)
    }

    pub(crate) fn kick(&self, who: Id) -> Result<()> {
        let home = self.home(who);
        if home != 0
            && let Some(served) = self.enter().filter(|it| is_at(home, it))
        {
            return served.group.kick(id_at_kernel(home));
        }
        self.futex.kick(who)
    }

    /// Async-signal-safe.
    pub(crate) fn kick_self(&self, me: Id) -> Result<()> {
        let home = self.home(me);
        if home == 0 {
            return self.futex.kick_self(me);
        }
        match self.served_now().filter(|it| is_at(home, it)) {
            Some(served) => served.group.kick_self(id_at_kernel(home)),
            None => Err(Error::new(ErrorKind::Again, "kick_self", me.raw())),
        }
    }

    /// Async-signal-safe; yes in doubt.
    pub(crate) fn is_running(&self, me: Id) -> bool {
        let home = self.home(me);
        let state = match home {
            0 => self.futex.state(me),
            _ => match self.served_now().filter(|it| is_at(home, it)) {
                Some(served) => served.group.state(id_at_kernel(home)),
                None => return true,
            },
        };
        state.is_ok_and(|it| it.state == State::Running)
    }

    pub(crate) fn state(&self, who: Id) -> Result<Snapshot> {
        if let Some((served, id)) = self.at_kernel(who)
            && let Ok(mut state) = served.group.state(id)
        {
            state.since_ns = clock::to_caller(state.since_ns);
            return Ok(state);
        }
        self.futex.state(who)
    }

    pub(crate) fn list(&self) -> Result<Vec<Member>> {
        self.futex.bury_dead_servers();
        let mut members = self.futex.list()?;
        for member in &mut members {
            if let Ok(state) = self.state(member.id) {
                member.state = state.state;
            }
        }
        Ok(members)
    }
}

/// A deadline in the machine's time; 0 and for ever stay.
fn clock_to_machine(deadline_ns: u64) -> u64 {
    match deadline_ns {
        0 | u64::MAX => deadline_ns,
        _ => clock::to_machine(deadline_ns),
    }
}
