//! Rules on single lines: headers, blanks, names of one machine, unfinished work.

use anyhow::Result;

use crate::tidy::{Findings, SourceFile, Tree};

const SOURCES: [&str; 8] = [".rs", ".c", ".h", ".md", ".toml", ".sh", ".yml", ".py"];

/// Paths that exist on one machine only, and hosts that only some can reach. In halves, or this
/// file would find itself.
const MACHINES: [&str; 9] = [
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/tmp/bash", "_jobs"),
    concat!("deb.debian", ".org"),
    concat!("snapshot.debian", ".org"),
    concat!("security.debian", ".org"),
    concat!("httpredir.debian", ".org"),
    concat!("ftp.debian", ".org"),
    concat!("mirrors.", "kernel.org"),
];

const UNFINISHED: [&str; 4] = [
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

fn each(tree: &Tree, check: impl Fn(&SourceFile) -> Vec<String>) -> Result<Findings> {
    Ok(Findings::errors(
        tree.files.iter().flat_map(check).collect(),
    ))
}

/// Every Rust module says first what it is for.
pub fn module_docs(tree: &Tree) -> Result<Findings> {
    each(tree, |file| {
        let first = file.text.lines().find(|line| !line.trim().is_empty());
        let told = first.is_some_and(|line| line.starts_with("//!"));
        let missing = file.has_suffix(&[".rs"]) && !file.generated() && !told;
        let text = || format!("{}: does not start with a //! comment", file.path);
        missing.then(text).into_iter().collect()
    })
}

/// Every BPF file has its licence first, then a comment that tells what it is.
pub fn bpf_headers(tree: &Tree) -> Result<Findings> {
    each(tree, |file| {
        if !file.has_suffix(&[".bpf.h", ".bpf.c"]) && !file.path.ends_with("bpf/intf.h") {
            return Vec::new();
        }
        let mut lines = file.text.lines();
        let mut found = Vec::new();
        if !lines
            .next()
            .is_some_and(|line| line.contains("SPDX-License-Identifier:"))
        {
            found.push(format!(
                "{}: line 1 is not its SPDX-License-Identifier",
                file.path
            ));
        }
        let next = lines.find(|line| !line.trim().is_empty());
        if !next.is_some_and(|line| line.starts_with("/*") || line.starts_with("//")) {
            found.push(format!(
                "{}: no comment below the licence that tells what it is",
                file.path
            ));
        }
        found
    })
}

/// No blanks at the end of a line, one newline at the end of a file.
pub fn whitespace(tree: &Tree) -> Result<Findings> {
    each(tree, |file| {
        let trailing = file
            .lines()
            .filter(|(_, line)| line.ends_with([' ', '\t', '\r']));
        let mut found: Vec<_> = trailing
            .map(|(at, _)| format!("{}:{at}: blanks at the end of the line", file.path))
            .collect();
        if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
            found.push(format!("{}: must end with one newline", file.path));
        }
        found
    })
}

/// Nothing that is true on one machine only.
pub fn machine_names(tree: &Tree) -> Result<Findings> {
    each(tree, |file| {
        let names = |line: &str| MACHINES.into_iter().find(|name| line.contains(name));
        let found = file
            .lines()
            .filter_map(|(at, line)| Some((at, names(line)?)));
        found
            .map(|(at, name)| format!("{}:{at}: names one machine's `{name}`", file.path))
            .collect()
    })
}

/// No work left for later.
pub fn unfinished(tree: &Tree) -> Result<Findings> {
    each(tree, |file| {
        if !file.has_suffix(&SOURCES) {
            return Vec::new();
        }
        let mark = |line: &str| UNFINISHED.into_iter().find(|mark| has_word(line, mark));
        let found = file
            .lines()
            .filter_map(|(at, line)| Some((at, mark(line)?)));
        found
            .map(|(at, mark)| format!("{}:{at}: unfinished: `{mark}`", file.path))
            .collect()
    })
}

/// Whether `line` has `word` with no letter or digit on either side.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let after = &line[at + word.len()..];
        let open = word.ends_with('(');
        !inside(line[..at].chars().next_back()) && (open || !inside(after.chars().next()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&Tree) -> Result<Findings>;

    fn found(rule: Rule, path: &str, text: &str) -> usize {
        rule(&Tree::of(&[(path, text)])).unwrap().errors.len()
    }

    #[test]
    fn module_docs_missing_is_found() {
        assert_eq!(found(module_docs, "a.rs", "//! Doc.\nfn a() {}\n"), 0);
        assert_eq!(found(module_docs, "a.rs", "// @generated\nfn a() {}\n"), 0);
        assert_eq!(found(module_docs, "a.rs", "use x;\n//! Doc.\n"), 1);
        assert_eq!(found(module_docs, "a.rs", "/// Item.\nfn a() {}\n"), 1);
        assert_eq!(found(module_docs, "a.rs", ""), 1);
        assert_eq!(found(module_docs, "a.md", "no rust"), 0);
    }

    #[test]
    fn bpf_headers_missing_are_found() {
        let good = "/* SPDX-License-Identifier: GPL-2.0-only */\n/* park: waits. */\n";
        assert_eq!(found(bpf_headers, "src/bpf/park.bpf.h", good), 0);
        assert_eq!(
            found(bpf_headers, "src/bpf/park.bpf.h", "/* park */\n/* x */\n"),
            1
        );
        assert_eq!(
            found(
                bpf_headers,
                "a.bpf.c",
                "// SPDX-License-Identifier: X\n#include\n"
            ),
            1
        );
        assert_eq!(found(bpf_headers, "src/bpf/intf.h", "int a;\n"), 2);
        assert_eq!(found(bpf_headers, "umcg.h", "int a;\n"), 0);
    }

    #[test]
    fn whitespace_at_ends_is_found() {
        assert_eq!(found(whitespace, "a", "x\ny\n"), 0);
        assert_eq!(found(whitespace, "a", "x \ny\t\n"), 2);
        assert_eq!(found(whitespace, "a", "x"), 1);
        assert_eq!(found(whitespace, "a", "x\n\n"), 1);
    }

    #[test]
    fn machine_names_are_found() {
        for name in MACHINES {
            assert_eq!(
                found(machine_names, "a.md", &format!("see {name}x\n")),
                1,
                "{name}"
            );
        }
        assert_eq!(found(machine_names, "a.md", "/tmp/x and ~/work\n"), 0);
    }

    #[test]
    fn unfinished_work_is_found_as_a_word() {
        for mark in UNFINISHED {
            assert_eq!(
                found(unfinished, "a.rs", &format!("    {mark} later\n")),
                1,
                "{mark}"
            );
            assert_eq!(found(unfinished, "a.bin", mark), 0);
        }
        assert_eq!(
            found(unfinished, "a.rs", concat!("mktemp a.XX", "XXXX\n")),
            0
        );
    }
}
