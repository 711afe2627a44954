//! Claims of a whole machine: throughput, latency and fairness beside EEVDF, limits, hostile tasks.

use super::{Claim, row, source};

/// A figure that was taken under both schedulers in turn.
const fn eevdf(name: &'static str, test: &'static str, metric: &'static str) -> Claim {
    row(name, test, metric, "ours").beside("eevdf", source(metric, "eevdf"))
}

/// A probe's figure beside four hogs: half of EEVDF's, or hardly more than a probe's before whom
/// nobody runs, where the guest's timers are that late.
const fn late(name: &'static str, metric: &'static str, floor: &'static str) -> Claim {
    eevdf(name, HOGS, metric)
        .unit("us")
        .at_most(0.5)
        .or(1.15, source(floor, "eevdf"))
}

/// The probe's p99 beside a load of the hostile set; within a tick nobody is late.
const fn probe(name: &'static str, metric: &'static str) -> Claim {
    row(name, "vm_full_probe_beside_hostile_set", metric, "p99_ms")
        .unit("ms")
        .beside("eevdf", source(metric, "eevdf_p99_ms"))
        .at_most(1.25)
        .or_value(1.25 * 4.0)
}

/// A share as the median of nine, as one and how far off it is.
const fn nine(name: &'static str, metric: &'static str) -> Claim {
    row(name, SHARES, metric, "ours").at_most(1.05)
}

/// What is left of the hostile set.
const fn left(name: &'static str, key: &'static str) -> Claim {
    row(name, "vm_full_hostile_set_5min", "grown", key)
}

/// Attached and detached under load, so many times in a boot.
const fn cycles(name: &'static str, test: &'static str) -> Claim {
    row(name, test, "cycles", "n").at_least(25.0)
}

const CLOCK: &str = "vm_full_throughput_beside_eevdf";
const STAGED: &str = "vm_full_staged_throughput_beside_eevdf";
const COUNT: &str = "vm_full_throughput_by_instructions";
const LATE: &str = "vm_full_probe_by_instructions";
const LATE_STAGED: &str = "vm_full_staged_probe_by_instructions";
const HOGS: &str = "vm_full_probe_beside_hogs";
const MIXED: &str = "vm_full_mixed_load_beside_eevdf";
const SHARES: &str = "vm_full_shares_beside_eevdf";
const WAITS: &str = "vm_full_waits_stay_below_the_bound";
const HOTPLUG: &str = "vm_full_hotplug_50_cycles";
const MIXED_COUNT: &str = "vm_full_mixed_load_by_instructions";
const RT: &str = "vm_full_rt_hog_25s";

