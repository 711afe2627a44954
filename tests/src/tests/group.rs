//! Application groups, as an unprivileged client sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::{KernelGroup, sys};
use umcg::{ErrorKind, Id, Kind, Reason, State, Woken, word};

use super::app_hostile::program_runs;
use super::{Test, short};
use crate::client::{
    self, Name, Progress, Seen, all_stopped, group_maps, join_all, run_past_faults, serve,
    serve_by, worker,
};
use crate::harness::{self, Sched, Verdict, metric, wait_until};
use crate::load;
use crate::noise::Noise;

pub const TESTS: &[Test] = &[
    short("vm_group_cycles_unprivileged", "group", 30, cycles::<2000>),
    short("vm_group_switch_ping_pong", "group", 10, switch_ping_pong),
    short("vm_group_wake_before_wait", "group", 10, wake_before_wait),
    short("vm_group_wait_times_out", "group", 10, wait_times_out),
    short("vm_group_kick_preempts", "group", 10, kick),
    short("vm_group_fault_is_told_apart", "group", 10, fault),
    short("vm_group_wrong_calls_are_refused", "group", 10, wrong_calls),
    short(
        "vm_group_run_listed_leaves_waits_alone",
        "group",
        10,
        run_listed_leaves_waits_alone,
    ),
    short("vm_group_two_are_isolated", "group", 10, isolated),
    Test {
        tries: 3,
        ..short("vm_group_two_servers_of_one_cpu", "group", 4, one_cpu)
    },
    short("vm_group_stop_and_kill", "group", 15, stop_and_kill),
    short("vm_group_server_gone_rescues", "group", 15, server_gone),
    short("vm_group_hostile_desk", "group", 15, hostile),
    short("vm_group_teardown_leaves_no_map", "group", 10, teardown),
    short("vm_group_partial_mode", "group", 20, partial),
];

const LIMIT: Duration = Duration::from_secs(60);

/// One server that is the client's main thread.
pub(super) fn with_server(
    members: u32,
    body: impl FnOnce(&Arc<KernelGroup>, Id) -> Result<()>,
) -> Result<()> {
    let group = client::group(members)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    body(&group, me)?;
    group.unregister(me)?;
    Ok(())
}

pub(super) fn in_client(body: fn() -> Result<()>) -> Result<Verdict> {
    client::in_client(LIMIT, body)
}

fn nanosleeps(count: u64) -> Result<()> {
    for _ in 0..count {
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

/// Blocks in a pipe whose other end a thread outside of the group serves.
fn pipe_echo(count: u64) -> Result<()> {
    use std::io::{Read, Write};
    let (mut mine, theirs) = std::os::unix::net::UnixStream::pair()?;
    let helper = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut theirs, mut byte) = (theirs, [0u8]);
        while theirs.read(&mut byte)? == 1 {
            theirs.write_all(&byte)?;
        }
        Ok(())
    });
    let mut byte = [7u8];
    for _ in 0..count {
        mine.write_all(&byte)?;
        mine.read_exact(&mut byte)?;
    }
    drop(mine);
    let _ = helper.join();
    Ok(())
}

pub(super) fn cycles_body<const N: u64>() -> Result<()> {
    with_server(16, |group, me| {
        for kind in 0..2u64 {
            let threads = (0..3)
                .map(|i| {
                    worker(group, i, move |_, _| match kind {
                        0 => nanosleeps(N),
                        _ => pipe_echo(N / 4),
                    })
                })
                .collect();
            let seen = serve(group, me, 3)?;
            join_all(threads)?;
            seen.check(group)?;
            ensure!(seen.blocked > 0, "nothing blocked: {seen:?}");
            println!(
                "metric group_cycles kind={kind} runs={} again={}",
                seen.runs, seen.again
            );
        }
        Ok(())
    })
}

pub(super) fn cycles<const N: u64>() -> Result<Verdict> {
    in_client(cycles_body::<N>)
}

