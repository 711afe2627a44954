//! How a group is served, and what it was created for.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::intf;

/// How a group is served at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By the daemon's BPF programs: a worker that blocks gives its slot back.
    Kernel {
        /// The daemon schedules all normal tasks, not only members of groups.
        full: bool,
    },
    /// By futexes alone: all voluntary calls work, a blocked worker keeps its slot.
    FutexOnly(Why),
}

/// Why a group is served by futexes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// Its creator asked for it.
    Asked,
    /// No daemon listens.
    NoDaemon,
    /// The daemon that served it is gone.
    DaemonGone,
    /// The daemon refused the group: quota, version, or another user's.
    Refused,
    /// This process may neither use bpf(2) nor reach the daemon.
    Denied,
}

impl Why {
    /// By its place in the list above.
    #[cfg_attr(loom, allow(dead_code))]
    pub(crate) const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Asked,
            1 => Self::NoDaemon,
            2 => Self::DaemonGone,
            3 => Self::Refused,
            _ => Self::Denied,
        }
    }
}

impl Mode {
    /// Whether a worker that blocks in the kernel gives its slot back.
    pub const fn detects_blocking(self) -> bool {
        matches!(self, Self::Kernel { .. })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { full: true } => f.write_str("kernel, full"),
            Self::Kernel { full: false } => f.write_str("kernel, partial"),
            Self::FutexOnly(why) => write!(f, "futex only: {why}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked for",
            Self::NoDaemon => "no daemon",
            Self::DaemonGone => "the daemon is gone",
            Self::Refused => "refused by the daemon",
            Self::Denied => "bpf and the daemon's socket are denied",
        })
    }
}

/// How the servers of a group that wait for events are kept, and so which of them gets a
/// woken worker whose home server does not wait. Each is taken by one waker at a time.
///
/// What a wake costs with each stands in `docs/idle-servers.md`. In futex-only mode, where
/// a thread may be killed between any two steps, all three are choices over one mask.
#[doc(alias = "umcg_idle_kind")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Idle {
    /// The one that waits for the shortest time: Oskolkov's stack of July 2021.
    #[default]
    Stack,
    /// The next one from its home in a fixed circle: Zijlstra's of July 2021. If none
    /// waits, in kernel mode the first one that runs its own code hears of it.
    Ring,
    /// The one with the lowest number.
    Mask,
}

impl Idle {
    /// As in `enum umcg_idle_kind`.
    #[doc(alias = "umcg_idle_kind")]
    pub const fn number(self) -> u32 {
        match self {
            Self::Stack => intf::umcg_idle_kind_UMCG_IDLE_STACK,
            Self::Ring => intf::umcg_idle_kind_UMCG_IDLE_RING,
            Self::Mask => intf::umcg_idle_kind_UMCG_IDLE_MASK,
        }
    }

    /// What [`number`](Self::number) says.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            intf::umcg_idle_kind_UMCG_IDLE_STACK => Some(Self::Stack),
            intf::umcg_idle_kind_UMCG_IDLE_RING => Some(Self::Ring),
            intf::umcg_idle_kind_UMCG_IDLE_MASK => Some(Self::Mask),
            _ => None,
        }
    }
}

/// How a running worker is forced off where the kernel does not do it.
///
/// In kernel mode a kick and the end of `Server::run`'s time need no help and this is
/// not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preempt {
    /// It gives way at its next call of the library.
    #[default]
    Call,
    /// This signal is sent to it; the library sets the handler when a worker registers.
    Signal(i32),
}

