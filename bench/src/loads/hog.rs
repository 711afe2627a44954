//! A pair that hands off beside a hog on its only CPU. A futex pair sleeps between its turns and
//! is let in at each wake; a yielding one never sleeps and waits for the hog's slice to end.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use anyhow::Result;

use super::Planned;
use super::pair::{self, By};
use crate::context::Context;
use crate::pace::Budget;
use crate::plan::{Figures, Metric, Plan};
use crate::{sys, work};

/// The hog's share of the CPU is told beside the pair's speed: who is fast by starving the hog
/// is not good.
const METRICS: [Metric; 2] = [Metric::ns("hand-off"), Metric::share("hog-share")];
const ALL: [By; 3] = [By::Futex, By::Yield, By::Switch];

/// How often the hog tells what it has used.
const TOLD_EVERY_NS: u64 = 20_000;

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    let mut plan = Plan::new("hog", &METRICS);
    for by in ALL {
        plan = plan.side(by.name(), by.under(), move |budget| {
            beside_a_hog(context, by, budget)
        });
    }
    let plan = plan
        .row(By::Futex.name())
        .beside(By::Yield.name(), By::Futex.name())
        .beside(By::Switch.name(), By::Futex.name());
    Ok(Planned::Here(vec![plan]))
}

fn beside_a_hog(context: &Context, by: By, budget: Budget) -> Result<Figures> {
    let place = context.pinned();
    let (used, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let hog = scope.spawn(|| -> Result<()> {
            place.take()?;
            while !over.load(Relaxed) {
                work::compute(TOLD_EVERY_NS);
                used.store(sys::thread_cpu_ns(), Relaxed);
            }
            Ok(())
        });
        let figures = pair::measure(context, by, place, budget, Some(&used));
        over.store(true, Relaxed);
        pair::join(hog)?;
        let (ns, share) = figures?;
        Ok(vec![Some(ns), share])
    })
}
