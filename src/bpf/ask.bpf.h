/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ask: the calls of clients that may not use bpf(2): a container's seccomp filter.
 *
 * Does:    1. a member's wake, kick and unregister: requests on its desk, made by its
 *             sched_yield(), without the daemon;
 *          2. umcg_proxy, the daemon's call: puts a registration down for a thread,
 *             whose next sched_yield() makes it; wakes and kicks for threads that are
 *             no members.
 * State:   umcg_task.asked and what follows from the call.
 * Called from: ops.yield (the rq lock of the caller's CPU); a SYSCALL program.
 * Races:   the daemon puts a call down while another one is made: `asked` is 0 while
 *          the rest is written. Halves of two tokens are none.
 * Never:   registers a thread that another one named: who yields is who registers, and
 *          is judged by its own uid and process, as in umcg_client. So a member's record
 *          never changes hands while a callback of that member runs.
 * Counters: grp_refused.
 */
#ifndef __UMCG_ASK_BPF_H
#define __UMCG_ASK_BPF_H

#include "gcall.bpf.h"

int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task,
		      unsigned int flags) __ksym;
struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __ksym;
void bpf_iter_task_destroy(struct bpf_iter_task *it) __ksym;

/*
 * Makes the call that was put down for @p, the caller of sched_yield(). 1: it is a member
 * now and goes on, in the slice it has: held here it would be listed to servers that find
 * nobody where the library will say, once it knows the id, that the worker is.
 */
__weak int asked_call(struct task_struct *p __arg_trusted,
		      struct umcg_task *t __arg_nonnull)
{
	struct umcg_group_call call = {};
	s32 ret = -ENOENT;

	call.op = umcg_xchg(&t->asked, 0);
	call.token[0] = t->ask_token[0];
	call.token[1] = t->ask_token[1];
	call.cookie = t->ask_cookie;
	bpf_rcu_read_lock();
	if (call.op == UMCG_CALL_REGISTER) {
		ret = call_register(&call, p, t);
	} else if (is_member(t)) {
		member_goes(p, t, UMCG_R_RESCUED);
		ret = 0;
	}
	bpf_rcu_read_unlock();
	if (ret < 0)
		count(grp_refused);
	WRITE_ONCE(t->ask_ret, ret);
	return !ret && call.op == UMCG_CALL_REGISTER;
	/* pairs with put_down() */
}

/* The call on the desk of member @p, who yields. 1: it goes on, in the slice it has. */
__weak int member_asks(struct task_struct *p __arg_trusted,
		       struct umcg_task *t __arg_nonnull)
{
	struct umcg_desk *desk = own_desk(t);
	struct umcg_group_call call = {};
	u64 me = (u64)t->member;
	u32 op;

	if (!desk)
		return 0;
	op = READ_ONCE(desk->op);
	WRITE_ONCE(desk->op, UMCG_OP_NONE);
	call.target = READ_ONCE(desk->target);
	call.cookie = group_name(t->group, t->group_gen);
	call.ret = -EINVAL;
	t->yielded = 0;
	bpf_rcu_read_lock();
	if (op == UMCG_OP_LEAVE) {
		WRITE_ONCE(desk->target, 0);	/* soon it is another one's desk */
		member_goes(p, t, call.target == UMCG_R_RESCUED ?
			    UMCG_R_RESCUED : UMCG_R_EXITED);
		bpf_rcu_read_unlock();
		return 0;
	}
	if (op == UMCG_OP_WAKE || op == UMCG_OP_KICK) {
		call.op = op == UMCG_OP_WAKE ? UMCG_CALL_WAKE : UMCG_CALL_KICK;
		call.ret = call_other(&call, t);
	}
	bpf_rcu_read_unlock();
	if (call.ret < 0)
		count(grp_refused);
	WRITE_ONCE(desk->target, (u64)(s64)call.ret);
	return call.ret < 0 || op == UMCG_OP_WAKE || (u32)call.target != me;
}

/* Its number in its own pid namespace, the only one that it knows. */
static __always_inline s32 own_tid(struct task_struct *p)
{
	struct pid *pid = BPF_CORE_READ(p, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	struct upid upid = {};
	void *at;

	at = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	     (u64)level * bpf_core_type_size(struct upid);
	bpf_core_read(&upid.nr, sizeof(upid.nr), &((struct upid *)at)->nr);
	return upid.nr;
}

static __always_inline bool is_named(struct task_struct *p,
				     const struct umcg_proxy_call *c)
{
	return p->tgid == c->tgid && own_tid(p) == c->tid;
}

static __always_inline s32 put_down(struct umcg_proxy_call *c, struct task_struct *p)
{
	struct umcg_task *t = task_ctx(p);

	if (!t)
		return -ENOENT;
	if (c->withdraw)
		return umcg_xchg(&t->asked, 0) ? -ENOENT : READ_ONCE(t->ask_ret);
	if (c->call.op == UMCG_CALL_REGISTER && !class_fits(p))
		return -EPERM;
	umcg_xchg(&t->asked, 0);
	t->ask_token[0] = c->call.token[0];
	t->ask_token[1] = c->call.token[1];
	t->ask_cookie = c->call.cookie;
	t->ask_ret = -ENOENT;
	umcg_xchg(&t->asked, c->call.op);
	c->tid = p->pid;
	return 0;
	/* pairs with asked_call() */
}

/*
 * For thread `tid` of process `tgid`. The number is right at once where both pid
 * namespaces are ours; else the process's threads are looked through.
 */
static __always_inline s32 proxy_ask(struct umcg_proxy_call *c)
{
	struct task_struct *p = bpf_task_from_pid(c->tid), *pos;
	s32 ret = -ESRCH;

	if (p && is_named(p, c))
		ret = put_down(c, p);
	if (p)
		bpf_task_release(p);
	if (ret != -ESRCH)
		return ret;
	p = bpf_task_from_pid(c->tgid);
	if (!p)
		return ret;
	bpf_rcu_read_lock();
	bpf_for_each(task, pos, p, BPF_TASK_ITER_PROC_THREADS) {
		if (is_named(pos, c)) {
			ret = put_down(c, pos);
			break;
		}
	}
	bpf_rcu_read_unlock();
	bpf_task_release(p);
	return ret;
}

SEC("syscall")
int umcg_proxy(struct umcg_proxy_call *c)
{
	s32 ret = -EINVAL;

	switch (c->call.op) {
	case UMCG_CALL_REGISTER:
	case UMCG_CALL_UNREGISTER:
		ret = proxy_ask(c);
		break;
	case UMCG_CALL_WAKE:
	case UMCG_CALL_KICK:
		bpf_rcu_read_lock();
		ret = call_other(&c->call, NULL);
		bpf_rcu_read_unlock();
		break;
	}
	if (ret < 0)
		count(grp_refused);
	c->call.ret = ret;
	return 0;
}

#endif /* __UMCG_ASK_BPF_H */
