//! Control groups for tests: made below the root of cgroup v2, removed when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::wait_until;

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup with the controllers cpu and cpuset.
pub struct Cgroup {
    path: PathBuf,
}

/// Mounts cgroup v2 if nobody has, and hands the controllers on.
fn root() -> Result<PathBuf> {
    let root = PathBuf::from(ROOT);
    if !root.join("cgroup.controllers").exists() {
        let done = Command::new("mount")
            .args(["-t", "cgroup2", "none", ROOT])
            .status()?;
        ensure!(done.success(), "cannot mount cgroup2 on {ROOT}");
    }
    delegate(&root)?;
    Ok(root)
}

fn delegate(path: &Path) -> Result<()> {
    let file = path.join("cgroup.subtree_control");
    fs::write(&file, "+cpu +cpuset").with_context(|| format!("{}", file.display()))
}

impl Cgroup {
    /// Makes one below the root.
    pub fn new(name: &str) -> Result<Self> {
        Self::make(root()?.join(name))
    }

    /// Makes one inside this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        delegate(&self.path)?;
        Self::make(self.path.join(name))
    }

    fn make(path: PathBuf) -> Result<Self> {
        // Left behind by a try before this one.
        let _ = fs::remove_dir(&path);
        fs::create_dir(&path).with_context(|| format!("mkdir {}", path.display()))?;
        Ok(Self { path })
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.path.join(file), value)
            .with_context(|| format!("{value:?} to {}/{file}", self.path.display()))
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads one of its files.
    pub fn get(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.path.join(file))
            .with_context(|| format!("{}/{file}", self.path.display()))
    }

    /// Moves a process into it, with all its threads; 0 is the caller.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }
}

/// Moves a process to the root.
pub fn leave(pid: i32) -> Result<()> {
    fs::write(Path::new(ROOT).join("cgroup.procs"), pid.to_string()).context("to the root")
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Members are children of ours that were killed; they may still be dying.
        let _ = self.set("cgroup.kill", "1");
        wait_until(Duration::from_secs(5), || {
            fs::remove_dir(&self.path).is_ok() || !self.path.exists()
        });
    }
}
