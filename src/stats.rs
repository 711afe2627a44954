//! Statistics, served by the protocol of the scx schedulers.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use scx_stats::prelude::*;
use scx_stats_derive::{Stats, stat_doc};
use serde::{Deserialize, Serialize};

use crate::agent::sysgroups::Seated;
use crate::counters::index;
use crate::shared::Shared;
use crate::system::{self, GroupMetrics};
use crate::waits::{TIERS, TierWaits};

/// What a running instance did, per interval; gauges are as of now.
#[stat_doc]
#[derive(Clone, Debug, Default, Serialize, Deserialize, Stats)]
#[stat(top)]
pub struct Metrics {
    #[stat(desc = "Workers put on a CPU")]
    pub switches: u64,
    #[stat(desc = "Of these, with two or more waiting")]
    pub contended: u64,
    #[stat(desc = "Contended switches to a worker that a server staged")]
    pub staged: u64,
    #[stat(desc = "Contended switches by key")]
    pub by_key: u64,
    #[stat(desc = "Contended switches in kernel order, for an absent server")]
    pub absent: u64,
    #[stat(desc = "Switches to a worker parked at another server")]
    pub stolen: u64,
    #[stat(desc = "Wake-ups that went straight to an idle CPU")]
    pub direct: u64,
    #[stat(desc = "Wake-ups that preempted the running worker")]
    pub preempted: u64,
    #[stat(desc = "Forced RUNNING to RUNNABLE")]
    pub forced: u64,
    #[stat(desc = "Servers given a CPU")]
    pub activations: u64,
    #[stat(desc = "Edges to BLOCKED")]
    pub blocks: u64,
    #[stat(desc = "Edges from BLOCKED to RUNNABLE")]
    pub wakes: u64,
    #[stat(desc = "Workers released by the relief valve")]
    pub rescued: u64,
    #[stat(desc = "Edges that the state machine does not allow")]
    pub illegal: u64,
    #[stat(desc = "CPU time of workers, ns")]
    pub busy_ns: u64,
    #[stat(desc = "CPU time of servers, ns")]
    pub server_ns: u64,
    #[stat(desc = "CPU time idle while a worker waited for it, ns")]
    pub idle_work_ns: u64,
    #[stat(desc = "Workers waiting now")]
    pub waiting: u64,
    #[stat(desc = "Times the kernel ejected this agent")]
    pub ejections: u64,
    #[stat(desc = "How long workers waited for a CPU, by tier")]
    pub waits: BTreeMap<String, TierWaits>,
    #[stat(desc = "System groups, where some are configured")]
    pub groups: BTreeMap<String, GroupMetrics>,
}

impl Metrics {
    /// Reads the records.
    pub fn read(shared: &Shared, ejections: u64, groups: &[Seated]) -> Self {
        let sum = |which| shared.counter(which);
        Self {
            switches: sum(index::switches),
            contended: sum(index::contended),
            staged: sum(index::staged),
            by_key: sum(index::by_key),
            absent: sum(index::absent),
            stolen: sum(index::stolen),
            direct: sum(index::direct),
            preempted: sum(index::preempt_wake) + sum(index::preempt_tick),
            forced: sum(index::preempt_forced),
            activations: sum(index::activations),
            blocks: sum(index::blocks),
            wakes: sum(index::wakes),
            rescued: sum(index::rescued),
            illegal: sum(index::edge_illegal),
            busy_ns: sum(index::busy_ns),
            server_ns: sum(index::server_ns),
            idle_work_ns: sum(index::idle_work_ns),
            waiting: waiting(shared),
            ejections,
            groups: system::metrics(shared, groups),
            waits: (TIERS.iter().enumerate())
                .map(|(tier, name)| ((*name).to_owned(), (&shared.waits(tier)).into()))
                .collect(),
        }
    }

    /// What happened since `before`; gauges stay.
    pub fn delta(&self, before: &Self) -> Self {
        let d = |now: u64, then: u64| now.saturating_sub(then);
        Self {
            switches: d(self.switches, before.switches),
            contended: d(self.contended, before.contended),
            staged: d(self.staged, before.staged),
            by_key: d(self.by_key, before.by_key),
            absent: d(self.absent, before.absent),
            stolen: d(self.stolen, before.stolen),
            direct: d(self.direct, before.direct),
            preempted: d(self.preempted, before.preempted),
            forced: d(self.forced, before.forced),
            activations: d(self.activations, before.activations),
            blocks: d(self.blocks, before.blocks),
            wakes: d(self.wakes, before.wakes),
            rescued: d(self.rescued, before.rescued),
            illegal: d(self.illegal, before.illegal),
            busy_ns: d(self.busy_ns, before.busy_ns),
            server_ns: d(self.server_ns, before.server_ns),
            idle_work_ns: d(self.idle_work_ns, before.idle_work_ns),
            waiting: self.waiting,
            ejections: self.ejections,
            groups: (self.groups.iter())
                .map(|(name, now)| {
                    let then = before.groups.get(name).cloned().unwrap_or_default();
                    (name.clone(), now.delta(&then))
                })
                .collect(),
            waits: (self.waits.iter())
                .map(|(tier, now)| {
                    let then = before.waits.get(tier).map(TierWaits::hist);
                    let hist = now.hist().since(&then.unwrap_or_default());
                    (tier.clone(), (&hist).into())
                })
                .collect(),
        }
    }

