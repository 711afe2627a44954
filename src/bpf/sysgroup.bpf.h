/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * sysgroup: system groups: which CPUs, terms and share a worker has by its group.
 *
 * Does:    1. ask: a new program, name or cgroup may mean another group: the agent's
 *             matching thread has to look. A child is in its parent's group;
 *          2. refresh: what the agent answered comes into force at the worker's next
 *             wake-up, enqueue or dispatch; the timer ends a stint on a wrong CPU;
 *          3. allows, home, idle_cpu: the CPUs of a group, nearest first. All CPUs,
 *             where the worker's affinity leaves none of them, and where none of
 *             them is online;
 *          4. share: a group is like a cgroup above all cgroups: it holds the weight
 *             of its runnable workers, the timer keeps averages of that, and the
 *             weight of each one is scaled by share / weight that competes inside.
 * State:   umcg_sysgroups (agent), umcg_sys_at, umcg_sys_online, umcg_sys_loads,
 *          umcg_task.sys*, umcg_worker.ask, sys_now.
 * Called from: wake, park, dispatch, edges, timer; tracepoints of a process's life.
 * Races:   a new table is read field by field: a pick may see an old slice beside a
 *          new quantum once. recount writes one word per CPU; a worker that was
 *          placed by an old one is looked at again when it runs or waits next.
 *          ask against answer: the agent reads `ask` before it looks, so what
 *          changes meanwhile is asked for anew.
 * Never:   keeps a worker from a CPU when no other may have it: a stranded CPU's
 *          workers are taken by whoever comes, whatever their groups.
 * Counters: server_wake_fail, for the agent's matching thread.
 */
#ifndef __UMCG_SYSGROUP_BPF_H
#define __UMCG_SYSGROUP_BPF_H

#include "cgroup.bpf.h"
#include "near.bpf.h"

#define SYS_MASK (UMCG_MAX_SYS - 1)
#define SYS_ANY UMCG_MAX_SYS		/* no group: all CPUs */
#define SYS_ALL ((1U << UMCG_MAX_SYS) - 1)
#define SYS_WORDS (UMCG_MAX_CPUS / 64)
#define SYS_LOOK 64			/* waiters that a CPU of another group looks at */

struct umcg_sys_cpu umcg_sys_cpus[UMCG_MAX_CPUS] SEC(".bss.syscpu");

struct umcg_cpumask {
	u64 bits[SYS_WORDS];
};

u32 umcg_sys_at[UMCG_MAX_CPUS];		/* by CPU: a bit for each group that it serves */
u32 umcg_sys_narrow;			/* a bit for each group that some online CPU does not */
u32 umcg_sys_gen = 1;			/* moves when one of these does; 0 is none */
struct umcg_cpumask umcg_sys_online[UMCG_MAX_SYS];	/* CPUs of a group that are there */
struct umcg_cgroup umcg_sys_loads[UMCG_MAX_SYS];	/* the groups as cgroups.bpf.h sees them */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} umcg_ask_bell SEC(".maps");

static __always_inline bool sys_on(void)
{
	return READ_ONCE(umcg_sysgroups.on);
}

static __always_inline struct umcg_sys *sys_rec(u32 sys)
{
	barrier_var(sys);
	return &umcg_sysgroups.sys[sys & SYS_MASK];
}

static __always_inline struct umcg_cgroup *sys_load(u32 sys)
{
	barrier_var(sys);
	return &umcg_sys_loads[sys & SYS_MASK];
}

static __always_inline u64 sys_slice(const struct umcg_worker *w)
{
	u64 slice = sys_on() ? READ_ONCE(sys_rec(w->sys_now)->slice_ns) : 0;

	return slice ?: base_slice();
}

static __always_inline u64 sys_quantum(const struct umcg_worker *w)
{
	return READ_ONCE(sys_rec(sys_on() ? w->sys_now : 0)->quantum_ns);
}

/* May @t preempt nobody when it wakes up? */
static __always_inline bool sys_quiet(const struct umcg_task *t)
{
	return sys_on() && READ_ONCE(sys_rec(t->sys)->quiet);
}

/* What its group has of this CPU; interrupts are off. */
static __always_inline struct umcg_sys_use *sys_use(const struct umcg_task *t)
{
	u32 cpu = bpf_get_smp_processor_id(), sys = t->sys;

	barrier_var(cpu);
	barrier_var(sys);
	return &umcg_sys_cpus[cpu & (UMCG_MAX_CPUS - 1)].use[sys & SYS_MASK];
}

