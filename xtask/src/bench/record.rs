//! A row as it is stored: the fields of a row of `umcg-bench`, and what the bench knows besides.

use serde::{Deserialize, Serialize};

use crate::store::{Key, Stored};

/// What a figure may be, by its bar.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// At most the bar.
    Most,
    /// At least the bar.
    Least,
    /// As far from this as the bar, either way.
    Off(f64),
}

/// One row. A row of `umcg-bench` is read as one, too: it lacks the fields from `bound` on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Of a claim; or of a load: what it ran under, and the name of `umcg-bench`.
    pub name: String,
    /// Series.
    pub kernel: String,
    /// As [`crate::commit::current`] names it.
    pub commit: String,
    /// None: it was not taken.
    pub value: Option<f64>,
    /// Of `value` and `reference`.
    pub unit: String,
    /// What it stands beside.
    pub ref_name: Option<String>,
    /// The reference's value.
    #[serde(rename = "ref")]
    pub reference: Option<f64>,
    /// Value by reference.
    pub ratio: Option<f64>,
    /// Lowest and highest of the rounds, of `ratio` or else of `value`; of a load their interval.
    pub spread: Option<(f64, f64)>,
    /// Rounds.
    pub n: usize,
    /// Of `ratio`, of `value` if there is none. None: the row is a figure only.
    pub bar: Option<f64>,
    /// Whether it holds.
    pub pass: Option<bool>,
    /// What the bar says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// When it was taken, as 2026-11-30.
    #[serde(default)]
    pub date: String,
    /// What takes it again.
    #[serde(default)]
    pub command: String,
    /// Why it was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It cannot be taken here, and nothing is wrong: no fault of this run.
    #[serde(default)]
    pub excused: bool,
}

/// How a row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It misses its bar.
    Missed,
    /// It was not taken.
    NotTaken,
    /// It was not taken, as it cannot be here.
    NotHere,
    /// Its bar holds.
    Passed,
    /// It has no bar.
    Figure,
}

impl Record {
    /// What the bar is about.
    pub fn judged(&self) -> Option<f64> {
        self.ratio.or(self.value)
    }

    /// How it counts.
    pub fn standing(&self) -> Standing {
        match (self.value, self.pass) {
            (None, _) if self.excused => Standing::NotHere,
            (None, _) => Standing::NotTaken,
            (_, Some(false)) => Standing::Missed,
            (_, Some(true)) => Standing::Passed,
            (_, None) => Standing::Figure,
        }
    }

    /// Not taken, for this reason.
    pub fn lack(&mut self, reason: &str) {
        (self.value, self.reference, self.ratio) = (None, None, None);
        (self.spread, self.pass) = (None, None);
        self.reason = Some(reason.replace('\n', " "));
    }
}

impl Stored for Record {
    fn key(&self) -> Key<'_> {
        Key {
            commit: &self.commit,
            kernel: &self.kernel,
            row: &self.name,
        }
    }
}

impl Bound {
    /// Whether `figure` is within.
    pub fn holds(self, figure: f64, bar: f64) -> bool {
        match self {
            Self::Most => figure <= bar,
            Self::Least => figure >= bar,
            Self::Off(right) => (figure - right).abs() <= bar,
        }
    }

    /// As people write it.
    pub fn show(self, bar: f64) -> String {
        match self {
            Self::Most => format!("<= {}", number(bar)),
            Self::Least => format!(">= {}", number(bar)),
            Self::Off(right) => format!("{} +- {}", number(right), number(bar)),
        }
    }
}

/// With as many digits as mean something.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 || value == value.trunc() => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A row that was taken and passed.
    pub fn record(name: &str, kernel: &str, commit: &str) -> Record {
        Record {
            name: name.to_owned(),
            kernel: kernel.to_owned(),
            commit: commit.to_owned(),
            value: Some(40.0),
            unit: "us".to_owned(),
            ref_name: Some("eevdf".to_owned()),
            reference: Some(50.0),
            ratio: Some(0.8),
            spread: Some((0.75, 0.9)),
            n: 9,
            bar: Some(0.85),
            pass: Some(true),
            bound: Some(Bound::Most),
            date: "2026-11-30".to_owned(),
            command: format!("cargo xtask bench --kernel {kernel} {name}"),
            ..Record::default()
        }
    }

    #[test]
    fn record_has_the_fields_that_its_readers_know() {
        let line = serde_json::to_string(&record("a", "7.3", "c1")).unwrap();
        let want = "{\"name\":\"a\",\"kernel\":\"7.3\",\"commit\":\"c1\",\"value\":40.0,\
                    \"unit\":\"us\",\"ref_name\":\"eevdf\",\"ref\":50.0,\"ratio\":0.8,\
                    \"spread\":[0.75,0.9],\"n\":9,\"bar\":0.85,\"pass\":true,";
        assert!(line.starts_with(want), "{line}");
        assert_eq!(
            serde_json::from_str::<Record>(&line).unwrap(),
            record("a", "7.3", "c1")
        );
    }

    #[test]
    fn record_reads_a_row_of_umcg_bench() {
        let row = umcg_bench::row::Row {
            name: "switch.pinned.futex@eevdf".to_owned(),
            kernel: "7.3.0".to_owned(),
            commit: "c1".to_owned(),
            value: 1234.5,
            unit: "ns".to_owned(),
            ref_name: None,
            reference: None,
            ratio: None,
            spread: (1.0, 2.0),
            n: 9,
            bar: None,
            pass: None,
        };
        let read: Record = serde_json::from_str(&row.to_line().unwrap()).unwrap();
        assert_eq!((read.value, read.spread), (Some(1234.5), Some((1.0, 2.0))));
        assert_eq!((read.standing(), read.excused), (Standing::Figure, false));
    }

    #[test]
    fn standing_of_each_kind() {
        let mut it = record("a", "7.3", "c1");
        assert_eq!(it.standing(), Standing::Passed);
        it.pass = Some(false);
        assert_eq!(it.standing(), Standing::Missed);
        it.pass = None;
        assert_eq!(it.standing(), Standing::Figure);
        it.lack("why\nnot");
        assert_eq!(it.standing(), Standing::NotTaken);
        assert_eq!((it.judged(), it.reason.as_deref()), (None, Some("why not")));
        it.excused = true;
        assert_eq!(it.standing(), Standing::NotHere);
    }

    #[test]
    fn bound_holds_at_its_edge_and_not_for_no_number() {
        assert!(Bound::Most.holds(1.0, 1.0) && !Bound::Most.holds(1.1, 1.0));
        assert!(Bound::Least.holds(1.0, 1.0) && !Bound::Least.holds(0.9, 1.0));
        let off = Bound::Off(0.5);
        assert!(off.holds(0.45, 0.06) && !off.holds(0.57, 0.06) && !off.holds(0.43, 0.06));
        for bound in [Bound::Most, Bound::Least, off] {
            assert!(!bound.holds(f64::NAN, 1.0));
        }
        assert_eq!(off.show(0.05), "0.500 +- 0.0500");
    }

    #[test]
    fn number_has_digits_that_mean_something() {
        let all = [12345.6, 123.45, 1.2345, 0.01234, 0.0, -3.0].map(number);
        assert_eq!(all, ["12346", "123.5", "1.234", "0.0123", "0", "-3"]);
    }
}
