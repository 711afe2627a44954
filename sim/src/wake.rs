//! The paths of a wake-up, a kick, a tick and a park: `wake.bpf.h`, `park.bpf.h`.
//!
//! Not modelled: SYNC wake-ups that stay on the waker's CPU, affinity, kernel threads.

use umcg::list::Pushed;
use umcg::sync::Ordering::Relaxed;
use umcg::word::{PREEMPTED, State};
use umcg_policy::Order;

use crate::costs::levels;
use crate::event::Event;
use crate::machine::{Doing, Machine, Payer};
use crate::order::{self, Current};
use crate::park::before;
use crate::topology::Distance;
use crate::worker::{Place, has_terms, move_word};

/// What ends slices and lets a short wakee try again.
const TICK_NS: u64 = 4_000_000;

impl Machine {
    /// `w` wakes up: by the worker that runs on `by` and has paid for it, or by an interrupt where
    /// `w` ran last.
    pub(crate) fn wake(&mut self, w: u32, by: Option<u32>) {
        let worker = &mut self.workers[w as usize];
        assert_eq!(worker.place, Place::Blocked, "worker {w} wakes twice");
        worker.place = Place::Waiting;
        worker.waits_since_ns = self.now;
        let prev = worker.last_cpu;
        let payer = by.unwrap_or(prev);
        let record = &self.records[w as usize + 1];
        move_word(record, self.now, State::Runnable as u64);
        record.woke_ns.store(self.now, Relaxed);
        let mut ready = self.now;
        if by.is_none() {
            self.pay(payer, self.prices.wake, Payer::Kernel);
            ready += self.prices.wake;
        }

        let (idle, cost) = self.idle.take(prev, &self.topology, &self.prices);
        self.pay(payer, cost, Payer::Kernel);
        ready += cost;
        if let Some(cpu) = idle {
            self.stats.counts.direct += 1;
            order::place(&mut self.workers[w as usize], &self.clocks, cpu);
            let way = self.prices.ipi(self.topology.distance(payer, cpu));
            let it = &mut self.cpus[cpu as usize];
            it.free_ns = it.free_ns.max(ready + way + self.prices.idle_exit);
            self.run_worker(cpu, w, 0);
            return;
        }
        if self.order == Order::Fair {
            order::place(&mut self.workers[w as usize], &self.clocks, prev);
            if let Some(cpu) = self.find_beaten(w, prev) {
                self.preempt(cpu, w, ready, payer);
                return;
            }
        }
        let cost = self.park(w, prev, payer, true);
        self.pay(payer, cost, Payer::Kernel);
    }

    /// The nearest CPU whose worker `w` beats.
    fn find_beaten(&self, w: u32, prev: u32) -> Option<u32> {
        let near = self.topology.near(prev).iter().copied();
        let mut looked = std::iter::once(prev).chain(near).take(order::BEATEN_TRIES);
        looked.find(|&cpu| self.beaten(w, cpu))
    }

    fn beaten(&self, w: u32, cpu: u32) -> bool {
        let v = order::v_on(&self.workers[w as usize], &self.clocks, cpu);
        let record = &self.records[w as usize + 1];
        self.current(cpu)
            .is_some_and(|current| order::beats(record, v, &current))
    }

    /// Who runs there, if it may be preempted at all.
    fn current(&self, cpu: u32) -> Option<Current> {
        let it = &self.cpus[cpu as usize];
        let Doing::Worker(w) = it.doing else {
            return None;
        };
        if it.preempting || it.sending.is_some() {
            return None;
        }
        let (worker, record) = (&self.workers[w as usize], &self.records[w as usize + 1]);
        let ran = self.now.saturating_sub(it.start_ns);
        let burst = record
            .avg_ns
            .load(Relaxed)
            .max(record.burst_ns.load(Relaxed));
        Some(Current {
            v: worker
                .v
                .wrapping_add(order::weighted(ran, order::weight(record))),
            quiet_ns: worker.quiet_ns + ran,
            burst_ns: u64::from(burst) + ran,
        })
    }

    /// `w` goes to the local queue of `cpu`, whose worker it beats.
    fn preempt(&mut self, cpu: u32, w: u32, ready: u64, payer: u32) {
        order::clock_move(&mut self.workers[w as usize], &self.clocks, cpu);
        self.stats.counts.preempted += 1;
        let it = &mut self.cpus[cpu as usize];
        (it.preempting, it.local) = (true, Some(w));
        let way = self.prices.ipi(self.topology.distance(payer, cpu));
        self.events.put(ready + way, Event::Kick(cpu));
    }

    /// An interrupt for the local queue: who runs there makes room.
    pub(crate) fn kicked(&mut self, cpu: u32) {
        let it = &self.cpus[cpu as usize];
        let Doing::Worker(w) = it.doing else {
            return; // dispatch takes the local queue first
        };
        // At its end it makes room by itself.
        if it.local.is_none() || it.sending.is_some() || it.end_ns <= self.now {
            return;
        }
        self.charge_running(cpu, w);
        self.dispatch(cpu, Some(w));
    }

