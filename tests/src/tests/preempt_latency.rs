//! How soon a kick is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::{Reason, Source};

use super::app::Board;
use super::preempt::spinner;
use super::{Test, full};
use crate::boss::Boss;
use crate::client::{self, is_sound};
use crate::harness::{self, Verdict, metric};
use crate::load;

pub const TESTS: &[Test] = &[full(
    "vm_full_group_kick_latency",
    "preemption-count,icount,cpus=1",
    30,
    latency,
)];

const LIMIT: Duration = Duration::from_secs(120);
const KICKS: usize = 500;
/// Between two, far more than one takes.
const PAUSE: Duration = Duration::from_millis(5);

/// Instructions from before a real-time thread's kick until the server has its worker back.
fn kicked(board: Board) -> Result<()> {
    let mut boss = Boss::new()?;
    let stop = Arc::new(AtomicBool::new(false));
    let one = spinner(&boss.group, 1, &stop);
    let id = boss.new_one(1)?;
    let at_ns = Arc::new(AtomicU64::new(0));
    let (group, quit, at) = (boss.group.clone(), stop.clone(), at_ns.clone());
    let kicker = std::thread::spawn(move || -> Result<()> {
        load::fifo(0)?;
        while !quit.load(SeqCst) {
            std::thread::sleep(PAUSE);
            at.store(umcg::now(), SeqCst);
            let _ = group.kick(id); // it may not run just then
        }
        Ok(())
    });
    let mut took = Vec::with_capacity(KICKS);
    while took.len() < KICKS {
        let end = boss.until(id, |it| it == Reason::Preempted)?;
        let now = umcg::now();
        if end.source == Some(Source::Kick) {
            took.push(now - at_ns.load(SeqCst));
        }
        boss.news_of(id)?;
    }
    stop.store(true, SeqCst);
    kicker.join().ok().context("the kicker panicked")??;
    boss.serve_until(1)?;
    one.end()?;
    took.sort_unstable();
    board.set(0, took[KICKS / 2]);
    board.set(1, took[KICKS * 99 / 100]);
    Ok(())
}

fn latency() -> Result<Verdict> {
    let sched = harness::shared()?;
    let board = Board::new()?;
    // As root: who kicks is of a real-time class.
    client::spawn_as(0, move || kicked(board))?.result(LIMIT)?;
    let [middle, late] = [0, 1].map(|at| board.get(at) as f64);
    metric(
        "group_kick_latency",
        &[("median_instructions", middle), ("p99", late)],
    );
    ensure!(
        late < PAUSE.as_nanos() as f64,
        "a kick took {late} instructions"
    );
    is_sound(&sched)?;
    Ok(Verdict::Ok)
}