/// What a group is created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// A name for people, at most 31 bytes.
    pub name: String,
    /// In which order its servers run RUNNABLE workers: a policy's name, with options or without,
    /// as [`PolicyConfig::parse`](crate::policy::PolicyConfig::parse) reads them; at most
    /// [`POLICY_BYTES`]. Empty: in the order of the application's own code.
    ///
    /// The group keeps it for all of its processes, and `scx_umcg status` shows its name; a
    /// [`ReadyQueue`](crate::ReadyQueue) is the order itself, the same in every mode.
    pub policy: String,
    /// Who gets a woken worker whose home server is busy.
    pub idle: Idle,
    /// How a worker is forced off without the kernel's help.
    pub preempt: Preempt,
    /// How long a worker may use its slot in one go, in CPU time: then it is forced off, and
    /// told as [`Preempted`](crate::Reason::Preempted). [`QUANTUM_MIN`]..=[`QUANTUM_MAX`], to the
    /// microsecond; zero: for as long as its server lets it. The kernel's tick does not matter.
    /// While nobody waits in its queues the [runtime](crate::runtime) lets it go on.
    ///
    /// In kernel mode only: in futex-only mode there is none, and
    /// [`Group::quantum`](crate::Group::quantum) says so.
    pub quantum: Duration,
    /// The weight of each of its servers, 1..=10000 percent of that of a thread with the
    /// same nice value; in kernel mode only. The daemon refuses one above 100 to all but
    /// root: a user could take the machine.
    pub share: u32,
    /// Servers and workers together, 1..=[`MAX_MEMBERS`], [`MAX_SERVERS`] of them servers.
    pub max_members: u32,
    /// Never ask for the daemon.
    pub futex_only: bool,
}

/// Bytes of a [`GroupConfig::policy`] at most.
pub const POLICY_BYTES: usize = 127;

/// Servers of a group at most, in every mode: who registers one more is told `Full`.
#[doc(alias = "UMCG_MAX_SERVERS")]
pub const MAX_SERVERS: u32 = intf::umcg_group_limits_UMCG_GROUP_SERVERS;
/// The most that [`GroupConfig::max_members`] may be.
#[doc(alias = "UMCG_MAX_MEMBERS")]
pub const MAX_MEMBERS: u32 = intf::umcg_group_limits_UMCG_GROUP_WORKERS;

/// The shortest [`GroupConfig::quantum`]: a tenth of it goes into the switches.
#[doc(alias = "UMCG_QUANTUM_MIN_NS")]
pub const QUANTUM_MIN: Duration =
    Duration::from_micros(intf::umcg_quantum_UMCG_QUANTUM_MIN_US as u64);
/// The longest [`GroupConfig::quantum`].
#[doc(alias = "UMCG_QUANTUM_MAX_NS")]
pub const QUANTUM_MAX: Duration =
    Duration::from_micros(intf::umcg_quantum_UMCG_QUANTUM_MAX_US as u64);

#[cfg_attr(loom, allow(dead_code))]
impl GroupConfig {
    /// The quantum in microseconds, 0 = none; an error if it is out of bounds.
    pub(crate) fn quantum_us(&self) -> Result<u32> {
        let in_bounds = (QUANTUM_MIN..=QUANTUM_MAX).contains(&self.quantum);
        if !self.quantum.is_zero() && !in_bounds {
            let ns = u64::try_from(self.quantum.as_nanos()).unwrap_or(u64::MAX);
            return Err(Error::new(ErrorKind::Quantum, "group_create", ns));
        }
        Ok(self.quantum.as_micros() as u32)
    }
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            policy: String::new(),
            idle: Idle::default(),
            preempt: Preempt::default(),
            quantum: Duration::ZERO,
            share: 100,
            max_members: 1024,
            futex_only: false,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn quantum_out_of_bounds_is_named_with_them() {
        let us = |quantum| {
            let config = GroupConfig {
                quantum,
                ..GroupConfig::default()
            };
            config.quantum_us()
        };
        assert_eq!(us(Duration::ZERO), Ok(0));
        assert_eq!(us(QUANTUM_MIN), Ok(100));
        assert_eq!(us(Duration::from_nanos(500_999)), Ok(500));
        assert_eq!(us(QUANTUM_MAX), Ok(1_000_000));
        for ns in [1, 99_999, 1_000_000_001] {
            let error = us(Duration::from_nanos(ns)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Quantum);
            assert_eq!(
                error.to_string(),
                format!(
                    "group_create: quantum {ns} ns; not within 100000..=1000000000 ns; \
                     take one of these, or 0 for none"
                )
            );
        }
    }

    #[test]
    fn mode_display_says_why() {
        assert_eq!(Mode::Kernel { full: true }.to_string(), "kernel, full");
        let mode = Mode::FutexOnly(Why::NoDaemon);
        assert_eq!(mode.to_string(), "futex only: no daemon");
        assert!(!mode.detects_blocking());
    }
}
