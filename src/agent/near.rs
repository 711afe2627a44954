//! Which other CPUs each CPU looks at first, for near.bpf.h.

use std::collections::BTreeMap;

use log::warn;
use scx_utils::Topology;
use umcg::intf;

/// Entries of a row.
pub const NEAR: usize = intf::umcg_limits_UMCG_NEAR as usize;

/// Where a CPU is; the numbers are those of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Physical core: its threads share the first caches.
    pub core: usize,
    /// Last-level cache.
    pub llc: usize,
    /// NUMA node.
    pub node: usize,
}

/// The CPUs of a machine and how far its nodes are from each other.
#[derive(Debug, Default)]
pub struct Machine {
    /// By CPU number; CPUs that are offline are missing.
    pub places: BTreeMap<usize, Place>,
    /// By node number; in a row the nodes that are here, in the order of their numbers, in
    /// units of the firmware's.
    pub distances: BTreeMap<usize, Vec<usize>>,
}

impl Machine {
    /// This one, as its kernel tells. What it does not tell counts as far.
    pub fn this() -> Self {
        let topology = match Topology::new() {
            Ok(topology) => topology,
            Err(err) => {
                warn!("topology unknown, CPUs look at each other by number: {err:#}");
                return Self::default();
            }
        };
        let place = |cpu: &scx_utils::Cpu| Place {
            core: cpu.core_id,
            llc: cpu.llc_id,
            node: cpu.node_id,
        };
        Self {
            places: topology
                .all_cpus
                .iter()
                .map(|(&id, cpu)| (id, place(cpu)))
                .collect(),
            distances: topology
                .nodes
                .iter()
                .map(|(&id, node)| (id, node.distance.clone()))
                .collect(),
        }
    }

    /// 0: threads of one core, 1: one LLC, 2: one node, then by distance of the nodes.
    pub fn distance(&self, from: usize, to: usize) -> usize {
        let (Some(from), Some(to)) = (self.places.get(&from), self.places.get(&to)) else {
            return usize::MAX;
        };
        if from.node != to.node {
            let rank = self.distances.keys().position(|&node| node == to.node);
            let row = self.distances.get(&from.node);
            let far = row.zip(rank).and_then(|(row, rank)| row.get(rank));
            return 3 + far.map_or(usize::MAX - 4, |&far| far);
        }
        match (from.llc == to.llc, from.core == to.core) {
            (true, true) => 0,
            (true, false) => 1,
            _ => 2,
        }
    }

    /// The table of a machine with `nr_cpus` CPUs: a row for each.
    pub fn fill(&self, table: &mut [[u16; NEAR]], nr_cpus: usize) {
        for (cpu, row) in table.iter_mut().enumerate().take(nr_cpus) {
            *row = self.row(cpu, nr_cpus);
        }
    }

    /// The others of `cpu`, nearest first, of `nr_cpus` in all; the rest of the row is unused.
    fn row(&self, cpu: usize, nr_cpus: usize) -> [u16; NEAR] {
        let mut others: Vec<usize> = (1..nr_cpus).map(|step| (cpu + step) % nr_cpus).collect();
        // Stable: equals stay in the order of their numbers from `cpu` on.
        others.sort_by_key(|&other| self.distance(cpu, other));
        let mut row = [cpu as u16; NEAR];
        for (cell, other) in row.iter_mut().zip(others) {
            *cell = other as u16;
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 nodes of 2 LLCs of 2 cores of 2 threads, numbered as x86 does: threads last.
    fn machine() -> Machine {
        let place = |cpu: usize| Place {
            core: cpu % 8,
            llc: cpu % 8 / 2,
            node: cpu % 8 / 4,
        };
        Machine {
            places: (0..16).map(|cpu| (cpu, place(cpu))).collect(),
            distances: [(0, vec![10, 21]), (1, vec![21, 10])].into(),
        }
    }

    #[test]
    fn near_row_goes_from_core_to_llc_to_node() {
        let row = machine().row(9, 16);
        assert_eq!(row[..1], [1]);
        assert_eq!(row[1..3], [0, 8]);
        assert_eq!(row[3..7], [10, 11, 2, 3]);
        assert_eq!(row[7..15], [12, 13, 14, 15, 4, 5, 6, 7]);
    }

    #[test]
    fn near_rows_begin_with_different_neighbours() {
        let flat = Machine {
            places: (0..4)
                .map(|core| {
                    (
                        core,
                        Place {
                            core,
                            llc: 0,
                            node: 0,
                        },
                    )
                })
                .collect(),
            ..Machine::default()
        };
        let first: Vec<u16> = (0..4).map(|cpu| flat.row(cpu, 4)[0]).collect();
        assert_eq!(first, [1, 2, 3, 0]);
    }

    #[test]
    fn near_nodes_may_have_holes_in_their_numbers() {
        let place = |node: usize| Place {
            core: node,
            llc: node,
            node,
        };
        let machine = Machine {
            places: [(0, place(0)), (1, place(2)), (2, place(3))].into(),
            distances: [
                (0, vec![10, 30, 20]),
                (2, vec![30, 10, 20]),
                (3, vec![20, 20, 10]),
            ]
            .into(),
        };
        assert_eq!(machine.row(0, 4)[..3], [2, 1, 3]);
    }

    #[test]
    fn near_cpus_that_nobody_knows_come_last() {
        let mut machine = machine();
        machine.places.remove(&1);
        let row = machine.row(9, 17);
        assert_eq!(row[14..16], [16, 1]);
        let unknown = Machine::default().row(2, 4);
        assert_eq!(unknown[..3], [3, 0, 1]);
        assert_eq!(Machine::default().row(0, 1), [0; NEAR]);
    }
}
