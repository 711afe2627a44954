//! What the loads do when one of their operations ends, and when something comes from outside.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Exp1};
use rand_pcg::Pcg64Mcg;

use crate::dist::Dist;
use crate::load::Kind;
use crate::worker::{Place, Worker};

/// Workers that begin at once begin within this time.
const START_NS: u64 = 4_000_000;

/// What a worker does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Computes on; its operation is set.
    Go,
    /// Blocks until somebody wakes it.
    Block,
    /// Blocks until then.
    Sleep(u64),
    /// Wakes these workers, one by one.
    Send(u32, u32),
}

/// A request, as it comes from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// When, in ns from the beginning.
    pub due_ns: u64,
    /// What it is to compute.
    pub work_ns: u64,
}

/// The requests of a run of `kind` with this seed, up to `span_ns`: a machine that serves these
/// very ones can stand beside the model without an error of sampling.
pub fn schedule(kind: Kind, seed: u64, span_ns: u64) -> Vec<Request> {
    let mut app = App::new(kind, seed);
    let (mut all, mut due_ns) = (Vec::new(), app.next_arrival(0));
    while due_ns <= span_ns {
        // In this order, as in a run.
        let next = app.next_arrival(due_ns);
        let work_ns = app.work();
        all.push(Request { due_ns, work_ns });
        due_ns = next;
    }
    all
}

/// The load's state.
#[derive(Debug)]
pub struct App {
    kind: Kind,
    random: Pcg64Mcg,
    /// Requests: workers that have none, who waits for the longest time first.
    pool: VecDeque<u32>,
    /// Requests that no worker has: when they came, their work.
    backlog: VecDeque<(u64, u64)>,
    /// Operations that were asked for.
    pub asked: u64,
    /// Those that ended.
    pub ended: u64,
}

impl App {
    /// The load `kind` with this seed.
    pub fn new(kind: Kind, seed: u64) -> Self {
        App {
            kind,
            random: Pcg64Mcg::seed_from_u64(seed),
            pool: VecDeque::new(),
            backlog: VecDeque::new(),
            asked: 0,
            ended: 0,
        }
    }

    /// When the workers wake up for the first time, and when the first request comes.
    pub fn begin(&mut self, workers: u32, now_ns: u64) -> (Vec<(u64, u32)>, Option<u64>) {
        let within = |random: &mut Pcg64Mcg, span: u64| now_ns + random.random_range(0..=span);
        let mut wakes = Vec::new();
        match self.kind.clone() {
            Kind::Cpu { .. } => {
                for w in 0..workers {
                    wakes.push((within(&mut self.random, START_NS), w));
                }
            }
            Kind::Sleepers { sleep, .. } => {
                // As if they had always done so: an exponential sleep has no memory, of a
                // constant one any part may be left.
                for w in 0..workers {
                    let span = sleep.draw(&mut self.random);
                    let at = match sleep {
                        Dist::Exp(_) => now_ns + span,
                        _ => within(&mut self.random, span),
                    };
                    wakes.push((at, w));
                }
            }
            Kind::Messaging { fan, .. } => {
                for group in 0..workers / (fan + 1) {
                    wakes.push((within(&mut self.random, START_NS), group * (fan + 1)));
                }
            }
            Kind::Request { .. } => {
                self.pool = (0..workers).collect();
                return (wakes, Some(self.next_arrival(now_ns)));
            }
        }
        (wakes, None)
    }

    /// Requests that wait for a worker.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Workers without a request.
    pub fn pooled(&self) -> usize {
        self.pool.len()
    }

    /// When the request after the one of `now_ns` comes.
    pub fn next_arrival(&mut self, now_ns: u64) -> u64 {
        let Kind::Request {
            rate: Some(rate), ..
        } = self.kind
        else {
            return u64::MAX;
        };
        let gap: f64 = Exp1.sample(&mut self.random);
        now_ns + (gap * 1e9 / rate).round() as u64
    }

    /// A request comes: who has it, to be woken; or nobody.
    pub fn arrive(&mut self, workers: &mut [Worker], now_ns: u64) -> Option<u32> {
        self.asked += 1;
        let work = self.work();
        let Some(w) = self.pool.pop_front() else {
            self.backlog.push_back((now_ns, work));
            return None;
        };
        (workers[w as usize].asked_ns, workers[w as usize].left_ns) = (now_ns, work);
        Some(w)
    }

