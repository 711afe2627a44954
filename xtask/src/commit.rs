//! The commit that rows belong to, and their date.
//!
//! It is the last one that changed more than texts: what was measured stays true when a document
//! is written about it, and a run that was broken off goes on after that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::proc;

/// All but texts; `:/` is the top of the tree.
const MEASURED: [&str; 4] = ["--", ":/", ":(top,exclude)docs", ":(top,exclude)*.md"];

/// Its short name, with `-dirty` while the tree differs from it.
pub fn current(resume: bool) -> Result<String> {
    of_tree(proc::repo(), resume)
}

fn of_tree(tree: &Path, resume: bool) -> Result<String> {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        proc::output(git.args(args).args(MEASURED).current_dir(tree))
    };
    let last = git(&["log", "-1", "--abbrev=12", "--format=%h"]).context("rows are of commits")?;
    let dirty = !git(&["status", "--porcelain"])?.trim().is_empty();
    name(last.trim(), dirty, resume)
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
    fn commit_of_texts_alone_keeps_the_rows() {
        let tree = std::env::temp_dir().join(format!("umcg-commit-{}", std::process::id()));
        std::fs::create_dir_all(tree.join("docs")).unwrap();
        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            let who = ["-c", "user.name=t", "-c", "user.email=t@t"];
            proc::output(git.args(who).args(args).current_dir(&tree)).unwrap()
        };
        let put = |file: &str, text: &str| {
            std::fs::write(tree.join(file), text).unwrap();
            git(&["add", "-A"]);
        };
        let commit = |file, text| {
            put(file, text);
            git(&["commit", "-q", "-m", file]);
            of_tree(&tree, true).unwrap()
        };
        git(&["init", "-q"]);
        let first = commit("main.rs", "1");
        assert_eq!(commit("docs/figures.svg", "1"), first);
        assert_eq!(commit("README.md", "1"), first);
        assert_ne!(commit("main.rs", "2"), first);
        put("docs/design.md", "2");
        assert!(of_tree(&tree, true).is_ok());
        put("main.rs", "3");
        assert!(of_tree(&tree, true).is_err());
        assert!(of_tree(&tree, false).unwrap().ends_with("-dirty"));
        std::fs::remove_dir_all(&tree).unwrap();
    }

    #[test]
    fn resume_with_changes_in_no_commit_is_refused() {
        let err = name("c1", true, true).unwrap_err().to_string();
        assert!(err.contains("--resume") && err.contains("c1"), "{err}");
        assert_eq!(name("c1", true, false).unwrap(), "c1-dirty");
        assert_eq!(name("c1", false, true).unwrap(), "c1");
    }
}
