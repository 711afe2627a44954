/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * member: the edges of an application group's threads.
 *
 * Does:    1. yield: reads the request; nothing may be queued there;
 *          2. enqueue: holds who waits: runnable for the kernel, on no queue;
 *          3. running, stopping, quiescent, runnable: edges, charge, the slot's
 *             place in the system policy, events;
 *          4. a member goes: its slot goes back, a server is told of a worker, and
 *             another server of a server's workers.
 * State:   umcg_member, umcg_task.ghost/left.
 * Called from: the ops of these names, for members only; unregister.
 * Races:   order of a voluntary switch: yield, dispatch, stopping, enqueue, and
 *          the next one's running. Dispatch may be skipped: then enqueue gives
 *          the slot back, and refuses a hand-over with EINTR. hold: see slot.bpf.h. Wake against wait: by the
 *          word alone, the second look at it comes after `held` was set.
 * Never:   holds who dies, stops or freezes; or a worker that has only just registered,
 *          by its first yield: before that nobody knows the name that it was given, so
 *          a server that was told of it could not run it.
 *
 * The slot's virtual time travels: who gives the slot away leaves it in the server's record,
 * who runs next in the slot takes it from there. A server that runs while its slot is out has
 * a time of its own until the slot is back. A *ghost* is a held member that
 * was let run to sleep for real, or to stop: its word does not change by that.
 * The system group's word of a member is true only while it waits on a PARK.
 */
#ifndef __UMCG_MEMBER_BPF_H
#define __UMCG_MEMBER_BPF_H

#include "tell.bpf.h"

#define SCHED_EXT_POLICY 7

const volatile bool umcg_partial;	/* members must be SCHED_EXT by themselves */

/* Whether @p's class is one that we schedule. */
static __always_inline bool class_fits(const struct task_struct *p)
{
	return p->policy == SCHED_EXT_POLICY ||
	       (!umcg_partial && (!p->policy || p->policy == SCHED_BATCH ||
				  p->policy == SCHED_IDLE));
}

/* True: the request is a call, see ask.bpf.h, and is left where it is. */
static __always_inline bool member_yield(struct umcg_task *t)
{
	void *truth = truth_of(t), *desks = desks_of(t);
	struct umcg_member *m;
	struct umcg_desk *desk;
	u32 op;

	if (!truth || !desks)
		return false;
	m = member_at(truth, t->member);
	desk = desk_at(desks, t->member);
	if (!m || !desk)
		return false;
	op = READ_ONCE(desk->op);
	if (op > UMCG_OP_DONE)
		return true;
	t->unnamed = 0;
	if (t->kind == UMCG_K_GSERVER ?
	    op != UMCG_OP_RUN && op != UMCG_OP_NEXT :
	    op != UMCG_OP_WAIT && op != UMCG_OP_YIELD && op != UMCG_OP_SWITCH)
		op = UMCG_OP_NONE;
	WRITE_ONCE(desk->op, UMCG_OP_NONE);
	m->op = op;
	if (!op)
		return false;
	m->target = READ_ONCE(desk->target);
	m->deadline_ns = READ_ONCE(desk->deadline_ns);
	m->why = UMCG_R_NONE;
	t->yielded = 0;
	return false;
}

static __always_inline void slot_store_left(void *truth, struct umcg_task *t)
{
	struct umcg_member *s;

	if (!t->left)
		return;
	s = member_at(truth, t->left);
	if (s)
		slot_store(s, t, t->v);
	t->left = 0;
}

/* Leaves the slot outside dispatch: the server comes when this CPU dispatches. */
static __always_inline bool slot_give_back(void *truth, struct umcg_task *t,
					   struct umcg_member *m, u32 reason, s32 nr,
					   s32 cpu, u64 now)
{
	struct umcg_member *s;
	u32 si = 0;

	s = slot_leave(truth, m, t, t->v, reason, nr, now, &si);
	if (!s)
		return false;
	server_continue(t, s, si, cpu);
	return true;
}

