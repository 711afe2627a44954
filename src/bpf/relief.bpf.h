/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * relief: the timer: nothing waits for ever, whatever the policy does.
 *
 * Does:    one timer for all; for each CPU: 1. an idle CPU beside parked work is kicked;
 *          2. a server that parked for PARK_MAX runs once, to sleep for real;
 *          3. the quantum: a forced preemption of who ran longer;
 *          4. cgroups: a sample of each; who waits for tokens is let go when there
 *             are some; see group.bpf.h and limit.bpf.h;
 *          5. now and then, the workers with the largest keys: who waited for
 *             longer than the budget is moved to HAND and counted as rescued; who
 *             is to stop, freeze or die is moved at once, and not counted.
 * State:   umcg_timer; umcg_server.must; HAND queues.
 * Called from: its own bpf_timer (softirq), armed only in ops.init and by itself.
 * Races:   a worker that runs meanwhile is not on PARK any more: the move fails.
 * Never:   moves to a local queue; runs fast on an idle machine.
 * Counters: rescued, idle_found.
 *
 * The budget is a fifth of the watchdog's timeout, 2 s at most: far above any
 * wait that the fair order brings, far below the ejection.
 */
#ifndef __UMCG_RELIEF_BPF_H
#define __UMCG_RELIEF_BPF_H

#include "edges.bpf.h"

#define PERIOD_BUSY_NS (4 * NSEC_PER_MSEC)
#define PERIOD_IDLE_NS (100 * NSEC_PER_MSEC)
#define RELIEF_EVERY_NS (100 * NSEC_PER_MSEC)
#define RELIEF_LOOK 128

#define RELEASE_LOOK 128

/*
 * How many waiters a pass looks at. A variable: the verifier walks a loop once for
 * each value of a count that it knows.
 */
int umcg_urgent_look = 1024;

struct umcg_timer {
	struct bpf_timer timer;
	u64 relief_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct umcg_timer);
} umcg_timers SEC(".maps");

static __always_inline u64 relief_budget(void)
{
	u64 budget = umcg_timeout_ns / 5;

	return budget < 2000 * NSEC_PER_MSEC ? budget : 2000 * NSEC_PER_MSEC;
}

/* The largest keys are at the end: that is where a policy starves; the oldest
 * arrivals are at the head. */
static __always_inline void relief_sweep(s32 cpu, u64 now)
{
	u64 late = now - relief_budget();
	struct task_struct *p;
	int left = RELIEF_LOOK, moved = 0;

	bpf_for_each(scx_dsq, p, PARK(cpu),
		     umcg_order == UMCG_ORDER_ARRIVAL ? 0 : SCX_DSQ_ITER_REV) {
		struct umcg_task *t;

		/* Unknown to the verifier, or it walks each count apart. */
		__sink(left);
		__sink(moved);
		if (--left < 0)
			break;
		t = task_ctx(p);
		if (!t || !t->parked_ns || t->parked_ns > late ||
		    !scx_bpf_dsq_move___new(BPF_FOR_EACH_ITER, p, HAND(cpu), 0))
			continue;
		t->rescued = 1;
		moved++;
	}
	if (!moved)
		return;
	count_add(this_cpu_rec(), rescued, moved);
	kick(cpu, SCX_KICK_IDLE);
}

/* Of those on queue @dsq: who stops, freezes or dies needs a CPU but for a moment. */
__weak int urgent_sweep(u64 dsq)
{
	int left = READ_ONCE(umcg_urgent_look);
	struct task_struct *p;

	bpf_for_each(scx_dsq, p, dsq, 0) {
		s32 cpu;

		if (--left < 0)
			break;
		if (!is_urgent(p))
			continue;
		cpu = scx_bpf_task_cpu(p);
		if (!scx_bpf_dsq_move___new(BPF_FOR_EACH_ITER, p, HAND(cpu), 0))
			continue;
		kick(cpu, SCX_KICK_IDLE);
		count(urgent);
	}
	return 0;
}

/*
 * Lets go the first that waits on THROTTLE(@idx), if the buckets pay for it or it
 * came before @late: it would be ejected for. 0: nobody more to be let go.
 */
__weak int release_one(u32 idx, u64 now, u64 late)
{
	bool paid = limit_take(idx, 0, now) > 0;
	struct umcg_worker *w = NULL;
	struct umcg_task *t = NULL;
	struct bpf_iter_scx_dsq it;
	struct task_struct *p = NULL;
	int done = 0;

	if (!bpf_iter_scx_dsq_new(&it, THROTTLE(idx), 0))
		p = bpf_iter_scx_dsq_next(&it);
	if (p)
		t = task_ctx(p);
	if (t)
		w = worker_rec(t->idx);
	if (p && w && t && (paid || t->throttled_ns <= late)) {
		scx_bpf_dsq_move_set_vtime___new(&it, release_prepare(t, now));
		done = scx_bpf_dsq_move_vtime___new(&it, p,
						    PARK(w->home & (UMCG_MAX_CPUS - 1)), 0);
		release_done(t, now, done, paid);
	}
	bpf_iter_scx_dsq_destroy(&it);
	return done;
}

