/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * list: the kernel appends workers to a server's list, the server clears it.
 *
 * Does:    pushes a worker once; the protocol stands at struct umcg_list.
 * State:   umcg_worker.queued/next, umcg_list.head, umcg_server.unread*.
 * Called from: enqueue, quiescent (rq lock), SYSCALL test programs.
 * Races:   against other pushers: cmpxchg on the head. Against drain() in
 *          umcg/src/list.rs: `queued` is tried after the word was written.
 * Never:   follows a link.
 * Counters: lst_push, lst_dup, lst_race, lst_resync.
 */
#ifndef __UMCG_LIST_BPF_H
#define __UMCG_LIST_BPF_H

#include "base.bpf.h"

static __always_inline bool list_push(struct umcg_server *s,
				      struct umcg_list *list, u32 server,
				      struct umcg_worker *w, u32 idx, u64 now)
{
	u64 old, seen;
	int i;

	if (umcg_cmpxchg(&w->queued, 0, server + 1)) {
		count(lst_dup);
		return false;
	}

	if (fault(LIST_FULL))
		goto give_up;
	old = READ_ONCE(list->head);
	for (i = 0; i < UMCG_PUSH_TRIES; i++) {
		WRITE_ONCE(w->next, (u32)old);
		seen = umcg_cmpxchg(&list->head, old, (u64)idx);
		if (seen == old) {
			__sync_fetch_and_add(&s->unread, 1);
			if (!READ_ONCE(s->unread_ns))
				WRITE_ONCE(s->unread_ns, now);
			count(lst_push);
			return true;
		}
		old = seen;
		count(lst_race);
	}

give_up:
	umcg_xchg(&w->queued, 0);
	umcg_xchg(&s->resync, 1);
	count(lst_resync);
	return false;
	/* pairs with Server::take() and Server::clear_queued() */
}

#endif /* __UMCG_LIST_BPF_H */
