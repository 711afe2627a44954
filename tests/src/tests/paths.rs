//! The ten hottest paths, each as a load of a client of its own, by instructions: one is a
//! nanosecond here. What a hot path is, the design says: whatever a switch, a wake-up or a forced
//! preemption takes.
//!
//! A figure is a median, of stretches of rounds or of single rounds, so that what else the machine
//! does now and then (a tick, a reader of statistics) is not in it.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::{self, KernelGroup, proto, sys};
use umcg::{ErrorKind, Event, GroupConfig, Id, Kind, Reason, Source};

use super::app::{Board, no_slack};
use crate::client::{self, Name, join_all, run_past_faults, serve, worker};
use crate::harness::{self, median};
use crate::laps::Laps;
use crate::load;

/// One of them.
pub struct Path {
    /// Its name in the file of ceilings, and in figures.
    pub name: &'static str,
    /// The user that its client is of: some have a thread of a real-time class.
    uid: u32,
    load: fn() -> Result<f64>,
}

const fn path(name: &'static str, load: fn() -> Result<f64>) -> Path {
    Path {
        name,
        uid: client::NOBODY,
        load,
    }
}

/// One that somebody outside of the group asks for, whom nothing may be in the way of.
const fn asked(name: &'static str, load: fn() -> Result<f64>) -> Path {
    Path {
        uid: 0,
        ..path(name, load)
    }
}

/// All of them; what a round is stands at each load.
pub const ALL: [Path; 10] = [
    path("switch", switch),
    path("run", run),
    path("yield", yields),
    path("block", block),
    path("wake_listed", wake_listed),
    asked("wake_idle", wake_idle),
    asked("kick", kick),
    path("quantum", quantum),
    path("futex", || Ok(futex_round_trip(ROUNDS)? / 2.0)),
    path("sched_yield", sched_yield),
];

const LIMIT: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 5000;
/// Of loads whose rounds are taken one by one.
const TIMES: usize = 600;
/// Of these, the first ones: they touch pages, and fill caches of the kernel's.
const COLD: usize = 50;
/// Between two rounds that somebody from outside asks for: far more than one takes.
const PAUSE: Duration = Duration::from_micros(300);
const QUANTUM: Duration = Duration::from_micros(200);

impl Path {
    /// Instructions of a round under whoever schedules now.
    pub fn measure(&self, board: Board) -> Result<f64> {
        /// Of an instruction, as the board has whole numbers.
        const PARTS: f64 = 1000.0;
        let load = self.load;
        let client = client::spawn_as(self.uid, move || {
            board.set(0, (load()? * PARTS) as u64);
            Ok(())
        })?;
        client.result(LIMIT).context(self.name)?;
        Ok(board.get(0) as f64 / PARTS)
    }
}

/// A hand-off by futexes, half of a round trip, under the kernel's own scheduler.
pub fn hand_off(board: Board) -> Result<f64> {
    harness::end_shared();
    path("futex hand-off", || {
        futex_round_trip(1000)?;
        Ok(futex_round_trip(ROUNDS)? / 2.0)
    })
    .measure(board)
}

/// One FUTEX_WAIT or FUTEX_WAKE of a word of this process alone: the cheapest there is.
pub fn private_futex(word: &AtomicU32, op: i32, value: u32) {
    // SAFETY: the word lives through the call; no time-out is given.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            std::ptr::from_ref(word),
            op | libc::FUTEX_PRIVATE_FLAG,
            value,
            std::ptr::null::<libc::timespec>(),
        )
    };
}

/// A ping-pong of two threads by futexes: ns of a round.
pub fn futex_round_trip(rounds: u64) -> Result<f64> {
    futex_round_trip_on(None, rounds)
}

