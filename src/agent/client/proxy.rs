//! Calls of clients that may not use bpf(2).
//!
//! Whose call it is says the kernel, with each message: not the arguments, and not only
//! who connected once, since a connection can be passed on and outlives a fork. What was
//! put down for a thread is judged by BPF when that thread makes it.

use umcg::intf;
use umcg::kernel::proto::{Op, Reply, Request};

use super::socket::Peer;
use super::{Answer, Clients};

impl Clients {
    /// Puts a call down for a thread of the sender's process, or takes it back.
    pub(super) fn ask(&self, peer: Peer, sender: Peer, request: &Request) -> Answer {
        // Its tokens were issued for the process that connected.
        if sender.pid != peer.pid || sender.pid <= 0 || request.thread <= 0 {
            return Err(libc::EPERM);
        }
        let leaves = request.kind == intf::umcg_call_op_UMCG_CALL_UNREGISTER;
        let mut call = intf::umcg_proxy_call {
            call: intf::umcg_group_call {
                op: match leaves {
                    true => intf::umcg_call_op_UMCG_CALL_UNREGISTER,
                    false => intf::umcg_call_op_UMCG_CALL_REGISTER,
                },
                token: request.token,
                cookie: request.target,
                ..EMPTY
            },
            tgid: sender.pid,
            tid: request.thread,
            withdraw: (request.op == Op::Withdraw).into(),
            pad: 0,
        };
        self.outer.proxy(&mut call)?;
        let reply = Reply {
            thread: call.tid,
            ..Reply::default()
        };
        Ok((reply, Vec::new()))
    }

    /// Wakes or kicks a member of the ticket's group.
    pub(super) fn call(&self, peer: Peer, sender: Peer, request: &Request) -> Answer {
        let group = self.by_ticket(request)?;
        if group.uid != peer.uid || group.uid != sender.uid {
            return Err(libc::EPERM);
        }
        let mut call = intf::umcg_proxy_call {
            call: intf::umcg_group_call {
                op: match request.op {
                    Op::Wake => intf::umcg_call_op_UMCG_CALL_WAKE,
                    _ => intf::umcg_call_op_UMCG_CALL_KICK,
                },
                target: request.target,
                cookie: u64::from(group.gen_) << 32 | u64::from(group.number),
                ..EMPTY
            },
            tgid: sender.pid,
            tid: 0,
            withdraw: 0,
            pad: 0,
        };
        let count = self.outer.proxy(&mut call)?;
        let reply = Reply {
            count,
            ..Reply::default()
        };
        Ok((reply, Vec::new()))
    }
}

const EMPTY: intf::umcg_group_call = intf::umcg_group_call {
    op: 0,
    ret: 0,
    epoch: 0,
    token: [0; 2],
    target: 0,
    cookie: 0,
    me: 0,
};
