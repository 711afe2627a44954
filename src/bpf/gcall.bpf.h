/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * gcall: what clients call by BPF_PROG_RUN, and what the daemon calls about groups.
 *
 * Does:    umcg_client: register, unregister, wake, kick, attach, for anybody who
 *          was given the program's fd; umcg_admin: a group comes and goes.
 * Called from: SYSCALL programs, in the caller's context, may be preempted.
 * Races:   register is seen by the callbacks when t->kind is set, last.
 *          A program that runs while its group is deleted: RCU keeps the maps.
 * Never:   takes authority from an argument: the group is the calling task's, or the
 *          one that it attached to; a token is worth one registration, or one attach,
 *          of one uid in one process.
 * Counters: grp_refused.
 */
#ifndef __UMCG_GCALL_BPF_H
#define __UMCG_GCALL_BPF_H

#include "gsweep.bpf.h"

#define CURSOR_MAX (1U << 30)
#define BUCKET_STEP_NS (5 * NSEC_PER_USEC)	/* 200,000 wakes and kicks a second */
#define BUCKET_BURST_NS (50 * NSEC_PER_MSEC)	/* of which 10,000 at once */

/* One token of the group's bucket. False: too fast. */
static __always_inline bool bucket_take(struct umcg_group *head, u64 now)
{
	u64 tat = READ_ONCE(head->tat_ns), from;

	from = key_before(tat, now) ? now : tat;
	if (key_before(now + BUCKET_BURST_NS, from))
		return false;
	/* A lost race lets one call through: the bound is a rate, not a count. */
	umcg_cmpxchg(&head->tat_ns, tat, from + BUCKET_STEP_NS);
	return true;
}

/* A wake makes @m RUNNABLE, and a server is told. False: it is not IDLE any more. */
static __always_inline bool end_wait(u32 g, u32 idx, struct umcg_member *m, u64 now)
{
	u64 seen;

	if (!member_edge(m, FROM(UMCG_IDLE), UMCG_RUNNABLE, UMCG_F_PENDING, now, &seen))
		return false;
	m->why = UMCG_R_WOKEN;
	tell_worker(g, idx, m->home);
	return true;
}

static __always_inline s32 member_wake(u32 g, u32 idx, struct umcg_member *m, u64 now)
{
	u64 word;
	int i;

	bpf_for(i, 0, WORD_TRIES) {
		word = READ_ONCE(m->word);
		if (word_state(word) == UMCG_NONE)
			return -ESRCH;
		if (word_state(word) == UMCG_IDLE && READ_ONCE(m->held)) {
			if (!end_wait(g, idx, m, now))
				continue;
			/* Released meanwhile, it may have read IDLE before. */
			return READ_ONCE(m->held) ? UMCG_WAKE_DONE : UMCG_WAKE_FUTEX;
		}
		if (!(word & UMCG_F_PENDING) && !planted(LOST_WAKE) &&
		    umcg_cmpxchg(&m->word, word, word | UMCG_F_PENDING) != word)
			continue;
		if (word_state(word) != UMCG_IDLE)
			return UMCG_WAKE_DONE;
		/* Held meanwhile, it may not have seen PENDING. */
		if (READ_ONCE(m->held))
			end_wait(g, idx, m, now);
		return UMCG_WAKE_FUTEX;
	}
	return -EBUSY;	/* every try met another edge: the library asks again */
	/* pairs with go_idle(), and with the library's futex wait */
}

static __always_inline bool record_claim(struct umcg_member *m)
{
	u32 gen = READ_ONCE(m->gen);

	return !(gen & 1) && umcg_cmpxchg(&m->gen, gen, gen + 1) == gen;
}

/*
 * A free record of @kind, claimed by its generation. 0: none was found. The sweep and the
 * library look at workers' records below the cursor alone: one that was found behind
 * others, which are in use or have a notice, moves it on, and it never wraps.
 */
static __always_inline u32 member_alloc(void *truth, void *desks,
					struct umcg_group *head, u32 kind)
{
	u32 first = 1, count = UMCG_GROUP_SERVERS, at = 0, idx, spare = 0, passed = 0;
	struct umcg_member *m;
	struct umcg_desk *desk;
	int i;

