//! A server that knows whom it serves, the workers that it brings into their states, and
//! the client that they are in.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umcg::{ErrorKind, Event, Group, GroupConfig, Id, Reason, Server, State, Worker};

use crate::client;
use crate::harness::{self, Verdict, wait_until};

/// Nothing takes longer, on a slow machine either.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The end of a step, as a deadline.
pub fn soon() -> u64 {
    umcg::after(LIMIT)
}

/// Fails if `result` did not fail in this way.
pub fn refused<T: std::fmt::Debug>(
    what: &str,
    result: umcg::Result<T>,
    kind: ErrorKind,
) -> Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        other => bail!("{what}: {other:?}, want {kind:?}"),
    }
}

/// Runs `body` in a client and looks for what it left behind.
pub fn in_client(body: fn() -> Result<()>) -> Result<Verdict> {
    beside(body, || Ok(()))
}

/// The same; `also` is done by this process meanwhile.
pub fn beside(
    body: impl FnOnce() -> Result<()>,
    also: impl FnOnce() -> Result<()>,
) -> Result<Verdict> {
    let sched = harness::shared()?;
    let ended = wait_until(LIMIT, || client::group_maps() == 0);
    ensure!(ended, "groups of the test before are left");
    let client = client::spawn(move || {
        is_nobody()?;
        body()
    })?;
    also()?;
    client.result(3 * LIMIT)?;
    // Before the daemon gives up on threads that do not leave, so all have left.
    ensure!(
        wait_until(Duration::from_secs(4), || client::group_maps() == 0),
        "{} maps of groups are left",
        client::group_maps()
    );
    client::is_sound(&sched)?;
    Ok(Verdict::Ok)
}

/// Fails for a user that may do more than others. From here on a debugger may look at it.
pub fn is_nobody() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    for name in ["CapPrm:", "CapEff:", "CapAmb:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let none = line.is_some_and(|it| it.trim().bytes().all(|digit| digit == b'0'));
        ensure!(none, "{name} {line:?}");
    }
    // SAFETY: no pointers.
    let (uid, dumpable) = unsafe { (libc::geteuid(), libc::prctl(libc::PR_SET_DUMPABLE, 1)) };
    ensure!(uid == 65534 && dumpable == 0, "uid {uid}");
    Ok(())
}

/// A thread that is a worker.
pub struct Actor {
    tid: Arc<AtomicI32>,
    thread: JoinHandle<Result<()>>,
}

/// Starts one that runs `body`; unregisters at its end.
pub fn actor(
    group: &Group,
    cookie: u64,
    body: impl FnOnce(&mut Worker) -> Result<()> + Send + 'static,
) -> Actor {
    let group = group.clone();
    let tid = Arc::new(AtomicI32::new(0));
    let mine = tid.clone();
    let thread = std::thread::spawn(move || {
        // SAFETY: no arguments.
        mine.store(unsafe { libc::gettid() }, SeqCst);
        body(&mut group.register_worker(cookie)?)
    });
    Actor { tid, thread }
}

impl Actor {
    /// Its thread.
    pub fn tid(&self) -> i32 {
        loop {
            match self.tid.load(SeqCst) {
                0 => std::thread::yield_now(),
                tid => return tid,
            }
        }
    }

    /// Its result.
    pub fn end(self) -> Result<()> {
        let result = self.thread.join();
        result.map_err(|_| anyhow::anyhow!("a worker panicked"))?
    }
}

/// The calling thread as a server that knows whom it serves.
pub struct Boss {
    /// Its group.
    pub group: Group,
    /// Itself.
    pub server: Server,
    /// Told, and not asked for yet.
    kept: Vec<Event>,
    /// Who has left.
    pub left: Vec<Id>,
    /// Runs that have ended.
    pub runs: u64,
}

impl Boss {
    /// Makes a group over the daemon and serves it.
    pub fn new() -> Result<Self> {
        let group = Group::create(&GroupConfig::default())?;
        Self::of(group)
    }

