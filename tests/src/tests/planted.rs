//! Planted bugs: one mistake each in BPF's protocols, and the test of every run that finds it.
//!
//! A bug is one word in the program's rodata, so that it is the same program but for that; see
//! `fault.bpf.h`. The test has to pass without it, in the same boot.

use anyhow::{Context, Result, bail};

use super::{Test, full};
use crate::harness::{self, Verdict};

pub const TESTS: &[Test] = &[
    full("vm_full_planted_lost_wake_is_caught", "planted", 70, || {
        caught("lost-wake", "vm_app_timeouts_race_wakes")
    }),
    full(
        "vm_full_planted_double_run_is_caught",
        "planted",
        60,
        || caught("double-run", "vm_group_cycles_unprivileged"),
    ),
    full(
        "vm_full_planted_leaked_claim_is_caught",
        "planted",
        60,
        || caught("leaked-claim", "vm_hammer_claim_has_one_holder"),
    ),
    full(
        "vm_full_planted_stuck_slot_is_caught",
        "planted",
        60,
        || caught("stuck-slot", "vm_group_stop_and_kill"),
    ),
    full(
        "vm_full_planted_stale_kick_is_caught",
        "cost,newest,icount,cpus=1",
        20,
        || {
            caught(
                "stale-kick",
                "vm_group_kick_dies_with_its_stint_unprivileged",
            )
        },
    ),
];

/// Test `name` passes, and fails with `bug` planted.
fn caught(bug: &str, name: &str) -> Result<Verdict> {
    let test = super::all().find(|test| test.name == name && !test.full);
    let run = test.with_context(|| format!("no short test {name}"))?.run;
    if let Verdict::Skip(why) = run().with_context(|| format!("{name}, with no bug"))? {
        return Ok(Verdict::Skip(why));
    }
    harness::clean_up();
    let result = harness::with_variable(scx_umcg::agent::faults::PLANT, bug, run);
    harness::clean_up();
    // What a bug brings with it.
    harness::take_ejections();
    match result {
        Ok(_) => bail!("{name} does not find the bug {bug}"),
        Err(err) => {
            let why = format!("{err:#}").replace('\n', " | ");
            println!("caught {bug} by {name}: {why}");
            Ok(Verdict::Ok)
        }
    }
}
