//! Requests that arrive whether or not somebody is ready for them, at half of what the CPUs can
//! do; latency counts from when one was due (see [`crate::arrivals`]).
//!
//! Beside plain threads stand workers in order of arrival, and workers with a quantum, whose
//! long requests do not hold up the short ones behind them.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use umcg::runtime::{Builder, channel};
use umcg::{GroupConfig, Preempt};

use super::Planned;
use crate::arrivals::{MEAN_NS, Request, Service, schedule};
use crate::context::Context;
use crate::hist::{self, Latencies};
use crate::pace::Budget;
use crate::plan::{Figures, Plan, Under};
use crate::{sys, work};

/// Of the CPUs' time, by the work of requests alone.
const LOAD: f64 = 0.5;
const THREADS_PER_CPU: usize = 8;
const QUANTUM: Duration = Duration::from_micros(300);

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    let plan = |service: Service| {
        let name = format!("request.{}", service.name());
        let [mut threads, mut workers, mut quantum] = [rounds(context, service); 3];
        Plan::new(name, &hist::METRICS)
            .side("threads", Under::Threads, move |budget| {
                by_threads(context, &threads(budget))
            })
            .side("workers", Under::Group, move |budget| {
                by_workers(context, &workers(budget), None)
            })
            .side("quantum", Under::Group, move |budget| {
                by_workers(context, &quantum(budget), Some(QUANTUM))
            })
            .row("threads")
            .beside("workers", "threads")
            .beside("quantum", "threads")
    };
    let all = [Service::Fixed, Service::Bimodal, Service::HeavyTail];
    Ok(Planned::Here(all.map(plan).into()))
}

/// The same requests for each side of a round, others in the next one.
fn rounds(context: &Context, service: Service) -> impl FnMut(Budget) -> Round + Copy {
    let mut seed = 0;
    move |budget| {
        seed += 1;
        Round::new(context, service, budget, seed)
    }
}

/// The requests of a round, and where their latencies come to stand.
struct Round {
    requests: Vec<Request>,
    warm_ns: u64,
    /// By request; 0: it was not served.
    latencies: Arc<[AtomicU64]>,
}

impl Round {
    fn new(context: &Context, service: Service, budget: Budget, seed: u64) -> Self {
        let per_second = LOAD * context.cpus.len() as f64 * 1e9 / MEAN_NS;
        let span_ns = budget.warm_ns + budget.ns;
        let requests = schedule(service, per_second, span_ns, seed);
        // Measures the CPU before the first one is due.
        work::compute(0);
        Self {
            latencies: requests.iter().map(|_| AtomicU64::new(0)).collect(),
            requests,
            warm_ns: budget.warm_ns,
        }
    }

    /// Sends each when it is due, and those that are late at once.
    fn dispatch(&self, mut send: impl FnMut(Sent)) {
        sys::exact_timers();
        let began = umcg::now();
        for (index, request) in self.requests.iter().enumerate() {
            let due_at = began + request.due_ns;
            let early = due_at.saturating_sub(umcg::now());
            if early > 0 {
                thread::sleep(Duration::from_nanos(early));
            }
            send(Sent {
                index,
                due_at,
                work_ns: request.work_ns,
            });
        }
    }

    fn figures(&self) -> Result<Figures> {
        let mut latencies = Latencies::default();
        for (request, latency) in self.requests.iter().zip(self.latencies.iter()) {
            let ns = latency.load(Relaxed);
            anyhow::ensure!(ns > 0, "a request was not served");
            if request.due_ns >= self.warm_ns {
                latencies.record(ns);
            }
        }
        Ok(latencies.figures())
    }
}

/// A request under way.
struct Sent {
    index: usize,
    due_at: u64,
    work_ns: u64,
}

impl Sent {
    fn serve(&self, latencies: &[AtomicU64]) {
        work::compute(self.work_ns);
        let ns = umcg::now().saturating_sub(self.due_at).max(1);
        latencies[self.index].store(ns, Relaxed);
    }
}

