//! The runs that docs/scale.md shows: where the agent saturates, what moves that, how it scales.

use anyhow::Result;

use crate::machine::{Machine, Settings};
use crate::stats::Report;
use crate::sweep::{Saturation, full_load, saturation};
use crate::validate::{Compared, Measured};

/// Who decides, as the curves have it: name, policy.
pub const MODES: [(&str, &str); 3] = [
    ("keyed (fair)", "fair"),
    ("staged, 8 ahead (fifo)", "fifo"),
    ("staged, one at a time (lifo)", "lifo"),
];
/// CPUs of the curves; a quick run has the first five.
const CPUS: [u32; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Workers of the curves, on the most CPUs; a quick run has the first three.
const WORKERS: [u32; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// Workers per CPU where a machine is full.
pub const PER_CPU: u32 = 16;
/// Work between two waits of the curves by CPUs.
pub const WORK_NS: f64 = 20_000.0;
/// Work between two waits of the curves by workers.
pub const MANY_WORK_NS: f64 = 100_000.0;
/// The share that workers have to get.
pub const SHARE: f64 = 0.5;
/// Errors up to which a measured row counts as met, in percent: throughput, p99 on one CPU, on more.
pub const BARS: [f64; 3] = [15.0, 15.0, 30.0];

/// A mode's points.
pub type Curve<T> = Vec<(f64, T)>;

/// How much is run.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Part of the simulated time.
    time: f64,
    cpus: &'static [u32],
    workers: &'static [u32],
}

/// All runs of the chart.
#[derive(Debug)]
pub struct Figures {
    /// Per mode: by work between two waits, in us, on one CPU.
    pub by_work: Vec<Curve<Report>>,
    /// Per mode: by CPUs, all of them full.
    pub by_cpus: Vec<Curve<Report>>,
    /// Per mode: by workers, on the most CPUs, full where there are enough of them.
    pub by_workers: Vec<Curve<Report>>,
    /// Where one CPU saturates, by what was changed, in each mode.
    pub moved: Vec<(String, Vec<Option<Saturation>>)>,
    /// The model beside what was measured.
    pub validated: Vec<Compared>,
}

/// How far measured rows bear the model out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// CPUs; 0: nothing was measured.
    pub cpus: u32,
    /// Workers.
    pub workers: u32,
}

impl Figures {
    /// Runs all; `quick`: smaller machines, and a tenth of the time.
    ///
    /// # Errors
    ///
    /// A run cannot be made.
    pub fn run(base: &Settings, rows: &[Measured], quick: bool) -> Result<Self> {
        let extent = match quick {
            true => Extent {
                time: 0.1,
                cpus: &CPUS[..5],
                workers: &WORKERS[..3],
            },
            false => Extent {
                time: 1.0,
                cpus: &CPUS,
                workers: &WORKERS,
            },
        };
        let modes = || MODES.iter().map(|mode| with_policy(base, mode.1));
        let validated = rows.iter().map(|row| row.compare(base));
        Ok(Figures {
            validated: validated.collect::<Result<_>>()?,
            by_work: modes()
                .map(|it| by_work(&it, extent))
                .collect::<Result<_>>()?,
            by_cpus: modes()
                .map(|it| by_cpus(&it, extent))
                .collect::<Result<_>>()?,
            by_workers: modes()
                .map(|it| by_workers(&it, extent))
                .collect::<Result<_>>()?,
            moved: moved(base, quick)?,
        })
    }

    /// The most CPUs of the curves.
    pub fn most_cpus(&self) -> u32 {
        let all = self.by_cpus.iter().flatten();
        all.map(|at| at.1.cpus).max().unwrap_or(1)
    }

    /// What the measured rows bear out: the largest machine of a row that was met.
    pub fn range(&self) -> Range {
        let mut range = Range::default();
        for row in &self.validated {
            let p99 = if row.cpus == 1 { BARS[1] } else { BARS[2] };
            if row.within(Some(BARS[0]), Some(p99)) {
                range.cpus = range.cpus.max(row.cpus);
                range.workers = range.workers.max(row.workers);
            }
        }
        range
    }
}

fn with_policy(base: &Settings, policy: &str) -> Settings {
    Settings {
        policy: policy.to_owned(),
        ..base.clone()
    }
}

