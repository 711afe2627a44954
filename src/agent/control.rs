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
use crate::shared::Shared;
use crate::stats::{self, Metrics};

use super::live::Live;
use super::news::News;

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

    fn metrics(&self, live: &Live) -> Metrics {
        Metrics::read(&self.shared, self.ejections, live.groups())
    }

    /// Serves statistics and reloads until the end is asked for, or until `exited` says that
    /// BPF is gone.
    pub fn run(&self, live: &mut Live, news: &News, exited: impl Fn() -> bool) -> Result<()> {
        let server = match StatsServer::new(stats::server_data()).launch() {
            Ok(server) => Some(server),
            Err(err) => {
                warn!("no statistics for --monitor and scx's tools: {err:#}");
                None
            }
        };
        let mut last = (Instant::now(), self.metrics(live));
        let mut unseen = cgroup::Unseen::of(live.daemon());
        let (answers, mut asks) = match &server {
            Some(server) => {
                let (answers, asks) = server.channels();
                (Some(answers), asks)
            }
            None => (None, never()),
        };
        while !news.is_end_asked() && !exited() {
            if let Some(why) = news.take_reload() {
                live.reload(why);
            }
            let every = live.daemon().stats.map(Duration::from_secs_f64);
            if let Some(unseen) = &mut unseen {
                unseen.look()?;
            }
            let left = every.map_or(POLL, |every| every.saturating_sub(last.0.elapsed()));
            let ask = select! {
                recv(asks) -> ask => Some(ask.is_ok()),
                recv(news.rung()) -> _ => None,
                default(left.min(POLL)) => None,
            };
            match (ask, &answers) {
                (Some(true), Some(answers)) => answers
                    .send(self.metrics(live))
                    .context("the statistics thread ended")?,
                (Some(_), _) => asks = never(),
                (None, _) => {}
            }
            if every.is_some_and(|every| last.0.elapsed() >= every) {
                let now = self.metrics(live);
                // A closed terminal must not end the scheduler.
                let _ = now.delta(&last.1).format(&mut std::io::stdout());
                let _ = std::io::stdout().flush();
                last = (Instant::now(), now);
            }
        }
        Ok(())
    }
}
