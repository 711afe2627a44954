//! The state word: 48 bits of CLOCK_MONOTONIC ns, flags, state.
//!
//! Mirrors `src/bpf/word.bpf.h`. Only BPF moves a word; user space reads it in one
//! load and may compare it: each value is a unique tag of its transition.

use std::fmt;

use crate::intf;

/// RUNNABLE: forced off, by the end of its slice or by a request.
#[doc(alias = "UMCG_F_PREEMPTED")]
pub const PREEMPTED: u64 = intf::umcg_state_UMCG_F_PREEMPTED as u64;
/// RUNNABLE: gave the CPU up.
#[doc(alias = "UMCG_F_YIELDED")]
pub const YIELDED: u64 = intf::umcg_state_UMCG_F_YIELDED as u64;
/// BLOCKED: in a page fault, not in a system call.
#[doc(alias = "UMCG_F_FAULT")]
pub const FAULT: u64 = intf::umcg_state_UMCG_F_FAULT as u64;
/// BLOCKED: by SIGSTOP, ptrace or the freezer.
#[doc(alias = "UMCG_F_STOPPED")]
pub const STOPPED: u64 = intf::umcg_state_UMCG_F_STOPPED as u64;
/// RUNNING: released by the relief valve.
#[doc(alias = "UMCG_F_RESCUED")]
pub const RESCUED: u64 = intf::umcg_state_UMCG_F_RESCUED as u64;
/// IDLE, of a group: sleeps for real.
#[doc(alias = "UMCG_F_ASLEEP")]
pub const ASLEEP: u64 = intf::umcg_state_UMCG_F_ASLEEP as u64;
/// Of a group: a wake came first and is remembered.
#[doc(alias = "UMCG_F_PENDING")]
pub const PENDING: u64 = intf::umcg_state_UMCG_F_PENDING as u64;
/// Of a group: its last wait ended by time.
#[doc(alias = "UMCG_F_TIMEDOUT")]
pub const TIMEDOUT: u64 = intf::umcg_state_UMCG_F_TIMEDOUT as u64;

const STATE_MASK: u64 = intf::umcg_state_UMCG_STATE_MASK as u64;
const FLAGS_MASK: u64 = intf::umcg_state_UMCG_FLAGS_MASK as u64;
const TIME_SHIFT: u32 = intf::umcg_state_UMCG_TIME_SHIFT;
const TIME_MASK: u64 = (1 << 48) - 1;

const FLAG_NAMES: [(u64, &str); 8] = [
    (PREEMPTED, "PREEMPTED"),
    (YIELDED, "YIELDED"),
    (FAULT, "FAULT"),
    (STOPPED, "STOPPED"),
    (RESCUED, "RESCUED"),
    (ASLEEP, "ASLEEP"),
    (PENDING, "PENDING"),
    (TIMEDOUT, "TIMEDOUT"),
];

/// What a worker or a server does.
#[doc(alias = "umcg_state")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Not a member: never seen yet, exited, or of another class now.
    None = intf::umcg_state_UMCG_NONE as u8,
    /// On a CPU.
    Running = intf::umcg_state_UMCG_RUNNING as u8,
    /// Wants a CPU.
    Runnable = intf::umcg_state_UMCG_RUNNABLE as u8,
    /// Stopped in the kernel.
    Blocked = intf::umcg_state_UMCG_BLOCKED as u8,
    /// Waits by its own wish.
    Idle = intf::umcg_state_UMCG_IDLE as u8,
}

impl State {
    /// All states, by their number.
    pub const ALL: [Self; intf::umcg_state_UMCG_NR_STATES as usize] = [
        Self::None,
        Self::Running,
        Self::Runnable,
        Self::Blocked,
        Self::Idle,
    ];

    /// The state of number `byte`.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// Its name in `intf.h`, without the prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Running => "RUNNING",
            Self::Runnable => "RUNNABLE",
            Self::Blocked => "BLOCKED",
            Self::Idle => "IDLE",
        }
    }
}

