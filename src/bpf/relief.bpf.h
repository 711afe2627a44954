/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * relief: the timer: nothing waits for ever, whatever the policy does.
 *
 * Does:    one timer for all; for each CPU: 1. an idle CPU beside parked work, or with
 *             members due, is kicked;
 *          2. a server that parked for PARK_MAX runs once, to sleep for real;
 *          3. the quantum: a forced preemption of who ran longer; a crowd
 *             shortens it, so that all have their turn before the watchdog acts;
 *             a slice without end is ended when somebody waits behind it;
 *             the utilisation of CPUs without a tick;
 *          4. now and then, all workers of PARK: who waited for longer than the
 *             budget, or is to stop, freeze or die, is moved to HAND and counted
 *             as rescued, the oldest first;
 *          5. a CPU that goes offline and has not been told so yet is found;
 *          6. cgroups: samples, and who waits for cpu.max; see cgroup.bpf.h and
 *             release.bpf.h.
 * State:   umcg_timer; umcg_server.must; HAND queues.
 * Called from: its own bpf_timer (softirq), armed in ops.init and by itself; and
 *          once by the agent, from the CPU where it is to stay.
 * Races:   a worker that runs meanwhile is not on PARK any more: the move fails.
 * Never:   moves to a local queue; runs fast on an idle machine.
 * Counters: rescued, idle_found.
 *
 * The budget is a fifth of the watchdog's timeout, 2 s at most: far above any
 * wait that the fair order brings, far below the ejection. Why all of PARK: who
 * was rescued gets the largest key, so a look at the last hundred would find the
 * same ones again and again, and a user who starts more of nice 19 than that
 * could have us ejected.
 */
#ifndef __UMCG_RELIEF_BPF_H
#define __UMCG_RELIEF_BPF_H

#include "edges.bpf.h"
#include "gsweep.bpf.h"
#include "release.bpf.h"

#define PERIOD_BUSY_NS (4 * NSEC_PER_MSEC)
#define PERIOD_IDLE_NS (100 * NSEC_PER_MSEC)
#define RELIEF_EVERY_NS (100 * NSEC_PER_MSEC)
#define RELIEF_PER_SWEEP 1024	/* longer queues are walked less often */
#define RELIEF_MOVE 32		/* on HAND at once: half a sweep of work and more */
#define CROWD_MIN_NS (200 * NSEC_PER_USEC)
#define SHUT_NS (20 * NSEC_PER_MSEC)	/* kicked each 4 ms, a sound CPU picks at once */
#define SHUT_FOR_NS (200 * NSEC_PER_MSEC)

struct umcg_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct umcg_timer);
} umcg_timers SEC(".maps");

u32 umcg_timer_cpu;	/* where the callback last ran */

/*
 * Who waits for more than the budget and for more than 3/4 of the longest wait
 * of the last walk: so all get their turn, in about the order of their arrival.
 */
__weak int relief_sweep(s32 cpu, u64 now)
{
	struct umcg_own *o = cpu_own(cpu);
	u64 every = RELIEF_EVERY_NS, late, oldest = now;
	u32 waiting = scx_bpf_dsq_nr_queued(PARK(cpu));
	int room = RELIEF_MOVE - scx_bpf_dsq_nr_queued(HAND(cpu)), moved = 0;
	struct task_struct *p;

	every *= 1 + waiting / RELIEF_PER_SWEEP;
	if (!waiting || now - o->swept_ns < every)
		return 0;
	o->swept_ns = now;
	late = o->oldest_ns * 3 / 4;
	late = now - (late > relief_budget() ? late : relief_budget());

	bpf_rcu_read_lock();	/* as in server_send() */
	bpf_for_each(scx_dsq, p, PARK(cpu), 0) {
		struct umcg_task *t;
		u64 parked;

		/* Unknown to the verifier, or it walks each count apart. */
		__sink(room);
		__sink(moved);
		__sink(oldest);
		t = task_ctx(p);
		parked = t ? t->waits_ns : 0;
		if (!parked)
			continue;
		if (parked < oldest)
			oldest = parked;
		if ((parked > late && !is_urgent(p)) || moved >= room ||
		    !scx_bpf_dsq_move___new(BPF_FOR_EACH_ITER, p, HAND(cpu), 0))
			continue;
		t->rescued = 1;
		moved++;
	}
	bpf_rcu_read_unlock();
	o->oldest_ns = now - oldest;
	if (moved <= 0)
		return 0;
	WRITE_ONCE(cpu_rec(cpu)->hand, HAND_MAYBE);	/* pairs with take_hand() */
	count_add(this_cpu_rec(), rescued, moved);
	kick(cpu, SCX_KICK_IDLE);
	return 0;
}

