//! The agent: loads BPF, runs one server thread per CPU, and watches over both.

pub mod bell;
pub mod caps;
pub mod client;
pub mod control;
pub mod faults;
pub mod kinds;
pub mod live;
pub mod load;
pub mod matcher;
pub mod near;
pub mod news;
pub mod server;
pub mod sysgroups;

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use anyhow::Result;
use log::{info, warn};
use scx_utils::{ScxExitKind, UserExitInfo};

use crate::cgroup;
use crate::cli::RunArgs;
use crate::config::cpus::Machine;
use crate::config::{Config, file_of};
use crate::exit::{Exit, Failure};
use crate::kernel;
use crate::runfile::RunFile;

use live::Live;
use news::News;

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
    let machine = Machine::this();
    // First: what changes in the file from now on is heard of.
    let news = News::of_signals_and(file_of(args).0)?;
    let mut config = Config::load(args, &machine)?;
    config.warnings.iter().for_each(|line| warn!("{line}"));
    caps::spare_from_oom();
    let mut ejections: Vec<Instant> = Vec::new();
    let mut total = 0;
    loop {
        kernel::require()?;
        if let Some(mut unseen) = cgroup::Unseen::of(&config.daemon) {
            unseen.look()?;
        }
        let mut object = MaybeUninit::uninit();
        let loaded = load::load(&mut object, &config)?;
        let mut live = Live::new(args, &machine, &config, loaded.shared());
        let ended = loaded.run(&news, &mut live, total)?;
        match ended {
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
        if news.is_end_asked() {
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
        config = live.next();
        info!("attaching again ({} of {MAX_REATTACH})", ejections.len());
    }
}

fn reason(info: &UserExitInfo) -> String {
    let mut text = match info.report() {
        Ok(()) => return "detached by the kernel without a reason".to_owned(),
        Err(err) => err.to_string(),
    };
    // Its dump has no accessor.
    for (cpu, thread) in held(&format!("{info:?}")) {
        text += &format!("; CPU {cpu} was held by {thread}, which goes before all normal threads");
    }
    text
}

/// CPUs that ran a thread of a higher class when the kernel took its dump: number, and
/// `NAME[PID] (class)`. Between lines stand `\n` of two characters, as in a quoted text.
fn held(dump: &str) -> Vec<(&str, String)> {
    let cpus = dump.split("\\nCPU ").skip(1);
    cpus.filter_map(|section| {
        let (cpu, rest) = section.split_once(':')?;
        let (_, rest) = rest.split_once("curr=")?;
        let (thread, rest) = rest.split_once(" class=")?;
        let class = ["rt_sched_class", "dl_sched_class"];
        let class = class.iter().find(|class| rest.starts_with(**class))?;
        let what = if class.starts_with("rt") {
            "real-time"
        } else {
            "deadline"
        };
        Some((cpu.trim(), format!("{thread} ({what})")))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::held;

    #[test]
    fn held_names_the_threads_of_higher_classes() {
        let dump = "CPU states\n----------\n\n\
            CPU 0   : nr_run=2 flags=0x1 cpu_rel=0\n          curr=kworker/0:1[9] \
            class=ext_sched_class\n\n  R a[1] -2ms\n\
            CPU 1   : nr_run=3 cpu_rel=1\n          curr=my hog[77] class=rt_sched_class\n\
            CPU 12  : x\n  curr=d[8] class=dl_sched_class+0x0";
        let dump = format!("{dump:?}");
        let want = [
            ("1", "my hog[77] (real-time)".to_owned()),
            ("12", "d[8] (deadline)".to_owned()),
        ];
        assert_eq!(held(&dump), want);
        assert!(held("").is_empty());
        assert!(held(r"\nCPU 1 curr=\nCPU 2: class=").is_empty());
    }
}
