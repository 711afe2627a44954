//! The edges of a worker's word in futex-only mode, each one an atomic step.
//!
//! The word alone decides every race: who makes the edge does what follows from it.
//! Encoding and states are those of `intf.h`. Three more flags are hidden from callers;
//! a remembered wake has the bit that BPF's groups use for it:
//!
//! | flag | in | meaning |
//! |---|---|---|
//! | `WAKE` | RUNNING, RUNNABLE | a wake came first: the next wait does not wait |
//! | `TIMED_OUT` | RUNNABLE | the edge was made by the wait's own time |
//! | `CLAIMED` | RUNNABLE | somebody is about to run it; nobody else may |
//!
//! ```text
//!        wake, time_out            claim              start
//! IDLE -----------------> RUNNABLE -----> RUNNABLE|C -------> RUNNING
//!   |                        ^                                 |  |
//!   |     claim              |        leave (yield, preempt)   |  |
//!   +----------------------> | <-------------------------------+  |
//!   ^                                  begin_wait                 |
//!   +-------------------------------------------------------------+
//! ```
//!
//! No lost wake: `WAKE` lives in the word that `begin_wait` changes, so its cmpxchg
//! either finds the flag or makes the IDLE that the waker then finds.
//! Models: `loom_edge_wait_vs_wake`, `loom_edge_timeout_vs_wake_vs_claim`,
//! `loom_edge_switch_vs_run`.

use crate::record::Worker;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::word::{PREEMPTED, State, Word, YIELDED};

/// A wake that came first.
pub(crate) const WAKE: u64 = 0x4000;
/// Became RUNNABLE by time.
pub(crate) const TIMED_OUT: u64 = 0x2000;
/// About to be run.
pub(crate) const CLAIMED: u64 = 0x8000;
/// What callers do not see.
pub(crate) const PRIVATE: u64 = WAKE | TIMED_OUT | CLAIMED;

/// What a wake did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woke {
    /// IDLE -> RUNNABLE: the caller lists the worker.
    Edge,
    /// It was not IDLE: its next wait returns at once.
    Remembered,
    /// It is no member.
    Nobody,
}

/// What the start of a wait found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// RUNNING -> IDLE, with this word.
    Idle(Word),
    /// A wake came before; it is used up, the state is as it was.
    WasWoken,
    /// Not RUNNING.
    Wrong(Word),
}

/// The worker's word.
pub(crate) fn load(worker: &Worker) -> Word {
    Word(worker.word.load(Acquire))
}

/// When `word`, just read of `worker`, was made, however long before `now`.
pub(crate) fn since(worker: &Worker, word: Word, now: u64) -> u64 {
    word.restore_beside(worker.since_ns.load(Relaxed), now)
}

/// One edge: `make` says the state and flags that follow a word, or `None` to leave it.
/// `Ok` is (before, after), `Err` the word that was left.
fn step(
    worker: &Worker,
    now: u64,
    mut make: impl FnMut(Word) -> Option<u64>,
) -> Result<(Word, Word), Word> {
    let mut old = load(worker);
    loop {
        let Some(to) = make(old) else {
            return Err(old);
        };
        let since = worker.since_ns.load(Relaxed);
        let stamp = old.stamp_after(since, now);
        let new = Word::make(stamp, to);
        // A full barrier on x86; what pairs with other words says so with a fence.
        match worker.word.compare_exchange(old.0, new.0, AcqRel, Acquire) {
            Ok(_) => {
                account(worker, old, old.restore_beside(since, now), stamp);
                return Ok((old, new));
            }
            Err(seen) => old = Word(seen),
        }
    }
}

/// Times spent from `since` to `stamp`, by who made the edge: one at a time leaves a state.
fn account(worker: &Worker, old: Word, since: u64, stamp: u64) {
    // Who made an older edge may have been preempted before it came here.
    worker.since_ns.fetch_max(stamp, Relaxed);
    let spent = match old.state() {
        Some(State::Running) => &worker.run_ns,
        Some(State::Runnable) => &worker.wait_ns,
        _ => return,
    };
    let time = stamp.saturating_sub(since);
    spent.store(spent.load(Relaxed).wrapping_add(time), Relaxed);
}

/// NONE -> RUNNABLE: a new worker. -> RUNNING: a new server.
pub(crate) fn enter(worker: &Worker, now: u64, state: State) -> Word {
    match step(worker, now, |_| Some(state as u64)) {
        Ok((_, new)) | Err(new) => new,
    }
}

/// IDLE -> RUNNABLE, or sets `WAKE`. Any thread.
pub(crate) fn wake(worker: &Worker, now: u64) -> Woke {
    loop {
        let old = load(worker);
        match old.state() {
            Some(State::Idle) => {
                let runnable = State::Runnable as u64;
                let made = step(worker, now, |word| (word == old).then_some(runnable));
                if made.is_ok() {
                    return Woke::Edge;
                }
            }
            Some(State::Running | State::Runnable) => {
                // No edge, so no new time: a kick of this stint stays valid.
                let flagged = old.0 | WAKE;
                let set = worker
                    .word
                    .compare_exchange(old.0, flagged, AcqRel, Relaxed);
                if set.is_ok() {
                    return Woke::Remembered;
                }
            }
            _ => return Woke::Nobody,
        }
    }
}

