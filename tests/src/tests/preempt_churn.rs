//! Forced edges from all sources at once, while the workers' CPUs change: each is told of
//! the worker that it was for, and no other one is forced off.
//!
//! One group without a quantum: a worker that is kicked by a thread alone, one by its own
//! timer's signal alone, one that nobody asks to leave. One with a quantum: two that only
//! that ends. All compute on the same CPUs, and so stand where kicks of others arrive.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umcg::timer::kick_on;
use umcg::{ErrorKind, Event, Group, GroupConfig, Reason, Server, Source, ThreadTimer, TimerClock};

use super::preempt::quantum_group;
use super::{Test, full, short};
use crate::client;
use crate::harness::{self, Verdict, metric};
use crate::load::pin;
use crate::noise::Noise;

pub const TESTS: &[Test] = &[
    short(
        "vm_group_preemption_churn_unprivileged",
        "group",
        15,
        churn::<150>,
    ),
    full(
        "vm_full_group_preemption_churn_unprivileged",
        "preemption",
        900,
        churn::<100_000>,
    ),
];

const KICKED: usize = 0;
const SIGNALLED: usize = 1;
const SPARED: usize = 2;
const TIMED: usize = 3;
const WORKERS: usize = 5;

/// What the cast share.
#[derive(Default)]
struct Stage {
    stop: AtomicBool,
    tids: [AtomicI32; WORKERS],
    ids: [AtomicU64; WORKERS],
    /// Kicks that were taken.
    kicks: AtomicU64,
    /// Forced edges, by worker.
    forced: [AtomicU64; WORKERS],
    left: [AtomicU64; 2],
}

impl Stage {
    /// What may force worker `number` off.
    fn source(number: usize) -> Option<Source> {
        match number {
            KICKED => Some(Source::Kick),
            SIGNALLED => Some(Source::Signal),
            SPARED => None,
            _ => Some(Source::Quantum),
        }
    }

    fn note(&self, event: &Event) -> Result<()> {
        if event.reason != Reason::Preempted {
            return Ok(());
        }
        let number = event.cookie as usize;
        ensure!(
            event.source.is_some() && event.source == Self::source(number),
            "worker {number} was forced off: {event:?}"
        );
        // Forced off on its way out of its registration, it has not published it.
        let id = self.ids[number].load(SeqCst);
        ensure!(
            id == 0 || id == event.worker.raw(),
            "another worker's event: {event:?}"
        );
        self.forced[number].fetch_add(1, SeqCst);
        Ok(())
    }
}

type Thread = JoinHandle<Result<()>>;

fn thread(body: impl FnOnce() -> Result<()> + Send + 'static) -> Thread {
    std::thread::spawn(body)
}

fn worker(group: &Group, stage: &Arc<Stage>, number: usize) -> Thread {
    let (group, stage) = (group.clone(), stage.clone());
    thread(move || {
        let mut me = group.register_worker(number as u64)?;
        stage.ids[number].store(me.id().raw(), SeqCst);
        // SAFETY: no arguments.
        stage.tids[number].store(unsafe { libc::gettid() }, SeqCst);
        let period = Duration::from_millis(2);
        let timer = (number == SIGNALLED)
            .then(|| ThreadTimer::start(TimerClock::ThreadCpu, period, libc::SIGALRM));
        let timer = timer.transpose()?;
        while !stage.stop.load(SeqCst) {
            if number == SPARED {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(1) {}
                me.yield_now()?;
            }
        }
        drop(timer);
        Ok(())
    })
}

fn server(group: &Group, stage: &Arc<Stage>, which: usize, exits: u64) -> Thread {
    let (group, stage) = (group.clone(), stage.clone());
    thread(move || {
        let mut server = group.register_server()?;
        serve(&mut server, &stage, which, exits).inspect_err(|_| stage.stop.store(true, SeqCst))
    })
}

/// Runs whoever is listed, in turn, until `exits` have left group `which`.
fn serve(server: &mut Server, stage: &Stage, which: usize, exits: u64) -> Result<()> {
    let mut ready = VecDeque::new();
    let gone = |event: &Event| {
        let left = event.reason == Reason::Exited;
        stage.left[which].fetch_add(left.into(), SeqCst);
        left
    };
    while stage.left[which].load(SeqCst) < exits {
        let patience = match ready.is_empty() {
            true => umcg::after(Duration::from_millis(20)),
            false => 0,
        };
        match server.next_event(patience) {
            Ok(event) if gone(&event) => continue,
            Ok(event) => {
                ready.push_back(event.worker);
                continue;
            }
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Again) => {}
            Err(error) => return Err(error).context("next_event"),
        }
        let Some(next) = ready.pop_front() else {
            continue;
        };
        match server.run(next, u64::MAX) {
            Ok(event) => {
                stage.note(&event)?;
                gone(&event);
            }
            Err(error) => match error.kind() {
                ErrorKind::Again | ErrorKind::WrongState | ErrorKind::NotFound => {}
                _ => bail!("run: {error}"),
            },
        }
    }
    Ok(())
}

