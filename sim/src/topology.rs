//! The machine: CPUs in last-level caches (LLC) in nodes, numbered in a row.
//!
//! Distances are between CPUs, as the agent's table of neighbours knows them
//! (`src/agent/near.rs`): the same CPU, its LLC, its node, another node. Nodes are equally far
//! from each other; threads of one core are not modelled.

use anyhow::{Result, ensure};

/// CPUs that a mask of the simulation holds.
pub const MAX_CPUS: u32 = 256;
/// Others that a CPU knows, as `UMCG_NEAR` in BPF: the nearest ones.
const NEAR: usize = 64;
/// On a machine with more, so many of them are drawn at random from the rest.
const FAR: usize = 16;

/// How far two CPUs are from each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Distance {
    /// One CPU.
    Same,
    /// Two of one last-level cache.
    Llc,
    /// Two caches of one node.
    Node,
    /// Two nodes.
    Remote,
}

/// The CPUs and who is near whom.
#[derive(Clone, Debug)]
pub struct Topology {
    cpus: u32,
    per_llc: u32,
    per_node: u32,
    near: Vec<Vec<u32>>,
}

impl Topology {
    /// `cpus` CPUs, `per_llc` in a cache, `per_node` in a node.
    ///
    /// # Errors
    ///
    /// A number out of bounds, or a node that cuts a cache.
    pub fn new(cpus: u32, per_llc: u32, per_node: u32) -> Result<Self> {
        ensure!(
            (1..=MAX_CPUS).contains(&cpus),
            "cpus {cpus}: not within 1..={MAX_CPUS}"
        );
        ensure!(
            (1..=MAX_CPUS).contains(&per_llc),
            "machine.llc_cpus {per_llc}: not within 1..={MAX_CPUS}"
        );
        ensure!(
            per_node >= per_llc && per_node.is_multiple_of(per_llc),
            "machine.node_cpus {per_node}: not a multiple of machine.llc_cpus, {per_llc}"
        );
        let mut topology = Topology {
            cpus,
            per_llc,
            per_node,
            near: Vec::new(),
        };
        topology.near = (0..cpus).map(|cpu| topology.neighbours(cpu)).collect();
        Ok(topology)
    }

    /// Equals from its own number on, so that not all look at CPU 0 first.
    fn neighbours(&self, cpu: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (1..self.cpus).map(|by| (cpu + by) % self.cpus).collect();
        all.sort_by_key(|&other| self.distance(cpu, other));
        if all.len() > NEAR {
            // Spread evenly where BPF's table is drawn at random: the same for each run.
            let rest = all.split_off(NEAR - FAR);
            let step = rest.len() / FAR;
            all.extend(rest.iter().step_by(step.max(1)).take(FAR));
        }
        all
    }

    /// CPUs.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// The other CPUs that this one looks at, the nearest first.
    pub fn near(&self, cpu: u32) -> &[u32] {
        &self.near[cpu as usize]
    }

    /// From one CPU to another.
    pub fn distance(&self, a: u32, b: u32) -> Distance {
        if a == b {
            Distance::Same
        } else if a / self.per_llc == b / self.per_llc {
            Distance::Llc
        } else if a / self.per_node == b / self.per_node {
            Distance::Node
        } else {
            Distance::Remote
        }
    }

    /// The CPUs of this one's cache and of its node, as ranges.
    pub fn domains(&self, cpu: u32) -> [std::ops::Range<u32>; 2] {
        [self.per_llc, self.per_node].map(|size| {
            let start = cpu / size * size;
            start..(start + size).min(self.cpus)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topology_distances_follow_the_domains() {
        let machine = Topology::new(64, 8, 32).expect("legal");
        assert_eq!(machine.distance(9, 9), Distance::Same);
        assert_eq!(machine.distance(8, 15), Distance::Llc);
        assert_eq!(machine.distance(7, 8), Distance::Node);
        assert_eq!(machine.distance(31, 32), Distance::Remote);
        assert_eq!(machine.domains(33), [32..40, 32..64]);
    }

    #[test]
    fn topology_neighbours_are_the_nearest_first_and_each_once() {
        for cpus in [1, 2, 65, 66, 256] {
            let machine = Topology::new(cpus, 8, 64).expect("legal");
            for cpu in 0..cpus {
                let near = machine.near(cpu);
                assert_eq!(near.len(), (cpus as usize - 1).min(NEAR), "{cpus}");
                assert!(near.is_sorted_by_key(|&other| machine.distance(cpu, other)));
                let mut once = near.to_vec();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), near.len());
                assert!(!once.contains(&cpu));
            }
        }
    }

    #[test]
    fn topology_bad_sizes_are_told() {
        let text = |cpus, llc, node| Topology::new(cpus, llc, node).expect_err("bad").to_string();
        assert_eq!(text(0, 8, 8), "cpus 0: not within 1..=256");
        assert_eq!(text(257, 8, 8), "cpus 257: not within 1..=256");
        assert_eq!(
            text(8, 8, 12),
            "machine.node_cpus 12: not a multiple of machine.llc_cpus, 8"
        );
    }
}
