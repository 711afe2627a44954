//! That the agent decides, and that its decisions are what runs.

use std::io::Read;
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use scx_umcg::runfile::RunFile;
use scx_umcg::status;
use umcg::sync::Ordering::Relaxed;

use super::{Test, short, timed};
use crate::harness::{Sched, Verdict, adopt, metric, wait_until};
use crate::load::{self, Hog, clock_ns, pin};
use crate::race;

pub const TESTS: &[Test] = &[
    timed(
        "vm_fifo_is_staged_by_servers",
        "decide,newest",
        12,
        fifo_staged,
    ),
    timed("vm_fair_can_be_staged", "decide,newest", 12, fair_staged),
    timed(
        "vm_order_by_pid_staged",
        "decide,newest",
        12,
        by_pid::<false>,
    ),
    timed("vm_order_by_pid_keyed", "decide,newest", 12, by_pid::<true>),
    timed(
        "vm_changed_weight_is_in_force_soon",
        "decide,newest",
        15,
        weight,
    ),
    short(
        "vm_quantum_forces_preemption",
        "cost,newest,icount,cpus=1",
        8,
        quantum,
    ),
    timed("vm_kick_ends_one_stint", "decide,newest", 6, kick),
];

struct Share {
    staged: f64,
    absent: f64,
    per_activation: f64,
    agent_cpu: f64,
}

/// Who decided while messaging ran three times.
fn decided(args: &[&str], name: &str) -> Result<Share> {
    let sched = Sched::start(args)?;
    load::messaging()?;
    let count = |name: &str| sched.counter(name).map(|n| n as f64);
    let names = [
        "contended",
        "staged",
        "absent",
        "switches",
        "activations",
        "server_ns",
        "busy_ns",
    ];
    let before: Vec<f64> = names.iter().map(|n| count(n)).collect::<Result<_>>()?;
    for _ in 0..2 {
        load::messaging()?;
    }
    let d: Vec<f64> = names
        .iter()
        .zip(before)
        .map(|(n, b)| Ok(count(n)? - b))
        .collect::<Result<_>>()?;
    ensure!(d[0] > 1000.0, "only {} contended switches", d[0]);
    let share = Share {
        staged: d[1] / d[0],
        absent: d[2] / d[0],
        per_activation: d[3] / d[4].max(1.0),
        agent_cpu: d[5] / (d[5] + d[6]),
    };
    metric(
        name,
        &[
            ("staged", share.staged),
            ("absent", share.absent),
            ("switches_per_activation", share.per_activation),
            ("agent_cpu", share.agent_cpu),
            ("contended", d[0]),
        ],
    );
    sched.stop()?;
    Ok(share)
}

fn fifo_staged() -> Result<Verdict> {
    let s = decided(&["--policy", "fifo"], "decided_fifo")?;
    ensure!(
        s.staged >= 0.90,
        "{:.1} % of contended switches were staged",
        s.staged * 100.0
    );
    ensure!(
        s.absent <= 0.01,
        "{:.1} % were taken for an absent server",
        s.absent * 100.0
    );
    ensure!(
        s.per_activation >= 5.0,
        "{:.1} switches per activation",
        s.per_activation
    );
    Ok(Verdict::Ok)
}

fn fair_staged() -> Result<Verdict> {
    let s = decided(&["--decide", "staged"], "decided_fair_staged")?;
    ensure!(
        s.staged >= 0.50,
        "{:.1} % of contended switches were staged",
        s.staged * 100.0
    );
    decided(&[], "decided_fair_keyed")?;
    Ok(Verdict::Ok)
}

/// The order in which pinned burners end that were started at once.
fn finish_order(n: usize) -> Result<Vec<i32>> {
    let mut fds = [[0i32; 2]; 2];
    for pair in &mut fds {
        // SAFETY: pair has room for two descriptors.
        ensure!(unsafe { libc::pipe(pair.as_mut_ptr()) } == 0, "pipe");
    }
    let [go, done] = fds;
    let mut pids = Vec::new();
    for _ in 0..n {
        // SAFETY: this program has one thread here; the child only makes system calls.
        let pid = unsafe { libc::fork() };
        ensure!(pid >= 0, "fork");
        if pid == 0 {
            burner(go, done[1]);
        }
        adopt(pid as u32);
        pids.push(pid);
    }
    std::thread::sleep(Duration::from_millis(200));
    // SAFETY: our own descriptors; closing the last write end starts all burners.
    unsafe {
        libc::close(go[1]);
        libc::close(go[0]);
        libc::close(done[1]);
    }
    // SAFETY: done[0] is ours and nobody else uses it.
    let mut pipe = unsafe { std::fs::File::from_raw_fd(done[0]) };
    let mut order = Vec::new();
    let mut pid = [0u8; 4];
    while pipe.read_exact(&mut pid).is_ok() {
        order.push(i32::from_ne_bytes(pid));
    }
    ensure!(order.len() == n, "{} of {n} burners ended", order.len());
    Ok(order)
}

/// Waits for the start, uses 120 ms of CPU 0, tells its pid, ends.
fn burner(go: [i32; 2], done: i32) -> ! {
    pin(0, 0);
    // SAFETY: plain system calls on inherited descriptors and locals.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::close(go[1]);
        let mut byte = 0u8;
        libc::read(go[0], (&raw mut byte).cast(), 1);
        while clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID) < 120_000_000 {}
        let pid = libc::getpid();
        libc::write(done, (&raw const pid).cast(), 4);
        libc::_exit(0)
    }
}