/// The same, each on a CPU of its own.
pub fn futex_round_trip_on(cpus: Option<[usize; 2]>, rounds: u64) -> Result<f64> {
    let stay = move |which: usize| {
        if let Some(cpus) = cpus {
            load::pin(0, cpus[which]);
        }
    };
    let turn: Arc<AtomicU32> = Arc::default();
    let other = turn.clone();
    let pass = |turn: &AtomicU32, mine: u32| {
        while turn.load(SeqCst) != mine {
            private_futex(turn, libc::FUTEX_WAIT, 1 - mine);
        }
        turn.store(1 - mine, SeqCst);
        private_futex(turn, libc::FUTEX_WAKE, 1);
    };
    let thread = std::thread::spawn(move || {
        stay(1);
        for _ in 0..rounds {
            pass(&other, 1);
        }
    });
    stay(0);
    let mut laps = Laps::default();
    for _ in 0..rounds {
        laps.count();
        pass(&turn, 0);
    }
    thread.join().map_err(|_| anyhow::anyhow!("panicked"))?;
    laps.each()
}

/// What two looks at the clock differ by.
pub fn clock_cost() -> f64 {
    let mut all: Vec<_> = (0..1000)
        .map(|_| {
            let began = sys::now_ns();
            (sys::now_ns() - began) as f64
        })
        .collect();
    median(&mut all)
}

/// Median of rounds that were taken one by one, without the clock's part.
fn middle(mut took: Vec<f64>) -> Result<f64> {
    ensure!(took.len() >= TIMES, "{} rounds alone", took.len());
    Ok(median(&mut took[COLD..]) - clock_cost())
}

/// A group whose server is the calling thread.
fn serving(
    quantum: Duration,
    body: impl FnOnce(&Arc<KernelGroup>, Id) -> Result<f64>,
) -> Result<f64> {
    let config = GroupConfig {
        quantum,
        max_members: 8,
        ..GroupConfig::default()
    };
    let group = kernel::connect(&PathBuf::from(proto::SOCKET), &config).context("connect")?;
    let group = Arc::new(group);
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let result = body(&group, me)?;
    group.unregister(me)?;
    Ok(result)
}

fn in_group(body: impl FnOnce(&Arc<KernelGroup>, Id) -> Result<f64>) -> Result<f64> {
    serving(Duration::ZERO, body)
}

/// Runs the one worker whenever it may run, until it has left; `look` is shown the end of each run.
fn obey(group: &KernelGroup, me: Id, mut look: impl FnMut(&Event)) -> Result<()> {
    loop {
        let listed = group.next_event(me, u64::MAX)?;
        if listed.reason == Reason::Exited {
            return Ok(());
        }
        match group.run(me, listed.worker, u64::MAX) {
            Ok(end) if end.reason == Reason::Exited => return Ok(()),
            Ok(end) => look(&end),
            // It was let run meanwhile, and is listed again.
            Err(error) if matches!(error.kind(), ErrorKind::WrongState | ErrorKind::Again) => {}
            Err(error) => return Err(error).context("run"),
        }
    }
}

fn sent(from: &Receiver<Vec<f64>>) -> Result<Vec<f64>> {
    from.recv().context("a thread sent no figures")
}

/// A worker hands its slot to another one, which does likewise: one of the two.
fn switch() -> Result<f64> {
    in_group(|group, me| {
        let (to, from) = mpsc::channel();
        let (name, done) = (Arc::new(Name::default()), Arc::new(AtomicBool::new(false)));
        let (told, over) = (name.clone(), done.clone());
        let second = worker(group, 2, move |group, me| {
            // The first one hands over to one that waits already.
            let _ = group.wait(me, u64::MAX)?;
            while !over.load(SeqCst) {
                let _ = group.switch(me, name.get(), u64::MAX)?;
            }
            Ok(())
        });
        let other = group.next_event(me, u64::MAX)?.worker;
        ensure!(run_past_faults(group, me, other)?.reason == Reason::Waits);
        let first = worker(group, 1, move |group, me| {
            told.set(me);
            let mut laps = Laps::default();
            for _ in 0..ROUNDS {
                laps.count();
                let _ = group.switch(me, other, u64::MAX)?;
            }
            done.store(true, SeqCst);
            group.wake(other)?;
            to.send(laps)?;
            Ok(())
        });
        serve(group, me, 2)?;
        join_all(vec![first, second])?;
        Ok(from.recv()?.each()? / 2.0)
    })
}

