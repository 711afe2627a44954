//! Claims of the scheduler as such: shares, no idle CPU beside work, an idle machine, ends.

use super::{Claim, row, source};

/// A share of the runs of messaging, or a count of its choices.
const fn decided(name: &'static str, test: &'static str, key: &'static str) -> Claim {
    row(name, test, "decided_fifo", key)
}

const MESSAGING: &str = "vm_full_messaging_beside_eevdf";
const IDLE: &str = "vm_full_idle_120s";
const FIFO: &str = "vm_fifo_is_staged_by_servers";
/// One more sample of 60, and what none notices.
const ONE_SAMPLE: f64 = 0.05 + 1.0 / 60.0;

pub const ROWS: &[Claim] = &[
    row("messaging.fair", MESSAGING, "messaging_default", "ratio").at_most(0.95),
    row("messaging.fifo", MESSAGING, "messaging_fifo", "ratio").at_most(0.85),
    row(
        "share.pinned",
        "vm_pinned_hogs_share_evenly",
        "pinned",
        "share",
    )
    .near(0.5, 0.02),
    row("share.nice", "vm_nice_is_honoured", "nice", "ratio")
        .beside("weights", source("nice", "want"))
        .near(1.0, 0.05),
    row(
        "work.idle-beside.long",
        "vm_full_conservation_60s",
        "conservation",
        "idle_share",
    )
    .at_most(0.001),
    row(
        "work.idle-longest",
        "vm_full_conservation_60s",
        "conservation",
        "worst_ms",
    )
    .unit("ms")
    .at_most(4.0),
    row(
        "work.idle-beside.short",
        "vm_idle_cpu_beside_work_is_rare",
        "conservation",
        "idle_share",
    )
    .at_most(0.001),
    row("idle.agent", IDLE, "idle", "agent_switches_per_cpu_s")
        .unit("1/s")
        .at_most(1.0),
    row("idle.runnable", IDLE, "idle", "runnable")
        .at_most(ONE_SAMPLE)
        .plus(source("idle", "eevdf_runnable")),
    row("idle.pressure", IDLE, "idle", "pressure_pct")
        .unit("%")
        .at_most(ONE_SAMPLE)
        .plus(source("idle", "eevdf_pressure_pct")),
    decided("decided.fifo.staged", FIFO, "staged").at_least(0.9),
    decided("decided.fifo.absent", FIFO, "absent").at_most(0.01),
    decided("decided.fifo.batch", FIFO, "switches_per_activation").at_least(5.0),
    row(
        "decided.fair.staged",
        "vm_fair_can_be_staged",
        "decided_fair_staged",
        "staged",
    )
    .at_least(0.5),
    row(
        "decided.fair.agent-cpu",
        "vm_fair_can_be_staged",
        "decided_fair_keyed",
        "agent_cpu",
    ),
    row(
        "agent.page-faults.fair",
        "vm_agent_has_no_page_faults",
        "page_faults_default",
        "faults",
    )
    .at_most(0.0),
    row(
        "agent.page-faults.fifo",
        "vm_agent_has_no_page_faults",
        "page_faults_fifo",
        "faults",
    )
    .at_most(0.0),
    row(
        "agent.killed",
        "vm_sigkill_reverts_to_eevdf",
        "sigkill",
        "revert_seconds",
    )
    .unit("s")
    .at_most(1.0),
    row(
        "agent.stopped",
        "vm_full_agent_stopped_40s",
        "stopped",
        "back_seconds",
    )
    .unit("s")
    .at_most(1.0),
];
