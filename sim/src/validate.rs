//! The model beside what was measured.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::costs::GivenCosts;
use crate::machine::{Machine, Settings};
use crate::stats::Report;

/// A measured row. Fields that are not named here are left alone.
#[derive(Clone, Debug, Deserialize)]
pub struct Measured {
    /// What it is called.
    pub name: Option<String>,
    /// The load, as `--load` takes it.
    pub load: String,
    /// CPUs.
    pub cpus: u32,
    /// Workers.
    pub workers: u32,
    /// Policy, if not that of the command line.
    pub policy: Option<String>,
    /// `key` or `staged`, likewise.
    pub decide: Option<String>,
    /// Choices per activation, likewise.
    pub stage: Option<u32>,
    /// Simulated time, likewise.
    pub seconds: Option<f64>,
    /// Simulated time before that, likewise.
    pub warm_up: Option<f64>,
    /// Of the random numbers, likewise: the machine may have served the very same requests.
    pub seed: Option<u64>,
    /// Costs that were measured with it; the others are those of the command line.
    #[serde(default)]
    pub costs: GivenCosts,
    /// Operations per second.
    pub throughput: Option<f64>,
    /// p99 of the time from asking for an operation to its end.
    pub p99_us: Option<f64>,
}

/// A row of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The row's name, or its load.
    pub name: String,
    /// CPUs.
    pub cpus: u32,
    /// Workers.
    pub workers: u32,
    /// The model's operations per second.
    pub throughput: f64,
    /// The measured ones.
    pub measured_throughput: Option<f64>,
    /// What the model is off by, in percent of what was measured.
    pub throughput_error_pct: Option<f64>,
    /// The model's p99 of responses.
    pub p99_us: f64,
    /// The measured one.
    pub measured_p99_us: Option<f64>,
    /// What the model is off by, in percent.
    pub p99_error_pct: Option<f64>,
}

/// Reads JSON lines; empty ones are skipped.
///
/// # Errors
///
/// The file cannot be read, or a line is no row.
pub fn read(path: &Path) -> Result<Vec<Measured>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| name.to_string())?;
    let mut rows = Vec::new();
    for (at, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let row: Measured = serde_json::from_str(line)
            .with_context(|| format!("{name}:{at}: not a measured row"))?;
        for (field, value) in [("throughput", row.throughput), ("p99_us", row.p99_us)] {
            ensure!(
                value.is_none_or(|it| it.is_finite() && it > 0.0),
                "{name}:{at}: {field} {:?}: not above 0",
                value.unwrap_or_default()
            );
        }
        ensure!(
            row.throughput.is_some() || row.p99_us.is_some(),
            "{name}:{at}: neither throughput nor p99_us; at least one of them"
        );
        rows.push(row);
    }
    ensure!(!rows.is_empty(), "{name}: no rows; at least one");
    Ok(rows)
}

impl Measured {
    /// `base` as this row has it.
    ///
    /// # Errors
    ///
    /// A load or a mode that means nothing.
    pub fn settings(&self, base: &Settings) -> Result<Settings> {
        let decide = match &self.decide {
            Some(text) => Some(text.parse().map_err(anyhow::Error::new)?),
            None => base.decide,
        };
        let mut costs = base.costs;
        costs.take(&self.costs)?;
        Ok(Settings {
            cpus: self.cpus,
            workers: self.workers,
            load: self.load.parse()?,
            policy: self.policy.clone().unwrap_or_else(|| base.policy.clone()),
            decide,
            stage: self.stage.unwrap_or(base.stage),
            seconds: self.seconds.unwrap_or(base.seconds),
            warm_up: self.warm_up.unwrap_or(base.warm_up),
            seed: self.seed.unwrap_or(base.seed),
            costs,
            ..base.clone()
        })
    }

    /// What the model says of it.
    ///
    /// # Errors
    ///
    /// The run cannot be made.
    pub fn compare(&self, base: &Settings) -> Result<Compared> {
        let report = Machine::new(self.settings(base)?)?.run()?;
        Ok(self.beside(&report))
    }

    fn beside(&self, report: &Report) -> Compared {
        let off = |model: f64, measured: Option<f64>| {
            measured.map(|measured| 100.0 * (model / measured - 1.0))
        };
        let p99_us = report.responses.p99_us;
        Compared {
            name: self.name.clone().unwrap_or_else(|| self.load.clone()),
            cpus: self.cpus,
            workers: self.workers,
            throughput: report.throughput,
            measured_throughput: self.throughput,
            throughput_error_pct: off(report.throughput, self.throughput),
            p99_us,
            measured_p99_us: self.p99_us,
            p99_error_pct: off(p99_us, self.p99_us),
        }
    }
}

impl Compared {
    /// Whether both errors are within these, in percent; what nobody measured, or asked for, is.
    pub fn within(&self, throughput: Option<f64>, p99: Option<f64>) -> bool {
        let fits = |error: Option<f64>, most: Option<f64>| match (error, most) {
            (Some(error), Some(most)) => error.abs() <= most,
            _ => true,
        };
        fits(self.throughput_error_pct, throughput) && fits(self.p99_error_pct, p99)
    }
}

/// Rows as a table.
pub fn table(rows: &[Compared]) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "{:>5} {:>8} {:>14} {:>14} {:>8} {:>12} {:>12} {:>8}  {}\n",
        "cpus",
        "workers",
        "model ops/s",
        "measured",
        "off %",
        "model p99 us",
        "measured",
        "off %",
        "row"
    );
    let number = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.1}"));
    for row in rows {
        let _ = writeln!(
            text,
            "{:>5} {:>8} {:>14.1} {:>14} {:>8} {:>12.1} {:>12} {:>8}  {}",
            row.cpus,
            row.workers,
            row.throughput,
            number(row.measured_throughput),
            number(row.throughput_error_pct),
            row.p99_us,
            number(row.measured_p99_us),
            number(row.p99_error_pct),
            row.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Compared {
        Compared {
            name: "x".to_owned(),
            cpus: 1,
            workers: 2,
            throughput: 110.0,
            measured_throughput: Some(100.0),
            throughput_error_pct: Some(10.0),
            p99_us: 5.0,
            measured_p99_us: None,
            p99_error_pct: None,
        }
    }

    #[test]
    fn validate_bounds_are_in_percent_of_what_was_measured() {
        assert!(row().within(Some(10.0), Some(1.0)));
        assert!(!row().within(Some(9.9), None));
        assert!(row().within(None, None));
    }

    #[test]
    fn validate_row_has_costs_of_its_own() {
        let row = |costs: &str| -> Measured {
            let text = format!(
                "{{\"load\": \"cpu\", \"cpus\": 2, \"workers\": 3, \"seed\": 9, \"costs\": {costs}}}"
            );
            serde_json::from_str(&text).expect(&text)
        };
        let base = Settings::new(1, 1, "cpu".parse().expect("a load"));
        let settings = row("{\"switch\": 77.5}").settings(&base).expect("a row");
        assert_eq!((settings.costs.switch, settings.seed), (77.5, 9));
        assert_eq!(settings.costs.wake, base.costs.wake);
        assert!(row("{\"wake\": -1}").settings(&base).is_err());
        assert!(serde_json::from_str::<GivenCosts>("{\"swich\": 1}").is_err());
    }

    #[test]
    fn validate_table_has_a_line_per_row() {
        let table = table(&[row(), row()]);
        assert_eq!(table.lines().count(), 3);
        assert!(table.contains("110.0"));
    }
}
