//! The table at the end of a run: what misses its bar first, then what was not taken.

use std::fmt::Write;

use crate::bench::record::{Record, Standing, number};

const PARTS: [(Standing, &str); 5] = [
    (Standing::Missed, "miss their bar"),
    (Standing::NotTaken, "not taken"),
    (Standing::NotHere, "cannot be taken here"),
    (Standing::Passed, "pass"),
    (Standing::Figure, "figures without a bar"),
];

/// Whether no bar was missed and nothing that could be taken is missing.
pub fn passed(rows: &[Record]) -> bool {
    let bad = [Standing::Missed, Standing::NotTaken];
    !rows.iter().any(|row| bad.contains(&row.standing()))
}

/// The table, the total line last. `partial`: the store had lost a row.
pub fn show(commit: &str, partial: bool, rows: &[Record]) -> String {
    let mut text = format!("\nbench of {commit}");
    if partial {
        text += "; partial: a row of an earlier run was cut off as it was written";
    }
    text.push('\n');
    let mut counts = Vec::new();
    for (standing, title) in PARTS {
        let of: Vec<_> = rows.iter().filter(|it| it.standing() == standing).collect();
        counts.push(format!("{} {title}", of.len()));
        if of.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}: {}", of.len());
        for row in of {
            let _ = writeln!(text, "    {}", line(row).trim_end());
        }
    }
    let word = if passed(rows) { "ok" } else { "FAILED" };
    let _ = writeln!(text, "\nbench result: {word}. {}", counts.join("; "));
    text
}

fn line(row: &Record) -> String {
    let (kernel, name) = (&row.kernel, &row.name);
    match &row.reason {
        Some(reason) => format!("{kernel:<5} {name:<28} {reason}"),
        None => format!(
            "{kernel:<5} {name:<28} {:<22} {:<26} {:<9} {}",
            with_unit(row.value, &row.unit),
            beside(row),
            row.ratio
                .map_or(String::new(), |it| format!("{}x", number(it))),
            bar(row)
        ),
    }
}

/// A figure with its unit.
pub fn with_unit(value: Option<f64>, unit: &str) -> String {
    let Some(value) = value else {
        return String::new();
    };
    format!("{} {unit}", number(value)).trim_end().to_owned()
}

/// What it stands beside, by name.
pub fn beside(row: &Record) -> String {
    let name = row.ref_name.as_deref().unwrap_or_default();
    format!("{name} {}", with_unit(row.reference, &row.unit))
        .trim()
        .to_owned()
}

/// What the bar says.
pub fn bar(row: &Record) -> String {
    let bar = row.bound.zip(row.bar);
    bar.map_or(String::new(), |(bound, bar)| bound.show(bar))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::record;

    #[test]
    fn show_what_misses_first_and_the_total_last() {
        let mut missed = record("b.missed", "6.18", "c1");
        (missed.ratio, missed.pass) = (Some(0.9), Some(false));
        let mut lost = record("c.lost", "7.3", "c1");
        lost.lack("the guest died");
        let rows = [record("a.good", "7.3", "c1"), missed, lost];
        let text = show("c1", false, &rows);
        let at = |what: &str| text.find(what).unwrap();
        assert!(
            at("b.missed") < at("c.lost") && at("c.lost") < at("a.good"),
            "{text}"
        );
        assert!(
            text.contains("0.900x") && text.contains("<= 0.850"),
            "{text}"
        );
        assert!(
            text.contains("c.lost                       the guest died"),
            "{text}"
        );
        let want = "bench result: FAILED. 1 miss their bar; 1 not taken; 0 cannot be taken here; \
                    1 pass; 0 figures without a bar";
        assert_eq!(text.lines().last(), Some(want));
        assert!(!text.contains("partial") && show("c1", true, &rows).contains("partial"));
    }

    #[test]
    fn passed_takes_what_is_excused() {
        let mut row = record("a", "7.3", "c1");
        assert!(passed(std::slice::from_ref(&row)));
        row.lack("no network");
        assert!(!passed(std::slice::from_ref(&row)));
        row.excused = true;
        assert!(passed(std::slice::from_ref(&row)));
        assert!(show("c1", false, &[row]).contains("bench result: ok."));
    }
}
