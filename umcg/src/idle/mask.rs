//! A bit per server.

use super::{IdleServers, Taken, full_barrier};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Acquire};

const BITS: u32 = 64;

/// The home server, else the lowest.
#[derive(Debug)]
pub struct Mask(Box<[AtomicU64]>);

impl Mask {
    /// The word of `server`, and its bit there.
    fn place(&self, server: u32) -> (&AtomicU64, u64) {
        let at = server - 1;
        (&self.0[(at / BITS) as usize], 1 << (at % BITS))
    }
}

fn clear(word: &AtomicU64, bit: u64) -> bool {
    word.load(Acquire) & bit != 0 && word.fetch_and(!bit, AcqRel) & bit != 0
}

impl IdleServers for Mask {
    fn with_servers(count: u32) -> Self {
        let words = count.div_ceil(BITS);
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn put(&self, server: u32) -> bool {
        let (word, bit) = self.place(server);
        word.fetch_or(bit, AcqRel);
        full_barrier();
        true
        // pairs with take()
    }

    fn take(&self, home: u32) -> Taken {
        full_barrier();
        if home != 0 {
            let (word, bit) = self.place(home);
            if clear(word, bit) {
                return Taken::Waits(home);
            }
        }
        for (word, base) in self.0.iter().zip((1..).step_by(BITS as usize)) {
            loop {
                let bits = word.load(Acquire);
                if bits == 0 {
                    break;
                }
                if clear(word, bits & bits.wrapping_neg()) {
                    return Taken::Waits(base + bits.trailing_zeros());
                }
            }
        }
        Taken::Nobody
        // pairs with put()
    }

    fn leave(&self, server: u32) -> bool {
        let (word, bit) = self.place(server);
        clear(word, bit)
    }
}
