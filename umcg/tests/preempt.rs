//! Quanta and sections without preemption, served by futexes.

#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use umcg::{ErrorKind, FOREVER, Group, GroupConfig, QUANTUM_MIN, Reason, no_preempt};

fn config(quantum: Duration) -> GroupConfig {
    GroupConfig {
        futex_only: true,
        quantum,
        ..GroupConfig::default()
    }
}

#[test]
fn quantum_in_futex_only_mode_is_none() {
    let group = Group::create(&config(QUANTUM_MIN)).expect("a group");
    assert_eq!(group.quantum(), None);
    let joined = Group::open(group.as_fd().try_clone_to_owned().expect("a file"));
    assert_eq!(joined.expect("the same group").quantum(), None);
}

#[test]
fn quantum_below_the_floor_has_an_error_of_its_own() {
    let error = Group::create(&config(Duration::from_micros(99))).expect_err("too short");
    assert_eq!(error.kind(), ErrorKind::Quantum);
    assert!(error.to_string().contains("quantum 99000 ns"), "{error}");
}

/// The signals of a handler that kicks, inside of nested sections: one kick, at their end.
#[test]
fn section_puts_a_handlers_kick_off_to_its_end() {
    umcg::timer::kick_on(libc::SIGUSR2).expect("a handler");
    let group = Group::create(&config(Duration::ZERO)).expect("a group");
    let mut server = group.register_server().expect("a server");
    let step = Arc::new(AtomicU32::new(0));
    let seen = step.clone();
    let worker = thread::spawn(move || {
        let _me = group.register_worker(0).expect("a worker");
        // SAFETY: a signal to the calling thread, which has a handler for it.
        let kick = || assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
        let outer = no_preempt();
        kick();
        drop(no_preempt());
        kick();
        seen.store(1, SeqCst);
        drop(outer);
        seen.store(2, SeqCst);
    });
    let worker_id = server.next_event(FOREVER).expect("a new one").worker;
    let end = server.run(worker_id, FOREVER).expect("it is run");
    assert_eq!((end.reason, step.load(SeqCst)), (Reason::Preempted, 1));
    let listed = server.next_event(FOREVER).expect("it is listed");
    assert_eq!(listed.reason, Reason::Preempted);
    let end = server.run(worker_id, FOREVER).expect("it is run");
    assert_eq!((end.reason, step.load(SeqCst)), (Reason::Exited, 2));
    worker.join().expect("no panic");
}

#[test]
fn section_that_nobody_began_has_no_end() {
    assert!(!umcg::section::leave());
    umcg::section::enter();
    assert!(umcg::section::leave());
    assert!(!umcg::section::leave());
}
