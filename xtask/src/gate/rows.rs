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
    pub ejections: u32,
}

/// All rows, in the order in which they run: what breaks everything else first.
pub const ROWS: &[Row] = &[
    Row {
        name: "verifier",
        what: "loads with every policy; verified instructions below their ceilings",
        tests: &["vm_verified_instructions_stay_below_ceilings"],
        ejections: 0,
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
        ejections: 0,
    },
    Row {
        name: "ejection",
        what: "an error and SysRq-S detach it as documented",
        tests: &["vm_ejected_reattaches_then_gives_up", "vm_sysrq_s_ends_it"],
        ejections: 5,
    },
    Row {
        name: "stopped",
        what: "the agent stopped for 40 s",
        tests: &["vm_full_agent_stopped_40s"],
        ejections: 0,
    },
    Row {
        name: "loads",
        what: "hogs, cyclictest, messaging, pipe, hackbench",
        tests: &[
            "vm_full_hogs_and_cyclictest_60s",
            "vm_full_benchmarks_five_times",
        ],
        ejections: 0,
    },
    Row {
        name: "shares",
        what: "shares by weight, no CPU idle beside work, no edge lost",
        tests: &[
            "vm_pinned_hogs_share_evenly",
            "vm_nice_is_honoured",
            "vm_batch_and_idle_keep_behind",
            "vm_edges_are_conserved",
            "vm_full_conservation_60s",
        ],
        ejections: 0,
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
        ejections: 0,
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
        ejections: 0,
    },
    Row {
        name: "idle",
        what: "an idle machine stays idle",
        tests: &["vm_full_idle_120s"],
        ejections: 0,
    },
    Row {
        name: "hotplug",
        what: "CPUs go and come under load",
        tests: &["vm_hotplug_needs_no_restart", "vm_full_hotplug_50_cycles"],
        ejections: 0,
    },
    Row {
        name: "cpus",
        what: "nohz_full, odd numbers, SMT off",
        tests: &[
            "vm_full_nohz_cpu_is_left_alone",
            "vm_full_odd_cpus_with_a_hole",
            "vm_full_smt_off_and_on",
        ],
        ejections: 0,
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
        ejections: 0,
    },
    Row {
        name: "cgroups",
        what: "cpu.weight, cpu.max, cpusets, moves, the freezer",
        tests: &[
            "vm_cgroup_weights_nest",
            "vm_cgroup_weight_counts_over_cpus",
            "vm_cpu_max_is_kept",
            "vm_cpu_max_nests",
            "vm_cgroup_freezes",
            "vm_full_cpuset_changes_lose_nobody",
            "vm_full_cgroup_moves_lose_nobody",
        ],
        ejections: 0,
    },
    Row {
        name: "hostile",
        what: "what an ordinary user can do to it",
        tests: &[
            "vm_full_fork_exec_storm_60s",
            "vm_affinity_nice_churn",
            "vm_hostile_set_harms_nobody",
            "vm_handing_over_starves_nobody",
            "vm_full_crowd_of_hogs_is_no_stall",
            "vm_full_crowd_of_nice_hogs_is_no_stall",
            "vm_full_memory_pressure_5min",
        ],
        ejections: 0,
    },
    Row {
        name: "crowds",
        what: "10,000 threads, more threads than records, pids used again",
        tests: &[
            "vm_full_ten_thousand_threads",
            "vm_full_more_threads_than_records",
            "vm_full_reused_pids_are_new_workers",
        ],
        ejections: 0,
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
            "vm_group_hand_off_cost",
        ],
        ejections: 0,
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
            "vm_what_changes_is_so",
        ],
        ejections: 0,
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
