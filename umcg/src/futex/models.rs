//! Loom models of futex-only mode; see [`crate::models`] for how they are built.
//!
//! The order of `list`, `idle` and `leave_slot` is modelled with the real masks, lists
//! and sleep, in the two columns that stand at the head of `hand.rs`.

use loom::sync::Arc;
use loom::thread;

use super::edge::{self, Begun, CLAIMED, Woke};
use super::mask::Mask;
use super::park;
use crate::record::{Server, Worker};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use crate::sync::{AtomicU32, fence};
use crate::word::State;

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

fn at(state: State) -> Arc<Worker> {
    let worker = Arc::new(Worker::new());
    edge::enter(&worker, 1, state);
    worker
}

#[test]
fn loom_edge_wait_vs_wake() {
    model(|| {
        let worker = at(State::Running);
        let other = worker.clone();
        let waiter = thread::spawn(move || edge::begin_wait(&other, 10));
        let other = worker.clone();
        let waker = thread::spawn(move || edge::wake(&other, 20));
        let (begun, woke) = (waiter.join().unwrap(), waker.join().unwrap());
        let word = edge::load(&worker);
        match woke {
            Woke::Edge => {
                assert!(matches!(begun, Begun::Idle(_)));
                assert_eq!(word.state(), Some(State::Runnable));
            }
            Woke::Remembered => {
                assert_eq!(begun, Begun::WasWoken, "the wake was lost");
                assert_eq!(word.state(), Some(State::Running));
                assert_eq!(word.flags() & edge::WAKE, 0);
            }
            Woke::Nobody => panic!("it is a member"),
        }
    });
}

#[test]
fn loom_edge_timeout_vs_wake_vs_claim() {
    model(|| {
        let worker = at(State::Idle);
        let wait = edge::load(&worker);
        let other = worker.clone();
        let timer = thread::spawn(move || edge::time_out(&other, 10, wait));
        let other = worker.clone();
        let waker = thread::spawn(move || edge::wake(&other, 20));
        let other = worker.clone();
        let runner = thread::spawn(move || {
            let claim = edge::claim(&other, true, 30).expect("nobody else claims");
            edge::start(&other, 31, claim).is_some()
        });
        let (timed_out, woke) = (timer.join().unwrap(), waker.join().unwrap());
        assert!(runner.join().unwrap(), "a claim that stood was lost");
        let word = edge::load(&worker);
        assert_eq!(word.state(), Some(State::Running));
        assert!(
            !(timed_out && woke == Woke::Edge),
            "two edges out of one wait"
        );
        // A wake that made no edge is still there for the next wait.
        let remembered = word.flags() & edge::WAKE != 0;
        assert_eq!(remembered, woke == Woke::Remembered);
    });
}

#[test]
fn loom_edge_switch_vs_run() {
    model(|| {
        let worker = at(State::Runnable);
        let starts: Vec<_> = [10, 20]
            .into_iter()
            .map(|now| {
                let other = worker.clone();
                thread::spawn(move || {
                    let claim = edge::claim(&other, true, now);
                    claim.is_ok_and(|claim| edge::start(&other, now + 1, claim).is_some())
                })
            })
            .collect();
        let started = starts.into_iter().filter_map(|it| it.join().ok());
        assert_eq!(started.filter(|&it| it).count(), 1);
        assert_eq!(edge::load(&worker).flags() & CLAIMED, 0);
    });
}

#[test]
fn loom_edge_unclaim_vs_start() {
    model(|| {
        let worker = at(State::Runnable);
        let claim = edge::claim(&worker, true, 5).unwrap();
        let other = worker.clone();
        let starter = thread::spawn(move || edge::start(&other, 10, claim).is_some());
        let other = worker.clone();
        let mender = thread::spawn(move || edge::unclaim(&other, 20, claim));
        let (started, ended) = (starter.join().unwrap(), mender.join().unwrap());
        assert!(started != ended, "one of them, and only one, has the claim");
    });
}

#[test]
fn loom_park_vs_unpark() {
    model(|| {
        let it = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let other = it.clone();
        // True: it would sleep until a FUTEX_WAKE.
        let sleeper = thread::spawn(move || {
            park::begin(&other.0);
            other.1.load(Relaxed) == 0
        });
        let other = it.clone();
        let waker = thread::spawn(move || {
            other.1.fetch_add(1, AcqRel);
            park::take(&other.0)
        });
        let (sleeps, wakes) = (sleeper.join().unwrap(), waker.join().unwrap());
        assert!(!sleeps || wakes, "it sleeps and nobody wakes it");
    });
}

