//! Loom models of the protocols: every interleaving within a bound on preemptions.
//!
//! Each is small, runs the user half against the twins of the kernel half, and ends
//! in a conservation check: nothing lost, nothing twice. Constants are smaller here
//! (`STAGE_SLOTS`, `PUSH_TRIES`), so that the rare paths are reached; where a path
//! must be reached, the model counts it. Loom explores reads of old values and the
//! fences against them, but no load buffering: green is evidence, not proof.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering as Std};

use loom::sync::Arc;
use loom::thread;

use crate::claim::Claim;
use crate::list::Pushed;
use crate::record::{Ring, Server, Worker};
use crate::ring::Choice;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use crate::sync::{AtomicU32, fence};
use crate::word::{State, Word};

const ME: u32 = 0;
const OTHER: u32 = 1;

fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// A server and its workers; index 0 is never used.
struct Group {
    server: Server,
    workers: Vec<Worker>,
}

impl Group {
    fn new(workers: usize) -> Arc<Self> {
        let workers: Vec<_> = (0..=workers).map(|_| Worker::new()).collect();
        for worker in &workers[1..] {
            worker.gen_.store(1, Relaxed);
            worker.home.store(ME, Relaxed);
        }
        Arc::new(Self { server: Server::new(), workers })
    }

    /// The worker becomes RUNNABLE and is pushed, as ops.enqueue does it.
    fn wake(&self, index: u32) -> Pushed {
        let worker = &self.workers[index as usize];
        edge(worker, State::Runnable);
        self.server.push(&self.server.runnable, ME, worker, index, 1)
    }

    fn drain(&self, seen: &mut [Word]) -> usize {
        let mut scratch = Vec::with_capacity(self.workers.len());
        self.server.drain(&self.workers, &mut scratch, ME, |index, word| seen[index as usize] = word)
    }

    /// Nothing is under way any more: what the server is told of must be all.
    fn check_nothing_lost(&self, seen: &mut [Word]) {
        if self.server.has_news() {
            self.drain(seen);
        }
        assert!(!self.server.has_news());
        for (worker, seen) in self.workers.iter().zip(seen) {
            assert_eq!(worker.word.load(Relaxed), seen.0, "a word was never seen");
            assert_eq!(worker.queued.load(Relaxed), 0, "a link without a list");
        }
    }
}

/// One edge, by cmpxchg as in word_move(); the word that it made.
fn edge(worker: &Worker, state: State) -> Word {
    let mut old = Word(worker.word.load(Relaxed));
    loop {
        let new = old.next(0, state as u64);
        match worker.word.compare_exchange(old.0, new.0, AcqRel, Relaxed) {
            Ok(_) => return new,
            Err(seen) => old = Word(seen),
        }
    }
}

#[test]
fn loom_list_push_vs_drain() {
    model(4, || {
        let group = Group::new(2);
        let pusher = thread::spawn({
            let group = group.clone();
            move || {
                group.wake(1);
                group.wake(2);
                group.wake(1);
            }
        });
        let mut seen = [Word(0); 3];
        group.drain(&mut seen);
        group.drain(&mut seen);
        pusher.join().unwrap();
        group.check_nothing_lost(&mut seen);
    });
}

#[test]
fn loom_list_push_vs_push() {
    static GAVE_UP: AtomicUsize = AtomicUsize::new(0);
    static ALREADY: AtomicUsize = AtomicUsize::new(0);
    fn note(pushed: Pushed) -> usize {
        match pushed {
            Pushed::Linked => return 1,
            Pushed::Already => ALREADY.fetch_add(1, Std::Relaxed),
            Pushed::GaveUp => GAVE_UP.fetch_add(1, Std::Relaxed),
        };
        0
    }

    model(3, || {
        let group = Group::new(2);
        // Worker 1 by both, as when dispatch puts a choice back beside a wake-up.
        let pushers = [[1, 2], [2, 1]].map(|order| {
            let group = group.clone();
            thread::spawn(move || order.map(|index| note(group.wake(index))).iter().sum::<usize>())
        });
        let mut seen = [Word(0); 3];
        let mut calls = group.drain(&mut seen);
        let linked: usize = pushers.into_iter().map(|p| p.join().unwrap()).sum();
        if group.server.resync.load(Relaxed) == 0 {
            calls += group.drain(&mut seen);
            assert!(calls >= linked, "{linked} links, {calls} calls");
        }
        group.check_nothing_lost(&mut seen);
    });
    assert_ne!(GAVE_UP.load(Std::Relaxed), 0, "no push gave up");
    assert_ne!(ALREADY.load(Std::Relaxed), 0, "no push met a link");
}

fn choice(index: u32) -> Choice {
    Choice::new(index, 1, Word(0))
}

