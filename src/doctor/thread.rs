//! `scx_umcg doctor --pid N`: why a thread does not run, in plain words.
//!
//! What BPF alone can see comes from the program `umcg_explain`, the rest from the records and
//! from /proc. The agent is not asked, so this works while it is stopped.

use std::fs;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use libbpf_rs::{Program, query::ProgInfoIter};
use serde::Serialize;
use umcg::intf;
use umcg::record::{Cpu, Worker};
use umcg::sync::Ordering::Relaxed;
use umcg::word::{self, State, Word};

use crate::agent::server::{now_ns, run_program};
use crate::doctor::member::Member;
use crate::doctor::queue::Queue;
use crate::exit::{Exit, Failure};
use crate::shared::Shared;
use crate::status;

/// Dispatches and ticks of ours keep a CPU's `dispatch_ns` younger than this.
const HELD_NS: u64 = 500_000_000;

/// The answer; its text form has one line per field.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Thread id.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// The reason in one sentence.
    pub why: String,
    /// State of its word: NONE, RUNNING, RUNNABLE, BLOCKED, or IDLE of a group's member.
    pub state: String,
    /// How long it has been in that state, in ms; none before its first edge.
    pub age_ms: Option<f64>,
    /// What the word's flags say, or where in the kernel it waits.
    pub detail: String,
    /// The application group that it belongs to.
    pub member: Option<Member>,
    /// Where it is queued.
    pub queue: Queue,
    /// Workers on the same queue that come before it.
    pub ahead: Option<usize>,
    /// The server that it was last parked on, and that server's state.
    pub owner: String,
    /// The CPUs that it may use.
    pub affinity: String,
    /// It may not leave its CPU now.
    pub migration_disabled: bool,
    /// 100 = nice 0.
    pub weight: u32,
    /// Its scheduling policy.
    pub policy: String,
    /// Failed takes of it, or from its queue, since it waits; the latest of each kind.
    pub refusals: Vec<Refusal>,
}

/// A take that failed.
#[derive(Debug, PartialEq, Serialize)]
pub struct Refusal {
    /// The CPU that tried.
    pub cpu: u32,
    /// How long ago, in ms.
    pub ago_ms: f64,
    /// Why it failed.
    pub reason: &'static str,
}

impl Refusal {
    /// Reads one; none if there was none, or it is older than `since`, the start of this wait.
    fn of(note: u64, since: u64, now: u64) -> Option<Self> {
        // Its time is where a word has it.
        let ago = Word(note).elapsed(now);
        if note == 0 || ago > now.saturating_sub(since) {
            return None;
        }
        let reason = match (note & u64::from(intf::umcg_refusal_UMCG_R_MASK)) as u32 {
            intf::umcg_refusal_UMCG_R_AFFINITY => "its affinity does not allow that cpu",
            intf::umcg_refusal_UMCG_R_MIGRATION => {
                "it may not leave its cpu: migration is disabled"
            }
            intf::umcg_refusal_UMCG_R_CLAIM => "another server had claimed it",
            intf::umcg_refusal_UMCG_R_QUEUE => "it was not on its queue yet",
            intf::umcg_refusal_UMCG_R_PASSED => {
                "staged, but the head of the queue was 5 ms earlier"
            }
            intf::umcg_refusal_UMCG_R_UNFIT => "nobody who waited on its queue may run on that cpu",
            _ => return None,
        };
        Some(Self {
            cpu: (note >> intf::umcg_refusal_UMCG_R_CPU_SHIFT & 0xfff) as u32,
            ago_ms: ago as f64 / 1e6,
            reason,
        })
    }
}

/// The question, with nothing answered yet.
pub(super) const fn ask(tid: i32) -> intf::umcg_thread {
    intf::umcg_thread {
        tid,
        ret: 0,
        known: 0,
        kind: 0,
        index: 0,
        gen_: 0,
        server: 0,
        cpu: 0,
        policy: 0,
        boosted: 0,
        bound: 0,
        migration_disabled: 0,
        dead: 0,
        group: 0,
        member: 0,
        mate: 0,
        held: 0,
        pad0: 0,
        word: 0,
        since_ns: 0,
        dsq: 0,
    }
}

