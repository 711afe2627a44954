//! One suite that every policy passes, both ways it can decide: the contract of `umcg_policy`
//! against a simple model.

mod suite;

use suite::{BYTES, CALLS, Pick, suite};
use umcg_policy::{Decide, NAMES, create};

const HIDDEN: &[&str] = &["test-pid", "test-pid-reverse", "test-weight"];

/// Every policy x decide that exists, and the refusal of those that do not.
fn for_all(name: &str) {
    let mut ways = 0;
    // quota picks by what is owed to a tier, which is no key.
    let pick = match name {
        "quota" => Pick::Any,
        _ => Pick::ByKey,
    };
    for decide in [Decide::Keyed, Decide::Staged] {
        let traits = create(name, None, 1).expect(name).traits();
        let can = match decide {
            Decide::Keyed => traits.keyed,
            Decide::Staged => traits.staged,
        };
        if can {
            suite(pick, |capacity| {
                create(name, Some(decide), capacity).expect(name)
            });
            ways += 1;
        } else {
            create(name, Some(decide), 1).expect_err("not among its traits");
        }
    }
    assert!(ways > 0, "{name}");
}

#[test]
fn suite_fair() {
    for_all("fair");
}

#[test]
fn suite_fifo() {
    for_all("fifo");
}

#[test]
fn suite_lifo() {
    for_all("lifo");
}

#[test]
fn suite_rr() {
    for_all("rr");
}

#[test]
fn suite_arrival() {
    for_all("arrival");
}

#[test]
fn suite_priority() {
    for_all("priority");
}

#[test]
fn suite_deadline() {
    for_all("deadline");
}

#[test]
fn suite_quota() {
    for_all("quota");
}

#[test]
fn suite_test_pid() {
    for_all("test-pid");
}

#[test]
fn suite_test_pid_reverse() {
    for_all("test-pid-reverse");
}

#[test]
fn suite_test_weight() {
    for_all("test-weight");
}

#[test]
fn suite_covers_all_names() {
    let run = [
        "fair", "fifo", "lifo", "rr", "arrival", "priority", "deadline", "quota",
    ];
    assert_eq!(NAMES, run, "give the new policy a suite_ test");
}

#[test]
fn allocator_calls_are_counted() {
    let before = CALLS.get();
    let mut vec = std::hint::black_box(vec![1u64]);
    vec.extend_from_slice(&[2; 100]);
    drop(std::hint::black_box(vec));
    let calls = CALLS.get() - before;
    assert!(calls >= 3, "new, grown and freed, but counted {calls}");
}

#[test]
fn allocated_bytes_are_as_told() {
    const CAPACITY: u32 = 1 << 16;
    for name in NAMES.iter().chain(HIDDEN) {
        for decide in [Decide::Keyed, Decide::Staged] {
            let before = BYTES.get();
            let Ok(policy) = create(name, Some(decide), CAPACITY) else {
                continue;
            };
            let taken = BYTES.get() - before;
            let told = policy.bytes_per_worker() as u64 * u64::from(CAPACITY);
            assert!(
                (told..told + 1024).contains(&taken),
                "{name} {decide}: took {taken} bytes, told {told}"
            );
        }
    }
}
