//! Calls that are wrong, late, forged or too many: each has an error of its own kind, and
//! changes nothing. Over the daemon, as nobody.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::kernel::proto::{self, Op, Reply, Request};
use umcg::kernel::{self, sys};
use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Id, Mode, Reason, State, Why, Woken, intf};

use super::{Test, short};
use crate::boss::{Boss, LIMIT, actor, in_client, refused};
use crate::harness::{Verdict, wait_until};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_foreign_ids_selftest_unprivileged",
        "group",
        3,
        foreign_ids,
    ),
    short("vm_group_tokens_selftest_unprivileged", "group", 2, tokens),
    short("vm_group_quota_selftest_unprivileged", "group", 3, quota),
    short(
        "vm_group_other_version_selftest_unprivileged",
        "group",
        2,
        other_version,
    ),
];

/// A group of somebody else: its server, and a worker that waits until it is woken.
fn others() -> Result<(Group, [Id; 2], std::thread::JoinHandle<Result<()>>)> {
    let group = Group::create(&GroupConfig::default())?;
    let theirs = group.clone();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut boss = Boss::of(theirs)?;
        let waiter = actor(&boss.group, 1, |me| {
            ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
            Ok(())
        });
        let id = boss.new_one(1)?;
        boss.settle(id, State::Idle, || true)?;
        tell.send([boss.server.id(), id])?;
        boss.serve_until(1)?;
        waiter.end()?;
        boss.alone()
    });
    Ok((group, told.recv().context("no other group")?, thread))
}

/// Members of another group, who have left, who serve, and oneself: no call takes them for a
/// worker of one's own, and who is named is not touched.
fn foreign_body() -> Result<()> {
    use ErrorKind::{Invalid, Myself, NotFound, Registered, WrongState};
    let (other, [server, waiter], thread) = others()?;
    let mut boss = Boss::new()?;
    let group = boss.group.clone();
    let me = boss.server.id();
    refused("a second seat", other.register_server(), Registered)?;
    refused("a second seat", group.register_worker(0), Registered)?;
    let asleep = || (other.state(waiter)).is_ok_and(|it| it.flags & umcg::word::ASLEEP != 0);
    ensure!(wait_until(LIMIT, asleep), "the waiter never fell asleep");
    let before = other.state(waiter)?;
    for id in [server, waiter, Id::NONE, Id::new(u32::MAX, 1)] {
        refused("run", boss.server.run(id, FOREVER), NotFound)?;
        refused("wake", group.wake(id), NotFound)?;
        refused("kick", group.kick(id), NotFound)?;
        refused("state", group.state(id), NotFound)?;
    }
    refused("run of a server", boss.server.run(me, FOREVER), Invalid)?;
    refused("kick of a server", group.kick(me), Invalid)?;
    let worker = actor(&group, 2, move |worker| {
        let myself = worker.id();
        refused("switch", worker.switch(myself, FOREVER), Myself)?;
        refused("switch", worker.switch(waiter, FOREVER), NotFound)?;
        refused("switch to a server", worker.switch(me, FOREVER), Invalid)?;
        refused(
            "a second seat",
            worker.group().register_worker(2),
            Registered,
        )?;
        worker.yield_now()?;
        Ok(())
    });
    let id = boss.new_one(2)?;
    refused("kick of who is held", group.kick(id), WrongState)?;
    boss.until(id, |it| it == Reason::Yielded)?;
    boss.news_of(id)?;
    boss.until(id, |it| it == Reason::Exited)?;
    worker.end()?;
    refused(
        "run of who has left",
        boss.server.run(id, FOREVER),
        NotFound,
    )?;
    refused("wake of who has left", group.wake(id), NotFound)?;
    let after = other.state(waiter)?;
    ensure!(
        before == after,
        "a stranger moved it: {before:?} -> {after:?}"
    );
    other.wake(waiter)?;
    thread.join().ok().context("the other server panicked")??;
    boss.alone()
}

fn foreign_ids() -> Result<Verdict> {
    in_client(foreign_body)
}

