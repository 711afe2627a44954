//! An unprivileged process that uses application groups, and its parts.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use umcg::backend::Backend;
use umcg::kernel::{self, KernelGroup, proto, sys};
use umcg::{ErrorKind, Event, GroupConfig, Id, Kind, Reason};

use crate::harness::{self, Sched, Verdict, adopt};

/// The user that clients are.
pub const NOBODY: u32 = 65534;

/// Makes a group for `max_members`.
pub fn group(max_members: u32) -> Result<Arc<KernelGroup>> {
    let config = GroupConfig {
        max_members,
        ..GroupConfig::default()
    };
    let group = kernel::connect(&PathBuf::from(proto::SOCKET), &config).context("connect")?;
    Ok(Arc::new(group))
}

/// Joins the group of `ticket`.
pub fn join(ticket: &[u8; 32]) -> Result<Arc<KernelGroup>> {
    let group = kernel::join(&PathBuf::from(proto::SOCKET), ticket).context("join")?;
    Ok(Arc::new(group))
}

/// A child process as nobody; its result comes back through a pipe.
pub struct Client {
    /// Its process.
    pub pid: i32,
    pipe: std::fs::File,
}

/// Starts one that runs `body`.
pub fn spawn(body: impl FnOnce() -> Result<()>) -> Result<Client> {
    spawn_as(NOBODY, body)
}

/// Starts one of user `uid`.
pub fn spawn_as(uid: u32, body: impl FnOnce() -> Result<()>) -> Result<Client> {
    let mut fds = [0; 2];
    // Not for programs that are started later: their files may be counted.
    // SAFETY: two ints for two fds.
    let made = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) };
    ensure!(made == 0, "pipe");
    // SAFETY: this program has one thread; the child goes on in Rust and exits.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    // SAFETY: the pipe's ends, each owned once.
    let (reader, mut writer) = unsafe {
        (
            std::fs::File::from_raw_fd(fds[0]),
            std::fs::File::from_raw_fd(fds[1]),
        )
    };
    if pid == 0 {
        // SAFETY: no pointers.
        unsafe {
            libc::setgroups(0, std::ptr::null());
            libc::setgid(uid);
            libc::setuid(uid);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        let result = crate::seccomp::as_wanted().and_then(|()| body());
        let text = result.map_or_else(|err| format!("{err:#}"), |()| "ok".to_owned());
        let _ = writer.write_all(text.as_bytes());
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(0) };
    }
    drop(writer);
    adopt(pid as u32);
    Ok(Client { pid, pipe: reader })
}

impl Client {
    /// Whether it ends within `limit`, with a result or without one.
    fn ends_within(&self, limit: Duration) -> bool {
        use std::os::fd::AsRawFd;
        let mut poll = libc::pollfd {
            fd: self.pipe.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd that lives through the call.
        unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as i32) == 1 }
    }

    /// Whether it has ended, with a result or without one.
    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// The result of one that has ended; it is reaped by that.
    pub fn end(self) -> Result<()> {
        let pid = self.pid;
        let result = self.result(Duration::ZERO);
        // SAFETY: a child of ours; no status is asked for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        result
    }

    /// Its result, within `limit`.
    pub fn result(mut self, limit: Duration) -> Result<()> {
        ensure!(
            self.ends_within(limit),
            "the client has not ended after {limit:?}"
        );
        let mut text = String::new();
        self.pipe.read_to_string(&mut text)?;
        ensure!(text == "ok", "client: {text}");
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a child of ours, not reaped yet.
        unsafe { libc::kill(self.pid, signal) };
    }

    /// Whether all of its threads have ended; it is reaped by that.
    pub fn is_reaped(&self) -> bool {
        // SAFETY: a child of ours; no status is asked for.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::WNOHANG) == self.pid }
    }

    /// Kills it and waits for its end.
    pub fn kill(self) {
        self.signal(libc::SIGKILL);
        // SAFETY: a child of ours; no status is asked for.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// No ejection, and by BPF's own count nothing that must not be.
pub fn is_sound(sched: &Sched) -> Result<()> {
    sched.no_ejection()?;
    for zero in ["grp_shared", "edge_illegal"] {
        let count = sched.counter(zero)?;
        ensure!(count == 0, "{zero} = {count}");
    }
    Ok(())
}

/// Runs `body` as nobody under `sched`; a failure tells what groups did meanwhile.
pub fn run_in(sched: &Sched, limit: Duration, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let names = ["grp_run", "grp_back", "grp_refused", "grp_unheld"];
    let before = names.map(|name| sched.counter(name).unwrap_or(0));
    let result = spawn(body)?.result(limit);
    result.with_context(|| {
        let now = names.map(|name| sched.counter(name).unwrap_or(0));
        let moved = names.iter().zip(now.iter().zip(before));
        let moved: Vec<_> = moved.map(|(n, (a, b))| format!("{n} +{}", a - b)).collect();
        moved.join(", ")
    })?;
    is_sound(sched)
}

/// The same under the shared scheduler.
pub fn in_client(limit: Duration, body: impl FnOnce() -> Result<()>) -> Result<Verdict> {
    run_in(&*harness::shared()?, limit, body)?;
    Ok(Verdict::Ok)
}

/// A worker thread: registers, runs `body`, unregisters.
pub fn worker(
    group: &Arc<KernelGroup>,
    cookie: u64,
    body: impl FnOnce(&KernelGroup, Id) -> Result<()> + Send + 'static,
) -> JoinHandle<Result<()>> {
    let group = group.clone();
    std::thread::spawn(move || {
        let me = group.register(Kind::Worker, cookie, &mut |_| {})?;
        let result = body(&group, me);
        group.unregister(me)?;
        result
    })
}

/// What a server saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub runs: u64,
    pub blocked: u64,
    pub faults: u64,
    pub waits: u64,
    pub yielded: u64,
    pub preempted: u64,
    pub exited: u64,
    /// By a signal, a tracer or the freezer.
    pub stopped: u64,
    /// It goes on without a slot.
    pub rescued: u64,
    /// Told by `next_event`, without a slot.
    pub left: u64,
    pub again: u64,
    pub woken: u64,
    pub listed: u64,
    pub timed_out: u64,
    pub calls: Vec<u32>,
}

