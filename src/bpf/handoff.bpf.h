/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * handoff: what dispatch does for application groups.
 *
 * Does:    1. the request of prev: run, next, wait, yield, switch; a kick;
 *          2. the members that are due on this CPU;
 *          3. the slot's budget: what is left of it goes with the slot; when it is
 *             used up and others wait here, the next one waits on PARK by the
 *             slot's key, so that hand-offs bring no CPU time.
 * State:   umcg_member, umcg_cpu.due.
 * Called from: ops.dispatch, rq lock held.
 * Races:   a task whose CPU is this one is inserted on the local queue at once:
 *          its rq lock is ours. One of another CPU goes by HAND, whose move skips
 *          a task that may not run here by now, where a direct insert aborts.
 * Never:   inserts a task whose enqueue has not begun: `held` says that it has.
 * Counters: grp_run, grp_switch, grp_requeued, grp_refused.
 */
#ifndef __UMCG_HANDOFF_BPF_H
#define __UMCG_HANDOFF_BPF_H

#include "park.bpf.h"

#define DUE_BATCH 8

enum umcg_handoff {
	HANDOFF_NONE,	/* dispatch goes on as for any task */
	HANDOFF_AWAY,	/* the same, and prev does not want the CPU any more */
	HANDOFF_KEEP,	/* prev goes on */
	HANDOFF_DONE,	/* somebody is on the local queue */
};

/* Waits on PARK by the slot's key, as any worker does. */
static __always_inline void queue_member(struct task_struct *p, struct umcg_task *t,
					 s32 cpu, u64 now)
{
	struct umcg_worker *w = worker_rec(t->idx);
	u64 key;

	if (!w)
		return;
	place(t, cpu);
	key = key_of(t, w, t->v, now);
	w->key = key;
	w->home = cpu;
	t->parked_ns = now;
	waits_since(t, now);
	word_move(&w->word, &w->since_ns, FROM_ANY, UMCG_RUNNABLE, now);
	/* Of another CPU: it counts when it runs; a move may change its cgroup now. */
	if (t->cgroup && scx_bpf_task_cpu(p) == bpf_get_smp_processor_id())
		cgroup_enter(t, p);
	pending_raise(t);
	scx_bpf_dsq_insert_vtime(p, PARK(cpu), worker_slice(w), key, 0);
	want_raise(cpu_rec(cpu), WANT_HOG);
	if (cpu != bpf_get_smp_processor_id())
		kick(cpu, SCX_KICK_IDLE);
	else if (!cpu_rec(cpu)->idle_since_ns)
		kick_idle_for(p, t, cpu);
}

/* A CPU that @p may use, this one if possible. */
static __always_inline s32 cpu_for(const struct task_struct *p, s32 cpu)
{
	return may_run_on(p, cpu) ? cpu : scx_bpf_task_cpu(p);
}

/*
 * True: the time of its cgroup is used up, and @p, which is ours alone now, waits
 * for more with the slot that it has. One that may hold a lock of the kernel runs on
 * in debt: a tick meets it in user mode, or its server waits after it.
 */
static __always_inline bool throttle_member(struct task_struct *p, struct umcg_task *t,
					    s32 cpu, u64 now)
{
	struct umcg_worker *w;

	if (!umcg_limits || !t->cgroup || !t->at_border || must_run(p))
		return false;
	w = worker_rec(t->idx);
	if (!w || !throttle_if_hit(p, t, w, cpu_for(p, cpu), now))
		return false;
	word_move(&w->word, &w->since_ns, FROM_ANY, UMCG_RUNNABLE, now);
	return true;
}

/*
 * Puts @p, which is ours alone now, on this CPU with @slice. False: it waits, here
 * for a move that did not succeed, or where it may run.
 */
static __always_inline bool put_here(struct task_struct *p, struct umcg_task *t,
				     s32 cpu, u64 slice, u64 now)
{
	if (scx_bpf_task_cpu(p) == cpu) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice, 0);
		return true;
	}
	if (!may_run_on(p, cpu)) {
		queue_member(p, t, scx_bpf_task_cpu(p), now);
		return false;
	}
	scx_bpf_dsq_insert(p, HAND(cpu), slice, 0);
	return hand_to_local(cpu);
}

