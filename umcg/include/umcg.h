/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * umcg: an application schedules its own threads.
 *
 * A server thread runs one worker thread at a time and has control back when the
 * worker leaves RUNNING; in kernel mode also when it blocks in the kernel. The
 * tutorial is docs/library.md; states, races and sources of each call stand in the Rust
 * documentation under the call's name without the prefix.
 *
 * Calls return 0 or -errno (umcg_strerror). Deadlines are absolute CLOCK_MONOTONIC ns,
 * 0 = poll, UMCG_FOREVER = none. Calls without a group are about the calling thread.
 */
#ifndef UMCG_H
#define UMCG_H

#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UMCG_VERSION 1
#define UMCG_FOREVER UINT64_MAX

/* A member: generation << 32 | index. 0 is nobody. */
typedef uint64_t umcg_id;
#define umcg_index(id) ((uint32_t)(id)) /* 1..=max_members */

typedef struct umcg_group umcg_group;

/* States: fixed numbers, in the low byte of a word. Flags are in the byte above it;
 * bits 63..16 are 48 bits of CLOCK_MONOTONIC ns, unique per edge. */
enum {
	UMCG_NONE = 0,
	UMCG_RUNNING = 1,
	UMCG_RUNNABLE = 2,
	UMCG_BLOCKED = 3,
	UMCG_IDLE = 4,

	UMCG_F_PREEMPTED = 0x0100,
	UMCG_F_YIELDED = 0x0200,
	UMCG_F_FAULT = 0x0400,
	UMCG_F_STOPPED = 0x0800,
	UMCG_F_RESCUED = 0x1000,
	UMCG_F_ASLEEP = 0x2000,
	UMCG_F_PENDING = 0x4000,
	UMCG_F_TIMEDOUT = 0x8000,
};

/* Why a server is told of a worker. From umcg_run: R; from umcg_next_event: N. */
enum {
	UMCG_REASON_BLOCKED = 1,	/* R: in the kernel; syscall says where, or -1 */
	UMCG_REASON_FAULT = 2,		/* R: in a page fault */
	UMCG_REASON_STOPPED = 3,	/* R: by a signal or a debugger */
	UMCG_REASON_WAITS = 4,		/* R: called umcg_wait, or switched away */
	UMCG_REASON_WOKEN = 5,		/* N */
	UMCG_REASON_NEW = 6,		/* N */
	UMCG_REASON_PREEMPTED = 7,	/* R, and N: it is RUNNABLE */
	UMCG_REASON_YIELDED = 8,	/* R, and N: it is RUNNABLE */
	UMCG_REASON_TIMED_OUT = 9,	/* N: its wait is over by time */
	UMCG_REASON_EXITED = 10,	/* R, or N if it had no slot: it is no member any more */
	UMCG_REASON_RESCUED = 11,	/* R: it runs on outside of any slot */
};

/* umcg_group_mode */
enum {
	UMCG_MODE_FUTEX_ONLY = 0,
	UMCG_MODE_KERNEL_PARTIAL = 1,
	UMCG_MODE_KERNEL_FULL = 2,
};

/* Which server that waits for events gets a woken worker whose home does not wait: the one
 * that waits for the shortest time, the next one in a circle, the one of lowest number.
 * docs/idle-servers.md tells what a wake costs with each. */
enum { UMCG_IDLE_STACK = 0, UMCG_IDLE_RING = 1, UMCG_IDLE_MASK = 2 };

#define UMCG_FUTEX_ONLY 0x1 /* never ask for the daemon */

/* Zero is the default in each field but `size`, which is sizeof(struct umcg_config). */
struct umcg_config {
	uint32_t size;
	uint32_t flags;
	uint32_t max_members;	/* 1024; at most 65535 */
	uint32_t share;		/* weight of each server, 1..10000 percent of a thread's; above 100 for root */
	uint32_t idle;		/* UMCG_IDLE_* */
	uint32_t preempt_signal; /* forces a worker off in futex-only mode; 0 = none */
	const char *name;	/* at most 31 bytes */
};

struct umcg_event {
	umcg_id worker;
	uint64_t cookie;
	uint32_t reason;	/* UMCG_REASON_* */
	int32_t syscall;
	uint64_t tag;		/* its word then */
	uint64_t at_ns;
	uint64_t run_ns;
	uint64_t wait_ns;
};

struct umcg_snapshot {
	uint32_t state;
	uint32_t flags;
	uint64_t since_ns;
	uint64_t run_ns;
	uint64_t wait_ns;
	uint64_t tag;
};

/* Groups. The fd of umcg_group_fd stays the group's: pass a copy on; umcg_group_open
 * makes its own copy of the fd that it is given. */
int umcg_group_create(const struct umcg_config *config, umcg_group **group);
int umcg_group_open(int fd, umcg_group **group);
int umcg_group_fd(const umcg_group *group);
int umcg_group_mode(const umcg_group *group);
/* The handle only: a group lives as long as a handle or a member does. */
void umcg_group_close(umcg_group *group);

/* The calling thread. It unregisters when it ends, too. `id` may be NULL. */
int umcg_register_server(umcg_group *group, umcg_id *id);
int umcg_register_worker(umcg_group *group, uint64_t cookie, umcg_id *id);
int umcg_unregister(void);
umcg_id umcg_self(void);

/* Servers. -ETIMEDOUT of umcg_run: the worker is still RUNNING in the slot and its
 * event comes by umcg_next_event. */
int umcg_run(umcg_id worker, uint64_t deadline_ns, struct umcg_event *event);
int umcg_next_event(uint64_t deadline_ns, struct umcg_event *event);

/* Workers. 0: woken and run again; -ETIMEDOUT: the time was over, and run again. */
int umcg_wait(uint64_t deadline_ns);
int umcg_switch(umcg_id to, uint64_t deadline_ns);
int umcg_yield(void);

/* Any thread. */
int umcg_wake(umcg_group *group, umcg_id who);
int umcg_kick(umcg_group *group, umcg_id worker);
int umcg_state(umcg_group *group, umcg_id who, struct umcg_snapshot *state);

/* Async-signal-safe: the calling thread's worker gives its slot up, returns when it is
 * run again. -ESRCH: the thread is no worker. */
int umcg_kick_self(void);
/* A handler for `signal` that calls umcg_kick_self. */
int umcg_kick_on(int signal);
/* A timer that sends `signal` to the calling thread each `interval_ns` of `clock`:
 * CLOCK_MONOTONIC or CLOCK_THREAD_CPUTIME_ID. End it with timer_delete(). */
int umcg_thread_timer(clockid_t clock, uint64_t interval_ns, int signal, timer_t *timer);

/* CLOCK_MONOTONIC now, ns. */
uint64_t umcg_now(void);
/* A sentence for what a call returned; static, any thread. */
const char *umcg_strerror(int error);

#ifdef __cplusplus
}
#endif
#endif