impl Seen {
    /// Each run ended in one way.
    pub fn check(&self, group: &KernelGroup) -> Result<()> {
        let ends = [self.blocked, self.faults, self.waits, self.yielded]
            .iter()
            .chain(&[self.preempted, self.exited, self.stopped, self.rescued])
            .sum::<u64>();
        ensure!(self.runs == ends, "runs and their ends differ: {self:?}");
        let shared = group.shared();
        ensure!(
            shared == 0,
            "{shared} times two running workers of a server"
        );
        Ok(())
    }

    fn count(&mut self, event: &Event) {
        self.runs += 1;
        match event.reason {
            Reason::Blocked { syscall } => {
                self.blocked += 1;
                if let Some(call) = syscall
                    && !self.calls.contains(&call)
                {
                    self.calls.push(call);
                }
            }
            Reason::Fault => self.faults += 1,
            Reason::Waits => self.waits += 1,
            Reason::Yielded => self.yielded += 1,
            Reason::Preempted => self.preempted += 1,
            Reason::Exited => self.exited += 1,
            Reason::Stopped => self.stopped += 1,
            Reason::Rescued => self.rescued += 1,
            _ => {}
        }
    }
}

/// Nothing for so long is a lost wake.
const PATIENCE_NS: u64 = 20_000_000_000;

/// What the servers of a group know together.
#[derive(Debug, Default)]
pub struct Progress {
    /// Workers that have left.
    pub gone: AtomicU64,
    /// Runs that ended by a block or a fault.
    pub blocks: AtomicU64,
    /// When a server last had something to do.
    last_ns: AtomicU64,
}

impl Progress {
    fn saw(&self, gone: u64) {
        self.gone.fetch_add(gone, Ordering::SeqCst);
        self.last_ns.fetch_max(sys::now_ns(), Ordering::Relaxed);
    }

    /// Fails when nothing has happened for long, at any server.
    fn patience(&self, group: &KernelGroup, seen: &Seen) -> Result<()> {
        let idle = sys::now_ns().saturating_sub(self.last_ns.load(Ordering::Relaxed));
        ensure!(
            idle < PATIENCE_NS,
            "nothing for 20 s: {seen:?}; {:?}",
            group.list()?
        );
        Ok(())
    }
}

/// Serves until `exits` workers have left; FIFO. The calling thread is server `me`.
pub fn serve(group: &KernelGroup, me: Id, exits: u64) -> Result<Seen> {
    serve_beside(group, me, exits, &Progress::default())
}

/// The same beside other servers: until `exits` workers have left, whoever was told.
pub fn serve_beside(group: &KernelGroup, me: Id, exits: u64, all: &Progress) -> Result<Seen> {
    serve_seen(group, me, exits, all, &mut |_, _| Ok(()))
}

