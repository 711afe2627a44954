//! What others may do to members of a group in each state: debuggers, attributes, stops, the
//! freezer. Over the daemon, as nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::{ErrorKind, FOREVER, Reason, State, Woken};

use super::{Test, full, short};
use crate::boss::{Actor, Boss, LIMIT, actor, beside, in_client, is_in_call, refused, soon};
use crate::cast::{Role, Troupe};
use crate::cgroup::Cgroup;
use crate::client;
use crate::harness::{Verdict, metric, wait_until};
use crate::load;

pub const TESTS: &[Test] = &[
    short(
        "vm_group_ptrace_selftest_unprivileged",
        "group",
        4,
        ptrace_each,
    ),
    short(
        "vm_group_affinity_selftest_unprivileged",
        "group",
        4,
        affinity,
    ),
    short(
        "vm_group_nice_and_class_selftest_unprivileged",
        "group",
        4,
        nice_and_class,
    ),
    short(
        "vm_group_stopped_selftest_unprivileged",
        "group",
        4,
        stopped,
    ),
    short("vm_group_freezer_selftest_unprivileged", "group", 4, frozen),
    short(
        "vm_group_freezer_in_motion_selftest_unprivileged",
        "group",
        4,
        frozen_in_motion,
    ),
    full(
        "vm_full_group_beside_real_time_unprivileged",
        "group",
        30,
        beside_real_time,
    ),
];

/// How long a member that is let run by the relief valve alone may take to run.
pub(super) const RELIEF: Duration = Duration::from_secs(4);

pub(super) fn ptrace(request: u32, tid: i32, data: usize) -> Result<()> {
    // SAFETY: the requests that are made here take no address, and `data` is 0 or points to
    // what they fill.
    let done = unsafe { libc::ptrace(request, tid, 0usize, data) };
    let error = std::io::Error::last_os_error();
    ensure!(done == 0, "ptrace {request:#x} of {tid}: {error}");
    Ok(())
}

/// Stops thread `tid` as a debugger does and looks at it; how long it took to stop, and the
/// system call that it was in.
fn look_at(tid: i32, meanwhile: impl FnOnce() -> Result<()>) -> Result<(f64, i64)> {
    ptrace(libc::PTRACE_SEIZE, tid, 0)?;
    let began = Instant::now();
    ptrace(libc::PTRACE_INTERRUPT, tid, 0)?;
    let mut status = 0;
    let stopped = wait_until(RELIEF, || {
        // SAFETY: a thread that this one traces; its status goes to `status`.
        unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) == tid }
    });
    let ms = began.elapsed().as_secs_f64() * 1e3;
    ensure!(
        stopped && libc::WIFSTOPPED(status),
        "not stopped after {ms:.0} ms: {status:#x}"
    );
    // SAFETY: all zero is a valid user_regs_struct.
    let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, tid, (&raw mut regs) as usize)?;
    ensure!(regs.rip != 0 && regs.rsp != 0, "no registers of {tid}");
    meanwhile()?;
    ptrace(libc::PTRACE_CONT, tid, 0)?;
    ptrace(libc::PTRACE_INTERRUPT, tid, 0)?;
    let again = wait_until(RELIEF, || {
        // SAFETY: as above.
        unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) == tid }
    });
    ensure!(again, "not stopped for the second time");
    ptrace(libc::PTRACE_DETACH, tid, 0)?;
    Ok((ms, regs.orig_rax.cast_signed()))
}

/// The cast of another process, each traced in its state by a thread of this one.
fn ptrace_body() -> Result<()> {
    let (troupe, mut boss) = Troupe::start()?;
    let mut worst = 0.0f64;
    for role in [
        Role::Reads,
        Role::Waits,
        Role::Yields,
        Role::Fresh,
        Role::Spins,
    ] {
        let (tid, id) = (troupe.script.tid(role), troupe.id(role));
        let group = boss.group.clone();
        let debugger = std::thread::spawn(move || {
            // It runs by then, if it is to.
            std::thread::sleep(Duration::from_millis(30));
            look_at(tid, || {
                let seen = group.state(id)?;
                let stops = seen.state == State::Blocked && seen.flags & umcg::word::STOPPED != 0;
                ensure!(stops, "{role:?} is stopped, but {seen:?}");
                Ok(())
            })
        });
        if role == Role::Spins {
            let end = boss.until(id, |it| it == Reason::Stopped)?;
            ensure!(end.cookie == role as u64, "{end:?}");
        }
        let (ms, call) = debugger.join().ok().context("the debugger panicked")??;
        worst = worst.max(ms);
        let (read, wait) = (libc::SYS_read, libc::SYS_futex_waitv);
        let right = match role {
            Role::Reads => call == read,
            Role::Waits => call == wait,
            Role::Yields | Role::Fresh => call == libc::SYS_sched_yield,
            Role::Spins => call == -1,
        };
        ensure!(right, "{role:?} was in system call {call}");
        let before = troupe.script.progress(role);
        ensure!(before == 0 || role == Role::Spins, "{role:?} went on");
    }
    metric("group_ptrace_stop", &[("ms", worst)]);
    goes_on(&troupe, &mut boss)?;
    troupe.end(boss)
}

