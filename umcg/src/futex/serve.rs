//! A server's side: what its slot and its lists tell it, and how it goes idle.

use std::sync::OnceLock;

use super::FutexGroup;
use super::book::{SLOTS, Side};
use super::edge;
use super::hand::wants_server;
use super::news::Local;
use super::park::park;
use super::reap::CHECK_NS;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Reason, runnable_reason};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::sync::fence;
use crate::word::{State, Word};

impl FutexGroup {
    /// The event that the worker in `slot` left, if there is one.
    pub(super) fn take_slot_event(&self, slot: usize) -> Option<Event> {
        let it = &self.book.slots()[slot];
        if it.ready.load(Acquire) == 0 {
            return None;
        }
        let word = Word(it.tag.load(Relaxed));
        let event = Event {
            worker: Id::from_raw(it.worker.load(Relaxed)),
            cookie: it.cookie.load(Relaxed),
            reason: match it.reason.load(Relaxed) {
                7 => Reason::Preempted,
                8 => Reason::Yielded,
                10 => Reason::Exited,
                _ => Reason::Waits,
            },
            source: None,
            tag: word.0 & !edge::PRIVATE,
            at_ns: clock::to_caller(word.restore(clock::machine_now())),
            run_ns: it.run_ns.load(Relaxed),
            wait_ns: it.wait_ns.load(Relaxed),
        };
        it.ready.store(0, Relaxed);
        Some(event)
        // pairs with hand_back()
    }

    /// The notice of who left record `index` without a slot, once.
    pub(crate) fn take_notice(&self, index: u32) -> Option<Event> {
        let side = self.book.sides().get(index as usize)?;
        loop {
            let id = side.notice.load(Acquire);
            if id == 0 {
                return None;
            }
            let word = Word(side.notice_tag.load(Relaxed));
            let worker = Id::from_raw(id);
            let record = &self.book.workers()[index as usize];
            let event = Event {
                worker,
                cookie: self.book.cookie(worker),
                reason: Reason::Exited,
                source: None,
                tag: word.0 & !edge::PRIVATE,
                at_ns: clock::to_caller(edge::since(record, word, clock::machine_now())),
                run_ns: record.run_ns.load(Relaxed),
                wait_ns: record.wait_ns.load(Relaxed),
            };
            let mine = side.notice.compare_exchange(id, 0, AcqRel, Relaxed);
            if mine.is_ok() {
                return Some(event);
            }
        }
        // pairs with tell_left()
    }

    /// A notice that is on no list, because the kernel's servers look at none of these.
    pub(crate) fn take_unlisted(&self) -> Option<Event> {
        let unlisted = &self.book.header().unlisted;
        if unlisted.load(Relaxed) == 0 || unlisted.swap(0, AcqRel) == 0 {
            return None;
        }
        let mut indexes = 1..=self.book.max_members();
        let event = indexes.find_map(|index| self.take_notice(index));
        if event.is_some() {
            unlisted.store(1, Release); // there may be more
        }
        event
    }

    /// The oldest news of `local`.
    pub(super) fn pop_news(&self, local: &Local) -> Option<Event> {
        while let Some(index) = local.pop() {
            if let Some(event) = self.take_notice(index) {
                // Who has the record now may have come by the same link.
                if wants_server(edge::load(&self.book.workers()[index as usize])) {
                    let mut news = local.lock();
                    news.push(index);
                    local.show(&news);
                }
                return Some(event);
            }
            if let Some(event) = self.runnable_event(index) {
                return Some(event);
            }
        }
        None
    }

    /// What to say of worker `index`, which came off a list; nothing if it moved on.
    fn runnable_event(&self, index: u32) -> Option<Event> {
        let id = self.book.id_at(index)?;
        let (worker, side) = self.book.member(id)?;
        let word = edge::load(worker);
        if !wants_server(word) {
            return None;
        }
        let first = side.runs.load(Relaxed) == 0;
        Some(Event {
            worker: id,
            cookie: side.cookie.load(Relaxed),
            reason: runnable_reason(word.flags(), first, word.0 & edge::TIMED_OUT != 0),
            source: None,
            tag: word.0 & !edge::PRIVATE,
            at_ns: clock::to_caller(edge::since(worker, word, clock::machine_now())),
            run_ns: worker.run_ns.load(Relaxed),
            wait_ns: worker.wait_ns.load(Relaxed),
        })
    }

