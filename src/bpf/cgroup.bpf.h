/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * cgroup: whose share of the machine a worker has.
 *
 * Does:    1. a record per cgroup that has the cpu controller, the root has none:
 *             its members count with their own weights;
 *          2. enter, leave: a worker that becomes runnable or blocks adds its
 *             weight to its cgroup's `load` or takes it away: one atomic, and
 *             none for members of the root;
 *          3. sample: the timer looks at each cgroup and keeps averages: how much
 *             of the time it is busy, and how much weight it holds while it is.
 *             From that comes `factor`, the product along the path of
 *               cpu.weight / weight that competes inside,
 *             by which key.bpf.h scales the weight of each member. A charge reads
 *             one word and never walks the tree.
 * State:   struct umcg_cgroup, umcg_task.cgroup/counted, umcg_nr_cgroups.
 * Called from: the cgroup_* ops (may sleep; the kernel serialises them), enable,
 *          runnable, quiescent, set_weight (rq lock), the relief timer.
 * Races:   the timer reads `load` while workers come and go: it is a sample.
 *          Exit of a cgroup beside the timer: what it `gave` its parent is taken
 *          by xchg, so it is given back once; what a sample gave after the exit
 *          the next pass takes back. A task that outlives its cgroup finds
 *          another generation and counts as a member of the root.
 * Never:   fails: an error from cgroup_init would make mkdir fail. Without a
 *          record a cgroup counts as part of its parent.
 * Counters: cgroup_fail.
 *
 * Example: a(100) holds x(300) and y(100), each one hog, beside one hog in the
 * root. Inside a compete 400: x and y get 100/400 of 300 and 100: 75, 25, 100.
 */
#ifndef __UMCG_CGROUP_BPF_H
#define __UMCG_CGROUP_BPF_H

#include "record.bpf.h"
#include "word.bpf.h"

#define UMCG_MAX_CGROUPS 4096		/* power of two; record 0 is the root */
#define CGROUP_LOOK 256			/* samples per pass of the timer */
#define FACTOR_ONE 65536ULL
#define WEIGHT_ONE 1024ULL		/* weights of workers have 10 more bits */
#define WEIGHT_IDLE 1			/* of a cgroup with cpu.idle */
/* Averages are sums of 8 samples: x += sample - x / 8. Loads have 8 more bits. */
#define SAMPLES 8
#define LOAD_ONE 256ULL
#define BUSY_ONE 65536ULL

struct umcg_cgroup {
	/* line 0: read at each charge of a member */
	u32 gen;		/* odd while in use */
	u32 parent;		/* index, 0 = the root */
	u32 weight;		/* cpu.weight, 1..10000 */
	u32 idle;		/* cpu.idle */
	u64 factor;		/* FACTOR_ONE = members count in full */
	u64 id;			/* of the cgroup */

	/* line 1: each wake-up and block of a member */
	u64 load __attribute__((aligned(64)));

	/* line 2: the timer */
	u64 own __attribute__((aligned(64)));	/* average of `load` */
	u64 busy;		/* average of "has something runnable" */
	u64 below;		/* what its children give: weight * busy */
	u64 below_busy;
	u64 gave;		/* the same two, to its parent */
	u64 gave_busy;
	u64 inside;		/* weight that competes in it while it is busy */

	/* line 3: cpu.max, see limit.bpf.h */
	s64 tokens __attribute__((aligned(64)));	/* CPU time that may be used now */
	u64 filled_ns;
	u64 rate;		/* quota / period with 16 more bits, 0 = no limit */
	u64 cap_ns;		/* quota + burst */
	u64 urgent_ns;		/* when its waiters were last looked at, see release.bpf.h */
	u32 limit;		/* the nearest cgroup with a limit, upwards */
	u32 limit_gen;		/* as of this generation of the limits */
	u32 queue;		/* THROTTLE(index) exists; it is never destroyed */
	u64 limited_ns;		/* since when there is this limit */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UMCG_MAX_CGROUPS);
	__type(key, u32);
	__type(value, struct umcg_cgroup);
} umcg_cgroups SEC(".maps");

/* By cgroup id; read only where cgroups and members come and go. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4 * UMCG_MAX_CGROUPS);
	__type(key, u64);
	__type(value, u32);
} umcg_cgroup_ids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, UMCG_MAX_CGROUPS);
	__type(value, u32);
} umcg_free_cgroups SEC(".maps");

u32 umcg_fresh_cgroup = 1;	/* indexes from here on were never used */
u32 umcg_nr_cgroups;		/* cgroups beside the root */
u32 umcg_cgroup_cursor;		/* where the timer goes on */

