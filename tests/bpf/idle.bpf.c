/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * idle: the very functions by which wakers find servers that wait, raced and counted.
 *
 * Does:    idle_serve and idle_wake race idle_put, idle_take, idle_drop and idle_collect
 *          on a made-up group; idle_wait and idle_cost count what tell_worker() costs
 *          on one.
 * State:   group 1, whose maps the Rust side makes; no scheduler is attached.
 * Races:   roles are those of umcg/src/idle/stress.rs. A waker publishes work, takes a
 *          server, and waits until its work was seen: a wake that is lost stays lost,
 *          and the Rust side finds that nothing goes on. Nobody spins in here: who waits
 *          looks again in the next round.
 * Never:   judges; see tests/src/tests/idle.rs.
 */
#include "tell.bpf.h"

char _license[] SEC("license") = "GPL";

#define GROUP 1
#define WAKERS 2

/* Argument of all. */
struct idle_call {
	u32 loops;
	u32 servers;	/* of the group */
	u32 first;	/* server: whom it plays; waker: who it is */
	u32 span;
	u64 puts;
	u64 takes;
	u64 drops;
	u64 none;	/* takes that found nobody who waits */
	u64 twice;	/* servers that were woken more than once */
	u64 spent_ns;
};

enum role { AWAKE, WAITS, IS_TAKEN };

struct player {
	u64 wakes;	/* sent to it */
	u64 received;
	u32 role;
};

struct player players[UMCG_IDLE_SERVERS + 1];
u64 work[WAKERS];
u64 seen[WAKERS];

static __always_inline struct player *player(u32 server)
{
	barrier_var(server);
	return &players[server & (UMCG_IDLE_SERVERS - 1)];
}

static __always_inline bool work_is_new(void)
{
	return READ_ONCE(work[0]) != READ_ONCE(seen[0]) ||
	       READ_ONCE(work[1]) != READ_ONCE(seen[1]);
}

static __always_inline void look(void)
{
	WRITE_ONCE(seen[0], READ_ONCE(work[0]));
	WRITE_ONCE(seen[1], READ_ONCE(work[1]));
}

static __always_inline void send(u32 server)
{
	u64 old = __sync_fetch_and_add(&player(server)->wakes, 1);

	barrier_var(old);
}

/* The group, and its map. Under RCU. */
static __always_inline struct umcg_group *made_up(void **truth)
{
	u32 g = GROUP;

	*truth = bpf_map_lookup_elem(&umcg_truths, &g);
	return *truth ? group_head(*truth) : NULL;
}

/* One step of @server. */
static __always_inline void serve(struct umcg_group *head, void *truth, u32 server,
				  struct idle_call *sum)
{
	struct player *me = player(server);
	struct umcg_member *m = member_at(truth, server);

	if (!m)
		return;
	if (me->role == AWAKE) {
		look();
		if (!idle_put(head, truth, m, server))
			return;
		sum->puts++;
		me->role = WAITS;
		if (!work_is_new())
			return;
	} else if (READ_ONCE(me->wakes) != me->received) {
		me->received++;
		sum->twice += READ_ONCE(me->wakes) != me->received;
		me->role = AWAKE;
		return;
	} else if (me->role == IS_TAKEN || bpf_get_prandom_u32() % 16) {
		return;
	}
	/* Its time is over, or it has seen its news. */
	if (idle_drop(head, truth, m, server)) {
		sum->drops++;
		me->role = AWAKE;
	} else {
		me->role = IS_TAKEN;
	}
}

SEC("syscall")
int idle_serve(struct idle_call *call)
{
	struct idle_call sum = {};
	u32 first = call->first, span = call->span ?: 1;
	struct umcg_group *head;
	void *truth;
	int i;

	bpf_rcu_read_lock();
	head = made_up(&truth);
	if (head) {
		bpf_for(i, 0, call->loops) {
			__sink(sum.puts);
			__sink(sum.drops);
			__sink(sum.twice);
			serve(head, truth, first + i % span, &sum);
		}
	}
	bpf_rcu_read_unlock();
	call->puts = sum.puts;
	call->drops = sum.drops;
	call->twice = sum.twice;
	return 0;
}

