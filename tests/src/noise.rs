//! Numbers for tests that have to try many: xorshift, the same ones in each run.

/// Without an end; the seed is anything but 0.
pub struct Noise(pub u64);

impl Noise {
    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// Mostly a value that means something.
    pub fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => u64::MAX >> self.below(64),
            2 => 1 << self.below(64),
            _ => self.below(70),
        }
    }
}
