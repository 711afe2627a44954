/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * word: the state word and its edges.
 *
 * Does:    1. packs (time, flags, state) so that each value is unique;
 *          2. moves a word along one edge, by cmpxchg, and keeps the books.
 * State:   umcg_worker.word/since_ns, umcg_server.word/since_ns.
 * Called from: runnable, running, stopping, quiescent, enable, disable: all
 *          with the task's rq lock, so a lost cmpxchg means a bug or a future
 *          second writer; it is retried and counted.
 * Races:   none between edges of one task (rq lock). Readers see one u64.
 * Counters: edge_illegal, word_race.
 */
#ifndef __UMCG_WORD_BPF_H
#define __UMCG_WORD_BPF_H

#include "base.bpf.h"

#define UMCG_TIME_MASK ((1ULL << 48) - 1)

static __always_inline u32 word_state(u64 word)
{
	return word & UMCG_STATE_MASK;
}

static __always_inline u64 word_time(u64 word)
{
	return word >> UMCG_TIME_SHIFT;
}

/*
 * The 48 bits that words show at the full time @stamp, and the one place where they come
 * from. A test may have them run ahead, to where they wrap. Then only words do: since_ns,
 * deadlines, keys and events are CLOCK_MONOTONIC, and readers of words are told by how much
 * (umcg_group.ahead_ns, the daemon's run file).
 */
static __always_inline u64 word_clock(u64 stamp)
{
	if (umcg_ahead_ns)
		stamp += umcg_ahead_ns;
	return stamp & UMCG_TIME_MASK;
}

/*
 * max(@now, @since + 1), by the full times: 48 bits alone could not tell a word
 * of two days ago from one of the future. Never the time that @old shows.
 */
static __always_inline u64 stamp_after(u64 old, u64 since, u64 now)
{
	if ((s64)(now - since) <= 0)
		now = since + 1;
	if (old && word_clock(now) == word_time(old))
		now++;
	return now;
}

static __always_inline u64 word_make(u64 stamp, u64 state)
{
	return word_clock(stamp) << UMCG_TIME_SHIFT | state;
}

#define WORD_TRIES 8
#define FROM(state) (1U << (state))
#define FROM_ANY ((1U << UMCG_NR_STATES) - 1)

/* One try: @old becomes @state at a time of its own, unless another writer came first. */
static __always_inline u64 word_try(u64 *word, u64 *since_ns, u64 old, u64 state,
				    u64 now)
{
	u64 stamp = stamp_after(old, READ_ONCE(*since_ns), now), seen;

	seen = umcg_cmpxchg(word, old, word_make(stamp, state));
	if (likely(seen == old))
		WRITE_ONCE(*since_ns, stamp);
	return seen;
}

/*
 * The tries of word_move() after the first, which has seen @old. A function of its own:
 * another writer is rare, and the verifier walks it once for each program.
 */
__weak u64 word_move_again(u64 *word __arg_nonnull, u64 *since_ns __arg_nonnull,
			   u64 old, u64 state, u64 now)
{
	u64 seen;
	int i;

	bpf_for(i, 1, WORD_TRIES) {
		count(word_race);
		seen = word_try(word, since_ns, old, state, now);
		if (seen == old)
			break;
		old = seen;
	}
	return old;
}

/*
 * Moves *@word to @state (with flags), from a state in @from. An edge from
 * elsewhere is counted and made all the same: the kernel is right, we only
 * misunderstood it. Returns the old word.
 */
static __always_inline u64 word_move(u64 *word, u64 *since_ns, u32 from,
				     u64 state, u64 now)
{
	u64 old = READ_ONCE(*word), seen = word_try(word, since_ns, old, state, now);

	if (unlikely(seen != old))
		old = word_move_again(word, since_ns, seen, state, now);

	if (unlikely(!(from & FROM(word_state(old) & 7)))) {
		count(edge_illegal);
		if (umcg_debug)
			scx_bpf_error("word: %u -> %u is no edge",
				      word_state(old), (u32)(state & 0xff));
	}
	return old;
}

#endif /* __UMCG_WORD_BPF_H */
