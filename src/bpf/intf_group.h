/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What BPF and the client library share about an application group. Part of
 * intf.h, which includes it.
 *
 * A group has two maps with one record per member, record 0 is the header:
 *   truth   struct umcg_member: BPF writes, frozen, so clients map it PROT_READ
 *   client  struct umcg_desk: requests, list, asleep; clients write it too.
 *           BPF reads a value once, checks its bounds, follows no link in it.
 * Index = member: servers 1..UMCG_GROUP_SERVERS, workers after these.
 * Id = gen << 32 | index; gen is odd while the record is in use.
 */
#ifndef __UMCG_INTF_GROUP_H
#define __UMCG_INTF_GROUP_H

enum umcg_group_limits {
	UMCG_MAX_GROUPS = 256,		/* power of two; group 0 is never used */
	UMCG_GROUP_SERVERS = 64,	/* bits of the masks in the header */
	UMCG_IDLE_SERVERS = 1024,	/* that an idle structure can hold, at most */
	UMCG_IDLE_POPS = 16,		/* entries that a wake takes off a stack, at most */
	UMCG_GROUP_WORKERS = 16384,	/* workers of one group, at most */
	UMCG_MAX_BELLS = 4096,		/* app servers of all groups; 0 = none */
};

enum umcg_member_kind {
	UMCG_M_NONE = 0,
	UMCG_M_SERVER = 1,
	UMCG_M_WORKER = 2,
};

/* What a thread asks for by writing desk.op and calling sched_yield(). */
enum umcg_op {
	UMCG_OP_NONE = 0,	/* a yield like any other */
	UMCG_OP_RUN = 1,	/* server: give my slot to desk.target; see UMCG_RUN_IDLE */
	UMCG_OP_NEXT = 2,	/* server: park me until my list has something */
	UMCG_OP_WAIT = 3,	/* worker: IDLE, my server goes on; see UMCG_WAIT_ANYHOW */
	UMCG_OP_YIELD = 4,	/* worker: RUNNABLE, my server goes on */
	UMCG_OP_SWITCH = 5,	/* worker: IDLE, desk.target gets my slot */
	UMCG_OP_DONE = 6,	/* never asked for: dispatch met the request */

	/* A member's calls where bpf(2) is denied. Answer: desk.target, as umcg_group_call.ret. */
	UMCG_OP_WAKE = 7,	/* desk.target: any member of the group */
	UMCG_OP_KICK = 8,	/* desk.target: a worker of it, maybe the caller */
	UMCG_OP_LEAVE = 9,	/* unregister; desk.target: enum umcg_reason */
};

/*
 * A bit of desk.target of UMCG_OP_RUN, above all indexes: the server knows the worker to be
 * IDLE and ends its wait. Without it, one that was RUNNABLE, went on without a slot and
 * waits again is refused with EBUSY: its new wait is none of the server's business.
 */
#define UMCG_RUN_IDLE 0x80000000U

/*
 * desk.target of UMCG_OP_WAIT, flags:
 *   ANYHOW  nobody serves the group, so also without a slot. Else who was let run
 *           without one is refused with EPERM and RUNNABLE: no run() would end with
 *           its wait, and a server may be who has to wake it.
 *   SINCE   a switch to it since `switched` was the number in bits 31..16 has ended
 *           the wait. For a wait that is asked for again, its sleep ended by a signal,
 *           and for a switch that cannot be made in one step: its target is woken
 *           first, and may switch back before the wait begins.
 */
enum umcg_wait {
	UMCG_WAIT_ANYHOW = 1,
	UMCG_WAIT_SINCE = 2,
	UMCG_WAIT_SINCE_SHIFT = 16,
};

/* Why a server's run() ended, why a worker was listed, why a request failed. */
enum umcg_reason {
	UMCG_R_NONE = 0,
	UMCG_R_BLOCKED = 1,	/* in system call ev_nr */
	UMCG_R_FAULT = 2,	/* in a page fault or trap */
	UMCG_R_STOPPED = 3,	/* by SIGSTOP, ptrace or the freezer */
	UMCG_R_WAITS = 4,	/* UMCG_OP_WAIT, or UMCG_OP_SWITCH from a lost target */
	UMCG_R_WOKEN = 5,	/* listed: it waited and somebody woke it */
	UMCG_R_NEW = 6,		/* listed: registered just now */
	UMCG_R_PREEMPTED = 7,	/* forced off: enum umcg_source says by what */
	UMCG_R_YIELDED = 8,	/* these two are listed as well: it is RUNNABLE */
	UMCG_R_TIMEDOUT = 9,	/* listed: its wait is over by time */
	UMCG_R_EXITED = 10,	/* exit, exec, class change, unregister */
	UMCG_R_RESCUED = 11,	/* listed again after the relief valve let it run; as the
				 * end of run(): it moves to another way of being served */
	UMCG_R_REFUSED = 12,	/* the request failed: ev_nr = -errno */
	UMCG_R_UNBLOCKED = 13,	/* listed: it blocked in the kernel and may go on */
};

