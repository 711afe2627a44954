//! Clients that may not use bpf(2): calls go by `sched_yield` and by the daemon's socket.
//!
//! Tests of others are run again under such a filter; and requests to the daemon are forged.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::KernelGroup;
use umcg::kernel::proto::{self, Op, Request};
use umcg::kernel::sys;
use umcg::{Group, GroupConfig, Id, Kind, Mode, State, ThreadTimer, TimerClock, Woken, intf};

use super::{Test, group, library, short, signals, timed};
use crate::boss::{LIMIT, in_client};
use crate::client::{self, NOBODY, WORDS, serve, worker};
use crate::harness::{self, Sched, Verdict, wait_until};
use crate::seccomp::{deny_bpf, without_bpf};

const EPERM: i32 = libc::EPERM;

pub const TESTS: &[Test] = &[
    short("vm_denied_cycles_unprivileged", "member,newest", 12, || {
        without_bpf(EPERM, group::cycles::<300>)
    }),
    short("vm_denied_switch_unprivileged", "member,newest", 4, || {
        without_bpf(libc::ENOSYS, group::switch_ping_pong)
    }),
    short("vm_denied_kick_unprivileged", "member,newest", 6, || {
        without_bpf(libc::EACCES, group::kick)
    }),
    // Its server blocks between two kicks; a busy host may keep it there until the relief valve
    // lets the worker run without a slot, which refuses a kick.
    timed(
        "vm_denied_kick_by_handler_unprivileged",
        "member,newest",
        3,
        || without_bpf(EPERM, signals::kick_by_handler),
    ),
    short("vm_denied_api_unprivileged", "member,newest", 4, || {
        without_bpf(EPERM, library::api)
    }),
    short("vm_denied_runtime_unprivileged", "member,newest", 6, || {
        without_bpf(EPERM, library::runtime)
    }),
    short(
        "vm_denied_two_processes_unprivileged",
        "member,newest",
        4,
        || without_bpf(EPERM, library::two_processes),
    ),
    short("vm_denied_later_unprivileged", "member,newest", 3, later),
    short(
        "vm_denied_handlers_unprivileged",
        "member,newest",
        4,
        handlers,
    ),
    short(
        "vm_denied_namespace_unprivileged",
        "member,newest",
        3,
        namespace,
    ),
    short("vm_denied_forged_unprivileged", "member,newest", 5, forged),
    short(
        "vm_denied_partial_unprivileged",
        "member,newest",
        12,
        partial,
    ),
];

fn partial() -> Result<Verdict> {
    let sched = Sched::start(&["--partial"])?;
    let done = without_bpf(EPERM, || {
        client::spawn(group::cycles_body::<200>)?.result(LIMIT)?;
        Ok(Verdict::Ok)
    })?;
    sched.stop()?;
    Ok(done)
}

const WAITS: u32 = 300;

/// The filter comes while a server runs and a worker waits: both go on, by other ways.
fn later_body() -> Result<()> {
    let group = client::group(8)?;
    ensure!(!group.is_denied(), "denied without a filter");
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let waits = worker(&group, 1, |group, me| {
        deny_bpf(EPERM)?;
        for _ in 0..WAITS {
            let _ = group.wait(me, u64::MAX)?;
        }
        Ok(())
    });
    let waker = {
        let group = group.clone();
        std::thread::spawn(move || -> Result<()> {
            deny_bpf(EPERM)?;
            loop {
                let members = group.list()?;
                let Some(worker) = members.iter().find(|it| it.kind == Kind::Worker) else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                while group.wake(worker.id).is_ok() {
                    std::thread::yield_now();
                }
                return Ok(());
            }
        })
    };
    let seen = serve(&group, me, 1)?;
    for thread in [waits, waker] {
        thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    ensure!(group.is_denied(), "nobody has found out");
    seen.check(&group)?;
    group.unregister(me)?;
    ensure!(group.list()?.is_empty(), "{:?}", group.list()?);
    Ok(())
}

fn later() -> Result<Verdict> {
    in_client(later_body)
}

/// Whom the handler wakes, and how often it ran.
static WAITER: AtomicU64 = AtomicU64::new(0);
static HANDLED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static GROUP: std::cell::Cell<Option<&'static KernelGroup>> =
        const { std::cell::Cell::new(None) };
}

