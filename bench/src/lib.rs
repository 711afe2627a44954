//! umcg-bench: loads that measure umcg's workers beside plain threads.
//!
//! It runs in whatever mode it finds, with the daemon or by futexes alone, and beside plain
//! threads under whatever scheduler the kernel has at that moment. `docs/bench.md` says how
//! to run it and what each row means.
//!
//! From the outside in:
//! - [`cli`]: flags, sentences, exit codes
//! - [`plan`]: a load's sides, taken in turn, round by round, and the rows that come of it
//! - `loads`: one file per load, over the public calls of `umcg`
//! - [`stats`]: medians and their intervals; [`hist`]: percentiles; [`arrivals`]: schedules
//! - [`guard`]: ceilings of hot paths, which a test of the scheduler's keeps
//! - [`row`]: what is written, and how it is read again; [`out`]: where to
//!
//! Unsafe code is in `sys` alone.

#![deny(unsafe_code)]

pub mod arrivals;
pub mod cli;
pub mod context;
pub mod guard;
pub mod hist;
mod loads;
pub mod out;
mod pace;
pub mod plan;
pub mod row;
pub mod stats;
mod sys;
mod work;

pub use loads::{LOADS, Load};
