//! The calls of futex-only mode.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use super::book::{Book, SLOTS, Side};
use super::edge::{self, Begun, Woke};
use super::hand::wants_server;
use super::news::Local;
use super::park::{park, unpark};
use super::reap::{CHECK_NS, WORKER_CHECK_NS, kind_number};
use super::sys;
use crate::backend::{Backend, Kind};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Member, Reason, Snapshot, Woken};
use crate::mode::{GroupConfig, Mode, Why};
use crate::record;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::sync::fence;
use crate::word::{PREEMPTED, State, Word, YIELDED};

/// How long a signal gets to force a worker off before `run` returns without it.
const SIGNAL_GRACE_NS: u64 = 50_000_000;

/// A group that is served by futexes.
pub(crate) struct FutexGroup {
    pub(super) book: Book,
    why: Why,
    /// By slot, for servers of this process.
    pub(super) locals: Box<[OnceLock<Local>]>,
}

impl FutexGroup {
    /// A new group.
    pub(crate) fn create(config: &GroupConfig, why: Why) -> Result<Self> {
        Ok(Self::with(Book::create(config)?, why))
    }

    /// The group whose book is `fd`.
    pub(crate) fn open(fd: OwnedFd, why: Why) -> Result<Self> {
        Ok(Self::with(Book::open(fd)?, why))
    }

