//! System groups, as `status` and the statistics show them.

use std::collections::BTreeMap;

use scx_stats_derive::{Stats, stat_doc};
use serde::{Deserialize, Serialize};
use umcg::record::SysUse;
use umcg::sync::Ordering::{Acquire, Relaxed};

use crate::agent::sysgroups::Seated;
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
    /// Of the group with this seat.
    fn read(shared: &Shared, seat: usize) -> Self {
        let cpus = &shared.sys_cpus.records()[..shared.nr_cpus];
        let sum = |field: fn(&SysUse) -> &umcg::sync::AtomicU64| -> u64 {
            cpus.iter()
                .map(|cpu| field(&cpu.use_[seat]).load(Relaxed))
                .sum()
        };
        Self {
            workers: workers(shared, seat),
            run_ns: sum(|u| &u.run_ns),
            wait_ns: sum(|u| &u.wait_ns),
            switches: sum(|u| &u.switches),
            preempts: sum(|u| &u.preempts),
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

fn workers(shared: &Shared, seat: usize) -> u64 {
    let live = shared
        .workers
        .records()
        .iter()
        .filter(|w| w.gen_.load(Acquire) & 1 == 1);
    live.filter(|w| w.sys_now.load(Relaxed) as usize == seat)
        .count() as u64
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
    let of = |group: &Seated| (group.name.clone(), GroupMetrics::read(shared, group.seat));
    seated.iter().map(of).collect()
}

/// All groups, the rest first; empty where no groups are configured.
pub fn read(shared: &Shared, seated: &[Seated]) -> Vec<SystemStatus> {
    if !any(shared) {
        return Vec::new();
    }
    let of = |terms: &Seated| {
        let had = GroupMetrics::read(shared, terms.seat);
        SystemStatus {
            terms: terms.clone(),
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
