//! How long one measurement goes on, and where its threads run.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};

use crate::sys;

/// How long one side of one round takes.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Measured.
    pub ns: u64,
    /// Before that, and not counted: threads come to their places, caches get warm.
    pub warm_ns: u64,
}

impl Budget {
    /// `ns` of measuring, and a fifth of it before.
    pub const fn of(ns: u64) -> Self {
        Self {
            ns,
            warm_ns: ns / 5,
        }
    }
}

/// Where threads may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever the process may.
    Any,
    /// On this CPU alone.
    Cpu(usize),
}

impl Place {
    /// Its name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "free",
            Self::Cpu(_) => "pinned",
        }
    }

    /// Holds for the calling thread from here on.
    pub fn take(self) -> Result<()> {
        match self {
            Self::Any => Ok(()),
            Self::Cpu(cpu) => sys::pin(cpu).with_context(|| format!("cannot pin to CPU {cpu}")),
        }
    }
}

/// Counts what a loop does until its time is over, warm-up left out.
///
/// The clock is read every so many steps that it is far below what they cost, and often enough
/// for the end to be in time.
#[derive(Debug)]
pub struct Pace<'a> {
    budget: Budget,
    /// Something that grows beside it.
    watched: Option<&'a AtomicU64>,
    started: u64,
    /// Time and what was watched when the warm-up was over.
    began: Option<(u64, u64)>,
    ended: (u64, u64),
    last_look: u64,
    steps: u64,
    until_look: u64,
    stride: u64,
}

/// Looks at the clock are to be so far apart.
const LOOKS_APART_NS: std::ops::Range<u64> = 50_000..500_000;
const LONGEST_STRIDE: u64 = 1024;

impl<'a> Pace<'a> {
    /// Begins now.
    pub fn start(budget: Budget, watched: Option<&'a AtomicU64>) -> Self {
        Self::start_at(budget, watched, umcg::now())
    }

    fn start_at(budget: Budget, watched: Option<&'a AtomicU64>, now: u64) -> Self {
        Self {
            budget,
            watched,
            started: now,
            began: None,
            ended: (now, 0),
            last_look: now,
            steps: 0,
            until_look: 1,
            stride: 1,
        }
    }

    /// Once per step: whether there is time for another one.
    pub fn goes_on(&mut self) -> bool {
        self.goes_on_by(umcg::now)
    }

    fn goes_on_by(&mut self, clock: impl FnOnce() -> u64) -> bool {
        self.until_look -= 1;
        if self.until_look > 0 {
            return true;
        }
        let now = clock();
        let apart = now - self.last_look;
        if apart < LOOKS_APART_NS.start {
            self.stride = (2 * self.stride).min(LONGEST_STRIDE);
        } else if apart > LOOKS_APART_NS.end {
            self.stride = (self.stride / 2).max(1);
        }
        let done = self.look(now);
        self.last_look = now;
        self.until_look = self.stride;
        // All steps up to the next look are counted, or none of them.
        if !done && self.began.is_some() {
            self.steps += self.stride;
        }
        !done
    }

    fn look(&mut self, now: u64) -> bool {
        let watched = self.watched.map_or(0, |value| value.load(Relaxed));
        let Some((began, _)) = self.began else {
            if now - self.started >= self.budget.warm_ns {
                self.began = Some((now, watched));
            }
            return false;
        };
        self.ended = (now, watched);
        now - began >= self.budget.ns
    }

    /// What a step took.
    pub fn ns_per_step(&self) -> Result<f64> {
        let (began, _) = self.began.context("it ended before its warm-up did")?;
        anyhow::ensure!(self.steps > 0, "not one step in its time");
        Ok((self.ended.0 - began) as f64 / self.steps as f64)
    }

    /// How much what was watched grew, per nanosecond.
    pub fn growth(&self) -> Option<f64> {
        let (began, before) = self.began?;
        let (ended, after) = self.ended;
        (ended > began).then(|| (after - before) as f64 / (ended - began) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a known length by a clock of its own, the first ones slow.
    #[test]
    fn pace_counts_steps_and_leaves_the_warm_up_out() {
        const STEP_NS: u64 = 20_000;
        let budget = Budget {
            ns: 10_000_000,
            warm_ns: 5_000_000,
        };
        let watched = AtomicU64::new(0);
        let mut now = 0;
        let mut pace = Pace::start_at(budget, Some(&watched), now);
        let mut steps = 0u64;
        while pace.goes_on_by(|| now) {
            steps += 1;
            now += if now < budget.warm_ns {
                10 * STEP_NS
            } else {
                STEP_NS
            };
            watched.fetch_add(STEP_NS / 2, Relaxed);
        }
        assert_eq!(pace.ns_per_step().unwrap(), STEP_NS as f64);
        assert!(pace.steps < steps, "{} of {steps}", pace.steps);
        assert_eq!(pace.growth(), Some(0.5));
        // The last look may be late by what lies between two of them.
        let taken = pace.steps * STEP_NS;
        assert!((budget.ns..budget.ns + LOOKS_APART_NS.end).contains(&taken));
    }

    #[test]
    fn pace_that_had_no_time_is_an_error() {
        let mut pace = Pace::start(Budget::of(1_000_000_000), None);
        assert!(pace.goes_on());
        assert!(pace.ns_per_step().is_err());
        assert_eq!(pace.growth(), None);
    }
}
