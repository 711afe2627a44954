//! The BPF side of each protocol against its Rust side, hard, with no scheduler.
//!
//! Each ends in a conservation check: nothing lost, nothing twice.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering as O};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags};
use scx_umcg::agent::bell::Bell;
use scx_umcg::agent::faults::{PLANT, plant_number};
use scx_umcg::agent::near::{Machine, NEAR, Place};
use scx_umcg::runfile::RunFile;
use scx_umcg::shared::Mapping;
use scx_umcg::status;
use umcg::record::{Server, Worker};
use umcg::ring::Choice;
use umcg::sync::Ordering;
use umcg::word::{State, Word};

use super::{Test, short};
use crate::harness::{self, Verdict, metric};
use crate::skel::hammer::HammerSkelBuilder;

pub const TESTS: &[Test] = &[
    short("vm_hammer_list_loses_no_notice", "hammer,newest", 20, list),
    short("vm_hammer_ring_takes_each_once", "hammer,newest", 20, ring),
    short("vm_hammer_claim_has_one_holder", "hammer,newest", 15, claim),
    short("vm_hammer_sleep_loses_no_wake", "hammer,newest", 20, sleep),
    short(
        "vm_hammer_near_walks_nearest_first",
        "hammer,newest",
        3,
        near,
    ),
];

const OPS: u64 = 100_000;
const CHUNK: u32 = 500;
/// Few, so that the server falls asleep often.
const SLEEP_CHUNK: u32 = 10;
const SERVER: u32 = 3;
/// Without an operation for so long there will be none.
const PATIENCE: Duration = Duration::from_secs(5);

/// As `struct hammer` in hammer.bpf.c.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Call {
    loops: u32,
    server: u32,
    first: u32,
    span: u32,
    done: u64,
    odd: u64,
}

struct Arena {
    workers: Mapping<Worker>,
    servers: Mapping<Server>,
    bell: Bell,
    programs: HashMap<&'static str, OwnedFd>,
}

fn arena() -> Result<Arena> {
    let mut object = MaybeUninit::uninit();
    let mut skel = HammerSkelBuilder::default().open(&mut object)?;
    let rodata = skel.maps.rodata_data.as_mut().context("no .rodata")?;
    rodata.umcg_plant = harness::variable(PLANT).map_or(0, |name| plant_number(&name));
    let skel = skel.load()?;
    let maps = &skel.maps;
    let bell = Bell::new()?;
    maps.umcg_bells.update(
        &SERVER.to_ne_bytes(),
        &bell.fd().as_raw_fd().to_ne_bytes(),
        MapFlags::ANY,
    )?;
    let (workers, servers) = (&maps.umcg_workers, &maps.umcg_servers);
    let programs = [
        ("list", skel.progs.hammer_list.as_fd().try_clone_to_owned()?),
        ("ring", skel.progs.hammer_ring.as_fd().try_clone_to_owned()?),
        (
            "claim",
            skel.progs.hammer_claim.as_fd().try_clone_to_owned()?,
        ),
        (
            "sleep",
            skel.progs.hammer_sleep.as_fd().try_clone_to_owned()?,
        ),
    ];
    Ok(Arena {
        workers: Mapping::new(workers.as_fd(), 65536, workers.value_size() as usize, true)?,
        servers: Mapping::new(servers.as_fd(), 512, servers.value_size() as usize, true)?,
        bell,
        programs: programs.into_iter().collect(),
    })
}

/// Runs a program in chunks until it has done OPS operations; its (done, odd).
fn drive(
    prog: &OwnedFd,
    loops: u32,
    span: u32,
    server: u32,
    stop: &AtomicBool,
) -> Result<(u64, u64)> {
    let (mut done, mut odd) = (0, 0);
    let end = Instant::now() + Duration::from_secs(120);
    let mut last = Instant::now();
    let goes_on = |last: Instant| last.elapsed() < PATIENCE && Instant::now() < end;
    while done < OPS && !stop.load(O::Relaxed) && goes_on(last) {
        let mut call = Call {
            loops,
            server,
            first: 1,
            span,
            ..Call::default()
        };
        let mut opts = libbpf_rs::libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_rs::libbpf_sys::bpf_test_run_opts>() as _,
            ctx_in: (&raw mut call).cast(),
            ctx_size_in: size_of::<Call>() as u32,
            ..Default::default()
        };
        // SAFETY: opts and call live through the call and have the sizes given.
        let ret = unsafe {
            libbpf_rs::libbpf_sys::bpf_prog_test_run_opts(prog.as_raw_fd(), &raw mut opts)
        };
        ensure!(
            ret == 0,
            "BPF_PROG_RUN: {}",
            std::io::Error::from_raw_os_error(-ret)
        );
        if call.done > 0 {
            last = Instant::now();
        }
        done += call.done;
        odd += call.odd;
    }
    Ok((done, odd))
}

