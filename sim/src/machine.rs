//! The machine: CPUs, their time, and the loop of events.
//!
//! A CPU does one thing at a time: nothing, a worker, or its server. What the kernel does in between
//! (switches, wake-ups, interrupts) is added to that CPU's time before, or into, what it does. The
//! paths are in [`wake`](crate::wake) and [`dispatch`](crate::dispatch).

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use umcg::record::Worker as Record;
use umcg::sync::Ordering::Relaxed;
use umcg::word::State;
use umcg_policy::{Decide, Order, PolicyConfig};

use crate::agent::Agents;
use crate::app::{App, Step};
use crate::costs::{Costs, Domains, Prices};
use crate::event::{Event, Events};
use crate::idle::{Idle, IdleKind};
use crate::load::Load;
use crate::order;
use crate::park::Parks;
use crate::stats::{Report, Spent, Stats, jain};
use crate::topology::Topology;
use crate::worker::{Place, Worker, move_word, record};

/// Not zero: policies may use 0 for "never".
const START_NS: u64 = 1_000_000_000;
/// Most workers of a run.
pub const MAX_WORKERS: u32 = 1_000_000;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Settings {
    /// CPUs, 1..=256.
    pub cpus: u32,
    /// Workers, 1..=1000000.
    pub workers: u32,
    /// What they do.
    pub load: Load,
    /// The policy, as the daemon's flag `--policy` takes it.
    pub policy: String,
    /// Who decides; `None`: as the policy prefers.
    pub decide: Option<Decide>,
    /// Choices that a server stages per activation, 1..=64.
    pub stage: u32,
    /// Slice of workers without one of their own.
    pub slice_us: u64,
    /// Who finds idle CPUs.
    pub idle: IdleKind,
    /// Of all random numbers.
    pub seed: u64,
    /// Simulated time that is counted.
    pub seconds: f64,
    /// Simulated time before that.
    pub warm_up: f64,
    /// What operations cost.
    pub costs: Costs,
    /// Caches and nodes.
    pub domains: Domains,
}

impl Settings {
    /// `load` with `workers` on `cpus`; all else as the daemon has it.
    pub fn new(cpus: u32, workers: u32, load: Load) -> Self {
        Settings {
            cpus,
            workers,
            load,
            policy: "fair".to_owned(),
            decide: None,
            stage: 8,
            slice_us: 4000,
            idle: IdleKind::Kernel,
            seed: 1,
            seconds: 1.0,
            warm_up: 0.1,
            costs: Costs::default(),
            domains: Domains::default(),
        }
    }

    fn check(&self) -> Result<()> {
        let within = |name: &str, value: f64, low: f64, high: f64| {
            let fits = (low..=high).contains(&value);
            ensure!(fits, "{name} {value}: not within {low}..={high}");
            Ok(())
        };
        within("workers", self.workers.into(), 1.0, MAX_WORKERS.into())?;
        within("stage", self.stage.into(), 1.0, 64.0)?;
        within("slice-us", self.slice_us as f64, 100.0, 100_000.0)?;
        within("seconds", self.seconds, 0.001, 100_000.0)?;
        within("warm-up", self.warm_up, 0.0, 100_000.0)
    }
}

/// What a CPU does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// Nothing, or it is about to choose.
    Nothing,
    /// This worker.
    Worker(u32),
    /// Its server comes and reads its lists.
    Server,
    /// Its server has decided and parks.
    Parking,
}

/// Whom the time of a CPU is charged to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payer {
    /// The kernel.
    Kernel,
    /// The agent.
    Agent,
}

