//! The `scx_umcg` command.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use log::error;
use scx_umcg::agent::news::News;
use scx_umcg::cli::{self, Cli, Command, ConfigCommand, RunArgs};
use scx_umcg::{agent, config, doctor, exit, stats, status, watch};

fn main() -> ExitCode {
    exit::plain_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) if err.use_stderr() => {
            init_log(false);
            error!("{}", cli::sentence(&err));
            return ExitCode::from(exit::Exit::Usage as u8);
        }
        Err(help) => help.exit(),
    };
    init_log(cli.run.verbose);
    match dispatch(&cli) {
        Ok(()) => ExitCode::from(exit::Exit::Clean as u8),
        Err(err) => {
            // One line per thing that is wrong, as of a configuration file.
            format!("{err:#}").lines().for_each(|line| error!("{line}"));
            ExitCode::from(exit::code_of(&err) as u8)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    match &cli.command {
        Some(Command::Status { json }) => return status::run(*json),
        Some(Command::Doctor { pid: None, .. }) => return doctor::run(),
        Some(Command::Doctor {
            pid: Some(tid),
            json,
        }) => return doctor::thread::run(*tid, *json),
        Some(Command::Config(command)) => return about_config(command),
        Some(Command::Watch { pid, seconds }) => {
            let news = News::of_signals()?;
            return watch::run(*pid, *seconds, || news.is_end_asked());
        }
        None => {}
    }
    if cli.run.version {
        println!(
            "scx_umcg {}",
            scx_utils::build_id::full_version(env!("CARGO_PKG_VERSION"))
        );
        return Ok(());
    }
    if cli.run.help_stats {
        return stats::describe();
    }
    if let Some(secs) = cli.run.monitor {
        let news = News::of_signals()?;
        return stats::monitor(Duration::from_secs_f64(secs), || news.is_end_asked());
    }
    agent::run(&cli.run)
}

fn about_config(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check { file } => config::show::check(&RunArgs {
            config: file.clone(),
            ..RunArgs::default()
        })?,
        ConfigCommand::Show { file, run } => config::show::show(&RunArgs {
            config: file.clone().or_else(|| run.config.clone()),
            ..(**run).clone()
        })?,
    }
    Ok(())
}

/// Messages go to stderr; libbpf's only with --verbose.
fn init_log(verbose: bool) {
    let level = if verbose {
        simplelog::LevelFilter::Debug
    } else {
        simplelog::LevelFilter::Info
    };
    let config = simplelog::ConfigBuilder::new()
        .set_time_level(simplelog::LevelFilter::Off)
        .set_location_level(simplelog::LevelFilter::Off)
        .set_target_level(simplelog::LevelFilter::Off)
        .set_thread_level(simplelog::LevelFilter::Off)
        .build();
    // A second logger is impossible: this is the only call.
    let _ = simplelog::TermLogger::init(
        level,
        config,
        simplelog::TerminalMode::Stderr,
        if std::io::stderr().is_terminal() {
            simplelog::ColorChoice::Auto
        } else {
            simplelog::ColorChoice::Never
        },
    );
    scx_utils::init_libbpf_logging(
        verbose
            .then_some(libbpf_rs::PrintLevel::Debug)
            .or(Some(libbpf_rs::PrintLevel::Warn)),
    );
}