/// Everything staged came out once, by whatever way, and nothing is stuck.
fn check_ring(ring: &Ring, staged: &BTreeSet<u32>, out: impl IntoIterator<Item = Choice>) {
    let mut left: Vec<_> = out.into_iter().map(Choice::index).collect();
    ring.len_hint();
    left.extend(std::iter::from_fn(|| ring.take()).map(Choice::index));
    assert!(ring.slot.iter().all(|slot| slot.load(Relaxed) == 0), "a choice is out of reach");
    let once: BTreeSet<_> = left.iter().copied().collect();
    assert_eq!(once.len(), left.len(), "taken twice: {left:?}");
    assert_eq!(&once, staged, "staged and taken differ");
    for index in [8, 9] {
        assert!(ring.push(choice(index)), "an empty ring refuses");
        assert_eq!(ring.take().map(Choice::index), Some(index));
    }
}

fn taker(ring: &Arc<Ring>, takes: usize) -> thread::JoinHandle<Vec<Choice>> {
    let ring = ring.clone();
    thread::spawn(move || (0..takes).filter_map(|_| ring.take()).collect())
}

fn stage(ring: &Ring, staged: &mut BTreeSet<u32>, indexes: impl IntoIterator<Item = u32>) {
    staged.extend(indexes.into_iter().filter(|&index| ring.push(choice(index))));
}

#[test]
fn loom_ring_take_vs_recall() {
    static RECALLED: AtomicUsize = AtomicUsize::new(0);
    model(3, || {
        let ring = Arc::new(Ring::new());
        let mut staged = BTreeSet::new();
        stage(&ring, &mut staged, [1, 2]);
        let takers = [taker(&ring, 2), taker(&ring, 1)];
        let mut out = Vec::new();
        ring.recall(|choice| out.push(choice));
        RECALLED.fetch_add(out.len(), Std::Relaxed);
        stage(&ring, &mut staged, [3, 4, 5]);
        out.extend(takers.into_iter().flat_map(|t| t.join().unwrap()));
        check_ring(&ring, &staged, out);
    });
    assert_ne!(RECALLED.load(Std::Relaxed), 0, "nothing was recalled");
}

#[test]
fn loom_ring_take_vs_take() {
    static WENT_ROUND: AtomicUsize = AtomicUsize::new(0);
    model(4, || {
        let ring = Arc::new(Ring::new());
        let mut staged = BTreeSet::new();
        stage(&ring, &mut staged, [1, 2]);
        let takers = [taker(&ring, 2), taker(&ring, 1)];
        stage(&ring, &mut staged, [3, 4]);
        let out: Vec<_> = takers.into_iter().flat_map(|t| t.join().unwrap()).collect();
        WENT_ROUND.fetch_add(staged.len() / 4, Std::Relaxed);
        check_ring(&ring, &staged, out);
    });
    assert_ne!(WENT_ROUND.load(Std::Relaxed), 0, "no slot was used twice");
}

/// A worker and its place on the kernel's queue, which moves it to one taker.
struct Parked {
    worker: Worker,
    parked: AtomicU32,
    runs: AtomicUsize,
}

impl Parked {
    fn new() -> Arc<Self> {
        let worker = Worker::new();
        edge(&worker, State::Runnable);
        Arc::new(Self { worker, parked: AtomicU32::new(1), runs: AtomicUsize::new(0) })
    }

    /// ops.running: whatever claim stood is met.
    fn run(&self) -> Option<Claim> {
        edge(&self.worker, State::Running);
        self.runs.fetch_add(1, Std::Relaxed);
        self.worker.consume_claim()
    }

    fn unpark(&self) -> bool {
        self.parked.compare_exchange(1, 0, AcqRel, Relaxed).is_ok()
    }

    /// take_staged() of `server`, that staged it for the word `staged`. The claim
    /// that ops.running then met, if the worker was moved.
    fn dispatch(&self, server: u32, staged: Word) -> Option<(Claim, Option<Claim>)> {
        let word = Word(self.worker.word.load(Acquire));
        if word != staged || word.state() != Some(State::Runnable) {
            return None;
        }
        let claim = Claim::new(server, word);
        if !self.worker.try_claim(claim) {
            return None;
        }
        if self.unpark() {
            return Some((claim, self.run()));
        }
        self.worker.release_claim(claim);
        None
    }
}

#[test]
fn loom_claim_vs_claim() {
    static HANDED: AtomicUsize = AtomicUsize::new(0);
    model(4, || {
        let it = Parked::new();
        let staged = Word(it.worker.word.load(Relaxed));
        let other = thread::spawn({
            let it = it.clone();
            move || it.dispatch(OTHER, staged)
        });
        let mine = it.dispatch(ME, staged);
        let other = other.join().unwrap();
        assert!(mine.is_none() || other.is_none(), "handed over twice");
        for (claim, met) in [mine, other].into_iter().flatten() {
            assert_eq!(met, Some(claim), "ran on somebody else's claim");
            HANDED.fetch_add(1, Std::Relaxed);
        }
        assert_eq!(it.runs.load(Std::Relaxed) as u32 + it.parked.load(Relaxed), 1);
        assert_eq!(it.runs.load(Std::Relaxed), 1, "claimed and not run");
        assert_eq!(it.worker.claim.load(Relaxed), 0, "a claim is left");
    });
    assert_ne!(HANDED.load(Std::Relaxed), 0);
}

