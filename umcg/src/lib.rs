//! umcg: an application schedules its own threads, on a stock kernel, unprivileged.
//!
//! A *server* thread runs one *worker* thread at a time. The worker gives its slot back
//! when it waits, yields, is forced off, or, in kernel mode, blocks in the kernel; then
//! the server continues at once and runs another one. `docs/library.md` is a tutorial.
//!
//! For applications:
//! - [`Group`], [`Server`], [`Worker`]: the calls; [`kick_self`] for signal handlers
//! - [`Event`], [`Reason`], [`Id`], [`Snapshot`]: what they tell
//! - [`Mode`], [`GroupConfig`]: how a group is served
//! - [`Error`], [`ErrorKind`]
//! - [`runtime`]: closures as workers, channels, locks, sleep
//! - [`clock`], [`timer`]: deadlines; timers that signal one thread
//! - [`policy`]: the policies and their trait
//!
//! # States
//!
//! - **RUNNING**: it runs; of a server's workers at most one.
//! - **RUNNABLE**: it wants to run and is on the list of a server.
//! - **IDLE**: it waits for a wake by its own wish. **BLOCKED**: it waits in the kernel.
//! - **NONE**: it is no member.
//!
//! Deadlines are absolute CLOCK_MONOTONIC ns, 0 = poll, [`FOREVER`] = none.
//!
//! # The shared records
//!
//! The same crate mirrors what BPF and user space share; `src/bpf/intf.h` is the
//! specification. The agent uses these:
//! - [`word`]: the state word of workers and servers, and its edges
//! - [`record`]: [`record::Worker`], [`record::Server`], [`Ring`], [`List`], [`Cpu`]
//! - [`list`]: workers that a server has to look at
//! - [`ring`]: the choices that a server staged
//! - [`claim`]: "this server runs that worker"
//! - [`sleep`]: how a server goes to sleep without losing a wake
//! - [`sync`]: the atomics: std's, or loom's under `--cfg loom`
//! - [`intf`]: what bindgen makes of `intf.h`
//!
//! Where a protocol has a kernel half ([`list`], [`ring`], [`claim`], [`sleep`]) a Rust
//! twin of that half stands beside the user half. The loom models and the stress tests
//! run the twins; only BPF calls the real ones in production.
//!
//! A C user finds each item by its C name, for example `umcg_worker`.
//!
//! Unsafe code is in few modules: system calls and the mapping (`futex::sys`,
//! `futex::book`, `kernel::sys`, `kernel`), the calling thread (`tls`), [`clock`] and [`timer`].

#![deny(unsafe_code)]

#[allow(
    missing_docs,
    missing_debug_implementations,
    non_camel_case_types,
    non_upper_case_globals,
    clippy::all,
    clippy::unwrap_used
)]
#[rustfmt::skip]
pub mod intf;

#[doc(hidden)]
pub mod ask;
#[doc(hidden)]
pub mod backend;
pub mod claim;
#[cfg(not(loom))]
pub mod clock;
pub mod error;
pub mod event;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod futex;
#[cfg(not(loom))]
pub mod group;
#[cfg(not(loom))]
pub(crate) mod home;
#[cfg(any(test, feature = "twins"))]
#[doc(hidden)]
pub mod idle;
#[cfg(not(loom))]
pub mod kernel;
#[cfg(not(loom))]
pub mod key;
pub mod list;
#[cfg(not(loom))]
pub mod member;
pub mod mode;
#[cfg(not(loom))]
pub mod queue;
pub mod record;
pub mod ring;
#[cfg(not(loom))]
pub mod runtime;
#[cfg(not(loom))]
pub mod section;
pub mod sleep;
pub mod sync;
#[cfg(not(loom))]
pub mod timer;
#[cfg(not(loom))]
pub(crate) mod tls;
pub mod word;

#[cfg(all(test, loom))]
#[allow(clippy::unwrap_used)]
mod models;
#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod stress;

pub use umcg_policy as policy;

pub use backend::Kind;
pub use claim::Claim;
#[cfg(not(loom))]
pub use clock::{FOREVER, after, now};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, Id, Member, Reason, Snapshot, Source, Woken};
#[cfg(not(loom))]
pub use group::{Group, kick_self};
pub use list::Pushed;
#[cfg(not(loom))]
pub use member::{Server, Worker};

#[cfg(not(loom))]
pub use key::{KEY_NONE, set_key};
pub use mode::{
    GroupConfig, Idle, MAX_MEMBERS, MAX_SERVERS, Mode, POLICY_BYTES, Preempt, QUANTUM_MAX,
    QUANTUM_MIN, Why,
};
#[cfg(not(loom))]
pub use queue::ReadyQueue;
pub use record::{Cpu, List, Ring};
pub use ring::Choice;
#[cfg(not(loom))]
pub use runtime::Runtime;
#[cfg(not(loom))]
pub use section::{NoPreempt, no_preempt};
#[cfg(not(loom))]
pub use timer::{ThreadTimer, TimerClock};
pub use word::{State, Word};

/// The tutorial's code is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct Tutorial;

/// And the guide's.
#[cfg(doctest)]
#[doc = include_str!("../../docs/write-a-policy.md")]
struct PolicyGuide;
