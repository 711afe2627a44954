//! Forced edges from all sources at once, while the workers' CPUs change: each is told of
//! the worker that it was for, and no other one is forced off.
//!
//! Two casts. By asking: a group without a quantum, with a worker that is kicked by a thread alone,
//! one by its own timer's signal alone, one that nobody asks to leave; and one with a quantum, with
//! two that only that ends. By waking: a worker whose key is the highest, one that is woken beside
//! it, one that is as good as that one; and a group with two that signals of other names force off,
//! and one that nobody does. All compute on the same CPUs, and so stand where kicks of others arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umcg::timer::kick_on;
use umcg::{
    ErrorKind, Event, Group, GroupConfig, Id, KEY_NONE, Reason, Server, Source, ThreadTimer,
    TimerClock, Worker, set_key,
};

use super::app::Board;
use super::churn_cast::{ASKED, Acts, CASTS, Cast, MOST, VICTIM, WAITER, WOKEN};
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
        churn::<ASKED, 150>,
    ),
    full(
        "vm_full_group_preemption_churn_unprivileged",
        "preemption",
        900,
        churn::<ASKED, 100_000>,
    ),
    short(
        "vm_group_wake_churn_unprivileged",
        "group",
        8,
        churn::<WOKEN, 500>,
    ),
    full(
        "vm_full_group_wake_churn_unprivileged",
        "preemption",
        900,
        churn::<WOKEN, 100_000>,
    ),
];

/// What the cast share.
struct Stage {
    cast: &'static Cast,
    stop: AtomicBool,
    tids: [AtomicI32; MOST],
    ids: [AtomicU64; MOST],
    /// Kicks, or wakes, that were taken.
    prompts: AtomicU64,
    /// Forced edges, by worker.
    forced: [AtomicU64; MOST],
    /// Those of the first one by its run's limit.
    late: AtomicU64,
    /// Let run without a slot, and on their way off as a server claimed them: by nothing.
    claimed: AtomicU64,
    left: [AtomicU64; 2],
}

impl Stage {
    fn new(cast: &'static Cast) -> Self {
        Self {
            cast,
            stop: AtomicBool::default(),
            tids: Default::default(),
            ids: Default::default(),
            prompts: AtomicU64::default(),
            forced: Default::default(),
            late: AtomicU64::default(),
            claimed: AtomicU64::default(),
            left: Default::default(),
        }
    }

    fn forced(&self, number: usize) -> u64 {
        self.forced[number].load(SeqCst)
    }

    /// Whether each was forced off often enough.
    fn is_done(&self, wanted: u64) -> bool {
        let mut parts = self.cast.parts.iter().enumerate();
        parts.all(|(number, part)| self.forced(number) >= Cast::least(part, wanted))
    }