/// Between any two steps of the worker's calls: a call of its own on the same desk.
extern "C" fn on_timer(_signal: i32) {
    let (Some(group), errno) = (GROUP.get(), sys::errno()) else {
        return;
    };
    let times = HANDLED.fetch_add(1, SeqCst);
    let who = Id::from_raw(WAITER.load(SeqCst));
    if times.is_multiple_of(2) {
        let _ = group.wake(who);
    } else {
        // One that is not RUNNING, or asks itself from inside of a wait: refused.
        let _ = group.kick(who);
    }
    // SAFETY: the calling thread's own errno.
    unsafe { *libc::__errno_location() = errno };
}

/// Each wait of the waiter ends by a wake; the waker is interrupted while it makes them.
fn handlers_body() -> Result<()> {
    let group = client::group(8)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let waiter = worker(&group, 1, |group, me| {
        WAITER.store(me.raw(), SeqCst);
        for _ in 0..10 * WAITS {
            ensure!(group.wait(me, u64::MAX)? == Woken::Woken, "timed out");
        }
        WAITER.store(0, SeqCst);
        Ok(())
    });
    let waker = worker(&group, 2, |group, me| {
        // SAFETY: the group lives until the thread has been joined.
        GROUP.set(Some(unsafe { &*std::ptr::from_ref(group) }));
        let timer = ThreadTimer::start(TimerClock::Monotonic, TICK, libc::SIGUSR1)?;
        let mut woken = 0u32;
        while WAITER.load(SeqCst) != 0 || woken == 0 {
            match WAITER.load(SeqCst) {
                0 => {}
                raw if group.wake(Id::from_raw(raw)).is_ok() => woken += 1,
                _ => {}
            }
            group.yield_now(me)?;
        }
        drop(timer);
        GROUP.set(None);
        Ok(())
    });
    let seen = serve(&group, me, 2)?;
    for thread in [waiter, waker] {
        thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    ensure!(group.is_denied(), "not denied");
    let times = HANDLED.load(SeqCst);
    println!("metric denied_handlers times={times}");
    ensure!(times > 20, "only {times} handlers");
    seen.check(&group)?;
    group.unregister(me)?;
    Ok(())
}

const TICK: Duration = Duration::from_micros(500);

fn handlers() -> Result<Verdict> {
    without_bpf(EPERM, || {
        in_client(|| {
            // SAFETY: all zero is a valid sigaction; the handler makes calls that handlers may.
            let set = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_timer as extern "C" fn(i32) as libc::sighandler_t;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut())
            };
            ensure!(set == 0, "sigaction");
            handlers_body()
        })
    })
}

/// A server and a worker whose numbers are not those that the daemon sees.
fn namespace_body() -> Result<()> {
    // SAFETY: no arguments.
    let own = unsafe { libc::getpid() };
    ensure!(own == 1, "pid {own}: not in a namespace of its own");
    let group = Group::create(&GroupConfig::default())?;
    ensure!(
        matches!(group.mode(), Mode::Kernel { .. }),
        "{}",
        group.mode()
    );
    ensure!(group.is_bpf_denied(), "bpf(2) works");
    let mut server = group.register_server()?;
    let told = Arc::new(AtomicBool::new(false));
    let (done, named) = (told.clone(), group.clone());
    let thread = std::thread::spawn(move || -> Result<()> {
        let mut worker = named.register_worker(7)?;
        worker.yield_now()?;
        done.store(true, SeqCst);
        Ok(())
    });
    while !told.load(SeqCst) {
        let event = server.next_event(umcg::after(LIMIT))?;
        match server.run(event.worker, umcg::FOREVER) {
            // It may have been let run by the relief valve, on a busy machine.
            Err(error) if error.kind() != umcg::ErrorKind::WrongState => Err(error)?,
            _ => {}
        }
    }
    ensure!(group.state(server.id())?.state == State::Running);
    drop(server);
    thread.join().map_err(|_| anyhow::anyhow!("panicked"))?
}

