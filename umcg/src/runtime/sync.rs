//! Channel, mutex, condition variable and sleep that give the slot up while they wait.
//!
//! In futex-only mode a wake between workers of one group is a push on a list: a system call
//! only if the server has to be woken as well. In kernel mode it is one call of the kernel's
//! program, and what needs no wake needs no call. All of them also work from and to threads that are
//! no workers. Source of the set: gloop's and Go's.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicUsize, fence};
use std::sync::{self, Arc, TryLockError};
use std::time::Duration;

use super::wait::{Locked, Queue, block};
use crate::clock;

/// A mutex whose waiters give their slots up. Not fair: a newcomer may be quicker than
/// who was woken. A panic of its holder does not poison it.
pub struct Mutex<T: ?Sized> {
    /// Threads in `queue`, for an unlock that has nobody to wake.
    waiting: AtomicUsize,
    queue: Locked<Queue>,
    value: sync::Mutex<T>,
}

/// The mutex is held.
#[must_use = "the mutex is free again when this is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    // None only within drop.
    guard: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A free mutex.
    pub fn new(value: T) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            queue: Locked::new(Queue::default()),
            value: sync::Mutex::new(value),
        }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the mutex, waiting for it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            let me = self.queue.lock().push_me();
            self.waiting.fetch_add(1, SeqCst);
            fence(SeqCst);
            // pairs with wake_one(): it sees me waiting, or I see the mutex free.
            let guard = self.try_lock();
            if guard.is_none() {
                block(clock::FOREVER);
            }
            if self.queue.lock().remove(&me) {
                self.waiting.fetch_sub(1, SeqCst);
            }
            if let Some(guard) = guard {
                return guard;
            }
        }
    }

    /// Takes the mutex if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = match self.value.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard {
            mutex: self,
            guard: Some(guard),
        })
    }

    /// Wakes the first waiter. After the mutex was given back.
    fn wake_one(&self) {
        fence(SeqCst);
        if self.waiting.load(Relaxed) == 0 {
            return;
        }
        let first = self.queue.lock().pop();
        if let Some(waiter) = first {
            self.waiting.fetch_sub(1, SeqCst);
            waiter.wake();
        }
        // pairs with lock()
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        self.mutex.wake_one();
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("held until dropped")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("held until dropped")
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.load(Relaxed);
        write!(f, "Mutex({waiting} waiting)")
    }
}

impl<T: ?Sized> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MutexGuard of {:?}", self.mutex)
    }
}

/// A condition variable for [`Mutex`].
#[derive(Default)]
pub struct Condvar {
    queue: Locked<Queue>,
}

impl Condvar {
    /// One that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the mutex back, waits for a notification, takes the mutex again. May
    /// return without one: look at the condition.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait_until(guard, clock::FOREVER).0
    }

    /// As [`wait`](Self::wait), at most until `deadline_ns`; false: nobody notified.
    pub fn wait_until<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline_ns: u64,
    ) -> (MutexGuard<'a, T>, bool) {
        let me = self.queue.lock().push_me();
        let mutex = guard.mutex;
        drop(guard);
        block(deadline_ns);
        let notified = !self.queue.lock().remove(&me);
        (mutex.lock(), notified)
    }

    /// Wakes who has waited longest.
    pub fn notify_one(&self) {
        let first = self.queue.lock().pop();
        if let Some(waiter) = first {
            waiter.wake();
        }
    }

    /// Wakes all.
    pub fn notify_all(&self) {
        let all = self.queue.lock().take();
        all.iter().for_each(super::wait::Waiter::wake);
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

/// The other end of a channel is gone; the message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed<T>(pub T);

impl<T> fmt::Display for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the channel's other end is gone")
    }
}

impl<T: fmt::Debug> std::error::Error for Closed<T> {}

struct Channel<T> {
    state: Locked<ChannelState<T>>,
    capacity: usize,
}

struct ChannelState<T> {
    messages: VecDeque<T>,
    senders: usize,
    receivers: usize,
    for_message: Queue,
    for_space: Queue,
}

/// Sends; clone it for more senders.
pub struct Sender<T>(Arc<Channel<T>>);

/// Receives; clone it for more receivers: each message goes to one.
pub struct Receiver<T>(Arc<Channel<T>>);

/// A channel for at most `capacity` messages, at least one: a sender waits while it is
/// full.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let channel = Arc::new(Channel {
        state: Locked::new(ChannelState {
            messages: VecDeque::new(),
            senders: 1,
            receivers: 1,
            for_message: Queue::default(),
            for_space: Queue::default(),
        }),
        capacity: capacity.max(1),
    });
    (Sender(channel.clone()), Receiver(channel))
}

impl<T> Sender<T> {
    /// Sends `message`, waiting for space.
    ///
    /// # Errors
    ///
    /// No receiver is left.
    pub fn send(&self, message: T) -> Result<(), Closed<T>> {
        loop {
            let mut state = self.0.state.lock();
            if state.receivers == 0 {
                return Err(Closed(message));
            }
            if state.messages.len() < self.0.capacity {
                state.messages.push_back(message);
                let first = state.for_message.pop();
                drop(state);
                if let Some(waiter) = first {
                    waiter.wake();
                }
                return Ok(());
            }
            let me = state.for_space.push_me();
            drop(state);
            block(clock::FOREVER);
            self.0.state.lock().for_space.remove(&me);
        }
    }
}

impl<T> Receiver<T> {
    /// The oldest message, waiting for one; `None`: the channel is empty and no sender
    /// is left.
    pub fn recv(&self) -> Option<T> {
        loop {
            let mut state = self.0.state.lock();
            if let Some(message) = state.messages.pop_front() {
                let first = state.for_space.pop();
                drop(state);
                if let Some(waiter) = first {
                    waiter.wake();
                }
                return Some(message);
            }
            if state.senders == 0 {
                return None;
            }
            let me = state.for_message.push_me();
            drop(state);
            block(clock::FOREVER);
            self.0.state.lock().for_message.remove(&me);
        }
    }

    /// The oldest message if there is one.
    pub fn try_recv(&self) -> Option<T> {
        let mut state = self.0.state.lock();
        let message = state.messages.pop_front()?;
        let first = state.for_space.pop();
        drop(state);
        if let Some(waiter) = first {
            waiter.wake();
        }
        Some(message)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().receivers += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.senders -= 1;
        if state.senders == 0 {
            let all = state.for_message.take();
            drop(state);
            all.iter().for_each(super::wait::Waiter::wake);
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.receivers -= 1;
        if state.receivers == 0 {
            let all = state.for_space.take();
            drop(state);
            all.iter().for_each(super::wait::Waiter::wake);
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({})", self.0.state.lock().messages.len())
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({})", self.0.state.lock().messages.len())
    }
}

/// Sleeps; a worker gives its slot up meanwhile.
pub fn sleep(duration: Duration) {
    let until = clock::after(duration);
    while clock::now() < until {
        block(until);
    }
}

/// Lets other workers run; a thread that is none lets other threads run.
pub fn yield_now() {
    match crate::tls::current_group() {
        Some((group, id, false)) => {
            // Not RUNNING cannot be: it runs this.
            let _ = group.yield_now(id);
        }
        _ => std::thread::yield_now(),
    }
}