    /// Serves `group`.
    pub fn of(group: Group) -> Result<Self> {
        let mode = group.mode();
        ensure!(matches!(mode, umcg::Mode::Kernel { .. }), "mode {mode}");
        let server = group.register_server()?;
        Ok(Self {
            group,
            server,
            kept: Vec::new(),
            left: Vec::new(),
            runs: 0,
        })
    }

    fn take(&mut self, deadline_ns: u64) -> Result<bool> {
        loop {
            match self.server.next_event(deadline_ns) {
                Ok(event) => {
                    self.note(&event)?;
                    self.kept.push(event);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(false),
                // A daemon that was late to answer: the group was without it for a moment.
                Err(error) if error.kind() == ErrorKind::Again => {}
                Err(error) => return Err(error).context("next_event"),
            }
        }
    }

    fn note(&mut self, event: &Event) -> Result<()> {
        if event.reason == Reason::Exited {
            ensure!(!self.left.contains(&event.worker), "told twice: {event:?}");
            self.left.push(event.worker);
        }
        Ok(())
    }

    /// The next news that `fits`, within [`LIMIT`]; that of others is kept.
    fn news(&mut self, fits: impl Fn(&Event) -> bool) -> Result<Event> {
        let limit = soon();
        loop {
            if let Some(at) = self.kept.iter().position(&fits) {
                return Ok(self.kept.remove(at));
            }
            if !self.take(limit)? {
                bail!("no news; kept {:?}; {:?}", self.kept, self.group.list()?);
            }
        }
    }

    /// The next news of `who`.
    pub fn news_of(&mut self, who: Id) -> Result<Event> {
        self.news(|it| it.worker == who)
            .with_context(|| format!("of {who}"))
    }

    /// The worker that registers with `cookie`.
    pub fn new_one(&mut self, cookie: u64) -> Result<Id> {
        let event = self.news(|it| it.cookie == cookie);
        let event = event.with_context(|| format!("of cookie {cookie}"))?;
        // It may have waited for a page on its way in, and have been let run for that: then it
        // is listed for more than being new, and has not left its registration.
        ensure!(event.reason.is_runnable(), "{event:?}");
        Ok(event.worker)
    }

    /// Whether there is no news but of those who are `known`.
    pub fn is_quiet_but(&mut self, known: &[Id]) -> Result<bool> {
        while self.take(0)? {}
        self.kept.retain(|it| !known.contains(&it.worker));
        Ok(self.kept.is_empty())
    }

    /// One run of `who`. `None`: it was let run by the relief valve meanwhile, or moved on.
    pub fn run(&mut self, who: Id, deadline_ns: u64) -> Result<Option<Event>> {
        match self.server.run(who, deadline_ns) {
            Ok(event) => {
                self.runs += 1;
                self.note(&event)?;
                Ok(Some(event))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WrongState | ErrorKind::Again) => {
                Ok(None)
            }
            Err(error) => Err(error).context("run"),
        }
    }

    /// The same for a while, of one that may have left by now.
    fn run_anyhow(&mut self, who: Id) -> Result<()> {
        match self.server.run(who, umcg::after(Duration::from_millis(50))) {
            Ok(event) => {
                self.runs += 1;
                self.note(&event)
            }
            Err(error) => {
                let kind = error.kind();
                use ErrorKind::{Again, NotFound, WrongState};
                ensure!(matches!(kind, Again | NotFound | WrongState), "{error}");
                Ok(())
            }
        }
    }

    /// Runs `who`, who may be run, until its run ends as `want` says. It may have to wait for a
    /// page on the way, or have been let run: then it is told of once more.
    pub fn until(&mut self, who: Id, want: impl Fn(Reason) -> bool) -> Result<Event> {
        loop {
            match self.run(who, soon())? {
                Some(end) if want(end.reason) && end.worker == who => return Ok(end),
                Some(end) => ensure!(
                    matches!(end.reason, Reason::Fault | Reason::Preempted),
                    "{end:?}"
                ),
                None => {}
            }
            self.news_of(who)?;
        }
    }

    /// Runs `who` whenever it may be run, until it has left.
    pub fn until_left(&mut self, who: Id) -> Result<()> {
        let limit = Instant::now() + LIMIT;
        while !self.left.contains(&who) {
            ensure!(
                Instant::now() < limit,
                "{who} has not left: {:?}",
                self.group.list()?
            );
            self.run_anyhow(who)?;
            if !self.left.contains(&who) {
                self.take(umcg::after(Duration::from_millis(2)))?;
            }
        }
        Ok(())
    }

    /// Runs `who` whenever it is RUNNABLE, until it is in `state` and `so`. Older news of it
    /// is dropped.
    pub fn settle(&mut self, who: Id, state: State, so: impl Fn() -> bool) -> Result<()> {
        let limit = Instant::now() + LIMIT;
        loop {
            // First: what it did before it got into that state.
            let so = so();
            let seen = self.group.state(who);
            let seen = seen.with_context(|| format!("before it was {}", state.name()))?;
            if seen.state == state && so {
                while self.take(0)? {}
                let old = |it: &Event| it.worker == who && it.at_ns < seen.since_ns;
                self.kept.retain(|it| !old(it));
                return Ok(());
            }
            ensure!(
                Instant::now() < limit,
                "{who} is not {}: {:?}",
                state.name(),
                self.group.list()?
            );
            if seen.state == State::Runnable {
                self.run(who, umcg::after(Duration::from_millis(50)))?;
            }
            self.take(umcg::after(Duration::from_millis(2)))?;
        }
    }

    /// Runs whoever wants to until `count` workers have left in all, each once.
    pub fn serve_until(&mut self, count: usize) -> Result<()> {
        let limit = Instant::now() + 2 * LIMIT;
        while self.left.len() < count {
            ensure!(
                Instant::now() < limit,
                "{} of {count} have left: {:?}",
                self.left.len(),
                self.group.list()?
            );
            if self.kept.is_empty() && !self.take(umcg::after(Duration::from_millis(20)))? {
                continue;
            }
            let next = self.kept.remove(0);
            // Told twice, it has been run and waits again: a run would end that wait.
            let waits = (self.group.state(next.worker)).is_ok_and(|it| it.state == State::Idle);
            if next.reason != Reason::Exited && !waits && !self.left.contains(&next.worker) {
                self.run_anyhow(next.worker)?;
            }
        }
        Ok(())
    }

    /// Fails if anybody but the server is left, or told of once more. Ends the server.
    pub fn alone(mut self) -> Result<()> {
        let known = self.left.clone();
        while self.take(0)? {}
        let twice: Vec<_> = (self.kept.iter())
            .filter(|it| !known.contains(&it.worker))
            .collect();
        ensure!(twice.is_empty(), "news of nobody: {twice:?}");
        // A thread may be on its way out of the group yet.
        let group = self.group.clone();
        let alone = wait_until(Duration::from_secs(2), || {
            group.list().is_ok_and(|members| members.len() == 1)
        });
        ensure!(alone, "members are left: {:?}", self.group.list()?);
        Ok(())
    }
}

/// Whether thread `tid` of process `pid` is in system call `nr`, asleep.
pub fn is_in_call(pid: i32, tid: i32, nr: libc::c_long) -> bool {
    let path = format!("/proc/{pid}/task/{tid}/syscall");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next() == Some(&nr.to_string())
}

/// A signal to one thread.
pub fn signal_thread(pid: i32, tid: i32, signal: i32) -> Result<()> {
    // SAFETY: no pointers.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
    ensure!(sent == 0, "tgkill: {}", std::io::Error::last_os_error());
    Ok(())
}
