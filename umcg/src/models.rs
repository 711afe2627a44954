//! Loom models of the protocols: every interleaving within a bound on preemptions.
//!
//! Each is small, runs the user half against the twins of the kernel half, and ends
//! in a conservation check: nothing lost, nothing twice. Constants are smaller here
//! (slots, tries), so that rare paths are reached; a path that must be reached is
//! counted. Loom knows reads of old values and the fences against them, but no load
//! buffering: green is evidence, not proof.
//!
//! Loom 0.7 remembers only the last access of a location, so a thread's own load
//! hides other threads' loads from the write that follows it. Therefore who loads
//! and then writes is spawned first, who only loads is spawned last (then its loads
//! meet those writes), and the main thread takes no part.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering as Std};

use loom::sync::Arc;
use loom::thread::{self, JoinHandle};

use crate::ask;
use crate::claim::Claim;
use crate::list::Pushed;
use crate::record::{Ring, Server, Worker};
use crate::ring::Choice;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::sync::{AtomicU32, fence};
use crate::word::{State, Word, edge};

const ME: u32 = 0;
const OTHER: u32 = 1;

pub(crate) fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// A thread that shares `it`.
pub(crate) fn spawn<S: Send + Sync + 'static, T: 'static>(
    it: &Arc<S>,
    body: impl FnOnce(&S) -> T + 'static,
) -> JoinHandle<T> {
    let it = it.clone();
    thread::spawn(move || body(&it))
}

/// How often a path was taken, over all executions of a model.
pub(crate) struct Reached(AtomicUsize);

impl Reached {
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    pub(crate) fn add(&self, times: usize) {
        self.0.fetch_add(times, Std::Relaxed);
    }

    pub(crate) fn check(&self, what: &str) {
        assert_ne!(
            self.0.load(Std::Relaxed),
            0,
            "the model never reached: {what}"
        );
    }
}

/// A server and its workers; index 0 is never used.
struct Group {
    server: Server,
    workers: Vec<Worker>,
    messages: AtomicUsize,
}

type Seen = [Word; 3];

impl Group {
    fn new() -> Arc<Self> {
        let workers: Vec<_> = (0..size_of::<Seen>() / 8).map(|_| Worker::new()).collect();
        for worker in &workers[1..] {
            worker.gen_.store(1, Relaxed);
        }
        Arc::new(Self {
            server: Server::new(),
            workers,
            messages: AtomicUsize::new(0),
        })
    }

    /// The worker becomes RUNNABLE and is pushed, as ops.enqueue does it.
    fn wake(&self, tries: u32, index: u32) -> Pushed {
        let (server, worker) = (&self.server, &self.workers[index as usize]);
        edge(worker, State::Runnable);
        server.push_within(tries, &server.runnable, ME, worker, index, 1)
    }

    fn drain(&self, seen: &mut Seen) -> usize {
        let mut scratch = Vec::with_capacity(seen.len());
        self.server
            .drain(&self.workers, &mut scratch, ME, |index, word| {
                seen[index as usize] = word;
            })
    }

    /// Nothing is under way any more: what the server is told of must be all.
    fn check_nothing_lost(&self, seen: &mut Seen) -> usize {
        let calls = if self.server.has_news() {
            self.drain(seen)
        } else {
            0
        };
        assert!(!self.server.has_news());
        for (worker, seen) in self.workers.iter().zip(seen) {
            assert_eq!(worker.word.load(Relaxed), seen.0, "a word was never seen");
            assert_eq!(worker.queued.load(Relaxed), 0, "a link without a list");
        }
        calls
    }
}

fn drain_twice(group: &Group) -> (Seen, usize) {
    let mut seen = Seen::default();
    let calls = group.drain(&mut seen) + group.drain(&mut seen);
    (seen, calls)
}

#[test]
fn loom_list_push_vs_drain() {
    model(4, || {
        let group = Group::new();
        let pusher = spawn(&group, |group| [1, 2, 2].map(|index| group.wake(2, index)));
        let drainer = spawn(&group, drain_twice);
        pusher.join().unwrap();
        let (mut seen, _) = drainer.join().unwrap();
        group.check_nothing_lost(&mut seen);
    });
}