/* Held from here on, unless the second look finds a claim. */
static __always_inline void hold(struct umcg_task *t, struct umcg_member *m, u64 now)
{
	m->parked_ns = waits_since(t, now);
	m->parks++;
	umcg_held_since = 0;
	umcg_xchg(&m->held, 1);
}

/*
 * Dispatch was skipped, as somebody was on the local queue: @t has to ask again. It waits its
 * turn for that: put there itself, with what is left of its slice, it would be who has the next
 * one's dispatch skipped, and two that ask would be refused in turn for ever.
 */
static __always_inline void ask_again(struct umcg_task *t, struct umcg_member *m)
{
	refuse(m, -EINTR);
	t->left_ns = 0;
}

/* False: @p goes the way of a worker of the system group. */
static __always_inline bool server_hold(struct umcg_task *t, struct umcg_member *m,
					void *truth, s32 cpu, u64 now)
{
	struct umcg_group *head = group_head(truth);
	struct umcg_desk *desk = own_desk(t);
	u64 seen;

	if (!head || !desk || !m->op)
		return false;
	if (m->op == UMCG_OP_RUN) {
		ask_again(t, m);
		return false;
	}
	slot_join(m, t);
	slot_store(m, t, t->v);
	member_edge(m, FROM_ANY, UMCG_IDLE, 0, now, &seen);
	if (m->op == UMCG_OP_NEXT && !idle_put(head, truth, m, t->member)) {
		m->op = UMCG_OP_NONE;
		return false;	/* it asks again */
	}
	hold(t, m, now);
	if (m->op == UMCG_OP_NEXT ? !has_news(desk) : !!READ_ONCE(m->cur))
		return true;
	/* pairs with slot_leave(), and with server_poke() after desk_push() */
	if (!unhold(m))
		return true;
	m->op = UMCG_OP_NONE;
	return false;
}

/* See UMCG_WAIT_SINCE. */
static __always_inline bool switched_since(const struct umcg_member *m)
{
	return m->op == UMCG_OP_WAIT && (m->target & UMCG_WAIT_SINCE) &&
	       (u16)(m->target >> UMCG_WAIT_SINCE_SHIFT) != READ_ONCE(m->switched);
}

/* The requested wait, or a ghost's, unless a wake came first. True: IDLE, and held. */
static __always_inline bool go_idle(struct umcg_task *t, struct umcg_member *m, u64 now)
{
	u64 seen = 0;
	bool since;

	if (word_state(READ_ONCE(m->word)) == UMCG_RUNNING)
		member_edge(m, FROM(UMCG_RUNNING), UMCG_IDLE, 0, now, &seen);
	since = switched_since(m);
	hold(t, m, now);
	if ((!since && !(READ_ONCE(m->word) & UMCG_F_PENDING)) ||
	    !member_edge(m, FROM(UMCG_IDLE), UMCG_RUNNABLE, since ? 0 : UMCG_F_PENDING, now,
			 &seen))
		return word_state(READ_ONCE(m->word)) == UMCG_IDLE;
	m->why = UMCG_R_WOKEN;
	return false;
	/* pairs with member_wake() */
}

static __always_inline u32 leave_reason(const struct umcg_member *m)
{
	return m->op == UMCG_OP_YIELD ? UMCG_R_YIELDED :
	       m->op ? UMCG_R_WAITS : UMCG_R_PREEMPTED;
}

/*
 * Let run without a slot, it was still inside its call: what it is listed for is
 * what the call returns.
 */
static __always_inline bool why_stands(const struct umcg_member *m)
{
	return m->why == UMCG_R_NEW || m->why == UMCG_R_TIMEDOUT || m->why == UMCG_R_YIELDED;
}

/* Asks to wait or to switch, and had no slot whose server is told of it. */
static __always_inline bool is_untold(const struct umcg_task *t,
				      const struct umcg_member *m)
{
	return (m->op == UMCG_OP_SWITCH ||
		(m->op == UMCG_OP_WAIT && !(m->target & UMCG_WAIT_ANYHOW))) &&
	       !t->left && !READ_ONCE(m->slot) && word_state(READ_ONCE(m->word)) == UMCG_RUNNING;
}

