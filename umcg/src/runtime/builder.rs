//! What a runtime is made of.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::stats::Counters;
use super::wait::Locked;
use super::{Runtime, Shared, Tasks, serve};
use crate::error::{Error, ErrorKind, Result};
use crate::group::Group;
use crate::mode::{GroupConfig, MAX_MEMBERS, MAX_SERVERS};
use crate::queue::ReadyQueue;

/// Where RUNNABLE workers wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Queue {
    /// In one queue for all servers: the policy's order holds for the whole runtime.
    #[default]
    Shared,
    /// In their server's; an idle server takes from the others'.
    PerServer,
}

/// Makes a policy for ids below the number.
pub type MakePolicy = fn(u32) -> Box<dyn umcg_policy::Policy>;

/// What a runtime is made of.
#[derive(Clone, Debug)]
#[must_use = "a builder makes nothing until build() is called"]
pub struct Builder {
    servers: usize,
    pub(super) max_workers: usize,
    make: Option<MakePolicy>,
    queue: Queue,
    quantum: Option<Duration>,
    pub(super) stack_size: usize,
    pub(super) keep: usize,
    group: GroupConfig,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            servers: 1,
            max_workers: 512,
            make: None,
            queue: Queue::default(),
            quantum: None,
            stack_size: 256 * 1024,
            keep: usize::MAX,
            group: GroupConfig::default(),
        }
    }
}

impl Builder {
    /// One server, 512 workers, `fifo`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Threads that run tasks at the same time, 1..=[`MAX_SERVERS`].
    pub fn servers(mut self, servers: usize) -> Self {
        self.servers = servers;
        self
    }

    /// Tasks that are under way at the same time, each on a thread of its own; with the
    /// servers at most [`MAX_MEMBERS`]. A thread that is no task waits in [`Runtime::spawn`] while there are so many.
    pub fn max_workers(mut self, max_workers: usize) -> Self {
        self.max_workers = max_workers;
        self
    }

    /// The policy's name, one of [`umcg_policy::NAMES`], with options or without, as
    /// [`PolicyConfig::parse`](umcg_policy::PolicyConfig::parse) reads them; it decides staged.
    /// The group's [`policy`](GroupConfig::policy), `fifo` unless set.
    pub fn policy(mut self, policy: &str) -> Self {
        self.group.policy = policy.into();
        self
    }

    /// A policy of one's own instead: `make` is called once per queue, with the number
    /// of ids. It has to be staged. The group has none then.
    pub fn policy_with(mut self, make: MakePolicy) -> Self {
        self.make = Some(make);
        self
    }

    /// Where RUNNABLE workers wait.
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// How long a task may run while others wait; for ever unless set. A policy that gives
    /// slices of its own (`rr`) has its way.
    pub fn quantum(mut self, quantum: Duration) -> Self {
        self.quantum = Some(quantum);
        self
    }

    /// Stack of a worker thread, in bytes.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Threads without a task that are kept for later ones; all unless set.
    pub fn keep(mut self, threads: usize) -> Self {
        self.keep = threads;
        self
    }

    /// The group to make: name, preemption, share. Its `max_members` is set by the
    /// runtime, its policy stays what [`policy`](Self::policy) says if it names none.
    pub fn group(mut self, config: GroupConfig) -> Self {
        let policy = std::mem::take(&mut self.group.policy);
        self.group = config;
        if self.group.policy.is_empty() {
            self.group.policy = policy;
        }
        self
    }

    /// Makes the runtime and starts its servers.
    ///
    /// # Errors
    ///
    /// `Policy`: no such policy, which [`umcg_policy::create`] tells more about. `Invalid`: a number
    /// out of bounds. `Full`: no memory, file or thread for it.
    pub fn build(self) -> Result<Runtime> {
        let invalid = |value: usize| Error::new(ErrorKind::Invalid, "runtime", value as u64);
        if self.servers == 0 || self.servers > MAX_SERVERS as usize {
            return Err(invalid(self.servers));
        }
        let members = self.max_workers.saturating_add(self.servers);
        if self.max_workers == 0 || members > MAX_MEMBERS as usize {
            return Err(invalid(self.max_workers));
        }
        let max_members = members as u32;
        let group = Group::create(&GroupConfig {
            max_members,
            policy: match (self.make, self.group.policy.as_str()) {
                (Some(_), _) => String::new(),
                (None, "") => "fifo".into(),
                (None, policy) => policy.into(),
            },
            ..self.group.clone()
        })?;
        let (queues, sharing) = match self.queue {
            Queue::Shared => (1, self.servers),
            Queue::PerServer => (self.servers, 1),
        };
        let ready = (0..queues)
            .map(|_| {
                Ok(Locked::new(match self.make {
                    Some(make) => ReadyQueue::with_policy(make(max_members + 1), max_members)?,
                    None => ReadyQueue::new(&group, sharing as u32)?,
                }))
            })
            .collect::<Result<Vec<_>>>()?;
        let may_be_alone =
            !self.group.quantum.is_zero() && ready.iter().all(|queue| queue.lock().lets_alone());
        let shared = Arc::new(Shared {
            group,
            ready,
            sleepers: Locked::new(Vec::with_capacity(self.servers)),
            may_be_alone,
            alone: Locked::new(Vec::with_capacity(self.servers)),
            tasks: Locked::new(Tasks::default()),
            stats: Counters::default(),
            quantum: self.quantum,
            config: self,
        });
        let mut runtime = Runtime {
            shared: shared.clone(),
            servers: Vec::new(),
        };
        for number in 0..shared.config.servers {
            let shared = shared.clone();
            let thread = thread::Builder::new()
                .name(format!("umcg-server-{number}"))
                .spawn(move || serve::serve(&shared, number))
                .map_err(|_| Error::new(ErrorKind::Full, "runtime", number as u64))?;
            runtime.servers.push(thread);
        }
        Ok(runtime)
    }
}
