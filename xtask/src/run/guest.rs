//! `cargo xtask guest-run`: the measurement itself, on the kernel that runs here, as root.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::proc;
use crate::run::load::{self, Figures};
use crate::run::report::{self, Style};
use crate::run::sched::{self, Counts, Sched};

/// Arguments of the hidden command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The scheduler's binary
    pub daemon: PathBuf,
    /// Seconds of the latency measurement
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Bold and colours
    #[arg(long)]
    pub color: bool,
}

/// EEVDF's figures, then scx_umcg's, then both beside each other.
pub fn run(args: &Args) -> Result<ExitCode> {
    let style = Style::new(args.color);
    sched::check_free()?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    proc::out(&style.heading(&format!("EEVDF on Linux {release}, {cpus} CPUs")));
    let mut faults = Vec::new();
    let eevdf = load::measure("EEVDF", args.seconds, cpus, &mut faults);

    proc::out(&style.heading(&format!("scx_umcg on Linux {release}, {cpus} CPUs")));
    let mut sched = Sched::start(&args.daemon, &["--stats", "1"])?;
    proc::out(report::LIVE_HEADING);
    let mut umcg = load::measure("scx_umcg", args.seconds, cpus, &mut faults);
    if let Err(err) = sched.still_attached() {
        faults.push(format!("{err:#}"));
        // Not its own any more: another scheduler ran a part of the loads.
        umcg = Figures::default();
    }
    let mut counts = None;
    if !sched.ended() {
        counts = look(&sched, &mut faults);
        if let Err(err) = sched.stop() {
            faults.push(format!("{err:#}"));
        }
    }
    conclude(style, &eevdf, &umcg, counts.as_ref(), &faults)
}

/// What the scheduler says of itself just before it is told to end.
fn look(sched: &Sched, faults: &mut Vec<String>) -> Option<Counts> {
    match sched.status() {
        Ok(counts) => {
            if counts.ejections > 0 && faults.is_empty() {
                let times = counts.ejections;
                faults.push(format!("scx_umcg counts {times} ejections by the kernel"));
            }
            Some(counts)
        }
        Err(err) => {
            faults.push(format!("{err:#}"));
            None
        }
    }
}

fn conclude(
    style: Style,
    eevdf: &Figures,
    umcg: &Figures,
    counts: Option<&Counts>,
    faults: &[String],
) -> Result<ExitCode> {
    proc::out(&style.heading("Result"));
    if let Some(counts) = counts {
        proc::out(&report::decisions(counts));
    }
    proc::out(&report::comparison(eevdf, umcg));
    if fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG")) {
        proc::out(report::EMULATED);
    }
    let attached_s = counts.map_or(0.0, |counts| counts.attached_s);
    proc::out(&report::verdict(style, attached_s, faults));
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
