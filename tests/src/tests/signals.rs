//! Signals to members of a group in each state. Over the daemon, as nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::{FOREVER, Reason, State, Woken};

use super::{Test, short};
use crate::boss::{Boss, actor, in_client, is_in_call, signal_thread};
use crate::client;
use crate::harness::{Verdict, metric};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_signal_blocked_selftest_unprivileged",
        "group",
        3,
        signal_blocked,
    ),
    short(
        "vm_group_signal_idle_selftest_unprivileged",
        "group",
        3,
        signal_idle,
    ),
    short(
        "vm_group_signal_held_selftest_unprivileged",
        "group",
        4,
        signal_held,
    ),
    short(
        "vm_group_kick_by_handler_selftest_unprivileged",
        "group",
        3,
        kick_by_handler,
    ),
    short(
        "vm_group_kick_by_child_selftest_unprivileged",
        "group",
        2,
        kick_by_child,
    ),
];

/// How long a member that is let run by the relief valve alone may take to run.
const RELIEF: Duration = Duration::from_secs(4);

/// Handlers that have run, and the thread of the last one.
static HANDLED: AtomicU32 = AtomicU32::new(0);
static HANDLER: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(_signal: i32) {
    // SAFETY: no arguments; a handler may call it.
    HANDLER.store(unsafe { libc::gettid() }, SeqCst);
    HANDLED.fetch_add(1, SeqCst);
}

fn handle(signal: i32, handler: extern "C" fn(i32), flags: i32) -> Result<()> {
    // SAFETY: all zero is a valid sigaction; the handler does what handlers may.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = flags;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    ensure!(set == 0, "sigaction: {}", std::io::Error::last_os_error());
    Ok(())
}

fn handled() -> u32 {
    HANDLED.load(SeqCst)
}

fn pid() -> i32 {
    std::process::id() as i32
}

/// One read(2) of one byte; not repeated when a signal ends it.
fn read_byte(pipe: &std::io::PipeReader) -> Result<isize, i32> {
    use std::os::fd::AsRawFd;
    let mut byte = 0u8;
    // SAFETY: one byte that lives through the call.
    let got = unsafe { libc::read(pipe.as_raw_fd(), (&raw mut byte).cast(), 1) };
    match got {
        0.. => Ok(got),
        _ => Err(umcg::kernel::sys::errno()),
    }
}

/// A signal to a worker that is blocked in a read, with or without SA_RESTART: it is listed
/// as any that may go on, its handler runs when it is run, and the call ends as it would for
/// any thread.
fn blocked_body() -> Result<()> {
    const ROUNDS: u32 = 3;
    let mut boss = Boss::new()?;
    let mut held = 0;
    for round in 0..2 * ROUNDS {
        let restart = round < ROUNDS;
        handle(
            libc::SIGUSR1,
            on_signal,
            if restart { libc::SA_RESTART } else { 0 },
        )?;
        let (reader, mut writer) = std::io::pipe()?;
        let (tell, told) = std::sync::mpsc::channel();
        let worker = actor(&boss.group, round.into(), move |_| {
            tell.send(read_byte(&reader))?;
            Ok(())
        });
        let (id, tid) = (boss.new_one(round.into())?, worker.tid());
        let in_read = || is_in_call(pid(), tid, libc::SYS_read);
        boss.settle(id, State::Blocked, in_read)?;
        let before = handled();
        signal_thread(pid(), tid, libc::SIGUSR1)?;
        let news = boss.news_of(id)?;
        ensure!(news.reason == Reason::Woken, "{news:?}");
        held += u32::from(handled() == before);
        if restart {
            boss.settle(id, State::Blocked, || handled() == before + 1 && in_read())?;
            ensure!(told.try_recv().is_err(), "a read was not restarted");
            std::io::Write::write_all(&mut writer, b"x")?;
            boss.news_of(id)?;
        }
        boss.until(id, |it| it == Reason::Exited)?;
        let want = if restart { Ok(1) } else { Err(libc::EINTR) };
        ensure!(told.recv()? == want, "round {round}: not {want:?}");
        ensure!(handled() == before + 1 && HANDLER.load(SeqCst) == tid);
        worker.end()?;
    }
    // The relief valve may be first, but not each time.
    ensure!(held > 0, "each handler ran before its worker was run");
    boss.alone()
}

pub(super) fn signal_blocked() -> Result<Verdict> {
    in_client(blocked_body)
}

