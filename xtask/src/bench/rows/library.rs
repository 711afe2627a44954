//! Claims of the client library: costs of its calls, what gets lost, servers, ends, hostile clients.

use super::{Claim, Source, row, source};

/// From a worker's block to its server, beside one hand-off by futexes.
const fn block(name: &'static str, metric: &'static str) -> Claim {
    row(name, "vm_full_app_block_to_server_cost", metric, "median")
        .unit("instructions")
        .beside("futex", source(metric, "futex_hand_off"))
        .at_most(0.5)
}

/// So many blocks in calls or faults, none of them lost.
const fn blocks(name: &'static str, test: &'static str, metric: &'static str, least: f64) -> Claim {
    row(name, test, metric, "blocked+faults").at_least(least)
}

/// Instructions of a hot path beside so many hand-offs by futexes.
const fn hot(name: &'static str, metric: &'static str, hand_offs: f64) -> Claim {
    let futex = Source {
        times: hand_offs,
        ..source(metric, "futex_hand_off")
    };
    row(name, "vm_hot_paths_get_no_dearer", metric, "instructions")
        .unit("instructions")
        .beside("futex", futex)
}

/// The longest that a server stood still: 60 ms, or twice what threads of no group did.
const fn stall(name: &'static str, test: &'static str, metric: &'static str) -> Claim {
    row(name, test, metric, "longest_ms")
        .unit("ms")
        .at_most(60.0)
        .or(2.0, source(metric, "plain_longest_ms"))
}

/// Two servers by one; or what two CPUs of that guest are worth to plain threads.
const fn scaling(name: &'static str, test: &'static str, metric: &'static str) -> Claim {
    row(name, test, metric, "ratio")
        .at_least(1.8)
        .or(0.95, source(metric, "plain_ratio"))
}

/// Rates of a pair, one by another.
const fn pair(name: &'static str, test: &'static str, beside: &'static str) -> Claim {
    row(name, test, "app_pair", "beside_per_s")
        .unit("1/s")
        .beside(beside, source("app_pair", beside))
}

const fn hog(name: &'static str, test: &'static str) -> Claim {
    row(name, test, "app_pair", "hog_share").near(0.5, 0.05)
}

/// All of them were there or gone so soon.
const fn soon(name: &'static str, test: &'static str, metric: &'static str) -> Claim {
    row(name, test, metric, "longest_ms")
        .unit("ms")
        .at_most(100.0)
}

const fn hostile(name: &'static str, test: &'static str) -> Claim {
    row(name, test, "app_hostile", "beside_hostile_us")
        .unit("us")
        .beside("hogs", source("app_hostile", "beside_hogs_us"))
        .at_most(1.1)
}

const PAIR: &str = "vm_full_app_pair_beside_hog";
const PAIR_COUNT: &str = "vm_full_app_pair_beside_hog_by_instructions";
const SLEEPERS: &str = "vm_full_app_sleepers_fill_two_servers";
const MANY: &str = "vm_full_app_10k_workers_by_instructions";
const RESTARTS: &str = "vm_full_group_daemon_restarts_20";