/*
 * What forced a worker off: ev_nr of UMCG_R_PREEMPTED; in bits 10..8 of umcg_member.kick
 * and umcg_member.why, which no word of a RUNNING stint and no reason uses.
 */
enum umcg_source {
	UMCG_S_NONE = 0,	/* the relief valve took back what it had let run */
	UMCG_S_KICK = 1,	/* by a thread */
	UMCG_S_DEADLINE = 2,	/* of run() */
	UMCG_S_QUANTUM = 3,	/* umcg_group.quantum_us */
	UMCG_S_SIGNAL = 4,	/* by itself: a handler of the application's */
	UMCG_S_WAKE = 5,	/* another one of its server's woke up with a lower key */
	UMCG_SOURCE_SHIFT = 8,
	UMCG_SOURCE_MASK = 0x700,
};

enum umcg_quantum {
	UMCG_QUANTUM_MIN_US = 100,	/* below, most of it would go into the switches */
	UMCG_QUANTUM_MAX_US = 1000000,
	/*
	 * How long a kick is put off for umcg_desk.nopreempt. A section is there for a
	 * lock of user space, some us; 1 ms is far above that, and a quarter of the slice
	 * that those who wait behind the worker may have to wait for anyway.
	 */
	UMCG_SECTION_MAX_US = 1000,
};

/*
 * Which servers of a group wait for an event: chosen when the group is made, see
 * umcg_group.idle_kind and GroupConfig::idle. Three ways, one contract (gidle.bpf.h):
 *
 *   put     server, in ops.enqueue: it waits from here on. Then its second look at
 *           its news, and drop if there is some.
 *   take    waker, any CPU, after its worker is RUNNABLE: one server that waits, its own
 *           to wake: the others do not get it before its next put. 0: none waits.
 *   drop    server, in ops.running, or when it goes: it waits no more. False: a waker
 *           has taken it, and wakes it, or has it told on its list.
 *
 * no lost wake, in two columns; all four accesses are full barriers:
 *   waker                              | server
 *     makes the news visible           |   put
 *     take                             |   looks at its news
 *   Either take finds the server, or the server, whose put came later, sees the news.
 * once: put -> taken and put -> dropped are one atomic change of one word, the server's
 *   entry or its bit. Who makes it has the server.
 *
 * ENTRY, one u64 per server (umcg_member.idle): index of the entry below << 32 | state.
 *   OUT -> WAITS      put. stack: and pushed, by cmpxchg of idle_top
 *   WAITS -> OUT      ring: take, drop
 *   WAITS -> DELETED  stack: drop, and a take of a server by its number: it stays linked
 *   DELETED -> WAITS  stack: put of one that is linked still
 *   any -> OUT        stack: who has popped it from idle_top; a waker that finds WAITS
 *                     has the server, one that finds DELETED goes on. collect, that
 *                     finds WAITS (put meanwhile), has the server look once more
 *   The link is written before the push, by the server alone, and never while linked.
 *
 * stack (Oskolkov): idle_top = tag << 32 | index of the server that waits for the shortest
 *   time; the tag goes up with each push and pop, so no ABA. The kernel pops; deleted
 *   entries are marked and collected by whose thread comes back to user space
 *   (UMCG_CALL_COLLECT), or dropped by the waker that meets them. bound: UMCG_IDLE_POPS
 *   pops, lost cmpxchg included; then as a ring.
 * ring (Zijlstra): the servers' records 1..idle_end in a circle that never changes, walked
 *   from the worker's home: the first one that waits; else the first one that is RUNNING
 *   its own code, whose list is used and which is poked: it looks there before it waits.
 *   bound: idle_end records.
 * mask: a bit per server in a word per 64: `idle` for the first 64, then `idle` of the
 *   records 65, 129, ... The worker's home, else the lowest bit. bound: one step per word
 *   and one per bit that another waker took first.
 * counters: idl_none, idl_steps, idl_deleted, idl_race.
 * models: loom_idle_*, for all three; hammered by vm_hammer_idle_*.
 */
