//! The choices that a server staged, oldest first, for any CPU to take.
//!
//! The protocol stands at `struct umcg_ring` in `intf.h`. [`Ring::push`],
//! [`Ring::recall`] and [`Ring::len_hint`] are the server's half; [`Ring::take`] is
//! the twin of `ring_peek()` and `ring_take_this()` in `src/bpf/ring.bpf.h`.
//!
//! Positions only grow; slot = position modulo [`STAGE_SLOTS`]. For the server,
//! whose own `tail` it is, a slot between `head` and `tail` that reads 0 was taken.
//!
//! `head` stays behind when a CPU that read it long ago takes a choice out of turn:
//! the slot is then empty when `head` comes to it, and takers stop there. So the
//! server moves `head` over such holes itself, by the takers' own cmpxchg. Only the
//! server may: nobody else knows that `tail` does not move back meanwhile.
//! Models: `loom_ring_take_vs_recall`, `loom_ring_take_vs_take`.

use std::fmt;

use crate::record::{Ring, STAGE_SLOTS};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::word::Word;

const GEN_SHIFT: u32 = 24;
const INDEX_SHIFT: u32 = 32;
const TAG_MASK: u64 = (1 << GEN_SHIFT) - 1;

/// "Run this worker next, if it still waits as it did": index, generation, tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Choice(u64);

impl Choice {
    /// Worker `index` of generation `generation`, as long as its word is `word`.
    #[doc(alias = "choice_make")]
    pub const fn new(index: u32, generation: u32, word: Word) -> Self {
        let tag = word.time48() & TAG_MASK;
        Self((index as u64) << INDEX_SHIFT | ((generation & 0xff) as u64) << GEN_SHIFT | tag)
    }

    /// The choice in a slot that reads `raw`; `None` when that is free.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw)) }
    }

    /// The slot's value.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The worker's record.
    pub const fn index(self) -> u32 {
        (self.0 >> INDEX_SHIFT) as u32
    }

    /// The low 8 bits of the record's generation.
    pub const fn generation(self) -> u8 {
        (self.0 >> GEN_SHIFT) as u8
    }

    /// The low 24 bits of the word's time.
    pub const fn tag(self) -> u32 {
        (self.0 & TAG_MASK) as u32
    }

    /// Whether it still means a worker of generation `generation` whose word is
    /// `word`: what dispatch asks before it believes a choice.
    pub fn is_true(self, generation: u32, word: Word) -> bool {
        self == Self::new(self.index(), generation, word)
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Choice({} gen {} tag {:#08x})",
            self.index(),
            self.generation(),
            self.tag()
        )
    }
}

impl Ring {
    fn slot_at(&self, position: u64) -> &AtomicU64 {
        &self.slot[position as usize & (STAGE_SLOTS - 1)]
    }

    /// Moves `head` over taken slots at which it was left behind; where it is then.
    fn skip_taken(&self) -> u64 {
        let tail = self.tail.load(Relaxed);
        let mut head = self.head.load(Acquire);
        for _ in 0..STAGE_SLOTS {
            if head == tail || self.slot_at(head).load(Acquire) != 0 {
                break;
            }
            head = match self.head.compare_exchange(head, head + 1, AcqRel, Acquire) {
                Ok(_) => head + 1,
                Err(seen) => seen,
            };
        }
        head
    }

    /// Stages `choice` behind the others. False, and nothing done, when there is no
    /// room. Server's thread only.
    #[must_use = "a choice that was not staged is still the policy's"]
    pub fn push(&self, choice: Choice) -> bool {
        let tail = self.tail.load(Relaxed);
        if tail.wrapping_sub(self.skip_taken()) >= STAGE_SLOTS as u64 {
            return false;
        }
        if choice.0 == 0 {
            return false;
        }
        // Release: who takes it sees what the server wrote about the worker. Not a
        // plain store, although the slot is free: a slot in range that is taken was
        // broken by somebody else, and loom only orders RMWs against the takers'.
        let slot = self.slot_at(tail);
        if slot
            .compare_exchange(0, choice.0, Release, Relaxed)
            .is_err()
        {
            return false;
        }
        self.tail.store(tail + 1, Release);
        true
        // pairs with ring_take_this()
    }

