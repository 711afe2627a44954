/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * gkick: a worker of an application group is forced off: RUNNING -> RUNNABLE.
 *
 * Does:    1. kick: (the stint's word, its source) in the worker's record; it stands
 *             until it is met or the word has moved on. SCX_KICK_PREEMPT only hurries;
 *          2. quantum: who begins to run in a slot puts the end of its stint down for its
 *             CPU; one timer for all kicks who is over. CPU time: off its CPU the
 *             quantum stands still. Whom nobody waits behind goes on for another one;
 *          3. put off: a kick waits, SECTION_MAX_NS at most, while the worker is in a
 *             section without preemption, or in a system call, where it may hold a lock of
 *             the kernel; the same timer ends that.
 * State:   umcg_member.kick/kick_ns, umcg_own.stint*, umcg_stint_at.
 * Called from: kick: SYSCALL programs and the timers; the rest: dispatch, enqueue,
 *          running (rq lock held); the timer's own callback.
 * Races:   timer                          | CPU: another stint begins
 *            end, then idx and stint      |   end = 0; idx and stint; end
 *            end once more: the same?     |
 *          so a later stint is never taken for the one that is over.
 *          timer, about to stop            | CPU: a stint begins
 *            at = 0 (full barrier)        |   end (full barrier)
 *            looks at the ends            |   at == 0? arms
 *          Both may arm: the later start of the timer stands, so who has started it
 *          looks whether `at` is another one's by then, and starts it for that.
 * Never:   arms a timer for groups without a quantum, but for a kick that is put off;
 *          more often than once a quantum: while workers run, the callback arms itself.
 * Counters: grp_by_*, grp_section, grp_abuse, grp_grace.
 *
 * The rq lock is held where a stint arms the timer. Since 7.2 the kernel passes that on to
 * an irq_work by itself; before it starts an hrtimer of this CPU or of an idle one, whose
 * locks nest inside of that of the rq, as those of the kernel's own hrtick do.
 */
#ifndef __UMCG_GKICK_BPF_H
#define __UMCG_GKICK_BPF_H

#include "context.bpf.h"
#include "jam.bpf.h"
#include "preempt.bpf.h"

#define SECTION_MAX_NS (UMCG_SECTION_MAX_US * NSEC_PER_USEC)
#define GRACE_STEP_NS (100 * NSEC_PER_USEC)	/* until it is looked at in the kernel again */
#define STINT_SLACK_NS (10 * NSEC_PER_USEC)	/* early, to spare a second interrupt */
#define STINT_ARM_TRIES 4

u64 umcg_stint_at;	/* when the timer is to fire, 0 = it is not armed */

struct umcg_stint_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct umcg_stint_timer);
} umcg_stint_timers SEC(".maps");

/* A word without what wakes change of it while its thread runs. */
static __always_inline u64 stint_of(u64 word)
{
	return word & ~(u64)(UMCG_F_PENDING | UMCG_F_TIMEDOUT);
}

/* Whether a kick asks for the end of the stint @word; by what. */
static __always_inline u32 kick_source_of(const struct umcg_member *m, u64 word)
{
	u64 kick = READ_ONCE(m->kick);

	if (!kick || ((kick & ~(u64)UMCG_SOURCE_MASK) != stint_of(word) && !planted(STALE_KICK)))
		return UMCG_S_NONE;
	return (kick & UMCG_SOURCE_MASK) >> UMCG_SOURCE_SHIFT;
}

static __always_inline bool kick_stands(const struct umcg_member *m)
{
	return READ_ONCE(m->kick) && kick_source_of(m, READ_ONCE(m->word));
}

static __always_inline void count_source(u32 source)
{
	switch (source) {
	case UMCG_S_KICK:
		count(grp_by_kick);
		break;
	case UMCG_S_DEADLINE:
		count(grp_by_deadline);
		break;
	case UMCG_S_QUANTUM:
		count(grp_by_quantum);
		break;
	case UMCG_S_SIGNAL:
		count(grp_by_signal);
		break;
	case UMCG_S_WAKE:
		count(grp_by_wake);
		break;
	}
}

