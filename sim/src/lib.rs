//! A discrete-event model of what scx_umcg costs and how far it scales.
//!
//! It runs the very code of the policies (`umcg-policy`), of lists, rings and idle structures
//! (`umcg`) over a machine of 1 to 256 CPUs with caches and nodes and up to a million workers; what
//! BPF does is modelled path by path, and each operation costs what a table says. `docs/scale.md`
//! tells what is modelled, what is not, and what comes out.
//!
//! - [`machine`]: CPUs, time, the loop; its paths in [`wake`] and [`dispatch`]
//! - [`agent`]: servers and their turns; [`order`]: the order that BPF keeps
//! - [`load`], [`dist`], [`app`]: what workers do
//! - [`costs`], [`topology`]: what it costs, how far it is
//! - [`stats`]: what a run tells; [`sweep`], [`validate`], [`figures`]: of many runs
//! - [`cli`], [`command`], [`show`], [`plot`], [`chart`], [`curve`]: `umcg-bench simulate`
//! - [`event`], [`park`], [`idle`], [`worker`]: the structures below

#![forbid(unsafe_code)]

pub mod agent;
pub mod app;
pub mod chart;
pub mod cli;
pub mod command;
pub mod costs;
pub mod curve;
pub mod dispatch;
pub mod dist;
pub mod event;
pub mod figures;
pub mod idle;
pub mod load;
pub mod machine;
pub mod order;
pub mod park;
pub mod plot;
pub mod show;
pub mod stats;
pub mod sweep;
pub mod topology;
pub mod validate;
pub mod wake;
pub mod worker;
