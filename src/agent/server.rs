//! A hosted server: the thread that decides for one CPU.
//!
//! Turn: take the lists, tell the policy, write terms or stage choices. Then park
//! by `sched_yield`: BPF keeps the thread off the CPU until there is something to
//! decide. Parked for long it is run once more, finds nothing and sleeps for real.
//! Nothing here allocates, locks or faults between two turns.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use log::error;
use umcg::record::{Server as Record, Worker};
use umcg::ring::Choice;
use umcg::word::{State, Word};
use umcg_policy::{Decide, Facts, Order, Policy, Terms, WorkerId};

use super::bell::{Bell, Ringer};
use super::caps;
use super::faults::{self, Fault};
use crate::shared::Shared;

const STACK_BYTES: usize = 256 * 1024;

/// What all servers share of the flags.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Some server's policy is staged: workers that wait elsewhere are told there.
    pub forwards: bool,
    /// Choices per activation; may change.
    pub depth: Arc<AtomicU32>,
    /// The thread has to enter SCHED_EXT by itself.
    pub partial: bool,
}

/// A server's state; owned by its thread.
#[derive(Debug)]
pub struct Server {
    me: u32,
    shared: Arc<Shared>,
    bell: Bell,
    policy: Box<dyn Policy>,
    settings: Settings,
    /// The policy picks every next worker.
    staged: bool,
    /// The policy orders alone: BPF has to know its keys, staged or not.
    own_order: bool,
    scratch: Vec<u32>,
}

/// The agent's hold on a server thread.
#[derive(Debug)]
pub struct Handle {
    ringer: Ringer,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Wakes the thread, if it sleeps.
    pub fn ring(&self) {
        self.ringer.ring();
    }

    /// Waits for its end; `stop` must have been set.
    pub fn join(self) {
        if self.thread.join().is_err() {
            error!("a server thread panicked; see above");
        }
    }
}

/// CLOCK_MONOTONIC in ns, the clock of the words.
pub fn now_ns() -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: ts is valid for the call; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// Starts `server`'s thread; returns when it has registered itself.
pub fn spawn(server: Server, register: OwnedFd, stop: Arc<AtomicBool>) -> Result<Handle> {
    let ringer = server.bell.ringer()?;
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let me = server.me;
    let thread = std::thread::Builder::new()
        .name(format!("umcg-server/{me}"))
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let mut server = server;
            let registered = server.register(&register);
            drop(register);
            caps::drop_unneeded();
            let failed = registered.is_err();
            let _ = ready.send(registered);
            if !failed {
                server.serve(&stop);
            }
        })
        .context("cannot start a server thread")?;
    is_ready
        .recv()
        .context("a server thread ended early")?
        .with_context(|| format!("cannot register server {me}"))?;
    Ok(Handle { ringer, thread })
}

/// Bytes of heap that a server takes besides its policy: scratch, and some spare.
pub const HEAP: usize =
    umcg::intf::umcg_limits_UMCG_MAX_WORKERS as usize * size_of::<u32>() + (16 << 10);

impl Server {
    /// A server for CPU `me`.
    pub fn new(
        me: u32,
        shared: Arc<Shared>,
        bell: Bell,
        policy: Box<dyn Policy>,
        settings: Settings,
    ) -> Self {
        let capacity = umcg::intf::umcg_limits_UMCG_MAX_WORKERS as usize;
        Self {
            me,
            shared,
            bell,
            staged: policy.traits().decide == Decide::Staged,
            own_order: policy.traits().order == Order::Own,
            policy,
            settings,
            scratch: Vec::with_capacity(capacity),
        }
    }

    fn register(&self, prog: &OwnedFd) -> Result<()> {
        if self.settings.partial {
            enter_sched_ext()?;
        }
        let mut call = umcg::intf::umcg_call {
            index: self.me,
            gen_: 0,
            ret: 0,
            pad0: 0,
        };
        run_program(prog, &mut call)?;
        ensure!(call.ret == 0, "BPF answered {}", call.ret);
        Ok(())
    }

    fn serve(&mut self, stop: &AtomicBool) {
        let shared = self.shared.clone();
        let record = &shared.servers()[self.me as usize];
        while !stop.load(Ordering::Relaxed) {
            let worked = self.turn();
            let ran = record.ran_ns.load(umcg::sync::Ordering::Relaxed);
            if worked {
                std::thread::yield_now();
                // Unmoved: nobody parked us, we are not scheduled by our BPF now.
                if record.ran_ns.load(umcg::sync::Ordering::Relaxed) != ran {
                    continue;
                }
            }
            record.begin_sleep();
            if !record.has_news() || stop.load(Ordering::Relaxed) || ran == 0 {
                self.bell.wait();
            }
            record.cancel_sleep();
        }
    }

