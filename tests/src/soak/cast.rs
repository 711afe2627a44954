//! The loads: unprivileged clients that work until they are told to stop, and know what has to
//! come out. Each fails when anything of it is lost; the run looks whether each gets on.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umcg::kernel::KernelGroup;
use umcg::runtime::{Builder, Queue};
use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Id, Reason, Server, State, Woken};

use super::watch;
use crate::boss::actor;
use crate::client::{self, Client, Name, Progress, WORDS, join_all, serve_by, worker};
use crate::tests::app_cycles::{futexes, pipes, touch};
use crate::tests::group::faulting_pages;
use crate::tests::library::{expected, work};

/// A load gets on at least so often, if nothing is done to it; a wake that takes longer is lost.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Words that all processes of a run share: the end, then how often each part got on.
#[derive(Clone, Copy)]
pub struct Stage(&'static [AtomicU32; WORDS]);

impl Stage {
    /// A new one.
    pub fn new() -> Result<Self> {
        Ok(Self(client::shared_words()?))
    }

    /// The loads go on, or come to their end.
    pub fn set_over(&self, over: bool) {
        self.0[0].store(over.into(), SeqCst);
    }

    /// The loads do little, or what they can.
    pub fn set_hush(&self, hush: bool) {
        self.0[HUSH].store(hush.into(), SeqCst);
    }

    /// The end of a step: a long sleep while there is a hush.
    fn rest(&self) {
        if self.0[HUSH].load(SeqCst) != 0 && !self.is_over() {
            std::thread::sleep(Duration::from_millis(1500));
        }
    }

    fn is_over(&self) -> bool {
        self.0[0].load(SeqCst) != 0
    }

    fn count(&self, part: usize) {
        self.0[part].fetch_add(1, Relaxed);
    }

    /// How often part `part` got on.
    pub fn get(&self, part: usize) -> u32 {
        self.0[part].load(Relaxed)
    }
}

const HUSH: usize = WORDS - 1;

/// One of the loads.
pub struct Role {
    pub name: &'static str,
    /// Its parts in the words of the stage.
    pub parts: std::ops::Range<usize>,
    /// It uses calls that fail when the agent is gone, as the library over it does not.
    pub needs_agent: bool,
    body: fn(Stage, usize) -> Result<()>,
}

/// All of them. `shift` ends by itself; the others when they are told to.
pub const ROLES: [Role; 5] = [
    role("messages", 1..2, false, messages),
    role("sleepers", 2..8, false, sleepers),
    role("blocks", 8..18, false, blocks),
    role("tasks", 18..19, false, tasks),
    role("shift", 19..20, true, shift),
];

const fn role(
    name: &'static str,
    parts: std::ops::Range<usize>,
    needs_agent: bool,
    body: fn(Stage, usize) -> Result<()>,
) -> Role {
    Role {
        name,
        parts,
        needs_agent,
        body,
    }
}

impl Role {
    /// Starts it, as nobody.
    pub fn start(&self, stage: Stage) -> Result<Client> {
        let (body, first) = (self.body, self.parts.start);
        client::spawn(move || body(stage, first))
    }
}

/// Senders that each send all numbers to each receiver, in rounds: each comes, once, in order.
fn messages(stage: Stage, part: usize) -> Result<()> {
    const SENDERS: usize = 4;
    const RECEIVERS: usize = 4;
    const COUNT: u32 = 50;
    while !stage.is_over() {
        let pipes = (0..RECEIVERS).map(|_| std::io::pipe());
        let (readers, writers): (Vec<_>, Vec<_>) = pipes
            .collect::<std::io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let receive = |mut from: std::io::PipeReader| {
            std::thread::spawn(move || -> Result<()> {
                use std::io::Read;
                let (mut next, mut message) = ([0u32; SENDERS], [0u8; 8]);
                while from.read_exact(&mut message).is_ok() {
                    let value = u64::from_ne_bytes(message);
                    let (who, number) = ((value >> 32) as usize, value as u32);
                    ensure!(who < SENDERS, "a message of nobody: {value:#x}");
                    ensure!(
                        next[who] == number,
                        "message {number} of sender {who}, due is {}",
                        next[who]
                    );
                    next[who] += 1;
                }
                ensure!(
                    next == [COUNT; SENDERS],
                    "{next:?} messages of {COUNT} each"
                );
                Ok(())
            })
        };
        let mut threads: Vec<_> = readers.into_iter().map(receive).collect();
        for who in 0..SENDERS as u64 {
            let to = writers.iter().map(std::io::PipeWriter::try_clone);
            let to = to.collect::<std::io::Result<Vec<_>>>()?;
            threads.push(std::thread::spawn(move || -> Result<()> {
                for number in 0..u64::from(COUNT) {
                    for mut pipe in &to {
                        pipe.write_all(&(who << 32 | number).to_ne_bytes())?;
                    }
                }
                Ok(())
            }));
        }
        drop(writers);
        join_all(threads)?;
        stage.count(part);
        stage.rest();
        std::thread::sleep(Duration::from_millis(30));
    }
    Ok(())
}

/// Plain threads that run for a while and sleep for a while, of one range each.
fn sleepers(stage: Stage, first: usize) -> Result<()> {
    const NAPS_US: [(u64, u64); 6] = [
        (20, 100),
        (20, 1000),
        (300, 3000),
        (3000, 9000),
        (50, 20_000),
        (6000, 40_000),
    ];
    let threads = NAPS_US.iter().enumerate().map(|(i, &(run, sleep))| {
        std::thread::spawn(move || -> Result<()> {
            while !stage.is_over() {
                let began = Instant::now();
                while began.elapsed() < Duration::from_micros(run) {
                    std::hint::spin_loop();
                }
                std::thread::sleep(Duration::from_micros(sleep));
                stage.count(first + i);
                stage.rest();
            }
            Ok(())
        })
    });
    join_all(threads.collect())
}

fn named(name: &str) -> GroupConfig {
    GroupConfig {
        name: format!("{}-{name}", watch::NAME),
        ..GroupConfig::default()
    }
}

/// Pages that a worker touches, and begins anew.
const PAGES: usize = 512;
const WORKERS: usize = 10;

/// Two servers and workers that block in each way, in a group that outlives the agent.
fn blocks(stage: Stage, first: usize) -> Result<()> {
    let group = Group::create(&named("blocks"))?;
    let names: &'static [Name; 2] = Box::leak(Box::default());
    let ended: &'static [AtomicU64; 2] = Box::leak(Box::default());
    let actors: Vec<_> = (0..WORKERS)
        .map(|i| {
            let got_on = move || {
                stage.count(first + i);
                stage.rest();
                // No storm: CPUs have to idle now and then.
                if stage.get(first + i).is_multiple_of(16) {
                    std::thread::sleep(Duration::from_millis(4));
                }
                stage.is_over()
            };
            actor(&group, i as u64, move |me| match i {
                0 | 1 => {
                    names[i].set(me.id());
                    while !stage.is_over() {
                        ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
                        ended[i].fetch_add(1, SeqCst);
                        stage.count(first + i);
                    }
                    Ok(())
                }
                2 | 3 => pipes(got_on),
                4 | 5 => futexes(got_on),
                6 | 7 => faults(got_on),
                _ => {
                    while !got_on() {
                        std::thread::sleep(Duration::from_micros(500));
                        if i == 9 {
                            me.yield_now()?;
                        }
                    }
                    Ok(())
                }
            })
        })
        .collect();
    let wakers: Vec<_> = (0..names.len())
        .map(|i| {
            let group = group.clone();
            std::thread::spawn(move || wakes(&group, names[i].get(), &ended[i], stage))
        })
        .collect();
    let left = Arc::new(AtomicU64::new(0));
    let servers: Vec<_> = (0..2)
        .map(|_| {
            let (group, left) = (group.clone(), left.clone());
            std::thread::spawn(move || serve(&mut group.register_server()?, &left))
        })
        .collect();
    join_all(wakers)?;
    actors.into_iter().try_for_each(|it| it.end())?;
    join_all(servers)
}

/// Wakes `id` again and again, each time when its wait has ended.
fn wakes(group: &Group, id: Id, ended: &AtomicU64, stage: Stage) -> Result<()> {
    let result = (|| {
        while !stage.is_over() {
            let before = ended.load(SeqCst);
            group.wake(id)?;
            let limit = Instant::now() + PATIENCE;
            while ended.load(SeqCst) == before && !stage.is_over() {
                ensure!(
                    Instant::now() < limit,
                    "a wake of {id} ended no wait: mode {}, {:?}",
                    group.mode(),
                    group.list()?
                );
                std::thread::sleep(Duration::from_micros(100));
            }
            std::thread::sleep(Duration::from_micros(700));
            stage.rest();
        }
        Ok(())
    })();
    // It may wait yet; it is gone if not.
    let _ = group.wake(id);
    result
}

/// Touches pages that another thread brings, until it is enough.
fn faults(enough: impl Fn() -> bool) -> Result<()> {
    let base = faulting_pages(PAGES)?;
    loop {
        for page in 0..PAGES {
            if enough() {
                return Ok(());
            }
            let at = (base + page * 4096) as *const u8;
            // SAFETY: inside of a mapping of that many pages, which stays.
            std::hint::black_box(unsafe { at.read_volatile() });
        }
        // SAFETY: the same mapping, whose pages are zero and nobody else's.
        unsafe { libc::madvise(base as *mut libc::c_void, PAGES * 4096, libc::MADV_DONTNEED) };
    }
}

/// Runs whoever wants to, oldest first, until all have left.
fn serve(server: &mut Server, left: &AtomicU64) -> Result<()> {
    use ErrorKind::{Again, NotFound, NotHere, TimedOut, WrongState};
    let mut ready: VecDeque<Id> = VecDeque::new();
    let mut last = Instant::now();
    while left.load(SeqCst) < WORKERS as u64 {
        // So long that a notice which is lost is seen to be.
        let most = Duration::from_millis(if ready.is_empty() { 500 } else { 0 });
        match server.next_event(umcg::after(most)) {
            Ok(news) if news.reason == Reason::Exited => {
                left.fetch_add(1, SeqCst);
                continue;
            }
            Ok(news) if ready.contains(&news.worker) => continue,
            Ok(news) => ready.push_back(news.worker),
            Err(error) if matches!(error.kind(), TimedOut | Again) => {}
            Err(error) => bail!("next_event: {error}"),
        }
        let Some(next) = ready.pop_front() else {
            ensure!(
                last.elapsed() < 2 * PATIENCE,
                "nobody to run; {} have left; {:?}",
                left.load(SeqCst),
                server.group().list()?
            );
            continue;
        };
        last = Instant::now();
        let waits = |it: umcg::Snapshot| it.state == State::Idle;
        // Listed long ago, it may have gone on without a slot: a run would end its next wait.
        if server.group().state(next).is_ok_and(waits) {
            continue;
        }
        match server.run(next, umcg::after(Duration::from_secs(1))) {
            Ok(end) if end.reason == Reason::Exited => {
                left.fetch_add(1, SeqCst);
            }
            Ok(_) => {}
            Err(error) if error.kind() == NotHere => {
                ready.push_back(next);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => {
                let fair = matches!(error.kind(), WrongState | Again | NotFound | TimedOut);
                ensure!(fair, "run: {error}");
            }
        }
    }
    Ok(())
}

/// One N:M application after the other: the right sum.
fn tasks(stage: Stage, part: usize) -> Result<()> {
    const TASKS: u64 = 16;
    let want = expected(TASKS);
    for round in 0u64.. {
        if stage.is_over() {
            break;
        }
        let queue = [Queue::Shared, Queue::PerServer][(round % 2) as usize];
        let builder = Builder::new().servers(2).policy("fifo").queue(queue);
        let runtime = builder.group(named("tasks")).build()?;
        let tasks: Vec<_> = (0..TASKS)
            .map(|n| runtime.spawn(move || work(n, Duration::from_millis(2))))
            .collect();
        let mut sum = 0u64;
        for task in tasks {
            let its = task.join().ok().context("a task panicked")?;
            sum = sum.wrapping_add(its);
        }
        let stats = runtime.shutdown();
        ensure!(
            sum == want && stats.spawned == stats.completed,
            "round {round}: sum {sum:#x}, want {want:#x}; {stats:?}"
        );
        stage.count(part);
        stage.rest();
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A group over the daemon alone. The library asks it once and waits for 2 s, then it goes on without:
/// here a daemon that is slow is asked again.
fn patient_group() -> Result<Arc<KernelGroup>> {
    let limit = Instant::now() + PATIENCE / 4;
    loop {
        match client::group(64) {
            Err(error) if Instant::now() < limit && is_slow(&error) => {}
            made => return made,
        }
    }
}

fn is_slow(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<umcg::Error>();
    error.is_some_and(|it| it.kind() == ErrorKind::Again)
}

/// Some thousand blocks in each way, over the daemon alone: each run ends once.
fn shift(stage: Stage, part: usize) -> Result<()> {
    const BLOCKS: u64 = 1500;
    let group = patient_group()?;
    let all = Arc::new(Progress::default());
    let base = faulting_pages(PAGES)?;
    let workers = (0..8usize).map(|i| {
        let all = all.clone();
        worker(&group, i as u64, move |_, _| {
            let enough = || {
                stage.rest();
                all.blocks.load(Relaxed) >= BLOCKS || stage.is_over()
            };
            match i % 4 {
                0 => nap(enough),
                1 => pipes(enough),
                2 => futexes(enough),
                _ => touch(base, PAGES, i, enough),
            }
        })
    });
    let threads: Vec<JoinHandle<Result<()>>> = workers.collect();
    serve_by(&group, 2, threads.len() as u64, &all)?;
    join_all(threads)?;
    stage.count(part);
    Ok(())
}

fn nap(enough: impl Fn() -> bool) -> Result<()> {
    while !enough() {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Groups that come and go, each with two workers.
pub fn groups(rounds: u64) -> Result<()> {
    for round in 0..rounds {
        let group = client::group(8 + round as u32)?;
        let all = Arc::new(Progress::default());
        let workers = (0..2).map(|i| {
            worker(&group, i, move |group, me| {
                use umcg::backend::Backend;
                std::thread::sleep(Duration::from_millis(1));
                group.yield_now(me)?;
                Ok(())
            })
        });
        let workers: Vec<_> = workers.collect();
        serve_by(&group, 1 + (round % 2) as usize, 2, &all)?;
        join_all(workers)?;
    }
    Ok(())
}
