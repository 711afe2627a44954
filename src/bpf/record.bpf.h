/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * record: who is who: worker records, generations, servers, task contexts.
 *
 * Does:    1. ops.init_task takes a record from the free list, or leaves the
 *             task anonymous: it never makes fork fail;
 *          2. ops.enable publishes the task pointer, ops.disable and the last
 *             quiescent take it back;
 *          3. ops.exit_task frees the record under its own generation.
 * State:   workers[].gen (odd = in use), free list, task pointers.
 * Races:   a ring or list entry carries (index, generation); a stale one finds
 *          another generation. The task pointer is a kptr that readers use
 *          under RCU. On 6.16-6.18 exit_task runs at the last put of the task,
 *          so the pointer has to go before that: when the task is dead.
 * Never:   a pid look-up on a hot path.
 * Counters: anonymous, alloc_fail.
 */
#ifndef __UMCG_RECORD_BPF_H
#define __UMCG_RECORD_BPF_H

#include "base.bpf.h"

/* Private to BPF, found once per callback. */
struct umcg_task {
	u64 v;			/* virtual time, on the clock of clock_cpu */
	u64 exec;		/* se.sum_exec_runtime at the last charge */
	u64 quiet_ns;		/* CPU time since it slept or woke somebody */
	u64 parked_ns;		/* 0 = not parked */
	u64 waits_ns;		/* since when it wants a CPU, or is held; see waits_since() */
	u64 left_ns;		/* of its slice, when it was pushed aside */
	u32 idx;
	u32 gen;
	u32 avg_ns;
	u32 burst_ns;
	s32 clock_cpu;
	u32 server;
	u32 cgroup;		/* its cgroup's record, 0 = the root; see cgroup.bpf.h */
	u32 cgroup_gen;
	u32 counted;		/* weight that it adds to its cgroup's load */
	u32 parked_weight;	/* and to parked_weight of parked_cpu */
	s32 parked_cpu;
	u32 owe_ns;		/* how much more than LAG it may owe */
	u32 spared_ns;		/* what it was owed beyond LAG, and has not used since */
	u32 released;		/* by the timer, from THROTTLE; see limit.bpf.h */
	u64 limit_exec;		/* se.sum_exec_runtime at the last charge of a limit */
	u64 throttled_ns;	/* 0 = does not wait for tokens */
	s64 prepaid_ns;		/* taken from the buckets ahead of its stint */
	u8 kind;
	u8 preempt;		/* select_cpu found somebody to preempt */
	u8 pending;		/* counted in umcg_pending */
	u8 yielded;
	u8 rescued;		/* the relief valve moved it */
	u8 at_user;		/* on its way to user mode: holds no lock of the kernel */
	u8 soft;		/* its last sleep was interruptible */
	u8 ghost;		/* member: runs to sleep or stop, that is no edge */
	u8 at_border;		/* member: it was held where it may wait for tokens */
	u8 in_call;		/* worker: it was forced off its slot inside a system call */
	u8 unnamed;		/* worker: registered, and has not given its CPU up since */

	/* Members of application groups. */
	u32 group;
	u32 group_gen;
	u32 member;		/* its index there; 0 in a thread that is none */
	u32 left;		/* server whose slot it has just given up */
	u32 leaving;		/* who makes it 1 takes it out of its group */
	u32 share;		/* its group's, in percent; 0 = 100 */
	u32 quantum_us;		/* its group's, of a worker; 0 = none */
	u32 asked;		/* 0, or the call that its next sched_yield() makes */
	u64 base_ns;		/* CPU time before it was registered */
	u64 stint;		/* whose quantum began at stint_exec, see gkick.bpf.h */
	u64 stint_exec;
	u64 attached;		/* gen << 32 | group that it may call for, beside its own */

	/* A call that the daemon put down for it, see ask.bpf.h. */
	u64 ask_token[2];
	u64 ask_cookie;
	s32 ask_ret;
	/* System group, see sysgroup.bpf.h. */
	u32 sys;
	u32 sys_seen;		/* umcg_sys_gen of the next two */
	u32 sys_counted;	/* weight that it adds to the group's load */
	u8 sys_free;		/* its affinity leaves no CPU of its group: any will do */
	u8 sys_unsure;		/* a child that inherited what may be an old one */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct umcg_task);
} umcg_tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, UMCG_MAX_WORKERS);
	__type(key, u32);
	__type(value, struct umcg_worker);
} umcg_workers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, UMCG_MAX_CPUS);
	__type(key, u32);
	__type(value, struct umcg_server);
} umcg_servers SEC(".maps");

