//! The loads. To add one, add its file and its line in [`LOADS`].

use anyhow::Result;

use crate::context::Context;
use crate::plan::Plan;

mod block;
mod hog;
mod member;
mod messaging;
mod over;
mod pair;
mod pool;
mod preempt;
mod request;
mod switch;
mod wake;

/// A load.
#[derive(Debug)]
pub struct Load {
    /// Its name.
    pub name: &'static str,
    /// What it measures.
    pub what: &'static str,
    plans: for<'a> fn(&'a Context) -> Result<Planned<'a>>,
}

/// What a load is to take.
#[derive(Debug)]
pub enum Planned<'a> {
    /// These, one after the other.
    Here(Vec<Plan<'a>>),
    /// Nothing, as it cannot be here: why.
    NotHere(&'static str),
}

impl Load {
    pub(crate) fn plans<'a>(&self, context: &'a Context) -> Result<Planned<'a>> {
        (self.plans)(context)
    }
}

/// All of them.
pub const LOADS: &[Load] = &[
    Load {
        name: "switch",
        what: "one hand-off from a thread to the next: futex, pipe, yield, worker, server",
        plans: switch::plans,
    },
    Load {
        name: "wake",
        what: "from a wake to the woken one running, on an idle machine",
        plans: wake::plans,
    },
    Load {
        name: "block",
        what: "from a worker's blocking call to its server running",
        plans: block::plans,
    },
    Load {
        name: "preempt",
        what: "from the kick of a computing worker to its server running",
        plans: preempt::plans,
    },
    Load {
        name: "messaging",
        what: "groups of senders and receivers over sockets and over pipes",
        plans: messaging::plans,
    },
    Load {
        name: "request",
        what: "latency of requests that arrive whether or not one is ready for them",
        plans: request::plans,
    },
    Load {
        name: "pool",
        what: "jobs that sleep or read files: a runtime with few servers, thread pools",
        plans: pool::plans,
    },
    Load {
        name: "hog",
        what: "a pair that hands off beside a hog on its only CPU",
        plans: hog::plans,
    },
    Load {
        name: "over",
        what: "more computing threads than CPUs: work done, and how evenly",
        plans: over::plans,
    },
];