/// Each of the cast, that was stopped in its state, goes on from there when it is run.
pub(super) fn goes_on(troupe: &Troupe, boss: &mut Boss) -> Result<()> {
    let script = &troupe.script;
    let reader = troupe.id(Role::Reads);
    boss.settle(reader, State::Blocked, || {
        is_in_call(troupe.client.pid, script.tid(Role::Reads), libc::SYS_read)
    })?;
    script.feed(b'x')?;
    boss.settle(reader, State::Blocked, || script.progress(Role::Reads) == 1)?;
    boss.settle(troupe.id(Role::Waits), State::Idle, || true)?;
    ensure!(script.progress(Role::Waits) == 0, "its wait has ended");
    boss.group.wake(troupe.id(Role::Waits))?;
    boss.settle(troupe.id(Role::Waits), State::Idle, || {
        script.progress(Role::Waits) == 1
    })?;
    boss.settle(troupe.id(Role::Yields), State::Runnable, || {
        script.progress(Role::Yields) > 0
    })?;
    let spun = script.progress(Role::Spins);
    boss.settle(troupe.id(Role::Spins), State::Runnable, || {
        script.progress(Role::Spins) > spun
    })
}

pub(super) fn ptrace_each() -> Result<Verdict> {
    in_client(ptrace_body)
}

/// What somebody may change about a thread, and the way to see it.
type Change = (&'static str, fn(i32) -> Result<()>);

fn os(done: i32, what: &str) -> Result<()> {
    ensure!(done == 0, "{what}: {}", std::io::Error::last_os_error());
    Ok(())
}

fn pin<const CPU: usize>(tid: i32) -> Result<()> {
    // SAFETY: all zero is an empty set, which lives through the calls.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(CPU, &mut set);
        libc::sched_setaffinity(tid, size_of_val(&set), &raw const set)
    };
    os(done, "sched_setaffinity")
}

fn nice<const NICE: i32>(tid: i32) -> Result<()> {
    // SAFETY: no pointers.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as u32, NICE) };
    os(done, "setpriority")?;
    // SAFETY: no pointers.
    let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, tid as u32) };
    ensure!(now == NICE, "nice {now}, not {NICE}");
    Ok(())
}

fn class<const CLASS: i32>(tid: i32) -> Result<()> {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter lives through the call.
    let done = unsafe { libc::sched_setscheduler(tid, CLASS, &raw const param) };
    os(done, "sched_setscheduler")?;
    // SAFETY: no pointers.
    let now = unsafe { libc::sched_getscheduler(tid) };
    ensure!(now == CLASS, "class {now}, not {CLASS}");
    Ok(())
}

