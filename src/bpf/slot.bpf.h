/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * slot: a server's share of the machine goes to one worker at a time, and back.
 *
 * Does:    1. claim: a worker that waits gets the slot (cmpxchg on its `slot`);
 *          2. leave: who stops running gives it up (xchg), writes the event and
 *             lets the server go on;
 *          3. due: members that have to be put on a CPU, a list per CPU that
 *             its next dispatch takes; only dispatch can queue a held task;
 *          4. the lists of servers: links of workers; tell.bpf.h says when.
 * State:   umcg_member.slot/cur/held/ev_*, umcg_cpu.due, desks.
 * Called from: dispatch, enqueue, quiescent, disable (rq lock); timer; SYSCALL
 *          programs under RCU.
 * Races:   server parks in run()       | its worker leaves, maybe elsewhere
 *            held = 1 (full barrier)   |   cur = 0 (full barrier)
 *            cur == 0? held 1 -> 0     |   held 1 -> 0?
 *          and for the claim
 *          worker is held in enqueue   | a server claims it
 *            held = 1 (full barrier)   |   slot 0 -> server (full barrier)
 *            slot != 0? held 1 -> 0    |   held 1 -> 0?
 *          One sees the other; if both do, the cmpxchg decides who queues it.
 *          A claim of a worker that blocks meanwhile: its quiescent writes the
 *          word, then takes the slot; the claimer looks at the word again.
 *          A claim that comes too late takes the slot back, from a worker that may
 *          run with it by then: who passes a slot on takes it off itself first,
 *          by cmpxchg or xchg, and only then is it its own.
 * Never:   a server's own next slot per CPU: it is overwritten when dispatch is
 *          skipped because the local queue is not empty.
 * Counters: grp_back, grp_late, grp_shared, lst_*.
 */
#ifndef __UMCG_SLOT_BPF_H
#define __UMCG_SLOT_BPF_H

#include "gidle.bpf.h"
#include "idle.bpf.h"

#define SLOT_MIN_NS (50 * NSEC_PER_USEC)
#define DUE_TRIES 64

/*
 * Due lists, one per CPU: head = tag << 32 | record index, LIFO. Any CPU pushes;
 * its own dispatch pops, and that of others when it is stranded: the tag makes
 * the cmpxchg of the head safe. `linked` belongs to the record index, so that a
 * task that took over the record of a dead one cannot link it twice.
 */
struct umcg_due {
	u32 next;
	u32 linked;
} umcg_dues[UMCG_MAX_WORKERS] SEC(".bss.dues");

static __always_inline struct umcg_due *due_of(u32 sys)
{
	barrier_var(sys);
	return &umcg_dues[sys & (UMCG_MAX_WORKERS - 1)];
}

static __always_inline bool due_push(s32 cpu, u32 sys)
{
	struct umcg_cpu *c = cpu_rec(cpu);
	struct umcg_due *d = due_of(sys);
	u64 old, got;
	int i;

	if (umcg_xchg(&d->linked, 1))
		return true;
	if (fault(DUE_FULL))
		goto give_up;
	old = READ_ONCE(c->due);
	bpf_for(i, 0, DUE_TRIES) {
		WRITE_ONCE(d->next, (u32)old);
		got = umcg_cmpxchg(&c->due, old, ((old >> 32) + 1) << 32 | sys);
		if (got == old)
			return true;
		old = got;
	}
give_up:
	umcg_xchg(&d->linked, 0);
	return false;
}

static __always_inline u32 due_pop(struct umcg_cpu *c)
{
	u64 old = READ_ONCE(c->due), got;
	int i;

	bpf_for(i, 0, DUE_TRIES) {
		struct umcg_due *d = due_of(old);

		if (!(u32)old)
			return 0;
		got = umcg_cmpxchg(&c->due, old,
				   ((old >> 32) + 1) << 32 | READ_ONCE(d->next));
		if (got == old) {
			umcg_xchg(&d->linked, 0);
			return old;
		}
		old = got;
	}
	return 0;
}

/* @t gives the slot away and leaves its time, which is @v. */
static __always_inline void slot_store(struct umcg_member *s, const struct umcg_task *t, u64 v)
{
	s->slot_v = v;
	WRITE_ONCE(s->slot_cpu, t->clock_cpu);
}