static __always_inline struct umcg_cgroup *cgroup_rec(u32 idx)
{
	return bpf_map_lookup_elem(&umcg_cgroups, &idx);
}

/* NULL: the root, or a cgroup that is gone. */
static __always_inline struct umcg_cgroup *cgroup_of(const struct umcg_task *t)
{
	struct umcg_cgroup *g = t->cgroup ? cgroup_rec(t->cgroup) : NULL;

	return g && g->gen == t->cgroup_gen ? g : NULL;
}

static __always_inline u32 cgroup_index(struct cgroup *cgrp)
{
	u64 id = cgrp->kn->id;
	u32 *idx = bpf_map_lookup_elem(&umcg_cgroup_ids, &id);

	return idx ? *idx : 0;
}

/* The record of @cgrp itself, not one of an ancestor that stands in for it. */
static __always_inline struct umcg_cgroup *cgroup_own(struct cgroup *cgrp)
{
	struct umcg_cgroup *g = cgroup_rec(cgroup_index(cgrp));

	return g && (g->gen & 1) && g->id == cgrp->kn->id ? g : NULL;
}

static __always_inline void cgroup_enter(struct umcg_task *t,
					const struct task_struct *p)
{
	struct umcg_cgroup *g = cgroup_of(t);

	if (!g || t->counted)
		return;
	t->counted = p->scx.weight;
	__sync_fetch_and_add(&g->load, (u64)t->counted);
}

static __always_inline void cgroup_leave(struct umcg_task *t)
{
	struct umcg_cgroup *g = t->counted ? cgroup_of(t) : NULL;

	if (g)
		__sync_fetch_and_sub(&g->load, (u64)t->counted);
	t->counted = 0;
}

/* The rq lock is held; the task is on no queue. */
static __always_inline void cgroup_join(struct umcg_task *t,
				       const struct task_struct *p,
				       struct cgroup *to)
{
	struct umcg_worker *w = worker_rec(t->idx);
	u32 state = w ? word_state(READ_ONCE(w->word)) : UMCG_NONE;
	struct umcg_cgroup *g;

	cgroup_leave(t);
	t->cgroup = to ? cgroup_index(to) : 0;
	g = t->cgroup ? cgroup_rec(t->cgroup) : NULL;
	t->cgroup_gen = g ? g->gen : 0;
	/* A member counts when it is queued or runs next: both follow at once. */
	if (t->kind == UMCG_K_WORKER && (state == UMCG_RUNNABLE || state == UMCG_RUNNING))
		cgroup_enter(t, p);
}

static __always_inline void cgroup_weight_changed(struct umcg_task *t,
						 const struct task_struct *p)
{
	if (!t->counted)
		return;
	cgroup_leave(t);
	cgroup_enter(t, p);
}

static __always_inline u32 cgroup_share(const struct umcg_cgroup *g)
{
	return g->idle ? WEIGHT_IDLE : g->weight;
}

/* What @g brings to its parent; both once, whoever comes. */
static __always_inline void cgroup_give(struct umcg_cgroup *g, u64 give, u64 busy)
{
	struct umcg_cgroup *parent = g->parent ? cgroup_rec(g->parent) : NULL;
	u64 gave = umcg_xchg(&g->gave, give);
	u64 gave_busy = umcg_xchg(&g->gave_busy, busy);

	if (!parent)
		return;
	__sync_fetch_and_add(&parent->below, give - gave);
	__sync_fetch_and_add(&parent->below_busy, busy - gave_busy);
}

/* Rarely busy: what it held when it was is still the best guess. */
static __always_inline void cgroup_factor(struct umcg_cgroup *g)
{
	struct umcg_cgroup *parent = g->parent ? cgroup_rec(g->parent) : NULL;
	u64 above = parent ? parent->factor : FACTOR_ONE, factor;

	if (g->busy >= SAMPLES * BUSY_ONE / 64)
		g->inside = (g->own + g->below) * BUSY_ONE / g->busy;
	factor = above * cgroup_share(g) * LOAD_ONE / (g->inside ?: 1);
	if (factor > 10000 * FACTOR_ONE)
		factor = 10000 * FACTOR_ONE;
	WRITE_ONCE(g->factor, factor ?: 1);
}

