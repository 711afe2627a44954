//! The one place that chooses between std's atomics and loom's.
//!
//! The records are made of these, so `--cfg loom` turns all protocols into models
//! at once. Full barriers are `fence(SeqCst)`, never SeqCst accesses: loom takes
//! those as acquire and release only.

#[cfg(loom)]
pub use loom::{
    hint,
    sync::atomic::{
        AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
        fence,
    },
};
#[cfg(not(loom))]
pub use std::{
    hint,
    sync::atomic::{
        AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
        fence,
    },
};