/* @t has the slot, and takes its time. */
static __always_inline void slot_load(struct umcg_member *s, struct umcg_task *t)
{
	s32 cpu = READ_ONCE(s->slot_cpu);

	if (cpu < 0)
		return;
	t->v = s->slot_v;
	t->clock_cpu = cpu;
	WRITE_ONCE(s->slot_cpu, -1);
}

/*
 * The same for a server, which may have run beside its worker: the later of its own time and
 * what the worker left stands, or one of the two would run for nothing.
 */
static __always_inline void slot_join(struct umcg_member *s, struct umcg_task *t)
{
	s32 cpu = READ_ONCE(s->slot_cpu);

	if (cpu < 0)
		return;
	if (key_before(v_on(t, cpu), s->slot_v))
		slot_load(s, t);
	WRITE_ONCE(s->slot_cpu, -1);
}

static __always_inline bool unhold(struct umcg_member *m)
{
	return READ_ONCE(m->held) && umcg_cmpxchg(&m->held, 1, 0) == 1;
}

/* Has held member @m put on @cpu. A list that is full of races: the sweep retries. */
static __always_inline void make_due(struct umcg_member *m, s32 cpu)
{
	if (!due_push(cpu, m->sys))
		umcg_xchg(&m->held, 1);
}

static __always_inline void server_ring(struct umcg_member *s, struct umcg_desk *desk)
{
	u32 bell_nr = s->bell;
	u64 msg = bell_nr;
	void *bell;

	if (!READ_ONCE(desk->asleep) || !umcg_xchg(&desk->asleep, 0))
		return;
	bell = bpf_map_lookup_elem(&umcg_group_bells, &bell_nr);
	if (bell && !fault(BELL_FULL) && !bpf_ringbuf_output(bell, &msg, sizeof(msg), BPF_RB_FORCE_WAKEUP)) {
		count(server_wakes);
		return;
	}
	umcg_xchg(&desk->asleep, 1);
	count(server_wake_fail);
	/* pairs with the library's poll(); the sweep tries again */
}

static __always_inline bool is_live(const struct umcg_group *head, u32 server)
{
	return READ_ONCE(head->servers) & server_bit(server);
}

/* Answers the request of member @m, index @idx. */
static __always_inline void answer(struct umcg_member *m, u32 reason, s32 nr)
{
	m->ev_reason = reason;
	m->ev_nr = nr;
	umcg_xchg(&m->ev_seq, m->ev_seq + 1);
}

static __always_inline void refuse(struct umcg_member *m, s32 err)
{
	m->op = UMCG_OP_NONE;
	answer(m, UMCG_R_REFUSED, err);
	count(grp_refused);
}

/*
 * Worker @w, whose time is @v by now, has no slot any more. Returns the server that has it
 * back, with the event and the time written; NULL: it had none. The caller lets it go on.
 */
static __always_inline struct umcg_member *slot_leave(void *truth, struct umcg_member *w,
						      const struct umcg_task *t, u64 v,
						      u32 reason, s32 nr, u64 now, u32 *server)
{
	struct umcg_group *head;
	struct umcg_member *s;
	u32 si, idx = t->member;

	if (!READ_ONCE(w->slot))
		return NULL;
	si = planted(DOUBLE_RUN) ? READ_ONCE(w->slot) : umcg_xchg(&w->slot, 0);
	if (!si)
		return NULL;
	s = member_at(truth, si);
	head = group_head(truth);
	/* One that has left may have been passed on what it gave up. */
	if (!s || !head || !is_live(head, si) || READ_ONCE(s->cur) != idx)
		return NULL;
	*server = si;
	s->ev_who = member_id(w, idx);
	s->ev_tag = w->word;
	s->ev_at_ns = now;
	s->ev_run_ns = w->run_ns;
	s->ev_wait_ns = w->wait_ns;
	slot_store(s, t, v);	/* its server may run, and ask for the next run at once */
	answer(s, reason, nr);
	if (!planted(STUCK_SLOT))
		umcg_xchg(&s->cur, 0);
	count(grp_back);
	return s;
	/* pairs with server_hold() */
}

