//! The command line.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use umcg_policy::Decide;

/// User-managed concurrency groups as the system scheduler.
///
/// BPF is the mechanism: it sees threads block and wake, keeps the waiting ones
/// in order and switches between them. One server thread per CPU is the policy.
/// Without a command it attaches and runs until Ctrl-C.
#[derive(Debug, Parser)]
#[command(
    name = "scx_umcg",
    disable_version_flag = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Flags of the daemon.
    #[command(flatten)]
    pub run: Box<RunArgs>,
    /// What to do instead of running as the scheduler.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Commands that look at a running instance, or at the kernel.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show mode, queues and who decided; works while the agent is stopped.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell, line by line, what this kernel has and lacks, or why a thread does not run.
    Doctor {
        /// Explain the thread with this id, of the running instance.
        #[arg(long, value_name = "TID", allow_negative_numbers = true,
              value_parser = within(1_i32, i32::MAX))]
        pid: Option<i32>,
        /// Print JSON.
        #[arg(long, requires = "pid")]
        json: bool,
    },
    /// Look at the configuration; needs no root and no sched_ext.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Tell a thread's life, edge by edge, until it ends or Ctrl-C.
    Watch {
        /// The thread with this id, of the running instance.
        #[arg(long, value_name = "TID", allow_negative_numbers = true,
              value_parser = within(1_i32, i32::MAX))]
        pid: i32,
        /// Stop after so many seconds.
        #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
        seconds: Option<f64>,
    },
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Tell everything that is wrong with FILE, each with its place.
    Check {
        /// The file [default: /etc/scx_umcg/config.toml].
        file: Option<PathBuf>,
    },
    /// Print the effective values, each with its origin; takes the daemon's flags.
    Show {
        /// The file [default: /etc/scx_umcg/config.toml].
        #[arg(conflicts_with = "config")]
        file: Option<PathBuf>,
        /// Flags of the daemon.
        #[command(flatten)]
        run: Box<RunArgs>,
    },
}

/// Flags of the daemon. What is not given comes from the configuration file, else it is the
/// default: see [`crate::config::Daemon`].
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Configuration file, TOML; the flags override it [default: /etc/scx_umcg/config.toml,
    /// if it is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Schedule only SCHED_EXT tasks, not every normal one.
    #[arg(long)]
    pub partial: bool,

    /// Who orders waiting workers: fair (weighted shares), fifo, lifo, rr,
    /// arrival, priority, deadline or quota; options after a colon, as in
    /// rr:slice_us=1000. docs/policies.md describes them [default: fair].
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    pub policy: Option<String>,

    /// Where decisions are made: key (terms ahead of time, BPF orders) or
    /// staged (the server picks each next worker) [default: what the policy prefers].
    #[arg(long, value_name = "HOW")]
    pub decide: Option<Decide>,

    /// CPU time per pick in microseconds (100..=100000), refilled when alone [default: 4000].
    #[arg(long, value_name = "US", value_parser = within(100_u64, 100_000))]
    pub slice_us: Option<u64>,

    /// Force a running worker off after so many microseconds while others wait
    /// (100..=100000); 0 = off: only the slice counts [default: 0].
    #[arg(long, value_name = "US", value_parser = quantum)]
    pub quantum_us: Option<u64>,

    /// Choices that a server stages per activation (1..=64) [default: 8].
    #[arg(long, value_name = "N", value_parser = within(1_u32, 64))]
    pub stage: Option<u32>,

    /// The kernel ejects the scheduler when a task waits so long, in
    /// milliseconds (1000..=30000) [default: 10000].
    #[arg(long, value_name = "MS", value_parser = within(1000_u32, 30_000))]
    pub timeout_ms: Option<u32>,

    /// Lift the limits of cgroups (cpu.max) instead of keeping them.
    #[arg(long)]
    pub ignore_cpu_max: bool,

    /// Print statistics every SECS seconds while running.
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub stats: Option<f64>,

    /// Only print the statistics of a running instance, every SECS seconds.
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub monitor: Option<f64>,

    /// Describe the statistics and exit.
    #[arg(long)]
    pub help_stats: bool,

    /// Say more; libbpf's messages too.
    #[arg(short, long)]
    pub verbose: bool,

    /// Print version, target and exit.
    #[arg(short = 'V', long)]
    pub version: bool,
}

fn policy(value: &str) -> Result<String, String> {
    umcg_policy::create(value, None, 1)
        .map(|_| value.to_owned())
        .map_err(|e| e.to_string())
}

/// A number; its error says what is allowed.
fn within<T>(low: T, high: T) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |value| match value.parse() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(format!("{value}: not a whole number within {low}..={high}")),
    }
}

/// What clap has to say about wrong arguments, in one sentence and with the next step.
pub fn sentence(err: &clap::Error) -> String {
    let text = err.to_string();
    let said = text
        .lines()
        .map(|line| {
            line.trim()
                .trim_start_matches("error: ")
                .trim_start_matches("tip: ")
        })
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty());
    let mut said: String = said.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    said += "; see `scx_umcg --help`";
    said
}

fn quantum(value: &str) -> Result<u64, String> {
    match value.parse() {
        Ok(us @ (0 | 100..=100_000)) => Ok(us),
        _ => Err(format!("{value}: not 0 (off) or within 100..=100000")),
    }
}

