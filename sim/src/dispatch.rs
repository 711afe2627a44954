//! What a CPU does next: `dispatch.bpf.h`, in its order, and the server's activation.

use rand::Rng;
use umcg::record::STAGE_SLOTS;
use umcg::ring::Choice;
use umcg::sync::Ordering::Relaxed;
use umcg::word::{State, Word};
use umcg_policy::Order;

use crate::costs::levels;
use crate::event::Event;
use crate::machine::{Doing, Machine, Payer};
use crate::order;
use crate::park::before;
use crate::worker::{Place, move_word};

/// Staged choices that one dispatch looks at.
const TAKE_TRIES: u32 = 4;

/// Whom a queue gives next.
enum Next {
    Head,
    Choice,
    Both,
}

impl Machine {
    /// `cpu` chooses; `prev` ran, was charged, and wants to go on.
    pub(crate) fn dispatch(&mut self, cpu: u32, prev: Option<u32>) {
        let it = &mut self.cpus[cpu as usize];
        // Interrupted before the kernel was ready with the last switch: that is owed still.
        if it.doing != Doing::Nothing {
            it.free_ns = it.start_ns.max(self.now);
        }
        (it.doing, it.sending) = (Doing::Nothing, None);
        it.preempting = false;
        if let Some(w) = it.local.take() {
            let cost = prev.map_or(0, |prev| self.requeue(cpu, prev));
            self.run_worker(cpu, w, cost);
            return;
        }
        let waiting = self.parks.len(cpu);
        if waiting == 0 {
            self.cpus[cpu as usize].want = false;
        }
        if self.server_runs(cpu, prev, waiting) {
            return;
        }
        if let Some(prev) = prev
            && self.prev_goes_on(cpu, prev, waiting)
        {
            return;
        }
        let mut cost = 0;
        let next = self
            .take_here(cpu, waiting, &mut cost)
            .or_else(|| match prev {
                None => self.steal(cpu, &mut cost),
                Some(_) => None,
            });
        match (next, prev) {
            (Some(w), prev) => {
                cost += prev.map_or(0, |prev| self.requeue(cpu, prev));
                self.run_worker(cpu, w, cost);
            }
            (None, Some(prev)) => self.keep(cpu, prev),
            (None, None) => {
                self.pay(cpu, cost, Payer::Kernel);
                self.idle.put(cpu);
            }
        }
    }

    /// `w`, on no queue any more, gets `cpu`, after the kernel has done what it owes and `cost`.
    pub(crate) fn run_worker(&mut self, cpu: u32, w: u32, cost: u64) {
        let worker = &mut self.workers[w as usize];
        assert_eq!(worker.place, Place::Waiting, "worker {w} runs twice");
        assert!(!self.parks.has(w), "worker {w} runs and waits");
        let cold = self
            .prices
            .cold(self.topology.distance(worker.last_cpu, cpu));
        let kernel = self.prices.switch + cold + cost;
        order::clock_move(worker, &self.clocks, cpu);
        let clock = &mut self.clocks[cpu as usize];
        if before(*clock, worker.v) {
            *clock = worker.v;
        }
        (worker.place, worker.last_cpu) = (Place::Running(cpu), cpu);
        let it = &mut self.cpus[cpu as usize];
        assert_eq!(it.doing, Doing::Nothing, "CPU {cpu} does two things");
        let record = &self.records[w as usize + 1];
        it.doing = Doing::Worker(w);
        it.start_ns = it.free_ns.max(self.now) + kernel;
        it.slice_ns = order::slice_ns(record, self.settings.slice_us * 1000);
        it.spent.kernel += kernel;
        let waited = it.start_ns - worker.waits_since_ns;
        move_word(record, self.now, State::Running as u64);
        record.wait_ns.fetch_add(waited, Relaxed);
        self.stats.waits.record(waited);
        self.stats.counts.switches += 1;
        self.stint(cpu, w);
    }

    /// `prev` has another slice.
    fn keep(&mut self, cpu: u32, prev: u32) {
        self.stats.counts.kept += 1;
        let it = &mut self.cpus[cpu as usize];
        it.doing = Doing::Worker(prev);
        it.start_ns = it.free_ns.max(self.now) + self.prices.keep;
        it.spent.kernel += self.prices.keep;
        let record = &self.records[prev as usize + 1];
        it.slice_ns = order::slice_ns(record, self.settings.slice_us * 1000);
        self.stint(cpu, prev);
    }

