//! Calls: by the daemon's program `umcg_client`, or, where bpf(2) is denied, as denied.rs
//! says; and requests to the daemon itself.

use std::os::fd::{AsRawFd, OwnedFd};

use super::proto::{self, Op, Request};
use super::{KernelGroup, locked, os, sys};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Id;
use crate::intf;
use crate::sync::Ordering::Relaxed;

/// How long a call waits that came too fast for its group's bucket: ten tokens.
const PACE_NS: u64 = 50_000;

/// Of the daemon; the error is an errno.
type Answer = std::result::Result<(proto::Reply, Vec<OwnedFd>), i32>;

impl KernelGroup {
    pub(super) fn call(&self, op: u32, target: u64) -> intf::umcg_group_call {
        intf::umcg_group_call {
            op,
            ret: 0,
            epoch: self.epoch,
            token: [0; 2],
            target,
            cookie: u64::from(self.head().gen_.load(Relaxed)) << 32
                | u64::from(self.head().group.load(Relaxed)),
            me: 0,
        }
    }

    /// Runs the program; its answer, or the error that its errno means.
    pub(crate) fn run_call(
        &self,
        call: &mut intf::umcg_group_call,
        name: &'static str,
    ) -> Result<u32> {
        if !self.is_denied() {
            let ran = sys::run_program(self.prog.as_raw_fd(), call);
            self.note_denied(&ran);
            if !self.is_denied() {
                ran.map_err(os(name))?;
            }
        }
        if self.is_denied() {
            call.ret = self.call_without_bpf(call);
        }
        let kind = match -call.ret {
            answer if answer <= 0 => return Ok(answer.unsigned_abs()),
            libc::EALREADY => ErrorKind::Registered,
            libc::EUSERS => ErrorKind::Full,
            libc::ENOENT => ErrorKind::Gone,
            libc::EBUSY => ErrorKind::Again,
            libc::EAGAIN => ErrorKind::WrongState,
            errno => ErrorKind::from_errno(errno),
        };
        Err(Error::new(kind, name, call.ret.unsigned_abs().into()))
    }

    /// A right to register once, and a server's bell.
    pub(super) fn token(&self, kind: u32) -> Result<([u64; 2], Option<OwnedFd>)> {
        let mut request = Request::new(Op::Tokens);
        (request.kind, request.count) = (kind, 1);
        let answer = self.ask_daemon(&request);
        if !self.alive() {
            return Err(self.gone("token", 0));
        }
        let (reply, mut fds) = answer.map_err(os("token"))?;
        if reply.count == 0 {
            return Err(Error::new(ErrorKind::Version, "token", 0));
        }
        Ok((reply.tokens[0], fds.pop()))
    }

    /// Not in a signal handler.
    pub(super) fn ask_daemon(&self, request: &Request) -> Answer {
        let sock = locked(&self.sock);
        let answer = sys::ask(&sock, request);
        if matches!(answer, Err(libc::EAGAIN | libc::ECONNRESET | libc::EPIPE)) {
            // A reply that comes yet would be taken for the next request's.
            self.over.store(true, Relaxed);
        }
        answer
    }

    /// Wakes and kicks come from any thread; one that is no member says once whose it is.
    pub(super) fn call_attached(&self, op: u32, target: Id, name: &'static str) -> Result<u32> {
        match self.call_paced(op, target, name) {
            Err(error) if error.kind() == ErrorKind::Gone && !self.is_denied() => {}
            result => return result,
        }
        let mut attach = self.call(intf::umcg_call_op_UMCG_CALL_ATTACH, 0);
        (attach.token, _) = self.token(intf::umcg_member_kind_UMCG_M_NONE)?;
        self.run_call(&mut attach, name)?;
        self.call_paced(op, target, name)
    }

    /// Waits while the group's wakes and kicks come too fast: none may be lost, and who
    /// makes too many is slowed down, not refused. Async-signal-safe.
    pub(super) fn call_paced(&self, op: u32, target: Id, name: &'static str) -> Result<u32> {
        loop {
            match self.run_call(&mut self.call(op, target.raw()), name) {
                Err(error) if error.kind() == ErrorKind::Again && self.alive() => {
                    sys::nap(PACE_NS);
                }
                result => return result,
            }
        }
    }
}
