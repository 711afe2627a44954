/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * key: the order of workers that BPF keeps by itself.
 *
 * Does:    1. charge: weighted virtual time v by the CPU time really used;
 *          2. place: a waker's v stays within LAG of its CPU's clock;
 *          3. move: v goes from one CPU's clock to another's;
 *          4. key: v plus the agent's bias, the policy's own key, arrival, or birth;
 *          5. beaten: may this wakee preempt what runs there? And the nearest such CPU.
 * State:   umcg_task.v/avg/burst/quiet/exec, umcg_cpu.vnow and cur_*.
 * Called from: select_cpu (place, beaten), enqueue, dispatch, running, stopping,
 *          quiescent, tick.
 * Races:   cur_* are read by wakers without a lock: a wrong answer preempts or
 *          spares once, v decides the rest.
 *
 * Why one clock per CPU: with one for all, a pair that ping-pongs beside a hog
 * on a contended CPU is clamped up to a clock that a free CPU drives, and
 * starves. Why "quiet" (CPU time since it slept or woke somebody) and not the
 * time since it was picked: that restarts at each pick, so a short wakee behind
 * a resumed hog would wait a whole slice. docs/design.md#fair has the figures.
 */
#ifndef __UMCG_KEY_BPF_H
#define __UMCG_KEY_BPF_H

#include "cgroup.bpf.h"
#include "context.bpf.h"
#include "sysgroup.bpf.h"

#define LAG_NS (5 * NSEC_PER_MSEC)	/* what a sleeper may bank; CPU time it may owe */
#define OWE_NS (500 * NSEC_PER_MSEC)	/* the latter in virtual time: LAG of nice 19 */
#define HOG_NS (2 * NSEC_PER_MSEC)	/* quiet for so long: may be preempted */
#define SHORT_NS (4 * NSEC_PER_MSEC)	/* bursts up to here may preempt */
#define SYNC_NS (500 * NSEC_PER_USEC)	/* wakers with such bursts hand over */
#define SHORT_RATIO 4
#define SPARED_MOST_NS (2 * LAG_NS)
#define LIGHT_NS NSEC_PER_MSEC	/* spared so much: no part of what keeps the CPU busy */
#define LIGHT_TIMES 4	/* using a fifth of what others get, it is spared nothing */
#define BEATEN_TRIES 8

static __always_inline u32 sat_add32(u32 a, u64 b)
{
	u64 sum = (u64)a + b;

	return sum > 0xffffffffULL ? 0xffffffffU : (u32)sum;
}

/* Terms count only if the agent wrote them for this very task. */
static __always_inline bool terms_valid(const struct umcg_worker *w)
{
	return READ_ONCE(w->told_gen) == w->gen;
}

#define WEIGHT_MAX 1000000		/* times WEIGHT_ONE it fits into 32 bits */

/* In units of 1 / WEIGHT_ONE: by nice, by the agent's terms, its group's share, the cgroup. */
static __always_inline u32 weight_inside(const struct task_struct *p,
					 const struct umcg_task *t,
					 const struct umcg_worker *w)
{
	u64 weight = p->scx.weight;
	u32 pct = terms_valid(w) ? READ_ONCE(w->weight_pct) : 0;

	if (pct && pct != 100)
		weight = weight * (pct > 10000 ? 10000 : pct) / 100;
	if (t->share) {
		weight = weight * t->share / 100;
		if (weight > WEIGHT_MAX)
			weight = WEIGHT_MAX;
	}
	weight = (weight ? weight : 1) * WEIGHT_ONE;
	return t->cgroup ? cgroup_scale(t, weight) : weight;
}

/* The same by the share of its system group as well: against all others on its CPU. */
static __always_inline u32 worker_weight(const struct task_struct *p,
					 const struct umcg_task *t,
					 const struct umcg_worker *w)
{
	u32 weight = weight_inside(p, t, w);

	return sys_on() ? sys_scale(t, weight) : weight;
}

/* @t is runnable: its group competes with its weight. */
static __always_inline void sys_enter(const struct task_struct *p, struct umcg_task *t,
				      const struct umcg_worker *w)
{
	if (sys_on())
		sys_count(t, weight_inside(p, t, w));
}

/* What readers and wakers see: the weight that is used from now on. */
static __always_inline void weight_show(struct umcg_worker *w, struct umcg_cpu *c,
					u32 weight)
{
	w->weight = weight > WEIGHT_ONE ? weight / WEIGHT_ONE : 1;
	c->cur_weight = weight;
}

