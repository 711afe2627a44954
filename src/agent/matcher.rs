//! The thread that finds the system group of each worker.
//!
//! BPF counts in a worker's record when it may belong elsewhere (`ask`), this thread looks the
//! thread up in /proc and writes what it found, with the count that it has answered. So a lost
//! message loses nobody; what no event tells of (a change of user without exec) is found by
//! looking at some workers each second. Nothing waits for it: until it has looked, a worker is
//! in its parent's group.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use log::error;
use umcg::ask;
use umcg::record::Worker;
use umcg::sync::Ordering::{Acquire, Relaxed, Release};

use super::bell::{Bell, Ringer};
use super::caps;
use crate::config::rule::{Facts, Rule};
use crate::shared::Shared;

const STACK_BYTES: usize = 256 * 1024;
/// How soon a message that was lost is made up for.
const LOOK: Duration = Duration::from_secs(1);
/// Workers that are looked at each [`LOOK`] without being asked for.
const STROLL: usize = 100;
/// Records are used from the first one on; so many unused ones in a row are the end, whatever
/// is being set up between them.
const GAP: usize = 64;

/// Whom each seat takes, the first one that matches.
#[derive(Debug, Default)]
pub struct Rules {
    list: Vec<(Rule, u32)>,
    /// Moves with each change.
    serial: u64,
}

impl Rules {
    fn seat(&self, facts: &Facts) -> u32 {
        let found = self.list.iter().find(|(rule, _)| rule.takes(facts));
        found.map_or(0, |(_, seat)| *seat)
    }
}

/// The agent's hold on the thread.
#[derive(Debug)]
pub struct Matcher {
    rules: Arc<Mutex<Arc<Rules>>>,
    ringer: Ringer,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Matcher {
    /// Starts it; `bell` is the one that BPF rings.
    pub fn spawn(shared: Arc<Shared>, bell: Bell) -> Result<Self> {
        let rules = Arc::new(Mutex::new(Arc::new(Rules::default())));
        let stop = Arc::new(AtomicBool::new(false));
        let ringer = bell.ringer()?;
        let mut seeker = Seeker {
            shared,
            bell,
            rules: rules.clone(),
            walk: Walk::default(),
        };
        let flag = stop.clone();
        let thread = std::thread::Builder::new()
            .name("umcg-match".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                caps::keep_ptrace();
                seeker.serve(&flag);
            })
            .context("cannot start the thread that matches groups")?;
        Ok(Self {
            rules,
            ringer,
            stop,
            thread,
        })
    }

    /// Matches all workers anew, with these rules and their seats.
    pub fn use_rules(&self, list: Vec<(Rule, u32)>) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.list == list {
            return;
        }
        let serial = rules.serial + 1;
        *rules = Arc::new(Rules { list, serial });
        drop(rules);
        self.ringer.ring();
    }

    /// Ends it.
    pub fn join(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ringer.ring();
        if self.thread.join().is_err() {
            error!("the thread that matches groups panicked; see above");
        }
    }
}

/// The thread's own state.
struct Seeker {
    shared: Arc<Shared>,
    bell: Bell,
    rules: Arc<Mutex<Arc<Rules>>>,
    walk: Walk,
}

impl Seeker {
    fn serve(&mut self, stop: &AtomicBool) {
        let shared = self.shared.clone();
        let records = shared.workers.records();
        let asleep = &shared.sys.records()[0].asleep;
        let mut pace = Pace::from(Instant::now());
        while !stop.load(Ordering::Relaxed) {
            let rules = self
                .rules
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            ask::begin_sleep(asleep);
            let stroll = pace.is_due(Instant::now());
            let worked = self.walk.pass(&rules, records, stroll, stop);
            if !worked && !self.is_outdated() && !stop.load(Ordering::Relaxed) {
                let active = !rules.list.is_empty();
                let left_ms = pace.left(Instant::now()).as_millis() as i32 + 1;
                self.bell.wait_for(if active { left_ms } else { -1 });
            }
            asleep.store(0, Relaxed);
        }
    }

    fn is_outdated(&self) -> bool {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.serial != self.walk.seen
    }
}

/// When to look at some more: once per [`LOOK`], however often somebody asks in between.
struct Pace {
    next: Instant,
}

impl Pace {
    fn from(now: Instant) -> Self {
        Self { next: now + LOOK }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + LOOK;
        }
        due
    }

    fn left(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }
}

/// Where the thread is among the records.
#[derive(Default)]
struct Walk {
    /// Serial of the rules that all workers were matched with.
    seen: u64,
    /// The record that the next stroll begins at.
    stroll: usize,
}

