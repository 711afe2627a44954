/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * edges: the callbacks in which a state word changes, and nowhere else.
 *
 * Does:    runnable, running, stopping, quiescent: the edge, the charge, what
 *          wakers may read of the running worker, block notices; tick.
 * State:   words, umcg_task, umcg_cpu.cur_*, claims, umcg_pending.
 * Called from: the ops of the same names, with the task's rq lock; also under
 *          bypass and for tasks that skip select_cpu, enqueue and dispatch.
 * Races:   attribute changes call stopping, quiescent, runnable, running in a
 *          row without SLEEP or WAKEUP: no edge to BLOCKED comes of them.
 * Counters: switches, blocks, wakes, preempt_tick, preempt_forced.
 */
#ifndef __UMCG_EDGES_BPF_H
#define __UMCG_EDGES_BPF_H

#include "dispatch.bpf.h"
#include "perf.bpf.h"
#include "waits.bpf.h"

#define MIN_LEFT_NS (200 * NSEC_PER_USEC)	/* less is not worth a switch */

static __always_inline void edge_runnable(struct task_struct *p, u64 enq_flags)
{
	struct umcg_task *t = task_ctx(p);
	struct umcg_worker *w;
	u64 old, now;

	if (!t || t->kind != UMCG_K_WORKER) {
		if (t && is_member(t) && (enq_flags & SCX_ENQ_WAKEUP))
			member_wakes(t, umcg_now());
		return;
	}
	w = worker_rec(t->idx);
	if (!w)
		return;
	if (!(enq_flags & SCX_ENQ_WAKEUP) && word_state(READ_ONCE(w->word)) != UMCG_NONE)
		return;
	if (t->cgroup)
		cgroup_enter(t, p);
	sys_enter(p, t, w);
	now = umcg_now();
	old = word_move(&w->word, &w->since_ns,
			FROM(UMCG_BLOCKED) | FROM(UMCG_IDLE) | FROM(UMCG_NONE),
			UMCG_RUNNABLE, now);
	w->woke_ns = now;
	if (word_state(old) == UMCG_BLOCKED || word_state(old) == UMCG_IDLE)
		count(wakes);
}

/* What wakers on other CPUs read when they ask whom they could preempt. */
static __always_inline void publish_current(struct umcg_cpu *c,
					    const struct umcg_task *t,
					    const struct umcg_worker *w, u64 now)
{
	c->cur_v = t->v + bias_of(w);
	c->cur_start_ns = now;
	c->cur_quiet_ns = t->quiet_ns;
	c->cur_avg_ns = t->avg_ns;
	c->cur_burst_ns = t->burst_ns;
	c->cur_class = w->class_;
	c->cur_free = t->sys_free;
	c->cur_idx = t->idx;
}

/* One that waited for tokens banked nothing meanwhile. */
static __always_inline void running_limited(struct task_struct *p, struct umcg_task *t,
					    struct umcg_cpu *c, s32 cpu)
{
	t->limit_exec = p->se.sum_exec_runtime;
	if (umcg_limits && is_endless(c) && is_limited(t)) {
		/* No tick would charge it. The kernel looks at the slice after this. */
		scx_bpf_task_set_slice(p, base_slice());
		c->granted_ns = base_slice();
	}
	if (!t->throttled_ns)
		return;
	t->throttled_ns = 0;
	place(t, cpu);
}

/* What the system policy keeps of who runs here. */
static __always_inline void running_now(struct task_struct *p, struct umcg_task *t,
					struct umcg_worker *w, struct umcg_cpu *c,
					s32 cpu, u64 now)
{
	u32 weight;

	idle_account(p, c, t, cpu, now);
	t->parked_ns = t->waits_ns = 0;
	t->yielded = 0;
	t->at_user = 0;
	if (t->cgroup)
		running_limited(p, t, c, cpu);
	clock_move(t, cpu);
	weight = worker_weight(p, t, w);
	clock_raise(c, cpu, t->v, weight);
	weight_show(w, c, weight);
	publish_current(c, t, w, now);
}

static __always_inline void running_worker(struct task_struct *p,
					   struct umcg_task *t,
					   struct umcg_cpu *c, s32 cpu, u64 now)
{
	struct umcg_worker *w = worker_rec(t->idx);
	u64 old, since, flags = 0;

