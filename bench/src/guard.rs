//! What the hot paths may cost: a file of ceilings, and what was measured beside it.
//!
//! A ceiling is a ratio to the same boot's futex hand-off, by instructions, on one kernel. The file
//! has a line for each, with the day and the reason of the change that it is from.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};

/// So much above its ceiling a path has not got dearer, and so much below it not cheaper: boots of
/// one kernel differ by less.
pub const TOLERANCE: f64 = 0.03;
/// So much a measured path has to have moved for its line to be written anew.
const MOVED: f64 = 0.01;
const HEAD: &str = "path\tkernel\tratio\tdate\treason";

/// Paths and their ratios.
pub type Ratios = BTreeMap<String, f64>;

/// A line of the file.
#[derive(Clone, Debug, PartialEq)]
struct Ceiling {
    ratio: f64,
    date: String,
    reason: String,
}

/// The file: ceilings by kernel and path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ceilings(BTreeMap<(String, String), Ceiling>);

/// A path beside its ceiling.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its name.
    pub path: String,
    /// Its ceiling; none: it is new.
    pub ceiling: Option<f64>,
    /// What was measured; none: nothing was.
    pub ratio: Option<f64>,
}

/// What is to be said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Within the tolerance.
    Same,
    /// Below it: the ceiling could be lowered.
    Cheaper,
    /// Above it, or without a ceiling, or not measured: a failure.
    Wrong,
}

impl Found {
    /// By how much it is above its ceiling, as a part of that.
    pub fn by(&self) -> Option<f64> {
        Some(self.ratio? / self.ceiling? - 1.0)
    }

    /// What that means.
    pub fn change(&self) -> Change {
        match self.by() {
            Some(by) if by < -TOLERANCE => Change::Cheaper,
            Some(by) if by <= TOLERANCE => Change::Same,
            _ => Change::Wrong,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match (self.ratio, self.ceiling) {
            (Some(ratio), Some(ceiling)) => write!(
                f,
                "{path}: {ratio:.3} of a futex hand-off, ceiling {ceiling:.3}: {:+.1} %",
                100.0 * (ratio / ceiling - 1.0)
            ),
            (Some(ratio), None) => write!(f, "{path}: {ratio:.3} of a futex hand-off, no ceiling"),
            (None, _) => write!(f, "{path}: not measured, has a ceiling"),
        }
    }
}

impl Ceilings {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// The line that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (at, line) in (1..).zip(text.lines()) {
            if line == HEAD {
                continue;
            }
            let fields: Vec<_> = line.split('\t').collect();
            let bad = || format!("line {at}: {line:?}: not {HEAD:?}");
            let [path, kernel, ratio, date, reason] = fields[..] else {
                anyhow::bail!(bad());
            };
            let ratio: f64 = ratio.parse().with_context(bad)?;
            ensure!(ratio.is_finite() && ratio > 0.0, bad());
            let ceiling = Ceiling {
                ratio,
                date: date.to_owned(),
                reason: reason.to_owned(),
            };
            let twice = all.insert((kernel.to_owned(), path.to_owned()), ceiling);
            ensure!(
                twice.is_none(),
                "line {at}: {path} on {kernel}: given twice"
            );
        }
        Ok(Self(all))
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let lines = self.0.iter().map(|((kernel, path), it)| {
            let (ratio, date, reason) = (it.ratio, &it.date, &it.reason);
            format!("{path}\t{kernel}\t{ratio:.4}\t{date}\t{reason}\n")
        });
        format!("{HEAD}\n{}", lines.collect::<String>())
    }

    fn of(&self, kernel: &str) -> impl Iterator<Item = (&str, &Ceiling)> {
        let here = self.0.iter().filter(move |(key, _)| key.0 == kernel);
        here.map(|(key, it)| (key.1.as_str(), it))
    }

    /// Whether it has ceilings for this kernel.
    pub fn knows(&self, kernel: &str) -> bool {
        self.of(kernel).next().is_some()
    }

    /// What was measured on `kernel` beside its ceilings, by path: all of both.
    pub fn compare(&self, kernel: &str, measured: &Ratios) -> Vec<Found> {
        let found = |path: &str, ceiling, ratio| Found {
            path: path.to_owned(),
            ceiling,
            ratio,
        };
        let mut all = BTreeMap::new();
        for (path, it) in self.of(kernel) {
            let ratio = measured.get(path).copied();
            all.insert(path, found(path, Some(it.ratio), ratio));
        }
        for (path, &ratio) in measured {
            let new = || found(path, None, Some(ratio));
            all.entry(path.as_str()).or_insert_with(new);
        }
        all.into_values().collect()
    }

    /// Makes what was measured on `kernel` its ceilings. A line stays as it is while its path has
    /// not moved, so that its reason stays, too; paths that are gone lose theirs.
    ///
    /// # Errors
    ///
    /// A reason that is none, or no line of text.
    pub fn renew(
        &mut self,
        kernel: &str,
        measured: &Ratios,
        date: &str,
        reason: &str,
    ) -> Result<()> {
        let reason = checked_reason(reason)?;
        (self.0).retain(|(of, path), _| of != kernel || measured.contains_key(path));
        for (path, &ratio) in measured {
            let key = (kernel.to_owned(), path.clone());
            let old = self.0.get(&key);
            if old.is_some_and(|old| (ratio / old.ratio - 1.0).abs() <= MOVED) {
                continue;
            }
            let ceiling = Ceiling {
                ratio,
                date: date.to_owned(),
                reason: reason.to_owned(),
            };
            self.0.insert(key, ceiling);
        }
        Ok(())
    }
}

