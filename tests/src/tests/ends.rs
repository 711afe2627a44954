//! Ends of threads and processes with members in every state: the others are told once and
//! go on, nothing is left. Over the daemon, as nobody.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use umcg::{ErrorKind, FOREVER, Group, State, Woken, Worker};

use super::{Test, short};
use crate::boss::{Boss, LIMIT, actor, beside, in_client, is_in_call, is_nobody};
use crate::cast::{Deed, Role, Script, Troupe, direct, play};
use crate::cgroup::Cgroup;
use crate::client;
use crate::harness::{Verdict, wait_until};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_fork_selftest_unprivileged",
        "group",
        3,
        fork_of_worker,
    ),
    short(
        "vm_group_vfork_selftest_unprivileged",
        "group",
        3,
        vfork_of_worker,
    ),
    short(
        "vm_group_exec_selftest_unprivileged",
        "group",
        3,
        exec_of_worker,
    ),
    short(
        "vm_group_thread_ends_selftest_unprivileged",
        "group",
        3,
        thread_ends,
    ),
    short(
        "vm_group_exit_selftest_unprivileged",
        "group",
        3,
        exit_of_worker,
    ),
    short(
        "vm_group_core_dump_selftest_unprivileged",
        "group",
        4,
        core_dumps,
    ),
    short(
        "vm_group_out_of_memory_selftest_unprivileged",
        "group",
        5,
        out_of_memory,
    ),
];

/// How long a process whose members are in every state may take to die.
const DEATH: Duration = Duration::from_secs(3);

/// A worker forks: its child is no member, whatever its memory says, and it goes on.
fn fork_body() -> Result<()> {
    let mut boss = Boss::new()?;
    // Its waits: a wake while it is on its way out of the last one would count for that.
    let waits: Arc<AtomicU32> = Arc::default();
    let mine = waits.clone();
    let parent = actor(&boss.group, 1, move |me| {
        for _ in 0..3 {
            // SAFETY: the child calls the library and system calls, and leaves by _exit.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let code = i32::from(!is_no_member(me));
                // SAFETY: ends the child.
                unsafe { libc::_exit(code) };
            }
            let mut status = 0;
            // SAFETY: our own child; its status goes to `status`.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            ensure!(
                status == 0,
                "the child took itself for a member: {status:#x}"
            );
            me.yield_now()?;
            mine.fetch_add(1, SeqCst);
            ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
        }
        Ok(())
    });
    let id = boss.new_one(1)?;
    let group = boss.group.clone();
    for round in 1..=3 {
        boss.settle(id, State::Idle, || waits.load(SeqCst) == round)?;
        let members = group.list()?;
        ensure!(members.len() == 2, "{members:?}");
        group.wake(id)?;
    }
    boss.serve_until(1)?;
    parent.end()?;
    boss.alone()
}

/// Calls of the child of a fork, by the handle that it has a copy of.
fn is_no_member(me: &mut Worker) -> bool {
    let id = me.id();
    let is_none =
        |result: umcg::Result<()>| result.is_err_and(|error| error.kind() == ErrorKind::NotFound);
    is_none(me.yield_now())
        && is_none(me.wait(FOREVER).map(drop))
        && is_none(me.switch(id, FOREVER).map(drop))
        && is_none(umcg::kick_self())
        // It may call for others all the same, as any process of the group.
        && me.group().state(id).is_ok()
}

pub(super) fn fork_of_worker() -> Result<Verdict> {
    in_client(fork_body)
}

/// Programs that a worker starts: by vfork, and by fork. It blocks meanwhile, and stays one.
fn vfork_body() -> Result<()> {
    const TIMES: u32 = 4;
    let mut boss = Boss::new()?;
    let waits: Arc<AtomicU32> = Arc::default(); // as in fork_body()
    let mine = waits.clone();
    let parent = actor(&boss.group, 1, move |me| {
        use std::os::unix::process::CommandExt;
        for time in 0..TIMES {
            let mut command = Command::new("sh");
            command.args(["-c", "exit 5"]);
            if time % 2 == 1 {
                // SAFETY: does nothing; with it the library forks, and does not spawn.
                unsafe { command.pre_exec(|| Ok(())) };
            }
            let code = command.status()?.code();
            ensure!(code == Some(5), "{code:?}");
            mine.fetch_add(1, SeqCst);
            ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
        }
        Ok(())
    });
    let id = boss.new_one(1)?;
    let group = boss.group.clone();
    for round in 1..=TIMES {
        boss.settle(id, State::Idle, || waits.load(SeqCst) == round)?;
        ensure!(group.list()?.len() == 2, "{:?}", group.list()?);
        group.wake(id)?;
    }
    boss.serve_until(1)?;
    parent.end()?;
    boss.alone()
}

fn vfork_of_worker() -> Result<Verdict> {
    in_client(vfork_body)
}

/// The RUNNING worker does `deed`, which ends its process; what wait() said of it.
fn by_deed(deed: Deed) -> Result<i32> {
    let (troupe, mut boss) = Troupe::start()?;
    troupe.script.tell(deed);
    // It may block on its way out, in the ends of the other threads for one.
    boss.until_left(troupe.id(Role::Spins))?;
    let status = troupe.died(&mut boss, DEATH)?;
    boss.alone()?;
    Ok(status)
}

