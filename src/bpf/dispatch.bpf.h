/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dispatch: a CPU needs work; the order in which it is looked for.
 *
 * Does:    1. HAND: workers that were chosen or rescued for this CPU, but not
 *             twice in a row, or a crowd of them would shut out all else; and
 *             what waits at a CPU that cannot serve it;
 *          2. the server, if it has to decide or was asked to run;
 *          3. the kernel-fair queue, if it is its turn;
 *          4. prev, if it still wants the CPU and its key is the earliest;
 *          5. a staged choice; else PARK's head; else the kernel-fair queue;
 *          6. the other CPUs' work, nearest first; 7. prev again; 8. PARK once more, because a
 *             failed steal drops the rq lock and a wake may have parked here.
 * State:   umcg_cpu, umcg_server.ring, claims.
 * Called from: ops.dispatch: rq lock held, dropped inside move_to_local.
 * Races:   a staged choice whose worker is not on PARK yet is put back, for the
 *          insert of ops.enqueue takes effect after it returned. A choice whose
 *          tag has moved is stale. `preempt` requests: see there.
 * Never:   moves a worker straight to another CPU's local queue: the kernel
 *          aborts if its affinity changes meanwhile. HAND is skipped instead.
 * Counters: staged, by_key, absent, stolen, kept, refilled, rotated, ring_*.
 */
#ifndef __UMCG_DISPATCH_BPF_H
#define __UMCG_DISPATCH_BPF_H

#include "clock.bpf.h"
#include "explain.bpf.h"
#include "handoff.bpf.h"

#define TAKE_TRIES 4
#define STEAL_TRIES 64

/* What dispatch knows; kept together so that the steps read alike. */
struct umcg_pick {
	struct umcg_cpu *c;
	struct umcg_server *s;
	u64 now;
	s32 cpu;
	u32 waiting;		/* on PARK(cpu) */
	u64 choice;		/* at the ring's head, when it was last looked at */
};

/* Of @waiting on one queue, here or elsewhere, one was taken. */
static __always_inline void count_choice(struct umcg_pick *k, u32 waiting, u32 who)
{
	if (waiting < 2)
		return;
	count_on(k->c, contended);
	if (who == UMCG_C_staged)
		count_on(k->c, staged);
	else if (who == UMCG_C_absent)
		count_on(k->c, absent);
	else
		count_on(k->c, by_key);
}

/* By affinity, and by group. */
static __always_inline bool may_come_to(struct task_struct *p, s32 cpu)
{
	struct umcg_task *t = sys_on() ? task_ctx(p) : NULL;

	return may_run_on(p, cpu) && (!t || sys_allows(t, cpu));
}

/* Moves worker @idx from where it is parked to this CPU. */
static __always_inline bool hand_over(s32 cpu, struct umcg_worker *w, u32 idx,
				      u64 now)
{
	struct task_struct *p = worker_task(idx);
	struct bpf_iter_scx_dsq it;
	bool moved = false;

	if (!p)
		return false;
	if (!may_come_to(p, cpu)) {
		refused(w, now, cpu, p->migration_disabled ?
			UMCG_R_MIGRATION : UMCG_R_AFFINITY);
		return false;
	}
	if (fault(MOVE_FAILS)) {
		refused(w, now, cpu, UMCG_R_QUEUE);
		return false;
	}
	if (!bpf_iter_scx_dsq_new(&it, PARK(w->home & (UMCG_MAX_CPUS - 1)), 0))
		moved = scx_bpf_dsq_move___new(&it, p, HAND(cpu), 0);
	bpf_iter_scx_dsq_destroy(&it);
	if (!moved) {
		refused(w, now, cpu, UMCG_R_QUEUE);
		return false;
	}
	return hand_to_local(cpu);
}

/*
 * HAND is mostly empty, and asking it costs a hash look-up. Its hint is raised
 * after each move to it, and lowered here before it is looked at: a raised one may
 * be wrong, a lowered one never is. pairs with relief_sweep(), hand_over() and
 * server_send(). Not twice in a row: after a pick from HAND all else has its turn.
 */
static __always_inline bool take_hand(struct umcg_pick *k)
{
	u32 hand = READ_ONCE(k->c->hand);

	if (!hand)
		return false;
	/* A full barrier: who raises it from another CPU has queued before. */
	hand = umcg_xchg(&k->c->hand, hand == HAND_TAKEN ? HAND_MAYBE : HAND_EMPTY);
	if (hand == HAND_TAKEN)
		return false;
	if (scx_bpf_dsq_move_to_local(HAND(k->cpu), 0)) {
		WRITE_ONCE(k->c->hand, HAND_TAKEN);
		return true;
	}
	if (scx_bpf_dsq_nr_queued(HAND(k->cpu)))
		WRITE_ONCE(k->c->hand, HAND_MAYBE);
	return false;
}