/* ev_nr of who leaves its slot now. */
static __always_inline s32 leave_nr(const struct umcg_member *m)
{
	return m->op ? 0 : kick_source_of(m, READ_ONCE(m->word));
}

/* Forced off from the stint @seen, or its request to yield: what it is listed for. */
static __always_inline void note_why(struct umcg_member *m, u32 op, u64 seen)
{
	u32 source = kick_source_of(m, seen);

	if (op) {
		m->why = UMCG_R_YIELDED;
	} else if (source) {
		m->why = UMCG_R_PREEMPTED | source << UMCG_SOURCE_SHIFT;
		count_source(source);
	} else if (!(seen & UMCG_F_RESCUED) || !why_stands(m)) {
		m->why = UMCG_R_RESCUED;
	}
	m->kick = 0;
}

/* False: @p goes the way of a worker of the system group. */
static __always_inline bool worker_hold(struct task_struct *p, struct umcg_task *t,
					struct umcg_member *m,
					void *truth, s32 cpu, u64 enq_flags, u64 now)
{
	bool tell = true;
	u32 op = m->op;
	u64 seen;

	/* The slot was taken off, or claimed meanwhile, or it has its time yet. */
	if (!op && READ_ONCE(m->slot) && (!kick_stands(m) || put_off(p, t, m, cpu, now)))
		return false;
	if (op == UMCG_OP_SWITCH && READ_ONCE(m->slot)) {
		ask_again(t, m);
		return false;
	}
	if (is_untold(t, m)) {
		refuse(m, -EPERM);
		op = UMCG_OP_NONE;
	}
	t->in_call = !op && (t->left || READ_ONCE(m->slot)) && in_kernel(p, t) &&
		     kick_source_of(m, READ_ONCE(m->word)) != UMCG_S_SIGNAL;
	if (READ_ONCE(m->slot)) {
		count(grp_late);
		slot_give_back(truth, t, m, leave_reason(m), leave_nr(m), cpu, now);
	} else {
		slot_store_left(truth, t);
	}
	if (op == UMCG_OP_WAIT || op == UMCG_OP_SWITCH ||
	    word_state(READ_ONCE(m->word)) == UMCG_IDLE) {
		tell = !go_idle(t, m, now);
	} else {
		if (member_edge(m, FROM(UMCG_RUNNING), UMCG_RUNNABLE |
				(op ? UMCG_F_YIELDED : UMCG_F_PREEMPTED), 0, now, &seen)) {
			note_why(m, op, seen);
		} else {
			tell = enq_flags & SCX_ENQ_WAKEUP;
		}
		hold(t, m, now);
	}
	m->op = UMCG_OP_NONE;
	/* pairs with slot_claim() */
	if (READ_ONCE(m->slot) && unhold(m))
		return false;
	if (tell)
		tell_worker(t->group, t->member, m->home);
	return true;
}

/*
 * A ghost that lost its CPU behind its last look, in its sleep already: it goes to
 * sleep, and a ring ends that. Held it could be woken without one.
 */
static __always_inline bool is_falling_asleep(const struct task_struct *p,
					      const struct umcg_member *m,
					      u64 enq_flags)
{
	return p->__state && !(enq_flags & SCX_ENQ_WAKEUP) &&
	       word_state(READ_ONCE(m->word)) == UMCG_IDLE;
}

/* ops.enqueue. True: held. False: the way of a worker of the system group. */
__weak int member_hold(struct task_struct *p __arg_trusted,
		       struct umcg_task *t __arg_nonnull, u64 enq_flags, u64 now)
{
	void *truth = truth_of(t);
	struct umcg_member *m = truth ? member_at(truth, t->member) : NULL;
	s32 cpu = scx_bpf_task_cpu(p);

