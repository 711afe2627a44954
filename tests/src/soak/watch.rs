//! The watcher: a process of its own that looks for lost wakes from the records, as `status` and
//! `doctor --pid` read them. The agent is not asked.
//!
//! Of the first of them it makes sure: the thread's queue by `umcg_explain`, its affinity and the CPUs
//! of its system group; it is not stopped, frozen, out of `cpu.max`, or held for its group; the word
//! and the CPU are still as they were; and that CPU lets a real-time thread in at once. One that
//! does not is one that the emulator does not run: nobody could be kicked there.
//!
//! It is of a real-time class, so that it looks when it wants to, and on one CPU at a time, in turn:
//! where it wakes up no CPU stays idle. While no other CPU idles it reads nothing more.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use scx_umcg::doctor::thread::{Explainer, explain};
use scx_umcg::groups;
use scx_umcg::runfile::RunFile;
use scx_umcg::shared::Shared;
use scx_umcg::status::open_shared;
use umcg::intf;
use umcg::kernel::record::Truth;
use umcg::kernel::sys::now_ns;
use umcg::record::Worker;
use umcg::sync::Ordering::{Acquire, Relaxed};
use umcg::word::{State, Word};

use super::wake::{Look, MOST_NS, Rule, Waiting};
use crate::harness::{sysfs, wait_until};
use crate::load;

/// The command that is the other end.
pub const COMMAND: &str = "soak-watch";

/// Groups that are looked at: others may leave their workers alone as they like.
pub const NAME: &str = "soak";

const EVERY: Duration = Duration::from_millis(25);
/// Groups are looked at each so many looks.
const GROUPS_EVERY: u64 = 4;
/// After so long it goes to the next CPU.
const STAYS: Duration = Duration::from_secs(1);
/// A CPU that takes longer to let a real-time thread in is the emulator's matter.
const LETS_IN: Duration = Duration::from_millis(20);

/// The process, as the run sees it.
pub struct Watcher {
    child: Child,
    text: String,
}