/// RUNNING -> IDLE, unless a wake came first. The worker itself.
pub(crate) fn begin_wait(worker: &Worker, now: u64) -> Begun {
    loop {
        let old = load(worker);
        if old.state() != Some(State::Running) {
            return Begun::Wrong(old);
        }
        if old.0 & WAKE != 0 {
            if consume_wake(worker) {
                return Begun::WasWoken;
            }
        } else {
            let made = step(worker, now, |word| {
                (word == old).then_some(State::Idle as u64)
            });
            if let Ok((_, new)) = made {
                return Begun::Idle(new);
            }
        }
    }
}

/// Uses a remembered wake up; false when there is none. The worker itself, RUNNING.
pub(crate) fn consume_wake(worker: &Worker) -> bool {
    worker.word.load(Relaxed) & WAKE != 0 && worker.word.fetch_and(!WAKE, AcqRel) & WAKE != 0
}

/// IDLE, still that of `wait` -> RUNNABLE: its time is over. The worker itself; true
/// if it made the edge, so that it has to list itself.
pub(crate) fn time_out(worker: &Worker, now: u64, wait: Word) -> bool {
    let to = State::Runnable as u64 | TIMED_OUT;
    step(worker, now, |word| (word == wait).then_some(to)).is_ok()
}

/// RUNNABLE, or with `ends_wait` also IDLE, -> RUNNABLE|CLAIMED: the caller, and nobody else,
/// may `start` it. The word, or the one that forbids it. Any thread.
pub(crate) fn claim(worker: &Worker, ends_wait: bool, now: u64) -> Result<Word, Word> {
    let made = step(worker, now, |word| match word.state() {
        Some(State::Runnable) if word.0 & CLAIMED == 0 => {
            Some(State::Runnable as u64 | CLAIMED | word.flags())
        }
        Some(State::Idle) if ends_wait => Some(State::Runnable as u64 | CLAIMED),
        _ => None,
    });
    made.map(|(_, new)| new)
}

/// Gives `claim` up; true if it still stood, and then the worker wants to be listed.
pub(crate) fn unclaim(worker: &Worker, now: u64, claim: Word) -> bool {
    step(worker, now, |word| {
        (word.time48() == claim.time48())
            .then_some(State::Runnable as u64 | word.flags() & !CLAIMED)
    })
    .is_ok()
}

/// RUNNABLE|CLAIMED -> RUNNING, if `claim` still stands. Who claimed it, after all that
/// the worker will read was written.
pub(crate) fn start(worker: &Worker, now: u64, claim: Word) -> Option<Word> {
    let made = step(worker, now, |word| {
        (word.time48() == claim.time48()).then_some(State::Running as u64 | word.0 & WAKE)
    });
    made.ok().map(|(_, new)| new)
}

/// RUNNING -> RUNNABLE with `flag`: [`YIELDED`], [`PREEMPTED`], or 0 for one that had no
/// slot. The worker itself; a remembered wake stays.
pub(crate) fn leave(worker: &Worker, now: u64, flag: u64) -> Result<Word, Word> {
    debug_assert!(flag == 0 || flag == YIELDED || flag == PREEMPTED);
    leave_with(worker, now, flag, WAKE)
}

/// RUNNING -> RUNNABLE: a wait that a remembered wake ends, which is used up.
pub(crate) fn leave_woken(worker: &Worker, now: u64) -> Result<Word, Word> {
    leave_with(worker, now, 0, 0)
}

fn leave_with(worker: &Worker, now: u64, flag: u64, keep: u64) -> Result<Word, Word> {
    let made = step(worker, now, |word| {
        (word.state() == Some(State::Running))
            .then_some(State::Runnable as u64 | flag | word.0 & keep)
    });
    made.map(|(_, new)| new)
}

/// Any state -> NONE; the state before, `None` when somebody else was first.
pub(crate) fn exit(worker: &Worker, now: u64) -> Option<(Word, Word)> {
    step(worker, now, |word| {
        (word.state() != Some(State::None)).then_some(State::None as u64)
    })
    .ok()
}

