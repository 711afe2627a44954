//! Workers of a group that are forced off: by what, when, and when not.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umcg::backend::Backend;
use umcg::timer::kick_on;
use umcg::{Event, Group, GroupConfig, Id, Reason, Source, no_preempt, set_key};

use super::group::with_server;
use super::{Test, short};
use crate::boss::{Actor, Boss, LIMIT, actor, beside, in_client, signal_thread};
use crate::client::{self, join_all, serve, worker};
use crate::harness::{self, Verdict, median, metric};

/// By instructions: no stall of the host lengthens a turn. The tick is 4 ms.
const BOOT: &str = "cost,newest,icount,cpus=1";

pub const TESTS: &[Test] = &[
    short("vm_group_quantum_slices", BOOT, 15, slices),
    short(
        "vm_group_sources_are_told_unprivileged",
        "group",
        6,
        sources,
    ),
    short(
        "vm_group_key_preempts_on_wake_unprivileged",
        "group",
        4,
        keys,
    ),
    short(
        "vm_group_section_is_honoured_unprivileged",
        BOOT,
        6,
        sections,
    ),
    short(
        "vm_group_section_abuse_is_ended_unprivileged",
        BOOT,
        6,
        abuse,
    ),
    short("vm_group_grace_in_the_kernel_unprivileged", BOOT, 6, grace),
    short(
        "vm_group_kick_dies_with_its_stint_unprivileged",
        BOOT,
        3,
        old_kick,
    ),
];

const SLICES: usize = 200;
/// Turns that touch pages: a server that waits for one lets its workers go, without a slot and so
/// without a quantum.
const FIRST: usize = 20;

pub(super) fn quantum_group(us: u64) -> Result<Group> {
    let group = Group::create(&GroupConfig {
        quantum: Duration::from_micros(us),
        ..GroupConfig::default()
    })?;
    let quantum = group.quantum();
    ensure!(quantum == Some(Duration::from_micros(us)), "{quantum:?}");
    Ok(group)
}

/// One that computes until `stop`, and calls nothing.
pub(super) fn spinner(group: &Group, cookie: u64, stop: &Arc<AtomicBool>) -> Actor {
    let stop = stop.clone();
    actor(group, cookie, move |_| {
        while !stop.load(SeqCst) {
            std::hint::spin_loop();
        }
        Ok(())
    })
}

/// CPU time of each turn of two that compute, in us, by a quantum of so many.
fn turns(us: u64) -> Result<Vec<f64>> {
    let mut boss = Boss::of(quantum_group(us)?)?;
    let stop = Arc::new(AtomicBool::new(false));
    let both = [1, 2].map(|cookie| spinner(&boss.group, cookie, &stop));
    let ids = [boss.new_one(1)?, boss.new_one(2)?];
    let (mut used, mut turns) = ([0; 2], Vec::with_capacity(SLICES + FIRST));
    for turn in 0..SLICES + FIRST {
        let which = turn % 2;
        let end = boss.until(ids[which], |it| it == Reason::Preempted)?;
        ensure!(end.source == Some(Source::Quantum), "{end:?}");
        turns.push((end.run_ns - used[which]) as f64 / 1000.0);
        used[which] = end.run_ns;
        boss.news_of(ids[which])?;
    }
    stop.store(true, SeqCst);
    boss.serve_until(2)?;
    both.into_iter().try_for_each(Actor::end)?;
    boss.alone()?;
    Ok(turns.split_off(FIRST))
}

fn slices_body() -> Result<()> {
    let mut wrong = Vec::new();
    for us in [500, 100] {
        let mut all = turns(us)?;
        let middle = median(&mut all); // sorts
        let at = |share: usize| all[all.len() * share / 100];
        metric(
            "group_quantum",
            &[
                ("us", us as f64),
                ("median", middle),
                ("p1", at(1)),
                ("p99", at(99)),
            ],
        );
        if (middle - us as f64).abs() > 0.2 * us as f64 || at(99) > us as f64 + 100.0 {
            wrong.push(format!("{us} us: {middle} us, 1 % more than {}", at(99)));
        }
    }
    ensure!(wrong.is_empty(), "turns, by quantum: {}", wrong.join("; "));
    Ok(())
}

