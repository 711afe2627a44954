/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fault: faults on purpose, and planted bugs. For tests alone.
 *
 * Does:    fault(X) says whether fault X happens at its n-th occasion: a pure function of
 *          (seed, X, n), the agent's has the same. planted(X) says whether the one mistake
 *          of this load is X.
 * State:   umcg_fault_seen, umcg_fault_hits. The knobs are rodata: with none set the
 *          verifier knows each answer and drops the code behind it, as of all knobs.
 * Called from: any place that can fail by itself; a fault is answered as that failure is.
 * Races:   CPUs that come at once take the numbers n in any order: what happens at the
 *          n-th occasion is fixed, whose it is is not.
 * Never:   what could not happen without it. Bugs that are planted are meant to be.
 */
#ifndef __UMCG_FAULT_BPF_H
#define __UMCG_FAULT_BPF_H

#include <scx/common.bpf.h>
#include "intf.h"

const volatile u32 umcg_plant;		/* enum umcg_plant */
const volatile u64 umcg_fault_seed;
const volatile u32 umcg_fault_rate[UMCG_NR_FAULTS];	/* of 1000; 0 = never */
const volatile u64 umcg_fault_step_ns;	/* of TIMER_CLOCK, either way */

u64 umcg_fault_seen[UMCG_NR_FAULTS];
u64 umcg_fault_hits[UMCG_NR_FAULTS];

/* SplitMix64 (Steele, Lea, Flood 2014). pairs with mix() in src/agent/faults.rs */
static __always_inline u64 fault_mix(u64 seed, u32 kind, u64 n)
{
	u64 x = seed + ((u64)kind << 56) + (n + 1) * 0x9e3779b97f4a7c15ULL;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* 0: it does not happen this time. Else a number for how much, never even. */
__weak u64 fault_draw(u32 kind)
{
	u64 draw;

	barrier_var(kind);
	if (kind >= UMCG_NR_FAULTS)
		return 0;
	draw = fault_mix(umcg_fault_seed, kind,
			 __sync_fetch_and_add(&umcg_fault_seen[kind], 1));
	if (draw % 1000 >= umcg_fault_rate[kind])
		return 0;
	__sync_fetch_and_add(&umcg_fault_hits[kind], 1);
	return draw / 1000 | 1;
}

#define fault(x) \
	(unlikely(umcg_fault_rate[UMCG_FAULT_##x]) && fault_draw(UMCG_FAULT_##x))
#define planted(x) unlikely(umcg_plant == UMCG_PLANT_##x)

/* @now, or a time beside it. */
static __always_inline u64 fault_time(u64 now)
{
	u64 draw = 0;

	if (unlikely(umcg_fault_rate[UMCG_FAULT_TIMER_CLOCK]))
		draw = fault_draw(UMCG_FAULT_TIMER_CLOCK);
	return draw ? now + draw % (2 * umcg_fault_step_ns + 1) - umcg_fault_step_ns : now;
}

#endif /* __UMCG_FAULT_BPF_H */
