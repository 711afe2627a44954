//! Sides of a load, taken in turn round by round, and the rows that come of it.
//!
//! One discarded take of each side comes first. Then each round takes every side once, there
//! and back again, so that what drifts (a clock's speed, a neighbour's load) hits all of them
//! alike. A ratio is taken within a round, where both were closest in time.

use anyhow::{Context as _, Result, ensure};

use crate::context::{COMMIT, Context};
use crate::out::Sink;
use crate::pace::Budget;
use crate::row::Row;
use crate::stats;

/// What a side runs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// Plain threads: the kernel's scheduler.
    Threads,
    /// Members of a group: its mode.
    Group,
}

/// One figure that each take has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, empty if it is the only one.
    pub name: &'static str,
    /// Its unit, empty for a share.
    pub unit: &'static str,
}

impl Metric {
    /// A time.
    pub const fn ns(name: &'static str) -> Self {
        Self { name, unit: "ns" }
    }

    /// A share, 0 to 1.
    pub const fn share(name: &'static str) -> Self {
        Self { name, unit: "" }
    }
}

/// What a take comes to, in the order of the plan's metrics; `None`: it cannot tell.
pub type Figures = Vec<Option<f64>>;

type Take<'a> = Box<dyn FnMut(Budget) -> Result<Figures> + 'a>;

/// One way to do the same.
struct Side<'a> {
    name: &'static str,
    under: Under,
    take: Take<'a>,
}

/// A case of a load: some sides, beside each other.
pub struct Plan<'a> {
    name: String,
    metrics: &'static [Metric],
    sides: Vec<Side<'a>>,
    rows: Vec<(&'static str, Option<&'static str>)>,
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("name", &self.name)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl<'a> Plan<'a> {
    /// Without sides yet.
    pub fn new(name: impl Into<String>, metrics: &'static [Metric]) -> Self {
        Self {
            name: name.into(),
            metrics,
            sides: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// One more side, which `take` measures once.
    pub fn side(
        mut self,
        name: &'static str,
        under: Under,
        take: impl FnMut(Budget) -> Result<Figures> + 'a,
    ) -> Self {
        let take = Box::new(take);
        self.sides.push(Side { name, under, take });
        self
    }

    /// Rows of a side, alone.
    pub fn row(mut self, side: &'static str) -> Self {
        self.rows.push((side, None));
        self
    }

    /// Rows of a side beside another one.
    pub fn beside(mut self, side: &'static str, reference: &'static str) -> Self {
        self.rows.push((side, Some(reference)));
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes all rounds; its rows.
    ///
    /// # Errors
    ///
    /// A side fails; the error names it.
    pub fn run(mut self, context: &Context, sink: &Sink) -> Result<Vec<Row>> {
        let budget = context.budget();
        let (name, rounds) = (self.name.clone(), context.settings.rounds);
        let mut taken: Vec<Vec<Figures>> = vec![Vec::new(); self.sides.len()];
        for side in &mut self.sides {
            sink.progress(&format!("{name}: warm-up, {}", side.name));
            let figures = side.take(&name, budget)?;
            ensure!(
                figures.len() == self.metrics.len(),
                "{name}.{}: {} figures, {} metrics",
                side.name,
                figures.len(),
                self.metrics.len()
            );
        }
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..self.sides.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let side = &mut self.sides[at];
                let round = round + 1;
                sink.progress(&format!("{name}: round {round} of {rounds}, {}", side.name));
                taken[at].push(side.take(&name, budget)?);
            }
        }
        self.rows_of(&taken, context)
    }

    fn rows_of(&self, taken: &[Vec<Figures>], context: &Context) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for &(side, reference) in &self.rows {
            let side = self.find(side)?;
            let reference = reference.map(|name| self.find(name)).transpose()?;
            for (at, metric) in self.metrics.iter().enumerate() {
                let figures = |side: usize| -> Option<Vec<f64>> {
                    let all = taken[side].iter().map(|figures| figures[at]);
                    all.map(|figure| figure.filter(|it| it.is_finite()))
                        .collect()
                };
                let Some(values) = figures(side) else {
                    continue;
                };
                let beside = reference.and_then(|at| Some((at, figures(at)?)));
                rows.extend(self.row_of(side, metric, &values, beside, context));
            }
        }
        Ok(rows)
    }

    fn row_of(
        &self,
        side: usize,
        metric: &Metric,
        values: &[f64],
        beside: Option<(usize, Vec<f64>)>,
        context: &Context,
    ) -> Option<Row> {
        let side = &self.sides[side];
        let mut parts = vec![self.name.as_str(), side.name];
        parts.extend((!metric.name.is_empty()).then_some(metric.name));
        let references = beside.as_ref().map(|(_, values)| values.as_slice());
        // By nothing: there is no ratio then, the two values stand side by side.
        let ratios = references
            .filter(|values| values.iter().all(|&value| value != 0.0))
            .map(|references| -> Vec<f64> {
                let pairs = values.iter().zip(references);
                pairs.map(|(value, reference)| value / reference).collect()
            });
        Some(Row {
            name: format!("{}@{}", parts.join("."), context.under(side.under)),
            kernel: context.kernel.clone(),
            commit: COMMIT.into(),
            value: stats::median(values)?,
            unit: metric.unit.into(),
            ref_name: beside.as_ref().map(|(at, _)| {
                let side = &self.sides[*at];
                format!("{}@{}", side.name, context.under(side.under))
            }),
            reference: references.and_then(stats::median),
            ratio: ratios.as_deref().and_then(stats::median),
            spread: stats::interval(ratios.as_deref().unwrap_or(values))?,
            n: values.len(),
            bar: None,
            pass: None,
        })
    }

    fn find(&self, name: &str) -> Result<usize> {
        let at = self.sides.iter().position(|side| side.name == name);
        at.with_context(|| format!("{}: no side {name}", self.name))
    }
}

