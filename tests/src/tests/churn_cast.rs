//! Who is forced off by what in the churn of preemptions, see `preempt_churn`.

use std::time::Duration;

use umcg::{KEY_NONE, Source};

/// What a worker does until all is over.
#[derive(Clone, Copy)]
pub(super) enum Acts {
    Computes,
    /// Computes, and is signalled by a timer of its own CPU time.
    Signalled(i32),
    /// Computes for 1 ms at a time and yields.
    Rests,
    /// The same, and waits for 2 ms.
    Naps,
    Waits,
}

/// One of the cast.
pub(super) struct Part {
    pub name: &'static str,
    /// Of two.
    pub group: usize,
    pub acts: Acts,
    pub key: u64,
    /// What alone may force it off.
    pub source: Option<Source>,
    /// Of so many that are wanted it is forced off one time at least.
    pub one_of: u64,
}

const fn part(name: &'static str, group: usize, acts: Acts, source: Option<Source>) -> Part {
    Part {
        name,
        group,
        acts,
        key: KEY_NONE,
        source,
        one_of: 1,
    }
}

pub(super) struct Cast {
    pub metric: &'static str,
    pub parts: &'static [Part],
    /// The group of each server.
    pub servers: &'static [usize],
    /// Of the second group.
    pub quantum_us: Option<u64>,
    /// How long the first one may run: a wake just before its run forces nobody off.
    pub limit: Option<Duration>,
}

/// Who is forced off by what the prompter does: a kick, or a wake of the one beside it.
pub(super) const VICTIM: usize = 0;
pub(super) const WAITER: usize = 1;

pub(super) const ASKED: usize = 0;
pub(super) const WOKEN: usize = 1;

pub(super) const CASTS: [Cast; 2] = [
    Cast {
        metric: "group_preemption_churn",
        parts: &[
            part("kicked", 0, Acts::Computes, Some(Source::Kick)),
            part(
                "signalled",
                0,
                Acts::Signalled(libc::SIGALRM),
                Some(Source::Signal),
            ),
            part("spared", 0, Acts::Rests, None),
            Part {
                one_of: 2,
                ..part("timed", 1, Acts::Computes, Some(Source::Quantum))
            },
            Part {
                one_of: 2,
                ..part("timed_too", 1, Acts::Computes, Some(Source::Quantum))
            },
        ],
        servers: &[0, 0, 1],
        quantum_us: Some(500),
        limit: None,
    },
    Cast {
        metric: "group_wake_churn",
        parts: &[
            Part {
                key: 9,
                ..part("behind", 0, Acts::Computes, Some(Source::Wake))
            },
            Part {
                key: 1,
                ..part("woken", 0, Acts::Waits, None)
            },
            Part {
                key: 1,
                ..part("equal", 0, Acts::Naps, None)
            },
            Part {
                one_of: 10,
                ..part(
                    "sigprof",
                    1,
                    Acts::Signalled(libc::SIGPROF),
                    Some(Source::Signal),
                )
            },
            Part {
                one_of: 10,
                ..part(
                    "sigvtalrm",
                    1,
                    Acts::Signalled(libc::SIGVTALRM),
                    Some(Source::Signal),
                )
            },
            part("spared", 1, Acts::Rests, None),
        ],
        servers: &[0, 1, 1],
        quantum_us: None,
        limit: Some(Duration::from_millis(50)),
    },
];

pub(super) const MOST: usize = 6;

impl Cast {
    /// How often `part` has to be forced off.
    pub fn least(part: &Part, wanted: u64) -> u64 {
        part.source.map_or(0, |_| wanted / part.one_of)
    }

    /// The workers of `group`.
    pub fn exits(&self, group: usize) -> u64 {
        let of = self.parts.iter().filter(|part| part.group == group);
        of.count() as u64
    }
}
