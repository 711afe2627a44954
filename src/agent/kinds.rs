//! Which policy each CPU's server has, and whether the heap holds them all.

use anyhow::Result;
use umcg_policy::{Decide, Order, Policy, Traits};

use super::server;
use crate::config::Kind;
use crate::exit::{Exit, Failure};

/// The heap of scx_rustland_core's allocator, [`HEAP_SPARE`] of it for all else.
const HEAP: usize = 64 << 20;
const HEAP_SPARE: usize = 12 << 20;

const WORKERS: u32 = umcg::intf::umcg_limits_UMCG_MAX_WORKERS;

fn make(kind: &Kind, capacity: u32) -> Result<Box<dyn Policy>> {
    umcg_policy::create(&kind.policy, kind.decide, capacity)
        .map_err(|e| Failure::new(Exit::Usage, e.to_string()).into())
}

/// A policy for each CPU.
pub fn policies(kinds: &[Kind]) -> Result<Vec<Box<dyn Policy>>> {
    kinds.iter().map(|kind| make(kind, WORKERS)).collect()
}

/// What the policy of each CPU is and needs.
pub fn traits(kinds: &[Kind]) -> Result<Vec<Traits>> {
    kinds
        .iter()
        .map(|kind| Ok(make(kind, 1)?.traits()))
        .collect()
}

/// Refuses what would end in the middle, when the locked heap is used up. `kinds`: by CPU.
pub fn require_heap(kinds: &[Kind]) -> Result<()> {
    let (mut need, mut each, mut worst) = (0, 0, None);
    for kind in kinds {
        let policy = make(kind, 1)?;
        let bytes = policy.bytes_per_worker() * WORKERS as usize + server::HEAP;
        need += bytes;
        if bytes > each {
            (each, worst) = (bytes, Some((policy.name(), policy.traits().decide)));
        }
    }
    let Some((name, decide)) = worst.filter(|_| need > HEAP - HEAP_SPARE) else {
        return Ok(());
    };
    let (nr_cpus, most) = (kinds.len(), (HEAP - HEAP_SPARE) / each);
    let way = match (name, decide) {
        ("fair", Decide::Keyed) => "",
        _ => "; --policy fair --decide key needs least",
    };
    let text = format!(
        "cannot load: {nr_cpus} possible CPUs; at most {most} with --policy {name} --decide {decide}, \
         {} KiB of locked heap each; boot with possible_cpus={most}{way}",
        each >> 10
    );
    Err(Failure::new(Exit::Unsupported, text).into())
}

/// `enum umcg_order` of base.bpf.h.
pub fn order_code(order: Order) -> u32 {
    match order {
        Order::Fair => 0,
        Order::Arrival => 1,
        Order::Own => 2,
        Order::Birth => 3,
    }
}

/// `enum umcg_kind_bits` of base.bpf.h.
pub fn kind_code(traits: &Traits) -> u8 {
    let staged = u8::from(traits.decide == Decide::Staged);
    staged | u8::from(traits.history) << 1 | (order_code(traits.order) as u8) << 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(policy: &str, count: usize) -> Vec<Kind> {
        vec![Kind::new(policy, None); count]
    }

    #[test]
    fn heap_holds_the_sum_of_all_policies() {
        assert!(require_heap(&kinds("fair", 64)).is_ok());
        assert!(require_heap(&kinds("fifo", 64)).is_ok());
        let text = require_heap(&kinds("fifo", 200)).unwrap_err().to_string();
        assert!(text.contains("200 possible CPUs; at most "), "{text}");
        assert!(
            text.contains("with --policy fifo --decide staged"),
            "{text}"
        );
        let mixed = [kinds("fair", 60), kinds("fifo", 60)].concat();
        let text = require_heap(&mixed).unwrap_err().to_string();
        assert!(
            text.contains("120 possible CPUs") && text.contains("fifo"),
            "{text}"
        );
    }

    #[test]
    fn codes_tell_policies_apart() {
        let of = |policy| kind_code(&traits(&kinds(policy, 1)).unwrap()[0]);
        assert_eq!(of("fifo"), 1 | 1 << 2);
        assert_eq!(of("fair") & 1, 0);
        assert_eq!(of("fair") >> 2, 0);
    }
}
