//! Ten thousand workers in one group, beside ten: what a switch costs, and what each one takes.
//!
//! Instructions are nanoseconds here. Parked: workers that yield, which BPF holds until they are
//! run again. Asleep: workers that wait for so long that they sleep in a futex; to wake one, to run
//! it and its way back into that sleep are one switch. There the process's CPU time counts, as its
//! workers fall asleep while others run, less what the server does while it lets them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::{KernelGroup, sys};
use umcg::word::ASLEEP;
use umcg::{ErrorKind, Id, Kind, Reason};

use super::app::Board;
use super::{Test, full};
use crate::client::{self, is_sound};
use crate::harness::{Sched, Verdict, metric};
use crate::load::clock_ns;

pub const TESTS: &[Test] = &[full(
    "vm_full_app_10k_workers_by_instructions",
    "app-many,icount,cpus=1",
    300,
    many,
)];

const FEW: u64 = 10;
const MANY: u64 = 10_000;
/// Of each tier, with many and with few: enough to count, and not less than the ten.
const ROUNDS: u64 = 10;
const FEW_ROUNDS: u64 = 400;

const PARKED: usize = 0;
const SLEPT: usize = 1;
const REGISTER: usize = 2;
const LEAVE: usize = 3;
const AGAIN: usize = 4;
const PROCESS_KB: usize = 5;
const MACHINE_KB: usize = 6;
const FIGURES: usize = 8;

fn many() -> Result<Verdict> {
    let board = Board::new()?;
    let sched = Sched::start(&[])?;
    for (i, workers, rounds) in [(0, FEW, FEW_ROUNDS), (1, MANY, ROUNDS)] {
        let limit = Duration::from_secs(1200);
        let at = i * FIGURES;
        let client = client::spawn(move || crowd(board, at, workers, rounds))?;
        let result = client.result(limit);
        result.with_context(|| format!("{workers} workers"))?;
        let get = |figure| board.get(at + figure) as f64;
        metric(
            &format!("app_workers_{workers}"),
            &[
                ("parked", get(PARKED)),
                ("asleep", get(SLEPT)),
                ("register", get(REGISTER)),
                ("leave", get(LEAVE)),
                ("again", get(AGAIN)),
                ("process_kb_each", get(PROCESS_KB) / workers as f64),
                ("machine_kb_each", get(MACHINE_KB) / workers as f64),
            ],
        );
    }
    is_sound(&sched)?;
    sched.stop()?;
    let ratio = |figure| board.get(FIGURES + figure) as f64 / board.get(figure) as f64;
    let (parked, asleep) = (ratio(PARKED), ratio(SLEPT));
    metric("app_many", &[("parked", parked), ("asleep", asleep)]);
    ensure!(
        parked <= 1.2 && asleep <= 1.2,
        "10,000 by 10 workers, at most 1.2: parked {parked:.3}, asleep {asleep:.3}"
    );
    Ok(Verdict::Ok)
}

/// A line of a file of /proc, in kB.
fn kb(path: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let value = line.and_then(|l| l.split_whitespace().next());
    Ok(value.context("no such line")?.parse()?)
}

/// Resident pages and page tables of this process, and what the machine has left.
fn memory() -> Result<(u64, u64)> {
    let status = "/proc/self/status";
    let process = kb(status, "VmRSS:")? + kb(status, "VmPTE:")?;
    Ok((process, kb("/proc/meminfo", "MemAvailable:")?))
}

struct Server {
    group: Arc<KernelGroup>,
    me: Id,
    ids: Vec<Id>,
    waits: u64,
    yields: u64,
    gone: u64,
    again: u64,
    /// Other ends, by their reasons.
    others: BTreeMap<String, u64>,
}

