/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * server: the agent's threads: when one runs, parks, sleeps and is missed.
 *
 * Does:    1. a server that yields parks on SERVER(cpu), runnable but not run,
 *             unless its CPU has nothing else to do;
 *          2. dispatch gives it the CPU when server_needed() says so: this is
 *             level-triggered, so no wake can be lost between its last look at
 *             its lists and the parking;
 *          3. one that sleeps for real is woken by one message per sleep;
 *          4. one that is needed and cannot be had is absent: the kernel's order
 *             serves its workers, visibly, until it runs again.
 * State:   struct umcg_server; the sleep protocol stands there.
 * Called from: enqueue, dispatch, running, stopping, quiescent, yield, timer.
 * Races:   server about to sleep | BPF makes work
 *            asleep = 1          |   push, or must = 1
 *            full barrier        |   full barrier (the cmpxchg of the push)
 *            looks at the lists  |   xchg(asleep, 0) == 1 -> message
 *          One of the two sees the other.
 * Never:   pins a server: SERVER(cpu) is drained by others when cpu is held by
 *          a higher class, shut or offline. One whose affinity leaves its own CPU out
 *          (taskset, a cpuset) waits there all the same, but runs from
 *          HAND of the CPU where it last was: server_enqueue(), server_send().
 * Counters: activations, server_wakes, server_wake_fail, moved_class.
 */
#ifndef __UMCG_SERVER_BPF_H
#define __UMCG_SERVER_BPF_H

#include "record.bpf.h"
#include "ring.bpf.h"

#define GRACE_NS (2 * NSEC_PER_MSEC)
#define BATCH_NOTICES 64
#define BATCH_NS (16 * NSEC_PER_MSEC)
#define BATCH_WANT_NS (16 * NSEC_PER_MSEC)
#define BATCH_IDLE_NS (4000 * NSEC_PER_MSEC)
#define PARK_MAX_NS (8 * NSEC_PER_MSEC)
#define HELD_NS (500 * NSEC_PER_MSEC)

/* A sleeping server waits in epoll on its ring buffer. */
struct umcg_bell {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, UMCG_MAX_CPUS);
	__type(key, u32);
	__array(values, struct umcg_bell);
} umcg_bells SEC(".maps");

/* Between the end of its being active and ops.cpu_offline; see shut_sweep(). */
static __always_inline bool cpu_shut(s32 cpu, u64 now)
{
	return now < READ_ONCE(cpu_own(cpu)->shut_until_ns);
}

/* No worker, no dispatch for so long: offline, or a higher class holds it. */
static __always_inline bool cpu_stranded(s32 cpu, u64 now)
{
	struct umcg_cpu *c = cpu_rec(cpu);

	return c->offline || cpu_shut(cpu, now) ||
	       (!c->idle_since_ns && !c->cur_idx && now > c->dispatch_ns + HELD_NS);
}

static __always_inline void server_wake(struct umcg_server *s, u32 cpu)
{
	u64 msg = cpu;
	void *bell;

	if (!READ_ONCE(s->asleep) || !umcg_xchg(&s->asleep, 0))
		return;
	bell = bpf_map_lookup_elem(&umcg_bells, &cpu);
	if (bell && !fault(BELL_FULL) && !bpf_ringbuf_output(bell, &msg, sizeof(msg), BPF_RB_FORCE_WAKEUP)) {
		count(server_wakes);
		return;
	}
	umcg_xchg(&s->asleep, 1);
	WRITE_ONCE(s->must, 1);
	count(server_wake_fail);
}

static __always_inline bool server_has_news(struct umcg_server *s)
{
	return READ_ONCE(s->runnable.head) || READ_ONCE(s->blocked.head) ||
	       READ_ONCE(s->resync);
}

/*
 * Is there anything that this server should decide now? @waiting are parked here,
 * @rivals want this CPU: they and, if it goes on, prev.
 */
static __always_inline bool server_needed(struct umcg_server *s, s32 cpu,
					  struct umcg_cpu *c, u32 waiting,
					  u32 rivals, u64 now)
{
	u64 since = now - c->act_ns;

	if (READ_ONCE(s->must))
		return true;
	if (staged_on(cpu)) {
		/* A policy with an order of its own has prev to compare as well. */
		if ((order_on(cpu) == UMCG_ORDER_OWN ? rivals : waiting) < 2 ||
		    ring_peek(&s->ring))
			return false;
		return server_has_news(s) || READ_ONCE(s->backlog);
	}
	if (tick_on(cpu) && since >= tick_on(cpu))
		return true;
	if (!server_has_news(s))
		return false;
	/* No choice to make, only notices to be read some day. */
	if (rivals < 2 && READ_ONCE(s->unread) < BATCH_NOTICES)
		return since >= BATCH_IDLE_NS;
	/* A short wakee waits for this CPU: the agent must not be in its way. */
	if (c->want && waiting && since < BATCH_WANT_NS)
		return false;
	return READ_ONCE(s->unread) >= BATCH_NOTICES || since >= BATCH_NS;
}

