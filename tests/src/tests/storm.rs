//! Loads under which others were ejected.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Test, full, short, timed};
use crate::harness::{self, Sched, Verdict, metric};
use crate::load::{self, Hog, perf_bench, run};

pub const TESTS: &[Test] = &[
    short(
        "vm_hogs_and_cyclictest",
        "share,newest",
        14,
        hogs_cyclictest::<10>,
    ),
    full(
        "vm_full_hogs_and_cyclictest_60s",
        "share,newest",
        70,
        hogs_cyclictest::<60>,
    ),
    short("vm_benchmarks_end", "share,newest", 20, benchmarks::<1>),
    full(
        "vm_full_benchmarks_five_times",
        "share,newest",
        90,
        benchmarks::<5>,
    ),
    short("vm_fork_exec_storm", "share,newest", 14, fork_exec::<8>),
    full(
        "vm_full_fork_exec_storm_60s",
        "share,newest",
        75,
        fork_exec::<60>,
    ),
    short("vm_affinity_nice_churn", "share,newest", 14, churn::<8>),
    short("vm_edges_are_conserved", "share,newest", 8, conserved),
    timed(
        "vm_idle_machine_stays_idle",
        "long,newest,append=psi=1",
        30,
        idle::<10, 10>,
    ),
    full(
        "vm_full_idle_120s",
        "idle,append=psi=1",
        190,
        idle::<60, 60>,
    ),
];