	t->ghost = 0;
	if (!m) {
		t->kind = UMCG_K_WORKER;
		return false;
	}
	t->at_border |= m->op != UMCG_OP_NONE;	/* in its sched_yield() */
	m->run_ns = p->se.sum_exec_runtime - t->base_ns;
	if (must_run(p) || group_life(t->group)->draining) {
		slot_store_left(truth, t);
		t->ghost = !m->slot && t->kind == UMCG_K_GWORKER;
		return false;
	}
	if (t->kind == UMCG_K_GSERVER)
		return server_hold(t, m, truth, cpu, now);
	if (t->unnamed)
		return false;
	if (is_falling_asleep(p, m, enq_flags)) {
		t->ghost = 1;
		return false;
	}
	if (runs_on(t, truth, m)) {
		count(grp_unheld);
		return false;
	}
	return worker_hold(p, t, m, truth, cpu, enq_flags, now);
}

static __always_inline void worker_running(struct umcg_task *t, struct umcg_member *m,
					   void *truth, u64 now)
{
	u32 si = READ_ONCE(m->slot);
	struct umcg_member *s = si ? member_at(truth, si) : NULL;
	u64 seen = 0, since = m->since_ns;
	u32 state = word_state(READ_ONCE(m->word));

	if (state == UMCG_RUNNING)
		return;	/* off its CPU meanwhile, it has paid for what it ran */
	if (s)
		slot_load(s, t);
	if (!si && state == UMCG_IDLE) {
		t->ghost = 1;	/* a claim met the end of its hold, and was taken back */
		return;
	}
	if (member_edge(m, FROM_ANY, UMCG_RUNNING | (si ? 0 : UMCG_F_RESCUED), 0, now,
			&seen) && word_state(seen) == UMCG_RUNNABLE && key_before(since, now))
		m->wait_ns += now - since;	/* woken behind this pass's look at the clock: 0 */
	if (!si)
		return;
	m->home = si;
	if (s && s->cur != t->member) {
		struct umcg_group *head = group_head(truth);

		count(grp_shared);
		if (head)
			__sync_fetch_and_add(&head->shared, 1);
	}
}

static __always_inline void server_running_app(struct umcg_task *t,
					       struct umcg_member *m, void *truth,
					       u64 now)
{
	struct umcg_group *head;
	u64 seen;

	if (word_state(READ_ONCE(m->word)) == UMCG_RUNNING)
		return;
	slot_join(m, t);
	member_edge(m, FROM_ANY, UMCG_RUNNING, 0, now, &seen);
	m->op = UMCG_OP_NONE;
	head = group_head(truth);
	if (!head)
		return;
	idle_drop(head, truth, m, t->member);
	unjam(head, t->member);
}

/*
 * A ghost server found something to do on its way to sleep, and says so by a yield that asks for
 * nothing: it is RUNNING from here on, in the slice that it has.
 */
__weak int server_comes_back(struct umcg_task *t __arg_nonnull, u64 now)
{
	void *truth = truth_of(t);
	struct umcg_member *m = truth ? member_at(truth, t->member) : NULL;
	struct umcg_desk *desk = own_desk(t);

	if (t->kind != UMCG_K_GSERVER || !m || !desk || READ_ONCE(desk->op))
		return 0;
	t->ghost = 0;
	server_running_app(t, m, truth, now);
	clock_move(t, bpf_get_smp_processor_id());
	return 1;
	/* pairs with the library's come_back() */
}

/* The group's side of ops.running; the system group's follows. */
__weak int member_running(struct task_struct *p __arg_trusted,
			  struct umcg_task *t __arg_nonnull, u64 now)
{
	void *truth = truth_of(t);
	struct umcg_member *m = truth ? member_at(truth, t->member) : NULL;
	u32 si;

	if (!m) {
		t->kind = UMCG_K_WORKER;
		return 0;
	}
	if (!t->ghost) {
		if (t->kind == UMCG_K_GSERVER)
			server_running_app(t, m, truth, now);
		else
			worker_running(t, m, truth, now);
	}
	si = t->kind == UMCG_K_GSERVER ? t->member : m->slot;
	/* A server that wakes while its slot is out has no budget to give it. */
	if (si && (t->kind != UMCG_K_GSERVER || !READ_ONCE(m->cur))) {
		struct umcg_member *s = si == t->member ? m : member_at(truth, si);

		if (s)
			s->slot_end_ns = now + p->scx.slice;
	}
	if (t->kind != UMCG_K_GWORKER)
		return 0;
	if (kick_stands(m)) {
		/* Kicked while its slot was off its CPU. The slice ends by a tick only. */
		scx_bpf_task_set_slice(p, 0);
		stint_put(scx_bpf_task_cpu(p), t->idx, stint_of(READ_ONCE(m->word)), now, now);
	} else if (t->quantum_us && si && !t->ghost) {
		stint_begin(p, t, m, now);
	}
	return 0;
}