/// Every word change is followed by a push: after the last drain, the server has
/// seen the last word of every worker.
fn list() -> Result<Verdict> {
    const SPAN: u32 = 64;
    let a = arena()?;
    let (workers, server) = (a.workers.records(), &a.servers.records()[SERVER as usize]);
    let mut seen = vec![Word(0); SPAN as usize + 1];
    let mut scratch = Vec::with_capacity(65536);
    let mut notices = 0;
    let stop = AtomicBool::new(false);
    let done = std::thread::scope(|scope| -> Result<u64> {
        let pushers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| drive(&a.programs["list"], CHUNK, SPAN, SERVER, &stop)))
            .collect();
        while !pushers.iter().all(|p| p.is_finished()) {
            notices += server.drain(workers, &mut scratch, SERVER, |i, w| seen[i as usize] = w);
        }
        let mut done = 0;
        for p in pushers {
            done += p.join().map_err(|_| anyhow::anyhow!("pusher panicked"))??.0;
        }
        Ok(done)
    })?;
    notices += server.drain(workers, &mut scratch, SERVER, |i, w| seen[i as usize] = w);
    for i in 1..=SPAN as usize {
        let word = Word(workers[i].word.load(Ordering::Acquire));
        ensure!(
            seen[i] == word,
            "worker {i}: last seen {}, is {word}",
            seen[i]
        );
        ensure!(
            workers[i].queued.load(Ordering::Acquire) == 0,
            "worker {i} is still linked"
        );
    }
    ensure!(done >= 2 * OPS, "only {done} operations");
    metric(
        "hammer_list",
        &[("ops", done as f64), ("notices", notices as f64)],
    );
    Ok(Verdict::Ok)
}

/// Pushed = taken by BPF + recalled, for each single choice.
fn ring() -> Result<Verdict> {
    let a = arena()?;
    let (workers, server) = (a.workers.records(), &a.servers.records()[SERVER as usize]);
    let stop = AtomicBool::new(false);
    let mut pushed = vec![0u64; 65536];
    let mut recalled = vec![0u64; 65536];
    let taken = std::thread::scope(|scope| -> Result<u64> {
        let takers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| drive(&a.programs["ring"], CHUNK, 1, SERVER, &stop)))
            .collect();
        let mut n = 0u64;
        while n < 3 * OPS && !takers.iter().all(|t| t.is_finished()) {
            let idx = 1 + (n % 65_535) as u32;
            if server.ring.push(Choice::new(idx, 1, Word(n << 16 | 2))) {
                pushed[idx as usize] += 1;
                n += 1;
            }
            if n % 1000 == 999 {
                server.ring.recall(|c| recalled[c.index() as usize] += 1);
            }
        }
        stop.store(true, O::Relaxed);
        let mut taken = 0;
        for t in takers {
            taken += t.join().map_err(|_| anyhow::anyhow!("taker panicked"))??.0;
        }
        Ok(taken)
    })?;
    server.ring.recall(|c| recalled[c.index() as usize] += 1);
    for i in 1..65536 {
        let got = workers[i].run_ns.load(Ordering::Acquire);
        ensure!(
            pushed[i] == got + recalled[i],
            "choice {i}: pushed {}, taken {got}, recalled {}",
            pushed[i],
            recalled[i]
        );
    }
    let back: u64 = recalled.iter().sum();
    ensure!(taken >= OPS, "only {taken} were taken");
    metric(
        "hammer_ring",
        &[("taken", taken as f64), ("recalled", back as f64)],
    );
    Ok(Verdict::Ok)
}

