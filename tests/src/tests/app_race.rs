//! Ends that race: time-outs and wakes, hand-overs between processes, threads that just end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::{KernelGroup, sys};
use umcg::{ErrorKind, Id, Kind, Woken};

use super::app::Board;
use super::{Test, full, short};
use crate::client::{self, Name, Progress, in_client, join_all, serve, serve_by, worker};
use crate::harness::{Verdict, metric};
use crate::noise::Noise;

pub const TESTS: &[Test] = &[
    short(
        "vm_app_timeouts_race_wakes",
        "app,newest",
        10,
        timeouts::<1_000>,
    ),
    short(
        "vm_app_two_processes_hand_over",
        "app,newest",
        10,
        processes::<1_000>,
    ),
    short("vm_app_threads_just_end", "app,newest", 10, exits::<100>),
    full(
        "vm_full_app_timeouts_race_wakes_10k",
        "app-race",
        60,
        timeouts::<10_000>,
    ),
    full(
        "vm_full_app_two_processes_hand_over_10k",
        "app-race",
        30,
        processes::<10_000>,
    ),
    full(
        "vm_full_app_threads_just_end_1k",
        "app-race",
        60,
        exits::<1_000>,
    ),
];

const LIMIT: Duration = Duration::from_secs(300);
const WAITERS: u64 = 8;

/// One wait after another, each with one wake that comes when its time is over, about.
struct Race {
    name: Name,
    /// The deadline of the wait that wants a wake; 0: it has had it.
    deadline_ns: AtomicU64,
    /// The waiter has ended, perhaps by a failure: it wants no more wakes.
    over: AtomicBool,
}

fn timeouts<const N: u64>() -> Result<Verdict> {
    in_client(LIMIT, || race(N))
}

