//! What a client and the daemon say to each other over the daemon's socket.
//!
//! SOCK_SEQPACKET, one request, one reply, little-endian, fixed sizes. The first
//! request of a connection is CREATE or JOIN; its reply carries four file descriptors
//! (truth map, client map, the program `umcg_client`, a memfd of futexes), and the
//! connection then belongs to that group: the group ends when its last connection
//! does. TOKENS gives rights to register; with it comes a bell for each server.
//!
//! Who may not use bpf(2) has the daemon make calls. ASK and WITHDRAW are for a thread of
//! the sender's own process, WAKE and KICK for who knows the group's ticket, from any
//! connection of its user. Their reply's `errno` is the call's.

/// First word of every message.
pub const MAGIC: u32 = u32::from_le_bytes(*b"UMCG");
/// Changes with the messages or the records.
pub const VERSION: u16 = 5;
/// Where the daemon listens, unless `UMCG_SOCKET` names another place.
pub const SOCKET: &str = "/run/scx_umcg/client.sock";
/// Tokens in one reply.
pub const MAX_TOKENS: usize = 16;
/// Bytes of a request.
pub const REQUEST_BYTES: usize = 160;
/// Bytes of a reply.
pub const REPLY_BYTES: usize = 80 + 16 * MAX_TOKENS;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// A new group.
    Create = 1,
    /// The group of a ticket.
    Join = 2,
    /// Rights to register in the connection's group.
    Tokens = 3,
    /// Puts a call down, for thread `thread` to make by its next `sched_yield`.
    Ask = 4,
    /// Takes it back, or says what it came to.
    Withdraw = 5,
    /// Wakes a member.
    Wake = 6,
    /// Kicks a worker.
    Kick = 7,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What for.
    pub op: Op,
    /// TOKENS: `enum umcg_member_kind`; 0 = to attach only. ASK: `enum umcg_call_op`.
    pub kind: u32,
    /// TOKENS: how many, at most [`MAX_TOKENS`].
    pub count: u32,
    /// ASK, WITHDRAW: the sender's number of one of its threads.
    pub thread: i32,
    /// WAKE, KICK: the member's id; ASK: the cookie.
    pub target: u64,
    /// ASK: the right to register.
    pub token: [u64; 2],
    /// CREATE: members at most.
    pub max_members: u32,
    /// CREATE: its slots' weight in percent of a thread's, 1..=10000; above 100 for root.
    pub share: u32,
    /// CREATE: `enum umcg_idle_kind`.
    pub idle: u32,
    /// CREATE: 0 = none, else within `enum umcg_quantum`.
    pub quantum_us: u32,
    /// JOIN, WAKE, KICK: which group.
    pub ticket: [u8; 32],
    /// CREATE: for people, ends with 0.
    pub name: [u8; 32],
    /// CREATE: the policy's name, for people, ends with 0.
    pub policy: [u8; 32],
}

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0, or an errno: EDQUOT, ENOSPC, EACCES, EPROTO, EINVAL, ...
    pub errno: i32,
    /// The group's number.
    pub group: u32,
    /// Its generation.
    pub gen_: u32,
    /// Records in its maps, header included.
    pub capacity: u32,
    /// Full mode.
    pub full: bool,
    /// Of this load of the scheduler.
    pub epoch: u64,
    /// With it another process of the same user may join.
    pub ticket: [u8; 32],
    /// How many of `tokens` are given. WAKE: `enum umcg_call_answer`.
    pub count: u32,
    /// ASK: the thread's number as the truth map has it.
    pub thread: i32,
    /// One-time rights.
    pub tokens: [[u64; 2]; MAX_TOKENS],
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            errno: 0,
            group: 0,
            gen_: 0,
            capacity: 0,
            full: false,
            epoch: 0,
            ticket: [0; 32],
            count: 0,
            thread: 0,
            tokens: [[0; 2]; MAX_TOKENS],
        }
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn u16_at(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([from[at], from[at + 1]])
}