/* Server @s, index @si, has its slot back and goes on, at @cpu if it is held. */
static __always_inline void server_continue(const struct umcg_task *t,
					    struct umcg_member *s, u32 si, s32 cpu)
{
	struct umcg_desk *desk;
	void *desks;

	if (unhold(s)) {
		make_due(s, cpu);
		return;
	}
	desks = desks_of(t);
	desk = desks ? desk_at(desks, si) : NULL;
	if (desk)
		server_ring(s, desk);
}

/* Where to put a member that has to run and whose CPU may be busy. */
static __always_inline void kick_for(struct umcg_member *m, s32 cpu)
{
	struct umcg_cpu *c = cpu_rec(cpu);

	if (READ_ONCE(c->idle_since_ns))
		kick(cpu, SCX_KICK_IDLE);
	else
		want_raise(c, WANT_HOG);
	/* pairs with idle_changed(): going idle just now, it sees what is due */
}

/*
 * A server that has news is as good as a wakee: where the slot beats who runs, it does
 * not wait for the tick. -1: nowhere.
 */
static __always_inline s32 slot_beats(struct task_struct *p, struct umcg_member *s)
{
	struct umcg_task *t = task_ctx(p);
	struct umcg_worker *w = worker_rec(s->sys);
	s32 cpu;

	if (order_on(scx_bpf_task_cpu(p)) != UMCG_ORDER_FAIR || !t || !w || w->class_ == UMCG_CLASS_IDLE)
		return -1;
	slot_load(s, t);
	cpu = find_beaten(p, t, w, scx_bpf_task_cpu(p), umcg_now());
	if (cpu >= 0)
		cpu_rec(cpu)->preempting = 1;
	return cpu;
}

/* An idle CPU for @p, of its system group; taken. -1: there is none. */
static __always_inline s32 member_idle_cpu(struct task_struct *p)
{
	struct umcg_task *t = sys_on() ? task_ctx(p) : NULL;
	s32 cpu = scx_bpf_task_cpu(p);

	if (!t || !sys_narrow(t))
		return scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (sys_allows(t, cpu) && scx_bpf_test_and_clear_cpu_idle(cpu))
		return cpu;
	if (is_held(p) || p->nr_cpus_allowed == 1)
		return -1;
	return sys_find(p, t->sys, cpu, 1);
}

/* Held, not needed where it was: an idle CPU, one that it beats, or its own. */
static __always_inline void release(struct umcg_member *m)
{
	struct task_struct *p = worker_task(m->sys);
	s32 cpu;

	if (!p) {
		umcg_xchg(&m->held, 1);
		return;
	}
	cpu = member_idle_cpu(p);
	if (cpu < 0 && m->kind == UMCG_M_SERVER) {
		cpu = slot_beats(p, m);
		if (cpu >= 0) {
			make_due(m, cpu);
			kick(cpu, SCX_KICK_PREEMPT);
			return;
		}
	}
	if (cpu < 0)
		cpu = scx_bpf_task_cpu(p);
	make_due(m, cpu);
	kick_for(m, cpu);
}

/* Global: the verifier walks it once, not for each member that a loop meets. */
__weak int release_to(struct umcg_member *m __arg_nonnull)
{
	bpf_rcu_read_lock();	/* SYSCALL programs come here, too */
	release(m);
	bpf_rcu_read_unlock();
	return 0;
}

/* The relief valve lets held member @m run. */
static __always_inline void let_run(struct umcg_member *m)
{
	if (!unhold(m))
		return;
	count(grp_unheld);
	release_to(m);
}

static __always_inline bool has_news(const struct umcg_desk *desk)
{
	return (u32)READ_ONCE(desk->runnable) || READ_ONCE(desk->resync) ||
	       READ_ONCE(desk->poked);
}

/* Server @si has news: if it waits for events, it looks. One with a worker looks later. */
static __always_inline void server_poke(void *truth, void *desks, u32 si)
{
	struct umcg_member *s = member_at(truth, si);
	struct umcg_desk *desk;

	if (!s || s->kind != UMCG_M_SERVER || READ_ONCE(s->cur))
		return;
	/* Without a request it comes back from its wait and is no ghost. */
	if (READ_ONCE(s->op) == UMCG_OP_NEXT &&
	    umcg_cmpxchg(&s->op, UMCG_OP_NEXT, UMCG_OP_NONE) == UMCG_OP_NEXT && unhold(s)) {
		release_to(s);
		return;
	}
	desk = desk_at(desks, si);
	if (desk)
		server_ring(s, desk);
	/* pairs with server_hold(), and with the library's poll() */
}

