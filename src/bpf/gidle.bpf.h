/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * gidle: which servers of a group wait for events, and which of them a waker gets.
 *
 * Does:    three structures behind one interface, `idle_kind` of the group says which:
 *          idle_put()      server: it waits from here on;
 *          idle_take()     waker: one server that waits, its own to wake;
 *          idle_drop()     server: it goes on by itself, or leaves;
 *          idle_collect()  whose thread is in user space: deleted entries go.
 * State:   umcg_member.idle of servers, umcg_group.idle, idle_top, idle_end.
 * Called from: put: enqueue (rq lock); drop: running, disable, unregister; take:
 *          enqueue, timer, SYSCALL programs under RCU; collect: a SYSCALL program.
 * Races:   waker                      | server
 *            makes its news visible   |   put
 *            take                     |   looks at its news
 *          All four are full barriers: take finds it, or it finds the news. Each way
 *          out of WAITS is one atomic change of one word: one has the server.
 * Never:   follows a link that a client can write: entries are in the truth map.
 *          Waits for anybody: each loop is bounded and makes progress or gives up.
 * Counters: idl_none, idl_steps, idl_deleted, idl_race.
 *
 * Costs and the choice between the three: docs/idle-servers.md.
 */
#ifndef __UMCG_GIDLE_BPF_H
#define __UMCG_GIDLE_BPF_H

#include "group.bpf.h"

#define PUT_TRIES 64
#define COLLECT_TRIES 64

struct umcg_taken {
	u32 server;	/* 0: none waits */
	bool waits;	/* it did; else it is RUNNING its own code */
};

static __always_inline u32 entry_state(u64 entry)
{
	return entry;
}

static __always_inline u64 entry_of(u32 below, u32 state)
{
	return (u64)below << UMCG_E_BELOW_SHIFT | state;
}

/* The entry goes from WAITS to @to, by one of those who try. */
static __always_inline bool entry_leave(struct umcg_member *m, u32 to)
{
	u64 entry = READ_ONCE(m->idle);
	u32 below = entry >> UMCG_E_BELOW_SHIFT;

	return entry_state(entry) == UMCG_E_WAITS &&
	       umcg_cmpxchg(&m->idle, entry, entry_of(below, to)) == entry;
}

static __always_inline void count_steps(u32 steps)
{
	this_cpu_rec()->cnt[UMCG_C_idl_steps] += steps;
}

/* ---- ring: the records themselves, in a circle ---- */

/* Looks at its list before it waits. */
static __always_inline bool runs_itself(const struct umcg_member *m)
{
	return m->kind == UMCG_M_SERVER && !READ_ONCE(m->cur) &&
	       word_state(READ_ONCE(m->word)) == UMCG_RUNNING;
}

enum walk_found { WALK_NONE, WALK_WAITS, WALK_RUNS };

/*
 * One step. A function of its own for 6.18's verifier: its way back over the calls of the
 * loop must not meet scratch registers ("backtracking call unexpected regs").
 */
static __noinline u32 walk_step(struct umcg_member *m, u32 to, bool running)
{
	if (!m)
		return WALK_NONE;
	if (entry_leave(m, to))
		return WALK_WAITS;
	return running && runs_itself(m) ? WALK_RUNS : WALK_NONE;
}

/* The first server from @home that waits, else the first that runs its own code. */
static __always_inline struct umcg_taken walk_take(struct umcg_group *head, void *truth,
						   u32 home, u32 to)
{
	struct umcg_taken taken = {};
	u32 end = READ_ONCE(head->idle_end), steps = 0, found, idx, i;
	struct umcg_member *m;

	if (!home || home > end)
		home = 1;
	bpf_for(i, 0, end) {
		idx = home + i;
		if (idx > end)
			idx -= end;
		m = member_at(truth, idx);
		if (!m)
			break;
		steps++;
		found = walk_step(m, to, !taken.server);
		if (found != WALK_NONE)
			taken.server = idx;
		taken.waits = found == WALK_WAITS;
		if (taken.waits)
			break;
	}
	count_steps(steps);
	return taken;
}

/* ---- stack ---- */

