/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * limit: cpu.max: a token bucket per limited cgroup.
 *
 * Does:    1. charge: at each stopping and tick, the CPU time of a member is taken
 *             from the bucket of its nearest limited cgroup and of those above;
 *          2. a bucket fills with quota / period as time passes, up to quota +
 *             burst; who looks at it first fills it, no timer is needed for that;
 *          3. a tick in user mode that finds a bucket empty ends the stint; the
 *             worker then waits on the limited cgroup's THROTTLE queue;
 *          4. the timer moves as many to PARK as the buckets pay for, one RESERVE
 *             each, which is taken ahead and given back at the next charge.
 * State:   line 3 of struct umcg_cgroup; umcg_task.limit_exec, prepaid_ns,
 *          at_user, throttled_ns, released.
 * Called from: enqueue, select_cpu, dispatch, tick, stopping (rq lock), the timer;
 *          set and cleared by cgroup_init, cgroup_set_bandwidth, cgroup_exit.
 * Races:   throttle against release: the insert takes effect after enqueue
 *          returned, so a release may find the queue empty: the next pass, 4 ms
 *          later, looks again, limit or not.
 *          release against dequeue: the timer marks the worker `released` and
 *          pending before it moves it. Whoever takes the mark back by xchg, the
 *          worker that leaves or the timer whose move failed, lowers the count.
 * Members of application groups: whom its group lets run is held outside of any
 *          enqueue, so that `at_border` says whether it may wait: a server, or a
 *          worker that gets its slot, waits here with the slot, and the rest of
 *          the group behind it; see throttle_member().
 * Never:   keeps a worker that may hold a lock of the kernel: see may_throttle();
 *          keeps one for longer than the relief budget: the watchdog would eject.
 *          A server of the agent is neither charged nor kept.
 * Counters: throttled, released, throttle_late.
 */
#ifndef __UMCG_LIMIT_BPF_H
#define __UMCG_LIMIT_BPF_H

#include "context.bpf.h"
#include "idle.bpf.h"
#include "key.bpf.h"
#include "list.bpf.h"

#define LIMIT_DEPTH 32			/* cgroups above a worker that are looked at */
#define REFILL_NS (500 * NSEC_PER_USEC)	/* a fuller bucket is not worth a look */
#define REFILL_MAX_NS (10000 * NSEC_PER_MSEC)
#define RESERVE_NS (4 * NSEC_PER_MSEC)	/* a stint until a tick can end it */
#define DEBT_NS (1000 * NSEC_PER_MSEC)	/* more is forgiven */
#define UNLIMITED_US (1ULL << 40)	/* cpu.max "max" is told as a huge quota */
#define RATE_SHIFT 16
#define RATE_MAX ((u64)UMCG_MAX_CPUS << RATE_SHIFT)

#define TASK_INTERRUPTIBLE 0x00000001

const volatile bool umcg_ignore_max;	/* --ignore-cpu-max */

u32 umcg_limits;	/* cgroups with a limit: 0 = nobody asks further */
u32 umcg_limited;	/* there was one: somebody may wait */
u32 umcg_limit_gen = 1;	/* moves with each change of a limit or a cgroup */

/* The nearest cgroup with a limit, from @idx upwards; 0 = none. */
__weak u32 limit_find(u32 idx)
{
	struct umcg_cgroup *g;
	int i;

	bpf_for(i, 0, LIMIT_DEPTH) {
		g = idx ? cgroup_rec(idx) : NULL;
		if (!g)
			return 0;
		if (READ_ONCE(g->rate))
			return idx;
		idx = g->parent;
	}
	return 0;
}

/* Found once per change: the walk is not on the hot path. */
static __always_inline u32 limit_of(struct umcg_cgroup *g, u32 idx)
{
	u32 gen = READ_ONCE(umcg_limit_gen);

	if (READ_ONCE(g->limit_gen) != gen) {
		WRITE_ONCE(g->limit, limit_find(idx));
		WRITE_ONCE(g->limit_gen, gen);
	}
	return READ_ONCE(g->limit);
}

static __always_inline void bucket_fill(struct umcg_cgroup *g, u64 now)
{
	u64 last = READ_ONCE(g->filled_ns), past = now - last;
	s64 over;

	if ((s64)past < (s64)REFILL_NS ||
	    umcg_cmpxchg(&g->filled_ns, last, now) != last)
		return;
	if (past > REFILL_MAX_NS)
		past = REFILL_MAX_NS;
	past = past * g->rate >> RATE_SHIFT;
	over = __sync_fetch_and_add(&g->tokens, past) + past - g->cap_ns;
	if (over > 0)
		__sync_fetch_and_sub(&g->tokens, over);
	else if (over < -(s64)(DEBT_NS + g->cap_ns))
		__sync_fetch_and_sub(&g->tokens, over + (s64)(DEBT_NS + g->cap_ns));
}

/*
 * Takes @used from each bucket above @idx; what the emptiest of them then holds,
 * or a lot where there is no limit. Who was alone until a limit came may have run for
 * seconds since its last charge: what it used before is not the limit's.
 */
__weak s64 limit_take(u32 idx, s64 used, u64 now)
{
	s64 least = DEBT_NS;
	int i;

	bpf_for(i, 0, LIMIT_DEPTH) {
		struct umcg_cgroup *g = idx ? cgroup_rec(idx) : NULL;
		s64 left, part;

		__sink(least);
		if (!g)
			break;
		idx = limit_of(g, idx);
		g = idx ? cgroup_rec(idx) : NULL;
		if (!g)
			break;
		bucket_fill(g, now);
		part = now - READ_ONCE(g->limited_ns);
		if (part > used)
			part = used;
		left = __sync_fetch_and_sub(&g->tokens, part) - part;
		if (left < least)
			least = left;
		idx = g->parent;
	}
	return least;
}

