//! Time slices by CPU time in user mode alone: SIGVTALRM of `setitimer(ITIMER_VIRTUAL)`,
//! whose handler calls [`umcg::kick_self`].
//!
//! What the kernel does for the hogs does not count, so that a worker pays for what it
//! computes and not for what it is interrupted by. The timer is the process's, and has the
//! grain of the kernel's tick, 1 to 4 ms.

#![allow(unsafe_code)]

mod common;

fn main() -> umcg::Result<()> {
    let turns = common::take_turns(libc::SIGVTALRM, libc::ITIMER_VIRTUAL, std::hint::spin_loop)?;
    println!("SIGVTALRM: the hogs were forced off {turns:?} times");
    println!("done");
    Ok(())
}