/// A server runs a worker, which waits at once: there and back.
fn run() -> Result<f64> {
    in_group(|group, me| {
        let waiter = worker(group, 1, |group, me| {
            for _ in 0..ROUNDS {
                let _ = group.wait(me, u64::MAX)?;
            }
            Ok(())
        });
        let new = group.next_event(me, u64::MAX)?;
        let mut laps = Laps::default();
        for _ in 0..ROUNDS {
            laps.count();
            group.run(me, new.worker, u64::MAX)?;
        }
        group.run(me, new.worker, u64::MAX)?;
        join_all(vec![waiter])?;
        laps.each()
    })
}

/// A worker yields; its server reads that on its list and runs it again.
fn yields() -> Result<f64> {
    in_group(|group, me| {
        let (to, from) = mpsc::channel();
        let yielder = worker(group, 1, move |group, me| {
            let mut laps = Laps::default();
            for _ in 0..ROUNDS {
                laps.count();
                group.yield_now(me)?;
            }
            to.send(laps)?;
            Ok(())
        });
        let seen = serve(group, me, 1)?;
        join_all(vec![yielder])?;
        seen.check(group)?;
        from.recv()?.each()
    })
}

/// A worker blocks in a pipe and its server comes back, wakes it by a byte, reads that on its list and
/// runs it again.
fn block() -> Result<f64> {
    in_group(|group, me| {
        let (mut rx, mut tx) = std::io::pipe()?;
        let reader = worker(group, 1, move |_, _| {
            let mut byte = [0];
            while rx.read(&mut byte)? == 1 {}
            Ok(())
        });
        let until_blocked = || -> Result<()> {
            loop {
                let listed = group.next_event(me, u64::MAX)?;
                let end = group.run(me, listed.worker, u64::MAX)?;
                if matches!(end.reason, Reason::Blocked { .. }) {
                    return Ok(());
                }
                ensure!(end.reason == Reason::Fault, "{end:?}");
            }
        };
        until_blocked()?;
        let mut laps = Laps::default();
        for _ in 0..ROUNDS {
            laps.count();
            tx.write_all(&[1])?;
            until_blocked()?;
        }
        drop(tx);
        obey(group, me, |_| {})?;
        join_all(vec![reader])?;
        laps.each()
    })
}

/// A server wakes a worker that waits, which is its own, and reads that on its list.
fn wake_listed() -> Result<f64> {
    in_group(|group, me| {
        let waiter = worker(group, 1, |group, me| {
            for _ in 0..=TIMES {
                let _ = group.wait(me, u64::MAX)?;
            }
            Ok(())
        });
        let id = group.next_event(me, u64::MAX)?.worker;
        let mut took = Vec::with_capacity(TIMES);
        ensure!(run_past_faults(group, me, id)?.reason == Reason::Waits);
        for _ in 0..TIMES {
            let began = sys::now_ns();
            group.wake(id)?;
            let listed = group.next_event(me, u64::MAX)?;
            took.push((sys::now_ns() - began) as f64);
            ensure!(run_past_faults(group, me, listed.worker)?.reason == Reason::Waits);
        }
        group.wake(id)?;
        obey(group, me, |_| {})?;
        join_all(vec![waiter])?;
        middle(took)
    })
}

/// A thread of a real-time class that asks every now and then, and notes when it did, until there
/// is no such worker any more.
fn asker(
    group: &Arc<KernelGroup>,
    at_ns: &Arc<AtomicU64>,
    ask: impl Fn(&KernelGroup) -> umcg::Result<()> + Send + 'static,
) -> JoinHandle<Result<()>> {
    let (group, at_ns) = (group.clone(), at_ns.clone());
    std::thread::spawn(move || {
        load::fifo(0)?;
        no_slack();
        loop {
            std::thread::sleep(PAUSE);
            at_ns.store(sys::now_ns(), SeqCst);
            match ask(&group) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                // It does not run, or does not wait, just now.
                _ => {}
            }
        }
    })
}

