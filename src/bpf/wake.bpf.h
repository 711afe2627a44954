/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * wake: where a woken task goes.
 *
 * Does:    1. notes that the running task woke somebody;
 *          2. keeps a SYNC wake-up of a short waker on its CPU;
 *          3. takes an idle CPU (previous, its core, its LLC: the kernel's own
 *             idle selection) and inserts there: no agent involved;
 *          4. else finds a CPU, nearest first, whose running worker is beaten by key;
 *          5. else the previous CPU: ops.enqueue parks it.
 * State:   umcg_task.preempt, umcg_cpu.last_wake_ns.
 * Called from: ops.select_cpu: no rq lock of the wakee's, interrupts off.
 *          Skipped for tasks that may use one CPU only and under bypass.
 * Races:   the chosen CPU may be overridden by the core: running() sees it.
 * Counters: direct, sync_local.
 */
#ifndef __UMCG_WAKE_BPF_H
#define __UMCG_WAKE_BPF_H

#include "context.bpf.h"
#include "key.bpf.h"
#include "limit.bpf.h"
#include "server.bpf.h"

/* True: who runs on @cpu, this one, is the waker. */
static __always_inline bool mark_waker(s32 cpu, u64 now)
{
	if (!in_task())
		return false;
	cpu_rec(cpu)->last_wake_ns = now;
	return true;
}

/*
 * Hand-overs keep the local queue filled, and the kernel asks dispatch only when
 * it is empty: a pair that never stops would shut out all that dispatch alone
 * serves. So they go through PARK while any of that waits, or may.
 */
static __always_inline bool others_wait(const struct umcg_cpu *c, s32 cpu)
{
	struct umcg_server *s;

	if (READ_ONCE(c->kernel) || READ_ONCE(c->hand))
		return true;
	s = server_rec(cpu);
	return s && READ_ONCE(s->must);
}

/*
 * The running worker wakes somebody for @cpu, its own, and sleeps soon, for it was
 * short so far, and nobody waits: the wakee goes next without a dispatch. Should it
 * not sleep, its slice ends; one without end would not, and endless_sweep() looks at
 * the queues that are ours.
 */
static __always_inline bool hand_down(s32 cpu, u64 now)
{
	struct task_struct *waker = (void *)bpf_get_current_task_btf();
	struct umcg_cpu *c = cpu_rec(cpu);

	/* A worker of a group is about to block: its server is next here. */
	if ((waker->flags & PF_EXITING) || !c->cur_idx || c->cur_member || is_endless(c))
		return false;
	if (c->cur_avg_ns >= SYNC_NS ||
	    c->cur_burst_ns + (now - c->cur_start_ns) >= SYNC_NS)
		return false;
	return !others_wait(c, cpu) && !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) &&
	       !(pending_any() && scx_bpf_dsq_nr_queued(PARK(cpu)));
}

static __always_inline bool sync_here(struct task_struct *p, const struct umcg_task *t,
				      u64 wake_flags, s32 cpu, u64 now)
{
	return (wake_flags & SCX_WAKE_SYNC) && sys_allows(t, cpu) &&
	       bpf_cpumask_test_cpu(cpu, p->cpus_ptr) && hand_down(cpu, now);
}

/* *@idle: the CPU was idle and is taken now. */
static __always_inline s32 find_idle(struct task_struct *p, const struct umcg_task *t,
				     s32 prev_cpu, u64 wake_flags, bool *idle)
{
	s32 cpu;

	if (!t || !sys_narrow(t))
		return scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, idle);
	cpu = sys_idle_cpu(p, t, prev_cpu);
	*idle = cpu >= 0;
	return cpu < 0 ? prev_cpu : cpu;
}

static __always_inline s32 wake_select(struct task_struct *p, s32 prev_cpu,
				       u64 wake_flags)
{
	s32 this_cpu = bpf_get_smp_processor_id(), cpu;
	struct umcg_task *t = task_ctx(p);
	struct umcg_worker *w = NULL;
	u64 now = umcg_now();
	bool idle = false, by_current = mark_waker(this_cpu, now);

	if (t && (t->kind == UMCG_K_SERVER || t->kind == UMCG_K_GWORKER))
		return prev_cpu;
	if (t && (t->kind == UMCG_K_WORKER || t->kind == UMCG_K_GSERVER)) {
		w = worker_rec(t->idx);
		t->preempt = 0;
		if (w && sys_on())
			prev_cpu = sys_home(p, t, w, prev_cpu);
		if (wakes_throttled(p, t, now))
			return prev_cpu;
	}

	if (w && by_current && sync_here(p, t, wake_flags, this_cpu, now)) {
		place(t, this_cpu);
		count(sync_local);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, worker_slice(w), 0);
		return this_cpu;
	}

	cpu = find_idle(p, w ? t : NULL, prev_cpu, wake_flags & ~SCX_WAKE_SYNC, &idle);
	if (idle) {
		if (w)
			place(t, cpu);
		count(direct);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL,
				   w ? lone_slice(w, cpu) : base_slice(), 0);
		return cpu;
	}

	if (w && order_on(prev_cpu) == UMCG_ORDER_FAIR && w->class_ != UMCG_CLASS_IDLE) {
		place(t, prev_cpu);
		cpu = find_beaten(p, t, w, prev_cpu, now);
		if (cpu >= 0) {
			t->preempt = 1;
			return cpu;
		}
	}
	return prev_cpu;
}

#endif /* __UMCG_WAKE_BPF_H */
