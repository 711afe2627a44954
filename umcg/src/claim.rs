//! "This server runs that worker", decided once.
//!
//! Twins of `src/bpf/claim.bpf.h`, for models and stress tests: user space itself
//! never writes a claim. The value names the server and the state word it is about,
//! so that a claim left over from a lost race is known by its tag. What moves a
//! worker is the kernel's queue; a claim keeps two servers from trying at once.
//! Models: `loom_claim_vs_claim`, `loom_claim_vs_wake_elsewhere`.

use std::fmt;

use crate::record::Worker;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::word::Word;

const TIME_BITS: u32 = 48;

/// A taken claim: (server + 1) << 48 | time of the word.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim(u64);

impl Claim {
    /// Server `server`'s claim on a worker whose word is `word`.
    #[doc(alias = "claim_value")]
    pub const fn new(server: u32, word: Word) -> Self {
        Self((server as u64 + 1) << TIME_BITS | word.time48())
    }

    /// The claim in a record that reads `raw`; `None` when it is free.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw)) }
    }

    /// The record's value.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Who claimed.
    pub const fn server(self) -> u32 {
        ((self.0 >> TIME_BITS) as u32).wrapping_sub(1)
    }

    /// Whether it is about `word`, or left over from an older one.
    pub const fn is_about(self, word: Word) -> bool {
        self.0 & ((1 << TIME_BITS) - 1) == word.time48()
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = self.0 & ((1 << TIME_BITS) - 1);
        write!(f, "Claim(server {} tag {tag:#x})", self.server())
    }
}

impl Worker {
    /// Takes `claim`; false when another one stands. Dispatch, any CPU.
    #[doc(alias = "claim_try")]
    #[must_use = "a claim that was lost must not be acted on"]
    pub fn try_claim(&self, claim: Claim) -> bool {
        self.claim
            .compare_exchange(0, claim.0, AcqRel, Acquire)
            .is_ok()
    }

    /// Gives `claim` back; false when it does not stand any more. Dispatch, who
    /// took it.
    #[doc(alias = "claim_release")]
    pub fn release_claim(&self, claim: Claim) -> bool {
        self.claim
            .compare_exchange(claim.0, 0, AcqRel, Relaxed)
            .is_ok()
    }

    /// Ends whatever claim stands: the worker is queued anew, or it slept.
    #[doc(alias = "claim_drop")]
    pub fn drop_claim(&self) {
        self.consume_claim();
    }

    /// Ends the claim, whoever's it was: the worker starts to run. Returns it.
    #[doc(alias = "claim_drop")]
    pub fn consume_claim(&self) -> Option<Claim> {
        if self.claim.load(Acquire) == 0 {
            return None;
        }
        Claim::from_raw(self.claim.swap(0, AcqRel))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::word::State;

    const WAITS: Word = Word(0x1234_5678_9abc_0002);

    fn waiting() -> Worker {
        let worker = Worker::new();
        worker.word.store(WAITS.0, Relaxed);
        worker
    }

    #[test]
    fn claim_value_is_packed_as_in_c() {
        let claim = Claim::new(6, WAITS);
        assert_eq!(claim.raw(), 0x0007_1234_5678_9abc);
        assert_eq!(claim.server(), 6);
        assert!(claim.is_about(WAITS));
        assert!(!claim.is_about(WAITS.next(0, State::Running as u64)));
        assert_ne!(Claim::new(0, Word(0)).raw(), 0);
    }

    #[test]
    fn claim_second_server_loses() {
        let worker = waiting();
        assert!(worker.try_claim(Claim::new(0, WAITS)));
        assert!(!worker.try_claim(Claim::new(1, WAITS)));
        assert!(!worker.try_claim(Claim::new(0, WAITS)));
    }

    #[test]
    fn claim_release_gives_back_only_its_own() {
        let worker = waiting();
        let (mine, other) = (Claim::new(0, WAITS), Claim::new(1, WAITS));
        assert!(worker.try_claim(mine));
        assert!(!worker.release_claim(other));
        assert!(worker.release_claim(mine));
        assert!(worker.try_claim(other));
    }

    #[test]
    fn claim_consume_returns_what_stood() {
        let worker = waiting();
        assert_eq!(worker.consume_claim(), None);
        let mine = Claim::new(2, WAITS);
        assert!(worker.try_claim(mine));
        assert_eq!(worker.consume_claim(), Some(mine));
        assert_eq!(worker.consume_claim(), None);
    }
}
