//! Faults on purpose: each decision dropped, refused, late, in the wrong order or by a wrong clock,
//! at the rate of a seed. Whatever fails, the machine keeps its promises: no ejection, nobody is
//! lost, the fallback is taken and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use scx_umcg::agent::faults::{FAULTS, draw};
use scx_umcg::runfile::RunFile;
use umcg::kernel::KernelGroup;
use umcg::sync::Ordering::Relaxed;

use super::group::{cycles_body, with_server};
use super::{Test, full, short};
use crate::client::{self, is_sound, join_all, serve, worker};
use crate::harness::{self, Sched, Verdict, metric, wait_until};
use crate::load::{self, Hog, shares};
use crate::skel::hammer::HammerSkelBuilder;

pub const TESTS: &[Test] = &[
    short(
        "vm_faults_are_those_of_their_seed",
        "hammer,newest",
        2,
        seeds,
    ),
    short(
        "vm_faults_at_once_lose_nothing",
        "decide,newest",
        10,
        at_once,
    ),
    full("vm_full_faults_of_lists_lose_nothing", "faults", 60, || {
        each(&LISTS)
    }),
    full("vm_full_faults_of_time_lose_nothing", "faults", 60, || {
        each(&TIME)
    }),
    full("vm_full_faults_of_takes_lose_nothing", "faults", 45, || {
        each(&TAKES)
    }),
    full(
        "vm_full_faults_of_choices_lose_nothing",
        "faults",
        75,
        || each(&CHOICES),
    ),
    full("vm_full_faults_of_calls_lose_nothing", "faults", 25, calls),
    full(
        "vm_full_panic_of_a_policy_loses_nothing",
        "faults",
        25,
        panics,
    ),
    full("vm_full_watchdog_time_is_kept", "faults", 40, watchdog),
];

/// As `struct hammer` in hammer.bpf.c.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Occasions {
    loops: u32,
    server: u32,
    kind: u32,
    span: u32,
    hits: u64,
    sum: u64,
}

/// BPF draws what the agent's function says, of each kind, from the first occasion on.
fn seeds() -> Result<Verdict> {
    const KINDS: u32 = umcg::intf::umcg_fault_UMCG_NR_FAULTS;
    const LOOPS: u32 = 2000;
    let rate = |kind: u32| 30 * (kind + 1);
    for seed in [1, 7, u64::MAX] {
        let mut object = MaybeUninit::uninit();
        let mut skel = HammerSkelBuilder::default().open(&mut object)?;
        let rodata = skel.maps.rodata_data.as_mut().context("no .rodata")?;
        rodata.umcg_fault_seed = seed;
        (0..KINDS).for_each(|kind| rodata.umcg_fault_rate[kind as usize] = rate(kind));
        let skel = skel.load()?;
        let program = skel.progs.hammer_fault.as_fd().try_clone_to_owned()?;
        for kind in 0..KINDS {
            let mut call = Occasions {
                loops: LOOPS,
                kind,
                ..Occasions::default()
            };
            scx_umcg::agent::server::run_program(&program, &mut call)?;
            let (mut hits, mut sum) = (0, 0u64);
            for n in 0..u64::from(LOOPS) {
                if let Some(draw) = draw(seed, kind as usize, rate(kind), n) {
                    hits += 1;
                    sum = sum.wrapping_add(draw.wrapping_mul(n + 1));
                }
            }
            ensure!(
                (call.hits, call.sum) == (hits, sum) && hits > 0,
                "seed {seed}, kind {kind}: BPF {} and {}, the agent {hits} and {sum}",
                call.hits,
                call.sum
            );
        }
    }
    Ok(Verdict::Ok)
}

/// A fault, alone: what the variable asks for, and the counter of what is done instead.
type Case = (&'static str, Option<&'static str>);

const LISTS: [Case; 4] = [
    ("list-full=200", Some("lst_resync")),
    ("due-full=300", None),
    ("bell-full=500", Some("server_wake_fail")),
    ("ring-full=300", Some("by_key")),
];

const TIME: [Case; 4] = [
    ("timer-late=900", None),
    ("timer-clock=500:50", None),
    ("clock=500:50", None),
    ("kick-lost=200", None),
];

const TAKES: [Case; 2] = [
    ("claim-refused=200", Some("claim_lost")),
    ("move-fails=200", Some("ring_retry")),
];

const CHOICES: [Case; 3] = [
    ("drop=300", Some("by_key")),
    ("reorder=300", Some("staged")),
    ("delay=100:5000", Some("absent")),
];

