//! How RUNNABLE workers reach servers, and how a slot goes back to its server.
//!
//! No wake is lost when a server goes idle, in two columns:
//!
//! ```text
//! lister                               | server, about to sleep
//!   pushes on a busy server (barrier)  |   sets its bit in `idlers`  (barrier)
//!   looks for a bit in `idlers`        |   looks at its lists, and at those of busy ones
//! ```
//!
//! Either the lister finds the bit and wakes the server, which then takes the worker
//! over, or the server sees the push. The same holds for a server that leaves: it
//! takes its bit out of `live`, then empties its list; the lister pushes, then looks at
//! `live`. Both: harmless.

use super::FutexGroup;
use super::edge;
use super::park::unpark;
use crate::clock;
use crate::event::{Id, Reason};
use crate::list::Pushed;
use crate::mode::Idle;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::sync::fence;
use crate::word::{State, Word};

impl FutexGroup {
    /// Puts worker `index` on a server's list: an idle server's if there is one, else
    /// its home's, else any. Who made its edge to RUNNABLE; async-signal-safe.
    pub(super) fn list(&self, index: u32) {
        let header = self.book.header();
        let Some(worker) = self.book.workers().get(index as usize) else {
            return;
        };
        if header.kernel.load(Acquire) & 1 == 1 {
            if self.book.sides()[index as usize].notice.load(Acquire) != 0 {
                header.unlisted.store(1, Release);
            }
            self.send_off(index);
            return;
        }
        let home = worker.home.load(Relaxed) as usize % self.book.slots().len();
        let idler = self.take_idler(home);
        let slot = match idler {
            Some(slot) => slot,
            None if header.live.has(home) => home,
            None => header.live.iter().next().unwrap_or(0),
        };
        worker.home.store(slot as u32, Relaxed);
        let server = &self.book.servers()[slot];
        let now = clock::machine_now();
        // Linked, or linked before. A walk that is to find it knows of no notices.
        while server.push(&server.runnable, slot as u32, worker, index, now) == Pushed::GaveUp {}
        if let Some(idler) = idler {
            self.poke(idler);
        }
        // Linked before means another server's link, maybe of one that sleeps or left.
        let owner = match worker.queued.load(Acquire) as usize {
            0 => slot,
            queued => (queued - 1) % self.book.slots().len(),
        };
        fence(SeqCst);
        if header.live.has(owner) {
            self.notify(owner);
            if idler.is_none() && owner == slot {
                self.call_idler();
            }
        } else if owner != 0 || !header.live.is_empty() || header.kernel.load(Acquire) & 1 == 1 {
            self.rehome(owner);
        }
        // pairs with idle() and leave_slot()
    }

    /// An idle server, `home` if it is one; it is the caller's to wake.
    fn take_idler(&self, home: usize) -> Option<usize> {
        let header = self.book.header();
        let idlers = &header.idlers;
        fence(SeqCst);
        if idlers.take(home) {
            return Some(home);
        }
        if idlers.is_empty() {
            return None;
        }
        match self.book.idle() {
            Idle::Stack => {
                let since = |&slot: &usize| self.book.servers()[slot].since_ns.load(Relaxed);
                let newest = idlers.iter().max_by_key(since)?;
                idlers.take(newest).then_some(newest)
            }
            Idle::Ring => {
                let start = header.rotor.load(Relaxed) as usize;
                let after = idlers.iter().find(|&slot| slot > start);
                let next = after.or_else(|| idlers.iter().next())?;
                header.rotor.store(next as u32, Relaxed);
                idlers.take(next).then_some(next)
            }
            Idle::Mask => None,
        }
        // Another lister was quicker, or it is a mask: any will do.
        .or_else(|| idlers.iter().find(|&slot| idlers.take(slot)))
    }

    /// Has an idle server look for work at others.
    pub(super) fn call_idler(&self) {
        if let Some(slot) = self.take_idler(0) {
            self.poke(slot);
        }
    }

    /// Wakes `slot`'s server although its list may be empty.
    pub(super) fn poke(&self, slot: usize) {
        self.book.servers()[slot].must.store(1, Release);
        self.notify(slot);
    }

    /// Wakes `slot`'s server if it waits for news.
    pub(super) fn notify(&self, slot: usize) {
        if self.book.servers()[slot].take_asleep() {
            self.unpark_server(slot);
        }
    }

    /// Ends the sleep of `slot`'s server, whatever it waits for.
    fn unpark_server(&self, slot: usize) {
        let index = self.book.slots()[slot].member.load(Acquire);
        if let Some(side) = self.book.sides().get(index as usize) {
            unpark(&side.asleep);
        }
    }

    /// Lists anew whom the list of `slot` holds, which has no server. Any thread;
    /// async-signal-safe: no scratch memory, so newest first.
    pub(super) fn rehome(&self, slot: usize) {
        let workers = self.book.workers();
        let mut index = self.book.servers()[slot].runnable.head.swap(0, AcqRel) as usize;
        for _ in 0..workers.len() {
            let Some(worker) = workers.get(index).filter(|_| index != 0) else {
                break;
            };
            let next = worker.next.load(Relaxed) as usize;
            worker.queued.swap(0, AcqRel);
            fence(SeqCst);
            if self.is_news(index, edge::load(worker)) {
                self.list(index as u32);
            }
            index = next;
        }
    }

    /// Gives `slot` back to its server, with the news that `worker` left it. Does
    /// nothing, and says so, if the worker did not hold it: its server died, or is done
    /// with it. Async-signal-safe.
    pub(super) fn hand_back(&self, slot: usize, worker: Id, reason: Reason, word: Word) -> bool {
        let Some(it) = self.book.slots().get(slot).filter(|_| slot != 0) else {
            return false;
        };
        if it.holds.load(Acquire) != worker.raw() {
            return false;
        }
        it.worker.store(worker.raw(), Relaxed);
        it.reason.store(reason.number(), Relaxed);
        it.tag.store(word.0, Relaxed);
        if let Some(record) = self.book.workers().get(worker.index() as usize) {
            it.run_ns.store(record.run_ns.load(Relaxed), Relaxed);
            it.wait_ns.store(record.wait_ns.load(Relaxed), Relaxed);
            let side = &self.book.sides()[worker.index() as usize];
            it.cookie.store(side.cookie.load(Relaxed), Relaxed);
        }
        let mine = it
            .holds
            .compare_exchange(worker.raw(), 0, AcqRel, Relaxed)
            .is_ok();
        if mine {
            it.ready.store(1, Release);
            self.unpark_server(slot);
        }
        mine
        // pairs with take_slot_event()
    }

    /// Tells a server that `id`, whose last word is `word`, has left without a slot.
    /// Not of one of whom that was told before.
    pub(crate) fn tell_left(&self, id: Id, word: Word) {
        let Some(side) = self.book.sides().get(id.index() as usize) else {
            return;
        };
        if !side.first_told(id) {
            return;
        }
        side.notice_tag.store(word.0, Relaxed);
        side.notice.swap(id.raw(), SeqCst);
        fence(SeqCst);
        self.list(id.index());
        // pairs with take_notice()
    }

    /// Whether a server has to look at worker `index`, whose word is `word`.
    pub(super) fn is_news(&self, index: usize, word: Word) -> bool {
        let sides = self.book.sides();
        wants_server(word)
            || sides
                .get(index)
                .is_some_and(|it| it.notice.load(Acquire) != 0)
    }
}

/// Whether a worker with this word has to be on a list.
pub(super) fn wants_server(word: Word) -> bool {
    word.state() == Some(State::Runnable) && word.0 & edge::CLAIMED == 0
}
