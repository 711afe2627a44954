//! Servers that share a policy and workers that do as they are told, in simulated time.
//!
//! A discrete-event model of the owner of servers: it tells the policy each wake-up at its time,
//! picks when a server has nobody or a slice is over, and takes nobody off before. No cost of a
//! switch, no noise: what comes out is the policy's doing alone.

#![allow(dead_code, reason = "each of the crates that include this uses a part")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use umcg_policy::{Attrs, Facts, Policy, WorkerId};

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
/// Not zero: policies may use 0 for "never".
pub const START: u64 = 1_000_000 * MS;

/// xorshift64*: repeats with its seed, needs no crate.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform enough; 0 for 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound.max(1)
    }

    /// Exponentially distributed, with that mean.
    pub fn gap(&mut self, mean_ns: u64) -> u64 {
        let uniform = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (-(1.0 - uniform).ln() * mean_ns as f64) as u64
    }
}

/// What a worker does.
#[derive(Clone, Copy, Debug)]
pub enum Life {
    /// Computes for ever.
    Hog,
    /// Computes for so long, then ends.
    Batch { compute_ns: u64 },
    /// Is released each period, whether it is done or not, from `offset_ns` on.
    Periodic {
        offset_ns: u64,
        period_ns: u64,
        compute_ns: u64,
    },
    /// Computes, then sleeps for a random time with that mean.
    Sleeper { sleep_ns: u64, compute_ns: u64 },
}

#[derive(Clone, Copy, Debug)]
pub struct Task {
    pub life: Life,
    pub weight: u32,
    pub attrs: Attrs,
}

impl Task {
    pub fn new(life: Life) -> Self {
        Task {
            life,
            weight: 100,
            attrs: Attrs::default(),
        }
    }

    pub fn weight(self, weight: u32) -> Self {
        Task { weight, ..self }
    }

    pub fn attrs(self, attrs: Attrs) -> Self {
        Task { attrs, ..self }
    }
}

/// A turn: from being picked to the end of the slice or of the work.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub id: usize,
    pub from_ns: u64,
    pub to_ns: u64,
    /// Since when it was RUNNABLE.
    pub since_ns: u64,
    /// Others that waited when it was picked.
    pub left: usize,
}

/// A piece of work that is done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub id: usize,
    pub released_ns: u64,
    pub done_ns: u64,
    pub compute_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Worker {
    run_ns: u64,
    burst_ns: u64,
    avg_ns: u64,
    v: u64,
    woke_ns: u64,
    born_ns: u64,
    left_ns: u64,
    compute_ns: u64,
    released_ns: u64,
    /// The last piece's length and its release: the next one's follow.
    next_release_ns: u64,
}

pub struct Sim {
    policy: Box<dyn Policy>,
    tasks: Vec<Task>,
    workers: Vec<Worker>,
    slice_us: Vec<u32>,
    default_slice_us: u32,
    since: Vec<u64>,
    wakes: BinaryHeap<Reverse<(u64, usize)>>,
    /// Per server.
    running: Vec<Option<Turn>>,
    random: Random,
    now: u64,
    vnow: u64,
    pub turns: Vec<Turn>,
    pub done: Vec<Done>,
}

impl Sim {
    pub fn new(
        policy: Box<dyn Policy>,
        servers: usize,
        slice_us: u32,
        tasks: Vec<Task>,
        seed: u64,
    ) -> Self {
        let n = tasks.len();
        let mut sim = Sim {
            policy,
            workers: vec![Worker::default(); n],
            slice_us: vec![0; n],
            default_slice_us: slice_us,
            since: vec![0; n],
            wakes: BinaryHeap::new(),
            running: vec![None; servers],
            random: Random::new(seed),
            now: START,
            vnow: 0,
            turns: Vec::new(),
            done: Vec::new(),
            tasks,
        };
        for id in 0..n {
            let (attrs, w) = (sim.tasks[id].attrs, WorkerId(id as u32));
            if attrs != Attrs::default() {
                // A policy that knows no such attribute goes by the weight.
                let _ = sim.policy.assign(w, &attrs);
            }
            let offset = match sim.tasks[id].life {
                Life::Periodic { offset_ns, .. } => offset_ns,
                Life::Sleeper { sleep_ns, .. } => sim.random.gap(sleep_ns),
                Life::Hog | Life::Batch { .. } => id as u64, // one after the other
            };
            sim.workers[id].next_release_ns = START + offset;
            sim.wakes.push(Reverse((START + offset, id)));
        }
        sim
    }

