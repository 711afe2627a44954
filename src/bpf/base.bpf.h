/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * base: what every concern needs: knobs, per-CPU records, queue names, counters.
 *
 * Does:    declares; it decides nothing.
 * State:   knobs are rodata, so the verifier drops the code of other modes.
 * Never:   a lock, a loop.
 */
#ifndef __UMCG_BASE_BPF_H
#define __UMCG_BASE_BPF_H

#include <scx/common.bpf.h>
#include <scx/compat.bpf.h>
#include "intf.h"
#include "fault.bpf.h"

#ifndef READ_ONCE
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) ((*(volatile typeof(x) *)&(x)) = (v))
#endif

#define NSEC_PER_USEC 1000ULL
#define NSEC_PER_MSEC 1000000ULL
#define PF_USER_WORKER 0x00004000
#define __TASK_STOPPED 0x00000004
#define __TASK_TRACED 0x00000008
#define TASK_FROZEN 0x00008000
#define TASK_DEAD 0x00000080
#define SIGKILL 9
#define JOBCTL_URGENT 0x008a0000	/* stop pending, trap stop, trap freeze */
#define SCHED_BATCH 3
#define SCHED_IDLE 5

/*
 * Who orders workers. FAIR: weighted virtual time, kept by BPF. ARRIVAL: first
 * come, first served. OWN: the policy's own key in the record. BIRTH: who became a
 * worker first.
 */
enum umcg_order {
	UMCG_ORDER_FAIR,
	UMCG_ORDER_ARRIVAL,
	UMCG_ORDER_OWN,
	UMCG_ORDER_BIRTH,
};

const volatile bool umcg_staged;	/* a server picks every next worker */
const volatile u32 umcg_order;		/* enum umcg_order */
const volatile bool umcg_history;	/* the policy wants to hear of blocks */
const volatile u64 umcg_tick_ns;	/* a keyed policy's own period, 0 = none */
const volatile bool umcg_mixed;		/* groups have policies: these four, by CPU: */
const volatile u8 umcg_kinds[UMCG_MAX_CPUS];	/* enum umcg_kind_bits */
const volatile u64 umcg_ticks[UMCG_MAX_CPUS];
const volatile u32 umcg_nr_cpus = 1;	/* possible CPUs */
const volatile u64 umcg_timeout_ns = 10000 * NSEC_PER_MSEC;
const volatile bool umcg_tickless;	/* there are nohz_full CPUs: */
const volatile u64 umcg_nohz[UMCG_MAX_CPUS / 64];
const volatile u32 umcg_records = UMCG_MAX_WORKERS;	/* fewer in tests */
const volatile bool umcg_debug;		/* illegal edges end the scheduler */
const volatile u64 umcg_ahead_ns;	/* of words alone, in tests: see word_clock() */

enum umcg_kind_bits { KIND_STAGED = 1, KIND_HISTORY = 2, KIND_ORDER_SHIFT = 2 };

/* Names of the queues of enum umcg_queue. */
#define UMCG_Q(kind, cpu) (((u64)(kind) << 16) | (u32)(cpu))
#define PARK(cpu) UMCG_Q(UMCG_Q_PARK, cpu)
#define HAND(cpu) UMCG_Q(UMCG_Q_HAND, cpu)
#define SERVER(cpu) UMCG_Q(UMCG_Q_SERVER, cpu)
#define THROTTLE(group) UMCG_Q(UMCG_Q_THROTTLE, group)
#define KERNELQ(cpu) UMCG_Q(UMCG_Q_KERNEL, cpu)

struct umcg_cpu umcg_cpus[UMCG_MAX_CPUS] SEC(".bss.cpus");

struct umcg_sysgroups umcg_sysgroups SEC(".bss.sys");

/* The default slice, also of what belongs to no group. */
static __always_inline u64 base_slice(void)
{
	return READ_ONCE(umcg_sysgroups.sys[0].slice_ns);
}

/* umcg_cpu.hand: what dispatch knows of HAND without asking it; see take_hand(). */
enum umcg_hand {
	HAND_EMPTY,
	HAND_MAYBE,		/* somebody may wait there */
	HAND_TAKEN,		/* and the last pick was from there */
};

/* umcg_cpu.want: a short wakee waits: the tick ends */
enum umcg_want {
	WANT_NOBODY,
	WANT_HOG,		/* who has been quiet for HOG_NS */
	WANT_NOW,		/* or whoever runs */
};

/* What BPF alone keeps per CPU. */
struct umcg_own {
	u64 swept_ns;		/* relief last walked PARK */
	u64 oldest_ns;		/* the longest wait that it found */
	u64 quantum_left_ns;	/* when the timer looks here again; ~0 = no quantum */
	u64 perf_ns;		/* the last window of its utilisation ended */
	u64 perf_idle_ns;	/* idle_ns then */
	u32 perf;		/* utilisation, of SCX_CPUPERF_ONE */
	u32 limit_gen;		/* of the limits, when an endless slice was last ended */
	u64 pass;		/* rq clock of the pass of the scheduler for which */
	u64 pass_ns;		/* this is the time; see pass_now() */
	u64 stint_end_ns;	/* a member's stint here has to end then, 0 = none; */
	u64 stint;		/* which one, see gkick.bpf.h */
	u32 stint_idx;
	u64 shut_picked_ns;	/* picked_ns as the timer last saw it; see shut_sweep() */
	u64 shut_since_ns;	/* idle beside its own work, and nobody picked, since; 0 = not */
	u64 shut_until_ns;	/* it counts as one that cannot serve */
} __attribute__((aligned(64)));

