//! Who finds an idle CPU: the kernel's masks by distance, or one of `umcg`'s idle structures.
//!
//! `kernel` is what the system group does: the previous CPU, its LLC, its node, any. The others are
//! the very code of `umcg/src/idle`, with a server per CPU, as for a group of an application; what a
//! search costs is what `docs/idle-servers.md` counted, by how far it went.

use std::str::FromStr;

use umcg::idle::{IdleServers, Mask, Ring, Stack, Taken};

use crate::costs::Prices;
use crate::topology::Topology;

/// Which one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IdleKind {
    /// The kernel's masks.
    #[default]
    Kernel,
    /// The stack of idle servers.
    Stack,
    /// The ring.
    Ring,
    /// The bit mask.
    Mask,
}

impl FromStr for IdleKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "kernel" => IdleKind::Kernel,
            "stack" => IdleKind::Stack,
            "ring" => IdleKind::Ring,
            "mask" => IdleKind::Mask,
            _ => anyhow::bail!("idle {text:?}: not kernel, stack, ring or mask"),
        })
    }
}

/// Idle CPUs.
#[derive(Debug)]
pub struct Idle {
    bits: [u64; 4],
    found: Finder,
    cpus: u32,
}

#[derive(Debug)]
enum Finder {
    Kernel,
    Stack(Stack),
    Ring(Ring),
    Mask(Mask),
}

impl Idle {
    /// All `cpus` are idle.
    pub fn new(kind: IdleKind, cpus: u32) -> Self {
        let found = match kind {
            IdleKind::Kernel => Finder::Kernel,
            IdleKind::Stack => Finder::Stack(Stack::with_servers(cpus)),
            IdleKind::Ring => Finder::Ring(Ring::with_servers(cpus)),
            IdleKind::Mask => Finder::Mask(Mask::with_servers(cpus)),
        };
        let mut idle = Idle {
            bits: [0; 4],
            found,
            cpus,
        };
        (0..cpus).rev().for_each(|cpu| idle.put(cpu));
        idle
    }

    /// Whether `cpu` is idle.
    pub fn has(&self, cpu: u32) -> bool {
        self.bits[cpu as usize / 64] & (1 << (cpu % 64)) != 0
    }

    /// `cpu` goes idle.
    pub fn put(&mut self, cpu: u32) {
        self.bits[cpu as usize / 64] |= 1 << (cpu % 64);
        let server = cpu + 1;
        let waits = match &self.found {
            Finder::Kernel => true,
            Finder::Stack(it) => it.put(server),
            Finder::Ring(it) => it.put(server),
            Finder::Mask(it) => it.put(server),
        };
        debug_assert!(waits, "nobody races here");
    }

    /// `cpu` goes on by itself.
    pub fn leave(&mut self, cpu: u32) {
        self.clear(cpu);
        let server = cpu + 1;
        match &self.found {
            Finder::Kernel => true,
            Finder::Stack(it) => it.leave(server),
            Finder::Ring(it) => it.leave(server),
            Finder::Mask(it) => it.leave(server),
        };
    }

    /// Takes an idle CPU for a worker whose CPU was `prev`, and what the search costs on top of a
    /// wake-up.
    pub fn take(&mut self, prev: u32, machine: &Topology, prices: &Prices) -> (Option<u32>, u64) {
        let home = prev + 1;
        let words = u64::from(self.cpus.div_ceil(64));
        let (taken, cost) = match &self.found {
            Finder::Kernel => (self.nearest(prev, machine), 0),
            Finder::Stack(it) => (server(it.take(home)), prices.stack_take),
            Finder::Ring(it) => {
                let taken = server(it.take(home));
                let passed = taken.map_or(self.cpus, |cpu| (cpu + self.cpus - prev) % self.cpus);
                (
                    taken,
                    prices.stack_take + u64::from(passed) * prices.ring_look,
                )
            }
            Finder::Mask(it) => {
                let taken = server(it.take(home));
                let read = taken.map_or(words, |cpu| u64::from(cpu) / 64 + 1);
                (taken, prices.stack_take + (read - 1) * prices.mask_word)
            }
        };
        if let Some(cpu) = taken {
            self.clear(cpu);
        }
        (taken, cost)
    }

    fn clear(&mut self, cpu: u32) {
        self.bits[cpu as usize / 64] &= !(1 << (cpu % 64));
    }

    fn nearest(&self, prev: u32, machine: &Topology) -> Option<u32> {
        if self.bits == [0; 4] {
            return None;
        }
        if self.has(prev) {
            return Some(prev);
        }
        let [llc, node] = machine.domains(prev);
        let ranges = [llc, node, 0..self.cpus];
        ranges.into_iter().find_map(|range| self.first(range))
    }

    /// The first one of a range, a word at a time.
    fn first(&self, range: std::ops::Range<u32>) -> Option<u32> {
        let mut cpu = range.start;
        while cpu < range.end {
            let rest = self.bits[cpu as usize / 64] >> (cpu % 64);
            if rest != 0 {
                let found = cpu + rest.trailing_zeros();
                return (found < range.end).then_some(found);
            }
            cpu = (cpu / 64 + 1) * 64;
        }
        None
    }
}

fn server(taken: Taken) -> Option<u32> {
    taken.waits().map(|server| server - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::costs::Costs;

    #[test]
    fn idle_kernel_takes_the_nearest() {
        let machine = Topology::new(256, 8, 64).expect("legal");
        let prices = Prices::new(&Costs::default());
        let mut idle = Idle::new(IdleKind::Kernel, 256);
        for (prev, want) in [(20, 20), (20, 16), (20, 17)] {
            assert_eq!(idle.take(prev, &machine, &prices), (Some(want), 0));
        }
        (0..64).for_each(|cpu| idle.leave(cpu));
        assert_eq!(idle.take(20, &machine, &prices).0, Some(64));
        (0..256).for_each(|cpu| idle.leave(cpu));
        assert_eq!(idle.take(20, &machine, &prices).0, None);
    }

    #[test]
    fn idle_structures_take_each_once_and_then_nobody() {
        let machine = Topology::new(100, 10, 50).expect("legal");
        let prices = Prices::new(&Costs::default());
        for kind in [IdleKind::Stack, IdleKind::Ring, IdleKind::Mask] {
            let mut idle = Idle::new(kind, 100);
            idle.leave(7);
            let take = |idle: &mut Idle| idle.take(3, &machine, &prices).0;
            let mut all: Vec<u32> = std::iter::from_fn(|| take(&mut idle)).collect();
            all.sort_unstable();
            let want: Vec<u32> = (0..100).filter(|&cpu| cpu != 7).collect();
            assert_eq!(all, want, "{kind:?}");
            idle.put(7);
            assert_eq!(take(&mut idle), Some(7));
        }
    }

    #[test]
    fn idle_full_ring_costs_by_its_length() {
        let machine = Topology::new(200, 10, 50).expect("legal");
        let prices = Prices::new(&Costs::default());
        let mut cost = [IdleKind::Stack, IdleKind::Ring, IdleKind::Mask].map(|kind| {
            let mut idle = Idle::new(kind, 200);
            (0..200).for_each(|cpu| idle.leave(cpu));
            idle.take(3, &machine, &prices).1
        });
        assert_eq!(cost, [343, 343 + 200 * 76, 343 + 3 * 48]);
        cost.sort_unstable();
        assert_eq!(cost[2], 15_543);
    }
}