    /// One line for a terminal, and one for the waits, p50/p99/max of each tier that had any.
    pub fn format<W: Write>(&self, out: &mut W) -> io::Result<()> {
        let share = |n: u64| n as f64 * 100.0 / self.contended.max(1) as f64;
        let cpu = self.server_ns as f64 * 100.0 / (self.busy_ns + self.server_ns).max(1) as f64;
        writeln!(
            out,
            "[scx_umcg] switches {:>7} contended {:>7} (staged {:>5.1}% key {:>5.1}% absent {:>4.1}%) \
             stolen {:>5} direct {:>6} preempt {:>5} activations {:>5} server cpu {:>4.1}% waiting {:>3} rescued {}",
            self.switches,
            self.contended,
            share(self.staged),
            share(self.by_key),
            share(self.absent),
            self.stolen,
            self.direct,
            self.preempted + self.forced,
            self.activations,
            cpu,
            self.waiting,
            self.rescued,
        )?;
        let waits: Vec<_> = (TIERS.iter())
            .filter_map(|tier| Some((tier, self.waits.get(*tier)?)))
            .filter(|(_, waits)| waits.count > 0)
            .map(|(tier, waits)| format!("{tier} {}", waits.compact()))
            .collect();
        writeln!(
            out,
            "[scx_umcg] waits p50/p99/max: {}",
            if waits.is_empty() {
                "none".to_owned()
            } else {
                waits.join("  ")
            }
        )?;
        if self.groups.is_empty() {
            return Ok(());
        }
        let all = self.groups.values().map(|g| g.run_ns).sum::<u64>().max(1);
        let of = |(name, g): (&String, &GroupMetrics)| {
            let share = g.run_ns as f64 * 100.0 / all as f64;
            format!(
                "{name} {share:.1}% ({} threads, {} switches)",
                g.workers, g.switches
            )
        };
        let groups: Vec<_> = self.groups.iter().map(of).collect();
        writeln!(out, "[scx_umcg] cpu time of groups: {}", groups.join("  "))
    }
}

fn waiting(shared: &Shared) -> u64 {
    use umcg::word::{State, Word};
    shared
        .workers
        .records()
        .iter()
        .filter(|w| w.gen_.load(umcg::sync::Ordering::Relaxed) & 1 == 1)
        .filter(|w| {
            Word(w.word.load(umcg::sync::Ordering::Relaxed)).state() == Some(State::Runnable)
        })
        .count() as u64
}

/// What the statistics socket serves: `top`, a delta per request.
pub fn server_data() -> StatsServerData<(), Metrics> {
    let open: Box<dyn StatsOpener<(), Metrics>> = Box::new(move |(req, res)| {
        req.send(())?;
        let mut before = res.recv()?;
        let read: Box<dyn StatsReader<(), Metrics>> = Box::new(move |_args, (req, res)| {
            req.send(())?;
            let now = res.recv()?;
            let delta = now.delta(&before);
            before = now;
            delta.to_json()
        });
        Ok(read)
    });
    StatsServerData::new()
        .add_meta(Metrics::meta())
        .add_meta(TierWaits::meta())
        .add_meta(GroupMetrics::meta())
        .add_ops("top", StatsOps { open, close: None })
}

/// `--monitor`: prints a running instance's statistics until `stop` says so.
pub fn monitor(every: Duration, stop: impl Fn() -> bool) -> Result<()> {
    scx_utils::monitor_stats::<Metrics>(&[], every, stop, |metrics| {
        metrics.format(&mut io::stdout())?;
        Ok(())
    })
}

/// `--help-stats`.
pub fn describe() -> Result<()> {
    server_data().describe_meta(&mut io::stdout(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delta_subtracts_counters_and_keeps_gauges() {
        let before = Metrics {
            switches: 5,
            waiting: 9,
            ..Default::default()
        };
        let now = Metrics {
            switches: 12,
            waiting: 3,
            ..Default::default()
        };
        let delta = now.delta(&before);
        assert_eq!((delta.switches, delta.waiting), (7, 3));
    }

    #[test]
    fn delta_of_waits_is_what_the_interval_had() {
        let metrics = |first, second| {
            let hist = crate::waits::Hist(std::array::from_fn(|i| match i {
                0 => first,
                5 => second,
                _ => 0,
            }));
            Metrics {
                waits: [("normal".to_owned(), (&hist).into())].into(),
                ..Default::default()
            }
        };
        let delta = metrics(1000, 7).delta(&metrics(1000, 3));
        let waits = &delta.waits["normal"];
        assert_eq!((waits.count, waits.p50_us), (4, 32.768));
        let mut line = Vec::new();
        delta.format(&mut line).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(line.ends_with("max: normal 33us/33us/33us\n"), "{line}");
    }

    #[test]
    fn groups_have_a_line_only_where_there_are_some() {
        let metrics = |run_ns| Metrics {
            groups: [("db".to_owned(), run_ns), ("default".to_owned(), 100)]
                .map(|(name, run_ns)| {
                    (
                        name,
                        GroupMetrics {
                            run_ns,
                            workers: 2,
                            ..Default::default()
                        },
                    )
                })
                .into(),
            ..Default::default()
        };
        let mut text = Vec::new();
        metrics(400)
            .delta(&Metrics::default())
            .format(&mut text)
            .unwrap();
        let text = String::from_utf8(text).unwrap();
        let want = "db 80.0% (2 threads, 0 switches)  default 20.0% (2 threads, 0 switches)\n";
        assert!(text.ends_with(want), "{text}");
        assert_eq!(metrics(400).delta(&metrics(300)).groups["db"].run_ns, 100);
    }

    #[test]
    fn format_of_nothing_divides_by_no_zero() {
        let mut line = Vec::new();
        Metrics::default().format(&mut line).unwrap();
        assert!(!String::from_utf8(line).unwrap().contains("NaN"));
    }
}
