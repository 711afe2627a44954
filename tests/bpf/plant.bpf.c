/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * plant: makes what the scheduler does dearer from outside of it, by as much as is asked for.
 *
 * Does:    counts to plant_loops in each context switch, and in each run of a SYSCALL
 *          program, which is how a client calls.
 * State:   plant_loops, which the Rust side writes.
 * Called from: the tracepoint (run queue lock held) and the kernel's own function.
 * Races:   none: the count is nobody's.
 * Never:   reads or writes anything of the scheduler's; see tests/src/tests/guard.rs.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

#define PLANT_MOST 2048

u32 plant_loops;

static __always_inline int count(void)
{
	u32 loops = READ_ONCE(plant_loops), i;
	int sum = 0;

	/* A bound that the verifier can walk to. */
	for (i = 0; i < PLANT_MOST && i < loops; i++) {
		barrier_var(sum);
		sum++;
	}
	/* Of use to nobody, which the compiler must not know. */
	return sum < 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(plant_switch)
{
	return count();
}

SEC("fentry/bpf_prog_test_run_syscall")
int BPF_PROG(plant_call)
{
	return count();
}