/* The stint @word of @w, which runs as record @sys, has to end. */
static __always_inline s32 stint_kick(struct umcg_member *w, u64 word, u32 source)
{
	struct task_struct *p = worker_task(w->sys);
	u64 old = READ_ONCE(w->kick);
	s32 cpu;

	if (!p)
		return -ESRCH;
	/* One that stands keeps its source and its time, or kicks could put it off for ever. */
	if (!kick_source_of(w, word)) {
		WRITE_ONCE(w->kick_ns, umcg_now());
		/* Slower than another kick, of this stint or a later one: that one counts. */
		umcg_cmpxchg(&w->kick, old, stint_of(word) | (u64)source << UMCG_SOURCE_SHIFT);
	}
	cpu = scx_bpf_task_cpu(p);
	WRITE_ONCE(cpu_rec(cpu)->kick_idx, w->sys);
	kick(cpu, SCX_KICK_PREEMPT);
	return 0;
	/* pairs with kick_stands() in dispatch, enqueue and running */
}

static __always_inline s32 member_kick(struct umcg_member *w, u32 source)
{
	u64 word = READ_ONCE(w->word);

	if (word_state(word) != UMCG_RUNNING || !READ_ONCE(w->slot))
		return -EAGAIN;
	return stint_kick(w, word, source);
}

/* Starts the timer for @at, and then for what another CPU put before that meanwhile. */
static __always_inline void stint_start(u64 at, u64 now)
{
	u32 key = 0;
	struct umcg_stint_timer *tm = bpf_map_lookup_elem(&umcg_stint_timers, &key);
	u64 seen;
	int i;

	if (!tm)
		return;
	bpf_for(i, 0, STINT_ARM_TRIES) {
		if (bpf_timer_start(&tm->timer, key_before(now, at) ? at - now : 0, 0)) {
			umcg_xchg(&umcg_stint_at, 0);	/* the next one tries again */
			return;
		}
		seen = READ_ONCE(umcg_stint_at);
		if (!seen || seen == at)
			return;
		at = seen;
	}
}

/* The timer fires at @at, or before. */
__weak int stint_arm(u64 at, u64 now)
{
	u64 old;
	int i;

	bpf_for(i, 0, STINT_ARM_TRIES) {
		old = READ_ONCE(umcg_stint_at);
		if (old && !key_before(at + STINT_SLACK_NS, old))
			return 0;
		if (umcg_cmpxchg(&umcg_stint_at, old, at) == old) {
			stint_start(at, now);
			return 0;
		}
	}
	return 0;
	/* pairs with stints_look() */
}

/* Stint @stint of record @idx has to end on this CPU, @cpu, at @end. */
static __always_inline void stint_put(s32 cpu, u32 idx, u64 stint, u64 end, u64 now)
{
	struct umcg_own *own = cpu_own(cpu);

	umcg_xchg(&own->stint_end_ns, 0);
	WRITE_ONCE(own->stint_idx, idx);
	WRITE_ONCE(own->stint, stint);
	umcg_xchg(&own->stint_end_ns, end);
	stint_arm(end, now);
	/* pairs with stint_look() */
}

/* ops.running of worker @p of a group with a quantum, which has a slot. */
static __always_inline void stint_begin(struct task_struct *p, struct umcg_task *t,
					struct umcg_member *m, u64 now)
{
	u64 stint = stint_of(READ_ONCE(m->word)), quantum = t->quantum_us * NSEC_PER_USEC;
	s64 used;

	if (t->stint != stint) {
		t->stint = stint;
		t->stint_exec = p->se.sum_exec_runtime;
	}
	/* Below 0: its last quantum ended by the clock, a little before its CPU time. */
	used = p->se.sum_exec_runtime - t->stint_exec;
	stint_put(scx_bpf_task_cpu(p), t->idx, stint,
		  now + (used < (s64)quantum ? quantum - used : 0), now);
}

/* In a system call that it has not ended by giving its CPU up: it may hold a lock. */
static __always_inline bool in_kernel(struct task_struct *p, const struct umcg_task *t)
{
	struct pt_regs *regs;

	if (t->yielded)
		return false;
	regs = (struct pt_regs *)bpf_task_pt_regs(p);
	return regs && (s64)BPF_CORE_READ(regs, orig_ax) >= 0;
}

/*
 * The kick that stands of @p, which runs on this CPU, @cpu, waits yet: see the head of
 * this file. By its own handler's kick a worker is in a system call, that one.
 */
__weak int put_off(struct task_struct *p __arg_trusted, struct umcg_task *t __arg_nonnull,
		   struct umcg_member *m __arg_nonnull, s32 cpu, u64 now)
{
	struct umcg_desk *desk = own_desk(t);
	bool section = desk && READ_ONCE(desk->nopreempt) && !t->yielded;
	u64 step = SECTION_MAX_NS, word = READ_ONCE(m->word);
	s64 left = m->kick_ns + SECTION_MAX_NS - now;