/// Whether the table at the state word in `intf.h` has the edge `from` -> `to`.
///
/// Into and out of NONE everything goes: a task may leave at any time, and the
/// first edge that is seen of a task may be any.
#[doc(alias = "word_move")]
pub const fn legal(from: State, to: State) -> bool {
    use State::{Blocked, Idle, None, Runnable, Running};
    matches!(
        (from, to),
        (None, _)
            | (_, None)
            | (Blocked | Idle, Runnable)
            | (Runnable, Running)
            | (Running, Runnable | Blocked | Idle)
    )
}

/// A state word as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Word(pub u64);

impl Word {
    /// The state; `None` when the byte is no state, which BPF never writes.
    #[doc(alias = "word_state")]
    pub fn state(self) -> Option<State> {
        State::from_byte((self.0 & STATE_MASK) as u8)
    }

    /// The flags, in place: test them with [`PREEMPTED`] and its like.
    pub const fn flags(self) -> u64 {
        self.0 & FLAGS_MASK
    }

    /// The low 48 bits of the time of the last edge.
    #[doc(alias = "word_time")]
    pub const fn time48(self) -> u64 {
        self.0 >> TIME_SHIFT
    }

    /// State and flags as text, without the time: `RUNNABLE|PREEMPTED`.
    pub fn label(self) -> String {
        let mut text = match self.state() {
            Some(state) => state.name().to_owned(),
            None => format!("STATE({})", self.0 & STATE_MASK),
        };
        for name in self.flag_names() {
            text.push('|');
            text.push_str(name);
        }
        text
    }

    /// The names of the flags that are set, as in `intf.h` without the prefix.
    pub fn flag_names(self) -> impl Iterator<Item = &'static str> {
        let set = move |&(flag, name): &(u64, _)| (self.0 & flag != 0).then_some(name);
        FLAG_NAMES.iter().filter_map(set)
    }

    /// The word of the next edge, at `now_ns`: its time is max(now, old + 1) modulo
    /// 2^48, so that it differs from every recent one. A word that was never set
    /// takes `now_ns` as it is.
    ///
    /// "Later" is decided by the shorter way round, so an old time more than 2^47 ns
    /// (1.63 days) back counts as the future and steps by one. Unique all the same;
    /// for how long a state has lasted ask `since_ns` of the record.
    #[doc(alias = "word_next")]
    #[must_use = "computes the next word, it changes nothing"]
    pub const fn next(self, now_ns: u64, state_and_flags: u64) -> Self {
        let (old, mut new) = (self.time48(), now_ns & TIME_MASK);
        if self.0 != 0 && (new.wrapping_sub(old) << TIME_SHIFT).cast_signed() <= 0 {
            new = (old + 1) & TIME_MASK;
        }
        Self(new << TIME_SHIFT | state_and_flags)
    }

    /// The full time of the next edge, at `now_ns`: max(now, old + 1), by the full time of
    /// the last one, however long ago it was. `since_ns` is from beside the word, read after
    /// it; it may lag behind for an instant, and then the word itself tells.
    pub const fn stamp_after(self, since_ns: u64, now_ns: u64) -> u64 {
        if self.0 == 0 {
            return now_ns;
        }
        let next = self.restore_beside(since_ns, now_ns).wrapping_add(1);
        let stamp = match now_ns.wrapping_sub(next).cast_signed() >= 0 {
            true => now_ns,
            false => next,
        };
        // Whole turns of the 48 bits apart.
        match stamp & TIME_MASK == self.time48() {
            true => stamp.wrapping_add(1),
            false => stamp,
        }
    }

    /// The word of an edge at the full time `stamp`.
    #[doc(alias = "word_make")]
    pub const fn make(stamp: u64, state_and_flags: u64) -> Self {
        Self((stamp & TIME_MASK) << TIME_SHIFT | state_and_flags)
    }

    /// The 64-bit time of the last edge: that nearest to `now_ns` with these 48 bits.
    ///
    /// Right while the edge is less than 1.63 days from `now_ns`; `since_ns` beside
    /// the word has no such limit.
    pub const fn restore(self, now_ns: u64) -> u64 {
        let ahead = self.time48().wrapping_sub(now_ns) << TIME_SHIFT;
        match now_ns.checked_add_signed(ahead.cast_signed() >> TIME_SHIFT) {
            Some(time) => time,
            // Before the boot: no edge was then, so it is the one ahead.
            None => self.time48(),
        }
    }

    /// The same with `since_ns` from beside the word, read after it: that one as long as it
    /// shows the same edge, however long ago it was.
    pub const fn restore_beside(self, since_ns: u64, now_ns: u64) -> u64 {
        match since_ns & TIME_MASK == self.time48() {
            true => since_ns,
            false => self.restore(now_ns),
        }
    }

    /// How long ago the last edge was; 0 when it is ahead of `now_ns`, as it is for
    /// an instant after the clock stood still.
    pub const fn elapsed(self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.restore(now_ns))
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.time48() / 1000;
        let (s, us) = (us / 1_000_000, us % 1_000_000);
        write!(f, "{} @{s}.{us:06}s", self.label())
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Word({:#018x} {self})", self.0)
    }
}

