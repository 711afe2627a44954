//! Which faults come when: a pure function of the seed, so that a run can be had again.
//!
//! Kinds are dealt from a deck that is shuffled anew when it is empty. So each kind comes in each
//! few minutes, about as often as it should, whatever the seed.

use std::fmt;
use std::time::Duration;

use crate::noise::Noise;

/// What is done to the scheduler, its clients or the machine. `client` and `cpu` are any number:
/// who applies it takes the one at that place of those there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A CPU goes, and comes back.
    Offline { cpu: u64, ms: u64 },
    /// A client is killed; another one takes its place.
    Kill { client: u64 },
    /// A client is stopped, and goes on.
    Stop { client: u64, ms: u64 },
    /// So is the agent.
    StopAgent { ms: u64 },
    /// The agent is ended by SIGTERM, and started anew.
    EndAgent,
    /// The agent is killed, and started anew.
    KillAgent,
    /// A configuration that can be taken over, with SIGHUP.
    Reload { file: u64 },
    /// One that cannot.
    SpoiltReload { file: u64 },
    /// A load of the hostile set.
    Unkind { load: u64, ms: u64 },
    /// A client that calls, forges and scribbles.
    Hostile { ms: u64 },
    /// Nonsense on the daemon's socket.
    Garbage { seed: u64, ms: u64 },
    /// Groups that come and go, with their members.
    Groups { rounds: u64 },
    /// Affinity, nice value, policy or cgroup of a client's threads, all the time.
    Change { client: u64, what: Change, ms: u64 },
    /// A client's cgroup is frozen, and thawed.
    Freeze { client: u64, ms: u64 },
    /// It has a limit of CPU time for a while.
    Limit { client: u64, pct: u64, ms: u64 },
    /// A real-time thread owns a CPU.
    RealTime { cpu: u64, ms: u64 },
    /// Readers of statistics that ask and do not read.
    Stall { ms: u64 },
    /// Threads that compute.
    Hogs { count: u64, ms: u64 },
    /// The loads do little: a wake that is lost is not found by the next one.
    Hush { ms: u64 },
}

/// What of a thread is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Affinity,
    Nice,
    Policy,
    Cgroup,
}

const CHANGES: [Change; 4] = [
    Change::Affinity,
    Change::Nice,
    Change::Policy,
    Change::Cgroup,
];

/// Names of the kinds, as figures are told by, and how many of each are in the deck. An agent that
/// is started anew is ten seconds of an emulated machine: seldom.
pub const KINDS: [(&str, usize); 19] = [
    ("offline", 6),
    ("kill", 5),
    ("stop", 5),
    ("stop_agent", 3),
    ("end_agent", 1),
    ("kill_agent", 1),
    ("reload", 4),
    ("spoilt_reload", 2),
    ("unkind", 6),
    ("hostile", 2),
    ("garbage", 2),
    ("groups", 4),
    ("change", 7),
    ("freeze", 4),
    ("limit", 3),
    ("real_time", 4),
    ("stall", 2),
    ("hogs", 4),
    ("hush", 7),
];

impl Fault {
    /// Its place in [`KINDS`].
    pub fn kind(&self) -> usize {
        match self {
            Self::Offline { .. } => 0,
            Self::Kill { .. } => 1,
            Self::Stop { .. } => 2,
            Self::StopAgent { .. } => 3,
            Self::EndAgent => 4,
            Self::KillAgent => 5,
            Self::Reload { .. } => 6,
            Self::SpoiltReload { .. } => 7,
            Self::Unkind { .. } => 8,
            Self::Hostile { .. } => 9,
            Self::Garbage { .. } => 10,
            Self::Groups { .. } => 11,
            Self::Change { .. } => 12,
            Self::Freeze { .. } => 13,
            Self::Limit { .. } => 14,
            Self::RealTime { .. } => 15,
            Self::Stall { .. } => 16,
            Self::Hogs { .. } => 17,
            Self::Hush { .. } => 18,
        }
    }

