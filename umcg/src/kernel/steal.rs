//! What an idle server takes over: the lists of busy servers of its process.
//!
//! A worker that becomes RUNNABLE goes to a server that waits, if there is one. What was
//! listed to a busy one before would stay there until that one looks, beside a server that
//! went idle meanwhile. This one looks there before it waits.
//!
//! ```text
//! BPF pushes worker w                  | thief, for the busy server's list
//!   word = RUNNABLE    (full barrier)  |   head = none         takes the links
//!   queued 0 -> server: links it       |   queued server -> me, each
//!   queued is a live server's: done    |   queued = 0          (full barrier)
//!                                      |   reads the word, reports w
//! ```
//!
//! The link is somebody's from the push to the look at the word, so a push that finds it
//! is looked at, as in `list.rs`. If the server leaves in between, others adopt what is
//! still in its name; a link that is theirs by then is no longer the thief's. Model:
//! `loom_take_over_vs_push_and_drain`. What the busy server has taken off its list and not
//! reported goes the same way, under the lock of its seat.
//!
//! CAUTION: the links that it holds and has not marked would be lost with a thief that dies
//! before the server that they are in the name of. So only lists of the own process, which
//! dies as a whole, are taken.

use std::sync::MutexGuard;

use super::server::{no_list, owner};
use super::{KernelGroup, Seat};
use crate::event::Id;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::word::{State, Word};

impl KernelGroup {
    /// Server `me` is the calling thread.
    pub(super) fn sit_here(&self, me: Id) {
        self.here[me.index() as usize].store(me.generation(), Relaxed);
    }

    /// What the first busy server has that has something; false: none has.
    pub(super) fn take_over(&self, me: Id) -> bool {
        let Some(other) = self.busy_with_list(me) else {
            return false;
        };
        let mut seat = self.seat(me);
        let taken = &mut seat.taken;
        let list = &self.desk(other.index()).runnable;
        let head = list.load(Acquire);
        let mut lost = 0;
        // Not one that begins for who has the record next.
        if head >> 32 == no_list(other) >> 32
            && list
                .compare_exchange(head, no_list(other), AcqRel, Relaxed)
                .is_ok()
        {
            lost = self.follow(head as u32, other, taken);
        }
        if let Some(mut theirs) = self.try_seat(other) {
            // Older than what is on the list: they are popped first.
            taken.append(&mut theirs.taken);
        }
        // What others adopted meanwhile is theirs to report.
        taken.retain(|&index| self.link(me, self.desk(index), owner(other)));
        if lost != 0 {
            self.adopt(me, taken, lost);
        }
        !taken.is_empty()
    }

    /// Whether [`take_over`](Self::take_over) would find something.
    pub(super) fn others_have_work(&self, me: Id) -> bool {
        self.busy_with_list(me).is_some()
    }

    fn busy_with_list(&self, me: Id) -> Option<Id> {
        let mut others = self.head().servers.load(Acquire) & !(1 << (me.index() - 1));
        while others != 0 {
            let index = others.trailing_zeros() + 1;
            others &= others - 1;
            let other = Id::new(index, self.here[index as usize].load(Relaxed));
            if self.is_busy(other) && self.has_list(other) {
                return Some(other);
            }
        }
        None
    }

    fn has_list(&self, other: Id) -> bool {
        let seated = || self.try_seat(other).is_some_and(|it| !it.taken.is_empty());
        self.desk(other.index()).runnable.load(Relaxed) as u32 != 0 || seated()
    }

    /// Its owner may be at it: then it looks at its list just now.
    fn try_seat(&self, other: Id) -> Option<MutexGuard<'_, Seat>> {
        self.seats[other.index() as usize].try_lock().ok()
    }

    /// Whether `other`, a server of this process, cannot look at its list now.
    fn is_busy(&self, other: Id) -> bool {
        let truth = self.truth(other.index());
        let state = Word(truth.word.load(Acquire)).state();
        truth.gen_.load(Relaxed) == other.generation()
            && (truth.cur.load(Relaxed) != 0 || state == Some(State::Blocked))
    }
}
