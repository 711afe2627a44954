/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * umcg: an application schedules its own threads.
 *
 * A server thread runs one worker thread at a time and has control back when the
 * worker leaves RUNNING; in kernel mode also when it blocks in the kernel. The
 * tutorial is docs/library.md. Each call says which states it leads from and to, which
 * threads may make it, its races and its errors.
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

/* What forced a worker off that is told as PREEMPTED, in kernel mode. */
enum {
	UMCG_SOURCE_NONE = 0,
	UMCG_SOURCE_KICK = 1,		/* umcg_kick */
	UMCG_SOURCE_DEADLINE = 2,	/* of umcg_run */
	UMCG_SOURCE_QUANTUM = 3,	/* its group's */
	UMCG_SOURCE_SIGNAL = 4,		/* itself: umcg_kick_self in a handler */
	UMCG_SOURCE_WAKE = 5,		/* another worker, which woke up with a lower key */
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
	uint32_t max_members;	/* 1024; at most UMCG_MAX_MEMBERS */
	uint32_t share;		/* weight of each server, 1..10000 percent of a thread's; above 100 for root */
	uint32_t idle;		/* UMCG_IDLE_* */
	uint32_t preempt_signal; /* forces a worker off in futex-only mode; 0 = none */
	const char *name;	/* at most 31 bytes */
	/* CPU time after which a worker is forced off its slot: UMCG_QUANTUM_MIN_NS to
	 * UMCG_QUANTUM_MAX_NS, to the microsecond, else -ERANGE; 0: as long as its server lets
	 * it. In kernel mode only: umcg_group_quantum says what holds. */
	uint64_t quantum_ns;
	/* In which order its servers run RUNNABLE workers: "NAME" or "NAME:OPTION=VALUE,...", see
	 * docs/policies.md, else -EDOM; NULL: in the order of the application's own code.
	 * umcg_queue_create makes the order; umcg_group_policy says which it is. */
	const char *policy;
};

#define UMCG_POLICY_BYTES 127 /* of config.policy at most */
#define UMCG_MAX_SERVERS 64 /* of a group; one more: -ENOSPC */
#define UMCG_MAX_MEMBERS 16384
#define UMCG_QUANTUM_MIN_NS 100000
#define UMCG_QUANTUM_MAX_NS 1000000000

