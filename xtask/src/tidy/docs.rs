//! What `docs/operations.md` lists is what there is: counters, flags, tests.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::tidy::{Findings, Tree};

const DOC: &str = "docs/operations.md";

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
    let in_guest = tree
        .files
        .iter()
        .filter(|file| file.path.starts_with("tests/src/tests/"))
        .flat_map(|file| vm_tests(&file.text))
        .collect();
    let listed = rows(doc, "## Tests")
        .into_iter()
        .filter(|name| name.starts_with("vm_"))
        .collect();
    compare("test", &in_guest, &listed, &mut errors);
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
    fn docs_difference_is_told_both_ways() {
        let mut errors = Vec::new();
        let set = |name: &str| BTreeSet::from([name.to_owned()]);
        compare("flag", &set("--new"), &set("--old"), &mut errors);
        assert_eq!(errors.len(), 2);
        assert!(errors[0].contains("--new is not listed"));
        assert!(errors[1].contains("--old does not exist"));
    }
}
