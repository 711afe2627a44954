/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * kernelq: tasks that no server decides about.
 *
 * Does:    1. per-CPU kernel threads go straight to the local queue, in front:
 *             timers, RCU and migration hang on them, and on a wake-up they
 *             preempt, for waiting at the head still costs a slice; one that
 *             used up a slice without a sleep goes on as 2. says, or a busy
 *             ksoftirqd would own the CPU;
 *          2. unbound kernel threads, io_uring and vhost threads and anonymous
 *             tasks share a queue per CPU, fair among themselves by CPU time,
 *             and as a whole against the workers: at most half while both wait,
 *             and those that a user can start by head.
 * State:   p->scx.dsq_vtime (v here), umcg_cpu.kq_ns/wk_ns.
 * Called from: enqueue, dispatch, stopping.
 * Never:   SCX_DSQ_GLOBAL, which the kernel drains before it asks us.
 * Counters: kthread_local, kernel_fair, anonymous.
 */
#ifndef __UMCG_KERNELQ_BPF_H
#define __UMCG_KERNELQ_BPF_H

#include "idle.bpf.h"

#define KERNEL_SLICE_NS (2 * NSEC_PER_MSEC)
#define MAX_HEADS 8

static __always_inline void kernelq_enqueue(struct task_struct *p, s32 cpu,
					    u64 enq_flags)
{
	struct umcg_cpu *c = cpu_rec(cpu);
	u64 v = p->scx.dsq_vtime, lag = base_slice();

	if (is_percpu_kthread(p) && ((enq_flags & SCX_ENQ_WAKEUP) || p->scx.slice)) {
		count(kthread_local);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, base_slice(),
				   enq_flags & SCX_ENQ_WAKEUP ?
				   SCX_ENQ_PREEMPT : SCX_ENQ_HEAD);
		return;
	}
	v = clamp_key(v, c->kq_ns - lag, c->kq_ns + lag);
	WRITE_ONCE(c->kernel, 1);
	scx_bpf_dsq_insert_vtime(p, KERNELQ(cpu), KERNEL_SLICE_NS, v, 0);
	if (c->idle_since_ns)
		kick(cpu, SCX_KICK_IDLE);
	else
		kick_idle_for(p, NULL, cpu);
}

/*
 * Asking the queue itself costs a hash look-up in each dispatch, and it is mostly
 * empty. Raised before the insert and lowered here, both with @cpu's rq lock.
 */
static __always_inline bool kernelq_waits(struct umcg_cpu *c, s32 cpu)
{
	if (!READ_ONCE(c->kernel))
		return false;
	if (scx_bpf_dsq_nr_queued(KERNELQ(cpu)))
		return true;
	WRITE_ONCE(c->kernel, 0);
	return false;
}

/*
 * What a user can start by the dozen (io_uring and vhost threads, anonymous tasks)
 * is charged by head: one beside n waiting workers counts n times. Not kernel
 * threads: in a crowd of hogs the watchdog's own worker would come too late.
 */
static __always_inline u64 by_head(const struct task_struct *p, u64 used, s32 cpu)
{
	if (p->flags & PF_KTHREAD)
		return used;
	return used * (scx_bpf_dsq_nr_queued(PARK(cpu)) ?: 1) /
	       (scx_bpf_dsq_nr_queued(KERNELQ(cpu)) + 1);
}

/*
 * Whose turn is it on @c, when both wait? A side cannot bank idle time; what
 * KERNELQ owes is a slice for each of the @workers, up to MAX_HEADS, for kernel
 * threads wait behind it.
 */
static __always_inline bool kernelq_turn(struct umcg_cpu *c, u32 workers)
{
	s64 ahead = c->kq_ns - c->wk_ns, most;

	if (workers > MAX_HEADS)
		workers = MAX_HEADS;
	most = base_slice() * (workers ?: 1);

	if (ahead < -(s64)base_slice())
		c->kq_ns = c->wk_ns - base_slice();
	else if (ahead > most)
		c->wk_ns = c->kq_ns - most;
	return (s64)(c->kq_ns - c->wk_ns) <= 0;
}

static __always_inline bool kernelq_take(struct umcg_cpu *c, s32 cpu)
{
	if (!scx_bpf_dsq_move_to_local(KERNELQ(cpu), 0))
		return false;
	count_on(c, kernel_fair);
	return true;
}

static __always_inline void kernelq_charge(struct task_struct *p,
					   struct umcg_cpu *c, u64 used)
{
	if (is_percpu_kthread(p) && p->scx.slice)
		return;
	c->kq_ns += by_head(p, used, scx_bpf_task_cpu(p));
	p->scx.dsq_vtime += used * 100 / (p->scx.weight ?: 1);
}

#endif /* __UMCG_KERNELQ_BPF_H */