#[test]
fn loom_list_push_vs_push() {
    static ALREADY: Reached = Reached::new();
    model(3, || {
        let group = Group::new();
        // Worker 1 by both, as when dispatch puts a choice back beside a wake-up.
        let pushers = [[1, 2], [2, 1]]
            .map(|order| spawn(&group, move |group| order.map(|index| group.wake(4, index))));
        let drainer = spawn(&group, |group| {
            let mut seen = Seen::default();
            (group.drain(&mut seen), seen)
        });
        let pushed: Vec<_> = pushers
            .into_iter()
            .flat_map(|p| p.join().unwrap())
            .collect();
        let (mut calls, mut seen) = drainer.join().unwrap();
        calls += group.check_nothing_lost(&mut seen);
        let linked = pushed.iter().filter(|&&p| p == Pushed::Linked).count();
        assert!(
            !pushed.contains(&Pushed::GaveUp),
            "four tries are enough for two pushers"
        );
        assert_eq!(linked, calls, "linked and drained differ");
        ALREADY.add(4 - linked);
    });
    ALREADY.check("a push that met a link");
}

#[test]
fn loom_list_give_up_vs_drain() {
    static GAVE_UP: Reached = Reached::new();
    model(3, || {
        let group = Group::new();
        let pushers = [&[1][..], &[2, 1]].map(|order| {
            spawn(&group, |group| {
                order
                    .iter()
                    .filter(|&&i| group.wake(1, i) == Pushed::GaveUp)
                    .count()
            })
        });
        let drainer = spawn(&group, drain_twice);
        for pusher in pushers {
            GAVE_UP.add(pusher.join().unwrap());
        }
        let (mut seen, _) = drainer.join().unwrap();
        group.check_nothing_lost(&mut seen);
    });
    GAVE_UP.check("a push that gave up");
}

/// As `take_over()` of the kernel backend does it to server `ME`, for server `OTHER`.
fn take_over(group: &Group, seen: &mut Seen) -> usize {
    let mut taken = Vec::new();
    let mut index = group.server.runnable.head.swap(0, AcqRel) as usize;
    while index != 0 {
        taken.push(index);
        index = group.workers[index].next.load(Relaxed) as usize;
    }
    taken.retain(|&index| {
        let queued = &group.workers[index].queued;
        queued
            .compare_exchange(ME + 1, OTHER + 1, AcqRel, Relaxed)
            .is_ok()
    });
    for &index in taken.iter().rev() {
        let worker = &group.workers[index];
        worker.queued.swap(0, AcqRel);
        fence(SeqCst);
        seen[index] = Word(worker.word.load(Acquire));
    }
    taken.len()
}

#[test]
fn loom_take_over_vs_push_and_drain() {
    static TAKEN: Reached = Reached::new();
    static ALREADY: Reached = Reached::new();
    model(3, || {
        let group = Group::new();
        let pusher = spawn(&group, |group| [1, 2, 1].map(|index| group.wake(4, index)));
        let thief = spawn(&group, |group| {
            let mut seen = Seen::default();
            (take_over(group, &mut seen), seen)
        });
        let drainer = spawn(&group, |group| {
            let mut seen = Seen::default();
            group.drain(&mut seen);
            seen
        });
        let pushed = pusher.join().unwrap();
        let (taken, by_thief) = thief.join().unwrap();
        let mut seen = drainer.join().unwrap();
        // Each is told by whoever looked last.
        for (seen, theirs) in seen.iter_mut().zip(by_thief) {
            if seen.0 == 0 || theirs.time48() > seen.time48() {
                *seen = theirs;
            }
        }
        group.check_nothing_lost(&mut seen);
        TAKEN.add(taken);
        ALREADY.add(pushed.iter().filter(|&&p| p == Pushed::Already).count());
    });
    TAKEN.check("a link that was taken over");
    ALREADY.check("a push that met a link");
}

fn choice(index: u32) -> Choice {
    Choice::new(index, 1, Word(0))
}

fn take(times: usize) -> impl FnOnce(&Ring) -> Vec<Choice> {
    move |ring| (0..times).filter_map(|_| ring.take()).collect()
}

/// Those of `indexes` that there was room for.
fn stage(ring: &Ring, indexes: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    indexes
        .into_iter()
        .filter(|&index| ring.push(choice(index)))
        .collect()
}