fn hogs_cyclictest<const SECS: u64>() -> Result<Verdict> {
    let sched = harness::shared()?;
    let hogs = Hog::default().start_many(4)?;
    let secs = SECS.to_string();
    let text = run(
        Duration::from_secs(SECS * 3 + 30),
        &["cyclictest", "-q", "-t2", "-i", "4000", "-D", &secs],
    )?;
    ensure!(text.contains("Avg"), "cyclictest said {text:?}");
    for share in load::shares(&hogs, Duration::from_secs(1))? {
        ensure!(share > 0.2, "a hog got {share:.3} s of 1 s");
    }
    sched.no_ejection()?;
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

fn benchmarks<const ROUNDS: usize>() -> Result<Verdict> {
    let sched = harness::shared()?;
    for _ in 0..ROUNDS {
        let messaging = load::messaging()?;
        let pipe = perf_bench(&["sched", "pipe", "-l", "5000"])?;
        run(
            Duration::from_secs(120),
            &["hackbench", "-g", "2", "-l", "100"],
        )?;
        metric("benchmarks", &[("messaging", messaging), ("pipe", pipe)]);
    }
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

fn fork_exec<const SECS: u64>() -> Result<Verdict> {
    let sched = harness::shared()?;
    let secs = format!("{SECS}s");
    run(
        Duration::from_secs(SECS * 2 + 60),
        &[
            "stress-ng",
            "--fork",
            "4",
            "--exec",
            "4",
            "--switch",
            "4",
            "-t",
            &secs,
        ],
    )?;
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Affinity, nice and class of running and waiting tasks change all the time.
fn churn<const SECS: u64>() -> Result<Verdict> {
    let sched = harness::shared()?;
    let pids = load::sleepers(4)?;
    let began = Instant::now();
    let mut ops = 0u64;
    while began.elapsed() < Duration::from_secs(SECS) {
        for (i, &pid) in pids.iter().enumerate() {
            ops += 1;
            if ops.is_multiple_of(3) {
                // SAFETY: plain system call on a child of ours.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, pid as u32, (ops % 10) as i32) };
            } else {
                load::pin(pid, (ops as usize + i) % 2);
            }
        }
    }
    metric("churn", &[("ops", ops as f64)]);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

fn conserved() -> Result<Verdict> {
    let sched = harness::shared()?;
    load::messaging()?;
    perf_bench(&["sched", "pipe", "-l", "2000"])?;
    let status = sched.status()?;
    let count = |name: &str| status["counters"][name].as_u64().context("counter");
    ensure!(
        count("edge_illegal")? == 0,
        "{} illegal edges",
        count("edge_illegal")?
    );
    ensure!(
        count("lst_resync")? == 0,
        "{} lists given up",
        count("lst_resync")?
    );
    let (blocks, wakes, exits) = (count("blocks")?, count("wakes")?, count("exits")?);
    let blocked = crate::tests::hammer::blocked_now()?;
    let left = blocks as i64 - wakes as i64 - exits as i64 - blocked as i64;
    // Workers move while they are counted: a few, never a drift.
    ensure!(
        left.unsigned_abs() < 50 && blocks > 1000,
        "blocks {blocks} = wakes {wakes} + exits {exits} + blocked {blocked} + {left}"
    );
    metric(
        "conserved",
        &[("blocks", blocks as f64), ("left", left as f64)],
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Somebody waited for a CPU, in us since boot; the boot has to have psi=1.
fn cpu_pressure_us() -> Result<u64> {
    let text = fs::read_to_string("/proc/pressure/cpu")?;
    let total = text
        .split_whitespace()
        .find_map(|w| w.strip_prefix("total="));
    Ok(total.context("/proc/pressure/cpu")?.parse()?)
}

/// What an idle machine shows to those who watch its load.
struct Load {
    /// Mean of field 4 of /proc/loadavg at 1 Hz, ourselves left out.
    runnable: f64,
    /// Time in which somebody waited for a CPU, in %.
    pressure: f64,
}

impl Load {
    fn over(secs: u64) -> Result<Self> {
        let (mut sum, before, began) = (0.0, cpu_pressure_us()?, Instant::now());
        for _ in 0..secs {
            std::thread::sleep(Duration::from_secs(1));
            let text = fs::read_to_string("/proc/loadavg")?;
            let now: f64 = text.split(['/', ' ']).nth(3).context("loadavg")?.parse()?;
            sum += now - 1.0;
        }
        let waited = (cpu_pressure_us()? - before) as f64 / 1e4;
        Ok(Self {
            runnable: sum / secs as f64,
            pressure: waited / began.elapsed().as_secs_f64(),
        })
    }
}

fn voluntary_switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("status"))?;
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("status")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

fn idle<const SETTLE: u64, const SECS: u64>() -> Result<Verdict> {
    harness::end_shared();
    let eevdf = Load::over(SECS)?;
    let sched = Sched::start(&[])?;
    std::thread::sleep(Duration::from_secs(SETTLE));
    let before = voluntary_switches(sched.pid())?;
    let ours = Load::over(SECS)?;
    let switches = (voluntary_switches(sched.pid())? - before) as f64 / SECS as f64;
    let per_cpu = switches / std::thread::available_parallelism()?.get() as f64;
    metric(
        "idle",
        &[
            ("eevdf_runnable", eevdf.runnable),
            ("runnable", ours.runnable),
            ("eevdf_pressure_pct", eevdf.pressure),
            ("pressure_pct", ours.pressure),
            ("agent_switches_per_cpu_s", per_cpu),
        ],
    );
    // Programs that start and end are seen by few samples: one more may be on either side.
    let (one, settled) = (1.0 / SECS as f64, SETTLE >= 60);
    ensure!(
        per_cpu <= if settled { 1.0 } else { 3.0 },
        "{per_cpu:.2} voluntary switches/s of the agent per CPU"
    );
    ensure!(
        ours.runnable <= eevdf.runnable + 0.05 + one,
        "runnable {:.3}, EEVDF {:.3}",
        ours.runnable,
        eevdf.runnable
    );
    ensure!(
        !settled || ours.pressure <= eevdf.pressure + 0.05 + one,
        "CPU pressure {:.3} %, EEVDF {:.3} %",
        ours.pressure,
        eevdf.pressure
    );
    sched.no_ejection()?;
    sched.stop()?;
    Ok(Verdict::Ok)
}
