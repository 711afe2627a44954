//! Nonsense on the daemon's socket, beside a group that must not notice.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::kernel::proto::{self, Op, Reply, Request};
use umcg::kernel::sys;

use super::{Test, group, short};
use crate::boss::LIMIT;
use crate::client::{self, NOBODY, group_maps};
use crate::harness::{self, Verdict, wait_until};
use crate::noise::Noise;

pub const TESTS: &[Test] = &[short(
    "vm_group_socket_fuzz_selftest_unprivileged",
    "group",
    8,
    fuzz,
)];

const TIME: Duration = Duration::from_secs(4);
const CONNECTIONS: usize = 6;
/// Those that make and end groups, which takes the daemon milliseconds, are rare.
const OPS: [Op; 6] = [
    Op::Join,
    Op::Tokens,
    Op::Ask,
    Op::Withdraw,
    Op::Wake,
    Op::Kick,
];

/// What the daemon gave, to be given back in wrong places.
#[derive(Default)]
struct Known {
    ticket: [u8; 32],
    token: [u64; 2],
    replies: u64,
    granted: u64,
}

/// A request in form, with values of any kind in it.
fn request(noise: &mut Noise, known: &Known) -> Request {
    let which = noise.below(64) as usize;
    let mut it = Request::new(*OPS.get(which % 8).unwrap_or(&Op::Tokens));
    if which == 0 || known.ticket == [0; 32] {
        it.op = Op::Create;
    }
    (it.kind, it.count) = (noise.value() as u32, noise.value() as u32);
    (it.max_members, it.share) = (noise.value() as u32, noise.value() as u32);
    it.target = noise.value() << 32 | noise.value();
    // SAFETY: no arguments.
    let me = unsafe { libc::gettid() };
    it.thread = match noise.below(3) {
        0 => noise.value() as i32,
        _ => me,
    };
    (it.ticket, it.token) = (known.ticket, known.token);
    match noise.below(8) {
        0 => it.ticket[noise.below(32) as usize] ^= 1 << noise.below(8),
        1 => it.token[noise.below(2) as usize] ^= 1 << noise.below(64),
        2 => it.name.fill(noise.next() as u8),
        _ => {}
    }
    it
}

/// Its bytes, spoilt now and then: flipped, cut off, too many.
fn bytes(noise: &mut Noise, known: &Known) -> Vec<u8> {
    let mut bytes = request(noise, known).encode().to_vec();
    let len = bytes.len() as u64;
    match noise.below(16) {
        0 => bytes[noise.below(len) as usize] ^= 1 << noise.below(8),
        1 => bytes.truncate(1 + noise.below(len - 1) as usize),
        2 => bytes.resize(1 + noise.below(4096) as usize, noise.next() as u8),
        3 => bytes.fill_with(|| noise.next() as u8),
        _ => {}
    }
    bytes
}

/// Sends them; false: it was hung up on.
fn send(sock: &OwnedFd, bytes: &[u8], known: &mut Known) -> Result<bool> {
    let mut reply = [0u8; proto::REPLY_BYTES];
    let fd = sock.as_raw_fd();
    // SAFETY: both buffers live through the calls and have the sizes given.
    let got = unsafe {
        libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
        libc::recv(fd, reply.as_mut_ptr().cast(), reply.len(), 0)
    };
    if got <= 0 {
        // Silence would be EAGAIN, after two seconds.
        ensure!(
            got == 0 || sys::errno() != libc::EAGAIN,
            "no answer to {bytes:?}"
        );
        return Ok(false);
    }
    let reply = Reply::decode(&reply[..got as usize]);
    let reply = reply.map_err(|errno| anyhow::anyhow!("a reply of nonsense: errno {errno}"))?;
    known.replies += 1;
    if reply.errno == 0 {
        known.granted += 1;
        if reply.ticket != [0; 32] {
            known.ticket = reply.ticket;
        }
        if reply.count > 0 && reply.tokens[0] != [0; 2] {
            known.token = reply.tokens[0];
        }
    }
    Ok(true)
}

fn connect() -> Result<OwnedFd> {
    let sock = sys::connect(Path::new(proto::SOCKET));
    sock.map_err(std::io::Error::from_raw_os_error)
        .context("connect")
}

/// Nonsense for so long: answers, and those that granted something.
pub fn garbage(seed: u64, time: Duration) -> Result<(u64, u64)> {
    let mut noise = Noise(seed);
    let mut known = Known::default();
    let mut socks = (0..CONNECTIONS)
        .map(|_| connect())
        .collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    while began.elapsed() < time {
        let which = noise.below(CONNECTIONS as u64) as usize;
        let bytes = bytes(&mut noise, &known);
        if !send(&socks[which], &bytes, &mut known)? || noise.below(64) == 0 {
            socks[which] = connect()?;
        }
        if noise.below(16) == 0 {
            std::thread::yield_now(); // what was put down is done
        }
    }
    Ok((known.replies, known.granted))
}

fn fuzz_body() -> Result<()> {
    let (replies, granted) = garbage(0x9e37_79b9_7f4a_7c15, TIME)?;
    println!("metric group_socket_fuzz replies={replies} granted={granted}");
    ensure!(
        replies > 200 && granted > 20,
        "{replies} replies, {granted} granted"
    );
    Ok(())
}

fn fuzz() -> Result<Verdict> {
    let sched = harness::shared()?;
    let files =
        || std::fs::read_dir(format!("/proc/{}/fd", sched.pid())).map_or(0, Iterator::count);
    let before = files();
    let bad = client::spawn(fuzz_body)?;
    client::spawn_as(NOBODY - 1, group::cycles_body::<100>)?.result(LIMIT)?;
    bad.result(LIMIT)?;
    let gone = wait_until(LIMIT, || group_maps() == 0 && files() <= before + 8);
    ensure!(
        gone,
        "{} maps; {before} files, then {}",
        group_maps(),
        files()
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