fn slices() -> Result<Verdict> {
    in_client(slices_body)
}

/// Runs `who` until it is forced off by `source`, as the run and the list tell; `act`, which
/// asks for that, may come when it has no slot, and is lost then.
fn forced(boss: &mut Boss, who: Id, source: Source, mut act: impl FnMut()) -> Result<()> {
    let limit = match source {
        Source::Deadline => Duration::from_millis(5),
        _ => Duration::from_millis(500),
    };
    for _ in 0..20 {
        act();
        let end = boss.run(who, umcg::after(limit))?;
        let news = boss.news_of(who)?;
        let Some(end) = end.filter(|it| it.reason == Reason::Preempted) else {
            continue;
        };
        ensure!(end.source.is_some() && end.worker == who, "{end:?}");
        // If it has run since, by the relief valve, what is listed is another stint's end.
        let same = news.at_ns >= end.at_ns && news.run_ns < end.run_ns + 1_000_000;
        if news.reason == Reason::Preempted && same {
            ensure!(news.source == end.source, "{end:?}, listed as {news:?}");
            if end.source == Some(source) {
                return Ok(());
            }
        }
    }
    bail!("not forced off by {source:?}, of 20 times")
}

/// `group.kick`, or what else, 1 ms after `who` was seen RUNNING.
fn later(group: &Group, who: Id, act: impl FnOnce(&Group) + Send + 'static) {
    let group = group.clone();
    std::thread::spawn(move || {
        while group
            .state(who)
            .is_ok_and(|it| it.state != umcg::State::Running)
        {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(1));
        act(&group);
    });
}

fn sources_body() -> Result<()> {
    kick_on(libc::SIGUSR2)?;
    let mut boss = Boss::new()?;
    ensure!(
        boss.group.quantum().is_none(),
        "a quantum that nobody asked for"
    );
    let stop = Arc::new(AtomicBool::new(false));
    let one = spinner(&boss.group, 1, &stop);
    let id = boss.new_one(1)?;
    let tid = one.tid();
    let group = boss.group.clone();
    for _ in 0..5 {
        forced(&mut boss, id, Source::Kick, || {
            later(&group, id, move |group| {
                let _ = group.kick(id);
            });
        })?;
        forced(&mut boss, id, Source::Signal, || {
            later(&group, id, move |_| {
                let _ = signal_thread(std::process::id() as i32, tid, libc::SIGUSR2);
            });
        })?;
        forced(&mut boss, id, Source::Deadline, || {})?;
    }
    stop.store(true, SeqCst);
    boss.serve_until(1)?;
    one.end()?;
    boss.alone()
}

fn sources() -> Result<Verdict> {
    in_client(sources_body)
}

/// Turns of the worker of `boss`, registered with cookie 1: by what each ended, and its CPU
/// time in us, without the first ones.
fn watch(boss: &mut Boss, count: usize, mut each: impl FnMut(&Event)) -> Result<Vec<f64>> {
    let id = boss.new_one(1)?;
    let (mut used, mut turns) = (0, Vec::new());
    for turn in 0..count + 5 {
        let end = boss.until(id, |it| it == Reason::Preempted)?;
        if turn >= 5 {
            turns.push((end.run_ns - used) as f64 / 1000.0);
            each(&end);
        }
        used = end.run_ns;
        boss.news_of(id)?;
    }
    Ok(turns)
}

const SECTION: Duration = Duration::from_micros(300);
const ENDS: usize = 60;

