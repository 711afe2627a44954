//! `scx_umcg status`: reads the records itself, so it needs no answer from the agent.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapHandle};
use serde::Serialize;
use umcg::record::{Server, Worker};
use umcg::sync::Ordering::{Acquire, Relaxed};
use umcg::sync::fence;
use umcg::word::{self, State, Word};

use crate::agent::server::now_ns;
use crate::counters::{COUNTERS, index};
use crate::exit::{Exit, Failure};
use crate::groups::{self, GroupStatus};
use crate::kernel;
use crate::runfile::RunFile;
use crate::shared::{Mapping, Shared};
use crate::system::{self, SystemStatus};
use crate::waits::{TIERS, TierWaits};

/// How many rescued workers are named.
pub const SHOWN: usize = 8;

/// Who orders the workers right now.
#[derive(Debug, Serialize)]
pub struct Mode {
    /// `server`: the agent decides; `kernel`: it is absent, BPF's order serves;
    /// `none`: not attached.
    pub mode: &'static str,
    /// Seconds in this mode.
    pub since_s: f64,
    /// Why.
    pub reason: String,
}

/// One CPU of the system group.
#[derive(Debug, Serialize)]
pub struct CpuStatus {
    /// Its number.
    pub cpu: usize,
    /// idle, offline, or the pid that runs there (0: none of ours).
    pub running: String,
    /// Workers that wait for it.
    pub waiting: u64,
    /// Longest of these waits, in ms.
    pub longest_wait_ms: f64,
    /// State of its server.
    pub server: String,
    /// Unread notices.
    pub unread: u32,
    /// Choices staged ahead.
    pub staged: usize,
    /// Speed asked of the frequency governor: its utilisation, in percent.
    pub perf_pct: u32,
}

/// A worker, as a person knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Who {
    /// Thread id.
    pub pid: i32,
    /// Its name, empty when it has ended meanwhile.
    pub comm: String,
}

impl Who {
    fn new(pid: i32) -> Self {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self {
            pid,
            comm: comm.trim_end().to_owned(),
        }
    }
}

/// The worker that has waited for the longest time, of those that wait now.
#[derive(Debug, Serialize)]
pub struct LongestWait {
    /// Who waits.
    #[serde(flatten)]
    pub who: Who,
    /// The CPU that it was last parked on.
    pub cpu: usize,
    /// For how long, in ms.
    pub ms: f64,
}

/// A worker that the relief valve released.
#[derive(Debug, Serialize)]
pub struct RescuedWorker {
    /// Who it was.
    #[serde(flatten)]
    pub who: Who,
    /// How often.
    pub times: u32,
}

/// What the relief valve had to do.
#[derive(Debug, Serialize)]
pub struct Rescued {
    /// Releases since the attachment.
    pub total: u64,
    /// The workers that live still and were released most often, at most [`SHOWN`].
    pub workers: Vec<RescuedWorker>,
}

/// Everything that `status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Mode, since when, why.
    #[serde(flatten)]
    pub mode: Mode,
    /// Pid of the agent.
    pub pid: u32,
    /// Policy and how it decides.
    pub policy: String,
    /// key or staged.
    pub decide: String,
    /// Only SCHED_EXT tasks.
    pub partial: bool,
    /// Seconds since it attached.
    pub attached_s: f64,
    /// Ejections by the kernel.
    pub ejections: u64,
    /// Longest time that a CPU idled beside a worker it then ran, in ns.
    pub max_idle_work_ns: u64,
    /// Who waits for the longest time now; none if nobody waits.
    pub longest_wait: Option<LongestWait>,
    /// Workers that had to be released.
    pub rescued: Rescued,
    /// Per CPU.
    pub cpus: Vec<CpuStatus>,
    /// The configuration file, if one was read.
    pub config: Option<String>,
    /// Reloads that were taken over, and those that were refused.
    pub reloads: u64,
    /// See there.
    pub reloads_refused: u64,
    /// System groups, where some are configured.
    pub system: Vec<SystemStatus>,
    /// Of applications.
    pub groups: Vec<GroupStatus>,
    /// How long workers waited for a CPU since it attached, by tier.
    pub waits: BTreeMap<&'static str, TierWaits>,
    /// All counters by name.
    pub counters: serde_json::Map<String, serde_json::Value>,
}

fn open_map(id: u32) -> Result<MapHandle> {
    MapHandle::from_map_id(id).with_context(|| format!("cannot open BPF map {id}"))
}