pub const ROWS: &[Claim] = &[
    eevdf("clock.messaging", CLOCK, "bar_default_messaging")
        .unit("s")
        .at_most(0.85),
    eevdf("clock.pipe", CLOCK, "bar_default_pipe")
        .unit("s")
        .at_most(0.95),
    eevdf("clock.hackbench", CLOCK, "bar_default_hackbench")
        .unit("s")
        .at_most(0.9),
    eevdf("staged.messaging", STAGED, "bar_staged_messaging")
        .unit("s")
        .at_most(1.0),
    eevdf("staged.pipe", STAGED, "bar_staged_pipe")
        .unit("s")
        .at_most(1.05),
    eevdf("staged.hackbench", STAGED, "bar_staged_hackbench")
        .unit("s")
        .at_most(1.0),
    row("staged.share", STAGED, "bar_staged_decided", "staged_share").at_least(0.5),
    eevdf("count.messaging", COUNT, "bar_count_messaging")
        .unit("s")
        .at_most(1.0),
    eevdf("count.pipe", COUNT, "bar_count_pipe")
        .unit("s")
        .at_most(1.05),
    eevdf("count.hackbench", COUNT, "bar_count_hackbench")
        .unit("s")
        .at_most(1.0),
    eevdf("count.late.p99", LATE, "count_probe_p99_us")
        .unit("us")
        .at_most(0.15),
    eevdf("count.late.mean", LATE, "count_probe_mean_us")
        .unit("us")
        .at_most(0.5),
    eevdf("count.late.max", LATE, "count_probe_max_us")
        .unit("us")
        .at_most(1.0),
    eevdf(
        "count.late.staged.p99",
        LATE_STAGED,
        "count_staged_probe_p99_us",
    )
    .unit("us")
    .at_most(0.5),
    late(
        "clock.late.mean",
        "hogs_probe_mean_us",
        "hogs_fifo_probe_mean_us",
    ),
    late(
        "clock.late.p99",
        "hogs_probe_p99_us",
        "hogs_fifo_probe_p99_us",
    ),
    eevdf("clock.late.worst-mean", HOGS, "hogs_probe_worst_mean_us")
        .unit("us")
        .at_most(1.0),
    eevdf("clock.late.max", HOGS, "hogs_probe_max_us").unit("us"),
    eevdf(
        "count.mixed.messaging",
        MIXED_COUNT,
        "mixed_count_messaging",
    )
    .unit("s")
    .at_most(1.05),
    eevdf("count.mixed.late.mean", MIXED_COUNT, "mixed_count_mean_us")
        .unit("us")
        .at_most(1.05),
    eevdf("count.mixed.late.p99", MIXED_COUNT, "mixed_count_p99_us")
        .unit("us")
        .at_most(1.05),
    eevdf("clock.mixed.messaging", MIXED, "mixed_messaging")
        .unit("s")
        .at_most(1.05),
    eevdf("clock.mixed.late.mean", MIXED, "mixed_mean_us")
        .unit("us")
        .at_most(1.05),
    eevdf("clock.mixed.late.p99", MIXED, "mixed_p99_us")
        .unit("us")
        .at_most(1.05),
    eevdf("clock.mixed.late.worst-mean", MIXED, "mixed_worst_mean_us")
        .unit("us")
        .at_most(1.05),
    eevdf("clock.mixed.late.max", MIXED, "mixed_max_us").unit("us"),
    row(
        "share.free",
        "vm_free_hogs_share_evenly",
        "free_hogs",
        "spread",
    )
    .at_most(1.05),
    row(
        "nine.free",
        "vm_full_free_hogs_beside_eevdf",
        "free_hogs_spread",
        "ours",
    )
    .at_most(1.05),
    nine("nine.nice", "shares_nice_0_5"),
    nine("nine.below-nice-0", "shares_nice_m5_0"),
    nine("nine.cgroup", "shares_weights"),
    nine("nine.short-sleeper", "shares_sleeper_points"),
    // Points of a CPU; older kernels tell of no limits.
    nine("nine.limit-1", "shares_max_1_points")
        .at_most(1.02)
        .since("6.17"),
    nine("nine.limit-8", "shares_max_8_points")
        .at_most(1.02)
        .since("6.17"),
    // 14 ms for each that waits, docs/design.md.
    row("wait.hogs", WAITS, "waits_ms", "hogs")
        .unit("ms")
        .at_most(21.0 * 14.0),
    row("wait.and-sleepers", WAITS, "waits_ms", "and_sleepers")
        .unit("ms")
        .at_most(25.0 * 14.0),
    row(
        "share.short-sleeper",
        "vm_short_sleeper_keeps_its_half",
        "short_sleeper",
        "share",
    )
    .near(0.5, 0.05),
    // Within 5 % of each share: the smaller one is the stricter.
    row(
        "share.cgroup.one-cpu",
        "vm_full_cgroup_weights_count",
        "cgroup_weights",
        "s0",
    )
    .near(0.25, 0.0125),
    row(
        "share.cgroup.over-cpus",
        "vm_cgroup_weight_counts_over_cpus",
        "cgroup_over_cpus",
        "s0",
    )
    .near(0.25, 0.0125),
    row(
        "share.cgroup.nested",
        "vm_cgroup_weights_nest",
        "cgroup_nested",
        "s2",
    )
    .near(0.125, 0.00625),
    row("limit.one", "vm_cpu_max_is_kept", "cpu_max_1", "cpus")
        .unit("CPUs")
        .near(0.2, 0.02),
    row("limit.eight", "vm_cpu_max_is_kept", "cpu_max_8", "cpus")
        .unit("CPUs")
        .near(0.2, 0.02),
    row("limit.nested", "vm_cpu_max_nests", "cpu_max_outer", "cpus")
        .unit("CPUs")
        .near(0.5, 0.02),
    probe("hostile.fork", "beside_fork"),
    probe("hostile.exec", "beside_exec"),
    probe("hostile.thread-exec", "beside_exec-thread"),
    probe("hostile.churn", "beside_churn"),
    probe("hostile.yield", "beside_yield"),
    probe("hostile.stop", "beside_stop"),
    probe("hostile.trace", "beside_trace"),
    probe("hostile.handoff", "beside_handoff"),
    probe("hostile.micro", "beside_micro"),
    row(
        "hostile.debt",
        "vm_nice_sleeper_pays_its_debt",
        "debt",
        "nice_share",
    )
    .at_most(0.05),
    left("hostile.left.heap", "heap_bytes")
        .unit("bytes")
        .at_most(4096.0),
    left("hostile.left.maps", "maps_bytes")
        .unit("bytes")
        .at_most(0.0),
    left("hostile.left.kernel", "kernel_kb")
        .unit("kB")
        .at_most(4096.0),
    row("hotplug.cycles", HOTPLUG, "hotplug", "cycles").at_least(50.0),
    row("hotplug.others", HOTPLUG, "hotplug", "hogs_s")
        .unit("s")
        .at_least(2.4),
    // Older kernels keep nothing for others beside a real-time hog.
    row("rt-hog.ejections", RT, "rt_hog", "ejected")
        .at_most(0.0)
        .since("7.2"),
    row("rt-hog.others", RT, "rt_one", "least_s")
        .unit("s")
        .at_least(1.25)
        .since("7.2"),
    cycles("attach.a", "vm_full_attach_25_cycles_a"),
    cycles("attach.b", "vm_full_attach_25_cycles_b"),
    cycles("attach.c", "vm_full_attach_25_cycles_c"),
    cycles("attach.d", "vm_full_attach_25_cycles_d"),
    eevdf("clock.make", "vm_full_make_beside_eevdf", "make_seconds")
        .unit("s")
        .at_most(1.05),
    eevdf("count.make", "vm_full_make_by_instructions", "make_seconds")
        .unit("s")
        .at_most(1.02),
];
