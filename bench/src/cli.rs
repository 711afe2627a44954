//! The command line: flags, sentences, exit codes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use umcg_sim::command::Failure;

use crate::context::{COMMIT, Context, Settings};
use crate::loads::{LOADS, Load, Planned};
use crate::out::Sink;
use crate::plan::Under;

/// Measures umcg's workers beside plain threads.
#[derive(Debug, Parser)]
#[command(name = "umcg-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the loads
    List,
    /// Runs loads by name, `all` for all of them
    Run(RunArgs),
    /// A model of cost and scale, for machines that are not at hand
    #[command(subcommand)]
    Simulate(umcg_sim::cli::Command),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// What to run; `umcg-bench list` shows the names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// 3 rounds of 0.1 s, to see that it works
    #[arg(long)]
    quick: bool,

    /// Write rows to this file as lines of JSON, `-` for stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write rows to this file as CSV, `-` for stdout
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Rounds, each of which takes every side once; 9 unless set
    #[arg(long, value_name = "N", value_parser = rounds)]
    rounds: Option<usize>,

    /// How long a side is measured in a round; 0.5 unless set
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
}

fn rounds(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (1..=1000).contains(n));
    number.ok_or_else(|| "not within 1..=1000".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|s| (0.005..=600.0).contains(s));
    number.ok_or_else(|| "not within 0.005..=600 seconds".into())
}

impl RunArgs {
    fn settings(&self) -> Settings {
        let (rounds, seconds) = if self.quick { (3, 0.1) } else { (9, 0.5) };
        Settings {
            rounds: self.rounds.unwrap_or(rounds),
            seconds: self.seconds.unwrap_or(seconds),
            futex_only: false,
        }
    }
}

/// The program: 0, 1 if a load failed, 2 if it was asked for something that is not.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return usage(&sentence(&error)),
        Err(help) => {
            // Help for a reader who is gone is no failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let done = match cli.command {
        Command::List => list(),
        Command::Simulate(command) => match umcg_sim::command::perform(command) {
            Ok(code) => return code,
            Err(Failure::Usage(error)) => return usage(&format!("{error:#}")),
            Err(Failure::Other(error)) => Err(error),
        },
        Command::Run(args) => {
            let prepared = find(&args.names).and_then(|loads| {
                let sink = Sink::open(args.json.as_deref(), args.csv.as_deref())?;
                Ok((loads, sink))
            });
            match prepared {
                Ok((loads, sink)) => run(&loads, args.settings(), sink),
                Err(error) => return usage(&format!("{error:#}")),
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("umcg-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(text: &str) -> ExitCode {
    eprintln!("umcg-bench: {text}");
    ExitCode::from(2)
}

/// What clap says, in one line.
fn sentence(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command; there are list, run and simulate; see `umcg-bench --help`".into();
    }
    let text = error.to_string();
    let trim = |line: &str| {
        let line = line.trim().trim_start_matches("error: ");
        line.trim_start_matches("tip: ").to_owned()
    };
    let is_end = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more");
    let lines = text.lines().take_while(|line| !is_end(line));
    let said: Vec<String> = lines.map(trim).filter(|line| !line.is_empty()).collect();
    format!(
        "{}; see `umcg-bench --help`",
        said.join("; ").replace(":; ", ": ")
    )
}

fn list() -> Result<()> {
    let mut sink = Sink::open(None, None)?;
    for load in LOADS {
        sink.say(&format!("{:<10} {}", load.name, load.what))?;
    }
    Ok(())
}

/// The loads of these names, each once, in the order of the list.
fn find(names: &[String]) -> Result<Vec<&'static Load>> {
    for name in names {
        if name == "all" || LOADS.iter().any(|load| load.name == name) {
            continue;
        }
        let all: Vec<_> = LOADS.iter().map(|load| load.name).collect();
        let nearest = nearest(name, &all);
        let hint = nearest.map_or(String::new(), |it| format!("did you mean {it}? "));
        bail!(
            "{name}: no such bench; {hint}there are {}, all",
            all.join(", ")
        );
    }
    let wanted = |load: &&Load| names.iter().any(|name| name == "all" || name == load.name);
    Ok(LOADS.iter().filter(wanted).collect())
}

/// Which of `all` may have been meant, if one is near enough.
pub fn nearest<'a>(name: &str, all: &[&'a str]) -> Option<&'a str> {
    let near = |it: &&str| strsim::jaro_winkler(name, it);
    let best = all.iter().max_by(|a, b| near(a).total_cmp(&near(b)))?;
    (near(best) > 0.7).then_some(*best)
}

