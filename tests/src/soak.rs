//! `umcg-vmtest soak`: the scheduler under real loads while seeded faults are fired at it, one each
//! 0.5 to 3 s, with conservation checks all along.
//!
//! ```text
//! seed ── plan: faults ── field: applies them, takes them back ── agent, clients, CPUs
//!                           └─ each second: ejections, counters     └─ watcher: lost wakes
//!                           └─ each client: its own conservation, and that it gets on
//! at the end: loads stop, 10 s, what the agent holds is compared with what it held at the start
//! ```
//!
//! The faults of a run are a function of seed and time alone; the run lasts longer by as much as
//! they take to be applied. A violation is one line with seed and time.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::harness::{self, wait_until};
use crate::leak::Held;
use crate::unkind::Unkind;

mod agent;
mod cast;
mod crowd;
mod field;
mod harass;
mod plan;
mod report;
mod wake;
pub mod watch;

use agent::Agent;
use field::Field;
use plan::{Fault, Plan, mix};
use report::Report;
pub use report::What;

/// After the loads, so long until the agent is looked at.
const SETTLES: Duration = Duration::from_secs(10);
/// The machine may go on to free things for so long.
const FREES_WITHIN: Duration = Duration::from_secs(20);
/// Policies that a run may have, by its seed: by key, and staged by servers.
const POLICIES: [&str; 4] = ["fair", "fifo", "fair", "rr"];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Args {
    /// The time from fault to fault adds up to this.
    pub time: Duration,
    pub seed: u64,
}

impl Args {
    /// Reads `--minutes N --seed S`, or `--seconds N`.
    fn parse(args: &[String]) -> Result<Self> {
        let mut this = Self {
            time: Duration::from_secs(300),
            seed: 1,
        };
        for pair in args.chunks(2) {
            let [flag, value] = pair else {
                bail!("{}: without a value", pair[0]);
            };
            let number = value.parse::<u64>().ok();
            let number = number.with_context(|| format!("{flag} {value}: not a number"));
            let unit = match flag.as_str() {
                "--seed" => {
                    this.seed = number?;
                    continue;
                }
                "--minutes" => 60,
                "--seconds" => 1,
                _ => bail!("{flag}: unknown; known are --minutes, --seconds, --seed"),
            };
            let number = number?;
            let fits = (1..=24 * 60 * 60).contains(&(number.saturating_mul(unit)));
            ensure!(fits, "{flag} {number}: not within a second and a day");
            this.time = Duration::from_secs(number * unit);
        }
        Ok(this)
    }
}

/// The command.
pub fn main(args: &[String]) -> ExitCode {
    let args = match Args::parse(args) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("umcg-vmtest soak: {error:#}");
            return ExitCode::from(2);
        }
    };
    match run(args) {
        Ok(report) if report.violations.is_empty() => {
            println!("soak ok: seed {}", args.seed);
            ExitCode::SUCCESS
        }
        Ok(report) => {
            println!(
                "soak FAILED: seed {}: {} violations; the first: {}",
                args.seed,
                report.violations.len(),
                report.violations[0]
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("soak FAILED: seed {}: {error:#}", args.seed);
            harness::clean_up();
            ExitCode::FAILURE
        }
    }
}

/// All of it.
pub fn run(args: Args) -> Result<Report> {
    let policy = POLICIES[(mix(args.seed) >> 8) as usize % POLICIES.len()];
    println!(
        "soak seed {} for {:?}, policy {policy}",
        args.seed, args.time
    );
    let agent = Agent::start(policy)?;
    let mut field = Field::new(agent, Report::new(args.seed))?;
    warm_up(&mut field)?;
    let before = Held::settled(field.agent.sched()?)?;
    field.report.note(&format!("held at the start: {before:?}"));
    field.start()?;
    field.agent.watch(true)?;
    field.pass(Duration::from_secs(1))?;
    for (number, step) in Plan::new(args.seed).until(args.time).enumerate() {
        field.pass(step.after)?;
        field.report.fault(number, &step.fault);
        let fault = step.fault;
        field.apply(fault).with_context(|| fault.to_string())?;
    }
    field.end()?;
    field.agent.watch(false)?;
    leaks(&mut field, &before)?;
    field.agent.tell()?;
    field.report.tell();
    let Field { agent, report, .. } = field;
    agent.end()?;
    Ok(report)
}

/// What only the first of its kind leaves behind is no leak: caches, stacks that grow once.
fn warm_up(field: &mut Field) -> Result<()> {
    field.start()?;
    for file in 0..8 {
        field.agent.reload(file, true, &mut field.report)?;
    }
    field.agent.reload(0, false, &mut field.report)?;
    // Threads of the agent, whose stacks are kept; twice, as the first may leave early.
    for _ in 0..2 {
        field.apply(Fault::Stall { ms: 500 })?;
        field.apply(Fault::Groups { rounds: 3 })?;
        field.pass(Duration::from_millis(700))?;
    }
    let storm = Unkind::start("fork")?;
    field.pass(Duration::from_secs(1))?;
    drop(storm);
    field.end()?;
    field.agent.reload_plain(&mut field.report)?;
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// Records, files, threads, maps, memory: as they were before the first fault.
fn leaks(field: &mut Field, before: &Held) -> Result<()> {
    field.agent.reload_plain(&mut field.report)?;
    std::thread::sleep(SETTLES);
    let mut now = Held::settled(field.agent.sched()?)?;
    wait_until(FREES_WITHIN, || {
        if let Ok(sched) = field.agent.sched()
            && now.back_at(before).is_err()
            && let Ok(again) = Held::now(sched)
        {
            now = again;
        }
        now.back_at(before).is_ok()
    });
    field.report.note(&format!("held at the end: {now:?}"));
    if let Err(error) = now.back_at(before) {
        field.report.violation(What::Leak, &format!("{error:#}"));
    }
    now.tell(before);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Args> {
        let args: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        Args::parse(&args)
    }

    #[test]
    fn args_with_and_without_values() {
        let args = parse("--minutes 5 --seed 18446744073709551615").unwrap();
        assert_eq!((args.time.as_secs(), args.seed), (300, u64::MAX));
        assert_eq!(parse("--seconds 30").unwrap().time.as_secs(), 30);
        assert_eq!(parse("").unwrap().seed, 1);
    }

    #[test]
    fn args_that_are_wrong_are_named() {
        for (text, word) in [
            ("--minutes 0", "--minutes 0"),
            ("--minutes x", "x"),
            ("--minutes", "without a value"),
            ("--hours 1", "--hours"),
            ("--minutes 99999999999999999999", "not a number"),
            ("--minutes 18446744073709551615", "a day"),
            ("--seed -1", "-1"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
