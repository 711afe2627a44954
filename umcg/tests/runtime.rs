//! The runtime: tasks, waiting, policies, limits, shutdown.

#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use umcg::policy::{Attrs, Refused};
use umcg::runtime::{self, Builder, Condvar, Mutex, Queue, assign, channel};
use umcg::{GroupConfig, Preempt, Runtime};

fn builder() -> Builder {
    Builder::new().group(GroupConfig {
        futex_only: true,
        ..GroupConfig::default()
    })
}

/// Each shape that a runtime can have, and each policy.
fn shapes() -> Vec<Runtime> {
    let shapes = [
        (1, Queue::Shared, "fifo"),
        (2, Queue::Shared, "fifo"),
        (3, Queue::PerServer, "fifo"),
        (2, Queue::PerServer, "fair"),
        (2, Queue::Shared, "fair"),
        (1, Queue::Shared, "lifo"),
        (2, Queue::Shared, "rr:slice_us=2000"),
        (2, Queue::Shared, "arrival"),
        (2, Queue::PerServer, "priority"),
        (2, Queue::Shared, "deadline"),
        (1, Queue::Shared, "quota"),
    ];
    let build = |(servers, queue, policy)| {
        let builder = builder().servers(servers).queue(queue).policy(policy);
        builder.build().expect("a runtime")
    };
    shapes.into_iter().map(build).collect()
}

#[test]
fn runtime_join_returns_results_and_panics() {
    for runtime in shapes() {
        let good = runtime.spawn(|| 42);
        let bad = runtime.spawn(|| std::panic::resume_unwind(Box::new("bad")));
        assert_eq!(good.join().expect("no panic"), 42);
        let panic = bad.join().expect_err("it panics");
        assert_eq!(*panic.downcast::<&str>().expect("a text"), "bad");
        let stats = runtime.shutdown();
        assert_eq!((stats.spawned, stats.completed, stats.panicked), (2, 1, 1));
    }
}