static __always_inline void sys_ran(const struct umcg_task *t, u64 waited)
{
	struct umcg_sys_use *use = sys_use(t);

	use->wait_ns += waited;
	use->switches++;
}

/* Groups that @cpu serves. */
static __always_inline u32 sys_at(s32 cpu)
{
	u32 i = cpu;

	barrier_var(i);
	return READ_ONCE(umcg_sys_at[i & (UMCG_MAX_CPUS - 1)]);
}

/* Does @cpu serve group @sys? */
static __always_inline bool sys_has(u32 sys, s32 cpu)
{
	return !sys_on() || sys == SYS_ANY || (sys_at(cpu) >> (sys & SYS_MASK) & 1);
}

/* May @t be on @cpu, as far as its group is asked? */
static __always_inline bool sys_allows(const struct umcg_task *t, s32 cpu)
{
	return !sys_on() || t->sys_free || sys_has(t->sys, cpu);
}

/* Some CPU that is there is not for @t. */
static __always_inline bool sys_narrow(const struct umcg_task *t)
{
	return sys_on() && !t->sys_free &&
	       (READ_ONCE(umcg_sys_narrow) >> (t->sys & SYS_MASK) & 1);
}

/* Does the affinity of @p leave a CPU of group @sys? */
__weak int sys_meets(struct task_struct *p __arg_trusted, u32 sys)
{
	struct umcg_cpumask *group = &umcg_sys_online[sys & SYS_MASK], mask = {};
	int i;

	if (bpf_probe_read_kernel(&mask, sizeof(mask), p->cpus_ptr))
		return 1;
	bpf_for(i, 0, SYS_WORDS)
		if (mask.bits[i & (SYS_WORDS - 1)] & group->bits[i & (SYS_WORDS - 1)])
			return 1;
	return 0;
}

/* Adds @weight to the load of its group, in place of what it added before. */
static __always_inline void sys_count(struct umcg_task *t, u32 weight)
{
	u64 more = (u64)weight - t->sys_counted;

	if (!more)
		return;
	__sync_fetch_and_add(&sys_load(t->sys)->load, more);
	t->sys_counted = weight;
}

static __always_inline void sys_leave(struct umcg_task *t)
{
	if (t->sys_counted)
		sys_count(t, 0);
}

static __always_inline u32 sys_scale(const struct umcg_task *t, u64 weight)
{
	u64 factor = READ_ONCE(sys_load(t->sys)->factor);

	if (factor)
		weight = weight * factor / FACTOR_ONE;
	if (weight > 10000 * WEIGHT_ONE)
		return 10000 * WEIGHT_ONE;
	return weight > WEIGHT_ONE / 100 ? weight : WEIGHT_ONE / 100;
}

/* The group that the agent found for @w, or @now if it has not looked yet. */
static __always_inline u32 sys_told(const struct umcg_worker *w, u32 now)
{
	return READ_ONCE(w->sys_gen) == w->gen ? READ_ONCE(w->sys) & SYS_MASK : now;
}

static __always_inline void sys_refresh(struct task_struct *p, struct umcg_task *t,
					struct umcg_worker *w)
{
	u32 sys = sys_told(w, t->sys), gen = READ_ONCE(umcg_sys_gen), counted;

	if (sys == t->sys && gen == t->sys_seen)
		return;
	if (sys != t->sys) {
		counted = t->sys_counted;
		sys_leave(t);
		t->sys = sys;
		if (umcg_mixed)
			WRITE_ONCE(w->told_gen, 0);	/* another policy's terms */
		if (counted)
			sys_count(t, counted);
	}
	WRITE_ONCE(w->sys_now, sys);
	t->sys_seen = gen;
	t->sys_free = (READ_ONCE(umcg_sys_narrow) >> sys & 1) && !sys_meets(p, sys);
}

/*
 * @p may not leave its CPU now. The kernel's way into BPF may hold the running task
 * there once itself; with that counted none would ever leave in its own dispatch.
 */
static __always_inline bool is_held(const struct task_struct *p)
{
	u32 own = __scx_prolog_disables_migration &&
		  (const void *)bpf_get_current_task_btf() == p;

	return p->migration_disabled > own;
}