/// A server's word: no race, it is written by its own thread and read by others.
pub(crate) fn set(worker: &Worker, now: u64, state: State) {
    let _ = step(worker, now, |word| {
        (word.state() != Some(State::None)).then_some(state as u64)
    });
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(state: State) -> Worker {
        let worker = Worker::new();
        enter(&worker, 100, state);
        worker
    }

    #[test]
    fn wake_of_an_idle_worker_is_the_edge() {
        let worker = at(State::Idle);
        assert_eq!(wake(&worker, 200), Woke::Edge);
        assert_eq!(load(&worker).state(), Some(State::Runnable));
        assert_eq!(load(&worker).time48(), 200);
    }

    #[test]
    fn wake_before_the_wait_is_remembered_once() {
        let worker = at(State::Running);
        assert_eq!(wake(&worker, 200), Woke::Remembered);
        assert_eq!(wake(&worker, 201), Woke::Remembered);
        assert_eq!(load(&worker).time48(), 100, "no edge");
        assert_eq!(begin_wait(&worker, 300), Begun::WasWoken);
        assert!(matches!(begin_wait(&worker, 301), Begun::Idle(_)));
    }

    #[test]
    fn wake_of_nobody_says_so() {
        assert_eq!(wake(&Worker::new(), 1), Woke::Nobody);
    }

    #[test]
    fn time_of_an_older_edge_written_late_is_not_kept() {
        let worker = at(State::Running);
        let first = load(&worker);
        leave(&worker, 300, YIELDED).unwrap();
        account(&worker, first, 100, 200);
        assert_eq!(worker.since_ns.load(Relaxed), 300);
    }

    #[test]
    fn claim_is_for_one_and_start_is_for_who_claimed() {
        let worker = at(State::Runnable);
        let mine = claim(&worker, true, 200).unwrap();
        assert!(claim(&worker, true, 201).is_err());
        assert_eq!(wake(&worker, 202), Woke::Remembered);
        let running = start(&worker, 203, mine).unwrap();
        assert_eq!(running.flags(), WAKE);
        assert_eq!(start(&worker, 204, mine), None);
        assert_eq!(begin_wait(&worker, 205), Begun::WasWoken);
    }

    #[test]
    fn claim_given_up_leaves_it_runnable() {
        let worker = at(State::Idle);
        assert!(claim(&worker, false, 199).is_err(), "its wait stands");
        let mine = claim(&worker, true, 200).unwrap();
        assert!(unclaim(&worker, 201, mine));
        assert!(!unclaim(&worker, 202, mine));
        let word = load(&worker);
        assert_eq!(word.state(), Some(State::Runnable));
        assert_eq!(word.flags(), 0);
    }

    #[test]
    fn time_out_of_an_older_wait_does_nothing() {
        let worker = at(State::Running);
        let Begun::Idle(first) = begin_wait(&worker, 200) else {
            panic!("it was not woken");
        };
        assert_eq!(wake(&worker, 201), Woke::Edge);
        let claimed = claim(&worker, true, 202).unwrap();
        start(&worker, 203, claimed).unwrap();
        let Begun::Idle(second) = begin_wait(&worker, 204) else {
            panic!("it was not woken");
        };
        assert!(!time_out(&worker, 205, first));
        assert!(time_out(&worker, 206, second));
        assert_eq!(load(&worker).flags(), TIMED_OUT);
    }

    #[test]
    fn leave_keeps_a_remembered_wake_unless_it_is_the_reason() {
        let worker = at(State::Running);
        wake(&worker, 200);
        assert_eq!(leave(&worker, 201, 0).unwrap().flags(), WAKE);
        let worker = at(State::Running);
        wake(&worker, 200);
        assert_eq!(
            leave(&worker, 201, YIELDED).unwrap().flags(),
            YIELDED | WAKE
        );
        let worker = at(State::Running);
        wake(&worker, 200);
        assert_eq!(leave_woken(&worker, 201).unwrap().flags(), 0);
    }

    #[test]
    fn account_adds_each_state_to_its_own_sum() {
        let worker = at(State::Runnable);
        let claimed = claim(&worker, true, 150).unwrap();
        start(&worker, 200, claimed).unwrap();
        leave(&worker, 1200, YIELDED).unwrap();
        assert_eq!(worker.run_ns.load(Relaxed), 1000);
        assert_eq!(worker.wait_ns.load(Relaxed), 100);
        let claimed = claim(&worker, true, 1300).unwrap();
        start(&worker, 1400, claimed).unwrap();
        assert_eq!(worker.since_ns.load(Relaxed), 1400);
    }

    #[test]
    fn wait_for_days_ends_when_it_ends() {
        const DAY: u64 = 86_400_000_000_000;
        for days in [1, 2, 3, 4, 7, 400] {
            let worker = at(State::Running);
            assert!(matches!(begin_wait(&worker, 200), Begun::Idle(_)));
            let now = days * DAY;
            assert_eq!(wake(&worker, now), Woke::Edge);
            assert_eq!(worker.since_ns.load(Relaxed), now, "{days} days");
            let claimed = claim(&worker, true, now + 50).unwrap();
            start(&worker, now + 70, claimed).unwrap();
            // It computes for as long.
            leave(&worker, 2 * now, YIELDED).unwrap();
            assert_eq!(worker.since_ns.load(Relaxed), 2 * now);
            assert_eq!(worker.wait_ns.load(Relaxed), 70);
            assert_eq!(worker.run_ns.load(Relaxed), 100 + now - 70);
        }
    }

    #[test]
    fn exit_is_made_once() {
        let worker = at(State::Idle);
        assert!(exit(&worker, 200).is_some());
        assert!(exit(&worker, 201).is_none());
        assert_eq!(wake(&worker, 202), Woke::Nobody);
        assert!(claim(&worker, true, 203).is_err());
    }
}