/* Server @first waits; puts: 1 if it does. */
SEC("syscall")
int idle_wait(struct idle_call *call)
{
	u32 server = call->first;
	struct umcg_group *head;
	struct umcg_member *m;
	void *truth;

	bpf_rcu_read_lock();
	head = made_up(&truth);
	m = head ? member_at(truth, server) : NULL;
	if (m)
		call->puts = idle_put(head, truth, m, server);
	bpf_rcu_read_unlock();
	return 0;
}

/* One step of waker @me. */
static __always_inline void wake(struct umcg_group *head, void *truth, u32 me, u32 servers,
				 struct idle_call *sum)
{
	struct umcg_taken taken;
	u64 old;

	if (READ_ONCE(work[me]) != READ_ONCE(seen[me]))
		return;
	old = __sync_fetch_and_add(&work[me], 1);
	barrier_var(old);
	taken = idle_take(head, truth, bpf_get_prandom_u32() % (servers + 1));
	if (taken.server && taken.waits) {
		sum->takes++;
		send(taken.server);
	} else {
		sum->none++;
	}
	if (!(bpf_get_prandom_u32() % 64)) {
		u32 server = idle_collect(head, truth);

		if (server)
			send(server);
	}
}

SEC("syscall")
int idle_wake(struct idle_call *call)
{
	struct idle_call sum = {};
	u32 me = call->first % WAKERS, servers = call->servers;
	struct umcg_group *head;
	void *truth;
	int i;

	bpf_rcu_read_lock();
	head = made_up(&truth);
	if (head) {
		bpf_for(i, 0, call->loops) {
			__sink(sum.takes);
			__sink(sum.none);
			wake(head, truth, me, servers, &sum);
		}
	}
	bpf_rcu_read_unlock();
	call->takes = sum.takes;
	call->none = sum.none;
	return 0;
}

/* As before the wake of worker @idx: nobody is linked, who was taken waits again. */
static __always_inline void undo(struct umcg_group *head, void *truth, void *desks, u32 idx)
{
	struct umcg_desk *w = desk_at(desks, idx), *list;
	struct umcg_member *m;
	u32 server;

	if (!w)
		return;
	server = umcg_xchg(&w->queued, 0) & UMCG_OWNER_INDEX;
	list = desk_at(desks, server);
	m = member_at(truth, server);
	if (!server || !list || !m)
		return;
	list->runnable = 0;
	if (!m->cur)
		idle_put(head, truth, m, server);
}

/*
 * @loops wakes of worker @first, at home with any of @servers. spent_ns: of them all,
 * less what two looks at the clock cost at least: an interrupt may come between them.
 */
SEC("syscall")
int idle_cost(struct idle_call *call)
{
	u32 g = GROUP, idx = call->first, servers = call->servers ?: 1, home;
	u64 spent = 0, empty = ~0ULL, from, took;
	struct umcg_group *head;
	void *truth, *desks;
	int i;

	bpf_rcu_read_lock();
	head = made_up(&truth);
	desks = bpf_map_lookup_elem(&umcg_desks, &g);
	if (head && desks) {
		bpf_for(i, 0, call->loops) {
			__sink(spent);
			__sink(empty);
			home = 1 + bpf_get_prandom_u32() % servers;
			from = bpf_ktime_get_ns();
			took = bpf_ktime_get_ns() - from;
			if (took < empty)
				empty = took;
			from = bpf_ktime_get_ns();
			tell_worker(g, idx, home);
			spent += bpf_ktime_get_ns() - from;
			undo(head, truth, desks, idx);
		}
	}
	bpf_rcu_read_unlock();
	call->spent_ns = spent - empty * call->loops;
	return 0;
}