    /// A tick on which a short wakee waits.
    pub(crate) fn tick(&mut self, cpu: u32) {
        self.cpus[cpu as usize].ticking = false;
        let Some((head, _)) = self
            .parks
            .head(cpu)
            .filter(|_| self.cpus[cpu as usize].want)
        else {
            return;
        };
        self.pay(cpu, self.prices.keep, Payer::Kernel);
        if self.cpus[cpu as usize].end_ns > self.now && self.beaten(head, cpu) {
            self.parks.remove(cpu, head);
            self.preempt(cpu, head, self.now, cpu);
            return;
        }
        self.wants_tick(cpu);
    }

    fn wants_tick(&mut self, cpu: u32) {
        let it = &mut self.cpus[cpu as usize];
        if !it.ticking {
            it.ticking = true;
            let next = (self.now / TICK_NS + 1) * TICK_NS;
            self.events.put(next, Event::Tick(cpu));
        }
    }

    /// `w` waits at `cpu`, or at the server that has its link; what that costs.
    pub(crate) fn park(&mut self, w: u32, cpu: u32, payer: u32, wakes: bool) -> u64 {
        let staged = self.agents.of(cpu).staged();
        let record = &self.records[w as usize + 1];
        let home = match record.queued.load(Relaxed) {
            owner if staged && owner != 0 => owner - 1,
            _ => cpu,
        };
        let worker = &mut self.workers[w as usize];
        if wakes {
            order::place(worker, &self.clocks, home);
        } else {
            order::clock_move(worker, &self.clocks, home);
        }
        worker.place = Place::Waiting;
        let key = order::key(self.order, record, worker.v, self.now);
        record.key.store(key, Relaxed);
        record.home.store(home, Relaxed);
        self.parks.push(home, w, key);
        let cost = self.prices.queue_level * levels(self.parks.len(home)) + self.touch_line(payer);
        self.tell_waiting(w, home);
        let record = &self.records[w as usize + 1];
        if wakes && self.order == Order::Fair && record.avg_ns.load(Relaxed) <= order::SHORT_NS {
            self.cpus[home as usize].want = true;
            self.wants_tick(home);
        }
        if home != cpu {
            self.rouse(home, payer);
        }
        cost
    }

    /// An idle CPU beside work of its own is kicked.
    fn rouse(&mut self, cpu: u32, payer: u32) {
        if !self.idle.has(cpu) {
            return;
        }
        self.idle.leave(cpu);
        let way = self.prices.ipi(self.topology.distance(payer, cpu));
        let it = &mut self.cpus[cpu as usize];
        it.free_ns = it.free_ns.max(self.now + way + self.prices.idle_exit);
        self.dispatch(cpu, None);
    }

    /// Who ran goes back to a queue; what that costs.
    pub(crate) fn requeue(&mut self, cpu: u32, w: u32) -> u64 {
        let worker = &mut self.workers[w as usize];
        worker.waits_since_ns = self.now;
        let state = State::Runnable as u64 | PREEMPTED;
        move_word(&self.records[w as usize + 1], self.now, state);
        self.park(w, cpu, cpu, false)
    }

    /// The server of `home` hears of a worker that waits there: `park_tell()`.
    fn tell_waiting(&mut self, w: u32, home: u32) {
        let agent = self.agents.of(home);
        let record = &self.records[w as usize + 1];
        let (staged, traits) = (agent.staged(), agent.traits);
        if !staged && has_terms(record) {
            return;
        }
        if !staged && !traits.history && traits.order == Order::Fair {
            return;
        }
        let list = &agent.record.runnable;
        let pushed = agent.record.push(list, home, record, w + 1, self.now);
        let worst = agent.record.worst_key.load(Relaxed);
        if staged
            && traits.order == Order::Own
            && !agent.record.ring.is_empty_hint()
            && before(record.key.load(Relaxed), worst)
        {
            agent.record.must.store(1, Relaxed);
        }
        let owner = record.queued.load(Relaxed);
        if pushed == Pushed::Already && owner != 0 && owner - 1 != home {
            // It has to look at its list, and hands the worker to the server here.
            self.agents.of(owner - 1).record.must.store(1, Relaxed);
            self.rouse(owner - 1, home);
        }
    }

    /// The server of `cpu` hears of a block when the average has moved: `tell_block()`.
    pub(crate) fn tell_block(&mut self, cpu: u32, w: u32) {
        let agent = self.agents.of(cpu);
        if !agent.traits.history {
            return;
        }
        let record = &self.records[w as usize + 1];
        let (avg, told) = (
            u64::from(record.avg_ns.load(Relaxed)),
            u64::from(record.told_avg_ns.load(Relaxed)),
        );
        if has_terms(record) && avg < 2 * told && told < 2 * avg {
            return;
        }
        let list = &agent.record.blocked;
        if agent.record.push(list, cpu, record, w + 1, self.now) == Pushed::Linked {
            record.told_avg_ns.store(avg as u32, Relaxed);
        }
    }

    /// What the count of waiting workers costs `cpu` to change: the line comes to it, after those
    /// who asked before.
    pub(crate) fn touch_line(&mut self, cpu: u32) -> u64 {
        let distance = self.topology.distance(self.line.owner, cpu);
        let way = self.prices.line(distance);
        if distance == Distance::Same || way == 0 {
            return 0;
        }
        // A CPU waits for one change of each other one at most.
        let most = way * u64::from(self.settings.cpus);
        let wait = self.line.free_ns.saturating_sub(self.now).min(most);
        self.line.owner = cpu;
        self.line.free_ns = self.now + wait + way;
        wait + way
    }
}
