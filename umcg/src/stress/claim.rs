//! Claims: servers that staged the same workers.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;

use super::{OPERATIONS, PUSHERS, edge, random, records};
use crate::claim::Claim;
use crate::sync::AtomicU32;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::word::{State, Word};

#[test]
fn claim_stress_one_holder_at_a_time() {
    let workers = records(3, 0);
    let held: Vec<_> = workers.iter().map(|_| AtomicBool::new(false)).collect();
    let word = Word(0).next(1, State::Runnable as u64);
    let (taken, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for server in 0..PUSHERS {
            let (workers, held, taken, ended) = (&workers, &held, &taken, &ended);
            scope.spawn(move || {
                let (mine, other) = (Claim::new(server, word), Claim::new(PUSHERS, word));
                let mut random = random(server);
                for _ in 0..OPERATIONS {
                    let index = random.below(workers.len() as u32) as usize;
                    let worker = &workers[index];
                    assert!(!worker.release_claim(other), "released what nobody holds");
                    if !worker.try_claim(mine) {
                        continue;
                    }
                    taken.fetch_add(1, Relaxed);
                    assert!(
                        !held[index].swap(true, AcqRel),
                        "worker {index}: two holders"
                    );
                    held[index].store(false, Release);
                    assert!(
                        worker.release_claim(mine),
                        "worker {index}: a claim was lost"
                    );
                    ended.fetch_add(1, Relaxed);
                }
            });
        }
    });
    assert!(
        workers.iter().all(|w| w.claim.load(Relaxed) == 0),
        "a claim is left"
    );
    assert_eq!(
        taken.into_inner(),
        ended.into_inner(),
        "taken and ended differ"
    );
}

#[test]
fn claim_stress_each_parking_is_run_once() {
    let workers = records(5, 0);
    let parked: Vec<_> = workers.iter().map(|_| AtomicU32::new(1)).collect();
    let running: Vec<_> = workers.iter().map(|_| AtomicBool::new(false)).collect();
    let (runs, parks) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for worker in &workers {
        edge(worker, State::Runnable);
        parks.fetch_add(1, Relaxed);
    }
    let run = |index: usize| {
        let worker = &workers[index];
        assert!(
            !running[index].swap(true, AcqRel),
            "worker {index} runs twice"
        );
        edge(worker, State::Running);
        worker.consume_claim();
        runs.fetch_add(1, Relaxed);
        running[index].store(false, Release);
        edge(worker, State::Runnable);
        worker.drop_claim();
        parks.fetch_add(1, Relaxed);
        parked[index].store(1, Release);
    };
    let unpark = |index: usize| {
        parked[index]
            .compare_exchange(1, 0, AcqRel, Relaxed)
            .is_ok()
    };
    thread::scope(|scope| {
        for server in 0..PUSHERS {
            let (workers, run, unpark) = (&workers, &run, &unpark);
            scope.spawn(move || {
                let mut random = random(server);
                for _ in 0..OPERATIONS {
                    let index = random.below(workers.len() as u32) as usize;
                    // Now and then a CPU takes the queue's head and asks nobody.
                    if random.below(8) == 0 {
                        if unpark(index) {
                            run(index);
                        }
                        continue;
                    }
                    let word = Word(workers[index].word.load(Acquire));
                    let claim = Claim::new(server, word);
                    if word.state() != Some(State::Runnable) || !workers[index].try_claim(claim) {
                        continue;
                    }
                    if unpark(index) {
                        run(index);
                    } else {
                        workers[index].release_claim(claim);
                    }
                }
            });
        }
    });
    let waiting: u32 = parked.iter().map(|p| p.load(Relaxed)).sum();
    assert_eq!(waiting as usize, workers.len());
    assert_eq!(
        runs.into_inner() + waiting as usize,
        parks.into_inner(),
        "parked and run differ"
    );
    for (index, worker) in workers.iter().enumerate() {
        assert_eq!(
            worker.claim.load(Relaxed),
            0,
            "worker {index}: a claim is left"
        );
    }
}
