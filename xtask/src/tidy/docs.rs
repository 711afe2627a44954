//! What `docs/operations.md` lists is what there is: counters, flags, tests. And each behaviour of
//! `docs/behaviours.md` has a test, or says why not.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::tidy::{Findings, Tree};

const DOC: &str = "docs/operations.md";
const BEHAVIOURS: &str = "docs/behaviours.md";
/// B01 to B60.
const COUNT: usize = 60;

/// Names that stand in the source but not in the document, or the other way round.
pub fn complete(tree: &Tree) -> Result<Findings> {
    let text = |path: &str| {
        let file = tree.files.iter().find(|file| file.path == path);
        file.map(|file| file.text.as_str())
            .with_context(|| format!("no file {path}"))
    };
    let doc = text(DOC)?;
    let mut errors = Vec::new();
    let counters = counters(text("src/bpf/intf.h")?);
    compare("counter", &counters, &rows(doc, "## Counters"), &mut errors);
    let flags = flags(text("src/cli.rs")?);
    compare("flag", &flags, &rows(doc, "## Flags"), &mut errors);
    let in_guest = in_guest(tree);
    let listed = rows(doc, "## Tests")
        .into_iter()
        .filter(|name| name.starts_with("vm_"))
        .collect();
    compare("test", &in_guest, &listed, &mut errors);
    Ok(Findings::errors(errors))
}

/// The tests for VMs.
fn in_guest(tree: &Tree) -> BTreeSet<String> {
    let files = tree.files.iter();
    let files = files.filter(|file| file.path.starts_with("tests/src/tests/"));
    files.flat_map(|file| vm_tests(&file.text)).collect()
}

/// Behaviours without a row, rows without a test or a reason, and tests that do not exist.
pub fn behaviours(tree: &Tree) -> Result<Findings> {
    let doc = tree.files.iter().find(|file| file.path == BEHAVIOURS);
    let doc = doc.with_context(|| format!("no file {BEHAVIOURS}"))?;
    let there = in_guest(tree);
    let mut errors = Vec::new();
    for number in 1..=COUNT {
        let head = format!("| B{number:02} | ");
        let rows: Vec<_> = (doc.lines())
            .filter(|(_, line)| line.starts_with(&head))
            .collect();
        let [(line, row)] = rows[..] else {
            errors.push(format!(
                "{BEHAVIOURS}: B{number:02} has {} rows",
                rows.len()
            ));
            continue;
        };
        let shown = row.split('|').nth(3).unwrap_or_default().trim();
        let tests: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        let reason = shown.strip_prefix("none: ").unwrap_or_default();
        if tests.is_empty() && reason.len() < "never given out".len() {
            let want = "must have a test, or \"none: \" and a reason";
            errors.push(format!("{BEHAVIOURS}:{line}: B{number:02} {want}"));
        }
    }
    for (line, text) in doc.lines() {
        let names = text.split('`').skip(1).step_by(2);
        for name in names.filter(|name| name.starts_with("vm_") && !name.ends_with("...")) {
            if !there.contains(name) {
                errors.push(format!("{BEHAVIOURS}:{line}: test {name} does not exist"));
            }
        }
    }
    Ok(Findings::errors(errors))
}

fn compare(
    what: &str,
    source: &BTreeSet<String>,
    doc: &BTreeSet<String>,
    errors: &mut Vec<String>,
) {
    for name in source.difference(doc) {
        errors.push(format!("{DOC}: {what} {name} is not listed"));
    }
    for name in doc.difference(source) {
        errors.push(format!("{DOC}: {what} {name} does not exist"));
    }
}

/// First words of the first cells between this heading and the next of its level.
fn rows(doc: &str, heading: &str) -> BTreeSet<String> {
    doc.lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', ' ']).next())
        .map(str::to_owned)
        .collect()
}

/// `X(name, "...")` lines of intf.h.
fn counters(header: &str) -> BTreeSet<String> {
    header
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("X(")?.split_once(", \""))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Fields of `RunArgs` are the long flags; clap adds `--help`.
fn flags(cli: &str) -> BTreeSet<String> {
    cli.lines()
        .skip_while(|line| !line.starts_with("pub struct RunArgs"))
        .take_while(|line| *line != "}")
        .filter_map(|line| line.trim_start().strip_prefix("pub ")?.split_once(':'))
        .map(|(name, _)| format!("--{}", name.replace('_', "-")))
        .chain(["--help".to_owned()])
        .collect()
}

/// Names in quotes that start with `vm_`, as the tables of tests hold them.
fn vm_tests(source: &str) -> Vec<String> {
    source
        .split('"')
        .filter(|part| part.starts_with("vm_") && !part.contains(' '))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_each_kind_of_name_is_found() {
        let header = "\tX(blocks, \"edges\")\t\\\n#define X(name, desc) C\n";
        assert_eq!(counters(header), ["blocks".to_owned()].into());
        let cli = "pub struct RunArgs {\n    /// X.\n    pub slice_us: u64,\n}\npub x: u8,\n";
        assert_eq!(
            flags(cli),
            ["--help".to_owned(), "--slice-us".to_owned()].into()
        );
        assert_eq!(vm_tests("short(\"vm_a\", \"life\", f)"), ["vm_a"]);
        let doc = "## Flags\n| `--a US` | x |\n| flag |\n## Counters\n| `b` | y |\n";
        assert_eq!(rows(doc, "## Flags"), ["--a".to_owned()].into());
    }

    #[test]
    fn behaviours_without_a_row_a_test_or_a_reason_are_found() {
        let rows = |of: &dyn Fn(usize) -> String| -> String { (1..=COUNT).map(of).collect() };
        let found = |doc: &str| {
            let tests = ("tests/src/tests/a.rs", "short(\"vm_a\", \"life\", f)");
            behaviours(&Tree::of(&[(BEHAVIOURS, doc), tests]))
                .unwrap()
                .errors
        };
        let good = |n: usize| format!("| B{n:02} | x | `vm_a` | |\n");
        assert!(found(&rows(&good)).is_empty());
        let reason = |n| format!("| B{n:02} | | none: never given out | |\n");
        assert!(found(&rows(&reason)).is_empty());
        let bad = rows(&|n| match n {
            1 => String::new(),
            2 => good(2) + &good(2),
            3 => "| B03 | x | none: | |\n".to_owned(),
            4 => "| B04 | x | `vm_b` | |\n".to_owned(),
            n => good(n),
        });
        let found = found(&bad);
        for (at, want) in ["B01 has 0", "B02 has 2", "B03 must have", "vm_b does not"]
            .iter()
            .enumerate()
        {
            assert!(found[at].contains(want), "{found:?}");
        }
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn docs_difference_is_told_both_ways() {
        let mut errors = Vec::new();
        let set = |name: &str| BTreeSet::from([name.to_owned()]);
        compare("flag", &set("--new"), &set("--old"), &mut errors);
        assert_eq!(errors.len(), 2);
        assert!(errors[0].contains("--new is not listed"));
        assert!(errors[1].contains("--old does not exist"));
    }
}