/// A worker that is in short sections most of the time, under kicks and a quantum.
fn sections_body() -> Result<()> {
    let mut boss = Boss::of(quantum_group(1000)?)?;
    let (stop, inside) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let (quit, within) = (stop.clone(), inside.clone());
    let one = actor(&boss.group, 1, move |_| {
        while !quit.load(SeqCst) {
            let _section = no_preempt();
            let nested = no_preempt();
            within.store(1, SeqCst);
            let began = Instant::now();
            while began.elapsed() < SECTION {}
            drop(nested);
            within.store(0, SeqCst);
        }
        Ok(())
    });
    let (group, quit) = (boss.group.clone(), stop.clone());
    let kicker = std::thread::spawn(move || {
        while !quit.load(SeqCst) {
            for it in group.list().unwrap_or_default() {
                let _ = group.kick(it.id); // of the server: refused
            }
            std::thread::sleep(Duration::from_micros(3300));
        }
    });
    let (mut in_section, mut by) = (0, [0; 2]);
    let turns = watch(&mut boss, ENDS, |end| {
        by[usize::from(end.source == Some(Source::Kick))] += 1;
        in_section += u32::from(inside.load(SeqCst) != 0);
    });
    stop.store(true, SeqCst);
    kicker.join().ok().context("the kicker panicked")?;
    let middle = median(&mut turns?);
    boss.serve_until(1)?;
    one.end()?;
    boss.alone()?;
    let values = [("inside", in_section), ("quantum", by[0]), ("kick", by[1])];
    metric(
        "group_sections",
        &values.map(|(name, n)| (name, f64::from(n))),
    );
    metric("group_sections_turn", &[("median_us", middle)]);
    ensure!(by.iter().all(|&n| n > 5), "by quantum and by kick: {by:?}");
    ensure!(in_section <= 1, "{in_section} of {ENDS} in a section");
    Ok(())
}

/// `body` in a client, over which counter `name` has to move.
pub(super) fn counted(name: &str, least: u64, body: fn() -> Result<()>) -> Result<Verdict> {
    let sched = harness::shared()?;
    let before = sched.counter(name)?;
    let verdict = beside(body, || Ok(()))?;
    let moved = sched.counter(name)? - before;
    ensure!(moved >= least, "{name} moved by {moved}, want {least}");
    Ok(verdict)
}

fn sections() -> Result<Verdict> {
    counted("grp_section", 10, sections_body)
}

/// The median turn, in us, of a worker alone with a quantum of so many: `body`, until its flag
/// is true.
fn median_turn(
    us: u64,
    body: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static,
) -> Result<f64> {
    let mut boss = Boss::of(quantum_group(us)?)?;
    let stop = Arc::new(AtomicBool::new(false));
    let quit = stop.clone();
    let one = actor(&boss.group, 1, move |_| body(&quit));
    let middle = median(&mut watch(&mut boss, ENDS, |_| {})?);
    stop.store(true, SeqCst);
    boss.serve_until(1)?;
    one.end()?;
    boss.alone()?;
    Ok(middle)
}

/// It never leaves its section: its turns are the quantum and what a section may last.
fn abuse_body() -> Result<()> {
    let middle = median_turn(1000, |quit| {
        let _section = no_preempt();
        while !quit.load(SeqCst) {
            std::hint::spin_loop();
        }
        Ok(())
    })?;
    metric("group_section_abuse", &[("median_us", middle)]);
    ensure!(
        (1600.0..2400.0).contains(&middle),
        "a turn of {middle} us, want 2000"
    );
    Ok(())
}

fn abuse() -> Result<Verdict> {
    counted("grp_abuse", ENDS as u64, abuse_body)
}

/// A worker that is in the kernel most of the time: forced off all the same.
fn grace_body() -> Result<()> {
    let (zero, mut bytes) = (File::open("/dev/zero")?, vec![1; 1 << 18]);
    let middle = median_turn(500, move |quit| {
        while !quit.load(SeqCst) {
            (&zero).read_exact(&mut bytes)?;
        }
        Ok(())
    })?;
    metric("group_grace", &[("median_us", middle)]);
    ensure!(
        (400.0..2000.0).contains(&middle),
        "a turn of {middle} us, by a quantum of 500"
    );
    Ok(())
}

fn grace() -> Result<Verdict> {
    counted("grp_grace", 20, grace_body)
}

/// Waits again and again with the key that stands in `key` when it begins to; 0 ends it.
fn keyed(group: &Group, key: &Arc<AtomicU64>) -> Actor {
    let key = key.clone();
    actor(group, 2, move |me| {
        loop {
            match key.load(SeqCst) {
                0 => return Ok(()),
                key => set_key(key),
            }
            let _ = me.wait(umcg::FOREVER)?;
        }
    })
}

