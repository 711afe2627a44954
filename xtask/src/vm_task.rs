//! `cargo xtask vm`: runs one command in a VM; stdout and the exit code are the command's.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kernels;
use crate::proc::say;
use crate::vm::{End, Outcome, Piece, Vm};

/// As `timeout(1)`.
const CODE_TIMEOUT: u8 = 124;
/// No exit code came from the guest.
const CODE_DIED: u8 = 125;
/// How much of the guest kernel's log to show when it died.
const CONSOLE_LINES: usize = 60;

/// Flags of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The host's files are at the same paths and writable, but for /tmp and the \
    like, which are the guest's own unless the current directory is below. A scratch disk is \
    /dev/vda. There is no network but lo. Exit codes: the command's; 124 when the time was over; \
    125 when the guest died."
)]
pub struct Args {
    /// Stock Debian kernel, fetched when missing
    #[arg(long, value_parser = kernels::parse_series, default_value = kernels::DEFAULT)]
    kernel: String,
    /// Virtual CPUs, 1..=64 [default: 2, or what the topology gives]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// SOCKETS:CORES:THREADS, as in 1:2:2 for two cores with two threads each
    #[arg(long, value_parser = parse_topology)]
    topology: Option<(u32, u32, u32)>,
    /// Memory, as in 4G or 512M
    #[arg(long, default_value = "4G", value_parser = parse_mem)]
    mem: String,
    /// Give the guest an empty scratch disk of that size, /dev/vda
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    disk: Option<u64>,
    /// More kernel arguments
    #[arg(long, value_name = "KERNELARGS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// End the guest after that many seconds, boot included, with exit code 124
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    timeout: Option<u64>,
    /// Count instructions: one guest instruction is one guest nanosecond; one CPU only
    #[arg(long)]
    icount: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Boots, runs, passes everything on.
pub fn run(args: &Args) -> Result<ExitCode> {
    let vm = args.vm()?;
    let outcome = vm.run(&args.command, &mut pass_on)?;
    Ok(ExitCode::from(exit_code(&outcome, args.timeout)))
}

impl Args {
    fn vm(&self) -> Result<Vm> {
        let mut vm = Vm::new(&self.kernel)?;
        vm.topology = self.topology;
        vm.cpus = self.cpu_count()?;
        vm.mem.clone_from(&self.mem);
        vm.disk_mb = self.disk;
        vm.append.clone_from(&self.append);
        vm.timeout = self.timeout.map(Duration::from_secs);
        vm.icount = self.icount;
        Ok(vm)
    }

    fn cpu_count(&self) -> Result<u32> {
        let shape = self
            .topology
            .map(|(sockets, cores, threads)| sockets * cores * threads);
        if let (Some(cpus), Some(shape)) = (self.cpus, shape)
            && cpus != shape
        {
            bail!("--cpus {cpus} and --topology disagree: the topology has {shape}; drop --cpus");
        }
        let cpus = self.cpus.or(shape);
        match (self.icount, cpus) {
            (false, _) => Ok(cpus.unwrap_or(2)),
            (true, None | Some(1)) => Ok(1),
            (true, Some(many)) => bail!(
                "--icount with {many} CPUs: only 1 gives figures that mean something; \
                 drop --cpus and --topology"
            ),
        }
    }
}

/// Passes the guest's output on, as it comes.
pub fn pass_on(piece: Piece<'_>) -> Result<()> {
    match piece {
        Piece::Out(bytes) => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes)
                .and_then(|()| out.flush())
                .context("cannot write to stdout")
        }
        Piece::Err(bytes) => std::io::stderr()
            .write_all(bytes)
            .context("cannot write to stderr"),
    }
}

/// The code to exit with; says on stderr what is not the command's own doing.
pub fn exit_code(outcome: &Outcome, timeout: Option<u64>) -> u8 {
    match outcome.end {
        End::Exit(code) => code,
        End::TimedOut => {
            let limit = timeout.unwrap_or_default();
            say(format_args!("timeout: the guest ran longer than {limit} s"));
            say_console(outcome);
            CODE_TIMEOUT
        }
        End::Died { booted } => {
            let when = if booted {
                "while the command ran"
            } else {
                "before the command started"
            };
            say(format_args!(
                "the guest died {when}, no exit code; the end of its kernel log:"
            ));
            say_console(outcome);
            CODE_DIED
        }
    }
}