/// Two servers and what they run share a CPU, with a thread that is on its local queue now and then:
/// a hand-over that finds it there is asked for again, and done the next time.
fn one_cpu_body() -> Result<()> {
    const EACH: u64 = 1000;
    load::pin(0, 0);
    let group = client::group(16)?;
    let all = Arc::new(Progress::default());
    let napper = std::thread::spawn(|| nanosleeps(2 * EACH));
    let threads = (0..4).map(|i| {
        worker(&group, i, move |group, me| match i % 2 {
            0 => nanosleeps(EACH),
            _ => (0..EACH).try_for_each(|_| Ok(group.yield_now(me)?)),
        })
    });
    let threads: Vec<_> = threads.collect();
    let servers = serve_by(&group, 2, threads.len() as u64, &all)?;
    join_all(threads)?;
    let _ = napper.join();
    let (runs, again) = servers.iter().fold((0, 0), |(runs, again), seen| {
        (runs + seen.runs, again + seen.again)
    });
    println!("metric group_one_cpu runs={runs} again={again}");
    ensure!(runs > 2 * EACH, "only {runs} runs");
    Ok(())
}

fn one_cpu() -> Result<Verdict> {
    /// Of about 4000 runs; one that is refused to the end costs 64, and its neighbour as many.
    const MOST: u64 = 64;
    let sched = harness::shared()?;
    let before = sched.counter("grp_refused")?;
    let verdict = in_client(one_cpu_body)?;
    let refused = sched.counter("grp_refused")? - before;
    metric("group_one_cpu", &[("refused", refused as f64)]);
    ensure!(refused < MOST, "{refused} requests were refused");
    Ok(verdict)
}