impl Side<'_> {
    fn take(&mut self, plan: &str, budget: Budget) -> Result<Figures> {
        (self.take)(budget).with_context(|| format!("{plan}.{}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::context::Settings;

    fn context(rounds: usize) -> Context {
        let settings = Settings {
            rounds,
            seconds: 0.001,
            futex_only: true,
        };
        Context {
            kernel: "k".into(),
            scheduler: "eevdf".into(),
            ..Context::find(settings).unwrap()
        }
    }

    const TWO: [Metric; 2] = [Metric::ns("a"), Metric::share("b")];

    #[test]
    fn plan_takes_sides_in_turn_and_drops_the_first() {
        let order = RefCell::new(String::new());
        let take = |name: char| {
            let order = &order;
            move |_: Budget| -> Result<Figures> {
                order.borrow_mut().push(name);
                Ok(vec![Some(1.0), None])
            }
        };
        let plan = Plan::new("p", &TWO)
            .side("x", Under::Threads, take('x'))
            .side("y", Under::Group, take('y'))
            .beside("y", "x");
        let sink = Sink::open(None, None).unwrap();
        let rows = plan.run(&context(3), &sink).unwrap();
        assert_eq!(order.into_inner(), "xyxyyxxy");
        // What a round could not tell is no row.
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].name.as_str(), rows[0].n), ("p.y.a@futex-only", 3));
    }

    #[test]
    fn plan_ratio_is_of_the_rounds_and_not_of_the_medians() {
        let side = |values: [f64; 4]| {
            let mut values = values.into_iter();
            move |_: Budget| -> Result<Figures> { Ok(vec![values.next()]) }
        };
        const ONE: [Metric; 1] = [Metric::ns("")];
        // The first ones are dropped.
        let plan = Plan::new("p", &ONE)
            .side("plain", Under::Threads, side([9.0, 10.0, 20.0, 40.0]))
            .side("worker", Under::Group, side([9.0, 5.0, 30.0, 20.0]))
            .row("plain")
            .beside("worker", "plain");
        let rows = plan
            .run(&context(3), &Sink::open(None, None).unwrap())
            .unwrap();
        let [plain, worker] = &rows[..] else {
            panic!("{rows:?}");
        };
        assert_eq!((plain.name.as_str(), plain.value), ("p.plain@eevdf", 20.0));
        assert_eq!((plain.ratio, plain.spread), (None, (10.0, 40.0)));
        assert_eq!((worker.value, worker.reference), (20.0, Some(20.0)));
        assert_eq!(worker.ref_name.as_deref(), Some("plain@eevdf"));
        assert_eq!((worker.ratio, worker.spread), (Some(0.5), (0.5, 1.5)));
        assert_eq!(worker.commit, COMMIT);
    }

    #[test]
    fn plan_beside_nothing_has_no_ratio() {
        let plan = Plan::new("p", &TWO[..1])
            .side("x", Under::Threads, |_| Ok(vec![Some(0.0)]))
            .side("y", Under::Group, |_| Ok(vec![Some(2.0)]))
            .beside("y", "x");
        let rows = plan
            .run(&context(2), &Sink::open(None, None).unwrap())
            .unwrap();
        assert_eq!((rows[0].ratio, rows[0].reference), (None, Some(0.0)));
        assert_eq!(rows[0].spread, (2.0, 2.0));
    }

    #[test]
    fn plan_side_that_fails_is_named() {
        let plan = Plan::new("p", &TWO)
            .side("x", Under::Threads, |_| Err(anyhow::anyhow!("why")))
            .row("x");
        let error = plan
            .run(&context(1), &Sink::open(None, None).unwrap())
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "p.x: why");
    }
}