/* CPU time in virtual time: a worker of nice 0 in the root needs as much. */
static __always_inline u64 weighted(u64 ns, u32 weight)
{
	if (weight == 100 * WEIGHT_ONE || !weight)
		return ns;
	return ns * (100 * WEIGHT_ONE) / weight;
}

static __always_inline u64 worker_slice(const struct umcg_worker *w)
{
	u32 us = terms_valid(w) ? READ_ONCE(w->slice_us) : 0;

	if (!us)
		return sys_slice(w);
	if (us < 100 || us > 100000) {
		count(bad_hint);
		return sys_slice(w);
	}
	return us * NSEC_PER_USEC;
}

/*
 * For a worker that nobody waits behind. Where the tick can be stopped, a slice
 * without end: the kernel stops it for no other. The timer looks there instead,
 * see endless_sweep(); below a limit running_limited() gives it an end. Dispatch gives no such slice a new length, since the
 * kernel looks at it only when a task is put on the CPU.
 */
static __always_inline u64 lone_slice(const struct umcg_worker *w, s32 cpu)
{
	return is_nohz(cpu) ? SCX_SLICE_INF : worker_slice(w);
}

static __always_inline u64 bias_of(const struct umcg_worker *w)
{
	s64 bias = terms_valid(w) ? READ_ONCE(w->bias_ns) : 0;

	if (bias > (s64)LAG_NS)
		bias = LAG_NS;
	if (bias < -(s64)LAG_NS)
		bias = -(s64)LAG_NS;
	return bias;
}

/* CPU time that was used but not charged yet. */
static __always_inline u64 uncharged(const struct task_struct *p,
				     const struct umcg_task *t)
{
	s64 d = p->se.sum_exec_runtime - t->exec;

	return d > 0 ? d : 0;
}

/*
 * LAG of CPU time: a worker with a tenth of a share owes ten times as much after
 * the same stint, and would shed that by sleeping for an instant.
 */
static __always_inline void may_owe(struct umcg_task *t, u32 weight)
{
	u64 owe;

	t->owe_ns = 0;
	if (weight >= 100 * WEIGHT_ONE)
		return;
	owe = weighted(LAG_NS, weight);
	t->owe_ns = (owe < OWE_NS ? owe : OWE_NS) - LAG_NS;
}

/* Its turn costs it what it was spared, and more: see LIGHT_TIMES. */
static __always_inline void spend(struct umcg_task *t, u64 v)
{
	if (t->spared_ns)
		t->spared_ns -= v * LIGHT_TIMES < t->spared_ns ?
			v * LIGHT_TIMES : t->spared_ns;
}

static __always_inline void charge(const struct task_struct *p,
				   struct umcg_task *t, struct umcg_worker *w,
				   struct umcg_cpu *c)
{
	u64 used = uncharged(p, t), owed;
	u32 weight = weight_inside(p, t, w);

	if (sys_on()) {
		sys_count(t, weight);	/* one that ran when groups began is counted from here on */
		sys_use(t)->run_ns += used;
		weight = sys_scale(t, weight);
	}

	t->exec = p->se.sum_exec_runtime;
	owed = weighted(used, weight);
	t->v += owed;
	/* It was alone, and neither an edge nor an end of a slice had the clock go on. */
	if (is_endless(c) && key_before(c->vnow + LAG_NS, t->v))
		t->v = c->vnow + LAG_NS;
	spend(t, owed);
	may_owe(t, weight);
	t->burst_ns = sat_add32(t->burst_ns, used);
	w->run_ns += used;
	w->burst_ns = t->burst_ns;
	c->wk_ns += used;
	count_add(c, busy_ns, used);
}

/* A burst is over: fold it into the average. */
static __always_inline void burst_end(struct umcg_task *t, struct umcg_worker *w)
{
	t->avg_ns = (3ULL * t->avg_ns + t->burst_ns) / 4;
	t->burst_ns = 0;
	t->quiet_ns = 0;
	w->avg_ns = t->avg_ns;
	w->burst_ns = 0;
}

static __always_inline u64 v_on(const struct umcg_task *t, s32 cpu)
{
	if (t->clock_cpu == cpu)
		return t->v;
	return t->v + cpu_rec(cpu)->vnow - cpu_rec(t->clock_cpu)->vnow;
}

