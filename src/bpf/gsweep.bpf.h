/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * gsweep: the relief valve of application groups: no member is held for ever.
 *
 * Does:    looks at SWEEP_STEPS records per tick of the timer, in turns, for held
 *          1. servers: parked for too long, or past their deadline: let run, to
 *             sleep for real or to return; a run() past its deadline: its worker
 *             is kicked; a lost hand-over or list is made good;
 *          2. workers that wait: past their deadline: RUNNABLE; parked for
 *             too long: let run as ghosts, to sleep for real;
 *          3. workers that may run: let run, RESCUED, after hold_limit(): 50 ms after
 *             a wake-up, or forced off in a system call (they may own locks of the
 *             kernel), 1 s else (the relief budget, if that is less), ABSENT_NS if
 *             no server can take them;
 *          4. whoever dies, stops or freezes: at once.
 * State:   umcg_member.held, the cursor.
 * Called from: the relief timer (softirq).
 * Races:   unhold() decides against dispatch. The word decides against wake.
 * Never:   queues anybody itself: only dispatch can, so it makes them due.
 * Counters: grp_unheld.
 */
#ifndef __UMCG_GSWEEP_BPF_H
#define __UMCG_GSWEEP_BPF_H

#include "member.bpf.h"

#define SWEEP_STEPS 128
#define CALM_SWEEPS 256		/* a round of the largest group, and then slow */
#define WOKEN_NS (50 * NSEC_PER_MSEC)
#define VOLUNTARY_NS (1000 * NSEC_PER_MSEC)
#define ABSENT_NS (2 * NSEC_PER_MSEC)
#define BUSY_PARK_NS (64 * NSEC_PER_MSEC)	/* some slices of others */

u32 umcg_sweep_group;
u32 umcg_sweep_idx;

/* A pass of the timer takes long: one that is held since it began is held for no time. */
static __always_inline u64 held_for(const struct umcg_member *m, u64 now)
{
	u64 since = READ_ONCE(m->parked_ns);

	return key_before(since, now) ? now - since : 0;
}

/*
 * Held for so long that a real sleep is better: it counts as runnable.
 * Where others wait for the CPU, as the group's own slot may, time passes without its
 * doing, and one more who wants to run there only to sleep makes that worse.
 */
static __always_inline bool parked_enough(const struct umcg_member *m, u64 now)
{
	u64 held = held_for(m, now);
	struct task_struct *p;

	if (held <= PARK_MAX_NS)
		return false;
	if (held > BUSY_PARK_NS)
		return true;
	p = worker_task(m->sys);
	return !p || scx_bpf_dsq_nr_queued(PARK(scx_bpf_task_cpu(p))) <= 0;
}

static __always_inline void sweep_server(void *truth, struct umcg_desk *desk,
					 struct umcg_member *s, u64 now)
{
	u32 cur = READ_ONCE(s->cur);
	bool late = s->deadline_ns <= now;

	/* In a run, which has a target, news has to wait until the slot is back. */
	if (desk && READ_ONCE(desk->asleep) && !cur && (has_news(desk) || s->target))
		server_ring(s, desk);
	if (late && cur) {
		struct umcg_member *w = member_at(truth, cur);

		if (w)
			member_kick(w, UMCG_S_DEADLINE);
	}
	if (!READ_ONCE(s->held))
		return;
	if ((late && !cur) || (s->op == UMCG_OP_DONE && !cur) || parked_enough(s, now))
		let_run(s);
}

/*
 * Held worker @w was forced off its slot inside a system call: it may own a lock of the kernel.
 * It is let run for that once.
 */
static __always_inline bool was_in_call(const struct umcg_member *w)
{
	struct umcg_task *t = member_ctx(w);

	return t && t->in_call;
}

/*
 * How long @w may be held. Where nobody could run it, no server or its own blocked outside
 * of a wait, hardly; but a server that is stuck waits for those alone that may own a lock,
 * the others would only be in their way.
 */
