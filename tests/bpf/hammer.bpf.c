/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * hammer: the very protocol code of the scheduler, driven hard.
 *
 * Does:    SYSCALL programs that call list_push, ring_take_this, claim_* and
 *          server_wake in loops, against the Rust side in other threads.
 * State:   its own instances of the shared maps: no scheduler is attached.
 * Never:   judges; the Rust side counts and compares at the end. Sums are local
 *          and hidden from the verifier: it would walk each value apart, and
 *          clang merges `h->x++` with the counters of the code under test.
 */
#include "server.bpf.h"
#include "claim.bpf.h"
#include "list.bpf.h"
#include "near.bpf.h"

char _license[] SEC("license") = "GPL";

/* Argument of all: loop so often over workers first..first + span - 1. */
struct hammer {
	u32 loops;
	u32 server;
	u32 first;
	u32 span;
	u64 done;
	u64 odd;
};

static __always_inline u32 pick(struct hammer *h)
{
	return (h->first + bpf_get_prandom_u32() % (h->span ?: 1)) &
	       (UMCG_MAX_WORKERS - 1);
}

/* The word changes, then the worker is pushed, as in ops.runnable and enqueue. */
SEC("syscall")
int hammer_list(struct hammer *h)
{
	struct umcg_server *s = server_rec(h->server);
	u64 done = 0, odd = 0;
	int i;

	if (!s)
		return 0;
	bpf_for(i, 0, h->loops) {
		u32 idx = pick(h);
		struct umcg_worker *w = worker_rec(idx);
		u64 now = umcg_now();

		__sink(done);
		__sink(odd);
		if (!w)
			continue;
		word_move(&w->word, &w->since_ns, FROM_ANY,
			  i & 1 ? UMCG_RUNNABLE : UMCG_BLOCKED, now);
		list_push(s, i & 2 ? &s->runnable : &s->blocked, h->server, w, idx, now);
		done++;
	}
	h->done = done;
	h->odd = odd;
	return 0;
}

/* Each choice that was taken is counted at its worker. */
SEC("syscall")
int hammer_ring(struct hammer *h)
{
	struct umcg_server *s = server_rec(h->server);
	u64 done = 0;
	int i;

	if (!s)
		return 0;
	bpf_for(i, 0, h->loops) {
		u64 choice = ring_peek(&s->ring);
		struct umcg_worker *w;

		__sink(done);
		if (!choice || !ring_take_this(&s->ring, choice))
			continue;
		w = worker_rec(choice >> 32);
		if (w)
			__sync_fetch_and_add(&w->run_ns, 1);
		done++;
	}
	h->done = done;
	return 0;
}

/* Who holds the claim is alone: `key` counts holders. */
SEC("syscall")
int hammer_claim(struct hammer *h)
{
	u64 done = 0, odd = 0;
	int i;

	bpf_for(i, 0, h->loops) {
		struct umcg_worker *w = worker_rec(pick(h));
		u64 claim;

		__sink(done);
		__sink(odd);
		if (!w)
			continue;
		claim = claim_value(h->server, READ_ONCE(w->word));
		if (!claim_try(w, claim))
			continue;
		if (__sync_fetch_and_add(&w->key, 1))
			odd++;
		__sync_fetch_and_add(&w->key, -1);
		if (!claim_release(w, claim))
			odd++;
		__sync_fetch_and_add(&w->run_ns, 1);
		done++;
	}
	h->done = done;
	h->odd = odd;
	return 0;
}

/* Work for a server that may be falling asleep. */
SEC("syscall")
int hammer_sleep(struct hammer *h)
{
	struct umcg_server *s = server_rec(h->server);
	u64 done = 0, odd = 0;
	int i;

	if (!s)
		return 0;
	bpf_for(i, 0, h->loops) {
		u32 idx = pick(h);
		struct umcg_worker *w = worker_rec(idx);
		u64 now = umcg_now();

		__sink(done);
		__sink(odd);
		if (!w)
			continue;
		word_move(&w->word, &w->since_ns, FROM_ANY, UMCG_RUNNABLE, now);
		if (list_push(s, &s->runnable, h->server, w, idx, now))
			odd++;
		server_wake(s, h->server);
		done++;
	}
	h->done = done;
	h->odd = odd;
	return 0;
}

struct stamp {
	u64 old;
	u64 since;
	u64 now;
	u64 at;
	u64 word;
};

/* The full time of the edge after @old, and its word. */
SEC("syscall")
int hammer_stamp(struct stamp *s)
{
	s->at = stamp_after(s->old, s->since, s->now);
	s->word = word_make(s->at, UMCG_RUNNABLE);
	return 0;
}

/* done = how often fault @first came about at its next @loops occasions; odd: when, and how much. */
SEC("syscall")
int hammer_fault(struct hammer *h)
{
	u64 done = 0, odd = 0, draw;
	int i;

	bpf_for(i, 0, h->loops) {
		__sink(done);
		__sink(odd);
		draw = fault_draw(h->first);
		if (!draw)
			continue;
		done++;
		odd += draw * (i + 1);
	}
	h->done = done;
	h->odd = odd;
	return 0;
}

/* done = the CPU that @server, a CPU here, looks at as number @first. */
SEC("syscall")
int hammer_near(struct hammer *h)
{
	h->done = near_cpu(h->server, h->first);
	return 0;
}