fn race(waits: u64) -> Result<()> {
    let group = client::group(32)?;
    let counts: Arc<[AtomicU64; 2]> = Arc::default();
    let mut threads = Vec::new();
    for i in 0..WAITERS {
        let race = Arc::new(Race {
            name: Name::default(),
            deadline_ns: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let (theirs, outside, rounds) = (race.clone(), group.clone(), waits / WAITERS);
        threads.push(std::thread::spawn(move || {
            wakes(&outside, &theirs, rounds, i + 1)
        }));
        let counts = counts.clone();
        threads.push(worker(&group, i, move |group, me| {
            race.name.set(me);
            let waits =
                (0..rounds).try_for_each(|n| wait_once(group, me, &race, &counts, n * 7 + i));
            race.over.store(true, Ordering::SeqCst);
            waits
        }));
    }
    let seen = serve_by(&group, 2, WAITERS, &Arc::new(Progress::default()))?;
    join_all(threads)?;
    let [woken, late] = [0, 1].map(|at: usize| counts[at].load(Ordering::SeqCst));
    let listed: u64 = seen.iter().map(|it| it.timed_out).sum();
    metric(
        "app_timeouts",
        &[
            ("woken", woken as f64),
            ("timed_out", late as f64),
            ("listed_timed_out", listed as f64),
        ],
    );
    ensure!(
        woken + late == waits / WAITERS * WAITERS,
        "{woken} + {late}"
    );
    // A race that one side always wins is none.
    let least = waits / 20;
    ensure!(
        woken > least && late > least,
        "{woken} woken, {late} timed out"
    );
    Ok(())
}

fn wait_once(
    group: &KernelGroup,
    me: Id,
    race: &Race,
    counts: &[AtomicU64; 2],
    seed: u64,
) -> Result<()> {
    // Held all the time, or asleep for real at its end.
    let deadline = sys::now_ns() + 500_000 + seed % 13 * 1_000_000;
    race.deadline_ns.store(deadline, Ordering::SeqCst);
    let ended = group.wait(me, deadline)?;
    counts[usize::from(ended == Woken::TimedOut)].fetch_add(1, Ordering::SeqCst);
    if ended == Woken::TimedOut {
        ensure!(sys::now_ns() >= deadline, "timed out too early");
        // The wake is on its way, or remembered: the next wait ends by it.
        let next = group.wait(me, u64::MAX)?;
        ensure!(next == Woken::Woken, "a wait without end timed out");
    }
    // Exactly one wake for each wait: none is left over.
    let rest = group.wait(me, 0)?;
    ensure!(rest == Woken::TimedOut, "woken twice");
    Ok(())
}

fn wakes(group: &KernelGroup, race: &Race, rounds: u64, seed: u64) -> Result<()> {
    let (id, mut noise) = (race.name.get(), Noise(seed));
    for _ in 0..rounds {
        let deadline = loop {
            match race.deadline_ns.swap(0, Ordering::SeqCst) {
                0 if race.over.load(Ordering::SeqCst) => return Ok(()),
                0 => std::thread::sleep(Duration::from_micros(100)),
                deadline => break deadline,
            }
        };
        // The timer looks each 4 ms: as often before as after.
        let at = deadline - 500_000 + noise.below(5_000_000);
        let left = at.saturating_sub(sys::now_ns());
        if left > 0 {
            std::thread::sleep(Duration::from_nanos(left));
        }
        group.wake(id)?;
    }
    Ok(())
}

/// Where the two of a pair publish their ids, and who has been round how often.
const IDS: usize = 0;
const ROUNDS: usize = 2;

fn processes<const N: u64>() -> Result<Verdict> {
    in_client(LIMIT, || two_processes(N))
}

fn two_processes(rounds: u64) -> Result<()> {
    let board = Board::new()?;
    let group = client::group(8)?;
    let ticket = group.ticket();
    let other = client::spawn(move || {
        let group = client::join(&ticket)?;
        join_all(vec![worker(&group, 1, move |group, me| {
            half(group, me, board, 1, rounds)
        })])
    })?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let mine = worker(&group, 0, move |group, me| {
        half(group, me, board, 0, rounds)
    });
    let seen = serve(&group, me, 2)?;
    join_all(vec![mine])?;
    other.result(LIMIT)?;
    group.unregister(me)?;
    seen.check(&group)?;
    let rounds_of = [board.get(ROUNDS), board.get(ROUNDS + 1)];
    metric(
        "app_two_processes",
        &[
            ("handed", (rounds_of[0] + rounds_of[1]) as f64),
            ("by_server", seen.runs as f64),
        ],
    );
    ensure!(
        rounds_of[0] + rounds_of[1] >= rounds,
        "hand-overs {rounds_of:?} of {rounds}"
    );
    ensure!(
        seen.runs < rounds / 2,
        "the server was in the way: {seen:?}"
    );
    Ok(())
}

/// Half of a pair, in whatever process; ends when both have handed over `rounds` times.
fn half(group: &KernelGroup, me: Id, board: Board, i: usize, rounds: u64) -> Result<()> {
    board.set(IDS + i, me.raw());
    let other = loop {
        match board.get(IDS + 1 - i) {
            0 => std::thread::sleep(Duration::from_micros(200)),
            raw => break Id::from_raw(raw),
        }
    };
    while board.get(ROUNDS) + board.get(ROUNDS + 1) < rounds {
        match group.switch(me, other, u64::MAX) {
            // The other one does not wait yet, or has left by now.
            Err(error) if error.kind() == ErrorKind::WrongState => group.yield_now(me)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => {
                let _ = result?;
                board.count(ROUNDS + i);
            }
        }
    }
    let _ = group.wake(other);
    Ok(())
}

fn exits<const N: u64>() -> Result<Verdict> {
    in_client(LIMIT, || unannounced(N))
}

/// Threads that are members and end without a word: with a slot, after a block, a yield or a
/// wait, and with one whose wake is under way.
fn unannounced(count: u64) -> Result<()> {
    const AT_ONCE: u64 = 20;
    let group = client::group(64)?;
    let all = Arc::new(Progress::default());
    let members = group.clone();
    let maker = std::thread::spawn(move || -> Result<()> {
        for batch in 0..count / AT_ONCE {
            let ends = |i: u64| {
                let group = members.clone();
                std::thread::spawn(move || -> Result<()> {
                    let me = group.register(Kind::Worker, batch * AT_ONCE + i, &mut |_| {})?;
                    match i % 5 {
                        0 => {}
                        1 => std::thread::sleep(Duration::from_micros(300)),
                        2 => group.yield_now(me)?,
                        3 => {
                            let _ = group.wait(me, sys::now_ns() + 2_000_000)?;
                        }
                        _ => group.wake(me)?,
                    }
                    Ok(())
                })
            };
            join_all((0..AT_ONCE).map(ends).collect())?;
        }
        Ok(())
    });
    let seen = serve_by(&group, 2, count, &all)?;
    join_all(vec![maker])?;
    let sum = |of: fn(&client::Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let (by_run, by_list) = (sum(|it| it.exited), sum(|it| it.left));
    metric(
        "app_exits",
        &[("by_run", by_run as f64), ("by_list", by_list as f64)],
    );
    ensure!(by_run + by_list == count, "{by_run} + {by_list} of {count}");
    let left = group.list()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
