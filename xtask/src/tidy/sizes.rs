//! Sizes: a file or function over its limit asks why (a warning), over 1.5 times it fails.

use anyhow::Result;

use crate::tidy::{Findings, SourceFile, Tree};

const FUNCTION: usize = 70;
const OPS_CALLBACK: usize = 30;

/// Lines without tests that a file may have, the first match counts: (what, suffix, limit).
const FILES: [(&str, &str, usize); 8] = [
    ("", "src/bpf/main.bpf.c", 250),
    ("", "src/bpf/intf.h", 400),
    ("", ".bpf.h", 500),
    ("", ".bpf.c", 500),
    ("policy/src/lib", ".rs", 500),
    ("policy/src/", ".rs", 300),
    ("xtask/src/", ".rs", 350),
    ("", ".rs", 500),
];

/// Files and functions that grew too long.
pub fn sizes(tree: &Tree) -> Result<Findings> {
    let mut found = Findings::default();
    for file in &tree.files {
        if file.generated() {
            continue;
        }
        if let Some(limit) = file_limit(&file.path) {
            let lines = file
                .text
                .lines()
                .take_while(|line| !starts_tests(line))
                .count();
            judge(&mut found, &file.path, lines, limit);
        }
        for function in functions(file) {
            let limit = if function.ops { OPS_CALLBACK } else { FUNCTION };
            let what = format!("{}:{}: fn {}", file.path, function.line, function.name);
            judge(&mut found, &what, function.lines, limit);
        }
    }
    Ok(found)
}

fn judge(found: &mut Findings, what: &str, lines: usize, limit: usize) {
    let text = || format!("{what}: {lines} lines; more than {limit} asks why; split it by concern");
    if 2 * lines > 3 * limit {
        found.errors.push(text());
    } else if lines > limit {
        found.warnings.push(text());
    }
}

fn file_limit(path: &str) -> Option<usize> {
    let fits =
        |(start, end, _): &&(&str, &str, usize)| path.starts_with(start) && path.ends_with(end);
    FILES.iter().find(fits).map(|(_, _, limit)| *limit)
}

fn starts_tests(line: &str) -> bool {
    line == "#[cfg(test)]"
        || line == "#[cfg(all(test, loom))]"
        || line == "#[cfg(all(test, not(loom)))]"
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
    ops: bool,
}

fn functions(file: &SourceFile) -> Vec<Function> {
    if file.path.ends_with(".rs") {
        rust_functions(&file.text)
    } else if file.has_suffix(&[".c", ".h"]) {
        c_functions(&file.text)
    } else {
        Vec::new()
    }
}

/// By rustfmt's layout: a function ends at the next `}` with the indent of its `fn`.
fn rust_functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text
        .lines()
        .take_while(|line| !starts_tests(line))
        .collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(name) = rust_name(trimmed) else {
            continue;
        };
        let end = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let body = lines[at..]
            .iter()
            .position(|l| **l == end || l.ends_with(';') && l.starts_with(line));
        if let Some(length) = body {
            found.push(Function {
                name,
                line: at + 1,
                lines: length + 1,
                ops: false,
            });
        }
    }
    found
}

fn rust_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let qualifier = |word: &str| {
        let known = ["const", "async", "unsafe", "extern", "\"C\"", "default"];
        known.contains(&word) || word.starts_with("pub")
    };
    let name: String = after
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (before.split_whitespace().all(qualifier) && !name.is_empty()).then_some(name)
}

/// By the kernel's layout: the body is between a `{` and a `}` in the first column.
fn c_functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| **line == "{") {
        let head_start = (0..at).rev().find(|&i| {
            let line = lines[i];
            line.is_empty() || line.ends_with(['}', ';', '/'])
        });
        let first = head_start.map_or(0, |i| i + 1);
        let head = lines[first..at].join(" ");
        if let Some(length) = lines[at..].iter().position(|line| *line == "}") {
            found.push(Function {
                name: c_name(&head),
                line: first + 1,
                lines: length + 1,
                ops: head.contains("BPF_STRUCT_OPS"),
            });
        }
    }
    found
}

/// The word before the parenthesis, or the first argument of a macro that declares.
fn c_name(head: &str) -> String {
    let (before, after) = head.split_once('(').unwrap_or((head, ""));
    let word = before
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .rfind(|w| !w.is_empty());
    let macro_name = word.is_some_and(|w| w.starts_with("BPF_"));
    let argument = after.split([',', ')']).next().unwrap_or_default().trim();
    if macro_name {
        argument.to_owned()
    } else {
        word.unwrap_or("?").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(path: &str, text: &str) -> (usize, usize) {
        let found = sizes(&Tree::of(&[(path, text)])).unwrap();
        (found.errors.len(), found.warnings.len())
    }

    #[test]
    fn sizes_of_files_warn_then_fail() {
        let lines = |n: usize| "x;\n".repeat(n);
        assert_eq!(judged("policy/src/fair.rs", &lines(300)), (0, 0));
        assert_eq!(judged("policy/src/fair.rs", &lines(301)), (0, 1));
        assert_eq!(judged("policy/src/fair.rs", &lines(451)), (1, 0));
        assert_eq!(judged("src/bpf/main.bpf.c", &lines(251)), (0, 1));
        assert_eq!(judged("src/a.rs", &lines(500)), (0, 0));
        assert_eq!(judged("docs/a.md", &lines(5000)), (0, 0));
    }

    #[test]
    fn sizes_leave_out_tests_and_generated_files() {
        let tests = format!("x;\n#[cfg(test)]\n{}", "x;\n".repeat(900));
        assert_eq!(judged("src/a.rs", &tests), (0, 0));
        let generated = format!("/* automatically generated */\n{}", "x;\n".repeat(900));
        assert_eq!(judged("src/a.rs", &generated), (0, 0));
    }

    #[test]
    fn sizes_of_rust_functions() {
        let function = |n: usize| {
            format!(
                "impl A {{\n    pub fn long(\n        a: u32,\n    ) {{\n{}    }}\n}}\n",
                "        x;\n".repeat(n)
            )
        };
        assert_eq!(judged("a.rs", &function(66)), (0, 0));
        assert_eq!(judged("a.rs", &function(67)), (0, 1));
        assert_eq!(judged("a.rs", &function(102)), (1, 0));
        let short = "trait T {\n    fn a(&self);\n    fn b(&self);\n}\n";
        assert_eq!(
            judged("a.rs", &format!("{short}{}", "x;\n".repeat(100))),
            (0, 0)
        );
    }

    #[test]
    fn sizes_of_c_functions_and_ops_callbacks() {
        let function =
            |head: &str, n: usize| format!("int x;\n\n{head}\n{{\n{}}}\n", "\tx();\n".repeat(n));
        assert_eq!(
            judged("a.bpf.h", &function("static int f(int a)", 68)),
            (0, 0)
        );
        assert_eq!(
            judged("a.bpf.h", &function("static int f(int a)", 69)),
            (0, 1)
        );
        let ops = "void BPF_STRUCT_OPS(umcg_enqueue, struct task_struct *p,\n\t\t    u64 flags)";
        assert_eq!(judged("a.bpf.c", &function(ops, 29)), (0, 1));
        assert_eq!(c_functions(&function(ops, 1))[0].name, "umcg_enqueue");
        assert_eq!(
            c_functions(&function("static int f(int a)", 1))[0].name,
            "f"
        );
    }
}
