//! A server's calls: run a worker, wait for events.

use super::record::Desk;
use super::{KernelGroup, SERVERS, UNSEEN, sys};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Reason, Source};
use crate::intf;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use crate::sync::fence;
use crate::word::{self, State, Word};

/// Hand-overs that found their CPU with other work queued are asked for again.
const RETRIES: u32 = 64;
/// In `why`: what a worker was forced off by.
const SOURCE_MASK: u32 = intf::umcg_source_UMCG_SOURCE_MASK;
const SOURCE_SHIFT: u32 = intf::umcg_source_UMCG_SOURCE_SHIFT;
/// State of an entry on the stack of idle servers.
const DELETED: u32 = intf::umcg_entry_UMCG_E_DELETED;

/// In the owner of a link: the server's index, below its generation.
const OWNER_INDEX: u32 = intf::umcg_owner_UMCG_OWNER_INDEX;
const OWNER_GEN_SHIFT: u32 = intf::umcg_owner_UMCG_OWNER_GEN_SHIFT;

/// `server`, as links name it.
#[doc(alias = "umcg_owner")]
pub(super) fn owner(server: Id) -> u32 {
    server.generation() << OWNER_GEN_SHIFT | server.index()
}

/// The head of a list of `server`'s without a link.
pub(super) fn no_list(server: Id) -> u64 {
    u64::from(owner(server) >> OWNER_GEN_SHIFT) << 32
}

/// BPF's number is a source only of who was forced off.
fn source_of(reason: Reason, number: u32) -> Option<Source> {
    match reason {
        Reason::Preempted => Source::from_number(number),
        _ => None,
    }
}

impl KernelGroup {
    /// Writes the calling thread's request and gives the CPU up. False: BPF did not see it.
    pub(super) fn request(&self, me: Id, op: u32, target: Id, deadline_ns: u64) -> bool {
        let (truth, desk) = (self.truth(me.index()), self.desk(me.index()));
        let before = (truth.parks.load(Relaxed), truth.ev_seq.load(Acquire));
        desk.target.store(target.raw(), Relaxed);
        desk.deadline_ns.store(deadline_ns, Relaxed);
        desk.op.store(op, Relaxed);
        sys::yield_cpu();
        // Whoever met the request cleared it: also when it was met without parking.
        desk.op.swap(0, Relaxed) == 0
            || before != (truth.parks.load(Relaxed), truth.ev_seq.load(Acquire))
    }

    /// Whether server `me` knows of nobody but the worker that it is about to run, or runs. It
    /// says so itself, and nobody else but that it is over.
    pub fn show_alone(&self, me: Id, alone: bool) {
        self.desk(me.index()).alone.store(alone.into(), Relaxed);
        // pairs with nobody_waits()
    }

    pub(super) fn run_worker(
        &self,
        me: Id,
        worker: Id,
        ends_wait: bool,
        deadline_ns: u64,
    ) -> Result<Event> {
        let truth = self.find(me, "run")?;
        if !self.alive() {
            return Err(self.gone("run", me.raw()));
        }
        self.find(worker, "run")?;
        if truth.cur.load(Acquire) != 0 {
            return Err(Error::new(ErrorKind::Again, "run", worker.raw()));
        }
        let mut whom = worker.raw();
        // What is not IDLE now has no wait to end: one that it begins meanwhile is another one.
        let word = Word(self.truth(worker.index()).word.load(Acquire));
        if ends_wait && word.state() == Some(State::Idle) {
            whom |= u64::from(intf::UMCG_RUN_IDLE);
        }
        let (mut unseen, mut refused) = (0, 0);
        loop {
            let seq = truth.ev_seq.load(Acquire);
            let op = intf::umcg_op_UMCG_OP_RUN;
            if self.request(me, op, Id::from_raw(whom), deadline_ns) {
                unseen = 0;
            } else {
                unseen += 1;
                if unseen == UNSEEN {
                    return Err(self.unseen(me, "run"));
                }
                continue;
            }
            self.until_back(me, seq, deadline_ns)?;
            if truth.ev_seq.load(Acquire) == seq {
                continue;
            }
            if truth.ev_reason.load(Relaxed) != intf::umcg_reason_UMCG_R_REFUSED {
                return Ok(self.left(me));
            }
            refused += 1;
            self.run_refused(me, worker, refused)?;
        }
    }

