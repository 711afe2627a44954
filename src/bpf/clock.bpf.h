/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * clock: a CPU's virtual time, by which whoever wakes up there is placed.
 *
 * Does:    1. raise: to the v of who runs, but not past those that wait;
 *          2. follow: the same for who goes on without an edge.
 * State:   umcg_cpu.vnow.
 * Called from: running, dispatch: the CPU's own, with its rq lock.
 * Races:   wakers read it from anywhere: they place by the old value or by the new one.
 * Never:   goes back.
 */
#ifndef __UMCG_CLOCK_BPF_H
#define __UMCG_CLOCK_BPF_H

#include "idle.bpf.h"
#include "key.bpf.h"

static __always_inline bool head_key(s32 cpu, u64 *key)
{
	struct task_struct *head = __COMPAT_scx_bpf_dsq_peek(PARK(cpu));

	if (!head)
		return false;
	*key = head->scx.dsq_vtime;
	return true;
}

/* @v, or the key of the first one that waits on @cpu, if that is earlier. */
__weak u64 least_v(s32 cpu, u64 v)
{
	u64 head;

	return pending_any() && head_key(cpu, &head) && key_before(head, v) ? head : v;
}

/*
 * Who runs on @cpu has used @v by now. A pick by key has the least v of all that wait here.
 * Who comes from elsewhere, or goes on after an interruption, may be ahead of them: by no
 * more than a slice, unless a small @weight makes its v run fast. Were the clock that v,
 * whoever wakes up next would be placed behind all that wait: a slice of nice 19 is 400 ms.
 */
static __always_inline void clock_raise(struct umcg_cpu *c, s32 cpu, u64 v, u32 weight)
{
	if (!key_before(c->vnow, v))
		return;
	if (weight < 100 * WEIGHT_ONE && !c->by_key && order_on(cpu) == UMCG_ORDER_FAIR) {
		v = least_v(cpu, v);
		if (key_before(v, c->vnow))
			return;
	}
	c->vnow = v;
}

/*
 * Who goes on alone, or again and again, passes no edge for seconds. Did the clock not go on
 * with it, whoever wakes up next would be placed before all that it has used meanwhile, and
 * have the CPU for as long.
 */
static __always_inline void clock_follow(const struct task_struct *prev,
					 const struct umcg_task *t, struct umcg_cpu *c,
					 s32 cpu, u32 weight)
{
	clock_raise(c, cpu, t->v + weighted(uncharged(prev, t), weight), weight);
}

#endif /* __UMCG_CLOCK_BPF_H */
