//! The rows of the gate: what is checked on each kernel. To add one, add it here.

use anyhow::{Result, bail};

/// One row.
#[derive(Debug)]
pub struct Row {
    /// Its name in the table and in the store.
    pub name: &'static str,
    /// What it shows.
    pub what: &'static str,
    /// Tests of `umcg-vmtest`, short or full.
    pub tests: &'static [&'static str],
    /// Ejections that these tests bring about by themselves; any other number fails the row.
    /// None: as many as each test says that it means, which differs between kernels.
    pub ejections: Option<u32>,
}

/// All rows, in the order in which they run: what breaks everything else first.
pub const ROWS: &[Row] = &[
    Row {
        name: "verifier",
        what: "loads with every policy; verified instructions below their ceilings",
        tests: &["vm_verified_instructions_stay_below_ceilings"],
        ejections: Some(0),
    },
    Row {
        name: "attach",
        what: "attach, detach, signals, partial mode",
        tests: &[
            "vm_doctor_says_it_can_run",
            "vm_attach_detach_is_clean",
            "vm_second_instance_is_refused",
            "vm_sigterm_detaches",
            "vm_sigkill_reverts_to_eevdf",
            "vm_detach_with_threads_loses_none",
            "vm_full_partial_60s",
        ],
        ejections: Some(0),
    },
    Row {
        name: "ejection",
        what: "an error and SysRq-S detach it as documented",
        tests: &[
            "vm_ejected_reattaches_then_gives_up",
            "vm_sysrq_s_ends_it",
            "vm_full_error_under_load_loses_nobody",
        ],
        ejections: Some(6),
    },
    Row {
        name: "stopped",
        what: "the agent stopped for 40 s",
        tests: &[
            "vm_full_agent_stopped_40s",
            "vm_full_agent_stopped_40s_fifo",
        ],
        ejections: Some(0),
    },
    Row {
        name: "loads",
        what: "hogs, cyclictest, messaging, pipe, hackbench",
        tests: &[
            "vm_full_hogs_and_cyclictest_60s",
            "vm_full_benchmarks_five_times",
        ],
        ejections: Some(0),
    },
    Row {
        name: "shares",
        what: "shares by weight, no CPU idle beside work, no edge lost",
        tests: &[
            "vm_pinned_hogs_share_evenly",
            "vm_free_hogs_share_evenly",
            "vm_short_sleeper_keeps_its_half",
            "vm_full_pair_starves_no_third",
            "vm_nice_is_honoured",
            "vm_batch_and_idle_keep_behind",
            "vm_edges_are_conserved",
            "vm_full_conservation_60s",
        ],
        ejections: Some(0),
    },
    Row {
        name: "decisions",
        what: "who decides, strict order, kicks, the quantum",
        tests: &[
            "vm_fifo_is_staged_by_servers",
            "vm_fair_can_be_staged",
            "vm_order_by_pid_staged",
            "vm_order_by_pid_keyed",
            "vm_quantum_forces_preemption",
            "vm_kick_ends_one_stint",
        ],
        ejections: Some(0),
    },
    Row {
        name: "policies",
        what: "what each policy promises of its order, shares and deadlines",
        tests: &[
            "vm_policy_arrival_keeps_the_order",
            "vm_full_policy_lifo_is_last_first",
            "vm_policy_priority_is_strict",
            "vm_policy_priority_ages",
            "vm_policy_rr_turns_are_even",
            "vm_policy_quota_tiers",
            "vm_policy_deadlines_are_met",
            "vm_full_policy_10000_deadlines_are_met",
        ],
        ejections: Some(0),
    },
    Row {
        name: "configuration",
        what: "files, reloads and system groups",
        tests: &[
            "vm_config_check_needs_no_root",
            "vm_config_reload_is_whole_or_not_at_all",
            "vm_config_groups_share_a_cpu",
            "vm_config_threads_change_groups",
            "vm_config_groups_have_policies",
            "vm_config_reloads_lose_nobody",
            "vm_full_config_1000_reloads",
        ],
        ejections: Some(0),
    },
    Row {
        name: "protocols",
        what: "BPF's half of lists, rings, claims and sleep against the agent's",
        tests: &[
            "vm_hammer_list_loses_no_notice",
            "vm_hammer_ring_takes_each_once",
            "vm_hammer_claim_has_one_holder",
            "vm_hammer_sleep_loses_no_wake",
            "vm_hammer_near_walks_nearest_first",
        ],
        ejections: Some(0),
    },
    Row {
        name: "idle-structures",
        what: "stack, ring and mask of idle servers: no wake lost, none woken twice",
        tests: &[
            "vm_hammer_idle_stack",
            "vm_hammer_idle_ring",
            "vm_hammer_idle_mask",
        ],
        ejections: Some(0),
    },
    Row {
        name: "preemption",
        what: "kicks of a group's workers, their sources, sections without them",
        tests: &[
            "vm_group_kick_preempts",
            "vm_group_sources_are_told_unprivileged",
            "vm_group_key_preempts_on_wake_unprivileged",
            "vm_group_section_is_honoured_unprivileged",
            "vm_group_section_abuse_is_ended_unprivileged",
        ],
        ejections: Some(0),
    },
    Row {
        name: "idle",
        what: "an idle machine stays idle",
        tests: &["vm_full_idle_120s"],
        ejections: Some(0),
    },
    Row {
        name: "hotplug",
        what: "CPUs go and come under load",
        tests: &[
            "vm_hotplug_needs_no_restart",
            "vm_full_cpu_that_comes_later_is_used",
            "vm_full_hotplug_50_cycles",
            "vm_full_hotplug_staged",
        ],
        ejections: Some(0),
    },
    Row {
        name: "cpus",
        what: "nohz_full, odd numbers, SMT off, the freezer of a suspend",
        tests: &[
            "vm_full_nohz_cpu_is_left_alone",
            "vm_full_nohz_wakee_has_its_turn",
            "vm_freezer_stops_and_thaws",
            "vm_full_odd_cpus_with_a_hole",
            "vm_full_smt_off_and_on",
        ],
        ejections: Some(0),
    },
    Row {
        name: "cycles",
        what: "attached and detached 100 times under load",
        tests: &[
            "vm_full_attach_25_cycles_a",
            "vm_full_attach_25_cycles_b",
            "vm_full_attach_25_cycles_c",
            "vm_full_attach_25_cycles_d",
        ],
        ejections: Some(0),
    },
    Row {
        name: "cgroups",
        what: "cpu.weight, cpu.max, cpusets, moves, the freezer",
        tests: &[
            "vm_cgroup_weights_nest",
            "vm_cgroup_weight_counts_over_cpus",
            "vm_full_cgroup_weights_count",
            "vm_cpu_max_is_kept",
            "vm_cpu_max_nests",
            "vm_cpu_max_holds_groups",
            "vm_full_cpu_max_knows_burst",
            "vm_full_cpu_max_holds_sleepers",
            "vm_full_cpu_max_tiny_40s",
            "vm_full_cpu_max_that_vanishes_frees_all",
            "vm_full_cpu_max_can_be_ignored",
            "vm_cgroup_freezes",
            "vm_full_cpuset_changes_lose_nobody",
            "vm_full_cgroup_moves_lose_nobody",
        ],
        ejections: Some(0),
    },
    Row {
        name: "hostile",
        what: "what an ordinary user can do to it",
        tests: &[
            "vm_full_fork_exec_storm_60s",
            "vm_affinity_nice_churn",
            "vm_hostile_set_harms_nobody",
            "vm_handing_over_starves_nobody",
            "vm_full_changed_worker_keeps_its_place",
            "vm_full_crowd_of_hogs_is_no_stall",
            "vm_full_crowd_of_nice_hogs_is_no_stall",
            "vm_full_memory_pressure_5min",
        ],
        ejections: Some(0),
    },
    Row {
        name: "real-time",
        what: "hogs of SCHED_FIFO on one CPU and on all: survived, or named as the reason",
        tests: &[
            "vm_rt_hog_on_one_cpu",
            "vm_full_rt_hog_25s",
            "vm_full_rt_hog_unthrottled",
            "vm_full_rt_hogs_on_all_cpus",
        ],
        ejections: None,
    },
    Row {
        name: "selftests",
        what: "what the kernel's own selftests and scx's CI look for",
        tests: &[
            "vm_full_reload_loop_under_load",
            "vm_full_lone_hog_survives_its_quantum",
            "vm_full_wakeups_stay_within_affinity",
            "vm_deadline_bandwidth_is_kept",
            "vm_full_scx_ci_load",
        ],
        ejections: Some(0),
    },
    Row {
        name: "crowds",
        what: "10,000 threads, more threads than records, pids used again",
        tests: &[
            "vm_full_ten_thousand_threads",
            "vm_full_more_threads_than_records",
            "vm_full_reused_pids_are_new_workers",
        ],
        ejections: Some(0),
    },
    Row {
        name: "clients",
        what: "application groups of unprivileged users",
        tests: &[
            "vm_group_cycles_unprivileged",
            "vm_group_switch_ping_pong",
            "vm_group_stop_and_kill",
            "vm_group_server_gone_rescues",
            "vm_group_hostile_desk",
            "vm_group_partial_mode",
            "vm_group_teardown_leaves_no_map",
            "vm_group_bells_come_back",
            "vm_group_daemon_restarts_unprivileged",
            "vm_hot_paths_get_no_dearer",
        ],
        ejections: Some(0),
    },
    Row {
        name: "faults",
        what: "decisions that fail on purpose: nothing is lost",
        tests: &[
            "vm_faults_are_those_of_their_seed",
            "vm_faults_at_once_lose_nothing",
            "vm_full_faults_of_lists_lose_nothing",
            "vm_full_faults_of_time_lose_nothing",
            "vm_full_faults_of_takes_lose_nothing",
            "vm_full_faults_of_choices_lose_nothing",
            "vm_full_faults_of_calls_lose_nothing",
            "vm_full_panic_of_a_policy_loses_nothing",
        ],
        ejections: Some(0),
    },
    Row {
        name: "planted",
        what: "planted bugs are found by tests of every run",
        tests: &[
            "vm_full_planted_lost_wake_is_caught",
            "vm_full_planted_double_run_is_caught",
            "vm_full_planted_leaked_claim_is_caught",
            "vm_full_planted_stuck_slot_is_caught",
            "vm_full_planted_stale_kick_is_caught",
        ],
        ejections: Some(0),
    },
    Row {
        name: "visible",
        what: "status, doctor and statistics tell the truth",
        tests: &[
            "vm_status_shows_longest_wait_and_rescued",
            "vm_doctor_pid_explains_each_state",
            "vm_doctor_pid_names_refused_takes",
            "vm_doctor_pid_knows_groups_and_limits",
            "vm_doctor_pid_refuses_what_is_no_worker",
            "vm_wait_histograms_tell_tiers_apart",
            "vm_stalled_statistics_readers_stop_nothing",
            "vm_garbage_to_statistics_is_answered",
            "vm_what_changes_is_so",
        ],
        ejections: Some(0),
    },
];

/// The rows whose name contains `filter`.
pub fn wanted(filter: Option<&str>) -> Result<Vec<&'static Row>> {
    let filter = filter.unwrap_or_default();
    let found: Vec<_> = ROWS.iter().filter(|r| r.name.contains(filter)).collect();
    if found.is_empty() {
        let names: Vec<_> = ROWS.iter().map(|r| r.name).collect();
        bail!("no row matches: {filter}; there are {}", names.join(", "));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_unknown_row_names_those_there_are() {
        let err = wanted(Some("nonsense")).unwrap_err().to_string();
        assert!(err.contains("nonsense") && err.contains("hotplug"), "{err}");
        assert_eq!(wanted(Some("hotplug")).unwrap().len(), 1);
        assert_eq!(wanted(None).unwrap().len(), ROWS.len());
    }

    #[test]
    fn rows_have_names_of_their_own_that_fit_a_field() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(
                ROWS[..at].iter().all(|r| r.name != row.name),
                "{}",
                row.name
            );
            assert!(!row.name.contains(char::is_whitespace), "{}", row.name);
        }
    }
}
