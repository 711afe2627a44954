/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * wake: where a woken task goes.
 *
 * Does:    1. notes that the running task woke somebody;
 *          2. keeps a SYNC wake-up of a short waker on its CPU;
 *          3. takes an idle CPU (previous, its core, its LLC: the kernel's own
 *             idle selection) and inserts there: no agent involved;
 *          4. else finds a CPU whose running worker is beaten by key;
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

#define BEATEN_TRIES 8

static __always_inline void mark_waker(s32 cpu, u64 now)
{
	if (in_task())
		cpu_rec(cpu)->last_wake_ns = now;
}

/* The waker is about to sleep and was short: hand the CPU over. */
static __always_inline bool sync_here(struct task_struct *p, u64 wake_flags,
				      struct umcg_task *t, s32 cpu, u64 now)
{
	struct task_struct *waker = (void *)bpf_get_current_task_btf();
	struct umcg_cpu *c = cpu_rec(cpu);

	if (!(wake_flags & SCX_WAKE_SYNC) || !in_task())
		return false;
	if ((waker->flags & PF_EXITING) || !c->cur_idx)
		return false;
	if (c->cur_avg_ns >= SYNC_NS ||
	    c->cur_burst_ns + (now - c->cur_start_ns) >= SYNC_NS)
		return false;
	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		return false;
	return !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) &&
	       !scx_bpf_dsq_nr_queued(PARK(cpu));
}

static __always_inline s32 find_beaten(struct task_struct *p, struct umcg_task *t,
				       struct umcg_worker *w, s32 prev_cpu, u64 now)
{
	s32 cpu = prev_cpu;
	int i;

	bpf_for(i, 0, BEATEN_TRIES) {
		if (i >= umcg_nr_cpus)
			break;
		if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr) &&
		    beaten(t, w, cpu, now))
			return cpu;
		if (++cpu >= umcg_nr_cpus)
			cpu = 0;
	}
	return -1;
}

static __always_inline s32 wake_select(struct task_struct *p, s32 prev_cpu,
				       u64 wake_flags)
{
	s32 this_cpu = bpf_get_smp_processor_id(), cpu;
	struct umcg_task *t = task_ctx(p);
	struct umcg_worker *w = NULL;
	u64 now = umcg_now();
	bool idle = false;

	mark_waker(this_cpu, now);
	if (t && t->kind == UMCG_K_SERVER)
		return prev_cpu;
	if (t && t->kind == UMCG_K_WORKER) {
		w = worker_rec(t->idx);
		t->preempt = 0;
		if (wakes_throttled(p, t, now))
			return prev_cpu;
	}

	if (w && sync_here(p, wake_flags, t, this_cpu, now)) {
		place(t, this_cpu);
		count(sync_local);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, worker_slice(w), 0);
		return this_cpu;
	}

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags & ~SCX_WAKE_SYNC, &idle);
	if (idle) {
		if (w)
			place(t, cpu);
		count(direct);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL,
				   w ? worker_slice(w) : umcg_slice_ns, 0);
		return cpu;
	}

	if (w && umcg_order == UMCG_ORDER_FAIR && w->class_ == UMCG_CLASS_NORMAL) {
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
