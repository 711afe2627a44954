//! The same calls where bpf(2) is denied: by a container's seccomp filter, or a security
//! module. Found out once, and remembered.
//!
//! A member's wake, kick and unregister are requests on its desk then: BPF reads them in
//! the member's `sched_yield`, as it reads its waits; no daemon is asked. A thread that is
//! no member has the daemon wake and kick. To register, a thread has the daemon put the
//! call down for it and makes it by its next `sched_yield`: so it is judged as the one
//! that it is, whatever the message said.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::proto::{Op, Request};
use super::{KernelGroup, SERVERS, sys};
use crate::event::Id;
use crate::futex::sys as thread;
use crate::intf;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::tls;

thread_local! {
    /// The group that the calling thread is in, by its serial number, its id there, and
    /// the forks that led to its process. Plain, for signal handlers.
    static MINE: Cell<(u64, Id, u32)> = const { Cell::new((0, Id::NONE, 0)) };
}

/// How a group is called without bpf(2).
#[derive(Debug)]
pub(super) struct Denied {
    is: AtomicBool,
    /// Of the group among those of this process.
    serial: u64,
    /// A connection that no call uses now.
    line: sys::Line,
}

impl Default for Denied {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            is: AtomicBool::new(false),
            serial: NEXT.fetch_add(1, Relaxed),
            line: sys::Line::default(),
        }
    }
}

impl KernelGroup {
    /// Whether bpf(2) is denied, so that calls go the other way.
    pub fn is_denied(&self) -> bool {
        self.denied.is.load(Relaxed)
    }

    /// After a call by bpf(2).
    pub(super) fn note_denied(&self, ran: &Result<(), i32>) {
        if matches!(ran, Err(libc::EPERM | libc::EACCES | libc::ENOSYS)) {
            self.denied.is.store(true, Relaxed);
        }
    }

    /// Makes a call that BPF turns down before anything else.
    pub(super) fn probe_bpf(&self) {
        thread::watch_forks();
        let mut nothing = self.call(0, 0);
        nothing.epoch = 0;
        let ran = sys::run_program(self.prog.as_raw_fd(), &mut nothing);
        self.note_denied(&ran);
    }

    /// The calling thread is member `me` of this group; `NONE`: of none.
    pub(super) fn sit(&self, me: Id) {
        let _ = MINE.try_with(|mine| mine.set((self.denied.serial, me, tls::forks())));
    }

    /// The calling thread's id, if it is a member of this group.
    fn mine(&self) -> Option<Id> {
        let (serial, me, forks) = MINE.try_with(Cell::get).ok()?;
        let lives = !me.is_none() && self.truth(me.index()).gen_.load(Acquire) == me.generation();
        (lives && serial == self.denied.serial && forks == tls::forks()).then_some(me)
    }

    /// As the program would: its `ret`, and for REGISTER its `me`. Wakes and kicks are
    /// async-signal-safe.
    pub(super) fn call_without_bpf(&self, call: &mut intf::umcg_group_call) -> i32 {
        let (op, request) = match call.op {
            intf::umcg_call_op_UMCG_CALL_REGISTER => return self.register_by_yield(call),
            intf::umcg_call_op_UMCG_CALL_UNREGISTER => return self.leave_by_yield(call.target),
            intf::umcg_call_op_UMCG_CALL_WAKE => (intf::umcg_op_UMCG_OP_WAKE, Op::Wake),
            intf::umcg_call_op_UMCG_CALL_KICK => (intf::umcg_op_UMCG_OP_KICK, Op::Kick),
            _ => return -libc::EINVAL,
        };
        let answer = self.mine().and_then(|me| self.ask_bpf(me, op, call.target));
        answer.unwrap_or_else(|| self.ask_for_wake(request, call.target))
    }