#[test]
fn loom_claim_vs_wake_elsewhere() {
    static STALE: AtomicUsize = AtomicUsize::new(0);
    model(4, || {
        let it = Parked::new();
        let staged = Word(it.worker.word.load(Relaxed));
        // Another CPU takes it off the queue by itself, runs it, it sleeps and is
        // woken again, and is then staged anew by another server.
        let elsewhere = thread::spawn({
            let it = it.clone();
            move || {
                if !it.unpark() {
                    return (0, None);
                }
                it.run();
                edge(&it.worker, State::Blocked);
                it.worker.drop_claim();
                let woken = edge(&it.worker, State::Runnable);
                it.worker.drop_claim();
                it.parked.store(1, crate::sync::Ordering::Release);
                (1, it.dispatch(OTHER, woken))
            }
        });
        let mine = it.dispatch(ME, staged);
        let (took, other) = elsewhere.join().unwrap();

        if let Some((claim, met)) = other {
            assert_eq!(met, Some(claim), "a claim was ended by who did not hold it");
        }
        if mine.is_some() && took == 1 {
            // Claimed for the old word, moved with the new one: runs once all the same.
            STALE.fetch_add(1, Std::Relaxed);
        }
        let moved = usize::from(mine.is_some()) + took + usize::from(other.is_some());
        assert_eq!(it.runs.load(Std::Relaxed), moved, "moved and run differ");
        assert_eq!(moved + it.parked.load(Relaxed) as usize, took + 1, "parked and moved differ");
        assert_eq!(it.worker.claim.load(Relaxed), 0, "a claim is left");
        assert!(!it.worker.sweep_claim());
    });
    assert_ne!(STALE.load(Std::Relaxed), 0, "the claim never came too late");
}

#[test]
fn loom_sleep_vs_wake() {
    static SLEPT: AtomicUsize = AtomicUsize::new(0);
    static TOOK_BACK: AtomicUsize = AtomicUsize::new(0);
    model(4, || {
        let group = Group::new(1);
        let messages = std::sync::Arc::new(AtomicUsize::new(0));
        let wakers = [false, true].map(|by_must| {
            let (group, messages) = (group.clone(), messages.clone());
            thread::spawn(move || {
                if by_must {
                    group.server.must.store(1, Relaxed);
                } else {
                    group.wake(1);
                }
                if group.server.take_asleep() {
                    messages.fetch_add(1, Std::Relaxed);
                }
            })
        });
        group.server.begin_sleep();
        let sleeps = !group.server.has_news();
        let took_back = !sleeps && group.server.cancel_sleep();
        for waker in wakers {
            waker.join().unwrap();
        }

        let messages = messages.load(Std::Relaxed);
        if sleeps {
            assert_eq!(messages, 1, "sleeps on work, or woken twice");
            SLEPT.fetch_add(1, Std::Relaxed);
        } else {
            assert_eq!(messages, usize::from(!took_back), "cancelled and message differ");
            TOOK_BACK.fetch_add(usize::from(took_back), Std::Relaxed);
        }
        assert!(!group.server.cancel_sleep());
        group.server.must.store(0, Relaxed);
        group.check_nothing_lost(&mut [Word(0); 2]);
    });
    assert_ne!(SLEPT.load(Std::Relaxed), 0);
    assert_ne!(TOOK_BACK.load(Std::Relaxed), 0);
}

/// The counter of `src/bpf/idle.bpf.h` and one CPU's bit in the kernel's idle mask.
#[test]
fn loom_idle_vs_park() {
    static KICKED: AtomicUsize = AtomicUsize::new(0);
    static LOOKED: AtomicUsize = AtomicUsize::new(0);
    model(4, || {
        let (pending, idle) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let enqueues = [(); 2].map(|()| {
            let (pending, idle) = (pending.clone(), idle.clone());
            thread::spawn(move || {
                pending.fetch_add(1, Relaxed);
                fence(SeqCst);
                // scx_bpf_pick_idle_cpu(): tests and clears.
                idle.load(Relaxed) != 0 && idle.swap(0, AcqRel) != 0
            })
        });
        idle.store(1, Relaxed);
        fence(SeqCst);
        let looks_again = pending.load(Relaxed) > 0;
        let kicks = enqueues.map(|e| e.join().unwrap()).iter().filter(|&&kick| kick).count();

        assert!(kicks <= 1, "one idle CPU was found twice");
        assert!(looks_again || kicks == 1, "the CPU sleeps on parked work");
        assert_eq!(pending.load(Relaxed), 2, "parked and counted differ");
        KICKED.fetch_add(kicks, Std::Relaxed);
        LOOKED.fetch_add(usize::from(looks_again), Std::Relaxed);
    });
    assert_ne!(KICKED.load(Std::Relaxed), 0);
    assert_ne!(LOOKED.load(Std::Relaxed), 0);
}
