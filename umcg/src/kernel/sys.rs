//! The system calls of the client side, without libbpf.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::NonNull;

use super::proto::{self, Reply, Request};
use crate::clock;
use crate::intf;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// `union bpf_attr` for BPF_PROG_TEST_RUN; ctx_out must stay zero for SYSCALL programs.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs the SYSCALL program `prog`; no allocation, no lock: safe in a signal handler.
pub fn run_program(prog: RawFd, call: &mut intf::umcg_group_call) -> Result<(), i32> {
    let mut attr = TestRun {
        prog_fd: prog.cast_unsigned(),
        ctx_size_in: size_of::<intf::umcg_group_call>() as u32,
        ctx_in: (&raw mut *call) as u64,
        ..Default::default()
    };
    // SAFETY: attr has the layout and size that bpf(2) documents; ctx_in points to
    // ctx_size_in bytes that live through the call and that nobody else uses.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attr,
            size_of::<TestRun>(),
        )
    };
    if ret < 0 {
        return Err(errno());
    }
    Ok(())
}

/// The calling thread's errno.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// CLOCK_MONOTONIC of the machine in ns: the clock of BPF and of all deadlines here, also
/// for a caller whose time namespace has another.
pub fn now_ns() -> u64 {
    clock::machine_now()
}

/// Gives the CPU up: BPF reads the request then.
pub fn yield_cpu() {
    // SAFETY: no arguments.
    unsafe { libc::sched_yield() };
}

/// Sleeps for `ns`, or until a signal.
pub fn nap(ns: u64) {
    let time = timespec(ns);
    // SAFETY: time lives through the call; no rest is asked for.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    }
}

/// `struct futex_waitv`.
#[repr(C)]
struct Waited {
    val: u64,
    uaddr: u64,
    flags: u32,
    reserved: u32,
}

/// Sleeps while `futex` is `value` and the lower half of `word` is that of `seen`, until
/// `futex` is woken, `deadline_ns` or a signal. Nobody wakes `word`, BPF has no futexes: the
/// kernel looks at it once more before the thread sleeps.
pub fn futex_wait(futex: &AtomicU32, value: u32, word: &AtomicU64, seen: u64, deadline_ns: u64) {
    const SIZE_U32: u32 = 2;
    const PRIVATE: u32 = 128;
    /// Without the call, under a filter of system calls, it looks so often.
    const NAP_NS: u64 = 1_000_000;
    let waited = |uaddr: u64, val: u32, flags| Waited {
        val: val.into(),
        uaddr,
        flags: SIZE_U32 | flags,
        reserved: 0,
    };
    // A page of a map has no file that a shared futex could be known by. x86-64: the lower
    // half comes first.
    let both = [
        waited(std::ptr::from_ref(futex) as u64, value, 0),
        waited(std::ptr::from_ref(word) as u64, seen as u32, PRIVATE),
    ];
    // The kernel takes absolute times as those of the caller's time namespace.
    let until = timespec(clock::to_caller(deadline_ns));
    let until = if deadline_ns == u64::MAX {
        std::ptr::null()
    } else {
        &raw const until
    };
    // SAFETY: both words are in mappings that outlive the call; `both` has the layout that
    // futex_waitv(2) documents; `until` is null or an absolute time that lives through it.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            both.as_ptr(),
            both.len(),
            0,
            until,
            libc::CLOCK_MONOTONIC,
        )
    };
    if ret < 0 && matches!(errno(), libc::ENOSYS | libc::EPERM) {
        nap(NAP_NS.min(deadline_ns.saturating_sub(now_ns())));
    }
}

/// Wakes who sleeps on `word`.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is in a mapping that outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            std::ptr::from_ref(word),
            libc::FUTEX_WAKE,
            i32::MAX,
        )
    };
}

/// A thread's scheduling policy, with its real-time priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// With `SCHED_RESET_ON_FORK`, if that is set.
    policy: libc::c_int,
    priority: libc::c_int,
}

impl Class {
    /// `SCHED_EXT`.
    pub const EXT: Self = Self {
        policy: 7,
        priority: 0,
    };
    /// `SCHED_OTHER`.
    pub const OTHER: Self = Self {
        policy: libc::SCHED_OTHER,
        priority: 0,
    };

