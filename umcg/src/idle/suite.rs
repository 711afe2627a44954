//! What each structure has to do: one suite for all three, and what is special to one.

use super::stack::POPS;
use super::{IdleServers, Mask, Ring, Stack, Taken};

/// The largest that there may be.
const MOST: u32 = crate::intf::umcg_group_limits_UMCG_IDLE_SERVERS;

fn nobody_waits<S: IdleServers>() {
    for count in [1, 2, 64, 65, MOST] {
        let idle = S::with_servers(count);
        assert_eq!(idle.take(1), Taken::Nobody);
        assert_eq!(idle.take(count), Taken::Nobody);
        assert!(!idle.leave(count), "it did not wait");
        assert_eq!(idle.collect(), None);
    }
}

fn one_is_taken_once<S: IdleServers>() {
    for server in [1, 2, 64, 65, 128] {
        let idle = S::with_servers(128);
        for home in [server, 3, 0] {
            assert!(idle.put(server));
            assert_eq!(idle.take(home), Taken::Waits(server));
            assert_eq!(idle.take(home), Taken::Nobody, "taken twice");
            assert!(!idle.leave(server), "a waker has it");
        }
    }
}

fn put_again_is_no_second_one<S: IdleServers>() {
    let idle = S::with_servers(4);
    assert!(idle.put(2) && idle.put(2));
    assert_eq!(idle.take(2), Taken::Waits(2));
    assert_eq!(idle.take(2), Taken::Nobody);
}

fn who_left_is_not_taken<S: IdleServers>() {
    let idle = S::with_servers(MOST);
    for _ in 0..3 {
        for server in 1..=MOST {
            assert!(idle.put(server));
        }
        for server in (1..=MOST).filter(|it| it % 5 != 0) {
            assert!(idle.leave(server));
            assert!(!idle.leave(server));
        }
        let mut taken: Vec<_> = (0..MOST).map_while(|_| idle.take(7).waits()).collect();
        taken.sort_unstable();
        let stayed: Vec<_> = (1..=MOST).filter(|it| it % 5 == 0).collect();
        assert_eq!(taken, stayed);
    }
}

fn home_comes_first<S: IdleServers>() {
    let idle = S::with_servers(100);
    for server in 1..=100 {
        idle.put(server);
    }
    for home in [50, 1, 100, 64, 65] {
        assert_eq!(idle.take(home), Taken::Waits(home));
    }
    let rest: Vec<_> = (0..100).map_while(|_| idle.take(50).waits()).collect();
    assert_eq!(rest.len(), 95);
    assert!(!rest.contains(&50));
}

/// Any sequence of calls by one thread agrees with a set.
fn agrees_with_a_set<S: IdleServers>() {
    let idle = S::with_servers(40);
    let mut set = std::collections::BTreeSet::new();
    let mut random = crate::stress::random(7);
    for step in 0..200_000 {
        let server = 1 + random.below(40);
        match random.below(8) {
            0..=2 => {
                assert!(idle.put(server));
                set.insert(server);
            }
            3..=5 => match idle.take(server).waits() {
                Some(taken) => assert!(set.remove(&taken), "step {step}: {taken} did not wait"),
                None => assert!(set.is_empty(), "step {step}: {set:?} wait"),
            },
            6 => assert_eq!(idle.leave(server), set.remove(&server), "step {step}"),
            _ => assert_eq!(idle.collect(), None, "step {step}: nobody is put meanwhile"),
        }
    }
}

/// Everything that is common to all.
fn idle_suite<S: IdleServers>() {
    nobody_waits::<S>();
    one_is_taken_once::<S>();
    put_again_is_no_second_one::<S>();
    who_left_is_not_taken::<S>();
    home_comes_first::<S>();
    agrees_with_a_set::<S>();
}

#[test]
fn idle_suite_stack() {
    idle_suite::<Stack>();
}

#[test]
fn idle_suite_ring() {
    idle_suite::<Ring>();
}

#[test]
fn idle_suite_mask() {
    idle_suite::<Mask>();
}

#[test]
fn idle_stack_newest_is_taken_first() {
    let idle = Stack::with_servers(8);
    for server in [3, 1, 7] {
        idle.put(server);
    }
    for server in [7, 1, 3] {
        assert_eq!(idle.take(2), Taken::Waits(server));
    }
}

#[test]
fn idle_stack_deleted_entry_is_put_again_where_it_is() {
    let idle = Stack::with_servers(8);
    for server in [3, 1, 7] {
        idle.put(server);
    }
    assert!(idle.leave(3) && idle.put(3));
    assert_eq!(idle.take(2), Taken::Waits(7));
    assert_eq!(
        idle.take(1),
        Taken::Waits(1),
        "by its number: it stays linked"
    );
    assert_eq!(idle.take(2), Taken::Waits(3), "below a deleted one");
}

#[test]
fn idle_stack_more_deleted_than_pops_hide_nobody() {
    let count = 3 * POPS;
    let idle = Stack::with_servers(count);
    for server in 1..=count {
        idle.put(server);
    }
    for server in 2..=count {
        assert!(idle.leave(server));
    }
    assert_eq!(idle.take(9), Taken::Waits(1), "found by a walk");
    assert_eq!(idle.take(9), Taken::Nobody);
}

#[test]
fn idle_stack_collect_takes_deleted_ones_off_the_top() {
    let idle = Stack::with_servers(64);
    for server in 1..=64 {
        idle.put(server);
    }
    for server in 10..=64 {
        idle.leave(server);
    }
    assert_eq!(idle.collect(), None);
    assert_eq!(idle.take(40), Taken::Waits(9), "on top now");
    assert!(idle.put(40), "its entry is free again");
    assert_eq!(idle.take(2), Taken::Waits(2));
    assert_eq!(idle.take(60), Taken::Waits(40));
}

#[test]
fn idle_ring_is_walked_from_home() {
    let idle = Ring::with_servers(8);
    for server in [2, 6] {
        idle.put(server);
    }
    assert_eq!(idle.take(3), Taken::Waits(6));
    assert_eq!(idle.take(3), Taken::Waits(2));
}

#[test]
fn idle_ring_names_who_runs_its_own_code() {
    let idle = Ring::with_servers(8);
    idle.set_running(5, true);
    idle.set_running(2, true);
    assert_eq!(idle.take(3), Taken::Runs(5));
    assert_eq!(idle.take(6), Taken::Runs(2));
    idle.put(4);
    assert_eq!(idle.take(5), Taken::Waits(4), "who waits comes first");
    idle.set_running(5, false);
    assert_eq!(idle.take(5), Taken::Runs(2));
}

#[test]
fn idle_mask_lowest_is_taken_first() {
    let idle = Mask::with_servers(200);
    for server in [130, 70, 3] {
        idle.put(server);
    }
    for server in [3, 70, 130] {
        assert_eq!(idle.take(100), Taken::Waits(server));
    }
}
