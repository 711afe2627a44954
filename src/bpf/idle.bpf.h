/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * idle: no CPU sleeps while a worker that it may run is parked.
 *
 * Does:    1. enqueue raises umcg_pending, then looks for an idle CPU to kick;
 *          2. a CPU about to sleep looks at umcg_pending after the kernel has
 *             set its idle bit, and kicks itself while it is above zero;
 *          3. the timer looks at idle CPUs once more;
 *          4. a CPU about to sleep on its own local queue is kicked: what ENQ_LAST
 *             put there is seen by 7.x alone. Before, the pick had settled on
 *             idle, and the task waited for the next interrupt.
 * State:   umcg_pending, umcg_task.pending, umcg_cpu.idle_*.
 * Called from: enqueue, running, quiescent, update_idle, dispatch, timer.
 * Races:   enqueue on A                | CPU B goes idle
 *            pending++ (full barrier)  |   idle bit set
 *            idle bit of B?            |   full barrier
 *            insert takes effect       |   update_idle: pending > 0 -> kick B
 *          A sees B idle and kicks it, or B sees pending. The insert takes effect
 *          only after enqueue returns, so B may look too early: it tries
 *          IDLE_TRIES times, each an interrupt later, then the timer looks.
 * Never:   kicks for ever: pending may count workers that B may not run.
 * Counters: kick_idle, idle_retry, idle_found, idle_work_ns.
 */
#ifndef __UMCG_IDLE_BPF_H
#define __UMCG_IDLE_BPF_H

#include "sysgroup.bpf.h"

#define IDLE_TRIES 4
#define IDLE_LOOK 8	/* other CPUs, when one starts that had waited */

static __always_inline void pending_raise(struct umcg_task *t)
{
	u32 old;

	if (t->pending)
		return;
	t->pending = 1;
	old = __sync_fetch_and_add(&umcg_pending, 1);
	barrier_var(old);	/* a full barrier only if the result is used */
}

static __always_inline void pending_lower(struct umcg_task *t)
{
	if (t->released && umcg_xchg(&t->released, 0))
		__sync_fetch_and_add(&umcg_pending, -1);
	if (!t->pending)
		return;
	t->pending = 0;
	__sync_fetch_and_add(&umcg_pending, -1);
	if (t->parked_weight) {
		__sync_fetch_and_sub(&cpu_rec(t->parked_cpu)->parked_weight,
				     (u64)t->parked_weight);
		t->parked_weight = 0;
	}
}

/* Only where cgroups make weights differ: rotate() compares loads then. */
static __always_inline void parked_weigh(struct umcg_task *t, s32 cpu, u32 weight)
{
	if (t->parked_weight)
		return;
	t->parked_cpu = cpu;
	t->parked_weight = weight;
	__sync_fetch_and_add(&cpu_rec(cpu)->parked_weight, (u64)weight);
}

static __always_inline bool pending_any(void)
{
	return READ_ONCE(umcg_pending) > 0;
}

/* @p was parked on @home, which is busy: is there another one that can take it? */
static __always_inline void kick_idle_for(struct task_struct *p,
					  const struct umcg_task *t, s32 home)
{
	s32 cpu;

	if (p->nr_cpus_allowed == 1)
		return;
	cpu = t && sys_narrow(t) ? sys_idle_cpu(p, t, home) :
			      scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu < 0)
		return;
	count(kick_idle);
	kick(cpu, SCX_KICK_IDLE);
}

/* Members that are to be put on this CPU; a tag is in the upper half, see slot.bpf.h. */
static __always_inline bool is_due(const struct umcg_cpu *c)
{
	return (u32)READ_ONCE(c->due);
}

/* The end of a dispatch that found nothing, and the entry to idle. */
static __always_inline void idle_retry(struct umcg_cpu *c, s32 cpu)
{
	if (!pending_any()) {
		c->idle_tries = 0;
		return;
	}
	if (c->idle_tries >= IDLE_TRIES)
		return;
	c->idle_tries++;
	count_on(c, idle_retry);
	kick(cpu, SCX_KICK_IDLE);
}

static __always_inline void idle_changed(struct umcg_cpu *c, s32 cpu, bool idle,
					 u64 now)
{
	if (!idle) {
		c->idle_start_ns = c->idle_since_ns;
		c->idle_end_ns = now;
		if (c->idle_since_ns)
			c->idle_ns += now - c->idle_since_ns;
		WRITE_ONCE(c->idle_since_ns, 0);
		return;
	}
	/* A full barrier. pairs with kick_for(), which has pushed before it looks at this. */
	umcg_xchg(&c->idle_since_ns, now);
	c->cur_idx = 0;
	if (scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) > 0 || is_due(c))
		kick(cpu, SCX_KICK_IDLE);
	else
		idle_retry(c, cpu);
}

static __always_inline void idle_beside(struct umcg_cpu *c, u64 ns)
{
	count_add(c, idle_work_ns, ns);
	if (ns > c->max_idle_work_ns)
		c->max_idle_work_ns = ns;
}

/* CPUs that are idle still, and have been while @p waited. */
__weak int idle_elsewhere(struct task_struct *p __arg_trusted, s32 cpu, u64 from,
			  u64 now, u32 sys)
{
	s32 other = cpu;
	int i;

	bpf_for(i, 0, IDLE_LOOK) {
		u64 since;

		if (++other >= umcg_nr_cpus)
			other = 0;
		if (other == cpu)
			break;
		since = READ_ONCE(cpu_rec(other)->idle_since_ns);
		if (!since || cpu_rec(other)->offline || !sys_has(sys, other) ||
		    !bpf_cpumask_test_cpu(other, p->cpus_ptr))
			continue;
		if (since < from)
			since = from;
		if (since < now)
			idle_beside(cpu_rec(cpu), now - since);
	}
	return 0;
}

/*
 * Work conservation, measured: @p waited while the CPU it starts on, or one
 * that it might have started on, was idle.
 */
static __always_inline void idle_account(struct task_struct *p, struct umcg_cpu *c,
					 struct umcg_task *t, s32 cpu, u64 now)
{
	u64 from = t->parked_ns, start = c->idle_start_ns, end = c->idle_end_ns;

	c->idle_start_ns = 0;
	if (!from)
		return;
	if (p->nr_cpus_allowed > 1 && !p->migration_disabled)
		idle_elsewhere(p, cpu, from, now, sys_narrow(t) ? t->sys : SYS_ANY);
	if (!start)
		return;
	if (from < start)
		from = start;
	if (end > from)
		idle_beside(c, end - from);
}

#endif /* __UMCG_IDLE_BPF_H */