    /// `w` wakes up by its timer: a new operation.
    pub fn woken(&mut self, w: u32, workers: &mut [Worker], now_ns: u64) {
        if matches!(self.kind, Kind::Messaging { .. }) {
            // A boss's own work is no operation.
            workers[w as usize].left_ns = self.work();
            return;
        }
        self.ask(w, workers, now_ns);
    }

    fn ask(&mut self, w: u32, workers: &mut [Worker], now_ns: u64) {
        self.asked += 1;
        let work = self.work();
        (workers[w as usize].asked_ns, workers[w as usize].left_ns) = (now_ns, work);
    }

    /// At least 1 ns, so that an operation is one.
    fn work(&mut self) -> u64 {
        let dist: Dist = match self.kind {
            Kind::Cpu { work } | Kind::Sleepers { work, .. } | Kind::Messaging { work, .. } => work,
            Kind::Request { service, .. } => service,
        };
        dist.draw(&mut self.random).max(1)
    }

    /// The operation of `w` has all of its CPU time; how long it took is returned too, if it was
    /// one that counts.
    pub fn done(&mut self, w: u32, workers: &mut [Worker], now_ns: u64) -> (Step, Option<u64>) {
        if let Kind::Messaging { fan, .. } = self.kind {
            return self.message_done(w, fan, workers, now_ns);
        }
        self.ended += 1;
        let took = now_ns - workers[w as usize].asked_ns;
        let step = match self.kind {
            Kind::Sleepers { sleep, .. } => match sleep.draw(&mut self.random) {
                0 => {
                    self.ask(w, workers, now_ns);
                    Step::Go
                }
                ns => Step::Sleep(now_ns + ns),
            },
            Kind::Request { .. } => match self.backlog.pop_front() {
                Some((asked, work)) => {
                    (workers[w as usize].asked_ns, workers[w as usize].left_ns) = (asked, work);
                    Step::Go
                }
                None => {
                    self.pool.push_back(w);
                    Step::Block
                }
            },
            _ => {
                self.ask(w, workers, now_ns);
                Step::Go
            }
        };
        (step, Some(took))
    }

    fn message_done(
        &mut self,
        w: u32,
        fan: u32,
        workers: &mut [Worker],
        now_ns: u64,
    ) -> (Step, Option<u64>) {
        let boss = w / (fan + 1) * (fan + 1);
        if w == boss {
            workers[w as usize].pending = fan;
            return (Step::Send(boss + 1, boss + fan), None);
        }
        self.ended += 1;
        let took = now_ns - workers[w as usize].asked_ns;
        let waiting = &mut workers[boss as usize];
        waiting.pending -= 1;
        // One that is not blocked looks by itself before it would.
        if waiting.pending == 0 && waiting.place == Place::Blocked {
            waiting.left_ns = self.work();
            return (Step::Send(boss, boss), Some(took));
        }
        (Step::Block, Some(took))
    }

    /// `w` wakes `other` now: a message, or the last answer.
    pub fn send(&mut self, w: u32, other: u32, workers: &mut [Worker], now_ns: u64) {
        if other > w {
            self.ask(other, workers, now_ns);
        }
    }

    /// `w` has woken all that it had to.
    pub fn sent(&mut self, w: u32, workers: &mut [Worker]) -> Step {
        let Kind::Messaging { fan, .. } = self.kind else {
            return Step::Block;
        };
        if w.is_multiple_of(fan + 1) && workers[w as usize].pending == 0 {
            workers[w as usize].left_ns = self.work();
            return Step::Go;
        }
        Step::Block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_is_that_of_a_run_with_its_seed() {
        let load: crate::load::Load = "request:rate=10000,service=exp:50us"
            .parse()
            .expect("a load");
        let kind = load.resolve(1, 1).expect("a rate");
        let all = schedule(kind.clone(), 7, 1_000_000_000);
        assert!((9_000..11_000).contains(&all.len()), "{}", all.len());
        const BEGAN: u64 = 5_000_000_000;
        let (mut app, mut workers) = (App::new(kind, 7), vec![Worker::default(); all.len()]);
        let (_, mut at) = app.begin(all.len() as u32, BEGAN);
        for request in all {
            let now = at.expect("requests come for ever");
            at = Some(app.next_arrival(now));
            let w = app.arrive(&mut workers, now).expect("a worker for each");
            let work_ns = workers[w as usize].left_ns;
            let due_ns = now - BEGAN;
            assert_eq!(request, Request { due_ns, work_ns });
        }
    }
}
