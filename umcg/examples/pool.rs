//! N:M: 40 tasks that sleep and compute, on two servers, with a shared ready queue and
//! with a queue per server; then the same under another policy.

use std::time::Duration;

use umcg::runtime::{Builder, Queue, sleep};

fn task(number: u64) -> u64 {
    let mut sum = 0u64;
    for round in 0..5 {
        sleep(Duration::from_millis(4));
        for i in 0..20_000 {
            sum = sum.wrapping_mul(31).wrapping_add(number ^ round ^ i);
        }
    }
    sum
}

fn main() -> umcg::Result<()> {
    let expected: u64 = (0..40).map(task_without_sleep).fold(0, u64::wrapping_add);
    for (policy, queue) in [
        ("fifo", Queue::Shared),
        ("fifo", Queue::PerServer),
        ("fair", Queue::Shared),
    ] {
        let runtime = Builder::new()
            .servers(2)
            .policy(policy)
            .queue(queue)
            .build()?;
        let tasks: Vec<_> = (0..40).map(|n| runtime.spawn(move || task(n))).collect();
        let sums = tasks
            .into_iter()
            .map(|task| task.join().expect("no task panics"));
        assert_eq!(sums.fold(0, u64::wrapping_add), expected);
        let stats = runtime.shutdown();
        println!(
            "{policy}, {queue:?}: {} tasks, {} runs, {} waits, {} stolen, {} threads",
            stats.completed, stats.runs, stats.waits, stats.stolen, stats.threads
        );
    }
    println!("done");
    Ok(())
}

fn task_without_sleep(number: u64) -> u64 {
    let mut sum = 0u64;
    for round in 0..5 {
        for i in 0..20_000 {
            sum = sum.wrapping_mul(31).wrapping_add(number ^ round ^ i);
        }
    }
    sum
}
