//! Workers that a server has to look at: the kernel appends, the server takes all.
//!
//! The protocol stands at `struct umcg_list` in `intf.h`. [`Server::drain`] is the
//! server's half; [`Server::push`] is the twin of `list_push()` in
//! `src/bpf/list.bpf.h` for models and stress tests.
//!
//! No lost wake, in two columns; both edges of the diagonal are full barriers:
//!
//! ```text
//! pusher                           | drain
//!   word = new      (full barrier) |   queued = 0     (full barrier)
//!   queued 0 -> 1 + server?        |   reads word
//! ```
//!
//! Either the pusher finds `queued` clear and links, or the drain that cleared it
//! later reads the new word. Models: `loom_list_push_vs_drain`,
//! `loom_list_push_vs_push`.

use crate::intf;
use crate::record::{List, Server, Worker};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use crate::sync::fence;
use crate::word::{State, Word};

/// Lost attempts on a list's head before a push gives up.
#[doc(alias = "UMCG_PUSH_TRIES")]
pub const PUSH_TRIES: u32 = intf::umcg_limits_UMCG_PUSH_TRIES;

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// On the list now.
    Linked,
    /// On some list already; whoever drains that reads the new word.
    Already,
    /// Too many lost attempts: the server will walk its records.
    GaveUp,
}

impl Server {
    /// Takes both lists and calls `each(index, word)` for every worker on them, the
    /// blocked ones before the runnable ones, each list oldest first. Returns the
    /// number of calls. Server `me`'s thread only.
    ///
    /// The word is read after the link was cleared: it is the truth, and may be
    /// newer than what the worker was pushed for. The list that it came by, and
    /// that it came at all, are hints: a worker may come twice, may have moved on,
    /// and may by now be parked at another server (look at `home`): its later
    /// pushes went by this link.
    ///
    /// After a failed push all workers that are parked here RUNNABLE and on no list
    /// come as well. A failed push of a blocked worker is not made up for.
    ///
    /// Requires: `workers` are all records, from index 0; `scratch` has capacity
    /// for [`MAX_WORKERS`](crate::record::MAX_WORKERS) indexes, or it allocates.
    #[doc(alias = "list_push")]
    pub fn drain(
        &self,
        workers: &[Worker],
        scratch: &mut Vec<u32>,
        me: u32,
        mut each: impl FnMut(u32, Word),
    ) -> usize {
        self.unread.swap(0, Relaxed);
        scratch.clear();
        Self::take(&self.runnable, workers, scratch);
        Self::take(&self.blocked, workers, scratch);
        let mut calls = scratch.len();
        for &index in scratch.iter().rev() {
            each(index, Self::clear_queued(&workers[index as usize]));
        }
        if self.resync.load(Relaxed) != 0 && self.resync.swap(0, AcqRel) != 0 {
            calls += Self::walk_records(workers, me, each);
        }
        calls
    }

    /// Takes all of `list`, newest first. No link is cleared before all are read:
    /// a worker whose `queued` is clear may be pushed again and its `next` changes.
    fn take(list: &List, workers: &[Worker], scratch: &mut Vec<u32>) {
        // Acquire: pairs with the push of each one on it, which published `next`.
        let mut index = list.head.swap(0, Acquire) as usize;
        for _ in 0..workers.len() {
            if index == 0 || index >= workers.len() {
                break;
            }
            scratch.push(index as u32);
            index = workers[index].next.load(Relaxed) as usize;
        }
    }

    /// Unlinks `worker`; the word that it has after that.
    fn clear_queued(worker: &Worker) -> Word {
        worker.queued.swap(0, AcqRel);
        fence(SeqCst);
        Word(worker.word.load(Acquire))
        // pairs with list_push()
    }

