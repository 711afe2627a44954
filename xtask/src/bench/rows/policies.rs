//! Claims of policies, preemption, structures of idle servers, and the configuration.

use super::{Claim, row, source};

/// Takes that found a server, in a race with one waker or two; half of 100,000 each.
const fn idle(name: &'static str, test: &'static str, metric: &'static str) -> Claim {
    row(name, test, metric, "takes").at_least(50_000.0)
}

const fn tier(name: &'static str, key: &'static str, share: f64) -> Claim {
    row(name, "vm_policy_quota_tiers", "quota", key).near(share, 0.02)
}

const fn churn(name: &'static str, key: &'static str) -> Claim {
    let test = "vm_full_group_preemption_churn_unprivileged";
    row(name, test, "group_preemption_churn", key).at_least(100_000.0)
}

const fn wake_churn(name: &'static str, key: &'static str, least: f64) -> Claim {
    let test = "vm_full_group_wake_churn_unprivileged";
    row(name, test, "group_wake_churn", key).at_least(least)
}

/// The bimodal load with a quantum, beside none.
const fn bimodal(
    name: &'static str,
    (test, metric): (&'static str, &'static str),
    key: &'static str,
) -> Claim {
    row(name, test, metric, key)
}

const CLOCK: (&str, &str) = ("vm_full_group_quantum_serves_short_ones", "quantum_bimodal");
const COUNT: (&str, &str) = (
    "vm_full_group_quantum_by_instructions",
    "quantum_bimodal_count",
);
const STACK: &str = "vm_full_hammer_idle_stack";
const RING: &str = "vm_full_hammer_idle_ring";
const MASK: &str = "vm_full_hammer_idle_mask";
const SLICES: &str = "vm_group_quantum_slices";
const KICK: &str = "vm_full_group_kick_latency";
const TWO_CPUS: &str = "vm_full_policy_deadlines_on_two_cpus";
const DEADLINES: &str = "vm_full_policy_10000_deadlines_are_met";

pub const ROWS: &[Claim] = &[
    idle("idle-servers.stack.1", STACK, "hammer_idle wakers=1"),
    idle("idle-servers.stack.2", STACK, "hammer_idle wakers=2"),
    idle("idle-servers.ring.1", RING, "hammer_idle wakers=1"),
    idle("idle-servers.ring.2", RING, "hammer_idle wakers=2"),
    idle("idle-servers.mask.1", MASK, "hammer_idle wakers=1"),
    idle("idle-servers.mask.2", MASK, "hammer_idle wakers=2"),
    bimodal("clock.quantum.short-p99", CLOCK, "p99").at_most(0.1),
    bimodal("clock.quantum.cpu", CLOCK, "cpu").at_most(1.05),
    bimodal("clock.quantum.throughput", CLOCK, "saturation").at_least(0.95),
    bimodal("count.quantum.short-p99", COUNT, "p99").at_most(0.1),
    bimodal("count.quantum.cpu", COUNT, "cpu").at_most(1.05),
    bimodal("count.quantum.throughput", COUNT, "saturation").at_least(0.95),
    row(
        "quantum.slice-500us",
        SLICES,
        "group_quantum us=500",
        "median",
    )
    .unit("us")
    .near(500.0, 100.0),
    row(
        "quantum.slice-100us",
        SLICES,
        "group_quantum us=100",
        "median",
    )
    .unit("us")
    .near(100.0, 20.0),
    churn("preempt.kick", "kicked"),
    churn("preempt.sigalrm", "signalled"),
    churn("preempt.quantum", "timed+timed_too"),
    wake_churn("preempt.wake", "behind", 100_000.0),
    wake_churn("preempt.sigprof", "sigprof", 10_000.0),
    wake_churn("preempt.sigvtalrm", "sigvtalrm", 10_000.0),
    row(
        "kick.median",
        KICK,
        "group_latency_kick",
        "median_instructions",
    )
    .unit("instructions"),
    row("kick.p99", KICK, "group_latency_kick", "p99").unit("instructions"),
    row("deadline.jobs", DEADLINES, "deadlines", "jobs").at_least(10_000.0),
    row("deadline.missed.long", DEADLINES, "deadlines", "missed").at_most(0.0),
    row(
        "deadline.missed-by-fair",
        DEADLINES,
        "deadlines_fair",
        "missed",
    )
    .beside("jobs", source("deadlines_fair", "jobs"))
    .at_least(0.05),
    row(
        "deadline.two-cpus.in-time",
        TWO_CPUS,
        "deadlines_on_two_cpus",
        "in_time",
    )
    .at_least(2000.0),
    row(
        "deadline.two-cpus.missed",
        TWO_CPUS,
        "deadlines_on_two_cpus",
        "missed",
    )
    .at_most(0.0),
    row(
        "deadline.two-cpus.excused",
        TWO_CPUS,
        "deadlines_on_two_cpus",
        "excused",
    ),
    row(
        "deadline.missed.short",
        "vm_policy_deadlines_are_met",
        "deadlines",
        "missed",
    )
    .at_most(0.0),
    tier("quota.first", "first", 0.6),
    tier("quota.second", "second", 0.3),
    tier("quota.third", "third", 0.1),
    row(
        "priority.aging",
        "vm_policy_priority_ages",
        "aging",
        "gap_ms",
    )
    .unit("ms")
    .at_most(240.0),
    row(
        "share.config",
        "vm_config_groups_share_a_cpu",
        "config_share",
        "heavy",
    )
    .near(0.75, 0.04),
    row(
        "reload.stall",
        "vm_full_config_1000_reloads",
        "reloads",
        "stall_ms",
    )
    .unit("ms")
    .at_most(10.0)
    .plus(source("reloads", "without_reloads_ms")),
];