/// At any moment a claim has one holder, BPF or Rust.
fn claim() -> Result<Verdict> {
    const SPAN: u32 = 4;
    let a = arena()?;
    let workers = a.workers.records();
    let stop = AtomicBool::new(false);
    let wins = AtomicU64::new(0);
    let (done, odd) = std::thread::scope(|scope| -> Result<(u64, u64)> {
        let bpf: Vec<_> = (0..2)
            .map(|s| {
                let (prog, stop) = (&a.programs["claim"], &stop);
                scope.spawn(move || drive(prog, CHUNK, SPAN, s, stop))
            })
            .collect();
        let mut odd = 0;
        let mut turn = 0u32;
        while !bpf.iter().all(|t| t.is_finished()) {
            turn = turn.wrapping_add(1);
            let w = &workers[1 + (turn % SPAN) as usize];
            let claim = umcg::claim::Claim::new(7, Word(w.word.load(Ordering::Acquire)));
            if !w.try_claim(claim) {
                continue;
            }
            odd += w.key.fetch_add(1, Ordering::AcqRel);
            w.key.fetch_sub(1, Ordering::AcqRel);
            odd += u64::from(!w.release_claim(claim));
            w.run_ns.fetch_add(1, Ordering::AcqRel);
            wins.fetch_add(1, O::Relaxed);
        }
        let mut done = wins.load(O::Relaxed);
        for t in bpf {
            let (d, o) = t
                .join()
                .map_err(|_| anyhow::anyhow!("claimer panicked"))??;
            done += d;
            odd += o;
        }
        Ok((done, odd))
    })?;
    let counted: u64 = (1..=SPAN as usize)
        .map(|i| workers[i].run_ns.load(Ordering::Acquire))
        .sum();
    ensure!(odd == 0, "{odd} claims had two holders");
    ensure!(
        counted == done && done >= 2 * OPS,
        "claims won {done}, counted {counted}"
    );
    ensure!(
        (1..=SPAN as usize).all(|i| workers[i].claim.load(Ordering::Acquire) == 0),
        "a claim is left"
    );
    metric(
        "hammer_claim",
        &[
            ("claims", done as f64),
            ("rust", wins.load(O::Relaxed) as f64),
        ],
    );
    Ok(Verdict::Ok)
}

/// A server that sleeps is woken whenever there is news.
fn sleep() -> Result<Verdict> {
    const SPAN: u32 = 32;
    let a = arena()?;
    let Arena {
        workers,
        servers,
        bell,
        programs,
    } = a;
    let (workers, server) = (workers.records(), &servers.records()[SERVER as usize]);
    let stop = AtomicBool::new(false);
    let ringer = bell.ringer()?;
    let sleeps = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let (pushed, seen) = std::thread::scope(|scope| -> Result<(u64, u64)> {
        let (over, sleeps) = (&over, &sleeps);
        let consumer = scope.spawn(move || {
            let mut scratch = Vec::with_capacity(65536);
            let mut seen = 0u64;
            while !over.load(O::Acquire) {
                seen += server.drain(workers, &mut scratch, SERVER, |_, _| ()) as u64;
                server.begin_sleep();
                if !server.has_news() && !over.load(O::Acquire) {
                    bell.wait();
                    sleeps.fetch_add(1, O::Relaxed);
                }
                server.cancel_sleep();
            }
            seen + server.drain(workers, &mut scratch, SERVER, |_, _| ()) as u64
        });
        let (_, pushed) = drive(&programs["sleep"], SLEEP_CHUNK, SPAN, SERVER, &stop)?;
        // All producers are done: news that is left unread means a lost wake.
        let drained = crate::harness::wait_until(Duration::from_secs(5), || {
            !server.has_news() && server.asleep.load(Ordering::Acquire) == 1
        });
        over.store(true, O::Release);
        ringer.ring();
        let seen = consumer
            .join()
            .map_err(|_| anyhow::anyhow!("consumer panicked"))?;
        ensure!(drained, "the server slept on news: a wake was lost");
        Ok((pushed, seen))
    })?;
    ensure!(pushed == seen, "pushed {pushed}, seen {seen}");
    let slept = sleeps.load(O::Relaxed);
    ensure!(
        slept > 0,
        "the server never slept: the race was not exercised"
    );
    metric(
        "hammer_sleep",
        &[
            ("ops", OPS as f64),
            ("pushed", pushed as f64),
            ("sleeps", slept as f64),
        ],
    );
    Ok(Verdict::Ok)
}