/// Makes each change in each state. None is an edge of the member's word or is told to its
/// server; of who is RUNNING neither, until its time is over.
fn each_change(changes: &[Change]) -> Result<(Troupe, Boss)> {
    let (troupe, mut boss) = Troupe::start()?;
    for role in [Role::Reads, Role::Waits, Role::Yields, Role::Fresh] {
        let (id, tid) = (troupe.id(role), troupe.script.tid(role));
        let known = troupe.ids;
        boss.is_quiet_but(&known)?;
        for (what, change) in changes {
            // Who is RUNNABLE may be let run, and is held again, each second.
            let same = (0..5).any(|_| {
                let before = boss.group.state(id).ok();
                change(tid).is_ok() && before.is_some() && boss.group.state(id).ok() == before
            });
            ensure!(same, "{what} moved {role:?}: {:?}", boss.group.state(id)?);
        }
        let quiet = boss.is_quiet_but(&known[3..])?;
        ensure!(quiet, "news of {role:?}");
    }
    let tid = troupe.script.tid(Role::Spins);
    let all = changes.to_vec();
    let other = std::thread::spawn(move || {
        all.iter().try_for_each(|(what, change)| {
            std::thread::sleep(Duration::from_millis(20));
            change(tid).context(*what)
        })
    });
    let id = troupe.id(Role::Spins);
    let time = Duration::from_millis(20 * changes.len() as u64 + 150);
    let began = Instant::now();
    let end = boss.run(id, umcg::after(time))?.context("not run")?;
    ensure!(
        end.reason == Reason::Preempted && began.elapsed() >= time,
        "after {:?}: {end:?}",
        began.elapsed()
    );
    other.join().ok().context("panicked")??;
    Ok((troupe, boss))
}

/// Where a worker last ran.
static SEEN_CPU: AtomicU32 = AtomicU32::new(u32::MAX);

fn note_cpu() {
    // SAFETY: no arguments.
    SEEN_CPU.store(unsafe { libc::sched_getcpu() } as u32, SeqCst);
}

/// A worker runs where it may, whatever its server's CPU is, and its server goes on there or
/// where it may itself.
fn follows() -> Result<()> {
    let mut boss = Boss::new()?;
    let group = boss.group.clone();
    pin::<0>(0)?;
    let stop = Arc::new(AtomicBool::new(false));
    let quit = stop.clone();
    let worker = actor(&group, 1, move |me| {
        while !quit.load(SeqCst) {
            note_cpu();
            ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
        }
        let began = Instant::now();
        while SEEN_CPU.load(SeqCst) != 1 {
            ensure!(began.elapsed() < RELIEF, "it has not moved while it ran");
            note_cpu();
        }
        Ok(())
    });
    let (id, tid) = (boss.new_one(1)?, worker.tid());
    pin::<1>(tid)?;
    boss.settle(id, State::Idle, || SEEN_CPU.load(SeqCst) == 1)?;
    for (cpu, to) in [
        (0, pin::<0> as fn(i32) -> Result<()>),
        (1, pin::<1>),
        (0, pin::<0>),
    ] {
        to(tid)?;
        group.wake(id)?;
        boss.settle(id, State::Idle, || SEEN_CPU.load(SeqCst) == cpu)?;
        // SAFETY: no arguments.
        let mine = unsafe { libc::sched_getcpu() };
        ensure!(mine == 0, "its server was taken to CPU {mine}");
    }
    stop.store(true, SeqCst);
    SEEN_CPU.store(u32::MAX, SeqCst);
    let mover = std::thread::spawn(move || {
        wait_until(LIMIT, || SEEN_CPU.load(SeqCst) == 0);
        pin::<1>(tid)
    });
    group.wake(id)?;
    boss.news_of(id)?;
    boss.until(id, |it| it == Reason::Exited)?;
    mover.join().ok().context("panicked")??;
    worker.end()?;
    // A server that waits is moved, and is there when it goes on.
    // SAFETY: no arguments.
    let me = unsafe { libc::gettid() };
    let mover = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        pin::<1>(me)
    });
    let nothing = boss
        .server
        .next_event(umcg::after(Duration::from_millis(100)));
    refused("an event", nothing, ErrorKind::TimedOut)?;
    mover.join().ok().context("panicked")??;
    // SAFETY: no arguments.
    let mine = unsafe { libc::sched_getcpu() };
    ensure!(mine == 1, "a server went on on CPU {mine}");
    boss.alone()
}

pub(super) fn affinity() -> Result<Verdict> {
    if std::thread::available_parallelism()?.get() < 2 {
        return Ok(Verdict::Skip("one CPU".to_owned()));
    }
    in_client(|| {
        follows()?;
        pin::<0>(0)?;
        let changes: [Change; 3] = [
            ("to CPU 1", pin::<1>),
            ("to CPU 0", pin::<0>),
            ("to CPU 1", pin::<1>),
        ];
        let (troupe, mut boss) = each_change(&changes)?;
        goes_on(&troupe, &mut boss)?;
        troupe.end(boss)
    })
}

