//! From a wake to the woken one running, while nothing else is to do.
//!
//! A thread that is no member wakes, and then sleeps itself: with one CPU, too, the woken one
//! is let in. A worker's way is the longer one: its server is woken, and runs it.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use umcg::{FOREVER, GroupConfig};

use super::member::{self, Name};
use super::{Planned, pair};
use crate::context::Context;
use crate::hist::{self, Latencies};
use crate::pace::Budget;
use crate::plan::{Figures, Plan, Under};
use crate::sys;

/// Between two wakes; not always the same, which might keep step with the tick.
const GAP_US: std::ops::Range<u64> = 200..600;

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    let plan = Plan::new("wake", &hist::METRICS)
        .side("futex", Under::Threads, by_futex)
        .side("worker", Under::Group, move |budget| {
            of_a_worker(context, budget)
        })
        .row("futex")
        .beside("worker", "futex");
    Ok(Planned::Here(vec![plan]))
}

/// What the waker and the woken one share.
#[derive(Default)]
struct Board {
    /// How many wakes there were: a futex for the plain thread.
    wakes: AtomicU32,
    /// How many of them the woken one has seen.
    seen: AtomicU32,
    at_ns: AtomicU64,
    /// The warm-up is over.
    counts: AtomicBool,
    over: AtomicBool,
}

impl Board {
    /// Wakes until the time is over, then once more.
    fn wake_over_and_over(&self, budget: Budget, mut wake: impl FnMut()) {
        sys::exact_timers();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let began = umcg::now();
        let mut now = began;
        while now - began < budget.warm_ns + budget.ns {
            thread::sleep(Duration::from_micros(rng.random_range(GAP_US)));
            now = umcg::now();
            if self.seen.load(SeqCst) != self.wakes.load(SeqCst) {
                // It is later than the gap is long: let it come first.
                continue;
            }
            self.counts.store(now - began >= budget.warm_ns, SeqCst);
            self.at_ns.store(umcg::now(), SeqCst);
            self.wakes.fetch_add(1, SeqCst);
            wake();
        }
        self.over.store(true, SeqCst);
        self.wakes.fetch_add(1, SeqCst);
        wake();
    }

    /// What the woken one does between two waits. False: it was the last one.
    fn look(&self, latencies: &mut Latencies) -> bool {
        let now = umcg::now();
        // In this order: who sees the last wake knows that it is the last one.
        let wakes = self.wakes.load(SeqCst);
        let over = self.over.load(SeqCst);
        // The last one is no measurement, but one that was lost until then is.
        let new = wakes - self.seen.load(SeqCst);
        if new > u32::from(over) && self.counts.load(SeqCst) {
            latencies.record(now.saturating_sub(self.at_ns.load(SeqCst)));
        }
        self.seen.store(wakes, SeqCst);
        !over
    }
}

fn by_futex(budget: Budget) -> Result<Figures> {
    let board = Board::default();
    thread::scope(|scope| {
        let woken = scope.spawn(|| {
            let mut latencies = Latencies::default();
            while board.look(&mut latencies) {
                sys::futex_wait(&board.wakes, board.seen.load(SeqCst));
            }
            Ok(latencies)
        });
        // On a thread of its own: exact timers are handed down to all that one starts later.
        scope.spawn(|| board.wake_over_and_over(budget, || sys::futex_wake(&board.wakes)));
        Ok(pair::join(woken)?.figures())
    })
}

fn of_a_worker(context: &Context, budget: Budget) -> Result<Figures> {
    let group = context.group(GroupConfig::default())?;
    let (board, name) = (Board::default(), Name::default());
    thread::scope(|scope| {
        let server = scope.spawn(|| member::serve(&mut group.register_server()?, 1));
        let woken = scope.spawn(|| {
            let mut latencies = Latencies::default();
            let mut me = group.register_worker(0)?;
            name.set(me.id());
            while board.look(&mut latencies) {
                let _ = me.wait(FOREVER)?;
            }
            Ok(latencies)
        });
        while name.get().is_none() && !woken.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        scope.spawn(|| {
            board.wake_over_and_over(budget, || {
                if let Some(id) = name.get() {
                    // It has failed if it is gone, and says so below.
                    let _ = group.wake(id);
                }
            });
        });
        let latencies = pair::join(woken);
        pair::join(server)?;
        Ok(latencies?.figures())
    })
}