    /// Twin of the kernel's take: the oldest choice, or `None` when there is none
    /// or another CPU is taking it this moment. Any thread.
    #[doc(alias = "ring_take_this")]
    pub fn take(&self) -> Option<Choice> {
        let choice = Choice::from_raw(self.slot_at(self.head.load(Relaxed)).load(Acquire))?;
        let head = self.head.load(Relaxed);
        let slot = self.slot_at(head);
        slot.compare_exchange(choice.0, 0, AcqRel, Relaxed).ok()?;
        // Who loses this does not mind: somebody moved it over this very slot.
        let _ = self
            .head
            .compare_exchange(head, head.wrapping_add(1), AcqRel, Relaxed);
        Some(choice)
        // pairs with push() and recall()
    }

    /// Takes back what no CPU has taken, newest first. Server's thread only; the
    /// ring is empty afterwards.
    pub fn recall(&self, mut f: impl FnMut(Choice)) {
        let (head, tail) = (self.skip_taken(), self.tail.load(Relaxed));
        // Only slots above the newest taken one are given up for new choices. The
        // CPU that took that one may not have moved `head` yet, and would move it
        // over whatever came there.
        let mut end = head;
        for position in (head..tail).rev() {
            match Choice::from_raw(self.slot_at(position).swap(0, AcqRel)) {
                Some(choice) => f(choice),
                None => end = end.max(position + 1),
            }
        }
        self.tail.store(end, Release);
        self.skip_taken();
        // pairs with ring_take_this()
    }

    /// How many choices wait, at most; CPUs may take some at any moment. Server's
    /// thread only, as it lets takers go on where they were stuck.
    pub fn len_hint(&self) -> usize {
        self.tail.load(Relaxed).wrapping_sub(self.skip_taken()) as usize
    }