static __always_inline void clock_move(struct umcg_task *t, s32 cpu)
{
	t->v = v_on(t, cpu);
	t->clock_cpu = cpu;
}

static __always_inline void want_raise(struct umcg_cpu *c, u32 want)
{
	if (c->want < want)
		c->want = want;
}

static __always_inline void place(struct umcg_task *t, s32 cpu)
{
	u64 vnow = cpu_rec(cpu)->vnow, least = vnow - LAG_NS;

	clock_move(t, cpu);
	if (key_before(t->v, least)) {
		t->spared_ns = sat_add32(t->spared_ns, least - t->v);
		if (t->spared_ns > SPARED_MOST_NS)
			t->spared_ns = SPARED_MOST_NS;
		t->v = least;
	} else if (key_before(vnow + LAG_NS + t->owe_ns, t->v)) {
		t->v = vnow + LAG_NS + t->owe_ns;
	}
}

/* On the CPU whose clock @t has. */
static __always_inline u64 key_of(const struct umcg_task *t,
				  const struct umcg_worker *w, u64 v, u64 now)
{
	switch (order_on(t->clock_cpu)) {
	case UMCG_ORDER_OWN:
		/* Without terms first: parked last, it would starve unheard. */
		return terms_valid(w) ? READ_ONCE(w->own_key) : 0;
	case UMCG_ORDER_ARRIVAL:
		return now;
	case UMCG_ORDER_BIRTH:
		return w->born_ns;
	default:
		return v + bias_of(w);
	}
}

/* The key that the running @p has by now. */
static __always_inline u64 key_now(const struct task_struct *p,
				   const struct umcg_task *t,
				   const struct umcg_worker *w, u32 weight,
				   u64 now)
{
	return key_of(t, w, t->v + weighted(uncharged(p, t), weight), now);
}

static __always_inline u64 quiet_now(const struct umcg_cpu *c, u64 now)
{
	u64 start = c->cur_start_ns, wake = c->last_wake_ns;

	if (wake > start)
		return now - wake;
	return c->cur_quiet_ns + (now - start);
}

/*
 * @t, which this code wakes, is light, and what wakes it comes from outside, by an interrupt:
 * who is woken by a thread is a part of what keeps the CPU busy, however little it uses.
 */
static __always_inline bool is_light(const struct umcg_task *t)
{
	return t->spared_ns >= LIGHT_NS && !in_task();
}

/*
 * May @t preempt who runs on @cpu? SCHED_IDLE gives way to all but its own class, and
 * SCHED_BATCH beats nobody else. A normal one also beats a hog that is behind it in
 * virtual time.
 */
static __always_inline bool beaten(const struct umcg_task *t,
				   const struct umcg_worker *w, s32 cpu, u64 now)
{
	struct umcg_cpu *c = cpu_rec(cpu);
	u32 cur_avg;
	u64 cur_v;

	if (!c->cur_idx || c->preempting)
		return false;
	if (c->cur_class == UMCG_CLASS_IDLE && w->class_ != UMCG_CLASS_IDLE)
		return true;
	if (w->class_ != UMCG_CLASS_NORMAL)
		return false;
	if (t->avg_ns > SHORT_NS)
		return false;
	if (quiet_now(c, now) < HOG_NS && !is_light(t))
		return false;
	cur_avg = c->cur_avg_ns > c->cur_burst_ns ? c->cur_avg_ns : c->cur_burst_ns;
	cur_avg = sat_add32(cur_avg, now - c->cur_start_ns);
	if (cur_avg < SHORT_RATIO * t->avg_ns)
		return false;
	cur_v = c->cur_v + weighted(now - c->cur_start_ns, c->cur_weight);
	return key_before(v_on(t, cpu) + bias_of(w), cur_v);
}

static __always_inline s32 find_beaten(struct task_struct *p, struct umcg_task *t,
				       struct umcg_worker *w, s32 prev_cpu, u64 now)
{
	bool narrow = sys_narrow(t);
	s32 cpu;
	int i;

	if (sys_quiet(t))
		return -1;
	bpf_for(i, 0, BEATEN_TRIES) {
		if (i >= umcg_nr_cpus)
			break;
		cpu = i ? near_cpu(prev_cpu, i - 1) : prev_cpu;
		if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr) &&
		    !(narrow && !sys_has(t->sys, cpu)) && beaten(t, w, cpu, now))
			return cpu;
	}
	return -1;
}

#endif /* __UMCG_KEY_BPF_H */