	if (!section) {
		if (kick_source_of(m, word) == UMCG_S_SIGNAL || !in_kernel(p, t))
			return 0;
		step = GRACE_STEP_NS;
	}
	if (left <= 0) {
		if (section)
			count(grp_abuse);
		return 0;
	}
	if (section)
		count(grp_section);
	else
		count(grp_grace);
	stint_put(cpu, t->idx, stint_of(word), now + (left < step ? left : step), now);
	return 1;
	/* pairs with the library's end of a section */
}

/*
 * Nobody would be run instead of @w, by its server's word: its stint goes on for another
 * quantum. One that is put off is over all the same.
 */
static __always_inline bool nobody_waits(const struct umcg_task *t, const struct umcg_member *w,
					 u64 word)
{
	void *desks = desks_of(t);
	struct umcg_desk *desk = desks ? desk_at(desks, READ_ONCE(w->slot)) : NULL;

	return desk && READ_ONCE(desk->alone) && !has_news(desk) && !kick_source_of(w, word);
	/* pairs with the library's show_alone() */
}

/* Whose stint on @cpu was to end at @end. When to look again, ~0: not for this one. */
static __always_inline u64 stint_over(s32 cpu, struct umcg_own *own, u64 end, u64 now)
{
	u32 idx = READ_ONCE(own->stint_idx);
	u64 stint = READ_ONCE(own->stint), word, quantum, began;
	bool same = READ_ONCE(own->stint_end_ns) == end && cpu_rec(cpu)->cur_idx == idx;
	struct task_struct *p = same ? worker_task(idx) : NULL;
	struct umcg_task *t = p ? task_ctx(p) : NULL;
	void *truth = t && is_member(t) ? truth_of(t) : NULL;
	struct umcg_member *m = truth ? member_at(truth, t->member) : NULL;

	if (m) {
		began = READ_ONCE(t->stint_exec);
		word = READ_ONCE(m->word);
		quantum = t->quantum_us * NSEC_PER_USEC;
		if (stint_of(word) == stint && m->sys == idx && READ_ONCE(m->slot)) {
			if (quantum && nobody_waits(t, m, word)) {
				count(grp_alone);
				umcg_cmpxchg(&t->stint_exec, began, began + quantum);
				umcg_cmpxchg(&own->stint_end_ns, end, now + quantum);
			} else {
				stint_kick(m, word, UMCG_S_QUANTUM);
			}
			/* The next stint here, or quantum, begins now, and this fits its end. */
			return now + (quantum ?: SECTION_MAX_NS);
		}
	}
	/* On its way to running here, it is not published yet. */
	if (!cpu_rec(cpu)->cur_idx && key_before(now, end + GRACE_STEP_NS))
		return now + GRACE_STEP_NS / 2;
	umcg_cmpxchg(&own->stint_end_ns, end, 0);
	return ~0ULL;
}

__weak u64 stint_look(s32 cpu, u64 now)
{
	struct umcg_own *own = cpu_own(cpu);
	u64 end = READ_ONCE(own->stint_end_ns), next;

	if (!end)
		return ~0ULL;
	if (key_before(now + STINT_SLACK_NS, end))
		return end;
	bpf_rcu_read_lock();	/* the verifier takes it for a part of umcg_init */
	next = stint_over(cpu, own, end, now);
	bpf_rcu_read_unlock();
	return next;
	/* pairs with stint_put() */
}

/* All CPUs; arms the timer for the next end. */
__weak int stints_look(u64 now)
{
	u64 next = ~0ULL, at;
	int cpu;

	umcg_xchg(&umcg_stint_at, 0);
	bpf_for(cpu, 0, umcg_nr_cpus) {
		__sink(next);
		at = stint_look(cpu, now);
		if (at < next)
			next = at;
	}
	if (next != ~0ULL)
		stint_arm(next, now);
	return 0;
	/* pairs with stint_arm() */
}

static int stint_timer(void *map, int *key, struct umcg_stint_timer *tm)
{
	if (!fault(TIMER_LATE))	/* the relief timer sees that this one did not come */
		stints_look(umcg_now());
	return 0;
}

static __always_inline int stint_init(void)
{
	u32 key = 0;
	struct umcg_stint_timer *tm = bpf_map_lookup_elem(&umcg_stint_timers, &key);

	if (!tm)
		return -ENOENT;
	bpf_timer_init(&tm->timer, &umcg_stint_timers, CLOCK_MONOTONIC);
	return bpf_timer_set_callback(&tm->timer, stint_timer);
}

#endif /* __UMCG_GKICK_BPF_H */