__weak int server_sweep(s32 cpu, u64 now)
{
	struct umcg_server *s = server_rec(cpu);

	if (!s)
		return 0;
	if (READ_ONCE(s->parked) && now > s->parked_ns + PARK_MAX_NS) {
		WRITE_ONCE(s->must, 1);
		kick(cpu, SCX_KICK_IDLE);
	}
	if (READ_ONCE(s->asleep) && (READ_ONCE(s->must) ||
	    READ_ONCE(s->unread) >= BATCH_NOTICES))
		server_wake(s, cpu);
	if (!READ_ONCE(s->must))
		return 0;
	server_send(cpu);
	if (cpu_rec(cpu)->idle_since_ns)
		kick(cpu, SCX_KICK_IDLE);
	return 0;
}

/*
 * What a worker may run while others wait here: the quantum, but no more than
 * lets all that wait have a turn within a quarter of the watchdog's timeout.
 * Slices end at ticks: 700 hogs on a CPU are enough for 4 ms to be too long.
 */
static __always_inline u64 quantum_of(const struct umcg_worker *w, s32 cpu)
{
	u64 quantum = sys_quantum(w) ?: ~0ULL, crowd;
	u32 waiting = scx_bpf_dsq_nr_queued(PARK(cpu)) +
		      scx_bpf_dsq_nr_queued(HAND(cpu));

	if (!waiting)
		return ~0ULL;
	crowd = umcg_timeout_ns / 4 / (waiting + 1);
	if (crowd >= worker_slice(w))
		return quantum;
	if (crowd < CROWD_MIN_NS)
		crowd = CROWD_MIN_NS;
	return crowd < quantum ? crowd : quantum;
}

/*
 * The timer comes at the end of the quantum, not each quantum: the next worker is picked
 * after the sweep that made room for it, so a period from that on ends just before it. An
 * eighth is how late it may be, or each of many CPUs had the timer for an end of its own.
 */
__weak int quantum_sweep(s32 cpu, u64 now)
{
	struct umcg_cpu *c = cpu_rec(cpu);
	u32 idx = c->cur_idx;
	struct umcg_worker *w = idx ? worker_rec(idx) : NULL;
	u64 quantum = w ? quantum_of(w, cpu) : ~0ULL, left = quantum, end;

	if (w && quantum != ~0ULL) {
		end = c->picked_ns + quantum;
		if (now + STINT_SLACK_NS >= end)
			request_preempt(w, idx, cpu);
		else
			left = end - now > quantum / 8 ? end - now : quantum / 8;
	}
	cpu_own(cpu)->quantum_left_ns = left;
	return 0;
}

/*
 * Somebody waits behind a worker whose slice no tick will end, or a limit came
 * after the slice: see running_limited().
 */
__weak int endless_sweep(s32 cpu)
{
	struct umcg_cpu *c = cpu_rec(cpu);
	u32 gen = READ_ONCE(umcg_limit_gen);
	struct umcg_server *s;

	if (!is_endless(c) || !c->cur_idx)
		return 0;
	if (umcg_limits && cpu_own(cpu)->limit_gen != gen) {
		cpu_own(cpu)->limit_gen = gen;
		kick(cpu, SCX_KICK_PREEMPT);
		return 0;
	}
	s = server_rec(cpu);
	if (scx_bpf_dsq_nr_queued(PARK(cpu)) || scx_bpf_dsq_nr_queued(HAND(cpu)) ||
	    scx_bpf_dsq_nr_queued(KERNELQ(cpu)) || (s && READ_ONCE(s->must)))
		kick(cpu, SCX_KICK_PREEMPT);
	return 0;
}

static __always_inline bool work_waits(struct umcg_cpu *c, s32 cpu)
{
	return is_due(c) || scx_bpf_dsq_nr_queued(PARK(cpu)) ||
	       scx_bpf_dsq_nr_queued(HAND(cpu)) || scx_bpf_dsq_nr_queued(SERVER(cpu)) ||
	       scx_bpf_dsq_nr_queued(KERNELQ(cpu));
}

/*
 * Of @queue, to the local queue of @cpu where they are already: what may run nowhere else,
 * or inside RCU, runs to where the kernel pushes it off. Before 7.x no dispatch does.
 */
__weak int shut_release(u64 queue, s32 cpu)
{
	struct task_struct *p;
	int moved = 0;

	bpf_rcu_read_lock();	/* as in server_send() */
	bpf_for_each(scx_dsq, p, queue, 0) {
		__sink(moved);
		if (scx_bpf_task_cpu(p) == cpu &&
		    scx_bpf_dsq_move___new(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL_ON | cpu, 0))
			moved++;
	}
	bpf_rcu_read_unlock();
	return moved;
}

/*
 * The kernel makes a CPU that goes offline inactive, waits for RCU, and only then tells
 * us. In between the CPU may run nobody of ours: on 6.x it is not asked, on 7.x what it
 * draws to its queues is refused. And RCU may wait for one of those that wait there. Such
 * a CPU is idle beside its own work, whatever it is kicked for, and picks nobody.
 */