impl Watcher {
    /// Starts it, for the agent that runs now.
    pub fn start() -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg(COMMAND)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the watcher")?;
        let out = child.stdout.as_ref().context("the watcher's stdout")?;
        // SAFETY: our own descriptor, no pointers.
        unsafe { libc::fcntl(out.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        let text = String::new();
        Ok(Self { child, text })
    }

    /// What it found since it was asked; an error when it has ended.
    pub fn found(&mut self) -> Result<Vec<String>> {
        let mut bytes = [0; 4096];
        let out = self.child.stdout.as_mut().context("the watcher's stdout")?;
        while let Ok(read @ 1..) = out.read(&mut bytes) {
            self.text += &String::from_utf8_lossy(&bytes[..read]);
        }
        let end = self.text.rfind('\n').map_or(0, |at| at + 1);
        let lines: Vec<_> = self.text[..end].lines().map(str::to_owned).collect();
        self.text.drain(..end);
        if lines.is_empty()
            && let Some(status) = self.child.try_wait()?
        {
            anyhow::bail!("the watcher has ended: {status}");
        }
        Ok(lines)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself: a line for each lost wake, until it is killed.
pub fn main() -> ExitCode {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    match watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{COMMAND}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn watch() -> Result<()> {
    // Written after the attachment.
    wait_until(Duration::from_secs(10), || {
        RunFile::read().is_ok_and(|file| file.is_some())
    });
    let file = RunFile::read()?.context("no agent runs")?;
    let mut eye = Eye {
        shared: open_shared(&file)?,
        explainer: Explainer::open()?,
        seq: sysfs("enable_seq"),
        outer: file.maps.groups,
        workers: Rule::default(),
        groups: Rule::default(),
    };
    load::fifo(0)?;
    let began = Instant::now();
    for number in 0u64.. {
        std::thread::sleep(EVERY);
        let turn = (began.elapsed().as_secs() / STAYS.as_secs()) as usize;
        let here = turn % eye.shared.nr_cpus;
        if this_cpu() != here {
            load::pin(0, here); // it stays where it is if that CPU is offline
        }
        let idle = eye.idle();
        if idle.is_empty() {
            eye.workers.rest();
            eye.groups.rest();
            continue;
        }
        if let Some(text) = eye.lost_by_the_system(&idle) {
            println!("{text}");
        }
        if number.is_multiple_of(GROUPS_EVERY)
            && let Some(text) = eye.lost_by_a_group(&idle)
        {
            println!("{text}");
        }
    }
    Ok(())
}

fn this_cpu() -> usize {
    // SAFETY: no arguments.
    unsafe { libc::sched_getcpu() as usize }
}

/// What is looked at, and what was seen.
struct Eye {
    shared: Shared,
    explainer: Explainer,
    seq: String,
    outer: u32,
    workers: Rule,
    groups: Rule,
}

impl Eye {
    /// CPUs that idle, but for the one that this runs on.
    fn idle(&self) -> Vec<u64> {
        let here = this_cpu();
        let cpus = self.shared.cpus().iter().enumerate();
        let idle = cpus.filter(|(cpu, c)| {
            *cpu != here && c.idle_since_ns.load(Relaxed) != 0 && c.offline.load(Relaxed) == 0
        });
        idle.map(|(cpu, _)| cpu as u64).collect()
    }

    /// Records would stand still if the agent had been ejected.
    fn is_attached(&self) -> bool {
        sysfs("state") == "enabled" && sysfs("enable_seq") == self.seq
    }

    fn lost_by_the_system(&mut self, idle: &[u64]) -> Option<String> {
        let now_ns = now_ns();
        let records = self.shared.workers.records().iter().enumerate();
        let waiting = records.filter_map(|(at, w)| {
            let (word, since_ns) = (w.word.load(Acquire), w.since_ns.load(Relaxed));
            let waits = Word(word).state() == Some(State::Runnable)
                && now_ns.saturating_sub(since_ns) > MOST_NS / 2
                && w.gen_.load(Relaxed) & 1 == 1;
            let who = u64::from(w.gen_.load(Relaxed)) << 32 | at as u64;
            waits.then_some(Waiting {
                who,
                word,
                since_ns,
            })
        });
        let look = Look {
            now_ns,
            waiting: waiting.collect(),
            idle: idle.to_vec(),
        };
        let mut rule = std::mem::take(&mut self.workers);
        let mut text = None;
        let found = rule.look(look, |w, cpu| {
            text = self.make_sure(w, cpu as usize);
            text.is_some()
        });
        self.workers = rule;
        found.and(text)
    }

    /// What is wrong with that wait, if anything is.
    fn make_sure(&self, w: &Waiting, cpu: usize) -> Option<String> {
        let at = w.who as u32 as usize;
        let record = &self.shared.workers.records()[at];
        let pid = record.pid.load(Relaxed);
        let told = self.explainer.look(pid).ok()?;
        let is_it = told.ret == 0 && told.known != 0 && told.index as usize == at;
        let is_ours = !matches!(told.policy, 1 | 2 | 6) && told.boosted == 0 && told.dead == 0;
        let bound = told.migration_disabled != 0 && told.cpu != cpu as i32;
        if !is_it || !is_ours || bound || !waits_for_a_cpu(&told) || is_held_back(pid) {
            return None;
        }
        if !self.is_seated_on(record, cpu) || !affinity(pid).contains(&cpu) {
            return None;
        }
        let why = explain(pid)
            .ok()
            .map(|it| format!("{:?}; {}", it.queue, it.why));
        let idle_since = self.shared.cpus()[cpu].idle_since_ns.load(Relaxed);
        if record.word.load(Acquire) != w.word || idle_since == 0 || !self.is_attached() {
            return None;
        }
        let asked = Instant::now();
        load::pin(0, cpu);
        let let_in = asked.elapsed();
        let ms = |ns: u64| ns as f64 / 1e6;
        let now = now_ns();
        let text = format!(
            "thread {pid} ({}) RUNNABLE for {:.0} ms beside cpu {cpu}, idle for {:.0} ms: {}",
            comm(pid),
            ms(now.saturating_sub(w.since_ns)),
            ms(now.saturating_sub(idle_since)),
            why.unwrap_or_default()
        );
        if let_in > LETS_IN {
            eprintln!("{COMMAND}: not counted, the cpu let nobody in for {let_in:?}: {text}");
            return None;
        }
        Some(text)
    }

    /// A worker of a group that is RUNNABLE while all servers wait for events and a CPU idles.
    fn lost_by_a_group(&mut self, idle: &[u64]) -> Option<String> {
        let mut look = Look {
            now_ns: now_ns(),
            ..Look::default()
        };
        let mut seen = Vec::new();
        let groups = groups::read(self.outer).ok()?;
        for group in groups.iter().filter(|it| it.name.starts_with(NAME)) {
            if let Ok(Some(truth)) = groups::truth(self.outer, group.group) {
                look_at_group(group.group, truth.records(), &mut look);
                seen.push((group, truth));
            }
        }
        let mut rule = std::mem::take(&mut self.groups);
        let mut text = None;
        rule.look(look, |w, place| {
            let number = (place >> PLACE_SHIFT) as u32;
            let of_it = seen.iter().find(|(it, _)| it.group == number);
            if let Some((group, truth)) = of_it
                && (w.who >> PLACE_SHIFT) as u32 == number
            {
                let told = self.make_sure_of_member(truth.records(), w, idle);
                text = told.map(|told| format!("{} (group {number}): {told}", group.name));
            }
            text.is_some()
        });
        self.groups = rule;
        text
    }

    /// What is wrong with that wait of a member, if anything is: its servers might serve it.
    fn make_sure_of_member(&self, truth: &[Truth], w: &Waiting, idle: &[u64]) -> Option<String> {
        let at = w.who as u32 as usize;
        let worker = truth.get(at)?;
        let servers = || truth.iter().filter(|it| is_live_server(it));
        let may = |member: &Truth, cpu: usize| {
            let record = &self.shared.workers.records()[member.sys.load(Relaxed) as usize & 0xffff];
            self.is_seated_on(record, cpu) && affinity(member.tid.load(Relaxed)).contains(&cpu)
        };
        let cpu = idle
            .iter()
            .map(|&cpu| cpu as usize)
            .find(|&cpu| may(worker, cpu) && servers().any(|it| may(it, cpu)))?;
        let held_back = |it: &Truth| is_held_back(it.tid.load(Relaxed));
        if held_back(worker) || servers().any(held_back) || !self.is_attached() {
            return None;
        }
        if worker.word.load(Acquire) != w.word {
            return None;
        }
        let state = |it: &Truth| {
            format!(
                "{} of {} (held {})",
                Word(it.word.load(Relaxed)).label(),
                it.tid.load(Relaxed),
                it.held.load(Relaxed)
            )
        };
        let all: Vec<_> = servers().map(state).collect();
        Some(format!(
            "worker {at}, {}, why {}, home {}, for {:.0} ms while servers wait for events: {}; cpu {cpu} \
             idle",
            state(worker),
            worker.why.load(Relaxed),
            worker.home.load(Relaxed),
            now_ns().saturating_sub(w.since_ns) as f64 / 1e6,
            all.join(", ")
        ))
    }

    /// Whether its system group has that CPU.
    fn is_seated_on(&self, record: &Worker, cpu: usize) -> bool {
        let sys = &self.shared.sys.records()[0];
        let seat = sys.sys.get(record.sys_now.load(Relaxed) as usize);
        sys.on.load(Relaxed) == 0
            || seat.is_some_and(|it| it.cpus[cpu / 64].load(Relaxed) >> (cpu % 64) & 1 == 1)
    }
}

fn is_live_server(member: &Truth) -> bool {
    member.gen_.load(Relaxed) & 1 == 1
        && member.kind.load(Relaxed) == intf::umcg_member_kind_UMCG_M_SERVER
}

/// Adds to `look` who waits in group `number`, and its servers as one place if all of them wait
/// for events.
fn look_at_group(number: u32, truth: &[Truth], look: &mut Look) {
    let group = u64::from(number) << PLACE_SHIFT;
    let mut words = None;
    for server in truth.iter().skip(1).filter(|it| is_live_server(it)) {
        let word = server.word.load(Acquire);
        let waits = Word(word).state() == Some(State::Idle);
        if !waits || server.cur.load(Relaxed) != 0 {
            return;
        }
        let before: u64 = words.unwrap_or(0);
        words = Some(before.rotate_left(7) ^ word >> intf::umcg_state_UMCG_TIME_SHIFT);
    }
    let Some(words) = words else { return };
    // The same place only while no server has moved.
    look.idle.push(group | words & ((1 << PLACE_SHIFT) - 1));
    for (at, member) in truth.iter().enumerate().skip(1) {
        let word = member.word.load(Acquire);
        let waits = member.kind.load(Relaxed) == intf::umcg_member_kind_UMCG_M_WORKER
            && member.gen_.load(Relaxed) & 1 == 1
            && member.slot.load(Relaxed) == 0
            && Word(word).state() == Some(State::Runnable);
        if waits {
            look.waiting.push(Waiting {
                who: group | at as u64,
                word,
                since_ns: member.since_ns.load(Relaxed),
            });
        }
    }
}

/// The number of a group stands above.
const PLACE_SHIFT: u32 = 48;

/// Not held by its group, nor out of its cgroup's time. What the records say of a member is true
/// on a queue alone.
fn waits_for_a_cpu(told: &intf::umcg_thread) -> bool {
    const BUILTIN: u64 = 1 << 63;
    let kind = (told.dsq >> 16) as u32;
    let throttled = told.dsq & BUILTIN == 0 && kind == intf::umcg_queue_UMCG_Q_THROTTLE;
    told.held == 0 && !throttled && (told.group == 0 || told.dsq != 0)
}

fn comm(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim_end().to_owned()
}

/// Stopped by a signal or a tracer, or in a cgroup that is frozen.
fn is_held_back(tid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    let stopped = stat
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with(['T', 't']));
    let cgroup = fs::read_to_string(format!("/proc/{tid}/cgroup")).unwrap_or_default();
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
    let freeze = format!("/sys/fs/cgroup{}/cgroup.freeze", path.unwrap_or_default());
    stopped || fs::read_to_string(freeze).is_ok_and(|text| text.trim() == "1")
}

/// The CPUs that it may use.
fn affinity(tid: i32) -> Vec<usize> {
    let text = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list(line.unwrap_or_default())
}

/// `0-2,5` as numbers.
pub fn list(text: &str) -> Vec<usize> {
    let parts = text.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse().ok()?..=to.trim().parse().ok()?)
    });
    parts.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_cpus_with_and_without_ranges() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("3"), [3]);
        assert_eq!(list(""), [0usize; 0]);
    }
}