    /// Runs for so long.
    pub fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            self.fill_servers();
            let wake = self.wakes.peek().map(|&Reverse((at, _))| at);
            let stop = self.running.iter().flatten().map(|turn| turn.to_ns).min();
            let next = [wake, stop, Some(end)].into_iter().flatten().min();
            self.now = next.unwrap_or(end).max(self.now);
            self.stop_turns();
            while let Some(&Reverse((at, id))) = self.wakes.peek()
                && at <= self.now
            {
                self.wakes.pop();
                self.wake(id);
            }
        }
    }

    /// CPU time of a task so far.
    pub fn run_ns(&self, id: usize) -> u64 {
        self.workers[id].run_ns
    }

    pub fn now(&self) -> u64 {
        self.now
    }

    fn fill_servers(&mut self) {
        for server in 0..self.running.len() {
            if self.running[server].is_some() {
                continue;
            }
            while self.policy.retune(self.now).is_some() {}
            let Some(WorkerId(id)) = self.policy.pick() else {
                return;
            };
            let id = id as usize;
            let slice = match self.slice_us[id] {
                0 => self.default_slice_us,
                us => us,
            };
            let worker = &self.workers[id];
            self.vnow = self.vnow.max(worker.v);
            let stop = self.now + worker.left_ns.min(u64::from(slice) * US);
            let left = self.policy.len();
            self.running[server] = Some(Turn {
                id,
                from_ns: self.now,
                to_ns: stop,
                since_ns: self.since[id],
                left,
            });
        }
    }

    fn stop_turns(&mut self) {
        for server in 0..self.running.len() {
            let Some(turn) = self.running[server].filter(|turn| turn.to_ns <= self.now) else {
                continue;
            };
            self.running[server] = None;
            self.turns.push(turn);
            let id = turn.id;
            self.charge(id, turn.to_ns - turn.from_ns);
            if self.workers[id].left_ns > 0 {
                self.enqueue(id, true);
            } else {
                self.finish(id);
            }
        }
    }

    fn charge(&mut self, id: usize, ns: u64) {
        let weight = u64::from(self.tasks[id].weight);
        let worker = &mut self.workers[id];
        worker.run_ns += ns;
        worker.burst_ns += ns;
        worker.v += ns * 100 / weight;
        worker.left_ns -= ns;
    }

    fn finish(&mut self, id: usize) {
        let now = self.now;
        let worker = &mut self.workers[id];
        self.done.push(Done {
            id,
            released_ns: worker.released_ns,
            done_ns: now,
            compute_ns: worker.compute_ns,
        });
        worker.avg_ns = (3 * worker.avg_ns + worker.burst_ns) / 4;
        worker.burst_ns = 0;
        let next = match self.tasks[id].life {
            Life::Hog => unreachable!("it is never done"),
            Life::Batch { .. } => None,
            Life::Periodic { period_ns, .. } => Some(worker.next_release_ns + period_ns),
            Life::Sleeper { sleep_ns, .. } => Some(now + 1 + self.random.gap(sleep_ns)),
        };
        let facts = self.facts(id, false);
        self.policy.block(WorkerId(id as u32), &facts);
        if let Some(at) = next {
            self.workers[id].next_release_ns = at;
            self.wakes.push(Reverse((at.max(now), id)));
        }
    }

    fn wake(&mut self, id: usize) {
        let compute_ns = match self.tasks[id].life {
            Life::Hog => u64::MAX / 2,
            Life::Batch { compute_ns }
            | Life::Periodic { compute_ns, .. }
            | Life::Sleeper { compute_ns, .. } => compute_ns,
        };
        let floor = self.vnow.saturating_sub(5 * MS);
        let worker = &mut self.workers[id];
        worker.left_ns = compute_ns;
        worker.compute_ns = compute_ns;
        worker.released_ns = worker.next_release_ns;
        worker.woke_ns = self.now;
        if worker.born_ns == 0 {
            worker.born_ns = self.now;
        }
        worker.v = worker.v.max(floor);
        self.enqueue(id, false);
    }

    fn enqueue(&mut self, id: usize, preempted: bool) {
        self.since[id] = self.now;
        let facts = self.facts(id, preempted);
        let terms = self.policy.enqueue(WorkerId(id as u32), &facts);
        self.slice_us[id] = terms.slice_us;
    }

    fn facts(&self, id: usize, preempted: bool) -> Facts {
        let worker = &self.workers[id];
        Facts {
            now_ns: self.now,
            since_ns: self.now,
            woke_ns: worker.woke_ns,
            born_ns: worker.born_ns,
            run_ns: worker.run_ns,
            avg_ns: worker.avg_ns as u32,
            burst_ns: worker.burst_ns as u32,
            weight: self.tasks[id].weight,
            key: worker.v,
            preempted,
            ..Facts::default()
        }
    }
}