	if (!w)
		return;
	since = w->since_ns;
	/* An attribute change of the running task restores it here: no edge. */
	if (word_state(READ_ONCE(w->word)) != UMCG_RUNNING) {
		if (t->rescued) {
			t->rescued = 0;
			w->rescues++;
			flags = UMCG_F_RESCUED;
		}
		old = word_move(&w->word, &w->since_ns,
				FROM(UMCG_RUNNABLE) | FROM(UMCG_NONE),
				UMCG_RUNNING | flags, now);
		if (word_state(old) == UMCG_RUNNABLE && now > since) {
			w->wait_ns += now - since;
			wait_count(c, p, w, old, now - since);
		}
		count_on(c, switches);
		if (sys_on())
			sys_ran(t, word_state(old) == UMCG_RUNNABLE && now > since ?
				now - since : 0);
	}
	claim_drop(w);
	running_now(p, t, w, c, cpu, now);
}

static __always_inline void running_member(struct task_struct *p,
					   struct umcg_task *t,
					   struct umcg_cpu *c, s32 cpu, u64 now)
{
	struct umcg_worker *w = worker_rec(t->idx);

	if (!w)
		return;
	member_running(p, t, now);
	if (word_state(READ_ONCE(w->word)) == UMCG_RUNNABLE)
		word_move(&w->word, &w->since_ns, FROM_ANY, UMCG_RUNNING, now);
	c->cur_member = 1;
	count_on(c, switches);
	if (t->cgroup)
		cgroup_enter(t, p);
	sys_enter(p, t, w);
	running_now(p, t, w, c, cpu, now);
}

static __always_inline void edge_running(struct task_struct *p)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct umcg_task *t = task_ctx(p);
	struct umcg_cpu *c = cpu_rec(cpu);
	u64 now = pass_now(p, cpu);

	c->preempting = 0;
	c->idle_tries = 0;
	c->picked_ns = now;
	c->granted_ns = p->scx.slice;
	c->cur_idx = 0;
	c->cur_member = 0;
	c->run_exec = p->se.sum_exec_runtime;
	if (!t)
		return;
	pending_lower(t);
	if (t->kind == UMCG_K_WORKER)
		running_worker(p, t, c, cpu, now);
	else if (t->kind == UMCG_K_SERVER)
		server_running(t, now);
	else if (is_member(t))
		running_member(p, t, c, cpu, now);
	c->by_key = 0;
}

static __always_inline void stopping_worker(struct task_struct *p,
					    struct umcg_task *t,
					    struct umcg_cpu *c, bool runnable,
					    u64 now)
{
	struct umcg_worker *w = worker_rec(t->idx);
	u64 flags = UMCG_F_PREEMPTED, ran;

	if (!w)
		return;
	t->quiet_ns = quiet_now(c, now);
	charge(p, t, w, c);
	if (umcg_limits && t->cgroup)
		limit_charge(p, t, now);
	c->cur_idx = 0;
	if (!runnable)
		return;
	ran = now - c->picked_ns;
	t->left_ns = !t->yielded && ran + MIN_LEFT_NS < c->granted_ns ?
		c->granted_ns - ran : 0;
	if (is_endless(c) && t->left_ns)
		t->left_ns = base_slice();
	if (t->yielded) {
		/* Behind those that wait already, or a yield would change nothing. */
		if (key_before(t->v, c->vnow))
			t->v = c->vnow;
		flags = UMCG_F_YIELDED;
	}
	if (request_stands(w)) {
		w->request = 0;
		t->left_ns = 0;
		count_on(c, preempt_forced);
	}
	word_move(&w->word, &w->since_ns, FROM(UMCG_RUNNING) | FROM(UMCG_NONE),
		  UMCG_RUNNABLE | flags, now);
}

/* The charge is the slot's: its time goes with who runs next in it. */
static __always_inline void stopping_member(struct task_struct *p,
					    struct umcg_task *t,
					    struct umcg_cpu *c, bool runnable,
					    u64 now)
{
	struct umcg_worker *w = worker_rec(t->idx);
	u64 ran = now - c->picked_ns;

	if (!w)
		return;
	t->quiet_ns = quiet_now(c, now);
	charge(p, t, w, c);
	if (umcg_limits && t->cgroup)
		limit_charge(p, t, now);
	c->cur_idx = 0;
	t->left_ns = runnable && !t->yielded && ran + MIN_LEFT_NS < c->granted_ns ?
		c->granted_ns - ran : 0;
}

static __always_inline void edge_stopping(struct task_struct *p, bool runnable)
{
	struct umcg_task *t = task_ctx(p);
	s32 cpu = scx_bpf_task_cpu(p);
	struct umcg_cpu *c = cpu_rec(cpu);

	if (t && t->kind == UMCG_K_WORKER)
		stopping_worker(p, t, c, runnable, pass_now(p, cpu));
	else if (t && t->kind == UMCG_K_SERVER)
		server_stopping(p, t, runnable, c, pass_now(p, cpu));
	else if (t && is_member(t))
		stopping_member(p, t, c, runnable, pass_now(p, cpu));
	else
		kernelq_charge(p, c, p->se.sum_exec_runtime - c->run_exec);
}

