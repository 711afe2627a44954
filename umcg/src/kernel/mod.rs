//! A group served by the daemon's BPF programs.
//!
//! The hot calls write a request into the calling thread's desk and give the CPU
//! up by `sched_yield()`; BPF reads the request there. The others run the daemon's
//! program `umcg_client`. The truth is read from a map that this process cannot
//! write. `intf_group.h` holds the protocol of each shared word.
//!
//! A request that BPF did not see (`parks` did not move) is made again; after
//! [`UNSEEN`] of these in a row the answer is `Gone`.

pub mod proto;
#[allow(missing_docs)]
pub mod record;
#[allow(unsafe_code)]
pub mod sys;

mod call;
mod denied;
mod server;
mod steal;
mod worker;

use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::backend::{Backend, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Member, Snapshot, Woken};
use crate::intf;
use crate::mode::{GroupConfig, Mode};
use crate::sync::AtomicU32;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::tls;
use crate::word::{PENDING, State, Word};
use proto::{Op, Request};
use record::{Desk, Head, Truth};
use sys::{Bell, Class, Mapping};

/// Requests in a row that BPF did not see, until it counts as gone.
pub(crate) const UNSEEN: u32 = 3;
/// How often a server that sleeps for real looks whether it is served.
const LOOK_NS: u64 = 1_000_000_000;
/// Server records; workers follow.
pub(crate) const SERVERS: u32 = crate::mode::MAX_SERVERS;

thread_local! {
    /// The class that the calling thread had before it became a member, if it has another one now.
    static CLASS: Cell<Option<Class>> = const { Cell::new(None) };
}

/// What a server's own thread uses, and idle ones of its process try to take from.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Taken off the list and not reported yet, newest first.
    pub taken: Vec<u32>,
    pub bell: Option<Arc<Bell>>,
}

/// A group as this process sees it.
#[derive(Debug)]
pub struct KernelGroup {
    truth: Mapping,
    desks: Mapping,
    futexes: Mapping,
    prog: OwnedFd,
    sock: Mutex<OwnedFd>,
    capacity: u32,
    epoch: u64,
    full: bool,
    ticket: [u8; 32],
    seats: Vec<Mutex<Seat>>,
    /// By index: the generation of the server that is a thread of this process.
    here: Vec<AtomicU32>,
    /// The socket, for polls: it hangs up when the daemon ends.
    hangs_up: RawFd,
    over: AtomicBool,
    denied: denied::Denied,
    /// Where the daemon listens.
    path: PathBuf,
    /// Whether the group still wants to be served by this; `None`: as long as it lives.
    wanted: Option<Wanted>,
}

/// See [`KernelGroup::watch`].
pub(crate) struct Wanted(Box<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wanted")
    }
}

/// Makes a group; `socket` is where the daemon listens.
pub fn connect(socket: &Path, config: &GroupConfig) -> Result<KernelGroup> {
    let mut request = Request::new(Op::Create);
    (request.max_members, request.share) = (config.max_members, config.share);
    request.idle = config.idle.number();
    request.quantum_us = config.quantum_us()?;
    request.name = for_people(&config.name);
    request.policy = for_people(config.policy.split(':').next().unwrap_or_default());
    enter(socket, &request, "create")
}

/// One byte less of `text` than there is room for, then a zero.
fn for_people(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(text.bytes().take(31)) {
        *to = from;
    }
    bytes
}

/// Joins the group of `ticket`, which a process of the same user was given.
pub fn join(socket: &Path, ticket: &[u8; 32]) -> Result<KernelGroup> {
    let mut request = Request::new(Op::Join);
    request.ticket = *ticket;
    enter(socket, &request, "join")
}

fn os(call: &'static str) -> impl Fn(i32) -> Error {
    move |errno| Error::new(ErrorKind::from_errno(errno), call, errno as u64)
}