/// Makes the attached scheduler fail as by an error of its own.
pub fn inject_error() -> Result<()> {
    call("umcg_inject", 42, 0).map(|_| ())
}

/// Kicks a worker of the attached scheduler; BPF's answer, 0 or -errno.
pub fn kick(index: u32, generation: u32) -> Result<i32> {
    call("umcg_kick", index, generation)
}

/// Runs a SYSCALL program of the attached scheduler, found by its name.
fn call(program: &str, index: u32, generation: u32) -> Result<i32> {
    let id = libbpf_rs::query::ProgInfoIter::default()
        .filter(|p| p.name.to_str() == Some(program))
        .map(|p| p.id)
        .max()
        .with_context(|| format!("the program {program} is not loaded"))?;
    // SAFETY: plain system call; the result is checked.
    let fd = unsafe { libbpf_rs::libbpf_sys::bpf_prog_get_fd_by_id(id) };
    ensure!(
        fd >= 0,
        "bpf_prog_get_fd_by_id({id}): {}",
        std::io::Error::from_raw_os_error(-fd)
    );
    // SAFETY: fd is new and ours.
    let prog = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    let mut call = umcg::intf::umcg_call {
        index,
        gen_: generation,
        ret: 0,
        pad0: 0,
    };
    scx_umcg::agent::server::run_program(&prog, &mut call)?;
    Ok(call.ret)
}

/// Workers of the attached scheduler that are BLOCKED or IDLE now.
pub fn blocked_now() -> Result<u64> {
    let file = RunFile::read()?.context("no agent runs")?;
    let shared = Arc::new(status::open_shared(&file)?);
    let blocked = shared.workers.records().iter().filter(|w| {
        matches!(
            Word(w.word.load(Ordering::Relaxed)).state(),
            Some(State::Blocked | State::Idle)
        )
    });
    Ok(blocked.count() as u64)
}

/// 4 nodes of 2 LLCs of cores with 2 threads.
fn made_up(cpus: usize) -> Machine {
    let cores = cpus / 2;
    let place = |cpu: usize| Place {
        core: cpu % cores,
        llc: cpu % cores * 8 / cores,
        node: cpu % cores * 4 / cores,
    };
    let far = |from: usize| {
        (0..4)
            .map(|to| 10 + 5 * usize::abs_diff(from, to))
            .collect()
    };
    Machine {
        places: (0..cpus).map(|cpu| (cpu, place(cpu))).collect(),
        distances: (0..4).map(|node| (node, far(node))).collect(),
    }
}

/// BPF walks the very rows that the agent makes, on a machine of `cpus`: `known` others, all
/// different, none nearer than one before; then any.
fn walk(cpus: usize, known: usize) -> Result<()> {
    let machine = made_up(cpus);
    let mut object = MaybeUninit::uninit();
    let mut skel = HammerSkelBuilder::default().open(&mut object)?;
    let rodata = skel.maps.rodata_data.as_mut().context("no .rodata")?;
    rodata.umcg_nr_cpus = cpus as u32;
    machine.fill(&mut rodata.umcg_near, cpus);
    let skel = skel.load()?;
    let prog = skel.progs.hammer_near.as_fd().try_clone_to_owned()?;
    for cpu in 0..cpus {
        let (mut seen, mut last) = (vec![false; cpus], 0);
        for i in 0..NEAR.min(cpus - 1) {
            let mut call = Call {
                server: cpu as u32,
                first: i as u32,
                ..Call::default()
            };
            scx_umcg::agent::server::run_program(&prog, &mut call)?;
            let other = call.done as usize;
            ensure!(
                other < cpus && other != cpu,
                "CPU {cpu} looks at {other} as number {i}"
            );
            if i >= known {
                continue;
            }
            let far = machine.distance(cpu, other);
            ensure!(
                !seen[other] && far >= last,
                "CPU {cpu}: {other} twice, or nearer than the one before"
            );
            (seen[other], last) = (true, far);
        }
    }
    Ok(())
}

fn near() -> Result<Verdict> {
    walk(48, 47)?;
    walk(96, 48)?;
    Ok(Verdict::Ok)
}
