//! Loom models of the three structures; see [`crate::models`] for how they are built.

use loom::sync::Arc;

use super::{IdleServers, Mask, Ring, Stack};
use crate::models::{Reached, model, spawn};
use crate::sync::AtomicU32;
use crate::sync::Ordering::{AcqRel, Acquire};

struct Group<S> {
    idle: S,
    work: AtomicU32,
}

impl<S: IdleServers> Group<S> {
    fn new(waiting: &[u32]) -> Arc<Self> {
        let idle = S::with_servers(2);
        for &server in waiting {
            assert!(idle.put(server));
        }
        Arc::new(Self {
            idle,
            work: AtomicU32::new(0),
        })
    }

    /// A waker: whom it has to wake.
    fn wake(&self, home: u32) -> Option<u32> {
        self.work.fetch_add(1, AcqRel);
        self.idle.take(home).waits()
    }

    /// A server goes idle: it sleeps, or has left again, or a waker has it.
    fn go_idle(&self, server: u32) -> Idle {
        assert!(self.idle.put(server));
        if self.work.load(Acquire) == 0 {
            return Idle::Sleeps;
        }
        match self.idle.leave(server) {
            true => Idle::Left,
            false => Idle::IsTaken,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Sleeps,
    Left,
    IsTaken,
}

/// A server goes idle while two workers are woken, one at home elsewhere.
fn put_vs_take<S: IdleServers>(slept: &'static Reached, taken_back: &'static Reached) {
    model(3, || {
        let group = Group::<S>::new(&[]);
        let wakers = [1, 2].map(|home| spawn(&group, move |group| group.wake(home)));
        let server = spawn(&group, |group| group.go_idle(1));
        let woken = wakers
            .into_iter()
            .filter_map(|it| it.join().unwrap())
            .count();
        let idle = server.join().unwrap();
        assert_eq!(
            woken,
            usize::from(idle != Idle::Left),
            "{idle:?}: a wake was lost, or came twice"
        );
        slept.add(usize::from(idle == Idle::Sleeps));
        taken_back.add(usize::from(idle == Idle::IsTaken));
    });
    slept.check("a sleep");
    taken_back.check("a server that was taken before it looked");
}

/// Two wait; two wakers, and one that goes on by itself.
fn take_vs_take_vs_leave<S: IdleServers>(left: &'static Reached, none: &'static Reached) {
    model(3, || {
        let group = Group::<S>::new(&[1, 2]);
        let wakers = [0, 1].map(|home| spawn(&group, move |group| group.wake(home)));
        let leaver = spawn(&group, |group| group.idle.leave(1));
        let mut taken: Vec<_> = wakers
            .into_iter()
            .filter_map(|it| it.join().unwrap())
            .collect();
        if leaver.join().unwrap() {
            taken.push(1);
            left.add(1);
        }
        none.add(3 - taken.len());
        taken.sort_unstable();
        assert_eq!(taken, [1, 2], "of three, two have one each");
        assert_eq!(group.idle.take(1).waits(), None);
    });
    left.check("a server that left by itself");
    none.check("a loser");
}

/// A server comes and goes, beside another that comes, while wakers take: each put ends
/// in one take or leave.
fn put_again_vs_take<S: IdleServers>(taken: &'static Reached) {
    model(2, || {
        let group = Group::<S>::new(&[]);
        let comes_and_goes = spawn(&group, |group| {
            assert!(group.idle.put(1));
            let left = usize::from(group.idle.leave(1));
            assert!(group.idle.put(1));
            left
        });
        let comes = spawn(&group, |group| assert!(group.idle.put(2)));
        let waker = spawn(&group, |group| {
            [0, 1]
                .map(|home| group.wake(home).is_some())
                .iter()
                .filter(|&&it| it)
                .count()
        });
        let mut ends = comes_and_goes.join().unwrap();
        comes.join().unwrap();
        let takes = waker.join().unwrap();
        taken.add(takes);
        ends += takes;
        ends += (0..3).map_while(|_| group.idle.take(1).waits()).count();
        assert_eq!(ends, 3, "three puts");
    });
    taken.check("a take beside them");
}

macro_rules! models {
    ($kind:ty, $put:ident, $leave:ident, $again:ident) => {
        #[test]
        fn $put() {
            static SLEPT: Reached = Reached::new();
            static TAKEN: Reached = Reached::new();
            put_vs_take::<$kind>(&SLEPT, &TAKEN);
        }

        #[test]
        fn $leave() {
            static LEFT: Reached = Reached::new();
            static NONE: Reached = Reached::new();
            take_vs_take_vs_leave::<$kind>(&LEFT, &NONE);
        }

        #[test]
        fn $again() {
            static TAKEN: Reached = Reached::new();
            put_again_vs_take::<$kind>(&TAKEN);
        }
    };
}

models!(
    Stack,
    loom_idle_stack_put_vs_take,
    loom_idle_stack_take_vs_leave,
    loom_idle_stack_put_again_vs_take
);
models!(
    Ring,
    loom_idle_ring_put_vs_take,
    loom_idle_ring_take_vs_leave,
    loom_idle_ring_put_again_vs_take
);
models!(
    Mask,
    loom_idle_mask_put_vs_take,
    loom_idle_mask_take_vs_leave,
    loom_idle_mask_put_again_vs_take
);

/// A deleted entry is put again while it is collected, and a worker is woken.
#[test]
fn loom_idle_stack_collect_vs_put() {
    static FOUND: Reached = Reached::new();
    model(3, || {
        let group = Group::<Stack>::new(&[1]);
        assert!(group.idle.leave(1));
        let collector = spawn(&group, |group| group.idle.collect());
        let waker = spawn(&group, |group| group.wake(0));
        let server = spawn(&group, |group| group.go_idle(1));
        let found = collector.join().unwrap();
        let woken = [found, waker.join().unwrap()].iter().flatten().count();
        let idle = server.join().unwrap();
        FOUND.add(usize::from(found.is_some()));
        assert_eq!(
            woken,
            usize::from(idle != Idle::Left),
            "{idle:?}: a wake was lost, or came twice"
        );
    });
    FOUND.check("a server that was put while it was collected");
}
