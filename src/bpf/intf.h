/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The one source of everything that BPF and user space share: state words,
 * records, lists, rings, requests and counters. C includes it; Rust reads it
 * through bindgen (umcg/src/intf.rs, checked for drift by `cargo xtask tidy`).
 *
 * Kernel-written and user-written fields never share a cache line. Types are
 * prefixed umcg_ because vmlinux.h holds the kernel's own `struct worker`.
 */
#ifndef __UMCG_INTF_H
#define __UMCG_INTF_H

#ifndef __VMLINUX_H__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
#endif

#define UMCG_ABI 6

enum umcg_limits {
	UMCG_MAX_CPUS = 512,		/* power of two: indexes are masked */
	UMCG_MAX_WORKERS = 65536,	/* power of two; record 0 is never used */
	UMCG_STAGE_SLOTS = 64,		/* ring slots per server, power of two */
	UMCG_PUSH_TRIES = 16,		/* failed cmpxchg before `resync` is set */
	UMCG_NEAR = 64,			/* others that a CPU knows by distance, power of two */
};

/*
 * State word, one aligned u64 per worker and per server.
 *
 *   63                               16 15      8 7       0
 *   +----------------------------------+---------+---------+
 *   | 48 bits of CLOCK_MONOTONIC ns    |  flags  |  state  |
 *   +----------------------------------+---------+---------+
 *
 * writers: BPF only, by cmpxchg, at the edges below. Readers: anybody.
 * New time = max(now, old time + 1), so each value is a unique tag of its
 * transition: comparing tags sorts out every race, there is no ABA.
 * 2^48 ns wrap after 3.26 days; `since_ns` beside the word is the full time.
 *
 *   edge                     set in, and only there
 *   BLOCKED|IDLE -> RUNNABLE  ops.runnable with SCX_ENQ_WAKEUP
 *   RUNNABLE -> RUNNING       ops.running
 *   RUNNING -> RUNNABLE       ops.stopping(runnable): preempted, yielded
 *   RUNNING -> BLOCKED|IDLE   ops.quiescent with SCX_DEQ_SLEEP
 *   any -> NONE               ops.disable: exit, class change, unload
 *   NONE -> any               the first edge that is seen of a task
 *
 * Source: the packing is Oskolkov's of 2021-07-13 (6 bytes of time, 2 of
 * state); the states are those of Zijlstra's RFC of 2021-12-14 plus IDLE.
 */
enum umcg_state {
	UMCG_NONE = 0,
	UMCG_RUNNING = 1,
	UMCG_RUNNABLE = 2,
	UMCG_BLOCKED = 3,
	UMCG_IDLE = 4,
	UMCG_NR_STATES = 5,

	UMCG_STATE_MASK = 0xff,
	UMCG_F_PREEMPTED = 0x100,	/* RUNNABLE: forced off, slice or request */
	UMCG_F_YIELDED = 0x200,		/* RUNNABLE: gave the CPU up */
	UMCG_F_FAULT = 0x400,		/* BLOCKED: in a page fault, not a system call */
	UMCG_F_STOPPED = 0x800,		/* BLOCKED: by SIGSTOP, ptrace or the freezer */
	UMCG_F_RESCUED = 0x1000,	/* RUNNING: released by the relief valve */
	UMCG_F_ASLEEP = 0x2000,		/* IDLE, of a group: sleeps for real */
	UMCG_F_PENDING = 0x4000,	/* of a group: a wake is remembered */
	UMCG_F_TIMEDOUT = 0x8000,	/* of a group: its last wait ended by time */
	UMCG_FLAGS_MASK = 0xff00,
	UMCG_TIME_SHIFT = 16,
};

/*
 * Worker record. line 0 is written by BPF alone; line 1 holds the link, the
 * claim and the request; line 2 is written by the agent, but for its end.
 *
 * `queued`/`next`: the worker's one list link, see struct umcg_list.
 * `claim`: (server + 1) << 48 | low 48 bits of the tag, 0 = free. Says "this
 *   server runs that worker". writers: BPF takes it by cmpxchg 0 -> claim,
 *   gives it back by cmpxchg claim -> 0; ops.running consumes it, ops.enqueue
 *   and ops.quiescent drop it. model: loom_claim_vs_claim.
 * `request`: the word of the RUNNING stint that has to end, 0 = none. Set by
 *   kick programs and the quantum timer, stands until it is met or the word
 *   has moved on; it can never hit a later stint.
 */