/// The reason, if it is one: it has to fit into a field of a line.
///
/// # Errors
///
/// It does not.
pub fn checked_reason(reason: &str) -> Result<&str> {
    let reason = reason.trim();
    ensure!(
        !reason.is_empty() && !reason.contains(char::is_control),
        "--reason {reason:?}: not a line of text that says why paths cost what they do now"
    );
    Ok(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "path\tkernel\tratio\tdate\treason\n\
        run\t6.18\t1.7000\t2026-11-01\tfirst\n\
        run\t7.3\t1.6000\t2026-11-01\tfirst\n\
        switch\t7.3\t0.8000\t2026-11-02\ta check more\n";

    fn file() -> Ceilings {
        Ceilings::parse(FILE).expect(FILE)
    }

    fn ratios(pairs: &[(&str, f64)]) -> Ratios {
        pairs
            .iter()
            .map(|&(path, it)| (path.to_owned(), it))
            .collect()
    }

    fn changes(by: f64) -> Vec<Change> {
        let measured = ratios(&[("run", 1.6 * by), ("switch", 0.8 * by)]);
        let found = file().compare("7.3", &measured);
        found.iter().map(Found::change).collect()
    }

    #[test]
    fn ceilings_written_are_those_read() {
        assert_eq!(file().text(), FILE);
        assert!(file().knows("6.18") && !file().knows("7.2"));
    }

    #[test]
    fn ceilings_bad_lines_are_named() {
        for (line, part) in [
            ("run\t7.3\t1.0\t2026-11-01", "line 1"),
            ("run\t7.3\tx\t2026-11-01\twhy", "\"run"),
            ("run\t7.3\t-1\t2026-11-01\twhy", "line 1"),
            (
                "run\t7.3\t1\td\tw\nrun\t7.3\t1\td\tw",
                "line 2: run on 7.3: given twice",
            ),
        ] {
            let told = format!("{:#}", Ceilings::parse(line).expect_err(line));
            assert!(told.contains(part), "{line:?}: {told}");
        }
    }

    #[test]
    fn compare_five_percent_up_is_wrong_and_three_are_not() {
        assert_eq!(changes(1.05), [Change::Wrong; 2]);
        assert_eq!(changes(1.029), [Change::Same; 2]);
        assert_eq!(changes(0.971), [Change::Same; 2]);
        assert_eq!(changes(0.95), [Change::Cheaper; 2]);
    }

    #[test]
    fn compare_one_dearer_path_is_told_alone() {
        let measured = ratios(&[("run", 1.6), ("switch", 0.84)]);
        let found = file().compare("7.3", &measured);
        let wrong = found.iter().filter(|it| it.change() == Change::Wrong);
        let told: Vec<_> = wrong.map(Found::to_string).collect();
        assert_eq!(
            told,
            ["switch: 0.840 of a futex hand-off, ceiling 0.800: +5.0 %"]
        );
    }

    #[test]
    fn compare_new_paths_and_those_not_measured_are_wrong() {
        let found = file().compare("6.18", &ratios(&[("kick", 2.0)]));
        let told: Vec<_> = found.iter().map(Found::to_string).collect();
        assert!(
            found.iter().all(|it| it.change() == Change::Wrong),
            "{told:?}"
        );
        assert_eq!(
            told,
            [
                "kick: 2.000 of a futex hand-off, no ceiling",
                "run: not measured, has a ceiling"
            ]
        );
    }

    #[test]
    fn renew_keeps_reasons_of_what_has_not_moved_and_other_kernels() {
        let mut file = file();
        let measured = ratios(&[("kick", 2.0), ("switch", 0.807)]);
        file.renew("7.3", &measured, "2026-12-01", "kicks, too")
            .expect("a reason");
        let want = "path\tkernel\tratio\tdate\treason\n\
            run\t6.18\t1.7000\t2026-11-01\tfirst\n\
            kick\t7.3\t2.0000\t2026-12-01\tkicks, too\n\
            switch\t7.3\t0.8000\t2026-11-02\ta check more\n";
        assert_eq!(file.text(), want);
        let measured = ratios(&[("kick", 2.0), ("switch", 0.82)]);
        file.renew("7.3", &measured, "2026-12-02", "dearer")
            .expect("a reason");
        assert!(
            file.text()
                .contains("switch\t7.3\t0.8200\t2026-12-02\tdearer\n")
        );
    }

    #[test]
    fn renew_without_a_reason_is_refused() {
        for reason in ["", "  ", "two\nlines", "a\ttab"] {
            let told = file().renew("7.3", &Ratios::new(), "2026-12-01", reason);
            assert!(told.is_err(), "{reason:?}");
        }
    }
}