/// A CPU.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// What it does.
    pub doing: Doing,
    /// Which event of its own is the valid one.
    pub stamp: u32,
    /// Since when it does that, after what the kernel had to do before.
    pub start_ns: u64,
    /// Until when, if nothing comes in between.
    pub end_ns: u64,
    /// Not free before that, while it does nothing.
    pub free_ns: u64,
    /// CPU time that the running worker may still use.
    pub slice_ns: u64,
    /// Put on its local queue by a wakee's preemption.
    pub local: Option<u32>,
    /// A preemption is under way.
    pub preempting: bool,
    /// A short wakee waits that could not preempt.
    pub want: bool,
    /// Its next tick is an event.
    pub ticking: bool,
    /// The running worker wakes these, the next one at `end_ns`.
    pub sending: Option<(u32, u32)>,
    /// Where its time went.
    pub spent: Spent,
}

impl Cpu {
    fn new() -> Self {
        Cpu {
            doing: Doing::Nothing,
            stamp: 0,
            start_ns: 0,
            end_ns: 0,
            free_ns: 0,
            slice_ns: 0,
            local: None,
            preempting: false,
            want: false,
            ticking: false,
            sending: None,
            spent: Spent::default(),
        }
    }
}

/// The cache line that all CPUs write: the count of waiting workers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Line {
    pub(crate) owner: u32,
    pub(crate) free_ns: u64,
}

/// A machine with a load.
#[derive(Debug)]
pub struct Machine {
    pub(crate) settings: Settings,
    pub(crate) now: u64,
    pub(crate) topology: Topology,
    pub(crate) prices: Prices,
    pub(crate) events: Events,
    pub(crate) parks: Parks,
    pub(crate) idle: Idle,
    pub(crate) agents: Agents,
    pub(crate) records: Vec<Record>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) cpus: Vec<Cpu>,
    /// Per CPU: the largest virtual time that was picked there.
    pub(crate) clocks: Vec<u64>,
    pub(crate) order: Order,
    pub(crate) line: Line,
    pub(crate) app: App,
    pub(crate) random: Pcg64Mcg,
    pub(crate) stats: Stats,
    handled: u64,
    /// CPU time of each worker when counting began.
    run_before: Vec<u64>,
}

impl Machine {
    /// All workers blocked, all CPUs idle.
    ///
    /// # Errors
    ///
    /// A setting out of bounds, or a policy that cannot be made.
    pub fn new(settings: Settings) -> Result<Self> {
        settings.check()?;
        let (cpus, workers) = (settings.cpus, settings.workers);
        let domains = settings.domains;
        let topology = Topology::new(cpus, domains.llc_cpus, domains.node_cpus)?;
        let config = PolicyConfig::parse(&settings.policy)?.decide(settings.decide);
        let agents = Agents::new(&config, cpus, workers, settings.stage, START_NS)?;
        let kind = settings.load.resolve(cpus, workers)?;
        let weights = &settings.load.weights;
        let born = |w: u32| START_NS - u64::from(workers) + u64::from(w);
        let record = |w: u32| {
            let weight = weights[w as usize % weights.len()];
            record(w, weight, w % cpus, born(w))
        };
        let nobody = std::iter::once(Record::new());
        let place = |w: u32| Worker {
            last_cpu: w % cpus,
            clock_cpu: w % cpus,
            ..Worker::default()
        };
        Ok(Machine {
            now: START_NS,
            prices: Prices::new(&settings.costs),
            events: Events::default(),
            parks: Parks::new(cpus, workers),
            idle: Idle::new(settings.idle, cpus),
            order: agents.of(0).traits.order,
            agents,
            records: nobody.chain((0..workers).map(record)).collect(),
            workers: (0..workers).map(place).collect(),
            cpus: vec![Cpu::new(); cpus as usize],
            clocks: vec![0; cpus as usize],
            line: Line::default(),
            app: App::new(kind, settings.seed),
            random: Pcg64Mcg::seed_from_u64(settings.seed ^ 0x5eed),
            stats: Stats::new(START_NS)?,
            handled: 0,
            run_before: vec![0; workers as usize],
            topology,
            settings,
        })
    }