/// The end of the guest's kernel log, which tells why it hung or died.
fn say_console(outcome: &Outcome) {
    let lines: Vec<_> = outcome.console.lines().collect();
    for line in &lines[lines.len().saturating_sub(CONSOLE_LINES)..] {
        say(format_args!("| {line}"));
    }
}

/// Reads SOCKETS:CORES:THREADS.
pub fn parse_topology(arg: &str) -> Result<(u32, u32, u32), String> {
    let parts: Vec<u32> = arg.split(':').map_while(|part| part.parse().ok()).collect();
    let colons = arg.matches(':').count();
    match parts[..] {
        [s, c, t]
            if colons == 2 && parts.iter().all(|n| (1..=64).contains(n)) && s * c * t <= 64 =>
        {
            Ok((s, c, t))
        }
        _ => Err(format!(
            "not a topology: {arg}; must be SOCKETS:CORES:THREADS with 1..=64 CPUs in all; try 1:2:2"
        )),
    }
}

fn parse_mem(arg: &str) -> Result<String, String> {
    let number = arg
        .strip_suffix(['G', 'M'])
        .and_then(|n| n.parse::<u64>().ok());
    let mb = number.map(|n| {
        if arg.ends_with('G') {
            n.saturating_mul(1024)
        } else {
            n
        }
    });
    match mb {
        Some(256..=1_048_576) => Ok(arg.to_owned()),
        _ => Err(format!(
            "not a memory size: {arg}; 256M..=1024G, as NUMBER and M or G; try 4G"
        )),
    }
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

    fn vm(words: &str) -> Result<Vm> {
        let words = ["vm"]
            .into_iter()
            .chain(words.split_whitespace())
            .chain(["--", "true"]);
        Cli::try_parse_from(words)?.args.vm()
    }

    #[test]
    fn flags_defaults_and_every_flag() {
        let plain = vm("").unwrap();
        assert_eq!(
            (plain.kernel.as_str(), plain.cpus, plain.mem.as_str()),
            ("7.3", 2, "4G")
        );
        let all = vm("--kernel 6.18 --topology 1:2:2 --mem 512M --disk 9 --append a=b --timeout 5");
        let all = all.unwrap();
        assert_eq!(
            (all.kernel.as_str(), all.cpus, all.topology),
            ("6.18", 4, Some((1, 2, 2)))
        );
        assert_eq!(
            (all.disk_mb, all.timeout),
            (Some(9), Some(Duration::from_secs(5)))
        );
        assert_eq!(
            (vm("--icount").unwrap().cpus, all.append),
            (1, vec!["a=b".to_owned()])
        );
    }

    #[test]
    fn flags_bad_values_name_value_and_allowed() {
        let cases = [
            ("--kernel 5.10", "6.16, 6.17, 6.18, 7.2, 7.3"),
            ("--cpus 0", "1..=64"),
            ("--cpus 3 --topology 1:2:2", "4"),
            ("--icount --cpus 2", "only 1"),
            ("--icount --topology 1:2:1", "only 1"),
            ("--topology 1:2", "SOCKETS:CORES:THREADS"),
            ("--topology 1:x:2", "1:x:2"),
            ("--topology 1:0:2", "1..=64"),
            ("--topology 64:64:64", "1..=64"),
            ("--mem 4", "4G"),
            ("--mem 1M", "256M"),
            ("--disk 0", "0"),
            ("--timeout x", "x"),
        ];
        for (words, want) in cases {
            let err = vm(words).unwrap_err().to_string();
            assert!(err.contains(want), "{words}: {err}");
        }
    }

    #[test]
    fn exit_code_of_each_end() {
        let code = |end| {
            exit_code(
                &Outcome {
                    end,
                    console: "oops\n".into(),
                },
                Some(3),
            )
        };
        assert_eq!(code(End::Exit(7)), 7);
        assert_eq!(code(End::TimedOut), 124);
        assert_eq!(code(End::Died { booted: true }), 125);
    }
}