struct umcg_event {
	umcg_id worker;
	uint64_t cookie;
	uint32_t reason;	/* UMCG_REASON_* */
	int32_t syscall;
	uint32_t source;	/* UMCG_SOURCE_* */
	uint32_t reserved;
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

struct umcg_member {
	umcg_id id;
	uint64_t cookie;
	uint32_t kind;		/* UMCG_SERVER or UMCG_WORKER */
	uint32_t state;
	int32_t tid;		/* its thread */
	uint32_t reserved;
};

enum { UMCG_SERVER = 1, UMCG_WORKER = 2 };

/*
 * Errors that any call may return: -EINVAL for a NULL where there must be something and for
 * a value out of bounds; -ESRCH in the child of a fork, where no thread is a member, and for
 * a call of servers by a thread that is none, or of workers. One that returned an error, but for -ETIMEDOUT, has changed nothing. Wakes commute with
 * waits: a wake that comes first is remembered, once. A call may have to talk to the daemon,
 * and must not be cancelled there: disable pthread_cancel around calls. "Source": where the
 * call's meaning comes from.
 */

/*
 * Makes a group without members: served by the daemon if there is one, else by futexes.
 * `config` NULL: the default. Any thread.
 * Errors: -EINVAL; -ERANGE: its quantum, -EDOM: its policy; -ENOSPC: no memory or no file.
 * Source: umcg_create_group of UMCG's first version.
 */
int umcg_group_create(const struct umcg_config *config, umcg_group **group);

/*
 * Joins the group whose file another process of the same user passed on, over a socket or by
 * inheritance; `fd` stays the caller's. Any thread, of the same pid namespace.
 * Errors: -EINVAL: no group's file; -EPERM: another user's, or of another pid namespace;
 * -EPROTO: made by another version of the library.
 * Source: ours; a file in place of the ids of UMCG's first version.
 */
int umcg_group_open(int fd, umcg_group **group);

/* The group's file, to be passed on; it stays the group's. Any thread, never blocks. */
int umcg_group_fd(const umcg_group *group);

/* UMCG_MODE_*, as of now: it follows the daemon. Any thread, never blocks. */
int umcg_group_mode(const umcg_group *group);

/* 1: kernel mode, but bpf(2) is denied, so that calls go by sched_yield and by the daemon's
 * socket, and mean the same; else 0. Any thread, never blocks. */
int umcg_group_bpf_denied(const umcg_group *group);

/* The quantum that holds now, 0 = none: so always in futex-only mode. Any thread, never
 * blocks. */
int umcg_group_quantum(const umcg_group *group, uint64_t *ns);

/*
 * The policy that the group was made with, in every process and mode the same: up to `room`
 * bytes of it in `text`, the last one 0; returns its length, 0: none. Any thread, never blocks.
 */
int umcg_group_policy(const umcg_group *group, char *text, uint32_t room);

/* Closes the handle only: a group lives as long as a handle or a member does, and then
 * nothing of it is left. Any thread; no other call may use the handle any more. Source: ours. */
void umcg_group_close(umcg_group *group);

/*
 * All members, up to `room` of them, in `members`; returns how many there are. Any thread.
 * Race: not one moment's picture; who comes or goes meanwhile may be in it or not.
 * Source: ours.
 */
int umcg_list(umcg_group *group, struct umcg_member *members, uint32_t room);

/*
 * The calling thread: NONE -> RUNNING, as a server. Workers that wait for want of one are
 * listed to it. It unregisters when it ends, too. `id` may be NULL.
 * Errors: -EEXIST: the thread is a member already; -ENOSPC: no record is free.
 * Source: umcg_ctl(REGISTER) without WORKER.
 */
int umcg_register_server(umcg_group *group, umcg_id *id);

/*
 * The calling thread: NONE -> RUNNABLE, as a worker, listed as NEW; returns RUNNING, when a
 * server runs it. Without a server it waits for one. `cookie` comes back in every event.
 * It unregisters when it ends, too. `id` may be NULL.
 * Errors: as above. Race: it may be run, and be on the list of others, before `id` is set.
 * Source: umcg_ctl(REGISTER | WORKER); the cookie: worker_id of the version of 2023.
 */
int umcg_register_worker(umcg_group *group, uint64_t cookie, umcg_id *id);

/*
 * The calling thread: RUNNING -> NONE. Of a worker its server is told, EXITED; the workers of
 * a server go to others, or wait for one. -ESRCH: it is no member.
 * Race: a wake or kick that names it meanwhile is without effect, or is refused.
 * Source: umcg_ctl(UNREGISTER).
 */
int umcg_unregister(void);

/* The calling thread's id, 0 if it is no member. Async-signal-safe. */
umcg_id umcg_self(void);

/*
 * RUNNABLE workers of a group in the order of its policy, for servers: tell it what you hear, ask
 * it whom to run. One thread at a time; servers that share one take a lock. No call of these
 * blocks, makes a system call or allocates, but for create, free and put_back.
 *
 *	while (running) {
 *		while (!umcg_next_event(0, &event))
 *			umcg_queue_told(queue, &event);
 *		if (umcg_queue_pick(queue, &worker, NULL)) {
 *			if (!umcg_next_event(UMCG_FOREVER, &event))
 *				umcg_queue_told(queue, &event);
 *		} else if (!umcg_run_listed(worker, UMCG_FOREVER, &event)) {
 *			umcg_queue_ran(queue, &event);
 *		}
 *	}
 *
 * `servers`: how many pick from it, 1 or more. It keeps the group alive as a handle does.
 * Errors: -EDOM: the group has no policy. Source: ours; the order that UMCG leaves to user space.
 */
typedef struct umcg_queue umcg_queue;
int umcg_queue_create(const umcg_group *group, uint32_t servers, umcg_queue **queue);
void umcg_queue_free(umcg_queue *queue);

/* News of umcg_next_event. -ESRCH: of a worker that the group has no room for. */
int umcg_queue_told(umcg_queue *queue, const struct umcg_event *event);

/* What umcg_run gave. -ESRCH: as above. */
int umcg_queue_ran(umcg_queue *queue, const struct umcg_event *event);

/*
 * Who is next, and waits no more; in `slice_ns`, which may be NULL, how long it may run by the
 * policy's will, 0: as you like. -EAGAIN: nobody waits. If umcg_run says -EBUSY or -ESRCH, drop it.
 */
int umcg_queue_pick(umcg_queue *queue, umcg_id *worker, uint64_t *slice_ns);

/* `worker`, whom it gave, could not be run: -EAGAIN, -EXDEV. It waits on. -ESRCH: it has left. */
int umcg_queue_put_back(umcg_queue *queue, umcg_id worker);

/*
 * Runs `worker` until it leaves RUNNING. Worker: RUNNABLE or IDLE -> RUNNING; the server:
 * RUNNING -> IDLE -> RUNNING. `event` says who left, which after a switch is another one, and
 * why. Past the deadline the worker is kicked: PREEMPTED. Servers only.
 * Errors: -EBUSY: `worker` runs, is blocked, or was taken by another server: drop it, it is
 * told again; -EAGAIN: the slot is occupied, or it is listed again at once; -ESRCH: it has left;
 * -EXDEV: it may not run on this CPU; -ETIMEDOUT: it could not be forced off, is still
 * RUNNING in the slot, and its event comes by umcg_next_event.
 * Race: by the time of the call it may have moved on; nothing is lost by that.
 * Source: umcg_run_worker; the server's umcg_wait with next_tid.
 */
int umcg_run(umcg_id worker, uint64_t deadline_ns, struct umcg_event *event);

/*
 * The same for the worker of an event, or of a queue of such: RUNNABLE -> RUNNING. One that
 * waits by now is left alone: an event may be old, as scx_umcg lets go on whom no server takes
 * for long, and umcg_run would end a wait that nobody has woken.
 * Errors: as umcg_run; -EBUSY also if it waits: when that ends it is told again.
 * Source: umcg_run_worker.
 */
int umcg_run_listed(umcg_id worker, uint64_t deadline_ns, struct umcg_event *event);

/*
 * The oldest news, N above. The server: RUNNING -> IDLE -> RUNNING while there is none. Each
 * entry of a worker into RUNNABLE is told once, to one server. Servers only.
 * Errors: -ETIMEDOUT: none in time; -EAGAIN: somebody woke the server itself.
 * Race: by the time that it is run the worker may have moved on, see umcg_run.
 * Source: UMCG's list of idle workers; the events of the version of 2023.
 */
int umcg_next_event(uint64_t deadline_ns, struct umcg_event *event);

/*
 * Waits for a wake: RUNNING -> IDLE, the server goes on at once; later RUNNABLE, and RUNNING
 * when a server runs it: then it returns. 0: woken, or run without a wake: look at your
 * condition again. -ETIMEDOUT: the time was over, and a server ran it. With deadline 0 it
 * stays RUNNING. Workers only.
 * Race: on a tie with the deadline either may win; a wake that loses is remembered.
 * Errors: -EBUSY: not RUNNING.
 * Source: SwitchTo's wait; timeouts: UMCG v0.4.
 */
int umcg_wait(uint64_t deadline_ns);

/*
 * Hands the slot to worker `to`, RUNNABLE or IDLE -> RUNNING on the same CPU, and waits as
 * umcg_wait does; no server is involved. Workers only.
 * Errors: -EBUSY: `to` runs, is about to, or is blocked; -EDEADLK: it is the caller; -ESRCH: no
 * such worker. Then the caller goes on RUNNING. Race: two that switch to each other at
 * once: one is refused.
 * Source: SwitchTo's swap (Turner, 2013).
 */
int umcg_switch(umcg_id to, uint64_t deadline_ns);

/*
 * RUNNING -> RUNNABLE, listed as YIELDED; returns RUNNING, when a server runs it again, which
 * may be at once. Workers only. -EBUSY: not RUNNING.
 * Race: with a kick: it is told once, as either of the two.
 * Source: umcg_wait of a worker that has made itself RUNNABLE (Zijlstra, 2022).
 */
int umcg_yield(void);

/*
 * Wakes a worker: IDLE -> RUNNABLE, listed as WOKEN; in any other state the wake is remembered,
 * once, and its next wait returns at once. A server returns from umcg_next_event with
 * -EAGAIN, now or next time. Any thread of the group's processes; async-signal-safe in
 * futex-only mode. Too many (200,000 a second) are slowed down; none is dropped.
 * -ESRCH: no such member. Race: with the end of a wait by time: either counts, a wake that
 * loses is remembered.
 * Source: SwitchTo's resume; "remembered once": libumcg, gloop.
 */
int umcg_wake(umcg_group *group, umcg_id who);

/*
 * Forces a worker off: RUNNING -> RUNNABLE, listed as PREEMPTED; its server goes on. Returns
 * before that is done. In futex-only mode at the worker's next call, or by preempt_signal.
 * Any thread of the group's processes; in a signal handler use umcg_kick_self.
 * Errors: -EBUSY: it is not RUNNING; -ESRCH, -EINVAL: no such worker.
 * Race: it is for the stint that the worker is in, and never hits a later one.
 * Source: Zijlstra's umcg_kick (2022).
 */
int umcg_kick(umcg_group *group, umcg_id worker);

/* A member's state, in one piece; an older one by the time of the return: compare tags.
 * Any thread, never blocks. -ESRCH: no such member. Source: the state word of UMCG. */
int umcg_state(umcg_group *group, umcg_id who, struct umcg_snapshot *state);

/*
 * The calling thread's worker: RUNNING -> RUNNABLE, listed as PREEMPTED; returns RUNNING, when
 * it is run again. For signal handlers, where it means the worker that the signal
 * interrupted; inside a call of the library it takes effect when that call ends.
 * Async-signal-safe; errno stays.
 * Errors: -ESRCH: the thread is no worker; -EBUSY: it is not RUNNING.
 * Source: the preemption by signals of UMCG v0.4.
 */
int umcg_kick_self(void);

/*
 * The calling worker is not forced off its slot until umcg_preempt_enable was called as
 * often: for the time that it holds a lock of user space. No system call, but where a kick
 * came meanwhile: then umcg_preempt_enable gives the slot up. In kernel mode one that lasts
 * for longer than 1 ms after a kick is ended by force, and counted. Async-signal-safe; on a
 * thread that is no worker without effect.
 * Source: UMCG's LOCKED flag; schedctl_start of Solaris.
 */
void umcg_preempt_disable(void);
/* The same thread as disabled it. -EINVAL: it was not disabled. */
int umcg_preempt_enable(void);

/* No key: what a thread begins with. */
#define UMCG_KEY_NONE UINT64_MAX

/*
 * Where the calling thread wants to be in its server's order, as a worker now or later:
 * lower keys come first. A worker that becomes RUNNABLE while no server waits forces the
 * one off that its server runs, if that one's key is higher; the server then has both to
 * choose from. In kernel mode only; from the next wake on. No system call;
 * async-signal-safe.
 * Source: preemption on wake-up of the kernel's own fair class.
 */
void umcg_set_key(uint64_t key);

/* Sets a handler for `signal` that calls umcg_kick_self. Any thread. -EINVAL: it cannot be
 * handled. Source: the preemption by signals of UMCG v0.4. */
int umcg_kick_on(int signal);

/*
 * A timer that sends `signal` to the calling thread each `interval_ns` of `clock`, which is
 * CLOCK_MONOTONIC or CLOCK_THREAD_CPUTIME_ID. End it with timer_delete().
 * Errors: -EINVAL: no such clock or signal, or no time; -ENOSPC, -EAGAIN: no more timers.
 * Source: timer_create(2) with SIGEV_THREAD_ID.
 */
int umcg_thread_timer(clockid_t clock, uint64_t interval_ns, int signal, timer_t *timer);

/* CLOCK_MONOTONIC now, ns. */
uint64_t umcg_now(void);
/* A sentence for what a call returned; static, any thread. */
const char *umcg_strerror(int error);

#ifdef __cplusplus
}
#endif
#endif