    /// One activation. False: there was nothing to do.
    fn turn(&mut self) -> bool {
        faults::delay();
        assert!(!faults::happens(Fault::Panic), "a fault on purpose");
        let now = faults::clock(now_ns());
        let shared = self.shared.clone();
        let record = &shared.servers()[self.me as usize];
        let workers = shared.workers.records();
        let policy = self.policy.as_mut();
        let staged = self.staged;
        let forwards = self.settings.forwards;
        let keys = !staged || self.own_order;

        let (me, servers) = (self.me, shared.servers());
        let taken = record.drain(workers, &mut self.scratch, me, |index, word| {
            let worker = &workers[index as usize];
            if forwards && forward(servers, me, worker, index, word, now) {
                return;
            }
            // A staged choice needs no key, but it may have a slice.
            if let Some(terms) = tell(policy, staged, worker, index, word, now)
                && (keys || terms.slice_us != 0)
            {
                write_terms(worker, terms);
            }
        });
        let mut moved = taken > 0;
        if staged && self.own_order && moved {
            // A newcomer may come before what is staged: choose again among all.
            record.ring.recall(|choice| {
                let worker = &workers[choice.index() as usize];
                let word = Word(worker.word.load(umcg::sync::Ordering::Acquire));
                tell(policy, staged, worker, choice.index(), word, now);
            });
        }
        while let Some((WorkerId(index), terms)) = policy.retune(now) {
            write_terms(&workers[index as usize], terms);
            moved = true;
        }
        if staged {
            moved |= self.stage(now);
        }
        let backlog = u32::try_from(self.policy.len()).unwrap_or(u32::MAX);
        record.backlog.store(backlog, umcg::sync::Ordering::Relaxed);
        record.epoch.fetch_add(1, umcg::sync::Ordering::Relaxed);
        moved
    }

    /// Fills the ring with the policy's next choices.
    fn stage(&mut self, now: u64) -> bool {
        let record = &self.shared.servers()[self.me as usize];
        let workers = self.shared.workers.records();
        let mut late = None;
        let budget = self.policy.stage_budget_ns();
        let (mut count, mut work, mut worst) = (record.ring.len_hint() as u32, 0u64, None);
        let depth = self.settings.depth.load(Ordering::Relaxed);
        // Without a budget one at a time: what it does decides who is next.
        while count < depth && (work < budget || (budget == 0 && count == 0)) {
            let Some(WorkerId(index)) = pick(self.policy.as_mut(), &mut late) else {
                break;
            };
            let worker = &workers[index as usize];
            let word = Word(worker.word.load(umcg::sync::Ordering::Acquire));
            let facts = facts(worker, word, now);
            if word.state() != Some(State::Runnable) || facts.home != self.me {
                continue;
            }
            let choice = Choice::new(index, worker.gen_.load(umcg::sync::Ordering::Relaxed), word);
            if faults::happens(Fault::Drop) {
                continue;
            }
            if faults::happens(Fault::RingFull) || !record.ring.push(choice) {
                self.policy.enqueue(WorkerId(index), &facts);
                break;
            }
            count += 1;
            work += u64::from(facts.avg_ns);
            worst = Some(match worst {
                Some(key) if (facts.key.wrapping_sub(key) as i64) < 0 => key,
                _ => facts.key,
            });
        }
        if let Some(WorkerId(index)) = late {
            let worker = &workers[index as usize];
            let word = Word(worker.word.load(umcg::sync::Ordering::Acquire));
            tell(self.policy.as_mut(), true, worker, index, word, now);
        }
        if let Some(key) = worst {
            record.worst_key.store(key, umcg::sync::Ordering::Relaxed);
        }
        worst.is_some()
    }
}

/// The policy's next choice; one that a fault has come after it stays in `late`.
fn pick(policy: &mut dyn Policy, late: &mut Option<WorkerId>) -> Option<WorkerId> {
    let first = late.take().or_else(|| policy.pick())?;
    if faults::happens(Fault::Reorder)
        && let Some(second) = policy.pick()
    {
        *late = Some(first);
        return Some(second);
    }
    Some(first)
}

