/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * park: where a runnable worker waits.
 *
 * Does:    1. a wakee that beat somebody goes to the local queue and preempts;
 *          2. everybody else parks on PARK(home) by key; home is the owner of
 *             its list link for a staged policy, else its CPU;
 *          3. tells the server (staged: of each waiter, keyed: of newcomers);
 *          4. one whose cgroup has used its time up waits on THROTTLE instead;
 *          5. a short wakee that could not preempt leaves a note for the tick.
 * State:   umcg_task.parked_ns/pending, umcg_worker.home/key, umcg_cpu.want.
 * Called from: ops.enqueue, with the rq lock.
 * Races:   the insert takes effect after enqueue returns, so a server can stage
 *          the worker before it is on PARK: dispatch puts such a choice back.
 * Never:   parks a kernel thread.
 * Counters: preempt_wake, resumed, enq_last.
 */
#ifndef __UMCG_PARK_BPF_H
#define __UMCG_PARK_BPF_H

#include "claim.bpf.h"
#include "idle.bpf.h"
#include "kernelq.bpf.h"
#include "list.bpf.h"
#include "member.bpf.h"
#include "preempt.bpf.h"
#include "wake.bpf.h"

static __always_inline u32 park_home(const struct task_struct *p, const struct umcg_task *t,
				     struct umcg_worker *w, s32 cpu)
{
	u32 owner;

	if (!staged_on(cpu))
		return cpu;
	owner = READ_ONCE(w->queued);
	if (!owner || owner > umcg_nr_cpus || !may_run_on(p, owner - 1) ||
	    !sys_allows(t, owner - 1))
		return cpu;
	return owner - 1;
}

/*
 * The worker's link is held by another server, which may have no reason of its
 * own to look at its list: it has to, and hands the worker to the server here.
 */
static __always_inline void hurry_owner(struct umcg_worker *w, u32 home)
{
	u32 owner = READ_ONCE(w->queued);
	struct umcg_server *s;

	if (!owner || owner - 1 == home || owner > umcg_nr_cpus)
		return;
	s = server_rec(owner - 1);
	if (!s)
		return;
	WRITE_ONCE(s->must, 1);
	server_wake(s, owner - 1);
	if (cpu_rec(owner - 1)->idle_since_ns)
		kick(owner - 1, SCX_KICK_IDLE);
}

/* A keyed policy hears of workers that it has not told its terms yet. */
static __always_inline void park_tell(struct umcg_worker *w, u32 idx, u32 home,
				      u64 now)
{
	struct umcg_server *s;

	if (!staged_on(home) && terms_valid(w))
		return;
	if (!staged_on(home) && !history_on(home) && order_on(home) == UMCG_ORDER_FAIR)
		return;
	s = server_rec(home);
	if (!s)
		return;
	if (!list_push(s, &s->runnable, home, w, idx, now))
		hurry_owner(w, home);
	/* Earlier than something that is staged: the server has to recall that. */
	if (staged_on(home) && order_on(home) == UMCG_ORDER_OWN && ring_peek(&s->ring) &&
	    key_before(w->key, READ_ONCE(s->worst_key)))
		WRITE_ONCE(s->must, 1);
}

static __always_inline void park(struct task_struct *p, struct umcg_task *t,
				 struct umcg_worker *w, s32 cpu, u64 enq_flags,
				 u64 now)
{
	u32 home = park_home(p, t, w, cpu);
	struct umcg_cpu *c = cpu_rec(home);
	u64 key;

	if (enq_flags & SCX_ENQ_WAKEUP)
		place(t, home);
	else
		clock_move(t, home);

	/* A change of its attributes puts a waiting worker back: it keeps its arrival, or
	 * whoever may change them could have it wait until the watchdog acts. */
	key = key_of(t, w, t->v, w->since_ns);
	w->key = key;
	w->home = home;
	t->parked_ns = now;
	waits_since(t, now);
	pending_raise(t);
	if (umcg_nr_cgroups || sys_on())
		parked_weigh(t, home, worker_weight(p, t, w));
	scx_bpf_dsq_insert_vtime(p, PARK(home), worker_slice(w), key, 0);
	park_tell(w, t->idx, home, now);

	if ((enq_flags & SCX_ENQ_WAKEUP) && t->avg_ns <= SHORT_NS &&
	    w->class_ == UMCG_CLASS_NORMAL && order_on(home) == UMCG_ORDER_FAIR && !sys_quiet(t))
		want_raise(c, is_light(t) ? WANT_NOW : WANT_HOG);
	if (home != cpu && c->idle_since_ns)
		kick(home, SCX_KICK_IDLE);
	else
		kick_idle_for(p, t, home);
}

/* Put back by its own CPU: the pass goes on. */
static __always_inline u64 enqueue_now(const struct task_struct *p, s32 cpu)
{
	return (const void *)bpf_get_current_task_btf() == p ? pass_now(p, cpu) : umcg_now();
}

static __always_inline void count_preempt(const struct umcg_task *t)
{
	count(preempt_wake);
	if (sys_on())
		sys_use(t)->preempts++;
}