struct umcg_worker {
	u64 word;
	u64 since_ns;		/* full CLOCK_MONOTONIC time of the last edge */
	u64 run_ns;		/* CPU time used since it became a worker */
	u64 wait_ns;		/* time spent RUNNABLE */
	u64 key;		/* its place in the kernel's order */
	u32 gen;		/* odd while in use; +1 at each alloc and free */
	s32 pid;
	u32 avg_ns;		/* EWMA of the CPU time between two sleeps */
	u32 burst_ns;		/* CPU time since it last slept */
	u32 rescues;		/* how often the relief valve released it */
	u32 sys_now;		/* the system group whose terms it has */

	u64 claim __attribute__((aligned(64)));
	u64 request;
	u32 queued;		/* 0, or 1 + the server that owns the link */
	u32 next;		/* index of the next worker on the list, 0 = end */
	u32 home;		/* server it was last parked on */
	u32 weight;		/* 1..10000, 100 = nice 0 in the root cgroup */
	u32 told_avg_ns;	/* avg_ns when the agent was last told */
	u32 class_;		/* enum umcg_class, from its scheduling policy */
	u64 refused;		/* the last take of it that failed, enum umcg_refusal */
	u64 woke_ns;		/* when it last woke, or came to be */
	u64 born_ns;		/* when it became a worker */

	s64 bias_ns __attribute__((aligned(64)));	/* added to the key */
	u64 own_key;		/* the key itself where the policy orders alone */
	u32 weight_pct;		/* scales the weight, 0 = 100 % */
	u32 slice_us;		/* 0 = the default slice */
	u32 told_gen;		/* generation that the agent wrote these for */
	u32 sys, sys_gen;	/* its system group, and the generation it was matched for */
	u32 answered, answered_all;	/* the values of `ask` that the agent has answered */
	/* BPF's, and seldom written: */
	u32 ask, ask_all;	/* see intf_sys.h; ask_all: for its whole process, by the leader */
	s32 tgid;
};

/*
 * A take that failed, in one u64: time like a word's, then 12 bits of the CPU that
 * tried, then the reason. For people: nothing decides by it, and what was
 * written last stands.
 */
enum umcg_refusal {
	UMCG_R_AFFINITY = 1,	/* it may not run on that CPU */
	UMCG_R_MIGRATION = 2,	/* it may not leave its CPU now */
	UMCG_R_CLAIM = 3,	/* another server had claimed it */
	UMCG_R_QUEUE = 4,	/* it was not on its queue yet, or not any more */
	UMCG_R_PASSED = 5,	/* staged, but the queue's head was much earlier */
	UMCG_R_UNFIT = 6,	/* umcg_cpu.unfit: nobody there may run on that CPU */
	UMCG_R_MASK = 0xf,
	UMCG_R_CPU_SHIFT = 4,
	UMCG_R_TIME_SHIFT = 16,
};

enum umcg_class {
	UMCG_CLASS_NORMAL = 0,
	UMCG_CLASS_BATCH = 1,	/* preempts none but the next on wake-up */
	UMCG_CLASS_IDLE = 2,	/* always preempted on wake-up */
};

/*
 * struct umcg_list: workers that a server has to look at.   owner: its thread
 * writers: BPF pushes (cmpxchg on head); the server takes all (xchg -> 0).
 * linked iff worker.queued != 0: set (cmpxchg 0 -> 1 + server) before the push,
 *   cleared by the server after the take. It names the list's owner.
 * order: push publishes ->next; take acquires. Clearing `queued` is a full
 *   barrier, and the server re-reads the word after it.
 * no lost wake: the pusher writes the word, then tries `queued`. Either it sees
 *   `queued` clear and links, or the server's re-read sees the new word. Both
 *   at once is harmless: the list entry is a hint, the word is the truth.
 * bound: one link per worker, whatever the list. After UMCG_PUSH_TRIES lost
 *   cmpxchg the pusher clears `queued`, sets `resync` and gives up: the server
 *   then walks the records of its home.
 * model: loom_list_push_vs_drain
 */
struct umcg_list {
	u64 head;		/* index of the newest worker, 0 = empty */
};

