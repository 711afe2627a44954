//! Licences, from `cargo metadata`: the daemon's tree goes with GPL-2.0-only, and the trees of
//! `umcg`, `umcg-c`, `umcg-policy` and `umcg-sim`, which others link, have no copyleft in them.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::proc;
use crate::test::cargo;
use crate::tidy::{Findings, Tree};

/// The package whose tree must go with GPL-2.0-only.
const GPL_ROOT: &str = "scx_umcg";

/// The packages whose trees must be free of copyleft.
const FREE_ROOTS: [&str; 5] = ["umcg", "umcg-bench", "umcg-c", "umcg-policy", "umcg-sim"];

/// Licences that take no more than notices.
const PERMISSIVE: [&str; 12] = [
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
    "Unicode-3.0",
    "BSL-1.0",
    "Apache-2.0 WITH LLVM-exception",
];

/// Further licences that go with GPL-2.0-only. Apache-2.0 alone does not.
const COPYLEFT: [&str; 8] = [
    "GPL-2.0",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "LGPL-2.1",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-2.0-or-later",
    "MPL-2.0",
];

/// Crates of the daemon's tree whose licence does not fit, with why they may stay.
const EXCEPTIONS: [(&str, &str); 1] = [(
    "clang-sys",
    "Apache-2.0: bindgen's, runs while the scx crates build, not in the binary",
)];

/// Crates whose licence does not fit the tree that they are in.
pub fn licences(tree: &Tree) -> Result<Findings> {
    let mut cmd = cargo();
    cmd.args([
        "metadata",
        "--format-version",
        "1",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]);
    let text = proc::output(cmd.current_dir(&tree.root))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    judge(&Graph::read(&metadata).context("cargo metadata lacks a field")?)
}