/// A signal to a worker that is IDLE, in its real sleep and before it: the handler runs, and
/// the wait goes on to its wake, or to its time.
fn idle_body() -> Result<()> {
    handle(libc::SIGUSR1, on_signal, 0)?;
    let mut boss = Boss::new()?;
    let group = boss.group.clone();
    for (round, asleep) in [true, false, true].into_iter().enumerate() {
        let by_time = round == 2;
        let until = if by_time {
            umcg::after(Duration::from_millis(1500))
        } else {
            FOREVER
        };
        let (tell, told) = std::sync::mpsc::channel();
        let worker = actor(&group, round as u64, move |me| {
            tell.send((me.wait(until)?, umcg::now()))?;
            Ok(())
        });
        let (id, tid) = (boss.new_one(round as u64)?, worker.tid());
        let is_asleep = || {
            let state = group.state(id);
            !asleep || state.is_ok_and(|it| it.flags & umcg::word::ASLEEP != 0)
        };
        boss.settle(id, State::Idle, is_asleep)?;
        let before = handled();
        signal_thread(pid(), tid, libc::SIGUSR1)?;
        boss.settle(id, State::Idle, || handled() == before + 1)?;
        ensure!(told.try_recv().is_err(), "a signal ended the wait");
        if !by_time {
            group.wake(id)?;
        }
        boss.news_of(id)?;
        boss.until(id, |it| it == Reason::Exited)?;
        let (woken, at) = told.recv()?;
        let want = if by_time {
            ensure!(at >= until, "{} ns too early", until - at);
            Woken::TimedOut
        } else {
            Woken::Woken
        };
        ensure!(woken == want, "round {round}: {woken:?}");
        ensure!(handled() == before + 1 && HANDLER.load(SeqCst) == tid);
        worker.end()?;
    }
    boss.alone()
}

pub(super) fn signal_idle() -> Result<Verdict> {
    in_client(idle_body)
}

/// A signal to a worker that is held, RUNNABLE: the handler runs when its server runs it, or
/// the relief valve does; then one that was new stays inside of its registration.
fn held_body() -> Result<()> {
    handle(libc::SIGUSR1, on_signal, 0)?;
    let mut boss = Boss::new()?;
    let ran = Arc::new(AtomicBool::new(false));
    let mark = ran.clone();
    let fresh = actor(&boss.group, 1, move |_| {
        mark.store(true, SeqCst);
        Ok(())
    });
    let id = boss.new_one(1)?;
    let began = Instant::now();
    signal_thread(pid(), fresh.tid(), libc::SIGUSR1)?;
    while handled() == 0 {
        ensure!(began.elapsed() < RELIEF, "its handler has not run");
        boss.is_quiet_but(&[id])?;
        std::hint::spin_loop();
    }
    let took = began.elapsed().as_secs_f64() * 1e3;
    metric("group_signal_held", &[("ms", took)]);
    ensure!(HANDLER.load(SeqCst) == fresh.tid());
    ensure!(!ran.load(SeqCst), "a signal let a worker run");
    boss.until(id, |it| it == Reason::Exited)?;
    ensure!(ran.load(SeqCst), "it ended and did not run");
    fresh.end()?;

    let stop = Arc::new(AtomicBool::new(false));
    let (quit, mut held) = (stop.clone(), 0);
    let spinner = actor(&boss.group, 2, move |_| {
        while !quit.load(SeqCst) {
            std::hint::spin_loop();
        }
        Ok(())
    });
    let id = boss.new_one(2)?;
    for _ in 0..5 {
        let end = boss.run(id, umcg::after(Duration::from_millis(30)))?;
        ensure!(
            end.is_none_or(|it| matches!(it.reason, Reason::Preempted | Reason::Fault)),
            "{end:?}"
        );
        boss.news_of(id)?;
        let before = handled();
        signal_thread(pid(), spinner.tid(), libc::SIGUSR1)?;
        let until = Instant::now() + Duration::from_millis(5);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        held += u32::from(handled() == before);
        boss.settle(id, State::Runnable, || handled() == before + 1)?;
    }
    ensure!(held > 0, "no handler waited for its worker's turn");
    stop.store(true, SeqCst);
    boss.until(id, |it| it == Reason::Exited)?;
    spinner.end()?;
    boss.alone()
}

pub(super) fn signal_held() -> Result<Verdict> {
    in_client(held_body)
}

/// What the last handler was answered: 0, or an errno; and how many were answered 0.
static ANSWER: AtomicI32 = AtomicI32::new(-1);
static KICKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn kick_on_signal(_signal: i32) {
    match umcg::kick_self() {
        Ok(()) => {
            KICKS.fetch_add(1, SeqCst);
            ANSWER.store(0, SeqCst);
        }
        Err(error) => ANSWER.store(error.errno(), SeqCst),
    }
}

