//! Timers that signal one thread: for quanta of one's own.
//!
//! A timer of `timer_create(2)` with SIGEV_THREAD_ID: the signal goes to the thread that
//! made it, so its handler may call [`kick_self`](crate::kick_self) and means its own
//! worker. SIGALRM, SIGPROF and SIGVTALRM of setitimer(2) go to any thread of the
//! process; there the handler may run on a thread that is no worker, which is harmless:
//! `kick_self` returns `NotFound`.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::futex::sys;

/// What a timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerClock {
    /// Wall time.
    Monotonic,
    /// CPU time of the calling thread: a worker that waits is not signalled.
    ThreadCpu,
}

/// A timer of the calling thread; dropping it ends it.
#[doc(alias = "umcg_thread_timer")]
#[derive(Debug)]
#[must_use = "dropping it stops the timer"]
pub struct ThreadTimer {
    timer: libc::timer_t,
    not_send: PhantomData<*mut ()>,
}

/// A timer that sends `signal` to the calling thread each `interval`; what
/// `umcg_thread_timer` makes.
pub fn raw_thread_timer(
    clock: TimerClock,
    interval: Duration,
    signal: i32,
) -> Result<libc::timer_t> {
    const CALL: &str = "thread_timer";
    if interval.is_zero() || !(1..=libc::SIGRTMAX()).contains(&signal) {
        return Err(Error::new(ErrorKind::Invalid, CALL, signal as u64));
    }
    let clock = match clock {
        TimerClock::Monotonic => libc::CLOCK_MONOTONIC,
        TimerClock::ThreadCpu => libc::CLOCK_THREAD_CPUTIME_ID,
    };
    let period = libc::timespec {
        tv_sec: interval.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(interval.subsec_nanos()),
    };
    let times = libc::itimerspec {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: the structs are filled in whole and outlive the calls; the timer is ours.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = sys::gettid();
        let mut timer: libc::timer_t = std::mem::zeroed();
        if libc::timer_create(clock, &mut event, &mut timer) != 0 {
            return Err(Error::last_os(CALL));
        }
        if libc::timer_settime(timer, 0, &times, std::ptr::null_mut()) != 0 {
            let error = Error::last_os(CALL);
            libc::timer_delete(timer);
            return Err(error);
        }
        Ok(timer)
    }
}

impl ThreadTimer {
    /// Sends `signal` to the calling thread each `interval`.
    ///
    /// # Errors
    ///
    /// `Invalid`: no such signal, or no time. `Full`, `Again`: no more timers.
    pub fn start(clock: TimerClock, interval: Duration, signal: i32) -> Result<Self> {
        Ok(Self {
            timer: raw_thread_timer(clock, interval, signal)?,
            not_send: PhantomData,
        })
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: our own timer, deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// Sets a handler for `signal` that calls [`kick_self`](crate::kick_self).
///
/// # Errors
///
/// `Invalid`: a signal that cannot be handled.
#[doc(alias = "umcg_kick_on")]
pub fn kick_on(signal: i32) -> Result<()> {
    extern "C" fn kick(_signal: i32) {
        // A thread that is no worker has nothing to give up.
        let _ = crate::kick_self();
    }
    sys::set_handler(signal, kick)
}