/// Maps the records of the instance that `file` describes, read-only.
pub fn open_shared(file: &RunFile) -> Result<Shared> {
    fn map<T: Sync>(id: u32, share: usize, len: usize) -> Result<Mapping<T>> {
        let map = open_map(id)?;
        Mapping::new(map.as_fd(), len, map.value_size() as usize / share, false)
    }
    let cpus = umcg::intf::umcg_limits_UMCG_MAX_CPUS as usize;
    let workers = umcg::intf::umcg_limits_UMCG_MAX_WORKERS as usize;
    Ok(Shared {
        workers: map(file.maps.workers, 1, workers)?,
        servers: map(file.maps.servers, 1, cpus)?,
        cpus: map(file.maps.cpus, cpus, cpus)?,
        sys: map(file.maps.sys, 1, 1)?,
        sys_cpus: map(file.maps.sys_cpus, cpus, cpus)?,
        nr_cpus: file.nr_cpus,
    })
}

/// The letter of /proc/PID/stat: is the agent stopped?
fn process_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

fn mode(file: &RunFile, shared: &Shared, now: u64) -> Mode {
    let seconds = |ns: u64| now.saturating_sub(ns) as f64 / 1e9;
    let words: Vec<_> = shared
        .servers()
        .iter()
        .map(|s| (Word(s.word.load(Relaxed)), s.since_ns.load(Relaxed)))
        .collect();
    let stopped = words
        .iter()
        .filter(|(w, _)| w.state() == Some(State::Blocked) && w.flags() & word::STOPPED != 0)
        .map(|&(_, since)| since)
        .max();
    if process_stopped(file.pid) {
        let since = stopped.unwrap_or(now);
        return Mode {
            mode: "kernel",
            since_s: seconds(since),
            reason: "stopped".into(),
        };
    }
    let blocked = words
        .iter()
        .position(|&(w, since)| w.state() == Some(State::Blocked) && seconds(since) > 0.02);
    if let Some(cpu) = blocked {
        let since = seconds(words[cpu].1);
        return Mode {
            mode: "kernel",
            since_s: since,
            reason: format!("server {cpu} blocked"),
        };
    }
    Mode {
        mode: "server",
        since_s: seconds(file.attached_ns),
        reason: "attached".into(),
    }
}

/// What one look at all records tells about those who wait or waited too long.
#[derive(Debug, Default)]
struct Scan {
    /// Workers that wait, and the longest of their waits in ns, by CPU.
    cpus: Vec<(u64, u64)>,
    /// (ns, thread id, CPU) of the longest wait of all.
    longest: Option<(u64, i32, usize)>,
    /// (times, thread id) of those that were released.
    rescued: Vec<(u32, i32)>,
}

impl Scan {
    fn of<'a>(workers: impl IntoIterator<Item = &'a Worker>, nr_cpus: usize, now: u64) -> Self {
        let mut scan = Self {
            cpus: vec![(0, 0); nr_cpus],
            ..Self::default()
        };
        for w in workers {
            let generation = w.gen_.load(Acquire);
            if generation & 1 == 0 {
                continue;
            }
            let pid = w.pid.load(Relaxed);
            let waits = Word(w.word.load(Relaxed)).state() == Some(State::Runnable);
            let wait = now.saturating_sub(w.since_ns.load(Relaxed));
            let home = w.home.load(Relaxed) as usize;
            let rescues = w.rescues.load(Relaxed);
            fence(Acquire);
            if w.gen_.load(Relaxed) != generation {
                continue; // given to another thread while we looked
            }
            if rescues > 0 {
                scan.rescued.push((rescues, pid));
            }
            if let (true, Some(cpu)) = (waits, scan.cpus.get_mut(home)) {
                *cpu = (cpu.0 + 1, cpu.1.max(wait));
                scan.longest = scan.longest.max(Some((wait, pid, home)));
            }
        }
        scan.rescued.sort_by(|a, b| b.cmp(a));
        scan.rescued.truncate(SHOWN);
        scan
    }
}

/// CLOCK_MONOTONIC time of the edge that `word` shows; `since_ns` is from beside it, read after it.
pub fn edge_ns(word: Word, since_ns: u64, ahead_ns: u64, now: u64) -> u64 {
    let since = since_ns.wrapping_add(ahead_ns);
    word.restore_beside(since, now.wrapping_add(ahead_ns))
        .saturating_sub(ahead_ns)
}

/// A server's word, with the full time of its edge: the 48 bits alone start again after 3.26 days.
fn server_text(server: &Server, ahead_ns: u64, now: u64) -> String {
    let word = Word(server.word.load(Acquire));
    let us = edge_ns(word, server.since_ns.load(Relaxed), ahead_ns, now) / 1000;
    let (s, us) = (us / 1_000_000, us % 1_000_000);
    match word.state() {
        Some(State::None) => word.label(),
        _ => format!("{} @{s}.{us:06}s", word.label()),
    }
}

