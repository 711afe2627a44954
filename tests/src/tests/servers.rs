//! Several servers of one group: one dies and another one takes over, and many share a queue.
//! Over the daemon, as nobody.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Id, Reason, Server, State, Woken, Worker};

use super::preempt::spinner;
use super::{Test, short, timed};
use crate::boss::{Actor, Boss, LIMIT, actor, in_client, is_in_call, is_nobody};
use crate::client;
use crate::harness::{Verdict, metric, wait_until};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_server_dies_selftest_unprivileged",
        "group",
        4,
        server_dies,
    ),
    short(
        "vm_group_server_stops_selftest_unprivileged",
        "group",
        7,
        server_stops,
    ),
    short(
        "vm_group_shared_queue_selftest_unprivileged",
        "group",
        4,
        shared_queue,
    ),
    short(
        "vm_group_next_server_is_told_of_all_unprivileged",
        "group",
        4,
        told_of_all,
    ),
    timed(
        "vm_group_idle_server_takes_over_unprivileged",
        "group",
        4,
        takes_over,
    ),
];

/// What a worker does whose server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Blocked,
    Idle,
    Runnable,
    Running,
}

const PARTS: [Part; 4] = [Part::Blocked, Part::Idle, Part::Runnable, Part::Running];

fn take_part(
    part: Part,
    me: &mut Worker,
    pipe: &std::io::PipeReader,
    words: &[AtomicU32],
) -> Result<()> {
    use std::io::Read;
    match part {
        Part::Blocked => {
            let mut pipe = pipe;
            pipe.read_exact(&mut [0])?;
        }
        Part::Idle => ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out"),
        Part::Runnable => me.yield_now()?,
        Part::Running => {
            while words[10].load(SeqCst) == 0 {
                words[11].fetch_add(1, SeqCst);
            }
        }
    }
    // Then all do what needs a server.
    me.yield_now()?;
    ensure!(me.wait(umcg::after(Duration::from_millis(5)))? == Woken::TimedOut);
    Ok(())
}

/// A server in another process that has the four in their states; it runs the last one then.
fn first_server(file: OwnedFd, pid: i32, words: &[AtomicU32]) -> Result<Boss> {
    let mut boss = Boss::of(Group::open(file)?)?;
    words[8].store(1, SeqCst);
    let mut ids = [Id::NONE; PARTS.len()];
    for part in PARTS {
        ids[part as usize] = boss.new_one(part as u64)?;
    }
    let tid = || words[Part::Blocked as usize].load(SeqCst) as i32;
    boss.settle(ids[0], State::Blocked, || {
        is_in_call(pid, tid(), libc::SYS_read)
    })?;
    boss.settle(ids[1], State::Idle, || true)?;
    boss.until(ids[2], |it| it == Reason::Yielded)?;
    for (i, id) in ids.iter().enumerate() {
        words[16 + 2 * i].store(id.raw() as u32, SeqCst);
        words[17 + 2 * i].store((id.raw() >> 32) as u32, SeqCst);
    }
    words[9].store(1, SeqCst);
    boss.run(ids[3], FOREVER)?;
    Ok(boss)
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") Z ")
}

/// A server in a process of its own, and its four workers in this one.
struct Four {
    first: client::Client,
    group: Group,
    words: &'static [AtomicU32; client::WORDS],
    writer: std::io::PipeWriter,
    actors: Vec<Actor>,
}