fn enter(socket: &Path, request: &Request, call: &'static str) -> Result<KernelGroup> {
    let sock = sys::connect(socket).map_err(os(call))?;
    let (reply, fds) = sys::ask(&sock, request).map_err(os(call))?;
    let Ok([truth, desks, prog, futexes]) = <[OwnedFd; 4]>::try_from(fds) else {
        return Err(Error::new(ErrorKind::Version, call, 0));
    };
    let capacity = reply.capacity as usize;
    if capacity <= SERVERS as usize + 1 {
        return Err(Error::new(ErrorKind::Version, call, capacity as u64));
    }
    let bytes = |record: usize| capacity * record;
    let truth = Mapping::new(&truth, bytes(size_of::<Truth>()), 0, false).map_err(os(call))?;
    let desks = Mapping::new(&desks, bytes(size_of::<Desk>()), 0, true).map_err(os(call))?;
    let futexes = Mapping::new(&futexes, bytes(4), 0, true).map_err(os(call))?;
    let group = KernelGroup {
        hangs_up: sock.as_raw_fd(),
        over: AtomicBool::new(false),
        denied: denied::Denied::default(),
        path: socket.to_owned(),
        wanted: None,
        truth,
        desks,
        futexes,
        prog,
        sock: Mutex::new(sock),
        capacity: reply.capacity,
        epoch: reply.epoch,
        full: reply.full,
        ticket: reply.ticket,
        seats: (0..=SERVERS).map(|_| Mutex::default()).collect(),
        here: (0..=SERVERS).map(|_| AtomicU32::default()).collect(),
    };
    if group.head().abi.load(Relaxed) != intf::UMCG_ABI {
        return Err(Error::new(ErrorKind::Version, call, 0));
    }
    group.probe_bpf();
    Ok(group)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl KernelGroup {
    /// What another process of the same user joins with.
    pub fn ticket(&self) -> [u8; 32] {
        self.ticket
    }

    /// Whether the daemon's BPF still is the one that the group was made with, and
    /// wanted. No system call.
    pub fn alive(&self) -> bool {
        self.head().epoch.load(Relaxed) == self.epoch
            && !self.over.load(Relaxed)
            && self.wanted.as_ref().is_none_or(|wanted| (wanted.0)())
    }

    /// From now on it also counts as gone when `wanted` says no. Who makes that so calls
    /// [`rouse`](Self::rouse) afterwards.
    pub(crate) fn watch(&mut self, wanted: impl Fn() -> bool + Send + Sync + 'static) {
        self.wanted = Some(Wanted(Box::new(wanted)));
    }

    /// Ends the real sleeps of all workers, of any process: they look at
    /// [`alive`](Self::alive) then. Servers look once in [`LOOK_NS`].
    pub(crate) fn rouse(&self) {
        for index in self.worker_records() {
            let futex = self.futex(index);
            futex.fetch_add(1, crate::sync::Ordering::SeqCst);
            sys::futex_wake(futex);
        }
        // pairs with idle_again()
    }

    /// The word of `id`; of one that is no member any more, that a wake may be due.
    pub(crate) fn last_word(&self, id: Id) -> Word {
        let truth = self.truth(id.index());
        let word = match truth.gen_.load(Acquire) == id.generation() {
            true => truth.word.load(Acquire),
            false => PENDING, // nobody knows: one wake too many
        };
        Word(word)
    }

    /// Ends the calling thread's membership, in whatever group of this daemon: it stays
    /// one elsewhere, so no server is told.
    pub(crate) fn leave_any(&self) {
        let _ = self.leave(intf::umcg_reason_UMCG_R_RESCUED);
    }

    fn leave(&self, reason: u32) -> Result<()> {
        let op = intf::umcg_call_op_UMCG_CALL_UNREGISTER;
        let mut call = self.call(op, reason.into());
        let left = self.run_call(&mut call, "unregister").map(|_| ());
        self.sit(Id::NONE);
        if let Some(class) = CLASS.take().filter(|_| !self.full) {
            class.take().map_err(os("unregister"))?;
        }
        left
    }

    /// Partial mode schedules SCHED_EXT alone: the calling thread is that as long as it is a member.
    fn take_class(&self) -> Result<()> {
        let mine = Class::mine().map_err(os("register"))?;
        if self.full || mine == Class::EXT {
            return Ok(());
        }
        Class::EXT.take().map_err(os("register"))?;
        CLASS.set(Some(mine));
        Ok(())
    }

    /// The calling thread's member `me` leaves, to go on elsewhere.
    pub(crate) fn move_away(&self, me: Id) -> Result<()> {
        self.find(me, "unregister")?;
        self.leave(intf::umcg_reason_UMCG_R_RESCUED)
    }

    /// `call`'s answer for who finds that nobody serves it any more.
    fn gone(&self, call: &'static str, value: u64) -> Error {
        Error::new(ErrorKind::Gone, call, value)
    }

    /// The same for member `me`, whose requests BPF does not see: it may be none any more.
    fn unseen(&self, me: Id, call: &'static str) -> Error {
        match self.find(me, call) {
            Ok(_) => self.gone(call, me.raw()),
            Err(error) => error,
        }
    }

    /// Sleeps on `bell`; the daemon's end is told by its socket.
    fn sleep(&self, bell: &Bell, deadline_ns: u64) {
        let until = deadline_ns.min(sys::now_ns().saturating_add(LOOK_NS));
        if bell.wait(until, self.hangs_up) {
            self.over.store(true, Relaxed);
        }
    }

    /// Members at most, servers included, are below this index.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// For tests: garbage on a desk, as a hostile client writes it.
    #[doc(hidden)]
    pub fn scribble(&self, index: u32, value: u64) {
        const OP_LEAVE: u32 = intf::umcg_op_UMCG_OP_LEAVE;
        let desk = self.desk(index);
        match value % 13 {
            // What there is, but not to leave, and what there is not.
            0 if value & 0x80 == 0 => desk.op.store((value as u32 >> 8) % OP_LEAVE, Relaxed),
            0 => desk.op.store(value as u32 >> 8 | 0x10, Relaxed),
            1 => desk.target.store(value, Relaxed),
            2 => desk.deadline_ns.store(value, Relaxed),
            3 if value & 0x80 == 0 => {
                desk.runnable.fetch_xor(value >> 8 & 0xff, Relaxed);
            }
            3 => desk.runnable.store(value >> 3, Relaxed),
            4 => desk.asleep.store(value as u32 >> 3, Relaxed),
            5 => desk.queued.store(value as u32 >> 20, Relaxed),
            6 => desk.poked.store(value as u32 >> 3, Relaxed),
            7 => desk.resync.store(value as u32 >> 3, Relaxed),
            8 => desk.left_id.store(value, Relaxed),
            9 => desk.nopreempt.store(value as u32 >> 3, Relaxed),
            10 => desk.key.store(value >> 3, Relaxed),
            11 => desk.alone.store(value as u32 >> 3, Relaxed),
            _ => desk.next.store(value as u32 >> 20, Relaxed),
        }
    }

    /// How often BPF saw two running workers of one server: a bug if not 0.
    pub fn shared(&self) -> u64 {
        self.head().shared.load(Relaxed)
    }

    pub(crate) fn head(&self) -> &Head {
        self.record(&self.truth, 0)
    }

    /// What the words of this group are ahead of CLOCK_MONOTONIC: 0, but in tests.
    pub fn words_ahead_ns(&self) -> u64 {
        self.head().ahead_ns.load(Relaxed)
    }

    pub(crate) fn truth(&self, index: u32) -> &Truth {
        self.record(&self.truth, index)
    }

    pub(crate) fn desk(&self, index: u32) -> &Desk {
        self.record(&self.desks, index)
    }

    /// Beyond the last record is record 0, which is nobody's.
    #[allow(unsafe_code)]
    fn record<'a, T>(&self, map: &'a Mapping, index: u32) -> &'a T {
        let index = if index < self.capacity { index } else { 0 };
        // SAFETY: Truth, Desk, Head and the futexes are atomics (and unused padding);
        // the mappings hold `capacity` records of the size that record.rs checks.
        let record = unsafe { map.record(index as usize) };
        record.unwrap_or_else(|| unreachable!("mapped for `capacity` records"))
    }

    /// The live record of `id`.
    pub(crate) fn find(&self, id: Id, call: &'static str) -> Result<&Truth> {
        let truth = self.truth(id.index());
        if id.is_none() || truth.gen_.load(Acquire) != id.generation() {
            return Err(Error::new(ErrorKind::NotFound, call, id.raw()));
        }
        Ok(truth)
    }

    pub(crate) fn seat(&self, me: Id) -> MutexGuard<'_, Seat> {
        locked(&self.seats[(me.index() % (SERVERS + 1)) as usize])
    }

    /// As [`Backend::register`]; a worker that is no `newcomer` has run before, elsewhere.
    pub(crate) fn enlist(
        &self,
        kind: Kind,
        cookie: u64,
        newcomer: bool,
        told: &mut dyn FnMut(Id),
    ) -> Result<Id> {
        self.take_class()?;
        let number = match kind {
            Kind::Server => intf::umcg_member_kind_UMCG_M_SERVER,
            Kind::Worker => intf::umcg_member_kind_UMCG_M_WORKER,
        };
        let (token, bell) = self.token(number)?;
        let mut call = self.call(intf::umcg_call_op_UMCG_CALL_REGISTER, 0);
        (call.token, call.cookie) = (token, cookie);
        let bell = bell.map(Bell::new).transpose().map_err(os("register"))?;
        self.run_call(&mut call, "register")?;
        let me = Id::from_raw(call.me);
        self.show_sections(me, tls::sections());
        self.show_key(me, tls::key());
        self.sit(me);
        told(me);
        match kind {
            Kind::Server => {
                *self.seat(me) = Seat {
                    taken: Vec::with_capacity(self.capacity as usize),
                    bell: bell.map(Arc::new),
                };
                self.sit_here(me);
            }
            Kind::Worker => self.until_run(me, newcomer)?,
        }
        Ok(me)
    }

    /// The sleeper's futex, for who was told that a wake needs it.
    pub(crate) fn wake_sleeper(&self, who: Id) {
        let futex = self.futex(who.index());
        futex.fetch_add(1, crate::sync::Ordering::SeqCst);
        sys::futex_wake(futex);
        // pairs with idle_again() in worker.rs
    }

    pub(crate) fn futex(&self, index: u32) -> &AtomicU32 {
        self.record(&self.futexes, index)
    }
}