/* Staged for the very stint that @word, w's word, is about. */
static __always_inline bool choice_true(u64 choice, const struct umcg_worker *w,
					u64 word)
{
	return choice == choice_make(choice >> 32, w->gen, word) &&
	       word_state(word) == UMCG_RUNNABLE;
}

/* May @choice come to @cpu? Taken and put back, it would be behind what it was before. */
static __always_inline bool choice_fits(s32 cpu, u64 choice)
{
	struct task_struct *p = worker_task(choice >> 32);

	return p && may_come_to(p, cpu);
}

/*
 * The next choice that server @home staged and that is still true. Global: the
 * verifier walks it once, not for each place that it is taken from.
 */
__weak int take_staged(s32 cpu, s32 home, u64 now)
{
	struct umcg_server *s = server_rec(home);
	struct umcg_cpu *c = cpu_rec(cpu);
	int i;

	if (!s)
		return false;
	bpf_for(i, 0, TAKE_TRIES) {
		u64 choice = ring_peek(&s->ring), claim, word;
		u32 idx = choice >> 32;
		struct umcg_worker *w;

		if (!choice || (cpu != home && sys_on() && !choice_fits(cpu, choice)))
			return false;
		if (!ring_take_this(&s->ring, choice))
			continue;
		w = worker_rec(idx);
		if (!w)
			continue;
		word = READ_ONCE(w->word);
		if (!choice_true(choice, w, word)) {
			count_on(c, ring_stale);
			continue;
		}
		claim = claim_value(home, word);
		if (!claim_try(w, claim)) {
			refused(w, now, cpu, UMCG_R_CLAIM);
			continue;
		}
		if (hand_over(cpu, w, idx, now))
			return true;
		claim_release(w, claim);
		if (READ_ONCE(w->word) == word && READ_ONCE(w->claim) == 0) {
			count_on(c, ring_retry);
			list_push(s, &s->runnable, home, w, idx, now);
		}
	}
	return false;
}

/* The worker of the first choice that is still true; stale ones are dropped. */
static __always_inline struct umcg_worker *next_choice(struct umcg_pick *k)
{
	int i;

	bpf_for(i, 0, TAKE_TRIES) {
		u64 choice = ring_peek(&k->s->ring);
		struct umcg_worker *w;

		k->choice = choice;
		if (!choice)
			return NULL;
		w = worker_rec(choice >> 32);
		if (w && choice_true(choice, w, READ_ONCE(w->word)))
			return w;
		if (ring_take_this(&k->s->ring, choice))
			count_on(k->c, ring_stale);
	}
	return NULL;
}

/*
 * PARK's head against the next choice. The same worker: taking the head is the
 * cheap way to take the choice. A head that is earlier by more than LAG goes
 * first: staging bounds how much work is ahead of it, this how unfair that is,
 * and a worker that no server knows of is found too.
 */
enum umcg_next { NEXT_HEAD, NEXT_CHOICE, NEXT_BOTH };

static __always_inline u32 head_or_choice(struct umcg_pick *k)
{
	struct umcg_worker *w = next_choice(k);
	u64 key;

	if (!w)
		return NEXT_HEAD;
	if (order_on(k->cpu) == UMCG_ORDER_OWN || !head_key(k->cpu, &key))
		return NEXT_CHOICE;
	if (key == w->key)
		return NEXT_BOTH;
	if (key_before(key + LAG_NS, w->key)) {
		count_on(k->c, ring_head);
		refused(w, k->now, k->cpu, UMCG_R_PASSED);
		return NEXT_HEAD;
	}
	return NEXT_CHOICE;
}

/* The worker that runs here next, of those that wait here. */
static __always_inline bool take_here(struct umcg_pick *k)
{
	if (!k->waiting)
		return false;
	if (staged_on(k->cpu) && k->waiting > 1) {
		u32 next = head_or_choice(k);

		if ((next == NEXT_BOTH && ring_take_this(&k->s->ring, k->choice) &&
		     scx_bpf_dsq_move_to_local(PARK(k->cpu), 0)) ||
		    (next == NEXT_CHOICE && take_staged(k->cpu, k->cpu, k->now))) {
			count_choice(k, k->waiting, UMCG_C_staged);
			return true;
		}
	}
	if (!scx_bpf_dsq_move_to_local(PARK(k->cpu), 0))
		return false;
	k->c->by_key = 1;
	count_choice(k, k->waiting, staged_on(k->cpu) && k->s && server_absent(k->s, k->now) ?
		     UMCG_C_absent : UMCG_C_by_key);
	return true;
}