fn partial() -> Result<Verdict> {
    let sched = Sched::start(&["--partial"])?;
    client::run_in(&sched, LIMIT, cycles_body::<300>)?;
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn ping_pong(group: &Arc<KernelGroup>, me: Id, rounds: u64) -> Result<Seen> {
    let names: Arc<[Name; 2]> = Arc::default();
    let done = Arc::new(AtomicBool::new(false));
    let threads = (0..2usize)
        .map(|i| {
            let (names, done) = (names.clone(), done.clone());
            worker(group, i as u64, move |group, me| {
                names[i].set(me);
                let other = names[1 - i].get();
                for _ in 0..rounds {
                    if done.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    // The other one may not wait yet, or have left by now.
                    match group.switch(me, other, u64::MAX) {
                        Err(error)
                            if error.kind() == ErrorKind::WrongState
                                || error.kind() == ErrorKind::NotFound =>
                        {
                            group.yield_now(me)?;
                        }
                        result => {
                            let _ = result?;
                        }
                    }
                }
                done.store(true, Ordering::SeqCst);
                let _ = group.wake(other);
                Ok(())
            })
        })
        .collect();
    let seen = serve(group, me, 2)?;
    join_all(threads)?;
    seen.check(group)?;
    Ok(seen)
}

pub(super) fn switch_ping_pong() -> Result<Verdict> {
    in_client(|| {
        with_server(4, |group, me| {
            let seen = ping_pong(group, me, 5000)?;
            // A server that is late on a busy machine has them meet: one has to yield then.
            ensure!(seen.runs < 2500, "the server was in the way: {seen:?}");
            Ok(())
        })
    })
}

pub(super) fn wake_before_wait() -> Result<Verdict> {
    in_client(|| {
        with_server(4, |group, me| {
            let name = Arc::new(Name::default());
            let told = name.clone();
            let waiter = worker(group, 1, move |group, me| {
                told.set(me);
                for _ in 0..1000 {
                    ensure!(group.wait(me, u64::MAX)? == Woken::Woken, "timed out");
                }
                Ok(())
            });
            // A thread outside: some of its wakes come before the wait, some after.
            let outside = group.clone();
            let waker = std::thread::spawn(move || -> Result<()> {
                let id = name.get();
                loop {
                    match outside.wake(id) {
                        Ok(()) => std::thread::yield_now(),
                        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                        Err(error) => Err(error)?,
                    }
                }
            });
            let seen = serve(group, me, 1)?;
            join_all(vec![waiter, waker])?;
            seen.check(group)
        })
    })
}

pub(super) fn wait_times_out() -> Result<Verdict> {
    in_client(|| {
        with_server(4, |group, me| {
            let waiter = worker(group, 1, |group, me| {
                let woken = group.wait(me, sys::now_ns() + 50_000_000)?;
                ensure!(woken == Woken::TimedOut, "its server was late: {woken:?}");
                Ok(())
            });
            // It may have to wait for a page before.
            loop {
                let listed = group.next_event(me, u64::MAX)?;
                let end = group.run(me, listed.worker, u64::MAX)?;
                if end.reason == Reason::Waits {
                    break;
                }
                ensure!(end.reason == Reason::Fault, "{end:?}");
            }
            // Meanwhile the relief valve lets it run, and it comes back.
            std::thread::sleep(Duration::from_secs(1));
            serve(group, me, 1)?;
            join_all(vec![waiter])
        })?;
        with_server(4, |group, me| {
            let waiter = worker(group, 1, |group, me| {
                for ms in [1, 5, 20, 100, 300] {
                    let start = sys::now_ns();
                    let end = start + ms * 1_000_000;
                    let woken = group.wait(me, end)?;
                    ensure!(woken == Woken::TimedOut, "{ms} ms: {woken:?}");
                    let late = sys::now_ns().saturating_sub(end);
                    ensure!(sys::now_ns() >= end, "{ms} ms: too early");
                    ensure!(late < 200_000_000, "{ms} ms: {late} ns late");
                }
                Ok(())
            });
            let seen = serve(group, me, 1)?;
            join_all(vec![waiter])?;
            // Of one that blocked after its time was over it is told that it goes on.
            ensure!(seen.timed_out > 0, "{seen:?}");
            seen.check(group)
        })
    })
}

pub(super) fn kick() -> Result<Verdict> {
    in_client(|| {
        with_server(4, |group, me| {
            let stop = Arc::new(AtomicBool::new(false));
            let (quit, name) = (stop.clone(), Arc::new(Name::default()));
            let told = name.clone();
            let spinner = worker(group, 1, move |_, me| {
                told.set(me);
                while !quit.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                Ok(())
            });
            let outside = group.clone();
            let kicks = Arc::new(AtomicU64::new(0));
            let kicked = kicks.clone();
            let kicker = std::thread::spawn(move || -> Result<()> {
                let id = name.get();
                let until = Instant::now() + Duration::from_secs(3);
                while Instant::now() < until && kicked.load(Ordering::Relaxed) < 50 {
                    if outside.kick(id).is_ok() {
                        kicked.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                stop.store(true, Ordering::Relaxed);
                Ok(())
            });
            let seen = serve(group, me, 1)?;
            join_all(vec![spinner, kicker])?;
            let kicks = kicks.load(Ordering::Relaxed);
            ensure!(kicks > 10, "only {kicks} kicks were taken");
            ensure!(
                seen.preempted > 0 && seen.preempted <= kicks,
                "{kicks} kicks: {seen:?}"
            );
            // The deadline of run() is such a kick too.
            let stop = Arc::new(AtomicBool::new(false));
            let quit = stop.clone();
            let spinner = worker(group, 2, move |_, _| {
                while !quit.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                Ok(())
            });
            let new = group.next_event(me, u64::MAX)?;
            let event = group.run(me, new.worker, sys::now_ns() + 30_000_000)?;
            ensure!(event.reason == Reason::Preempted, "{event:?}");
            // It ends only now: without a server for long it would go on, and end.
            let listed = group.next_event(me, u64::MAX)?;
            ensure!(listed.reason == Reason::Preempted, "{listed:?}");
            stop.store(true, Ordering::Relaxed);
            while group.run(me, listed.worker, u64::MAX)?.reason != Reason::Exited {}
            join_all(vec![spinner])
        })
    })
}

const FAULTS: usize = 200;

/// Pages that a thread outside of the group fills, by userfaultfd in user mode.
pub fn faulting_pages(pages: usize) -> Result<usize> {
    const API: u64 = 0xc018_aa3f;
    const REGISTER: u64 = 0xc020_aa00;
    const ZEROPAGE: u64 = 0xc020_aa04;
    const USER_MODE_ONLY: i32 = 1;
    let len = pages * 4096;
    // SAFETY: a userfaultfd of ours; the structs have the sizes that the ioctls want
    // and live through the calls; the mapping is fresh and stays.
    let (uffd, base) = unsafe {
        let uffd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) as i32;
        ensure!(
            uffd >= 0,
            "userfaultfd: {}",
            std::io::Error::last_os_error()
        );
        let mut api = [0xaau64, 0, 0];
        ensure!(libc::ioctl(uffd, API, api.as_mut_ptr()) == 0, "UFFDIO_API");
        let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let base = libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0);
        ensure!(base != libc::MAP_FAILED, "mmap");
        let mut range = [base as u64, len as u64, 1, 0];
        ensure!(
            libc::ioctl(uffd, REGISTER, range.as_mut_ptr()) == 0,
            "UFFDIO_REGISTER"
        );
        (uffd, base as usize)
    };
    std::thread::spawn(move || {
        let mut msg = [0u64; 4];
        // SAFETY: 32 bytes are one struct uffd_msg; the address is its third word.
        while unsafe { libc::read(uffd, msg.as_mut_ptr().cast(), 32) } == 32 {
            let mut zero = [msg[2] & !4095, 4096, 0, 0];
            // SAFETY: struct uffdio_zeropage, as above.
            unsafe { libc::ioctl(uffd, ZEROPAGE, zero.as_mut_ptr()) };
        }
    });
    Ok(base)
}

fn fault() -> Result<Verdict> {
    in_client(|| {
        with_server(4, |group, me| {
            let base = faulting_pages(FAULTS)?;
            let toucher = worker(group, 1, move |_, _| {
                for page in 0..FAULTS {
                    let at = (base + page * 4096) as *const u8;
                    // SAFETY: inside of the mapping of faulting_pages().
                    std::hint::black_box(unsafe { at.read_volatile() });
                }
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            });
            let seen = serve(group, me, 1)?;
            join_all(vec![toucher])?;
            seen.check(group)?;
            // Now and then the page is there before the faulting thread sleeps.
            let most = FAULTS as u64 * 9 / 10;
            ensure!(seen.faults >= most, "faults are missing: {seen:?}");
            let sleep = libc::SYS_clock_nanosleep as u32;
            ensure!(seen.calls.contains(&sleep), "no nanosleep: {seen:?}");
            Ok(())
        })
    })
}

/// Worker 0 waits, first held, then asleep for real: an event of before ends neither wait.
fn run_listed_leaves_waits_alone() -> Result<Verdict> {
    in_client(|| {
        with_server(4, |group, me| {
            let waits = worker(group, 0, |group, me| {
                ensure!(group.wait(me, u64::MAX)? == Woken::Woken, "timed out");
                // A second wake, or a wait that had another end, is left over.
                ensure!(group.wait(me, 0)? == Woken::TimedOut, "woken twice");
                Ok(())
            });
            let new = group.next_event(me, u64::MAX)?.worker;
            let event = run_past_faults(group, me, new)?;
            ensure!(event.reason == Reason::Waits, "{event:?}");
            for asleep in [false, true] {
                while asleep && group.state(new)?.flags & word::ASLEEP == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                ensure!(
                    kind_of(group.run_listed(me, new, u64::MAX)) == Some(ErrorKind::WrongState),
                    "ran a worker that waits"
                );
                let state = group.state(new)?;
                ensure!(
                    state.state == State::Idle && state.flags & word::PENDING == 0,
                    "{state:?}"
                );
            }
            group.wake(new)?;
            serve(group, me, 1)?;
            join_all(vec![waits])
        })
    })
}

fn kind_of<T>(result: umcg::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn wrong_calls() -> Result<Verdict> {
    in_client(|| {
        with_server(4, |group, me| {
            let again = group.register(Kind::Worker, 0, &mut |_| {});
            ensure!(
                kind_of(again) == Some(ErrorKind::Registered),
                "registered twice"
            );
            let ghost = Id::new(66, 0x7fff_ffff);
            ensure!(
                kind_of(group.run(me, ghost, u64::MAX)) == Some(ErrorKind::NotFound),
                "ran a worker that is none"
            );
            ensure!(
                kind_of(group.wake(ghost)) == Some(ErrorKind::NotFound),
                "woke a worker that is none"
            );
            ensure!(
                kind_of(group.run(me, me, u64::MAX)) == Some(ErrorKind::Invalid),
                "ran a server"
            );
            ensure!(
                kind_of(group.next_event(me, 0)) == Some(ErrorKind::TimedOut),
                "an event from nowhere"
            );
            let sleeper = worker(group, 1, |group, me| {
                ensure!(
                    kind_of(group.switch(me, me, u64::MAX)) == Some(ErrorKind::Myself),
                    "switched to itself"
                );
                std::thread::sleep(Duration::from_millis(50));
                Ok(())
            });
            let new = group.next_event(me, u64::MAX)?;
            ensure!(new.reason.is_runnable() && new.cookie == 1, "{new:?}");
            let event = run_past_faults(group, me, new.worker)?;
            ensure!(matches!(event.reason, Reason::Blocked { .. }), "{event:?}");
            ensure!(
                kind_of(group.run(me, new.worker, u64::MAX)) == Some(ErrorKind::WrongState),
                "ran a blocked worker"
            );
            ensure!(
                kind_of(group.kick(new.worker)) == Some(ErrorKind::WrongState),
                "kicked a blocked worker"
            );
            serve(group, me, 1)?;
            join_all(vec![sleeper])?;
            ensure!(
                kind_of(group.run(me, new.worker, u64::MAX)) == Some(ErrorKind::NotFound),
                "ran a dead worker"
            );
            Ok(())
        })
    })
}

fn isolated() -> Result<Verdict> {
    in_client(|| {
        let other = client::group(4)?;
        with_server(4, |group, me| {
            let busy = worker(group, 1, |_, _| nanosleeps(200));
            let seen = serve(group, me, 1)?;
            join_all(vec![busy])?;
            seen.check(group)
        })?;
        ensure!(other.list()?.is_empty(), "members of another group");
        let joined = client::join(&other.ticket())?;
        ensure!(joined.ticket() == other.ticket(), "another ticket");
        let mut forged = other.ticket();
        forged[12] ^= 1;
        ensure!(client::join(&forged).is_err(), "a forged ticket was taken");
        Ok(())
    })
}

/// A client with workers in all states; `ready` is set when they are there.
fn crowd(group: &Arc<KernelGroup>, me: Id) -> Result<()> {
    let names: Arc<Vec<Name>> = Arc::new((0..16).map(|_| Name::default()).collect());
    for i in 0..16usize {
        let names = names.clone();
        let _ = worker(group, i as u64, move |group, me| {
            names[i].set(me);
            loop {
                match i % 4 {
                    0 => std::thread::sleep(Duration::from_millis(3)),
                    1 => {
                        let _ = group.wait(me, sys::now_ns() + 5_000_000)?;
                    }
                    2 => group.yield_now(me)?,
                    _ => {
                        let _ = group.wait(me, u64::MAX)?;
                    }
                }
            }
        });
    }
    serve(group, me, u64::MAX).map(|_| ())
}

pub(super) fn state_of(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .and_then(|s| s.chars().next())
        .unwrap_or('?')
}

fn stop_and_kill() -> Result<Verdict> {
    let sched = harness::shared()?;
    let before = sched.counter("grp_run")?;
    let client = client::spawn(|| with_server(32, crowd))?;
    ensure!(
        wait_until(Duration::from_secs(10), || sched
            .counter("grp_run")
            .is_ok_and(|n| n > before + 500)),
        "no hand-overs"
    );
    for _ in 0..3 {
        client.signal(libc::SIGSTOP);
        let began = Instant::now();
        ensure!(
            wait_until(Duration::from_secs(5), || all_stopped(client.pid)),
            "not stopped after 5 s"
        );
        metric("group_stop", &[("ms", began.elapsed().as_secs_f64() * 1e3)]);
        client.signal(libc::SIGCONT);
        let runs = sched.counter("grp_run")?;
        ensure!(
            wait_until(Duration::from_secs(5), || sched
                .counter("grp_run")
                .is_ok_and(|n| n > runs + 50)),
            "no hand-overs after SIGCONT"
        );
    }
    client.signal(libc::SIGKILL);
    let began = Instant::now();
    ensure!(
        wait_until(Duration::from_secs(5), || state_of(client.pid) == 'Z'),
        "not dead after 5 s: state {}",
        state_of(client.pid)
    );
    metric("group_kill", &[("ms", began.elapsed().as_secs_f64() * 1e3)]);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// The only server leaves, a worker still comes to its end.
fn server_gone() -> Result<Verdict> {
    in_client(|| {
        let group = client::group(4)?;
        let server = group.clone();
        let thread = std::thread::spawn(move || -> Result<()> {
            let me = server.register(Kind::Server, 0, &mut |_| {})?;
            let mut runs = [0; 2];
            while runs.iter().any(|&runs| runs < 5) {
                let event = server.next_event(me, u64::MAX)?;
                runs[event.cookie as usize] += 1;
                server.run(me, event.worker, u64::MAX)?;
            }
            Ok(()) // and ends without unregister
        });
        let workers: Vec<_> = (0..2)
            .map(|i| worker(&group, i, |_, _| nanosleeps(100)))
            .collect();
        join_all(vec![thread])?;
        join_all(workers)
    })
}

fn hostile() -> Result<Verdict> {
    let sched = harness::shared()?;
    let bad = client::spawn(|| {
        let group = client::group(16)?;
        let me = group.register(Kind::Server, 0, &mut |_| {})?;
        for i in 0..4 {
            let _ = worker(&group, i, move |group, me| {
                loop {
                    let _ = group.wait(me, sys::now_ns() + 1_000_000);
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
        }
        let scribbler = group.clone();
        std::thread::spawn(move || {
            let mut noise = Noise(88_172_645_463_325_252);
            loop {
                let value = noise.next();
                scribbler.scribble((value % 90) as u32, value >> 8);
            }
        });
        let runs = std::thread::spawn(program_runs);
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            if let Ok(event) = group.next_event(me, sys::now_ns() + 1_000_000) {
                let _ = group.run(me, event.worker, sys::now_ns() + 5_000_000);
            }
            for index in 60..80 {
                let _ = group.wake(Id::new(index, 1));
                let _ = group.kick(Id::new(index, 1));
            }
        }
        ensure!(!runs.is_finished(), "{:?}", runs.join());
        Ok(())
    })?;
    client::spawn_as(65533, cycles_body::<200>)?.result(LIMIT)?;
    bad.result(LIMIT)?;
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

fn teardown() -> Result<Verdict> {
    let sched = harness::shared()?;
    ensure!(
        wait_until(Duration::from_secs(10), || group_maps() == 0),
        "maps of the groups before"
    );
    for _ in 0..5 {
        client::spawn(cycles_body::<20>)?.result(LIMIT)?;
    }
    let crowd = client::spawn(|| with_server(32, crowd))?;
    ensure!(
        wait_until(Duration::from_secs(5), || group_maps() > 0),
        "no maps beside a group"
    );
    crowd.signal(libc::SIGKILL);
    ensure!(
        wait_until(Duration::from_secs(10), || group_maps() == 0),
        "{} maps are left",
        group_maps()
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