    /// Simulates; the report.
    ///
    /// # Errors
    ///
    /// No histogram.
    pub fn run(mut self) -> Result<Report> {
        self.simulate()?;
        Ok(self.report())
    }

    /// The same without a report, so that a test can look at what is left.
    ///
    /// # Errors
    ///
    /// No histogram.
    pub fn simulate(&mut self) -> Result<()> {
        let (wakes, arrival) = self.app.begin(self.settings.workers, self.now);
        for (at, w) in wakes {
            self.events.put(at, Event::Wake(w));
        }
        if let Some(at) = arrival {
            self.events.put(at, Event::Arrival);
        }
        let ns = |seconds: f64| (seconds * 1e9).round() as u64;
        let warm = START_NS + ns(self.settings.warm_up);
        self.until(warm);
        self.stats = Stats::new(warm)?;
        for cpu in &mut self.cpus {
            cpu.spent = Spent::default();
        }
        for (before, record) in self.run_before.iter_mut().zip(&self.records[1..]) {
            *before = record.run_ns.load(Relaxed);
        }
        self.until(warm + ns(self.settings.seconds));
        Ok(())
    }

    /// Handles all events up to `end_ns`, and charges who runs then.
    fn until(&mut self, end_ns: u64) {
        while let Some((at, event)) = self.events.take(end_ns) {
            self.now = at;
            self.handled += 1;
            match event {
                Event::Cpu(cpu, stamp) => self.cpu_event(cpu, stamp),
                Event::Tick(cpu) => self.tick(cpu),
                Event::Bell(cpu) => self.bell_heard(cpu),
                Event::Kick(cpu) => self.kicked(cpu),
                Event::Wake(w) => {
                    self.app.woken(w, &mut self.workers, self.now);
                    self.wake(w, None);
                }
                Event::Arrival => self.arrival(),
            }
        }
        self.now = end_ns;
        for cpu in 0..self.settings.cpus {
            if let Doing::Worker(w) = self.cpus[cpu as usize].doing
                && self.cpus[cpu as usize].sending.is_none()
            {
                self.charge_running(cpu, w);
            }
        }
    }

    fn arrival(&mut self) {
        let next = self.app.next_arrival(self.now);
        self.events.put(next, Event::Arrival);
        if let Some(w) = self.app.arrive(&mut self.workers, self.now) {
            self.wake(w, None);
        }
    }

    fn cpu_event(&mut self, cpu: u32, stamp: u32) {
        let it = &self.cpus[cpu as usize];
        if it.stamp != stamp {
            return;
        }
        if it.end_ns > self.now {
            // An interrupt took some of its time.
            let end = it.end_ns;
            self.events.put(end, Event::Cpu(cpu, stamp));
            return;
        }
        match it.doing {
            Doing::Worker(w) if it.sending.is_some() => self.send_one(cpu, w),
            Doing::Worker(w) => {
                self.charge_running(cpu, w);
                if self.workers[w as usize].left_ns > 0 {
                    self.dispatch(cpu, Some(w));
                    return;
                }
                let (step, took) = self.app.done(w, &mut self.workers, self.now);
                if let Some(ns) = took {
                    self.stats.counts.ops += 1;
                    self.stats.responses.record(ns);
                }
                self.step(cpu, w, step);
            }
            Doing::Server => self.server_decides(cpu),
            Doing::Parking => {
                self.agents.of_mut(cpu).parked_ns = self.now;
                self.dispatch(cpu, None);
            }
            Doing::Nothing => {}
        }
    }

    /// `w`, which runs, has used its CPU until now.
    pub(crate) fn charge_running(&mut self, cpu: u32, w: u32) {
        let it = &mut self.cpus[cpu as usize];
        // What the kernel still has to do before it comes first.
        let Some(used) = self.now.checked_sub(it.start_ns) else {
            return;
        };
        it.start_ns = self.now;
        it.spent.work += used;
        it.slice_ns = it.slice_ns.saturating_sub(used);
        let worker = &mut self.workers[w as usize];
        worker.left_ns -= used;
        order::charge(worker, &self.records[w as usize + 1], used);
    }

