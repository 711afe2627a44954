//! What `umcg-bench simulate` does.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Error, ensure};

use crate::cli::{Command, RunArgs, list, read_costs};
use crate::machine::{MAX_WORKERS, Machine, Settings};
use crate::topology::MAX_CPUS;
use crate::{costs, plot, show, sweep, validate};

/// What kept it from an end.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for.
    Usage(Error),
    /// Anything else.
    Other(Error),
}

type Outcome = Result<ExitCode, Failure>;

fn usage<T>(result: anyhow::Result<T>) -> Result<T, Failure> {
    result.map_err(Failure::Usage)
}

fn other<T>(result: anyhow::Result<T>) -> Result<T, Failure> {
    result.map_err(Failure::Other)
}

/// Does it; exit code 1 is for a comparison beyond its bars.
///
/// # Errors
///
/// What was asked for means nothing, or a file cannot be read or written.
pub fn perform(command: Command) -> Outcome {
    match command {
        Command::Run {
            run,
            cpus,
            workers,
            json,
        } => {
            let machine = usage(run.settings(cpus, workers).and_then(Machine::new))?;
            let began = Instant::now();
            let report = other(machine.run())?;
            let took = began.elapsed().as_secs_f64();
            let rate = report.events as f64 / took / 1e6;
            eprintln!(
                "{} events in {took:.2} s, {rate:.2} million/s",
                report.events
            );
            if json {
                print_json(&report)
            } else {
                print(&show::table(&report))
            }
        }
        Command::Sweep {
            run,
            cpus,
            workers,
            format,
            out,
        } => {
            usage(list("cpus", &cpus, MAX_CPUS))?;
            usage(list("workers", &workers, MAX_WORKERS))?;
            let base = usage(checked(run.settings(cpus[0], workers[0])))?;
            let mut to: Box<dyn Write> = match &out {
                Some(path) => {
                    let file = File::create(path).with_context(|| path.display().to_string());
                    Box::new(other(file)?)
                }
                None => Box::new(io::stdout()),
            };
            other(sweep::sweep(&base, &cpus, &workers, format, &mut *to))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Saturate {
            run,
            cpus,
            per_cpu,
            share,
            json,
        } => saturate(&run, &cpus, per_cpu, share, json),
        Command::Validate {
            file,
            run,
            within_throughput,
            within_p99,
            json,
        } => {
            let base = usage(run.settings(1, 1))?;
            let rows = usage(validate::read(&file))?;
            let mut compared = Vec::new();
            for row in &rows {
                compared.push(usage(row.compare(&base))?);
                if json && let Some(last) = compared.last() {
                    print_json(last)?;
                }
            }
            if !json {
                print(&validate::table(&compared))?;
            }
            let fits = compared
                .iter()
                .all(|row| row.within(within_throughput, within_p99));
            Ok(if fits {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Plot {
            docs,
            validated,
            quick,
            run,
        } => {
            let base = usage(run.settings(1, 1))?;
            let rows = validated.as_deref().map(validate::read).transpose();
            let rows = usage(rows)?.unwrap_or_default();
            other(plot::plot(&docs, &base, &rows, quick))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Costs { costs: path } => {
            let read = path.as_deref().map(read_costs).transpose();
            let (costs, domains) = usage(read)?.unwrap_or_default();
            print(&costs::write(&costs, &domains))
        }
    }
}

/// Settings of which the first machine can be made.
fn checked(settings: anyhow::Result<Settings>) -> anyhow::Result<Settings> {
    let settings = settings?;
    let small = Settings {
        workers: settings.workers.clamp(2000, MAX_WORKERS),
        ..settings.clone()
    };
    Machine::new(small)?;
    Ok(settings)
}

fn saturate(run: &RunArgs, cpus: &[u32], per_cpu: u32, share: f64, json: bool) -> Outcome {
    usage(list("cpus", cpus, MAX_CPUS))?;
    usage(list("per-cpu", &[per_cpu], 1000))?;
    usage((|| {
        let fits = share > 0.0 && share < 100.0;
        ensure!(fits, "--share {share}: not within 0..100");
        Ok(())
    })())?;
    if !json {
        print(&format!(
            "{:>5} {:>10} {:>14} {:>8} {:>8}\n",
            "cpus", "work us", "operations/s", "agent %", "kernel %"
        ))?;
    }
    for &cpus in cpus {
        let base = usage(checked(run.settings(cpus, cpus * per_cpu)))?;
        match other(sweep::saturation(&base, share / 100.0))? {
            Some(at) if json => {
                print_json(&at)?;
            }
            Some(at) => {
                print(&format!(
                    "{cpus:>5} {:>10.2} {:>14.0} {:>8.2} {:>8.2}\n",
                    at.work_us,
                    at.throughput,
                    100.0 * at.agent_share,
                    100.0 * at.kernel_share
                ))?;
            }
            None => eprintln!("{cpus} CPU(s): not even with the shortest work"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> Outcome {
    let written = io::stdout().write_all(text.as_bytes());
    other(written.context("cannot write to standard output"))?;
    Ok(ExitCode::SUCCESS)
}

fn print_json(value: &impl serde::Serialize) -> Outcome {
    let text = other(serde_json::to_string(value).context("cannot write JSON"))?;
    print(&(text + "\n"))
}
