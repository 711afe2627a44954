//! Every claim that has a bar: which test takes it, which of its figures it is, and the bar.
//!
//! To add one, add a line to the file of its part. The bar is that of the test: where a guest
//! alone is late by so much, or has so little to give, that no scheduler could hold a fixed bar,
//! it takes what the same boot measured for it ([`Claim::or`], [`Claim::plus`]).

use anyhow::{Result, bail};
use umcg_bench::cli::nearest;

use crate::bench::record::Bound;

mod base;
mod library;
mod machine;
mod model;
mod policies;

/// A number of the metric lines of a test.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Name of the line, and what else has to be in it, as in `group_quantum us=500`.
    pub metric: &'static str,
    /// Whose value; of several with a `+` between them the sum.
    pub key: &'static str,
    /// By what it is multiplied.
    pub times: f64,
}

/// What the boot itself may do to a bar.
#[derive(Debug, Clone, Copy)]
pub enum Ease {
    /// Nothing.
    None,
    /// This takes its place if it is easier to hold,
    Or(Source),
    /// or this.
    OrValue(f64),
    /// This is added to it.
    Plus(Source),
}

/// One claim.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Its name.
    pub name: &'static str,
    /// The test of `umcg-vmtest` that takes it.
    pub test: &'static str,
    /// Its figure.
    pub value: Source,
    /// Of the figure, and of what it stands beside.
    pub unit: &'static str,
    /// What it stands beside: the bar is that of their ratio then.
    pub beside: Option<(&'static str, Source)>,
    /// Bar and what it says; none: the figure is only shown.
    pub bar: Option<(Bound, f64)>,
    /// What may ease the bar, in units of the figure.
    pub ease: Ease,
    /// The oldest kernel on which it is claimed, if not the oldest of all.
    pub since: Option<&'static str>,
}

/// What a row of one of the tables begins with.
const fn row(
    name: &'static str,
    test: &'static str,
    metric: &'static str,
    key: &'static str,
) -> Claim {
    Claim {
        name,
        test,
        value: source(metric, key),
        unit: "",
        beside: None,
        bar: None,
        ease: Ease::None,
        since: None,
    }
}

const fn source(metric: &'static str, key: &'static str) -> Source {
    Source {
        metric,
        key,
        times: 1.0,
    }
}

impl Claim {
    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn beside(mut self, name: &'static str, from: Source) -> Self {
        self.beside = Some((name, from));
        self
    }

    const fn at_most(mut self, bar: f64) -> Self {
        self.bar = Some((Bound::Most, bar));
        self
    }

    const fn at_least(mut self, bar: f64) -> Self {
        self.bar = Some((Bound::Least, bar));
        self
    }

    const fn near(mut self, right: f64, bar: f64) -> Self {
        self.bar = Some((Bound::Off(right), bar));
        self
    }

    const fn or(mut self, times: f64, from: Source) -> Self {
        self.ease = Ease::Or(Source { times, ..from });
        self
    }

    const fn or_value(mut self, value: f64) -> Self {
        self.ease = Ease::OrValue(value);
        self
    }

    const fn plus(mut self, from: Source) -> Self {
        self.ease = Ease::Plus(from);
        self
    }

    const fn since(mut self, kernel: &'static str) -> Self {
        self.since = Some(kernel);
        self
    }

    /// Whether its test is one of those that every run has.
    pub fn is_quick(&self) -> bool {
        !self.test.starts_with("vm_full_")
    }

    /// Whether it is claimed on this kernel, one of [`crate::kernels::KNOWN`].
    pub fn is_on(&self, kernel: &str) -> bool {
        let age = |series: &str| crate::kernels::KNOWN.iter().position(|it| *it == series);
        self.since.is_none_or(|since| age(kernel) >= age(since))
    }
}

/// The issues that ask for them, those first that others rest on.
const ISSUES: [(char, &[Claim]); 5] = [
    ('A', base::ROWS),
    ('B', machine::ROWS),
    ('C', library::ROWS),
    ('D', policies::ROWS),
    ('E', model::ROWS),
];

/// All claims, in that order.
pub fn all() -> impl Iterator<Item = &'static Claim> + Clone {
    ISSUES.into_iter().flat_map(|(_, rows)| rows)
}

/// The issue that asks for the claim of this name.
pub fn issue(name: &str) -> Option<char> {
    let found = ISSUES
        .iter()
        .find(|(_, rows)| rows.iter().any(|it| it.name == name));
    found.map(|(issue, _)| *issue)
}

/// Whether a row of this name was asked for; with no names all are.
pub fn is_asked(names: &[String], row: &str) -> bool {
    names.is_empty() || names.iter().any(|name| row.contains(name.as_str()))
}

/// Refuses a name that no row of `rows` contains.
pub fn check(names: &[String], rows: &[&str]) -> Result<()> {
    for name in names {
        if rows.iter().any(|row| row.contains(name.as_str())) {
            continue;
        }
        let hint = nearest(name, rows);
        let hint = hint.map_or(String::new(), |it| format!("did you mean {it}? "));
        bail!(
            "{name}: no row has that in its name; {hint}there are {}",
            rows.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