    fn step(&mut self, cpu: u32, w: u32, step: Step) {
        match step {
            Step::Go => {
                let it = &self.cpus[cpu as usize];
                if it.slice_ns == 0 || it.local.is_some() {
                    self.dispatch(cpu, Some(w));
                } else {
                    self.stint(cpu, w);
                }
            }
            Step::Block | Step::Sleep(_) => {
                self.block(cpu, w);
                if let Step::Sleep(at) = step {
                    self.events.put(at, Event::Wake(w));
                }
                self.dispatch(cpu, None);
            }
            Step::Send(first, last) => self.send_next(cpu, first, last),
        }
    }

    /// The system call that wakes `first` begins.
    fn send_next(&mut self, cpu: u32, first: u32, last: u32) {
        let cost = self.prices.wake;
        let it = &mut self.cpus[cpu as usize];
        it.sending = Some((first, last));
        it.start_ns = self.now;
        it.end_ns = self.now;
        self.pay(cpu, cost, Payer::Kernel);
        self.end_event(cpu);
    }

    fn send_one(&mut self, cpu: u32, w: u32) {
        let Some((other, last)) = self.cpus[cpu as usize].sending.take() else {
            return;
        };
        self.app.send(w, other, &mut self.workers, self.now);
        // What else it pays is paid before the next one.
        self.cpus[cpu as usize].start_ns = self.now;
        self.workers[w as usize].quiet_ns = 0;
        self.wake(other, Some(cpu));
        if other < last {
            let debt = self.cpus[cpu as usize].start_ns - self.now;
            self.send_next(cpu, other + 1, last);
            let it = &mut self.cpus[cpu as usize];
            it.end_ns += debt;
            it.start_ns += debt;
            return;
        }
        let step = self.app.sent(w, &mut self.workers);
        self.step(cpu, w, step);
    }

    /// `w` runs on, from when the CPU's start is, until its operation or its slice ends.
    pub(crate) fn stint(&mut self, cpu: u32, w: u32) {
        let left = self.workers[w as usize].left_ns;
        let it = &mut self.cpus[cpu as usize];
        it.end_ns = it.start_ns + left.min(it.slice_ns);
        self.end_event(cpu);
    }

    /// What it does now ends at its `end_ns`; no other event counts.
    pub(crate) fn end_event(&mut self, cpu: u32) {
        let it = &mut self.cpus[cpu as usize];
        it.stamp = it.stamp.wrapping_add(1);
        let (end, stamp) = (it.end_ns.max(self.now), it.stamp);
        self.events.put(end, Event::Cpu(cpu, stamp));
    }

    /// `cpu` has to do something else for `ns` first.
    pub(crate) fn pay(&mut self, cpu: u32, ns: u64, payer: Payer) {
        let it = &mut self.cpus[cpu as usize];
        match payer {
            Payer::Kernel => it.spent.kernel += ns,
            Payer::Agent => it.spent.agent += ns,
        }
        if it.doing == Doing::Nothing {
            it.free_ns = it.free_ns.max(self.now) + ns;
        } else {
            it.start_ns += ns;
            it.end_ns += ns;
        }
    }

    fn block(&mut self, cpu: u32, w: u32) {
        let (worker, record) = (&mut self.workers[w as usize], &self.records[w as usize + 1]);
        order::burst_end(worker, record);
        worker.place = Place::Blocked;
        move_word(record, self.now, State::Blocked as u64);
        self.tell_block(cpu, w);
        self.pay(cpu, self.prices.block, Payer::Kernel);
    }

