/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ring: takes a server's next choice.
 *
 * Does:    xchg(slot, 0) at the head hint; or cmpxchg of what was seen there.
 * State:   umcg_ring, protocol at struct umcg_ring.
 * Called from: dispatch of any CPU, SYSCALL test programs.
 * Races:   two CPUs at one slot: one gets the choice, the other 0 and goes on
 *          as if the ring were empty; the head moves right after. The server
 *          recalls by the same xchg. A CPU whose head hint is a lap old can take
 *          a later choice and leave the head on an empty slot: the server moves
 *          it on in its next push, skip_taken() in umcg/src/ring.rs.
 */
#ifndef __UMCG_RING_BPF_H
#define __UMCG_RING_BPF_H

#include "word.bpf.h"

static __always_inline u64 choice_make(u32 idx, u32 gen, u64 word)
{
	return (u64)idx << 32 | (u64)(gen & 0xff) << 24 |
	       (word_time(word) & 0xffffff);
}

/* Takes the choice that ring_peek() showed, unless somebody was faster. */
static __always_inline bool ring_take_this(struct umcg_ring *r, u64 choice)
{
	u64 head = READ_ONCE(r->head);
	u32 i = head;

	barrier_var(i);
	if (umcg_cmpxchg(&r->slot[i & (UMCG_STAGE_SLOTS - 1)], choice, 0) != choice)
		return false;
	umcg_cmpxchg(&r->head, head, head + 1);
	return true;
}

static __always_inline u64 ring_peek(struct umcg_ring *r)
{
	u32 i = READ_ONCE(r->head);

	barrier_var(i);
	return READ_ONCE(r->slot[i & (UMCG_STAGE_SLOTS - 1)]);
}

#endif /* __UMCG_RING_BPF_H */