/* Charges @t for what it used since the last time; true: a bucket is empty. */
static __always_inline bool limit_charge(const struct task_struct *p,
					 struct umcg_task *t, u64 now)
{
	u64 exec = p->se.sum_exec_runtime;
	s64 used = exec - t->limit_exec - t->prepaid_ns;

	t->limit_exec = exec;
	t->prepaid_ns = 0;
	return cgroup_of(t) && limit_take(t->cgroup, used, now) <= 0;
}

static __always_inline bool is_limited(const struct umcg_task *t)
{
	struct umcg_cgroup *g = cgroup_of(t);

	return g && limit_of(g, t->cgroup);
}

static __always_inline bool limit_hit(const struct umcg_task *t, u64 now)
{
	return cgroup_of(t) && limit_take(t->cgroup, 0, now) <= 0;
}

/* It will stop, freeze or die as soon as it runs, and somebody waits for that. */
static __always_inline bool is_urgent(const struct task_struct *p)
{
	return (p->jobctl & JOBCTL_URGENT) ||
	       (p->pending.signal.sig[0] & (1ULL << (SIGKILL - 1)));
}

/*
 * May @p wait for tokens, or could it hold a lock of the kernel that others need?
 * It holds none if it was interrupted in user mode, gave the CPU up by itself, is
 * new, was waiting for tokens already, or comes from an interruptible sleep: that
 * one may never end, so the kernel takes no lock into it that others depend on.
 * All others (page faults, mutexes, disks, preempted in the kernel) run on, in
 * debt, until a tick meets them in user mode or they sleep interruptibly.
 */
static __always_inline bool may_throttle(const struct task_struct *p,
					 const struct umcg_task *t, u64 enq_flags)
{
	if ((p->flags & PF_EXITING) || is_urgent(p))
		return false;
	if (t->at_user || t->yielded || t->throttled_ns)
		return true;
	return (enq_flags & SCX_ENQ_WAKEUP) && t->soft;
}

/* True if a bucket above @p is empty: it waits on THROTTLE now. */
static __always_inline bool throttle_if_hit(struct task_struct *p, struct umcg_task *t,
					    struct umcg_worker *w, s32 cpu, u64 now)
{
	struct umcg_cgroup *g;
	u32 limit;

	if (!limit_hit(t, now))
		return false;
	g = cgroup_of(t);
	limit = g ? limit_of(g, t->cgroup) : 0;
	g = limit ? cgroup_rec(limit) : NULL;
	if (!g || !g->queue)
		return false;
	w->home = cpu;
	clock_move(t, cpu);	/* the order that it is let go in is that of the CPU there */
	if (!t->throttled_ns)
		t->throttled_ns = now;
	t->preempt = 0;
	t->left_ns = 0;
	count(throttled);
	scx_bpf_dsq_insert(p, THROTTLE(limit), base_slice(), 0);
	return true;
}

/* ops.enqueue: true if @p waits on THROTTLE now. */
static __always_inline bool throttle(struct task_struct *p, struct umcg_task *t,
				     struct umcg_worker *w, s32 cpu,
				     u64 enq_flags, u64 now)
{
	return umcg_limits && t->cgroup && may_throttle(p, t, enq_flags) &&
	       throttle_if_hit(p, t, w, cpu, now);
}

/* ops.select_cpu: @p will wait for tokens; no CPU is to be found for it. */
static __always_inline bool wakes_throttled(const struct task_struct *p,
					    const struct umcg_task *t, u64 now)
{
	return umcg_limits && t->cgroup && may_throttle(p, t, SCX_ENQ_WAKEUP) &&
	       limit_hit(t, now);
}

/* ops.tick of a worker: the stint ends here if its cgroup has used its time up. */
static __always_inline bool limit_tick(const struct task_struct *p, u64 now)
{
	struct umcg_task *t = task_ctx((struct task_struct *)p);

	if (!t || !t->cgroup || !limit_charge(p, t, now) || !tick_in_user(p))
		return false;
	t->at_user = 1;
	return true;
}

static __always_inline void limit_set(struct umcg_cgroup *g, u64 period_us,
				      u64 quota_us, u64 burst_us)
{
	bool was = g->rate, is = quota_us < UNLIMITED_US && period_us;
	u64 rate = 0;

	if (umcg_ignore_max || (!was && !is))
		return;
	if (is) {
		rate = (quota_us << RATE_SHIFT) / period_us;
		rate = rate > RATE_MAX ? RATE_MAX : rate;
		g->cap_ns = (quota_us + burst_us) * NSEC_PER_USEC;
		g->tokens = g->cap_ns;
		g->filled_ns = g->limited_ns = umcg_now();
		rate = rate ?: 1;
		umcg_limited = 1;
	}
	WRITE_ONCE(g->rate, rate);
	__sync_fetch_and_add(&umcg_limits, (u32)is - (u32)was);
	__sync_fetch_and_add(&umcg_limit_gen, 1);
}

/* Limits that were set before the attachment; 6.16 does not tell of them. */
static __always_inline void limit_init(struct umcg_cgroup *g,
				       struct scx_cgroup_init_args *args)
{
	if (g && bpf_core_field_exists(args->bw_quota_us))
		limit_set(g, args->bw_period_us, args->bw_quota_us,
			  args->bw_burst_us);
	/* Members and children of a record that was used before look anew. */
	__sync_fetch_and_add(&umcg_limit_gen, 1);
}

static __always_inline void limit_exit(struct cgroup *cgrp)
{
	struct umcg_cgroup *g = cgroup_own(cgrp);

	if (g)
		limit_set(g, 0, UNLIMITED_US, 0);
}

#endif /* __UMCG_LIMIT_BPF_H */
