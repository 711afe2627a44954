//! `cargo xtask run`: a stock kernel scheduled by scx_umcg, and how it compares with EEVDF.
//!
//! ```text
//! run ── set-up, build ── VM ── guest-run: EEVDF's figures, attach, the same loads, detach, table
//!                    └─ --host ─┘
//! ```
//!
//! The guest's side is a hidden command of this binary: the guest sees the host's files.

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::proc::{self, say};
use crate::test::{cargo, target_dir};
use crate::vm::Vm;
use crate::{kernels, setup, vm_task};

pub mod guest;
pub mod load;
mod report;
pub mod sched;

use report::Style;

/// Of the VM, beside the loads that `--seconds` makes longer; each load has a limit of its own.
const PATIENCE: Duration = Duration::from_secs(600);

/// Flags of `cargo xtask run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0 only if scx_umcg stayed attached until it was told to end and \
    every load ended. Ctrl-C ends everything, the VM too."
)]
pub struct Args {
    /// Stock Debian kernel for the VM, fetched when missing
    #[arg(long, value_parser = kernels::parse_series, default_value = kernels::DEFAULT)]
    kernel: String,
    /// Seconds of the latency measurement under each scheduler, 1..=600
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = seconds)]
    seconds: u64,
    /// On this machine's own kernel, without a VM; needs root
    #[arg(long, conflicts_with = "kernel")]
    host: bool,
}

fn seconds(arg: &str) -> Result<u64, String> {
    match arg.parse() {
        Ok(n @ 1..=600) => Ok(n),
        _ => Err(format!("{arg} is not within 1..=600; try 5, the default")),
    }
}

/// From a clean clone to the table at the end.
pub fn run(args: &Args) -> Result<ExitCode> {
    let style = Style::new(
        std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    );
    if args.host {
        check_host()?;
    }
    proc::out(&plan(args, style));
    proc::out(&style.heading("Set-up"));
    if args.host {
        setup::packages()?;
        say(format_args!("Debian packages: all there"));
    } else {
        setup::install(std::slice::from_ref(&args.kernel))?;
    }
    proc::out(&style.heading("Build"));
    proc::run(cargo().args(["build", "--release", "-p", "scx_umcg"]))
        .context("cannot build scx_umcg")?;
    let daemon = target_dir().join("release/scx_umcg");
    let start = Instant::now();
    let code = if args.host {
        guest::run(&guest::Args {
            daemon,
            seconds: args.seconds,
            color: style.color(),
        })?
    } else {
        in_vm(args, &daemon, style)?
    };
    say(format_args!(
        "took {} s without set-up and build",
        start.elapsed().as_secs()
    ));
    Ok(code)
}

fn plan(args: &Args, style: Style) -> String {
    let seconds = args.seconds;
    let (place, boot, minutes) = if args.host {
        let place = "on this machine's own kernel, with everything that runs on it".to_owned();
        (place, String::new(), 25 + 2 * seconds)
    } else {
        let kernel = &args.kernel;
        let boot = format!("  boot      stock Debian kernel {kernel} in a VM with 2 CPUs\n");
        let place =
            format!("on a stock Linux {kernel}, in a VM; this machine's kernel stays as it is");
        (place, boot, 60 + 2 * seconds)
    };
    let minutes = minutes.div_ceil(60);
    let s = if minutes == 1 { "" } else { "s" };
    format!(
        "{}\n{place}\n\n\
         \x20 set-up    install what is missing; what is there stays\n\
         \x20 build     cargo build --release\n\
         {boot}\
         \x20 EEVDF     measure the kernel's own scheduler\n\
         \x20 scx_umcg  attach it, measure the same, with live statistics\n\
         \x20 result    detach, compare\n\n\
         About {minutes} minute{s}; the first time 5 to 10 more for downloads and the build.\n\
         Ctrl-C ends all of it.\n",
        style.bold("scx_umcg beside EEVDF, the kernel's own scheduler")
    )
}

/// Refuses, in one sentence, a machine that cannot do it, before anything is touched.
fn check_host() -> Result<()> {
    let sysfs = Path::new(sched::SYSFS);
    if !sysfs.is_dir() {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        bail!(
            "cannot run on this machine: kernel {} has no sched_ext (no {}); needs \
             CONFIG_SCHED_CLASS_EXT=y, Linux 6.13 or newer; leave out --host to use a VM",
            release.trim(),
            sched::SYSFS
        );
    }
    let uid = proc::output(Command::new("id").arg("-u"))?;
    if uid.trim() != "0" {
        bail!(
            "cannot run on this machine: running as uid {}; --host needs root to load BPF; become \
             root, or leave out --host to use a VM",
            uid.trim()
        );
    }
    sched::check_free()
}

fn in_vm(args: &Args, daemon: &Path, style: Style) -> Result<ExitCode> {
    proc::out(&style.heading(&format!("Boot kernel {}", args.kernel)));
    say(format_args!("takes up to half a minute without KVM"));
    let me = std::env::current_exe().context("cannot tell where this program is")?;
    let mut argv: Vec<OsString> = vec![me.into(), "guest-run".into(), "--seconds".into()];
    argv.push(args.seconds.to_string().into());
    if style.color() {
        argv.push("--color".into());
    }
    argv.push(daemon.into());
    let mut vm = Vm::new(&args.kernel)?;
    // The folder with both programs; the guest sees it wherever it is.
    vm.cwd = target_dir();
    let limit = PATIENCE + Duration::from_secs(4 * args.seconds);
    vm.timeout = Some(limit);
    let outcome = vm.run(&argv, &mut vm_task::pass_on)?;
    let code = vm_task::exit_code(&outcome, Some(limit.as_secs()));
    Ok(ExitCode::from(code))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &str) -> Result<Args> {
        let words = ["run"].into_iter().chain(words.split_whitespace());
        Ok(Cli::try_parse_from(words)?.args)
    }

    #[test]
    fn flags_defaults_and_every_flag() {
        let plain = args("").unwrap();
        assert_eq!((plain.kernel.as_str(), plain.seconds), ("7.3", 5));
        assert!(!plain.host && args("--host").unwrap().host);
        let all = args("--kernel 6.18 --seconds 600").unwrap();
        assert_eq!((all.kernel.as_str(), all.seconds), ("6.18", 600));
    }

    #[test]
    fn flags_bad_values_name_value_and_allowed() {
        for (words, value, allowed) in [
            ("--kernel 5.10", "5.10", "6.18"),
            ("--seconds 0", "0", "1..=600"),
            ("--seconds 601", "601", "1..=600"),
            ("--seconds x", "x", "1..=600"),
            ("--host --kernel 7.3", "--kernel", "--host"),
        ] {
            let err = args(words).unwrap_err().to_string();
            assert!(
                err.contains(value) && err.contains(allowed),
                "{words}: {err}"
            );
        }
    }

    #[test]
    fn plan_fits_a_terminal_and_tells_the_time() {
        for (words, time) in [("", "About 2 minutes"), ("--host", "About 1 minute;")] {
            let text = plan(&args(words).unwrap(), Style::new(false));
            assert!(
                text.contains(time) && text.lines().all(|l| l.len() < 80),
                "{text}"
            );
        }
    }
}
