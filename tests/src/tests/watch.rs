//! `watch --pid`: a thread's life, edge by edge.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::Kind;
use umcg::backend::Backend;

use super::{Test, short, timed};
use crate::client;
use crate::harness::{Sched, Verdict, adopt, sibling, wait_until};
use crate::load::{self, Hog};

pub const TESTS: &[Test] = &[
    timed(
        "vm_watch_tells_edges_and_their_times",
        "see,newest",
        6,
        edges,
    ),
    short("vm_watch_follows_a_group_s_worker", "see,newest", 4, member),
    short("vm_watch_ends_with_its_thread", "see,newest", 4, ends),
    short(
        "vm_watch_refuses_what_is_no_worker",
        "see,newest",
        5,
        refuses,
    ),
];

/// A `watch` under way.
pub struct Watch {
    child: Child,
    out: BufReader<ChildStdout>,
    text: String,
}

/// A line that tells of an edge.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    pub at_s: f64,
    pub from: String,
    pub to: String,
    /// None after edges that were missed.
    pub after_ms: Option<f64>,
    pub cpu: Option<u32>,
    pub notes: String,
}

/// A line of the summary.
#[derive(Clone, Copy, Debug)]
pub struct Stay {
    pub times: u64,
    pub total_ms: f64,
    pub longest_ms: f64,
}

/// All that it said.
pub struct Told {
    pub text: String,
    pub code: Option<i32>,
    pub edges: Vec<Edge>,
    pub states: HashMap<String, Stay>,
    pub watched_ms: f64,
    pub missed_ms: f64,
}

/// Starts it.
pub fn watch(pid: i32, seconds: f64) -> Result<Watch> {
    start(&["--pid", &pid.to_string(), "--for", &seconds.to_string()])
}

fn start(args: &[&str]) -> Result<Watch> {
    let mut child = Command::new(sibling("scx_umcg"))
        .arg("watch")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    adopt(child.id());
    let out = BufReader::new(child.stdout.take().context("stdout")?);
    Ok(Watch {
        child,
        out,
        text: String::new(),
    })
}

impl Watch {
    fn signal(&self, signal: i32) {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Has it run on `cpu` alone.
    pub fn pin(&self, cpu: usize) {
        load::pin(self.child.id() as i32, cpu);
    }

    /// Waits until it has begun.
    pub fn first_line(&mut self) -> Result<()> {
        self.out.read_line(&mut self.text)?;
        Ok(())
    }

    /// Waits for its end, reading.
    pub fn end(mut self) -> Result<Told> {
        self.out.read_to_string(&mut self.text)?;
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().context("stderr")?;
        stderr.read_to_string(&mut said)?;
        let code = self.child.wait()?.code();
        Told::of(self.text + &said, code)
    }
}

fn number_after(text: &str, before: &str) -> Option<f64> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.split_whitespace().next()?.parse().ok()
}

fn edge(line: &str) -> Option<Edge> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [at, from, to, after, cpu, notes @ ..] = &fields[..] else {
        return None;
    };
    Some(Edge {
        at_s: at.parse().ok().filter(|_| at.contains('.'))?,
        from: (*from).to_owned(),
        to: (*to).to_owned(),
        after_ms: after.parse().ok(),
        cpu: cpu.parse().ok(),
        notes: notes.join(" "),
    })
}

fn stay(line: &str) -> Option<(String, Stay)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [name, times, total, longest] = fields[..] else {
        return None;
    };
    let stay = Stay {
        times: times.parse().ok()?,
        total_ms: total.parse().ok()?,
        longest_ms: longest.parse().ok()?,
    };
    Some((name.to_owned(), stay))
}

impl Told {
    fn of(text: String, code: Option<i32>) -> Result<Self> {
        let (life, summary) = text.split_once("watched for ").unwrap_or((&text, ""));
        Ok(Self {
            edges: life.lines().filter_map(edge).collect(),
            states: summary.lines().filter_map(stay).collect(),
            watched_ms: number_after(&text, "watched for ").unwrap_or(0.0),
            missed_ms: number_after(summary, "places, within ").unwrap_or(0.0),
            code,
            text,
        })
    }

    /// It ended well, and its stays are all of the time.
    pub fn adds_up(&self) -> Result<()> {
        ensure!(self.code == Some(0), "code {:?}: {}", self.code, self.text);
        let stays: f64 = self.states.values().map(|stay| stay.total_ms).sum();
        let off = stays + self.missed_ms - self.watched_ms;
        ensure!(off.abs() < 5.0, "off by {off} ms: {}", self.text);
        Ok(())
    }

