//! The words' time, by what must hold of it whatever clock, age and wrap: unique, never
//! back, restored.

use std::collections::HashSet;

use umcg::word::{State, Word};

const WRAP: u64 = 1 << 48;
const CASES: u64 = 200_000;

/// xorshift64*: the same cases in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// Small, middling or huge, with the same chance.
    fn span(&mut self) -> u64 {
        let bits = self.below(50);
        self.next() >> (63 - bits)
    }

    /// A time: most are near to where the 48 bits wrap.
    fn time(&mut self) -> u64 {
        let turn = self.below(5) * WRAP;
        match self.below(4) {
            0 => turn + self.below(WRAP),
            1 => turn + WRAP + self.below(3) - 1,
            _ => turn + WRAP + self.below(2000) - 1000,
        }
    }
}

fn word(at: u64) -> Word {
    Word::make(at, State::Running as u64)
}

#[test]
fn stamp_is_later_than_the_last_and_not_before_now() {
    let mut random = Random(7);
    for _ in 0..CASES {
        let since = random.time();
        let now = match random.below(3) {
            0 => since,
            1 => since.saturating_sub(random.span()),
            _ => since + random.span(),
        };
        let old = word(since);
        let stamp = old.stamp_after(since, now);
        assert!(stamp > since && stamp >= now, "{since} then {now}: {stamp}");
        assert!(
            stamp <= now.max(since + 1) + 1,
            "{since} then {now}: {stamp}"
        );
        let next = word(stamp);
        assert_ne!(next.time48(), old.time48(), "{since} then {now}");
        assert_eq!(next.restore_beside(stamp, now), stamp);
    }
}

#[test]
fn stamp_without_since_goes_by_the_word() {
    // since_ns is written after the word: a second writer may read that of an older edge.
    let mut random = Random(11);
    for _ in 0..CASES {
        let last = random.time() + 2_000_000;
        let since = last - 1 - random.below(1_000_000);
        let now = last + 1_000_000 - random.below(2_000_000);
        let stamp = word(last).stamp_after(since, now);
        assert_eq!(stamp, now.max(last + 1), "{since}, {last} then {now}");
    }
}

#[test]
fn words_of_one_life_are_all_different() {
    // Equal clocks, clocks that go back and clocks that jump, over the wrap and over days.
    for seed in 1..=40 {
        let mut random = Random(seed);
        let mut seen = HashSet::new();
        let start = WRAP * random.below(4) + WRAP - 3000;
        let (mut at, mut now, mut word) = (start, start, Word(0));
        for i in 0..3000u64 {
            now = match random.below(8) {
                0..4 => now,
                4 => now.saturating_sub(random.below(50)),
                5 | 6 => now + random.below(20),
                _ => now + random.below(1 << (10 + i % 37)),
            };
            let stamp = word.stamp_after(at, now);
            assert!(i == 0 || stamp > at, "seed {seed}: {at} then {stamp}");
            at = stamp;
            word = Word::make(at, i % 5 + (i % 7) * 0x100);
            // Within one turn of the 48 bits no value comes again.
            if at - start < WRAP {
                assert!(seen.insert(word.time48()), "seed {seed}: {word} again");
            }
            assert_eq!(word.restore(at), at);
        }
    }
}

#[test]
fn restore_finds_each_time_within_half_a_turn() {
    let mut random = Random(23);
    for _ in 0..CASES {
        let now = random.time() + WRAP;
        let ago = random.below(WRAP / 2);
        assert_eq!(word(now - ago).restore(now), now - ago);
        assert_eq!(word(now - ago).elapsed(now), ago);
        let ahead = random.below(WRAP / 2 - 1);
        assert_eq!(word(now + ahead).restore(now), now + ahead);
        assert_eq!(word(now + ahead).elapsed(now), 0);
    }
}

#[test]
fn restore_beside_has_no_limit() {
    let mut random = Random(29);
    for _ in 0..CASES {
        let at = random.time();
        let now = at + random.span();
        assert_eq!(word(at).restore_beside(at, now), at);
        // An older one beside the word is not believed.
        let older = at.saturating_sub(1 + random.below(1000));
        let near = at + random.below(1000);
        assert_eq!(word(at).restore_beside(older, near), at);
    }
}

#[test]
fn words_ahead_of_the_clock_restore_to_it() {
    // As a test in the VM has them: 2 s before the wrap, whatever the clock shows.
    let mut random = Random(31);
    for _ in 0..CASES {
        let began = 1 + random.below(1 << 45);
        let ahead = 2 * WRAP - began % WRAP - 2_000_000_000;
        let at = began + random.below(5_000_000_000);
        let now = at + random.below(5_000_000_000);
        let seen = word(at + ahead);
        assert_eq!(seen.restore(now + ahead) - ahead, at);
        assert_eq!(seen.elapsed(now + ahead), now - at);
    }
}
