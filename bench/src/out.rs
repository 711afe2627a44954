//! Where rows go: a table for people, lines of JSON, CSV. Each row is written when it is there.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::row::Row;

/// All that rows are written to.
pub struct Sink {
    json: Option<Box<dyn Write>>,
    csv: Option<csv::Writer<Box<dyn Write>>>,
    /// The table's.
    people: Box<dyn Write>,
    progress: bool,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("json", &self.json.is_some())
            .field("csv", &self.csv.is_some())
            .finish_non_exhaustive()
    }
}

/// A row of the CSV: one value a field.
#[derive(Serialize)]
struct Flat<'a> {
    name: &'a str,
    kernel: &'a str,
    commit: &'a str,
    value: f64,
    unit: &'a str,
    ref_name: Option<&'a str>,
    #[serde(rename = "ref")]
    reference: Option<f64>,
    ratio: Option<f64>,
    spread_low: f64,
    spread_high: f64,
    n: usize,
    bar: Option<f64>,
    pass: Option<bool>,
}

impl Sink {
    /// Rows go to these files, `-` being stdout, and to a table on stdout, or on stderr when
    /// stdout is taken.
    ///
    /// # Errors
    ///
    /// A file cannot be made; the error names the flag and the file. Both are stdout.
    pub fn open(json: Option<&Path>, csv: Option<&Path>) -> Result<Self> {
        let stdout = Some(Path::new("-"));
        if json == stdout && csv == stdout {
            bail!("--csv -: stdout has the lines of JSON; name a file for one of them");
        }
        let taken = [json, csv].contains(&stdout);
        let people: Box<dyn Write> = match taken {
            true => Box::new(io::stderr()),
            false => Box::new(io::stdout()),
        };
        Ok(Self {
            json: json.map(|path| create("--json", path)).transpose()?,
            csv: csv
                .map(|path| create("--csv", path))
                .transpose()?
                .map(csv::Writer::from_writer),
            people,
            progress: io::stderr().is_terminal(),
        })
    }

    /// A sentence for people.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.clear();
        writeln!(self.people, "{text}").context("cannot write the table")
    }

    /// What goes on at the moment; on a terminal only, in one line that the next one takes.
    pub fn progress(&self, text: &str) {
        if self.progress {
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[2K{text}");
        }
    }

    fn clear(&self) {
        self.progress("");
    }

    /// Writes a row to all of them.
    ///
    /// # Errors
    ///
    /// One of them takes no more.
    pub fn row(&mut self, row: &Row) -> Result<()> {
        if let Some(json) = &mut self.json {
            let line = row.to_line()?;
            let done = json.write_all(line.as_bytes()).and_then(|()| json.flush());
            done.context("cannot write JSON")?;
        }
        if let Some(csv) = &mut self.csv {
            csv.serialize(flat(row)).context("cannot write CSV")?;
            csv.flush().context("cannot write CSV")?;
        }
        self.say(&line(row))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.clear();
    }
}

fn create(flag: &str, path: &Path) -> Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::create(path);
    let file = file.with_context(|| format!("{flag} {}: cannot write it", path.display()))?;
    Ok(Box::new(file))
}

fn flat(row: &Row) -> Flat<'_> {
    Flat {
        name: &row.name,
        kernel: &row.kernel,
        commit: &row.commit,
        value: row.value,
        unit: &row.unit,
        ref_name: row.ref_name.as_deref(),
        reference: row.reference,
        ratio: row.ratio,
        spread_low: row.spread.0,
        spread_high: row.spread.1,
        n: row.n,
        bar: row.bar,
        pass: row.pass,
    }
}

/// A row of the table.
fn line(row: &Row) -> String {
    let (low, high) = row.spread;
    let amount = |value| number(value, &row.unit);
    let beside = match (&row.ref_name, row.reference, row.ratio) {
        (Some(name), Some(reference), Some(ratio)) => {
            let of = format!("{} {name}", amount(reference));
            format!("{of:<36} {ratio:>6.2}x ({low:.2}..{high:.2})")
        }
        _ => format!("({}..{})", amount(low), amount(high)),
    };
    format!(
        "{:<40} {:>11}  {beside}  n={}",
        row.name,
        amount(row.value),
        row.n
    )
}

/// A value with its unit, of nanoseconds the one that fits.
fn number(value: f64, unit: &str) -> String {
    match unit {
        "ns" if value < 10e3 => format!("{value:.0} ns"),
        "ns" if value < 10e6 => format!("{:.1} us", value / 1e3),
        "ns" if value < 10e9 => format!("{:.1} ms", value / 1e6),
        "ns" => format!("{:.1} s", value / 1e9),
        "" => format!("{value:.3}"),
        _ => format!("{value:.3} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{self, tests::row};

    fn file(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("umcg-bench-{}-{name}", std::process::id()))
    }

    #[test]
    fn sink_writes_each_row_at_once_to_both() {
        let (json, csv) = (file("a.json"), file("a.csv"));
        let mut sink = Sink::open(Some(&json), Some(&csv)).unwrap();
        sink.row(&row("a,b")).unwrap();
        let set = row::read(&std::fs::read(&json).unwrap()).unwrap();
        let text = std::fs::read_to_string(&csv).unwrap();
        sink.row(&row("c")).unwrap();
        let both = row::read(&std::fs::read(&json).unwrap()).unwrap();
        for path in [json, csv] {
            std::fs::remove_file(path).unwrap();
        }
        assert_eq!((set.rows, set.partial), (vec![row("a,b")], false));
        assert_eq!(both.rows.len(), 2);
        let want = "name,kernel,commit,value,unit,ref_name,ref,ratio,spread_low,spread_high,n,bar,pass\n\
                    \"a,b\",\"7.3.0, \"\"quoted\"\"\",0123456789ab+,1234.5,ns,futex@eevdf,2469.0,0.5,\
                    0.25,0.75,9,,\n";
        assert_eq!(text, want);
    }

    #[test]
    fn sink_file_that_cannot_be_is_named() {
        let error = Sink::open(Some(Path::new("/nowhere/a.json")), None).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.starts_with("--json /nowhere/a.json: cannot write it: No such file"),
            "{text}"
        );
    }

    #[test]
    fn line_shows_the_unit_that_fits() {
        for (value, unit, want) in [
            (999.4, "ns", "999 ns"),
            (45_678.0, "ns", "45.7 us"),
            (12_345_678.0, "ns", "12.3 ms"),
            (12.3e9, "ns", "12.3 s"),
            (0.5, "", "0.500"),
            (3.0, "jobs", "3.000 jobs"),
        ] {
            assert_eq!(number(value, unit), want);
        }
        let text = line(&row("switch.pinned.worker"));
        assert!(
            text.contains("1234 ns") && text.contains("2469 ns futex@eevdf"),
            "{text}"
        );
        assert!(
            text.contains("0.50x (0.25..0.75)") && text.ends_with("n=9"),
            "{text}"
        );
    }
}