fn namespace() -> Result<Verdict> {
    let sched = harness::shared()?;
    // Children, not this process, are in the new one.
    let ours = std::fs::File::open("/proc/self/ns/pid_for_children").context("namespace")?;
    // SAFETY: no pointers.
    let made = unsafe { libc::unshare(libc::CLONE_NEWPID) };
    ensure!(made == 0, "unshare: {}", std::io::Error::last_os_error());
    let verdict = without_bpf(EPERM, || {
        client::spawn(namespace_body)?.result(LIMIT)?;
        Ok(Verdict::Ok)
    });
    // SAFETY: a file descriptor of ours.
    let back = unsafe { libc::setns(ours.as_raw_fd(), libc::CLONE_NEWPID) };
    ensure!(back == 0, "setns: {}", std::io::Error::last_os_error());
    sched.no_ejection()?;
    verdict
}

/// The daemon's answer to `request`, as an errno.
fn answer(sock: &OwnedFd, request: &Request) -> i32 {
    sys::ask(sock, request).map_or_else(|errno| errno, |_| 0)
}

fn enter(request: &Request) -> Result<(OwnedFd, [u8; 32])> {
    let sock = sys::connect(Path::new(proto::SOCKET)).map_err(errno)?;
    let (reply, _) = sys::ask(&sock, request).map_err(errno)?;
    Ok((sock, reply.ticket))
}

fn errno(errno: i32) -> anyhow::Error {
    std::io::Error::from_raw_os_error(errno).into()
}

fn join(ticket: [u8; 32]) -> Result<OwnedFd> {
    let mut request = Request::new(Op::Join);
    request.ticket = ticket;
    Ok(enter(&request)?.0)
}

fn token(sock: &OwnedFd) -> Result<[u64; 2]> {
    let mut request = Request::new(Op::Tokens);
    (request.kind, request.count) = (intf::umcg_member_kind_UMCG_M_WORKER, 1);
    Ok(sys::ask(sock, &request).map_err(errno)?.0.tokens[0])
}

/// Asks for the registration of `thread`.
fn ask(thread: i32, token: [u64; 2]) -> Request {
    let mut request = Request::new(Op::Ask);
    request.kind = intf::umcg_call_op_UMCG_CALL_REGISTER;
    (request.thread, request.token) = (thread, token);
    request
}

fn withdraw(thread: i32) -> Request {
    Request {
        op: Op::Withdraw,
        ..ask(thread, [0; 2])
    }
}

fn gettid() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::gettid() }
}

/// What the processes of this test tell each other.
type Words = &'static [AtomicU32; WORDS];

const VICTIM: usize = 0;
const STOP: usize = 1;
const TICKET: usize = 8;
const TOKEN: usize = 16;

fn put(words: Words, at: usize, bytes: &[u8]) {
    for (word, four) in words[at..].iter().zip(bytes.chunks(4)) {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(four);
        word.store(u32::from_le_bytes(bytes), SeqCst);
    }
}

fn get<const N: usize>(words: Words, at: usize) -> [u8; N] {
    let mut out = [0; N];
    for (four, word) in out.chunks_mut(4).zip(&words[at..]) {
        four.copy_from_slice(&word.load(SeqCst).to_le_bytes());
    }
    out
}

