//! What one hand-off costs, by each way that there is, on one CPU and free.

use anyhow::Result;

use super::Planned;
use super::pair::{self, By};
use crate::context::Context;
use crate::plan::{Metric, Plan};

const METRICS: [Metric; 1] = [Metric::ns("")];
const ALL: [By; 5] = [By::Futex, By::Pipe, By::Yield, By::Switch, By::Run];

pub fn plans(context: &Context) -> Result<Planned<'_>> {
    let plan = |place: crate::pace::Place| {
        let mut plan = Plan::new(format!("switch.{}", place.name()), &METRICS);
        for by in ALL {
            plan = plan.side(by.name(), by.under(), move |budget| {
                let (ns, _) = pair::measure(context, by, place, budget, None)?;
                Ok(vec![Some(ns)])
            });
            plan = match by {
                By::Futex => plan.row(by.name()),
                _ => plan.beside(by.name(), By::Futex.name()),
            };
        }
        plan
    };
    Ok(Planned::Here(context.places().map(plan).into()))
}