/// The program that tells what the kernel and BPF know of a thread.
#[derive(Debug)]
pub struct Explainer(OwnedFd);

impl Explainer {
    /// That of the instance which was loaded last.
    pub fn open() -> Result<Self> {
        let id = ProgInfoIter::default()
            .filter(|p| p.name.to_str() == Some("umcg_explain"))
            .map(|p| p.id)
            .max()
            .context("the program umcg_explain is not loaded; restart the agent")?;
        let prog = Program::fd_from_id(id).context("cannot open the program umcg_explain")?;
        Ok(Self(prog))
    }

    /// What is known of thread `tid` now.
    pub fn look(&self, tid: i32) -> Result<intf::umcg_thread> {
        let mut thread = ask(tid);
        run_program(&self.0, &mut thread)?;
        Ok(thread)
    }

    /// The same, if it is a worker; `verb`: what was wanted of it.
    pub fn worker(&self, tid: i32, partial: bool, verb: &str) -> Result<intf::umcg_thread> {
        let thread = self.look(tid)?;
        let refuse = |text: String| Failure::new(Exit::Unexpected, text);
        if thread.ret != 0 {
            return Err(refuse(format!(
                "cannot {verb} thread {tid}: it does not exist; it has ended or the number is \
                 wrong; `ps -eLo tid,comm` lists those that live"
            ))
            .into());
        }
        if let Some(why) = no_worker(&thread, partial) {
            let comm = proc_file(tid, "comm");
            return Err(refuse(format!("thread {tid} ({comm}) is no worker: {why}")).into());
        }
        Ok(thread)
    }
}

pub(crate) fn proc_file(tid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{tid}/{name}")).unwrap_or_default();
    text.trim_end().to_owned()
}

fn policy_name(policy: u32) -> String {
    match policy {
        0 => "SCHED_OTHER",
        1 => "SCHED_FIFO",
        2 => "SCHED_RR",
        3 => "SCHED_BATCH",
        5 => "SCHED_IDLE",
        6 => "SCHED_DEADLINE",
        7 => "SCHED_EXT",
        _ => return format!("policy {policy}"),
    }
    .to_owned()
}

/// Why `t` is nobody whom a policy decides about; none if it is a worker.
fn no_worker(t: &intf::umcg_thread, partial: bool) -> Option<String> {
    const REAL_TIME: [u32; 3] = [1, 2, 6];
    const SCHED_EXT: u32 = 7;
    let policy = policy_name(t.policy);
    Some(if t.dead != 0 {
        "it has ended and waits for its parent to notice".to_owned()
    } else if REAL_TIME.contains(&t.policy) {
        format!("it is {policy}, which runs before all that scx_umcg schedules")
    } else if t.known != 0 && t.kind == intf::umcg_kind_UMCG_K_SERVER {
        format!("it is server {} of the agent", t.server)
    } else if partial && t.policy != SCHED_EXT {
        format!(
            "it is {policy} and the agent runs with --partial; the kernel's own scheduler runs it"
        )
    } else if t.known != 0 && t.kind == intf::umcg_kind_UMCG_K_KERNEL && t.bound != 0 {
        format!(
            "it is a kernel thread of cpu {}, which runs before all workers there",
            t.cpu
        )
    } else if t.known != 0 && t.kind == intf::umcg_kind_UMCG_K_KERNEL {
        format!(
            "it is a kernel thread; it runs from the kernel-fair queue of cpu {}",
            t.cpu
        )
    } else if t.boosted != 0 {
        "it holds a lock that a real-time thread waits for, and runs in that class until then"
            .to_owned()
    } else if t.known == 0 || t.kind == intf::umcg_kind_UMCG_K_ANONYMOUS {
        format!(
            "there was no record left for it; it runs from the kernel-fair queue of cpu {}",
            t.cpu
        )
    } else {
        return None;
    })
}