    /// Of the calling thread.
    pub fn mine() -> Result<Self, i32> {
        let mut param = libc::sched_param { sched_priority: 0 };
        // SAFETY: no pointers; 0 is the calling thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        // SAFETY: param lives through the call.
        if policy < 0 || unsafe { libc::sched_getparam(0, &raw mut param) } != 0 {
            return Err(errno());
        }
        Ok(Self {
            policy,
            priority: param.sched_priority,
        })
    }

    /// Makes it the calling thread's.
    pub fn take(self) -> Result<(), i32> {
        let param = libc::sched_param {
            sched_priority: self.priority,
        };
        // SAFETY: param lives through the call; 0 is the calling thread.
        match unsafe { libc::sched_setscheduler(0, self.policy, &raw const param) } {
            0 => Ok(()),
            _ => Err(errno()),
        }
    }
}

/// A shared mapping of a map's records.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is only used through atomics, by whoever holds the mapping.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `fd` from `offset`.
    pub fn new(fd: &OwnedFd, bytes: usize, offset: i64, write: bool) -> Result<Self, i32> {
        let bytes = bytes.next_multiple_of(4096);
        let prot = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let addr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                prot,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if addr == libc::MAP_FAILED {
            return Err(errno());
        }
        NonNull::new(addr.cast())
            .map(|base| Self { base, bytes })
            .ok_or(libc::ENOMEM)
    }

    /// The `T` at record `index`.
    ///
    /// # Safety
    /// T consists of atomics, and the map holds Ts of this size.
    pub unsafe fn record<T>(&self, index: usize) -> Option<&T> {
        if (index + 1).checked_mul(size_of::<T>())? > self.bytes {
            return None;
        }
        // SAFETY: inside of the mapping by the test above, aligned because the map's
        // records are and the mapping starts a page; the caller vouches for T.
        Some(unsafe { &*self.base.as_ptr().cast::<T>().add(index) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of the mmap in new().
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// What wakes a server from BPF: a ring buffer whose messages say nothing.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
}

impl Bell {
    /// Of the ring buffer `fd`.
    pub fn new(fd: OwnedFd) -> Result<Self, i32> {
        let consumer = Mapping::new(&fd, 4096, 0, true)?;
        let producer = Mapping::new(&fd, 4096, 4096, false)?;
        Ok(Self {
            fd,
            consumer,
            producer,
        })
    }

    /// Sleeps until it rings, `other` hangs up, `deadline_ns` or a signal; then it is
    /// silent again. True: `other` has hung up.
    pub fn wait(&self, deadline_ns: u64, other: RawFd) -> bool {
        let left = deadline_ns.saturating_sub(now_ns());
        let timeout = timespec(left);
        let timeout = if deadline_ns == u64::MAX {
            std::ptr::null()
        } else {
            &raw const timeout
        };
        let poll = |fd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut polls = [poll(self.fd.as_raw_fd(), libc::POLLIN), poll(other, 0)];
        // SAFETY: two pollfd and a timespec (or null) that live through the call.
        unsafe { libc::ppoll(polls.as_mut_ptr(), 2, timeout, std::ptr::null()) };
        self.silence();
        polls[1].revents & (libc::POLLHUP | libc::POLLERR) != 0
    }

    fn silence(&self) {
        // SAFETY: the ring buffer's first two pages start with its positions.
        let positions = unsafe {
            (
                self.consumer.record::<AtomicU64>(0),
                self.producer.record::<AtomicU64>(0),
            )
        };
        if let (Some(consumer), Some(producer)) = positions {
            consumer.store(producer.load(Ordering::Acquire), Ordering::Release);
        }
    }
}

/// A connection to the daemon.
pub fn connect(path: &Path) -> Result<OwnedFd, i32> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all zero is a valid sockaddr_un.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    if bytes.len() >= addr.sun_path.len() {
        return Err(libc::ENAMETOOLONG);
    }
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: fd was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // A daemon that is stopped holds nobody up for longer than this.
    let patience = libc::timeval {
        tv_sec: 2,
        tv_usec: 0,
    };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        // SAFETY: patience lives through the call and has the size given.
        unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const patience).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
    }
    // SAFETY: addr lives through the call and has the size given.
    let ret = unsafe {
        libc::connect(
            fd.as_raw_fd(),
            (&raw const addr).cast(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    if ret < 0 {
        return Err(errno());
    }
    Ok(fd)
}

/// One request and its reply, with up to four file descriptors.
pub fn ask(sock: &OwnedFd, request: &Request) -> Result<(Reply, Vec<OwnedFd>), i32> {
    // Who hung up at once, as on one connection too many, may have said why before.
    if send(sock, request) < 0 && errno() != libc::EPIPE {
        return Err(errno());
    }
    let mut reply = [0u8; proto::REPLY_BYTES];
    let mut control = [0u64; 8];
    let mut iov = libc::iovec {
        iov_base: reply.as_mut_ptr().cast(),
        iov_len: reply.len(),
    };
    // SAFETY: all zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: msg points to one iovec and a control buffer that live through it.
    let mut receive =
        || until_done(|| unsafe { libc::recvmsg(sock.as_raw_fd(), &raw mut msg, flags) });
    let got = match receive() {
        // It left the request unread: that is told once, and before what it has said.
        Err(libc::ECONNRESET) => receive(),
        got => got,
    }?;
    let fds = received_fds(&msg);
    if got == 0 {
        return Err(libc::ECONNRESET);
    }
    let reply = Reply::decode(&reply[..got])?;
    match reply.errno {
        0 => Ok((reply, fds)),
        errno => Err(errno),
    }
}

/// One request and its reply, which brings no file descriptors. The error is the way's,
/// not the reply's. Async-signal-safe.
pub fn exchange(sock: &OwnedFd, request: &Request) -> Result<Reply, i32> {
    until_done(|| send(sock, request))?;
    let mut reply = [0u8; proto::REPLY_BYTES];
    // SAFETY: reply lives through the call.
    let got = until_done(|| unsafe {
        libc::recv(sock.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0)
    })?;
    Reply::decode(&reply[..got])
}

fn send(sock: &OwnedFd, request: &Request) -> isize {
    let bytes = request.encode();
    // SAFETY: bytes live through the call.
    unsafe {
        libc::send(
            sock.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
        )
    }
}

fn until_done(mut call: impl FnMut() -> isize) -> Result<usize, i32> {
    loop {
        match usize::try_from(call()) {
            Ok(done) => return Ok(done),
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(errno()),
        }
    }
}

/// Keeps a connection that nobody uses at the moment. Lock-free, for signal handlers.
#[derive(Debug, Default)]
pub struct Line(AtomicU64);

impl Line {
    /// The one that is kept; it is the caller's then. Not one of before a fork: its other
    /// end would take the parent's messages for the child's.
    pub fn take(&self, forks: u32) -> Option<OwnedFd> {
        let kept = self.0.swap(0, Ordering::AcqRel);
        // SAFETY: put() stored a file descriptor that it owned; who swaps it out owns it.
        let line = unsafe { (kept != 0).then(|| OwnedFd::from_raw_fd(kept as u32 as RawFd - 1)) };
        line.filter(|_| (kept >> 32) as u32 == forks)
    }

    /// Keeps `line`, or closes it if there is one already.
    pub fn put(&self, line: OwnedFd, forks: u32) {
        use std::os::fd::IntoRawFd;
        let fd = line.as_raw_fd();
        let kept = u64::from(forks) << 32 | u64::from((fd + 1).cast_unsigned());
        let empty = self
            .0
            .compare_exchange(0, kept, Ordering::AcqRel, Ordering::Relaxed);
        if empty.is_ok() {
            let _ = line.into_raw_fd();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.take(0));
    }
}

fn received_fds(msg: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: msg was filled by recvmsg; the CMSG macros stay inside of its buffer.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(msg);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::SOL_SOCKET && (*cmsg).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(cmsg).cast::<RawFd>();
                let bytes = (*cmsg).cmsg_len - libc::CMSG_LEN(0) as usize;
                for i in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            cmsg = libc::CMSG_NXTHDR(msg, cmsg);
        }
    }
    fds
}
