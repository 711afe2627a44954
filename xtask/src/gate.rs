//! `cargo xtask gate`: the check before a release: every kernel, the long tests, one table.
//!
//! What it runs is the table in [`rows`]; each row names tests of `umcg-vmtest`. A finished row is
//! stored by (commit, kernel, row) below the target folder, so that `--resume` goes on where a run
//! was broken off. `cargo xtask test` runs the short tests on the floor and the newest kernel and
//! the verifier's ceilings with them; nothing of the gate is left to add there.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::proc::{self, say};
use crate::store::{Key, Store, Stored};
use crate::test::guest::Bench;
use crate::test::plan::{self, Boot};
use crate::test::report::Report;
use crate::test::round::Verdict;
use crate::test::{programs, target_dir};
use crate::{cache, commit, kernels, setup};

mod rows;
mod table;

use rows::Row;
use table::Entry;

/// Flags of `cargo xtask gate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A kernel that Debian's mirror has not (any more) is named, but fails nothing
    #[arg(long)]
    allow_missing: bool,
    /// Take over the rows that passed in an earlier run of this commit
    #[arg(long)]
    resume: bool,
    /// Only on this kernel, instead of on all that are known
    #[arg(long, value_parser = kernels::parse_series)]
    kernel: Option<String>,
    /// Only rows whose name contains this
    row: Option<String>,
}

/// How a row ended on one kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// All its tests passed or were skipped, with the ejections it is meant to have.
    Ok,
    /// A test failed, or something was ejected.
    Failed,
    /// The mirror has not this kernel.
    Missing,
}

/// What a row came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Passed or not.
    pub end: End,
    /// Tests that passed.
    pub passed: u32,
    /// Tests that said why they cannot run there.
    pub skipped: u32,
    /// Ejections by the kernel.
    pub ejections: u32,
    /// Wall time.
    pub seconds: u64,
    /// What went wrong, one line.
    pub note: String,
}

/// A finished row, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    commit: String,
    kernel: String,
    row: String,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Done {
    fn new(key: Key<'_>, outcome: &Outcome) -> Self {
        Self {
            commit: key.commit.to_owned(),
            kernel: key.kernel.to_owned(),
            row: key.row.to_owned(),
            outcome: outcome.clone(),
        }
    }
}

impl Stored for Done {
    fn key(&self) -> Key<'_> {
        Key {
            commit: &self.commit,
            kernel: &self.kernel,
            row: &self.row,
        }
    }
}