	if (kind == UMCG_M_WORKER) {
		first += UMCG_GROUP_SERVERS;
		count = head->capacity - first;
		at = __sync_fetch_and_add(&head->cursor, 1);
		if (at >= CURSOR_MAX)
			umcg_xchg(&head->cursor, count);
	}
	if (!count || count > UMCG_GROUP_WORKERS)
		return 0;
	bpf_for(i, 0, count) {
		idx = first + (at + i) % count;
		m = member_at(truth, idx);
		desk = desk_at(desks, idx);
		if (!m || !desk)
			return 0;
		if (READ_ONCE(m->gen) & 1)
			continue;
		if (READ_ONCE(desk->left_id)) {
			spare = idx;
			passed = i;
		} else if (record_claim(m)) {
			if (i && kind == UMCG_M_WORKER)
				__sync_fetch_and_add(&head->cursor, i);
			return idx;
		}
	}
	m = spare ? member_at(truth, spare) : NULL;
	if (m && kind == UMCG_M_WORKER)
		__sync_fetch_and_add(&head->cursor, passed);
	return m && record_claim(m) ? spare : 0;
}

static __always_inline void member_fill(struct umcg_member *m, struct umcg_desk *desk,
					struct umcg_task *t, struct task_struct *p,
					const struct umcg_token *tok,
					struct umcg_group_call *call, u64 now)
{
	u64 seen;

	m->run_ns = m->wait_ns = m->target = 0;
	if (tok->kind == UMCG_M_WORKER)
		m->kick = 0;	/* a server's entry is the record's, and may be linked yet */
	m->cookie = call->cookie;
	m->tid = p->pid;
	m->kind = tok->kind;
	m->home = (u32)call->target;
	m->why = UMCG_R_NEW;
	m->slot = m->cur = m->held = m->op = m->switched = 0;
	m->sys = t->idx;
	m->bell = tok->bell;
	m->deadline_ns = ~0ULL;
	m->slot_end_ns = 0;	/* kick_ns of a worker */
	m->slot_cpu = -1;
	desk->op = desk->asleep = desk->poked = desk->nopreempt = desk->alone = 0;
	desk->key = ~0ULL;
	if (tok->kind == UMCG_M_SERVER)
		desk->resync = 1;	/* who was RUNNABLE before there was a server */
	umcg_xchg(&m->word, m->word & ~WAIT_FLAGS);
	member_edge(m, FROM_ANY, UMCG_RUNNING | (tok->kind == UMCG_M_WORKER ?
		    UMCG_F_RESCUED : 0), 0, now, &seen);
}

/* As calls name a group. */
static __always_inline u64 group_name(u32 g, u32 gen)
{
	return (u64)gen << 32 | g;
}

static __always_inline s32 register_with(struct umcg_group_call *call,
					 struct task_struct *p, struct umcg_task *t,
					 const struct umcg_token *tok)
{
	u32 g = tok->group, idx;
	void *truth = bpf_map_lookup_elem(&umcg_truths, &g);
	void *desks = bpf_map_lookup_elem(&umcg_desks, &g);
	struct umcg_group *head = truth ? group_head(truth) : NULL;
	struct umcg_member *m;
	struct umcg_desk *desk;

	if (!head || !desks || group_life(g)->gen != tok->gen || group_life(g)->draining)
		return -ENOENT;
	if (tok->kind == UMCG_M_NONE) {
		t->attached = group_name(g, tok->gen);
		return 0;
	}
	t->group = g;
	t->group_gen = tok->gen;
	t->member = 0;
	idx = member_alloc(truth, desks, head, tok->kind);
	m = idx ? member_at(truth, idx) : NULL;
	desk = idx ? desk_at(desks, idx) : NULL;
	if (!m || !desk)
		return -ENOSPC;
	member_fill(m, desk, t, p, tok, call, umcg_now());
	t->member = idx;
	t->left = 0;
	t->ghost = 0;
	t->leaving = 0;
	t->unnamed = tok->kind == UMCG_M_WORKER;
	t->base_ns = p->se.sum_exec_runtime;
	t->share = head->share == 100 ? 0 : head->share;
	t->quantum_us = tok->kind == UMCG_M_WORKER ? head->quantum_us : 0;
	t->stint = 0;
	call->me = member_id(m, idx);
	__sync_fetch_and_add(&head->members, 1);
	if (tok->kind == UMCG_M_SERVER) {
		/* What is linked for who had the record before is adopted, by this one too. */
		umcg_xchg(&desk->runnable, (u64)(owner_of(m, idx) >> UMCG_OWNER_GEN_SHIFT) << 32);
		idle_join(head, idx);
		__sync_fetch_and_or(&head->servers, server_bit(idx));
	}
	barrier();
	WRITE_ONCE(t->kind, tok->kind == UMCG_M_SERVER ? UMCG_K_GSERVER : UMCG_K_GWORKER);
	return 0;
}

