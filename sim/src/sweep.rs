//! Many runs: by CPUs and workers, and where a machine saturates.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::cli::Format;
use crate::load::Load;
use crate::machine::{Machine, Settings};
use crate::stats::Report;

/// A row of a sweep: a report without nested tables.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "as in Report")]
pub struct Row {
    pub load: String,
    pub policy: String,
    pub decide: String,
    pub cpus: u32,
    pub workers: u32,
    pub seed: u64,
    pub seconds: f64,
    pub throughput: f64,
    pub wait_p50_us: f64,
    pub wait_p99_us: f64,
    pub wait_max_us: f64,
    pub response_mean_us: f64,
    pub response_p50_us: f64,
    pub response_p99_us: f64,
    pub response_p999_us: f64,
    pub work_share: f64,
    pub agent_share: f64,
    pub kernel_share: f64,
    pub fairness: f64,
    pub switches_per_s: f64,
    pub activations_per_s: f64,
    pub staged: u64,
    pub by_key: u64,
    pub absent: u64,
    pub events: u64,
    pub assumed: String,
}

impl From<&Report> for Row {
    fn from(report: &Report) -> Self {
        let (waits, responses) = (&report.waits, &report.responses);
        let counts = &report.counts;
        Row {
            load: report.load.clone(),
            policy: report.policy.clone(),
            decide: report.decide.clone(),
            cpus: report.cpus,
            workers: report.workers,
            seed: report.seed,
            seconds: report.seconds,
            throughput: report.throughput,
            wait_p50_us: waits.p50_us,
            wait_p99_us: waits.p99_us,
            wait_max_us: waits.max_us,
            response_mean_us: responses.mean_us,
            response_p50_us: responses.p50_us,
            response_p99_us: responses.p99_us,
            response_p999_us: responses.p999_us,
            work_share: report.work_share,
            agent_share: report.agent_share,
            kernel_share: report.kernel_share,
            fairness: report.fairness,
            switches_per_s: counts.switches as f64 / report.seconds,
            activations_per_s: counts.activations as f64 / report.seconds,
            staged: counts.staged,
            by_key: counts.by_key,
            absent: counts.absent,
            events: report.events,
            assumed: report.assumed.join(" "),
        }
    }
}

/// Runs `base` with each pair of CPUs and workers that the load allows, and writes a row after each
/// run, so that what is there stays if the rest is not waited for.
///
/// # Errors
///
/// A run fails, or `out` cannot be written.
pub fn sweep(
    base: &Settings,
    cpus: &[u32],
    workers: &[u32],
    format: Format,
    out: &mut dyn Write,
) -> Result<()> {
    let mut csv = csv::WriterBuilder::new().from_writer(Vec::new());
    for &workers in workers {
        for &cpus in cpus {
            if base.load.resolve(cpus, workers).is_err() {
                eprintln!("{cpus} CPU(s), {workers} worker(s): left out, too few for this load");
                continue;
            }
            let began = std::time::Instant::now();
            let report = Machine::new(Settings {
                cpus,
                workers,
                ..base.clone()
            })?
            .run()?;
            let took = began.elapsed().as_secs_f64();
            eprintln!(
                "{cpus} CPU(s), {workers} worker(s): {} events in {took:.1} s",
                report.events
            );
            let row = Row::from(&report);
            match format {
                Format::Json => {
                    serde_json::to_writer(&mut *out, &row).context("cannot write a row")?;
                    writeln!(out).context("cannot write a row")?;
                }
                Format::Csv => {
                    csv.serialize(&row).context("cannot write a row")?;
                    csv.flush().context("cannot write a row")?;
                    let buffer = csv.get_ref();
                    out.write_all(buffer).context("cannot write a row")?;
                    csv = csv::WriterBuilder::new()
                        .has_headers(false)
                        .from_writer(Vec::new());
                }
            }
            out.flush().context("cannot write a row")?;
        }
    }
    Ok(())
}

/// Where a machine saturates.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Saturation {
    /// The policy.
    pub policy: String,
    /// `key` or `staged`.
    pub decide: String,
    /// CPUs.
    pub cpus: u32,
    /// Workers.
    pub workers: u32,
    /// The share of CPU time that workers had to get.
    pub share: f64,
    /// The shortest mean work between two waits at which they do.
    pub work_us: f64,
    /// Operations per second there.
    pub throughput: f64,
    /// Share of the agent there.
    pub agent_share: f64,
    /// Share of the kernel there.
    pub kernel_share: f64,
    /// Keys of costs that nobody measured.
    pub assumed: Vec<&'static str>,
}

/// Operations that a run of the search should see per CPU: so many in all, within these bounds.
const OPS: f64 = 100_000.0;
const OPS_LEAST: f64 = 500.0;
const OPS_MOST: f64 = 2_000.0;
/// What the search looks through, in ns of work.
const LEAST_NS: f64 = 100.0;
const MOST_NS: f64 = 1e7;
/// Steps of bisection: to a factor of 1.006.
const STEPS: u32 = 11;

/// A load that wants twice of what there is, with `work_ns` between two waits.
///
/// # Errors
///
/// The load cannot be made.
pub fn full_load(base: &Settings, work_ns: f64) -> Result<Settings> {
    let load: Load = format!("sleepers:work=exp:{work_ns:.0}ns,sleep=exp:1ms,load=2").parse()?;
    // By what an operation takes with the switches around it, at a guess.
    let ops = (OPS / f64::from(base.cpus)).clamp(OPS_LEAST, OPS_MOST);
    let seconds = ops * (work_ns + 2e4) / 1e9;
    Ok(Settings {
        load,
        seconds,
        warm_up: seconds / 4.0,
        ..base.clone()
    })
}

/// Bisects for the shortest work at which workers get `share` of all CPU time. `None`: they get it
/// even with the shortest one.
///
/// # Errors
///
/// A run fails, or no work is long enough.
pub fn saturation(base: &Settings, share: f64) -> Result<Option<Saturation>> {
    let at = |work_ns: f64| Machine::new(full_load(base, work_ns)?)?.run();
    if at(LEAST_NS)?.work_share >= share {
        return Ok(None);
    }
    let (mut low, mut high) = (LEAST_NS.ln(), MOST_NS.ln());
    let mut best = at(MOST_NS)?;
    ensure!(
        best.work_share >= share,
        "share {share}: workers get {:.3} with {MOST_NS} ns of work, too little",
        best.work_share
    );
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        let report = at(middle.exp())?;
        if report.work_share >= share {
            (high, best) = (middle, report);
        } else {
            low = middle;
        }
    }
    Ok(Some(Saturation {
        policy: best.policy,
        decide: best.decide,
        cpus: best.cpus,
        workers: best.workers,
        share,
        work_us: high.exp() / 1e3,
        throughput: best.throughput,
        agent_share: best.agent_share,
        kernel_share: best.kernel_share,
        assumed: best.assumed,
    }))
}
