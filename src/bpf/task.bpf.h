/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * task: a task comes, changes class and goes.
 *
 * Does:    init_task: context and record; enable: order and task pointer;
 *          disable: word NONE; exit_task: record back to the free list.
 * Called from: ops of the same names; init_task may sleep.
 * Races:   exit_task of a pid that was used again: records go by generation.
 * Never:   fails: an error from init_task would make fork fail.
 */
#ifndef __UMCG_TASK_BPF_H
#define __UMCG_TASK_BPF_H

#include "edges.bpf.h"

static __always_inline void task_init(struct task_struct *p,
				      struct scx_init_task_args *args)
{
	struct umcg_task *t = bpf_task_storage_get(&umcg_tasks, p, 0,
						   BPF_LOCAL_STORAGE_GET_F_CREATE);
	struct umcg_worker *w;

	if (!t) {
		count(alloc_fail);
		return;
	}
	if (t->kind == UMCG_K_SERVER)
		return;		/* registered before the scheduler was attached */
	if (is_kernel_task(p)) {
		t->kind = UMCG_K_KERNEL;
		return;
	}
	t->idx = record_alloc(p);
	w = t->idx ? worker_rec(t->idx) : NULL;
	if (!w) {
		t->kind = UMCG_K_ANONYMOUS;
		count(alloc_fail);
		return;
	}
	t->gen = w->gen;
	t->kind = UMCG_K_WORKER;
	t->at_user = args->fork;
	if (bpf_core_field_exists(args->cgroup))
		cgroup_join(t, p, args->cgroup);
	if (args->fork && sys_on())
		sys_inherit(t, w);
}

static __always_inline void task_class(struct umcg_worker *w, const struct task_struct *p)
{
	if (p->policy == SCHED_IDLE)
		w->class_ = UMCG_CLASS_IDLE;
	else if (p->policy == SCHED_BATCH)
		w->class_ = UMCG_CLASS_BATCH;
	else
		w->class_ = UMCG_CLASS_NORMAL;
}

/* A newcomer starts at its CPU's clock: no credit, no debt. */
static __always_inline void task_enable(struct task_struct *p)
{
	struct umcg_task *t = task_ctx(p);
	s32 cpu = scx_bpf_task_cpu(p);
	struct umcg_worker *w;

	if (!t)
		return;
	t->exec = p->se.sum_exec_runtime;
	t->waits_ns = 0;
	t->clock_cpu = cpu;
	t->v = cpu_rec(cpu)->vnow;
	if (t->kind != UMCG_K_WORKER)
		return;
	w = worker_rec(t->idx);
	if (!w)
		return;
	w->pid = p->pid;
	task_class(w, p);
	worker_publish_task(t->idx, p);
}

static __always_inline void task_disable(struct task_struct *p)
{
	struct umcg_task *t = task_ctx(p);
	struct umcg_worker *w;
	u64 old;

	if (!t)
		return;
	pending_lower(t);
	/* Its class is ours yet: the scheduler ends, not the membership. */
	if (is_member(t))
		member_gone(p, t, class_fits(p) ? UMCG_R_RESCUED : UMCG_R_EXITED);
	if (t->kind != UMCG_K_WORKER)
		return;
	w = worker_rec(t->idx);
	if (!w)
		return;
	claim_drop(w);
	cgroup_leave(t);
	sys_leave(t);
	old = word_move(&w->word, &w->since_ns, FROM_ANY, UMCG_NONE, umcg_now());
	if (word_state(old) == UMCG_BLOCKED || word_state(old) == UMCG_IDLE)
		count(exits);
	worker_forget_task(t->idx);
}

static __always_inline void task_exit(struct task_struct *p)
{
	struct umcg_task *t = task_ctx(p);

	if (t && is_member(t))
		member_gone(p, t, UMCG_R_EXITED);
	if (!t || t->kind != UMCG_K_WORKER)
		return;
	pending_lower(t);
	record_free(t->idx, t->gen);
	t->kind = UMCG_K_ANONYMOUS;
}

#endif /* __UMCG_TASK_BPF_H */