enum umcg_idle_kind {
	UMCG_IDLE_STACK = 0,
	UMCG_IDLE_RING = 1,
	UMCG_IDLE_MASK = 2,
	UMCG_NR_IDLE_KINDS = 3,
};

enum umcg_entry {
	UMCG_E_OUT = 0,
	UMCG_E_WAITS = 1,
	UMCG_E_DELETED = 2,
	UMCG_E_BELOW_SHIFT = 32,
};

/*
 * umcg_member: one thread of a group, in the truth map. BPF writes all of it.
 *
 * `word`: as the system group's, with its own edges, made in
 *   ops.running    -> RUNNING. A worker has a slot then, or it is RESCUED.
 *   ops.enqueue    -> RUNNABLE|YIELDED, RUNNABLE|PREEMPTED, IDLE: the thread
 *                  is held from here on: runnable for the kernel, not run.
 *   ops.quiescent  -> BLOCKED; IDLE|ASLEEP when it waits and sleeps for real
 *   ops.runnable   -> RUNNABLE, by the kernel's wake-up
 *   wake, timer    IDLE -> RUNNABLE of a held worker
 *   A slot that the system group takes off its CPU is no edge: its worker stays
 *   RUNNING. UMCG_F_PENDING is a wake that came first: set by wake in any state
 *   but a held IDLE, cleared by the edge that it spares or makes. UMCG_F_TIMEDOUT is
 *   set by the edge that ends a wait without a wake, and stays until the next wait:
 *   the thread may block, or be let run, before it reads how its wait ended.
 *   All by cmpxchg: so wake against wait is decided by the word alone.
 *
 * `slot` (worker): index of the server whose slot it has. Set by cmpxchg 0 -> server
 *   of a RUNNABLE or a held IDLE worker (the claim), given up by xchg -> 0: who
 *   gets the server out of it lets that server continue, once.
 * `switched`: before the claim, so that who runs by it sees it. A claim that fails
 *   then ends a wait with UMCG_WAIT_SINCE early, at worst.
 * `cur` (server): index of the worker that has its slot, 0 = the server itself.
 * `held`: 1 = in BPF's hands, ops.enqueue queued it nowhere. Who makes it 0 by
 *   cmpxchg puts it on a queue, once. ops.enqueue sets it (full barrier) and
 *   then looks again whether the reason to hold still stands; the others change
 *   the reason (full barrier) and then try held 1 -> 0. One of the two sees the
 *   other; both: the cmpxchg decides.
 * `kick` (worker): the word of the RUNNING stint that has to end, without what wakes
 *   change of it, and enum umcg_source. Any CPU; it stands until it is met or the word
 *   has moved on, so it never hits a later stint. `kick_ns`: since when, written before.
 *   It is put off, at most for UMCG_SECTION_MAX_US, while the thread is in a section
 *   without preemption (umcg_desk.nopreempt): its end yields by itself. The thread's own
 *   stores and what dispatch reads on its CPU are in order, so one of them sees it.
 * `parks`: +1 when held. A sched_yield() that did not move it was not seen.
 * `ev_*`: the last answer to the thread's request; ev_seq (last, release) + 1 each.
 *   For a server: its worker left RUNNING. For both: REFUSED. Read before the
 *   next request, nobody overwrites it earlier.
 */
struct umcg_member {
	u64 word;
	u64 since_ns;		/* full time of the word's edge */
	u64 run_ns;		/* CPU time since it was registered */
	u64 wait_ns;		/* time spent RUNNABLE */
	u64 cookie;		/* given at registration */
	u32 gen;
	s32 tid;
	u32 kind;		/* enum umcg_member_kind */
	u32 home;		/* worker: server that ran it last and is told of it */
	u32 parks;
	u32 why;		/* enum umcg_reason, enum umcg_source: why it was listed,
				 * until its next request */

	u32 slot;
	u32 cur;
	u32 held;
	u32 sys;		/* its record in the system group */
	u32 op;			/* enum umcg_op, as it was read */
	u16 bell;
	u16 switched;		/* +1: a switch is about to give it a slot */
	u64 target;		/* as it was read: Id, or enum umcg_wait */
	u64 deadline_ns;	/* CLOCK_MONOTONIC, as it was read; ~0 = none */
	u64 parked_ns;		/* when held, or RUNNABLE since */
	union {
		u64 kick;	/* worker: see above */
		u64 idle;	/* server: see enum umcg_idle_kind. The record's, so it
				 * outlives the server: the next one's may be linked yet */
	};
	union {
		u64 slot_end_ns;	/* server: when the slot's budget is used up */
		u64 kick_ns;	/* worker: when `kick` was set */
	};