fn nice_and_class_body() -> Result<()> {
    let changes: [Change; 6] = [
        ("nice 5", nice::<5>),
        ("batch", class::<{ libc::SCHED_BATCH }>),
        ("nice 10", nice::<10>),
        ("idle", class::<{ libc::SCHED_IDLE }>),
        ("normal", class::<{ libc::SCHED_OTHER }>),
        ("nice 0", nice::<0>),
    ];
    ensure!(load::fifo(0).is_err(), "real time for nobody");
    let (troupe, mut boss) = each_change(&changes)?;
    goes_on(&troupe, &mut boss)?;
    troupe.end(boss)
}

/// Back to nice 0, and from SCHED_IDLE, an ordinary user may go when his limit lets him.
fn nice_and_class() -> Result<Verdict> {
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let limit = libc::rlimit {
        rlim_cur: 20,
        rlim_max: 20,
    };
    // SAFETY: both live through the calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NICE, &raw mut before);
        libc::setrlimit(libc::RLIMIT_NICE, &raw const limit);
    }
    let verdict = in_client(nice_and_class_body);
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NICE, &raw const before) };
    verdict
}

/// The whole process of the workers is stopped, each in its state, then goes on.
fn stopped_body() -> Result<()> {
    let (troupe, mut boss) = Troupe::start()?;
    let child = troupe.client.pid;
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        let began = Instant::now();
        // SAFETY: a child of this process.
        unsafe { libc::kill(child, libc::SIGSTOP) };
        let all = wait_until(LIMIT, || client::all_stopped(child));
        ensure!(all, "not all have stopped");
        Ok(began.elapsed().as_secs_f64() * 1e3)
    });
    boss.until(troupe.id(Role::Spins), |it| it == Reason::Stopped)?;
    let ms = killer.join().ok().context("panicked")??;
    metric("group_stop_each", &[("ms", ms)]);
    ensure!(ms < 2000.0, "it took {ms:.0} ms to stop");
    stands_still(&troupe, &mut boss)?;
    troupe.client.signal(libc::SIGCONT);
    goes_on(&troupe, &mut boss)?;
    troupe.end(boss)
}

/// All are BLOCKED, stopped; who is run nevertheless is refused.
fn stands_still(troupe: &Troupe, boss: &mut Boss) -> Result<()> {
    for id in troupe.ids {
        let seen = boss.group.state(id)?;
        ensure!(
            seen.state == State::Blocked && seen.flags & umcg::word::STOPPED != 0,
            "{id} is not stopped: {seen:?}"
        );
        refused(
            "run of a stopped worker",
            boss.server.run(id, soon()),
            ErrorKind::WrongState,
        )?;
    }
    Ok(())
}

pub(super) fn stopped() -> Result<Verdict> {
    in_client(stopped_body)
}

/// Words between the processes of the freezer's test.
const PID: usize = 0;
const RUNS: usize = 1;
const FROZEN: usize = 2;
const SEEN: usize = 3;