#[test]
fn runtime_never_runs_more_than_its_servers() {
    for servers in [1, 2] {
        let runtime = builder().servers(servers).build().expect("a runtime");
        let running = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let running = running.clone();
                runtime.spawn(move || {
                    for _ in 0..200 {
                        let now = running.fetch_add(1, SeqCst) + 1;
                        assert!(now <= servers, "{now} run on {servers} servers");
                        running.fetch_sub(1, SeqCst);
                        runtime::yield_now();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.join().expect("no panic");
        }
    }
}

#[test]
fn runtime_channel_conserves_messages() {
    for runtime in shapes() {
        let (send, receive) = channel::<u64>(4);
        let (count, senders) = (5_000, 4);
        let receivers: Vec<_> = (0..3)
            .map(|_| {
                let receive = receive.clone();
                runtime.spawn(move || {
                    let (mut sum, mut received) = (0, 0);
                    while let Some(message) = receive.recv() {
                        sum += message;
                        received += 1;
                    }
                    (sum, received)
                })
            })
            .collect();
        for _ in 0..senders {
            let send = send.clone();
            runtime.spawn(move || {
                for message in 0..count {
                    send.send(message).expect("somebody listens");
                }
            });
        }
        drop(send);
        let mut total = (0, 0);
        for receiver in receivers {
            let (sum, received) = receiver.join().expect("no panic");
            total = (total.0 + sum, total.1 + received);
        }
        let expected = (senders * count * (count - 1) / 2, senders * count);
        assert_eq!(total, expected);
    }
}

#[test]
fn runtime_channel_says_when_the_other_end_is_gone() {
    let runtime = builder().build().expect("a runtime");
    let (send, receive) = channel(1);
    drop(receive);
    assert_eq!(
        runtime
            .spawn(move || send.send(7))
            .join()
            .expect("no panic"),
        Err(runtime::Closed(7))
    );
    let (send, receive) = channel::<u8>(1);
    drop(send);
    assert_eq!(receive.recv(), None);
}

#[test]
fn runtime_mutex_excludes_and_condvar_wakes() {
    for runtime in shapes() {
        let shared = Arc::new((Mutex::new(0u64), Condvar::new()));
        let adders: Vec<_> = (0..8)
            .map(|_| {
                let shared = shared.clone();
                runtime.spawn(move || {
                    for _ in 0..2_000 {
                        let mut count = shared.0.lock();
                        let seen = *count;
                        if seen.is_multiple_of(64) {
                            runtime::yield_now();
                        }
                        *count = seen + 1;
                        if seen + 1 == 16_000 {
                            shared.1.notify_all();
                        }
                    }
                })
            })
            .collect();
        let mut count = shared.0.lock();
        while *count < 16_000 {
            count = shared.1.wait(count);
        }
        drop(count);
        for adder in adders {
            adder.join().expect("no panic");
        }
        assert_eq!(*shared.0.lock(), 16_000);
    }
}

#[test]
fn runtime_condvar_timeout_says_so() {
    let runtime = builder().build().expect("a runtime");
    let notified = runtime.spawn(|| {
        let (mutex, condvar) = (Mutex::new(()), Condvar::new());
        let until = umcg::after(Duration::from_millis(2));
        let mut notified = true;
        while notified || umcg::now() < until {
            (_, notified) = condvar.wait_until(mutex.lock(), until);
        }
        notified
    });
    assert!(!notified.join().expect("no panic"));
}

#[test]
fn runtime_sleepers_overlap_on_one_server() {
    let runtime = builder().build().expect("a runtime");
    let start = umcg::now();
    let tasks: Vec<_> = (0..50)
        .map(|_| runtime.spawn(|| runtime::sleep(Duration::from_millis(50))))
        .collect();
    for task in tasks {
        task.join().expect("no panic");
    }
    let took = Duration::from_nanos(umcg::now() - start);
    assert!(took >= Duration::from_millis(50), "{took:?}");
    // One after the other would be 2.5 s.
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[test]
fn runtime_back_pressure_bounds_tasks_and_threads() {
    let runtime = builder().max_workers(3).build().expect("a runtime");
    let under_way = Arc::new(AtomicUsize::new(0));
    for _ in 0..200 {
        assert!(under_way.load(SeqCst) <= 3);
        under_way.fetch_add(1, SeqCst);
        let done = under_way.clone();
        runtime.spawn(move || {
            runtime::yield_now();
            done.fetch_sub(1, SeqCst);
        });
    }
    let stats = runtime.shutdown();
    assert_eq!(stats.completed, 200);
    assert!(stats.threads <= 3, "{stats:?}");
}

#[test]
fn runtime_threads_are_used_again() {
    let runtime = builder().build().expect("a runtime");
    for _ in 0..500 {
        runtime.spawn(|| ()).join().expect("no panic");
    }
    let stats = runtime.shutdown();
    assert_eq!(stats.completed, 500);
    // A thread that filled its result may not be back in the cache yet.
    assert!(stats.threads < 400, "{stats:?}");
}

#[test]
fn runtime_tasks_spawn_tasks() {
    fn tree(handle: &runtime::Handle, depth: u32) -> u64 {
        if depth == 0 {
            return 1;
        }
        let halves: Vec<_> = (0..2)
            .map(|_| {
                let inner = handle.clone();
                handle.spawn(move || tree(&inner, depth - 1))
            })
            .collect();
        halves
            .into_iter()
            .map(|it| it.join().expect("no panic"))
            .sum()
    }
    for runtime in shapes() {
        let handle = runtime.handle();
        let inner = handle.clone();
        let root = handle.spawn(move || tree(&inner, 6));
        assert_eq!(root.join().expect("no panic"), 64);
    }
}

#[test]
fn runtime_quantum_lets_others_run_beside_a_hog() {
    let runtime = Builder::new()
        .group(GroupConfig {
            futex_only: true,
            preempt: Preempt::Signal(libc::SIGURG),
            ..GroupConfig::default()
        })
        .quantum(Duration::from_millis(1))
        .build()
        .expect("a runtime");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = stop.clone();
    let hog = runtime.spawn(move || while !seen.load(SeqCst) {});
    // Would wait for ever: the hog makes no call of the library.
    for _ in 0..5 {
        runtime.spawn(|| ()).join().expect("no panic");
    }
    stop.store(true, SeqCst);
    hog.join().expect("no panic");
    assert!(runtime.shutdown().preempted > 0);
}

#[test]
fn runtime_tasks_run_by_what_they_ask_for() {
    let runtime = builder()
        .policy("priority:aging_ms=0")
        .build()
        .expect("a runtime");
    let handle = runtime.handle();
    let levels = [25, 22, 30, 21, 28];
    let parent = runtime.spawn(move || {
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks = levels.map(|level| {
            let order = order.clone();
            handle.spawn(move || {
                // Behind all that have not asked yet: those count as level 20.
                let attrs = Attrs {
                    level: Some(level),
                    ..Attrs::default()
                };
                assign(&attrs).expect("a level");
                order.lock().push(level);
            })
        });
        // Keeps the one slot until all of them wait for it.
        std::thread::sleep(Duration::from_millis(200));
        for task in tasks {
            task.join().expect("no panic");
        }
        order.lock().clone()
    });
    assert_eq!(parent.join().expect("no panic"), [21, 22, 25, 28, 30]);
}

#[test]
fn runtime_refuses_what_its_policy_does() {
    let level = |level| Attrs {
        level: Some(level),
        ..Attrs::default()
    };
    assert_eq!(assign(&level(3)), Err(Refused::NoTask));
    for (policy, queue) in [("priority", Queue::PerServer), ("fifo", Queue::Shared)] {
        let builder = builder().servers(2).queue(queue).policy(policy);
        let runtime = builder.build().expect("a runtime");
        let task = runtime.spawn(move || (assign(&level(39)), assign(&level(40))));
        let (good, bad) = task.join().expect("no panic");
        assert_eq!(good.is_ok(), policy == "priority");
        assert!(bad.is_err());
    }
    // What a weight does to turns: src/runtime/ready.rs.
    let weight = |weight| Attrs {
        weight: Some(weight),
        ..Attrs::default()
    };
    let builder = builder().servers(2).queue(Queue::PerServer).policy("fair");
    let runtime = builder.build().expect("a runtime");
    let task = runtime.spawn(move || [300, 0].map(|asked| assign(&weight(asked))));
    let [good, bad] = task.join().expect("no panic");
    assert_eq!(good, Ok(()));
    assert!(matches!(bad, Err(Refused::Range { attr: "weight", .. })));
}

#[test]
fn runtime_slices_of_a_policy_end_a_hog() {
    let config = GroupConfig {
        futex_only: true,
        preempt: Preempt::Signal(libc::SIGURG),
        ..GroupConfig::default()
    };
    let builder = Builder::new().group(config).policy("rr:slice_us=2000");
    let runtime = builder.build().expect("a runtime");
    let hog = runtime.spawn(|| {
        let end = umcg::now() + 300_000_000;
        while umcg::now() < end {}
        umcg::now()
    });
    let short = runtime.spawn(umcg::now);
    let (hog, short) = (
        hog.join().expect("no panic"),
        short.join().expect("no panic"),
    );
    assert!(short < hog, "no slice ended the hog");
}

#[test]
fn runtime_bad_numbers_are_invalid() {
    for bad in [
        builder().servers(0),
        builder().servers(512),
        builder().max_workers(0),
        builder().max_workers(70_000),
    ] {
        let error = bad.build().expect_err("refused");
        assert_eq!(error.kind(), umcg::ErrorKind::Invalid);
    }
    let error = builder().policy("nonsense").build().expect_err("refused");
    assert_eq!(error.kind(), umcg::ErrorKind::Policy);
}

#[test]
fn runtime_drop_waits_for_its_tasks() {
    let done = Arc::new(AtomicUsize::new(0));
    let shapes = shapes();
    let tasks = 10 * shapes.len();
    for runtime in shapes {
        for _ in 0..10 {
            let done = done.clone();
            runtime.spawn(move || {
                runtime::sleep(Duration::from_millis(3));
                done.fetch_add(1, SeqCst);
            });
        }
    }
    assert_eq!(done.load(SeqCst), tasks);
}