/// What plain threads wait at.
#[derive(Default)]
struct Queue {
    requests: Mutex<(VecDeque<Sent>, bool)>,
    more: Condvar,
}

impl Queue {
    fn push(&self, sent: Sent) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.0.push_back(sent);
        drop(requests);
        self.more.notify_one();
    }

    fn close(&self) {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1 = true;
        self.more.notify_all();
    }

    fn pop(&self) -> Option<Sent> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match requests.0.pop_front() {
                None if !requests.1 => {
                    let waited = self.more.wait(requests);
                    requests = waited.unwrap_or_else(PoisonError::into_inner);
                }
                next => return next,
            }
        }
    }
}

fn by_threads(context: &Context, round: &Round) -> Result<Figures> {
    let queue = Queue::default();
    thread::scope(|scope| {
        for _ in 0..THREADS_PER_CPU * context.cpus.len() {
            scope.spawn(|| {
                while let Some(sent) = queue.pop() {
                    sent.serve(&round.latencies);
                }
            });
        }
        // A thread of its own on both sides: the timer slack is the thread's.
        scope.spawn(|| {
            round.dispatch(|sent| queue.push(sent));
            queue.close();
        });
    });
    round.figures()
}

fn by_workers(context: &Context, round: &Round, quantum: Option<Duration>) -> Result<Figures> {
    let workers = THREADS_PER_CPU * context.cpus.len();
    let builder = Builder::new()
        .servers(context.cpus.len())
        .max_workers(workers)
        .group(context.group_config(GroupConfig {
            // Without the kernel's help only a signal ends a quantum.
            preempt: Preempt::Signal(libc::SIGURG),
            ..GroupConfig::default()
        }));
    let runtime = match quantum {
        Some(quantum) => builder.quantum(quantum),
        None => builder,
    }
    .build()?;
    let (sender, receiver) = channel::<Sent>(round.requests.len());
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let (receiver, latencies) = (receiver.clone(), round.latencies.clone());
            runtime.spawn(move || {
                while let Some(sent) = receiver.recv() {
                    sent.serve(&latencies);
                }
            })
        })
        .collect();
    drop(receiver);
    thread::scope(|scope| {
        scope.spawn(|| {
            round.dispatch(|sent| {
                // All receivers gone: figures() finds what was not served.
                let _ = sender.send(sent);
            });
        });
    });
    drop(sender);
    for task in tasks {
        task.join().map_err(|_| anyhow!("a task panicked"))?;
    }
    round.figures()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dispatcher that stands still does not make the requests of that time younger.
    #[test]
    fn latency_counts_from_when_a_request_was_due() {
        let requests: Vec<Request> = (0..20)
            .map(|n| Request {
                due_ns: n * 1_000_000,
                work_ns: 1,
            })
            .collect();
        let round = Round {
            latencies: requests.iter().map(|_| AtomicU64::new(0)).collect(),
            requests,
            warm_ns: 0,
        };
        let mut first = true;
        round.dispatch(|sent| {
            if std::mem::take(&mut first) {
                thread::sleep(Duration::from_millis(10));
            }
            sent.serve(&round.latencies);
        });
        let ms = |n: usize| round.latencies[n].load(Relaxed) / 1_000_000;
        // Due at 1, 5, 8 ms, and sent at 10 ms at the earliest.
        assert!(
            ms(1) >= 9 && ms(5) >= 5 && ms(8) >= 2,
            "{} {} {}",
            ms(1),
            ms(5),
            ms(8)
        );
        assert!(round.figures().unwrap()[0].is_some());
    }

    #[test]
    fn round_with_a_request_that_nobody_served_is_an_error() {
        let round = Round {
            requests: vec![Request {
                due_ns: 0,
                work_ns: 1,
            }],
            warm_ns: 0,
            latencies: vec![AtomicU64::new(0)].into(),
        };
        assert!(round.figures().is_err());
    }
}
