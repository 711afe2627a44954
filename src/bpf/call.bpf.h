/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * call: SYSCALL programs, the calls from user space into BPF.
 *
 * Does:    register the calling thread as server; kick a worker; take over a new table of
 *          system groups. What may mean another one of those: a new name, program, cgroup.
 * Called from: BPF_PROG_RUN, by the agent. Sleepable: uses take RCU. Tracepoints.
 * Never:   trusts an index: a kick needs (index, generation) of a live record.
 */
#ifndef __UMCG_CALL_BPF_H
#define __UMCG_CALL_BPF_H

#include "preempt.bpf.h"

/* The caller becomes server call->index; its worker record is given back. */
SEC("syscall")
int umcg_register_server(struct umcg_call *call)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct umcg_server *s;
	struct umcg_task *t;

	call->ret = -EINVAL;
	if (call->index >= UMCG_MAX_CPUS)
		return 0;
	s = server_rec(call->index);
	t = bpf_task_storage_get(&umcg_tasks, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!s || !t)
		return 0;
	if (t->kind == UMCG_K_WORKER && t->idx) {
		struct umcg_worker *w = worker_rec(t->idx);

		if (w)
			word_move(&w->word, &w->since_ns, FROM_ANY, UMCG_NONE,
				  umcg_now());
		record_free(t->idx, t->gen);
	}
	t->idx = 0;
	t->server = call->index;
	t->exec = p->se.sum_exec_runtime;
	t->kind = UMCG_K_SERVER;
	s->tid = p->pid;
	call->ret = 0;
	return 0;
}

SEC("syscall")
int umcg_kick(struct umcg_call *call)
{
	struct umcg_worker *w;
	struct task_struct *p;

	call->ret = -EINVAL;
	if (!call->index || call->index >= UMCG_MAX_WORKERS)
		return 0;
	bpf_rcu_read_lock();
	call->ret = -ESRCH;
	w = worker_rec(call->index);
	p = worker_task(call->index);
	if (w && p && w->gen == call->gen)
		call->ret = request_preempt(w, call->index, scx_bpf_task_cpu(p)) ?
			-EAGAIN : 0;
	bpf_rcu_read_unlock();
	return 0;
}

/* For tests: ends the scheduler as one of its own errors would. Needs root. */
SEC("syscall")
int umcg_inject(struct umcg_call *call)
{
	scx_bpf_error("injected: error %u by a test", call->index);
	call->ret = 0;
	return 0;
}

/* The agent has written a new table. */
SEC("syscall")
int umcg_sys_apply(struct umcg_call *call)
{
	sys_recount();
	call->ret = 0;
	return 0;
}

/* After the name has changed: the tracepoint of it comes before, the agent could look too soon. */
SEC("?fexit/__set_task_comm")
int BPF_PROG(umcg_renamed, struct task_struct *p)
{
	sys_ask_of(p, false);
	return 0;
}

/* Where the kernel has no such function to hook: who looked too soon looks again in turn. */
SEC("?tp_btf/task_rename")
int BPF_PROG(umcg_rename, struct task_struct *p)
{
	sys_ask_of(p, false);
	return 0;
}

/*
 * The program, its name and its user are the new ones from here on. A thread that was not
 * the leader has got the leader's number, the only one that /proc knows by now.
 */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(umcg_new_program, struct task_struct *p)
{
	struct umcg_task *t = task_ctx(p);
	struct umcg_worker *w = t && t->idx ? worker_rec(t->idx) : NULL;

	if (!w)
		return 0;
	w->pid = p->pid;
	sys_ask(t, false);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(umcg_forked, struct task_struct *parent, struct task_struct *p)
{
	struct umcg_task *t = sys_on() ? task_ctx(p) : NULL;

	if (t)
		sys_born(t);
	return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(umcg_cgroup_task, struct cgroup *to, const char *path,
	     struct task_struct *leader, bool all)
{
	sys_ask_of(leader, all);
	return 0;
}

#endif /* __UMCG_CALL_BPF_H */