/// Kicks the one that is to be kicked.
fn kicker(group: &Group, stage: &Arc<Stage>) -> Thread {
    let (group, stage) = (group.clone(), stage.clone());
    thread(move || {
        let mut noise = Noise(7);
        while !stage.stop.load(SeqCst) {
            let id = umcg::Id::from_raw(stage.ids[KICKED].load(SeqCst));
            if !id.is_none() && group.kick(id).is_ok() {
                stage.kicks.fetch_add(1, SeqCst);
            }
            std::thread::sleep(Duration::from_micros(200 + noise.below(1500)));
        }
        Ok(())
    })
}

/// Moves the workers from CPU to CPU.
fn mover(stage: &Arc<Stage>) -> Thread {
    let stage = stage.clone();
    thread(move || {
        let cpus = std::thread::available_parallelism()?.get() as u64;
        let mut noise = Noise(11);
        while !stage.stop.load(SeqCst) {
            let tid = stage.tids[noise.below(WORKERS as u64) as usize].load(SeqCst);
            match noise.below(cpus + 1) {
                _ if tid == 0 => {}
                cpu if cpu < cpus => pin(tid, cpu as usize),
                _ => crate::load::unpin(tid),
            }
            std::thread::sleep(Duration::from_micros(500 + noise.below(3000)));
        }
        Ok(())
    })
}

fn churn_body(wanted: u64) -> Result<()> {
    kick_on(libc::SIGALRM)?;
    let stage = Arc::new(Stage::default());
    let groups = [Group::create(&GroupConfig::default())?, quantum_group(500)?];
    let mut threads = Vec::new();
    for (which, exits) in [(0, 3), (0, 3), (1, 2)] {
        threads.push(server(&groups[which], &stage, which, exits));
    }
    for number in 0..WORKERS {
        let group = &groups[usize::from(number >= TIMED)];
        threads.push(worker(group, &stage, number));
    }
    threads.push(kicker(&groups[0], &stage));
    threads.push(mover(&stage));
    let limit = Instant::now() + Duration::from_secs(40 + wanted / 50);
    let forced = |number: usize| stage.forced[number].load(SeqCst);
    let done = || {
        let timed = forced(TIMED) + forced(TIMED + 1);
        [forced(KICKED), forced(SIGNALLED), timed]
            .iter()
            .all(|&n| n >= wanted)
    };
    while !done() && Instant::now() < limit && !stage.stop.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let done = done();
    stage.stop.store(true, SeqCst);
    client::join_all(threads)?;
    let kicks = stage.kicks.load(SeqCst);
    metric(
        "group_preemption_churn",
        &[
            ("kicks", kicks as f64),
            ("kicked", forced(KICKED) as f64),
            ("signalled", forced(SIGNALLED) as f64),
            ("timed", (forced(TIMED) + forced(TIMED + 1)) as f64),
        ],
    );
    let all: Vec<_> = (0..WORKERS).map(forced).collect();
    ensure!(done, "too few, by worker: {all:?}, want {wanted}");
    ensure!(
        forced(KICKED) <= kicks,
        "{} by {kicks} kicks",
        forced(KICKED)
    );
    Ok(())
}

/// What BPF counted by source has to be what there was.
fn churn<const WANTED: u64>() -> Result<Verdict> {
    let sched = harness::shared()?;
    let names = [
        "grp_by_kick",
        "grp_by_signal",
        "grp_by_quantum",
        "grp_by_deadline",
    ];
    let read = || -> Result<Vec<u64>> { names.iter().map(|name| sched.counter(name)).collect() };
    let before = read()?;
    let missed = sched.counter("kick_missed")?;
    let limit = Duration::from_secs(100 + WANTED / 50);
    client::run_in(&sched, limit, || churn_body(WANTED))?;
    let moved: Vec<_> = read()?
        .iter()
        .zip(before)
        .map(|(now, old)| now - old)
        .collect();
    let missed = sched.counter("kick_missed")? - missed;
    metric(
        "group_preemption_missed",
        &[("kicks_that_hit_others", missed as f64)],
    );
    let (by_source, deadline) = moved.split_at(3);
    ensure!(
        by_source.iter().all(|&n| n >= WANTED) && deadline == [0],
        "counted by BPF: {names:?} {moved:?}"
    );
    Ok(Verdict::Ok)
}
