//! Time slices by CPU time, the kernel's for the process included: SIGPROF of
//! `setitimer(ITIMER_PROF)`, whose handler calls [`umcg::kick_self`].
//!
//! The hogs spend most of their time in system calls, which count. The timer is the
//! process's: with several servers it ticks as often faster. It has the grain of the
//! kernel's tick, 1 to 4 ms.

#![allow(unsafe_code)]

mod common;

/// Mostly in the kernel.
fn system_calls() {
    for _ in 0..100 {
        // SAFETY: no arguments; past the C library, which knows the answer.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
}

fn main() -> umcg::Result<()> {
    let turns = common::take_turns(libc::SIGPROF, libc::ITIMER_PROF, system_calls)?;
    println!("SIGPROF: the hogs were forced off {turns:?} times");
    println!("done");
    Ok(())
}