    /// The workers that a failed push may have meant.
    fn walk_records(workers: &[Worker], me: u32, mut each: impl FnMut(u32, Word)) -> usize {
        // A second pusher may have trusted the link that the failed one then gave
        // up: its word is visible from here on.
        fence(SeqCst);
        let mut calls = 0;
        for (index, worker) in workers.iter().enumerate().skip(1) {
            if worker.gen_.load(Relaxed) & 1 == 0
                || worker.home.load(Relaxed) != me
                || worker.queued.load(Acquire) != 0
            {
                continue;
            }
            let word = Word(worker.word.load(Acquire));
            if word.state() == Some(State::Runnable) {
                each(index as u32, word);
                calls += 1;
            }
        }
        calls
    }

    /// Twin of the kernel's push: links `worker` (record `index`) on `list`, one of
    /// this server's, unless it is linked already. `me` is the server's number; the
    /// worker's word and home were written before. Any thread.
    #[doc(alias = "list_push")]
    pub fn push(&self, list: &List, me: u32, worker: &Worker, index: u32, now_ns: u64) -> Pushed {
        self.push_within(PUSH_TRIES, list, me, worker, index, now_ns)
    }

    /// [`push`](Self::push) with its bound as a parameter, for models.
    pub(crate) fn push_within(
        &self,
        tries: u32,
        list: &List,
        me: u32,
        worker: &Worker,
        index: u32,
        now_ns: u64,
    ) -> Pushed {
        // In the kernel the cmpxchg that wrote the word is this barrier.
        fence(SeqCst);
        if worker
            .queued
            .compare_exchange(0, me + 1, AcqRel, Relaxed)
            .is_err()
        {
            return Pushed::Already;
        }
        let mut old = list.head.load(Relaxed);
        for _ in 0..tries {
            worker.next.store(old as u32, Relaxed);
            match list
                .head
                .compare_exchange(old, u64::from(index), AcqRel, Relaxed)
            {
                Ok(_) => {
                    if self.unread.fetch_add(1, Relaxed) == 0 {
                        self.unread_ns.store(now_ns, Relaxed);
                    }
                    return Pushed::Linked;
                }
                Err(seen) => old = seen,
            }
        }
        // In this order: who sees `resync` sees the link clear.
        worker.queued.swap(0, AcqRel);
        self.resync.swap(1, AcqRel);
        Pushed::GaveUp
        // pairs with take(), clear_queued() and walk_records()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ME: u32 = 3;

    fn records(count: usize) -> Vec<Worker> {
        let workers: Vec<_> = (0..count).map(|_| Worker::new()).collect();
        for worker in &workers[1..] {
            worker.gen_.store(1, Relaxed);
            worker.home.store(ME, Relaxed);
        }
        workers
    }

    fn set(worker: &Worker, now: u64, state: State) -> Word {
        let word = Word(worker.word.load(Relaxed)).next(now, state as u64);
        worker.word.store(word.0, Relaxed);
        word
    }

    fn drained(server: &Server, workers: &[Worker]) -> Vec<(u32, Word)> {
        let mut scratch = Vec::with_capacity(workers.len());
        let mut out = Vec::new();
        let calls = server.drain(workers, &mut scratch, ME, |index, word| {
            out.push((index, word))
        });
        assert_eq!(calls, out.len());
        out
    }

    #[test]
    fn list_empty_drain_calls_nobody() {
        assert!(drained(&Server::new(), &records(4)).is_empty());
    }

    #[test]
    fn list_drain_is_oldest_first_and_blocked_first() {
        let (server, workers) = (Server::new(), records(8));
        for index in [5, 2, 7] {
            let pushed = server.push(&server.runnable, ME, &workers[index as usize], index, 10);
            assert_eq!(pushed, Pushed::Linked);
        }
        for index in [6, 1] {
            server.push(&server.blocked, ME, &workers[index as usize], index, 11);
        }
        assert_eq!(server.unread.load(Relaxed), 5);
        assert_eq!(server.unread_ns.load(Relaxed), 10);
        let indexes: Vec<_> = drained(&server, &workers).iter().map(|&(i, _)| i).collect();
        assert_eq!(indexes, [6, 1, 5, 2, 7]);
        assert_eq!(server.unread.load(Relaxed), 0);
        assert!(drained(&server, &workers).is_empty());
    }

    #[test]
    fn list_push_of_a_linked_worker_is_already() {
        let (server, workers) = (Server::new(), records(2));
        assert_eq!(
            server.push(&server.runnable, ME, &workers[1], 1, 0),
            Pushed::Linked
        );
        assert_eq!(workers[1].queued.load(Relaxed), ME + 1);
        assert_eq!(
            server.push(&server.runnable, ME, &workers[1], 1, 0),
            Pushed::Already
        );
        assert_eq!(
            server.push(&server.blocked, ME, &workers[1], 1, 0),
            Pushed::Already
        );
        assert_eq!(drained(&server, &workers).len(), 1);
    }

    #[test]
    fn list_drain_reads_the_newest_word() {
        let (server, workers) = (Server::new(), records(2));
        set(&workers[1], 10, State::Runnable);
        server.push(&server.runnable, ME, &workers[1], 1, 0);
        let newest = set(&workers[1], 20, State::Running);
        assert_eq!(drained(&server, &workers), [(1, newest)]);
    }

    #[test]
    fn list_push_from_within_each_is_not_lost() {
        let (server, workers) = (Server::new(), records(4));
        for index in [1, 2, 3] {
            server.push(&server.runnable, ME, &workers[index as usize], index, 0);
        }
        let mut scratch = Vec::with_capacity(workers.len());
        let mut seen = Vec::new();
        server.drain(&workers, &mut scratch, ME, |index, _| {
            seen.push(index);
            // Cleared already, while 3 still follows: this changes 1's `next`.
            let again = &workers[index as usize];
            assert_eq!(
                server.push(&server.runnable, ME, again, index, 0),
                Pushed::Linked
            );
        });
        assert_eq!(seen, [1, 2, 3]);
        assert_eq!(drained(&server, &workers).len(), 3);
    }

    #[test]
    fn list_resync_walks_the_runnable_workers_of_its_home() {
        let (server, workers) = (Server::new(), records(8));
        let expected = set(&workers[1], 10, State::Runnable);
        set(&workers[2], 10, State::Blocked);
        set(&workers[3], 10, State::Runnable);
        workers[3].home.store(ME + 1, Relaxed);
        set(&workers[4], 10, State::Runnable);
        workers[4].gen_.store(2, Relaxed);
        set(&workers[5], 10, State::Runnable);
        workers[5].queued.store(ME + 2, Relaxed);
        server.resync.store(1, Relaxed);
        assert_eq!(drained(&server, &workers), [(1, expected)]);
        assert_eq!(server.resync.load(Relaxed), 0);
        assert!(drained(&server, &workers).is_empty());
    }

    #[test]
    fn list_drain_does_not_allocate() {
        let (server, workers) = (Server::new(), records(100));
        let mut scratch = Vec::with_capacity(workers.len());
        let before = (scratch.as_ptr(), scratch.capacity());
        for round in 0..3 {
            for index in 1..100u32 {
                server.push(&server.runnable, ME, &workers[index as usize], index, round);
            }
            assert_eq!(server.drain(&workers, &mut scratch, ME, |_, _| {}), 99);
        }
        assert_eq!((scratch.as_ptr(), scratch.capacity()), before);
    }

    #[test]
    fn list_index_out_of_range_ends_the_walk() {
        let (server, workers) = (Server::new(), records(4));
        server.push(&server.runnable, ME, &workers[1], 1, 0);
        workers[1].next.store(4, Relaxed);
        assert_eq!(drained(&server, &workers).len(), 1);
        server.blocked.head.store(u64::MAX, Relaxed);
        assert!(drained(&server, &workers).is_empty());
    }

    #[test]
    fn list_cycle_is_walked_once_at_most() {
        let (server, workers) = (Server::new(), records(4));
        server.push(&server.runnable, ME, &workers[1], 1, 0);
        workers[1].next.store(1, Relaxed);
        assert!(drained(&server, &workers).len() <= workers.len());
    }
}