/// Two servers: 1 is busy, 2 goes idle; a worker is listed to 1.
#[test]
fn loom_list_vs_idle() {
    model(|| {
        struct Group {
            idlers: Mask,
            servers: [Server; 3],
            worker: Worker,
        }
        let group = Arc::new(Group {
            idlers: Mask::default(),
            servers: std::array::from_fn(|_| Server::new()),
            worker: Worker::new(),
        });
        let other = group.clone();
        let idler = thread::spawn(move || {
            let me = &other.servers[2];
            other.idlers.set(2);
            me.begin_sleep();
            // True: it sleeps.
            !me.has_news() && other.servers[1].runnable.head.load(Relaxed) == 0
        });
        let other = group.clone();
        let lister = thread::spawn(move || {
            let home = &other.servers[1];
            let _ = home.push(&home.runnable, 1, &other.worker, 1, 0);
            fence(SeqCst);
            if !other.idlers.take(2) {
                return false;
            }
            other.servers[2].must.store(1, Relaxed);
            other.servers[2].take_asleep()
        });
        let (sleeps, called) = (idler.join().unwrap(), lister.join().unwrap());
        assert!(!sleeps || called, "work waits while a server sleeps");
    });
}

/// A server leaves while a worker is listed to it.
#[test]
fn loom_list_vs_leave() {
    model(|| {
        struct Group {
            live: Mask,
            server: Server,
            worker: Worker,
        }
        let group = Arc::new(Group {
            live: Mask::default(),
            server: Server::new(),
            worker: Worker::new(),
        });
        group.live.set(1);
        let other = group.clone();
        let leaver = thread::spawn(move || {
            other.live.take(1);
            fence(SeqCst);
            other.server.runnable.head.swap(0, AcqRel)
        });
        let other = group.clone();
        let lister = thread::spawn(move || {
            let server = &other.server;
            let _ = server.push(&server.runnable, 1, &other.worker, 1, 0);
            fence(SeqCst);
            match other.live.has(1) {
                true => 0,
                // It empties the list itself.
                false => server.runnable.head.swap(0, AcqRel),
            }
        });
        let (left, mended) = (leaver.join().unwrap(), lister.join().unwrap());
        assert_eq!(left + mended, 1, "the worker was lost or listed twice");
        assert_eq!(group.server.runnable.head.load(Acquire), 0);
    });
}

/// The two columns at the head of `home.rs`: a wake while its worker moves, to the book
/// (`home` 1 -> 0) or to the kernel (0 -> 1). What lies at the kernel is a flag here.
fn home_wake_vs_move(from: u64) {
    model(move || {
        let worker = at(State::Running);
        let kernel = Arc::new(AtomicU32::new(0));
        let home = Arc::new(crate::sync::AtomicU64::new(from));
        let (book, flag, place) = (worker.clone(), kernel.clone(), home.clone());
        let mover = thread::spawn(move || {
            place.store(1 - from, SeqCst);
            fence(SeqCst);
            if from == 1 {
                if flag.load(Acquire) != 0 {
                    let _ = edge::wake(&book, 10);
                }
                return matches!(edge::begin_wait(&book, 11), Begun::WasWoken);
            }
            // The kernel remembers it as any wake; its wait looks there.
            edge::consume_wake(&book) || flag.load(Acquire) != 0
        });
        let wake = |at: u64| match at {
            0 => drop(edge::wake(&worker, 20)),
            _ => kernel.store(1, SeqCst),
        };
        for _ in 0..2 {
            let at = home.load(Acquire);
            wake(at);
            fence(SeqCst);
            if home.load(Acquire) == at {
                break;
            }
        }
        let woken = mover.join().unwrap();
        let later = match from {
            1 => edge::load(&worker).state() == Some(State::Runnable),
            _ => kernel.load(Acquire) != 0,
        };
        assert!(
            woken || later,
            "the wake was lost: word {:#x}, kernel {}, home {}",
            worker.word.load(Acquire),
            kernel.load(Acquire),
            home.load(Acquire)
        );
    });
}

#[test]
fn loom_home_wake_vs_move_to_book() {
    home_wake_vs_move(1);
}

#[test]
fn loom_home_wake_vs_move_to_kernel() {
    home_wake_vs_move(0);
}