/// Another process of the same user: yields, and has a token that is its own.
fn victim_body(words: Words) -> Result<()> {
    let ready = wait_until(LIMIT, || words[TICKET].load(SeqCst) != 0);
    ensure!(ready, "no ticket");
    let sock = join(get(words, TICKET))?;
    let token = token(&sock)?;
    put(words, TOKEN, &token[0].to_le_bytes());
    put(words, TOKEN + 2, &token[1].to_le_bytes());
    words[VICTIM].store(gettid().cast_unsigned(), SeqCst);
    while words[STOP].load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    Ok(())
}

/// A child of a fork has the connection, but not the name.
fn child_is_refused(sock: &OwnedFd, token: [u64; 2]) -> Result<()> {
    // SAFETY: the child makes system calls alone.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let refused = answer(sock, &ask(gettid(), token)) == EPERM
            && answer(sock, &withdraw(gettid())) == EPERM;
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    let mut status = 0;
    // SAFETY: a child of ours; status lives through the call.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(
        status == 0,
        "a child speaks for its parent: status {status}"
    );
    Ok(())
}

/// A thread that was put down by another one, and yields only then.
fn sibling_registers_itself_alone(sock: &OwnedFd, group: &KernelGroup) -> Result<()> {
    let tid = Arc::new(AtomicU32::new(0));
    let go = Arc::new(AtomicBool::new(false));
    let (told, wait) = (tid.clone(), go.clone());
    let sibling = std::thread::spawn(move || {
        told.store(gettid().cast_unsigned(), SeqCst);
        while !wait.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::yield_now();
    });
    ensure!(wait_until(LIMIT, || tid.load(SeqCst) != 0), "no sibling");
    let thread = tid.load(SeqCst).cast_signed();
    let put_down = answer(sock, &ask(thread, token(sock)?));
    ensure!(put_down == 0, "a thread of its own: errno {put_down}");
    ensure!(group.list()?.is_empty(), "registered without a yield");
    let taken_back = answer(sock, &withdraw(thread));
    ensure!(taken_back == libc::ENOENT, "taken back: errno {taken_back}");
    go.store(true, SeqCst);
    sibling.join().map_err(|_| anyhow::anyhow!("panicked"))?;
    ensure!(group.list()?.is_empty(), "registered all the same");
    Ok(())
}

/// Puts `token` down for the calling thread and makes the call; what it came to.
fn try_token(sock: &OwnedFd, token: [u64; 2]) -> Result<i32> {
    let put_down = answer(sock, &ask(gettid(), token));
    ensure!(put_down == 0, "put down: errno {put_down}");
    std::thread::yield_now();
    Ok(answer(sock, &withdraw(gettid())))
}

fn foreign_wakes_are_refused(sock: &OwnedFd, ticket: [u8; 32]) -> Result<()> {
    let other = client::group(4)?;
    let me = other.register(Kind::Server, 0, &mut |_| {})?;
    let mut wake = Request::new(Op::Wake);
    (wake.ticket, wake.target) = (ticket, me.raw());
    let errno = answer(sock, &wake);
    ensure!(errno == libc::ESRCH, "a member of another group: {errno}");
    wake.ticket[9] ^= 1;
    let errno = answer(sock, &wake);
    ensure!(errno == libc::ENOENT, "no such ticket: {errno}");
    (wake.ticket, wake.target) = (
        other.ticket(),
        Id::new(me.index(), me.generation() + 2).raw(),
    );
    let errno = answer(sock, &wake);
    ensure!(errno == libc::ESRCH, "a dead member: {errno}");
    (wake.op, wake.target) = (Op::Kick, me.raw());
    let errno = answer(sock, &wake);
    ensure!(errno == libc::EINVAL, "kick of a server: {errno}");
    other.unregister(me)?;
    Ok(())
}

