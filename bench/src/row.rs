//! Rows: what one measurement came to, one JSON object a line, and how they are read again.

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One figure, alone or beside a reference.
///
/// `docs/bench.md` explains each field for readers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Load, case, side and metric, and behind `@` what the side ran under.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// Of the program; with `+` its sources had changes beside it.
    pub commit: String,
    /// The median of the rounds.
    pub value: f64,
    /// Of `value` and `reference`.
    pub unit: String,
    /// What it stands beside, and what that ran under.
    pub ref_name: Option<String>,
    /// The reference's median.
    #[serde(rename = "ref")]
    pub reference: Option<f64>,
    /// The median of the rounds' own ratios, each of two neighbours in time.
    pub ratio: Option<f64>,
    /// The 95 % interval of `ratio`, of `value` if there is none.
    pub spread: (f64, f64),
    /// Rounds.
    pub n: usize,
    /// The most that `ratio` may be, `value` if there is none.
    pub bar: Option<f64>,
    /// Whether that holds.
    pub pass: Option<bool>,
}

impl Row {
    /// As a line of JSON, newline included: written in one go, so that a run which is cut off
    /// leaves whole lines, and at most one piece behind them.
    ///
    /// # Errors
    ///
    /// It cannot be put in JSON.
    pub fn to_line(&self) -> Result<String> {
        let mut line = serde_json::to_string(self).context("cannot write a row")?;
        line.push('\n');
        Ok(line)
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct RowSet<T = Row> {
    /// All whole ones, in the order in which they were written.
    pub rows: Vec<T>,
    /// The run was cut off while it wrote: its last line has no end.
    pub partial: bool,
}

impl<T> Default for RowSet<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            partial: false,
        }
    }
}

/// Reads lines of JSON. A last line that has no end is dropped, and the set is partial then.
///
/// # Errors
///
/// Any other line that is no row; the error has its number.
pub fn read(bytes: &[u8]) -> Result<RowSet> {
    read_as(bytes)
}

/// The same for rows that have more fields, or fewer.
///
/// # Errors
///
/// As [`read`].
pub fn read_as<T: DeserializeOwned>(bytes: &[u8]) -> Result<RowSet<T>> {
    let mut set = RowSet::default();
    for (at, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        set.partial = !line.ends_with(b"\n");
        match serde_json::from_slice(line) {
            Ok(row) => set.rows.push(row),
            Err(_) if set.partial => {}
            Err(error) => {
                return Err(error).with_context(|| format!("line {}: not a row", at + 1));
            }
        }
    }
    Ok(set)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn row(name: &str) -> Row {
        Row {
            name: name.into(),
            kernel: "7.3.0, \"quoted\"".into(),
            commit: "0123456789ab+".into(),
            value: 1234.5,
            unit: "ns".into(),
            ref_name: Some("futex@eevdf".into()),
            reference: Some(2469.0),
            ratio: Some(0.5),
            spread: (0.25, 0.75),
            n: 9,
            bar: None,
            pass: None,
        }
    }

    fn alone(name: &str) -> Row {
        Row {
            ref_name: None,
            reference: None,
            ratio: None,
            bar: Some(2000.0),
            pass: Some(true),
            ..row(name)
        }
    }

    fn lines(rows: &[Row]) -> String {
        rows.iter().map(|row| row.to_line().unwrap()).collect()
    }

    #[test]
    fn row_has_the_fields_that_its_readers_know() {
        let want = "{\"name\":\"a\",\"kernel\":\"7.3.0, \\\"quoted\\\"\",\"commit\":\"0123456789ab+\",\
                    \"value\":1234.5,\"unit\":\"ns\",\"ref_name\":\"futex@eevdf\",\"ref\":2469.0,\
                    \"ratio\":0.5,\"spread\":[0.25,0.75],\"n\":9,\"bar\":null,\"pass\":null}\n";
        assert_eq!(row("a").to_line().unwrap(), want);
    }

    #[test]
    fn rows_written_and_read_are_the_same() {
        let rows = vec![row("a"), alone("b"), row("c")];
        let set = read(lines(&rows).as_bytes()).unwrap();
        assert_eq!(
            set,
            RowSet {
                rows,
                partial: false
            }
        );
        assert_eq!(read(b"").unwrap(), RowSet::default());
        assert_eq!(read(b"\n\n").unwrap(), RowSet::default());
    }

    #[test]
    fn rows_cut_off_anywhere_are_partial_and_the_whole_ones_kept() {
        let rows = [row("a"), alone("b"), row("ü")];
        let whole = lines(&rows[..2]).len();
        let text = lines(&rows);
        for end in whole + 1..text.len() {
            let set = read(&text.as_bytes()[..end]).unwrap();
            assert!(set.partial, "{end}");
            // All of a row may be there but for the end of its line.
            let kept = if end == text.len() - 1 { 3 } else { 2 };
            assert_eq!(set.rows, rows[..kept], "{end}");
        }
        assert!(!read(&text.as_bytes()[..whole]).unwrap().partial);
    }

    #[test]
    fn rows_spoiled_elsewhere_are_an_error_with_the_line() {
        let good = lines(&[row("a")]);
        for bad in [
            format!("{good}{{\"name\":\n{good}"),
            format!("{good}{{\"name\":\"x\"}}\n"),
            format!("{good}nonsense\n"),
        ] {
            let text = format!("{:#}", read(bad.as_bytes()).unwrap_err());
            assert!(text.starts_with("line 2: not a row: "), "{text}");
        }
    }
}