/* Global, so that the verifier sees it once and not for each round of the loop. */
__weak int group_visit(u32 idx, u64 now, u32 relief)
{
	struct umcg_group *g = group_rec(idx);
	int i;

	if (!g)
		return 0;
	if (g->gen & 1)
		group_sample(g);
	else if (g->gave | g->gave_busy)
		group_give(g, 0, 0);
	if (!g->queue || scx_bpf_dsq_nr_queued(THROTTLE(idx)) <= 0)
		return 0;
	if (relief)
		urgent_sweep(THROTTLE(idx));
	bpf_for(i, 0, RELEASE_LOOK)
		if (!release_one(idx, now, now - relief_budget()))
			break;
	return 1;
}

/* A pass: up to GROUP_LOOK cgroups, the next pass goes on. How many have waiters. */
__weak int groups_sweep(u64 now, u32 relief)
{
	u32 top = umcg_fresh_group, idx = umcg_group_cursor;
	int i, held = 0;

	bpf_for(i, 0, GROUP_LOOK) {
		__sink(idx);
		__sink(held);
		if (++idx >= top)
			idx = 1;
		held += group_visit(idx, now, relief);
		if (i + 2 >= top)
			break;
	}
	/* Another one is first next time: queues below one limit take turns. */
	umcg_group_cursor = idx + 1;
	return held;
}

static __always_inline void server_sweep(struct umcg_server *s, s32 cpu, u64 now)
{
	struct umcg_cpu *c = cpu_rec(cpu);

	if (READ_ONCE(s->parked) && now > s->parked_ns + PARK_MAX_NS) {
		WRITE_ONCE(s->must, 1);
		kick(cpu, SCX_KICK_IDLE);
	}
	if (READ_ONCE(s->asleep) && (READ_ONCE(s->must) ||
	    READ_ONCE(s->unread) >= BATCH_NOTICES))
		server_wake(s, cpu);
	if (READ_ONCE(s->must) && c->idle_since_ns)
		kick(cpu, SCX_KICK_IDLE);
}

static __always_inline void quantum_sweep(struct umcg_cpu *c, s32 cpu, u64 now)
{
	u32 idx = c->cur_idx;
	struct umcg_worker *w;

	if (!umcg_quantum_ns || !idx || now < c->picked_ns + umcg_quantum_ns ||
	    !scx_bpf_dsq_nr_queued(PARK(cpu)))
		return;
	w = worker_rec(idx);
	if (w)
		request_preempt(w, idx, cpu);
}

/* What waits at a CPU that cannot serve it is for the others. */
static __always_inline bool is_helpless(struct umcg_cpu *c, s32 cpu, u64 now)
{
	return cpu_stranded(c, now) &&
	       (scx_bpf_dsq_nr_queued(PARK(cpu)) || scx_bpf_dsq_nr_queued(HAND(cpu)) ||
		scx_bpf_dsq_nr_queued(SERVER(cpu)) ||
		scx_bpf_dsq_nr_queued(KERNELQ(cpu)));
}

#define SWEEP_BUSY 1		/* keeps the timer fast */
#define SWEEP_HELPLESS 2

static __noinline int sweep_cpu(s32 cpu, u64 now, u32 relief)
{
	struct umcg_cpu *c = cpu_rec(cpu);
	struct umcg_server *s = server_rec(cpu);

	if (s)
		server_sweep(s, cpu, now);
	quantum_sweep(c, cpu, now);
	if (relief) {
		relief_sweep(cpu, now);
		urgent_sweep(PARK(cpu));
	}
	if (is_helpless(c, cpu, now))
		return SWEEP_BUSY | SWEEP_HELPLESS;
	if (!c->idle_since_ns)
		return cpu_stranded(c, now) ? 0 : SWEEP_BUSY;
	c->idle_tries = 0;
	if (pending_any()) {
		count(idle_found);
		kick(cpu, SCX_KICK_IDLE);
	}
	return 0;
}

static int relief_timer(void *map, int *key, struct umcg_timer *tm)
{
	u64 now = umcg_now(), period = PERIOD_IDLE_NS;
	u32 relief = now > tm->relief_ns + RELIEF_EVERY_NS, helpless = 0;
	int cpu, found;

	if (relief)
		tm->relief_ns = now;
	bpf_for(cpu, 0, umcg_nr_cpus) {
		found = sweep_cpu(cpu, now, relief);
		if (found & SWEEP_BUSY)
			period = PERIOD_BUSY_NS;
		if (found & SWEEP_HELPLESS)
			helpless = 1;
	}
	WRITE_ONCE(umcg_helpless, helpless);
	if (umcg_grouped && groups_sweep(now, relief))
		period = PERIOD_BUSY_NS;
	if (umcg_quantum_ns && period == PERIOD_BUSY_NS && umcg_quantum_ns < period)
		period = umcg_quantum_ns;
	bpf_timer_start(&tm->timer, period, 0);
	return 0;
}

static __always_inline int relief_init(void)
{
	u32 key = 0;
	struct umcg_timer *tm = bpf_map_lookup_elem(&umcg_timers, &key);

	if (!tm)
		return -ENOENT;
	bpf_timer_init(&tm->timer, &umcg_timers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&tm->timer, relief_timer);
	return bpf_timer_start(&tm->timer, PERIOD_BUSY_NS, 0);
}

#endif /* __UMCG_RELIEF_BPF_H */