/// The same; `look` is shown each event, and whether it is the end of a run.
pub fn serve_seen(
    group: &KernelGroup,
    me: Id,
    exits: u64,
    all: &Progress,
    look: &mut dyn FnMut(&Event, bool) -> Result<()>,
) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut ready = VecDeque::new();
    all.saw(0);
    while all.gone.load(Ordering::SeqCst) < exits {
        let deadline = match ready.is_empty() {
            true => sys::now_ns() + 20_000_000,
            false => 0,
        };
        match group.next_event(me, deadline) {
            Ok(event) if event.reason == Reason::Exited => {
                seen.left += 1;
                all.saw(1);
                continue;
            }
            Ok(event) => {
                look(&event, false)?;
                seen.listed += 1;
                match event.reason {
                    Reason::TimedOut => seen.timed_out += 1,
                    Reason::Woken => seen.woken += 1,
                    _ => {}
                }
                if !ready.contains(&event.worker) {
                    ready.push_back(event.worker);
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(error) => bail!("next_event: {error}; {seen:?}"),
        }
        let Some(next) = ready.pop_front() else {
            all.patience(group, &seen)?;
            continue;
        };
        all.saw(0);
        match group.run_listed(me, next, u64::MAX) {
            Ok(event) => {
                look(&event, true)?;
                seen.count(&event);
                let blocks = matches!(event.reason, Reason::Blocked { .. } | Reason::Fault);
                all.blocks.fetch_add(blocks.into(), Ordering::Relaxed);
                all.saw((event.reason == Reason::Exited).into());
            }
            Err(error) if is_fair(error.kind()) => {
                seen.again += 1;
                if error.kind() == ErrorKind::NotHere {
                    ready.push_back(next);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Err(error) => bail!("run: {error}; {seen:?}"),
        }
    }
    let gone = all.gone.load(Ordering::SeqCst);
    ensure!(gone == exits, "told twice: {gone} of {exits}, {seen:?}");
    Ok(seen)
}

/// Why a run may fail: the worker has moved on, or its affinity leaves out this CPU, where the
/// server may not be for long.
fn is_fair(kind: ErrorKind) -> bool {
    use ErrorKind::{Again, NotFound, NotHere, WrongState};
    matches!(kind, Again | WrongState | NotFound | NotHere)
}

/// Runs `worker` until it leaves the slot for more than a page: each thread touches some
/// for the first time.
pub fn run_past_faults(group: &KernelGroup, me: Id, worker: Id) -> Result<Event> {
    loop {
        let event = group.run(me, worker, u64::MAX)?;
        if event.reason != Reason::Fault {
            return Ok(event);
        }
        group.next_event(me, sys::now_ns() + PATIENCE_NS)?;
    }
}

/// Serves with `servers` threads until `exits` workers have left: what each saw, checked.
pub fn serve_by(
    group: &Arc<KernelGroup>,
    servers: usize,
    exits: u64,
    all: &Arc<Progress>,
) -> Result<Vec<Seen>> {
    let serve = |number| {
        let (group, all) = (group.clone(), all.clone());
        std::thread::spawn(move || -> Result<Seen> {
            let me = group.register(Kind::Server, number, &mut |_| {})?;
            let seen = serve_beside(&group, me, exits, &all)?;
            group.unregister(me)?;
            seen.check(&group)?;
            Ok(seen)
        })
    };
    let threads: Vec<_> = (0..servers as u64).map(serve).collect();
    let join = |thread: JoinHandle<Result<Seen>>| {
        let result = thread.join();
        result.map_err(|_| anyhow::anyhow!("a server panicked"))?
    };
    threads.into_iter().map(join).collect()
}

/// Waits for threads that return a result.
pub fn join_all(threads: Vec<JoinHandle<Result<()>>>) -> Result<()> {
    for thread in threads {
        let result = thread.join();
        result.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

/// An id that one thread publishes and another waits for.
#[derive(Default)]
pub struct Name(AtomicU64);

impl Name {
    /// Publishes it.
    pub fn set(&self, id: Id) {
        self.0.store(id.raw(), Ordering::SeqCst);
    }

    /// Waits for it; the caller may block.
    pub fn get(&self) -> Id {
        loop {
            let raw = self.0.load(Ordering::SeqCst);
            if raw != 0 {
                return Id::from_raw(raw);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// How many words processes share.
pub const WORDS: usize = 64;

/// Words that this process and its children share.
pub fn shared_words() -> Result<&'static [AtomicU32; WORDS]> {
    // SAFETY: a fresh shared page, never unmapped, zero, and aligned for anything.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        ensure!(page != libc::MAP_FAILED, "mmap");
        Ok(&*page.cast())
    }
}

/// BPF maps that there are for groups, of all users.
pub fn group_maps() -> usize {
    libbpf_rs::query::MapInfoIter::default()
        .filter(|map| {
            let name = map.name.to_string_lossy().into_owned();
            ["umcg_truth", "umcg_desk", "umcg_app_bell"].contains(&name.as_str())
        })
        .count()
}

/// Whether all threads of process `pid` are stopped, by a signal or by who traces them.
pub fn all_stopped(pid: i32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|s| s.starts_with('T'))
    })
}