impl Walk {
    /// Looks at all that were asked for; with new rules at all, and with `stroll` at some more.
    /// True: somebody had asked.
    fn pass(&mut self, rules: &Rules, records: &[Worker], stroll: bool, stop: &AtomicBool) -> bool {
        let all = rules.serial != self.seen;
        if rules.list.is_empty() && !all {
            return false;
        }
        let (mut worked, mut gap, mut end) = (false, 0, 0);
        let mut processes = Vec::new();
        let (mut left, mut next) = (if stroll { STROLL } else { 0 }, self.stroll);
        for (index, worker) in records.iter().enumerate().skip(1) {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            let generation = worker.gen_.load(Acquire);
            if generation == 0 {
                gap += 1;
                if gap > GAP {
                    break;
                }
                continue;
            }
            (gap, end) = (0, index);
            let asked_all = worker.ask_all.load(Acquire);
            if asked_all != worker.answered_all.load(Relaxed) {
                processes.push((worker.tgid.load(Relaxed), worker, asked_all));
            }
            let visit = left > 0 && index >= self.stroll && generation & 1 == 1;
            if visit {
                (left, next) = (left - 1, index + 1);
            }
            let asked = worker.is_asked();
            if all || asked || visit {
                look(rules, worker);
                worked |= asked;
            }
        }
        for worker in records.iter().take(end + 1) {
            let tgid = worker.tgid.load(Relaxed);
            if processes.iter().any(|(process, ..)| *process == tgid) {
                look(rules, worker);
            }
        }
        // Not before: who inherits a group meanwhile learns from it that it may be an old one.
        for (_, leader, asked_all) in &processes {
            leader.answered_all.store(*asked_all, Release);
        }
        // The last of them, and some were left: from the first one on.
        self.stroll = if left > 0 && stroll { 0 } else { next };
        self.seen = rules.serial;
        worked || !processes.is_empty()
        // pairs with sys_inherit()
    }
}

/// Finds the group of one worker, if its record is in use and stays so.
fn look(rules: &Rules, worker: &Worker) {
    let generation = worker.gen_.load(Acquire);
    if generation & 1 == 0 {
        return;
    }
    let ask = worker.begin_look();
    let facts = if rules.list.is_empty() {
        Facts::default()
    } else {
        facts(worker.pid.load(Relaxed), &rules.list)
    };
    let seat = rules.seat(&facts);
    if worker.gen_.load(Acquire) != generation {
        return;
    }
    worker.answer(generation, seat, ask);
}

/// What /proc tells of thread `tid`, as far as one of the rules asks for it.
fn facts(tid: i32, list: &[(Rule, u32)]) -> Facts {
    let any = |wants: fn(&Rule) -> bool| list.iter().any(|(rule, _)| wants(rule));
    // Names may be any bytes; one that is no text must not hide all else of a thread.
    let read = |name: &str| {
        let bytes = fs::read(format!("/proc/{tid}/{name}")).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let mut facts = Facts::default();
    if any(|rule| !rule.comm.is_empty()) {
        facts.comm = read("comm").map(|text| text.trim_end_matches('\n').to_owned());
    }
    if any(|rule| !rule.cgroup.is_empty()) {
        facts.cgroup = read("cgroup").as_deref().and_then(cgroup_of);
    }
    if any(|rule| !rule.uid.is_empty()) {
        facts.uid = read("status").as_deref().and_then(uid_of);
    }
    if any(|rule| !rule.exe.is_empty()) {
        let path = fs::read_link(format!("/proc/{tid}/exe")).ok();
        facts.exe = path.map(|path| {
            let path = path.to_string_lossy();
            path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned()
        });
    }
    facts
}

/// The cgroup of version 2 in /proc/PID/cgroup.
fn cgroup_of(text: &str) -> Option<String> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.strip_suffix(" (deleted)").unwrap_or(path).to_owned())
}