/* A CPU of group @sys for @p, from the nearest of @cpu on; @idle: one that is idle. */
static __always_inline s32 sys_find(const struct task_struct *p, u32 sys, s32 cpu, u32 idle)
{
	/* The near ones, and on larger machines then all, by number. */
	u32 near = umcg_nr_cpus > UMCG_NEAR ? UMCG_NEAR * 3 / 4 : umcg_nr_cpus - 1;
	u32 all = umcg_nr_cpus > UMCG_NEAR ? near + umcg_nr_cpus - 1 : near, i;
	s32 other;

	bpf_for(i, 0, all) {
		other = i < near ? near_cpu(cpu, i) : cpu + 1 + (s32)(i - near);
		if (other >= umcg_nr_cpus)
			other -= umcg_nr_cpus;
		if (!sys_has(sys, other) || cpu_rec(other)->offline ||
		    !bpf_cpumask_test_cpu(other, p->cpus_ptr))
			continue;
		if (!idle || scx_bpf_test_and_clear_cpu_idle(other))
			return other;
	}
	return -1;
}

/* The same, which the verifier walks once for all that have @p by an argument of theirs. */
__weak s32 sys_search(struct task_struct *p __arg_trusted, u32 sys, s32 cpu, u32 idle)
{
	return sys_find(p, sys, cpu, idle);
}

/* An idle CPU of its group, taken; -1: there is none. */
static __always_inline s32 sys_idle_cpu(struct task_struct *p, const struct umcg_task *t,
					s32 cpu)
{
	if (sys_allows(t, cpu) && bpf_cpumask_test_cpu(cpu, p->cpus_ptr) &&
	    scx_bpf_test_and_clear_cpu_idle(cpu))
		return cpu;
	if (is_held(p) || p->nr_cpus_allowed == 1)
		return -1;
	return sys_search(p, t->sys, cpu, 1);
}

/*
 * @cpu, or where @p has to be instead for its group, by what the agent says now. Global:
 * the verifier walks it once, not in each of the three ops that ask.
 */
__weak s32 sys_home(struct task_struct *p __arg_trusted, struct umcg_task *t __arg_nonnull,
		    struct umcg_worker *w __arg_nonnull, s32 cpu)
{
	s32 other;

	sys_refresh(p, t, w);
	if (sys_allows(t, cpu) || is_held(p) || p->nr_cpus_allowed == 1)
		return cpu;
	other = sys_search(p, t->sys, cpu, 0);
	return other < 0 ? cpu : other;
}

/* dispatch: @p, which runs on @cpu, has to go on elsewhere. */
static __always_inline bool sys_leaves(struct task_struct *p, struct umcg_task *t,
				       struct umcg_worker *w, s32 cpu)
{
	bool leaves;

	if (!sys_on())
		return false;
	leaves = sys_home(p, t, w, cpu) != cpu;
	cpu_rec(cpu)->cur_free = t->sys_free;
	return leaves;
}

/*
 * The agent has to look at @t, @all: at its whole process. The full barrier of the
 * count stands against the agent's between `asleep` and its last look.
 */
static __always_inline void sys_ask(struct umcg_task *t, bool all)
{
	struct umcg_worker *w = t->idx ? worker_rec(t->idx) : NULL;
	u32 one = 1, old;

	if (!w || !sys_on())
		return;
	old = __sync_fetch_and_add(all ? &w->ask_all : &w->ask, 1);
	barrier_var(old);
	if (!umcg_xchg(&umcg_sysgroups.asleep, 0))
		return;
	/* It looks once a second by itself. */
	if (bpf_ringbuf_output(&umcg_ask_bell, &one, sizeof(one), 0))
		count(server_wake_fail);
}

static __always_inline void sys_ask_of(struct task_struct *p, bool all)
{
	struct umcg_task *t = sys_on() ? task_ctx(p) : NULL;

	if (t)
		sys_ask(t, all);
}

/* Is there a question about the process of @p, as a whole, that the agent has not answered? */
static __always_inline bool sys_asked_all(struct task_struct *p)
{
	struct umcg_worker *w;
	struct umcg_task *t;
	bool asked = false;

	bpf_rcu_read_lock();	/* its leader may be gone */
	t = task_ctx(p->group_leader);
	w = t && t->idx ? worker_rec(t->idx) : NULL;
	if (w)
		asked = READ_ONCE(w->answered_all) != READ_ONCE(w->ask_all);
	bpf_rcu_read_unlock();
	return asked;
}