    /// The slot is out: sleeps for real until it is back.
    fn until_back(&self, me: Id, seq: u32, deadline_ns: u64) -> Result<()> {
        let (truth, desk) = (self.truth(me.index()), self.desk(me.index()));
        let mut until = deadline_ns;
        loop {
            let cur = truth.cur.load(Acquire);
            if cur == 0 || truth.gen_.load(Relaxed) != me.generation() {
                self.come_back(me);
                return Ok(());
            }
            if !self.alive() {
                return Err(self.gone("run", me.raw()));
            }
            desk.asleep.store(1, Relaxed);
            fence(SeqCst);
            // pairs with slot_leave() and server_ring()
            if truth.cur.load(Acquire) != 0 {
                let bell = self.seat(me).bell.clone();
                match bell {
                    Some(bell) => self.sleep(&bell, until),
                    None => sys::yield_cpu(),
                }
            }
            desk.asleep.swap(0, AcqRel);
            if sys::now_ns() >= until && truth.cur.load(Acquire) == cur {
                let worker = Id::new(cur, self.truth(cur).gen_.load(Relaxed));
                let mut kick = self.call(intf::umcg_call_op_UMCG_CALL_KICK, worker.raw());
                // It may have left by itself: then there is nothing to kick.
                let _ = self.run_call(&mut kick, "run");
                until = sys::now_ns() + 10_000_000;
            }
            if !self.alive() {
                return Err(self.gone("run", u64::from(seq)));
            }
        }
    }

    fn run_refused(&self, me: Id, worker: Id, times: u32) -> Result<()> {
        let errno = -self.truth(me.index()).ev_nr.load(Relaxed);
        // One that is IDLE by now waits anew.
        let goes_on = || {
            let state = self.without_slot(worker);
            matches!(state, Some(State::Running | State::Runnable))
        };
        let kind = match errno {
            libc::EAGAIN => {
                // On its way to a real sleep: it has been woken and comes by the list.
                self.wake_sleeper(worker);
                ErrorKind::Again
            }
            libc::EINTR if times < RETRIES => return Ok(()),
            libc::EINTR => {
                self.list_again(me, worker);
                ErrorKind::Again
            }
            // Let run meanwhile, it gives the CPU back at once if it is inside a call.
            libc::EBUSY if times < RETRIES && goes_on() => return Ok(()),
            libc::EBUSY => ErrorKind::WrongState,
            other => ErrorKind::from_errno(other),
        };
        Err(Error::new(kind, "run", worker.raw()))
    }

    /// `worker`, whom nobody else may have been told of, comes by the list once more.
    fn list_again(&self, me: Id, worker: Id) {
        if self.link(me, self.desk(worker.index()), 0) {
            self.seat(me).taken.insert(0, worker.index());
        }
    }

    /// The state of `worker` if it has no slot: it runs without one, or did a moment ago.
    pub(super) fn without_slot(&self, worker: Id) -> Option<State> {
        let truth = self.truth(worker.index());
        let here = truth.gen_.load(Relaxed) == worker.generation();
        let state = Word(truth.word.load(Acquire)).state();
        state.filter(|_| here && truth.slot.load(Relaxed) == 0)
    }

    /// The event of a worker that has left the slot.
    fn left(&self, me: Id) -> Event {
        let truth = self.truth(me.index());
        let worker = Id::from_raw(truth.ev_who.load(Relaxed));
        let reason = match truth.ev_reason.load(Relaxed) {
            intf::umcg_reason_UMCG_R_BLOCKED => Reason::Blocked {
                syscall: u32::try_from(truth.ev_nr.load(Relaxed)).ok(),
            },
            intf::umcg_reason_UMCG_R_FAULT => Reason::Fault,
            intf::umcg_reason_UMCG_R_STOPPED => Reason::Stopped,
            intf::umcg_reason_UMCG_R_YIELDED => Reason::Yielded,
            intf::umcg_reason_UMCG_R_PREEMPTED => Reason::Preempted,
            intf::umcg_reason_UMCG_R_EXITED => Reason::Exited,
            intf::umcg_reason_UMCG_R_RESCUED => Reason::Rescued,
            _ => Reason::Waits,
        };
        let source = source_of(reason, truth.ev_nr.load(Relaxed).cast_unsigned());
        Event {
            worker,
            cookie: self.truth(worker.index()).cookie.load(Relaxed),
            reason,
            source,
            tag: truth.ev_tag.load(Relaxed),
            at_ns: truth.ev_at_ns.load(Relaxed),
            run_ns: truth.ev_run_ns.load(Relaxed),
            wait_ns: truth.ev_wait_ns.load(Relaxed),
        }
    }