    fn of(kind: usize, noise: &mut Noise) -> Self {
        let mut ms = |from: u64, to: u64| from + noise.below(to - from);
        match kind {
            0 => Self::Offline {
                ms: ms(50, 1500),
                cpu: noise.below(64),
            },
            1 => Self::Kill {
                client: noise.below(64),
            },
            2 => Self::Stop {
                ms: ms(50, 2500),
                client: noise.below(64),
            },
            3 => Self::StopAgent { ms: ms(100, 4000) },
            4 => Self::EndAgent,
            5 => Self::KillAgent,
            6 => Self::Reload {
                file: noise.below(64),
            },
            7 => Self::SpoiltReload {
                file: noise.below(64),
            },
            8 => Self::Unkind {
                ms: ms(500, 2500),
                load: noise.below(64),
            },
            9 => Self::Hostile { ms: ms(500, 2500) },
            10 => Self::Garbage {
                ms: ms(500, 2500),
                seed: noise.below(1 << 32),
            },
            11 => Self::Groups {
                rounds: 2 + noise.below(10),
            },
            12 => Self::Change {
                ms: ms(500, 2500),
                client: noise.below(64),
                what: CHANGES[noise.below(4) as usize],
            },
            13 => Self::Freeze {
                ms: ms(50, 1500),
                client: noise.below(64),
            },
            14 => Self::Limit {
                ms: ms(500, 3000),
                client: noise.below(64),
                pct: 2 + noise.below(30),
            },
            15 => Self::RealTime {
                ms: ms(100, 950),
                cpu: noise.below(64),
            },
            16 => Self::Stall { ms: ms(200, 2000) },
            17 => Self::Hogs {
                ms: ms(500, 4000),
                count: 1 + noise.below(6),
            },
            _ => Self::Hush { ms: ms(1500, 5000) },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS[self.kind()].0;
        match self {
            Self::EndAgent | Self::KillAgent => write!(f, "{name}"),
            Self::Kill { client } => write!(f, "{name} client={client}"),
            Self::Offline { cpu, ms } | Self::RealTime { cpu, ms } => {
                write!(f, "{name} cpu={cpu} ms={ms}")
            }
            Self::Stop { client, ms } | Self::Freeze { client, ms } => {
                write!(f, "{name} client={client} ms={ms}")
            }
            Self::StopAgent { ms }
            | Self::Hostile { ms }
            | Self::Stall { ms }
            | Self::Hush { ms } => {
                write!(f, "{name} ms={ms}")
            }
            Self::Reload { file } | Self::SpoiltReload { file } => write!(f, "{name} file={file}"),
            Self::Unkind { load, ms } => write!(f, "{name} load={load} ms={ms}"),
            Self::Garbage { seed, ms } => write!(f, "{name} seed={seed} ms={ms}"),
            Self::Groups { rounds } => write!(f, "{name} rounds={rounds}"),
            Self::Change { client, what, ms } => {
                write!(f, "{name} client={client} what={what:?} ms={ms}")
            }
            Self::Limit { client, pct, ms } => {
                write!(f, "{name} client={client} pct={pct} ms={ms}")
            }
            Self::Hogs { count, ms } => write!(f, "{name} count={count} ms={ms}"),
        }
    }
}

/// One fault, and how long after the one before it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub after: Duration,
    pub fault: Fault,
}

/// Faults without an end.
pub struct Plan {
    noise: Noise,
    deck: Vec<usize>,
}

impl Plan {
    /// That of `seed`; any number.
    pub fn new(seed: u64) -> Self {
        Self {
            noise: Noise(mix(seed)),
            deck: Vec::new(),
        }
    }

    /// Those that come within `time`.
    pub fn until(self, time: Duration) -> impl Iterator<Item = Step> {
        let mut left = time;
        self.map_while(move |step| {
            left = left.checked_sub(step.after)?;
            Some(step)
        })
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let cards = |(kind, &(_, count)): (usize, &(&str, usize))| vec![kind; count];
        let mut deck: Vec<_> = KINDS.iter().enumerate().flat_map(cards).collect();
        for left in (1..deck.len()).rev() {
            deck.swap(left, self.noise.below(left as u64 + 1) as usize);
        }
        deck
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.deck.is_empty() {
            self.deck = self.shuffled();
        }
        let kind = self.deck.pop()?;
        Some(Step {
            after: Duration::from_millis(500 + self.noise.below(2500)),
            fault: Fault::of(kind, &mut self.noise),
        })
    }
}

/// Splitmix: seeds that are near each other have nothing in common, and none is 0.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seed: u64) -> Vec<Step> {
        Plan::new(seed).take(200).collect()
    }

    #[test]
    fn plan_same_seed_same_faults() {
        for seed in [0, 1, 7, u64::MAX] {
            assert_eq!(steps(seed), steps(seed));
        }
        assert_ne!(steps(1), steps(2));
        assert_ne!(steps(0), steps(u64::MAX));
    }

    #[test]
    fn plan_a_shorter_run_is_the_start_of_a_longer_one() {
        let few: Vec<_> = Plan::new(3).take(20).collect();
        assert_eq!(few[..], steps(3)[..20]);
    }

    #[test]
    fn plan_until_ends_in_time() {
        let steps: Vec<_> = Plan::new(5).until(Duration::from_secs(60)).collect();
        let sum: Duration = steps.iter().map(|step| step.after).sum();
        assert!((57.0..=60.0).contains(&sum.as_secs_f64()), "{sum:?}");
        assert_eq!(steps, Plan::new(5).take(steps.len()).collect::<Vec<_>>());
    }

    #[test]
    fn plan_deals_each_kind_as_often_as_the_deck_has_it() {
        let deck: usize = KINDS.iter().map(|(_, count)| count).sum();
        let mut counts = [0; KINDS.len()];
        for step in Plan::new(9).take(2 * deck) {
            counts[step.fault.kind()] += 1;
            assert!((500..3000).contains(&step.after.as_millis()), "{step:?}");
        }
        for (count, (name, want)) in counts.iter().zip(KINDS) {
            assert_eq!(*count, 2 * want, "{name}");
        }
    }

    #[test]
    fn fault_is_of_the_kind_that_it_was_made_of_and_tells_it() {
        let mut noise = Noise(mix(4));
        for (kind, (name, _)) in KINDS.iter().enumerate() {
            let fault = Fault::of(kind, &mut noise);
            assert_eq!(fault.kind(), kind);
            assert!(fault.to_string().starts_with(name), "{fault}");
        }
    }

    #[test]
    fn fault_real_time_ends_within_a_second() {
        for step in Plan::new(11).take(2000) {
            if let Fault::RealTime { ms, .. } = step.fault {
                assert!(ms < 1000);
            }
        }
    }
}