    fn with(book: Book, why: Why) -> Self {
        Self {
            book,
            why,
            locals: (0..SLOTS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The book.
    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// The signal that forces a worker off, 0 = none.
    pub(crate) fn signal(&self) -> i32 {
        self.book.header().signal.load(Relaxed) as i32
    }

    /// Whether a kick of `me` stands that it has not followed yet.
    pub(crate) fn has_request(&self, me: Id) -> bool {
        self.book.member(me).is_some_and(|(worker, _)| {
            let request = worker.request.load(Relaxed);
            request != 0 && request == edge::load(worker).time48()
        })
    }

    fn worker(&self, call: &'static str, id: Id) -> Result<(&record::Worker, &Side)> {
        match self.book.member(id) {
            Some((worker, side)) if side.kind.load(Acquire) == kind_number(Kind::Worker) => {
                Ok((worker, side))
            }
            Some(_) => Err(Error::new(ErrorKind::Invalid, call, id.raw())),
            None => Err(Error::new(ErrorKind::NotFound, call, id.raw())),
        }
    }

    /// The caller's side, slot number and local part.
    fn server(&self, call: &'static str, me: Id) -> Result<(&Side, usize, &Local)> {
        let gone = || Error::new(ErrorKind::NotFound, call, me.raw());
        let (_, side) = self.book.member(me).ok_or_else(gone)?;
        let slot = side.slot.load(Relaxed) as usize;
        let local = self.locals.get(slot).and_then(OnceLock::get);
        match local {
            Some(local) if side.kind.load(Acquire) == kind_number(Kind::Server) => {
                Ok((side, slot, local))
            }
            _ => Err(gone()),
        }
    }

    /// Claims `to` and binds it to `slot`; who calls decides when it starts.
    fn claim(
        &self,
        call: &'static str,
        me: Id,
        to: Id,
        ends_wait: bool,
        slot: usize,
    ) -> Result<Claimed<'_>> {
        let (worker, side) = self.worker(call, to)?;
        let claim = edge::claim(worker, ends_wait, clock::machine_now())
            .map_err(|word| Error::new(ErrorKind::WrongState, call, word.0))?;
        worker.claim.store(me.raw(), Relaxed);
        side.slot.store(slot as u32, Relaxed);
        if slot != 0 {
            worker.home.store(slot as u32, Relaxed);
        }
        Ok(Claimed {
            worker,
            side,
            claim,
        })
    }

    /// Sleeps until the calling worker is run. `wait` is its IDLE word, if time may
    /// wake it. Without one it is async-signal-safe.
    fn await_run(&self, me: Id, wait: Option<Word>, deadline_ns: u64) -> Result<Woken> {
        let gone = || Error::new(ErrorKind::NotFound, "wait", me.raw());
        let (worker, side) = self.book.member(me).ok_or_else(gone)?;
        let running = || edge::load(worker).state() == Some(State::Running);
        let check_ns = match self.book.header().shared.load(Relaxed) {
            0 => u64::MAX,
            _ => WORKER_CHECK_NS,
        };
        let check = || {
            // Looking for the dead reads files: not in a signal handler's stead.
            if wait.is_some() {
                self.reap();
            }
            self.rescue_myself(me, worker, side);
        };
        let mut timed_out = false;
        let first = if wait.is_some() {
            deadline_ns
        } else {
            u64::MAX
        };
        if !park(&side.asleep, first, check_ns, running, check) {
            let now = clock::machine_now();
            timed_out = wait.is_some_and(|word| edge::time_out(worker, now, word));
            if timed_out {
                self.list(me.index());
            }
            park(&side.asleep, u64::MAX, check_ns, running, check);
        }
        Ok(if timed_out {
            Woken::TimedOut
        } else {
            Woken::Woken
        })
    }

    /// A RUNNABLE worker of a group without servers runs on without one: they died,
    /// and nobody may hang for that. One that never ran waits for the first server.
    fn rescue_myself(&self, me: Id, worker: &record::Worker, side: &Side) {
        if !self.book.header().live.is_empty()
            || side.runs.load(Relaxed) == 0
            || !wants_server(edge::load(worker))
        {
            return;
        }
        if let Ok(claimed) = self.claim("wait", me, me, true, 0) {
            claimed.start();
        }
    }

    /// RUNNING -> RUNNABLE with `flag`, until run again. Async-signal-safe.
    fn give_up(&self, call: &'static str, me: Id, flag: u64, reason: Reason) -> Result<()> {
        let (worker, side) = self.worker(call, me)?;
        let slot = side.slot.load(Relaxed) as usize;
        let word = edge::leave(worker, clock::machine_now(), flag)
            .map_err(|word| Error::new(ErrorKind::WrongState, call, word.0))?;
        self.list(me.index());
        self.hand_back(slot, me, reason, word);
        self.await_run(me, None, u64::MAX).map(|_| ())
    }

    /// The calling thread becomes a member that is RUNNING without a slot: its home is
    /// decided next.
    pub(crate) fn admit(&self, kind: Kind, cookie: u64) -> Result<Id> {
        let id = self.book.take_record(kind_number(kind), cookie)?;
        let record = &self.book.workers()[id.index() as usize];
        edge::enter(record, clock::machine_now(), State::Running);
        Ok(id)
    }

    /// Worker `me`, RUNNING without a slot, asks for one: listed, returns when it is run.
    pub(crate) fn queue_me(&self, me: Id) -> Result<()> {
        self.give_up("register", me, 0, Reason::Rescued)
    }

    /// `me` is a member no more; `told`: a server knows that already.
    pub(crate) fn leave(&self, me: Id, told: bool) -> Result<()> {
        let gone = || Error::new(ErrorKind::NotFound, "unregister", me.raw());
        let (worker, side) = self.book.member(me).ok_or_else(gone)?;
        let slot = side.slot.load(Relaxed) as usize;
        let server = side.kind.load(Acquire) == kind_number(Kind::Server);
        let (_, word) = edge::exit(worker, clock::machine_now()).ok_or_else(gone)?;
        if server {
            self.exit_slot(slot, me);
        }
        let told = told || server || self.hand_back(slot, me, Reason::Exited, word);
        self.book.free_record(me);
        if !told {
            self.tell_left(me, word);
        }
        Ok(())
    }

    /// Whether worker `me` has no server's slot.
    pub(crate) fn is_slotless(&self, me: Id) -> bool {
        let member = self.book.member(me);
        member.is_some_and(|(_, side)| side.slot.load(Relaxed) == 0)
    }

    /// Uses a remembered wake of the calling worker up, if there is one.
    pub(crate) fn take_wake(&self, me: Id) -> bool {
        let member = self.book.member(me);
        member.is_some_and(|(worker, _)| edge::consume_wake(worker))
    }

    /// Server `me` leaves its slot, RUNNING: its workers go to others. False: it runs one.
    pub(crate) fn try_exit_slot(&self, me: Id) -> bool {
        let Some((_, side)) = self.book.member(me) else {
            return false;
        };
        let slot = side.slot.load(Relaxed) as usize % self.book.slots().len();
        let it = &self.book.slots()[slot];
        if slot != 0 && (it.holds.load(Acquire) != 0 || it.ready.load(Acquire) != 0) {
            return false;
        }
        side.slot.store(0, Relaxed);
        self.exit_slot(slot, me);
        true
    }

    fn exit_slot(&self, slot: usize, me: Id) {
        if slot == 0 {
            return;
        }
        self.leave_slot(slot, me);
        if let Some(local) = self.locals.get(slot).and_then(OnceLock::get) {
            while let Some(index) = local.pop() {
                if self.is_news(
                    index as usize,
                    edge::load(&self.book.workers()[index as usize]),
                ) {
                    self.list(index);
                }
            }
        }
        // Those that it was told of and never ran.
        self.list_orphans(slot);
    }

    /// Has all servers look who serves the group, which has changed.
    pub(crate) fn call_servers(&self) {
        fence(SeqCst);
        for slot in self.book.header().live.iter() {
            self.book.slots()[slot].poked.store(1, Release);
            self.poke(slot);
        }
        self.rehome(0);
        // pairs with list()
    }

    /// Lets worker `index`, RUNNABLE, go on without a slot: it goes where it is served.
    pub(crate) fn send_off(&self, index: u32) {
        let id = self.book.id_at(index);
        if let Some(id) = id
            && let Ok(claimed) = self.claim("wait", id, id, true, 0)
        {
            claimed.start();
        }
    }

    /// Marks worker `who` to be forced off, if it is RUNNING.
    fn request(&self, call: &'static str, who: Id) -> Result<()> {
        let (worker, side) = self.worker(call, who)?;
        let word = edge::load(worker);
        if word.state() != Some(State::Running) {
            return Err(Error::new(ErrorKind::WrongState, call, word.0));
        }
        worker.request.store(word.time48(), Release);
        let signal = self.signal();
        if signal != 0 {
            let (pid, tid) = (side.pid.load(Relaxed), side.tid.load(Relaxed));
            sys::tgkill(pid, tid, signal);
        }
        Ok(())
    }
}

/// A worker that only the holder of this may start.
struct Claimed<'a> {
    worker: &'a record::Worker,
    side: &'a Side,
    claim: Word,
}

impl Claimed<'_> {
    /// -> RUNNING; false if the claim was taken for a dead thread's and ended.
    fn start(&self) -> bool {
        self.side.runs.fetch_add(1, Relaxed);
        if edge::start(self.worker, clock::machine_now(), self.claim).is_none() {
            return false;
        }
        unpark(&self.side.asleep);
        true
    }
}

