/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * scx_umcg: user-managed concurrency groups on a stock kernel.
 *
 * What it is: each CPU of the system group is a *server*: a slot of concurrency
 * that runs one *worker* (an ordinary thread) at a time. BPF is the mechanism:
 * it sees workers block and wake, finds idle servers, keeps waiting workers in
 * order and switches to the next one. A Rust agent with one thread per server is
 * the policy: it orders them.
 *
 * Glossary
 *   word      64 bits of state and time per worker; changes only at an *edge*
 *   PARK      a server's waiting workers, by key
 *   HAND      workers that were chosen for this CPU
 *   keyed     the policy gives terms (weight, bias, slice) ahead of time; BPF
 *             charges and orders by itself and never waits for the agent
 *   staged    the policy picks every next worker, several ahead, into a ring
 *   claim     "this server runs that worker", (server, tag), decided once
 *   absent    a server that is needed and cannot be had: kernel order until then
 *   request   a forced RUNNING -> RUNNABLE of one stint of one worker
 *
 * Example, staged, two CPUs, workers a b c waiting on CPU 0, x running: x blocks
 * (quiescent: word BLOCKED), dispatch finds three waiters and an empty ring and
 * puts the server on the CPU. It takes its list (a b c), asks the policy, stages
 * c a b, parks by sched_yield: one activation. dispatch takes c, later a, later
 * b, straight from one worker to the next: three switches.
 *
 * Not good at: real-time guarantees; core scheduling; sub-schedulers.
 *
 * Here is the ops table and nothing else. Each concern has a file; dispatch.bpf.h
 * is the one to read first.
 */
#include "relief.bpf.h"
#include "task.bpf.h"
#include "call.bpf.h"
#include "ask.bpf.h"

char _license[] SEC("license") = "GPL";

s32 BPF_STRUCT_OPS(umcg_select_cpu, struct task_struct *p, s32 prev_cpu,
		   u64 wake_flags)
{
	return wake_select(p, prev_cpu, wake_flags);
}

void BPF_STRUCT_OPS(umcg_enqueue, struct task_struct *p, u64 enq_flags)
{
	enqueue_any(p, enq_flags);
}

void BPF_STRUCT_OPS(umcg_dispatch, s32 cpu, struct task_struct *prev)
{
	dispatch_cpu(cpu, prev);
}

void BPF_STRUCT_OPS(umcg_runnable, struct task_struct *p, u64 enq_flags)
{
	edge_runnable(p, enq_flags);
}

void BPF_STRUCT_OPS(umcg_running, struct task_struct *p)
{
	edge_running(p);
}

void BPF_STRUCT_OPS(umcg_stopping, struct task_struct *p, bool runnable)
{
	edge_stopping(p, runnable);
}

void BPF_STRUCT_OPS(umcg_quiescent, struct task_struct *p, u64 deq_flags)
{
	edge_quiescent(p, deq_flags);
}

void BPF_STRUCT_OPS(umcg_tick, struct task_struct *p)
{
	edge_tick(p);
}

/* No queue may be touched here: only a note for dispatch and enqueue. */
bool BPF_STRUCT_OPS(umcg_yield, struct task_struct *from, struct task_struct *to)
{
	struct umcg_task *t = task_ctx(from);

	if (t) {
		if (t->asked && asked_call(from, t))
			return false;	/* it has to learn who it is before it is held */
		if (t->ghost && server_comes_back(t, umcg_now()))
			return false;
		t->yielded = 1;
		if (t->kind == UMCG_K_WORKER)
			count(yields);
		else if (is_member(t) && member_yield(t) && member_asks(from, t))
			return false;	/* it asked for something else than to yield */
	}
	scx_bpf_task_set_slice(from, 0);
	return false;
}

void BPF_STRUCT_OPS(umcg_update_idle, s32 cpu, bool idle)
{
	idle_changed(cpu_rec(cpu), cpu, idle, umcg_now());
}

