//! The agent: loads BPF, runs one server thread per CPU, and watches over both.

pub mod bell;
pub mod caps;
pub mod control;
pub mod load;
pub mod server;

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use log::{info, warn};
use scx_utils::{ScxExitKind, UserExitInfo};

use crate::cgroup;
use crate::cli::RunArgs;
use crate::exit::{Exit, Failure};
use crate::kernel;
use crate::runfile::RunFile;

/// The kernel may eject us so often within [`EJECT_WINDOW`] before we give up.
const MAX_REATTACH: usize = 3;
const EJECT_WINDOW: Duration = Duration::from_secs(600);

/// How one attachment ended.
#[derive(Debug)]
pub enum Ended {
    /// SIGINT or SIGTERM.
    Asked,
    /// The kernel detached us: its reason, and its `enum scx_exit_kind`.
    Ejected(UserExitInfo, i32),
}

/// Runs as the scheduler until a signal, or until the kernel has ejected us too often.
pub fn run(args: &RunArgs) -> Result<()> {
    let shutdown = Arc::new(AtomicBool::new(false));
    let flag = shutdown.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .context("cannot catch SIGINT and SIGTERM")?;

    let mut ejections: Vec<Instant> = Vec::new();
    let mut total = 0;
    loop {
        kernel::require()?;
        cgroup::require_no_limit(args)?;
        let mut object = MaybeUninit::uninit();
        let loaded = load::load(&mut object, args)?;
        match loaded.run(args, &shutdown, total)? {
            Ended::Asked => return Ok(()),
            Ended::Ejected(info, kind) => {
                warn!("ejected: {}", reason(&info));
                if kind == ScxExitKind::SysRq as i32 {
                    let text =
                        "detached by SysRq-S: not attached again; the kernel's own scheduler runs";
                    return Err(Failure::new(Exit::Ejected, text).into());
                }
                ejections.retain(|at| at.elapsed() < EJECT_WINDOW);
                ejections.push(Instant::now());
                total += 1;
            }
        }
        if shutdown.load(Ordering::Relaxed) {
            return Ok(());
        }
        if ejections.len() > MAX_REATTACH {
            RunFile::remove();
            return Err(Failure::new(
                Exit::Ejected,
                format!(
                    "ejected {} times within {} minutes; the kernel's own scheduler runs; \
                     see the reasons above and docs/operations.md#ejected",
                    ejections.len(),
                    EJECT_WINDOW.as_secs() / 60
                ),
            )
            .into());
        }
        info!("attaching again ({} of {MAX_REATTACH})", ejections.len());
    }
}

fn reason(info: &UserExitInfo) -> String {
    match info.report() {
        Ok(()) => "detached by the kernel without a reason".to_owned(),
        Err(err) => err.to_string(),
    }
}
