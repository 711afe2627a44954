//! Groups of senders and receivers, as `perf bench sched messaging -t` has them: in each group
//! every sender sends to every receiver, 100 bytes at a time.
//!
//! Workers block in their reads and writes in kernel mode. In futex-only mode one that blocks
//! keeps its slot, and senders would wait for a slot that receivers have: there they try, and
//! yield while there is nothing to read or no room.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use umcg::GroupConfig;
use umcg::runtime::{Builder, Condvar, Mutex, yield_now};

use super::Planned;
use crate::context::Context;
use crate::plan::{Metric, Plan, Under};
use crate::sys;

const METRICS: [Metric; 1] = [Metric::ns("")];

const GROUPS: usize = 2;
/// Senders of a group, and receivers.
const EACH: usize = 10;
const THREADS: usize = 2 * GROUPS * EACH;
const BYTES: usize = 100;
/// Messages from each sender to each receiver that calibrate a round.
const FIRST: u64 = 20;
const MOST: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Sockets,
    Pipes,
}

impl Over {
    const fn name(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Pipes => "pipes",
        }
    }

    /// An end to read from and one to write to.
    fn open(self) -> io::Result<(File, File)> {
        let (reader, writer) = match self {
            Self::Sockets => {
                let (reader, writer) = UnixStream::pair()?;
                (OwnedFd::from(reader), OwnedFd::from(writer))
            }
            Self::Pipes => {
                let (reader, writer) = io::pipe()?;
                (OwnedFd::from(reader), OwnedFd::from(writer))
            }
        };
        Ok((reader.into(), writer.into()))
    }
}

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    let plan = |over: Over| -> Result<Plan<'_>> {
        // A round is a fixed number of messages, the same for both: as many as plain threads
        // send in its time.
        let ns = by_threads(over, FIRST)? * total(FIRST);
        let wanted = context.settings.seconds * 1e9 / ns * FIRST as f64;
        let each = (wanted as u64).clamp(FIRST, MOST);
        let plan = Plan::new(format!("messaging.{}", over.name()), &METRICS)
            .side("threads", Under::Threads, move |_| {
                Ok(vec![Some(by_threads(over, each)?)])
            })
            .side("workers", Under::Group, move |_| {
                Ok(vec![Some(by_workers(context, over, each)?)])
            })
            .row("threads")
            .beside("workers", "threads");
        Ok(plan)
    };
    let plans: Result<Vec<_>> = [Over::Sockets, Over::Pipes].into_iter().map(plan).collect();
    Ok(Planned::Here(plans?))
}

fn total(each: u64) -> f64 {
    (GROUPS * EACH * EACH) as f64 * each as f64
}

/// All threads are there before the first message, and the clock starts then. Its waits give a
/// worker's slot up, and a plain thread sleeps.
struct Gate {
    arrived: Condvar,
    opened: Condvar,
    /// How many have arrived, and whether it is open.
    state: Mutex<(usize, bool)>,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            arrived: Condvar::new(),
            opened: Condvar::new(),
            state: Mutex::new((0, false)),
        })
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        state.0 += 1;
        self.arrived.notify_one();
        while !state.1 {
            state = self.opened.wait(state);
        }
    }

    /// When it was opened.
    fn open_for(&self, threads: usize) -> u64 {
        let mut state = self.state.lock();
        while state.0 < threads {
            state = self.arrived.wait(state);
        }
        state.1 = true;
        let now = umcg::now();
        drop(state);
        self.opened.notify_all();
        now
    }
}

/// What a thread does, as a closure that can be a task.
type Job = Box<dyn FnOnce() -> io::Result<()> + Send>;

fn jobs(over: Over, each: u64, blocks: bool, gate: &Arc<Gate>) -> io::Result<Vec<Job>> {
    let mut jobs: Vec<Job> = Vec::with_capacity(THREADS);
    for _ in 0..GROUPS {
        let mut writers = Vec::with_capacity(EACH);
        for _ in 0..EACH {
            let (reader, writer) = over.open()?;
            if !blocks {
                sys::set_nonblocking(&reader)?;
                sys::set_nonblocking(&writer)?;
            }
            writers.push(writer);
            let gate = gate.clone();
            jobs.push(Box::new(move || {
                gate.pass();
                receive(&reader, EACH as u64 * each)
            }));
        }
        let writers = Arc::new(writers);
        for _ in 0..EACH {
            let (writers, gate) = (writers.clone(), gate.clone());
            jobs.push(Box::new(move || {
                gate.pass();
                (0..each).try_for_each(|_| writers.iter().try_for_each(send))
            }));
        }
    }
    Ok(jobs)
}

/// A call that yields instead of waiting, if it may not block.
fn patiently(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => yield_now(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn send(mut writer: &File) -> io::Result<()> {
    let mut left = &[1; BYTES][..];
    while !left.is_empty() {
        left = &left[patiently(|| writer.write(left))?..];
    }
    Ok(())
}

/// Pieces of messages may be mixed up where a pipe was nearly full: bytes are counted.
fn receive(mut reader: &File, messages: u64) -> io::Result<()> {
    let mut left = messages as usize * BYTES;
    let mut buffer = [0; BYTES];
    while left > 0 {
        let most = left.min(BYTES);
        match patiently(|| reader.read(&mut buffer[..most]))? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            got => left -= got,
        }
    }
    Ok(())
}

/// What a message took, over all of them.
fn by_threads(over: Over, each: u64) -> Result<f64> {
    let gate = Gate::new();
    let jobs = jobs(over, each, true, &gate).context("cannot open sockets or pipes")?;
    let threads: Vec<_> = jobs.into_iter().map(thread::spawn).collect();
    let began = gate.open_for(THREADS);
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))??;
    }
    Ok((umcg::now() - began) as f64 / total(each))
}

fn by_workers(context: &Context, over: Over, each: u64) -> Result<f64> {
    let runtime = Builder::new()
        .servers(context.cpus.len())
        .max_workers(THREADS)
        .group(context.group_config(GroupConfig::default()))
        .build()?;
    let gate = Gate::new();
    let blocks = context.mode.detects_blocking();
    let jobs = jobs(over, each, blocks, &gate).context("cannot open sockets or pipes")?;
    let tasks: Vec<_> = jobs.into_iter().map(|job| runtime.spawn(job)).collect();
    let began = gate.open_for(THREADS);
    for task in tasks {
        task.join().map_err(|_| anyhow!("a task panicked"))??;
    }
    Ok((umcg::now() - began) as f64 / total(each))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Through buffers that are full and empty by turns.
    #[test]
    fn messages_all_arrive_over_both_blocking_or_not() {
        const MANY: u64 = 3000;
        for over in [Over::Sockets, Over::Pipes] {
            for blocks in [true, false] {
                let (reader, writer) = over.open().unwrap();
                if !blocks {
                    sys::set_nonblocking(&reader).unwrap();
                    sys::set_nonblocking(&writer).unwrap();
                }
                let received = thread::scope(|scope| {
                    scope.spawn(|| (0..MANY).try_for_each(|_| send(&writer)).unwrap());
                    receive(&reader, MANY)
                });
                received.unwrap();
                drop(writer);
                let none = receive(&reader, 1).unwrap_err();
                assert_eq!(none.kind(), ErrorKind::UnexpectedEof, "{over:?}");
            }
        }
    }
}
