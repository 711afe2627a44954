//! `cargo xtask guest-bench`: loads of `umcg-bench` on the kernel that runs here, as root.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::bench::load;
use crate::bench::peer::Peer;
use crate::proc;
use crate::run::sched::{self, Sched};

/// Arguments of the hidden command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The binary of umcg-bench
    #[arg(long)]
    bench: PathBuf,
    /// Folder for the rows of each load
    #[arg(long)]
    out: PathBuf,
    /// Under this binary of scx_umcg
    #[arg(long, conflicts_with = "peer")]
    daemon: Option<PathBuf>,
    /// Under this scheduler of somebody else
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Names of loads
    loads: Vec<String>,
}

/// What schedules plain threads.
enum Scheduler {
    Kernel,
    Daemon(Box<Sched>),
    Peer(Peer),
}

impl Scheduler {
    fn start(args: &Args) -> Result<Self> {
        sched::check_free()?;
        Ok(match (&args.daemon, &args.peer) {
            (Some(daemon), _) => Self::Daemon(Box::new(Sched::start(daemon, &[])?)),
            (None, Some(peer)) => Self::Peer(Peer::start(peer)?),
            (None, None) => Self::Kernel,
        })
    }

    fn still_attached(&mut self) -> Result<()> {
        match self {
            Self::Kernel => sched::check_free(),
            Self::Daemon(sched) => sched.still_attached(),
            Self::Peer(peer) => peer.still_attached(),
        }
    }

    fn stop(self) -> Result<()> {
        match self {
            Self::Kernel => Ok(()),
            Self::Daemon(sched) => sched.stop(),
            Self::Peer(peer) => peer.stop(),
        }
    }
}

/// Tells of each load as it ends; what a scheduler that is gone leaves undone is told, too.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut scheduler = Scheduler::start(args);
    for name in &args.loads {
        let taken = match &mut scheduler {
            Err(err) => Err(format!("{err:#}")),
            Ok(scheduler) => {
                let taken = scheduler
                    .still_attached()
                    .and_then(|()| one(&args.bench, &args.out, name))
                    // Rows of a load during which it went are of two schedulers.
                    .and_then(|()| scheduler.still_attached());
                taken.map_err(|err| format!("{err:#}"))
            }
        };
        proc::out(&load::told(name, taken.err().as_deref()));
    }
    scheduler?.stop()?;
    Ok(ExitCode::SUCCESS)
}

fn one(bench: &Path, out: &Path, name: &str) -> Result<()> {
    let mut cmd = Command::new(bench);
    cmd.args(["run", name, "--json"]).arg(load::file(out, name));
    let done = cmd
        .output()
        .with_context(|| format!("cannot start: {}", proc::show(&cmd)))?;
    let said = String::from_utf8_lossy(&done.stdout);
    proc::out(&said);
    if done.status.success() {
        return Ok(());
    }
    let failed = format!("{name}: failed: ");
    let why = said.lines().find_map(|line| line.strip_prefix(&failed));
    let last = String::from_utf8_lossy(&done.stderr);
    let last = last.lines().last().unwrap_or("it said nothing");
    bail!("umcg-bench: {}: {}", done.status, why.unwrap_or(last));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_failing_load_tells_why() {
        let dir = std::env::temp_dir().join(format!("xtask-guest-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let fake = dir.join("fake");
        let text = "#!/bin/sh\n[ \"$2\" = hog ] && exit 0\necho \"$2: failed: no luck\"\nexit 1\n";
        fs::write(&fake, text).unwrap();
        proc::run(Command::new("chmod").arg("+x").arg(&fake)).unwrap();
        assert!(one(&fake, &dir, "hog").is_ok());
        let err = one(&fake, &dir, "over").unwrap_err().to_string();
        assert_eq!(err, "umcg-bench: exit status: 1: no luck");
        fs::remove_dir_all(&dir).unwrap();
    }
}