pub(super) fn os(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

/// A group over the bare socket, and the program that its members call.
pub(super) struct Bare {
    sock: OwnedFd,
    pub truth: OwnedFd,
    pub desks: OwnedFd,
    prog: OwnedFd,
    pub futexes: OwnedFd,
    epoch: u64,
    /// As calls name it.
    name: u64,
}

impl Bare {
    pub fn new() -> Result<Self> {
        let sock = sys::connect(Path::new(proto::SOCKET)).map_err(os)?;
        let mut create = Request::new(Op::Create);
        create.max_members = 4;
        let (reply, fds) = sys::ask(&sock, &create).map_err(os)?;
        let fds = <[OwnedFd; 4]>::try_from(fds);
        let [truth, desks, prog, futexes] = fds.ok().context("not four files")?;
        let name = u64::from(reply.gen_) << 32 | u64::from(reply.group);
        Ok(Self {
            sock,
            truth,
            desks,
            prog,
            futexes,
            epoch: reply.epoch,
            name,
        })
    }

    pub fn token(&self, kind: u32) -> Result<[u64; 2]> {
        let mut ask = Request::new(Op::Tokens);
        (ask.kind, ask.count) = (kind, 1);
        Ok(sys::ask(&self.sock, &ask).map_err(os)?.0.tokens[0])
    }

    /// The answer to one who registers with `token`, as a thread that is a worker from then on.
    pub fn register(&self, token: [u64; 2]) -> Result<i32> {
        apart(|| Ok(self.run(self.call(REGISTER, token, 0))?.0))
    }

    fn call(&self, op: u32, token: [u64; 2], target: u64) -> intf::umcg_group_call {
        intf::umcg_group_call {
            op,
            ret: 0,
            epoch: self.epoch,
            token,
            target,
            cookie: self.name,
            me: 0,
        }
    }

    /// Its answer, or -errno, and who the caller is.
    fn run(&self, mut call: intf::umcg_group_call) -> Result<(i32, u64)> {
        sys::run_program(self.prog.as_raw_fd(), &mut call).map_err(os)?;
        Ok((call.ret, call.me))
    }

    fn expect(&self, what: &str, call: intf::umcg_group_call, want: i32) -> Result<()> {
        let (ret, _) = self.run(call)?;
        ensure!(ret == want, "{what}: {ret}, want {want}");
        Ok(())
    }
}

pub(super) const WORKER: u32 = intf::umcg_member_kind_UMCG_M_WORKER;
const NOBODY: u32 = intf::umcg_member_kind_UMCG_M_NONE;
const REGISTER: u32 = intf::umcg_call_op_UMCG_CALL_REGISTER;
const UNREGISTER: u32 = intf::umcg_call_op_UMCG_CALL_UNREGISTER;
const WAKE: u32 = intf::umcg_call_op_UMCG_CALL_WAKE;
const KICK: u32 = intf::umcg_call_op_UMCG_CALL_KICK;
const ATTACH: u32 = intf::umcg_call_op_UMCG_CALL_ATTACH;

/// In a thread of its own: it may become a member.
fn apart<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let joined = scope.spawn(body).join();
        joined.map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })
}