static __always_inline void shut_sweep(struct umcg_cpu *c, s32 cpu, u64 now)
{
	struct umcg_own *o = cpu_own(cpu);

	if (o->shut_picked_ns != c->picked_ns) {
		o->shut_picked_ns = c->picked_ns;
		o->shut_since_ns = 0;
		WRITE_ONCE(o->shut_until_ns, 0);
		return;
	}
	if (!c->idle_since_ns || !work_waits(c, cpu)) {
		o->shut_since_ns = 0;
		return;
	}
	if (!o->shut_since_ns)
		o->shut_since_ns = now;
	if (now <= o->shut_since_ns + SHUT_NS)
		return;
	WRITE_ONCE(o->shut_until_ns, now + SHUT_FOR_NS);
	shut_release(HAND(cpu), cpu);
	shut_release(PARK(cpu), cpu);
	shut_release(KERNELQ(cpu), cpu);
	kick(cpu, SCX_KICK_IDLE);
}

/* What waits at a CPU that cannot serve it is for the others. */
static __always_inline bool is_helpless(struct umcg_cpu *c, s32 cpu, u64 now)
{
	return cpu_stranded(cpu, now) && work_waits(c, cpu);
}

#define SWEEP_BUSY 1		/* keeps the timer fast */
#define SWEEP_HELPLESS 2

/*
 * As its steps a global function, which the verifier walks once: not for each CPU, nor
 * for each way through the step before.
 */
__weak int sweep_cpu(s32 cpu, u64 now)
{
	struct umcg_cpu *c = cpu_rec(cpu);

	server_sweep(cpu, now);
	quantum_sweep(cpu, now);
	endless_sweep(cpu);
	if (sys_on() && c->cur_idx && !c->cur_free)
		sys_cpu_sweep(c, cpu);
	relief_sweep(cpu, now);
	perf_update(cpu, now, PERF_TIMER_NS);
	shut_sweep(c, cpu, now);
	if (is_helpless(c, cpu, now))
		return SWEEP_BUSY | SWEEP_HELPLESS;
	if (!c->idle_since_ns)
		return cpu_stranded(cpu, now) ? 0 : SWEEP_BUSY;
	c->idle_tries = 0;
	if (pending_any() || is_due(c) || READ_ONCE(umcg_helpless)) {
		count(idle_found);
		kick(cpu, SCX_KICK_IDLE);
	}
	return 0;
}

static int relief_timer(void *map, int *key, struct umcg_timer *tm)
{
	u64 now = fault_time(umcg_now()), period = PERIOD_IDLE_NS, left;
	u32 helpless = 0;
	int cpu, found;

	if (fault(TIMER_LATE)) {
		bpf_timer_start(&tm->timer, PERIOD_BUSY_NS, 0);
		return 0;
	}
	WRITE_ONCE(umcg_timer_cpu, bpf_get_smp_processor_id());
	bpf_for(cpu, 0, umcg_nr_cpus) {
		found = sweep_cpu(cpu, now);
		if (found & SWEEP_HELPLESS)
			helpless = 1;
		if (!(found & SWEEP_BUSY))
			continue;
		left = cpu_own(cpu)->quantum_left_ns;
		if (left > PERIOD_BUSY_NS)
			left = PERIOD_BUSY_NS;
		if (left < period)
			period = left;
	}
	WRITE_ONCE(umcg_helpless, helpless);
	if (READ_ONCE(umcg_stint_at) && READ_ONCE(umcg_stint_at) + PERIOD_BUSY_NS < now)
		stints_look(now);
	if (umcg_nr_cgroups)
		cgroups_sweep();
	if (sys_on())
		sys_sweep();
	if (umcg_limited && limits_sweep(now) && period > PERIOD_BUSY_NS)
		period = PERIOD_BUSY_NS;
	if (umcg_nr_groups && groups_sweep(now) && period > PERIOD_BUSY_NS)
		period = PERIOD_BUSY_NS;
	bpf_timer_start(&tm->timer, period, 0);
	return 0;
}

static __always_inline int relief_init(void)
{
	u32 key = 0;
	struct umcg_timer *tm = bpf_map_lookup_elem(&umcg_timers, &key);

	if (!tm)
		return -ENOENT;
	bpf_timer_init(&tm->timer, &umcg_timers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&tm->timer, relief_timer);
	return bpf_timer_start(&tm->timer, PERIOD_BUSY_NS, 0);
}

/*
 * A timer that is armed from its own callback stays on its CPU, and the first one
 * was armed wherever ops.init ran. The agent calls this from a housekeeping CPU
 * when there are nohz_full ones, until it answers that the last callback ran on
 * none of them; -EBUSY before.
 */
SEC("syscall")
int umcg_move_timer(struct umcg_call *call)
{
	u32 key = 0;
	struct umcg_timer *tm = bpf_map_lookup_elem(&umcg_timers, &key);

	call->ret = 0;
	if (!tm || !is_nohz(READ_ONCE(umcg_timer_cpu)))
		return 0;
	call->ret = bpf_timer_start(&tm->timer, PERIOD_BUSY_NS, 0) ?: -EBUSY;
	return 0;
}

#endif /* __UMCG_RELIEF_BPF_H */
