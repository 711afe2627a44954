//! What the published UMCG selftests look for (core and umcg tests of May 2021, the demo of
//! December 2021, Nanos), over the daemon, as nobody.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::{ErrorKind, FOREVER, Group, Id, Reason, State, Woken, Worker};

use super::{Test, full, short};
use crate::boss::{Actor, Boss, actor, in_client, refused};
use crate::client::Name;
use crate::harness::{self, Verdict, metric};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_wake_count_selftest_unprivileged",
        "group",
        4,
        wake_count::<1000>,
    ),
    full(
        "vm_full_group_wake_count_selftest_unprivileged",
        "group",
        20,
        wake_count::<10_000>,
    ),
    short(
        "vm_group_idle_afterwards_unprivileged",
        "group",
        2,
        idle_afterwards,
    ),
    short(
        "vm_group_ping_pong_selftest_unprivileged",
        "group",
        5,
        ping_pong::<500>,
    ),
    full(
        "vm_full_group_ping_pong_selftest_unprivileged",
        "group",
        60,
        ping_pong::<10_000>,
    ),
    short(
        "vm_group_no_run_by_itself_selftest_unprivileged",
        "group",
        3,
        no_run_by_itself,
    ),
    short(
        "vm_group_switch_chain_selftest_unprivileged",
        "group",
        3,
        switch_chain,
    ),
    short(
        "vm_group_timeouts_selftest_unprivileged",
        "group",
        3,
        timeouts,
    ),
    short(
        "vm_group_hog_and_sleepers_selftest_unprivileged",
        "group",
        3,
        hog_and_sleepers,
    ),
];

/// Each wake is sent when the one before has ended a wait, some at once and some a moment
/// later: as many waits end as wakes were sent, and none is remembered at the end. How long
/// each took, in us, the shortest first.
fn wakes(times: u32) -> Result<Vec<f64>> {
    let mut boss = Boss::new()?;
    let done = Arc::new(AtomicU32::new(0));
    let mark = done.clone();
    let waiter = actor(&boss.group, 1, move |me| {
        for _ in 0..times {
            ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
            mark.fetch_add(1, SeqCst);
        }
        ensure!(me.wait(0)? == Woken::TimedOut, "a wake is left");
        Ok(())
    });
    let id = boss.new_one(1)?;
    let group = boss.group.clone();
    let waker = std::thread::spawn(move || -> Result<Vec<f64>> {
        let mut took = Vec::new();
        for sent in 1..=times {
            let began = Instant::now();
            group.wake(id)?;
            while done.load(SeqCst) < sent {
                std::thread::yield_now();
            }
            took.push(began.elapsed().as_secs_f64() * 1e6);
            if sent % 3 == 0 {
                std::thread::sleep(Duration::from_micros(1));
            }
        }
        Ok(took)
    });
    boss.run(id, umcg::after(Duration::from_millis(50)))?;
    boss.serve_until(1)?;
    let took = waker.join().ok().context("the waker panicked")?;
    // What the waiter says is the cause, if both failed.
    waiter.end()?;
    let mut took = took?;
    boss.alone()?;
    took.sort_by(f64::total_cmp);
    Ok(took)
}

pub(super) fn wake_count<const TIMES: u32>() -> Result<Verdict> {
    in_client(|| wakes(TIMES).map(drop))
}

/// Groups that were at work leave an idle machine idle.
pub(super) fn idle_afterwards() -> Result<Verdict> {
    let verdict = in_client(|| {
        let took = wakes(300)?;
        metric(
            "group_wake_to_run",
            &[("median_us", took[150]), ("p90_us", took[270])],
        );
        Ok(())
    })?;
    let sched = harness::shared()?;
    let looked = || sched.counter("idle_found");
    let before = looked()?;
    std::thread::sleep(Duration::from_secs(1));
    let looks = looked()? - before;
    ensure!(looks < 5, "{looks} looks at idle CPUs in a second");
    Ok(verdict)
}

/// Gives the turn to `to` and waits for it.
fn pass(me: &mut Worker, to: Id, swap: bool, is_mine: impl Fn() -> bool) -> Result<()> {
    let switched = match swap {
        true => me.switch(to, FOREVER).map(drop),
        false => me.group().wake(to),
    };
    match switched {
        // It is on its way to its wait yet.
        Err(error) if error.kind() == ErrorKind::WrongState => me.group().wake(to)?,
        result => result?,
    }
    while !is_mine() {
        let _ = me.wait(FOREVER)?;
    }
    Ok(())
}