/// The effective user in /proc/PID/status.
fn uid_of(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::glob::Glob;

    fn rules(comm: &str) -> Rules {
        let rule = Rule {
            comm: vec![Glob::word(comm)],
            ..Rule::default()
        };
        Rules {
            list: vec![(rule, 3)],
            serial: 1,
        }
    }

    #[test]
    fn facts_of_this_thread_are_read() {
        let rule = Rule {
            comm: vec![Glob::word("*")],
            cgroup: vec![Glob::tree("/")],
            uid: vec![0],
            exe: vec![Glob::file("/**")],
        };
        let me = std::process::id() as i32;
        let got = facts(me, &[(rule, 1)]);
        assert!(got.comm.is_some_and(|comm| !comm.is_empty()));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(got.exe, Some(exe.to_string_lossy().into_owned()));
        // SAFETY: geteuid has no preconditions and cannot fail.
        assert_eq!(got.uid, Some(unsafe { libc::geteuid() }));
        let none = facts(me, &[(Rule::default(), 1)]);
        assert_eq!(
            none,
            Facts::default(),
            "nothing is read that nobody asks for"
        );
    }

    #[test]
    fn proc_files_are_understood() {
        let text = "12:cpu:/old\n0::/system.slice/x.service\n";
        assert_eq!(cgroup_of(text).as_deref(), Some("/system.slice/x.service"));
        assert_eq!(cgroup_of("0::/a (deleted)").as_deref(), Some("/a"));
        assert_eq!(cgroup_of("1:cpu:/old"), None);
        assert_eq!(uid_of("Name:\tx\nUid:\t7\t8\t9\t10\nGid:\t1"), Some(8));
        assert_eq!(uid_of("Name:\tx"), None);
    }

    #[test]
    fn stroll_goes_on_at_its_pace_whoever_asks() {
        let start = Instant::now();
        let mut pace = Pace::from(start);
        let asked_at = (1..=100).map(|n| start + LOOK * n / 20);
        assert_eq!(asked_at.filter(|now| pace.is_due(*now)).count(), 5);
        assert_eq!(pace.left(start + LOOK * 5), LOOK);
        assert_eq!(pace.left(start + LOOK * 7), Duration::ZERO);
    }

    /// A record of a thread that ran.
    fn used(generation: u32) -> Worker {
        let worker = Worker::new();
        worker.gen_.store(generation, Relaxed);
        worker.pid.store(std::process::id() as i32, Relaxed);
        worker
    }

    #[test]
    fn stroll_counts_threads_and_not_records() {
        // Nine of ten are free again.
        let records: Vec<Worker> = (0..2000)
            .map(|n| used(2 + u32::from(n % 10 == 9)))
            .collect();
        let looked = || {
            let given = records.iter().filter(|w| w.sys_gen.load(Relaxed) != 0);
            given.count()
        };
        let (rules, stop) = (rules("*"), AtomicBool::new(false));
        let mut walk = Walk { seen: 1, stroll: 0 };
        for want in [STROLL, 2 * STROLL, 2 * STROLL] {
            walk.pass(&rules, &records, true, &stop);
            assert_eq!(looked(), want);
        }
        assert_eq!(
            walk.stroll, 0,
            "all were looked at: again from the first on"
        );
        walk.pass(&rules, &records, false, &stop);
        assert_eq!(walk.stroll, 0);
    }

    #[test]
    fn question_about_a_process_is_answered_after_its_threads_were_looked_at() {
        let records: Vec<Worker> = (0..9).map(|_| used(1)).collect();
        records.iter().for_each(|w| w.tgid.store(7, Relaxed));
        records[8].tgid.store(8, Relaxed);
        records[3].ask_all.store(2, Relaxed);
        let (rules, stop) = (rules("*"), AtomicBool::new(true));
        let mut walk = Walk { seen: 1, stroll: 0 };
        assert!(!walk.pass(&rules, &records, false, &stop));
        assert_eq!(records[3].answered_all.load(Relaxed), 0, "left at a stop");
        stop.store(false, Relaxed);
        assert!(walk.pass(&rules, &records, false, &stop));
        assert_eq!(records[3].answered_all.load(Relaxed), 2);
        assert!(records[1..8].iter().all(|w| w.sys.load(Relaxed) == 3));
        assert_eq!(records[8].sys.load(Relaxed), 0, "of another process");
        assert!(!walk.pass(&rules, &records, false, &stop));
    }

    #[test]
    fn look_answers_what_was_asked_before_it() {
        let worker = Worker::new();
        worker.pid.store(std::process::id() as i32, Relaxed);
        worker.ask.store(4, Relaxed);
        look(&rules("*"), &worker);
        assert_eq!(worker.answered.load(Relaxed), 0, "nobody has this record");
        worker.gen_.store(7, Relaxed);
        look(&rules("*"), &worker);
        assert_eq!(worker.sys.load(Relaxed), 3);
        assert_eq!(
            (worker.sys_gen.load(Relaxed), worker.answered.load(Relaxed)),
            (7, 4)
        );
        look(&rules("no such name"), &worker);
        assert_eq!(worker.sys.load(Relaxed), 0);
    }
}
