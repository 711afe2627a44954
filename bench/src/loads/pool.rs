//! Jobs that wait in the kernel: on a runtime with few servers and many workers, on a pool of as
//! many plain threads as there are servers, and on one of as many as there are workers.
//!
//! Where the kernel tells of blocking, the runtime should be as quick as the large pool, with
//! no more threads running at a time than the small one. In futex-only mode it is as slow as that.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use umcg::GroupConfig;
use umcg::runtime::Builder;

use super::Planned;
use crate::context::Context;
use crate::pace::Budget;
use crate::plan::{Figures, Metric, Plan, Under};
use crate::sys;
use crate::work::{self, Counted};

const METRICS: [Metric; 1] = [Metric::ns("")];

const SERVERS: usize = 2;
const WORKERS: usize = 32;
/// What a job computes after its wait.
const WORK_NS: u64 = 20_000;
const SLEEP: Duration = Duration::from_millis(1);
const FILE_BYTES: u64 = 4 << 20;
const READ_BYTES: u64 = 16 << 10;

/// What a job does, given its number.
type Job = Arc<dyn Fn(u64) + Send + Sync>;

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    let sleep: Job = Arc::new(|_| {
        thread::sleep(SLEEP);
        work::compute(WORK_NS);
    });
    let file = Scratch::new()?;
    let read: Job = Arc::new(move |number| {
        file.read(number);
        work::compute(WORK_NS);
    });
    let plan = |name: &str, job: Job| {
        let jobs = [job.clone(), job.clone(), job];
        let [few, many, workers] = jobs;
        Plan::new(format!("pool.{name}"), &METRICS)
            .side("2-threads", Under::Threads, move |budget| {
                by_threads(SERVERS, &few, budget)
            })
            .side("32-threads", Under::Threads, move |budget| {
                by_threads(WORKERS, &many, budget)
            })
            .side("workers", Under::Group, move |budget| {
                by_workers(context, &workers, budget)
            })
            .row("32-threads")
            .beside("2-threads", "32-threads")
            .beside("workers", "32-threads")
    };
    Ok(Planned::Here(vec![
        plan("sleep", sleep),
        plan("file", read),
    ]))
}

/// A file that has no name any more: it is gone with the process.
struct Scratch(File);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("umcg-bench-{}.tmp", std::process::id()));
        let make = || {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            std::fs::remove_file(&path)?;
            file.write_all(&vec![7; FILE_BYTES as usize])?;
            // Dirty pages cannot be forgotten.
            file.sync_all()?;
            Ok::<_, std::io::Error>(file)
        };
        let file = make().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(file))
    }

    /// A piece that the kernel was told to forget before, so that the disk is asked if there
    /// is one.
    fn read(&self, number: u64) {
        // A stride that is odd walks over all pieces.
        let at = number.wrapping_mul(97) % (FILE_BYTES / READ_BYTES) * READ_BYTES;
        sys::forget_pages(&self.0, at, READ_BYTES);
        let mut buffer = [0; READ_BYTES as usize];
        let read = self.0.read_exact_at(&mut buffer, at);
        assert!(read.is_ok(), "cannot read the scratch file: {read:?}");
    }
}

/// Each thread's jobs have numbers of their own.
fn numbers(thread: usize) -> impl FnMut() -> u64 {
    let mut next = thread as u64 * 1_000_003;
    move || {
        next += 1;
        next
    }
}

/// What a job took, over all of them.
fn figures((ns, counts): (u64, Vec<u64>)) -> Result<Figures> {
    let jobs: u64 = counts.iter().sum();
    ensure!(jobs > 0, "not one job was done in {ns} ns");
    Ok(vec![Some(ns as f64 / jobs as f64)])
}

fn by_threads(threads: usize, job: &Job, budget: Budget) -> Result<Figures> {
    let counted = Counted::new(threads);
    thread::scope(|scope| {
        for number in 0..threads {
            let counted = &counted;
            scope.spawn(move || {
                let mut next = numbers(number);
                counted.repeat(number, || job(next()));
            });
        }
        figures(counted.window(budget))
    })
}

fn by_workers(context: &Context, job: &Job, budget: Budget) -> Result<Figures> {
    let runtime = Builder::new()
        .servers(SERVERS)
        .max_workers(WORKERS)
        .group(context.group_config(GroupConfig::default()))
        .build()?;
    let counted = Arc::new(Counted::new(WORKERS));
    let tasks: Vec<_> = (0..WORKERS)
        .map(|number| {
            let (counted, job) = (counted.clone(), job.clone());
            let mut next = numbers(number);
            runtime.spawn(move || counted.repeat(number, || job(next())))
        })
        .collect();
    let done = counted.window(budget);
    for task in tasks {
        task.join().map_err(|_| anyhow!("a task panicked"))?;
    }
    figures(done)
}
