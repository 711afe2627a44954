//! A server of the runtime: takes news, asks the policy, runs a worker, again.
//!
//! No worker is left in a queue while a server sleeps: a server that goes to sleep puts
//! itself in `sleepers`, then looks at all queues; who enqueues more than it runs
//! itself looks at `sleepers` afterwards. Both are locks, so one sees the other.

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
            shared.call_sleeper();
            shared.run(mine, &mut server, worker, slice);
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

    /// Has a sleeping server look at the queues, if there is more than I take.
    fn call_sleeper(&self) {
        if self.ready.iter().all(|queue| queue.lock().is_empty()) {
            return;
        }
        let sleeper = self.sleepers.lock().pop();
        if let Some(id) = sleeper {
            let _ = self.group.wake(id);
        }
        // pairs with sleep()
    }

    fn run(&self, mine: usize, server: &mut Server, worker: Id, slice: Option<Duration>) {
        self.stats.runs.fetch_add(1, Relaxed);
        let quantum = slice.or(self.quantum);
        match server.run_listed(worker, quantum_end(quantum)) {
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
        // pairs with call_sleeper() and wake_servers()
        let nothing = self.ready.iter().all(|queue| queue.lock().is_empty());
        if nothing && !self.is_over() {
            // An error is a wake of this server itself: look again.
            if let Ok(event) = server.next_event(FOREVER) {
                self.take_news(mine, &event);
            }
        }
        self.sleepers.lock().retain(|it| *it != id);
    }
}
