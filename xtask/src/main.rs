//! `cargo xtask`: set-up, virtual machines, tests and checks of scx_umcg.
//!
//! Needs only cargo. This file dispatches; every task is a file of its own.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod apt;
mod bench;
mod cache;
mod commit;
mod figures;
mod gate;
mod guard;
mod kernels;
mod lib_task;
mod plot;
mod proc;
mod run;
mod setup;
mod soak;
mod store;
mod test;
mod tidy;
mod vm;
mod vm_task;

/// Set-up, virtual machines, tests and checks of scx_umcg.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what a bare Debian 12 or 13 lacks; can be run twice
    Setup(setup::Args),
    /// See scx_umcg schedule a stock kernel in a VM, beside EEVDF: the command to start with
    Run(run::Args),
    /// The part of `run` that runs in the guest
    #[command(hide = true)]
    GuestRun(run::guest::Args),
    /// Boot a stock kernel in a VM and run a command in it as root
    Vm(vm_task::Args),
    /// Run all tests: native ones, then those in VMs
    Test(test::Args),
    /// The check before a release: every kernel, the long tests, one table
    Gate(gate::Args),
    /// The hot paths beside their ceilings, by instructions; --update makes new ceilings
    Guard(guard::Args),
    /// Seeded faults under real loads, with conservation checks all along, in VMs; one table
    Soak(soak::Args),
    /// Every claim that has a bar, and loads beside EEVDF, in VMs; one table, rows as JSON
    Bench(bench::Args),
    /// The part of `bench` that runs in the guest
    #[command(hide = true)]
    GuestBench(bench::guest::Args),
    /// Write docs/figures.md and its chart from the rows that `bench` stored
    Figures(figures::Args),
    /// Build and install the client library for C
    Lib(lib_task::Args),
    /// Draw the curves of docs/idle-servers.md from what its tests measured
    Plot(plot::Args),
    /// Check the rules of the house that no compiler checks
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::Run(args) => run::run(&args),
        Task::GuestRun(args) => run::guest::run(&args),
        Task::Vm(args) => vm_task::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Gate(args) => gate::run(&args),
        Task::Guard(args) => guard::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::GuestBench(args) => bench::guest::run(&args),
        Task::Figures(args) => figures::run(&args),
        Task::Lib(args) => lib_task::run(&args),
        Task::Plot(args) => plot::run(&args),
        Task::Tidy(args) => tidy::run(&args),
    };
    done.unwrap_or_else(|err| {
        proc::say(format_args!("error: {err:#}"));
        ExitCode::FAILURE
    })
}