/* The agent hears of a block when the average has moved by a factor of two. */
static __always_inline void tell_block(struct umcg_task *t, struct umcg_worker *w,
				       s32 cpu, u64 now)
{
	struct umcg_server *s;
	u32 told = w->told_avg_ns;

	if (!history_on(cpu))
		return;
	if (terms_valid(w) && t->avg_ns < 2 * told && told < 2 * t->avg_ns)
		return;
	s = server_rec(cpu);
	if (s && list_push(s, &s->blocked, cpu, w, t->idx, now))
		w->told_avg_ns = t->avg_ns;
}

/* What freezes a cgroup has its tasks sleep as any other would: they say so themselves. */
static __always_inline bool is_stopped(struct task_struct *task)
{
	return (task->__state & (__TASK_STOPPED | __TASK_TRACED | TASK_FROZEN)) ||
	       BPF_CORE_READ_BITFIELD(task, frozen);	/* which has a `p` of its own */
}

static __always_inline u64 block_flags(struct task_struct *p)
{
	struct pt_regs *regs;

	if (is_stopped(p))
		return UMCG_F_STOPPED;
	regs = (struct pt_regs *)bpf_task_pt_regs(p);
	return regs && (s64)regs->orig_ax == -1 ? UMCG_F_FAULT : 0;
}

static __always_inline s32 block_call(struct task_struct *p)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(p);

	return regs ? (s32)BPF_CORE_READ(regs, orig_ax) : -1;
}

static __always_inline void edge_quiescent(struct task_struct *p, u64 deq_flags)
{
	struct umcg_task *t = task_ctx(p);
	s32 cpu = scx_bpf_task_cpu(p);
	struct umcg_worker *w;
	u64 now;

	if (!t)
		return;
	pending_lower(t);
	t->parked_ns = 0;
	if (deq_flags & SCX_DEQ_SLEEP)
		t->waits_ns = 0;
	if (t->kind == UMCG_K_SERVER && (deq_flags & SCX_DEQ_SLEEP)) {
		server_quiescent(p, t, pass_now(p, cpu));
		return;
	}
	if (t->kind != UMCG_K_WORKER && !is_member(t))
		return;
	w = worker_rec(t->idx);
	if (!w)
		return;
	claim_drop(w);
	if (!(deq_flags & SCX_DEQ_SLEEP))
		return;

	now = pass_now(p, cpu);
	if (t->counted)
		cgroup_leave(t);
	sys_leave(t);
	t->soft = p->__state & TASK_INTERRUPTIBLE;
	burst_end(t, w);
	if (is_member(t)) {
		if (!(p->__state & TASK_DEAD)) {
			member_blocks(p, t, block_flags(p), block_call(p), now);
			return;
		}
		member_gone(p, t, UMCG_R_EXITED);
	}
	word_move(&w->word, &w->since_ns, FROM(UMCG_RUNNING) | FROM(UMCG_NONE),
		  UMCG_BLOCKED | block_flags(p), now);
	count(blocks);
	if (p->__state & TASK_DEAD) {
		/* 6.16-6.18 call exit_task at the last put: hold no reference. */
		worker_forget_task(t->idx);
		return;
	}
	tell_block(t, w, cpu, now);
}

static __always_inline void edge_tick(struct task_struct *p)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct umcg_cpu *c = cpu_rec(cpu);
	struct umcg_worker *w;
	u64 now;

	learn_irq_mask();
	if (!c->cur_idx)
		return;
	now = umcg_now();
	c->dispatch_ns = now;	/* this CPU is ours: no higher class holds it */
	perf_update(cpu, now, PERF_TICK_NS);
	w = worker_rec(c->cur_idx);
	if (w && request_stands(w)) {
		scx_bpf_task_set_slice(p, 0);
		return;
	}
	if (umcg_limits && limit_tick(p, now)) {
		scx_bpf_task_set_slice(p, 0);
		return;
	}
	if (!c->want || (c->want == WANT_HOG && quiet_now(c, now) < HOG_NS))
		return;
	c->want = WANT_NOBODY;
	if (!is_due(c) && !scx_bpf_dsq_nr_queued(PARK(cpu)))
		return;
	count_on(c, preempt_tick);
	c->preempting = 1;
	scx_bpf_task_set_slice(p, 0);
}

#endif /* __UMCG_EDGES_BPF_H */