fn seconds(value: &str) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(s) if (0.1..=86_400.0).contains(&s) => Ok(s),
        _ => Err(format!("{value}: not within 0.1..=86400 seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("scx_umcg").chain(args.iter().copied()))
    }

    #[test]
    fn flags_not_given_are_left_to_the_file() {
        let run = parse(&[]).unwrap().run;
        assert!(run.policy.is_none() && run.decide.is_none() && run.config.is_none());
        assert!(run.slice_us.is_none() && run.quantum_us.is_none() && run.stats.is_none());
        assert!(run.stage.is_none() && run.timeout_ms.is_none() && !run.partial);
        let run = parse(&["--config", "x.toml", "--slice-us", "500"])
            .unwrap()
            .run;
        assert_eq!(
            (run.config, run.slice_us),
            (Some("x.toml".into()), Some(500))
        );
    }

    #[test]
    fn config_commands_take_a_file_and_show_takes_flags() {
        let config = |args: &[&str]| match parse(args)?.command {
            Some(Command::Config(config)) => Ok::<_, clap::Error>(config),
            _ => panic!("{args:?} is not about the configuration"),
        };
        let check = config(&["config", "check", "a.toml"]).unwrap();
        assert!(matches!(check, ConfigCommand::Check { file: Some(f) } if f.ends_with("a.toml")));
        let show = config(&["config", "show", "--slice-us", "700"]).unwrap();
        assert!(
            matches!(show, ConfigCommand::Show { file: None, run } if run.slice_us == Some(700))
        );
        for args in [
            &["config"][..],
            &["config", "chek"],
            &["config", "show", "a", "--config", "b"],
        ] {
            let text = sentence(&config(args).unwrap_err());
            assert!(!text.contains('\n'), "{args:?}: {text}");
        }
    }

    #[test]
    fn flags_out_of_range_name_value_and_range() {
        for (args, value, range) in [
            (["--stage", "300"], "300", "1..=64"),
            (["--slice-us", "99"], "99", "100..=100000"),
            (["--slice-us", "banana"], "banana", "100..=100000"),
            (["--quantum-us", "50"], "50", "100..=100000"),
            (["--timeout-ms", "30001"], "30001", "1000..=30000"),
            (["--stats", "0"], "0", "0.1..=86400"),
            (["--policy", "fiffo"], "fiffo", "fifo"),
            (["--policy", "quota:tiers=60/50"], "110 %", "at most 100"),
            (["--policy", "rr:slice_us=5"], "\"5\"", "100..=100000"),
            (
                ["--policy", "rr:slce_us=500"],
                "slce_us",
                "did you mean slice_us?",
            ),
            (["--decide", "both"], "both", "staged"),
        ] {
            let text = sentence(&parse(&args).unwrap_err());
            assert!(
                text.contains(value) && text.contains(range) && !text.contains('\n'),
                "{args:?}: {text}"
            );
        }
    }

    #[test]
    fn doctor_takes_a_thread_and_refuses_what_is_none() {
        let doctor = |args: &[&str]| match parse(args)?.command {
            Some(Command::Doctor { pid, json }) => Ok::<_, clap::Error>((pid, json)),
            _ => panic!("{args:?} is no doctor"),
        };
        assert_eq!(doctor(&["doctor"]).unwrap(), (None, false));
        let both = doctor(&["doctor", "--json", "--pid", "7"]).unwrap();
        assert_eq!(both, (Some(7), true));
        for (args, value, allowed) in [
            (&["doctor", "--pid", "0"][..], "0", "1..=2147483647"),
            (&["doctor", "--pid", "-3"], "-3", "1..=2147483647"),
            (
                &["doctor", "--pid", "99999999999"],
                "99999999999",
                "2147483647",
            ),
            (&["doctor", "--pid", "banana"], "banana", "1..=2147483647"),
            (&["doctor", "--pid"], "--pid", "value is required"),
            (&["doctor", "--json"], "--pid", "required"),
            (&["status", "--pid", "1"], "--pid", "unexpected"),
        ] {
            let text = sentence(&doctor(args).unwrap_err());
            assert!(
                text.contains(value) && text.contains(allowed) && !text.contains('\n'),
                "{args:?}: {text}"
            );
        }
    }

    #[test]
    fn watch_takes_a_thread_and_a_time() {
        let watch = |args: &[&str]| match parse(args)?.command {
            Some(Command::Watch { pid, seconds }) => Ok::<_, clap::Error>((pid, seconds)),
            _ => panic!("{args:?} is no watch"),
        };
        assert_eq!(watch(&["watch", "--pid", "7"]).unwrap(), (7, None));
        let both = watch(&["watch", "--for", "2.5", "--pid", "7"]).unwrap();
        assert_eq!(both, (7, Some(2.5)));
        for (args, value, allowed) in [
            (&["watch"][..], "--pid", "not provided"),
            (&["watch", "--pid", "0"], "0", "1..=2147483647"),
            (&["watch", "--pid", "-3"], "-3", "1..=2147483647"),
            (&["watch", "--pid", "banana"], "banana", "1..=2147483647"),
            (
                &["watch", "--pid", "7", "--for", "0"],
                "0",
                "0.1..=86400 seconds",
            ),
            (
                &["watch", "--pid", "7", "--for", "soon"],
                "soon",
                "0.1..=86400 seconds",
            ),
            (&["watch", "--pid", "7", "--json"], "--json", "unexpected"),
        ] {
            let text = sentence(&watch(args).unwrap_err());
            assert!(
                text.contains(value) && text.contains(allowed) && !text.contains('\n'),
                "{args:?}: {text}"
            );
        }
    }

    #[test]
    fn flags_unknown_are_refused() {
        let text = sentence(&parse(&["--polcy", "fair"]).unwrap_err());
        let want = "unexpected argument '--polcy' found; a similar argument exists: '--policy'; \
                    see `scx_umcg --help`";
        assert_eq!(text, want);
        let text = sentence(&parse(&["statsu"]).unwrap_err());
        assert!(text.contains("'status'") && !text.contains('\n'), "{text}");
        assert!(parse(&["--partial", "status"]).is_err());
    }
}