/// Runs it, and says so: a reader of the screen sees where it is.
fn run(settings: Settings) -> Result<Report> {
    let report = Machine::new(settings)?.run()?;
    eprintln!(
        "{} on {} CPU(s), {} workers, {}: {:.0} operations/s",
        report.load, report.cpus, report.workers, report.policy, report.throughput
    );
    Ok(report)
}

fn by_work(base: &Settings, extent: Extent) -> Result<Curve<Report>> {
    let one = Settings {
        cpus: 1,
        workers: PER_CPU,
        ..base.clone()
    };
    let mut curve = Vec::new();
    for step in 0..=12 {
        let work_ns = 1_000.0 * 10f64.powf(f64::from(step) / 3.0);
        let full = full_load(&one, work_ns)?;
        let seconds = 20.0 * extent.time * full.seconds;
        curve.push((work_ns / 1e3, run(Settings { seconds, ..full })?));
    }
    Ok(curve)
}

fn by_cpus(base: &Settings, extent: Extent) -> Result<Curve<Report>> {
    let mut curve = Vec::new();
    for &cpus in extent.cpus {
        let machine = Settings {
            cpus,
            workers: cpus * PER_CPU,
            ..base.clone()
        };
        let full = full_load(&machine, WORK_NS)?;
        let seconds = 4.0 * extent.time * full.seconds;
        curve.push((f64::from(cpus), run(Settings { seconds, ..full })?));
    }
    Ok(curve)
}

fn by_workers(base: &Settings, extent: Extent) -> Result<Curve<Report>> {
    let cpus = extent.cpus[extent.cpus.len() - 1];
    let mut curve = Vec::new();
    for &workers in extent.workers {
        // Half of the time each, or together twice of what there is.
        let cycle =
            (MANY_WORK_NS * f64::from(workers) / f64::from(2 * cpus)).max(2.0 * MANY_WORK_NS);
        let sleep = cycle - MANY_WORK_NS;
        let load = format!("sleepers:work=exp:{MANY_WORK_NS:.0}ns,sleep=exp:{sleep:.0}ns");
        let settings = Settings {
            cpus,
            workers,
            load: load.parse()?,
            seconds: extent.time,
            warm_up: 0.5 * extent.time,
            ..base.clone()
        };
        curve.push((f64::from(workers), run(settings)?));
    }
    Ok(curve)
}

fn many(settings: &mut Settings, cpus: u32) {
    (settings.cpus, settings.workers) = (cpus, cpus * PER_CPU);
}

/// Where one CPU saturates, and what moves that.
fn moved(base: &Settings, quick: bool) -> Result<Vec<(String, Vec<Option<Saturation>>)>> {
    type Change = fn(&mut Settings);
    let changes: [(&str, Change); 11] = [
        ("as it is", |_| {}),
        ("a choice per activation", |it| it.stage = 1),
        ("64 choices per activation", |it| it.stage = 64),
        ("a switch costs half", |it| it.costs.switch /= 2.0),
        ("a wake-up costs half", |it| it.costs.wake /= 2.0),
        ("a turn costs four times as much", |it| it.costs.turn *= 4.0),
        ("a notice costs four times as much", |it| {
            it.costs.notice *= 4.0
        }),
        ("an instruction takes 0.3 ns", |it| it.costs.insn_ns = 0.3),
        ("64 CPUs", |it| many(it, 64)),
        ("256 CPUs", |it| many(it, 256)),
        ("256 CPUs, no shared line", |it| {
            many(it, 256);
            let costs = &mut it.costs;
            (costs.line_llc_ns, costs.line_node_ns, costs.line_remote_ns) = (0.0, 0.0, 0.0);
        }),
    ];
    let mut rows = Vec::new();
    let changes = &changes[..if quick { 2 } else { changes.len() }];
    for (name, change) in changes {
        eprintln!("saturation: {name}");
        let mut points = Vec::new();
        for (_, policy) in MODES {
            let mut settings = Settings {
                cpus: 1,
                workers: PER_CPU,
                ..with_policy(base, policy)
            };
            change(&mut settings);
            points.push(saturation(&settings, SHARE)?);
        }
        rows.push(((*name).to_owned(), points));
    }
    Ok(rows)
}
