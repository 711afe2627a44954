//! How whoever waits for a lock, a message or a task does so: a worker gives its slot
//! to its server, any other thread sleeps.
//!
//! A [`Waiter`] is woken once for each time that it was put in a queue; both kinds
//! remember a wake that comes first, and both may return early: who waits looks at its
//! condition again. Inner locks are held with kicks put off ([`Locked`]): a worker that
//! was forced off inside of one would hold up the server that has to run it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use crate::clock;
use crate::event::Id;
use crate::group::Inner;
use crate::tls::{self, Busy};

/// Who waits.
#[derive(Clone)]
pub(super) enum Waiter {
    Worker(Arc<Inner>, Id),
    Thread(Thread),
}

impl Waiter {
    /// The calling thread.
    pub(super) fn me() -> Self {
        match tls::current_group() {
            Some((group, id, false)) => Self::Worker(group, id),
            _ => Self::Thread(thread::current()),
        }
    }

    /// Ends its [`block`], now or next time.
    pub(super) fn wake(&self) {
        match self {
            Self::Worker(group, id) => {
                // One that is gone does not wait.
                let _ = group.wake(*id);
            }
            Self::Thread(thread) => thread.unpark(),
        }
    }

    /// Whether it is the same thread.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Worker(_, one), Self::Worker(_, two)) => one == two,
            (Self::Thread(one), Self::Thread(two)) => one.id() == two.id(),
            _ => false,
        }
    }
}

/// The calling thread waits for a wake; may return early.
pub(super) fn block(deadline_ns: u64) {
    if let Some((group, id, false)) = tls::current_group() {
        // Not RUNNING cannot be: it runs this.
        let _ = group.wait(id, deadline_ns);
        return;
    }
    match deadline_ns {
        clock::FOREVER => thread::park(),
        _ => {
            let left = deadline_ns.saturating_sub(clock::now());
            thread::park_timeout(std::time::Duration::from_nanos(left));
        }
    }
}

/// A lock for a few instructions.
#[derive(Debug, Default)]
pub(super) struct Locked<T>(Mutex<T>);

/// The lock is held; kicks wait for its end.
pub(super) struct LockedGuard<'a, T> {
    // In this order: the lock is given back first.
    guard: MutexGuard<'a, T>,
    _busy: Busy,
}

impl<T> Locked<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(super) fn lock(&self) -> LockedGuard<'_, T> {
        let busy = Busy::enter();
        LockedGuard {
            guard: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            _busy: busy,
        }
    }
}

impl<T> std::ops::Deref for LockedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> std::ops::DerefMut for LockedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Waiters in the order of their coming.
#[derive(Default)]
pub(super) struct Queue(VecDeque<Waiter>);

impl Queue {
    /// Puts the calling thread at the end; what it put in, to take out again.
    pub(super) fn push_me(&mut self) -> Waiter {
        let me = Waiter::me();
        self.0.push_back(me.clone());
        me
    }

    /// Takes `me` out; false if it was taken out to be woken.
    pub(super) fn remove(&mut self, me: &Waiter) -> bool {
        match self.0.iter().position(|it| it.is(me)) {
            Some(at) => self.0.remove(at).is_some(),
            None => false,
        }
    }

    /// The first one, to be woken after the lock was given back.
    pub(super) fn pop(&mut self) -> Option<Waiter> {
        self.0.pop_front()
    }

    /// All of them.
    pub(super) fn take(&mut self) -> VecDeque<Waiter> {
        std::mem::take(&mut self.0)
    }
}