/* A token counts once: who deletes it has it. */
static __always_inline s32 token_take(struct umcg_group_call *call,
				      struct task_struct *p, struct umcg_token *out)
{
	struct umcg_token_key key = { .half = { call->token[0], call->token[1] } };
	struct umcg_token *tok = bpf_map_lookup_elem(&umcg_tokens, &key);

	if (!tok)
		return -EKEYREJECTED;
	*out = *tok;
	if (out->uid != BPF_CORE_READ(p, cred, uid.val) || out->tgid != p->tgid)
		return -EKEYREJECTED;
	return bpf_map_delete_elem(&umcg_tokens, &key) ? -EKEYREJECTED : 0;
}

static __always_inline s32 call_register(struct umcg_group_call *call,
					 struct task_struct *p, struct umcg_task *t)
{
	struct umcg_token tok = {};
	s32 err;

	if (call->op == UMCG_CALL_REGISTER) {
		if (is_member(t))
			return -EALREADY;
		if (t->kind != UMCG_K_WORKER || !t->idx)
			return -EUSERS;
		if (!class_fits(p))
			return -EPERM;
	}
	err = token_take(call, p, &tok);
	if (err)
		return err;
	if ((call->op == UMCG_CALL_ATTACH) != (tok.kind == UMCG_M_NONE))
		err = -EKEYREJECTED;
	else
		err = register_with(call, p, t, &tok);
	if (err)
		bell_back(tok.bell);
	return err;
}

/* A wake of the server itself ends its wait for events, now or next time. */
static __always_inline s32 poke_server(u32 g, void *truth, u32 si)
{
	void *desks = bpf_map_lookup_elem(&umcg_desks, &g);
	struct umcg_desk *desk = desks ? desk_at(desks, si) : NULL;

	if (!desk)
		return -ENOENT;
	umcg_xchg(&desk->poked, 1);
	server_poke(truth, desks, si);
	return UMCG_WAKE_DONE;
	/* pairs with server_hold(), and with the library's poll() */
}

/*
 * The caller's part of a stack of idle servers: see idle_collect(). Who was taken by it
 * walks the truth and waits anew.
 */
static __always_inline s32 call_collect(u32 g, struct umcg_group *head, void *truth)
{
	void *desks = bpf_map_lookup_elem(&umcg_desks, &g);
	u32 si = desks ? idle_collect(head, truth) : 0;
	struct umcg_desk *desk = si ? desk_at(desks, si) : NULL;

	if (desk)
		server_resync(truth, desks, si, desk);
	return 0;
	/* pairs with server_hold() */
}

/*
 * The groups that @t may call for: its own, and the one that it last attached to. A
 * member of one group may wake those of another.
 */
static __always_inline bool may_call(const struct umcg_task *t, u64 name)
{
	return name == t->attached || name == group_name(t->group, t->group_gen);
}

/*
 * What kicks worker @target: caller @t itself, so from a handler that interrupted it; its
 * server, whose run() is over; or a thread. NULL: the daemon for one.
 */
static __always_inline u32 kick_source(const struct umcg_task *t, void *truth, u64 name,
				       u32 target)
{
	struct umcg_member *s;

	if (!t || !is_member(t) || name != group_name(t->group, t->group_gen))
		return UMCG_S_KICK;
	if (t->member == target)
		return UMCG_S_SIGNAL;
	s = t->kind == UMCG_K_GSERVER ? member_at(truth, t->member) : NULL;
	return s && READ_ONCE(s->cur) == target && s->deadline_ns <= umcg_now() ?
		UMCG_S_DEADLINE : UMCG_S_KICK;
}

/*
 * Wakes or kicks a member of the group that @call names; its caller may do that. @t: who
 * calls, NULL: the daemon.
 */
static __always_inline s32 call_other(struct umcg_group_call *call,
				      const struct umcg_task *t)
{
	u32 g = call->cookie;
	void *truth = NULL;
	struct umcg_group *head;
	struct umcg_member *m;

	if (g && group_life(g)->gen == call->cookie >> 32)
		truth = bpf_map_lookup_elem(&umcg_truths, &g);
	head = truth ? group_head(truth) : NULL;

	if (!head)
		return -ENOENT;
	if (call->op == UMCG_CALL_COLLECT)
		return bucket_take(head, umcg_now()) ? call_collect(g, head, truth) : -EBUSY;
	m = member_by_id(truth, call->target);
	if (!m)
		return -ESRCH;
	if (!bucket_take(head, umcg_now()))
		return -EBUSY;
	if (m->kind == UMCG_M_SERVER && call->op == UMCG_CALL_WAKE)
		return poke_server(g, truth, (u32)call->target);
	if (m->kind != UMCG_M_WORKER)	/* NONE: it leaves just now */
		return m->kind == UMCG_M_NONE ? -ESRCH : -EINVAL;
	if (call->op == UMCG_CALL_WAKE)
		return member_wake(g, (u32)call->target, m, umcg_now());
	return member_kick(m, kick_source(t, truth, call->cookie, (u32)call->target));
}

