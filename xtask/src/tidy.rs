//! `cargo xtask tidy`: rules of the house that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::proc::{self, say};

mod docs;
mod licences;
mod links;
mod sizes;
mod text;

/// Folders that hold no source.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// Flags of `cargo xtask tidy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only checks whose name contains this
    filter: Option<String>,
}

/// One rule.
#[derive(Debug)]
pub struct Check {
    /// Its name, as the test totals and the filter know it.
    pub name: &'static str,
    find: fn(&Tree) -> Result<Findings>,
}

/// All rules.
pub const CHECKS: [Check; 10] = [
    Check {
        name: "tidy_module_docs",
        find: text::module_docs,
    },
    Check {
        name: "tidy_bpf_headers",
        find: text::bpf_headers,
    },
    Check {
        name: "tidy_whitespace",
        find: text::whitespace,
    },
    Check {
        name: "tidy_one_machine_only",
        find: text::machine_names,
    },
    Check {
        name: "tidy_unfinished",
        find: text::unfinished,
    },
    Check {
        name: "tidy_sizes",
        find: sizes::sizes,
    },
    Check {
        name: "tidy_links",
        find: links::links,
    },
    Check {
        name: "tidy_docs_complete",
        find: docs::complete,
    },
    Check {
        name: "tidy_behaviours",
        find: docs::behaviours,
    },
    Check {
        name: "tidy_licences",
        find: licences::licences,
    },
];

/// What a rule has to say; only errors fail.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn errors(errors: Vec<String>) -> Self {
        Self {
            errors,
            warnings: Vec::new(),
        }
    }
}

/// The text files of the repository.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    files: Vec<SourceFile>,
}

/// One text file.
#[derive(Debug)]
struct SourceFile {
    /// Relative to the top.
    path: String,
    text: String,
}

impl SourceFile {
    fn has_suffix(&self, suffixes: &[&str]) -> bool {
        suffixes.iter().any(|suffix| self.path.ends_with(suffix))
    }

    /// Whether a program wrote it: nobody's style.
    fn generated(&self) -> bool {
        let mark =
            |line: &str| line.contains("@generated") || line.contains("automatically generated");
        self.text.lines().take(10).any(mark)
    }

    /// Its lines with their numbers from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
    }
}

/// Runs the rules; all findings are shown.
pub fn run(args: &Args) -> Result<ExitCode> {
    let filter = args.filter.as_deref().unwrap_or_default();
    let wanted: Vec<_> = CHECKS
        .iter()
        .filter(|check| check.name.contains(filter))
        .collect();
    if wanted.is_empty() {
        let names = CHECKS.map(|check| check.name).join(", ");
        bail!("no check matches: {filter}; there are {names}");
    }
    let mut failed = 0;
    for check in wanted {
        match run_check(check) {
            Ok(()) => say(format_args!("{}: ok", check.name)),
            Err(err) => {
                say(format_args!("{}: {err:#}", check.name));
                failed += 1;
            }
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs one rule on the repository; its findings go to stderr.
pub fn run_check(check: &Check) -> Result<()> {
    let found = (check.find)(&Tree::load(proc::repo())?)?;
    for warning in &found.warnings {
        say(format_args!("{}: warning: {warning}", check.name));
    }
    for error in &found.errors {
        say(format_args!("{}: {error}", check.name));
    }
    match found.errors.as_slice() {
        [] => Ok(()),
        [one] => bail!("{one}"),
        [first, rest @ ..] => bail!("{first}; and {} more above", rest.len()),
    }
}

impl Tree {
    fn load(root: &Path) -> Result<Self> {
        let mut tree = Self {
            root: root.to_owned(),
            files: Vec::new(),
        };
        tree.walk(root)?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn walk(&mut self, dir: &Path) -> Result<()> {
        let entries =
            fs::read_dir(dir).with_context(|| format!("cannot read: {}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                if !SKIPPED.iter().any(|name| entry.file_name() == *name) {
                    self.walk(&path)?;
                }
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(&path)
            {
                let inside = path.strip_prefix(&self.root).unwrap_or(&path);
                let path = inside.to_string_lossy().into_owned();
                self.files.push(SourceFile { path, text });
            }
        }
        Ok(())
    }

    /// A tree made of (path, text), for tests.
    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        Self {
            root: PathBuf::from("/nowhere"),
            files: files.iter().map(file).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_skips_build_output_and_binaries() {
        let top = std::env::temp_dir().join(format!("xtask-tidy-{}", std::process::id()));
        for dir in ["target", "src/target", ".git", "src/a"] {
            fs::create_dir_all(top.join(dir)).unwrap();
            fs::write(top.join(dir).join("f"), "x").unwrap();
        }
        fs::write(top.join("bin"), [0xff, 0xfe]).unwrap();
        let tree = Tree::load(&top).unwrap();
        fs::remove_dir_all(&top).unwrap();
        let paths: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["src/a/f"]);
    }

    #[test]
    fn run_unknown_check_names_those_there_are() {
        let err = run(&Args {
            filter: Some("nonsense".into()),
        })
        .unwrap_err()
        .to_string();
        assert!(
            err.contains("nonsense") && err.contains("tidy_links"),
            "{err}"
        );
    }
}
