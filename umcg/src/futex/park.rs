//! How a thread sleeps until its condition holds, and how others end that.
//!
//! ```text
//! sleeper                            | waker
//!   asleep = 1        (full barrier) |   makes the condition true  (full barrier)
//!   looks at the condition           |   xchg(asleep, 0) == 1 -> FUTEX_WAKE
//!   FUTEX_WAIT while asleep == 1     |
//! ```
//!
//! One of the two sees the other; FUTEX_WAIT compares `asleep` in the kernel, so an
//! exchange that comes before it makes it return at once. A thread that is not asleep
//! costs its waker no system call. Model: `loom_park_vs_unpark`.

#[cfg(not(loom))]
use super::sys::{self, Slept};
#[cfg(not(loom))]
use crate::clock;
use crate::sync::Ordering::{AcqRel, Relaxed, SeqCst};
use crate::sync::{AtomicU32, fence};

/// Sleeps until `done`; false when `deadline_ns` came first and it is still not so.
/// `check_ns` is how often to call `check` meanwhile, which finds out about partners
/// that died; `u64::MAX` = never. Only the thread that owns `asleep`.
#[cfg(not(loom))]
pub(crate) fn park(
    asleep: &AtomicU32,
    deadline_ns: u64,
    check_ns: u64,
    done: impl Fn() -> bool,
    mut check: impl FnMut(),
) -> bool {
    loop {
        if done() {
            return true;
        }
        begin(asleep);
        if done() {
            asleep.store(0, Relaxed);
            return true;
        }
        let until = match check_ns {
            u64::MAX => deadline_ns,
            _ => deadline_ns.min(clock::now().saturating_add(check_ns)),
        };
        let slept = sys::futex_wait(asleep, 1, until);
        asleep.store(0, Relaxed);
        if slept == Slept::TimedOut {
            if until == deadline_ns {
                return done();
            }
            check();
        }
    }
}

/// From here on who makes the condition true wakes.
pub(crate) fn begin(asleep: &AtomicU32) {
    asleep.store(1, Relaxed);
    fence(SeqCst);
    // pairs with take()
}

/// Whether the caller, who made the condition true, has to wake the sleeper.
#[must_use = "who takes it owes the sleeper a wake"]
pub(crate) fn take(asleep: &AtomicU32) -> bool {
    fence(SeqCst);
    asleep.load(Relaxed) != 0 && asleep.swap(0, AcqRel) != 0
    // pairs with begin()
}

/// Ends the sleep of the thread that owns `asleep`, if it sleeps. Any thread, after
/// it made the condition true. Async-signal-safe.
#[cfg(not(loom))]
pub(crate) fn unpark(asleep: &AtomicU32) {
    if take(asleep) {
        sys::futex_wake(asleep);
    }
}
