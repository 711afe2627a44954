//! The table at the end of the gate.

use std::fmt::Write;

use crate::gate::{End, Outcome};

/// One line of it.
#[derive(Debug)]
pub struct Entry {
    /// Series.
    pub kernel: String,
    /// Name of the row.
    pub row: &'static str,
    /// What it came to.
    pub outcome: Outcome,
    /// Taken over from an earlier run.
    pub kept: bool,
}

/// Whether nothing speaks against a release.
pub fn passed(entries: &[Entry], allow_missing: bool) -> bool {
    entries.iter().all(|e| match e.outcome.end {
        End::Ok => true,
        End::Failed => false,
        End::Missing => allow_missing,
    })
}

/// The table, what went wrong below it, the total line last.
pub fn show(commit: &str, entries: &[Entry], allow_missing: bool) -> String {
    let mut text = format!(
        "\ngate of {commit}\n{:<7} {:<10} {:<8} {:>6} {:>7} {:>9} {:>7}\n",
        "kernel", "row", "result", "passed", "skipped", "ejections", "seconds"
    );
    for e in entries {
        let o = &e.outcome;
        let end = match o.end {
            End::Ok if e.kept => "ok, kept",
            End::Ok => "ok",
            End::Failed => "FAILED",
            End::Missing => "missing",
        };
        let _ = writeln!(
            text,
            "{:<7} {:<10} {end:<8} {:>6} {:>7} {:>9} {:>7}",
            e.kernel, e.row, o.passed, o.skipped, o.ejections, o.seconds
        );
    }
    let mut notes: Vec<String> = Vec::new();
    for e in entries {
        let note = match e.outcome.end {
            End::Ok => continue,
            End::Failed => format!("{} {}: {}", e.kernel, e.row, e.outcome.note),
            End::Missing => e.outcome.note.clone(),
        };
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    for note in notes {
        let _ = writeln!(text, "    {note}");
    }
    let count = |end| entries.iter().filter(|e| e.outcome.end == end).count();
    let word = match passed(entries, allow_missing) {
        true => "ok",
        false => "FAILED",
    };
    let ejections: u32 = entries.iter().map(|e| e.outcome.ejections).sum();
    let _ = writeln!(
        text,
        "\ngate result: {word}. {} rows passed; {} failed; {} missing; {ejections} ejections",
        count(End::Ok),
        count(End::Failed),
        count(End::Missing)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(row: &'static str, end: End, note: &str) -> Entry {
        Entry {
            kernel: "7.3".to_owned(),
            row,
            outcome: Outcome {
                end,
                passed: 1,
                skipped: 0,
                ejections: 0,
                seconds: 9,
                note: note.to_owned(),
            },
            kept: false,
        }
    }

    #[test]
    fn show_names_failures_and_ends_with_the_total() {
        let entries = [
            entry("a", End::Ok, ""),
            entry("b", End::Failed, "vm_x: why"),
        ];
        let text = show("c1", &entries, true);
        assert!(text.contains("7.3 b: vm_x: why"), "{text}");
        let want = "gate result: FAILED. 1 rows passed; 1 failed; 0 missing; 0 ejections";
        assert_eq!(text.lines().last(), Some(want));
    }

    #[test]
    fn passed_missing_kernel_fails_unless_allowed() {
        let entries = [
            entry("a", End::Missing, "kernel 7.2: gone"),
            entry("b", End::Missing, "kernel 7.2: gone"),
        ];
        assert!(!passed(&entries, false) && passed(&entries, true));
        let text = show("c1", &entries, false);
        assert_eq!(text.matches("kernel 7.2: gone").count(), 1);
        assert!(text.contains("gate result: FAILED"), "{text}");
    }
}
