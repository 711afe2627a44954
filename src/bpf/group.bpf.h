/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * group: one loaded program serves many groups: their maps and who is in them.
 *
 * Does:    finds a task's group, records by index or Id, the words' edges.
 * State:   umcg_truths, umcg_desks (outer maps, by group number), umcg_groups
 *          (which numbers are alive), tokens, bells.
 * Called from: every path of a member, once per callback: outer and inner
 *          look-up cost about 40 instructions, each further record 24.
 * Races:   a number is used again: its generation has moved, so that task
 *          storage of the old group finds nothing. The daemon deletes the outer
 *          entries after the drain, an RCU period later nobody writes.
 * Never:   takes an index or a generation from the client map for granted.
 */
#ifndef __UMCG_GROUP_BPF_H
#define __UMCG_GROUP_BPF_H

#include "key.bpf.h"
#include "server.bpf.h"

/* The only thing that an inner map may differ in is max_entries. */
struct umcg_truth_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(struct umcg_member));
};

struct umcg_desk_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(struct umcg_desk));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, UMCG_MAX_GROUPS);
	__type(key, u32);
	__array(values, struct umcg_truth_map);
} umcg_truths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, UMCG_MAX_GROUPS);
	__type(key, u32);
	__array(values, struct umcg_desk_map);
} umcg_desks SEC(".maps");

/* Bells of app servers, by the number in their token. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, UMCG_MAX_BELLS);
	__type(key, u32);
	__array(values, struct umcg_bell);
} umcg_group_bells SEC(".maps");

/*
 * Not 0: the bell is promised to a token, or a server's. writers: the daemon before it
 * issues the token; BPF makes it 0 when the server goes or could not register. Who finds
 * 0 may lend it again: a server that has gone may still be rung, which wakes another one
 * in vain. A token that was not used is taken back first, by who deletes it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UMCG_MAX_BELLS);
	__type(key, u32);
	__type(value, u32);
} umcg_bells_lent SEC(".maps");

static __always_inline void bell_back(u32 bell)
{
	u32 *lent = bpf_map_lookup_elem(&umcg_bells_lent, &bell);

	if (lent)
		WRITE_ONCE(*lent, 0);
}

struct umcg_token_key {
	u64 half[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct umcg_token_key);
	__type(value, struct umcg_token);
} umcg_tokens SEC(".maps");

/* gen: odd = alive. draining: nobody is held any more. */
struct umcg_group_life {
	u32 gen;
	u32 draining;
} umcg_groups[UMCG_MAX_GROUPS];
u32 umcg_nr_groups;	/* alive; 0 = the sweep has nothing to do */
u32 umcg_group_top;	/* numbers from here on were never used */
u32 umcg_held_since;	/* sweeps since somebody was seen held */
u64 umcg_epoch;		/* of this load, given by the daemon */

static __always_inline struct umcg_group_life *group_life(u32 g)
{
	barrier_var(g);
	return &umcg_groups[g & (UMCG_MAX_GROUPS - 1)];
}

static __always_inline bool is_member(const struct umcg_task *t)
{
	return t->kind >= UMCG_K_GSERVER;
}

/* The truth map of @t's group; NULL when the group is gone. */
static __always_inline void *truth_of(const struct umcg_task *t)
{
	u32 g = t->group;

	if (group_life(g)->gen != t->group_gen)
		return NULL;
	return bpf_map_lookup_elem(&umcg_truths, &g);
}

static __always_inline void *desks_of(const struct umcg_task *t)
{
	u32 g = t->group;

	return bpf_map_lookup_elem(&umcg_desks, &g);
}

static __always_inline struct umcg_member *member_at(void *truth, u32 idx)
{
	return bpf_map_lookup_elem(truth, &idx);
}

static __always_inline struct umcg_group *group_head(void *truth)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(truth, &zero);
}

static __always_inline struct umcg_desk *desk_at(void *desks, u32 idx)
{
	return bpf_map_lookup_elem(desks, &idx);
}

