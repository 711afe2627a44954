/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * near: the other CPUs of a CPU, nearest first.
 *
 * Does:    names the i-th CPU to look at for one that needs work, or has a wakee to
 *          place: of its core, its LLC, its node, then of the nodes by distance.
 *          Equals come in the order of their numbers from its own on, so that not
 *          all CPUs of an LLC begin with the same one. A machine with more CPUs than
 *          a row has entries: the last quarter is drawn at random each time.
 * State:   umcg_near, written by the agent before the load, see agent/near.rs.
 * Called from: dispatch (steal, rotate), select_cpu and a group's wake-ups (find_beaten).
 * Never:   knows of hotplug: a CPU that is offline has nothing, or what is stranded.
 */
#ifndef __UMCG_NEAR_BPF_H
#define __UMCG_NEAR_BPF_H

#include "base.bpf.h"

const volatile u16 umcg_near[UMCG_MAX_CPUS][UMCG_NEAR];

static __always_inline s32 random_other(s32 cpu)
{
	s32 other;

	if (umcg_nr_cpus < 2)
		return cpu;
	other = cpu + 1 + bpf_get_prandom_u32() % (umcg_nr_cpus - 1);
	return other >= umcg_nr_cpus ? other - umcg_nr_cpus : other;
}

/* @i from 0 on: other CPUs, those of the row all different. */
static __always_inline s32 near_cpu(s32 cpu, u32 i)
{
	u32 row = cpu;

	if (umcg_nr_cpus > UMCG_NEAR && i >= UMCG_NEAR * 3 / 4)
		return random_other(cpu);
	barrier_var(row);
	barrier_var(i);
	return umcg_near[row & (UMCG_MAX_CPUS - 1)][i & (UMCG_NEAR - 1)];
}

#endif /* __UMCG_NEAR_BPF_H */