impl Four {
    /// They are in their states when this returns. `after`: what their server does when its run
    /// of the last one has ended.
    fn new(after: fn(Boss) -> Result<()>) -> Result<Self> {
        let group = Group::create(&GroupConfig::default())?;
        let file = group.as_fd().try_clone_to_owned()?;
        let words = client::shared_words()?;
        let pid = std::process::id() as i32;
        let first = client::spawn(move || {
            is_nobody()?;
            after(first_server(file, pid, words)?)
        })?;
        let reach = |word: usize| -> Result<()> {
            let there = wait_until(LIMIT, || words[word].load(SeqCst) != 0);
            ensure!(there, "word {word}: {:?}", group.list());
            Ok(())
        };
        reach(8)?;
        let (reader, writer) = std::io::pipe()?;
        let reader = Arc::new(reader);
        let actors: Vec<Actor> = PARTS
            .map(|part| {
                let reader = reader.clone();
                let it = actor(&group, part as u64, move |me| {
                    take_part(part, me, &reader, words)
                });
                words[part as usize].store(it.tid() as u32, SeqCst);
                it
            })
            .into();
        reach(9)?;
        let four = Self {
            first,
            group,
            words,
            writer,
            actors,
        };
        let runs = || {
            let state = four.group.state(four.id(Part::Running));
            state.is_ok_and(|it| it.state == State::Running)
        };
        ensure!(wait_until(LIMIT, runs), "the fourth does not run");
        Ok(four)
    }

    fn id(&self, part: Part) -> Id {
        let word = |at: usize| u64::from(self.words[at].load(SeqCst));
        let at = 16 + 2 * part as usize;
        Id::from_raw(word(at + 1) << 32 | word(at))
    }

    /// The one that ran goes on without its server.
    fn running_goes_on(&self) -> Result<()> {
        let spun = self.words[11].load(SeqCst);
        let goes_on = wait_until(LIMIT, || self.words[11].load(SeqCst) != spun);
        ensure!(goes_on, "it stands still: {:?}", self.group.list()?);
        Ok(())
    }

    /// What each of the four waits for.
    fn let_go(&mut self) -> Result<()> {
        self.words[10].store(1, SeqCst);
        std::io::Write::write_all(&mut self.writer, b"x")?;
        self.group.wake(self.id(Part::Idle))?;
        Ok(())
    }
}

/// A server is killed; a second one takes over who was blocked, waited, was held, or ran.
fn server_dies_body() -> Result<()> {
    let mut four = Four::new(|_| bail!("its worker came back"))?;
    four.first.signal(libc::SIGKILL);
    ensure!(
        wait_until(LIMIT, || is_zombie(four.first.pid)),
        "the first server does not die"
    );
    // Nobody serves it, so it goes on by itself.
    four.running_goes_on()?;
    let mut boss = Boss::of(four.group.clone())?;
    four.let_go()?;
    boss.serve_until(PARTS.len())?;
    for it in four.actors {
        it.end()?;
    }
    boss.alone()
}

pub(super) fn server_dies() -> Result<Verdict> {
    in_client(server_dies_body)
}

/// The process of a server is stopped: nobody else serves, and its workers in another process,
/// blocked, waiting, held and running, all come to their end meanwhile, by the relief valve.
/// When it goes on it is told of each, once.
fn server_stops_body() -> Result<()> {
    let mut four = Four::new(|mut boss| {
        boss.serve_until(PARTS.len())?;
        boss.alone()
    })?;
    four.first.signal(libc::SIGSTOP);
    let stopped = || client::all_stopped(four.first.pid);
    ensure!(wait_until(LIMIT, stopped), "the server does not stop");
    four.running_goes_on()?;
    four.let_go()?;
    let began = Instant::now();
    for it in four.actors {
        it.end()?;
    }
    let took = began.elapsed();
    metric("group_server_stopped", &[("s", took.as_secs_f64())]);
    ensure!(client::all_stopped(four.first.pid), "the server went on");
    four.first.signal(libc::SIGCONT);
    four.first.result(LIMIT)
}

fn server_stops() -> Result<Verdict> {
    in_client(server_stops_body)
}