/*
 * Puts the server on this CPU. False: it is asleep (and woken now), blocked,
 * stopped, or may not run here and is sent elsewhere by the timer: the caller
 * goes on without it.
 */
static __always_inline bool server_run(struct umcg_server *s, u32 cpu)
{
	if (scx_bpf_dsq_move_to_local(SERVER(cpu), 0))
		return true;
	if (READ_ONCE(s->parked))
		WRITE_ONCE(s->must, 1);
	server_wake(s, cpu);
	return false;
}

/* From the timer: a server that must run and may not do so on its own CPU. */
static __always_inline void server_send(s32 cpu)
{
	struct task_struct *p;

	bpf_rcu_read_lock();	/* before 6.18 the verifier takes the timer for a part of umcg_init */
	bpf_for_each(scx_dsq, p, SERVER(cpu), 0) {
		s32 seat = scx_bpf_task_cpu(p);

		if (!may_run_on(p, cpu) &&
		    scx_bpf_dsq_move___new(BPF_FOR_EACH_ITER, p, HAND(seat), 0)) {
			WRITE_ONCE(cpu_rec(seat)->hand, HAND_MAYBE);	/* pairs with take_hand() */
			kick(seat, SCX_KICK_IDLE);
		}
		break;
	}
	bpf_rcu_read_unlock();
}

/* Asked of a staged policy: a keyed one is never waited for. */
static __always_inline bool server_absent(struct umcg_server *s, u64 now)
{
	u64 unread = READ_ONCE(s->unread_ns);

	return word_state(READ_ONCE(s->word)) == UMCG_BLOCKED ||
	       (unread && now - unread > GRACE_NS && !READ_ONCE(s->parked) &&
		server_has_news(s));
}

static __always_inline void server_enqueue(struct task_struct *p,
					   struct umcg_task *t, u64 enq_flags,
					   u64 now)
{
	u32 cpu = t->server;
	struct umcg_server *s = server_rec(cpu);
	struct umcg_cpu *c = cpu_rec(cpu);

	if (!s)
		return;
	/* Nobody else wants the CPU: it runs on, finds nothing and sleeps for real.
	 * Parked it would count as load and as pressure of an idle machine. */
	if (enq_flags & SCX_ENQ_LAST) {
		t->yielded = 0;
		count(enq_last);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, base_slice(), 0);
		return;
	}
	if (t->yielded) {
		t->yielded = 0;
		WRITE_ONCE(s->parked_ns, now);
		WRITE_ONCE(s->parked, 1);
	} else {
		WRITE_ONCE(s->must, 1);
		if (!may_run_on(p, cpu)) {
			s32 seat = scx_bpf_task_cpu(p);

			/* Before the insert, which dispatch there waits for: rq lock. */
			WRITE_ONCE(cpu_rec(seat)->hand, HAND_MAYBE);
			scx_bpf_dsq_insert(p, HAND(seat), base_slice(), 0);
			if (cpu_rec(seat)->idle_since_ns)
				kick(seat, SCX_KICK_IDLE);
			return;
		}
	}
	scx_bpf_dsq_insert(p, SERVER(cpu), base_slice(), 0);
	if (READ_ONCE(s->must) && c->idle_since_ns)
		kick(cpu, SCX_KICK_IDLE);
}

static __always_inline void server_running(struct umcg_task *t, u64 now)
{
	u32 cpu = t->server;
	struct umcg_server *s = server_rec(cpu);

	if (!s)
		return;
	word_move(&s->word, &s->since_ns, FROM_ANY, UMCG_RUNNING, now);
	WRITE_ONCE(s->parked, 0);
	WRITE_ONCE(s->must, 0);
	WRITE_ONCE(s->unread_ns, 0);
	WRITE_ONCE(s->ran_ns, now);
	cpu_rec(cpu)->act_ns = now;
	count(activations);
}

static __always_inline void server_stopping(const struct task_struct *p,
					    struct umcg_task *t, bool runnable,
					    struct umcg_cpu *c, u64 now)
{
	struct umcg_server *s = server_rec(t->server);

	count_add(c, server_ns, p->se.sum_exec_runtime - t->exec);
	t->exec = p->se.sum_exec_runtime;
	if (s && runnable)
		word_move(&s->word, &s->since_ns, FROM_ANY,
			  t->yielded ? UMCG_IDLE : UMCG_RUNNABLE, now);
}

/* Asleep by its own wish is IDLE; anything else that stops it is BLOCKED. */
static __always_inline void server_quiescent(const struct task_struct *p,
					     struct umcg_task *t, u64 now)
{
	struct umcg_server *s = server_rec(t->server);
	u64 state = UMCG_IDLE;

	if (!s)
		return;
	if (p->__state & (__TASK_STOPPED | __TASK_TRACED))
		state = UMCG_BLOCKED | UMCG_F_STOPPED;
	else if (!READ_ONCE(s->asleep))
		state = UMCG_BLOCKED;
	word_move(&s->word, &s->since_ns, FROM_ANY, state, now);
}

#endif /* __UMCG_SERVER_BPF_H */