/// The program that every client may run, called as the library never does.
fn tokens_body() -> Result<()> {
    let (bare, other) = (Bare::new()?, Bare::new()?);
    let none = [0; 2];
    let late = |op| intf::umcg_group_call {
        epoch: bare.epoch + 1,
        ..bare.call(op, none, 0)
    };
    for op in [REGISTER, UNREGISTER, WAKE, KICK, ATTACH] {
        bare.expect("a call of another load", late(op), -libc::ESTALE)?;
    }
    bare.expect("no such call", bare.call(99, none, 0), -libc::EINVAL)?;
    bare.expect(
        "who is none leaves",
        bare.call(UNREGISTER, none, 0),
        -libc::ENOENT,
    )?;
    bare.expect("a stranger's wake", bare.call(WAKE, none, 1), -libc::ENOENT)?;
    bare.expect("a stranger's kick", bare.call(KICK, none, 1), -libc::ENOENT)?;
    let forged = bare.call(REGISTER, [1, 2], 0);
    bare.expect("a forged token", forged, -libc::EKEYREJECTED)?;

    let token = bare.token(WORKER)?;
    let used = bare.call(REGISTER, token, 0);
    let id = apart(|| {
        let (ret, me) = bare.run(used)?;
        ensure!(ret == 0 && me != 0, "a good token: {ret}");
        bare.expect("a second time", used, -libc::EALREADY)?;
        bare.expect(
            "itself as another group's",
            other.call(WAKE, none, me),
            -libc::ENOENT,
        )?;
        bare.expect(
            "a wake of nobody",
            bare.call(WAKE, none, me + (2 << 32)),
            -libc::ESRCH,
        )?;
        bare.expect("of itself", bare.call(WAKE, none, me), 0)?;
        Ok(me)
    })?;
    apart(|| bare.expect("a token used twice", used, -libc::EKEYREJECTED))?;
    let attach = bare.call(ATTACH, bare.token(WORKER)?, 0);
    bare.expect("another kind of token", attach, -libc::EKEYREJECTED)?;
    bare.expect("and used by that", attach, -libc::EKEYREJECTED)?;
    let token = bare.token(WORKER)?;
    // SAFETY: the child makes two calls and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let stolen = bare.run(bare.call(REGISTER, token, 0));
        let refused = stolen.is_ok_and(|(ret, _)| ret == -libc::EKEYREJECTED);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    let mut status = 0;
    // SAFETY: our own child; its status goes to `status`.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    ensure!(status == 0, "another process used a token: {status:#x}");

    bare.expect("attach", bare.call(ATTACH, bare.token(NOBODY)?, 0), 0)?;
    bare.expect("who has left", bare.call(WAKE, none, id), -libc::ESRCH)?;
    let header = u64::from(u32::MAX);
    bare.expect(
        "no such record",
        bare.call(WAKE, none, 1 << 32 | header),
        -libc::ESRCH,
    )?;
    bare.expect("another group's", other.call(WAKE, none, id), -libc::ENOENT)?;
    let errno = |request: &Request| sys::ask(&bare.sock, request).err();
    ensure!(errno(&Request::new(Op::Create)) == Some(libc::EALREADY));
    ensure!(errno(&Request::new(Op::Join)) == Some(libc::EALREADY));
    let mut many = Request::new(Op::Tokens);
    (many.kind, many.count) = (WORKER, proto::MAX_TOKENS as u32 + 1);
    ensure!(errno(&many) == Some(libc::EINVAL));
    many.count = 1;
    many.kind = 7;
    ensure!(errno(&many) == Some(libc::EINVAL));
    Ok(())
}

fn tokens() -> Result<Verdict> {
    in_client(tokens_body)
}

/// Groups of one user.
const GROUPS: usize = 16;

/// One group more than a user may have is refused as such, works without the daemon, and
/// finds room when another one has gone.
fn quota_body() -> Result<()> {
    let socket = PathBuf::from(proto::SOCKET);
    let connect = || {
        kernel::connect(
            &socket,
            &GroupConfig {
                max_members: 4,
                ..GroupConfig::default()
            },
        )
    };
    let mut groups = Vec::new();
    for number in 0..GROUPS {
        groups.push(connect().with_context(|| format!("group {number}"))?);
    }
    refused("one more", connect(), ErrorKind::Quota)?;
    let group = Group::create(&GroupConfig::default())?;
    let mode = group.mode();
    ensure!(mode == Mode::FutexOnly(Why::Refused), "mode {mode}");
    let mut server = group.register_server()?;
    refused("news", server.next_event(0), ErrorKind::TimedOut)?;
    drop(groups);
    // It looks for room each quarter of a second.
    let served = wait_until(Duration::from_secs(5), || {
        let _ = server.next_event(umcg::after(Duration::from_millis(20)));
        matches!(group.mode(), Mode::Kernel { .. })
    });
    ensure!(served, "no room after all have gone: mode {}", group.mode());
    Ok(())
}

fn quota() -> Result<Verdict> {
    in_client(quota_body)
}

