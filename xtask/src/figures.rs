//! `cargo xtask figures`: the rows that `cargo xtask bench` stored, as `docs/figures.md`, a
//! chart of how near each one comes to its bar, and the table of README.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use umcg_bench::row::{self, RowSet};

use crate::bench::record::Record;
use crate::{bench, commit, proc};

mod chart;
mod readme;
mod text;

/// Flags of `cargo xtask figures`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rows of one commit, as `bench --json` writes them, instead of those stored for this one
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Reads, draws, writes.
pub fn run(args: &Args) -> Result<ExitCode> {
    let file = args.json.clone().unwrap_or_else(bench::store_file);
    let mut set = read(&file)?;
    if args.json.is_none() {
        // The store has those of other commits, too.
        set.rows = of_commit(set.rows, &commit::current(false)?)
            .with_context(|| file.display().to_string())?;
    }
    write(proc::repo(), &newest(set.rows)?, set.partial)?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<RowSet<Record>> {
    let bytes = fs::read(file).with_context(|| {
        let file = file.display();
        format!("cannot read: {file}; `cargo xtask bench` makes it")
    })?;
    row::read_as(&bytes).with_context(|| format!("{}: spoiled", file.display()))
}

/// The rows of this commit. They came before the changes that the tree has now, as to the figures
/// themselves; if there are none, those of the changed tree.
fn of_commit(rows: Vec<Record>, commit: &str) -> Result<Vec<Record>> {
    let clean = commit.strip_suffix("-dirty").unwrap_or(commit);
    let of = |commit: &str| rows.iter().any(|row| row.commit == commit);
    let kept = if of(clean) { clean } else { commit };
    ensure!(
        of(kept),
        "no rows of {clean}; `cargo xtask bench` makes them, --json takes others"
    );
    let rows = rows.into_iter().filter(|row| row.commit == kept);
    Ok(rows.collect())
}

/// Of the rows of one name and kernel the last; all have to be of one commit.
fn newest(rows: Vec<Record>) -> Result<Vec<Record>> {
    let mut commits: Vec<&str> = rows.iter().map(|row| row.commit.as_str()).collect();
    commits.sort_unstable();
    commits.dedup();
    match commits[..] {
        [_] => {}
        [] => bail!("no rows; `cargo xtask bench` makes them"),
        _ => bail!(
            "rows of {} commits: {}; figures are of one; `cargo xtask bench --resume --json FILE` \
             writes those of the present one",
            commits.len(),
            commits.join(", ")
        ),
    }
    let mut kept: Vec<Record> = Vec::new();
    for row in rows {
        let is_it = |it: &&mut Record| it.name == row.name && it.kernel == row.kernel;
        match kept.iter_mut().find(is_it) {
            Some(old) => *old = row,
            None => kept.push(row),
        }
    }
    Ok(kept)
}

/// `figures.md` and `figures.svg` in the folder `docs` of `repo`, and README.md's table.
fn write(repo: &Path, rows: &[Record], partial: bool) -> Result<()> {
    let readme = repo.join("README.md");
    let read = fs::read_to_string(&readme);
    let old = read.with_context(|| format!("cannot read: {}", readme.display()))?;
    let new = readme::renewed(&old, rows)?;
    let docs = repo.join("docs");
    let chart = docs.join("figures.svg");
    let is_drawn = chart::draw(&chart, rows)?;
    let file = docs.join("figures.md");
    for (file, text) in [(file, text::text(rows, partial, is_drawn)), (readme, new)] {
        fs::write(&file, text).with_context(|| format!("cannot write: {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::record;

    #[test]
    fn newest_row_of_a_name_counts_and_commits_are_not_mixed() {
        let mut late = record("a", "7.3", "c1");
        late.value = Some(7.0);
        let rows = vec![record("a", "7.3", "c1"), record("a", "6.18", "c1"), late];
        let kept = newest(rows).unwrap();
        assert_eq!((kept.len(), kept[0].value), (2, Some(7.0)));
        let err = newest(vec![record("a", "7.3", "c1"), record("b", "7.3", "c2")]);
        let err = err.unwrap_err().to_string();
        assert!(
            err.contains("2 commits: c1, c2") && err.contains("--json"),
            "{err}"
        );
        assert!(newest(Vec::new()).is_err());
    }

    #[test]
    fn of_commit_takes_rows_from_before_the_tree_changed() {
        let rows = |commits: &[&str]| -> Vec<Record> {
            commits.iter().map(|it| record("a", "7.3", it)).collect()
        };
        let commit_of = |commits: &[&str], commit: &str| {
            let kept = of_commit(rows(commits), commit).unwrap();
            assert_eq!(kept.len(), 1);
            kept[0].commit.clone()
        };
        assert_eq!(commit_of(&["c1", "c1-dirty", "c2"], "c1-dirty"), "c1");
        assert_eq!(commit_of(&["c1-dirty", "c2"], "c1-dirty"), "c1-dirty");
        assert_eq!(commit_of(&["c1-dirty", "c1"], "c1"), "c1");
        let err = of_commit(rows(&["c2"]), "c1-dirty")
            .unwrap_err()
            .to_string();
        assert!(err.contains("no rows of c1;"), "{err}");
    }

    #[test]
    fn figures_are_written_from_rows_that_were_cut_off() {
        let dir = std::env::temp_dir().join(format!("xtask-figures-{}", std::process::id()));
        fs::create_dir_all(dir.join("docs")).unwrap();
        let readme = "<!-- figures: made by `cargo xtask figures` -->\n<!-- end of figures -->\n";
        fs::write(dir.join("README.md"), readme).unwrap();
        let file = dir.join("rows.jsonl");
        let line = serde_json::to_string(&record("a.b", "7.3", "c1")).unwrap();
        fs::write(&file, format!("{line}\n{}", &line[..40])).unwrap();
        let set = read(&file).unwrap();
        assert!(set.partial && set.rows.len() == 1);
        write(&dir, &newest(set.rows).unwrap(), set.partial).unwrap();
        let text = fs::read_to_string(dir.join("docs/figures.md")).unwrap();
        assert!(text.contains("a.b") && text.contains("artial"), "{text}");
        let chart = fs::read_to_string(dir.join("docs/figures.svg")).unwrap();
        assert!(
            chart.starts_with("<svg") && chart.contains("a.b"),
            "{chart}"
        );
        fs::write(&file, "nonsense\n").unwrap();
        assert!(format!("{:#}", read(&file).unwrap_err()).contains("spoiled: line 1"));
        fs::remove_dir_all(&dir).unwrap();
        assert!(
            read(&file)
                .unwrap_err()
                .to_string()
                .contains("cargo xtask bench")
        );
    }
}