    /// Let run to sleep for real, and there was something to do: it is IDLE yet. A yield that
    /// asks for nothing makes it RUNNING, before it looks: from then on nobody takes it for idle.
    fn come_back(&self, me: Id) {
        let truth = self.truth(me.index());
        let idle = Word(truth.word.load(Relaxed)).state() == Some(State::Idle);
        if idle && truth.gen_.load(Relaxed) == me.generation() {
            sys::yield_cpu();
        }
        // pairs with server_comes_back()
    }

    pub(super) fn next_listed(&self, me: Id, deadline_ns: u64) -> Result<Event> {
        let truth = self.find(me, "next_event")?;
        let desk = self.desk(me.index());
        let mut unseen = 0;
        loop {
            if !self.alive() {
                return Err(self.gone("next_event", me.raw()));
            }
            if desk.poked.load(Relaxed) != 0 && desk.poked.swap(0, AcqRel) != 0 {
                return Err(Error::new(ErrorKind::Again, "next_event", 0));
            }
            if let Some(event) = self.take_listed(me) {
                return Ok(event);
            }
            if deadline_ns == 0 || sys::now_ns() >= deadline_ns {
                self.collect();
                return Err(Error::new(ErrorKind::TimedOut, "next_event", 0));
            }
            if self.take_over(me) {
                continue;
            }
            let op = intf::umcg_op_UMCG_OP_NEXT;
            if !self.request(me, op, Id::NONE, deadline_ns) {
                unseen += 1;
                if unseen == UNSEEN {
                    return Err(self.unseen(me, "next_event"));
                }
                continue;
            }
            unseen = 0;
            // Put out by a change of its class.
            self.find(me, "next_event")?;
            // Parked for long enough and nothing came: sleep for real.
            desk.asleep.store(1, Relaxed);
            fence(SeqCst);
            // pairs with server_poke()
            if desk.runnable.load(Acquire) as u32 == 0
                && desk.resync.load(Relaxed) == 0
                && desk.poked.load(Relaxed) == 0
                && !self.others_have_work(me)
                && sys::now_ns() < deadline_ns
                && Word(truth.word.load(Acquire)).state() == Some(State::Idle)
            {
                let bell = self.seat(me).bell.clone();
                if let Some(bell) = bell {
                    self.sleep(&bell, deadline_ns);
                }
            }
            desk.asleep.swap(0, AcqRel);
            self.come_back(me);
        }
    }

    /// The user's part of a stack of idle servers: entries on top of it that are deleted
    /// go. Their servers, maybe this one, went on without a wake, or were woken by number.
    fn collect(&self) {
        let head = self.head();
        let top = head.idle_top.load(Acquire) as u32;
        if top == 0 || self.truth(top).kick.load(Acquire) as u32 != DELETED {
            return; // also where it is no stack
        }
        // No matter if it comes too fast: the next one does it, or a waker.
        let _ = self.run_call(
            &mut self.call(intf::umcg_call_op_UMCG_CALL_COLLECT, 0),
            "next_event",
        );
    }

    /// The oldest worker on the list that is RUNNABLE, or has left without a slot.
    fn take_listed(&self, me: Id) -> Option<Event> {
        let mut seat = self.seat(me);
        loop {
            if seat.taken.is_empty() {
                self.take_all(me, &mut seat.taken);
            }
            let index = seat.taken.pop()?;
            let desk = self.desk(index);
            let mine = desk.queued.compare_exchange(owner(me), 0, AcqRel, Relaxed);
            if mine.is_err() {
                continue; // only where a client lies
            }
            fence(SeqCst);
            // pairs with desk_push()
            let word = Word(self.truth(index).word.load(Acquire));
            let runnable = word.state() == Some(State::Runnable);
            if let Some(event) = self.take_left(index) {
                // Who has the record now may have come by the same link.
                if runnable && self.link(me, desk, 0) {
                    seat.taken.push(index);
                }
                return Some(event);
            }
            if runnable {
                return Some(self.listed(index, word));
            }
        }
    }

    /// Makes the desk's link `me`'s, if it is that of `old`, an [`owner`].
    pub(super) fn link(&self, me: Id, desk: &Desk, old: u32) -> bool {
        desk.queued
            .compare_exchange(old, owner(me), AcqRel, Relaxed)
            .is_ok()
    }

    /// Whether the owner `tag` of a link is a server that is there.
    fn is_owner_live(&self, tag: u32) -> bool {
        let index = tag & OWNER_INDEX;
        let servers = self.head().servers.load(Acquire);
        (1..=SERVERS).contains(&index)
            && servers >> (index - 1) & 1 == 1
            && owner(Id::new(index, self.truth(index).gen_.load(Relaxed))) == tag
    }

