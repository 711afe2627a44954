/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * System groups: what BPF and the agent share of them. Part of intf.h.
 *
 * Group 0 takes the threads that no other one does; it is all there is without a
 * configuration of groups. The agent matches threads with groups: BPF counts in
 * umcg_worker.ask what may have changed that (a new program, name or cgroup), the
 * agent looks, writes `sys` and `sys_gen`, and the count that it has answered. So
 * nothing is lost when a message is: who has ask != answered is still to be
 * looked at. Until then a thread is in its parent's group.
 */
#ifndef __UMCG_INTF_SYS_H
#define __UMCG_INTF_SYS_H

enum umcg_sys_limits {
	UMCG_MAX_SYS = 16,	/* power of two: indexes are masked */
};

/* One group's terms. Writer: the agent, whenever it likes; each field counts by itself. */
struct umcg_sys {
	u64 slice_ns;
	u64 quantum_ns;		/* 0 = only the slice */
	u32 share;		/* its weight against other groups, in percent */
	u32 quiet;		/* its workers preempt nobody on wake-up */
	u64 cpus[UMCG_MAX_CPUS / 64];
};

/*
 * Sleep protocol of the agent's matching thread: as that of struct umcg_server, with
 * umcg_worker.ask for its lists. model: loom_ask_vs_look
 */
struct umcg_sysgroups {
	u32 on;			/* there is more than group 0 on all CPUs: else nobody asks further */
	u32 asleep;
	struct umcg_sys sys[UMCG_MAX_SYS];
};

/* What a group had of one CPU. Writer: BPF on that CPU. */
struct umcg_sys_use {
	u64 run_ns;
	u64 wait_ns;		/* RUNNABLE before it ran there */
	u64 switches;
	u64 preempts;		/* wake-ups that preempted somebody */
};

struct umcg_sys_cpu {
	struct umcg_sys_use use[UMCG_MAX_SYS];
};

#endif /* __UMCG_INTF_SYS_H */
