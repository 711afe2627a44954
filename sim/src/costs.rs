//! What each operation costs, and how that is known.
//!
//! Every cost has a key of the TOML file's table `[costs]`, a default and an origin. Instructions
//! are turned into time by `insn_ns`: counts of an emulated CPU, where one instruction is 1 ns, and
//! no claim about caches or pipelines. What nobody measured says `assumed`, here and in each report.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::topology::Distance;

/// How a default is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Counted or timed as it is.
    Measured,
    /// A sum or difference of measured figures.
    Derived,
    /// Nobody measured it.
    Assumed,
    /// The TOML file says so.
    Given,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::Measured => "measured",
            Origin::Derived => "derived",
            Origin::Assumed => "assumed",
            Origin::Given => "given",
        })
    }
}

/// One line of the table of costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Its key below `[costs]`.
    pub key: &'static str,
    /// Its value.
    pub value: f64,
    /// `insns`, `ns`.
    pub unit: &'static str,
    /// How that is known.
    pub origin: Origin,
    /// What it is.
    pub what: &'static str,
    /// Where the default is from.
    pub source: &'static str,
}

macro_rules! costs {
    ($($key:ident = $value:literal $unit:literal $origin:ident $what:literal $source:literal;)*) => {
        /// The costs of a run, in their units.
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub struct Costs {
            $(#[doc = $what] pub $key: f64,)*
        }

        impl Default for Costs {
            fn default() -> Self {
                Costs { $($key: $value,)* }
            }
        }

        /// What a file or a measured row may say; all is optional.
        #[derive(Clone, Copy, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct GivenCosts {
            $($key: Option<f64>,)*
        }

        impl Costs {
            /// All of them, with their origins.
            pub fn table(&self) -> Vec<Cost> {
                let mut table = vec![$(Cost {
                    key: stringify!($key),
                    value: self.$key,
                    unit: $unit,
                    origin: Origin::$origin,
                    what: $what,
                    source: $source,
                },)*];
                let defaults = Costs::default();
                let defaults = [$(defaults.$key,)*];
                for (cost, default) in table.iter_mut().zip(defaults) {
                    if cost.value != default {
                        (cost.origin, cost.source) = (Origin::Given, "the file of costs");
                    }
                }
                table
            }

            /// Takes over what is given.
            ///
            /// # Errors
            ///
            /// A value that is negative or too large.
            pub fn take(&mut self, given: &GivenCosts) -> Result<()> {
                $(if let Some(value) = given.$key {
                    let name = stringify!($key);
                    ensure!(
                        (0.0..=MOST).contains(&value),
                        "costs.{name} {value}: not within 0..={MOST}"
                    );
                    self.$key = value;
                })*
                Ok(())
            }

            /// Nothing costs anything: queueing theory's machine.
            pub fn free() -> Self {
                Costs { $($key: 0.0,)* }
            }
        }
    };
}