    fn prev_goes_on(&mut self, cpu: u32, prev: u32, waiting: usize) -> bool {
        if let Some(other) = self.rotates(cpu, waiting) {
            let mut cost = self.prices.queue_look;
            if let Some(w) = self.take_from(cpu, other, &mut cost) {
                self.stats.counts.rotated += 1;
                cost += self.requeue(cpu, prev);
                self.run_worker(cpu, w, cost);
                return true;
            }
        }
        if self.order == Order::Arrival {
            return false;
        }
        let Some((_, head)) = self.parks.head(cpu) else {
            return false;
        };
        let agent = self.agents.of(cpu);
        if agent.staged() && !agent.record.ring.is_empty_hint() {
            return false;
        }
        let (worker, record) = (
            &self.workers[prev as usize],
            &self.records[prev as usize + 1],
        );
        if before(head, order::key(self.order, record, worker.v, self.now)) {
            return false;
        }
        self.keep(cpu, prev);
        true
    }

    /// A CPU, drawn at random, for which more are waiting.
    fn rotates(&mut self, cpu: u32, waiting: usize) -> Option<u32> {
        let cpus = self.settings.cpus;
        if cpus < 2 || self.order != Order::Fair {
            return None;
        }
        let other = (cpu + self.random.random_range(1..cpus)) % cpus;
        (self.parks.len(other) > waiting).then_some(other)
    }

    /// Of those that wait at `cpu`.
    fn take_here(&mut self, cpu: u32, waiting: usize, cost: &mut u64) -> Option<u32> {
        if waiting == 0 {
            return None;
        }
        *cost += self.prices.queue_level * levels(waiting) + self.touch_line(cpu);
        if self.agents.of(cpu).staged() && waiting > 1 {
            let staged = match self.head_or_choice(cpu) {
                Next::Head => None,
                Next::Choice => self.take_staged(cpu),
                Next::Both => {
                    self.agents.of(cpu).record.ring.take();
                    self.parks.pop(cpu)
                }
            };
            if let Some(w) = staged {
                self.stats.counts.contended += 1;
                self.stats.counts.staged += 1;
                return Some(w);
            }
        }
        let w = self.parks.pop(cpu)?;
        if waiting > 1 {
            let agent = self.agents.of(cpu);
            let counts = &mut self.stats.counts;
            counts.contended += 1;
            if agent.staged() && agent.absent(self.now) {
                counts.absent += 1;
            } else {
                counts.by_key += 1;
            }
        }
        Some(w)
    }

    /// The oldest choice of the server of `cpu` that is still true; stale ones are dropped.
    fn peek_choice(&mut self, cpu: u32) -> Option<u32> {
        let ring = &self.agents.of(cpu).record.ring;
        for _ in 0..TAKE_TRIES {
            let at = ring.head.load(Relaxed) as usize & (STAGE_SLOTS - 1);
            let choice = Choice::from_raw(ring.slot[at].load(Relaxed))?;
            let record = &self.records[choice.index() as usize];
            let word = Word(record.word.load(Relaxed));
            let w = choice.index() - 1;
            let waits = word.state() == Some(State::Runnable) && self.parks.has(w);
            if waits && choice.is_true(record.gen_.load(Relaxed), word) {
                return Some(w);
            }
            ring.take();
            self.stats.counts.stale += 1;
        }
        None
    }

    fn head_or_choice(&mut self, cpu: u32) -> Next {
        let Some(w) = self.peek_choice(cpu) else {
            return Next::Head;
        };
        let Some((head, key)) = self.parks.head(cpu).filter(|_| self.order != Order::Own) else {
            return Next::Choice;
        };
        let its = self.records[w as usize + 1].key.load(Relaxed);
        if head == w {
            Next::Both
        } else if before(key.wrapping_add(order::LAG_NS), its) {
            Next::Head
        } else {
            Next::Choice
        }
    }

    fn take_staged(&mut self, cpu: u32) -> Option<u32> {
        let w = self.peek_choice(cpu)?;
        self.agents.of(cpu).record.ring.take();
        let home = self.records[w as usize + 1].home.load(Relaxed);
        self.parks.remove(home, w);
        Some(w)
    }