fn u32_at(from: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&from[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(from: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&from[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn bytes_at(from: &[u8], at: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&from[at..at + 32]);
    bytes
}

/// Why a message cannot be read, as an errno: EBADMSG, or EPROTO for another version.
fn check(from: &[u8], bytes: usize) -> Result<(), i32> {
    if from.len() != bytes || u32_at(from, 0) != MAGIC {
        return Err(libc::EBADMSG);
    }
    if u16_at(from, 4) != VERSION {
        return Err(libc::EPROTO);
    }
    Ok(())
}

impl Request {
    /// For `op`; the share is a thread's, everything else zero.
    pub const fn new(op: Op) -> Self {
        Self {
            op,
            kind: 0,
            count: 0,
            thread: 0,
            target: 0,
            token: [0; 2],
            max_members: 0,
            share: 100,
            idle: 0,
            quantum_us: 0,
            ticket: [0; 32],
            name: [0; 32],
            policy: [0; 32],
        }
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        put(&mut out, 0, &MAGIC.to_le_bytes());
        put(&mut out, 4, &VERSION.to_le_bytes());
        put(&mut out, 6, &(self.op as u16).to_le_bytes());
        for (i, value) in [self.kind, self.count, self.max_members, self.share]
            .into_iter()
            .enumerate()
        {
            put(&mut out, 8 + 4 * i, &value.to_le_bytes());
        }
        put(&mut out, 24, &self.target.to_le_bytes());
        put(&mut out, 32, &self.ticket);
        put(&mut out, 64, &self.name);
        put(&mut out, 96, &self.token[0].to_le_bytes());
        put(&mut out, 104, &self.token[1].to_le_bytes());
        put(&mut out, 112, &self.thread.to_le_bytes());
        put(&mut out, 116, &self.idle.to_le_bytes());
        put(&mut out, 120, &self.quantum_us.to_le_bytes());
        put(&mut out, 128, &self.policy);
        out
    }

    /// From bytes; the errno that tells the sender what is wrong.
    pub fn decode(from: &[u8]) -> Result<Self, i32> {
        check(from, REQUEST_BYTES)?;
        let op = match u16_at(from, 6) {
            1 => Op::Create,
            2 => Op::Join,
            3 => Op::Tokens,
            4 => Op::Ask,
            5 => Op::Withdraw,
            6 => Op::Wake,
            7 => Op::Kick,
            _ => return Err(libc::EINVAL),
        };
        Ok(Self {
            op,
            kind: u32_at(from, 8),
            count: u32_at(from, 12),
            max_members: u32_at(from, 16),
            share: u32_at(from, 20),
            target: u64_at(from, 24),
            ticket: bytes_at(from, 32),
            name: bytes_at(from, 64),
            token: [u64_at(from, 96), u64_at(from, 104)],
            thread: u32_at(from, 112).cast_signed(),
            idle: u32_at(from, 116),
            quantum_us: u32_at(from, 120),
            policy: bytes_at(from, 128),
        })
    }
}

impl Reply {
    /// A refusal.
    pub fn error(errno: i32) -> Self {
        Self {
            errno,
            ..Self::default()
        }
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut out = [0; REPLY_BYTES];
        put(&mut out, 0, &MAGIC.to_le_bytes());
        put(&mut out, 4, &VERSION.to_le_bytes());
        put(&mut out, 8, &self.errno.to_le_bytes());
        for (i, value) in [
            self.group,
            self.gen_,
            self.capacity,
            u32::from(self.full),
            self.count,
        ]
        .into_iter()
        .enumerate()
        {
            put(&mut out, 12 + 4 * i, &value.to_le_bytes());
        }
        put(&mut out, 32, &self.epoch.to_le_bytes());
        put(&mut out, 40, &self.ticket);
        put(&mut out, 72, &self.thread.to_le_bytes());
        for (i, token) in self.tokens.iter().enumerate() {
            put(&mut out, 80 + 16 * i, &token[0].to_le_bytes());
            put(&mut out, 88 + 16 * i, &token[1].to_le_bytes());
        }
        out
    }

    /// From bytes.
    pub fn decode(from: &[u8]) -> Result<Self, i32> {
        check(from, REPLY_BYTES)?;
        Ok(Self {
            errno: u32_at(from, 8).cast_signed(),
            group: u32_at(from, 12),
            gen_: u32_at(from, 16),
            capacity: u32_at(from, 20),
            full: u32_at(from, 24) != 0,
            count: u32_at(from, 28).min(MAX_TOKENS as u32),
            epoch: u64_at(from, 32),
            ticket: bytes_at(from, 40),
            thread: u32_at(from, 72).cast_signed(),
            tokens: std::array::from_fn(|i| [u64_at(from, 80 + 16 * i), u64_at(from, 88 + 16 * i)]),
        })
    }
}

/// Group, generation and secret as one ticket.
pub fn ticket(group: u32, gen_: u32, secret: [u64; 2]) -> [u8; 32] {
    let mut out = [0; 32];
    put(&mut out, 0, &group.to_le_bytes());
    put(&mut out, 4, &gen_.to_le_bytes());
    put(&mut out, 8, &secret[0].to_le_bytes());
    put(&mut out, 16, &secret[1].to_le_bytes());
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn message_encoded_and_decoded_is_the_same() {
        let mut request = Request::new(Op::Tokens);
        (request.kind, request.count, request.ticket) = (2, 16, ticket(3, 5, [7, 9]));
        (request.share, request.idle, request.name) = (40, 2, [b'n'; 32]);
        (request.quantum_us, request.policy) = (100, [b'p'; 32]);
        (request.target, request.thread, request.token) = (23, -29, [31, 37]);
        assert_eq!(Request::decode(&request.encode()), Ok(request));
        let mut reply = Reply::error(-5);
        (reply.epoch, reply.count, reply.full) = (11, 1, true);
        (reply.tokens[0], reply.thread) = ([13, 17], 19);
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn message_malformed_is_told_apart() {
        let good = Request::new(Op::Create).encode();
        assert_eq!(Request::decode(&good[1..]), Err(libc::EBADMSG));
        assert_eq!(Request::decode(&[]), Err(libc::EBADMSG));
        for (at, errno) in [(0, libc::EBADMSG), (4, libc::EPROTO), (6, libc::EINVAL)] {
            let mut bad = good;
            bad[at] ^= 0x80;
            assert_eq!(Request::decode(&bad), Err(errno), "byte {at}");
        }
    }
}
