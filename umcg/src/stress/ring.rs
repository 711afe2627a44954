//! Staged rings: two CPUs take while the server stages and recalls.

use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::thread;

use super::{Done, OPERATIONS, random};
use crate::record::Ring;
use crate::ring::Choice;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::word::Word;

/// Counts in `out` how often each choice came out.
fn note(out: &[AtomicU8], choice: Choice) {
    out[choice.index() as usize].fetch_add(1, Relaxed);
}

fn ring_stress(recalls: bool) {
    let ring = Ring::new();
    let out: Vec<_> = (0..=OPERATIONS).map(|_| AtomicU8::new(0)).collect();
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let last = done.load(Acquire) != 0;
                    match ring.take() {
                        Some(choice) => note(&out, choice),
                        None if last => break,
                        None => thread::yield_now(),
                    }
                }
            });
        }
        let _done = Done(&done);
        let mut random = random(7);
        for index in 1..=OPERATIONS {
            while !ring.push(Choice::new(index, 1, Word(0))) {
                thread::yield_now();
            }
            assert!(ring.len_hint() <= 64);
            if recalls && random.below(50) == 0 {
                ring.recall(|choice| note(&out, choice));
                assert_eq!(ring.len_hint(), 0, "recalled and not empty");
            }
        }
    });
    ring.len_hint();
    while let Some(choice) = ring.take() {
        note(&out, choice);
    }
    assert!(
        ring.slot.iter().all(|slot| slot.load(Relaxed) == 0),
        "a choice is out of reach"
    );
    for (index, times) in out.iter().enumerate().skip(1) {
        assert_eq!(times.load(Relaxed), 1, "choice {index}");
    }
    assert_eq!(ring.head.load(Relaxed), ring.tail.load(Relaxed));
}

#[test]
fn ring_stress_each_choice_is_taken_once() {
    ring_stress(false);
}

#[test]
fn ring_stress_recall_loses_no_choice() {
    ring_stress(true);
}