/*
 * Server @si, whose desk is @desk, walks the truth: there may be RUNNABLE workers that are
 * on no list of its. It is not told to end its wait: it finds them, or waits on.
 */
static __always_inline void server_resync(void *truth, void *desks, u32 si,
					  struct umcg_desk *desk)
{
	umcg_xchg(&desk->resync, 1);
	server_poke(truth, desks, si);
}

/* Server @idx, whose record is @s, as links name it. */
static __always_inline u32 owner_of(const struct umcg_member *s, u32 idx)
{
	return s->gen << UMCG_OWNER_GEN_SHIFT | idx;
}

/* A worker's link is on the list of @owner, which will look. */
static __always_inline bool is_listed(const struct umcg_group *head, void *truth, u32 owner)
{
	u32 idx = owner & UMCG_OWNER_INDEX;
	struct umcg_member *s;

	if (!idx || idx > UMCG_GROUP_SERVERS || !is_live(head, idx))
		return false;
	s = member_at(truth, idx);
	return s && owner_of(s, idx) == owner;
}

/* @home, or another server if it has left. 0: there is none. */
static __always_inline u32 live_home(const struct umcg_group *head, void *truth, u32 home)
{
	struct umcg_member *s = home ? member_at(truth, home) : NULL;
	u64 live = READ_ONCE(head->servers);

	if (s && s->kind == UMCG_M_SERVER)
		return home;
	return live ? __builtin_ctzll(live) + 1 : 0;
}

/*
 * RUNNABLE workers may be on no server's list, or on that of one that has left: one that
 * waits looks, else any. Global: the verifier walks it once.
 */
__weak int have_adopted(u32 g)
{
	struct umcg_group *head;
	struct umcg_desk *desk;
	void *truth, *desks;
	u32 si;

	bpf_rcu_read_lock();	/* SYSCALL programs come here, too */
	truth = bpf_map_lookup_elem(&umcg_truths, &g);
	desks = bpf_map_lookup_elem(&umcg_desks, &g);
	head = truth ? group_head(truth) : NULL;
	if (head && desks) {
		si = idle_take(head, truth, 0).server ?: live_home(head, truth, 0);
		desk = si ? desk_at(desks, si) : NULL;
		/* None: the first server that registers walks the truth. */
		if (desk)
			server_resync(truth, desks, si, desk);
	}
	bpf_rcu_read_unlock();
	return 0;
}

/*
 * Links worker @w, index @idx, with server @s, index @si, unless it is on a live server's
 * list: that one will look. False: somebody else has to look, as for one that has left.
 */
static __always_inline bool desk_push(const struct umcg_group *head, void *truth,
				      const struct umcg_member *s, u32 si,
				      struct umcg_desk *list, struct umcg_desk *w, u32 idx)
{
	u32 mine = owner_of(s, si), owner = umcg_cmpxchg(&w->queued, 0, mine);
	u64 begin = (u64)(mine >> UMCG_OWNER_GEN_SHIFT) << 32, old, seen;
	int i;

	if (owner) {
		if (is_listed(head, truth, owner)) {
			count(lst_dup);
			return true;
		}
		if (umcg_cmpxchg(&w->queued, owner, mine) != owner)
			return true;
	}
	if (fault(LIST_FULL))
		goto give_up;
	old = READ_ONCE(list->runnable);
	for (i = 0; i < UMCG_PUSH_TRIES; i++) {
		if ((old ^ begin) >> 32)
			break;	/* the list of another one, or garbage */
		WRITE_ONCE(w->next, (u32)old);
		seen = umcg_cmpxchg(&list->runnable, old, begin | idx);
		if (seen == old) {
			count(lst_push);
			return true;
		}
		old = seen;
		count(lst_race);
	}
give_up:
	umcg_cmpxchg(&w->queued, mine, 0);
	count(lst_resync);
	return false;
	/* pairs with the library's drain: queued = 0 (full), then reads the word */
}

#endif /* __UMCG_SLOT_BPF_H */
