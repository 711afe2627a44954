//! System groups as BPF has them: which seat of its table each group has, and its terms.

use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use umcg::record::{MAX_CPUS, MAX_SYS, Sys, SysCpu, SysGroups, SysUse};
use umcg::sync::AtomicU64;
use umcg::sync::Ordering::{Relaxed, Release};

use super::server::run_program;
use crate::config::cpus::CpuSet;
use crate::config::{Config, REST};

/// Sums over all CPUs that belong to a seat; BPF never sets them back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// CPU time.
    pub run_ns: u64,
    /// Time that its threads waited for a CPU.
    pub wait_ns: u64,
    /// Threads put on a CPU.
    pub switches: u64,
    /// Wake-ups that preempted somebody.
    pub preempts: u64,
}

impl Sums {
    /// Those of `seat` until now.
    pub fn of(cpus: &[SysCpu], seat: usize) -> Self {
        let sum = |field: fn(&SysUse) -> &AtomicU64| -> u64 {
            let cells = cpus.iter().map(|cpu| field(&cpu.use_[seat]));
            cells.map(|cell| cell.load(Relaxed)).sum()
        };
        Self {
            run_ns: sum(|u| &u.run_ns),
            wait_ns: sum(|u| &u.wait_ns),
            switches: sum(|u| &u.switches),
            preempts: sum(|u| &u.preempts),
        }
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A group that runs, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seated {
    /// Its number in BPF's table.
    pub seat: usize,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: String,
    /// Its CPUs.
    pub cpus: String,
    /// Its weight against other groups, in percent.
    pub share: u32,
    /// CPU time per pick.
    pub slice_us: u64,
    /// Forced preemption after so long, 0 = off.
    pub quantum_us: u64,
    /// Its threads may preempt on wake-up.
    pub preempt: bool,
    /// What other groups had in its seat before it.
    #[serde(default, skip_serializing_if = "Sums::is_nothing")]
    pub before: Sums,
}

/// Which group has which seat. A group keeps its seat as long as it has its name, so that its
/// threads need not be told anew; a seat that became free is given away last.
#[derive(Debug, Default)]
pub struct Seats {
    names: [String; MAX_SYS],
    /// The round of [`Seats::assign`] in which the seat was last taken.
    taken: [u64; MAX_SYS],
    /// What the seat had had when its group took it.
    before: [Sums; MAX_SYS],
    round: u64,
}

impl Seats {
    /// The seats of groups with these names, at most `MAX_SYS - 1` of them; seat 0 is that of
    /// the rest. `cpus` is what seats had so far.
    pub fn assign(&mut self, names: &[&str], cpus: &[SysCpu]) -> Vec<usize> {
        self.round += 1;
        let mut seats: Vec<Option<usize>> = Vec::new();
        for name in names {
            let seat = (1..MAX_SYS).find(|&seat| self.names[seat] == *name);
            if let Some(seat) = seat {
                self.taken[seat] = self.round;
            }
            seats.push(seat);
        }
        let mut take = |name: &str| {
            let free = (1..MAX_SYS)
                .min_by_key(|&seat| self.taken[seat])
                .unwrap_or(0);
            self.taken[free] = self.round;
            self.names[free] = name.to_owned();
            self.before[free] = Sums::of(cpus, free);
            free
        };
        let seated = names.iter().zip(seats);
        seated
            .map(|(name, seat)| seat.unwrap_or_else(|| take(name)))
            .collect()
    }
}

/// What `config` says, with the seats of its groups; the rest comes first. `cpus` as in
/// [`Seats::assign`].
pub fn seat(config: &Config, seats: &mut Seats, cpus: &[SysCpu]) -> Vec<Seated> {
    let names: Vec<&str> = config.groups.iter().map(|g| g.name.as_str()).collect();
    let numbers = seats.assign(&names, cpus);
    let d = &config.daemon;
    let rest = Seated {
        seat: 0,
        name: REST.to_owned(),
        policy: d.policy.clone(),
        cpus: d.cpus.to_string(),
        share: d.share,
        slice_us: d.slice_us,
        quantum_us: d.quantum_us,
        preempt: d.preempt,
        before: Sums::default(),
    };
    let groups = config.groups.iter().zip(numbers).map(|(g, seat)| Seated {
        seat,
        name: g.name.clone(),
        policy: g.policy.clone(),
        cpus: g.cpus.to_string(),
        share: g.share,
        slice_us: g.slice_us,
        quantum_us: g.quantum_us,
        preempt: g.preempt,
        before: seats.before[seat],
    });
    std::iter::once(rest).chain(groups).collect()
}

/// Writes `config`'s terms into BPF's table. They count from each worker's next pick on.
pub fn write(table: &SysGroups, config: &Config, seated: &[Seated], possible: &CpuSet) {
    let sets = std::iter::once(&config.daemon.cpus).chain(config.groups.iter().map(|g| &g.cpus));
    for (group, cpus) in seated.iter().zip(sets) {
        write_one(&table.sys[group.seat], group, cpus);
    }
    let d = &config.daemon;
    let on = !config.groups.is_empty() || d.cpus != *possible || !d.preempt;
    table.on.store(u32::from(on), Release);
}

fn write_one(sys: &Sys, group: &Seated, cpus: &CpuSet) {
    sys.slice_ns.store(group.slice_us * 1000, Relaxed);
    sys.quantum_ns.store(group.quantum_us * 1000, Relaxed);
    sys.share.store(group.share, Relaxed);
    sys.quiet.store(u32::from(!group.preempt), Relaxed);
    for (cell, word) in sys.cpus.iter().zip(cpus.words::<{ MAX_CPUS / 64 }>()) {
        cell.store(word, Relaxed);
    }
}

/// Has BPF count anew which CPU serves whom; `program` is its umcg_sys_apply.
pub fn apply(program: &OwnedFd) -> Result<()> {
    let mut call = umcg::intf::umcg_call {
        index: 0,
        gen_: 0,
        ret: -1,
        pad0: 0,
    };
    run_program(program, &mut call)?;
    ensure!(call.ret == 0, "BPF answered {}", call.ret);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;
    use crate::config::cpus::Machine;

    #[test]
    fn seats_stay_with_names_and_free_ones_rest() {
        let mut seats = Seats::default();
        assert_eq!(seats.assign(&["a", "b"], &[]), [1, 2]);
        assert_eq!(
            seats.assign(&["b", "c"], &[]),
            [2, 3],
            "that of a is given away last"
        );
        assert_eq!(
            seats.assign(&["c", "a"], &[]),
            [3, 1],
            "nobody took it meanwhile"
        );
        let names: Vec<String> = (0..MAX_SYS - 1).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut all = seats.assign(&names, &[]);
        all.sort_unstable();
        assert_eq!(all, (1..MAX_SYS).collect::<Vec<_>>());
    }

    #[test]
    fn seat_that_is_taken_over_begins_anew() {
        let cpus = [SysCpu::default()];
        let mut seats = Seats::default();
        let had = |seat: usize| cpus[0].use_[seat].switches.fetch_add(3, Relaxed);
        let first = seats.assign(&["a"], &cpus)[0];
        had(first);
        seats.assign(&["a"], &cpus);
        assert_eq!(seats.before[first], Sums::default(), "still that of a");
        // All others are given away first.
        for n in 0..MAX_SYS - 1 {
            seats.assign(&[&n.to_string()], &cpus);
        }
        let last = (MAX_SYS - 2).to_string();
        assert_eq!(seats.names[first], last);
        assert_eq!(seats.before[first].switches, 3);
    }

    #[test]
    fn table_has_the_terms_of_each_group() {
        let machine = Machine {
            possible: CpuSet::first(4),
            online: CpuSet::first(4),
            ..Machine::default()
        };
        let parse = |text| Config::parse("c", text, &RunArgs::default(), &machine).unwrap();
        let table = SysGroups::default();
        let mut seats = Seats::default();
        let plain = parse("");
        write(
            &table,
            &plain,
            &seat(&plain, &mut seats, &[]),
            &machine.possible,
        );
        assert_eq!(table.on.load(Relaxed), 0, "nothing to ask for");
        assert_eq!(table.sys[0].slice_ns.load(Relaxed), 4_000_000);
        let text = "[[group]]\nname = \"g\"\nmatch = {}\ncpus = \"1,3\"\nshare = 50\n\
                    quantum_us = 200\npreempt = false\n";
        let config = parse(text);
        write(
            &table,
            &config,
            &seat(&config, &mut seats, &[]),
            &machine.possible,
        );
        let g = &table.sys[1];
        assert_eq!(table.on.load(Relaxed), 1);
        assert_eq!((g.share.load(Relaxed), g.quiet.load(Relaxed)), (50, 1));
        assert_eq!(
            (g.quantum_ns.load(Relaxed), g.cpus[0].load(Relaxed)),
            (200_000, 0b1010)
        );
        assert_eq!(table.sys[0].cpus[0].load(Relaxed), 0b1111);
    }
}