struct umcg_task_ptr {
	struct task_struct __kptr *task;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UMCG_MAX_WORKERS);
	__type(key, u32);
	__type(value, struct umcg_task_ptr);
} umcg_task_ptrs SEC(".maps");

/* Freed indexes, oldest first: the longest time until one is used again. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, UMCG_MAX_WORKERS);
	__type(value, u32);
} umcg_free SEC(".maps");

u32 umcg_fresh = 1;	/* indexes from here on were never used; 0 means none */

static __always_inline struct umcg_task *task_ctx(struct task_struct *p)
{
	return bpf_task_storage_get(&umcg_tasks, p, 0, 0);
}

static __always_inline struct umcg_worker *worker_rec(u32 idx)
{
	return bpf_map_lookup_elem(&umcg_workers, &idx);
}

static __always_inline struct umcg_server *server_rec(u32 cpu)
{
	return bpf_map_lookup_elem(&umcg_servers, &cpu);
}

/* The task behind @idx, usable within this program run; NULL when it is gone. */
static __always_inline struct task_struct *worker_task(u32 idx)
{
	struct umcg_task_ptr *slot = bpf_map_lookup_elem(&umcg_task_ptrs, &idx);

	return slot ? slot->task : NULL;
}

static __always_inline void worker_forget_task(u32 idx)
{
	struct umcg_task_ptr *slot = bpf_map_lookup_elem(&umcg_task_ptrs, &idx);
	struct task_struct *old;

	if (!slot)
		return;
	old = bpf_kptr_xchg(&slot->task, NULL);
	if (old)
		bpf_task_release(old);
}

static __always_inline void worker_publish_task(u32 idx, struct task_struct *p)
{
	struct umcg_task_ptr *slot = bpf_map_lookup_elem(&umcg_task_ptrs, &idx);
	struct task_struct *ref, *old;

	if (!slot)
		return;
	ref = bpf_task_acquire(p);
	if (!ref)
		return;
	old = bpf_kptr_xchg(&slot->task, ref);
	if (old)
		bpf_task_release(old);
}

static __always_inline u32 record_alloc(struct task_struct *p)
{
	struct umcg_worker *w;
	u32 idx = 0;

	if (umcg_fresh < umcg_records)
		idx = __sync_fetch_and_add(&umcg_fresh, 1);
	if (!idx || idx >= umcg_records) {
		idx = 0;
		if (bpf_map_pop_elem(&umcg_free, &idx) || !idx)
			return 0;
	}
	w = worker_rec(idx);
	if (!w)
		return 0;

	w->since_ns = w->woke_ns = w->born_ns = umcg_now();
	w->run_ns = w->wait_ns = w->key = 0;
	w->avg_ns = w->burst_ns = w->told_avg_ns = 0;
	w->claim = w->request = 0;
	w->rescues = 0;
	w->refused = 0;
	w->pid = p->pid;
	w->tgid = p->tgid;
	w->sys_now = 0;
	w->weight = 100;
	w->gen = (w->gen + 1) | 1;
	return idx;
}

/* `queued` stays: the server clears it when it takes the list. */
static __always_inline void record_free(u32 idx, u32 gen)
{
	struct umcg_worker *w = worker_rec(idx);

	if (!w || w->gen != gen)
		return;
	w->gen = gen + 1;
	w->pid = 0;
	worker_forget_task(idx);
	bpf_map_push_elem(&umcg_free, &idx, 0);
}

/*
 * Since when @t has wanted a CPU, or been held, without a run. A change of its affinity or
 * its class queues it anew, and does not set the watchdog's clock back: nor this one.
 */
static __always_inline u64 waits_since(struct umcg_task *t, u64 now)
{
	if (!t->waits_ns)
		t->waits_ns = now;
	return t->waits_ns;
}

static __always_inline bool is_kernel_task(const struct task_struct *p)
{
	return p->flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER);
}

static __always_inline bool may_run_on(const struct task_struct *p, s32 cpu)
{
	if (scx_bpf_task_cpu(p) == cpu)
		return true;
	return !p->migration_disabled && bpf_cpumask_test_cpu(cpu, p->cpus_ptr);
}

static __always_inline bool is_percpu_kthread(const struct task_struct *p)
{
	return (p->flags & PF_KTHREAD) && p->nr_cpus_allowed == 1;
}

#endif /* __UMCG_RECORD_BPF_H */