/*
 * Staged ring: the server's next choices, oldest first.
 * slot = (index << 32 | gen's low 8 bits << 24 | 24 bits of the word's tag), 0 = free.
 * writers: the server puts 0 -> choice at `tail` by cmpxchg; any CPU takes
 *   choice -> 0 by xchg, or by cmpxchg of the choice it saw; the server recalls
 *   by xchg. So a choice is taken once.
 * `head` is only a hint where to look first: takers move it by cmpxchg, the
 *   server too, past slots that read 0. `tail` belongs to the server.
 * no lost choice: a slot is reused only when it reads 0.
 * model: loom_ring_take_vs_recall
 */
struct umcg_ring {
	u64 head __attribute__((aligned(64)));	/* BPF */
	u64 tail __attribute__((aligned(64)));	/* server */
	u64 slot[UMCG_STAGE_SLOTS] __attribute__((aligned(64)));
};

/*
 * Server record. One per CPU of the system group.
 *
 * Sleep protocol: server: asleep = 1; full barrier; looks at its lists and
 * `must` once more; sleeps. BPF: makes the work visible; full barrier;
 * xchg(asleep, 0): who gets the 1 writes one message. A failed output puts the
 * 1 back and sets `must`, the timer tries again. model: loom_sleep_vs_wake
 */
struct umcg_server {
	u64 word;		/* line 0: BPF */
	u64 since_ns;
	s32 tid;
	u32 parked;		/* on its DSQ, by its own wish */
	u64 parked_ns;
	u64 unread_ns;		/* when the oldest unread notice was pushed, 0 = none */
	u64 ran_ns;		/* when it was last given a CPU */
	u32 must;		/* it has to run at the next dispatch */
	u32 pad0;

	struct umcg_list runnable __attribute__((aligned(64)));
	struct umcg_list blocked;
	u32 resync;		/* a push failed: walk the records */
	u32 unread;		/* notices since the last take, a hint */
	u32 asleep;

	u32 epoch __attribute__((aligned(64)));	/* line 2: server; +1 per turn */
	u32 backlog;		/* workers that its policy still holds */
	u64 worst_key;		/* of what it has staged */

	struct umcg_ring ring;
};

