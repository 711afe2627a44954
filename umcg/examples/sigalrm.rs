//! Time slices by the wall clock: SIGALRM of `setitimer(ITIMER_REAL)`, whose handler calls
//! [`umcg::kick_self`].
//!
//! The timer ticks whether or not anybody runs, so a worker that was interrupted by other
//! threads of the machine has a shorter turn. Where the kernel serves the group,
//! `GroupConfig::quantum` does the same by CPU time, without a signal.

#![allow(unsafe_code)]

mod common;

fn main() -> umcg::Result<()> {
    let turns = common::take_turns(libc::SIGALRM, libc::ITIMER_REAL, std::hint::spin_loop)?;
    println!("SIGALRM: the hogs were forced off {turns:?} times");
    println!("done");
    Ok(())
}