fn judge(graph: &Graph) -> Result<Findings> {
    let mut errors = Vec::new();
    for krate in graph.tree(GPL_ROOT)? {
        let fits = |id: &str| PERMISSIVE.contains(&id) || COPYLEFT.contains(&id);
        let excepted = EXCEPTIONS.iter().any(|(name, _)| *name == krate.name);
        if !excepted && !allowed(&krate.licence, &fits) {
            errors.push(format!(
                "{GPL_ROOT}: {} is {:?}; must go with GPL-2.0-only",
                krate.name, krate.licence
            ));
        }
    }
    for root in FREE_ROOTS {
        for krate in graph.tree(root)? {
            let fits = |id: &str| PERMISSIVE.contains(&id) || id == "Apache-2.0";
            if !allowed(&krate.licence, &fits) {
                errors.push(format!(
                    "{root}: {} is {:?}; must be permissive",
                    krate.name, krate.licence
                ));
            }
        }
    }
    Ok(Findings::errors(errors))
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Krate {
    name: String,
    licence: String,
}

/// Packages by id, and what each needs to build and run; not what only its tests need.
#[derive(Debug, Default)]
struct Graph {
    krates: HashMap<String, Krate>,
    needs: HashMap<String, Vec<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Option<Self> {
        let mut graph = Self::default();
        for package in metadata["packages"].as_array()? {
            let licence = package["license"].as_str().unwrap_or("none").to_owned();
            let krate = Krate {
                name: package["name"].as_str()?.to_owned(),
                licence,
            };
            graph
                .krates
                .insert(package["id"].as_str()?.to_owned(), krate);
        }
        for node in metadata["resolve"]["nodes"].as_array()? {
            let mut needs = Vec::new();
            for dep in node["deps"].as_array()? {
                let kinds = dep["dep_kinds"].as_array()?;
                if kinds
                    .iter()
                    .any(|kind| kind["kind"].as_str() != Some("dev"))
                {
                    needs.push(dep["pkg"].as_str()?.to_owned());
                }
            }
            graph.needs.insert(node["id"].as_str()?.to_owned(), needs);
        }
        Some(graph)
    }

    /// All crates that `root` needs, itself included.
    fn tree(&self, root: &str) -> Result<BTreeSet<Krate>> {
        let start = self.krates.iter().find(|(_, krate)| krate.name == root);
        let (start, _) = start.with_context(|| format!("no package of that name: {root}"))?;
        let (mut todo, mut seen) = (vec![start], BTreeSet::from([start]));
        while let Some(id) = todo.pop() {
            for next in self.needs.get(id).into_iter().flatten() {
                if seen.insert(next) {
                    todo.push(next);
                }
            }
        }
        Ok(seen
            .into_iter()
            .filter_map(|id| self.krates.get(id).cloned())
            .collect())
    }
}

/// Whether an SPDX expression can be met with licences that `fits`. OR binds less than AND.
fn allowed(expression: &str, fits: &dyn Fn(&str) -> bool) -> bool {
    let text = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut rest = &words[..];
    any(&mut rest, fits) && rest.is_empty()
}

fn any(rest: &mut &[&str], fits: &dyn Fn(&str) -> bool) -> bool {
    let mut met = all(rest, fits);
    while rest.first() == Some(&"OR") {
        *rest = &rest[1..];
        // Not `||`: the words must be read in any case.
        met |= all(rest, fits);
    }
    met
}

fn all(rest: &mut &[&str], fits: &dyn Fn(&str) -> bool) -> bool {
    let mut met = one(rest, fits);
    while rest.first() == Some(&"AND") {
        *rest = &rest[1..];
        met &= one(rest, fits);
    }
    met
}

fn one(rest: &mut &[&str], fits: &dyn Fn(&str) -> bool) -> bool {
    match **rest {
        ["(", ..] => {
            *rest = &rest[1..];
            let met = any(rest, fits);
            let closed = rest.first() == Some(&")");
            *rest = rest.get(1..).unwrap_or_default();
            met && closed
        }
        [id, "WITH", exception, ..] => {
            *rest = &rest[3..];
            fits(&format!("{id} WITH {exception}"))
        }
        [id, ..] => {
            *rest = &rest[1..];
            fits(id)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_expressions() {
        let fits = |id: &str| ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].contains(&id);
        for good in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "GPL-3.0-only/MIT",
            "(MIT OR X) AND ISC",
            "X OR MIT AND ISC",
            "Apache-2.0 WITH LLVM-exception OR X",
        ] {
            assert!(allowed(good, &fits), "{good}");
        }
        for bad in [
            "",
            "none",
            "Apache-2.0",
            "MIT AND X",
            "(MIT",
            "MIT MIT",
            "(MIT OR ISC) AND X",
            "OR",
        ] {
            assert!(!allowed(bad, &fits), "{bad}");
        }
    }

    /// scx_umcg → `dep`, umcg-policy → `lib`, the other free ones alone; a GPL-3.0 crate for tests only.
    fn metadata(dep: &str, lib: &str) -> Value {
        let package = |name: &str, licence: &str| serde_json::json!({"id": name, "name": name, "license": licence});
        let need = |name: &str, kind: Value| serde_json::json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        serde_json::json!({
            "packages": [
                package("scx_umcg", "GPL-2.0-only"), package("umcg", "MIT"), package("umcg-c", "MIT"),
                package("umcg-policy", "MIT"), package("umcg-sim", "MIT"), package("umcg-bench", "MIT"),
                package("dep", dep), package("lib", lib), package("for-tests", "GPL-3.0-only"),
            ],
            "resolve": {"nodes": [
                {"id": "scx_umcg", "deps": [need("dep", Value::Null), need("for-tests", "dev".into())]},
                {"id": "umcg-policy", "deps": [need("lib", "build".into())]},
            ]},
        })
    }

    fn errors(dep: &str, lib: &str) -> Vec<String> {
        judge(&Graph::read(&metadata(dep, lib)).unwrap())
            .unwrap()
            .errors
    }

    #[test]
    fn licences_that_do_not_fit_are_found() {
        assert_eq!(errors("GPL-2.0-only", "MIT OR Apache-2.0"), [""; 0]);
        assert!(errors("Apache-2.0", "MIT")[0].contains("dep is \"Apache-2.0\""));
        assert!(errors("MIT", "GPL-2.0-only")[0].starts_with("umcg-policy: lib is"));
        assert_eq!(errors("GPL-3.0-only", "LGPL-2.1-only").len(), 2);
    }

    #[test]
    fn licences_root_that_is_missing_is_an_error() {
        assert!(
            judge(&Graph::default())
                .unwrap_err()
                .to_string()
                .contains("scx_umcg")
        );
    }
}
