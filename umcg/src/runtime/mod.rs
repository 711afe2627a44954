//! A runtime over the library: closures as workers on N servers, under any policy of
//! the policy crate.
//!
//! Each task runs on a worker thread of its own, taken from a cache; so blocking code
//! inside a task just works, with thread-locals, debuggers and all. In kernel mode a
//! task that blocks gives its slot to the next one at once. In futex-only mode the
//! calls of [`sync`](self) do the same; a task that blocks in another way keeps its slot.
//!
//! ```
//! let runtime = umcg::runtime::Builder::new().servers(2).build()?;
//! let tasks: Vec<_> = (0..10).map(|n| runtime.spawn(move || n * n)).collect();
//! let sum: u64 = tasks.into_iter().map(|task| task.join().expect("no panic")).sum();
//! assert_eq!(sum, 285);
//! let stats = runtime.shutdown();
//! assert_eq!(stats.completed, 10);
//! # Ok::<(), umcg::Error>(())
//! ```
//!
//! N:1 is one server. N:M shares one ready queue ([`Queue::Shared`]) or has one per
//! server, from which idle servers steal ([`Queue::PerServer`]).

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use crate::clock::{self, FOREVER};
use crate::event::Id;
use crate::group::Group;
use crate::member::Worker;
use crate::queue::ReadyQueue;

mod attrs;
mod builder;
mod serve;
mod stats;
mod sync;
mod wait;

pub use attrs::assign;
pub use builder::{Builder, MakePolicy, Queue};
pub use stats::Stats;
pub use sync::{Closed, Condvar, Mutex, MutexGuard, Receiver, Sender, channel, sleep, yield_now};

use stats::Counters;
use wait::{Locked, Queue as Waiters, block};

type Job = Box<dyn FnOnce() + Send>;

/// Tasks and the threads for them.
#[derive(Default)]
struct Tasks {
    queue: VecDeque<Job>,
    /// Workers that wait for a task.
    idle: Vec<Id>,
    threads: usize,
    /// Tasks on threads.
    busy: usize,
    closed: bool,
    for_space: Waiters,
}

impl Tasks {
    fn under_way(&self) -> usize {
        self.busy + self.queue.len()
    }
}

struct Shared {
    group: Group,
    /// One, or one per server.
    ready: Vec<Locked<ReadyQueue>>,
    /// Servers that found nothing to run.
    sleepers: Locked<Vec<Id>>,
    /// The group's quantum need not end a worker's turn that nobody waits for.
    may_be_alone: bool,
    /// Servers that run such a worker.
    alone: Locked<Vec<Id>>,
    tasks: Locked<Tasks>,
    stats: Counters,
    quantum: Option<Duration>,
    config: Builder,
}

/// Runs tasks until it is dropped or shut down; both wait for all tasks.
pub struct Runtime {
    shared: Arc<Shared>,
    servers: Vec<thread::JoinHandle<()>>,
}

/// Waits for a task's result.
#[derive(Debug)]
pub struct JoinHandle<T> {
    packet: Arc<Packet<T>>,
}

struct Packet<T> {
    state: Locked<(Option<thread::Result<T>>, Waiters)>,
}

impl<T> fmt::Debug for Packet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state.lock().0 {
            Some(_) => "done",
            None => "under way",
        })
    }
}

impl<T> Packet<T> {
    fn fill(&self, result: thread::Result<T>) {
        let mut state = self.state.lock();
        state.0 = Some(result);
        let all = state.1.take();
        drop(state);
        all.iter().for_each(wait::Waiter::wake);
    }
}

impl<T> JoinHandle<T> {
    /// The task's result, waiting for it; a worker gives its slot up meanwhile.
    ///
    /// # Errors
    ///
    /// What the task panicked with.
    pub fn join(self) -> thread::Result<T> {
        loop {
            let mut state = self.packet.state.lock();
            if let Some(result) = state.0.take() {
                return result;
            }
            let me = state.1.push_me();
            drop(state);
            block(FOREVER);
            self.packet.state.lock().1.remove(&me);
        }
    }

    /// Whether [`join`](Self::join) would return at once.
    pub fn is_finished(&self) -> bool {
        self.packet.state.lock().0.is_some()
    }
}

