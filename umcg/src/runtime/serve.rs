//! A server of the runtime: takes news, asks the policy, runs a worker, again.
//!
//! No worker is left in a queue while a server sleeps: a server that goes to sleep puts
//! itself in `sleepers`, then looks at all queues; who enqueues more than it runs
//! itself looks at `sleepers` afterwards. Both are locks, so one sees the other.
//!
//! The same for a server that runs a worker whom nobody waits behind, whose quanta then end
//! nothing: it says so to the kernel, puts itself in `alone`, then looks at all queues.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Shared, quantum_end};
use crate::clock::FOREVER;
use crate::error::ErrorKind;
use crate::event::{Event, Id, Reason};
use crate::member::Server;

/// The life of server `number`.
pub(super) fn serve(shared: &Shared, number: usize) {
    let mut server = match shared.group.register_server() {
        Ok(server) => server,
        // max_members has room for all.
        Err(error) => panic!("cannot register a server: {error}"),
    };
    let mine = number % shared.ready.len();
    loop {
        while let Ok(event) = server.next_event(0) {
            shared.take_news(mine, &event);
        }
        if let Some((worker, slice)) = shared.pick(mine) {
            let alone = shared.call_another();
            shared.run(mine, &mut server, worker, slice, alone);
        } else if shared.is_over() {
            shared.wake_servers();
            return;
        } else {
            shared.sleep(mine, &mut server);
        }
    }
}

impl Shared {
    /// Tells queue `mine`.
    fn take_news(&self, mine: usize, event: &Event) {
        self.count(event);
        let told = self.ready[mine].lock().told(event);
        debug_assert!(told.is_ok(), "{event:?} is of this group");
    }

    /// What a worker left its slot for, if it is not RUNNABLE: told by run, or, of a run that
    /// timed out, by next_event.
    fn count(&self, event: &Event) {
        let counter = match event.reason {
            Reason::Blocked { .. } | Reason::Fault | Reason::Stopped => &self.stats.blocked,
            Reason::Waits => &self.stats.waits,
            _ => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The next worker of queue `mine`, or of another one if that is empty; and its slice.
    fn pick(&self, mine: usize) -> Option<(Id, Option<Duration>)> {
        if let Some(choice) = self.ready[mine].lock().pick() {
            return Some(choice);
        }
        let mut others = (1..self.ready.len()).map(|step| (mine + step) % self.ready.len());
        let stolen = others.find_map(|at| self.ready[at].lock().pick())?;
        self.stats.stolen.fetch_add(1, Relaxed);
        Some(stolen)
    }

    fn nobody_waits(&self) -> bool {
        self.ready.iter().all(|queue| queue.lock().is_empty())
    }

    /// Has a sleeping server look at the queues, if there is more than I take; or one that runs
    /// a worker alone, at the end of its quantum. True: there is nobody.
    fn call_another(&self) -> bool {
        if self.nobody_waits() {
            return true;
        }
        let sleeper = self.sleepers.lock().pop();
        if let Some(id) = sleeper {
            let _ = self.group.wake(id);
            return false;
        }
        let alone = self.alone.lock().pop();
        if let Some(id) = alone {
            self.group.inner.show_alone(id, false);
        }
        // pairs with sleep() and begin_alone()
        false
    }

    /// Whether still nobody waits behind the worker that is run next.
    fn begin_alone(&self, me: Id) -> bool {
        self.group.inner.show_alone(me, true);
        self.alone.lock().push(me);
        // pairs with call_another()
        if !self.nobody_waits() {
            self.end_alone(me);
            return false;
        }
        true
    }

    fn end_alone(&self, me: Id) {
        self.alone.lock().retain(|it| *it != me);
        self.group.inner.show_alone(me, false);
    }

    fn run(
        &self,
        mine: usize,
        server: &mut Server,
        worker: Id,
        slice: Option<Duration>,
        alone: bool,
    ) {
        self.stats.runs.fetch_add(1, Relaxed);
        let quantum = slice.or(self.quantum);
        let alone = self.may_be_alone && alone && self.begin_alone(server.id());
        let ran = server.run_listed(worker, quantum_end(quantum));
        if alone {
            self.end_alone(server.id());
        }
        match ran {
            Ok(event) => {
                match event.reason {
                    Reason::Yielded => self.stats.yields.fetch_add(1, Relaxed),
                    Reason::Preempted => self.stats.preempted.fetch_add(1, Relaxed),
                    _ => 0,
                };
                self.count(&event);
                let told = self.ready[mine].lock().ran(&event);
                debug_assert!(told.is_ok(), "{event:?} is of this group");
            }
            Err(error) => self.not_run(mine, server, worker, error.kind()),
        }
    }

    fn not_run(&self, mine: usize, server: &mut Server, worker: Id, kind: ErrorKind) {
        match kind {
            // It still has the slot: its event comes by next_event.
            ErrorKind::TimedOut => {
                self.stats.timeouts.fetch_add(1, Relaxed);
            }
            // The slot is taken by such a one: wait for it, the other one waits on.
            ErrorKind::Again | ErrorKind::NotHere => {
                if let Ok(state) = self.group.state(worker) {
                    let put = self.ready[mine].lock().put_back(worker, &state);
                    debug_assert!(put.is_ok(), "{worker} is of this group");
                }
                if let Ok(event) = server.next_event(quantum_end(Some(Duration::from_millis(1)))) {
                    self.take_news(mine, &event);
                }
            }
            // Another server was quicker, or it is gone.
            _ => {}
        }
    }

    fn sleep(&self, mine: usize, server: &mut Server) {
        let id = server.id();
        self.sleepers.lock().push(id);
        // pairs with call_another() and wake_servers()
        if self.nobody_waits() && !self.is_over() {
            // An error is a wake of this server itself: look again.
            if let Ok(event) = server.next_event(FOREVER) {
                self.take_news(mine, &event);
            }
        }
        self.sleepers.lock().retain(|it| *it != id);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::{Duration, Instant};

    use crate::event::{Event, Id, Reason};
    use crate::mode::GroupConfig;
    use crate::runtime::{Builder, Runtime};

    fn runtime(policy: &str) -> Runtime {
        let group = GroupConfig {
            quantum: Duration::from_millis(1),
            futex_only: true,
            ..GroupConfig::default()
        };
        Builder::new().policy(policy).group(group).build().unwrap()
    }

    #[test]
    fn who_comes_ends_being_alone() {
        let runtime = runtime("fifo");
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let task = runtime.spawn(move || {
            while !seen.load(SeqCst) {
                std::hint::spin_loop();
            }
        });
        let limit = Instant::now() + Duration::from_secs(60);
        while runtime.shared.alone.lock().is_empty() {
            assert!(Instant::now() < limit, "its server is not alone with it");
            std::thread::yield_now();
        }
        assert!(runtime.shared.call_another(), "nobody waits");
        assert_eq!(runtime.shared.alone.lock().len(), 1);
        let told = Event {
            worker: Id::new(100, 1),
            cookie: 0,
            reason: Reason::Woken,
            source: None,
            tag: 0,
            at_ns: 1,
            run_ns: 0,
            wait_ns: 0,
        };
        runtime.shared.take_news(0, &told);
        assert!(!runtime.shared.call_another(), "one waits");
        assert!(runtime.shared.alone.lock().is_empty());
        over.store(true, SeqCst);
        task.join().unwrap();
    }

    #[test]
    fn accounts_by_turns_want_all_quanta() {
        assert!(runtime("fifo").shared.may_be_alone);
        for policy in ["fair", "quota"] {
            assert!(!runtime(policy).shared.may_be_alone, "{policy}");
        }
    }
}
