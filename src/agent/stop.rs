//! The wish to end, from SIGINT and SIGTERM to whoever waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use crossbeam::channel::{self, Receiver};

use super::caps;

/// Asked for once; stays so.
#[derive(Debug)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    rung: Receiver<()>,
}

impl Stop {
    /// One that SIGINT and SIGTERM ask for.
    pub fn at_signals() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let (ring, rung) = channel::bounded(1);
        let flag = asked.clone();
        // The thread that waits for signals inherits its rights from who starts it.
        let start = move || {
            caps::drop_all();
            ctrlc::set_handler(move || {
                flag.store(true, Ordering::Release);
                // Full: it was rung already.
                let _ = ring.try_send(());
            })
        };
        let started = std::thread::spawn(start).join();
        started
            .map_err(|_| anyhow!("the thread that starts the handler panicked"))?
            .context("cannot catch SIGINT and SIGTERM")?;
        Ok(Self { asked, rung })
    }

    /// Has it been asked for?
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Readable at least once after it was asked for: ends a wait, says nothing.
    pub fn rung(&self) -> &Receiver<()> {
        &self.rung
    }
}