impl Backend for FutexGroup {
    fn mode(&self) -> Mode {
        Mode::FutexOnly(self.why)
    }

    fn register(&self, kind: Kind, cookie: u64, told: &mut dyn FnMut(Id)) -> Result<Id> {
        let id = self.admit(kind, cookie)?;
        told(id);
        match kind {
            Kind::Server => self.enter_slot(id).inspect_err(|_| {
                let _ = self.unregister(id);
            })?,
            Kind::Worker => self.queue_me(id)?,
        }
        Ok(id)
    }

    fn unregister(&self, me: Id) -> Result<()> {
        self.leave(me, false)
    }

    fn run_if(&self, me: Id, worker: Id, ends_wait: bool, deadline_ns: u64) -> Result<Event> {
        let (side, slot, local) = self.server("run", me)?;
        let it = &self.book.slots()[slot];
        let holds = it.holds.load(Acquire);
        if holds != 0 || it.ready.load(Acquire) != 0 {
            return Err(Error::new(ErrorKind::Again, "run", holds));
        }
        let record = &self.book.workers()[me.index() as usize];
        let claimed = self.claim("run", me, worker, ends_wait, slot)?;
        edge::set(record, clock::machine_now(), State::Idle);
        it.holds.store(worker.raw(), Release);
        if !claimed.start() {
            it.holds.store(0, Relaxed);
            edge::set(record, clock::machine_now(), State::Running);
            return Err(Error::new(ErrorKind::Again, "run", worker.raw()));
        }
        fence(SeqCst);
        let server = &self.book.servers()[slot];
        if local.waiting.load(Relaxed) != 0 || server.runnable.head.load(Relaxed) != 0 {
            // An idle server may take over what I cannot look at now.
            self.call_idler();
        }
        let ready = || it.ready.load(Acquire) != 0;
        let check = || {
            let held = Id::from_raw(it.holds.load(Acquire));
            if !held.is_none() && self.bury_if_dead(held) {
                self.hand_back(slot, held, Reason::Exited, Word(0));
            }
        };
        let mut back = park(&side.asleep, deadline_ns, CHECK_NS, ready, check);
        if !back {
            let held = Id::from_raw(it.holds.load(Acquire));
            let _ = self.request("run", held);
            if self.signal() != 0 {
                let grace = clock::now() + SIGNAL_GRACE_NS;
                back = park(&side.asleep, grace, CHECK_NS, ready, check);
            }
        }
        edge::set(record, clock::machine_now(), State::Running);
        let timed_out = || Error::new(ErrorKind::TimedOut, "run", worker.raw());
        let event = back.then(|| self.take_slot_event(slot)).flatten();
        event.ok_or_else(timed_out)
    }