static __always_inline u64 hold_limit(void *truth, const struct umcg_member *w, u64 held)
{
	struct umcg_group *head = group_head(truth);
	struct umcg_member *s = w->home ? member_at(truth, w->home) : NULL;
	u64 limit = relief_budget();	/* it counts for the watchdog while it is held */
	bool blocked;

	if (!head || !READ_ONCE(head->servers))
		return ABSENT_NS;
	blocked = s && s->kind == UMCG_M_SERVER &&
		  word_state(READ_ONCE(s->word)) == UMCG_BLOCKED;
	if (READ_ONCE(head->stuck) ? may_own_lock(w) : blocked)
		return ABSENT_NS;
	if (blocked || w->why == UMCG_R_UNBLOCKED || (held > WOKEN_NS && was_in_call(w)))
		return WOKEN_NS;
	return limit < VOLUNTARY_NS ? limit : VOLUNTARY_NS;
}

static __always_inline void sweep_worker(u32 g, u32 idx, void *truth,
					 struct umcg_member *w, u64 now)
{
	u64 held = held_for(w, now), seen;

	if (word_state(READ_ONCE(w->word)) == UMCG_IDLE) {
		if (w->deadline_ns <= now) {
			if (member_edge(w, FROM(UMCG_IDLE), UMCG_RUNNABLE | UMCG_F_TIMEDOUT,
					UMCG_F_PENDING, now, &seen)) {
				w->why = end_reason(seen);
				w->parked_ns = now;
				tell_worker(g, idx, w->home);
			}
		} else if (parked_enough(w, now)) {
			let_run(w);
		}
		return;
	}
	if (held > hold_limit(truth, w, held))
		let_run(w);
}

static __always_inline int sweep_one(u32 g, u32 idx, u64 now)
{
	void *truth = bpf_map_lookup_elem(&umcg_truths, &g);
	void *desks = bpf_map_lookup_elem(&umcg_desks, &g);
	struct umcg_member *m = truth ? member_at(truth, idx) : NULL;
	struct task_struct *p;

	if (!m || !desks || !(READ_ONCE(m->gen) & 1))
		return 0;
	if (m->kind == UMCG_M_SERVER)
		sweep_server(truth, desk_at(desks, idx), m, now);
	if (!READ_ONCE(m->held))
		return 0;
	p = worker_task(m->sys);
	if (group_life(g)->draining || (p && must_run(p)))
		let_run(m);
	else if (m->kind == UMCG_M_WORKER)
		sweep_worker(g, idx, truth, m, now);
	return 1;
}

/* 1: held, and so worth another look soon. */
__weak int sweep_member(u32 g, u32 idx, u64 now)
{
	int held;

	bpf_rcu_read_lock();	/* the verifier takes it for a part of umcg_init */
	held = sweep_one(g, idx, now);
	bpf_rcu_read_unlock();
	return held;
}

/* The next record, or the next group that is alive. */
static __always_inline void sweep_next(void)
{
	u32 g = umcg_sweep_group, idx = umcg_sweep_idx + 1;
	struct umcg_group *head;
	void *truth = bpf_map_lookup_elem(&umcg_truths, &g);

	head = truth ? group_head(truth) : NULL;
	if (head && idx < head->capacity && (group_life(g)->gen & 1) && head->members) {
		/* Workers follow the servers' records; few servers are usual. */
		if (idx <= UMCG_GROUP_SERVERS && !(head->servers >> ((idx - 1) & 63)))
			idx = UMCG_GROUP_SERVERS + 1;
		if (idx <= UMCG_GROUP_SERVERS + head->cursor) {
			umcg_sweep_idx = idx;
			return;
		}
	}
	umcg_sweep_group = g + 1 < umcg_group_top ? g + 1 : 1;
	umcg_sweep_idx = 0;
}

/* True: somebody is held, so the timer has to stay fast. */
__weak int groups_sweep(u64 now)
{
	int i;

	umcg_held_since++;
	bpf_for(i, 0, SWEEP_STEPS) {
		sweep_next();
		if (umcg_sweep_idx && sweep_member(umcg_sweep_group, umcg_sweep_idx, now))
			umcg_held_since = 0;
	}
	return umcg_held_since < CALM_SWEEPS;
}

#endif /* __UMCG_GSWEEP_BPF_H */