/* Everything of a CPU that cannot serve it: offline, shut, or held by a higher class. */
static __always_inline bool take_stranded(struct umcg_pick *k, s32 other)
{
	if (!cpu_stranded(other, k->now))
		return false;
	if (is_due(cpu_rec(other)) && dues_put(other, k->cpu, k->now))
		return true;
	if (scx_bpf_dsq_move_to_local(SERVER(other), 0)) {
		count_on(k->c, moved_class);
		return true;
	}
	return scx_bpf_dsq_move_to_local(HAND(other), 0) ||
	       kernelq_take(k->c, other) ||
	       scx_bpf_dsq_move_to_local(PARK(other), 0);
}

/*
 * Of PARK(@other) the first one whose group @cpu serves, to HAND(@cpu). Global, so that the
 * verifier sees it once and not in each round of a thief's search.
 */
__weak int pull_allowed(u32 other, u32 cpu)
{
	struct task_struct *p;
	int moved = 0, looked = 0;

	bpf_rcu_read_lock();	/* as in server_send() */
	bpf_for_each(scx_dsq, p, PARK(other), 0) {
		__sink(looked);
		if (looked++ >= SYS_LOOK)
			break;
		if (!may_come_to(p, cpu))
			continue;
		if (scx_bpf_dsq_move___new(BPF_FOR_EACH_ITER, p, HAND(cpu), 0)) {
			moved = 1;
			break;
		}
	}
	bpf_rcu_read_unlock();
	return moved;
}

/* The first one of PARK(@other) that may run here, by affinity and by group. */
static __always_inline bool take_from(struct umcg_pick *k, s32 other)
{
	if (!sys_on() || !(sys_at(other) & ~sys_at(k->cpu)))
		return scx_bpf_dsq_move_to_local(PARK(other), 0);
	return (sys_at(other) & sys_at(k->cpu)) && pull_allowed(other, k->cpu) &&
	       hand_to_local(k->cpu);
}

/* Global as take_staged() is; so is rotate(). */
__weak int steal(s32 cpu, u64 now)
{
	struct umcg_pick k = { .c = cpu_rec(cpu), .cpu = cpu, .now = now };
	s32 other, waiting;
	bool staged;
	int i;

	bpf_for(i, 0, STEAL_TRIES) {
		if (i + 1 >= umcg_nr_cpus)
			break;
		other = near_cpu(cpu, i);
		if (take_stranded(&k, other))
			return true;
		if (READ_ONCE(cpu_rec(other)->kernel) && kernelq_take(k.c, other))
			return true;
		if (!pending_any())
			continue;
		waiting = scx_bpf_dsq_nr_queued(PARK(other));
		if (waiting <= 0)
			continue;
		staged = staged_on(other) && waiting > 1 && take_staged(cpu, other, now);
		if (staged || take_from(&k, other)) {
			count_on(k.c, stolen);
			count_choice(&k, waiting, staged ? UMCG_C_staged : UMCG_C_by_key);
			return true;
		}
		/* The kernel skips who may not run here and says no more. */
		refused_queue(other, now, cpu);
	}
	return false;
}

/*
 * Is more waiting for CPU @other, which has @there on PARK, than for this one? By
 * number; with cgroups by weight, what runs there included: two hogs of a heavy
 * cgroup on one CPU, two of a light one on the other, would else stay so. A 16th is
 * noise of the averages.
 */
static __always_inline bool is_longer(struct umcg_pick *k, s32 other, s32 there)
{
	struct umcg_cpu *oc = cpu_rec(other);
	u64 mine, theirs;

	if (!(umcg_nr_cgroups || sys_on()) || there <= 0)
		return there > (s32)k->waiting;
	mine = READ_ONCE(k->c->parked_weight) + k->c->cur_weight;
	theirs = READ_ONCE(oc->parked_weight) + (oc->cur_idx ? oc->cur_weight : 0);
	return theirs > mine + mine / 16;
}

/* A neighbour with a longer queue: hogs rotate, so that n of them share fairly. */
__weak int rotate(s32 cpu, u32 waiting)
{
	struct umcg_pick k = { .c = cpu_rec(cpu), .cpu = cpu, .waiting = waiting };
	s32 other, there;

	if (umcg_nr_cpus < 2 || order_on(cpu) != UMCG_ORDER_FAIR)
		return false;
	other = random_other(cpu);
	there = scx_bpf_dsq_nr_queued(PARK(other));
	if (!is_longer(&k, other, there) || !take_from(&k, other))
		return false;
	count_on(k.c, rotated);
	count_choice(&k, there, UMCG_C_by_key);
	return true;
}

