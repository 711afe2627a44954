//! The commit that rows belong to, and their date.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::proc;

/// Its short name, with `-dirty` while the tree differs from it.
pub fn current(resume: bool) -> Result<String> {
    let git =
        |args: &[&str]| proc::output(Command::new("git").args(args).current_dir(proc::repo()));
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).context("rows are of commits")?;
    let dirty = !git(&["status", "--porcelain"])?.trim().is_empty();
    name(commit.trim(), dirty, resume)
}

/// Changes that are in no commit make its name useless for a later run.
fn name(commit: &str, dirty: bool, resume: bool) -> Result<String> {
    if dirty && resume {
        bail!(
            "--resume: the tree differs from commit {commit}; stored rows are of commits; \
             commit first or drop --resume"
        );
    }
    Ok(commit.to_owned() + if dirty { "-dirty" } else { "" })
}

/// As 2026-11-30.
pub fn today() -> Result<String> {
    let date = proc::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    Ok(date.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resume_with_changes_in_no_commit_is_refused() {
        let err = name("c1", true, true).unwrap_err().to_string();
        assert!(err.contains("--resume") && err.contains("c1"), "{err}");
        assert_eq!(name("c1", true, false).unwrap(), "c1-dirty");
        assert_eq!(name("c1", false, true).unwrap(), "c1");
    }
}