    fn next_event(&self, me: Id, deadline_ns: u64) -> Result<Event> {
        let (side, slot, local) = self.server("next_event", me)?;
        let it = &self.book.slots()[slot];
        loop {
            if let Some(event) = self.take_slot_event(slot) {
                return Ok(event);
            }
            if it.poked.load(Relaxed) != 0 && it.poked.swap(0, AcqRel) != 0 {
                return Err(Error::new(ErrorKind::Again, "next_event", 0));
            }
            self.book.servers()[slot].must.swap(0, AcqRel);
            if let Some(event) = self.pop_news(local) {
                return Ok(event);
            }
            if self.drain(slot, slot, local) || self.steal(slot, local) {
                continue;
            }
            if deadline_ns == 0 || (deadline_ns != u64::MAX && clock::now() >= deadline_ns) {
                return Err(Error::new(ErrorKind::TimedOut, "next_event", deadline_ns));
            }
            self.idle(me, side, slot, deadline_ns);
        }
    }

    fn wait(&self, me: Id, deadline_ns: u64) -> Result<Woken> {
        let (worker, side) = self.worker("wait", me)?;
        if deadline_ns == 0 {
            return Ok(if edge::consume_wake(worker) {
                Woken::Woken
            } else {
                Woken::TimedOut
            });
        }
        let slot = side.slot.load(Relaxed) as usize;
        match edge::begin_wait(worker, clock::machine_now()) {
            Begun::WasWoken => Ok(Woken::Woken),
            Begun::Wrong(word) => Err(Error::new(ErrorKind::WrongState, "wait", word.0)),
            Begun::Idle(word) => {
                self.hand_back(slot, me, Reason::Waits, word);
                self.await_run(me, Some(word), deadline_ns)
            }
        }
    }