costs! {
    insn_ns = 1.0 "ns" Assumed
        "one instruction"
        "1 by definition under icount, where all counts are from; hardware: about 0.3";
    switch = 5153.0 "insns" Derived
        "a switch between two workers, with all callbacks"
        "design.md#instructions: kernel 3,060, frames and look-ups 700, bodies 1,350, clock 43";
    wake = 3251.0 "insns" Derived
        "a wake-up, on the waker's CPU or in its interrupt, until the wakee is queued"
        "design.md#instructions: 8,404 of a switch of `perf bench sched pipe` less `switch`; \
         the pipe's system calls are in it";
    block = 0.0 "insns" Derived
        "a worker's way into its sleep, before the switch"
        "in `wake`, as that is a difference; for loads whose own system calls were counted";
    keep = 1000.0 "insns" Assumed
        "a tick after which who runs goes on"
        "-";
    queue_level = 20.0 "insns" Assumed
        "per level (log2) of a waiting queue, at each insert and each take"
        "-";
    queue_look = 60.0 "insns" Measured
        "a look at another CPU's queue"
        "design.md#instructions: length of PARK, a hash look-up";
    steal = 700.0 "insns" Assumed
        "a worker changes from one CPU's queue to another CPU"
        "-";
    stack_take = 343.0 "insns" Measured
        "an idle CPU by the stack (`idle = \"stack\"`)"
        "idle-servers.md: 0 % idle; 327 to 403 with idle ones";
    ring_look = 76.0 "insns" Measured
        "per server that the ring's walk passes (`idle = \"ring\"`)"
        "idle-servers.md, the verdict";
    mask_word = 48.0 "insns" Derived
        "per word of 64 servers that the mask's search reads (`idle = \"mask\"`)"
        "idle-servers.md: (1,081 - 358) / 15 words";
    turn = 1500.0 "insns" Assumed
        "a turn of a server without what is below: sched_yield, clock, both lists"
        "-";
    notice = 150.0 "insns" Assumed
        "per notice that a server reads and tells its policy"
        "-";
    pick = 120.0 "insns" Assumed
        "per choice that a server stages"
        "-";
    policy_level = 15.0 "insns" Assumed
        "per level (log2) of the policy's candidates, at each notice and each pick"
        "-";
    bell = 1996.0 "insns" Derived
        "a server that sleeps is woken"
        "design.md#groups: half a futex round trip, 14,298 / 2, less `switch`";
    idle_exit_ns = 1000.0 "ns" Assumed
        "an idle CPU begins to work"
        "-";
    ipi_llc_ns = 1000.0 "ns" Assumed
        "an interrupt to a CPU of the same LLC"
        "-";
    ipi_node_ns = 1500.0 "ns" Assumed
        "to another LLC of the node"
        "-";
    ipi_remote_ns = 2500.0 "ns" Assumed
        "to another node"
        "-";
    cold_llc_ns = 2000.0 "ns" Assumed
        "a worker's first steps on another CPU of the LLC where it ran last"
        "-";
    cold_node_ns = 10000.0 "ns" Assumed
        "on another LLC of the node"
        "-";
    cold_remote_ns = 30000.0 "ns" Assumed
        "on another node"
        "-";
    line_llc_ns = 30.0 "ns" Assumed
        "the line of the count of waiting workers comes from a CPU of the same LLC"
        "-";
    line_node_ns = 80.0 "ns" Assumed
        "from another LLC of the node"
        "-";
    line_remote_ns = 150.0 "ns" Assumed
        "from another node"
        "-";
}

/// The machine but for its costs and the number of its CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Domains {
    /// CPUs that share a last-level cache.
    pub llc_cpus: u32,
    /// CPUs of a node.
    pub node_cpus: u32,
}

