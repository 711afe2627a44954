//! What tasks of a runtime wait with, over the daemon, as nobody: channels, locks and conditions
//! between tasks that also block in the kernel, and threads that are none.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::runtime::{self, Builder, Condvar, JoinHandle, Mutex, Queue, channel};
use umcg::{Mode, Runtime};

use super::{Test, short};
use crate::boss::in_client;

pub const TESTS: &[Test] = &[
    short(
        "vm_group_runtime_channel_selftest_unprivileged",
        "group",
        4,
        || in_client(|| by_queue(conserves)),
    ),
    short(
        "vm_group_runtime_locks_selftest_unprivileged",
        "group",
        4,
        || in_client(|| by_queue(excludes)),
    ),
];

/// On two servers, each way to queue.
fn by_queue(body: fn(&Runtime) -> Result<()>) -> Result<()> {
    for queue in [Queue::Shared, Queue::PerServer] {
        let runtime = Builder::new().servers(2).queue(queue).build()?;
        let mode = runtime.group().mode();
        ensure!(matches!(mode, Mode::Kernel { .. }), "mode {mode}");
        body(&runtime)?;
        let stats = runtime.shutdown();
        ensure!(
            stats.spawned == stats.completed && stats.panicked == 0,
            "{queue:?}: {stats:?}"
        );
    }
    Ok(())
}

fn end<T>(task: JoinHandle<T>) -> Result<T> {
    task.join().map_err(|_| anyhow::anyhow!("a task panicked"))
}

fn nap(number: u64) {
    if number.is_multiple_of(97) {
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Many senders, a thread that is no task among them, and many receivers over a channel that is
/// full most of the time: each message once.
fn conserves(runtime: &Runtime) -> Result<()> {
    const SENDERS: u64 = 4;
    const COUNT: u64 = 500;
    let (send, receive) = channel::<u64>(4);
    let receivers: Vec<_> = (0..3)
        .map(|_| {
            let receive = receive.clone();
            runtime.spawn(move || {
                let (mut sum, mut received) = (0, 0);
                while let Some(message) = receive.recv() {
                    nap(message);
                    sum += message;
                    received += 1;
                }
                (sum, received)
            })
        })
        .collect();
    let send_all = |send: runtime::Sender<u64>| {
        move || {
            for message in 0..COUNT {
                nap(message + 7);
                send.send(message).expect("somebody listens");
            }
        }
    };
    let senders: Vec<_> = (1..SENDERS)
        .map(|_| runtime.spawn(send_all(send.clone())))
        .collect();
    let outside = std::thread::spawn(send_all(send));
    senders.into_iter().try_for_each(end)?;
    ensure!(outside.join().is_ok(), "the thread panicked");
    let mut total = (0, 0);
    for receiver in receivers {
        let (sum, received) = end(receiver)?;
        total = (total.0 + sum, total.1 + received);
    }
    let all = (SENDERS * COUNT * (COUNT - 1) / 2, SENDERS * COUNT);
    ensure!(total == all, "sum and count {total:?}, want {all:?}");
    Ok(())
}

/// A lock that its holders give up the slot with, and block in the kernel with; a condition that
/// a task and a thread that is none wait for, and one that nobody notifies.
fn excludes(runtime: &Runtime) -> Result<()> {
    const TASKS: u64 = 8;
    const COUNT: u64 = 250;
    let shared = Arc::new((Mutex::new(0u64), Condvar::new()));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let shared = shared.clone();
            runtime.spawn(move || {
                for _ in 0..COUNT {
                    let mut count = shared.0.lock();
                    let seen = *count;
                    if seen.is_multiple_of(16) {
                        runtime::yield_now();
                    }
                    nap(seen);
                    *count = seen + 1;
                    if seen + 1 == TASKS * COUNT {
                        shared.1.notify_all();
                    }
                }
            })
        })
        .collect();
    let until_all = |shared: &(Mutex<u64>, Condvar)| {
        let mut count = shared.0.lock();
        while *count < TASKS * COUNT {
            count = shared.1.wait(count);
        }
        *count
    };
    let theirs = shared.clone();
    let waiter = runtime.spawn(move || until_all(&theirs));
    let seen = [until_all(&shared), end(waiter)?];
    ensure!(seen == [TASKS * COUNT; 2], "{seen:?} of {}", TASKS * COUNT);
    tasks.into_iter().try_for_each(end)?;
    let timed = runtime.spawn(move || {
        let late = umcg::after(Duration::from_millis(5));
        let (_count, notified) = shared.1.wait_until(shared.0.lock(), late);
        (notified, umcg::now() >= late)
    });
    let (notified, late) = end(timed)?;
    ensure!(!notified && late, "notified {notified}, late {late}");
    Ok(())
}
