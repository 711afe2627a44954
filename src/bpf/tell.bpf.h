/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * tell: a server hears of a worker that may run again, or has left without a slot.
 *
 * Does:    1. the worker's link goes on the list of a server that waits, else of its home;
 *          2. key on wake: if that one runs a worker whose key is higher, so later in
 *             order, it is kicked: the server chooses anew, with both before it.
 * State:   umcg_desk.queued/next/runnable/key.
 * Called from: enqueue (rq lock held), timer, SYSCALL programs under RCU.
 * Races:   of the link: slot.bpf.h, gidle.bpf.h. Keys are hints of a client about its own
 *          group: who reads an old one kicks once too often, or waits for the run's end.
 * Never:   looks at who other servers run: one look a wake, not one a server.
 * Counters: lst_dup, grp_by_wake.
 */
#ifndef __UMCG_TELL_BPF_H
#define __UMCG_TELL_BPF_H

#include "gkick.bpf.h"

/* Worker @w was told to server @si just now. */
static __always_inline void key_on_wake(void *truth, void *desks, u32 si,
					const struct umcg_desk *w)
{
	struct umcg_member *s = member_at(truth, si), *cur;
	u32 idx = s ? READ_ONCE(s->cur) : 0;
	struct umcg_desk *desk;

	if (!idx)
		return;
	desk = desk_at(desks, idx);
	if (!desk || READ_ONCE(w->key) >= READ_ONCE(desk->key))
		return;
	cur = member_at(truth, idx);
	if (cur)
		member_kick(cur, UMCG_S_WAKE);
}

/*
 * A server that waits, the worker's home if it does; else its home, which looks when it
 * has its slot back. One that is linked at a live server is for that one.
 */
static __always_inline void tell(u32 g, u32 idx, u32 home)
{
	struct umcg_desk *list, *w;
	struct umcg_group *head;
	struct umcg_member *s;
	void *truth, *desks;
	u32 si, owner;
	bool linked;

	truth = bpf_map_lookup_elem(&umcg_truths, &g);
	desks = bpf_map_lookup_elem(&umcg_desks, &g);
	if (!truth || !desks)
		return;
	head = group_head(truth);
	if (!head)
		return;
	home = live_home(head, truth, home);
	if (!home)
		return;	/* the first server that registers walks the truth */
	w = desk_at(desks, idx);
	if (!w)
		return;
	owner = READ_ONCE(w->queued);
	if (is_listed(head, truth, owner)) {
		count(lst_dup);
		si = owner & UMCG_OWNER_INDEX;
		server_poke(truth, desks, si);
		key_on_wake(truth, desks, si, w);
		return;
	}
	si = idle_take(head, truth, home).server ?: home;
	s = member_at(truth, si);
	list = desk_at(desks, si);
	if (!s || !list)
		return;
	linked = desk_push(head, truth, s, si, list, w, idx);
	if (!linked)
		umcg_xchg(&list->resync, 1);
	server_poke(truth, desks, si);
	if (linked)
		key_on_wake(truth, desks, si, w);
	if (!is_live(head, si))
		have_adopted(g);
	/* pairs with server_hold() and server_gone() */
}

/* Worker @idx is RUNNABLE, or has left: a server hears of it, once. */
__weak int tell_worker(u32 g, u32 idx, u32 home)
{
	bpf_rcu_read_lock();	/* SYSCALL programs come here, too */
	tell(g, idx, home);
	bpf_rcu_read_unlock();
	return 0;
}

#endif /* __UMCG_TELL_BPF_H */