/* Of member @t. */
static __always_inline struct umcg_desk *own_desk(const struct umcg_task *t)
{
	void *desks = desks_of(t);

	return desks ? desk_at(desks, t->member) : NULL;
}

/* By an Id that a client gave. */
static __always_inline struct umcg_member *member_by_id(void *truth, u64 id)
{
	u32 idx = id, gen = id >> 32;
	struct umcg_member *m;

	if (!idx || !(gen & 1))
		return NULL;
	m = member_at(truth, idx);
	return m && READ_ONCE(m->gen) == gen ? m : NULL;
}

static __always_inline u64 member_id(const struct umcg_member *m, u32 idx)
{
	return (u64)m->gen << 32 | idx;
}

static __always_inline u64 server_bit(u32 idx)
{
	return 1ULL << ((idx - 1) & (UMCG_GROUP_SERVERS - 1));
}

/* What a word says of waits, beside its state: it outlives edges. */
#define WAIT_FLAGS ((u64)(UMCG_F_PENDING | UMCG_F_TIMEDOUT))

/* One try of member_edge() from @old: the word that was there. */
static __always_inline u64 edge_try(struct umcg_member *m, u64 old, u64 to, u64 clear,
				    u64 now)
{
	u64 keep = old & WAIT_FLAGS & ~clear;

	if (word_state(to) == UMCG_IDLE)
		keep &= ~(u64)UMCG_F_TIMEDOUT;
	if (old & clear & UMCG_F_PENDING)
		to &= ~(u64)UMCG_F_TIMEDOUT;
	return word_try(&m->word, &m->since_ns, old, to | keep, now);
}

/*
 * The tries of member_edge() after the first, as word_move_again(). @flags is its
 * clear, above its to: a call takes five arguments.
 */
__weak int member_edge_again(struct umcg_member *m __arg_nonnull, u32 from, u32 flags,
			     u64 now, u64 *seen __arg_nonnull)
{
	u64 to = flags & ((1U << UMCG_TIME_SHIFT) - 1), clear = flags >> UMCG_TIME_SHIFT;
	u64 old = READ_ONCE(m->word), got;
	int i;

	bpf_for(i, 1, WORD_TRIES) {
		count(word_race);
		*seen = old;
		if (!(from & FROM(word_state(old) & 7)))
			return false;
		got = edge_try(m, old, to, clear, now);
		if (got == old)
			return true;
		old = got;
	}
	return false;
}

/*
 * One edge: from a state in @from to @to. What the word says of waits is kept but for
 * @clear, how the last one ended until the next; a wake that is remembered goes before
 * a time that is over. False: the word is in another state, *@seen tells which. Writers
 * are the callbacks of the task (rq lock) and wakers, who lose or win the cmpxchg.
 */
static __always_inline bool member_edge(struct umcg_member *m, u32 from, u64 to,
					u64 clear, u64 now, u64 *seen)
{
	u64 old = READ_ONCE(m->word);

	*seen = old;
	if (!(from & FROM(word_state(old) & 7)))
		return false;
	if (likely(edge_try(m, old, to, clear, now) == old))
		return true;
	return member_edge_again(m, from, to | clear << UMCG_TIME_SHIFT, now, seen);
}

/* A worker that the policy of its server, not the kernel, keeps waiting. */
#define JOBCTL_WANTS_CPU ((1UL << 17) | (1UL << 19) | (1UL << 20) | (1UL << 23))
#define SIGKILL_BIT (1UL << 8)

/* Dies, stops or freezes: it can do that only when it runs. */
static __always_inline bool must_run(const struct task_struct *p)
{
	return (p->flags & PF_EXITING) || (p->jobctl & JOBCTL_WANTS_CPU) ||
	       (p->pending.signal.sig[0] & SIGKILL_BIT);
}

#endif /* __UMCG_GROUP_BPF_H */