/// Where a worker stands, read once.
struct Place<'a> {
    shared: &'a Shared,
    thread: intf::umcg_thread,
    worker: &'a Worker,
    member: Option<Member>,
    word: Word,
    since: u64,
    queue: Queue,
    ahead: Option<usize>,
    now: u64,
}

impl Place<'_> {
    fn owner(&self) -> String {
        let home = self.worker.home.load(Relaxed) as usize;
        let Some(server) = self.shared.servers().get(home) else {
            return "none".to_owned();
        };
        let link = match self.worker.queued.load(Relaxed) {
            0 => "no unread notice about it".to_owned(),
            owner => format!("server {} has not read the notice about it", owner - 1),
        };
        let word = Word(server.word.load(Relaxed));
        let age = self.now.saturating_sub(server.since_ns.load(Relaxed));
        let does = match word.state() {
            Some(State::Running) => "deciding",
            Some(State::Runnable) => "waiting for its cpu",
            Some(State::Idle) => "with nothing to decide",
            Some(State::Blocked) => "blocked, so that BPF's own order serves",
            _ => "not started",
        };
        format!(
            "server {home}, {does} for {:.1} ms; {link}",
            age as f64 / 1e6
        )
    }

    fn detail(&self) -> String {
        let flags = self.word.flags();
        let wchan = proc_file(self.thread.tid, "wchan");
        let within = match wchan.as_str() {
            "" | "0" => String::new(),
            at => format!(" ({at})"),
        };
        match self.word.state() {
            Some(State::Idle) if flags & word::ASLEEP != 0 => {
                "in a wait of its group, asleep".into()
            }
            Some(State::Idle) => "in a wait of its group".into(),
            Some(State::Runnable) if flags & word::PREEMPTED != 0 => "pushed off its cpu".into(),
            Some(State::Runnable) if flags & word::YIELDED != 0 => "gave its cpu up".into(),
            Some(State::Runnable) => "woken up".into(),
            Some(State::Blocked) if flags & word::STOPPED != 0 => {
                "stopped by a signal, a tracer or the freezer".into()
            }
            Some(State::Blocked) if flags & word::FAULT != 0 => format!("in a page fault{within}"),
            Some(State::Blocked) => format!("in a system call{within}"),
            Some(State::Running) if flags & word::RESCUED != 0 => {
                "released by the relief valve".into()
            }
            Some(State::Running) => format!("on cpu {}", self.thread.cpu),
            _ => "no edge was seen of it since scx_umcg was attached".into(),
        }
    }

    fn cpu(&self, cpu: u32) -> Option<&Cpu> {
        self.shared.cpus().get(cpu as usize)
    }

    /// What `cpu` does instead of running it.
    fn busy_with(&self, cpu: u32) -> String {
        let Some(c) = self.cpu(cpu) else {
            return format!("cpu {cpu} is none of ours");
        };
        let quiet = self.now.saturating_sub(c.dispatch_ns.load(Relaxed));
        if c.offline.load(Relaxed) != 0 {
            return format!("cpu {cpu} is offline; another cpu that it may use will take it");
        }
        if c.idle_since_ns.load(Relaxed) != 0 {
            return format!("cpu {cpu} is idle and about to look");
        }
        if quiet > HELD_NS {
            return format!(
                "a higher class has held cpu {cpu} for {:.0} ms",
                quiet as f64 / 1e6
            );
        }
        let idx = c.cur_idx.load(Relaxed) as usize;
        let ran = self.now.saturating_sub(c.picked_ns.load(Relaxed)) as f64 / 1e6;
        match self.shared.workers.records().get(idx) {
            Some(w) if idx != 0 => {
                let pid = w.pid.load(Relaxed);
                let comm = proc_file(pid, "comm");
                format!("cpu {cpu} has run {pid} ({comm}) for {ran:.1} ms")
            }
            _ => format!("cpu {cpu} runs something that is no worker"),
        }
    }

    fn why(&self) -> String {
        if let Some(member) = self.member.filter(|m| m.held) {
            return member.why(self.word.state());
        }
        match self.word.state() {
            // A slot that waits for its CPU is no edge of who has it.
            Some(State::Running) if self.waits_in_slot() => self.why_runnable(),
            Some(State::Running) => format!("it runs, on cpu {}", self.thread.cpu),
            Some(State::Blocked) => format!("it does not want a cpu: {}", self.detail()),
            Some(State::Runnable) => self.why_runnable(),
            Some(State::Idle) => "it waits for its group".to_owned(),
            _ => "it has slept since scx_umcg was attached".to_owned(),
        }
    }

    fn waits_in_slot(&self) -> bool {
        self.member.is_some() && matches!(self.queue, Queue::Park(_) | Queue::Throttle(_))
    }

    fn why_runnable(&self) -> String {
        match (self.queue, self.ahead) {
            (Queue::Park(cpu), Some(0)) => format!("it is next; {}", self.busy_with(cpu)),
            (Queue::Park(cpu), ahead) => format!(
                "{} come before it on cpu {cpu}; {}",
                ahead.unwrap_or_default(),
                self.busy_with(cpu)
            ),
            (Queue::Hand(cpu) | Queue::Local(cpu) | Queue::KernelFair(cpu), _) => {
                format!("it is to run there soon; {}", self.busy_with(cpu))
            }
            (Queue::Throttle(_), _) => {
                "a cgroup of it has used up its cpu.max; it goes on when time is added".to_owned()
            }
            _ => "it is between two queues; ask again".to_owned(),
        }
    }

    fn refusals(&self) -> Vec<Refusal> {
        if self.word.state() != Some(State::Runnable) {
            return Vec::new();
        }
        let home = self.cpu(self.worker.home.load(Relaxed));
        [
            Some(self.worker.refused.load(Relaxed)),
            home.map(|c| c.unfit.load(Relaxed)),
        ]
        .into_iter()
        .flatten()
        .filter_map(|note| Refusal::of(note, self.since, self.now))
        .collect()
    }
}