/// The source of the end of a run of `hog` that `waiter` is woken in.
fn woken_beside(boss: &mut Boss, hog: Id, waiter: Id) -> Result<Option<Source>> {
    for _ in 0..20 {
        let woken_ns = Arc::new(AtomicU64::new(u64::MAX));
        let mark = woken_ns.clone();
        later(&boss.group, hog, move |group| {
            let _ = group.wake(waiter);
            mark.store(umcg::now(), SeqCst);
        });
        let end = boss.run(hog, umcg::after(Duration::from_millis(100)))?;
        let in_time = |end: &Event| woken_ns.load(SeqCst).saturating_add(20_000_000) < end.at_ns;
        // A waker that was late itself tells nothing.
        let told = end.filter(|end| end.source == Some(Source::Wake) || in_time(end));
        boss.news_of(hog)?;
        boss.news_of(waiter)?;
        boss.until(waiter, |it| it == Reason::Waits)?;
        if let Some(end) = told.filter(|it| it.reason == Reason::Preempted) {
            return Ok(end.source);
        }
    }
    bail!("never forced off, of 20 times")
}

/// A waker's key below the hog's forces that off; equal, or above it, it does not.
fn keys_body() -> Result<()> {
    const HOG: u64 = 5;
    let mut boss = Boss::new()?;
    let stop = Arc::new(AtomicBool::new(false));
    let hog = {
        let stop = stop.clone();
        actor(&boss.group, 1, move |_| {
            set_key(HOG);
            while !stop.load(SeqCst) {
                std::hint::spin_loop();
            }
            Ok(())
        })
    };
    let key = Arc::new(AtomicU64::new(HOG - 1));
    let waiter = keyed(&boss.group, &key);
    let ids = [boss.new_one(1)?, boss.new_one(2)?];
    boss.until(ids[1], |it| it == Reason::Waits)?;
    // The hog's first run: it sets its key.
    boss.run(ids[0], umcg::after(Duration::from_millis(20)))?;
    boss.news_of(ids[0])?;
    let mut wrong = Vec::new();
    for (its, source) in [
        (HOG - 1, Source::Wake),
        (HOG, Source::Deadline),
        (HOG + 1, Source::Deadline),
        (umcg::KEY_NONE, Source::Deadline),
        (1, Source::Wake),
    ] {
        key.store(its, SeqCst);
        // From this wake on it has that one.
        woken_beside(&mut boss, ids[0], ids[1])?;
        for _ in 0..5 {
            let by = woken_beside(&mut boss, ids[0], ids[1])?;
            if by != Some(source) {
                wrong.push((its, by));
            }
        }
    }
    ensure!(wrong.is_empty(), "by key, forced off by: {wrong:?}");
    key.store(0, SeqCst);
    boss.group.wake(ids[1])?;
    stop.store(true, SeqCst);
    boss.serve_until(2)?;
    hog.end()?;
    waiter.end()?;
    boss.alone()
}

fn keys() -> Result<Verdict> {
    in_client(keys_body)
}

/// A worker is kicked in a section and blocks there: the kick is put off for the section, and its
/// stint is over before. What follows is another stint, which the kick is not for.
fn old_kick_body() -> Result<()> {
    const ROUNDS: u64 = 60;
    with_server(4, |group, me| {
        // By the calls below the library's own, which would keep the kick until its section ends.
        let kicked = worker(group, 1, |group, me| {
            for _ in 0..ROUNDS {
                group.show_sections(me, 1);
                group.kick(me)?;
                std::thread::sleep(Duration::from_micros(20));
                group.show_sections(me, 0);
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(1) {}
            }
            Ok(())
        });
        let seen = serve(group, me, 1)?;
        join_all(vec![kicked])?;
        seen.check(group)?;
        let (blocks, forced) = (seen.blocked, seen.preempted);
        let values = [("blocks", blocks as f64), ("forced", forced as f64)];
        metric("group_old_kicks", &values);
        ensure!(blocks >= ROUNDS * 3 / 4, "{blocks} blocks of {ROUNDS}");
        // 1 ms between the kick and the block has it met before, which is another matter.
        ensure!(
            forced < ROUNDS / 4,
            "{forced} of {ROUNDS} kicks hit a later stint"
        );
        Ok(())
    })
}

fn old_kick() -> Result<Verdict> {
    client::in_client(LIMIT, old_kick_body)
}