/// How often each fault came about, of how many occasions, by what the agent says at its end.
fn met(log: &str) -> Result<BTreeMap<String, (u64, u64)>> {
    let last = log
        .lines()
        .rev()
        .find(|line| line.contains("faults by seed"));
    let (_, list) = last
        .and_then(|line| line.split_once(": "))
        .context("none were told")?;
    let words: Vec<_> = list.split_whitespace().collect();
    let pair = |at: &[&str]| -> Result<(String, (u64, u64))> {
        let (hits, seen) = at[1].split_once('/').with_context(|| list.to_owned())?;
        Ok((at[0].to_owned(), (hits.parse()?, seen.parse()?)))
    };
    let from = words
        .iter()
        .position(|word| word.contains('/'))
        .unwrap_or(1)
        - 1;
    words[from..].chunks_exact(2).map(pair).collect()
}

/// Claims that stand while nobody is taken any more: they would stand for ever.
fn no_claim_is_left() -> Result<()> {
    let file = RunFile::read()?.context("no agent runs")?;
    let shared = scx_umcg::status::open_shared(&file)?;
    let claims = || -> BTreeSet<(usize, u64)> {
        let all = shared.workers.records().iter().enumerate();
        let all = all.map(|(at, worker)| (at, worker.claim.load(Relaxed)));
        all.filter(|it| it.1 != 0).collect()
    };
    let before = claims();
    std::thread::sleep(Duration::from_millis(50));
    let left: Vec<_> = before.intersection(&claims()).copied().collect();
    ensure!(left.is_empty(), "claims are left: {left:x?}");
    Ok(())
}

/// What has to hold when a load is over, whatever failed meanwhile.
fn promises(sched: &Sched) -> Result<()> {
    is_sound(sched)?;
    let quiet = wait_until(Duration::from_secs(5), || {
        let status = sched.status().unwrap_or_default();
        let wait = &status["longest_wait"];
        wait.is_null() || wait["ms"].as_f64().is_some_and(|ms| ms < 100.0)
    });
    ensure!(
        quiet,
        "a worker waits for ever: {}",
        sched.status()?["longest_wait"]
    );
    no_claim_is_left()?;
    let status = sched.status()?;
    let count = |name: &str| status["counters"][name].as_i64().context("counter");
    let blocked = crate::tests::hammer::blocked_now()? as i64;
    let left = count("blocks")? - count("wakes")? - count("exits")? - blocked;
    // Workers move while they are counted: a few, never a drift.
    ensure!(
        left.abs() < 50,
        "edges are not conserved: {left} of {status}"
    );
    Ok(())
}

/// Messaging, alone and then beside hogs; then an application group.
fn load_all(sched: &Sched, rounds: usize) -> Result<()> {
    let pinned = Hog {
        cpu: Some(0),
        ..Hog::default()
    };
    let mut took = vec![load::messaging()?];
    let mut hogs = pinned.start_many(2)?;
    hogs.push(Hog::default().start()?);
    for _ in 1..rounds {
        took.push(load::messaging()?);
    }
    for share in shares(&hogs, Duration::from_secs(1))? {
        ensure!(share > 0.05, "a hog got {share:.2} s of 1 s");
    }
    drop(hogs);
    let began = Instant::now();
    client::run_in(sched, Duration::from_secs(60), cycles_body::<60>)?;
    let group = began.elapsed().as_secs_f64();
    let values = [("messaging_s", took.iter().sum()), ("group_s", group)];
    metric("faults_load", &values);
    Ok(())
}

fn endures(faults: &str, counter: Option<&str>, rounds: usize) -> Result<()> {
    let faults = format!("seed=7,{faults}");
    let log = harness::with_variable(FAULTS, &faults, || -> Result<String> {
        let began = Instant::now();
        let mut steps = Vec::new();
        let mut step = |name| steps.push((name, began.elapsed().as_secs_f64()));
        let sched = Sched::start(&["--policy", "fifo", "--timeout-ms", "5000"])?;
        step("started_s");
        let before = counter.map_or(Ok(0), |name| sched.counter(name))?;
        load_all(&sched, rounds)?;
        step("loaded_s");
        if let Some(name) = counter {
            let moved = sched.counter(name)? - before;
            ensure!(moved > 0, "the fallback was not taken: {name} did not move");
        }
        promises(&sched)?;
        step("kept_s");
        let log = sched.end()?;
        step("ended_s");
        metric("faults_steps", &steps);
        Ok(log)
    });
    let log = log.with_context(|| faults.clone())?;
    let met = met(&log).with_context(|| faults.clone())?;
    println!("{faults}: {met:?}");
    let none: Vec<_> = met.iter().filter(|it| it.1.0 == 0).collect();
    ensure!(none.is_empty(), "{faults}: never came about: {none:?}");
    Ok(())
}