fn cpu_status(shared: &Shared, cpu: usize, waits: (u64, u64), server: String) -> CpuStatus {
    let (record, notices) = (&shared.cpus()[cpu], &shared.servers()[cpu]);
    let (waiting, longest) = waits;
    let running = match record.cur_idx.load(Relaxed) as usize {
        _ if record.offline.load(Relaxed) != 0 => "offline".to_owned(),
        0 if record.idle_since_ns.load(Relaxed) != 0 => "idle".to_owned(),
        0 => "other".to_owned(),
        idx => shared.workers.records()[idx & 0xffff]
            .pid
            .load(Relaxed)
            .to_string(),
    };
    CpuStatus {
        cpu,
        running,
        waiting,
        longest_wait_ms: longest as f64 / 1e6,
        server,
        unread: notices.unread.load(Relaxed),
        staged: notices.ring.len_hint(),
        perf_pct: record.perf.load(Relaxed) * 100 / 1024,
    }
}

/// The instance that runs, for the command `what`; an error says why there is none to look at.
pub fn running(what: &str) -> Result<RunFile> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let uid = unsafe { libc::geteuid() };
    if uid != 0 {
        let text = format!(
            "cannot read BPF maps: running as uid {uid}; needs root; try `sudo scx_umcg {what}`"
        );
        return Err(Failure::new(Exit::Privilege, text).into());
    }
    let Some(file) = RunFile::read()? else {
        let text = match kernel::attached() {
            Some(ops) => format!("scx_umcg does not run: scheduler {ops:?} is attached"),
            None => {
                "scx_umcg does not run: the kernel's own scheduler does; start it with `scx_umcg`"
                    .into()
            }
        };
        return Err(Failure::new(Exit::Unexpected, text).into());
    };
    Ok(file)
}

/// Reads everything; an error says why there is nothing to read.
pub fn read() -> Result<Status> {
    let file = running("status")?;
    let shared = open_shared(&file)?;
    let now = now_ns();
    let scan = Scan::of(shared.workers.records(), shared.nr_cpus, now);
    Ok(Status {
        mode: mode(&file, &shared, now),
        pid: file.pid,
        attached_s: now.saturating_sub(file.attached_ns) as f64 / 1e9,
        ejections: file.ejections,
        max_idle_work_ns: shared
            .cpus()
            .iter()
            .map(|c| c.max_idle_work_ns.load(Relaxed))
            .max()
            .unwrap_or(0),
        longest_wait: scan.longest.map(|(ns, pid, cpu)| LongestWait {
            who: Who::new(pid),
            cpu,
            ms: ns as f64 / 1e6,
        }),
        rescued: Rescued {
            total: shared.counter(index::rescued),
            workers: (scan.rescued.iter())
                .map(|&(times, pid)| RescuedWorker {
                    who: Who::new(pid),
                    times,
                })
                .collect(),
        },
        cpus: (scan.cpus.iter().enumerate())
            .map(|(cpu, &waits)| {
                let server = server_text(&shared.servers()[cpu], file.ahead_ns, now);
                cpu_status(&shared, cpu, waits, server)
            })
            .collect(),
        system: system::read(&shared, &file.system),
        config: file.config,
        reloads: file.reloads,
        reloads_refused: file.reloads_refused,
        groups: groups::read(file.maps.groups)?,
        waits: (TIERS.iter().enumerate())
            .map(|(tier, name)| (*name, (&shared.waits(tier)).into()))
            .collect(),
        counters: COUNTERS
            .iter()
            .enumerate()
            .map(|(i, c)| (c.name.to_owned(), shared.counter(i).into()))
            .collect(),
        policy: file.policy,
        decide: file.decide,
        partial: file.partial,
    })
}

impl Status {
    fn counter(&self, which: usize) -> u64 {
        self.counters[COUNTERS[which].name].as_u64().unwrap_or(0)
    }