/// Another program takes the place of a worker's process: none of its threads is a member.
pub(super) fn exec_of_worker() -> Result<Verdict> {
    in_client(|| {
        let status = by_deed(Deed::Exec)?;
        ensure!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 9,
            "the new program ended with {status:#x}"
        );
        Ok(())
    })
}

pub(super) fn exit_of_worker() -> Result<Verdict> {
    in_client(|| {
        let status = by_deed(Deed::Exit)?;
        ensure!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7,
            "{status:#x}"
        );
        // And a process with the server in it.
        let other = client::spawn(|| {
            is_nobody()?;
            let (script, pid) = (Arc::new(Script::new()?), std::process::id() as i32);
            let mut boss = Boss::new()?;
            let (group, theirs) = (boss.group.clone(), script.clone());
            std::thread::spawn(move || play(&group, &theirs));
            let ids = direct(&mut boss, &script, pid)?;
            script.tell(Deed::Exit);
            let end = boss.run(ids[Role::Spins as usize], FOREVER)?;
            bail!("exit_group was survived: {end:?}")
        })?;
        let mut status = 0;
        let dead = wait_until(LIMIT, || {
            // SAFETY: a child of ours; its status goes to `status`.
            unsafe { libc::waitpid(other.pid, &raw mut status, libc::WNOHANG) > 0 }
        });
        ensure!(dead && libc::WEXITSTATUS(status) == 7, "{status:#x}");
        Ok(())
    })
}

/// A file that the test changes for a while.
struct Changed {
    path: &'static str,
    was: String,
}

impl Changed {
    fn new(path: &'static str, to: &str) -> Result<Self> {
        let was = fs::read_to_string(path).context(path)?;
        fs::write(path, to).context(path)?;
        Ok(Self { path, was })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.was);
    }
}

fn core_dumps() -> Result<Verdict> {
    let folder = std::env::temp_dir().join("umcg-cores");
    fs::create_dir_all(&folder)?;
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&folder, all)?;
    let pattern = folder.join("core.%p");
    let pattern = Changed::new(
        "/proc/sys/kernel/core_pattern",
        pattern.to_str().context("a path")?,
    )?;
    let limit = libc::rlimit {
        rlim_cur: 1 << 20,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: it lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
    let verdict = in_client(|| {
        for (deed, signal) in [(Deed::Abort, libc::SIGABRT), (Deed::Fault, libc::SIGSEGV)] {
            let status = by_deed(deed)?;
            ensure!(
                libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == signal,
                "{deed:?}: {status:#x}"
            );
            ensure!(libc::WCOREDUMP(status), "{deed:?}: no core: {status:#x}");
        }
        Ok(())
    });
    drop(pattern);
    let cores = fs::read_dir(&folder)?.count();
    fs::remove_dir_all(&folder)?;
    if verdict.is_ok() {
        ensure!(cores == 2, "{cores} cores");
    }
    verdict
}

/// A process that has the server and the cast in it runs out of memory; another group of the
/// same user is not disturbed.
fn out_of_memory() -> Result<Verdict> {
    let root = "/sys/fs/cgroup/cgroup.subtree_control";
    let cgroup = Cgroup::new("umcg-memory")?;
    if fs::write(root, "+memory").is_err() {
        return Ok(Verdict::Skip("no memory controller".to_owned()));
    }
    cgroup.set("memory.max", "64M")?;
    let _ = cgroup.set("memory.swap.max", "0");
    let words = client::shared_words()?;
    let verdict = beside(
        move || {
            let victim = client::spawn(move || {
                is_nobody()?;
                ensure!(
                    wait_until(LIMIT, || words[0].load(SeqCst) != 0),
                    "not moved"
                );
                let (script, pid) = (Arc::new(Script::new()?), std::process::id() as i32);
                let mut boss = Boss::new()?;
                let (group, theirs) = (boss.group.clone(), script.clone());
                std::thread::spawn(move || play(&group, &theirs));
                let ids = direct(&mut boss, &script, pid)?;
                words[2].store(1, SeqCst);
                script.tell(Deed::Eat);
                boss.until_left(ids[Role::Spins as usize])?;
                bail!("it had enough memory")
            })?;
            words[1].store(victim.pid as u32, SeqCst);
            let (other, mut boss) = Troupe::start()?;
            let mut status = 0;
            let mut rounds = 0;
            let dead = wait_until(LIMIT, || {
                let yields = other.id(Role::Yields);
                let ran = boss.run(yields, umcg::after(Duration::from_secs(1)));
                rounds += u32::from(ran.is_ok_and(|end| end.is_some()));
                // SAFETY: a child of ours; its status goes to `status`.
                unsafe { libc::waitpid(victim.pid, &raw mut status, libc::WNOHANG) > 0 }
            });
            if dead && libc::WIFEXITED(status) {
                victim.result(LIMIT).context("it was not killed")?;
            }
            ensure!(
                dead && libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL,
                "not killed: {status:#x}"
            );
            ensure!(
                words[2].load(SeqCst) == 1,
                "killed before its members were in their states"
            );
            ensure!(rounds > 2, "the other group had {rounds} rounds");
            other.end(boss)
        },
        || {
            let there = wait_until(LIMIT, || words[1].load(SeqCst) != 0);
            ensure!(there, "no victim");
            cgroup.add(words[1].load(SeqCst) as i32)?;
            words[0].store(1, SeqCst);
            Ok(())
        },
    )?;
    let events = cgroup.get("memory.events")?;
    let kills = events.lines().find_map(|it| it.strip_prefix("oom_kill "));
    ensure!(kills.is_some_and(|it| it != "0"), "no kill: {events:?}");
    drop(cgroup);
    let _ = fs::write(root, "-memory");
    Ok(verdict)
}