    /// What it has counted.
    pub fn report(&self) -> Report {
        let elapsed = (self.now - self.stats.since_ns) as f64;
        let all = elapsed * f64::from(self.settings.cpus);
        let sum = |get: fn(&Spent) -> u64| {
            let spent: u64 = self.cpus.iter().map(|cpu| get(&cpu.spent)).sum();
            spent as f64 / all
        };
        let got = self.records[1..]
            .iter()
            .zip(&self.run_before)
            .zip(&self.workers);
        let got = got.filter_map(|((record, &before), worker)| {
            let ran = record.run_ns.load(Relaxed) - before;
            let wanted = ran > 0 || worker.place == Place::Waiting;
            wanted.then(|| ran as f64 / f64::from(record.weight.load(Relaxed)))
        });
        let table = self.settings.costs.table();
        let assumed = table
            .iter()
            .filter(|it| it.origin == crate::costs::Origin::Assumed && it.value != 0.0);
        Report {
            load: self.settings.load.to_string(),
            policy: self.settings.policy.clone(),
            decide: self.agents.of(0).traits.decide.to_string(),
            cpus: self.settings.cpus,
            workers: self.settings.workers,
            seed: self.settings.seed,
            seconds: elapsed / 1e9,
            throughput: self.stats.counts.ops as f64 * 1e9 / elapsed,
            waits: self.stats.waits.summary(),
            responses: self.stats.responses.summary(),
            work_share: sum(|it| it.work),
            agent_share: sum(|it| it.agent),
            kernel_share: sum(|it| it.kernel),
            fairness: jain(got),
            counts: self.stats.counts,
            events: self.handled,
            assumed: assumed.map(|it| it.key).collect(),
        }
    }

    /// Whether each worker is in one place, each CPU does one thing, and no operation was lost;
    /// what is wrong otherwise.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn audit(&self) -> Result<()> {
        let mut in_flight = self.app.backlog() as u64;
        for (w, worker) in (0u32..).zip(&self.workers) {
            in_flight += u64::from(worker.left_ns > 0);
            let on: Vec<u32> = (0..self.settings.cpus)
                .filter(|&cpu| self.cpus[cpu as usize].doing == Doing::Worker(w))
                .collect();
            let local = self.cpus.iter().filter(|cpu| cpu.local == Some(w)).count();
            let waits = usize::from(self.parks.has(w)) + local;
            let fits = match worker.place {
                Place::Running(cpu) => on == [cpu] && waits == 0,
                Place::Waiting => on.is_empty() && waits == 1,
                Place::Blocked => on.is_empty() && waits == 0,
            };
            ensure!(
                fits,
                "worker {w}: {:?}, on {on:?}, waits {waits}",
                worker.place
            );
        }
        let bosses = match self.settings.load.kind {
            // A boss's own work is no operation.
            crate::load::Kind::Messaging { fan, .. } => (self.workers.iter())
                .step_by(fan as usize + 1)
                .filter(|boss| boss.left_ns > 0)
                .count() as u64,
            _ => 0,
        };
        ensure!(
            self.app.asked == self.app.ended + in_flight - bosses,
            "{} asked for, {} ended, {in_flight} under way, {bosses} bosses at work",
            self.app.asked,
            self.app.ended
        );
        for (at, cpu) in self.cpus.iter().enumerate() {
            let spent = cpu.spent.work + cpu.spent.agent + cpu.spent.kernel;
            let passed = self.now - self.stats.since_ns;
            // What was begun may end later.
            let ahead = cpu.start_ns.max(cpu.free_ns).max(cpu.end_ns);
            ensure!(
                spent <= passed + ahead.saturating_sub(self.now),
                "CPU {at}: {spent} ns of {passed}"
            );
            ensure!(
                self.idle.has(at as u32) == (cpu.doing == Doing::Nothing),
                "CPU {at}: idle or not? {:?}",
                cpu.doing
            );
        }
        Ok(())
    }

    /// Operations asked for and ended, since the start.
    pub fn conserved(&self) -> (u64, u64) {
        (self.app.asked, self.app.ended)
    }
}