static __always_inline void refill(struct umcg_cpu *c, struct task_struct *prev,
				   u64 slice, u64 now)
{
	scx_bpf_task_set_slice(prev, slice);
	c->granted_ns = now - c->picked_ns + slice;
	c->preempting = 0;
}

/*
 * prev still wants the CPU. True: it goes on, or somebody else was put on the
 * local queue.
 */
static __always_inline bool prev_goes_on(struct umcg_pick *k,
					 struct task_struct *prev,
					 struct umcg_task *t, struct umcg_worker *w,
					 u32 kicked)
{
	u64 key, ran = k->now - k->c->picked_ns;
	u32 weight;

	if (kicked && kicked != t->idx && ran < k->c->granted_ns) {
		count_on(k->c, kick_missed);
		refill(k->c, prev, k->c->granted_ns - ran, k->now);
		return true;
	}
	if (t->yielded)
		return false;
	if (rotate(k->cpu, k->waiting))
		return true;
	if (order_on(k->cpu) == UMCG_ORDER_ARRIVAL || !k->waiting || !head_key(k->cpu, &key))
		return false;
	if (staged_on(k->cpu) && ring_peek(&k->s->ring))
		return false;
	weight = worker_weight(prev, t, w);
	if (key_before(key, key_now(prev, t, w, weight, k->now)))
		return false;
	count_on(k->c, kept);
	weight_show(w, k->c, weight);
	clock_follow(prev, t, k->c, k->cpu, weight);
	refill(k->c, prev, worker_slice(w), k->now);
	return true;
}

static __always_inline void dispatch_cpu(s32 cpu, struct task_struct *prev)
{
	struct umcg_pick k = {
		.c = cpu_rec(cpu), .s = server_rec(cpu), .cpu = cpu,
		.now = prev ? pass_now(prev, cpu) : umcg_now(),
	};
	bool wants = prev && (prev->scx.flags & SCX_TASK_QUEUED);
	struct umcg_task *t = wants ? task_ctx(prev) : NULL;
	struct umcg_worker *w = NULL;
	u32 kicked = k.c->kick_idx;
	bool forced = false;

	k.c->dispatch_ns = k.now;
	k.c->kick_idx = 0;
	if (!k.s)
		return;
	if (t && t->kind == UMCG_K_WORKER)
		w = worker_rec(t->idx);
	else if (t && t->kind == UMCG_K_SERVER)
		wants = false;
	else if (t && is_member(t)) {
		u32 next = member_dispatch(cpu, prev, t, k.now);

		if (next == HANDOFF_DONE || next == HANDOFF_KEEP)
			return;
		if (next == HANDOFF_AWAY)
			wants = false;
		else
			w = worker_rec(t->idx);
	}
	if (is_due(k.c) && dues_put(cpu, cpu, k.now))
		return;
	if (w && (t->at_user || sys_leaves(prev, t, w, cpu))) {
		w = NULL;	/* it goes to THROTTLE, or to a CPU of its group */
		wants = false;
	}
	if (w)
		forced = request_stands(w) || is_endless(k.c);

	if (take_hand(&k))
		return;
	if (READ_ONCE(umcg_helpless) && take_stranded(&k, random_other(cpu)))
		return;
	k.waiting = scx_bpf_dsq_nr_queued(PARK(cpu));
	if (!k.waiting)
		k.c->want = WANT_NOBODY;
	if (server_needed(k.s, cpu, k.c, k.waiting, k.waiting + !!w, k.now) &&
	    server_run(k.s, cpu))
		return;
	if (kernelq_waits(k.c, cpu) &&
	    (kernelq_turn(k.c, k.waiting) || !(k.waiting || wants)) && kernelq_take(k.c, cpu))
		return;
	if (w && !forced && prev_goes_on(&k, prev, t, w, kicked))
		return;
	if (take_here(&k))
		return;
	if ((READ_ONCE(k.c->kernel) && kernelq_take(k.c, cpu)) || take_hand(&k))
		return;
	/* A shut one would draw work to its queues and could run none of it. */
	if (!wants && !cpu_shut(cpu, k.now) && steal(cpu, k.now))
		return;
	/* A lone worker of a nohz_full CPU comes back by ENQ_LAST, see lone_slice(). */
	if (wants && !forced && !(w && is_nohz(cpu))) {
		count_on(k.c, refilled);
		if (t)
			t->yielded = 0;
		if (w)
			clock_follow(prev, t, k.c, cpu, worker_weight(prev, t, w));
		refill(k.c, prev, w ? worker_slice(w) : KERNEL_SLICE_NS, k.now);
		return;
	}
	if (scx_bpf_dsq_move_to_local(PARK(cpu), 0))
		return;
	if (!wants)
		idle_retry(k.c, cpu);
}

#endif /* __UMCG_DISPATCH_BPF_H */
