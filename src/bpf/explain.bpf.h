/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * explain: why does a thread not run: what only BPF can see of it.
 *
 * Does:    1. refusals: the last take of a worker, or from a queue, that failed,
 *             for `doctor --pid`; one store where a take has failed anyway;
 *          2. SYSCALL program: kind, class and queue of one thread, by its id, and
 *             what its group's truth says of a member.
 * State:   umcg_worker.refused, umcg_cpu.unfit, in the layout of enum umcg_refusal.
 * Called from: dispatch (refusals); BPF_PROG_RUN by `doctor`, which needs root.
 *          So it answers while the agent is stopped.
 * Races:   nothing is locked: the thread may move on between two reads, as it
 *          may between the answer and the reader.
 * Never:   decides by what it notes.
 */
#ifndef __UMCG_EXPLAIN_BPF_H
#define __UMCG_EXPLAIN_BPF_H

#include "group.bpf.h"

static __always_inline u64 refusal(u64 now, s32 cpu, u64 reason)
{
	return now << UMCG_R_TIME_SHIFT | (u64)cpu << UMCG_R_CPU_SHIFT | reason;
}

static __always_inline void refused(struct umcg_worker *w, u64 now, s32 cpu,
				    u64 reason)
{
	WRITE_ONCE(w->refused, refusal(now, cpu, reason));
}

/* As above for the queue as a whole: nobody on PARK(@home) was taken by @cpu. */
static __always_inline void refused_queue(s32 home, u64 now, s32 cpu)
{
	WRITE_ONCE(cpu_rec(home)->unfit, refusal(now, cpu, UMCG_R_UNFIT));
}

/* A member's truth: the system group knows nothing of its waits. */
static __always_inline void explain_member(struct umcg_thread *out,
					   const struct umcg_task *t)
{
	void *truth = truth_of(t);
	struct umcg_member *m = truth ? member_at(truth, t->member) : NULL;

	if (!m)
		return;
	out->group = t->group;
	out->member = t->member;
	out->mate = t->kind == UMCG_K_GSERVER ? m->cur : m->slot;
	out->held = m->held;
	out->word = READ_ONCE(m->word);
	out->since_ns = READ_ONCE(m->since_ns);
}

SEC("syscall")
int umcg_explain(struct umcg_thread *out)
{
	struct scx_dispatch_q *dsq;
	struct task_struct *p;
	struct umcg_task *t;

	p = bpf_task_from_pid(out->tid);
	if (!p) {
		out->ret = -ESRCH;
		return 0;
	}
	bpf_rcu_read_lock();
	t = task_ctx(p);
	out->known = t != NULL;
	if (t) {
		out->kind = t->kind;
		out->index = t->idx;
		out->gen = t->gen;
		out->server = t->server;
		if (is_member(t))
			explain_member(out, t);
	}
	out->cpu = scx_bpf_task_cpu(p);
	out->dead = p->exit_state;
	out->policy = p->policy;
	out->boosted = p->prio < 100 && p->normal_prio >= 100;
	out->bound = p->nr_cpus_allowed == 1;
	out->migration_disabled = p->migration_disabled;
	dsq = p->scx.dsq;
	out->dsq = dsq ? BPF_CORE_READ(dsq, id) : 0;
	bpf_rcu_read_unlock();
	bpf_task_release(p);
	out->ret = 0;
	return 0;
}

#endif /* __UMCG_EXPLAIN_BPF_H */
