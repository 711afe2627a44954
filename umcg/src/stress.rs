//! The protocols under native threads, far more than 100,000 operations each, all
//! ending in conservation: nothing lost, nothing twice. Names and checks are those
//! of the tests that hammer the C side.

mod claim;
mod ring;

use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};

use crate::list::Pushed;
use crate::record::{MAX_CPUS, Server, Worker};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicU64, hint};
use crate::word::{State, Word, edge};

const OPERATIONS: u32 = 1_000_000;
const HANDSHAKES: u32 = 200_000;
const PUSHERS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(20);

/// A small generator, so that runs repeat.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % bound
    }
}

pub(crate) fn random(seed: u32) -> Random {
    Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(seed) << 20)
}

/// Sets its flag when dropped, so that a failed thread stops the others.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Release);
    }
}

fn records(count: u32, home: u32) -> Vec<Worker> {
    let workers: Vec<_> = (0..count).map(|_| Worker::new()).collect();
    for worker in &workers[1..] {
        worker.gen_.store(1, Relaxed);
        worker.home.store(home, Relaxed);
    }
    workers
}

fn wake(server: &Server, me: u32, workers: &[Worker], index: u32) -> Pushed {
    let worker = &workers[index as usize];
    edge(worker, State::Runnable);
    server.push(&server.runnable, me, worker, index, 1)
}

/// What a server was told.
struct Told {
    me: u32,
    seen: Vec<Word>,
    calls: usize,
    scratch: Vec<u32>,
}

impl Told {
    fn new(me: u32, workers: &[Worker]) -> Self {
        Self {
            me,
            seen: vec![Word(0); workers.len()],
            calls: 0,
            scratch: Vec::with_capacity(workers.len()),
        }
    }

    fn drain(&mut self, server: &Server, workers: &[Worker]) {
        let seen = &mut self.seen;
        self.calls += server.drain(workers, &mut self.scratch, self.me, |index, word| {
            seen[index as usize] = word;
        });
    }

    /// Nothing is under way any more.
    fn check(&mut self, server: &Server, workers: &[Worker], linked: usize, gave_up: usize) {
        while server.has_news() {
            self.drain(server, workers);
        }
        for (index, (worker, seen)) in workers.iter().zip(&self.seen).enumerate() {
            assert_eq!(
                worker.queued.load(Relaxed),
                0,
                "worker {index}: a link without a list"
            );
            assert_eq!(
                worker.word.load(Relaxed),
                seen.0,
                "worker {index}: a word was never seen"
            );
        }
        assert!(
            self.calls >= linked,
            "{linked} linked, {} drained",
            self.calls
        );
        if gave_up == 0 {
            assert_eq!(self.calls, linked, "linked and drained differ");
        }
    }
}

fn list_stress(workers: u32) {
    let (server, me) = (Server::new(), 2);
    let workers = records(workers + 1, me);
    let (linked, gave_up) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let done = AtomicUsize::new(0);
    let mut told = Told::new(me, &workers);
    thread::scope(|scope| {
        for pusher in 0..PUSHERS {
            let (server, workers, done) = (&server, &workers, &done);
            let (linked, gave_up) = (&linked, &gave_up);
            scope.spawn(move || {
                let _done = Done(done);
                let mut random = random(pusher);
                for _ in 0..OPERATIONS {
                    let index = 1 + random.below(workers.len() as u32 - 1);
                    match wake(server, me, workers, index) {
                        Pushed::Linked => linked.fetch_add(1, Relaxed),
                        Pushed::GaveUp => gave_up.fetch_add(1, Relaxed),
                        Pushed::Already => 0,
                    };
                }
            });
        }
        while done.load(Acquire) < PUSHERS as usize {
            told.drain(&server, &workers);
        }
    });
    told.check(&server, &workers, linked.into_inner(), gave_up.into_inner());
}

#[test]
fn list_stress_few_workers_lose_no_word() {
    list_stress(2);
}

#[test]
fn list_stress_many_workers_lose_no_word() {
    list_stress(1000);
}