/// Each alone, often; all that fail are told.
fn each(cases: &[Case]) -> Result<Verdict> {
    let mut wrong = Vec::new();
    for (faults, counter) in cases {
        if let Err(err) = endures(faults, *counter, 2) {
            wrong.push(format!("{err:#}"));
        }
        harness::clean_up();
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(Verdict::Ok)
}

/// All together, now and then.
fn at_once() -> Result<Verdict> {
    let all = "list-full=20,due-full=50,bell-full=50,timer-late=200,timer-clock=20,kick-lost=20,\
               claim-refused=20,move-fails=20,drop=20,reorder=50,delay=5,ring-full=20,clock=20";
    endures(all, None, 1)?;
    Ok(Verdict::Ok)
}

/// Calls of the daemon's programs fail and are made again: each group is served, none stays behind.
fn calls() -> Result<Verdict> {
    let sleeps = |group: &Arc<KernelGroup>, me| {
        let sleeper = worker(group, 1, |_, _| {
            std::thread::sleep(Duration::from_micros(50));
            Ok(())
        });
        serve(group, me, 1)?;
        join_all(vec![sleeper])
    };
    let log = harness::with_variable(FAULTS, "seed=7,call-fails=300", || -> Result<String> {
        let sched = Sched::start(&[])?;
        let body = || (0..20).try_for_each(|_| with_server(4, sleeps));
        client::run_in(&sched, Duration::from_secs(60), body)?;
        let gone = wait_until(Duration::from_secs(10), || client::group_maps() == 0);
        ensure!(gone, "{} maps of groups are left", client::group_maps());
        promises(&sched)?;
        sched.end()
    })?;
    let (hits, _) = met(&log)?["call-fails"];
    ensure!(hits > 5, "{hits} calls failed");
    Ok(Verdict::Ok)
}

/// A policy that panics takes its server with it: BPF's order goes on, and nobody else ends.
fn panics() -> Result<Verdict> {
    let log = harness::with_variable(FAULTS, "seed=7,panic=50", || -> Result<String> {
        let sched = Sched::start(&["--policy", "fifo"])?;
        load_all(&sched, 2)?;
        ensure!(
            sched.counter("absent")? > 0,
            "no choice was made for an absent server"
        );
        promises(&sched)?;
        sched.end()
    })?;
    ensure!(log.contains("a fault on purpose"), "no panic: {log}");
    Ok(Verdict::Ok)
}

/// How long a worker has starved when the kernel ejects for it: nobody is rescued, since the timer
/// never comes.
fn starved_for(timeout_ms: u64) -> Result<f64> {
    let args = [
        "--policy",
        "test-pid",
        "--timeout-ms",
        &timeout_ms.to_string(),
    ];
    harness::with_variable(FAULTS, "seed=7,timer-late=1000", || {
        let sched = Sched::start(&args)?;
        let pinned = Hog {
            cpu: Some(0),
            ..Hog::default()
        };
        let _hogs = pinned.start_many(3)?;
        let began = Instant::now();
        harness::mean_ejections(1);
        let ejected = wait_until(Duration::from_secs(40), || sched.no_ejection().is_err());
        let took = began.elapsed().as_secs_f64();
        ensure!(ejected, "not ejected: {}", sched.text());
        let told = wait_until(Duration::from_secs(5), || sched.text().contains("stall"));
        ensure!(told, "no stall is told: {}", sched.text());
        drop(sched);
        harness::clean_up();
        Ok(took)
    })
}

/// The watchdog looks twice per time-out.
fn watchdog() -> Result<Verdict> {
    for timeout_ms in [2000, 8000] {
        let (took, want) = (starved_for(timeout_ms)?, timeout_ms as f64 / 1e3);
        metric(
            "watchdog",
            &[("timeout_s", want), ("ejected_after_s", took)],
        );
        ensure!(
            (want * 0.95..want * 1.5 + 3.0).contains(&took),
            "ejected {took:.1} s after the start of a stall, by a time-out of {want} s"
        );
    }
    Ok(Verdict::Ok)
}