/// Sends `bytes` and receives the answer's errno; `None`: it was hung up on.
fn exchange(sock: &OwnedFd, bytes: &[u8]) -> Result<Option<i32>> {
    let mut reply = [0u8; proto::REPLY_BYTES];
    let fd = sock.as_raw_fd();
    // SAFETY: both buffers live through the calls and have the sizes given.
    let got = unsafe {
        libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
        libc::recv(fd, reply.as_mut_ptr().cast(), reply.len(), 0)
    };
    match got {
        0 => Ok(None),
        1.. => Ok(Some(
            Reply::decode(&reply[..got as usize]).map_err(os)?.errno,
        )),
        _ => {
            let error = std::io::Error::last_os_error();
            // Closed after our request had come, which nobody read.
            ensure!(
                error.raw_os_error() == Some(libc::ECONNRESET),
                "recv: {error}"
            );
            Ok(None)
        }
    }
}

/// A daemon of another version: it answers each request with a reply of that.
fn strange_daemon(path: &Path, asked: Arc<AtomicU32>) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all zero is a valid sockaddr_un; it lives through the calls and has the size
    // given; the fd is owned once.
    let listener = unsafe {
        let mut addr: libc::sockaddr_un = std::mem::zeroed();
        addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
            *to = from.cast_signed();
        }
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0);
        ensure!(fd >= 0, "socket");
        let fd = OwnedFd::from_raw_fd(fd);
        let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        let bound = libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), size);
        ensure!(bound == 0, "bind: {}", std::io::Error::last_os_error());
        ensure!(libc::listen(fd.as_raw_fd(), 8) == 0, "listen");
        fd
    };
    std::thread::spawn(move || {
        loop {
            let mut request = [0u8; proto::REQUEST_BYTES];
            let mut reply = Reply::default().encode();
            reply[4] += 1;
            // SAFETY: the buffers live through the calls and have the sizes given.
            unsafe {
                let fd = libc::accept(
                    listener.as_raw_fd(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                );
                libc::recv(fd, request.as_mut_ptr().cast(), request.len(), 0);
                asked.fetch_add(1, SeqCst);
                libc::send(fd, reply.as_ptr().cast(), reply.len(), libc::MSG_NOSIGNAL);
                libc::close(fd);
            }
        }
    });
    Ok(())
}

/// A client of another version is told so by the daemon, and a daemon of another one by the
/// library, which goes on without it.
fn version_body() -> Result<()> {
    let sock = sys::connect(Path::new(proto::SOCKET)).map_err(os)?;
    let mut create = Request::new(Op::Create);
    create.max_members = 4;
    let good = create.encode();
    let mut newer = good;
    newer[4] += 1;
    let errno = exchange(&sock, &newer)?;
    ensure!(errno == Some(libc::EPROTO), "another version: {errno:?}");
    let kind = ErrorKind::from_errno(libc::EPROTO);
    ensure!(kind == ErrorKind::Version, "{kind:?}");
    let mut unknown = good;
    unknown[6] = 99;
    let errno = exchange(&sock, &unknown)?;
    ensure!(errno == Some(libc::EINVAL), "no such request: {errno:?}");
    let (reply, fds) = sys::ask(&sock, &create).map_err(os)?;
    ensure!(reply.errno == 0 && fds.len() == 4, "{reply:?}");
    let mut garbage = good;
    garbage[0] ^= 1;
    let errno = exchange(&sock, &garbage)?;
    ensure!(errno == Some(libc::EBADMSG), "garbage: {errno:?}");
    ensure!(exchange(&sock, &good)?.is_none(), "it still listens");

    let path = std::env::temp_dir().join(format!("umcg-strange.{}", std::process::id()));
    let asked = Arc::new(AtomicU32::new(0));
    strange_daemon(&path, asked.clone())?;
    let config = GroupConfig::default();
    refused(
        "a strange daemon",
        kernel::connect(&path, &config),
        ErrorKind::Version,
    )?;
    // SAFETY: the thread above reads no environment.
    unsafe { std::env::set_var("UMCG_SOCKET", &path) };
    let group = Group::create(&config)?;
    let mode = group.mode();
    let times = asked.load(SeqCst);
    let _ = std::fs::remove_file(&path);
    ensure!(mode == Mode::FutexOnly(Why::Refused), "mode {mode}");
    ensure!(times == 2, "asked {times} times");
    let server = group.register_server()?;
    ensure!(group.state(server.id())?.state == State::Running);
    Ok(())
}

fn other_version() -> Result<Verdict> {
    in_client(version_body)
}