/* Takes the top @idx, of which @top was read, off: its entry is ours to make OUT. */
static __always_inline bool stack_pop(struct umcg_group *head, struct umcg_member *m,
				      u64 top)
{
	u32 below = READ_ONCE(m->idle) >> UMCG_E_BELOW_SHIFT;

	if (umcg_cmpxchg(&head->idle_top, top, ((top >> 32) + 1) << 32 | below) == top)
		return true;
	count(idl_race);
	return false;
}

/* Linked as a deleted one: who pops it now takes nobody, and the put begins anew. */
static __always_inline bool stack_link(struct umcg_group *head, struct umcg_member *m,
				       u32 idx)
{
	u64 top = READ_ONCE(head->idle_top), seen;
	int i;

	bpf_for(i, 0, PUT_TRIES) {
		WRITE_ONCE(m->idle, entry_of(top, UMCG_E_DELETED));
		seen = umcg_cmpxchg(&head->idle_top, top, ((top >> 32) + 1) << 32 | idx);
		if (seen == top)
			return true;
		count(idl_race);
		top = seen;
	}
	WRITE_ONCE(m->idle, entry_of(0, UMCG_E_OUT));
	return false;
}

static __always_inline bool stack_put(struct umcg_group *head, struct umcg_member *m,
				      u32 idx)
{
	u64 entry;
	int i;

	bpf_for(i, 0, PUT_TRIES) {
		entry = READ_ONCE(m->idle);
		if (entry_state(entry) == UMCG_E_WAITS)
			return true;
		if (entry_state(entry) == UMCG_E_OUT) {
			if (!stack_link(head, m, idx))
				return false;
			continue;
		}
		if (umcg_cmpxchg(&m->idle, entry, entry_of(entry >> UMCG_E_BELOW_SHIFT,
							   UMCG_E_WAITS)) == entry)
			return true;
	}
	return false;
	/* pairs with stack_take() */
}

static __always_inline struct umcg_taken stack_take(struct umcg_group *head, void *truth,
						    u32 home)
{
	struct umcg_taken taken = { .waits = true };
	struct umcg_member *m = member_at(truth, home);
	bool more = true;
	u32 steps = 1, i;
	u64 top;

	if (home && m && entry_leave(m, UMCG_E_DELETED)) {
		count_steps(steps);
		taken.server = home;
		return taken;
	}
	bpf_for(i, 0, UMCG_IDLE_POPS) {
		top = READ_ONCE(head->idle_top);
		m = (u32)top ? member_at(truth, top) : NULL;
		if (!m) {
			more = false;
			break;
		}
		steps++;
		if (!stack_pop(head, m, top))
			continue;
		if (entry_state(umcg_xchg(&m->idle, 0)) == UMCG_E_WAITS) {
			taken.server = top;
			more = false;
			break;
		}
		count(idl_deleted);
	}
	count_steps(steps);
	if (!more)
		return taken;
	/* Below what was met there may be one that waits: no wake is lost for that. */
	taken = walk_take(head, truth, home, UMCG_E_DELETED);
	if (!taken.waits)
		taken.server = 0;
	return taken;
	/* pairs with stack_put() */
}

/*
 * Deleted entries on top go, by a thread that has nothing better to do. One of them may
 * be put again while it is popped: it is taken then, returned, and has to be told to look.
 */
static __always_inline u32 idle_collect(struct umcg_group *head, void *truth)
{
	struct umcg_member *m;
	u64 top;
	int i;

	if (head->idle_kind != UMCG_IDLE_STACK)
		return 0;
	bpf_for(i, 0, COLLECT_TRIES) {
		top = READ_ONCE(head->idle_top);
		m = (u32)top ? member_at(truth, top) : NULL;
		if (!m || entry_state(READ_ONCE(m->idle)) != UMCG_E_DELETED)
			return 0;
		if (!stack_pop(head, m, top))
			continue;
		if (entry_state(umcg_xchg(&m->idle, 0)) == UMCG_E_WAITS)
			return top;
		count(idl_deleted);
	}
	return 0;
	/* pairs with stack_put() */
}

/* ---- mask ---- */

#define MASK_BITS 64

/* Of servers 64 * @word + 1 and on: in the header, then in the first one's record. */
static __always_inline u64 *mask_word(struct umcg_group *head, void *truth, u32 word)
{
	struct umcg_member *m;

	if (!word)
		return &head->idle;
	m = member_at(truth, word * MASK_BITS + 1);
	if (!m)
		return NULL;
	barrier_var(m);	/* clang adds the offset before the check */
	return &m->idle;
}

