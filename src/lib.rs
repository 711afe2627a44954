//! scx_umcg: user-managed concurrency groups on stock Linux kernels.
//!
//! This library is the daemon without its `main`: loading and attaching the BPF
//! program, the server threads, statistics, and the commands that look at a
//! running instance. `docs/design.md` tells how it works.

pub mod agent;
pub mod bpf_skel;
pub mod cli;
pub mod counters;
pub mod doctor;
pub mod exit;
pub mod kernel;
pub mod runfile;
pub mod shared;
pub mod stats;
pub mod status;
