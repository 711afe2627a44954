//! Two workers that hand one slot to and fro, beside a hog on their only CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::ErrorKind;
use umcg::Kind;
use umcg::backend::Backend;
use umcg::kernel::sys;

use super::app::Board;
use super::paths::private_futex;
use super::{Test, full};
use crate::client::{self, Client, Name, is_sound, serve, worker};
use crate::harness::{self, Sched, Verdict, median, metric, wait_until};
use crate::load::{self, Hog};

pub const TESTS: &[Test] = &[
    Test {
        tries: 3,
        ..full("vm_full_app_pair_beside_hog", "app-pair", 45, pair::<4, 2>)
    },
    full(
        "vm_full_app_pair_beside_hog_by_instructions",
        "app-pair-count,icount,cpus=1",
        120,
        pair::<1, 3>,
    ),
];

/// The only CPU of all of them.
const CPU: usize = 0;
/// Where each pair counts its rounds.
const ROUNDS: usize = 0;

/// What a pair hands over by.
#[derive(Clone, Copy)]
enum By {
    Futex,
    Yield,
    Switch,
}

/// One that runs until it is killed.
fn start(by: By, board: Board) -> Result<Client> {
    board.set(ROUNDS, 0);
    let client = client::spawn(move || {
        load::pin(0, CPU);
        match by {
            By::Futex => words(board, By::Futex),
            By::Yield => words(board, By::Yield),
            By::Switch => switches(board),
        }
    })?;
    let up = wait_until(Duration::from_secs(20), || board.get(ROUNDS) > 20);
    ensure!(up, "no pair: {} rounds", board.get(ROUNDS));
    Ok(client)
}

/// A word whose value says whose turn it is.
fn words(board: Board, by: By) -> Result<()> {
    let turn: Arc<AtomicU32> = Arc::default();
    let half = move |turn: &AtomicU32, mine: u32| {
        loop {
            while turn.load(Ordering::SeqCst) != mine {
                match by {
                    By::Futex => private_futex(turn, libc::FUTEX_WAIT, 1 - mine),
                    _ => sys::yield_cpu(),
                }
            }
            if mine == 0 {
                board.count(ROUNDS);
            }
            turn.store(1 - mine, Ordering::SeqCst);
            if let By::Futex = by {
                private_futex(turn, libc::FUTEX_WAKE, 1);
            }
        }
    };
    let theirs = turn.clone();
    std::thread::spawn(move || half(&theirs, 1));
    half(&turn, 0);
    Ok(())
}

fn switches(board: Board) -> Result<()> {
    let group = client::group(8)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let names: Arc<[Name; 2]> = Arc::default();
    for i in 0..2usize {
        let names = names.clone();
        let _ = worker(&group, i as u64, move |group, me| {
            names[i].set(me);
            let other = names[1 - i].get();
            loop {
                match group.switch(me, other, u64::MAX) {
                    // It does not wait yet.
                    Err(error) if error.kind() == ErrorKind::WrongState => group.yield_now(me)?,
                    result => {
                        let _ = result?;
                    }
                }
                if i == 0 {
                    board.count(ROUNDS);
                }
            }
        });
    }
    serve(&group, me, 2).map(|_| ())
}

/// Rounds per second, and what a hog beside it gets of the CPU.
fn measure(by: By, board: Board, hog: bool, secs: u64) -> Result<(f64, f64)> {
    let pair = start(by, board)?;
    let cpu = Some(CPU);
    let hog = hog.then(|| {
        Hog {
            cpu,
            ..Hog::default()
        }
        .start()
    });
    let hog = hog.transpose()?;
    // Both have settled.
    std::thread::sleep(Duration::from_millis(500));
    let used = || hog.as_ref().map_or(Ok(0.0), |hog| hog.cpu_seconds());
    let (began, before) = (sys::now_ns(), used()?);
    let rate = board.rate(ROUNDS, Duration::from_secs(secs));
    let share = (used()? - before) * 1e9 / (sys::now_ns() - began) as f64;
    pair.kill();
    Ok((rate, share))
}

/// `N` rounds of `SECS` each, EEVDF and this scheduler in turn.
fn pair<const N: usize, const SECS: u64>() -> Result<Verdict> {
    harness::end_shared();
    let board = Board::new()?;
    let mut all: [Vec<f64>; 5] = Default::default();
    for _ in 0..N {
        let futex = measure(By::Futex, board, true, SECS)?.0;
        let yields = measure(By::Yield, board, true, SECS)?.0;
        let sched = Sched::start(&[])?;
        // What follows an attachment is slow.
        measure(By::Switch, board, false, 1)?;
        let alone = measure(By::Switch, board, false, SECS)?.0;
        let (beside, share) = measure(By::Switch, board, true, SECS)?;
        is_sound(&sched)?;
        sched.stop()?;
        let figures = [futex, yields, alone, beside, share];
        all.iter_mut().zip(figures).for_each(|(v, f)| v.push(f));
    }
    let [futex, yields, alone, beside, share] = all.each_mut().map(|v| median(v));
    let (kept, by_futex, by_yield) = (beside / alone, beside / futex, beside / yields);
    metric(
        "app_pair",
        &[
            ("futex_per_s", futex),
            ("yield_per_s", yields),
            ("alone_per_s", alone),
            ("beside_per_s", beside),
            ("hog_share", share),
            ("kept", kept),
            ("by_futex", by_futex),
            ("by_yield", by_yield),
        ],
    );
    ensure!(
        (share - 0.5).abs() <= 0.05,
        "the hog got {share:.3} of the CPU, 0.5 +- 0.05 is right"
    );
    ensure!(kept >= 0.45, "{kept:.3} of its own speed, at least 0.45");
    ensure!(
        by_futex >= 1.3,
        "{by_futex:.2} times a futex pair, at least 1.3"
    );
    ensure!(
        by_yield >= 25.0,
        "{by_yield:.1} times a yielding pair, at least 25"
    );
    Ok(Verdict::Ok)
}