static __always_inline void enqueue_worker(struct task_struct *p,
					   struct umcg_task *t, u64 enq_flags)
{
	struct umcg_worker *w = worker_rec(t->idx);
	s32 cpu = scx_bpf_task_cpu(p), home = cpu;
	struct umcg_cpu *c = cpu_rec(cpu);
	u64 now;

	if (!w)
		return;
	/* A wake-up comes here from its edge in ops.runnable. */
	now = enq_flags & SCX_ENQ_WAKEUP ? w->since_ns : enqueue_now(p, cpu);
	claim_drop(w);
	if (sys_on())
		home = sys_home(p, t, w, cpu);
	if (throttle(p, t, w, home, enq_flags, now))
		return;
	if (home != cpu) {
		/* Its group is served elsewhere. What it ran alone here is no debt there. */
		t->preempt = 0;
		t->left_ns = 0;
		place(t, home);
		park(p, t, w, home, enq_flags, now);
		return;
	}

	if (t->preempt) {
		t->preempt = 0;
		t->left_ns = 0;
		if ((enq_flags & SCX_ENQ_WAKEUP) && !c->preempting) {
			c->preempting = 1;
			clock_move(t, cpu);
			count_preempt(t);
			scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, worker_slice(w),
					   SCX_ENQ_PREEMPT);
			return;
		}
	}
	if (enq_flags & SCX_ENQ_LAST) {
		count(enq_last);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, lone_slice(w, cpu), 0);
		return;
	}
	/* A kernel thread cut in: that is nobody's decision, it goes on after it. */
	if (t->left_ns && !(enq_flags & SCX_ENQ_WAKEUP) && !c->preempting) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, t->left_ns, 0);
		t->left_ns = 0;
		count(resumed);
		return;
	}
	t->left_ns = 0;
	/* select_cpu was skipped: this is the first look at its idle CPU. */
	if ((enq_flags & SCX_ENQ_WAKEUP) && !__COMPAT_is_enq_cpu_selected(enq_flags)) {
		s32 this_cpu = bpf_get_smp_processor_id();
		bool here = mark_waker(this_cpu, now) && this_cpu == cpu;

		/* Where a worker runs nobody has to ask whether the CPU is idle. */
		if (!(here && c->cur_idx) && scx_bpf_test_and_clear_cpu_idle(cpu)) {
			place(t, cpu);
			count(direct);
			scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, lone_slice(w, cpu), 0);
			return;
		}
		/* Whether the wake-up is a SYNC one is unknown here; and nobody else
		 * could run it, so it may as well wait on the local queue. */
		if (p->nr_cpus_allowed == 1 && here && hand_down(cpu, now)) {
			place(t, cpu);
			count(sync_local);
			scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, worker_slice(w), 0);
			return;
		}
		if (p->nr_cpus_allowed == 1 && order_on(cpu) == UMCG_ORDER_FAIR) {
			place(t, cpu);
			if (!sys_quiet(t) && beaten(t, w, cpu, now)) {
				c->preempting = 1;
				count_preempt(t);
				scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL,
						   worker_slice(w), SCX_ENQ_PREEMPT);
				return;
			}
		}
	}
	park(p, t, w, cpu, enq_flags, now);
}

/* True: held by its group. False: it waits like any worker. */
static __always_inline bool member_enqueue(struct task_struct *p, struct umcg_task *t,
					   u64 enq_flags)
{
	struct umcg_worker *w = worker_rec(t->idx);
	u64 now = enqueue_now(p, scx_bpf_task_cpu(p));

	/* Before it is held: whoever lets it run reads it. */
	t->at_border = may_throttle(p, t, enq_flags);
	if (member_hold(p, t, enq_flags, now)) {
		sys_leave(t);
		if (t->counted)
			cgroup_leave(t);	/* nobody runs it before this rq lock is free */
		t->left_ns = 0;
		t->preempt = 0;
		return true;
	}
	if (t->cgroup)
		cgroup_enter(t, p);
	if (w)
		sys_enter(p, t, w);
	if (w)
		word_move(&w->word, &w->since_ns, FROM_ANY, UMCG_RUNNABLE, now);
	return false;
}

static __always_inline void enqueue_any(struct task_struct *p, u64 enq_flags)
{
	struct umcg_task *t = task_ctx(p);

	if (t && t->kind == UMCG_K_SERVER) {
		server_enqueue(p, t, enq_flags, umcg_now());
		return;
	}
	if (t && is_member(t) && member_enqueue(p, t, enq_flags))
		return;
	/* Exiting tasks hold memory that others wait for, and no policy cares. */
	if (t && (t->kind == UMCG_K_WORKER || is_member(t)) &&
	    !(staged_on(scx_bpf_task_cpu(p)) && (p->flags & PF_EXITING))) {
		enqueue_worker(p, t, enq_flags);
		return;
	}
	if (enq_flags & SCX_ENQ_LAST) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, KERNEL_SLICE_NS, 0);
		return;
	}
	if (!t || t->kind == UMCG_K_ANONYMOUS)
		count(anonymous);
	kernelq_enqueue(p, scx_bpf_task_cpu(p), enq_flags);
}

#endif /* __UMCG_PARK_BPF_H */
