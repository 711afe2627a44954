//! The table at the end of a soak.

use std::fmt::Write;

use crate::soak::Counts;
use crate::soak::piece::{Done, End};

/// What one kernel came to.
#[derive(Debug, Default)]
pub struct Soaked {
    /// Series.
    pub kernel: String,
    /// That were asked for.
    pub minutes: u32,
    /// Each piece.
    pub pieces: Vec<Done>,
    /// Why it was not run at all.
    pub lacking: Option<String>,
}

impl Soaked {
    /// All of it was run, and nothing was violated.
    pub fn is_clean(&self) -> bool {
        let minutes: u32 = self.pieces.iter().map(|it| it.minutes).sum();
        minutes == self.minutes && self.pieces.iter().all(|it| it.end == End::Ok)
    }

    fn sum(&self, name: &str) -> u64 {
        let counts = self.pieces.iter().map(|it| it.counts.get(name));
        counts.flatten().sum()
    }

    fn faults(&self) -> Counts {
        let mut sums = Counts::new();
        for (name, count) in self.pieces.iter().flat_map(|it| &it.faults) {
            *sums.entry(name.clone()).or_default() += count;
        }
        sums
    }

    fn result(&self) -> &'static str {
        match self.is_clean() {
            _ if self.lacking.is_some() => "missing",
            true => "ok",
            false => "FAILED",
        }
    }
}

/// The table, faults by kind, each violation, the total line last.
pub fn show(commit: &str, seed: u64, all: &[Soaked]) -> String {
    let mut text = format!(
        "\nsoak of {commit}, seed {seed}\n{:<7} {:>7} {:<7} {:>7} {:>9} {:>10} {:>5} {:>10} {:>7} {:>6}\n",
        "kernel",
        "minutes",
        "result",
        "faults",
        "ejections",
        "lost wakes",
        "leaks",
        "violations",
        "excused",
        "deaths"
    );
    for it in all {
        let deaths: u32 = it.pieces.iter().map(|piece| piece.deaths).sum();
        let violations: usize = it.pieces.iter().map(|piece| piece.violations.len()).sum();
        let minutes: u32 = it.pieces.iter().map(|piece| piece.minutes).sum();
        let _ = writeln!(
            text,
            "{:<7} {minutes:>7} {:<7} {:>7} {:>9} {:>10} {:>5} {violations:>10} {:>7} {deaths:>6}",
            it.kernel,
            it.result(),
            it.sum("faults"),
            it.sum("ejections"),
            it.sum("lost_wakes"),
            it.sum("leaks"),
            it.sum("excused"),
        );
    }
    kinds(&mut text, all);
    for it in all {
        if let Some(why) = &it.lacking {
            let _ = writeln!(text, "    {}: {why}", it.kernel);
        }
        for violation in it.pieces.iter().flat_map(|piece| &piece.violations) {
            let _ = writeln!(text, "    {}: {violation}", it.kernel);
        }
    }
    let sum = |name| all.iter().map(|it| it.sum(name)).sum::<u64>();
    let word = match all.iter().all(Soaked::is_clean) {
        true => "ok",
        false => "FAILED",
    };
    let _ = writeln!(
        text,
        "\nsoak result: {word}. {} faults; {} ejections; {} lost wakes; {} leaks; {} violations in all",
        sum("faults"),
        sum("ejections"),
        sum("lost_wakes"),
        sum("leaks"),
        all.iter()
            .flat_map(|it| &it.pieces)
            .map(|piece| piece.violations.len())
            .sum::<usize>()
    );
    text
}

/// A line per kind, a column per kernel.
fn kinds(text: &mut String, all: &[Soaked]) {
    let columns: Vec<_> = all.iter().map(Soaked::faults).collect();
    let mut names: Vec<_> = columns.iter().flat_map(|it| it.keys()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return;
    }
    let _ = write!(text, "\n{:<14}", "fault");
    for it in all {
        let _ = write!(text, " {:>6}", it.kernel);
    }
    text.push('\n');
    for name in names {
        let _ = write!(text, "{name:<14}");
        for column in &columns {
            let _ = write!(text, " {:>6}", column.get(name).unwrap_or(&0));
        }
        text.push('\n');
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::piece::tests::done;

    fn soaked(minutes: u32, pieces: Vec<Done>) -> Soaked {
        Soaked {
            kernel: "7.3".to_owned(),
            minutes,
            pieces,
            lacking: None,
        }
    }

    #[test]
    fn show_adds_pieces_up_and_ends_with_the_total() {
        let clean = |seed| {
            let lines = [
                "metric soak faults=3 excused=1",
                "metric soak_faults kill=3",
            ];
            done(seed, &lines, 0)
        };
        let text = show("c1", 1, &[soaked(10, vec![clean(1), clean(2)])]);
        let want =
            "soak result: ok. 6 faults; 0 ejections; 0 lost wakes; 0 leaks; 0 violations in all";
        assert_eq!(text.lines().last(), Some(want));
        assert!(text.contains("\nkill                6\n"), "{text}");
    }

    #[test]
    fn show_names_each_violation_and_fails() {
        let lines = [
            "violation seed 1 at 3.0 s: thread 7 waits",
            "metric soak faults=3 lost_wakes=1",
        ];
        let text = show("c1", 1, &[soaked(5, vec![done(1, &lines, 1)])]);
        assert!(
            text.contains("7.3: seed 1 at 3.0 s: thread 7 waits"),
            "{text}"
        );
        assert!(text.contains("soak result: FAILED. 3 faults; 0 ejections; 1 lost wakes"));
    }

    #[test]
    fn is_clean_wants_all_minutes() {
        assert!(soaked(5, vec![done(1, &[], 0)]).is_clean());
        assert!(!soaked(10, vec![done(1, &[], 0)]).is_clean());
        let lacking = Soaked {
            lacking: Some("kernel 7.2: gone".to_owned()),
            ..soaked(5, Vec::new())
        };
        assert!(!lacking.is_clean());
        let text = show("c1", 1, &[lacking]);
        assert!(
            text.contains("missing") && text.contains("kernel 7.2: gone"),
            "{text}"
        );
    }
}
