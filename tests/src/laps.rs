//! Costs of rounds that a single hiccup of the machine does not move.

use anyhow::{Result, ensure};
use umcg::kernel::sys::now_ns;

use crate::harness::median;

/// Times of rounds in stretches of [`Laps::ROUNDS`]: what else the machine did once (a reader of
/// statistics, a late page) does not move their median.
#[derive(Default)]
pub struct Laps {
    rounds: u64,
    began_ns: u64,
    each_ns: Vec<f64>,
}

impl Laps {
    const ROUNDS: u64 = 250;

    /// A round begins.
    pub fn count(&mut self) {
        if self.rounds.is_multiple_of(Self::ROUNDS) {
            let now_ns = now_ns();
            if self.rounds > 0 {
                let spent_ns = (now_ns - self.began_ns) as f64;
                self.each_ns.push(spent_ns / Self::ROUNDS as f64);
            }
            self.began_ns = now_ns;
        }
        self.rounds += 1;
    }

    /// ns of a round.
    pub fn each(mut self) -> Result<f64> {
        ensure!(self.each_ns.len() >= 3, "{} rounds alone", self.rounds);
        Ok(median(&mut self.each_ns))
    }
}