/// How many pairs stand in ascending order, of all pairs: 1 = sorted, 0 = reversed.
fn sortedness(order: &[i32]) -> f64 {
    let (mut up, mut all) = (0, 0);
    for (i, a) in order.iter().enumerate() {
        for b in &order[i + 1..] {
            all += 1;
            up += i32::from(a < b);
        }
    }
    f64::from(up) / f64::from(all.max(1))
}

fn by_pid<const KEYED: bool>() -> Result<Verdict> {
    let decide = if KEYED { "key" } else { "staged" };
    for (policy, low, high) in [("test-pid", 0.9, 1.0), ("test-pid-reverse", 0.0, 0.1)] {
        let sched = Sched::start(&["--policy", policy, "--decide", decide, "--slice-us", "1000"])?;
        let order = finish_order(6)?;
        let got = sortedness(&order);
        metric(&format!("order_{policy}_{decide}"), &[("sortedness", got)]);
        ensure!(
            (low..=high).contains(&got),
            "{policy} {decide}: order {order:?}, sortedness {got:.2}"
        );
        sched.stop()?;
    }
    Ok(Verdict::Ok)
}

/// From before the agent's write to BPF's use of it.
fn weight() -> Result<Verdict> {
    // Two hogs: each runs again within two slices, which is when BPF shows the weight.
    let sched = Sched::start(&["--policy", "test-weight"])?;
    let hog = Hog {
        cpu: Some(0),
        ..Hog::default()
    };
    let other = hog.start()?;
    let heavy = loop {
        let one = hog.start()?;
        if one.pid() % 2 == 0 {
            break one;
        }
    };
    let pid = heavy.pid();
    let file = RunFile::read()?.context("no agent runs")?;
    let shared = status::open_shared(&file)?;
    let records = shared.workers.records();
    let of_hog = |w: &&umcg::record::Worker| w.pid.load(Relaxed) == pid;
    let mut worker = None;
    wait_until(Duration::from_secs(2), || {
        worker = records.iter().find(of_hog);
        worker.is_some()
    });
    let worker = worker.with_context(|| format!("no record of {pid}"))?;
    ensure!(
        worker.weight_pct.load(Relaxed) != 300,
        "the weight has changed before this test looked"
    );
    let limit = Instant::now() + Duration::from_secs(20);
    // The last look that found the weight written nowhere.
    let mut unwritten = Instant::now();
    while worker.weight.load(Relaxed) != 300 {
        let look = Instant::now();
        if worker.weight_pct.load(Relaxed) != 300 {
            unwritten = look;
        }
        ensure!(look < limit, "no worker got the new weight");
        std::thread::sleep(Duration::from_micros(500));
    }
    let delay = unwritten.elapsed().as_secs_f64() * 1e3;
    metric("weight", &[("delay_ms", delay)]);
    ensure!(delay <= 20.0, "in force after {delay:.1} ms");
    drop((heavy, other));
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Kicks the worker that runs on `cpu`; false if none does, or no more.
pub fn kick_running_on(cpu: usize) -> Result<bool> {
    let file = RunFile::read()?.context("no agent runs")?;
    let shared = status::open_shared(&file)?;
    let index = shared.cpus()[cpu].cur_idx.load(Relaxed);
    let workers = shared.workers.records();
    let generation = workers[index as usize & 0xffff].gen_.load(Relaxed);
    Ok(index != 0 && crate::tests::hammer::kick(index, generation)? == 0)
}

/// A kick is for one stint of one worker: it ends that one, and nobody else's.
fn kick() -> Result<Verdict> {
    let sched = Sched::start(&["--slice-us", "100000"])?;
    let hogs = Hog {
        cpu: Some(0),
        ..Hog::default()
    }
    .start_many(2)?;
    std::thread::sleep(Duration::from_millis(300));
    let before = sched.counter("preempt_forced")?;
    let mut hit = 0;
    for _ in 0..200 {
        hit += u64::from(kick_running_on(0)?);
        std::thread::sleep(Duration::from_millis(2));
    }
    let forced = sched.counter("preempt_forced")? - before;
    metric("kick", &[("kicks", hit as f64), ("forced", forced as f64)]);
    ensure!(
        hit > 20 && forced > hit / 2 && forced <= hit,
        "{hit} kicks, {forced} forced"
    );
    let stale = crate::tests::hammer::kick(1, 0)?;
    ensure!(
        stale == -libc::ESRCH,
        "a kick of no worker answered {stale}"
    );
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn quantum() -> Result<Verdict> {
    let sched = Sched::start(&["--quantum-us", "500", "--slice-us", "50000"])?;
    let hogs = Hog {
        cpu: Some(0),
        ..Hog::default()
    }
    .start_many(2)?;
    std::thread::sleep(Duration::from_millis(300));
    let turns = || -> Result<u64> { Ok(race::preemptions(&hogs)?.iter().sum()) };
    let before = turns()?;
    let cpu_s: f64 = load::shares(&hogs, Duration::from_secs(2))?.iter().sum();
    let mean_us = cpu_s * 1e6 / (turns()? - before).max(1) as f64;
    metric("quantum", &[("turn_us", mean_us)]);
    ensure!(
        (400.0..600.0).contains(&mean_us),
        "a turn of {mean_us:.0} us with a quantum of 500"
    );
    sched.no_ejection()?;
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}
