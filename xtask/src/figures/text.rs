//! The tables of `docs/figures.md`.

use std::fmt::Write;

use crate::bench::record::{Record, Standing, number};
use crate::bench::rows;
use crate::bench::table::{bar, beside, with_unit};

/// Parts of the claims, by the issue that asks for them.
const PARTS: [(Option<char>, &str); 5] = [
    (Some('A'), "The scheduler"),
    (Some('B'), "A whole machine"),
    (Some('C'), "The client library"),
    (
        Some('D'),
        "Policies, preemption, idle servers, configuration",
    ),
    (None, "Of no claim any more"),
];

/// The whole file, for rows of one commit. `partial`: a row was cut off.
pub fn text(rows: &[Record], partial: bool, has_chart: bool) -> String {
    let commit = rows.first().map_or("", |row| row.commit.as_str());
    let mut text = format!(
        "# Figures\n\n\
         Made by `cargo xtask figures` from the rows of `cargo xtask bench`, commit `{commit}`; how they are taken:\n\
         [bench.md](bench.md#every-claim). All come from virtual machines. Ratios compare two sides in one boot; they say\n\
         nothing absolute.\n"
    );
    if partial {
        text += "\nPartial: the last row was cut off as it was written.\n";
    }
    text += "\n";
    text += &summary(rows);
    if has_chart {
        text += "\n![how near each figure comes to its bar](figures.svg)\n";
    }
    let bars: Vec<_> = rows.iter().filter(|it| !is_load(it)).collect();
    for (standing, title) in [
        (Standing::Missed, "Bars that are missed"),
        (Standing::NotTaken, "Not taken"),
        (Standing::NotHere, "Not to be taken here"),
    ] {
        let of = rows.iter().filter(|row| row.standing() == standing);
        text += &part(title, &of.collect::<Vec<_>>());
    }
    for (issue, title) in PARTS {
        let of = bars.iter().copied().filter(|row| {
            let holds = [Standing::Passed, Standing::Figure].contains(&row.standing());
            holds && rows::issue(&row.name) == issue
        });
        text += &part(title, &of.collect::<Vec<_>>());
    }
    let loads = rows
        .iter()
        .filter(|row| is_load(row) && row.value.is_some());
    text += &part("Loads of umcg-bench", &loads.collect::<Vec<_>>());
    text
}

fn is_load(row: &Record) -> bool {
    row.name.starts_with("load.")
}

/// How many hold, and how much of all claims that is.
fn summary(rows: &[Record]) -> String {
    let mut text = String::from(
        "| kernel | pass | miss their bar | not taken | of so many claims |\n|---|---|---|---|---|\n",
    );
    let mut kernels: Vec<&str> = rows.iter().map(|row| row.kernel.as_str()).collect();
    kernels.sort_unstable();
    kernels.dedup();
    for kernel in kernels {
        let claims: Vec<_> = rows::all()
            .filter(|it| it.bar.is_some() && it.is_on(kernel))
            .collect();
        let count = |standing| {
            let of = rows.iter().filter(|row| {
                let is_claim = claims.iter().any(|claim| claim.name == row.name);
                is_claim && row.kernel == kernel && row.standing() == standing
            });
            of.count()
        };
        let (passed, missed) = (count(Standing::Passed), count(Standing::Missed));
        let all = claims.len();
        let rest = all.saturating_sub(passed + missed);
        let _ = writeln!(text, "| {kernel} | {passed} | {missed} | {rest} | {all} |");
    }
    text
}

fn part(title: &str, rows: &[&Record]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n## {title}\n\n\
         | row | kernel | figure | beside | ratio | bar | spread | rounds | commit | date | command |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let figure = match &row.reason {
            Some(reason) => reason.replace('|', "\\|"),
            None => with_unit(row.value, &row.unit),
        };
        let ratio = row.ratio.map_or(String::new(), number);
        let spread = row.spread.map_or(String::new(), |(low, high)| {
            format!("{} .. {}", number(low), number(high))
        });
        let cells = [
            format!("`{}`", row.name),
            row.kernel.clone(),
            figure,
            beside(row),
            ratio,
            bar(row),
            spread,
            row.n.to_string(),
            row.commit.clone(),
            row.date.clone(),
            format!("`{}`", row.command),
        ];
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::record;

    #[test]
    fn text_has_what_misses_first_and_all_of_each_row() {
        let mut missed = record("clock.pipe", "7.3", "c1");
        (missed.ratio, missed.pass) = (Some(0.97), Some(false));
        let mut lost = record("clock.hackbench", "7.3", "c1");
        lost.lack("died | again");
        let mut load = record("load.eevdf.hog.futex@eevdf", "7.3", "c1");
        (load.bar, load.pass, load.bound) = (None, None, None);
        let rows = [record("clock.messaging", "7.3", "c1"), load, missed, lost];
        let text = text(&rows, false, true);
        let at = |what: &str| text.find(what).unwrap();
        assert!(
            at("`clock.pipe`") < at("`clock.hackbench`")
                && at("`clock.hackbench`") < at("`clock.messaging`"),
            "{text}"
        );
        assert!(
            at("`clock.messaging`") < at("`load.eevdf.hog.futex@eevdf`"),
            "{text}"
        );
        let want = "| `clock.messaging` | 7.3 | 40 us | eevdf 50 us | 0.800 | <= 0.850 | 0.750 .. 0.900 | 9 \
                    | c1 | 2026-11-30 | `cargo xtask bench --kernel 7.3 clock.messaging` |";
        assert!(text.contains(want), "{text}");
        assert!(
            text.contains("died \\| again") && text.contains("figures.svg"),
            "{text}"
        );
        let all = rows::all().filter(|it| it.bar.is_some()).count();
        let count = format!("| 7.3 | 1 | 1 | {} | {all} |", all - 2);
        assert!(text.contains(&count), "{text}");
        assert!(!text.contains("Partial"));
    }
}