/* The next thread of slot @s. @used: virtual time that prev owes the slot yet. */
static __always_inline u32 put_next(struct umcg_cpu *c, s32 cpu, struct umcg_member *s,
				    struct umcg_member *m, struct umcg_task *owes,
				    u64 v, u64 now)
{
	struct task_struct *p = worker_task(m->sys);
	s64 left = s->slot_end_ns - now;
	struct umcg_task *t = p ? task_ctx(p) : NULL;

	if (!t)
		return HANDOFF_AWAY;
	t->v = v;
	t->clock_cpu = owes->clock_cpu;
	if (throttle_member(p, t, cpu, now))
		return HANDOFF_AWAY;
	if (left < (s64)SLOT_MIN_NS) {
		if (scx_bpf_dsq_nr_queued(PARK(cpu))) {
			count_on(c, grp_requeued);
			queue_member(p, t, cpu_for(p, cpu), now);
			return HANDOFF_AWAY;
		}
		left = base_slice();
	}
	return put_here(p, t, cpu, left, now) ? HANDOFF_DONE : HANDOFF_AWAY;
}

/*
 * Worker @id gets slot @si: the claim. NULL: *err says why not. Who may be
 * claimed: RUNNABLE, or with @idle IDLE and held: an IDLE one that is not held is on its
 * way to a real sleep, it is woken instead and comes by the list. The caller has
 * stored its index in the server's `cur`: it may leave as soon as it has the slot.
 */
static __always_inline struct umcg_member *slot_claim(void *truth, u64 id, u32 si,
						      bool by_switch, bool idle, s32 *err)
{
	struct umcg_member *w = member_by_id(truth, id);
	u64 word;

	*err = -ESRCH;
	if (!w)
		return NULL;
	*err = -EINVAL;
	if (w->kind != UMCG_M_WORKER)
		return NULL;
	word = READ_ONCE(w->word);
	*err = -EBUSY;
	if (word_state(word) == UMCG_IDLE && !idle)
		return NULL;
	if (word_state(word) == UMCG_IDLE && !READ_ONCE(w->held)) {
		/* Only what has a wake, and was not held meanwhile, ends by a ring. */
		*err = ((word & UMCG_F_PENDING) ||
			umcg_cmpxchg(&w->word, word, word | UMCG_F_PENDING) == word) &&
		       !READ_ONCE(w->held) ? -EAGAIN : -EINTR;
		return NULL;
	}
	if (word_state(word) != UMCG_RUNNABLE && word_state(word) != UMCG_IDLE)
		return NULL;
	if (fault(CLAIM_REFUSED)) {
		*err = -EINTR;
		return NULL;
	}
	if (by_switch)
		WRITE_ONCE(w->switched, w->switched + 1);
	if (umcg_cmpxchg(&w->slot, 0, si))
		return NULL;
	word = READ_ONCE(w->word);
	if ((word_state(word) == UMCG_RUNNABLE ||
	     (idle && word_state(word) == UMCG_IDLE && READ_ONCE(w->held))) &&
	    READ_ONCE(w->gen) == id >> 32)
		return w;
	*err = -EINTR;
	if (umcg_cmpxchg(&w->slot, si, 0) != si)
		return w;	/* it has left with the slot, and has told the server */
	return NULL;
	/* pairs with worker_hold() and member_blocks() */
}

/* Puts the claimed worker here, unless its own enqueue does. */
static __always_inline u32 put_claimed(struct umcg_cpu *c, s32 cpu, struct umcg_member *s,
				       struct umcg_member *w, struct umcg_task *t,
				       u64 v, u64 now)
{
	if (!unhold(w))
		return HANDOFF_AWAY;
	return put_next(c, cpu, s, w, t, v, now);
}

/*
 * prev, refused, keeps the CPU with what is left of its slot. It may ask again and be refused
 * for ever: with nothing left it waits its turn like any worker.
 */
static __always_inline u32 keep_prev(struct umcg_cpu *c, struct task_struct *prev,
				     struct umcg_member *s, u64 now)
{
	s64 left = s->slot_end_ns - now;

