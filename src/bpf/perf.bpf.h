/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * perf: how fast each CPU is to run: the target for the governor schedutil.
 *
 * Does:    1. a tick, or the timer where there is none, ends a window of a CPU: the
 *             part of it that was not idle is its utilisation;
 *          2. the target follows it: up at once, down by a quarter per window;
 *          3. the kernel is told when the target leaves its step.
 * State:   umcg_own.perf_*, umcg_cpu.idle_ns and perf.
 * Called from: ops.tick (this CPU, rq lock held), the timer (any CPU, none held: the
 *          kernel then takes the lock of that CPU, so the timer leaves CPUs with a
 *          tick alone).
 * Races:   tick against timer: who moves perf_ns has the window.
 *          idle_ns against a CPU that wakes up just now: one window is off.
 *
 * uclamp is the kernel's: schedutil clamps the target by what the run queue holds,
 * tasks of sched_ext included (uclamp_enabled, kernel/sched/ext/ext.c).
 */
#ifndef __UMCG_PERF_BPF_H
#define __UMCG_PERF_BPF_H

#include "base.bpf.h"

#define PERF_TICK_NS (8 * NSEC_PER_MSEC)	/* two ticks of 250 Hz */
#define PERF_TIMER_NS (32 * NSEC_PER_MSEC)	/* as long as nothing else looked */
#define PERF_STEP 32				/* of SCX_CPUPERF_ONE = 1024 */

/* Of a window of @gone ns, of which @idle were idle. */
static __always_inline u32 perf_of(u64 gone, u64 idle, u32 before)
{
	u32 util = idle < gone ? (gone - idle) * SCX_CPUPERF_ONE / gone : 0;

	if (util >= before || gone >= PERF_TIMER_NS)
		return util;
	return (3 * before + util) / 4;
}

/* Global: the verifier sees it once. */
__weak int perf_update(s32 cpu, u64 now, u64 window)
{
	struct umcg_own *o = cpu_own(cpu);
	struct umcg_cpu *c = cpu_rec(cpu);
	u64 from = READ_ONCE(o->perf_ns), since, idle, passed;
	u32 perf;

	if (now < from + window || c->offline ||
	    umcg_cmpxchg(&o->perf_ns, from, now) != from)
		return 0;
	since = READ_ONCE(c->idle_since_ns);
	idle = READ_ONCE(c->idle_ns) + (since && since < now ? now - since : 0);
	passed = idle > o->perf_idle_ns ? idle - o->perf_idle_ns : 0;
	o->perf_idle_ns = idle;
	perf = perf_of(now - from, passed, o->perf);
	o->perf = perf;
	if (perf / PERF_STEP == c->perf / PERF_STEP)
		return 0;
	c->perf = perf;
	scx_bpf_cpuperf_set(cpu, perf);
	return 0;
}

#endif /* __UMCG_PERF_BPF_H */
