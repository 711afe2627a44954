/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * context: is this code in an interrupt, or is `current` the waker?
 *
 * Does:    reads the preempt count. Where its hardirq field lies changed in 7.x
 *          (bits 16-19 before, 24-27 now), so the first tick, which is surely
 *          in hardirq, learns it; until then both are tested.
 *          Where did the tick interrupt this task, in user mode or in the kernel?
 * Never:   asks the kernel version.
 */
#ifndef __UMCG_CONTEXT_BPF_H
#define __UMCG_CONTEXT_BPF_H

#include "base.bpf.h"

extern const int __preempt_count __ksym __weak;
extern const struct pt_regs *__irq_regs __ksym __weak;

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

/*
 * In ops.tick. Without the registers of the interrupt: no system call is under
 * way; a page fault or the tick itself look alike then.
 */
static __always_inline bool tick_in_user(const struct task_struct *p)
{
	const struct pt_regs *regs;

	if (bpf_ksym_exists(&__irq_regs)) {
		regs = *(const struct pt_regs **)bpf_this_cpu_ptr(&__irq_regs);
		return regs && (BPF_CORE_READ(regs, cs) & 3) == 3;
	}
	regs = (const struct pt_regs *)bpf_task_pt_regs((struct task_struct *)p);
	return regs && (s64)BPF_CORE_READ(regs, orig_ax) == -1;
}

#endif /* __UMCG_CONTEXT_BPF_H */
