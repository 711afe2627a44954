//! Tests of others in partial mode, where only SCHED_EXT threads are the scheduler's: a
//! member is one, and goes back to its class when it leaves.

use anyhow::Result;

use super::{Test, ends, group, library, member, published, servers, short, signals};
use crate::harness::{Verdict, in_partial_mode};

/// On the newest kernel.
const fn of(name: &'static str, seconds: u32, run: fn() -> Result<Verdict>) -> Test {
    short(name, "member,newest", seconds, run)
}

/// On the oldest one too, in the boot of the tests in full mode, whose last ones they are.
const fn on_both(name: &'static str, seconds: u32, run: fn() -> Result<Verdict>) -> Test {
    short(name, "group", seconds, run)
}

pub const TESTS: &[Test] = &[
    of("vm_partial_wake_count_selftest_unprivileged", 4, || {
        in_partial_mode(published::wake_count::<300>)
    }),
    of(
        "vm_partial_idle_afterwards_selftest_unprivileged",
        2,
        || in_partial_mode(published::idle_afterwards),
    ),
    of("vm_partial_ping_pong_selftest_unprivileged", 4, || {
        in_partial_mode(published::ping_pong::<200>)
    }),
    on_both(
        "vm_partial_no_run_by_itself_selftest_unprivileged",
        3,
        || in_partial_mode(published::no_run_by_itself),
    ),
    of("vm_partial_switch_chain_selftest_unprivileged", 3, || {
        in_partial_mode(published::switch_chain)
    }),
    of("vm_partial_timeouts_selftest_unprivileged", 4, || {
        in_partial_mode(published::timeouts)
    }),
    of(
        "vm_partial_hog_and_sleepers_selftest_unprivileged",
        5,
        || in_partial_mode(published::hog_and_sleepers),
    ),
    on_both("vm_partial_api_selftest_unprivileged", 3, || {
        in_partial_mode(library::api)
    }),
    on_both("vm_partial_runtime_selftest_unprivileged", 5, || {
        in_partial_mode(library::runtime)
    }),
    on_both("vm_partial_two_processes_selftest_unprivileged", 3, || {
        in_partial_mode(library::two_processes)
    }),
    on_both("vm_partial_kick_selftest_unprivileged", 4, || {
        in_partial_mode(group::kick)
    }),
    on_both(
        "vm_partial_kick_by_handler_selftest_unprivileged",
        3,
        || in_partial_mode(signals::kick_by_handler),
    ),
    of("vm_partial_kick_by_child_selftest_unprivileged", 2, || {
        in_partial_mode(signals::kick_by_child)
    }),
    on_both("vm_partial_signal_blocked_selftest_unprivileged", 3, || {
        in_partial_mode(signals::signal_blocked)
    }),
    of("vm_partial_signal_idle_selftest_unprivileged", 3, || {
        in_partial_mode(signals::signal_idle)
    }),
    of("vm_partial_signal_held_selftest_unprivileged", 4, || {
        in_partial_mode(signals::signal_held)
    }),
    on_both("vm_partial_server_dies_selftest_unprivileged", 4, || {
        in_partial_mode(servers::server_dies)
    }),
    of("vm_partial_shared_queue_selftest_unprivileged", 5, || {
        in_partial_mode(servers::shared_queue)
    }),
    of("vm_partial_fork_selftest_unprivileged", 2, || {
        in_partial_mode(ends::fork_of_worker)
    }),
    on_both("vm_partial_exec_selftest_unprivileged", 3, || {
        in_partial_mode(ends::exec_of_worker)
    }),
    of("vm_partial_exit_selftest_unprivileged", 3, || {
        in_partial_mode(ends::exit_of_worker)
    }),
    of("vm_partial_thread_ends_selftest_unprivileged", 4, || {
        in_partial_mode(ends::thread_ends)
    }),
    of("vm_partial_ptrace_selftest_unprivileged", 4, || {
        in_partial_mode(member::ptrace_each)
    }),
    of("vm_partial_affinity_selftest_unprivileged", 3, || {
        in_partial_mode(member::affinity)
    }),
    on_both("vm_partial_stopped_selftest_unprivileged", 3, || {
        in_partial_mode(member::stopped)
    }),
    of("vm_partial_freezer_selftest_unprivileged", 3, || {
        in_partial_mode(member::frozen)
    }),
];
