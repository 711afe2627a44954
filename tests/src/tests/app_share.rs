//! What servers get out of the machine: many sleepers on few servers, and more servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use umcg::runtime::{Builder, Queue, yield_now};

use super::app::{Board, no_slack};
use super::{Test, full};
use crate::client::{self, in_client, is_sound};
use crate::harness::{self, Sched, Verdict, median, metric};
use crate::load::clock_ns;

pub const TESTS: &[Test] = &[
    timed_full("vm_full_app_sleepers_fill_two_servers", 60, sleepers),
    timed_full("vm_full_app_two_servers_shared_queue", 12, scaling::<0>),
    timed_full("vm_full_app_two_servers_stealing", 12, scaling::<1>),
];

const fn timed_full(name: &'static str, seconds: u32, run: fn() -> Result<Verdict>) -> Test {
    Test {
        tries: 3,
        ..full(name, "app-share", seconds, run)
    }
}

const LIMIT: Duration = Duration::from_secs(300);
const PIECE_NS: u64 = 4_000_000;
const PAUSE: Duration = Duration::from_millis(76);
const SERVERS: usize = 2;
const WORKERS: usize = 64;

/// Work of a fixed number of steps.
pub(super) fn compute(steps: u64) {
    let mut sum = 1u64;
    for i in 0..steps {
        sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i));
    }
}

/// Steps that take `ns` of CPU time: fixed, so that a piece is the same work for all,
/// also where time passes and nothing is computed. The quickest of some.
pub(super) fn steps_in(ns: u64) -> u64 {
    const TRY: u64 = 1_000_000;
    let took = (0..20).map(|_| {
        let began = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        compute(TRY);
        clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - began
    });
    let least = took.min().unwrap_or(1).max(1);
    (TRY * ns / least).max(1)
}

/// Pieces per second of what `start` lets loose until the flag is up: seen for 2 s, after
/// half a second to come up to speed.
fn rate(start: impl FnOnce(&Arc<AtomicBool>, &Arc<AtomicU64>) -> Result<()>) -> Result<f64> {
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::default());
    start(&over, &done)?;
    std::thread::sleep(Duration::from_millis(500));
    let (began, before) = (Instant::now(), done.load(Ordering::SeqCst));
    std::thread::sleep(Duration::from_secs(2));
    let pieces = (done.load(Ordering::SeqCst) - before) as f64;
    let rate = pieces / began.elapsed().as_secs_f64();
    over.store(true, Ordering::SeqCst);
    Ok(rate)
}

fn job(over: &AtomicBool, done: &AtomicU64, steps: u64, pause: Option<Duration>) {
    while !over.load(Ordering::Relaxed) {
        compute(steps);
        done.fetch_add(1, Ordering::SeqCst);
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
    }
}

/// `SERVERS` plain threads that do one job after the other.
fn plain(steps: u64, pause: Option<Duration>) -> Result<f64> {
    rate(|over, done| {
        for _ in 0..SERVERS {
            let (over, done) = (over.clone(), done.clone());
            std::thread::spawn(move || {
                no_slack();
                job(&over, &done, steps, pause);
            });
        }
        Ok(())
    })
}

fn in_group(steps: u64) -> Result<f64> {
    let runtime = Builder::new()
        .servers(SERVERS)
        .max_workers(WORKERS)
        .build()?;
    rate(|over, done| {
        for _ in 0..WORKERS {
            let (over, done) = (over.clone(), done.clone());
            runtime.spawn(move || {
                no_slack();
                job(&over, &done, steps, Some(PAUSE));
            });
        }
        Ok(())
    })
}

const PURE: usize = 0;
const POOL: usize = 1;
const GROUP: usize = 2;

/// In thousandths, as numbers of a board are whole.
fn put(board: Board, at: usize, rate: f64) {
    board.set(at, (rate * 1e3) as u64);
}