static __always_inline u32 block_reason(u64 flags)
{
	return flags & UMCG_F_FAULT ? UMCG_R_FAULT :
	       flags & UMCG_F_STOPPED ? UMCG_R_STOPPED : UMCG_R_BLOCKED;
}

/*
 * Server @t sleeps in its wait: let run to do so, or again while its slot is out. Any other block
 * is one of its own code, on the way there too: then its workers have to be let go. So they have
 * if it is stopped or frozen there.
 */
static __always_inline bool sleeps_in_wait(const struct umcg_task *t,
					   const struct umcg_member *m, u64 flags,
					   bool ghost)
{
	struct umcg_desk *desk = own_desk(t);

	return t->soft && !(flags & UMCG_F_STOPPED) && desk && READ_ONCE(desk->asleep) &&
	       (ghost || READ_ONCE(m->cur));
}

static __always_inline void server_blocks(struct umcg_task *t, struct umcg_member *m,
					  void *truth, u64 flags, bool ghost, u64 now)
{
	struct umcg_group *head = group_head(truth);
	u64 seen;

	if (sleeps_in_wait(t, m, flags, ghost)) {
		member_edge(m, FROM(UMCG_RUNNING), UMCG_IDLE, 0, now, &seen);
		return;
	}
	if (ghost && head)
		idle_drop(head, truth, m, t->member);
	member_edge(m, FROM_ANY, UMCG_BLOCKED | flags, 0, now, &seen);
	if (!t->soft && !(flags & UMCG_F_STOPPED))
		jam(t, truth);
}

/* ops.quiescent with SLEEP. @flags: what it blocks in; @nr: the system call. */
__weak int member_blocks(struct task_struct *p __arg_trusted,
			 struct umcg_task *t __arg_nonnull, u64 flags, s32 nr, u64 now)
{
	void *truth = truth_of(t);
	struct umcg_member *m = truth ? member_at(truth, t->member) : NULL;
	bool ghost = t->ghost;
	u64 seen;

	t->ghost = 0;
	if (!m)
		return 0;
	m->run_ns = p->se.sum_exec_runtime - t->base_ns;
	if (t->kind == UMCG_K_GSERVER) {
		server_blocks(t, m, truth, flags, ghost, now);
		return 0;
	}
	if (ghost && !READ_ONCE(m->slot) &&
	    member_edge(m, FROM(UMCG_IDLE), UMCG_IDLE | UMCG_F_ASLEEP, 0, now, &seen))
		return 0;
	/* A ghost may have been woken, or claimed, meanwhile: it stops all the same. */
	member_edge(m, FROM(UMCG_RUNNING) | (ghost ? FROM(UMCG_RUNNABLE) : 0),
		    UMCG_BLOCKED | flags, 0, now, &seen);
	m->op = UMCG_OP_NONE;
	slot_give_back(truth, t, m, block_reason(flags), nr, scx_bpf_task_cpu(p), now);
	return 0;
	/* pairs with slot_claim() */
}

/* Of a wait that ended with the word @seen. */
static __always_inline u32 end_reason(u64 seen)
{
	return seen & UMCG_F_PENDING ? UMCG_R_WOKEN : UMCG_R_TIMEDOUT;
}