static __always_inline void cgroup_sample(struct umcg_cgroup *g)
{
	u64 load = READ_ONCE(g->load), busy = READ_ONCE(g->below_busy);

	if (load || busy > BUSY_ONE)
		busy = BUSY_ONE;
	g->own += load * LOAD_ONE - g->own / SAMPLES;
	g->busy += busy - g->busy / SAMPLES;
	cgroup_give(g, cgroup_share(g) * g->busy / LOAD_ONE, g->busy / SAMPLES);
	cgroup_factor(g);
}

/* @p's share of a CPU against the others there, WEIGHT_ONE * 100 = nice 0. */
static __always_inline u64 cgroup_scale(const struct umcg_task *t, u64 weight)
{
	struct umcg_cgroup *g = cgroup_of(t);

	if (!g)
		return weight;
	weight = weight * READ_ONCE(g->factor) / FACTOR_ONE;
	if (weight > 10000 * WEIGHT_ONE)
		return 10000 * WEIGHT_ONE;
	return weight > WEIGHT_ONE / 100 ? weight : WEIGHT_ONE / 100;
}

static __always_inline u32 cgroup_alloc(void)
{
	u32 idx = 0;

	if (!bpf_map_pop_elem(&umcg_free_cgroups, &idx) && idx)
		return idx;
	return umcg_fresh_cgroup < UMCG_MAX_CGROUPS ? umcg_fresh_cgroup++ : 0;
}

/* Its record, NULL where there is none. */
static __always_inline struct umcg_cgroup *
cgroup_record_init(struct cgroup *cgrp, struct scx_cgroup_init_args *args)
{
	u64 id = cgrp->kn->id;
	struct umcg_cgroup *g;
	u32 idx, parent;

	if (!cgrp->level)
		return NULL;
	parent = cgroup_index(cgrp->self.parent->cgroup);
	idx = cgroup_alloc();
	g = idx ? cgroup_rec(idx) : NULL;
	if (!g) {
		count(cgroup_fail);
		bpf_map_update_elem(&umcg_cgroup_ids, &id, &parent, BPF_ANY);
		return NULL;
	}
	cgroup_give(g, 0, 0);
	g->parent = parent;
	g->id = id;
	g->weight = args->weight;
	g->idle = bpf_core_field_exists(args->sched_idle) && args->sched_idle;
	g->load = g->own = g->busy = g->below = g->below_busy = 0;
	g->inside = 100 * LOAD_ONE;
	g->rate = g->limit_gen = 0;
	if (!g->queue && !scx_bpf_create_dsq(THROTTLE(idx), -1))
		g->queue = 1;
	cgroup_factor(g);
	g->gen = (g->gen + 1) | 1;
	__sync_fetch_and_add(&umcg_nr_cgroups, 1);
	if (bpf_map_update_elem(&umcg_cgroup_ids, &id, &idx, BPF_ANY))
		count(cgroup_fail);
	return g;
}

static __always_inline void cgroup_record_exit(struct cgroup *cgrp)
{
	struct umcg_cgroup *g = cgroup_own(cgrp);
	u32 idx = cgroup_index(cgrp);
	u64 id = cgrp->kn->id;

	bpf_map_delete_elem(&umcg_cgroup_ids, &id);
	if (!g)
		return;
	g->gen++;
	cgroup_give(g, 0, 0);
	__sync_fetch_and_sub(&umcg_nr_cgroups, 1);
	bpf_map_push_elem(&umcg_free_cgroups, &idx, 0);
}

/* Global, so that the verifier sees it once and not for each round of the loop. */
__weak int cgroup_visit(u32 idx)
{
	struct umcg_cgroup *g = cgroup_rec(idx);

	if (g && (g->gen & 1))
		cgroup_sample(g);
	else if (g && (g->gave | g->gave_busy))
		cgroup_give(g, 0, 0);
	return 0;
}

/* A pass of the timer: up to CGROUP_LOOK of them, the next pass goes on. */
__weak int cgroups_sweep(void)
{
	u32 top = umcg_fresh_cgroup, idx = umcg_cgroup_cursor;
	int i;

	bpf_for(i, 0, CGROUP_LOOK) {
		__sink(idx);
		if (++idx >= top)
			idx = 1;
		cgroup_visit(idx);
		if (i + 2 >= top)
			break;
	}
	umcg_cgroup_cursor = idx;
	return 0;
}

#endif /* __UMCG_CGROUP_BPF_H */