/// Everything staged came out once, by whatever way, and nothing is stuck.
fn check_ring(ring: &Ring, staged: &BTreeSet<u32>, out: impl IntoIterator<Item = Choice>) {
    let mut out: Vec<_> = out.into_iter().map(Choice::index).collect();
    let left = ring.len_hint();
    let late: Vec<_> = std::iter::from_fn(|| ring.take())
        .map(Choice::index)
        .collect();
    assert!(late.len() <= left, "more choices than positions");
    out.extend(late);
    assert!(
        ring.slot.iter().all(|slot| slot.load(Relaxed) == 0),
        "a choice is out of reach"
    );
    let once: BTreeSet<_> = out.iter().copied().collect();
    assert_eq!(once.len(), out.len(), "taken twice: {out:?}");
    assert_eq!(&once, staged, "staged and taken differ");
    for index in [98, 99] {
        assert!(ring.push(choice(index)), "an empty ring refuses");
        assert_eq!(ring.take().map(Choice::index), Some(index));
    }
}

#[test]
fn loom_ring_take_vs_recall() {
    static RECALLED: Reached = Reached::new();
    model(3, || {
        let ring = Arc::new(Ring::new());
        assert_eq!(stage(&ring, [1, 2]).len(), 2);
        let takers = [spawn(&ring, take(2)), spawn(&ring, take(1))];
        let server = spawn(&ring, |ring| {
            let mut out = Vec::new();
            ring.recall(|choice| out.push(choice));
            RECALLED.add(out.len());
            let mut staged = stage(ring, [3, 4, 5]);
            staged.extend([1, 2]);
            (staged, out)
        });
        let taken: Vec<_> = takers.into_iter().flat_map(|t| t.join().unwrap()).collect();
        let (staged, out) = server.join().unwrap();
        check_ring(&ring, &staged, out.into_iter().chain(taken));
    });
    RECALLED.check("a choice that was recalled");
}

#[test]
fn loom_ring_take_vs_take() {
    static WENT_ROUND: Reached = Reached::new();
    model(3, || {
        let ring = Arc::new(Ring::new());
        assert_eq!(stage(&ring, [1, 2]).len(), 2);
        let takers = [spawn(&ring, take(2)), spawn(&ring, take(1))];
        let server = spawn(&ring, |ring| stage(ring, [3, 4]));
        let taken: Vec<_> = takers.into_iter().flat_map(|t| t.join().unwrap()).collect();
        let mut staged = server.join().unwrap();
        WENT_ROUND.add(staged.len() / 2);
        staged.extend([1, 2]);
        check_ring(&ring, &staged, taken);
    });
    WENT_ROUND.check("every slot used twice");
}

/// A worker and its place on the kernel's queue, which moves it to one taker.
struct Parked {
    worker: Worker,
    parked: AtomicU32,
    runs: AtomicUsize,
}