impl Runtime {
    /// A task: `body` runs on a worker, soon. Any thread, also from within tasks.
    ///
    /// With `max_workers` tasks under way a thread that is no task waits here until one
    /// ends; a task's own spawn is queued, it never waits. So a task may join what it
    /// spawned only while there is room for both.
    ///
    /// # Panics
    ///
    /// If the first worker thread cannot be made, as [`std::thread::spawn`] does.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle().spawn(body)
    }

    /// A handle that tasks can spawn with; it does not keep the runtime from ending.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// Its group: mode, members, states.
    pub fn group(&self) -> &Group {
        &self.shared.group
    }

    /// What it has done so far; the numbers are of slightly different moments.
    pub fn stats(&self) -> Stats {
        self.shared.stats.read()
    }

    /// Waits for all tasks, ends all threads, and says what was done.
    pub fn shutdown(mut self) -> Stats {
        self.close();
        self.shared.stats.read()
    }

    fn close(&mut self) {
        let mut tasks = self.shared.tasks.lock();
        tasks.closed = true;
        let idle = std::mem::take(&mut tasks.idle);
        drop(tasks);
        for id in idle {
            let _ = self.shared.group.wake(id);
        }
        self.shared.wake_servers();
        for server in self.servers.drain(..) {
            // A panic of a server is ours to pass on, but not from within a drop.
            if server.join().is_err() && !thread::panicking() {
                panic!("a server of the runtime panicked");
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("group", &self.shared.group)
            .field("stats", &self.stats())
            .finish()
    }
}

/// Spawns into a [`Runtime`] from anywhere.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:?})", self.shared.group)
    }
}

impl Handle {
    /// As [`Runtime::spawn`].
    ///
    /// # Panics
    ///
    /// As that; and when the runtime has ended.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let packet = Arc::new(Packet {
            state: Locked::new((None, Waiters::default())),
        });
        let filled = packet.clone();
        let shared = self.shared.clone();
        self.shared.submit(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(body));
            let counter = match result.is_ok() {
                true => &shared.stats.completed,
                false => &shared.stats.panicked,
            };
            counter.fetch_add(1, Relaxed);
            filled.fill(result);
        }));
        JoinHandle { packet }
    }
}

impl Shared {
    fn submit(self: &Arc<Self>, job: Job) {
        self.stats.spawned.fetch_add(1, Relaxed);
        let a_task = matches!(crate::tls::current(), Some((_, _, false)));
        loop {
            let mut tasks = self.tasks.lock();
            assert!(
                !tasks.closed || tasks.threads > 0,
                "spawn on a runtime that has ended"
            );
            if !a_task && tasks.under_way() >= self.config.max_workers {
                let me = tasks.for_space.push_me();
                drop(tasks);
                block(FOREVER);
                self.tasks.lock().for_space.remove(&me);
                continue;
            }
            tasks.queue.push_back(job);
            if let Some(id) = tasks.idle.pop() {
                drop(tasks);
                let _ = self.group.wake(id);
            } else if tasks.threads < self.config.max_workers {
                tasks.threads += 1;
                let first = tasks.threads == 1;
                drop(tasks);
                self.start_worker(first);
            }
            return;
        }
    }

    fn start_worker(self: &Arc<Self>, first: bool) {
        let shared = self.clone();
        self.stats.threads.fetch_add(1, Relaxed);
        let started = thread::Builder::new()
            .name("umcg-worker".into())
            .stack_size(self.config.stack_size)
            .spawn(move || {
                match shared.group.register_worker(0) {
                    Ok(mut worker) => {
                        attrs::enter(&shared, worker.id());
                        shared.work(&mut worker);
                        attrs::leave();
                    }
                    // max_members has room for all: only a fork gets here.
                    Err(_) => shared.tasks.lock().threads -= 1,
                }
            });
        if let Err(error) = started {
            self.tasks.lock().threads -= 1;
            assert!(!first, "cannot start a worker thread: {error}");
        }
    }

    /// The life of a worker thread.
    fn work(&self, me: &mut Worker) {
        let mut was_busy = false;
        loop {
            let mut tasks = self.tasks.lock();
            if was_busy {
                tasks.busy -= 1;
            }
            let space = tasks.for_space.pop();
            let job = tasks.queue.pop_front();
            was_busy = job.is_some();
            let ends = job.is_none() && (tasks.closed || tasks.idle.len() >= self.config.keep);
            if was_busy {
                tasks.busy += 1;
            } else if ends {
                tasks.threads -= 1;
            } else {
                tasks.idle.push(me.id());
            }
            let last = ends && tasks.closed && tasks.threads == 0;
            drop(tasks);
            if let Some(waiter) = space {
                waiter.wake();
            }
            if let Some(job) = job {
                job();
                attrs::end_task(self, me.id());
                continue;
            }
            if ends {
                if last {
                    self.wake_servers();
                }
                return;
            }
            // A wake may be an old one: then the id must not stay in the list.
            let _ = me.wait(FOREVER);
            let id = me.id();
            self.tasks.lock().idle.retain(|it| *it != id);
        }
    }

    /// Whether no task will come any more.
    fn is_over(&self) -> bool {
        let tasks = self.tasks.lock();
        tasks.closed && tasks.threads == 0
    }

    fn wake_servers(&self) {
        let sleepers = std::mem::take(&mut *self.sleepers.lock());
        for id in sleepers {
            let _ = self.group.wake(id);
        }
    }
}

/// The time at which a worker that starts now has used its quantum up.
fn quantum_end(quantum: Option<Duration>) -> u64 {
    quantum.map_or(FOREVER, clock::after)
}
