/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * claim: "this server runs that worker", decided once.
 *
 * Does:    takes, gives back, consumes and drops umcg_worker.claim.
 * Called from: dispatch (take, give back), running (consume), enqueue and
 *          quiescent (drop).
 * Races:   two servers that staged the same worker: one cmpxchg wins. A worker
 *          that starts elsewhere: running clears the claim whoever held it.
 *          None is left over: a taker that cannot move the worker gives it back
 *          before it leaves dispatch.
 * Counters: claim_lost.
 */
#ifndef __UMCG_CLAIM_BPF_H
#define __UMCG_CLAIM_BPF_H

#include "word.bpf.h"

static __always_inline u64 claim_value(u32 server, u64 word)
{
	return (u64)(server + 1) << 48 | word_time(word);
}

static __always_inline bool claim_try(struct umcg_worker *w, u64 claim)
{
	if (!fault(CLAIM_REFUSED) && !umcg_cmpxchg(&w->claim, 0, claim))
		return true;
	count(claim_lost);
	return false;
}

static __always_inline bool claim_release(struct umcg_worker *w, u64 claim)
{
	if (planted(LEAKED_CLAIM))
		return true;
	return umcg_cmpxchg(&w->claim, claim, 0) == claim;
}

static __always_inline void claim_drop(struct umcg_worker *w)
{
	if (READ_ONCE(w->claim))
		umcg_xchg(&w->claim, 0);
}

#endif /* __UMCG_CLAIM_BPF_H */