pub const ROWS: &[Claim] = &[
    hot("group.switch", "hot_path_switch", 1.0).at_most(0.6),
    hot("group.round-trip", "hot_path_run", 2.0).at_most(0.7),
    hot("group.yield", "hot_path_yield", 1.0),
    hot("group.block", "hot_path_block", 1.0),
    hot("group.wake-listed", "hot_path_wake_listed", 1.0),
    hot("group.wake-idle", "hot_path_wake_idle", 1.0),
    hot("group.kick", "hot_path_kick", 1.0),
    hot("group.quantum", "hot_path_quantum", 1.0),
    hot("system.futex", "hot_path_futex", 1.0),
    hot("system.yield", "hot_path_sched_yield", 1.0),
    block("block.nanosleep", "app_block_to_server_nanosleep"),
    block("block.pipe", "app_block_to_server_pipe"),
    block("block.futex", "app_block_to_server_futex"),
    row(
        "block.allocations",
        "vm_full_app_block_to_server_cost",
        "app_heap",
        "calls",
    )
    .at_most(0.0),
    blocks(
        "cycles.sleep.1",
        "vm_full_app_sleeps_500k_1",
        "app_cycles_sleep",
        500_000.0,
    ),
    blocks(
        "cycles.sleep.4",
        "vm_full_app_sleeps_500k_4",
        "app_cycles_sleep",
        500_000.0,
    ),
    blocks(
        "cycles.pipe.1",
        "vm_full_app_pipes_500k_1",
        "app_cycles_pipe",
        500_000.0,
    ),
    blocks(
        "cycles.pipe.4",
        "vm_full_app_pipes_500k_4",
        "app_cycles_pipe",
        500_000.0,
    ),
    blocks(
        "cycles.futex.1",
        "vm_full_app_futexes_500k_1",
        "app_cycles_futex",
        500_000.0,
    ),
    blocks(
        "cycles.futex.4",
        "vm_full_app_futexes_500k_4",
        "app_cycles_futex",
        500_000.0,
    ),
    // 50,000 pages; one may be there before the thread that touched it sleeps.
    blocks(
        "cycles.fault.1",
        "vm_full_app_faults_50k_1",
        "app_cycles_fault",
        45_000.0,
    ),
    blocks(
        "cycles.fault.4",
        "vm_full_app_faults_50k_4",
        "app_cycles_fault",
        45_000.0,
    ),
    blocks(
        "cycles.file.1",
        "vm_full_app_file_faults_2k_1",
        "app_cycles_file",
        2_000.0,
    ),
    blocks(
        "cycles.file.4",
        "vm_full_app_file_faults_2k_4",
        "app_cycles_file",
        2_000.0,
    ),
    row("sleepers.by-pool", SLEEPERS, "app_sleepers", "group_per_s")
        .unit("1/s")
        .beside("pool", source("app_sleepers", "pool_per_s"))
        .at_least(15.0),
    row(
        "sleepers.by-computing",
        SLEEPERS,
        "app_sleepers",
        "group_per_s",
    )
    .unit("1/s")
    .beside("computing", source("app_sleepers", "pure_per_s"))
    .at_least(0.9),
    scaling(
        "servers.shared",
        "vm_full_app_two_servers_shared_queue",
        "app_scaling_shared",
    ),
    scaling(
        "servers.stealing",
        "vm_full_app_two_servers_stealing",
        "app_scaling_perserver",
    ),
    hog("clock.pair.hog", PAIR),
    pair("clock.pair.kept", PAIR, "alone_per_s").at_least(0.45),
    pair("clock.pair.by-futex", PAIR, "futex_per_s").at_least(1.3),
    pair("clock.pair.by-yield", PAIR, "yield_per_s").at_least(25.0),
    hog("count.pair.hog", PAIR_COUNT),
    pair("count.pair.kept", PAIR_COUNT, "alone_per_s").at_least(0.45),
    pair("count.pair.by-futex", PAIR_COUNT, "futex_per_s").at_least(1.3),
    pair("count.pair.by-yield", PAIR_COUNT, "yield_per_s").at_least(25.0),
    stall(
        "stall.faults",
        "vm_full_app_faults_stall_no_server_60s",
        "app_stall_faults",
    ),
    stall(
        "stall.fsync",
        "vm_full_app_fsync_stalls_no_server_60s",
        "app_stall_fsync",
    ),
    row(
        "race.timeouts",
        "vm_full_app_timeouts_race_wakes_10k",
        "app_timeouts",
        "woken+timed_out",
    )
    .at_least(10_000.0),
    row(
        "race.processes",
        "vm_full_app_two_processes_hand_over_10k",
        "app_two_processes",
        "handed",
    )
    .at_least(10_000.0),
    row(
        "race.exits",
        "vm_full_app_threads_just_end_1k",
        "app_exits",
        "by_run+by_list",
    )
    .at_least(1_000.0),
    row("workers-10k.parked", MANY, "app_many", "parked").at_most(1.2),
    row("workers-10k.asleep", MANY, "app_many", "asleep").at_most(1.2),
    row(
        "workers-10k.memory",
        MANY,
        "app_workers_10000",
        "machine_kb_each",
    )
    .unit("kB"),
    soon("end.kill", "vm_app_kill_in_all_states", "app_kill"),
    soon("end.stop", "vm_app_stop_in_all_states", "app_stop"),
    soon("end.exec", "vm_app_exec_in_all_states", "app_exec"),
    row(
        "end.take-over",
        "vm_group_idle_server_takes_over_unprivileged",
        "group_take_over",
        "ms",
    )
    .unit("ms"),
    hostile("clock.hostile-client", "vm_full_app_hostile_client_5min"),
    hostile(
        "count.hostile-client",
        "vm_full_app_hostile_client_by_instructions",
    ),
    // Right rounds on each side of the restarts.
    row(
        "restarts.served",
        RESTARTS,
        "group_restarts_rounds",
        "kernel",
    )
    .at_least(1.0),
    row("restarts.alone", RESTARTS, "group_restarts_rounds", "futex").at_least(1.0),
    row(
        "share.group",
        "vm_group_share_is_kept_unprivileged",
        "group_share",
        "share",
    )
    .near(1.0 / 3.0, 0.05),
];
