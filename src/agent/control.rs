//! The control thread: statistics, and the end. It never stands between a
//! server and its work.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use log::warn;
use scx_stats::prelude::*;

use crate::cli::RunArgs;
use crate::shared::Shared;
use crate::stats::{self, Metrics};

const POLL: Duration = Duration::from_millis(250);

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

    /// Serves statistics until `shutdown`, or until `exited` says that BPF is gone.
    pub fn run(
        &self,
        args: &RunArgs,
        shutdown: &AtomicBool,
        exited: impl Fn() -> bool,
    ) -> Result<()> {
        let server = match StatsServer::new(stats::server_data()).launch() {
            Ok(server) => Some(server),
            Err(err) => {
                warn!("no statistics for --monitor and scx's tools: {err:#}");
                None
            }
        };
        let every = args.stats.map(Duration::from_secs_f64);
        let mut last = (Instant::now(), self.metrics());
        while !shutdown.load(Ordering::Relaxed) && !exited() {
            match &server {
                Some(server) => {
                    let (res, req) = server.channels();
                    if req.recv_timeout(POLL).is_ok() {
                        res.send(self.metrics())
                            .context("the statistics thread ended")?;
                    }
                }
                None => std::thread::sleep(POLL),
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