/* ops.runnable with WAKEUP. */
__weak int member_wakes(struct umcg_task *t __arg_nonnull, u64 now)
{
	void *truth = truth_of(t);
	struct umcg_member *m = truth ? member_at(truth, t->member) : NULL;
	u64 seen;

	if (!m)
		return 0;
	if (t->kind == UMCG_K_GSERVER) {
		slot_join(m, t);	/* its worker used the slot meanwhile */
		if (word_state(m->word) == UMCG_BLOCKED)
			member_edge(m, FROM(UMCG_BLOCKED), UMCG_RUNNABLE, 0, now, &seen);
		return 0;
	}
	if (member_edge(m, FROM(UMCG_IDLE), UMCG_RUNNABLE | UMCG_F_TIMEDOUT, UMCG_F_PENDING,
			now, &seen))
		m->why = end_reason(seen);
	else if (member_edge(m, FROM(UMCG_BLOCKED), UMCG_RUNNABLE, 0, now, &seen) && !t->unnamed)
		m->why = UMCG_R_UNBLOCKED;
	return 0;
}

/* The workers of a server that is gone are for another one, if there is any. */
static __always_inline void server_gone(struct umcg_task *t, struct umcg_group *head,
					void *truth, struct umcg_member *m)
{
	u32 wi = umcg_xchg(&m->cur, 0);
	struct umcg_member *w;

	__sync_fetch_and_and(&head->servers, ~server_bit(t->member));
	idle_drop(head, truth, m, t->member);
	unjam(head, t->member);
	w = wi ? member_at(truth, wi) : NULL;
	if (w)
		umcg_cmpxchg(&w->slot, t->member, 0);
	have_adopted(t->group);
	/* pairs with tell() */
}

/* Worker @m leaves without a slot: the notice, for whoever takes its desk off a list. */
static __always_inline bool leave_notice(struct umcg_task *t, struct umcg_member *m,
					 u64 now)
{
	struct umcg_desk *desk = own_desk(t);

	if (!desk)
		return false;
	desk->left_cookie = m->cookie;
	desk->left_at_ns = now;
	desk->left_run_ns = m->run_ns;
	desk->left_wait_ns = m->wait_ns;
	umcg_xchg(&desk->left_id, member_id(m, t->member));
	return true;
	/* pairs with the library's take_left() */
}

static __always_inline void member_goes(struct task_struct *p, struct umcg_task *t,
					u32 reason)
{
	struct umcg_member *m;
	struct umcg_group *head;
	s32 cpu = scx_bpf_task_cpu(p);
	u64 seen, now = umcg_now();
	bool notice = false, worker = t->kind == UMCG_K_GWORKER;
	void *truth;
	u32 home;

	/* Its own call to leave, and a change of its class by another thread. */
	if (!is_member(t) || umcg_xchg(&t->leaving, 1))
		return;
	truth = truth_of(t);
	m = truth ? member_at(truth, t->member) : NULL;
	head = truth ? group_head(truth) : NULL;
	/* First: preempted from here on it is not held, where nobody would find it. */
	t->ghost = 0;
	t->left = 0;
	t->share = t->quantum_us = 0;
	WRITE_ONCE(t->kind, UMCG_K_WORKER);
	barrier();
	if (m && head && t->member) {
		m->run_ns = p->se.sum_exec_runtime - t->base_ns;
		member_edge(m, FROM_ANY, UMCG_NONE, WAIT_FLAGS, now, &seen);
		umcg_xchg(&m->held, 0);
		home = m->home;
		if (!worker) {
			server_gone(t, head, truth, m);
			bell_back(m->bell);
		} else if (!slot_give_back(truth, t, m, reason, 0, cpu, now) &&
			   reason == UMCG_R_EXITED) {
			notice = leave_notice(t, m, now);
		}
		m->kind = UMCG_M_NONE;
		m->tid = 0;
		umcg_xchg(&m->gen, m->gen + 1);
		__sync_fetch_and_add(&head->members, -1);
		if (notice)
			tell_worker(t->group, t->member, home);
	}
}

/*
 * Back to an ordinary worker. @reason: UMCG_R_EXITED for exit, exec, class change,
 * unregister; UMCG_R_RESCUED when it stays a member elsewhere: nobody is told.
 */
__weak int member_gone(struct task_struct *p __arg_trusted,
		       struct umcg_task *t __arg_nonnull, u32 reason)
{
	bpf_rcu_read_lock();	/* SYSCALL programs come here, too */
	member_goes(p, t, reason);
	bpf_rcu_read_unlock();
	return 0;
}

#endif /* __UMCG_MEMBER_BPF_H */
