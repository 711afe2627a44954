//! How a server goes to sleep without losing a wake.
//!
//! The protocol stands at `struct umcg_server` in `intf.h`; the kernel's half is
//! `server_wake()` in `src/bpf/server.bpf.h`, with [`Server::take_asleep`] as twin.
//!
//! ```text
//! server: begin_sleep, has_news        | BPF: server_wake
//!   asleep = 1       (full barrier)    |   push, or must = 1  (full barrier)
//!   looks at lists, resync and must    |   xchg(asleep, 0) == 1 -> one message
//! ```
//!
//! One of the two sees the other. The server's thread does, in this order:
//! `begin_sleep()`; unless `has_news()`, waits for a message; `cancel_sleep()`.
//! Model: `loom_sleep_vs_wake`.

use crate::record::Server;
use crate::sync::Ordering::{AcqRel, Relaxed, SeqCst};
use crate::sync::fence;

impl Server {
    /// Says that the server is about to sleep: from here on who makes work for it
    /// sends a message. Server's thread only.
    pub fn begin_sleep(&self) {
        self.asleep.store(1, Relaxed);
        fence(SeqCst);
        // pairs with server_wake()
    }

    /// Whether there is something to look at: a list, a failed push, or the wish
    /// that it run. Asked after [`begin_sleep`](Self::begin_sleep), "no" means that
    /// whatever comes later brings a message. Its own backlog it knows itself.
    #[doc(alias = "server_has_news")]
    pub fn has_news(&self) -> bool {
        self.runnable.head.load(Relaxed) != 0
            || self.blocked.head.load(Relaxed) != 0
            || self.resync.load(Relaxed) != 0
            || self.must.load(Relaxed) != 0
    }

    /// The server is awake. True: nobody woke it. False: somebody did, and the
    /// message was sent, is being sent, or could not be: then `must` was set and
    /// `asleep` put back, so an awake server can find itself asleep and get a
    /// message too many. Server's thread only; call it after every sleep.
    pub fn cancel_sleep(&self) -> bool {
        self.asleep.swap(0, AcqRel) != 0
    }

    /// Twin of the kernel's decision who writes the message: true for one caller
    /// per sleep. Any thread, after it made work visible.
    #[doc(alias = "server_wake")]
    #[must_use = "who takes it owes the server a message"]
    pub fn take_asleep(&self) -> bool {
        // In the kernel the push is this barrier.
        fence(SeqCst);
        self.asleep.load(Relaxed) != 0 && self.asleep.swap(0, AcqRel) != 0
        // pairs with begin_sleep()
    }

    /// Twin of what the kernel does when the message could not be sent: the timer
    /// tries again.
    #[doc(alias = "server_wake")]
    pub fn put_asleep_back(&self) {
        self.asleep.swap(1, AcqRel);
        self.must.store(1, Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sleep_awake_server_gets_no_message() {
        let server = Server::new();
        assert!(!server.take_asleep());
        server.begin_sleep();
        assert!(server.cancel_sleep());
        assert!(!server.take_asleep());
    }

    #[test]
    fn sleep_one_waker_per_sleep_sends() {
        let server = Server::new();
        server.begin_sleep();
        assert!(server.take_asleep());
        assert!(!server.take_asleep());
        assert!(!server.cancel_sleep());
    }

    #[test]
    fn sleep_failed_message_can_be_sent_again() {
        let server = Server::new();
        server.begin_sleep();
        assert!(server.take_asleep());
        server.put_asleep_back();
        assert!(server.has_news());
        assert!(server.take_asleep());
    }

    #[test]
    fn sleep_each_kind_of_news_is_seen() {
        let server = Server::new();
        assert!(!server.has_news());
        for news in [&server.runnable.head, &server.blocked.head] {
            news.store(1, Relaxed);
            assert!(server.has_news());
            news.store(0, Relaxed);
        }
        for news in [&server.resync, &server.must] {
            news.store(1, Relaxed);
            assert!(server.has_news());
            news.store(0, Relaxed);
        }
        assert!(!server.has_news());
    }
}
