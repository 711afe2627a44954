//! What a run finds: the kernel, its scheduler, the mode of groups; and what it was asked for.

use std::fs;

use anyhow::{Context as _, Result};
use umcg::{Group, GroupConfig, Mode};

use crate::pace::{Budget, Place};
use crate::plan::Under;
use crate::sys;

/// The commit that the program is of.
pub const COMMIT: &str = env!("UMCG_BENCH_COMMIT");

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Rounds of each load.
    pub rounds: usize,
    /// How long one side of one round is measured.
    pub seconds: f64,
    /// Groups never ask for the daemon.
    pub futex_only: bool,
}

/// What was found, and the settings.
#[derive(Clone, Debug)]
pub struct Context {
    /// What was asked for.
    pub settings: Settings,
    /// The kernel's release.
    pub kernel: String,
    /// What plain threads run under.
    pub scheduler: String,
    /// What groups run by.
    pub mode: Mode,
    /// The CPUs of the process.
    pub cpus: Vec<usize>,
}

impl Context {
    /// Looks around.
    ///
    /// # Errors
    ///
    /// No group can be made, or /proc is not there.
    pub fn find(settings: Settings) -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        let kernel = kernel.context("cannot read the kernel's release")?;
        let kernel = kernel.trim().to_owned();
        let mut found = Self {
            scheduler: scheduler(&kernel, |name| {
                fs::read_to_string(format!("/sys/kernel/sched_ext/{name}")).ok()
            }),
            kernel,
            mode: Mode::FutexOnly(umcg::Why::Asked),
            cpus: sys::allowed_cpus(),
            settings,
        };
        found.mode = found.group(GroupConfig::default())?.mode();
        Ok(found)
    }

    /// A group with this configuration, in the mode that was asked for.
    ///
    /// # Errors
    ///
    /// As [`Group::create`].
    pub fn group(&self, config: GroupConfig) -> Result<Group> {
        let config = self.group_config(config);
        Group::create(&config).context("cannot make a group")
    }

    /// The same, for a runtime.
    pub fn group_config(&self, config: GroupConfig) -> GroupConfig {
        GroupConfig {
            name: "umcg-bench".into(),
            futex_only: self.settings.futex_only,
            ..config
        }
    }

    /// Whether groups are served as they were when the run began: the daemon may come and go.
    ///
    /// # Errors
    ///
    /// As [`Group::create`].
    pub fn is_mode_kept(&self) -> Result<bool> {
        let now = self.group(GroupConfig::default())?.mode();
        Ok(self.under_name(Under::Group, now) == self.under(Under::Group))
    }

    /// What a side runs under, as rows name it.
    pub fn under(&self, under: Under) -> String {
        self.under_name(under, self.mode)
    }

    fn under_name(&self, under: Under, mode: Mode) -> String {
        match (under, mode) {
            (Under::Threads, _) => self.scheduler.clone(),
            (Under::Group, Mode::Kernel { full: true }) => "kernel-full".into(),
            (Under::Group, Mode::Kernel { full: false }) => "kernel-partial".into(),
            (Under::Group, Mode::FutexOnly(_)) => "futex-only".into(),
        }
    }

    /// Of one side of one round.
    pub(crate) fn budget(&self) -> Budget {
        Budget::of((self.settings.seconds * 1e9) as u64)
    }

    /// One CPU: the last one, as interrupts prefer the first.
    pub(crate) fn pinned(&self) -> Place {
        self.cpus.last().map_or(Place::Any, |&cpu| Place::Cpu(cpu))
    }

    /// Both ways to place threads.
    pub(crate) fn places(&self) -> [Place; 2] {
        [self.pinned(), Place::Any]
    }
}

/// What schedules plain threads: `sched_ext` reads a file of /sys/kernel/sched_ext.
fn scheduler(kernel: &str, sched_ext: impl Fn(&str) -> Option<String>) -> String {
    let is = |name: &str, want: &str| sched_ext(name).is_some_and(|text| text.trim() == want);
    if is("state", "enabled") && is("switch_all", "1") {
        let ops = sched_ext("root/ops").unwrap_or_default();
        let name = ops.trim();
        return if name.is_empty() { "sched_ext" } else { name }.to_owned();
    }
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    let version = (number().unwrap_or(0), number().unwrap_or(0));
    if version >= (6, 6) { "eevdf" } else { "cfs" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let found = files.iter().find(|(file, _)| *file == name);
            found.map(|(_, text)| format!("{text}\n"))
        }
    }

    #[test]
    fn scheduler_is_the_attached_one_or_the_kernels_own() {
        let full = [
            ("state", "enabled"),
            ("switch_all", "1"),
            ("root/ops", "umcg_0"),
        ];
        assert_eq!(scheduler("7.3.0-cloud", with(&full)), "umcg_0");
        assert_eq!(scheduler("7.3.0", with(&full[..2])), "sched_ext");
        let partial = [
            ("state", "enabled"),
            ("switch_all", "0"),
            ("root/ops", "umcg_0"),
        ];
        assert_eq!(scheduler("6.18.1", with(&partial)), "eevdf");
        assert_eq!(scheduler("6.18.1", with(&[("state", "disabled")])), "eevdf");
        assert_eq!(scheduler("6.6.0-rc1", with(&[])), "eevdf");
        assert_eq!(scheduler("6.5.13", with(&[])), "cfs");
        assert_eq!(scheduler("5.10", with(&[])), "cfs");
    }

    #[test]
    fn under_tells_modes_apart() {
        let settings = Settings {
            rounds: 1,
            seconds: 0.1,
            futex_only: true,
        };
        let mut context = Context::find(settings).unwrap();
        assert_eq!(context.under(Under::Group), "futex-only");
        assert!(context.is_mode_kept().unwrap());
        context.mode = Mode::Kernel { full: false };
        assert_eq!(context.under(Under::Group), "kernel-partial");
        assert!(!context.is_mode_kept().unwrap());
        assert_eq!(context.under(Under::Threads), context.scheduler);
    }
}