/// Servers that share one queue: who they told the queue of is run once, by one of them, and
/// no two of them run one worker.
fn shared_queue_body() -> Result<()> {
    const SERVERS: usize = 3;
    const WORKERS: u64 = 8;
    const ROUNDS: u32 = 30;
    let group = Group::create(&GroupConfig::default())?;
    let queue: Arc<Mutex<VecDeque<Id>>> = Arc::default();
    let (exits, inside) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let server = |_| {
        let (group, queue, exits, over) =
            (group.clone(), queue.clone(), exits.clone(), over.clone());
        std::thread::spawn(move || -> Result<u32> {
            let mut me = group.register_server()?;
            let locked = || queue.lock().unwrap_or_else(PoisonError::into_inner);
            let mut runs = 0;
            while !over.load(SeqCst) {
                let wait = locked().is_empty();
                let until = if wait {
                    umcg::after(Duration::from_millis(5))
                } else {
                    0
                };
                match me.next_event(until) {
                    Ok(event) if event.reason == Reason::Exited => {
                        exits.fetch_add(1, SeqCst);
                    }
                    Ok(event) => locked().push_back(event.worker),
                    Err(error) => ensure!(
                        matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Again),
                        "{error}"
                    ),
                }
                let Some(next) = locked().pop_front() else {
                    continue;
                };
                match me.run(next, umcg::after(Duration::from_millis(20))) {
                    Ok(event) => {
                        runs += 1;
                        let left = event.reason == Reason::Exited;
                        exits.fetch_add(u32::from(left), SeqCst);
                    }
                    Err(error) => ensure!(
                        matches!(
                            error.kind(),
                            ErrorKind::WrongState | ErrorKind::Again | ErrorKind::NotFound
                        ),
                        "{error}"
                    ),
                }
                if exits.load(SeqCst) as u64 == WORKERS {
                    over.store(true, SeqCst);
                }
            }
            Ok(runs)
        })
    };
    let servers: Vec<_> = (0..SERVERS).map(server).collect();
    let worker = |cookie| {
        let inside = inside.clone();
        actor(&group, cookie, move |me| {
            for round in 0..ROUNDS {
                match (round + cookie as u32) % 3 {
                    0 => std::thread::sleep(Duration::from_micros(300)),
                    1 => me.yield_now()?,
                    _ => drop(me.wait(umcg::after(Duration::from_micros(500)))?),
                }
                inside.fetch_add(1, SeqCst);
            }
            Ok(())
        })
    };
    let workers: Vec<_> = (0..WORKERS).map(worker).collect();
    for it in workers {
        it.end()?;
    }
    let mut runs = Vec::new();
    for it in servers {
        runs.push(it.join().ok().context("a server panicked")??);
    }
    let (exits, inside) = (exits.load(SeqCst), inside.load(SeqCst));
    ensure!(exits as u64 == WORKERS, "{exits} were told to have left");
    ensure!(inside == ROUNDS * WORKERS as u32, "{inside} rounds");
    ensure!(runs.iter().all(|&it| it > 0), "servers ran {runs:?}");
    metric(
        "group_shared_queue",
        &[("runs", f64::from(runs.iter().sum::<u32>()))],
    );
    Ok(())
}

pub(super) fn shared_queue() -> Result<Verdict> {
    in_client(shared_queue_body)
}

/// How long the busy server stays so; the relief valve does not let anybody run before.
const BUSY: Duration = Duration::from_millis(600);