/// Sends a request with a file descriptor.
fn with_fd(sock: &OwnedFd, request: &Request) -> Result<()> {
    let mut bytes = request.encode();
    let mut control = [0u64; 3];
    let mut iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut reply = [0u8; proto::REPLY_BYTES];
    // SAFETY: all zero is a valid msghdr; its buffers live through the calls and have the
    // sizes given; the control buffer has room for one file descriptor.
    let got = unsafe {
        let mut msg: libc::msghdr = std::mem::zeroed();
        (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let cmsg = libc::CMSG_FIRSTHDR(&raw const msg);
        (*cmsg).cmsg_level = libc::SOL_SOCKET;
        (*cmsg).cmsg_type = libc::SCM_RIGHTS;
        (*cmsg).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(cmsg)
            .cast::<i32>()
            .write_unaligned(sock.as_raw_fd());
        libc::sendmsg(sock.as_raw_fd(), &raw const msg, libc::MSG_NOSIGNAL);
        libc::recv(sock.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0)
    };
    ensure!(got == reply.len() as isize, "recv: {got}");
    Ok(())
}

fn forger_body(words: Words) -> Result<()> {
    let group = client::group(16)?;
    let ticket = group.ticket();
    put(words, TICKET, &ticket);
    let sock = join(ticket)?;
    let ready = wait_until(LIMIT, || words[VICTIM].load(SeqCst) != 0);
    ensure!(ready, "no victim");
    let victim = words[VICTIM].load(SeqCst).cast_signed();
    for thread in [victim, 1, i32::MAX] {
        let errno = answer(&sock, &ask(thread, token(&sock)?));
        ensure!(
            errno == libc::ESRCH,
            "thread {thread} of another: errno {errno}"
        );
    }
    for thread in [0, -1] {
        let errno = answer(&sock, &ask(thread, token(&sock)?));
        ensure!(errno == EPERM, "thread {thread}: errno {errno}");
    }
    child_is_refused(&sock, token(&sock)?)?;
    sibling_registers_itself_alone(&sock, &group)?;
    let half = |at| u64::from_le_bytes(get(words, at));
    let stolen = try_token(&sock, [half(TOKEN), half(TOKEN + 2)])?;
    ensure!(
        stolen == libc::EKEYREJECTED,
        "another's token: errno {stolen}"
    );
    let invented = try_token(&sock, [3, 5])?;
    ensure!(invented == libc::EKEYREJECTED, "no token: errno {invented}");
    foreign_wakes_are_refused(&sock, ticket)?;
    for _ in 0..100 {
        with_fd(&sock, &withdraw(gettid()))?;
    }
    ensure!(group.list()?.is_empty(), "{:?}", group.list()?);
    Ok(())
}

/// Another user, whom somebody told the ticket.
fn stranger_body(words: Words) -> Result<()> {
    let ready = wait_until(LIMIT, || words[VICTIM].load(SeqCst) != 0);
    ensure!(ready, "no ticket");
    let mut create = Request::new(Op::Create);
    create.max_members = 4;
    let (sock, _) = enter(&create)?;
    for op in [Op::Wake, Op::Kick] {
        let mut request = Request::new(op);
        (request.ticket, request.target) = (get(words, TICKET), 1 << 32 | 1);
        let errno = answer(&sock, &request);
        ensure!(errno == EPERM, "{op:?} by another user: errno {errno}");
    }
    Ok(())
}

fn open_files(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn forged() -> Result<Verdict> {
    let sched = harness::shared()?;
    let files = open_files(sched.pid())?;
    let words = client::shared_words()?;
    let victim = client::spawn(|| victim_body(words))?;
    let forger = client::spawn(|| forger_body(words))?;
    let stranger = client::spawn_as(NOBODY - 1, || stranger_body(words))?;
    let (forger, stranger) = (forger.result(LIMIT), stranger.result(LIMIT));
    words[STOP].store(1, SeqCst);
    forger?;
    stranger?;
    victim.result(LIMIT)?;
    // A connection and a group of each client may be on their way out yet.
    let closed = wait_until(LIMIT, || {
        open_files(sched.pid()).is_ok_and(|now| now <= files + 20)
    });
    ensure!(closed, "{files} files, then {}", open_files(sched.pid())?);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