    /// Whether there was no choice to take a moment ago. Any thread.
    #[doc(alias = "ring_peek")]
    pub fn is_empty_hint(&self) -> bool {
        self.slot_at(self.head.load(Relaxed)).load(Relaxed) == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::word::State;

    fn choice(index: u32) -> Choice {
        Choice::new(index, 1, Word(0))
    }

    fn indexes(ring: &Ring) -> Vec<u32> {
        std::iter::from_fn(|| ring.take())
            .map(Choice::index)
            .collect()
    }

    fn recalled(ring: &Ring) -> Vec<u32> {
        let mut out = Vec::new();
        ring.recall(|c| out.push(c.index()));
        out
    }

    #[test]
    fn choice_fields_are_packed_as_in_c() {
        let word = Word(0x1234_5678_9abc_0102);
        let choice = Choice::new(0xabcd, 0x1f7, word);
        assert_eq!(choice.raw(), 0x0000_abcd_f778_9abc);
        assert_eq!(choice.index(), 0xabcd);
        assert_eq!(choice.generation(), 0xf7);
        assert_eq!(choice.tag(), 0x78_9abc);
    }

    #[test]
    fn choice_is_true_until_generation_or_word_moves() {
        let word = Word(0).next(1000, State::Runnable as u64);
        let choice = Choice::new(9, 3, word);
        assert!(choice.is_true(3, word));
        assert!(!choice.is_true(5, word));
        assert!(!choice.is_true(3, word.next(1000, State::Running as u64)));
    }
    #[test]
    fn choice_zero_is_free() {
        assert_eq!(Choice::from_raw(0), None);
        assert!(!Ring::new().push(Choice::new(0, 0, Word(0))));
    }

    #[test]
    fn ring_take_is_oldest_first() {
        let ring = Ring::new();
        for i in 1..=5 {
            assert!(ring.push(choice(i)));
        }
        assert_eq!(ring.len_hint(), 5);
        assert!(!ring.is_empty_hint());
        assert_eq!(indexes(&ring), [1, 2, 3, 4, 5]);
        assert_eq!(ring.len_hint(), 0);
        assert!(ring.is_empty_hint());
    }

    #[test]
    fn ring_full_refuses() {
        let ring = Ring::new();
        for i in 1..=STAGE_SLOTS as u32 {
            assert!(ring.push(choice(i)));
        }
        assert!(!ring.push(choice(99)));
        assert_eq!(ring.take().map(Choice::index), Some(1));
        assert!(ring.push(choice(99)));
        assert!(!ring.push(choice(100)));
        assert_eq!(indexes(&ring).len(), STAGE_SLOTS);
    }

    #[test]
    fn ring_goes_round_in_order() {
        let ring = Ring::new();
        let mut expected = 1;
        for i in 1..=1000 {
            assert!(ring.push(choice(i)));
            if i % 3 != 0 {
                assert_eq!(ring.take().map(Choice::index), Some(expected));
                expected += 1;
            }
            if ring.len_hint() > 60 {
                for index in indexes(&ring) {
                    assert_eq!(index, expected);
                    expected += 1;
                }
            }
        }
    }

    #[test]
    fn ring_recall_is_newest_first_and_empties() {
        let ring = Ring::new();
        for i in 1..=4 {
            assert!(ring.push(choice(i)));
        }
        assert_eq!(ring.take().map(Choice::index), Some(1));
        assert_eq!(recalled(&ring), [4, 3, 2]);
        assert_eq!(ring.len_hint(), 0);
        assert!(ring.push(choice(7)));
        assert_eq!(indexes(&ring), [7]);
    }

    #[test]
    fn ring_recall_of_nothing_calls_nobody() {
        let ring = Ring::new();
        assert!(recalled(&ring).is_empty());
        assert!(ring.push(choice(1)));
        assert_eq!(indexes(&ring), [1]);
        assert!(recalled(&ring).is_empty());
    }

    #[test]
    fn ring_recall_leaves_the_slot_of_a_take_under_way() {
        let ring = Ring::new();
        assert!(ring.push(choice(1)) && ring.push(choice(2)));
        // A CPU took 1 and has not moved the head yet.
        assert_eq!(ring.slot[0].swap(0, AcqRel), choice(1).raw());
        assert_eq!(recalled(&ring), [2]);
        assert!(ring.push(choice(3)));
        let _ = ring.head.compare_exchange(0, 1, AcqRel, Relaxed);
        assert_eq!(indexes(&ring), [3]);
    }

    #[test]
    fn ring_hole_at_the_head_is_skipped_by_the_server() {
        let ring = Ring::new();
        for i in 1..=3 {
            assert!(ring.push(choice(i)));
        }
        // A CPU that read the head 64 positions ago took the oldest, and then
        // could not move the head.
        ring.slot[0].store(0, Relaxed);
        assert_eq!(ring.take(), None, "takers are stuck");
        assert_eq!(ring.len_hint(), 2);
        assert_eq!(indexes(&ring), [2, 3]);
    }

    #[test]
    fn ring_hole_behind_a_choice_is_skipped_when_reached() {
        let ring = Ring::new();
        for i in 1..=3 {
            assert!(ring.push(choice(i)));
        }
        ring.slot[1].store(0, Relaxed);
        assert_eq!(indexes(&ring), [1]);
        assert!(ring.push(choice(4)));
        assert_eq!(indexes(&ring), [3, 4]);
    }

    #[test]
    fn ring_recall_over_a_hole_takes_all_and_goes_on() {
        let ring = Ring::new();
        for i in 1..=4 {
            assert!(ring.push(choice(i)));
        }
        ring.slot[2].store(0, Relaxed);
        assert_eq!(recalled(&ring), [4, 2, 1]);
        for i in 5..5 + STAGE_SLOTS as u32 {
            assert!(ring.push(choice(i)));
        }
        assert_eq!(indexes(&ring).len(), STAGE_SLOTS);
    }
}
