//! A set of slots as bits; each bit is taken by one.

use crate::mode::MAX_SERVERS;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Acquire};

/// A slot for each server; slot 0 is nobody's.
const WORDS: usize = (MAX_SERVERS as usize + 1).div_ceil(64);

/// Which slots are in the set.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Mask([AtomicU64; WORDS]);

impl Default for Mask {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::default()))
    }
}

impl Mask {
    /// Puts `slot` in.
    pub(crate) fn set(&self, slot: usize) {
        self.0[slot / 64 % WORDS].fetch_or(1 << (slot % 64), AcqRel);
    }

    /// Takes `slot` out; true if it was in, for one caller.
    pub(crate) fn take(&self, slot: usize) -> bool {
        let bit = 1 << (slot % 64);
        self.0[slot / 64 % WORDS].fetch_and(!bit, AcqRel) & bit != 0
    }

    /// Whether `slot` is in.
    pub(crate) fn has(&self, slot: usize) -> bool {
        self.0[slot / 64 % WORDS].load(Acquire) & 1 << (slot % 64) != 0
    }

    /// Those that are in, in order; each word is read when its turn comes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut bits = word.load(Acquire);
            std::iter::from_fn(move || {
                (bits != 0).then(|| {
                    let bit = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    at * 64 + bit
                })
            })
        })
    }

    /// Whether nobody is in.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(Acquire) == 0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn mask_each_bit_is_taken_by_one() {
        let mask = Mask::default();
        assert!(mask.is_empty());
        for slot in [0, 63, 64, 127] {
            mask.set(slot);
        }
        assert_eq!(mask.iter().collect::<Vec<_>>(), [0, 63, 64, 127]);
        assert!(mask.has(64));
        assert!(mask.take(64));
        assert!(!mask.take(64));
        assert!(!mask.has(64));
        assert_eq!(mask.iter().count(), 3);
    }
}
