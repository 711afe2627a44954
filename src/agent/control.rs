//! The control thread: statistics, and the end. It never stands between a
//! server and its work.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam::channel::{never, select};
use log::warn;
use scx_stats::prelude::*;

use crate::cgroup;
use crate::cli::RunArgs;
use crate::shared::Shared;
use crate::stats::{self, Metrics};

use super::stop::Stop;

/// How soon an ejection is seen; an idle machine pays for each look.
const POLL: Duration = Duration::from_secs(1);

/// Reads the shared records and answers who asks.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    ejections: u64,
}

impl Control {
    /// A control for these records, after so many ejections.
    pub fn new(shared: Arc<Shared>, ejections: u64) -> Self {
        Self { shared, ejections }
    }

    fn metrics(&self) -> Metrics {
        Metrics::read(&self.shared, self.ejections)
    }

    /// Serves statistics until `stop` is asked for, or until `exited` says that BPF is gone.
    pub fn run(&self, args: &RunArgs, stop: &Stop, exited: impl Fn() -> bool) -> Result<()> {
        let server = match StatsServer::new(stats::server_data()).launch() {
            Ok(server) => Some(server),
            Err(err) => {
                warn!("no statistics for --monitor and scx's tools: {err:#}");
                None
            }
        };
        let every = args.stats.map(Duration::from_secs_f64);
        let mut last = (Instant::now(), self.metrics());
        let mut unseen = cgroup::Unseen::of(args);
        let (answers, mut asks) = match &server {
            Some(server) => {
                let (answers, asks) = server.channels();
                (Some(answers), asks)
            }
            None => (None, never()),
        };
        while !stop.is_asked() && !exited() {
            if let Some(unseen) = &mut unseen {
                unseen.look()?;
            }
            let left = every.map_or(POLL, |every| every.saturating_sub(last.0.elapsed()));
            let ask = select! {
                recv(asks) -> ask => Some(ask.is_ok()),
                recv(stop.rung()) -> _ => None,
                default(left.min(POLL)) => None,
            };
            match (ask, &answers) {
                (Some(true), Some(answers)) => answers
                    .send(self.metrics())
                    .context("the statistics thread ended")?,
                (Some(_), _) => asks = never(),
                (None, _) => {}
            }
            if every.is_some_and(|every| last.0.elapsed() >= every) {
                let now = self.metrics();
                // A closed terminal must not end the scheduler.
                let _ = now.delta(&last.1).format(&mut std::io::stdout());
                let _ = std::io::stdout().flush();
                last = (Instant::now(), now);
            }
        }
        Ok(())
    }
}
