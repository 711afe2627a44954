//! How soon whoever asks for a worker's slot has it: by each source, in instructions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::timer::kick_on;
use umcg::{Event, Group, Id, Reason, Source, State, set_key};

use super::app::Board;
use super::paths::hand_off;
use super::preempt::quantum_group;
use super::{Test, full};
use crate::boss::{Actor, Boss, actor, signal_thread};
use crate::client::{self, is_sound};
use crate::harness::{Sched, Verdict, metric};
use crate::load;

const BOOT: &str = "preemption-count,icount,cpus=1";

pub const TESTS: &[Test] = &[
    full("vm_full_group_kick_latency", BOOT, 30, kick_latency),
    full("vm_full_group_preemption_costs", BOOT, 60, costs),
];

const LIMIT: Duration = Duration::from_secs(120);
const TIMES: usize = 300;
/// Touch pages.
const COLD: usize = 20;
/// Between two, far more than one takes.
const PAUSE: Duration = Duration::from_millis(5);
/// A run's time where nothing else is to end it.
const PATIENCE: Duration = Duration::from_millis(50);
const RUN: Duration = Duration::from_millis(2);
const QUANTUM_US: u64 = 500;
/// In futex hand-offs, which are a third cheaper on 6.18 (4,800 instructions for 7,150) while a kick is not:
/// a kick, what else asks at once, and what all have in common.
const KICK_MOST: f64 = 3.75;
const MOST: f64 = 5.5;
const EDGE_MOST: f64 = 1.75;
/// Deadlines are looked for each 4 ms.
const LATE_NS: f64 = 8e6;

const SOURCES: [(Source, &str); 5] = [
    (Source::Kick, "kick"),
    (Source::Deadline, "deadline"),
    (Source::Quantum, "quantum"),
    (Source::Signal, "sigalrm"),
    (Source::Wake, "wake"),
];

/// A worker that computes, and one that waits to be woken beside it.
struct Pair {
    boss: Boss,
    hog: Id,
    waiter: Id,
    stop: Arc<AtomicBool>,
    /// When somebody last asked for the slot.
    at_ns: Arc<AtomicU64>,
    actors: [Actor; 2],
}