pub(super) fn frozen() -> Result<Verdict> {
    let words = client::shared_words()?;
    let cgroup = Cgroup::new("umcg-members")?;
    let reach = |word: usize| {
        let there = wait_until(2 * LIMIT, || words[word].load(SeqCst) != 0);
        ensure!(there, "word {word} is 0");
        Ok(words[word].load(SeqCst))
    };
    beside(
        move || {
            let (troupe, mut boss) = Troupe::start()?;
            words[PID].store(troupe.client.pid as u32, SeqCst);
            reach(RUNS)?;
            boss.until(troupe.id(Role::Spins), |it| it == Reason::Stopped)?;
            reach(FROZEN)?;
            stands_still(&troupe, &mut boss)?;
            words[SEEN].store(1, SeqCst);
            goes_on(&troupe, &mut boss)?;
            troupe.end(boss)
        },
        || {
            cgroup.add(reach(PID)? as i32)?;
            words[RUNS].store(1, SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            let (all, ms) = freeze(&cgroup)?;
            metric("group_freeze", &[("ms", ms)]);
            words[FROZEN].store(1, SeqCst);
            let seen = reach(SEEN);
            cgroup.set("cgroup.freeze", "0")?;
            seen?;
            ensure!(all && ms < 2000.0, "it took {ms:.0} ms to freeze");
            Ok(())
        },
    )
}

/// Workers of the group in motion, the word that ends them, and that of their process.
const MOVERS: usize = 8;
const OVER: usize = 32;
const MOVING: usize = 33;

/// A group that works in all ways at once; each worker counts in its word.
fn in_motion(words: &'static [AtomicU32; client::WORDS]) -> Result<()> {
    let mut boss = Boss::new()?;
    let mover = |i: usize| {
        actor(&boss.group, i as u64, move |me| {
            while words[OVER].load(SeqCst) == 0 {
                match i % 4 {
                    0 => std::thread::sleep(Duration::from_millis(2)),
                    1 => drop(me.wait(umcg::after(Duration::from_millis(3)))?),
                    2 => me.yield_now()?,
                    _ => (0..20_000).for_each(|_| std::hint::spin_loop()),
                }
                words[i].fetch_add(1, SeqCst);
            }
            Ok(())
        })
    };
    let movers: Vec<_> = (0..MOVERS).map(mover).collect();
    boss.serve_until(MOVERS)?;
    movers.into_iter().try_for_each(Actor::end)?;
    boss.alone()
}

/// A whole group, server and all, is frozen and thawed in the middle of whatever it does: it
/// freezes within a bound, stands still, and each of its workers goes on.
fn frozen_in_motion() -> Result<Verdict> {
    let words = client::shared_words()?;
    let cgroup = Cgroup::new("umcg-motion")?;
    let steps = || -> Vec<u32> { (0..MOVERS).map(|i| words[i].load(SeqCst)).collect() };
    let body = move || {
        words[MOVING].store(std::process::id(), SeqCst);
        in_motion(words)
    };
    beside(body, || {
        let pid = &words[MOVING];
        ensure!(wait_until(LIMIT, || pid.load(SeqCst) != 0), "no client");
        cgroup.add(pid.load(SeqCst) as i32)?;
        let mut worst = 0.0f64;
        for round in 0..5 {
            let before = steps();
            let all_move = wait_until(LIMIT, || {
                steps()
                    .iter()
                    .zip(&before)
                    .all(|(now, before)| now > before)
            });
            ensure!(all_move, "round {round}: {before:?} -> {:?}", steps());
            let (all, ms) = freeze(&cgroup)?;
            worst = worst.max(ms);
            // The last one says so a moment before it sleeps.
            std::thread::sleep(Duration::from_millis(20));
            let still = steps();
            std::thread::sleep(Duration::from_millis(50));
            let moved = still != steps();
            cgroup.set("cgroup.freeze", "0")?;
            ensure!(all && !moved, "not frozen, or moved when it was");
        }
        words[OVER].store(1, SeqCst);
        metric("group_freeze_in_motion", &[("ms", worst)]);
        ensure!(worst < 2000.0, "it took {worst:.0} ms to freeze");
        Ok(())
    })
}

/// Whether all of it is frozen, and how long that took.
fn freeze(cgroup: &Cgroup) -> Result<(bool, f64)> {
    let began = Instant::now();
    cgroup.set("cgroup.freeze", "1")?;
    let all = wait_until(LIMIT, || {
        let events = cgroup.get("cgroup.events");
        events.is_ok_and(|text| text.contains("frozen 1"))
    });
    Ok((all, began.elapsed().as_secs_f64() * 1e3))
}

/// A CPU that a real-time thread holds is no trap for members: those that were to run there
/// run elsewhere, before the watchdog ends the scheduler.
fn beside_real_time() -> Result<Verdict> {
    let words = client::shared_words()?;
    let steps = || -> Vec<u32> { (0..MOVERS).map(|i| words[i].load(SeqCst)).collect() };
    beside(
        || in_motion(words),
        || {
            for cpu in [0, 1] {
                let hog = load::rt_hog(cpu, Duration::from_secs(14))?;
                for round in 0..6 {
                    let before = steps();
                    std::thread::sleep(Duration::from_secs(2));
                    let now = steps();
                    let all_move = now.iter().zip(&before).all(|(now, before)| now > before);
                    ensure!(all_move, "CPU {cpu}, round {round}: {before:?} -> {now:?}");
                }
                // SAFETY: a child of ours, reaped here.
                unsafe {
                    libc::kill(hog, libc::SIGKILL);
                    libc::waitpid(hog, std::ptr::null_mut(), 0);
                }
            }
            words[OVER].store(1, SeqCst);
            Ok(())
        },
    )
}