/* Counters: one cell per CPU and counter, summed by the reader. */
#define UMCG_COUNTERS(X)							\
	X(switches, "workers put on a CPU")					\
	X(contended, "of these, with two or more waiting")			\
	X(staged, "contended switches to a worker that a server staged")	\
	X(by_key, "contended switches by key")					\
	X(absent, "contended switches in kernel order for an absent server")	\
	X(stolen, "switches to a worker parked at another server")		\
	X(direct, "wake-ups that went straight to an idle CPU")			\
	X(sync_local, "wake-ups kept on the waker's CPU")			\
	X(preempt_wake, "wake-ups that preempted the running worker")		\
	X(preempt_tick, "running workers preempted by the tick for a waiter")	\
	X(preempt_forced, "forced RUNNING to RUNNABLE by kick or quantum")	\
	X(kick_missed, "requests that hit somebody else, who was let go on")	\
	X(resumed, "workers that went on after a kernel thread had cut in")	\
	X(kept, "running workers whose key was still the earliest")		\
	X(refilled, "lone workers whose slice was refilled")			\
	X(rotated, "heads taken from a longer neighbour")			\
	X(activations, "servers given a CPU")					\
	X(server_wakes, "sleeping servers woken by a message")			\
	X(server_wake_fail, "messages to a sleeping server that failed")	\
	X(blocks, "edges RUNNING to BLOCKED or IDLE")				\
	X(wakes, "edges BLOCKED or IDLE to RUNNABLE")				\
	X(exits, "workers that ended while BLOCKED or by exiting")		\
	X(edge_illegal, "edges that the state machine does not allow")		\
	X(word_race, "lost cmpxchg on a state word")				\
	X(lst_push, "workers linked on a server's list")			\
	X(lst_dup, "pushes skipped: already linked")				\
	X(lst_race, "lost cmpxchg on a list head")				\
	X(lst_resync, "pushes given up: the server walks the records")		\
	X(ring_stale, "staged choices that were no longer true")		\
	X(ring_retry, "staged choices not yet on their queue: put back")	\
	X(ring_head, "staged choices passed over for an earlier head")		\
	X(claim_lost, "claims that another server held")			\
	X(rescued, "workers released by the relief valve")			\
	X(kick_idle, "idle CPUs kicked for a parked worker")			\
	X(idle_retry, "CPUs that looked again before they went idle")		\
	X(idle_found, "idle CPUs that the timer found while workers were parked")		\
	X(idle_work_ns, "time CPUs were idle while a worker allowed there waited")	\
	X(busy_ns, "time that workers ran")					\
	X(server_ns, "time that servers ran")					\
	X(kthread_local, "per-CPU kernel threads put in front")			\
	X(kernel_fair, "tasks run from the kernel-fair queue")			\
	X(anonymous, "enqueues of tasks without a record")					\
	X(throttled, "workers that had to wait for their cgroup's cpu.max")	\
	X(released, "of these, let go when there was time to use again")		\
	X(throttle_late, "of these, let go unpaid: they had waited too long")	\
	X(urgent, "waiting workers let go to stop, freeze or die")		\
	X(cgroup_fail, "cgroups without a record, counted as their parent")	\
	X(alloc_fail, "records that could not be had")				\
	X(yields, "voluntary yields of workers")				\
	X(enq_last, "enqueues as the last runnable task")			\
	X(bad_hint, "bad values read from the agent's side")			\
	X(moved_class, "servers moved off a CPU held by a higher class")	\
	X(grp_run, "slots handed to a worker by its server")			\
	X(grp_switch, "slots handed from worker to worker")			\
	X(grp_back, "slots given back to a server")				\
	X(grp_late, "slots given back while the CPU had other work queued")	\
	X(grp_requeued, "hand-offs after the slot's budget was used up")		\
	X(grp_refused, "requests of members that failed")			\
	X(grp_unheld, "members released by the relief valve")			\
	X(grp_shared, "two running workers of one server: a bug")		\
	X(grp_by_kick, "workers forced off by a kick")				\
	X(grp_by_deadline, "workers forced off by the deadline of their run")	\
	X(grp_by_quantum, "workers forced off by their group's quantum")	\
	X(grp_alone, "quanta of workers that nobody waited behind: they went on")	\
	X(grp_by_signal, "workers forced off by a signal handler of their own")	\
	X(grp_by_wake, "workers forced off by one that woke up with a lower key")	\
	X(grp_section, "kicks put off for a section without preemption")	\
	X(grp_abuse, "of these, forced: the section was too long")		\
	X(grp_grace, "kicks put off while the worker was in the kernel")	\
	X(idl_none, "wakes that found no server waiting for events")		\
	X(idl_steps, "entries that wakes looked at to find one")		\
	X(idl_deleted, "deleted entries that wakes and collections took off")	\
	X(idl_race, "lost cmpxchg on an idle structure")

enum umcg_counter {
#define X(name, desc) UMCG_C_##name,
	UMCG_COUNTERS(X)
#undef X
	UMCG_NR_COUNTERS
};

/*
 * Waits from RUNNABLE to RUNNING, counted by who waited. A wake-up is counted by
 * the weight of its task; one that was pushed off its CPU waits for its turn, which
 * says nothing about latency, and has a tier of its own whatever its weight.
 */
enum umcg_tier {
	UMCG_TIER_HIGH = 0,	/* woken, nice < 0 */
	UMCG_TIER_NORMAL = 1,	/* woken, nice 0 */
	UMCG_TIER_LOW = 2,	/* woken, nice > 0 or SCHED_BATCH */
	UMCG_TIER_IDLE = 3,	/* woken, SCHED_IDLE */
	UMCG_TIER_PREEMPTED = 4,	/* preempted, or gave its CPU up */
	UMCG_NR_TIERS = 5,
};

enum umcg_waits {
	UMCG_WAIT_SHIFT = 10,	/* bucket 0: less than 1024 ns; each further: twice */
	UMCG_WAIT_BUCKETS = 28,	/* the last: 68 s and more */
};

/* Per-CPU record: BPF writes it, `status` maps it read-only. */
struct umcg_cpu {
	/* the worker that runs here; read by wakers on other CPUs */
	u64 cur_v;
	u64 cur_start_ns;
	u64 cur_quiet_ns;
	u64 last_wake_ns;	/* the running task last woke somebody */
	u32 cur_weight;		/* with 10 more bits than umcg_worker.weight */
	u32 cur_avg_ns;
	u32 cur_burst_ns;
	u32 cur_idx;		/* record of the running worker, 0 = none */
	u32 preempting;		/* a preemption by key is under way */
	u32 cur_class;
	u32 cur_member;		/* it belongs to an application group */
	u32 by_key;		/* who runs next has the least v of PARK here */