/// Two workers take turns; each says whether it switches, or wakes and waits.
fn turns(boss: &mut Boss, swaps: [bool; 2], payload: bool, rounds: u32) -> Result<(f64, u64)> {
    let turn = Arc::new(AtomicU32::new(0));
    let names: Arc<[Name; 2]> = Arc::default();
    let before = boss.left.len();
    let actors: Vec<_> = (0..2u32)
        .map(|i| {
            let (turn, names) = (turn.clone(), names.clone());
            actor(&boss.group, i.into(), move |me| {
                names[i as usize].set(me.id());
                let to = names[1 - i as usize].get();
                while turn.load(SeqCst) % 2 != i {
                    let _ = me.wait(FOREVER)?;
                }
                for round in 0..rounds {
                    if payload {
                        // SAFETY: no arguments.
                        unsafe { libc::syscall(libc::SYS_getppid) };
                    }
                    let seen = turn.fetch_add(1, SeqCst);
                    ensure!(seen == 2 * round + i, "round {round} of {i}: turn {seen}");
                    if round + 1 == rounds {
                        break;
                    }
                    let is_mine = || turn.load(SeqCst) % 2 == i;
                    pass(me, to, swaps[i as usize], is_mine)?;
                }
                // The other one waits for its last turn, or has had it.
                let _ = me.group().wake(to);
                Ok(())
            })
        })
        .collect();
    let ids = [boss.new_one(0)?, boss.new_one(1)?];
    let began = Instant::now();
    for id in ids {
        boss.run(id, umcg::after(Duration::from_millis(50)))?;
    }
    let runs = boss.runs;
    boss.serve_until(before + 2)?;
    let ns = began.elapsed().as_secs_f64() * 1e9 / f64::from(2 * rounds);
    for it in actors {
        it.end()?;
    }
    let turn = turn.load(SeqCst);
    ensure!(turn == 2 * rounds, "{turn} turns of {}", 2 * rounds);
    Ok((ns, boss.runs - runs))
}

fn ping_pong_body<const ROUNDS: u32>() -> Result<()> {
    let mut boss = Boss::new()?;
    for payload in [false, true] {
        let mut taken = Vec::new();
        for swaps in [[false, false], [true, false], [true, true]] {
            let (ns, runs) = turns(&mut boss, swaps, payload, ROUNDS)?;
            println!(
                "metric group_ping_pong swaps={swaps:?} payload={payload} ns={ns:.0} runs={runs}"
            );
            taken.push(runs);
        }
        // Without a switch each turn takes a run; a switch takes none.
        let [none, _, all] = taken[..] else {
            anyhow::bail!("{taken:?}")
        };
        ensure!(
            none >= u64::from(ROUNDS) && all < none / 2,
            "runs without, with one and with two who switch: {taken:?}"
        );
    }
    boss.alone()
}

pub(super) fn ping_pong<const ROUNDS: u32>() -> Result<Verdict> {
    in_client(ping_pong_body::<ROUNDS>)
}

/// A worker that is new, slept or was woken does not go on before a server runs it; its state
/// is right at each step.
fn no_run_body() -> Result<()> {
    const ROUNDS: u64 = 3;
    let mut boss = Boss::new()?;
    let group = boss.group.clone();
    let state = |id: Id| -> Result<State> { Ok(group.state(id)?.state) };
    let mut held = 0;
    for round in 0..ROUNDS {
        let step = Arc::new(AtomicU32::new(0));
        let mark = step.clone();
        let worker = actor(&boss.group, round, move |me| {
            mark.store(1, SeqCst);
            std::thread::sleep(Duration::from_millis(30));
            mark.store(2, SeqCst);
            ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
            mark.store(3, SeqCst);
            Ok(())
        });
        let id = boss.new_one(round)?;
        let nothing = boss
            .server
            .next_event(umcg::after(Duration::from_millis(20)));
        refused("news", nothing, ErrorKind::TimedOut)?;
        ensure!(step.load(SeqCst) == 0, "a new worker ran by itself");
        boss.until(id, |it| matches!(it, Reason::Blocked { .. }))?;
        let asleep = (state(id)?, step.load(SeqCst)) == (State::Blocked, 1);
        boss.news_of(id)?;
        // The relief valve may let it run, after 50 ms.
        held += u32::from(asleep && (state(id)?, step.load(SeqCst)) == (State::Runnable, 1));
        boss.settle(id, State::Idle, || step.load(SeqCst) == 2)?;
        group.wake(id)?;
        let news = boss.news_of(id)?;
        ensure!(news.reason == Reason::Woken, "{news:?}");
        ensure!(step.load(SeqCst) == 2, "a woken worker ran by itself");
        boss.until(id, |it| it == Reason::Exited)?;
        ensure!(step.load(SeqCst) == 3, "it ended and did not run");
        worker.end()?;
        refused(
            "the state of who left",
            group.state(id),
            ErrorKind::NotFound,
        )?;
    }
    ensure!(held > 0, "each one went on after its sleep by itself");
    boss.alone()
}

pub(super) fn no_run_by_itself() -> Result<Verdict> {
    in_client(no_run_body)
}

