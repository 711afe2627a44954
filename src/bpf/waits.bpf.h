/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * waits: how long workers waited for a CPU, for people.
 *
 * Does:    counts one wait by tier and by log2 of its length, in this CPU's cells.
 * State:   umcg_cpu.waits; enum umcg_tier says what the tiers are for.
 * Called from: running, once per edge RUNNABLE -> RUNNING.
 * Races:   none: each CPU has its own cells and interrupts are off.
 * Never:   branches on the length: the verifier would walk each bucket apart.
 */
#ifndef __UMCG_WAITS_BPF_H
#define __UMCG_WAITS_BPF_H

#include "record.bpf.h"

/* 1 if @a > @b, both below 2^63; without a branch. */
#define above(a, b) (((u64)(b) - (u64)(a)) >> 63)

/* Digits of a byte: 1 + its log2, 0 of 0. */
static const u8 digits[256] = {
	[1] = 1,
	[2 ... 3] = 2,
	[4 ... 7] = 3,
	[8 ... 15] = 4,
	[16 ... 31] = 5,
	[32 ... 63] = 6,
	[64 ... 127] = 7,
	[128 ... 255] = 8,
};

/* 0 for less than 1 << UMCG_WAIT_SHIFT ns, else 1 + log2 of the multiple. */
static __always_inline u32 wait_bucket(u64 ns)
{
	u64 v = ns >> UMCG_WAIT_SHIFT, log, step;

	log = above(v, 0xffff) << 4;
	v >>= log;
	step = above(v, 0xff) << 3;
	v >>= step;
	log += step;
	/* The first byte only, of a wait beyond any: the last bucket. */
	log += v > 0xff ? UMCG_WAIT_BUCKETS : digits[v & 0xff];
	return log < UMCG_WAIT_BUCKETS ? log : UMCG_WAIT_BUCKETS - 1;
}

static __always_inline u32 wait_tier(const struct task_struct *p,
				     const struct umcg_worker *w, u64 word)
{
	if (word & (UMCG_F_PREEMPTED | UMCG_F_YIELDED))
		return UMCG_TIER_PREEMPTED;
	if (w->class_ == UMCG_CLASS_IDLE)
		return UMCG_TIER_IDLE;
	if (w->class_ == UMCG_CLASS_BATCH || p->scx.weight < 100)
		return UMCG_TIER_LOW;
	return p->scx.weight > 100 ? UMCG_TIER_HIGH : UMCG_TIER_NORMAL;
}

/* @word is that of the wait which lasted for @ns. */
static __always_inline void wait_count(struct umcg_cpu *c, const struct task_struct *p,
				       const struct umcg_worker *w, u64 word, u64 ns)
{
	u32 cell = wait_tier(p, w, word) * UMCG_WAIT_BUCKETS + wait_bucket(ns);

	if (cell < UMCG_NR_TIERS * UMCG_WAIT_BUCKETS)
		c->waits[cell]++;
}

#endif /* __UMCG_WAITS_BPF_H */