static __always_inline bool mask_clear(u64 *word, u64 bit)
{
	return (READ_ONCE(*word) & bit) && (__sync_fetch_and_and(word, ~bit) & bit);
}

/* 1 + the lowest bit that is set, and was cleared by us; 0: all are clear. */
static __always_inline u32 mask_clear_any(u64 *word)
{
	u64 bits;
	u32 i;

	bpf_for(i, 0, MASK_BITS) {
		bits = READ_ONCE(*word);
		if (!bits)
			return 0;
		if (mask_clear(word, bits & -bits))
			return 1 + __builtin_ctzll(bits);
		count(idl_race);
	}
	return 0;
}

static __always_inline struct umcg_taken mask_take(struct umcg_group *head, void *truth,
						   u32 home)
{
	struct umcg_taken taken = { .waits = true };
	u32 words = (READ_ONCE(head->idle_end) + MASK_BITS - 1) / MASK_BITS;
	u64 *word = home ? mask_word(head, truth, (home - 1) / MASK_BITS) : NULL;
	u32 steps = 1, w, bit;

	if (word && mask_clear(word, server_bit(home))) {
		count_steps(steps);
		taken.server = home;
		return taken;
	}
	bpf_for(w, 0, words) {
		word = mask_word(head, truth, w);
		if (!word)
			break;
		steps++;
		if (!READ_ONCE(*word))
			continue;
		bit = mask_clear_any(word);
		if (bit) {
			taken.server = w * MASK_BITS + bit;
			break;
		}
	}
	count_steps(steps);
	return taken;
}

/* ---- the interface ---- */

/* Server @idx comes: the circle and the words reach as far as it. */
static __always_inline bool idle_join(struct umcg_group *head, u32 idx)
{
	u32 end = READ_ONCE(head->idle_end), seen;
	int i;

	bpf_for(i, 0, PUT_TRIES) {
		if (end >= idx)
			return true;
		seen = umcg_cmpxchg(&head->idle_end, end, idx);
		if (seen == end)
			return true;
		end = seen;
	}
	return false;
}

/* False: too many lost races, it must not wait. */
static __always_inline bool idle_put(struct umcg_group *head, void *truth,
				     struct umcg_member *m, u32 idx)
{
	u64 *word, old;

	switch (head->idle_kind) {
	case UMCG_IDLE_STACK:
		return stack_put(head, m, idx);
	case UMCG_IDLE_RING:
		umcg_xchg(&m->idle, entry_of(0, UMCG_E_WAITS));
		return true;
	}
	word = mask_word(head, truth, (idx - 1) / MASK_BITS);
	if (!word)
		return false;
	old = __sync_fetch_and_or(word, server_bit(idx));
	barrier_var(old);	/* a result that is used: else it would be no barrier */
	return true;
	/* pairs with idle_take() */
}

/*
 * One server that waits and is the caller's to wake, @home if it does. A ring may name
 * one that does not, but looks at its list before it will.
 */
static __always_inline struct umcg_taken idle_take(struct umcg_group *head, void *truth,
						   u32 home)
{
	struct umcg_taken taken;

	switch (head->idle_kind) {
	case UMCG_IDLE_STACK:
		taken = stack_take(head, truth, home);
		break;
	case UMCG_IDLE_RING:
		taken = walk_take(head, truth, home, UMCG_E_OUT);
		break;
	default:
		taken = mask_take(head, truth, home);
	}
	if (!taken.server || !taken.waits)
		count(idl_none);
	return taken;
	/* pairs with idle_put() */
}

/* True: it did wait. False: a waker has it, or it did not wait. */
static __always_inline bool idle_drop(struct umcg_group *head, void *truth,
				      struct umcg_member *m, u32 idx)
{
	u64 *word;

	switch (head->idle_kind) {
	case UMCG_IDLE_STACK:
		return entry_leave(m, UMCG_E_DELETED);
	case UMCG_IDLE_RING:
		return entry_leave(m, UMCG_E_OUT);
	}
	word = mask_word(head, truth, (idx - 1) / MASK_BITS);
	return word && mask_clear(word, server_bit(idx));
}

#endif /* __UMCG_GIDLE_BPF_H */
