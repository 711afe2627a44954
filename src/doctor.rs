//! `scx_umcg doctor`: what this kernel has, and whether the scheduler can run.

pub(crate) mod member;
mod queue;
pub mod thread;

use anyhow::Result;

use crate::cgroup;
use crate::exit::Failure;
use crate::kernel;

/// Prints one line per fact; the error, if any, is the first that prevents a start.
pub fn run() -> Result<()> {
    println!("kernel: {}", kernel::release());
    for f in kernel::features() {
        let mark = match (f.found, f.required) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "absent",
        };
        println!("{mark:>7}  {}: {}", f.name, f.note);
    }
    println!("cpus: {} possible", *scx_utils::NR_CPU_IDS);
    match kernel::attached() {
        Some(ops) => println!("attached: {ops}"),
        None => println!("attached: no sched_ext scheduler"),
    }
    if let Some(seq) = kernel::sched_ext_file("enable_seq") {
        println!("attachments since boot: {seq}");
    }
    match kernel::require().and_then(|()| cgroup::require_no_limit()) {
        Ok(()) => {
            println!("scx_umcg can run here");
            Ok(())
        }
        Err(failure) => {
            let failure: Failure = failure;
            println!("scx_umcg cannot run here now");
            Err(failure.into())
        }
    }
}
