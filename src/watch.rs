//! `scx_umcg watch --pid N`: a thread's life, edge by edge, read from its word.
//!
//! Its record is mapped read-only and looked at every 100 us, so nothing is asked of the
//! agent or of the thread, and edges that follow one another faster than that are missed:
//! `life.rs` tells how it is known, and it is said.

mod life;
mod record;

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use umcg::word::{State, Word};

use crate::doctor::member::Member;
use crate::doctor::thread::{Explainer, proc_file};
use crate::exit::{Exit, Failure};
use crate::runfile::RunFile;
use crate::shared::Shared;
use crate::status;
use life::{Edge, Kind, Life};
use record::Record;

/// Between two looks.
const LOOK: Duration = Duration::from_micros(100);
/// An edge's books are written just after its word.
const SETTLE: Duration = Duration::from_micros(10);
/// Between two questions whether thread and scheduler are still those.
const ASK: Duration = Duration::from_millis(250);

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The time is over, or a signal came.
    Asked,
    /// The thread has ended.
    Thread,
    /// The scheduler has.
    Scheduler,
}

struct Watch<'a> {
    tid: i32,
    file: &'a RunFile,
    shared: &'a Shared,
    explainer: Explainer,
    out: io::StdoutLock<'a>,
}

/// Watches thread `tid` for `seconds`, or until it ends; or until `stop`.
pub fn run(tid: i32, seconds: Option<f64>, stop: impl Fn() -> bool) -> Result<()> {
    let file = status::running("watch --pid")?;
    let shared = status::open_shared(&file)?;
    let mut watch = Watch {
        tid,
        file: &file,
        shared: &shared,
        explainer: Explainer::open()?,
        out: io::stdout().lock(),
    };
    let end = seconds.map(|s| Instant::now() + Duration::from_secs_f64(s));
    let over = || stop() || end.is_some_and(|end| Instant::now() >= end);
    match watch.tell(over) {
        // Who reads has seen enough.
        Err(err) if is_closed_pipe(&err) => Ok(()),
        Ok(End::Scheduler) => Err(Failure::new(
            Exit::Unexpected,
            format!("cannot watch thread {tid} any more: scx_umcg has ended or was ejected"),
        )
        .into()),
        end => end.map(|_| ()),
    }
}

fn is_closed_pipe(err: &anyhow::Error) -> bool {
    let err = err.downcast_ref::<io::Error>();
    err.is_some_and(|err| err.kind() == ErrorKind::BrokenPipe)
}

impl<'a> Watch<'a> {
    /// From the first line to the summary.
    fn tell(&mut self, over: impl Fn() -> bool) -> Result<End> {
        let thread = (self.explainer).worker(self.tid, self.file.partial, "watch")?;
        let mut record = Record::open(self.file, self.shared, &thread)?;
        let first = record
            .look()
            .context("the thread changed just now; ask again")?;
        let comm = proc_file(self.tid, "comm").replace(char::is_control, "?");
        let name = format!("thread {} ({comm})", self.tid);
        let member = Member::of(&thread).map_or(String::new(), |m| format!("; {}", m.text()));
        let age = ms(first.now_ns.saturating_sub(first.at_ns));
        let state = first.word.label();
        writeln!(self.out, "{name}: {state} for {age} ms{member}")?;
        writeln!(self.out, "{HEADER}")?;
        let mut life = Life::new(record.kind(), first);
        let end = self.follow(&mut life, &mut record, over)?;
        if end == End::Thread {
            writeln!(self.out, "{name} has ended")?;
        }
        write!(self.out, "{}", summary(&name, &life))?;
        Ok(end)
    }

    fn follow(
        &mut self,
        life: &mut Life,
        record: &mut Record<'a>,
        over: impl Fn() -> bool,
    ) -> Result<End> {
        fine_timers();
        let (mut seen, mut asked) = (record.word(), Instant::now());
        while !over() {
            let word = record.word();
            if word.is_some() && word != seen {
                std::thread::sleep(SETTLE);
            }
            // Also of an old word: until now it was there.
            if let Some(look) = record.look() {
                seen = Some(look.word);
                if let Some(edge) = life.saw(look) {
                    write!(self.out, "{}", text(&edge, record.kind()))?;
                    continue;
                }
            }
            if record.word().is_none() || asked.elapsed() >= ASK {
                if let Some(end) = self.ask(life, record)? {
                    return Ok(end);
                }
                seen = record.word();
                asked = Instant::now();
            }
            std::thread::sleep(LOOK);
        }
        Ok(End::Asked)
    }

    /// Whether thread and scheduler are still there, and where its record is now.
    fn ask(&mut self, life: &mut Life, record: &mut Record<'a>) -> Result<Option<End>> {
        let same =
            |now: &RunFile| (now.pid, now.attached_ns) == (self.file.pid, self.file.attached_ns);
        if !RunFile::read()?.is_some_and(|now| same(&now)) {
            return Ok(Some(End::Scheduler));
        }
        let thread = self.explainer.look(self.tid)?;
        if thread.ret != 0 || thread.dead != 0 {
            return Ok(Some(End::Thread));
        }
        if record.is_of(&thread) && record.word().is_some() {
            return Ok(None);
        }
        let moved = Record::open(self.file, self.shared, &thread)?;
        if let Some(look) = moved.look() {
            life.moved(moved.kind(), look);
            let who = Member::of(&thread).map_or("in no group".to_owned(), |m| m.text());
            writeln!(self.out, "{:>17}{who}: {}", "", look.word.label())?;
            *record = moved;
        }
        Ok(None)
    }
}

