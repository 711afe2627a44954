//! What servers are told, and how members are named.

use std::fmt;

use crate::intf;
use crate::word::{self, State, Word};

/// A member of a group.
///
/// The index is used again after a member left, with another generation: an old id
/// never names a newcomer. Nor does an id name a member of another group, but for one
/// chance in 2^31. Generations in use are odd.
#[doc(alias = "umcg_id")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Id {
    index: u32,
    generation: u32,
}

impl Id {
    /// Nobody.
    pub const NONE: Self = Self {
        index: 0,
        generation: 0,
    };

    /// The member `index` of `generation`.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// 1..=max_members, 0 for nobody: an index for tables of one's own.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Which user of the index it is.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// As one number: generation << 32 | index; C's `umcg_id`.
    pub const fn raw(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// What [`raw`](Self::raw) made.
    pub const fn from_raw(raw: u64) -> Self {
        Self::new(raw as u32, (raw >> 32) as u32)
    }

    /// Whether it names nobody.
    pub const fn is_none(self) -> bool {
        self.index == 0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a server is told of a worker.
#[doc(alias = "umcg_reason")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// From `run`: it blocked in the kernel. Kernel mode only.
    Blocked {
        /// The system call, where it is known.
        syscall: Option<u32>,
    },
    /// From `run`: it blocked in a page fault. Kernel mode only.
    Fault,
    /// From `run`: SIGSTOP, a debugger or the freezer stopped it. Kernel mode only.
    Stopped,
    /// From `run`: it called `wait`, or `switch` handed the slot on and it came back.
    Waits,
    /// From `next_event`: it is RUNNABLE again, after a wake or a block.
    Woken,
    /// From `next_event`: it is RUNNABLE for the first time.
    New,
    /// From `run`: it was forced off; from `next_event`: and is RUNNABLE.
    Preempted,
    /// From `run`: it gave the slot up; from `next_event`: and is RUNNABLE.
    Yielded,
    /// From `next_event`: its wait is over by time, it is RUNNABLE.
    TimedOut,
    /// It is no member any more. Told once of each worker: from `run`, or from
    /// `next_event` of one that had no slot when it left.
    Exited,
    /// From `run`: it runs on outside of any slot: released by the relief valve, or
    /// what served the group is gone. It is listed when it is RUNNABLE again.
    Rescued,
}

/// What forced a worker off its slot.
#[doc(alias = "umcg_source")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// A thread: [`Group::kick`](crate::Group::kick).
    Kick,
    /// The deadline of [`Server::run`](crate::Server::run).
    Deadline,
    /// [`GroupConfig::quantum`](crate::GroupConfig::quantum).
    Quantum,
    /// Itself, from a signal handler of the application: [`kick_self`](crate::kick_self()).
    Signal,
    /// Another worker, which woke up with a lower key: [`set_key`](crate::set_key()).
    Wake,
}

impl Source {
    /// Its number in `umcg.h`.
    pub const fn number(self) -> u32 {
        match self {
            Self::Kick => intf::umcg_source_UMCG_S_KICK,
            Self::Deadline => intf::umcg_source_UMCG_S_DEADLINE,
            Self::Quantum => intf::umcg_source_UMCG_S_QUANTUM,
            Self::Signal => intf::umcg_source_UMCG_S_SIGNAL,
            Self::Wake => intf::umcg_source_UMCG_S_WAKE,
        }
    }

    /// What [`number`](Self::number) says.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            intf::umcg_source_UMCG_S_KICK => Some(Self::Kick),
            intf::umcg_source_UMCG_S_DEADLINE => Some(Self::Deadline),
            intf::umcg_source_UMCG_S_QUANTUM => Some(Self::Quantum),
            intf::umcg_source_UMCG_S_SIGNAL => Some(Self::Signal),
            intf::umcg_source_UMCG_S_WAKE => Some(Self::Wake),
            _ => None,
        }
    }
}

impl Reason {
    /// Its number in `umcg.h`.
    pub const fn number(self) -> u32 {
        match self {
            Self::Blocked { .. } => 1,
            Self::Fault => 2,
            Self::Stopped => 3,
            Self::Waits => 4,
            Self::Woken => 5,
            Self::New => 6,
            Self::Preempted => 7,
            Self::Yielded => 8,
            Self::TimedOut => 9,
            Self::Exited => 10,
            Self::Rescued => 11,
        }
    }

    /// What [`number`](Self::number) says, of one that blocked in `syscall`.
    pub const fn from_number(number: u32, syscall: Option<u32>) -> Option<Self> {
        Some(match number {
            1 => Self::Blocked { syscall },
            2 => Self::Fault,
            3 => Self::Stopped,
            4 => Self::Waits,
            5 => Self::Woken,
            6 => Self::New,
            7 => Self::Preempted,
            8 => Self::Yielded,
            9 => Self::TimedOut,
            10 => Self::Exited,
            11 => Self::Rescued,
            _ => return None,
        })
    }

