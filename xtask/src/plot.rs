//! `cargo xtask plot`: figures of tests as curves and a table in `docs/idle-servers.md`.
//!
//! Reads the `idle_cost` and `idle_group` lines that `vm_idle_wake_cost` and
//! `vm_idle_group_wake_cost` left in `target/vmtest/metrics.tsv`, the newest of each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use anyhow::{Context, Result, ensure};

use crate::proc;
use crate::test::target_dir;

mod curves;

/// Structures, by their number.
const KINDS: [&str; 3] = ["stack", "ring", "mask"];
const BEGIN: &str = "<!-- by `cargo xtask plot`: -->\n";
const END: &str = "<!-- end -->\n";

/// Flags of `cargo xtask plot`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the figures are
    #[arg(long)]
    metrics: Option<PathBuf>,
}

/// Servers of a point, the share of them that is idle, the structure.
type Key = (u32, u32, usize);
/// Instructions of a wake.
type Costs = BTreeMap<Key, f64>;

/// Draws and writes.
pub fn run(args: &Args) -> Result<ExitCode> {
    let path = (args.metrics.clone()).unwrap_or_else(|| target_dir().join("vmtest/metrics.tsv"));
    let read = |error: io::Error| {
        let what = path.display();
        format!("cannot read: {what}: {error}; `cargo xtask test --full vm_idle` makes it")
    };
    let text = fs::read_to_string(&path).map_err(|e| anyhow::anyhow!(read(e)))?;
    let (made_up, group) = (costs(&text, "idle_cost"), costs(&text, "idle_group"));
    for (name, costs) in [("idle_cost", &made_up), ("idle_group", &group)] {
        ensure!(
            !costs.is_empty() && costs.keys().all(|key| key.2 < KINDS.len()),
            "{}: no {name} lines; `cargo xtask test --full vm_idle` makes them",
            path.display()
        );
    }
    let docs = proc::repo().join("docs");
    curves::draw(&docs.join("idle-servers.svg"), &made_up, &group)?;
    insert(
        &docs.join("idle-servers.md"),
        &format!(
            "Instructions of a wake on made-up servers:\n\n{}\nand of `Group::wake` on a group \
             with server threads:\n\n{}",
            table(&made_up),
            table(&group)
        ),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The lines of `name`; of those about the same point the last.
fn costs(text: &str, name: &str) -> Costs {
    let mut costs = Costs::new();
    for line in text.lines() {
        let mut fields = line.split('\t').skip(2);
        if fields.next() != Some(name) {
            continue;
        }
        let values: BTreeMap<_, _> = (fields.next().unwrap_or_default())
            .split(' ')
            .filter_map(|pair| pair.split_once('='))
            .filter_map(|(key, value)| Some((key, value.parse::<f64>().ok()?)))
            .collect();
        let get = |key: &str| values.get(key).copied();
        if let (Some(servers), Some(share), Some(kind), Some(insns)) =
            (get("servers"), get("share"), get("kind"), get("insns"))
        {
            costs.insert((servers as u32, share as u32, kind as usize), insns);
        }
    }
    costs
}

/// A row per share and structure, a column per number of servers.
fn table(costs: &Costs) -> String {
    let column = |get: fn(&Key) -> u32| -> Vec<u32> {
        let mut all: Vec<_> = costs.keys().map(get).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let (servers, shares) = (column(|key| key.0), column(|key| key.1));
    let cells = |cells: Vec<String>| format!("{} |", cells.join(" | "));
    let heads = servers.iter().map(u32::to_string).collect();
    let mut text = format!("| idle | structure | {}\n", cells(heads));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(servers.len()));
    for &share in &shares {
        for (kind, name) in KINDS.iter().enumerate() {
            let row = servers.iter().map(|&n| {
                let cost = costs.get(&(n, share, kind));
                cost.map_or("-".to_owned(), |it| format!("{it:.0}"))
            });
            let _ = writeln!(text, "| {share} % | {name} | {}", cells(row.collect()));
        }
    }
    text
}

/// Puts `text` between the marks of the file `path`.
fn insert(path: &Path, text: &str) -> Result<()> {
    let what = || path.display().to_string();
    let old = fs::read_to_string(path).with_context(what)?;
    let new = between(&old, text).with_context(|| format!("{}: no marks", what()))?;
    fs::write(path, new).with_context(what)
}

fn between(old: &str, text: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "c\t7.3\tidle_cost\tkind=0.0000 servers=2.0000 share=10.0000 insns=300.5\n\
        c\t7.3\tother\tkind=0 servers=2 share=10 insns=1\n\
        c\t7.3\tidle_cost\tkind=1 servers=4 share=10 insns=7\n\
        d\t7.3\tidle_cost\tkind=0 servers=2 share=10 insns=301\n";

    #[test]
    fn plot_newest_line_of_a_point_counts() {
        let costs = costs(LINES, "idle_cost");
        assert_eq!(costs.get(&(2, 10, 0)), Some(&301.0));
        assert_eq!(costs.len(), 2);
    }

    #[test]
    fn plot_table_has_a_cell_per_point() {
        let table = table(&costs(LINES, "idle_cost"));
        let rows: Vec<_> = table.lines().collect();
        assert_eq!(rows[0], "| idle | structure | 2 | 4 |");
        assert_eq!(rows[2], "| 10 % | stack | 301 | - |");
        assert_eq!(rows[3], "| 10 % | ring | - | 7 |");
    }

    #[test]
    fn plot_text_replaces_what_is_between_the_marks() {
        let old = format!("a\n{BEGIN}old\n{END}b\n");
        let new = between(&old, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n\n{END}b\n"));
        assert_eq!(between("no marks", "new"), None);
    }
}