void BPF_STRUCT_OPS(umcg_set_weight, struct task_struct *p, u32 weight)
{
	struct umcg_task *t = task_ctx(p);
	struct umcg_worker *w = t && (t->kind == UMCG_K_WORKER || is_member(t)) ?
		worker_rec(t->idx) : NULL;

	if (!w)
		return;
	task_class(w, p);
	cgroup_weight_changed(t, p);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(umcg_cgroup_init, struct cgroup *cgrp,
			     struct scx_cgroup_init_args *args)
{
	limit_init(cgroup_record_init(cgrp, args), args);
	return 0;
}

void BPF_STRUCT_OPS_SLEEPABLE(umcg_cgroup_exit, struct cgroup *cgrp)
{
	limit_exit(cgrp);
	cgroup_record_exit(cgrp);
}

void BPF_STRUCT_OPS(umcg_cgroup_move, struct task_struct *p,
		    struct cgroup *from, struct cgroup *to)
{
	struct umcg_task *t = task_ctx(p);

	if (t && (t->kind == UMCG_K_WORKER || is_member(t)))
		cgroup_join(t, p, to);
}

void BPF_STRUCT_OPS(umcg_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	struct umcg_cgroup *g = cgroup_own(cgrp);

	if (g)
		g->weight = weight;
}

void BPF_STRUCT_OPS(umcg_cgroup_set_bandwidth, struct cgroup *cgrp, u64 period_us,
		    u64 quota_us, u64 burst_us)
{
	struct umcg_cgroup *g = cgroup_own(cgrp);

	if (g)
		limit_set(g, period_us, quota_us, burst_us);
}

void BPF_STRUCT_OPS(umcg_cgroup_set_idle, struct cgroup *cgrp, bool idle)
{
	struct umcg_cgroup *g = cgroup_own(cgrp);

	if (g)
		g->idle = idle;
}

void BPF_STRUCT_OPS(umcg_set_cpumask, struct task_struct *p, const struct cpumask *cpumask)
{
	struct umcg_task *t = task_ctx(p);

	if (t)
		t->sys_seen = 0;
}

void BPF_STRUCT_OPS(umcg_cpu_online, s32 cpu)
{
	cpu_rec(cpu)->offline = 0;
	sys_recount();
}

/* What waits there is taken by the others: those that sleep have to look. */
void BPF_STRUCT_OPS(umcg_cpu_offline, s32 cpu)
{
	int other;

	bpf_for(other, 0, umcg_nr_cpus)
		if (other != cpu)
			kick(other, SCX_KICK_IDLE);
	cpu_rec(cpu)->offline = 1;
	cpu_rec(cpu)->idle_since_ns = 0;
	sys_recount();
}

s32 BPF_STRUCT_OPS_SLEEPABLE(umcg_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	task_init(p, args);
	return 0;
}

void BPF_STRUCT_OPS(umcg_enable, struct task_struct *p)
{
	task_enable(p);
}

void BPF_STRUCT_OPS(umcg_disable, struct task_struct *p)
{
	task_disable(p);
}

void BPF_STRUCT_OPS(umcg_exit_task, struct task_struct *p,
		    struct scx_exit_task_args *args)
{
	task_exit(p);
}

void BPF_STRUCT_OPS(umcg_dump_task, struct scx_dump_ctx *dctx,
		    struct task_struct *p)
{
	struct umcg_task *t = task_ctx(p);
	struct umcg_worker *w = t ? worker_rec(t->idx) : NULL;

	if (!w)
		return;
	scx_bpf_dump("umcg: kind=%d word=%llx home=%u key=%llu queued=%u parked_ns=%llu",
		     t->kind, w->word, w->home, w->key, w->queued, t->parked_ns);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(umcg_init)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	int cpu, kind;
	s32 ret;

	bpf_for(cpu, 0, umcg_nr_cpus)
		cpu_rec(cpu)->offline = !bpf_cpumask_test_cpu(cpu, online);
	scx_bpf_put_cpumask(online);
	sys_recount();
	bpf_for(cpu, 0, umcg_nr_cpus) {
		bpf_for(kind, UMCG_Q_PARK, UMCG_Q_KERNEL + 1) {
			ret = scx_bpf_create_dsq(UMCG_Q(kind, cpu), -1);
			if (ret)
				return ret;
		}
	}
	return relief_init() ?: stint_init();
}

void BPF_STRUCT_OPS(umcg_exit, struct scx_exit_info *ei)
{
	groups_end();
	UEI_RECORD(uei, ei);
}

/* Flags are set by the agent: unknown bits would fail the load. */
SCX_OPS_DEFINE(umcg_ops,
	       .select_cpu	= (void *)umcg_select_cpu,
	       .enqueue		= (void *)umcg_enqueue,
	       .dispatch	= (void *)umcg_dispatch,
	       .runnable	= (void *)umcg_runnable,
	       .running		= (void *)umcg_running,
	       .stopping	= (void *)umcg_stopping,
	       .quiescent	= (void *)umcg_quiescent,
	       .tick		= (void *)umcg_tick,
	       .yield		= (void *)umcg_yield,
	       .update_idle	= (void *)umcg_update_idle,
	       .set_weight	= (void *)umcg_set_weight,
	       .cgroup_init	= (void *)umcg_cgroup_init,
	       .cgroup_exit	= (void *)umcg_cgroup_exit,
	       .cgroup_move	= (void *)umcg_cgroup_move,
	       .cgroup_set_weight = (void *)umcg_cgroup_set_weight,
	       .cgroup_set_bandwidth = (void *)umcg_cgroup_set_bandwidth,
	       .cgroup_set_idle	= (void *)umcg_cgroup_set_idle,
	       .set_cpumask	= (void *)umcg_set_cpumask,
	       .cpu_online	= (void *)umcg_cpu_online,
	       .cpu_offline	= (void *)umcg_cpu_offline,
	       .init_task	= (void *)umcg_init_task,
	       .enable		= (void *)umcg_enable,
	       .disable		= (void *)umcg_disable,
	       .exit_task	= (void *)umcg_exit_task,
	       .dump_task	= (void *)umcg_dump_task,
	       .init		= (void *)umcg_init,
	       .exit		= (void *)umcg_exit,
	       .timeout_ms	= 10000,
	       .name		= "umcg");
