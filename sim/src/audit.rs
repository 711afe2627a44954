//! What a machine tells when it stands still: its report, and whether all is where it belongs.

use anyhow::{Result, ensure};
use umcg::sync::Ordering::Relaxed;

use crate::costs::Origin;
use crate::load::Kind;
use crate::machine::{Doing, Machine};
use crate::stats::{Report, Spent, jain};
use crate::worker::Place;

impl Machine {
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
            .filter(|it| it.origin == Origin::Assumed && it.value != 0.0);
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
            Kind::Messaging { fan, .. } => (self.workers.iter())
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