impl Default for Domains {
    fn default() -> Self {
        Domains {
            llc_cpus: 8,
            node_cpus: 64,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    machine: Domains,
    costs: GivenCosts,
}

/// The largest cost: 1 s, so that no sum of them wraps.
const MOST: f64 = 1e9;

/// Reads a TOML file with the tables `[machine]` and `[costs]`; what it leaves out is default.
///
/// # Errors
///
/// No TOML, an unknown key, or a value that is negative or too large.
pub fn read(text: &str) -> Result<(Costs, Domains)> {
    let file: File = toml::from_str(text).context("not a file of costs")?;
    let mut costs = Costs::default();
    costs.take(&file.costs)?;
    Ok((costs, file.machine))
}

/// The table as a file that [`read`] takes, origins as comments.
pub fn write(costs: &Costs, machine: &Domains) -> String {
    use std::fmt::Write;
    let mut text = String::from("[machine]\n# CPUs that share a last-level cache\n");
    let _ = writeln!(text, "llc_cpus = {}", machine.llc_cpus);
    let _ = writeln!(text, "# CPUs of a node\nnode_cpus = {}", machine.node_cpus);
    let _ = writeln!(text, "\n[costs]");
    for cost in costs.table() {
        let source = if cost.source == "-" { "" } else { cost.source };
        let colon = if source.is_empty() { "" } else { ": " };
        let _ = writeln!(text, "# {} [{}]", cost.what, cost.unit);
        let _ = writeln!(text, "# {}{colon}{source}", cost.origin);
        let _ = writeln!(text, "{} = {:?}", cost.key, cost.value);
    }
    text
}

/// The costs in whole ns, as the machine uses them.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as in Costs")]
pub struct Prices {
    pub switch: u64,
    pub wake: u64,
    pub block: u64,
    pub keep: u64,
    pub queue_level: u64,
    pub queue_look: u64,
    pub steal: u64,
    pub stack_take: u64,
    pub ring_look: u64,
    pub mask_word: u64,
    pub turn: u64,
    pub notice: u64,
    pub pick: u64,
    pub policy_level: u64,
    pub bell: u64,
    pub idle_exit: u64,
    ipi: [u64; 4],
    cold: [u64; 4],
    line: [u64; 4],
}

impl Prices {
    /// Of these costs.
    pub fn new(costs: &Costs) -> Self {
        let insns = |count: f64| (count * costs.insn_ns).round() as u64;
        let ns = |ns: f64| ns.round() as u64;
        Prices {
            switch: insns(costs.switch),
            wake: insns(costs.wake),
            block: insns(costs.block),
            keep: insns(costs.keep),
            queue_level: insns(costs.queue_level),
            queue_look: insns(costs.queue_look),
            steal: insns(costs.steal),
            stack_take: insns(costs.stack_take),
            ring_look: insns(costs.ring_look),
            mask_word: insns(costs.mask_word),
            turn: insns(costs.turn),
            notice: insns(costs.notice),
            pick: insns(costs.pick),
            policy_level: insns(costs.policy_level),
            bell: insns(costs.bell),
            idle_exit: ns(costs.idle_exit_ns),
            ipi: [
                0.0,
                costs.ipi_llc_ns,
                costs.ipi_node_ns,
                costs.ipi_remote_ns,
            ]
            .map(ns),
            cold: [
                0.0,
                costs.cold_llc_ns,
                costs.cold_node_ns,
                costs.cold_remote_ns,
            ]
            .map(ns),
            line: [
                0.0,
                costs.line_llc_ns,
                costs.line_node_ns,
                costs.line_remote_ns,
            ]
            .map(ns),
        }
    }

    /// An interrupt over this distance.
    pub fn ipi(&self, by: Distance) -> u64 {
        self.ipi[by as usize]
    }

    /// A worker that ran so far away starts.
    pub fn cold(&self, by: Distance) -> u64 {
        self.cold[by as usize]
    }

    /// A shared line comes from so far away.
    pub fn line(&self, by: Distance) -> u64 {
        self.line[by as usize]
    }
}

/// Levels of a tree of `n`.
pub fn levels(n: usize) -> u64 {
    u64::from(usize::BITS - n.leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_written_and_read_are_the_same() {
        let costs = Costs {
            switch: 4000.5,
            ..Costs::default()
        };
        let machine = Domains {
            llc_cpus: 4,
            node_cpus: 16,
        };
        let text = write(&costs, &machine);
        let (read, domains) = read(&text).expect("its own output");
        assert_eq!((read, domains), (costs, machine));
        let table = read.table();
        let switch = table.iter().find(|it| it.key == "switch").expect("a key");
        assert_eq!(switch.origin, Origin::Given);
        assert!(table.iter().any(|it| it.origin == Origin::Assumed));
    }

    #[test]
    fn costs_bad_files_are_told() {
        let text = |file: &str| format!("{:#}", read(file).expect_err(file));
        assert!(text("[costs]\nswich = 1").contains("swich"));
        assert!(text("[costs]\nturn = -3").contains("costs.turn -3: not within 0"));
        assert!(text("[costs]\nturn = \"x\"").contains("turn"));
        assert!(text("machine = 3").contains("machine"));
    }

    #[test]
    fn costs_each_that_is_not_assumed_has_a_source() {
        for cost in Costs::default().table() {
            let bare = cost.source == "-";
            assert!(!bare || cost.origin == Origin::Assumed, "{}", cost.key);
        }
    }

    #[test]
    fn costs_levels_grow_by_doubling() {
        assert_eq!([0, 1, 2, 3, 1024].map(levels), [0, 1, 2, 2, 11]);
    }
}