	if (left < (s64)SLOT_MIN_NS)
		return HANDOFF_NONE;
	scx_bpf_task_set_slice(prev, left);
	c->granted_ns = now - c->picked_ns + left;
	return HANDOFF_KEEP;
}

static __always_inline u32 server_request(struct umcg_cpu *c, s32 cpu,
					  struct task_struct *prev, struct umcg_task *t,
					  struct umcg_member *m, void *truth, u64 v,
					  u64 now)
{
	u64 id = m->target & ~(u64)UMCG_RUN_IDLE;
	struct umcg_member *w;
	s32 err;

	if (m->op == UMCG_OP_NEXT) {
		if (!READ_ONCE(m->cur))
			return HANDOFF_AWAY;
		refuse(m, -EBUSY);
		return keep_prev(c, prev, m, now);
	}
	/* The kernel asks again after a dispatch that put nobody here. */
	if (m->op == UMCG_OP_DONE && READ_ONCE(m->cur))
		return HANDOFF_AWAY;
	if (m->op != UMCG_OP_RUN)
		return HANDOFF_NONE;
	if (READ_ONCE(m->cur)) {
		refuse(m, -EBUSY);
		return keep_prev(c, prev, m, now);
	}
	umcg_xchg(&m->cur, (u32)id);
	w = slot_claim(truth, id, t->member, false, id != m->target, &err);
	if (!w) {
		umcg_xchg(&m->cur, 0);
		refuse(m, err);
		return keep_prev(c, prev, m, now);
	}
	m->op = UMCG_OP_DONE;
	count_on(c, grp_run);
	return put_claimed(c, cpu, m, w, t, v, now);
}

/* A wake, or a switch, that came before the wait: nothing to wait for. */
static __always_inline bool wake_came_first(struct umcg_member *m)
{
	u64 word = READ_ONCE(m->word), clear = UMCG_F_TIMEDOUT;

	if (m->op != UMCG_OP_WAIT)
		return false;
	if (!switched_since(m)) {
		if (!(word & UMCG_F_PENDING))
			return false;
		clear |= UMCG_F_PENDING;
	}
	if (umcg_cmpxchg(&m->word, word, word & ~clear) != word)
		return false;
	m->op = UMCG_OP_NONE;
	m->why = UMCG_R_WOKEN;
	return true;
}

static __always_inline u32 worker_request(struct umcg_cpu *c, s32 cpu,
					  struct task_struct *prev, struct umcg_task *t,
					  struct umcg_member *m, void *truth, u64 v,
					  u64 now)
{
	u32 si = READ_ONCE(m->slot);
	struct umcg_member *s = si ? member_at(truth, si) : NULL, *w;
	s32 err = -EPERM;

	if (m->op == UMCG_OP_NONE) {
		if (!s || !kick_stands(m))
			return HANDOFF_NONE;
		if (put_off(prev, t, m, cpu, now))
			return keep_prev(c, prev, s, now);
		count_on(c, preempt_forced);
	} else if (!s) {
		/* Rescued, it is held and listed. The kernel may ask twice: see t->left. */
		if (m->op != UMCG_OP_SWITCH || t->left)
			return HANDOFF_AWAY;
		refuse(m, -EPERM);
		return HANDOFF_NONE;
	} else if (wake_came_first(m)) {
		return keep_prev(c, prev, s, now);
	}
	if (m->op == UMCG_OP_SWITCH) {
		/* Its claim may fail yet, when it was let run meanwhile, and take the slot back. */
		if (umcg_cmpxchg(&m->slot, si, 0) != si) {
			refuse(m, -EINTR);
			return keep_prev(c, prev, s, now);
		}
		umcg_xchg(&s->cur, (u32)m->target);
		w = slot_claim(truth, m->target, si, true, true, &err);
		if (!w) {
			umcg_xchg(&s->cur, t->member);
			umcg_xchg(&m->slot, si);	/* RUNNING, nobody else claims it */
			refuse(m, err);
			return keep_prev(c, prev, s, now);
		}
		t->left = si;
		count_on(c, grp_switch);
		return put_claimed(c, cpu, s, w, t, v, now);
	}
	s = slot_leave(truth, m, t, v, leave_reason(m), leave_nr(m), now, &si);
	if (!s)
		return HANDOFF_AWAY;
	t->left = si;
	if (unhold(s)) {
		s->op = UMCG_OP_NONE;
		return put_next(c, cpu, s, s, t, v, now);
	}
	server_continue(t, s, si, cpu);
	return HANDOFF_AWAY;
}