    /// The notice of who left record `index` without a slot, once.
    fn take_left(&self, index: u32) -> Option<Event> {
        let desk = self.desk(index);
        loop {
            let id = desk.left_id.load(Acquire);
            if id == 0 {
                return None;
            }
            let at_ns = desk.left_at_ns.load(Relaxed);
            let event = Event {
                worker: Id::from_raw(id),
                cookie: desk.left_cookie.load(Relaxed),
                reason: Reason::Exited,
                source: None,
                tag: at_ns << 16 | State::None as u64,
                at_ns,
                run_ns: desk.left_run_ns.load(Relaxed),
                wait_ns: desk.left_wait_ns.load(Relaxed),
            };
            let mine = desk.left_id.compare_exchange(id, 0, AcqRel, Relaxed);
            if mine.is_ok() {
                return Some(event);
            }
        }
        // pairs with leave_notice()
    }

    /// All notices that no server has taken, for one that moves away.
    pub(crate) fn take_all_left(&self) -> Vec<Event> {
        self.worker_records()
            .filter_map(|index| self.take_left(index))
            .collect()
    }

    /// Whether `id` has left, told or not.
    pub(crate) fn has_left(&self, id: Id) -> bool {
        self.truth(id.index()).gen_.load(Acquire) != id.generation()
    }

    /// Those that have been used.
    pub(super) fn worker_records(&self) -> std::ops::Range<u32> {
        let end = (SERVERS + 1).saturating_add(self.head().cursor.load(Relaxed));
        SERVERS + 1..end.min(self.capacity)
    }

    /// Newest first, as the list has it; who comes first is popped last.
    fn take_all(&self, me: Id, taken: &mut Vec<u32>) {
        let desk = self.desk(me.index());
        let head = desk.runnable.swap(no_list(me), AcqRel);
        let lost = self.follow(head as u32, me, taken);
        if desk.resync.swap(0, AcqRel) != 0 || lost != 0 {
            self.adopt(me, taken, lost);
        }
    }

    /// The links of `of`'s list from `index` on. Not 0: it led to one that is another's, as
    /// it was told of before it was there, and links of this owner may be behind that.
    pub(super) fn follow(&self, mut index: u32, of: Id, taken: &mut Vec<u32>) -> u32 {
        while index > SERVERS && index < self.capacity && taken.len() < self.capacity as usize {
            let desk = self.desk(index);
            if desk.queued.load(Acquire) != owner(of) {
                return owner(of);
            }
            taken.push(index);
            index = desk.next.load(Relaxed);
        }
        0
    }

    /// RUNNABLE workers and notices that are on nobody's list, or on that of a server
    /// that is gone; and of owner `lost`, if it is not 0.
    pub(super) fn adopt(&self, me: Id, taken: &mut Vec<u32>, lost: u32) {
        for index in self.worker_records() {
            let (truth, desk) = (self.truth(index), self.desk(index));
            let runnable = truth.gen_.load(Relaxed) & 1 == 1
                && Word(truth.word.load(Acquire)).state() == Some(State::Runnable);
            if !runnable && desk.left_id.load(Acquire) == 0 {
                continue;
            }
            let old = desk.queued.load(Acquire);
            let is_lost = || old == lost && !taken.contains(&index);
            let orphan = old == 0 || !self.is_owner_live(old) || is_lost();
            let claimed = orphan && self.link(me, desk, old);
            if claimed && taken.len() < self.capacity as usize {
                taken.push(index);
            }
        }
    }

    fn listed(&self, index: u32, word: Word) -> Event {
        let truth = self.truth(index);
        let why = truth.why.load(Relaxed);
        let reason = match why & !SOURCE_MASK {
            intf::umcg_reason_UMCG_R_NEW => Reason::New,
            intf::umcg_reason_UMCG_R_TIMEDOUT => Reason::TimedOut,
            _ if word.flags() & word::YIELDED != 0 => Reason::Yielded,
            _ if word.flags() & word::PREEMPTED != 0 => Reason::Preempted,
            _ => Reason::Woken,
        };
        let source = source_of(reason, (why & SOURCE_MASK) >> SOURCE_SHIFT);
        Event {
            worker: Id::new(index, truth.gen_.load(Relaxed)),
            cookie: truth.cookie.load(Relaxed),
            reason,
            source,
            tag: word.0,
            at_ns: truth.since_ns.load(Relaxed),
            run_ns: truth.run_ns.load(Relaxed),
            wait_ns: truth.wait_ns.load(Relaxed),
        }
    }
}
