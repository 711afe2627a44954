//! What an idle server takes over: the lists of busy servers of its process.
//!
//! A worker that becomes RUNNABLE goes to a server that waits, if there is one. What was
//! listed to a busy one before would stay there until that one looks, beside a server that
//! went idle meanwhile. This one looks there before it waits.
//!
//! ```text
//! BPF pushes worker w                  | thief, for the busy server's list
//!   word = RUNNABLE    (full barrier)  |   head = 0            takes the links
//!   queued 0 -> server: links it       |   queued server -> me, each
//!   queued is a live server's: done    |   queued = 0          (full barrier)
//!                                      |   reads the word, reports w
//! ```
//!
//! The link is somebody's from the push to the look at the word, so a push that finds it
//! is looked at, as in `list.rs`. If the server leaves in between, others adopt what is
//! still in its name; a link that is theirs by then is no longer the thief's. Model:
//! `loom_take_over_vs_push_and_drain`.
//!
//! CAUTION: the links that it holds and has not marked would be lost with a thief that dies
//! before the server that they are in the name of. So only lists of the own process, which
//! dies as a whole, are taken.

use super::{KernelGroup, SERVERS};
use crate::event::Id;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::word::{State, Word};

impl KernelGroup {
    /// Server `me` is the calling thread.
    pub(super) fn sit_here(&self, me: Id) {
        self.here[me.index() as usize].store(me.generation(), Relaxed);
    }

    /// The list of the first busy server that has one; false: there is none.
    pub(super) fn take_over(&self, me: Id) -> bool {
        let Some(other) = self.busy_with_list(me) else {
            return false;
        };
        let mut seat = self.seat(me);
        let taken = &mut seat.taken;
        let head = self.desk(other).runnable.swap(0, AcqRel) as u32;
        let mut index = head;
        while index > SERVERS && index < self.capacity && taken.len() < self.capacity as usize {
            taken.push(index);
            index = self.desk(index).next.load(Relaxed);
        }
        // What others adopted meanwhile is theirs to report.
        taken.retain(|&index| self.link(me, self.desk(index), other));
        head != 0
    }

    /// Whether [`take_over`](Self::take_over) would find something.
    pub(super) fn others_have_work(&self, me: Id) -> bool {
        self.busy_with_list(me).is_some()
    }

    fn busy_with_list(&self, me: Id) -> Option<u32> {
        let servers = self.head().servers.load(Acquire);
        (1..=SERVERS).find(|&other| {
            servers >> (other - 1) & 1 == 1
                && other != me.index()
                && self.desk(other).runnable.load(Relaxed) != 0
                && self.is_busy_here(other)
        })
    }

    /// Whether server `other`, of this process, cannot look at its list now.
    fn is_busy_here(&self, other: u32) -> bool {
        let truth = self.truth(other);
        let state = Word(truth.word.load(Acquire)).state();
        truth.gen_.load(Relaxed) == self.here[other as usize].load(Relaxed)
            && (truth.cur.load(Relaxed) != 0 || state == Some(State::Blocked))
    }
}
