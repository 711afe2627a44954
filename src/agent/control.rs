//! The control thread: statistics, and the end. It never stands between a
//! server and its work.

use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam::channel::{Sender, TrySendError, bounded, never, select};
use log::warn;
use scx_stats::prelude::*;

use crate::cgroup;
use crate::shared::Shared;
use crate::stats::{self, Metrics};

use super::caps;
use super::live::Live;
use super::news::News;

/// How soon an ejection is seen; an idle machine pays for each look.
const POLL: Duration = Duration::from_secs(1);
const STACK_BYTES: usize = 128 * 1024;

/// Writes to stdout by a thread of its own, since who reads there may stall for ever.
#[derive(Debug)]
struct Printer(Sender<String>);

impl Printer {
    fn start() -> Self {
        let (texts, to_print) = bounded::<String>(1);
        let print = move || {
            caps::drop_all();
            for text in to_print {
                let mut out = std::io::stdout().lock();
                // A closed terminal must not end the scheduler.
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            }
        };
        let thread = std::thread::Builder::new()
            .name("umcg-stats".to_owned())
            .stack_size(STACK_BYTES);
        if let Err(err) = thread.spawn(print) {
            warn!("--stats: cannot start the thread that prints: {err}");
        }
        Self(texts)
    }

    /// False: what was to be printed before is still unread.
    fn print(&self, text: String) -> bool {
        !matches!(self.0.try_send(text), Err(TrySendError::Full(_)))
    }
}

/// Reads the shared records and answers who asks.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    ejections: u64,
    printer: OnceLock<Printer>,
}

impl Control {
    /// A control for these records, after so many ejections.
    pub fn new(shared: Arc<Shared>, ejections: u64) -> Self {
        Self {
            shared,
            ejections,
            printer: OnceLock::new(),
        }
    }

    fn metrics(&self, live: &Live) -> Metrics {
        Metrics::read(&self.shared, self.ejections, live.groups())
    }

    /// What happened between the two; false if nobody reads it.
    fn print(&self, now: &Metrics, before: &Metrics) -> bool {
        let mut text = Vec::new();
        // A vector takes all.
        let _ = now.delta(before).format(&mut text);
        let printer = self.printer.get_or_init(Printer::start);
        printer.print(String::from_utf8_lossy(&text).into_owned())
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
                last.0 = Instant::now();
                // What could not be told is part of the next interval.
                if self.print(&now, &last.1) {
                    last.1 = now;
                }
            }
        }
        Ok(())
    }
}