impl Backend for KernelGroup {
    fn mode(&self) -> Mode {
        Mode::Kernel { full: self.full }
    }

    fn register(&self, kind: Kind, cookie: u64, told: &mut dyn FnMut(Id)) -> Result<Id> {
        self.enlist(kind, cookie, true, told)
    }

    fn unregister(&self, me: Id) -> Result<()> {
        self.find(me, "unregister")?;
        self.leave(intf::umcg_reason_UMCG_R_EXITED)
    }

    fn run_if(&self, me: Id, worker: Id, ends_wait: bool, deadline_ns: u64) -> Result<Event> {
        self.run_worker(me, worker, ends_wait, deadline_ns)
    }

    fn next_event(&self, me: Id, deadline_ns: u64) -> Result<Event> {
        self.next_listed(me, deadline_ns)
    }

    fn wait(&self, me: Id, deadline_ns: u64) -> Result<Woken> {
        self.wait_idle(me, deadline_ns)
    }

    fn switch(&self, me: Id, to: Id, deadline_ns: u64) -> Result<Woken> {
        self.switch_to(me, to, deadline_ns)
    }

    fn yield_now(&self, me: Id) -> Result<()> {
        self.yield_slot(me)
    }

    fn wake(&self, who: Id) -> Result<()> {
        self.find(who, "wake")?;
        let op = intf::umcg_call_op_UMCG_CALL_WAKE;
        if self.call_attached(op, who, "wake")? == intf::umcg_call_answer_UMCG_WAKE_FUTEX {
            self.wake_sleeper(who);
        }
        Ok(())
    }