    /// Takes what is on `slot`'s own list.
    pub(super) fn drain(&self, slot: usize, from: usize, local: &Local) -> bool {
        let mut news = local.lock();
        let mut scratch = std::mem::take(&mut news.scratch);
        let workers = self.book.workers();
        self.book.servers()[from].drain(workers, &mut scratch, from as u32, |index, word| {
            if self.is_news(index as usize, word) {
                workers[index as usize].home.store(slot as u32, Relaxed);
                news.push(index);
            }
        });
        news.scratch = scratch;
        local.show(&news);
        !news.is_empty()
    }

    /// Takes over what busy servers have on their lists, or have not looked at yet.
    pub(super) fn steal(&self, slot: usize, local: &Local) -> bool {
        let mut found = false;
        for other in self.book.header().live.iter().filter(|&it| it != slot) {
            if !self.is_busy(other) {
                continue;
            }
            if self.book.servers()[other].has_news() {
                found |= self.drain(slot, other, local);
            }
            let theirs = self.locals.get(other).and_then(OnceLock::get);
            let theirs = theirs.filter(|it| it.waiting.load(Relaxed) != 0);
            if let Some(index) = theirs.and_then(Local::pop) {
                let worker = &self.book.workers()[index as usize];
                worker.home.store(slot as u32, Relaxed);
                let mut news = local.lock();
                news.push(index);
                local.show(&news);
                found = true;
            }
        }
        found
    }

    /// Whether the server of `slot` runs a worker, so that it cannot look at its list.
    fn is_busy(&self, slot: usize) -> bool {
        self.book.slots()[slot].holds.load(Acquire) != 0
    }

    /// Whether a busy server has what an idle one could take.
    fn others_have_work(&self, slot: usize) -> bool {
        self.book.header().live.iter().any(|other| {
            let waiting = || {
                let local = self.locals.get(other).and_then(OnceLock::get);
                local.is_some_and(|it| it.waiting.load(Relaxed) != 0)
            };
            let server = &self.book.servers()[other];
            other != slot
                && self.is_busy(other)
                && (server.runnable.head.load(Relaxed) != 0 || waiting())
        })
    }

    /// Sleeps until there may be news for `slot`, or the time is over.
    pub(super) fn idle(&self, me: Id, side: &Side, slot: usize, deadline_ns: u64) {
        let header = self.book.header();
        let server = &self.book.servers()[slot];
        let it = &self.book.slots()[slot];
        let record = &self.book.workers()[me.index() as usize];
        let now = clock::machine_now();
        edge::set(record, now, State::Idle);
        server.since_ns.store(now, Relaxed);
        header.idlers.set(slot);
        server.begin_sleep();
        let news = || it.ready.load(Acquire) != 0 || it.poked.load(Relaxed) != 0;
        if !server.has_news() && !news() && !self.others_have_work(slot) {
            let check_ns = match header.shared.load(Relaxed) {
                0 => u64::MAX,
                _ => 2 * CHECK_NS,
            };
            let done = || server.asleep.load(Acquire) == 0 || news();
            park(&side.asleep, deadline_ns, check_ns, done, || self.reap());
        }
        server.cancel_sleep();
        header.idlers.take(slot);
        edge::set(record, clock::machine_now(), State::Running);
        // pairs with list()
    }

    /// A free slot for server `id`.
    fn take_slot(&self, id: Id) -> Result<usize> {
        for (slot, it) in self.book.slots().iter().enumerate().skip(1) {
            let free = it.member.load(Relaxed) == 0
                && it
                    .member
                    .compare_exchange(0, id.index(), AcqRel, Relaxed)
                    .is_ok();
            if free {
                it.holds.store(0, Relaxed);
                it.ready.store(0, Relaxed);
                it.poked.store(0, Relaxed);
                return Ok(slot);
            }
        }
        Err(Error::new(ErrorKind::Full, "register_server", SLOTS as u64))
    }

    /// Server `id` gets a slot, and with it the workers for whom there was none.
    pub(crate) fn enter_slot(&self, id: Id) -> Result<()> {
        let slot = self.take_slot(id)?;
        let side = &self.book.sides()[id.index() as usize];
        side.slot.store(slot as u32, Relaxed);
        self.locals[slot].get_or_init(|| Local::new(self.book.max_members()));
        let record = &self.book.workers()[id.index() as usize];
        let server = &self.book.servers()[slot];
        server.tid.store(side.tid.load(Relaxed), Relaxed);
        server.asleep.store(0, Relaxed);
        edge::set(record, clock::machine_now(), State::Running);
        self.book.header().live.set(slot);
        fence(SeqCst);
        self.rehome(0);
        if self.book.header().unlisted.swap(0, AcqRel) != 0 {
            for (index, side) in self.book.sides().iter().enumerate().skip(1) {
                if side.notice.load(Acquire) != 0 {
                    self.list(index as u32);
                }
            }
        }
        // pairs with list()
        Ok(())
    }
}