/// Ten workers hand one slot round by switches, in order, and none moves out of turn.
fn switch_chain_body() -> Result<()> {
    const LINKS: usize = 10;
    const ROUNDS: usize = 20;
    let mut boss = Boss::new()?;
    let names: Arc<[Name; LINKS]> = Arc::default();
    let turn = Arc::new(AtomicU32::new(u32::MAX));
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    let actors: Vec<Actor> = (0..LINKS)
        .map(|i| {
            let (names, turn, order) = (names.clone(), turn.clone(), order.clone());
            actor(&boss.group, i as u64, move |me| {
                names[i].set(me.id());
                let next = (i + 1) % LINKS;
                for round in 0..ROUNDS {
                    while turn.load(SeqCst) != i as u32 {
                        let _ = me.wait(FOREVER)?;
                    }
                    let mut order = order.lock().unwrap_or_else(PoisonError::into_inner);
                    order.push(i);
                    drop(order);
                    turn.store(next as u32, SeqCst);
                    let is_mine = || turn.load(SeqCst) == i as u32;
                    match round + 1 == ROUNDS {
                        true if next != 0 => me.group().wake(names[next].get())?,
                        true => {}
                        false => pass(me, names[next].get(), true, is_mine)?,
                    }
                }
                Ok(())
            })
        })
        .collect();
    for i in 0..LINKS {
        let id = boss.new_one(i as u64)?;
        boss.settle(id, State::Idle, || true)?;
    }
    let runs = boss.runs;
    turn.store(0, SeqCst);
    boss.group.wake(names[0].get())?;
    boss.serve_until(LINKS)?;
    let runs = boss.runs - runs;
    for it in actors {
        it.end()?;
    }
    let order = order.lock().unwrap_or_else(PoisonError::into_inner);
    let right = order.iter().enumerate().all(|(at, who)| at % LINKS == *who);
    ensure!(right && order.len() == LINKS * ROUNDS, "{order:?}");
    metric("group_switch_chain", &[("runs", runs as f64)]);
    ensure!(runs < (LINKS * ROUNDS / 2) as u64, "{runs} runs");
    boss.alone()
}

pub(super) fn switch_chain() -> Result<Verdict> {
    in_client(switch_chain_body)
}

/// Times that are over: of a switch, of a poll, of a wait for news, and of a run.
fn timeouts_body() -> Result<()> {
    let mut boss = Boss::new()?;
    let group = boss.group.clone();
    refused("a poll", boss.server.next_event(0), ErrorKind::TimedOut)?;
    let until = umcg::after(Duration::from_millis(20));
    refused("news", boss.server.next_event(until), ErrorKind::TimedOut)?;
    ensure!(umcg::now() >= until, "too early");
    let other = actor(&group, 1, |me| {
        ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
        ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
        Ok(())
    });
    let to = boss.new_one(1)?;
    boss.settle(to, State::Idle, || true)?;
    let switcher = actor(&group, 2, move |me| {
        let until = umcg::after(Duration::from_millis(100));
        ensure!(me.switch(to, until)? == Woken::TimedOut, "who woke it?");
        ensure!(umcg::now() >= until, "too early");
        Ok(())
    });
    let id = boss.new_one(2)?;
    // It hands its slot on to the other one, whose next wait ends the run; one that sleeps
    // for real is woken instead.
    let mut end = boss.run(id, FOREVER)?.context("it is new")?;
    while end.reason == Reason::Fault {
        boss.news_of(end.worker)?;
        end = boss
            .run(end.worker, FOREVER)?
            .context("its page is there")?;
    }
    ensure!(end.reason == Reason::Waits, "{end:?}");
    if end.worker == id {
        boss.news_of(to)?;
        boss.until(to, |it| it == Reason::Waits)?;
    }
    let news = boss.news_of(id)?;
    ensure!(news.reason == Reason::TimedOut, "{news:?}");
    // A ring that came late may have ended its sleep before that was over: then it waits on.
    boss.until_left(id)?;
    switcher.end()?;
    group.wake(to)?;
    boss.news_of(to)?;
    boss.until(to, |it| it == Reason::Exited)?;
    other.end()?;
    boss.alone()
}

pub(super) fn timeouts() -> Result<Verdict> {
    in_client(timeouts_body)
}

/// A hog and two sleepers on one server: with a deadline for its runs the sleepers come to
/// their ends long before the hog does.
fn hog_body() -> Result<()> {
    let mut boss = Boss::new()?;
    let over = Arc::new(AtomicBool::new(false));
    let quit = over.clone();
    let hog = actor(&boss.group, 1, move |_| {
        while !quit.load(SeqCst) {
            std::hint::spin_loop();
        }
        Ok(())
    });
    let sleeper = |group: &Group, cookie: u64| {
        actor(group, cookie, move |_| {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(10 * cookie));
            }
            Ok(())
        })
    };
    let sleepers = [sleeper(&boss.group, 2), sleeper(&boss.group, 3)];
    for cookie in 1..=3 {
        let id = boss.new_one(cookie)?;
        boss.run(id, umcg::after(Duration::from_millis(20)))?;
    }
    let runs = boss.runs;
    boss.serve_until(2)?;
    ensure!(!over.load(SeqCst) && boss.runs > runs + 2);
    for it in sleepers {
        it.end()?;
    }
    over.store(true, SeqCst);
    boss.serve_until(3)?;
    hog.end()?;
    boss.alone()
}

pub(super) fn hog_and_sleepers() -> Result<Verdict> {
    in_client(hog_body)
}