    fn pairs(&self, from: &str, to: &str) -> Vec<&Edge> {
        let is = |e: &&Edge| e.from == from && e.to == to;
        self.edges.iter().filter(is).collect()
    }
}

/// Where those run who are watched. Who watches has the other one: it wakes 10,000 times a
/// second, and preempts whoever computes on its CPU.
const LIVES: usize = 0;
const WATCHES: usize = 1;

/// Two hogs take turns on a CPU; another thread sleeps 60 ms at a time there, and is stopped.
fn edges() -> Result<Verdict> {
    let sched = crate::harness::shared()?;
    let hogs = Hog {
        cpu: Some(LIVES),
        ..Hog::default()
    }
    .start_many(2)?;
    let sleeper = load::Napper {
        cpu: LIVES,
        work: Duration::from_millis(30),
        sleep: Duration::from_millis(60),
        ..load::Napper::default()
    }
    .start()?;
    let (mut hog, mut nap) = (watch(hogs[0].pid(), 2.5)?, watch(sleeper.pid(), 2.5)?);
    for watch in [&mut hog, &mut nap] {
        watch.pin(WATCHES);
        watch.first_line()?;
    }
    std::thread::sleep(Duration::from_millis(1500));
    // SAFETY: our own child, not reaped yet.
    unsafe { libc::kill(sleeper.pid(), libc::SIGSTOP) };
    let (hog, nap) = (hog.end()?, nap.end()?);
    for told in [&hog, &nap] {
        let sane = (2300.0..6000.0).contains(&told.watched_ms);
        ensure!(sane, "--for 2.5: {}", told.text);
        told.adds_up()?;
    }
    hog_takes_turns(&hog)?;
    napper_sleeps_and_stops(&nap)?;
    drop((hogs, sleeper));
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Who takes turns with others on a CPU all the time.
fn hog_takes_turns(told: &Told) -> Result<()> {
    let text = &told.text;
    let ran = told.pairs("RUNNING", "RUNNABLE");
    let waited = told.pairs("RUNNABLE", "RUNNING");
    ensure!(ran.len() > 5 && waited.len() > 5, "no turns: {text}");
    let mut turns: Vec<_> = waited.iter().filter_map(|e| e.after_ms).collect();
    let turn = crate::harness::median(&mut turns);
    // Short ones come between while programs watch, and change whose turn it is.
    ensure!(
        (0.2..40.0).contains(&turn),
        "its turn comes after {turn} ms: {text}"
    );
    let there = waited.iter().all(|e| e.cpu == Some(LIVES as u32));
    ensure!(there, "on CPU {LIVES}: {text}");
    ensure!(ran.iter().any(|e| e.notes.contains("preempted")), "{text}");
    let ran = number_after(text, "by its record: ran ").unwrap_or(0.0);
    let share = ran / told.watched_ms;
    ensure!((0.2..0.8).contains(&share), "it ran {share}: {text}");
    ensure!(
        !told.states.contains_key("BLOCKED"),
        "it never sleeps: {text}"
    );
    Ok(())
}

/// Who sleeps 60 ms at a time, 10 times before it is stopped.
fn napper_sleeps_and_stops(told: &Told) -> Result<()> {
    let text = &told.text;
    let slept = told.edges.iter().filter(|e| e.to == "BLOCKED").count();
    ensure!(slept > 5, "it sleeps and wakes: {text}");
    let left = told.pairs("RUNNING", "BLOCKED");
    // Most are seen, but on a busy machine.
    ensure!(!left.is_empty(), "it goes to sleep: {text}");
    let short = left.iter().filter_map(|e| e.after_ms).all(|ms| ms < 2000.0);
    ensure!(short, "{text}");
    let last = told.edges.last().context("no edge")?;
    ensure!(last.to == "BLOCKED" && last.notes == "stopped", "{last:?}");
    let stays = told.states["BLOCKED"];
    ensure!(
        stays.longest_ms > 59.0 && stays.times > 5,
        "stopped: {stays:?}"
    );
    Ok(())
}

/// A server that runs its worker each time it comes back from a wait of 5 ms.
fn waits_in_a_group() -> Result<()> {
    let group = client::group(4)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let worker = client::worker(&group, 0, |group, me| {
        loop {
            let _ = group.wait(me, umcg::now() + 5_000_000)?;
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(3) {
                std::hint::spin_loop();
            }
        }
    });
    loop {
        let event = group.next_event(me, u64::MAX)?;
        let _ = group.run(me, event.worker, u64::MAX);
        ensure!(!worker.is_finished(), "the worker has ended");
    }
}

fn tasks(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tids = tasks.into_iter().flatten().flatten();
    tids.filter_map(|t| t.file_name().to_str()?.parse().ok())
        .collect()
}

fn member() -> Result<Verdict> {
    let sched = crate::harness::shared()?;
    let client = client::spawn(waits_in_a_group)?;
    let mut found = None;
    let up = wait_until(Duration::from_secs(10), || {
        found = tasks(client.pid).into_iter().find(|&tid| tid != client.pid);
        found.is_some()
    });
    ensure!(up, "no worker");
    // It has joined by then; what it did before is no member's life.
    std::thread::sleep(Duration::from_millis(200));
    let worker = watch(found.context("no worker")?, 1.0)?;
    let server = watch(client.pid, 1.0)?;
    let (worker, server) = (worker.end()?, server.end()?);
    ensure!(
        worker.text.contains("; worker 1 of group "),
        "{}",
        worker.text
    );
    ensure!(
        server.text.contains("; server 1 of group "),
        "{}",
        server.text
    );
    let waits = worker.edges.iter().filter(|e| e.to == "IDLE").count();
    ensure!(waits > 20, "it waits: {}", worker.text);
    let over = (worker.edges.iter())
        .filter(|e| e.notes.contains("timedout"))
        .count();
    ensure!(over > 20, "its waits end by time: {}", worker.text);
    let slot = |e: &&Edge| e.to == "RUNNING" && e.notes.contains("slot of server 1");
    ensure!(
        worker.edges.iter().filter(slot).count() > 10,
        "{}",
        worker.text
    );
    let handed = |e: &&Edge| e.notes.contains("slot has worker 1");
    ensure!(server.edges.iter().any(|e| handed(&e)), "{}", server.text);
    client.kill();
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// With the thread, at SIGINT, and with the scheduler.
fn ends() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    let (short, long) = (Hog::default().start()?, Hog::default().start()?);
    let mut watches = [short.pid(), long.pid(), long.pid()]
        .map(|pid| start(&["--pid", &pid.to_string()]))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    watches.iter_mut().try_for_each(Watch::first_line)?;
    std::thread::sleep(Duration::from_millis(300));
    let [brief, asked, left]: [Watch; 3] = watches.try_into().ok().context("three")?;
    drop(short);
    let told = brief.end()?;
    ensure!(
        told.code == Some(0) && told.text.contains(" has ended\n"),
        "{}",
        told.text
    );
    ensure!(!told.states.is_empty(), "a summary: {}", told.text);

    asked.signal(libc::SIGINT);
    let began = Instant::now();
    let told = asked.end()?;
    ensure!(
        told.code == Some(0) && began.elapsed() < Duration::from_secs(5),
        "{}",
        told.text
    );
    ensure!(!told.states.is_empty(), "a summary: {}", told.text);

    sched.stop()?;
    let told = left.end()?;
    let said = "scx_umcg has ended or was ejected";
    ensure!(
        told.code == Some(1) && told.text.contains(said),
        "{}",
        told.text
    );
    ensure!(
        told.watched_ms > 50.0,
        "a summary all the same: {}",
        told.text
    );
    drop(long);
    Ok(Verdict::Ok)
}

/// Exit code 1 and one sentence that holds `want`.
fn refused(pid: i32, want: &str) -> Result<()> {
    let told = watch(pid, 0.5)?.end()?;
    ensure!(
        told.code == Some(1) && told.text.contains(want) && told.text.trim().lines().count() == 1,
        "watch --pid {pid} should say {want:?}: {:?}, {}",
        told.code,
        told.text
    );
    Ok(())
}

fn refuses() -> Result<Verdict> {
    crate::harness::end_shared();
    refused(1, "does not run")?;
    let mut gone = Command::new("true").stdin(Stdio::null()).spawn()?;
    gone.wait()?;
    let fifo = Command::new("sleep").arg("1000").spawn()?;
    adopt(fifo.id());
    load::fifo(fifo.id() as i32)?;
    let sched = Sched::start(&["--partial"])?;
    refused(gone.id() as i32, "does not exist")?;
    refused(fifo.id() as i32, "SCHED_FIFO")?;
    refused(1, "--partial")?;
    let server = tasks(sched.pid() as i32).into_iter().find(|tid| {
        let comm = std::fs::read_to_string(format!("/proc/{tid}/comm"));
        comm.is_ok_and(|comm| comm.starts_with("umcg-server/0"))
    });
    refused(server.context("no server")?, "server 0 of the agent")?;
    let wrong = start(&["--pid", "0"])?.end()?;
    ensure!(
        wrong.code == Some(2) && wrong.text.contains("1..=2147483647"),
        "{}",
        wrong.text
    );
    sched.stop()?;
    Ok(Verdict::Ok)
}
