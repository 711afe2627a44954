//! Members that died without a word.
//!
//! A thread that ends in the ordinary way unregisters; a process that is killed, or
//! runs another program, does not. Who waits for a member looks whether it is alive:
//! a server at the worker in its slot, an idle server and a waiting worker at everybody,
//! the latter only in groups of more than one process and seldom.
//!
//! Who makes the dead member's edge to NONE does the rest, so it is done once.

use super::FutexGroup;
use super::edge;
use crate::backend::Kind;
use crate::clock;
use crate::event::{Id, Reason};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};

/// How often a server looks at the worker in its slot, and at everybody when idle.
pub(super) const CHECK_NS: u64 = 100_000_000;
/// How often a waiting worker looks whether there are servers.
pub(super) const WORKER_CHECK_NS: u64 = 1_000_000_000;
/// How long a claim lasts at least before it may be taken for a dead thread's.
const CLAIM_NS: u64 = 1_000_000_000;

impl FutexGroup {
    /// Buries the members of dead processes, in groups of more than one, at most every
    /// [`CHECK_NS`].
    pub(super) fn reap(&self) {
        let header = self.book.header();
        let now = clock::machine_now();
        let last = header.reaped_ns.load(Relaxed);
        if header.shared.load(Relaxed) == 0
            || now.saturating_sub(last) < CHECK_NS
            || header
                .reaped_ns
                .compare_exchange(last, now, AcqRel, Relaxed)
                .is_err()
        {
            return;
        }
        // Threads of one process die together, but for those that a server looks at.
        let mut known: Vec<(i32, bool)> = vec![(super::sys::getpid(), true)];
        for index in 1..=self.book.max_members() {
            let Some(id) = self.book.id_at(index) else {
                continue;
            };
            let identity = self.book.sides()[index as usize].identity();
            let alive = match known.iter().find(|(pid, _)| *pid == identity.pid) {
                Some(&(_, alive)) => alive,
                None => {
                    let alive = identity.is_alive();
                    known.push((identity.pid, alive));
                    alive
                }
            };
            if alive {
                self.mend_claim(index, now);
            } else {
                self.bury(id);
            }
        }
    }

    /// Buries `id` if its thread is dead. True if it is no member any more.
    pub(super) fn bury_if_dead(&self, id: Id) -> bool {
        match self.book.member(id) {
            None => true,
            Some((_, side)) if side.identity().is_alive() => false,
            Some(_) => {
                self.bury(id);
                true
            }
        }
    }

    /// Removes `id`, if its thread died in a way that drops no thread-local: a worker that has
    /// left the kernel's side, or a server, of which the daemon tells nobody. No one else would.
    pub(crate) fn forget_dead(&self, id: Id) {
        self.bury_if_dead(id);
    }

    /// Removes a member whose thread is dead.
    fn bury(&self, id: Id) {
        let Some((worker, side)) = self.book.member(id) else {
            return;
        };
        let slot = side.slot.load(Relaxed) as usize % self.book.slots().len();
        let kind = side.kind.load(Acquire);
        let Some((_, word)) = edge::exit(worker, clock::machine_now()) else {
            return;
        };
        let worker = kind == kind_number(Kind::Worker);
        let told = !worker || self.hand_back(slot, id, Reason::Exited, word);
        // A server at the kernel has no slot here.
        if !worker && slot != 0 {
            self.leave_slot(slot, id);
            self.list_orphans(slot);
        }
        self.book.free_record(id);
        if !told {
            self.tell_left(id, word);
        }
    }

    /// Lists the RUNNABLE workers, and the notices, that the former server of `slot` had
    /// taken off its list and did not run or report. One that was listed elsewhere meanwhile is told twice: harmless.
    pub(super) fn list_orphans(&self, slot: usize) {
        for (index, worker) in self.book.workers().iter().enumerate().skip(1) {
            if worker.home.load(Relaxed) as usize == slot
                && worker.queued.load(Acquire) == 0
                && self.is_news(index, edge::load(worker))
            {
                self.list(index as u32);
            }
        }
    }

    /// Ends the claim on worker `index` of a thread that died before it started it.
    fn mend_claim(&self, index: u32, now: u64) {
        let worker = &self.book.workers()[index as usize];
        let word = edge::load(worker);
        if word.0 & edge::CLAIMED == 0 || word.elapsed(now) < CLAIM_NS {
            return;
        }
        let claimant = Id::from_raw(worker.claim.load(Relaxed));
        let dead = match self.book.member(claimant) {
            None => true,
            Some((_, side)) => !side.identity().is_alive(),
        };
        if dead && edge::unclaim(worker, now, word) {
            self.list(index);
        }
    }

    /// The server of `slot` is no more: the worker that it ran goes on without a slot,
    /// those on its list go to others.
    pub(super) fn leave_slot(&self, slot: usize, server: Id) {
        let header = self.book.header();
        header.live.take(slot);
        header.idlers.take(slot);
        let it = &self.book.slots()[slot];
        it.holds.swap(0, AcqRel);
        it.ready.store(0, Relaxed);
        let index = server.index();
        let _ = it.member.compare_exchange(index, 0, AcqRel, Relaxed);
        crate::sync::fence(crate::sync::Ordering::SeqCst);
        self.rehome(slot);
        // pairs with list()
    }
}

/// The number of `kind` in a member's record.
pub(super) const fn kind_number(kind: Kind) -> u32 {
    match kind {
        Kind::Server => 1,
        Kind::Worker => 2,
    }
}