impl Parked {
    fn new() -> (Arc<Self>, Word) {
        let worker = Worker::new();
        let word = edge(&worker, State::Runnable);
        (
            Arc::new(Self {
                worker,
                parked: AtomicU32::new(1),
                runs: AtomicUsize::new(0),
            }),
            word,
        )
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
    static LOST: Reached = Reached::new();
    model(3, || {
        let (it, staged) = Parked::new();
        let servers =
            [ME, OTHER, OTHER + 1].map(|server| spawn(&it, move |it| it.dispatch(server, staged)));
        let moved: Vec<_> = servers
            .into_iter()
            .filter_map(|s| s.join().unwrap())
            .collect();
        LOST.add(3 - moved.len());
        for &(claim, met) in &moved {
            assert_eq!(met, Some(claim), "ran on somebody else's claim");
        }
        assert_eq!(moved.len(), 1, "staged by three, moved once");
        assert_eq!(it.runs.load(Std::Relaxed), 1);
        assert_eq!(it.parked.load(Relaxed), 0);
        assert_eq!(it.worker.claim.load(Relaxed), 0, "a claim is left");
    });
    LOST.check("a claim that was lost");
}

#[test]
fn loom_claim_vs_wake_elsewhere() {
    static STALE: Reached = Reached::new();
    model(4, || {
        let (it, staged) = Parked::new();
        // Another CPU takes it off the queue by itself, runs it, it sleeps and is
        // woken again, and is then staged anew by another server.
        let elsewhere = spawn(&it, |it| {
            if !it.unpark() {
                return (0, None);
            }
            it.run();
            edge(&it.worker, State::Blocked);
            it.worker.drop_claim();
            let woken = edge(&it.worker, State::Runnable);
            it.worker.drop_claim();
            it.parked.store(1, Release);
            (1, it.dispatch(OTHER, woken))
        });
        let mine = spawn(&it, move |it| it.dispatch(ME, staged));
        let (took, other) = elsewhere.join().unwrap();
        let mine = mine.join().unwrap();

        if let Some((claim, met)) = other {
            assert_eq!(met, Some(claim), "a claim was ended by who did not hold it");
        }
        // Claimed for the old word, moved with the new one: it runs once all the same.
        STALE.add(usize::from(mine.is_some() && took == 1));
        let moved = usize::from(mine.is_some()) + took + usize::from(other.is_some());
        assert_eq!(it.runs.load(Std::Relaxed), moved, "moved and run differ");
        assert_eq!(
            moved + it.parked.load(Relaxed) as usize,
            took + 1,
            "parked and moved differ"
        );
        assert_eq!(it.worker.claim.load(Relaxed), 0, "a claim is left");
    });
    STALE.check("a claim that came too late");
}

#[test]
fn loom_sleep_vs_wake() {
    static SLEPT: Reached = Reached::new();
    static TOOK_BACK: Reached = Reached::new();
    model(3, || {
        let group = Group::new();
        let ring_the_bell = |group: &Group| {
            group
                .messages
                .fetch_add(usize::from(group.server.take_asleep()), Std::Relaxed);
        };
        let by_push = spawn(&group, move |group| {
            group.wake(2, 1);
            ring_the_bell(group);
        });
        let by_must = spawn(&group, move |group| {
            group.server.must.store(1, Relaxed);
            ring_the_bell(group);
        });
        let server = spawn(&group, |group| {
            group.server.begin_sleep();
            let sleeps = !group.server.has_news();
            (sleeps, !sleeps && group.server.cancel_sleep())
        });
        by_push.join().unwrap();
        by_must.join().unwrap();
        let (sleeps, took_back) = server.join().unwrap();

        let messages = group.messages.load(Std::Relaxed);
        if sleeps {
            assert_eq!(messages, 1, "sleeps on work, or woken twice");
        } else {
            assert_eq!(
                messages,
                usize::from(!took_back),
                "cancelled and message differ"
            );
        }
        SLEPT.add(usize::from(sleeps));
        TOOK_BACK.add(usize::from(took_back));
        assert!(!group.server.cancel_sleep());
        group.server.must.store(0, Relaxed);
        group.check_nothing_lost(&mut Seen::default());
    });
    SLEPT.check("a sleep");
    TOOK_BACK.check("a sleep that nobody had seen");
}

/// The counter of `src/bpf/idle.bpf.h` and one CPU's bit in the kernel's idle mask.
struct Idle {
    pending: AtomicU32,
    bit: AtomicU32,
}

#[test]
fn loom_idle_vs_park() {
    static KICKED: Reached = Reached::new();
    static LOOKED: Reached = Reached::new();
    model(4, || {
        let idle = Arc::new(Idle {
            pending: AtomicU32::new(0),
            bit: AtomicU32::new(0),
        });
        let enqueues = [(); 2].map(|()| {
            spawn(&idle, |idle| {
                idle.pending.fetch_add(1, Relaxed);
                fence(SeqCst);
                // scx_bpf_pick_idle_cpu(): looks, then tests and clears.
                idle.bit.load(Relaxed) != 0 && idle.bit.swap(0, AcqRel) != 0
            })
        });
        let cpu = spawn(&idle, |idle| {
            idle.bit.store(1, Relaxed);
            fence(SeqCst);
            idle.pending.load(Relaxed) > 0
        });
        let kicks = enqueues
            .into_iter()
            .filter_map(|e| e.join().unwrap().then_some(()))
            .count();
        let looks_again = cpu.join().unwrap();

        assert!(looks_again || kicks > 0, "the CPU sleeps on parked work");
        assert!(kicks <= 1, "one idle CPU was found twice");
        assert_eq!(
            idle.bit.load(Relaxed) as usize + kicks,
            1,
            "the idle bit was lost"
        );
        assert_eq!(idle.pending.load(Relaxed), 2, "parked and counted differ");
        KICKED.add(kicks);
        LOOKED.add(usize::from(looks_again));
    });
    KICKED.check("an idle CPU that was kicked");
    LOOKED.check("a CPU that looked again");
}

/// The slot of an application group in words, in the order of `slot.bpf.h` and `handoff.bpf.h`: a
/// server runs worker B, which the relief valve lets run just then, and which switches on to C if
/// it finds that it has the slot.
#[test]
fn loom_slot_claim_vs_switch_on() {
    const SERVER: u32 = 1;
    const B: u32 = 1;
    const C: u32 = 2;
    const RUNNABLE: u32 = 1;
    const RUNNING: u32 = 2;
    static TAKEN_BACK: Reached = Reached::new();
    static SWITCHED: Reached = Reached::new();

    struct Group {
        cur: AtomicU32,
        state: AtomicU32,
        slots: [AtomicU32; 3],
    }
    impl Group {
        fn pass(&self, worker: u32, from: u32, to: u32) -> bool {
            let slot = &self.slots[worker as usize];
            slot.compare_exchange(from, to, AcqRel, Acquire).is_ok()
        }
    }
    model(3, || {
        let group = Arc::new(Group {
            cur: AtomicU32::new(0),
            state: AtomicU32::new(RUNNABLE),
            slots: std::array::from_fn(|_| AtomicU32::new(0)),
        });
        let claimer = spawn(&group, |group| {
            group.cur.swap(B, AcqRel);
            assert!(group.pass(B, 0, SERVER));
            fence(SeqCst);
            if group.state.load(Relaxed) == RUNNABLE || !group.pass(B, SERVER, 0) {
                return true;
            }
            TAKEN_BACK.add(1);
            group.cur.swap(0, AcqRel);
            false
        });
        let worker = spawn(&group, |group| {
            group.state.swap(RUNNING, AcqRel);
            fence(SeqCst);
            if group.slots[B as usize].load(Relaxed) == 0 || !group.pass(B, SERVER, 0) {
                return false;
            }
            group.cur.swap(C, AcqRel);
            group.slots[C as usize].swap(SERVER, AcqRel);
            SWITCHED.add(1);
            true
        });
        let (ran, switched) = (claimer.join().unwrap(), worker.join().unwrap());
        let has = |worker: u32| group.slots[worker as usize].load(Acquire) == SERVER;
        let cur = group.cur.load(Acquire);
        assert_eq!((has(B), has(C)), (ran && !switched, switched));
        assert_eq!(cur, if switched { C } else { u32::from(ran) * B });
    });
    TAKEN_BACK.check("a claim that was taken back");
    SWITCHED.check("a switch with the slot of the claim");
}

/// A worker changes its group by changing itself; the agent looks or sleeps.
#[test]
fn loom_ask_vs_look() {
    static SLEPT: Reached = Reached::new();
    static LOOKED: Reached = Reached::new();
    #[derive(Default)]
    struct Shared {
        worker: Worker,
        asleep: AtomicU32,
        /// What its group follows from.
        fact: AtomicU32,
        messages: AtomicUsize,
    }
    fn look(it: &Shared) {
        let ask = it.worker.begin_look();
        it.worker.answer(1, it.fact.load(Relaxed), ask);
    }
    model(3, || {
        let shared = Arc::new(Shared::default());
        let changes: Vec<_> = (0..2)
            .map(|bit| {
                spawn(&shared, move |it| {
                    it.fact.fetch_or(1 << bit, Relaxed);
                    it.worker.ask();
                    let sends = ask::take_asleep(&it.asleep);
                    it.messages.fetch_add(usize::from(sends), Std::Relaxed);
                })
            })
            .collect();
        let agent = spawn(&shared, |it| {
            ask::begin_sleep(&it.asleep);
            let asked = it.worker.is_asked();
            if asked {
                look(it);
            }
            !asked
        });
        for change in changes {
            change.join().unwrap();
        }
        let sleeps = agent.join().unwrap();
        assert!(shared.messages.load(Std::Relaxed) <= 1, "woken twice");
        if sleeps {
            let woken = shared.messages.load(Std::Relaxed) == 1;
            assert!(woken, "sleeps, and nobody wakes it");
        }
        SLEPT.add(usize::from(sleeps));
        LOOKED.add(usize::from(!sleeps));
        // Woken, or on its next round: it looks as long as it is asked.
        if shared.worker.is_asked() {
            look(&shared);
        }
        assert_eq!(
            shared.worker.sys.load(Relaxed),
            3,
            "a change was answered unseen"
        );
    });
    SLEPT.check("a sleep");
    LOOKED.check("a look");
}