/// Who is no worker has nothing to kick: ESRCH.
fn kicks_nobody(what: &str) -> Result<()> {
    ANSWER.store(-1, SeqCst);
    // SAFETY: a signal with a handler, to the calling thread.
    unsafe { libc::raise(libc::SIGUSR2) };
    let answer = ANSWER.load(SeqCst);
    ensure!(answer == libc::ESRCH, "{what}: {answer}");
    Ok(())
}

/// kick_self() in a handler means the worker of the interrupted thread, no other one; in the
/// middle of a wait it means nothing.
fn kick_body() -> Result<()> {
    handle(libc::SIGUSR2, kick_on_signal, libc::SA_RESTART)?;
    kicks_nobody("a thread of no group")?;
    let mut boss = Boss::new()?;
    kicks_nobody("a server")?;
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
    );
    let spinner = |cookie| {
        let (stop, count) = (stop.clone(), count.clone());
        actor(&boss.group, cookie, move |_| {
            while !stop.load(SeqCst) {
                count.fetch_add(1, SeqCst);
            }
            Ok(())
        })
    };
    let (one, other) = (spinner(1), spinner(2));
    let (mine, theirs) = (boss.new_one(1)?, boss.new_one(2)?);
    for _ in 0..10 {
        let (seen, tid, quit) = (count.load(SeqCst), one.tid(), count.clone());
        let kicker = std::thread::spawn(move || {
            while quit.load(SeqCst) < seen + 1000 {
                std::thread::sleep(Duration::from_micros(200));
            }
            signal_thread(pid(), tid, libc::SIGUSR2)
        });
        boss.until(mine, |it| it == Reason::Preempted)?;
        kicker.join().ok().context("the kicker panicked")??;
        // Forced off inside of its handler, which goes on when it is run.
        boss.news_of(mine)?;
    }
    boss.settle(mine, State::Runnable, || KICKS.load(SeqCst) == 10)
        .with_context(|| {
            format!(
                "kicks {}, answer {}",
                KICKS.load(SeqCst),
                ANSWER.load(SeqCst)
            )
        })?;
    let end = boss.run(theirs, umcg::after(Duration::from_millis(300)))?;
    let end = end.context("the other one is no RUNNABLE worker")?;
    ensure!(end.reason == Reason::Preempted, "{end:?}");

    let waiter = actor(&boss.group, 3, |me| {
        ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
        Ok(())
    });
    let id = boss.new_one(3)?;
    boss.settle(id, State::Idle, || true)?;
    ANSWER.store(-1, SeqCst);
    signal_thread(pid(), waiter.tid(), libc::SIGUSR2)?;
    boss.settle(id, State::Idle, || ANSWER.load(SeqCst) == 0)?;
    boss.group.wake(id)?;
    let news = boss.news_of(id)?;
    ensure!(news.reason == Reason::Woken, "{news:?}");
    boss.until(id, |it| it == Reason::Exited)?;
    stop.store(true, SeqCst);
    boss.serve_until(3)?;
    for it in [one, other, waiter] {
        it.end()?;
    }
    boss.alone()
}

pub(super) fn kick_by_handler() -> Result<Verdict> {
    in_client(kick_body)
}

/// A child of a fork, which is no member, forces a worker of its parent off, as any process
/// of the group may.
fn child_body() -> Result<()> {
    let mut boss = Boss::new()?;
    let words = client::shared_words()?;
    let (name, over) = (&words[0], &words[1]);
    let group = boss.group.clone();
    let child = client::spawn(move || {
        while name.load(SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut kicks = 0;
        while over.load(SeqCst) == 0 {
            let members = group.list()?;
            for it in members.iter().filter(|it| it.cookie == 5) {
                kicks += u32::from(group.kick(it.id).is_ok());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(kicks > 0, "no kick was taken");
        Ok(())
    })?;
    let spinner = actor(&boss.group, 5, |_| {
        while over.load(SeqCst) == 0 {
            std::hint::spin_loop();
        }
        Ok(())
    });
    let id = boss.new_one(5)?;
    name.store(1, SeqCst);
    let until = umcg::after(Duration::from_secs(3));
    let end = boss.run(id, until)?.context("a new worker was not run")?;
    let late = umcg::now() >= until;
    over.store(1, SeqCst);
    ensure!(
        end.reason == Reason::Preempted && !late,
        "late {late}: {end:?}"
    );
    boss.serve_until(1)?;
    spinner.end()?;
    child.result(RELIEF)?;
    boss.alone()
}

pub(super) fn kick_by_child() -> Result<Verdict> {
    in_client(child_body)
}