/*
 * A child of the running thread: in its group. While that one is asked for it may be an old
 * one, and the answer will not be about the child. Whether it is asked for is read before
 * the group: an answer in between is asked for once more.
 */
static __always_inline void sys_inherit(struct umcg_task *t, struct umcg_worker *w)
{
	struct task_struct *parent = (void *)bpf_get_current_task_btf();
	struct umcg_task *pt = task_ctx(parent);
	struct umcg_worker *pw = pt && pt->idx ? worker_rec(pt->idx) : NULL;

	t->sys_unsure = 1;
	if (!pw)
		return;
	t->sys_unsure = pt->cgroup != t->cgroup ||
			READ_ONCE(pw->answered) != READ_ONCE(pw->ask) || sys_asked_all(parent);
	t->sys = sys_told(pw, pt->sys);
	w->sys_now = t->sys;
}

/* It is in /proc and in its cgroup by now, and has not run yet: the agent can look. */
static __always_inline void sys_born(struct umcg_task *t)
{
	if (!t->sys_unsure)
		return;
	t->sys_unsure = 0;
	sys_ask(t, false);
}

/* Who runs on @cpu belongs elsewhere by now. */
static __always_inline void sys_cpu_sweep(struct umcg_cpu *c, s32 cpu)
{
	struct umcg_worker *w = worker_rec(c->cur_idx);

	if (w && !sys_has(sys_told(w, w->sys_now), cpu))
		kick(cpu, SCX_KICK_PREEMPT);
}

/* A pass of the timer: what competes in each group. */
__weak int sys_sweep(void)
{
	int i;

	bpf_for(i, 0, UMCG_MAX_SYS) {
		struct umcg_cgroup *g = sys_load(i);

		g->weight = READ_ONCE(sys_rec(i)->share) * WEIGHT_ONE;
		if (!g->inside)
			g->inside = 100 * WEIGHT_ONE * LOAD_ONE;
		if (g->weight)
			cgroup_sample(g);
	}
	return 0;
}

/* Groups that have @cpu by their tables. */
static __always_inline u32 sys_listed(u32 cpu)
{
	u32 bits = 0;
	int i;

	bpf_for(i, 0, UMCG_MAX_SYS)
		if (READ_ONCE(sys_rec(i)->cpus[cpu / 64 & (SYS_WORDS - 1)]) >> (cpu % 64) & 1)
			bits |= 1U << (i & SYS_MASK);
	return bits;
}

static __always_inline void sys_online_set(u32 sys, u32 cpu, bool on)
{
	u64 *word, bit = 1ULL << (cpu % 64);
	u32 i = cpu / 64;

	barrier_var(sys);
	barrier_var(i);
	word = &umcg_sys_online[sys & SYS_MASK].bits[i & (SYS_WORDS - 1)];
	WRITE_ONCE(*word, on ? *word | bit : *word & ~bit);
}

/* The table or the CPUs that are online have changed. */
__weak int sys_recount(void)
{
	u32 served = 0, narrow = 0, at, cpu, i;

	bpf_for(cpu, 0, umcg_nr_cpus)
		if (!cpu_rec(cpu)->offline)
			served |= sys_listed(cpu);
	bpf_for(cpu, 0, umcg_nr_cpus) {
		/* A group without a CPU is served by all. */
		at = sys_listed(cpu) | (SYS_ALL & ~served);
		if (!cpu_rec(cpu)->offline)
			narrow |= SYS_ALL & ~at;
		WRITE_ONCE(umcg_sys_at[cpu & (UMCG_MAX_CPUS - 1)], at);
		bpf_for(i, 0, UMCG_MAX_SYS)
			sys_online_set(i, cpu, !cpu_rec(cpu)->offline && (at >> (i & SYS_MASK) & 1));
	}
	WRITE_ONCE(umcg_sys_narrow, narrow);
	at = __sync_fetch_and_add(&umcg_sys_gen, 1);
	if (!(at + 1))
		__sync_fetch_and_add(&umcg_sys_gen, 1);	/* 0 is none */
	return 0;
}

#endif /* __UMCG_SYSGROUP_BPF_H */