unsafe extern "C-unwind" {
    fn pthread_exit(value: *mut libc::c_void) -> !;
    fn pause() -> libc::c_int;
}

/// How a worker's thread ends without a word to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The system call: not even its thread-locals are dropped.
    Raw,
    /// pthread_exit(3).
    Exit,
    /// pthread_cancel(3) while it is blocked.
    Cancelled,
    /// The same while it is RUNNABLE: it has not been run yet.
    CancelledHeld,
}

struct Plan {
    group: Group,
    end: End,
    tid: AtomicU32,
}

/// Registers for good: no handle is left in a frame that is unwound by force.
fn register_for_good(plan: &Plan) -> bool {
    // SAFETY: no arguments.
    plan.tid.store(unsafe { libc::gettid() } as u32, SeqCst);
    let worker = plan.group.register_worker(plan.end as u64);
    worker.map(std::mem::forget).is_ok()
}

extern "C-unwind" fn ends(plan: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: who made the thread keeps the plan until it has joined it.
    let plan = unsafe { &*plan.cast::<Plan>() };
    if register_for_good(plan) {
        match plan.end {
            // SAFETY: ends this thread; what it owns is left behind.
            End::Raw => unsafe {
                libc::syscall(libc::SYS_exit, 0);
            },
            // SAFETY: no frame of this thread has anything to drop.
            End::Exit => unsafe { pthread_exit(std::ptr::null_mut()) },
            // SAFETY: as above; it is cancelled in here.
            End::Cancelled | End::CancelledHeld => unsafe {
                pause();
            },
        }
    }
    std::ptr::null_mut()
}

pub(super) fn thread_ends() -> Result<Verdict> {
    in_client(|| {
        let mut boss = Boss::new()?;
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let other = actor(&boss.group, 77, move |me| {
            for () in told {
                me.yield_now()?;
            }
            Ok(())
        });
        let other_id = boss.new_one(77)?;
        for (count, end) in [End::Raw, End::Exit, End::Cancelled, End::CancelledHeld]
            .into_iter()
            .enumerate()
        {
            let plan = Box::new(Plan {
                group: boss.group.clone(),
                end,
                tid: AtomicU32::new(0),
            });
            let mut thread: libc::pthread_t = 0;
            // A function that may unwind is called as any other one.
            type Start = extern "C" fn(*mut libc::c_void) -> *mut libc::c_void;
            type Unwinding = extern "C-unwind" fn(*mut libc::c_void) -> *mut libc::c_void;
            // SAFETY: both types have the same calling convention.
            let start = unsafe { std::mem::transmute::<Unwinding, Start>(ends) };
            let arg = std::ptr::from_ref(&*plan).cast_mut().cast();
            // SAFETY: the plan lives until the thread has been joined.
            let made =
                unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), start, arg) };
            ensure!(made == 0, "pthread_create: {made}");
            let id = boss.new_one(end as u64)?;
            if end == End::Cancelled {
                let (pid, tid) = (std::process::id() as i32, plan.tid.load(SeqCst) as i32);
                boss.settle(id, State::Blocked, || is_in_call(pid, tid, libc::SYS_pause))?;
                // SAFETY: a thread that has not been joined yet.
                unsafe { libc::pthread_cancel(thread) };
                boss.news_of(id)?;
            }
            if end == End::CancelledHeld {
                // SAFETY: as above.
                unsafe { libc::pthread_cancel(thread) };
                std::thread::sleep(Duration::from_millis(10));
                ensure!(!boss.left.contains(&id), "it left before it was run");
                ensure!(boss.group.state(id)?.state == State::Runnable);
            }
            boss.until_left(id)?;
            // SAFETY: made above, joined once.
            unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
            ensure!(boss.left.len() == count + 1, "{end:?}: {:?}", boss.left);
            let left = wait_until(Duration::from_secs(2), || {
                boss.group.list().is_ok_and(|all| all.len() == 2)
            });
            ensure!(left, "{end:?}: {:?}", boss.group.list()?);
            // The other one goes on.
            tell.send(())?;
            boss.settle(other_id, State::Blocked, || true)?;
        }
        drop(tell);
        boss.serve_until(5)?;
        other.end()?;
        boss.alone()
    })
}
