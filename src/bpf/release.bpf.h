/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * release: who waits on THROTTLE is let go when its cgroup has time again.
 *
 * Does:    1. as many as the buckets pay for move to PARK, one RESERVE each, which is
 *             taken ahead and given back at the next charge;
 *          2. who came before the relief budget moves unpaid: it would be ejected for;
 *          3. who is to stop, freeze or die moves to HAND at once.
 *          A pass begins behind the cgroup that was served last: where two wait for
 *          one bucket of their parent they take turns.
 * State:   umcg_task.released/prepaid_ns/throttled_ns, umcg_limit_turn.
 * Called from: the relief timer.
 * Races:   see limit.bpf.h.
 * Counters: released, throttle_late, urgent.
 */
#ifndef __UMCG_RELEASE_BPF_H
#define __UMCG_RELEASE_BPF_H

#include "limit.bpf.h"

#define RELEASE_LOOK 128		/* of one cgroup, in one pass */
#define URGENT_EVERY_NS (100 * NSEC_PER_MSEC)

u32 umcg_limit_turn;	/* the cgroup that was served last */

/*
 * How many waiters a pass looks at. A variable: the verifier walks a loop once for
 * each value of a count that it knows.
 */
int umcg_urgent_look = 1024;

/* By the timer, before the move. Returns the key under which it is to wait. */
__weak u64 release_prepare(struct umcg_task *t __arg_nonnull, u64 now)
{
	struct umcg_worker *w = worker_rec(t->idx);
	u64 vnow, v;

	if (!w)
		return now;
	vnow = cpu_rec(w->home)->vnow;
	v = t->v;	/* on the clock of its home, see throttle_if_hit() */
	w->key = key_of(t, w, key_before(v, vnow - LAG_NS) ? vnow - LAG_NS : v, now);
	t->parked_ns = t->waits_ns = now;
	t->prepaid_ns = RESERVE_NS;
	limit_take(t->cgroup, RESERVE_NS, now);
	if (!umcg_xchg(&t->released, 1))
		__sync_fetch_and_add(&umcg_pending, 1);
	return w->key;
}

/*
 * By the timer, after the move: as park_tell(), the server has to know; a move that
 * failed met a worker that had left meanwhile.
 */
__weak int release_done(struct umcg_task *t __arg_nonnull, u64 now, u32 moved, u32 paid)
{
	struct umcg_worker *w = worker_rec(t->idx);
	struct umcg_server *s;
	s32 cpu;

	if (!moved) {
		t->prepaid_ns = 0;
		if (umcg_xchg(&t->released, 0))
			__sync_fetch_and_add(&umcg_pending, -1);
		return 0;
	}
	count(released);
	if (!paid)
		count(throttle_late);
	if (!w)
		return 0;
	cpu = w->home & (UMCG_MAX_CPUS - 1);
	s = server_rec(cpu);
	if (s && (staged_on(cpu) || order_on(cpu) == UMCG_ORDER_OWN))
		list_push(s, &s->runnable, cpu, w, t->idx, now);
	/* Other idle CPUs: the timer kicks them while anybody is pending. */
	if (cpu_rec(cpu)->idle_since_ns)
		kick(cpu, SCX_KICK_IDLE);
	return 0;
}

static __always_inline void let_urgent_go(struct task_struct *p,
					  struct bpf_iter_scx_dsq *it)
{
	s32 cpu = scx_bpf_task_cpu(p);

	if (!is_urgent(p) || !scx_bpf_dsq_move___new(it, p, HAND(cpu), 0))
		return;
	WRITE_ONCE(cpu_rec(cpu)->hand, HAND_MAYBE);	/* pairs with take_hand() */
	kick(cpu, SCX_KICK_IDLE);
	count(urgent);
}

/* Of those on queue @dsq: who stops, freezes or dies needs a CPU but for a moment. */
__weak int urgent_sweep(u64 dsq)
{
	int left = READ_ONCE(umcg_urgent_look);
	struct task_struct *p;

	bpf_rcu_read_lock();	/* as in server_send() */
	bpf_for_each(scx_dsq, p, dsq, 0) {
		if (--left < 0)
			break;
		let_urgent_go(p, BPF_FOR_EACH_ITER);
	}
	bpf_rcu_read_unlock();
	return 0;
}

static __always_inline int release_first(struct bpf_iter_scx_dsq *it, u64 now,
					 u64 late, bool paid)
{
	struct task_struct *p = bpf_iter_scx_dsq_next(it);
	struct umcg_task *t = p ? task_ctx(p) : NULL;
	struct umcg_worker *w = t ? worker_rec(t->idx) : NULL;
	int moved;

	if (!p || !t || !w || (!paid && t->throttled_ns > late))
		return 0;
	scx_bpf_dsq_move_set_vtime___new(it, release_prepare(t, now));
	moved = scx_bpf_dsq_move_vtime___new(it, p, PARK(w->home & (UMCG_MAX_CPUS - 1)),
					     0);
	release_done(t, now, moved, paid);
	return moved;
}

/*
 * Lets go the first that waits on THROTTLE(@idx), if the buckets pay for it or it
 * came before @late: it would be ejected for. 0: nobody more to be let go.
 */
__weak int release_one(u32 idx, u64 now, u64 late)
{
	bool paid = limit_take(idx, 0, now) > 0;
	struct bpf_iter_scx_dsq it;
	int done = 0;

	bpf_rcu_read_lock();	/* as in server_send() */
	if (!bpf_iter_scx_dsq_new(&it, THROTTLE(idx), 0))
		done = release_first(&it, now, late, paid);
	bpf_iter_scx_dsq_destroy(&it);
	bpf_rcu_read_unlock();
	return done;
}

/* Global, so that the verifier sees it once and not for each round of the loop. */
__weak int release_visit(u32 idx, u64 now)
{
	struct umcg_cgroup *g = cgroup_rec(idx);
	int i, done = 0;

	if (!g || !g->queue || scx_bpf_dsq_nr_queued(THROTTLE(idx)) <= 0)
		return 0;
	if (now - g->urgent_ns > URGENT_EVERY_NS) {
		g->urgent_ns = now;
		urgent_sweep(THROTTLE(idx));
	}
	bpf_for(i, 0, RELEASE_LOOK) {
		__sink(done);
		if (!release_one(idx, now, now - relief_budget()))
			break;
		done = 1;
	}
	if (done)
		umcg_limit_turn = idx;
	return 1;
}

/* A pass over all cgroups. How many have waiters. */
__weak int limits_sweep(u64 now)
{
	u32 top = umcg_fresh_cgroup, idx = umcg_limit_turn;
	int i, held = 0;

	bpf_for(i, 1, UMCG_MAX_CGROUPS) {
		__sink(idx);
		__sink(held);
		if (i >= top)
			break;
		if (++idx >= top)
			idx = 1;
		held += release_visit(idx, now);
	}
	return held;
}

#endif /* __UMCG_RELEASE_BPF_H */