    /// The first one of another CPU's queue, for this one.
    fn take_from(&mut self, cpu: u32, other: u32, cost: &mut u64) -> Option<u32> {
        let waiting = self.parks.len(other);
        let w = self.parks.pop(other)?;
        *cost += self.prices.steal + self.prices.queue_level * levels(waiting);
        *cost += self.touch_line(cpu);
        if waiting > 1 {
            self.stats.counts.contended += 1;
            self.stats.counts.by_key += 1;
        }
        Some(w)
    }

    /// Others' work, nearest first.
    fn steal(&mut self, cpu: u32, cost: &mut u64) -> Option<u32> {
        for at in 0..self.topology.near(cpu).len() {
            if self.parks.total() == 0 {
                return None;
            }
            let other = self.topology.near(cpu)[at];
            *cost += self.prices.queue_look;
            if self.parks.len(other) == 0 {
                continue;
            }
            self.stats.counts.stolen += 1;
            if self.agents.of(other).staged()
                && self.parks.len(other) > 1
                && let Some(w) = self.take_staged(other)
            {
                *cost += self.prices.steal;
                self.stats.counts.contended += 1;
                self.stats.counts.staged += 1;
                return Some(w);
            }
            return self.take_from(cpu, other, cost);
        }
        None
    }

    /// True: the server has the CPU.
    fn server_runs(&mut self, cpu: u32, prev: Option<u32>, waiting: usize) -> bool {
        let rivals = waiting + usize::from(prev.is_some());
        let want = self.cpus[cpu as usize].want;
        let agent = self.agents.of(cpu);
        if agent.ringing || !agent.needed(waiting, rivals, want, self.now) {
            return false;
        }
        if agent.asleep(self.now) {
            self.ring_bell(cpu);
            return false;
        }
        let cost = prev.map_or(0, |prev| self.requeue(cpu, prev));
        self.pay(cpu, cost, Payer::Kernel);
        let agent = self.agents.of_mut(cpu);
        agent.act_ns = self.now;
        agent.record.must.store(0, Relaxed);
        agent.record.unread_ns.store(0, Relaxed);
        self.stats.counts.activations += 1;
        let cost = self.prices.switch + self.prices.turn;
        let it = &mut self.cpus[cpu as usize];
        it.doing = Doing::Server;
        it.start_ns = it.free_ns.max(self.now);
        it.end_ns = it.start_ns + cost;
        it.spent.agent += cost;
        self.end_event(cpu);
        true
    }

    /// It had been let run once more to go to sleep, which is paid now, and is woken.
    fn ring_bell(&mut self, cpu: u32) {
        let slept = self.prices.switch + self.prices.turn;
        self.pay(cpu, slept + self.prices.bell, Payer::Agent);
        self.stats.counts.bells += 1;
        self.agents.of_mut(cpu).ringing = true;
        let heard = self.cpus[cpu as usize].free_ns.max(self.now);
        self.events.put(heard, Event::Bell(cpu));
    }

    /// The server is awake and has to run at the next dispatch.
    pub(crate) fn bell_heard(&mut self, cpu: u32) {
        let agent = self.agents.of_mut(cpu);
        agent.ringing = false;
        agent.parked_ns = self.now;
        agent.record.must.store(1, Relaxed);
        if self.idle.has(cpu) {
            self.idle.leave(cpu);
            self.dispatch(cpu, None);
        }
    }

    /// The server reads its lists and decides; then it parks.
    pub(crate) fn server_decides(&mut self, cpu: u32) {
        let (records, workers) = (&self.records, &mut self.workers);
        let turn = self.agents.turn(cpu, records, workers, self.now);
        let counts = &mut self.stats.counts;
        counts.notices += turn.notices;
        counts.picks += turn.picks;
        counts.unseated += turn.unseated;
        let cost = turn.notices * self.prices.notice
            + turn.picks * self.prices.pick
            + turn.levels * self.prices.policy_level;
        let it = &mut self.cpus[cpu as usize];
        it.doing = Doing::Parking;
        it.start_ns = self.now;
        it.end_ns = self.now + cost;
        it.spent.agent += cost;
        self.end_event(cpu);
    }
}