/// Runs what was asked for; all rows, whatever fails on the way.
pub fn run(args: &Args) -> Result<ExitCode> {
    let wanted = rows::wanted(args.row.as_deref())?;
    let kernels = kernels::asked(args.kernel.as_deref(), &kernels::KNOWN);
    let commit = commit::current(args.resume)?;
    setup::packages()?;
    let binary = programs::build()?;
    let mut list = Command::new(&binary);
    let list = proc::output(list.args(["--list", "--full"]))?;
    let boots = wanted
        .iter()
        .map(|row| boots(&list, row))
        .collect::<Result<Vec<_>>>()?;

    let mut store: Store<Done> = Store::open(target_dir().join("gate/rows.jsonl"))?;
    if !args.resume {
        store.forget(|key| {
            key.commit == commit
                && kernels.contains(&key.kernel)
                && wanted.iter().any(|row| row.name == key.row)
        })?;
    }
    let mut entries = Vec::new();
    for kernel in kernels {
        let absent = absent(kernel);
        for (row, boots) in wanted.iter().zip(&boots) {
            let key = Key {
                commit: &commit,
                kernel,
                row: row.name,
            };
            let kept = store.get(key).map(|done| &done.outcome);
            let (outcome, kept) = match (&absent, kept) {
                (Some(outcome), _) => (outcome.clone(), false),
                (None, Some(kept)) if kept.end == End::Ok => (kept.clone(), true),
                _ => {
                    let outcome = run_row(kernel, row, boots, &binary)?;
                    store.put(vec![Done::new(key, &outcome)])?;
                    (outcome, false)
                }
            };
            entries.push(Entry {
                kernel: kernel.to_owned(),
                row: row.name,
                outcome,
                kept,
            });
        }
    }
    proc::out(&table::show(&commit, &entries, args.allow_missing));
    Ok(match table::passed(&entries, args.allow_missing) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The boots that a row needs; each of its tests has to exist.
fn boots(list: &str, row: &Row) -> Result<Vec<Boot>> {
    let mut boots = plan::parse(list, None)?;
    for boot in &mut boots {
        boot.tests.retain(|test| row.tests.contains(&&*test.name));
    }
    boots.retain(|boot| !boot.tests.is_empty());
    let found = |name: &&&str| {
        boots
            .iter()
            .any(|b| b.tests.iter().any(|t| t.name == **name))
    };
    if let Some(name) = row.tests.iter().find(|name| !found(name)) {
        bail!(
            "row {}: no test {name}; see umcg-vmtest --list --full",
            row.name
        );
    }
    Ok(boots)
}

/// What all rows of `kernel` come to if it cannot be had; none if it is there now.
fn absent(kernel: &str) -> Option<Outcome> {
    let err = cache::dir()
        .and_then(|cache| kernels::ensure(&cache, kernel))
        .err()?;
    let end = match err.is::<kernels::Missing>() {
        true => End::Missing,
        false => End::Failed,
    };
    say(format_args!("{err:#}"));
    Some(Outcome::without_tests(end, &format!("{err:#}")))
}

fn run_row(kernel: &str, row: &Row, boots: &[Boot], binary: &Path) -> Result<Outcome> {
    say(format_args!("gate: {kernel} {}: {}", row.name, row.what));
    let start = Instant::now();
    let bench = Bench::new(kernel, binary)?;
    let mut report = Report::default();
    let ends: Vec<_> = boots
        .iter()
        .flat_map(|boot| bench.run(boot, &mut report))
        .collect();
    let mut outcome = Outcome::without_tests(End::Ok, "");
    outcome.ejections = ends.iter().map(|end| end.ejections).sum();
    outcome.seconds = start.elapsed().as_secs();
    for end in ends {
        match end.verdict {
            Verdict::Ok => outcome.passed += 1,
            Verdict::Skip(_) => outcome.skipped += 1,
            Verdict::Failed(why) => outcome.fail(&format!("{}: {why}", end.name)),
        }
    }
    outcome.check_ejections(row.ejections);
    Ok(outcome)
}

impl Outcome {
    fn without_tests(end: End, note: &str) -> Self {
        Self {
            end,
            passed: 0,
            skipped: 0,
            ejections: 0,
            seconds: 0,
            note: note.replace(['\n', '\t'], " "),
        }
    }

    /// A test fails by more than it means; fewer than a row is meant to have fail that.
    fn check_ejections(&mut self, meant: Option<u32>) {
        if let Some(meant) = meant.filter(|meant| *meant != self.ejections) {
            self.fail(&format!("{} ejections, meant are {meant}", self.ejections));
        }
    }

    fn fail(&mut self, why: &str) {
        self.end = End::Failed;
        if !self.note.is_empty() {
            self.note += "; ";
        }
        self.note += &why.replace(['\n', '\t'], " ");
    }
}

#[cfg(test)]
mod tests {
    use super::rows::ROWS;
    use super::*;

    #[test]
    fn boots_keep_only_the_row_s_tests() {
        let row = Row {
            name: "r",
            what: "",
            tests: &["vm_b", "vm_c"],
            ejections: Some(0),
        };
        let list = "vm_a x 1\nvm_b x 1\nvm_c y 1\n";
        let found = boots(list, &row).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|b| (&*b.word, &*b.tests[0].name))
            .collect();
        assert_eq!(names, [("x", "vm_b"), ("y", "vm_c")]);
        let err = boots("vm_b x 1\n", &row).unwrap_err().to_string();
        assert!(err.contains("vm_c") && err.contains("row r"), "{err}");
    }

    #[test]
    fn done_row_is_read_as_it_was_written() {
        let key = Key {
            commit: "c1",
            kernel: "7.3",
            row: "loads",
        };
        let mut outcome = Outcome::without_tests(End::Ok, "");
        (outcome.passed, outcome.ejections) = (3, 2);
        outcome.fail("vm_x: \"why\"");
        let line = serde_json::to_string(&Done::new(key, &outcome)).unwrap();
        let done: Done = serde_json::from_str(&line).unwrap();
        assert_eq!((done.key(), &done.outcome), (key, &outcome), "{line}");
    }

    #[test]
    fn ejections_fail_a_row_that_says_how_many() {
        let mut outcome = Outcome::without_tests(End::Ok, "");
        outcome.ejections = 2;
        outcome.check_ejections(None);
        outcome.check_ejections(Some(2));
        assert_eq!(outcome.end, End::Ok);
        outcome.check_ejections(Some(0));
        assert_eq!(outcome.end, End::Failed);
        assert!(
            outcome.note.contains("2 ejections, meant are 0"),
            "{}",
            outcome.note
        );
    }

    #[test]
    fn rows_name_tests_that_exist() {
        let dir = proc::repo().join("tests/src/tests");
        let mut source = String::new();
        for file in std::fs::read_dir(dir).unwrap() {
            source += &std::fs::read_to_string(file.unwrap().path()).unwrap();
        }
        for row in ROWS {
            assert!(!row.tests.is_empty(), "{}", row.name);
            for test in row.tests {
                assert!(
                    source.contains(&format!("\"{test}\"")),
                    "{}: {test}",
                    row.name
                );
            }
        }
    }
}
