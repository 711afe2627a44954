//! The words, lists and records that scx_umcg's BPF side and user space share,
//! with the user-space half of every protocol on them.
//!
//! `src/bpf/intf.h` is the specification: it names the writers, the order and the
//! reason of each protocol. This crate mirrors it without `unsafe` and without a
//! dependency: a record is a struct of atomics laid out as C lays it out, and who
//! maps the BPF maps casts them to slices of records. Later it becomes the client
//! library as well.
//!
//! Where a protocol has a kernel half ([`list`], [`ring`], [`claim`], [`sleep`]) a
//! Rust twin of that half stands beside the user half. The loom models and the
//! stress tests run the twins; only BPF calls the real ones in production.
//!
//! - [`word`]: the state word of workers and servers, and its edges
//! - [`record`]: [`Worker`], [`Server`], [`Ring`], [`List`], [`Cpu`]
//! - [`list`]: workers that a server has to look at
//! - [`ring`]: the choices that a server staged
//! - [`claim`]: "this server runs that worker"
//! - [`sleep`]: how a server goes to sleep without losing a wake
//! - [`sync`]: the atomics: std's, or loom's under `--cfg loom`
//! - [`intf`]: what bindgen makes of `intf.h`
//!
//! A C user finds each item by its C name, for example `umcg_worker`.

#![deny(unsafe_code)]

#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    clippy::all,
    clippy::unwrap_used
)]
#[rustfmt::skip]
pub mod intf;

#[doc(hidden)]
pub mod backend;
pub mod claim;
pub mod error;
pub mod event;
#[cfg(not(loom))]
pub mod kernel;
pub mod list;
pub mod mode;
pub mod record;
pub mod ring;
pub mod sleep;
pub mod sync;
pub mod word;

#[cfg(all(test, loom))]
#[allow(clippy::unwrap_used)]
mod models;
#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod stress;

pub use backend::Kind;
pub use claim::Claim;
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, Id, Member, Reason, Snapshot, Woken};
pub use list::Pushed;
pub use mode::{GroupConfig, Idle, Mode, Preempt, Why};
pub use record::{Cpu, List, Ring, Server, Worker};
pub use ring::Choice;
pub use word::{State, Word};
