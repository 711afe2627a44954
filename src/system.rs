//! System groups, as `status` and the statistics show them.

use std::collections::BTreeMap;

use scx_stats_derive::{Stats, stat_doc};
use serde::{Deserialize, Serialize};
use umcg::record::{SysCpu, Worker};
use umcg::sync::Ordering::{Acquire, Relaxed};

use crate::agent::sysgroups::{Seated, Sums};
use crate::shared::Shared;

/// One group: what is configured, and what it had since the attachment.
#[derive(Clone, Debug, Serialize)]
pub struct SystemStatus {
    /// Name and terms.
    #[serde(flatten)]
    pub terms: Seated,
    /// Threads that are in it.
    pub workers: u64,
    /// CPU time.
    pub run_s: f64,
    /// Time that its threads waited for a CPU.
    pub wait_s: f64,
    /// Threads put on a CPU.
    pub switches: u64,
    /// Wake-ups that preempted somebody.
    pub preempts: u64,
}

/// What a group had in an interval.
#[stat_doc]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Stats)]
pub struct GroupMetrics {
    #[stat(desc = "Threads that are in it")]
    pub workers: u64,
    #[stat(desc = "CPU time, ns")]
    pub run_ns: u64,
    #[stat(desc = "Time that its threads waited for a CPU, ns")]
    pub wait_ns: u64,
    #[stat(desc = "Threads put on a CPU")]
    pub switches: u64,
    #[stat(desc = "Wake-ups that preempted somebody")]
    pub preempts: u64,
}

impl GroupMetrics {
    /// Of this group.
    fn read(shared: &Shared, group: &Seated) -> Self {
        let cpus = &shared.sys_cpus.records()[..shared.nr_cpus];
        Self {
            workers: workers(shared.workers.records(), group.seat),
            ..Self::had(cpus, group)
        }
    }

    /// What it had, without what others had in its seat before.
    fn had(cpus: &[SysCpu], group: &Seated) -> Self {
        let (all, before) = (Sums::of(cpus, group.seat), group.before);
        Self {
            workers: 0,
            run_ns: all.run_ns.saturating_sub(before.run_ns),
            wait_ns: all.wait_ns.saturating_sub(before.wait_ns),
            switches: all.switches.saturating_sub(before.switches),
            preempts: all.preempts.saturating_sub(before.preempts),
        }
    }

    /// What happened since `before`; gauges as now.
    pub fn delta(&self, before: &Self) -> Self {
        Self {
            workers: self.workers,
            run_ns: self.run_ns.saturating_sub(before.run_ns),
            wait_ns: self.wait_ns.saturating_sub(before.wait_ns),
            switches: self.switches.saturating_sub(before.switches),
            preempts: self.preempts.saturating_sub(before.preempts),
        }
    }
}

fn workers(records: &[Worker], seat: usize) -> u64 {
    let live = records.iter().filter(|w| w.gen_.load(Acquire) & 1 == 1);
    live.filter(|w| w.group() as usize == seat).count() as u64
}

/// Are there groups to be shown at all?
fn any(shared: &Shared) -> bool {
    shared.sys.records()[0].on.load(Relaxed) != 0
}

/// Of each group by name; empty where no groups are configured.
pub fn metrics(shared: &Shared, seated: &[Seated]) -> BTreeMap<String, GroupMetrics> {
    if !any(shared) {
        return BTreeMap::new();
    }
    let of = |group: &Seated| (group.name.clone(), GroupMetrics::read(shared, group));
    seated.iter().map(of).collect()
}

/// All groups, the rest first; empty where no groups are configured.
pub fn read(shared: &Shared, seated: &[Seated]) -> Vec<SystemStatus> {
    if !any(shared) {
        return Vec::new();
    }
    let of = |terms: &Seated| {
        let had = GroupMetrics::read(shared, terms);
        SystemStatus {
            terms: Seated {
                before: Sums::default(),
                ..terms.clone()
            },
            workers: had.workers,
            run_s: had.run_ns as f64 / 1e9,
            wait_s: had.wait_ns as f64 / 1e9,
            switches: had.switches,
            preempts: had.preempts,
        }
    };
    seated.iter().map(of).collect()
}

/// The text form, a line each.
pub fn print(groups: &[SystemStatus]) {
    if groups.is_empty() {
        return;
    }
    println!(
        "{:>16} {:>8} {:>6} {:>9} {:>9} {:>9} {:>10} {:>10}  cpus",
        "system group", "workers", "share", "slice", "quantum", "policy", "cpu time", "waits"
    );
    for g in groups {
        let t = &g.terms;
        println!(
            "{:>16} {:>8} {:>5}% {:>7}us {:>7}us {:>9} {:>9.1}s {:>9.1}s  {}",
            t.name,
            g.workers,
            t.share,
            t.slice_us,
            t.quantum_us,
            t.policy,
            g.run_s,
            g.wait_s,
            t.cpus
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_on_a_used_seat_has_only_its_own() {
        let cpus = [SysCpu::default(), SysCpu::default()];
        let use_all = |ns| {
            for cpu in &cpus {
                cpu.use_[1].run_ns.fetch_add(ns, Relaxed);
            }
        };
        use_all(5);
        let group = Seated {
            seat: 1,
            before: Sums::of(&cpus, 1),
            ..Seated::default()
        };
        use_all(2);
        assert_eq!(GroupMetrics::had(&cpus, &group).run_ns, 4);
    }

    #[test]
    fn sleeper_is_in_the_group_that_was_found_for_it() {
        let records = [Worker::new(), Worker::new(), Worker::new()];
        for record in &records[..2] {
            record.gen_.store(3, Relaxed);
            record.sys_now.store(1, Relaxed);
        }
        records[1].answer(3, 2, 0);
        records[0].answer(1, 2, 0);
        assert_eq!([1, 2].map(|seat| workers(&records, seat)), [1, 1]);
    }
}