    /// A request of the calling thread, member `me`; `None`: BPF did not see it. One that
    /// a signal handler makes comes between another and its yield: it puts that back.
    fn ask_bpf(&self, me: Id, op: u32, target: u64) -> Option<i32> {
        let desk = self.desk(me.index());
        let (old_op, old_target) = (desk.op.load(Relaxed), desk.target.load(Relaxed));
        desk.target.store(target, Relaxed);
        desk.op.store(op, Relaxed);
        sys::yield_cpu();
        let seen = desk.op.load(Relaxed) != op;
        let answer = desk.target.load(Relaxed) as i32;
        if op != intf::umcg_op_UMCG_OP_LEAVE || !seen {
            desk.target.store(old_target, Relaxed);
            desk.op.store(old_op, Relaxed);
        }
        seen.then_some(answer)
        // pairs with member_asks()
    }

    fn leave_by_yield(&self, reason: u64) -> i32 {
        if let Some(me) = self.mine() {
            let op = intf::umcg_op_UMCG_OP_LEAVE;
            return match self.ask_bpf(me, op, reason) {
                Some(_) => 0,
                None => -libc::ENOENT,
            };
        }
        let mut ask = Request::new(Op::Ask);
        ask.kind = intf::umcg_call_op_UMCG_CALL_UNREGISTER;
        match self.make_asked(&mut ask) {
            Ok(_) => self.came_to(ask),
            Err(errno) => -errno,
        }
    }

    fn register_by_yield(&self, call: &mut intf::umcg_group_call) -> i32 {
        let mut ask = Request::new(Op::Ask);
        ask.kind = intf::umcg_call_op_UMCG_CALL_REGISTER;
        (ask.target, ask.token) = (call.cookie, call.token);
        let thread = match self.make_asked(&mut ask) {
            Ok(thread) => thread,
            Err(errno) => return -errno,
        };
        match self.record_of(thread) {
            Some(me) => {
                call.me = me.raw();
                0
            }
            None => self.came_to(ask).min(-1),
        }
    }

    /// Has a call put down for the calling thread and makes it. The thread's number as
    /// the truth map has it.
    fn make_asked(&self, ask: &mut Request) -> Result<i32, i32> {
        ask.thread = thread::gettid();
        let (reply, _) = self.ask_daemon(ask)?;
        sys::yield_cpu();
        Ok(reply.thread)
        // pairs with asked_call()
    }

    /// What became of it; it is made no more.
    fn came_to(&self, mut ask: Request) -> i32 {
        ask.op = Op::Withdraw;
        match self.ask_daemon(&ask) {
            Ok(_) => 0,
            Err(errno) => -errno,
        }
    }

    /// The member that thread `thread` is, newest workers first.
    fn record_of(&self, thread: i32) -> Option<Id> {
        let records = (1..=SERVERS).chain(self.worker_records().rev());
        records.into_iter().find_map(|index| {
            let truth = self.truth(index);
            let generation = truth.gen_.load(Acquire);
            let found = generation & 1 == 1 && truth.tid.load(Relaxed) == thread;
            found.then(|| Id::new(index, generation))
        })
    }

    /// By the daemon, for a thread that is no member here.
    fn ask_for_wake(&self, op: Op, target: u64) -> i32 {
        let mut request = Request::new(op);
        (request.ticket, request.target) = (self.ticket, target);
        let line = match self.denied.line.take(tls::forks()) {
            Some(line) => Ok(line),
            None => sys::connect(&self.path),
        };
        let answer = match &line {
            Ok(line) => sys::exchange(line, &request),
            Err(errno) => Err(*errno),
        };
        match (answer, line) {
            (Ok(reply), Ok(line)) => match reply.errno {
                0 => {
                    self.denied.line.put(line, tls::forks());
                    reply.count.cast_signed()
                }
                libc::EDQUOT => -libc::EBUSY, // too many connections at the moment
                errno => {
                    self.denied.line.put(line, tls::forks());
                    -errno
                }
            },
            (_, Err(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM))) => -errno,
            _ => {
                self.over.store(true, Relaxed);
                -libc::ENOENT
            }
        }
    }
}