	/* this CPU's clock and queues */
	u64 vnow __attribute__((aligned(64)));
	u64 idle_since_ns;	/* 0 = busy */
	u64 idle_start_ns;	/* the last idle period, until somebody ran after it */
	u64 idle_end_ns;
	u64 idle_ns;		/* all idle periods that have ended */
	u64 picked_ns;
	u64 granted_ns;		/* of CPU time since then, refills included */
	u64 dispatch_ns;	/* last ops.dispatch */
	u64 run_exec;		/* sum_exec_runtime of the running one when it started */
	u64 kq_ns;		/* CPU time of the kernel-fair queue */
	u64 wk_ns;		/* CPU time of workers */
	u64 max_idle_work_ns;
	u32 want;		/* a short wakee waits: for the tick; enum umcg_want */
	u32 idle_tries;
	u32 kick_idx;		/* whom the last kick was for, 0 = nobody */
	u32 offline;
	u32 hand;		/* 0 = HAND holds nobody; see take_hand() */
	u32 kernel;		/* 0 = KERNELQ holds nobody; see kernelq_waits() */
	u32 perf;		/* told the frequency governor: of 1024 */
	u32 cur_free;		/* who runs here may be on any CPU, whatever its group says */
	u64 act_ns;		/* last activation of the server here */
	u64 unfit;		/* the last try to take from PARK here, enum umcg_refusal */
	u64 parked_weight;	/* of the workers parked here; 0 without cgroups and groups */
	u64 due;		/* members to be put here, see slot.bpf.h */
	u64 cnt[UMCG_NR_COUNTERS] __attribute__((aligned(64)));
	u64 waits[UMCG_NR_TIERS * UMCG_WAIT_BUCKETS];	/* by enum umcg_tier */
};

/* Queues: four per CPU, named (kind << 16) | cpu. */
enum umcg_queue {
	UMCG_Q_PARK = 1,	/* waiting workers by key */
	UMCG_Q_HAND = 2,	/* workers chosen for this CPU */
	UMCG_Q_SERVER = 3,	/* this CPU's server while it waits */
	UMCG_Q_KERNEL = 4,	/* kernel-fair: no agent involved */
	UMCG_Q_THROTTLE = 5,	/* (one per cgroup) workers that wait for its cpu.max */
};

/* What a task is to the scheduler. */
enum umcg_kind {
	UMCG_K_WORKER,
	UMCG_K_SERVER,
	UMCG_K_KERNEL,		/* kernel, io_uring and vhost threads */
	UMCG_K_ANONYMOUS,	/* no record was left */
	UMCG_K_GSERVER,		/* server of an application group */
	UMCG_K_GWORKER,		/* worker of one; members come last */
};

/* Argument of umcg_explain: the thread id goes in, the rest comes out. */
struct umcg_thread {
	s32 tid;
	s32 ret;		/* -ESRCH: no such thread */
	u32 known;		/* it has a context of ours; else these four say nothing */
	u32 kind;		/* enum umcg_kind */
	u32 index;
	u32 gen;
	u32 server;
	s32 cpu;
	u32 policy;		/* SCHED_* */
	u32 boosted;		/* in a real-time class by priority inheritance */
	u32 bound;		/* may use one CPU only */
	u32 migration_disabled;
	u32 dead;
	u32 group;		/* of a member of one, else 0; the next five say nothing then */
	u32 member;		/* its index there */
	u32 mate;		/* worker: whose slot it has; server: who has its slot */
	u32 held;		/* in BPF's hands: its group decides when it runs */
	u32 pad0;
	u64 word;		/* as the group has it */
	u64 since_ns;
	u64 dsq;		/* enum umcg_queue, or one of the kernel's; 0 = none */
};

/* Argument of the other SYSCALL programs. */
struct umcg_call {
	u32 index;
	u32 gen;
	s32 ret;
	u32 pad0;
};

#include "intf_group.h"
#include "intf_sys.h"
#include "intf_fault.h"

#endif /* __UMCG_INTF_H */
