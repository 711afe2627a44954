//! More computing threads than CPUs: how much work gets done, and how evenly.
//!
//! Workers have a quantum; without the kernel's help a signal ends it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use umcg::runtime::Builder;
use umcg::{GroupConfig, Preempt};

use super::Planned;
use crate::context::Context;
use crate::pace::Budget;
use crate::plan::{Figures, Metric, Plan, Under};
use crate::work::{self, Counted};

/// Time of the CPUs per piece of work, and the least that a thread did by the most.
const METRICS: [Metric; 2] = [Metric::ns("piece"), Metric::share("least-by-most")];

/// Threads per CPU.
const DEGREES: [usize; 3] = [1, 4, 16];
const PIECE_NS: u64 = 20_000;
const QUANTUM: Duration = Duration::from_millis(2);

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    let plan = |degree: usize| {
        Plan::new(format!("over.{degree}"), &METRICS)
            .side("threads", Under::Threads, move |budget| {
                Ok(by_threads(context, degree, budget))
            })
            .side("workers", Under::Group, move |budget| {
                by_workers(context, degree, budget)
            })
            .row("threads")
            .beside("workers", "threads")
    };
    Ok(Planned::Here(DEGREES.map(plan).into()))
}

fn figures(context: &Context, (ns, counts): (u64, Vec<u64>)) -> Figures {
    let pieces: u64 = counts.iter().sum();
    let cpu_ns = ns as f64 * context.cpus.len() as f64;
    let least = counts.iter().min().copied().unwrap_or(0);
    let most = counts.iter().max().copied().unwrap_or(0);
    vec![
        (pieces > 0).then(|| cpu_ns / pieces as f64),
        (most > 0).then(|| least as f64 / most as f64),
    ]
}

fn by_threads(context: &Context, degree: usize, budget: Budget) -> Figures {
    let threads = degree * context.cpus.len();
    let counted = Counted::new(threads);
    let done = thread::scope(|scope| {
        for number in 0..threads {
            let counted = &counted;
            scope.spawn(move || counted.repeat(number, || work::compute(PIECE_NS)));
        }
        counted.window(budget)
    });
    figures(context, done)
}

fn by_workers(context: &Context, degree: usize, budget: Budget) -> Result<Figures> {
    let workers = degree * context.cpus.len();
    let runtime = Builder::new()
        .servers(context.cpus.len())
        .max_workers(workers)
        .quantum(QUANTUM)
        .group(context.group_config(GroupConfig {
            preempt: Preempt::Signal(libc::SIGURG),
            ..GroupConfig::default()
        }))
        .build()?;
    let counted = Arc::new(Counted::new(workers));
    let tasks: Vec<_> = (0..workers)
        .map(|number| {
            let counted = counted.clone();
            runtime.spawn(move || counted.repeat(number, || work::compute(PIECE_NS)))
        })
        .collect();
    let done = counted.window(budget);
    for task in tasks {
        task.join().map_err(|_| anyhow!("a task panicked"))?;
    }
    Ok(figures(context, done))
}
