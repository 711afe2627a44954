//! From a worker's blocking call to its server back in user space.
//!
//! The worker looks at the clock and reads from an empty pipe; its server looks at the clock
//! when `run` says that it blocked. Beside it: one futex hand-off at the same place.

use std::io::{self, Read, Write};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use anyhow::{Result, ensure};
use umcg::{GroupConfig, Reason};

use super::Planned;
use super::member;
use super::pair::{self, By};
use crate::context::Context;
use crate::hist::{self, Latencies};
use crate::pace::{Budget, Pace, Place};
use crate::plan::{Figures, Plan, Under};

const GO_ON: u8 = 0;
const STOP: u8 = 1;

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    if !context.mode.detects_blocking() {
        return Ok(Planned::NotHere("futex-only mode"));
    }
    let plan = |place: Place| {
        Plan::new(format!("block.{}", place.name()), &hist::METRICS)
            .side("futex", Under::Threads, move |budget| {
                hand_off(context, place, budget)
            })
            .side("worker", Under::Group, move |budget| {
                block(context, place, budget)
            })
            .beside("worker", "futex")
    };
    Ok(Planned::Here(context.places().map(plan).into()))
}

/// One hand-off, which stands beside each percentile.
pub fn hand_off(context: &Context, place: Place, budget: Budget) -> Result<Figures> {
    let (ns, _) = pair::measure(context, By::Futex, place, budget, None)?;
    Ok(vec![Some(ns); hist::METRICS.len()])
}

fn block(context: &Context, place: Place, budget: Budget) -> Result<Figures> {
    let group = context.group(GroupConfig::default())?;
    let (reader, writer) = io::pipe()?;
    let called_at = AtomicU64::new(0);
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<()> {
            place.take()?;
            let _me = group.register_worker(0)?;
            let mut byte = [GO_ON];
            while byte[0] != STOP {
                called_at.store(umcg::now(), SeqCst);
                (&reader).read_exact(&mut byte)?;
            }
            Ok(())
        });
        let server = scope.spawn(|| -> Result<Latencies> {
            place.take()?;
            let mut server = group.register_server()?;
            let mut latencies = Latencies::default();
            let mut pace = Pace::start(budget, None);
            let began = umcg::now();
            // RUNNABLE again after its page faults, and after each byte.
            while let Some(event) = member::next(&mut server)? {
                let Some(end) = member::run(&mut server, event.worker)? else {
                    continue;
                };
                let back_at = umcg::now();
                match end.reason {
                    Reason::Exited => break,
                    Reason::Blocked { .. } => {}
                    _ => continue,
                }
                if back_at - began >= budget.warm_ns {
                    latencies.record(back_at - called_at.load(SeqCst));
                }
                let byte = if pace.goes_on() { GO_ON } else { STOP };
                (&writer).write_all(&[byte])?;
            }
            Ok(latencies)
        });
        let latencies = pair::join(server);
        pair::join(worker)?;
        let latencies = latencies?;
        ensure!(
            !latencies.is_empty(),
            "its server was not told of one block"
        );
        Ok(latencies.figures())
    })
}