    fn switch(&self, me: Id, to: Id, deadline_ns: u64) -> Result<Woken> {
        if me == to {
            return Err(Error::new(ErrorKind::Myself, "switch", to.raw()));
        }
        let (worker, side) = self.worker("switch", me)?;
        let word = edge::load(worker);
        if word.state() != Some(State::Running) {
            return Err(Error::new(ErrorKind::WrongState, "switch", word.0));
        }
        let slot = side.slot.load(Relaxed) as usize % self.book.slots().len();
        let target = self.claim("switch", me, to, true, slot)?;
        // From my edge on somebody else may run me, in another slot.
        let now = clock::machine_now();
        let (wait, word) = match edge::begin_wait(worker, now) {
            Begun::Idle(word) => (Some(word), word),
            Begun::WasWoken | Begun::Wrong(_) => match edge::leave_woken(worker, now) {
                Ok(word) => (None, word),
                Err(word) => {
                    if edge::unclaim(target.worker, now, target.claim) {
                        self.list(to.index());
                    }
                    return Err(Error::new(ErrorKind::WrongState, "switch", word.0));
                }
            },
        };
        let it = &self.book.slots()[slot];
        let mine = it
            .holds
            .compare_exchange(me.raw(), to.raw(), AcqRel, Relaxed)
            .is_ok();
        if wait.is_none() {
            self.list(me.index());
        }
        if !target.start() && mine {
            // It was taken for a dead thread's claim and is listed: the slot is free.
            self.hand_back(slot, to, Reason::Waits, word);
        }
        self.await_run(me, wait, deadline_ns)
    }

    fn yield_now(&self, me: Id) -> Result<()> {
        self.give_up("yield", me, YIELDED, Reason::Yielded)
    }

    fn wake(&self, who: Id) -> Result<()> {
        let gone = || Error::new(ErrorKind::NotFound, "wake", who.raw());
        let (worker, side) = self.book.member(who).ok_or_else(gone)?;
        if side.kind.load(Acquire) == kind_number(Kind::Server) {
            let slot = side.slot.load(Relaxed) as usize % self.book.slots().len();
            self.book.slots()[slot].poked.store(1, Release);
            self.poke(slot);
            return Ok(());
        }
        match edge::wake(worker, clock::machine_now()) {
            Woke::Edge => self.list(who.index()),
            Woke::Remembered => {}
            Woke::Nobody => return Err(gone()),
        }
        Ok(())
    }

    fn kick(&self, who: Id) -> Result<()> {
        self.request("kick", who)
    }

    fn kick_self(&self, me: Id) -> Result<()> {
        self.give_up("kick", me, PREEMPTED, Reason::Preempted)
    }

    fn state(&self, who: Id) -> Result<Snapshot> {
        let gone = || Error::new(ErrorKind::NotFound, "state", who.raw());
        let (worker, _) = self.book.member(who).ok_or_else(gone)?;
        let word = edge::load(worker);
        Ok(Snapshot {
            state: word.state().ok_or_else(gone)?,
            flags: word.flags() & !edge::PRIVATE,
            since_ns: clock::to_caller(edge::since(worker, word, clock::machine_now())),
            run_ns: worker.run_ns.load(Relaxed),
            wait_ns: worker.wait_ns.load(Relaxed),
            tag: word.0 & !edge::PRIVATE,
        })
    }

    fn list(&self) -> Result<Vec<Member>> {
        let ids = (1..=self.book.max_members()).filter_map(|index| self.book.id_at(index));
        let members = ids.filter_map(|id| {
            let (worker, side) = self.book.member(id)?;
            Some(Member {
                id,
                kind: match side.kind.load(Acquire) {
                    1 => Kind::Server,
                    2 => Kind::Worker,
                    _ => return None,
                },
                cookie: side.cookie.load(Relaxed),
                tid: side.tid.load(Relaxed),
                state: edge::load(worker).state()?,
            })
        });
        Ok(members.collect())
    }
}