	u64 slot_v;		/* server: the slot's place in the system policy, as who gave
				 * it away left it */
	s32 slot_cpu;		/* CPU on whose clock slot_v is; -1 = who has the slot has
				 * taken its time */
	u32 ev_seq;
	u64 ev_who;		/* Id of the worker */
	u64 ev_tag;		/* its word before it left */
	u64 ev_at_ns;
	u64 ev_run_ns;
	u64 ev_wait_ns;
	u32 ev_reason;		/* enum umcg_reason */
	s32 ev_nr;		/* system call number, enum umcg_source, or -errno */
};

/*
 * umcg_desk: what the thread and BPF exchange, in the client map. A hostile
 * client may write anything here at any time and harms its own group only.
 *
 * `op`, `target`, `deadline_ns`: written by the thread before its sched_yield();
 *   ops.yield reads them once and clears `op`. A signal handler that asks for
 *   something puts back what it found: the request that it came between stands.
 * `runnable`: list of workers that wait for this server; struct umcg_list's
 *   protocol with `queued` and `next` of the workers' desks, indexes are those
 *   of members, below the server's generation: who took over the record of one that
 *   has left begins with an empty list, and a push for the one before finds that out.
 *   BPF pushes and never follows a link. `resync`: a push failed,
 *   or servers changed: walk the truth for RUNNABLE workers that are not queued.
 * `left_*` (worker): the notice that somebody left this record without a slot, so that
 *   no run() tells it. BPF writes it, left_id last (full barrier), and links the desk as
 *   for a RUNNABLE worker; who takes it off a list exchanges left_id for 0 and reports
 *   it, once. A record with a notice is given out again only when there is no other:
 *   a second notice would take its place.
 * `nopreempt` (worker): sections without preemption that the thread is in; see `kick`.
 * `alone` (server): 1 while it knows of nobody but the worker that it runs. The quantum ends
 *   nothing then, as that worker would be run again. Who puts another one into the queue that
 *   the server picks from stores 0, any thread of its process.
 * `key` (worker): where the thread wants to be in its server's order. Who becomes RUNNABLE
 *   forces the worker off that its server runs and whose key is higher.
 * `poked`: set by a wake of the server, which then returns from its wait for events.
 * `asleep` (server): struct umcg_server's sleep protocol: 1 before poll() on the
 *   bell, then look at the list and at truth.cur once more. BPF: xchg -> 0, the
 *   one who gets the 1 rings.
 *
 * A worker's real sleep is a futex, u32 number `index` in the group's memfd (the
 * kernel has no futexes in BPF maps, whose pages belong to no file). Sleeper: reads
 * futex; truth.word must be IDLE without PENDING; futex_waitv(value and word). Waker:
 * the wake call answers UMCG_WAKE_FUTEX; futex += 1; FUTEX_WAKE. One of them sees the
 * other. The word is among what the kernel compares because the sleeper may be taken
 * off its CPU before it sleeps: it is held then, and who wakes or runs one that is
 * held rings no futex.
 */
enum umcg_owner {
	UMCG_OWNER_GEN_SHIFT = 8,	/* generation << 8 | index; indexes are reused */
	UMCG_OWNER_INDEX = 0xff,
};

struct umcg_desk {
	u32 op;			/* enum umcg_op */
	u32 poked;		/* server: somebody woke the server itself */
	u64 target;		/* Id */
	u64 deadline_ns;	/* CLOCK_MONOTONIC; ~0 = none */
	u64 left_id;		/* 0, or who left */
	u64 left_cookie;
	u64 left_at_ns;
	u64 left_run_ns;
	u64 left_wait_ns;

	u64 runnable __attribute__((aligned(64)));
	u32 resync;
	u32 asleep;
	u32 queued;		/* 0, or the umcg_owner of the link */
	u32 next;
	u32 nopreempt;
	u32 alone;
	u64 key;		/* worker: lower ones come first; ~0 = has none */
};

/* Record 0 of the truth map. Written by the daemon before it freezes the map,
 * then by BPF. */