/// A worker that waits elsewhere by now is news for the server there.
fn forward(servers: &[Record], me: u32, worker: &Worker, index: u32, word: Word, now: u64) -> bool {
    let home = worker.home.load(umcg::sync::Ordering::Relaxed);
    if home == me || word.state() != Some(State::Runnable) {
        return false;
    }
    match servers.get(home as usize) {
        Some(server) => {
            server.push(&server.runnable, home, worker, index, now);
            true
        }
        None => false,
    }
}

/// Passes one notice on. The word is the truth, which list it came by is not.
fn tell(
    policy: &mut dyn Policy,
    staged: bool,
    worker: &Worker,
    index: u32,
    word: Word,
    now: u64,
) -> Option<Terms> {
    let id = WorkerId(index);
    let facts = facts(worker, word, now);
    match word.state() {
        Some(State::Runnable) => Some(policy.enqueue(id, &facts)),
        Some(State::Running) if !staged => Some(policy.enqueue(id, &facts)),
        // Run by the kernel's order meanwhile: no candidate, but what is known of it stands.
        Some(State::Blocked | State::Idle | State::Running) => policy.block(id, &facts),
        _ => {
            policy.remove(id);
            None
        }
    }
}

/// BPF uses them at the worker's next enqueue; told_gen last: it makes them count.
fn write_terms(worker: &Worker, terms: Terms) {
    use umcg::sync::Ordering::{Relaxed, Release};
    worker.bias_ns.store(terms.bias_ns, Relaxed);
    worker.weight_pct.store(terms.weight_pct, Relaxed);
    worker.slice_us.store(terms.slice_us, Relaxed);
    worker.own_key.store(terms.own_key, Relaxed);
    let generation = worker.gen_.load(Relaxed);
    worker.told_gen.store(generation, Release);
}

fn facts(worker: &Worker, word: Word, now: u64) -> Facts {
    use umcg::sync::Ordering::Relaxed;
    Facts {
        now_ns: now,
        since_ns: worker.since_ns.load(Relaxed),
        run_ns: worker.run_ns.load(Relaxed),
        wait_ns: worker.wait_ns.load(Relaxed),
        avg_ns: worker.avg_ns.load(Relaxed),
        burst_ns: worker.burst_ns.load(Relaxed),
        weight: worker.weight.load(Relaxed),
        woke_ns: worker.woke_ns.load(Relaxed),
        born_ns: worker.born_ns.load(Relaxed),
        key: worker.key.load(Relaxed),
        preempted: word.flags() & umcg::word::PREEMPTED != 0,
        yielded: word.flags() & umcg::word::YIELDED != 0,
        home: worker.home.load(Relaxed),
        pid: worker.pid.load(Relaxed),
    }
}

/// Partial mode: only SCHED_EXT threads are ours.
fn enter_sched_ext() -> Result<()> {
    umcg::kernel::sys::Class::EXT.take().map_err(|errno| {
        let err = std::io::Error::from_raw_os_error(errno);
        anyhow!("sched_setscheduler(SCHED_EXT): {err}")
    })
}

/// How often a call is made again that failed for a moment.
const CALL_TRIES: u32 = 20;

/// BPF_PROG_RUN of a SYSCALL program with `call`, a struct of `intf.h`, as its argument. Where the
/// kernel had no memory for it the program has not run, and it is tried again: a group of which BPF
/// does not hear that it ends would live on.
pub fn run_program<T: Copy>(prog: &OwnedFd, call: &mut T) -> Result<()> {
    for _ in 1..CALL_TRIES {
        match try_program(prog, call).map_err(|err| err.raw_os_error()) {
            Err(Some(libc::EAGAIN | libc::ENOMEM)) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => break,
            Ok(()) => return Ok(()),
        }
    }
    try_program(prog, call).context("BPF_PROG_RUN")
}

fn try_program<T: Copy>(prog: &OwnedFd, call: &mut T) -> std::io::Result<()> {
    faults::call()?;
    let mut opts = libbpf_rs::libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_rs::libbpf_sys::bpf_test_run_opts>() as libbpf_rs::libbpf_sys::size_t,
        ctx_in: (&raw mut *call).cast(),
        ctx_size_in: size_of_val(call) as u32,
        ..Default::default()
    };
    // SAFETY: opts and call live through the call and have the sizes given.
    let ret =
        unsafe { libbpf_rs::libbpf_sys::bpf_prog_test_run_opts(prog.as_raw_fd(), &raw mut opts) };
    match ret {
        0 => Ok(()),
        ret => Err(std::io::Error::from_raw_os_error(-ret)),
    }
}