/// Runs them all; one that fails does not stop those behind it.
fn run(loads: &[&Load], settings: Settings, mut sink: Sink) -> Result<()> {
    let context = Context::find(settings)?;
    sink.say(&head(&context))?;
    let mut failed = Vec::new();
    for load in loads {
        if let Err(error) = run_load(load, &context, &mut sink) {
            sink.say(&format!("{}: failed: {error:#}", load.name))?;
            failed.push(load.name);
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        names => bail!("{} failed: {}", names.len(), names.join(", ")),
    }
}

fn head(context: &Context) -> String {
    let settings = &context.settings;
    format!(
        "umcg-bench {} ({COMMIT}), kernel {}, {} CPUs\nworkers: {}; plain threads: {}; {} rounds of {} s a side",
        env!("CARGO_PKG_VERSION"),
        context.kernel,
        context.cpus.len(),
        context.mode,
        context.under(Under::Threads),
        settings.rounds,
        settings.seconds,
    )
}

fn run_load(load: &Load, context: &Context, sink: &mut Sink) -> Result<()> {
    let plans = match load.plans(context)? {
        Planned::Here(plans) => plans,
        Planned::NotHere(why) => return sink.say(&format!("{}: not here: {why}", load.name)),
    };
    for plan in plans {
        let name = plan.name().to_owned();
        let rows = plan.run(context, sink)?;
        if !context.is_mode_kept()? {
            bail!("{name}: the daemon came or went meanwhile; its rows are left out");
        }
        for row in &rows {
            sink.row(row)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Settings, String> {
        let args = ["umcg-bench", "run"].iter().chain(args);
        match Cli::try_parse_from(args) {
            Ok(Cli {
                command: Command::Run(args),
            }) => Ok(args.settings()),
            Ok(other) => panic!("{other:?} is no run"),
            Err(error) => Err(sentence(&error)),
        }
    }

    #[test]
    fn flags_override_quick() {
        let settings = |args: &[&str]| {
            let settings = parse(args).unwrap();
            (settings.rounds, settings.seconds)
        };
        assert_eq!(settings(&["all"]), (9, 0.5));
        assert_eq!(settings(&["all", "--quick"]), (3, 0.1));
        assert_eq!(settings(&["all", "--quick", "--rounds", "5"]), (5, 0.1));
        assert_eq!(settings(&["all", "--seconds", "2"]), (9, 2.0));
    }

    #[test]
    fn flags_out_of_range_name_value_and_range() {
        for (args, value, range) in [
            (&["all", "--rounds", "0"][..], "'0'", "1..=1000"),
            (&["all", "--rounds", "many"], "'many'", "1..=1000"),
            (&["all", "--seconds", "601"], "'601'", "0.005..=600 seconds"),
            (&["all", "--seconds", "NaN"], "'NaN'", "0.005..=600 seconds"),
            (&["all", "--sconds", "1"], "'--sconds'", "'--seconds'"),
            (&[], "<NAME>...", "not provided"),
        ] {
            let text = parse(args).unwrap_err();
            assert!(
                text.contains(value) && text.contains(range) && !text.contains('\n'),
                "{args:?}: {text}"
            );
        }
    }

    #[test]
    fn find_unknown_bench_names_the_nearest_and_all() {
        let text = |name: &str| find(&[name.to_owned()]).unwrap_err().to_string();
        let want = "swich: no such bench; did you mean switch? there are switch, wake, block, \
                    preempt, messaging, request, pool, hog, over, all";
        assert_eq!(text("swich"), want);
        let far = text("zzz");
        assert!(
            far.starts_with("zzz: no such bench; there are switch, "),
            "{far}"
        );
    }

    #[test]
    fn find_takes_each_once_in_the_order_of_the_list() {
        let names = |asked: &[&str]| -> Vec<&str> {
            let asked: Vec<String> = asked.iter().map(|&name| name.to_owned()).collect();
            find(&asked).unwrap().iter().map(|load| load.name).collect()
        };
        assert_eq!(names(&["wake", "switch", "wake"]), ["switch", "wake"]);
        assert_eq!(names(&["wake", "all"]).len(), LOADS.len());
    }
}
