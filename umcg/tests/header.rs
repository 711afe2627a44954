//! The constants of `umcg.h` are the library's.

#![cfg(not(loom))]

use std::collections::BTreeMap;

use umcg::{
    FOREVER, MAX_MEMBERS, MAX_SERVERS, QUANTUM_MAX, QUANTUM_MIN, Reason, Source, State, word,
};

const HEADER: &str = include_str!("../include/umcg.h");

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Each `UMCG_NAME = number` of the header's enums.
fn constants() -> BTreeMap<&'static str, u64> {
    let pieces = HEADER.split(['{', ',', '}', '\n']);
    let pairs = pieces.filter_map(|piece| piece.split_once(" = "));
    pairs
        .filter_map(|(name, value)| Some((name.trim(), number(value.trim())?)))
        .filter(|(name, _)| name.starts_with("UMCG_"))
        .collect()
}

fn reasons() -> [(&'static str, Reason); 11] {
    [
        ("BLOCKED", Reason::Blocked { syscall: None }),
        ("FAULT", Reason::Fault),
        ("STOPPED", Reason::Stopped),
        ("WAITS", Reason::Waits),
        ("WOKEN", Reason::Woken),
        ("NEW", Reason::New),
        ("PREEMPTED", Reason::Preempted),
        ("YIELDED", Reason::Yielded),
        ("TIMED_OUT", Reason::TimedOut),
        ("EXITED", Reason::Exited),
        ("RESCUED", Reason::Rescued),
    ]
}

#[test]
fn header_constants_are_the_librarys() {
    let mut theirs = constants();
    let mut is = |name: String, value: u64| {
        let found = theirs.remove(name.as_str());
        assert_eq!(found, Some(value), "{name}");
    };
    for state in State::ALL {
        is(format!("UMCG_{}", state.name()), state as u64);
    }
    for (name, flag) in [
        ("PREEMPTED", word::PREEMPTED),
        ("YIELDED", word::YIELDED),
        ("FAULT", word::FAULT),
        ("STOPPED", word::STOPPED),
        ("RESCUED", word::RESCUED),
        ("ASLEEP", word::ASLEEP),
        ("PENDING", word::PENDING),
        ("TIMEDOUT", word::TIMEDOUT),
    ] {
        is(format!("UMCG_F_{name}"), flag);
    }
    for (name, reason) in reasons() {
        is(format!("UMCG_REASON_{name}"), u64::from(reason.number()));
    }
    for (name, source) in [
        ("KICK", Source::Kick),
        ("DEADLINE", Source::Deadline),
        ("QUANTUM", Source::Quantum),
        ("SIGNAL", Source::Signal),
        ("WAKE", Source::Wake),
    ] {
        is(format!("UMCG_SOURCE_{name}"), u64::from(source.number()));
    }
    is("UMCG_SOURCE_NONE".into(), 0);
    // Those that umcg-c turns into the library's types, by these numbers.
    for (name, value) in [
        ("MODE_FUTEX_ONLY", 0),
        ("MODE_KERNEL_PARTIAL", 1),
        ("MODE_KERNEL_FULL", 2),
        ("IDLE_STACK", 0),
        ("IDLE_RING", 1),
        ("IDLE_MASK", 2),
        ("SERVER", 1),
        ("WORKER", 2),
    ] {
        is(format!("UMCG_{name}"), value);
    }
    assert!(theirs.is_empty(), "not compared: {theirs:?}");
    assert!(HEADER.contains("#define UMCG_FUTEX_ONLY 0x1 "));
    assert!(HEADER.contains("#define UMCG_FOREVER UINT64_MAX"));
    for (name, most) in [("SERVERS", MAX_SERVERS), ("MEMBERS", MAX_MEMBERS)] {
        let line = format!("#define UMCG_MAX_{name} {most}");
        let found = HEADER.split(&line).nth(1);
        assert!(
            found.is_some_and(|rest| rest.starts_with(['\n', ' '])),
            "{line}"
        );
    }
    for (name, quantum) in [("MIN", QUANTUM_MIN), ("MAX", QUANTUM_MAX)] {
        let line = format!("#define UMCG_QUANTUM_{name}_NS {}\n", quantum.as_nanos());
        assert!(HEADER.contains(&line), "{line}");
    }
    assert_eq!(FOREVER, u64::MAX);
}