/* The request of @prev, a member that still wants the CPU. */
__weak int member_dispatch(s32 cpu, struct task_struct *prev __arg_trusted,
			   struct umcg_task *t __arg_nonnull, u64 now)
{
	struct umcg_cpu *c = cpu_rec(cpu);
	struct umcg_worker *w = worker_rec(t->idx);
	void *truth = truth_of(t);
	struct umcg_member *m = truth ? member_at(truth, t->member) : NULL;

	if (!m || !w)
		return HANDOFF_NONE;
	/* Who has no slot and yields is held again, alone here or not. */
	if (t->ghost || (t->kind == UMCG_K_GWORKER && !m->op && !READ_ONCE(m->slot)))
		return m->op || t->yielded ? HANDOFF_AWAY : HANDOFF_NONE;
	if (t->kind == UMCG_K_GSERVER) {
		slot_join(m, t);	/* the slot came back while it ran */
		return server_request(c, cpu, prev, t, m, truth, t->v + uncharged(prev, t), now);
	}
	m->run_ns = prev->se.sum_exec_runtime - t->base_ns;
	return worker_request(c, cpu, prev, t, m, truth, t->v + uncharged(prev, t), now);
}

/*
 * Server @m, let run, goes on with its wait: to sleep for real, which is no edge. Where it has
 * something to look at it comes back from its wait instead.
 */
static __always_inline bool waits_on(const struct umcg_task *t, const struct umcg_member *m,
				     u64 now)
{
	struct umcg_desk *desk;

	if (!m->op || word_state(READ_ONCE(m->word)) != UMCG_IDLE || m->deadline_ns <= now ||
	    group_life(t->group)->draining)
		return false;
	if (m->cur)
		return true;
	desk = own_desk(t);
	return desk && !has_news(desk) && READ_ONCE(m->parked_ns) + PARK_MAX_NS <= now;
}

/* One member that is due: true if it is on the local queue. */
__weak int put_due(s32 cpu, u32 sys, u64 now)
{
	struct task_struct *p = worker_task(sys);
	struct umcg_task *t = p ? task_ctx(p) : NULL;
	struct umcg_member *m;
	void *truth;
	s64 left = 0;

	if (!t)
		return false;
	truth = is_member(t) ? truth_of(t) : NULL;
	m = truth ? member_at(truth, t->member) : NULL;
	if (!m) {
		/* Its group ended while it was held: an ordinary worker again. */
		queue_member(p, t, cpu_for(p, cpu), now);
		return false;
	}
	if (READ_ONCE(m->held))
		return false;
	if (t->kind == UMCG_K_GSERVER) {
		bool goes_on = m->op == UMCG_OP_DONE && !READ_ONCE(m->cur);

		t->ghost = !goes_on && waits_on(t, m, now);
		m->op = UMCG_OP_NONE;
		slot_load(m, t);
		if (goes_on)
			left = m->slot_end_ns - now;
	} else {
		/* A slot that came before it was let go is not for a ghost. */
		t->ghost = (!READ_ONCE(m->slot) &&
			    word_state(READ_ONCE(m->word)) == UMCG_IDLE) || must_run(p);
		if (must_run(p))
			return put_here(p, t, cpu, base_slice(), now);
	}
	if (throttle_member(p, t, cpu, now))
		return false;
	if (left >= (s64)SLOT_MIN_NS)
		return put_here(p, t, cpu, left, now);
	queue_member(p, t, cpu_for(p, cpu), now);
	return false;
}

/* Puts the members that are due on CPU @of on this CPU: its own, or a stranded one's. */
__weak int dues_put(s32 of, s32 cpu, u64 now)
{
	struct umcg_cpu *c = cpu_rec(of);
	bool local = false;
	int i;

	bpf_for(i, 0, DUE_BATCH) {
		u32 sys = due_pop(c);

		if (!sys)
			break;
		if (put_due(cpu, sys, now))
			local = true;
	}
	return local;
}

#endif /* __UMCG_HANDOFF_BPF_H */