SEC("syscall")
int umcg_client(struct umcg_group_call *call)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct umcg_task *t;

	call->ret = -ESTALE;
	if (call->epoch != umcg_epoch)
		return 0;
	call->ret = -ENOENT;
	t = task_ctx(p);
	if (!t)
		return 0;
	bpf_rcu_read_lock();
	switch (call->op) {
	case UMCG_CALL_REGISTER:
	case UMCG_CALL_ATTACH:
		call->ret = call_register(call, p, t);
		break;
	case UMCG_CALL_UNREGISTER:
		call->ret = is_member(t) ? 0 : -ENOENT;
		member_gone(p, t, call->target == UMCG_R_RESCUED ?
			    UMCG_R_RESCUED : UMCG_R_EXITED);
		kick(scx_bpf_task_cpu(p), SCX_KICK_PREEMPT);
		break;
	case UMCG_CALL_WAKE:
	case UMCG_CALL_KICK:
	case UMCG_CALL_COLLECT:
		call->ret = may_call(t, call->cookie) ? call_other(call, t) : -ENOENT;
		break;
	default:
		call->ret = -EINVAL;
	}
	bpf_rcu_read_unlock();
	if (call->ret < 0)
		count(grp_refused);
	return 0;
}

/* Files of inner map @map: mappings hold them, too. The outer map has one reference. */
static __always_inline s32 kept_by(const struct bpf_map *map)
{
	return map ? map->refcnt.counter - 1 : 0;
}

SEC("syscall")
int umcg_admin(struct umcg_admin_call *call)
{
	u32 g = call->group;
	struct umcg_group *head;
	void *truth;

	call->ret = -EINVAL;
	if (!g || g >= UMCG_MAX_GROUPS)
		return 0;
	call->ret = 0;
	switch (call->op) {
	case UMCG_ADMIN_OPEN:
		umcg_epoch = call->epoch;
		group_life(g)->draining = 0;
		group_life(g)->gen = call->gen;
		if (umcg_group_top <= g)
			umcg_group_top = g + 1;
		__sync_fetch_and_add(&umcg_nr_groups, 1);
		break;
	case UMCG_ADMIN_DRAIN:
		group_life(g)->draining = 1;
		umcg_held_since = 0;
		bpf_rcu_read_lock();
		truth = bpf_map_lookup_elem(&umcg_truths, &g);
		head = truth ? group_head(truth) : NULL;
		call->ret = head ? head->members : 0;
		bpf_rcu_read_unlock();
		break;
	case UMCG_ADMIN_CLOSE:
		group_life(g)->gen = call->gen;
		__sync_fetch_and_add(&umcg_nr_groups, -1);
		break;
	case UMCG_ADMIN_KEPT:
		bpf_rcu_read_lock();
		call->ret = kept_by(bpf_map_lookup_elem(&umcg_truths, &g)) +
			    kept_by(bpf_map_lookup_elem(&umcg_desks, &g));
		bpf_rcu_read_unlock();
		break;
	default:
		call->ret = -EINVAL;
	}
	return 0;
}

/* ops.exit, after the last callback: who looks finds that nobody serves them. */
static __always_inline void groups_end(void)
{
	struct umcg_group *head;
	void *truth;
	u32 g;

	bpf_for(g, 1, UMCG_MAX_GROUPS) {
		u32 key = g;

		truth = bpf_map_lookup_elem(&umcg_truths, &key);
		head = truth ? group_head(truth) : NULL;
		if (head)
			WRITE_ONCE(head->epoch, 0);
	}
}

/*
 * The new program knows nothing of the group: an ordinary thread again. From the point of
 * no return on, as exec then waits for all other threads to die, the servers among them.
 */
SEC("tp_btf/sched_prepare_exec")
int BPF_PROG(umcg_exec, struct task_struct *p)
{
	struct umcg_task *t = task_ctx(p);

	if (t)
		t->asked = 0;
	if (t && is_member(t))
		member_gone(p, t, UMCG_R_EXITED);
	return 0;
}

#endif /* __UMCG_GCALL_BPF_H */