#[test]
fn list_stress_two_servers_share_workers() {
    let servers = [Server::new(), Server::new()];
    let workers = records(33, 0);
    let (linked, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut told = [Told::new(0, &workers), Told::new(1, &workers)];
    let newest: Vec<_> = workers.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for pusher in 0..PUSHERS {
            let (servers, workers, linked, done) = (&servers, &workers, &linked, &done);
            scope.spawn(move || {
                let _done = Done(done);
                let mut random = random(pusher);
                for _ in 0..OPERATIONS {
                    let (me, index) = (random.below(2), 1 + random.below(32));
                    let pushed = wake(&servers[me as usize], me, workers, index);
                    assert_ne!(pushed, Pushed::GaveUp, "16 tries are enough for this test");
                    linked.fetch_add(usize::from(pushed == Pushed::Linked), Relaxed);
                }
            });
        }
        let finished = || done.load(Acquire) == PUSHERS as usize;
        for (server, told) in servers.iter().zip(&mut told) {
            let (workers, newest) = (&workers, &newest);
            scope.spawn(move || {
                loop {
                    let last = finished();
                    told.drain(server, workers);
                    for (seen, newest) in told.seen.iter().zip(newest) {
                        newest.fetch_max(seen.time48(), AcqRel);
                    }
                    if last {
                        break;
                    }
                }
            });
        }
    });
    for ((index, worker), newest) in workers.iter().enumerate().zip(&newest) {
        let word = Word(worker.word.load(Relaxed));
        assert_eq!(
            worker.queued.load(Relaxed),
            0,
            "worker {index}: a link without a list"
        );
        assert_eq!(
            newest.load(Relaxed),
            word.time48(),
            "worker {index}: neither saw its word"
        );
    }
    assert_eq!(
        told[0].calls + told[1].calls,
        linked.into_inner(),
        "linked and drained differ"
    );
}

/// Spins, and gives the CPU up now and then: true.
pub(crate) fn pause(spins: u32) -> bool {
    hint::spin_loop();
    let often = spins.is_multiple_of(256);
    if often {
        thread::yield_now();
    }
    often
}

/// What the server saw of each worker, for those who wait for it.
struct Shown(Vec<AtomicU64>);

impl Shown {
    fn new(workers: &[Worker]) -> Self {
        Self(workers.iter().map(|_| AtomicU64::new(0)).collect())
    }

    fn show(&self, told: &Told) {
        for (shown, seen) in self.0.iter().zip(&told.seen) {
            shown.store(seen.0, Release);
        }
    }

    /// Until the server has seen `word`: a wake that is lost stays lost here.
    fn wait(&self, index: u32, word: Word) {
        let deadline = Instant::now() + PATIENCE;
        let shown = &self.0[index as usize];
        for spins in 1u32.. {
            if shown.load(Acquire) == word.0 {
                return;
            }
            if pause(spins) {
                assert!(Instant::now() < deadline, "worker {index}: a wake was lost");
            }
        }
    }
}

/// Wakes worker 1 `wakes` times and waits until the last is seen, again and again;
/// `pushed` hears of every push.
fn wake_and_wait(
    server: &Server,
    me: u32,
    workers: &[Worker],
    shown: &Shown,
    wakes: u32,
    mut pushed: impl FnMut(Pushed),
) {
    for _ in 0..HANDSHAKES {
        for _ in 0..wakes {
            pushed(wake(server, me, workers, 1));
        }
        shown.wait(1, Word(workers[1].word.load(Relaxed)));
    }
}

#[test]
fn list_stress_each_wake_is_seen() {
    let (server, me) = (Server::new(), 0);
    let workers = records(2, me);
    let (linked, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let shown = Shown::new(&workers);
    let mut told = Told::new(me, &workers);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _done = Done(&done);
            wake_and_wait(&server, me, &workers, &shown, 2, |pushed| {
                assert_ne!(pushed, Pushed::GaveUp, "nobody else pushes");
                linked.fetch_add(usize::from(pushed == Pushed::Linked), Relaxed);
            });
        });
        while done.load(Acquire) == 0 {
            told.drain(&server, &workers);
            shown.show(&told);
        }
    });
    told.check(&server, &workers, linked.into_inner(), 0);
}

#[test]
fn sleep_stress_no_wake_is_lost() {
    let (server, me) = (Server::new(), MAX_CPUS as u32 - 1);
    let workers = records(2, me);
    let (linked, sent, done) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let shown = Shown::new(&workers);
    let mut told = Told::new(me, &workers);
    let (mut slept, mut received) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _done = Done(&done);
            wake_and_wait(&server, me, &workers, &shown, 1, |pushed| {
                linked.fetch_add(usize::from(pushed == Pushed::Linked), Relaxed);
                if server.take_asleep() {
                    sent.fetch_add(1, Release);
                }
            });
        });
        // Sleeps by spinning: it does nothing else until there is a message, and a
        // lost one is found by who waits for the server.
        let woken = |received: usize| {
            for spins in 1u32.. {
                let last = done.load(Acquire) != 0;
                if sent.load(Acquire) > received {
                    return true;
                }
                if last {
                    break;
                }
                pause(spins);
            }
            false
        };
        loop {
            told.drain(&server, &workers);
            shown.show(&told);
            server.begin_sleep();
            if !server.has_news() {
                slept += 1;
                if !woken(received) {
                    break;
                }
                received += 1;
                assert!(!server.cancel_sleep(), "woken and still asleep");
            } else if !server.cancel_sleep() {
                assert!(woken(received), "no message came of a wake");
                received += 1;
            }
        }
        assert!(server.cancel_sleep(), "nobody woke it the last time");
    });
    assert!(slept > 1, "it never slept");
    assert_eq!(received, sent.into_inner(), "sent and received differ");
    told.check(&server, &workers, linked.into_inner(), 0);
}