    fn kick(&self, who: Id) -> Result<()> {
        self.find(who, "kick")?;
        let op = intf::umcg_call_op_UMCG_CALL_KICK;
        self.call_attached(op, who, "kick").map(|_| ())
    }

    fn kick_self(&self, me: Id) -> Result<()> {
        let op = intf::umcg_call_op_UMCG_CALL_KICK;
        self.call_paced(op, me, "kick").map(|_| ())
    }

    fn state(&self, who: Id) -> Result<Snapshot> {
        let truth = self.find(who, "state")?;
        let word = Word(truth.word.load(Acquire));
        Ok(Snapshot {
            state: word.state().unwrap_or(State::None),
            flags: word.flags(),
            since_ns: truth.since_ns.load(Relaxed),
            run_ns: truth.run_ns.load(Relaxed),
            wait_ns: truth.wait_ns.load(Relaxed),
            tag: word.0,
        })
    }

    fn list(&self) -> Result<Vec<Member>> {
        let members = (1..self.capacity).filter_map(|index| {
            let truth = self.truth(index);
            let generation = truth.gen_.load(Acquire);
            let kind = match truth.kind.load(Relaxed) {
                intf::umcg_member_kind_UMCG_M_SERVER => Kind::Server,
                intf::umcg_member_kind_UMCG_M_WORKER => Kind::Worker,
                _ => return None,
            };
            (generation & 1 == 1).then(|| Member {
                id: Id::new(index, generation),
                kind,
                cookie: truth.cookie.load(Relaxed),
                tid: truth.tid.load(Relaxed),
                state: Word(truth.word.load(Relaxed))
                    .state()
                    .unwrap_or(State::None),
            })
        });
        Ok(members.collect())
    }
}