    /// The text form, one fact per line.
    pub fn print(&self) {
        println!(
            "mode={} since={:.1}s reason={:?} policy={} decide={} {} agent={} attached={:.0}s ejections={}",
            self.mode.mode,
            self.mode.since_s,
            self.mode.reason,
            self.policy,
            self.decide,
            if self.partial { "partial" } else { "full" },
            self.pid,
            self.attached_s,
            self.ejections,
        );
        let contended = self.counter(index::contended).max(1) as f64;
        let share = |which| self.counter(which) as f64 * 100.0 / contended;
        println!(
            "decided: staged by a server {:.1}%  by key {:.1}%  for an absent server {:.1}%  (of {} switches with two or more waiting)",
            share(index::staged),
            share(index::by_key),
            share(index::absent),
            self.counter(index::contended),
        );
        println!(
            "switches={} direct={} stolen={} activations={} preempted={}",
            self.counter(index::switches),
            self.counter(index::direct),
            self.counter(index::stolen),
            self.counter(index::activations),
            self.counter(index::preempt_wake)
                + self.counter(index::preempt_tick)
                + self.counter(index::preempt_forced),
        );
        self.print_waits();
        if let Some(config) = &self.config {
            println!(
                "configuration: {config}  reloads={} refused={}",
                self.reloads, self.reloads_refused
            );
        }
        system::print(&self.system);
        println!(
            "{:>4} {:>8} {:>8} {:>10} {:>7} {:>7}  server",
            "cpu", "running", "waiting", "longest", "unread", "staged"
        );
        for c in &self.cpus {
            println!(
                "{:>4} {:>8} {:>8} {:>8.1}ms {:>7} {:>7}  {}",
                c.cpu, c.running, c.waiting, c.longest_wait_ms, c.unread, c.staged, c.server
            );
        }
        if !self.groups.is_empty() {
            println!(
                "{:>5} {:>6} {:>8} {:>5} {:>13} {:>6} {:>9} {:>8}  name",
                "group", "uid", "servers", "idle", "workers", "share", "quantum", "policy"
            );
        }
        for g in &self.groups {
            println!(
                "{:>5} {:>6} {:>8} {:>5} {:>13} {:>5}% {:>9} {:>8}  {}",
                g.group,
                g.uid,
                g.servers,
                g.idle,
                format!("{}/{}", g.workers, g.capacity),
                g.share,
                match g.quantum_us {
                    0 => "-".to_owned(),
                    us => format!("{us}us"),
                },
                match g.policy.as_str() {
                    "" => "own",
                    policy => policy,
                },
                g.name
            );
        }
    }
}

impl Status {
    fn print_waits(&self) {
        match &self.longest_wait {
            Some(w) => println!(
                "longest wait: {:.1} ms by {} ({}) on cpu {}",
                w.ms, w.who.pid, w.who.comm, w.cpu
            ),
            None => println!("longest wait: nobody waits"),
        }
        let names: Vec<_> = (self.rescued.workers.iter())
            .map(|w| format!("{} ({}) {}x", w.who.pid, w.who.comm, w.times))
            .collect();
        let names = if names.is_empty() {
            "none of those that live".to_owned()
        } else {
            names.join(", ")
        };
        println!("rescued: {}; {names}", self.rescued.total);
    }
}

/// The command.
pub fn run(json: bool) -> Result<()> {
    let status = read()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        status.print();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(state: State, pid: i32, home: u32, since: u64, rescues: u32) -> Worker {
        let w = Worker::new();
        w.gen_.store(1, Relaxed);
        w.word.store(state as u64, Relaxed);
        w.pid.store(pid, Relaxed);
        w.home.store(home, Relaxed);
        w.since_ns.store(since, Relaxed);
        w.rescues.store(rescues, Relaxed);
        w
    }

    #[test]
    fn server_text_has_the_full_time_also_after_a_wrap() {
        const WRAP: u64 = 1 << 48;
        let (now, ahead) = (5_000_000_000, WRAP - 4_000_000_000);
        let server = Server::new();
        assert_eq!(server_text(&server, 0, now), "NONE");
        // An edge a second before the words' time wraps, looked at two seconds later.
        let at = 3_000_000_000;
        let word = Word(0).next(at + ahead, State::Idle as u64);
        server.word.store(word.0, Relaxed);
        for since in [at, at - 777] {
            // The second has not been written yet.
            server.since_ns.store(since, Relaxed);
            assert_eq!(server_text(&server, ahead, now), "IDLE @3.000000s");
        }
        // Days ago: the word alone would not tell.
        server.since_ns.store(at, Relaxed);
        assert_eq!(server_text(&server, ahead, now + WRAP), "IDLE @3.000000s");
    }

    #[test]
    fn scan_finds_the_longest_wait_and_each_cpu_s_own() {
        let workers = [
            worker(State::Runnable, 11, 0, 700, 0),
            worker(State::Runnable, 12, 1, 400, 2),
            worker(State::Runnable, 13, 1, 900, 5),
            worker(State::Blocked, 14, 0, 1, 0),
            worker(State::Runnable, 15, 9, 1, 0),
        ];
        let free = worker(State::Runnable, 16, 0, 1, 3);
        free.gen_.store(2, Relaxed);
        let scan = Scan::of(workers.iter().chain([&free]), 2, 1000);
        assert_eq!(scan.cpus, [(1, 300), (2, 600)]);
        assert_eq!(scan.longest, Some((600, 12, 1)));
        assert_eq!(scan.rescued, [(5, 13), (2, 12)]);
    }

    #[test]
    fn scan_of_nobody_has_no_longest_wait() {
        let idle = worker(State::Running, 1, 0, 0, 0);
        assert_eq!(Scan::of([&idle], 1, 5).longest, None);
    }
}
