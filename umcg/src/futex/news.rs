//! What a server has taken off its list and not been told of yet.
//!
//! In its own process, so that an idle server of the process can take from it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sync::AtomicUsize;
use crate::sync::Ordering::Relaxed;

/// Workers that a server has taken off its list and not been told of yet.
pub(super) struct Local {
    /// A guess of how many, for idle servers.
    pub(super) waiting: AtomicUsize,
    news: Mutex<News>,
}

pub(super) struct News {
    queue: VecDeque<u32>,
    /// Bit i: worker i is in the queue.
    queued: Box<[u64]>,
    pub(super) scratch: Vec<u32>,
}

impl Local {
    /// Tells others how many wait in `news`, which is locked.
    pub(super) fn show(&self, news: &News) {
        self.waiting.store(news.len(), Relaxed);
    }

    /// Takes the oldest one.
    pub(super) fn pop(&self) -> Option<u32> {
        let mut news = self.lock();
        let index = news.pop();
        self.show(&news);
        index
    }

    pub(super) fn new(max_members: u32) -> Self {
        let records = max_members as usize + 1;
        Self {
            waiting: AtomicUsize::new(0),
            news: Mutex::new(News {
                queue: VecDeque::with_capacity(records),
                queued: vec![0; records.div_ceil(64)].into(),
                // A drain takes two lists, and each may hold everybody.
                scratch: Vec::with_capacity(2 * records),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News {
    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many wait.
    fn len(&self) -> usize {
        self.queue.len()
    }

    /// Puts a worker at the end, unless it is in.
    pub(super) fn push(&mut self, index: u32) {
        let bit = 1 << (index % 64);
        let word = &mut self.queued[index as usize / 64];
        if *word & bit == 0 {
            *word |= bit;
            self.queue.push_back(index);
        }
    }

    /// The oldest one.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let index = self.queue.pop_front()?;
        self.queued[index as usize / 64] &= !(1 << (index % 64));
        Some(index)
    }
}