/// Workers on PARK of `cpu` whose key is before that of `worker`.
fn count_ahead(shared: &Shared, cpu: u32, worker: &Worker) -> usize {
    let key = worker.key.load(Relaxed);
    let waits = |w: &&Worker| {
        w.gen_.load(Relaxed) & 1 == 1
            && w.home.load(Relaxed) == cpu
            && Word(w.word.load(Relaxed)).state() == Some(State::Runnable)
            && (w.key.load(Relaxed).wrapping_sub(key) as i64) < 0
    };
    shared.workers.records().iter().filter(waits).count()
}

/// Explains thread `tid`; an error says why there is nothing to explain.
pub fn explain(tid: i32) -> Result<Explanation> {
    let file = status::running("doctor --pid")?;
    let shared = status::open_shared(&file)?;
    let thread = Explainer::open()?.worker(tid, file.partial, "explain")?;
    let comm = proc_file(tid, "comm");
    let worker = &shared.workers.records()[thread.index as usize % shared.workers.records().len()];
    let member = Member::of(&thread);
    let queue = match Queue::of(thread.dsq, thread.cpu as u32) {
        Queue::None if member.is_some_and(|m| m.held) => Queue::Held,
        queue => queue,
    };
    let place = Place {
        ahead: match queue {
            Queue::Park(cpu) => Some(count_ahead(&shared, cpu, worker)),
            _ => None,
        },
        word: Word(member.map_or_else(|| worker.word.load(Relaxed), |_| thread.word)),
        since: member.map_or_else(|| worker.since_ns.load(Relaxed), |_| thread.since_ns),
        member,
        now: now_ns(),
        shared: &shared,
        thread,
        worker,
        queue,
    };
    let seen = place.word.state() != Some(State::None);
    let allowed = proc_file(tid, "status");
    let allowed = allowed
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    Ok(Explanation {
        pid: tid,
        comm,
        why: place.why(),
        state: place.word.state().map_or("?", State::name).to_owned(),
        age_ms: seen.then(|| place.now.saturating_sub(place.since) as f64 / 1e6),
        detail: place.detail(),
        member,
        queue,
        ahead: place.ahead,
        owner: place.owner(),
        affinity: allowed.unwrap_or("unknown").trim().to_owned(),
        migration_disabled: thread.migration_disabled != 0,
        weight: worker.weight.load(Relaxed),
        policy: policy_name(thread.policy),
        refusals: place.refusals(),
    })
}

