//! From the kick of a worker that computes to its server back in user space. In futex-only
//! mode the group's signal does it. Beside it: one futex hand-off on one CPU.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::{Group, GroupConfig, Preempt, Reason, Server};

use super::member::{self, Name};
use super::{Planned, block, pair};
use crate::context::Context;
use crate::hist::{self, Latencies};
use crate::pace::Budget;
use crate::plan::{Figures, Plan, Under};
use crate::sys;

/// How long the worker computes before it is kicked.
const STINT: Duration = Duration::from_micros(200);
/// A kick that took longer was lost.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    let plan = Plan::new("preempt", &hist::METRICS)
        .side("futex", Under::Threads, move |budget| {
            block::hand_off(context, context.pinned(), budget)
        })
        .side("worker", Under::Group, move |budget| kicks(context, budget))
        .beside("worker", "futex");
    Ok(Planned::Here(vec![plan]))
}

#[derive(Default)]
struct Board {
    worker: Name,
    /// Runs of the worker that ended.
    ends: AtomicU64,
    kicked_at: AtomicU64,
    /// The warm-up is over.
    counts: AtomicBool,
    over: AtomicBool,
}

fn kicks(context: &Context, budget: Budget) -> Result<Figures> {
    let group = context.group(GroupConfig {
        preempt: Preempt::Signal(libc::SIGURG),
        ..GroupConfig::default()
    })?;
    let board = Board::default();
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(&mut group.register_server()?, &board));
        let worker = scope.spawn(|| -> Result<()> {
            let me = group.register_worker(0)?;
            board.worker.set(me.id());
            while !board.over.load(SeqCst) {
                std::hint::black_box(());
            }
            Ok(())
        });
        // On a thread of its own: exact timers are handed down to all that one starts later.
        let kicker = scope.spawn(|| kick_over_and_over(&group, &board, budget));
        let kicked = pair::join(kicker);
        board.over.store(true, SeqCst);
        let latencies = pair::join(server);
        pair::join(worker)?;
        let latencies = latencies?;
        kicked?;
        ensure!(!latencies.is_empty(), "not one kick forced it off");
        Ok(latencies.figures())
    })
}

fn kick_over_and_over(group: &Group, board: &Board, budget: Budget) -> Result<()> {
    sys::exact_timers();
    let began = umcg::now();
    while umcg::now() - began < budget.warm_ns + budget.ns {
        thread::sleep(STINT);
        let Some(id) = board.worker.get() else {
            continue;
        };
        let ends = board.ends.load(SeqCst);
        let now = umcg::now();
        board.counts.store(now - began >= budget.warm_ns, SeqCst);
        board.kicked_at.store(now, SeqCst);
        if group.kick(id).is_err() {
            // It waits for its turn.
            board.kicked_at.store(0, SeqCst);
            continue;
        }
        let lost = umcg::after(PATIENCE);
        while board.ends.load(SeqCst) == ends {
            ensure!(umcg::now() < lost, "a kick did nothing for {PATIENCE:?}");
            thread::sleep(STINT / 4);
        }
    }
    Ok(())
}

fn serve(server: &mut Server, board: &Board) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    while let Some(event) = member::next(server)? {
        let Some(end) = member::run(server, event.worker)? else {
            continue;
        };
        let now = umcg::now();
        if end.reason == Reason::Exited {
            break;
        }
        let kicked_at = board.kicked_at.swap(0, SeqCst);
        // It may have been off for a page fault just before: then the kick found it gone.
        let by_kick = kicked_at != 0 && end.reason == Reason::Preempted;
        if by_kick && board.counts.load(SeqCst) {
            latencies.record(now.saturating_sub(kicked_at));
        }
        board.ends.fetch_add(1, SeqCst);
    }
    Ok(latencies)
}
