//! `cargo xtask bench`: every claim that has a bar, and loads beside EEVDF, in one table.
//!
//! ```text
//! rows ── which tests ── boots of `umcg-vmtest` ── metric lines ── figure ── rows.jsonl ── table
//! load ── guest-bench in a boot per scheduler ── rows of `umcg-bench` ──────┘
//! ```
//!
//! A row is stored by (commit, kernel, name) as its test ends, so that `--resume` goes on where a
//! run was broken off. A row that was taken is not taken again then, whether or not its bar holds:
//! who tries until it does measures his patience.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::proc::{self, say};
use crate::store::{self, Key, Store};
use crate::test::guest::Bench;
use crate::test::plan::{self, Boot};
use crate::test::report::Report;
use crate::test::{cargo, target_dir};
use crate::{cache, commit, kernels, setup};

mod figure;
pub mod guest;
mod load;
mod peer;
pub mod record;
pub mod rows;
pub mod table;
mod wanted;

use load::{Under, Unit};
use record::Record;
use rows::Claim;
use wanted::Wanted;

/// Flags of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only on this kernel, instead of on 6.18 and 7.3
    #[arg(long, value_parser = kernels::parse_series)]
    kernel: Option<String>,
    /// Only what is counted by instructions
    #[arg(long)]
    icount: bool,
    /// Write the rows of the table to this file, too, as lines of JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only what the short tests take
    #[arg(long)]
    quick: bool,
    /// Take over the rows that an earlier run of this commit took
    #[arg(long)]
    resume: bool,
    /// Loads under scx_rustland and scx_bpfland, too
    #[arg(long, conflicts_with_all = ["icount", "quick"])]
    peers: bool,
    /// Only rows whose name contains one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Where rows are stored.
pub fn store_file() -> PathBuf {
    target_dir().join("bench/rows.jsonl")
}