impl Server {
    /// The next event, and the run of its worker.
    fn step(&mut self) -> Result<()> {
        let until = sys::now_ns() + 20_000_000_000;
        let event = self.group.next_event(self.me, until)?;
        if event.reason == Reason::Exited {
            self.gone += 1;
            return Ok(());
        }
        match self.group.run(self.me, event.worker, u64::MAX) {
            Ok(event) => match event.reason {
                Reason::Waits => self.waits += 1,
                Reason::Yielded => self.yields += 1,
                Reason::Exited => self.gone += 1,
                other => *self.others.entry(format!("{other:?}")).or_insert(0) += 1,
            },
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Again | ErrorKind::WrongState | ErrorKind::NotFound
                ) =>
            {
                self.again += 1;
            }
            Err(error) => Err(error)?,
        }
        Ok(())
    }

    fn until(&mut self, what: fn(&Self) -> u64, count: u64) -> Result<()> {
        while what(self) < count {
            self.step()
                .with_context(|| format!("{} of {count}; {}", what(self), self.states()))?;
        }
        Ok(())
    }

    /// How many are in each state, and what was not counted.
    fn states(&self) -> String {
        let mut states = BTreeMap::new();
        for id in &self.ids {
            let state = self.group.state(*id);
            let key = state.map_or("left".into(), |it| {
                format!("{} {:#x}", it.state.name(), it.flags)
            });
            *states.entry(key).or_insert(0) += 1;
        }
        format!(
            "{states:?}, {} not run, {:?} others",
            self.again, self.others
        )
    }

    /// Returns when all sleep for real: what this thread did meanwhile.
    fn settle(&self) -> Result<u64> {
        let began = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            let asleep = |id: &Id| (self.group.state(*id)).is_ok_and(|it| it.flags & ASLEEP != 0);
            if self.ids.iter().all(asleep) {
                return Ok(clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - began);
            }
        }
        anyhow::bail!("they do not sleep: {:?}", self.group.state(self.ids[0]))
    }
}

fn crowd(board: Board, at: usize, workers: u64, rounds: u64) -> Result<()> {
    let group = client::group(workers as u32 + 64)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let mut server = Server {
        group: group.clone(),
        me,
        ids: Vec::with_capacity(workers as usize),
        waits: 0,
        yields: 0,
        gone: 0,
        again: 0,
        others: BTreeMap::new(),
    };
    let (before, began) = (memory()?, sys::now_ns());
    let failed = Arc::new(AtomicU64::new(0));
    let maker = {
        let (group, failed) = (group.clone(), failed.clone());
        std::thread::spawn(move || make(&group, workers, rounds, &failed))
    };
    server.until(|it| it.waits, workers)?;
    board.set(at + REGISTER, (sys::now_ns() - began) / workers);
    maker
        .join()
        .map_err(|_| anyhow::anyhow!("the maker panicked"))??;
    // Not by what was told: one that waits for a page on its way in is not told to be new.
    let members = group.list()?;
    let workers_of = members.iter().filter(|it| it.kind == Kind::Worker);
    server.ids = workers_of.map(|it| it.id).collect();
    ensure!(
        server.ids.len() as u64 == workers,
        "{} members",
        server.ids.len()
    );
    server.settle()?;
    let now = memory()?;
    board.set(at + PROCESS_KB, now.0.saturating_sub(before.0));
    board.set(at + MACHINE_KB, before.1.saturating_sub(now.1));

    let mut used = 0;
    for round in 1..=rounds {
        let began = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID);
        for &id in &server.ids {
            group.wake(id)?;
        }
        server.until(|it| it.waits, workers * (round + 1))?;
        let mine = server.settle()?;
        used += clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID) - began - mine;
    }
    board.set(at + SLEPT, used / (rounds * workers));

    for &id in &server.ids {
        group.wake(id)?;
    }
    server.until(|it| it.yields, workers)?;
    let began = sys::now_ns();
    server.until(|it| it.yields, workers * rounds)?;
    let took = sys::now_ns() - began;
    board.set(at + PARKED, took / ((rounds - 1) * workers));

    let began = sys::now_ns();
    server.until(|it| it.gone, workers)?;
    board.set(at + LEAVE, (sys::now_ns() - began) / workers);
    board.set(at + AGAIN, server.again);
    group.unregister(me)?;
    let failed = failed.load(Ordering::SeqCst);
    ensure!(failed == 0, "{failed} workers failed");
    ensure!(group.shared() == 0, "{} shared slots", group.shared());
    Ok(())
}

/// Starts the workers: each waits, once more than there are rounds, then yields, and leaves.
fn make(
    group: &Arc<KernelGroup>,
    workers: u64,
    rounds: u64,
    failed: &Arc<AtomicU64>,
) -> Result<()> {
    for i in 0..workers {
        let (group, failed) = (group.clone(), failed.clone());
        let body = move || -> Result<()> {
            let me = group.register(Kind::Worker, i, &mut |_| {})?;
            for _ in 0..=rounds {
                let _ = group.wait(me, u64::MAX)?;
            }
            for _ in 0..rounds {
                group.yield_now(me)?;
            }
            group.unregister(me)?;
            Ok(())
        };
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        let started = thread.spawn(move || {
            if body().is_err() {
                failed.fetch_add(1, Ordering::SeqCst);
            }
        });
        started.with_context(|| format!("worker {i}"))?;
    }
    Ok(())
}