/// One server runs a worker that computes, and is told of others meanwhile, as nobody waits.
/// The other server, when it has time, is told of them instead.
fn takes_over_body() -> Result<()> {
    const WAITERS: u64 = 4;
    let mut boss = Boss::new()?;
    let group = boss.group.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let busy = spinner(&group, 1, &stop);
    let waiters: Vec<_> = (0..WAITERS)
        .map(|it| {
            actor(&group, 10 + it, |me| {
                me.wait(FOREVER).map(drop).map_err(Into::into)
            })
        })
        .collect();
    let busy_id = boss.new_one(1)?;
    let mut ids = Vec::new();
    for it in 0..WAITERS {
        let id = boss.new_one(10 + it)?;
        boss.until(id, |reason| reason == Reason::Waits)?;
        ids.push(id);
    }
    let other = {
        let (group, stop) = (group.clone(), stop.clone());
        let other = move || -> Result<(Vec<Id>, Duration)> {
            let mut me = group.register_server()?;
            let is_running = || {
                group
                    .state(busy_id)
                    .is_ok_and(|it| it.state == State::Running)
            };
            ensure!(wait_until(LIMIT, is_running), "the worker does not run");
            // This server runs its own code, so all are told to their home.
            for &id in &ids {
                group.wake(id)?;
            }
            let began = Instant::now();
            let mut told = Vec::new();
            while told.len() < ids.len() {
                let event = me.next_event(umcg::after(BUSY))?;
                ensure!(event.reason == Reason::Woken, "{event:?}");
                told.push(event.worker);
            }
            let took = began.elapsed();
            for &id in &told {
                finish(&mut me, id)?;
            }
            me.unregister()?;
            Ok((told, took))
        };
        std::thread::spawn(move || {
            let done = other();
            // Whatever became of it: the first one waits for the end of its worker.
            stop.store(true, SeqCst);
            done
        })
    };
    boss.until(busy_id, |reason| reason == Reason::Exited)?;
    let (mut told, took) = other.join().ok().context("a server panicked")??;
    metric("group_take_over", &[("ms", took.as_secs_f64() * 1e3)]);
    told.sort();
    told.dedup();
    ensure!(told.len() == WAITERS as usize, "told twice: {told:?}");
    ensure!(took < BUSY / 2, "told after {took:?}");
    waiters.into_iter().try_for_each(Actor::end)?;
    busy.end()?;
    boss.alone()
}

fn takes_over() -> Result<Verdict> {
    in_client(takes_over_body)
}

/// Runs `id` until it has left; it may have to wait for a page, or be let run without a slot.
fn finish(server: &mut Server, id: Id) -> Result<()> {
    loop {
        match server.run(id, FOREVER) {
            Ok(end) if end.reason == Reason::Exited => return Ok(()),
            Ok(_) => {}
            Err(error) => match error.kind() {
                ErrorKind::NotFound => return Ok(()),
                ErrorKind::WrongState | ErrorKind::Again => {}
                _ => Err(error)?,
            },
        }
        let _ = server.next_event(umcg::after(Duration::from_millis(100)));
    }
}

/// A server takes three workers off its list, is told of one, and leaves. The next one, which
/// has its record, is told of both, again and again.
fn told_of_all_body() -> Result<()> {
    const ROUNDS: usize = 20;
    const WORKERS: usize = 3;
    let group = Group::create(&GroupConfig::default())?;
    let workers: Vec<_> = (0..WORKERS as u64)
        .map(|cookie| actor(&group, cookie, |_| Ok(())))
        .collect();
    let runnable = || {
        let members = group.list().unwrap_or_default();
        let of = members.iter().filter(|it| it.state == State::Runnable);
        of.count() == WORKERS
    };
    ensure!(wait_until(LIMIT, runnable), "{:?}", group.list()?);
    for round in 0..ROUNDS {
        let mut server = group.register_server()?;
        let first = server.next_event(umcg::after(LIMIT));
        first.with_context(|| format!("round {round}"))?;
        server.unregister()?;
    }
    let mut server = group.register_server()?;
    let mut told: Vec<Id> = Vec::new();
    while told.len() < WORKERS {
        let event = server.next_event(umcg::after(Duration::from_secs(2)));
        let event = event.with_context(|| format!("told of {told:?} alone"))?;
        if !told.contains(&event.worker) {
            told.push(event.worker);
        }
    }
    for id in told {
        finish(&mut server, id)?;
    }
    workers.into_iter().try_for_each(Actor::end)?;
    server.unregister()?;
    Ok(())
}

fn told_of_all() -> Result<Verdict> {
    in_client(told_of_all_body)
}