struct umcg_own umcg_owns[UMCG_MAX_CPUS];

/*
 * Workers parked on any PARK. Raised before idle CPUs are looked for, lowered
 * when the worker leaves; see idle.bpf.h for why no CPU sleeps on work.
 */
u32 umcg_pending __attribute__((aligned(64)));

/* CPUs that cannot serve what waits there: offline, shut, or held by a higher class. */
u32 umcg_helpless;

UEI_DEFINE(uei);

/* Mask, do not compare: clang moves a comparison away from the access. */
static __always_inline struct umcg_cpu *cpu_rec(s32 cpu)
{
	u32 i = cpu;

	barrier_var(i);
	return &umcg_cpus[i & (UMCG_MAX_CPUS - 1)];
}

/*
 * The policy of @cpu's server. With one policy for all these are constants, and the
 * verifier drops the code of other modes as it does for all knobs.
 */
static __always_inline u32 kind_on(s32 cpu)
{
	u32 i = cpu;

	barrier_var(i);
	return umcg_kinds[i & (UMCG_MAX_CPUS - 1)];
}

static __always_inline bool staged_on(s32 cpu)
{
	return umcg_mixed ? kind_on(cpu) & KIND_STAGED : umcg_staged;
}

static __always_inline u32 order_on(s32 cpu)
{
	return umcg_mixed ? kind_on(cpu) >> KIND_ORDER_SHIFT : umcg_order;
}

static __always_inline bool history_on(s32 cpu)
{
	return umcg_mixed ? kind_on(cpu) & KIND_HISTORY : umcg_history;
}

static __always_inline u64 tick_on(s32 cpu)
{
	u32 i = cpu;

	if (!umcg_mixed)
		return umcg_tick_ns;
	barrier_var(i);
	return umcg_ticks[i & (UMCG_MAX_CPUS - 1)];
}

/* Somebody was put on HAND of @cpu, this one, to run here; the hint is for who cannot yet. */
static __always_inline bool hand_to_local(s32 cpu)
{
	if (scx_bpf_dsq_move_to_local(HAND(cpu), 0))
		return true;
	WRITE_ONCE(cpu_rec(cpu)->hand, HAND_MAYBE);	/* pairs with take_hand() */
	return false;
}

static __always_inline struct umcg_own *cpu_own(s32 cpu)
{
	u32 i = cpu;

	barrier_var(i);
	return &umcg_owns[i & (UMCG_MAX_CPUS - 1)];
}

static __always_inline struct umcg_cpu *this_cpu_rec(void)
{
	return cpu_rec(bpf_get_smp_processor_id());
}

/* Each CPU has its own cell and interrupts are off: plain adds. */
#define count(name) (this_cpu_rec()->cnt[UMCG_C_##name]++)
#define count_on(c, name) ((c)->cnt[UMCG_C_##name]++)
#define count_add(c, name, n) ((c)->cnt[UMCG_C_##name] += (n))

/* CLOCK_MONOTONIC, as the words promise; scx_bpf_now() is another clock. */
static __always_inline u64 umcg_now(void)
{
	return bpf_ktime_get_ns();
}

/*
 * The same in a callback of @p that @cpu runs, puts or has just picked. The kernel has
 * brought its exec_start to the rq clock by then, which stands still while it goes from
 * one task to the next: so quiescent, stopping, dispatch, enqueue and running of one
 * such pass read the clock once. Not for a task that is not current there: its
 * exec_start is that of a pass long ago.
 */
static __always_inline u64 pass_now(const struct task_struct *p, s32 cpu)
{
	struct umcg_own *own = cpu_own(cpu);
	u64 pass = p->se.exec_start;

	if (own->pass != pass) {
		own->pass = pass;
		own->pass_ns = umcg_now();
	}
	return own->pass_ns;
}

/*
 * Fetching atomics: an atomic whose result is unused becomes an instruction
 * without the ordering that the protocols need, so these always use it.
 */
#define umcg_cmpxchg(p, old, new) __sync_val_compare_and_swap(p, old, new)
#define umcg_xchg(p, v) __sync_lock_test_and_set(p, v)

/*
 * Kicks @cpu. Never from a CPU that goes offline: the interrupt would be lost,
 * and with it every later irq_work of that CPU, which waits behind this one.
 */
static __always_inline void kick(s32 cpu, u64 flags)
{
	if (!this_cpu_rec()->offline && !cpu_rec(cpu)->offline && !fault(KICK_LOST))
		scx_bpf_kick_cpu(cpu, flags);
}

static __always_inline bool is_nohz(s32 cpu)
{
	u32 i = cpu;

	if (!umcg_tickless)
		return false;
	barrier_var(i);
	i &= UMCG_MAX_CPUS - 1;
	return umcg_nohz[i / 64] >> (i % 64) & 1;
}

/* The worker there has a slice without end, so that the tick could stop. */
static __always_inline bool is_endless(const struct umcg_cpu *c)
{
	return umcg_tickless && c->granted_ns == SCX_SLICE_INF;
}

/* A wait that no order may bring, far below what the watchdog ejects for. */
static __always_inline u64 relief_budget(void)
{
	u64 budget = umcg_timeout_ns / 5;

	return budget < 2000 * NSEC_PER_MSEC ? budget : 2000 * NSEC_PER_MSEC;
}

static __always_inline bool key_before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

static __always_inline u64 clamp_key(u64 v, u64 lo, u64 hi)
{
	if (key_before(v, lo))
		return lo;
	return key_before(hi, v) ? hi : v;
}

#endif /* __UMCG_BASE_BPF_H */