/// The pool and pure computing under EEVDF, the group under this scheduler, in turn.
fn sleepers() -> Result<Verdict> {
    harness::end_shared();
    let board = Board::new()?;
    let steps = steps_in(PIECE_NS);
    let mut rounds: [Vec<f64>; 3] = Default::default();
    for _ in 0..3 {
        client::spawn(move || {
            put(board, PURE, plain(steps, None)?);
            put(board, POOL, plain(steps, Some(PAUSE))?);
            Ok(())
        })?
        .result(LIMIT)?;
        let sched = Sched::start(&[])?;
        client::spawn(move || {
            put(board, GROUP, in_group(steps)?);
            Ok(())
        })?
        .result(LIMIT)?;
        is_sound(&sched)?;
        sched.stop()?;
        for (at, rates) in rounds.iter_mut().enumerate() {
            rates.push(board.get(at) as f64 / 1e3);
        }
    }
    let [pure, pool, group] = rounds.each_mut().map(|rates| median(rates));
    let (by_pool, by_pure) = (group / pool, group / pure);
    metric(
        "app_sleepers",
        &[
            ("pure_per_s", pure),
            ("pool_per_s", pool),
            ("group_per_s", group),
            ("by_pool", by_pool),
            ("by_pure", by_pure),
        ],
    );
    ensure!(by_pool >= 15.0, "{by_pool:.2} times the pool, at least 15");
    ensure!(
        by_pure >= 0.9,
        "{by_pure:.3} of two computing threads, at least 0.9"
    );
    Ok(Verdict::Ok)
}

const TASKS: usize = 16;
const PIECES: usize = 40;

/// Seconds that tasks which only compute take.
fn batch(servers: usize, queue: Queue, steps: u64) -> Result<f64> {
    let runtime = Builder::new()
        .servers(servers)
        .max_workers(TASKS)
        .queue(queue)
        .build()?;
    let began = Instant::now();
    let task = move || {
        for _ in 0..PIECES {
            compute(steps);
            yield_now();
        }
    };
    let tasks: Vec<_> = (0..TASKS).map(|_| runtime.spawn(task)).collect();
    for task in tasks {
        task.join()
            .map_err(|_| anyhow::anyhow!("a task panicked"))?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds that as much takes on plain threads.
fn plain_batch(threads: usize, steps: u64) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..TASKS * PIECES / threads).for_each(|_| compute(steps)));
        }
    });
    began.elapsed().as_secs_f64()
}

fn scaling<const QUEUE: usize>() -> Result<Verdict> {
    in_client(LIMIT, || scale([Queue::Shared, Queue::PerServer][QUEUE]))
}

/// Two servers by one, in turn. Two CPUs of a guest are not always twice one: where plain threads
/// get less out of them, in the same rounds, so do servers.
fn scale(queue: Queue) -> Result<()> {
    let steps = steps_in(PIECE_NS);
    batch(2, queue, steps)?;
    let (mut ratios, mut one_s, mut two_s) = (Vec::new(), Vec::new(), Vec::new());
    let mut floors = Vec::new();
    for _ in 0..3 {
        let (one, two) = (batch(1, queue, steps)?, batch(2, queue, steps)?);
        ratios.push(one / two);
        floors.push(plain_batch(1, steps) / plain_batch(2, steps));
        one_s.push(one);
        two_s.push(two);
    }
    let (ratio, floor) = (median(&mut ratios), median(&mut floors));
    metric(
        &format!("app_scaling_{queue:?}").to_lowercase(),
        &[
            ("ratio", ratio),
            ("plain_ratio", floor),
            ("one_s", median(&mut one_s)),
            ("two_s", median(&mut two_s)),
        ],
    );
    ensure!(
        ratio >= 1.8 || ratio >= 0.95 * floor,
        "two servers by one: {ratio:.3}, at least 1.8, or nearly the {floor:.3} of plain threads"
    );
    Ok(())
}