/// One edge, by cmpxchg as in word_move(), for models and stress tests; the word that it made.
#[cfg(test)]
pub(crate) fn edge(worker: &crate::record::Worker, state: State) -> Word {
    use crate::sync::Ordering::{AcqRel, Relaxed};

    let mut old = Word(worker.word.load(Relaxed));
    loop {
        let new = old.next(0, state as u64);
        match worker.word.compare_exchange(old.0, new.0, AcqRel, Relaxed) {
            Ok(_) => return new,
            Err(seen) => old = Word(seen),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const RUNNABLE: u64 = State::Runnable as u64;
    const RUNNING: u64 = State::Running as u64;
    const WRAP: u64 = 1 << 48;

    fn at(time: u64) -> Word {
        Word((time & TIME_MASK) << TIME_SHIFT | RUNNING)
    }

    #[test]
    fn word_fields_do_not_overlap() {
        let word = Word(0).next(0x1234_5678_9abc, RUNNABLE | PREEMPTED);
        assert_eq!(word.0, 0x1234_5678_9abc_0102);
        assert_eq!(word.state(), Some(State::Runnable));
        assert_eq!(word.flags(), PREEMPTED);
        assert_eq!(word.time48(), 0x1234_5678_9abc);
    }

    #[test]
    fn word_later_clock_is_taken() {
        assert_eq!(at(100).next(250, RUNNABLE).time48(), 250);
        assert_eq!(at(100).next(101, RUNNABLE).time48(), 101);
    }

    #[test]
    fn word_equal_clock_steps_by_one() {
        assert_eq!(at(100).next(100, RUNNABLE).time48(), 101);
    }

    #[test]
    fn word_clock_step_back_steps_by_one() {
        assert_eq!(at(100).next(99, RUNNABLE).time48(), 101);
        assert_eq!(at(5_000_000_000).next(1, RUNNABLE).time48(), 5_000_000_001);
    }

    #[test]
    fn word_never_set_takes_now() {
        assert_eq!(Word(0).next(0, RUNNABLE), Word(RUNNABLE));
        assert_eq!(Word(0).next(1 << 47, RUNNABLE).time48(), 1 << 47);
        assert_eq!(Word(0).next(WRAP - 1, RUNNABLE).time48(), WRAP - 1);
    }

    #[test]
    fn word_set_at_time_zero_is_not_never_set() {
        assert_eq!(Word(RUNNING).next(0, RUNNABLE).time48(), 1);
    }

    #[test]
    fn word_now_above_48_bits_is_cut() {
        let word = at(100).next(3 * WRAP + 250, RUNNABLE);
        assert_eq!(word.time48(), 250);
        assert_eq!(word.state(), Some(State::Runnable));
    }

    #[test]
    fn word_wraps_forward() {
        assert_eq!(at(WRAP - 10).next(WRAP + 5, RUNNABLE).time48(), 5);
    }

    #[test]
    fn word_equal_clock_at_the_wrap_steps_to_zero() {
        let word = at(WRAP - 1).next(WRAP - 1, RUNNABLE);
        assert_eq!(word.time48(), 0);
        assert_eq!(word.next(WRAP - 1, RUNNING).time48(), 1);
    }

    #[test]
    fn word_clock_step_back_across_the_wrap_steps_by_one() {
        assert_eq!(at(WRAP + 5).next(WRAP - 10, RUNNABLE).time48(), 6);
    }

    #[test]
    fn word_half_a_wrap_back_counts_as_ahead() {
        let old = 1000;
        let nearly = old + (1 << 47) - 1;
        assert_eq!(at(old).next(nearly, RUNNABLE).time48(), nearly);
        assert_eq!(at(old).next(nearly + 1, RUNNABLE).time48(), old + 1);
    }

    #[test]
    fn word_edges_at_one_instant_are_all_different() {
        let mut seen = std::collections::HashSet::new();
        let mut word = Word(0);
        for i in 0..1000u64 {
            word = word.next(WRAP - 500, if i % 2 == 0 { RUNNING } else { RUNNABLE });
            assert!(seen.insert(word.0));
        }
        assert_eq!(word.time48(), 499);
    }

    #[test]
    fn restore_is_nearest_to_now() {
        for now in [7, WRAP - 3, WRAP, WRAP + 7, 5 * WRAP + (1 << 46)] {
            for past in [0, 1, 5, 1000, (1 << 47) - 1] {
                if past <= now {
                    assert_eq!(
                        at(now - past).restore(now),
                        now - past,
                        "{past} before {now}"
                    );
                }
            }
            for ahead in [1, 5, (1 << 46)] {
                assert_eq!(
                    at(now + ahead).restore(now),
                    now + ahead,
                    "{ahead} after {now}"
                );
            }
        }
    }

    #[test]
    fn restore_before_the_boot_is_ahead() {
        assert_eq!(at(WRAP - 1).restore(5), WRAP - 1);
    }

    #[test]
    fn elapsed_counts_from_the_last_edge() {
        assert_eq!(at(100).elapsed(100), 0);
        assert_eq!(at(100).elapsed(350), 250);
    }

    #[test]
    fn elapsed_goes_across_the_wrap() {
        assert_eq!(at(WRAP - 100).elapsed(WRAP + 50), 150);
        assert_eq!(at(2 * WRAP - 1).elapsed(2 * WRAP), 1);
    }

    #[test]
    fn elapsed_of_an_edge_ahead_is_zero() {
        assert_eq!(at(101).elapsed(100), 0);
        assert_eq!(at(WRAP).elapsed(WRAP - 1), 0);
    }

    #[test]
    fn elapsed_up_to_half_a_wrap_is_right() {
        let now = 3 * WRAP;
        assert_eq!(at(now - (1 << 47)).elapsed(now), 1 << 47);
        assert_eq!(at(now - (1 << 47) - 1).elapsed(now), 0);
    }

    #[test]
    fn state_from_byte_knows_only_states() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            assert_eq!(State::from_byte(number as u8), Some(state));
        }
        assert_eq!(State::from_byte(5), None);
        assert_eq!(State::from_byte(255), None);
        assert_eq!(Word(7).state(), None);
    }

    #[test]
    fn legal_has_the_edges_of_the_table_and_no_other() {
        use State::{Blocked, Idle, Runnable, Running};
        let edges = [
            (Blocked, Runnable),
            (Idle, Runnable),
            (Runnable, Running),
            (Running, Runnable),
            (Running, Blocked),
            (Running, Idle),
        ];
        for from in State::ALL {
            for to in State::ALL {
                let expected =
                    from == State::None || to == State::None || edges.contains(&(from, to));
                assert_eq!(legal(from, to), expected, "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn display_names_state_flags_and_time() {
        let word = Word(0).next(1_234_567_890, RUNNABLE | PREEMPTED);
        assert_eq!(word.to_string(), "RUNNABLE|PREEMPTED @1.234567s");
        let word = Word(0).next(5_000_000, State::Blocked as u64 | FAULT | STOPPED);
        assert_eq!(word.to_string(), "BLOCKED|FAULT|STOPPED @0.005000s");
        assert_eq!(Word(0).to_string(), "NONE @0.000000s");
    }

    #[test]
    fn display_names_each_flag_and_shows_states_it_does_not_know() {
        assert_eq!(
            Word(0x8107).to_string(),
            "STATE(7)|PREEMPTED|TIMEDOUT @0.000000s"
        );
        let named = FLAG_NAMES.iter().fold(0, |all, (flag, _)| all | flag);
        assert_eq!(named, FLAGS_MASK, "a flag has no name");
        assert_eq!(
            format!("{:?}", Word(0x101)),
            "Word(0x0000000000000101 RUNNING|PREEMPTED @0.000000s)"
        );
    }
}
