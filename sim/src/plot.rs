//! `umcg-bench simulate plot`: the chart and the tables of docs/scale.md.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::chart;
use crate::costs::Costs;
use crate::figures::{BARS, Figures, MODES, PER_CPU, SHARE, WORK_NS};
use crate::machine::Settings;
use crate::validate::{self, Measured};

const BEGIN: &str = "<!-- by `umcg-bench simulate plot`: -->\n";
const END: &str = "<!-- end -->\n";

/// Runs, draws `scale.svg` and writes the tables into `scale.md`, both in the folder `docs`.
///
/// # Errors
///
/// A run cannot be made, or a file cannot be read or written.
pub fn plot(docs: &Path, base: &Settings, rows: &[Measured], quick: bool) -> Result<()> {
    let text_path = docs.join("scale.md");
    let what = || text_path.display().to_string();
    // Before minutes of runs: is it there to be written?
    let old = fs::read_to_string(&text_path).with_context(what)?;
    between(&old, "").with_context(|| format!("{}: no marks for the tables", what()))?;
    let figures = Figures::run(base, rows, quick)?;
    chart::draw(&docs.join("scale.svg"), &figures)?;
    let new = between(&old, &tables(&base.costs, &figures)).with_context(what)?;
    fs::write(&text_path, new).with_context(what)
}

/// Puts `text` between the marks.
fn between(old: &str, text: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}\n{END}{after}"))
}

fn tables(costs: &Costs, figures: &Figures) -> String {
    format!(
        "### Costs\n\n{}\n### The point of saturation\n\n{}\n### By CPUs\n\n{}\n### By workers\n\n{}\n\
         ### Against measurements\n\n{}",
        cost_table(costs),
        moved_table(figures),
        cpu_table(figures),
        worker_table(figures),
        validated_text(figures)
    )
}

fn cost_table(costs: &Costs) -> String {
    let mut text = String::from("| key | value | unit | what | origin |\n|---|---|---|---|---|\n");
    for cost in costs.table() {
        let from = match cost.source {
            "-" => String::new(),
            source => format!(": {source}"),
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {}{from} |",
            cost.key, cost.value, cost.unit, cost.what, cost.origin
        );
    }
    text
}

/// A head with a column per mode.
fn head(first: &str, each: &[&str]) -> String {
    let mut text = format!("| {first} |");
    for (name, _) in MODES {
        for what in each {
            let _ = write!(text, " {name}: {what} |");
        }
    }
    let columns = 1 + MODES.len() * each.len();
    let _ = writeln!(text, "\n|{}", "---|".repeat(columns));
    text
}

fn moved_table(figures: &Figures) -> String {
    let mut text = format!(
        "Work between two waits, in µs, below which workers get less than {} % of the CPU, {PER_CPU} workers \
         per CPU; in brackets the agent's share there:\n\n",
        100.0 * SHARE
    );
    text += &head("one CPU, but", &["work (agent)"]);
    for (name, points) in &figures.moved {
        let cells = points.iter().map(|point| match point {
            Some(at) => format!(" {:.1} ({:.1} %) |", at.work_us, 100.0 * at.agent_share),
            None => " - |".to_owned(),
        });
        let _ = writeln!(text, "| {name} |{}", cells.collect::<String>());
    }
    text
}

fn cpu_table(figures: &Figures) -> String {
    let mut text = format!(
        "All CPUs full, {} µs of work between two waits, {PER_CPU} workers per CPU; per second and CPU, \
         and the agent's share:\n\n",
        WORK_NS / 1e3
    );
    text += &head("CPUs", &["operations", "agent"]);
    for at in 0..figures.by_cpus[0].len() {
        let _ = write!(text, "| {} |", figures.by_cpus[0][at].0);
        for curve in &figures.by_cpus {
            let (cpus, report) = &curve[at];
            let each = report.throughput / cpus;
            let _ = write!(text, " {each:.0} | {:.2} % |", 100.0 * report.agent_share);
        }
        text.push('\n');
    }
    text
}

fn worker_table(figures: &Figures) -> String {
    let mut text = format!(
        "{} CPUs, 100 µs of work between two waits and as long a sleep, or, where that is less, sleeps \
         such that all want twice of the machine; million operations per second, the agent's share, \
         p99 of waits in ms:\n\n",
        figures.most_cpus()
    );
    text += &head("workers", &["operations", "agent", "p99"]);
    for at in 0..figures.by_workers[0].len() {
        let _ = write!(text, "| {} |", figures.by_workers[0][at].0);
        for curve in &figures.by_workers {
            let report = &curve[at].1;
            let million = report.throughput / 1e6;
            let (agent, p99_ms) = (100.0 * report.agent_share, report.waits.p99_us / 1e3);
            let _ = write!(text, " {million:.3} | {agent:.2} % | {p99_ms:.2} |");
        }
        text.push('\n');
    }
    text
}

fn validated_text(figures: &Figures) -> String {
    if figures.validated.is_empty() {
        return "No measured rows were given: all of the above is extrapolation.\n".to_owned();
    }
    let range = figures.range();
    format!(
        "```\n{}```\n\nRows that are met within {} % (throughput) and {} % (p99; {} % on more than one \
         CPU) reach to {} CPU(s) and {} workers; all beyond is extrapolation.\n",
        validate::table(&figures.validated),
        BARS[0],
        BARS[1],
        BARS[2],
        range.cpus,
        range.workers
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plot_text_replaces_what_is_between_the_marks() {
        let old = format!("a\n{BEGIN}old\n{END}b\n");
        let new = between(&old, "new\n").expect("marks");
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n\n{END}b\n"));
        assert_eq!(between("no marks", "new"), None);
    }

    #[test]
    fn plot_cost_table_has_a_row_per_cost_with_its_origin() {
        let table = cost_table(&Costs::default());
        assert_eq!(table.lines().count(), 2 + Costs::default().table().len());
        assert!(table.contains("| `turn` | 1500 | insns |"));
        assert!(table.contains("assumed |"));
    }
}