/// Else the kernel rounds up each sleep by 50 us.
fn fine_timers() {
    // SAFETY: no pointers; it is this thread's own setting.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

const HEADER: &str = "           time  from      to            after_ms  cpu";

fn ms(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1000 % 1000)
}

fn state(word: Word) -> &'static str {
    word.state().map_or("?", State::name)
}

/// The line of an edge, with one before it if some were missed.
fn text(edge: &Edge, kind: Kind) -> String {
    let mut text = String::new();
    if let Some(ns) = edge.missed_ns {
        text += &format!("{:>17}edges missed within {} ms\n", "", ms(ns));
    }
    let us = edge.at_ns / 1000;
    let from = match edge.missed_ns {
        Some(_) => "?",
        None => state(edge.from),
    };
    let spent = match edge.missed_ns {
        Some(_) => "?".to_owned(),
        None => ms(edge.spent_ns),
    };
    let cpu = edge.cpu.map_or("-".to_owned(), |cpu| cpu.to_string());
    let mut line = format!(
        "{:>8}.{:06}  {from:<8}  {:<8}  {spent:>12}  {cpu:>3}",
        us / 1_000_000,
        us % 1_000_000,
        state(edge.to)
    );
    let mut notes: Vec<_> = edge.to.flag_names().map(str::to_lowercase).collect();
    notes.extend(match (edge.mate, kind) {
        (Some(mate), Kind::GroupWorker) => Some(format!("slot of server {mate}")),
        (Some(mate), Kind::GroupServer) => Some(format!("slot has worker {mate}")),
        _ => None,
    });
    if !notes.is_empty() {
        let _ = write!(line, "  {}", notes.join(", "));
    }
    text + &line + "\n"
}

/// What was seen, in all.
fn summary(name: &str, life: &Life) -> String {
    let missed = match life.gaps {
        0 => "none missed".to_owned(),
        n => format!("some missed at {n} places, within {} ms", ms(life.gaps_ns)),
    };
    let (ran, waited) = life.booked();
    let mut text = format!(
        "{name}: watched for {} ms; {} edges seen, {missed}\n\
         {:>10}  {:>8}  {:>12}  {:>12}\n",
        ms(life.watched_ns()),
        life.edges,
        "state",
        "times",
        "total_ms",
        "longest_ms"
    );
    for (state, stay) in State::ALL.iter().zip(life.stays()) {
        if stay.total_ns > 0 || stay.times > 0 {
            let (times, name) = (stay.times, state.name());
            let (total, longest) = (ms(stay.total_ns), ms(stay.longest_ns));
            text += &format!("{name:>10}  {times:>8}  {total:>12}  {longest:>12}\n");
        }
    }
    text += &format!(
        "by its record: ran {} ms, waited {} ms\n",
        ms(ran),
        ms(waited)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use life::Look;
    use umcg::word::{FAULT, PREEMPTED, YIELDED};

    fn edge(from: State, to: State, flags: u64) -> Edge {
        Edge {
            at_ns: 71_204_518_000,
            from: Word(from as u64),
            to: Word(to as u64 | flags),
            spent_ns: 4_113_000,
            missed_ns: None,
            cpu: Some(3),
            mate: None,
        }
    }

    #[test]
    fn edge_text_has_time_states_stay_cpu_and_flags() {
        let line = text(&edge(State::Running, State::Blocked, FAULT), Kind::Worker);
        let want = "      71.204518  RUNNING   BLOCKED          4.113    3  fault\n";
        assert_eq!(line, want);
        let both = text(
            &edge(State::Running, State::Runnable, PREEMPTED | YIELDED),
            Kind::Worker,
        );
        assert!(both.ends_with("3  preempted, yielded\n"), "{both}");
        assert!(HEADER.find("cpu").unwrap() + 3 == want.find("  fault").unwrap());
    }

    #[test]
    fn edge_text_names_the_slot_and_what_was_missed() {
        let mut it = edge(State::Runnable, State::Running, 0);
        it.mate = Some(2);
        assert!(text(&it, Kind::GroupWorker).ends_with("3  slot of server 2\n"));
        assert!(text(&it, Kind::GroupServer).ends_with("3  slot has worker 2\n"));
        it.missed_ns = Some(210_000);
        it.cpu = None;
        let told = text(&it, Kind::Worker);
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[0].contains("edges missed within 0.210 ms"), "{told}");
        let fields: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(fields[1..], ["?", "RUNNING", "?", "-"], "{told}");
    }

    #[test]
    fn summary_adds_up_states() {
        let look = |at: u64, now: u64, state: State| Look {
            word: Word(at << 16 | state as u64),
            at_ns: at,
            now_ns: now,
            run_ns: at,
            wait_ns: 0,
            cpu: None,
            mate: None,
        };
        let mut life = Life::new(Kind::Worker, look(0, 0, State::Running));
        life.saw(look(2_000_000, 2_000_000, State::Blocked));
        life.saw(look(2_000_000, 5_000_000, State::Blocked));
        let told = summary("thread 7 (x)", &life);
        assert!(told.contains("watched for 5.000 ms; 1 edges seen, none missed"));
        let row = |name: &str| -> Vec<String> {
            let line = told.lines().find(|l| l.trim().starts_with(name));
            line.unwrap()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(row("RUNNING")[1..], ["0", "2.000", "2.000"]);
        assert_eq!(row("BLOCKED")[1..], ["1", "3.000", "3.000"]);
        assert!(!told.contains("IDLE"));
        assert!(told.contains("by its record: ran 2.000 ms, waited 0.000 ms"));
    }
}