struct umcg_group {
	u32 abi;		/* UMCG_ABI */
	u32 group;
	u64 epoch;		/* of this load of the scheduler; calls must name it; 0 = over */
	u32 gen;		/* of the group number */
	u32 capacity;		/* records, header included */
	u32 share;		/* of its slots, in percent of a thread's weight, 1..10000 */
	u32 full;		/* 0: partial mode, members must be SCHED_EXT */
	u64 servers;		/* bit (index - 1): registered */
	u64 idle;		/* mask: bit (index - 1): waits for an event */
	u64 tat_ns;		/* token bucket of wakes and kicks */
	u32 cursor;		/* where to look for a free worker record; all used ones are
				 * below it, counted from the first one */
	u32 members;		/* registered now */
	u64 shared;		/* edges to RUNNING beside another of that server: a bug */
	u32 uid;		/* who made it */
	u8 name[32];		/* for people, ends with 0 */
	u32 idle_kind;		/* enum umcg_idle_kind */
	u64 idle_top;		/* stack: tag << 32 | index */
	u64 stuck;		/* bit (index - 1): sleeps uninterruptibly in the kernel, maybe
				 * for a lock that a worker has: these are not held then */
	u32 idle_end;		/* the highest index that a server has had */
	u32 quantum_us;		/* after which a worker is forced off, 0 = none */
	u64 ahead_ns;		/* added to CLOCK_MONOTONIC in words: 0, but in tests */
	u8 policy[32];		/* its name, for people, ends with 0 */
	u32 pad[4];
};

/* The client's call by BPF_PROG_RUN. Authority is the calling task's alone. */
enum umcg_call_op {
	UMCG_CALL_REGISTER = 1,		/* token, cookie, target = wanted home -> me */
	UMCG_CALL_UNREGISTER = 2,	/* target = UMCG_R_EXITED, or RESCUED: nobody is told */
	UMCG_CALL_WAKE = 3,		/* target, cookie = gen << 32 | group; any member, or */
	UMCG_CALL_KICK = 4,		/* any thread that gave a token last: ATTACH */
	UMCG_CALL_ATTACH = 5,		/* token: may call wake and kick, a member elsewhere too */
	UMCG_CALL_COLLECT = 6,		/* of the group of cookie: see enum umcg_idle_kind */
};

enum umcg_call_answer {
	UMCG_WAKE_DONE = 0,		/* made RUNNABLE, or remembered */
	UMCG_WAKE_FUTEX = 1,		/* and it sleeps: the caller does the FUTEX_WAKE */
};

struct umcg_group_call {
	u32 op;			/* enum umcg_call_op */
	s32 ret;		/* -errno, or enum umcg_call_answer */
	u64 epoch;
	u64 token[2];
	u64 target;		/* Id */
	u64 cookie;
	u64 me;			/* answer: Id of the caller */
};

/*
 * The daemon's call for a client that may not use bpf(2). Its program is handed to
 * nobody: whose call it is was judged by the daemon, by what the kernel says of the
 * sender. REGISTER and UNREGISTER are only put down in the record of thread `tid` of
 * process `tgid`: that thread makes the call itself by its next sched_yield(), and is
 * judged then as if it had come by BPF_PROG_RUN. WAKE and KICK are made at once.
 */
struct umcg_proxy_call {
	struct umcg_group_call call;	/* ret: 0 = put down; cookie as for its op */
	s32 tgid;
	s32 tid;		/* in the thread's pid namespace -> as the kernel counts */
	u32 withdraw;		/* 1: not put down but taken back; ret = what it came to */
	u32 pad;
};

/* A right to register once. Issued by the daemon, consumed by BPF. */
struct umcg_token {
	u32 group;
	u32 gen;
	u32 uid;
	s32 tgid;
	u32 kind;		/* enum umcg_member_kind; NONE = attach */
	u32 bell;
};

/* The daemon's call: groups come and go. Its program is handed to nobody. */
enum umcg_admin_op {
	UMCG_ADMIN_OPEN = 1,	/* group, gen: the maps are in place */
	UMCG_ADMIN_DRAIN = 2,	/* nobody is held any more; ret = members left */
	UMCG_ADMIN_CLOSE = 3,
	UMCG_ADMIN_KEPT = 4,	/* closed; ret = who has its maps besides us, 0: nobody */
};

struct umcg_admin_call {
	u32 op;
	s32 ret;
	u32 group;
	u32 gen;
	u64 epoch;
};

#endif /* __UMCG_INTF_GROUP_H */