/// On an idle machine a thread outside wakes a worker: the idle server is found and woken, and runs
/// it: until its first look at the clock.
fn wake_idle() -> Result<f64> {
    in_group(|group, me| {
        let (to, from) = mpsc::channel();
        let (name, at_ns) = (Arc::new(Name::default()), Arc::new(AtomicU64::new(0)));
        let (told, asked) = (name.clone(), at_ns.clone());
        let waiter = worker(group, 1, move |group, me| {
            let mut took = Vec::with_capacity(TIMES);
            told.set(me);
            while took.len() < TIMES {
                let _ = group.wait(me, u64::MAX)?;
                took.push(sys::now_ns().saturating_sub(asked.load(SeqCst)) as f64);
            }
            to.send(took)?;
            Ok(())
        });
        let asker = asker(group, &at_ns, move |group| group.wake(name.get()));
        obey(group, me, |_| {})?;
        join_all(vec![waiter, asker])?;
        middle(sent(&from)?)
    })
}

/// A thread outside kicks a worker that computes, on the same CPU: until its server is back.
fn kick() -> Result<f64> {
    in_group(|group, me| {
        let (name, at_ns) = (Arc::new(Name::default()), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (told, quit) = (name.clone(), stop.clone());
        let hog = worker(group, 1, move |_, me| {
            told.set(me);
            while !quit.load(SeqCst) {
                // Not spin_loop(), which leaves the emulation.
                std::hint::black_box(());
            }
            Ok(())
        });
        let asker = asker(group, &at_ns, move |group| group.kick(name.get()));
        let mut took = Vec::with_capacity(TIMES);
        obey(group, me, |end| {
            let back = sys::now_ns();
            if end.source == Some(Source::Kick) {
                took.push((back - at_ns.load(SeqCst)) as f64);
            }
            if took.len() >= TIMES {
                stop.store(true, SeqCst);
            }
        })?;
        join_all(vec![hog, asker])?;
        middle(took)
    })
}

/// A worker's quantum is over: RUNNING, RUNNABLE and RUNNING again, its server in between. What it is
/// without the CPU for, by its own looks at the clock.
fn quantum() -> Result<f64> {
    serving(QUANTUM, |group, me| {
        let (to, from) = mpsc::channel();
        let turns = Arc::new(AtomicU64::new(0));
        let seen = turns.clone();
        let hog = worker(group, 1, move |_, _| {
            let (mut took, mut known) = (Vec::with_capacity(TIMES), seen.load(SeqCst));
            let (mut last, mut before) = (sys::now_ns(), 0.0f64);
            while took.len() < TIMES {
                let (now, turn) = (sys::now_ns(), seen.load(SeqCst));
                let gap = (now - last) as f64;
                if turn != known {
                    // It may have been taken off between its two looks just now.
                    let again = (sys::now_ns() - now) as f64;
                    took.push(gap.max(before).max(again));
                    known = turn;
                }
                (last, before) = (now, gap);
            }
            to.send(took)?;
            Ok(())
        });
        obey(group, me, |end| {
            if end.source == Some(Source::Quantum) {
                turns.fetch_add(1, SeqCst);
            }
        })?;
        join_all(vec![hog])?;
        middle(sent(&from)?)
    })
}

/// `body` beside a plain thread that yields to this one whenever it runs.
pub fn beside_yielder<T>(body: impl FnOnce() -> T) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let quit = stop.clone();
    let other = std::thread::spawn(move || {
        while !quit.load(SeqCst) {
            std::thread::yield_now();
        }
        Ok(())
    });
    let done = body();
    stop.store(true, SeqCst);
    join_all(vec![other])?;
    Ok(done)
}

/// Two plain threads that yield to each other: one switch.
fn sched_yield() -> Result<f64> {
    let laps = beside_yielder(|| {
        let mut laps = Laps::default();
        for _ in 0..ROUNDS {
            laps.count();
            std::thread::yield_now();
        }
        laps
    })?;
    Ok(laps.each()? / 2.0)
}