impl Pair {
    fn of(source: Source) -> Result<Self> {
        kick_on(libc::SIGALRM)?;
        let mut boss = match source {
            Source::Quantum => Boss::of(quantum_group(QUANTUM_US)?)?,
            _ => Boss::new()?,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (quit, over) = (stop.clone(), stop.clone());
        let hog = actor(&boss.group, 1, move |_| {
            set_key(2);
            while !quit.load(SeqCst) {
                // Not spin_loop(), which leaves the emulation.
                std::hint::black_box(());
            }
            Ok(())
        });
        let waiter = actor(&boss.group, 2, move |me| {
            set_key(1);
            while !over.load(SeqCst) {
                let _ = me.wait(umcg::FOREVER)?;
            }
            Ok(())
        });
        let ids = [boss.new_one(1)?, boss.new_one(2)?];
        boss.settle(ids[1], State::Idle, || true)?;
        Ok(Self {
            boss,
            hog: ids[0],
            waiter: ids[1],
            stop,
            at_ns: Arc::default(),
            actors: [hog, waiter],
        })
    }

    /// A thread of a real-time class that asks each 5 ms, maybe when the worker does not run.
    fn asker(&self, ask: impl Fn(&Group) + Send + 'static) -> std::thread::JoinHandle<Result<()>> {
        let (group, quit, at_ns) = (
            self.boss.group.clone(),
            self.stop.clone(),
            self.at_ns.clone(),
        );
        std::thread::spawn(move || {
            load::fifo(0)?;
            while !quit.load(SeqCst) {
                std::thread::sleep(PAUSE);
                at_ns.store(umcg::now(), SeqCst);
                ask(&group);
            }
            Ok(())
        })
    }

    /// Until `source` has ended so many runs: how long the server had to wait for each since it
    /// was asked for, and since the worker's edge.
    fn took(&mut self, source: Source) -> Result<[Vec<u64>; 2]> {
        let (mut took, mut used_ns) = ([Vec::new(), Vec::new()], 0);
        while took[0].len() < COLD + TIMES {
            self.boss.settle(self.waiter, State::Idle, || true)?;
            let deadline_ns = match source {
                Source::Deadline => umcg::after(RUN),
                _ => umcg::after(PATIENCE),
            };
            let end = self.boss.run(self.hog, deadline_ns)?;
            let now_ns = umcg::now();
            let mine = |end: &Event| end.reason == Reason::Preempted && end.source == Some(source);
            if let Some(end) = end.as_ref().filter(|end| mine(end)) {
                let since_edge = now_ns - end.at_ns;
                took[1].push(since_edge);
                took[0].push(match source {
                    Source::Deadline => now_ns - deadline_ns,
                    // What it had beyond it, and what came after its end.
                    Source::Quantum => {
                        (end.run_ns - used_ns).saturating_sub(QUANTUM_US * 1000) + since_edge
                    }
                    _ => now_ns - self.at_ns.load(SeqCst),
                });
            }
            used_ns = end.map_or(used_ns, |end| end.run_ns);
            self.boss.news_of(self.hog)?;
        }
        for took in &mut took {
            took.drain(..COLD);
            took.sort_unstable();
        }
        Ok(took)
    }
}

/// What is on the board of each source: median and p99 since it was asked for, and the median
/// since the worker's edge.
const FIGURES: usize = 3;

/// Those of source `number`.
fn measure(board: Board, number: usize) -> Result<()> {
    let source = SOURCES[number].0;
    let mut pair = Pair::of(source)?;
    let (hog, waiter, tid) = (pair.hog, pair.waiter, pair.actors[0].tid());
    let asker = match source {
        Source::Kick => Some(pair.asker(move |group| {
            let _ = group.kick(hog);
        })),
        Source::Signal => Some(pair.asker(move |_| {
            let _ = signal_thread(std::process::id() as i32, tid, libc::SIGALRM);
        })),
        Source::Wake => Some(pair.asker(move |group| {
            let _ = group.wake(waiter);
        })),
        _ => None,
    };
    let [asked, edge] = pair.took(source)?;
    pair.stop.store(true, SeqCst);
    if let Some(asker) = asker {
        asker.join().ok().context("the asker panicked")??;
    }
    pair.boss.group.wake(waiter)?;
    pair.boss.serve_until(2)?;
    pair.actors.into_iter().try_for_each(Actor::end)?;
    let figures = [asked[TIMES / 2], asked[TIMES * 99 / 100], edge[TIMES / 2]];
    for (at, value) in figures.into_iter().enumerate() {
        board.set(FIGURES * number + at, value);
    }
    Ok(())
}

/// Those of SOURCES with these numbers, beside the boot's futex hand-off.
fn measured(numbers: std::ops::Range<usize>) -> Result<Verdict> {
    let board = Board::new()?;
    let half = hand_off(board)?;
    let sched = Sched::start(&[])?;
    let mut late = Vec::new();
    for number in numbers {
        let (source, name) = SOURCES[number];
        // As root: who asks is of a real-time class.
        client::spawn_as(0, move || measure(board, number))?
            .result(LIMIT)
            .context(name)?;
        let [middle, p99, edge] = [0, 1, 2].map(|at| board.get(FIGURES * number + at) as f64);
        metric(
            &format!("group_latency_{name}"),
            &[
                ("median_instructions", middle),
                ("p99", p99),
                ("from_edge", edge),
                ("futex_hand_off", half),
                ("ratio", middle / half),
            ],
        );
        let most = match source {
            Source::Deadline => LATE_NS,
            Source::Kick => KICK_MOST * half,
            _ => MOST * half,
        };
        if middle > most || edge > EDGE_MOST * half {
            late.push(format!(
                "{name}: {middle}, at most {most}; {edge} from the edge"
            ));
        }
    }
    ensure!(
        late.is_empty(),
        "beside a futex hand-off of {half}: {}",
        late.join("; ")
    );
    is_sound(&sched)?;
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// From before the library's call, so a little before the entry of BPF_PROG_RUN.
fn kick_latency() -> Result<Verdict> {
    measured(0..1)
}

fn costs() -> Result<Verdict> {
    measured(1..SOURCES.len())
}