impl Explanation {
    /// The text form, one fact per line.
    fn print(&self) {
        println!("thread: {} ({})", self.pid, self.comm);
        println!("why: {}", self.why);
        match self.age_ms {
            Some(ms) => println!("state: {} for {ms:.1} ms, {}", self.state, self.detail),
            None => println!("state: {}, {}", self.state, self.detail),
        }
        if let Some(member) = self.member {
            println!("member: {}", member.text());
        }
        let ahead = match self.ahead {
            Some(n) => format!("; {n} before it"),
            None => String::new(),
        };
        println!("queue: {}{ahead}", self.queue.text());
        println!("owner: {}", self.owner);
        let fixed = if self.migration_disabled {
            "; may not migrate now"
        } else {
            ""
        };
        println!("affinity: cpus {}{fixed}", self.affinity);
        println!("weight: {}, {}", self.weight, self.policy);
        if self.refusals.is_empty() {
            println!("refused: no take of it has failed since it waits");
        }
        for r in &self.refusals {
            println!(
                "refused: to cpu {} {:.1} ms ago: {}",
                r.cpu, r.ago_ms, r.reason
            );
        }
    }
}

/// The command.
pub fn run(tid: i32, json: bool) -> Result<()> {
    let told = explain(tid)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        told.print();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(kind: u32, policy: u32) -> intf::umcg_thread {
        intf::umcg_thread {
            known: 1,
            kind,
            policy,
            ..ask(1)
        }
    }

    #[test]
    fn refusal_of_an_earlier_wait_is_not_shown() {
        const {
            assert!(
                umcg::record::MAX_CPUS <= 1 << 12,
                "a refusal's bits for the CPU"
            )
        };
        let reason = u64::from(intf::umcg_refusal_UMCG_R_CLAIM);
        let note = 5_000_000 << 16 | 7 << 4 | reason;
        let told = Refusal::of(note, 4_000_000, 6_000_000).unwrap();
        assert_eq!((told.cpu, told.ago_ms), (7, 1.0));
        assert!(told.reason.contains("claimed"));
        assert_eq!(Refusal::of(note, 5_500_000, 6_000_000), None);
        assert_eq!(Refusal::of(0, 0, 6_000_000), None);
    }

    #[test]
    fn no_worker_each_kind_has_its_sentence() {
        use intf::*;
        let why = |t: umcg_thread, partial| no_worker(&t, partial).unwrap();
        assert!(why(thread(umcg_kind_UMCG_K_WORKER, 1), false).contains("SCHED_FIFO"));
        assert!(why(thread(umcg_kind_UMCG_K_WORKER, 0), true).contains("--partial"));
        assert!(why(thread(umcg_kind_UMCG_K_SERVER, 0), false).contains("server 0"));
        assert!(why(thread(umcg_kind_UMCG_K_KERNEL, 0), false).contains("kernel-fair"));
        assert!(why(thread(umcg_kind_UMCG_K_ANONYMOUS, 0), false).contains("no record"));
        let bound = umcg_thread {
            bound: 1,
            cpu: 4,
            ..thread(umcg_kind_UMCG_K_KERNEL, 0)
        };
        assert!(why(bound, false).contains("cpu 4"));
        let dead = umcg_thread {
            dead: 16,
            ..thread(umcg_kind_UMCG_K_WORKER, 0)
        };
        assert!(why(dead, false).contains("ended"));
        assert_eq!(no_worker(&thread(umcg_kind_UMCG_K_WORKER, 0), false), None);
        assert_eq!(no_worker(&thread(umcg_kind_UMCG_K_WORKER, 7), true), None);
    }
}
