/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * jam: a server that sleeps in the kernel for what one of its workers owns.
 *
 * Does:    1. a server that sleeps uninterruptibly, outside of its calls, marks its group:
 *             it is stuck, maybe for a lock, as mmap_lock or a journal's;
 *          2. workers of the group that stopped elsewhere than at the border of the kernel
 *             may own that lock: those that are held are let run at once;
 *          3. while a server is stuck no more such workers are held. A lock is handed over
 *             to who is woken: with a hold each it would go round for as many holds as
 *             there are waiters.
 * State:   umcg_group.stuck.
 * Called from: quiescent, running, enqueue, disable (rq lock); the sweep.
 * Races:   a worker is being held | the server gets stuck
 *            stuck? no            |   stuck = 1
 *            held = 1             |   looks at the workers
 *          Seen by neither it waits for the sweep, a tick of the timer.
 * Never:   lets go who yielded, waits, or woke from an interruptible sleep: they own
 *          none, and would only be in the others' way.
 * Counters: grp_unheld.
 */
#ifndef __UMCG_JAM_BPF_H
#define __UMCG_JAM_BPF_H

#include "slot.bpf.h"

#define JAM_LOOK 128	/* workers that a server looks at; the sweep does the rest */

static __always_inline struct umcg_task *member_ctx(const struct umcg_member *m)
{
	struct task_struct *p = worker_task(m->sys);

	return p ? task_ctx(p) : NULL;
}

/* Of a worker that is held. */
static __always_inline bool may_own_lock(const struct umcg_member *w)
{
	struct umcg_task *t = member_ctx(w);

	return !t || !t->at_border;
}

__weak int jam_release(u32 g)
{
	void *truth = bpf_map_lookup_elem(&umcg_truths, &g);
	struct umcg_group *head = truth ? group_head(truth) : NULL;
	struct umcg_member *w;
	int i;

	bpf_for(i, 0, JAM_LOOK) {
		if (!head || i >= head->cursor)
			break;
		w = member_at(truth, UMCG_GROUP_SERVERS + 1 + i);
		if (!w)
			break;
		if (READ_ONCE(w->held) && w->kind == UMCG_M_WORKER &&
		    word_state(READ_ONCE(w->word)) == UMCG_RUNNABLE && may_own_lock(w))
			let_run(w);
	}
	return 0;
}

/* Server @t sleeps for something. */
static __always_inline void jam(const struct umcg_task *t, void *truth)
{
	struct umcg_group *head = group_head(truth);
	u64 old;

	if (!head)
		return;
	old = __sync_fetch_and_or(&head->stuck, server_bit(t->member));
	if (!(old & server_bit(t->member)))
		jam_release(t->group);
}

/* Server @si runs again, or is gone. */
static __always_inline void unjam(struct umcg_group *head, u32 si)
{
	if (READ_ONCE(head->stuck) & server_bit(si))
		__sync_fetch_and_and(&head->stuck, ~server_bit(si));
}

/* @m, which would be held, runs on without a slot: a server may wait for it. */
static __always_inline bool runs_on(const struct umcg_task *t, void *truth,
				    const struct umcg_member *m)
{
	struct umcg_group *head;

	if (t->at_border || t->left || READ_ONCE(m->slot) ||
	    word_state(READ_ONCE(m->word)) == UMCG_IDLE)
		return false;
	head = group_head(truth);
	return head && READ_ONCE(head->stuck);
}

#endif /* __UMCG_JAM_BPF_H */
