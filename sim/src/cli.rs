//! The command line of `umcg-bench simulate`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use umcg_policy::Decide;

use crate::costs;
use crate::idle::IdleKind;
use crate::load::Load;
use crate::machine::Settings;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One run, as a table
    Run {
        /// How
        #[command(flatten)]
        run: RunArgs,
        /// CPUs, 1..=256
        #[arg(long, default_value_t = 1)]
        cpus: u32,
        /// Workers, 1..=1000000
        #[arg(long, default_value_t = 100)]
        workers: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// A run for each number of CPUs and of workers
    Sweep {
        /// How
        #[command(flatten)]
        run: RunArgs,
        /// CPUs, with commas
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "1,2,4,8,16,32,64,128,256"
        )]
        cpus: Vec<u32>,
        /// Workers, with commas
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "10,100,1000,10000,100000,1000000"
        )]
        workers: Vec<u32>,
        /// Form of the rows
        #[arg(long, value_enum, default_value_t = Format::Csv)]
        format: Format,
        /// Where to; standard output if not given
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// The shortest work between two waits at which workers still get a share of the machine
    Saturate {
        /// How; the load is this command's own
        #[command(flatten)]
        run: RunArgs,
        /// CPUs, with commas
        #[arg(long, value_delimiter = ',', default_value = "1,4,16,64,256")]
        cpus: Vec<u32>,
        /// Workers per CPU
        #[arg(long, default_value_t = 8)]
        per_cpu: u32,
        /// The share of CPU time that workers have to get, in percent
        #[arg(long, default_value_t = 50.0)]
        share: f64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The model beside measured rows
    Validate {
        /// JSON lines: {"load", "cpus", "workers", "throughput", "p99_us", ...}
        file: PathBuf,
        /// How; rows may say otherwise
        #[command(flatten)]
        run: RunArgs,
        /// Fail where throughput is off by more, in percent
        #[arg(long)]
        within_throughput: Option<f64>,
        /// Fail where p99 is off by more, in percent
        #[arg(long)]
        within_p99: Option<f64>,
        /// Print JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Runs what docs/scale.md shows, draws its chart and writes its tables
    Plot {
        /// The folder with scale.md
        #[arg(long, default_value = "docs")]
        docs: PathBuf,
        /// Measured rows, as for `validate`; what lies beyond them is marked as extrapolation
        #[arg(long)]
        validated: Option<PathBuf>,
        /// Smaller machines, a tenth of the simulated time: to see that it works
        #[arg(long)]
        quick: bool,
        /// How; the loads are this command's own
        #[command(flatten)]
        run: RunArgs,
    },
    /// The table of costs as a file for --costs, with the origin of each
    Costs {
        /// A file that changes some
        #[arg(long)]
        costs: Option<PathBuf>,
    },
}

/// Form of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// With a head line.
    Csv,
    /// A line per row.
    Json,
}

/// What runs have in common.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// KIND:KEY=VALUE,...; cpu, sleepers, request or messaging, see docs/scale.md
    #[arg(long, default_value = "request:load=0.7,service=exp:100us")]
    pub load: String,
    /// A policy, NAME or NAME:KEY=VALUE,...
    #[arg(long, default_value = "fair")]
    pub policy: String,
    /// key or staged; as the policy prefers if not given
    #[arg(long)]
    pub decide: Option<String>,
    /// Choices per activation of a staged server, 1..=64
    #[arg(long, default_value_t = 8)]
    pub stage: u32,
    /// Slice, 100..=100000
    #[arg(long, default_value_t = 4000)]
    pub slice_us: u64,
    /// Who finds idle CPUs: kernel, stack, ring or mask
    #[arg(long, default_value = "kernel")]
    pub idle: String,
    /// Of the random numbers
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Simulated time that is counted
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Simulated time before that
    #[arg(long, default_value_t = 0.1)]
    pub warm_up: f64,
    /// TOML file with [machine] and [costs]; `umcg-bench simulate costs` prints one
    #[arg(long)]
    pub costs: Option<PathBuf>,
}

impl RunArgs {
    /// Settings of a run.
    ///
    /// # Errors
    ///
    /// A value that means nothing, or a file that cannot be read.
    pub fn settings(&self, cpus: u32, workers: u32) -> Result<Settings> {
        let load: Load = self.load.parse()?;
        let decide = match &self.decide {
            Some(text) => Some(text.parse::<Decide>().map_err(anyhow::Error::new)?),
            None => None,
        };
        let (costs, domains) = match &self.costs {
            Some(path) => read_costs(path)?,
            None => Default::default(),
        };
        Ok(Settings {
            policy: self.policy.clone(),
            decide,
            stage: self.stage,
            slice_us: self.slice_us,
            idle: self.idle.parse::<IdleKind>()?,
            seed: self.seed,
            seconds: self.seconds,
            warm_up: self.warm_up,
            costs,
            domains,
            ..Settings::new(cpus, workers, load)
        })
    }
}

/// Reads a file of costs.
///
/// # Errors
///
/// It cannot be read, or says something wrong.
pub fn read_costs(path: &std::path::Path) -> Result<(costs::Costs, costs::Domains)> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(name)?;
    costs::read(&text).with_context(name)
}

/// Checks a list of numbers.
///
/// # Errors
///
/// It is empty, or one is not within 1..=`most`.
pub fn list(name: &str, numbers: &[u32], most: u32) -> Result<()> {
    ensure!(!numbers.is_empty(), "--{name}: empty; at least one number");
    match numbers.iter().find(|it| !(1..=most).contains(*it)) {
        Some(bad) => bail!("--{name} {bad}: not within 1..={most}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cli_is_consistent() {
        Command::augment_subcommands(clap::Command::new("simulate")).debug_assert();
    }

    #[test]
    fn cli_lists_are_checked() {
        assert!(list("cpus", &[1, 256], 256).is_ok());
        let told = list("cpus", &[1, 257], 256).expect_err("beyond");
        assert_eq!(told.to_string(), "--cpus 257: not within 1..=256");
    }
}