    fn note(&self, event: &Event) -> Result<()> {
        if event.reason != Reason::Preempted {
            return Ok(());
        }
        let number = event.cookie as usize;
        let part = self.cast.parts.get(number);
        let part = part.with_context(|| format!("of nobody: {event:?}"))?;
        if event.source == Some(Source::Deadline) && number == VICTIM && self.cast.limit.is_some() {
            self.late.fetch_add(1, SeqCst);
            return Ok(());
        }
        if event.source.is_none() {
            self.claimed.fetch_add(1, SeqCst);
            return Ok(());
        }
        ensure!(
            event.source == part.source,
            "{:?} was forced off: {event:?}",
            part.name
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

    fn act(&self, me: &mut Worker, acts: Acts) -> Result<()> {
        let period = Duration::from_millis(2);
        let timer = match acts {
            Acts::Signalled(signal) => {
                Some(ThreadTimer::start(TimerClock::ThreadCpu, period, signal)?)
            }
            _ => None,
        };
        while !self.stop.load(SeqCst) {
            match acts {
                Acts::Computes | Acts::Signalled(_) => {}
                Acts::Rests => {
                    works_for_1_ms();
                    me.yield_now()?;
                }
                Acts::Naps => {
                    works_for_1_ms();
                    let _ = me.wait(umcg::after(Duration::from_millis(2)))?;
                }
                Acts::Waits => {
                    let _ = me.wait(umcg::after(Duration::from_millis(20)))?;
                }
            }
        }
        drop(timer);
        Ok(())
    }
}

fn works_for_1_ms() {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1) {}
}

type Thread = JoinHandle<Result<()>>;

fn thread(body: impl FnOnce() -> Result<()> + Send + 'static) -> Thread {
    std::thread::spawn(body)
}

fn worker(group: &Group, stage: &Arc<Stage>, number: usize) -> Thread {
    let (group, stage) = (group.clone(), stage.clone());
    thread(move || {
        let part = &stage.cast.parts[number];
        set_key(part.key);
        let mut me = group.register_worker(number as u64)?;
        stage.ids[number].store(me.id().raw(), SeqCst);
        // SAFETY: no arguments.
        stage.tids[number].store(unsafe { libc::gettid() }, SeqCst);
        stage.act(&mut me, part.acts)
    })
}

fn server(group: &Group, stage: &Arc<Stage>, which: usize) -> Thread {
    let (group, stage, exits) = (group.clone(), stage.clone(), stage.cast.exits(which));
    thread(move || {
        let mut server = group.register_server()?;
        serve(&mut server, &stage, which, exits).inspect_err(|_| stage.stop.store(true, SeqCst))
    })
}

/// The one of `ready` with the lowest key, the oldest of them.
fn next(ready: &mut Vec<Event>, stage: &Stage) -> Option<Event> {
    let key = |event: &Event| {
        let part = stage.cast.parts.get(event.cookie as usize);
        part.map_or(KEY_NONE, |part| part.key)
    };
    let at = (0..ready.len()).min_by_key(|&at| key(&ready[at]))?;
    Some(ready.remove(at))
}

/// Runs whoever is listed, by keys, then in turn, until `exits` have left group `which`.
fn serve(server: &mut Server, stage: &Stage, which: usize, exits: u64) -> Result<()> {
    let mut ready = Vec::new();
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
                ready.push(event);
                continue;
            }
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Again) => {}
            Err(error) => return Err(error).context("next_event"),
        }
        let Some(next) = next(&mut ready, stage) else {
            continue;
        };
        let limit = stage.cast.limit.filter(|_| next.cookie == VICTIM as u64);
        match server.run(next.worker, limit.map_or(u64::MAX, umcg::after)) {
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

/// Kicks the one that is to be kicked, or wakes the one that is to be woken.
fn prompter(group: &Group, stage: &Arc<Stage>) -> Thread {
    let (group, stage) = (group.clone(), stage.clone());
    thread(move || {
        let mut noise = Noise(7);
        let kicks = stage.cast.parts[VICTIM].source == Some(Source::Kick);
        let whom = if kicks { VICTIM } else { WAITER };
        while !stage.stop.load(SeqCst) {
            let id = Id::from_raw(stage.ids[whom].load(SeqCst));
            let taken = match kicks {
                _ if id.is_none() => false,
                true => group.kick(id).is_ok(),
                false => group.wake(id).is_ok(),
            };
            stage.prompts.fetch_add(taken.into(), SeqCst);
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
        let workers = stage.cast.parts.len() as u64;
        let mut noise = Noise(11);
        while !stage.stop.load(SeqCst) {
            let tid = stage.tids[noise.below(workers) as usize].load(SeqCst);
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

/// By number on the board: what the servers were told, by source.
const SOURCES: [(Source, &str); 5] = [
    (Source::Kick, "grp_by_kick"),
    (Source::Signal, "grp_by_signal"),
    (Source::Quantum, "grp_by_quantum"),
    (Source::Deadline, "grp_by_deadline"),
    (Source::Wake, "grp_by_wake"),
];

const DEADLINE: usize = 3;
/// Behind them: [`Stage::claimed`].
const CLAIMED: usize = SOURCES.len();

fn groups(cast: &Cast) -> Result<[Group; 2]> {
    let plain = || Group::create(&GroupConfig::default());
    let second = match cast.quantum_us {
        Some(us) => quantum_group(us)?,
        None => plain()?,
    };
    Ok([plain()?, second])
}

fn churn_body(cast: &'static Cast, wanted: u64, board: Board) -> Result<()> {
    let stage = Arc::new(Stage::new(cast));
    let groups = groups(cast)?;
    let mut threads = Vec::new();
    for &which in cast.servers {
        threads.push(server(&groups[which], &stage, which));
    }
    for (number, part) in cast.parts.iter().enumerate() {
        if let Acts::Signalled(signal) = part.acts {
            kick_on(signal)?;
        }
        threads.push(worker(&groups[part.group], &stage, number));
    }
    threads.push(prompter(&groups[0], &stage));
    threads.push(mover(&stage));
    let limit = Instant::now() + Duration::from_secs(40 + wanted / 50);
    while !stage.is_done(wanted) && Instant::now() < limit && !stage.stop.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let done = stage.is_done(wanted);
    stage.stop.store(true, SeqCst);
    client::join_all(threads)?;
    tell(&stage, board);
    let all: Vec<_> = (0..cast.parts.len())
        .map(|number| (cast.parts[number].name, stage.forced(number)))
        .collect();
    ensure!(done, "too few: {all:?}, want {wanted}");
    let (forced, prompts) = (stage.forced(VICTIM), stage.prompts.load(SeqCst));
    let late = stage.late.load(SeqCst);
    ensure!(
        late * 4 <= forced,
        "{late} runs by {forced} wakes ended by their limit"
    );
    // Wakes that nobody prompted are those of waits that end by time.
    let kicked = cast.parts[VICTIM].source == Some(Source::Kick);
    ensure!(!kicked || forced <= prompts, "{forced} by {prompts} kicks");
    Ok(())
}

fn tell(stage: &Stage, board: Board) {
    let late = stage.late.load(SeqCst);
    let prompts = stage.prompts.load(SeqCst);
    let mut told = vec![("prompts", prompts as f64), ("late", late as f64)];
    board.set(DEADLINE, late);
    board.set(CLAIMED, stage.claimed.load(SeqCst));
    for (number, part) in stage.cast.parts.iter().enumerate() {
        let forced = stage.forced(number);
        told.push((part.name, forced as f64));
        if let Some(at) = SOURCES.iter().position(|it| Some(it.0) == part.source) {
            board.set(at, board.get(at) + forced);
        }
    }
    metric(stage.cast.metric, &told);
}

/// What BPF counted by source has to be what there was.
fn churn<const CAST: usize, const WANTED: u64>() -> Result<Verdict> {
    let (sched, board, cast) = (harness::shared()?, Board::new()?, &CASTS[CAST]);
    let read = || -> Result<Vec<u64>> {
        let counters = SOURCES.iter().map(|(_, name)| sched.counter(name));
        counters.collect()
    };
    let before = read()?;
    let (missed, given_back) = (sched.counter("kick_missed")?, sched.counter("grp_late")?);
    let limit = Duration::from_secs(100 + WANTED / 50);
    client::run_in(&sched, limit, || churn_body(cast, WANTED, board))?;
    let after = read()?;
    let missed = sched.counter("kick_missed")? - missed;
    let (claimed, given_back) = (board.get(CLAIMED), sched.counter("grp_late")? - given_back);
    metric(
        "group_preemption_missed",
        &[
            ("kicks_that_hit_others", missed as f64),
            ("by_nothing", claimed as f64),
            ("given_back", given_back as f64),
        ],
    );
    // worker_hold() has counted each; it takes a claim within a microsecond of its look.
    ensure!(
        claimed <= given_back && claimed * 1000 <= WANTED,
        "{claimed} were forced off by nothing; {given_back} gave a slot back"
    );
    for (at, (source, name)) in SOURCES.into_iter().enumerate() {
        let moved = after[at] - before[at];
        let by = cast.parts.iter().filter(|it| it.source == Some(source));
        let least: u64 = by.map(|part| Cast::least(part, WANTED)).sum();
        let told = board.get(at);
        ensure!(
            moved >= told.max(least) && (told.max(least) > 0 || moved == 0),
            "{name} moved by {moved}; {told} were told, want {least}"
        );
    }
    Ok(Verdict::Ok)
}