    /// Whether the worker wants to be run now.
    pub const fn is_runnable(self) -> bool {
        matches!(
            self,
            Self::Woken | Self::New | Self::Preempted | Self::Yielded | Self::TimedOut
        )
    }
}

/// News of a worker for a server.
///
/// From `Server::run`: what became of the worker in the slot. From
/// `Server::next_event`: a worker is RUNNABLE and waits for a server, or has left. Every entry into
/// RUNNABLE is told by `next_event`, also when `run` told it already, unless the worker
/// was run again before that. So a queue of workers to run is fed from `next_event` alone.
///
/// Servers that share such a queue may tell it of one worker in any order: one that it
/// left its slot, after another one that it may run again. `at_ns` says which is newer.
#[doc(alias = "umcg_event")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Who.
    pub worker: Id,
    /// What it registered with.
    pub cookie: u64,
    /// Why.
    pub reason: Reason,
    /// Of a [`Reason::Preempted`], what forced it off; in kernel mode only, and not of one
    /// that the relief valve had let run.
    pub source: Option<Source>,
    /// Its word then: state, flags and the unique time of the edge.
    pub tag: u64,
    /// When, in CLOCK_MONOTONIC ns.
    pub at_ns: u64,
    /// CPU time that it has used since it registered; wall time RUNNING in futex-only mode.
    pub run_ns: u64,
    /// Time that it has been RUNNABLE since it registered.
    pub wait_ns: u64,
}

/// How a worker's wait ended. It runs again in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a wait that timed out was not woken"]
pub enum Woken {
    /// Somebody woke it, now or before; or a server ran it without a wake.
    Woken,
    /// Its time was over first.
    TimedOut,
}

/// A member's state, read in one go from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// What it does.
    pub state: State,
    /// How it came there: [`word::PREEMPTED`] and its like.
    pub flags: u64,
    /// When it came there, in CLOCK_MONOTONIC ns.
    pub since_ns: u64,
    /// As in [`Event`].
    pub run_ns: u64,
    /// As in [`Event`].
    pub wait_ns: u64,
    /// The whole word; a later one that is equal means: nothing happened in between.
    pub tag: u64,
}

impl Snapshot {
    /// The word that it was read from.
    pub const fn word(&self) -> Word {
        Word(self.tag)
    }
}

/// A member, as `Group::list` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its name in calls.
    pub id: Id,
    /// Server or worker.
    pub kind: crate::backend::Kind,
    /// What it registered with.
    pub cookie: u64,
    /// Its thread.
    pub tid: i32,
    /// What it does.
    pub state: State,
}

/// What `next_event` calls a RUNNABLE worker whose word has `flags`.
#[cfg_attr(loom, allow(dead_code))]
pub(crate) const fn runnable_reason(flags: u64, first: bool, timed_out: bool) -> Reason {
    if timed_out {
        Reason::TimedOut
    } else if flags & word::PREEMPTED != 0 {
        Reason::Preempted
    } else if flags & word::YIELDED != 0 {
        Reason::Yielded
    } else if first {
        Reason::New
    } else {
        Reason::Woken
    }
}

const _: () = assert!(State::Idle as u32 == intf::umcg_state_UMCG_IDLE);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn id_raw_and_back_is_the_same() {
        let id = Id::new(7, 0x8000_0001);
        assert_eq!(Id::from_raw(id.raw()), id);
        assert_eq!(id.raw(), 0x8000_0001_0000_0007);
        assert!(Id::from_raw(0).is_none());
        assert_eq!(format!("{id}"), "7.2147483649");
    }

    #[test]
    fn reason_number_and_back_is_the_same() {
        let all = (1..=11).map(|number| Reason::from_number(number, Some(7)));
        for (number, reason) in (1..).zip(all) {
            assert_eq!(reason.map(Reason::number), Some(number));
        }
        assert_eq!(Reason::from_number(0, None), None);
        assert_eq!(Reason::from_number(12, None), None);
    }

    #[test]
    fn runnable_reason_prefers_what_the_worker_must_know() {
        let reason = runnable_reason;
        assert_eq!(reason(0, true, false), Reason::New);
        assert_eq!(reason(0, false, false), Reason::Woken);
        assert_eq!(reason(word::PREEMPTED, true, false), Reason::Preempted);
        assert_eq!(reason(word::YIELDED, false, false), Reason::Yielded);
        assert_eq!(reason(word::YIELDED, false, true), Reason::TimedOut);
    }
}