/// Runs what was asked for, whatever fails on the way.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut wanted = Wanted::of(args)?;
    if let Some(file) = &args.json {
        // Now, and not after hours.
        let opened = OpenOptions::new().append(true).create(true).open(file);
        opened.with_context(|| format!("--json {}: cannot write it", file.display()))?;
    }
    let kernels = kernels::asked(args.kernel.as_deref(), &kernels::TESTED);
    let commit = commit::current(args.resume)?;
    setup::packages()?;
    let boots = build()?;
    wanted.fit(&boots, args.icount)?;
    let mut this = Run {
        store: Store::open(store_file())?,
        commit,
        date: commit::today()?,
    };
    if !args.resume {
        let commit = this.commit.clone();
        let is_wanted = |row: &str| wanted.has(row);
        this.store.forget(|key| {
            key.commit == commit && kernels.contains(&key.kernel) && is_wanted(key.row)
        })?;
    }
    for kernel in &kernels {
        this.on(kernel, &wanted, &boots)?;
    }
    let rows = this.rows(&kernels, &wanted);
    if let Some(file) = &args.json {
        store::write(file, &rows)?;
    }
    proc::out(&table::show(&this.commit, this.store.partial(), &rows));
    Ok(match table::passed(&rows) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Builds all that runs in guests; the tests there are, by boots.
fn build() -> Result<Vec<Boot>> {
    say(format_args!(
        "building the scheduler, the VM tests and umcg-bench"
    ));
    let mut build = cargo();
    build.args(["build", "--release", "-p", "scx_umcg", "-p", "umcg-vmtest"]);
    build.args(["-p", "umcg", "--bins", "--examples"]);
    proc::run(&mut build).context("cannot build the VM tests")?;
    // By itself: its model has features of the library switched on that the others go without.
    proc::run(cargo().args(["build", "--release", "-p", "umcg-bench"]))
        .context("cannot build umcg-bench")?;
    let list = proc::output(Command::new(tests()).args(["--list", "--full"]))?;
    plan::parse(&list, None)
}

fn tests() -> PathBuf {
    target_dir().join("release/umcg-vmtest")
}

/// A run of one commit.
#[derive(Debug)]
struct Run {
    store: Store<Record>,
    commit: String,
    date: String,
}

impl Run {
    /// All that is wanted and not there on this kernel.
    fn on(&mut self, kernel: &str, wanted: &Wanted, boots: &[Boot]) -> Result<()> {
        let claims: Vec<_> = wanted
            .claims
            .iter()
            .copied()
            .filter(|claim| claim.is_on(kernel) && !self.is_taken(kernel, claim.name))
            .collect();
        let units = wanted.units.iter().copied();
        let units: Vec<_> = units.filter(|unit| !self.is_run(kernel, *unit)).collect();
        let there = cache::dir().and_then(|cache| kernels::ensure(&cache, kernel));
        if let Err(err) = there {
            say(format_args!("{err:#}"));
            let rows = claims.iter().map(|claim| claim.name.to_owned());
            let rows = rows.chain(units.iter().map(|unit| unit.name()));
            let rows = rows.map(|name| self.lacking(kernel, name, &format!("{err:#}"), false));
            let rows = rows.collect();
            return self.store.put(rows);
        }
        self.claims(kernel, &claims, boots)?;
        for under in load::UNDERS {
            let of_it = units.iter().copied().filter(|unit| unit.under == under);
            self.loads(kernel, under, &of_it.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn claims(&mut self, kernel: &str, claims: &[&Claim], boots: &[Boot]) -> Result<()> {
        let bench = Bench::new(kernel, &tests())?;
        let mut report = Report::default();
        for boot in boots {
            let mut boot = boot.clone();
            boot.tests
                .retain(|test| claims.iter().any(|claim| claim.test == test.name));
            let mut stored = Ok(());
            bench.run_each(&boot, &mut report, &mut |end| {
                let of_it: Vec<_> = rows::all().filter(|it| it.test == end.name).collect();
                let mut rows = figure::judge(end, &of_it, |claim| {
                    self.base(kernel, claim.name.to_owned())
                });
                // A test gives all of its figures, and what nobody took yet is worth keeping.
                rows.retain(|row| {
                    let is_wanted = claims.iter().any(|claim| claim.name == row.name);
                    is_wanted || !self.is_taken(kernel, &row.name)
                });
                if stored.is_ok() {
                    stored = self.store.put(rows);
                }
            });
            stored?;
        }
        Ok(())
    }

    fn loads(&mut self, kernel: &str, under: Under, units: &[Unit]) -> Result<()> {
        if units.is_empty() {
            return Ok(());
        }
        // What an earlier run said that it lacks.
        let commit = self.commit.clone();
        self.store.forget(|key| {
            let is_it = units.iter().any(|unit| unit.has(key.row));
            key.commit == commit && key.kernel == kernel && is_it
        })?;
        let program = match under {
            Under::Eevdf => Ok(None),
            Under::Daemon => Ok(Some(target_dir().join("release/scx_umcg"))),
            Under::Peer(krate) => peer::install(krate).map(Some),
        };
        let program = match program {
            Ok(program) => program,
            Err(err) => {
                say(format_args!("{err:#}"));
                let lack = |unit: &Unit| {
                    self.lacking(kernel, unit.name(), &format!("{err:#}"), under.is_peer())
                };
                let rows = units.iter().map(lack).collect();
                return self.store.put(rows);
            }
        };
        let mut stored = Ok(());
        load::run(kernel, units, program.as_deref(), &mut |unit, taken| {
            let rows = self.rows_of(kernel, unit, taken);
            if stored.is_ok() {
                stored = self.store.put(rows);
            }
        })?;
        stored
    }

    /// What a load came to, as rows to store.
    fn rows_of(&self, kernel: &str, unit: Unit, taken: load::Taken) -> Vec<Record> {
        let (why, excused) = match taken {
            Ok(written) if !written.is_empty() => {
                return unit.rows(written, &self.base(kernel, unit.name()));
            }
            Ok(_) => ("not here: it has no figure in this mode".to_owned(), true),
            Err(why) => (why, unit.under.is_peer()),
        };
        vec![self.lacking(kernel, unit.name(), &why, excused)]
    }

    /// What all rows have in common.
    fn base(&self, kernel: &str, name: String) -> Record {
        let peers = load::units(true)
            .into_iter()
            .any(|unit| unit.under.is_peer() && unit.has(&name));
        let flag = if peers { "--peers " } else { "" };
        Record {
            kernel: kernel.to_owned(),
            commit: self.commit.clone(),
            date: self.date.clone(),
            command: format!("cargo xtask bench --kernel {kernel} {flag}{name}"),
            name,
            ..Record::default()
        }
    }

    fn lacking(&self, kernel: &str, name: String, why: &str, excused: bool) -> Record {
        let mut row = self.base(kernel, name);
        row.lack(why);
        row.excused = excused;
        row
    }

    /// The table: what is wanted on these kernels, as far as it was ever taken for this commit.
    fn rows(&self, kernels: &[&str], wanted: &Wanted) -> Vec<Record> {
        let mut rows = Vec::new();
        for kernel in kernels {
            for claim in wanted.claims.iter().filter(|claim| claim.is_on(kernel)) {
                let row = self.store.get(self.key(kernel, claim.name)).cloned();
                let none = || self.lacking(kernel, claim.name.to_owned(), "not run", false);
                rows.push(row.unwrap_or_else(none));
            }
            let of_loads = self.store.rows().iter().filter(|row| {
                let is_it = wanted.units.iter().any(|unit| unit.has(&row.name));
                is_it && row.commit == self.commit && row.kernel == *kernel
            });
            rows.extend(of_loads.cloned());
        }
        rows
    }

    fn is_taken(&self, kernel: &str, row: &str) -> bool {
        let row = self.store.get(self.key(kernel, row));
        row.is_some_and(|row| row.value.is_some())
    }

    fn is_run(&self, kernel: &str, unit: Unit) -> bool {
        let mut rows = self.store.rows().iter();
        rows.any(|row| {
            let is_it = row.commit == self.commit && row.kernel == kernel && unit.has(&row.name);
            is_it && row.value.is_some()
        })
    }

    fn key<'a>(&'a self, kernel: &'a str, row: &'a str) -> Key<'a> {
        Key {
            commit: &self.commit,
            kernel,
            row,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use record::Standing;
    use record::tests::record;

    fn run_with(name: &str, rows: Vec<Record>) -> Run {
        let dir = std::env::temp_dir().join(format!("xtask-bench-{name}-{}", std::process::id()));
        let mut store = Store::open(dir.join("rows.jsonl")).unwrap();
        store.put(rows).unwrap();
        fs::remove_dir_all(dir).unwrap();
        Run {
            store,
            commit: "c1".to_owned(),
            date: "2026-11-30".to_owned(),
        }
    }

    fn wanted(claims: &[&str], units: &[Unit]) -> Wanted {
        let is_in = |claim: &&Claim| claims.contains(&claim.name);
        Wanted {
            claims: rows::all().filter(is_in).collect(),
            units: units.to_vec(),
        }
    }

    const HOG: Unit = Unit {
        under: Under::Peer("scx_rustland"),
        load: "hog",
    };

    #[test]
    fn rows_are_of_this_commit_alone_and_tell_what_is_missing() {
        let mut lost = record("clock.pipe", "7.3", "c1");
        lost.lack("the guest died");
        let run = run_with(
            "rows",
            vec![
                record("clock.messaging", "7.3", "c1"),
                record("clock.messaging", "6.18", "c2"),
                record("load.scx_rustland.hog.x@rustland", "7.3", "c1"),
                record("load.scx_rustland.hog.x@rustland", "7.3", "c2"),
                record("load.scx_rustland.over.x@rustland", "7.3", "c1"),
                lost,
            ],
        );
        let wanted = wanted(&["clock.messaging", "clock.pipe"], &[HOG]);
        let rows = run.rows(&["6.18", "7.3"], &wanted);
        let rows: Vec<_> = rows
            .iter()
            .map(|it| (&*it.kernel, &*it.name, it.standing()))
            .collect();
        assert_eq!(
            rows,
            [
                ("6.18", "clock.messaging", Standing::NotTaken),
                ("6.18", "clock.pipe", Standing::NotTaken),
                ("7.3", "clock.messaging", Standing::Passed),
                ("7.3", "clock.pipe", Standing::NotTaken),
                ("7.3", "load.scx_rustland.hog.x@rustland", Standing::Passed),
            ]
        );
        // What was not taken is taken again by --resume, what missed its bar is not.
        assert!(run.is_taken("7.3", "clock.messaging") && !run.is_taken("7.3", "clock.pipe"));
        assert!(!run.is_taken("6.18", "clock.messaging"));
        assert!(run.is_run("7.3", HOG) && !run.is_run("6.18", HOG));
    }

    #[test]
    fn rows_of_a_load_are_taken_over_or_told_to_be_missing() {
        let run = run_with("loads", Vec::new());
        let written = vec![record("hog.futex.x@rustland", "7.3.0", "c0")];
        let rows = run.rows_of("7.3", HOG, Ok(written));
        assert_eq!((&*rows[0].kernel, &*rows[0].commit), ("7.3", "c1"));
        let want = "cargo xtask bench --kernel 7.3 --peers load.scx_rustland.hog";
        assert_eq!(rows[0].command, want);
        let standing = |unit, taken| run.rows_of("7.3", unit, taken)[0].standing();
        let ours = Unit {
            under: Under::Daemon,
            load: "block",
        };
        let died = || Err("the guest died".to_owned());
        assert_eq!(standing(HOG, died()), Standing::NotHere);
        assert_eq!(standing(ours, died()), Standing::NotTaken);
        assert_eq!(standing(ours, Ok(Vec::new())), Standing::NotHere);
        let command = &run.rows_of("7.3", ours, died())[0].command;
        assert_eq!(
            command,
            "cargo xtask bench --kernel 7.3 load.scx_umcg.block"
        );
    }
}
