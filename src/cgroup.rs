//! Limits of cgroups, on a kernel that does not tell schedulers of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::Daemon;
use crate::exit::{Exit, Failure};
use crate::kernel;

/// A cgroup with a limit: its folder and what the limit is.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    /// The folder of the cgroup.
    pub cgroup: PathBuf,
    /// What its file says.
    pub value: String,
}

/// How soon a limit that is set later is found.
const LOOK: Duration = Duration::from_secs(10);

/// Where limits would be lifted unseen: in full mode on a kernel that does not tell of them (6.16).
#[derive(Debug)]
pub struct Unseen {
    looked: Option<Instant>,
}

impl Unseen {
    /// None where a limit is kept, or lifted as it was asked for.
    pub fn of(args: &Daemon) -> Option<Self> {
        (!args.partial && !args.ignore_cpu_max && !kernel::tells_of_limits())
            .then_some(Self { looked: None })
    }

    /// Refuses to lift one, before the attachment and, each [`LOOK`], after it.
    pub fn look(&mut self) -> Result<(), Failure> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        require_no_limit()
    }
}

/// What [`Unseen::look`] would say of full mode.
pub fn require_no_limit() -> Result<(), Failure> {
    if kernel::tells_of_limits() {
        return Ok(());
    }
    refuse(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

/// Refuses if a cgroup below one of `mounts` has a limit.
fn refuse(mounts: &str) -> Result<(), Failure> {
    match mounted(mounts).iter().find_map(|root| first_limit(root)) {
        None => Ok(()),
        Some(limit) => Err(Failure::new(Exit::Unsupported, refusal(&limit))),
    }
}

fn refusal(limit: &Limit) -> String {
    format!(
        "cannot attach: cgroup {} has cpu.max {:?}, and kernel {} does not tell schedulers of it; \
         6.17 and newer do; take the limit away, or lift it with --ignore-cpu-max",
        limit.cgroup.display(),
        limit.value,
        kernel::release()
    )
}

/// Where hierarchies with the cpu controller are mounted.
fn mounted(mounts: &str) -> Vec<PathBuf> {
    let has_cpu = |line: &&str| {
        let fields: Vec<_> = line.split(' ').collect();
        match fields.get(2) {
            Some(&"cgroup2") => true,
            Some(&"cgroup") => fields
                .get(3)
                .is_some_and(|options| options.split(',').any(|o| o == "cpu")),
            _ => false,
        }
    };
    let point = |line: &str| line.split(' ').nth(1).map(PathBuf::from);
    mounts.lines().filter(has_cpu).filter_map(point).collect()
}

/// The first cgroup below `root` that has a limit; parents before children.
fn first_limit(root: &Path) -> Option<Limit> {
    let mut todo = vec![root.to_owned()];
    while let Some(cgroup) = todo.pop() {
        if let Some(value) = limit_of(&cgroup) {
            return Some(Limit { cgroup, value });
        }
        let Ok(entries) = fs::read_dir(&cgroup) else {
            continue;
        };
        let folders = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir());
        todo.extend(folders);
    }
    None
}

fn limit_of(cgroup: &Path) -> Option<String> {
    let read = |file: &str| {
        fs::read_to_string(cgroup.join(file))
            .ok()
            .map(|s| s.trim().to_owned())
    };
    let max = read("cpu.max").filter(|v| !v.starts_with("max"));
    // cgroup v1: -1 is no limit.
    max.or_else(|| read("cpu.cfs_quota_us").filter(|v| !v.starts_with('-')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_found_below_the_root_and_max_is_none() {
        let root = std::env::temp_dir().join(format!("umcg-limits.{}", std::process::id()));
        let deep = root.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(root.join("a/cpu.max"), "max 100000\n").unwrap();
        assert_eq!(first_limit(&root), None);
        fs::write(deep.join("cpu.max"), "20000 100000\n").unwrap();
        let found = first_limit(&root).unwrap();
        assert_eq!(
            (&found.cgroup, found.value.as_str()),
            (&deep, "20000 100000")
        );
        assert!(refusal(&found).contains("a/b") && !refusal(&found).contains('\n'));
        fs::write(deep.join("cpu.max"), "max 100000\n").unwrap();
        fs::write(deep.join("cpu.cfs_quota_us"), "-1\n").unwrap();
        assert_eq!(first_limit(&root), None);
        fs::write(deep.join("cpu.cfs_quota_us"), "50000\n").unwrap();
        assert_eq!(first_limit(&root).unwrap().value, "50000");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn limit_that_is_set_later_is_refused() {
        let root = std::env::temp_dir().join(format!("umcg-later.{}", std::process::id()));
        let deep = root.join("slice/service");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(root.join("other")).unwrap();
        let mounts = format!("cgroup2 {} cgroup2 rw 0 0\n", root.display());
        assert!(refuse(&mounts).is_ok());
        fs::write(deep.join("cpu.max"), "max 100000\n").unwrap();
        assert!(refuse(&mounts).is_ok());
        fs::write(deep.join("cpu.max"), "5000 100000\n").unwrap();
        let told = refuse(&mounts).unwrap_err().to_string();
        assert!(
            told.contains("slice/service") && told.contains("5000 100000"),
            "{told}"
        );
        fs::remove_dir(root.join("other")).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert!(refuse(&mounts).is_ok(), "a tree that is gone");
    }

    #[test]
    fn hierarchies_with_the_cpu_controller_are_found() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n\
                      c /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
                      c /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n\
                      proc /proc proc rw 0 0\n";
        let want = ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu"].map(PathBuf::from);
        assert_eq!(mounted(mounts), want);
    }
}
