//! `cargo xtask test`: native suites, then the tests inside VMs; all failures and one total at
//! the end.
//!
//! 1. native: formatting, tidy, lints, unit and integration tests, loom models;
//! 2. build the daemon, `umcg-vmtest` and the library's examples, those in C among them;
//! 3. the command `cargo xtask vm` itself;
//! 4. for each kernel, boot one VM per boot word of `umcg-vmtest --list`, one at a time.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::proc;
use crate::{kernels, setup};

mod command;
pub mod guest;
mod native;
pub mod plan;
pub mod programs;
pub mod report;
pub mod round;

pub use native::{cargo, target_dir};

use guest::Bench;
use report::Report;

/// Flags of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the tests that need no VM
    #[arg(long, conflicts_with = "kernel")]
    native: bool,
    /// Also the tests that take long
    #[arg(long)]
    full: bool,
    /// Only on this kernel, instead of on 6.18 and 7.3
    #[arg(long, value_parser = kernels::parse_series)]
    kernel: Option<String>,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// Runs everything that was asked for, whatever fails on the way.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut report = Report::default();
    match setup::packages() {
        Ok(()) => suites(args, &mut report),
        Err(err) => report.fail("setup", &format!("{err:#}")),
    }
    if report.is_empty() {
        let what = args.filter.as_deref().unwrap_or_default();
        report.fail(
            "filter",
            &format!("no test matches: {what}; try cargo xtask test alone"),
        );
    }
    proc::out(&report.summary());
    Ok(if report.passed_all() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn suites(args: &Args, report: &mut Report) {
    native::run(args.filter.as_deref(), report);
    if args.native {
        return;
    }
    let kernels = kernels::asked(args.kernel.as_deref(), &kernels::TESTED);
    if let Err(err) = in_vms(args, &kernels, report) {
        report.fail("vm", &format!("{err:#}"));
    }
}

fn in_vms(args: &Args, kernels: &[&str], report: &mut Report) -> Result<()> {
    let binary = programs::build()?;
    let mut list = Command::new(&binary);
    list.arg("--list").args(args.full.then_some("--full"));
    let plan = plan::parse(&proc::output(&mut list)?, args.filter.as_deref())?;
    if let Some(newest) = kernels.last() {
        command::run(newest, args.filter.as_deref(), report);
    }
    for kernel in kernels {
        let all = args.full || kernels.last() == Some(kernel);
        let bench = Bench::new(kernel, &binary)?;
        for boot in plan.iter().filter(|boot| all || !boot.is_for_newest()) {
            bench.run(boot, report);
        }
    }
    Ok(())
}
