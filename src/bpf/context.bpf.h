/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * context: is this code in an interrupt, or is `current` the waker?
 *
 * Does:    reads the preempt count. Where its hardirq field lies changed in 7.x
 *          (bits 16-19 before, 24-27 now), so the first tick, which is surely
 *          in hardirq, learns it; until then both are tested.
 * Never:   asks the kernel version.
 */
#ifndef __UMCG_CONTEXT_BPF_H
#define __UMCG_CONTEXT_BPF_H

#include "base.bpf.h"

extern const int __preempt_count __ksym __weak;

#define SERVING_SOFTIRQ 0x00000100
#define HARDIRQ_OLD 0x000f0000
#define HARDIRQ_NEW 0x0f000000

u32 umcg_irq_mask = HARDIRQ_OLD | HARDIRQ_NEW | SERVING_SOFTIRQ;

static __always_inline u32 preempt_count_now(void)
{
	if (!bpf_ksym_exists(&__preempt_count))
		return 0;
	return *(u32 *)bpf_this_cpu_ptr(&__preempt_count);
}

static __always_inline void learn_irq_mask(void)
{
	if (likely(umcg_irq_mask != (HARDIRQ_OLD | HARDIRQ_NEW | SERVING_SOFTIRQ)))
		return;
	umcg_irq_mask = SERVING_SOFTIRQ |
		(preempt_count_now() & HARDIRQ_NEW ? HARDIRQ_NEW : HARDIRQ_OLD);
}

static __always_inline bool in_task(void)
{
	return !(preempt_count_now() & umcg_irq_mask);
}

#endif /* __UMCG_CONTEXT_BPF_H */
