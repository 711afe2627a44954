//! Servers whose waits are long enough for the sweep to let them sleep for real.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use umcg::Reason;
use umcg::backend::Backend;
use umcg::kernel::sys;
use umcg::word::State;

use super::group::{in_client, with_server};
use super::{Test, short};
use crate::client::{join_all, serve, worker};
use crate::harness::Verdict;

pub const TESTS: &[Test] = &[
    short(
        "vm_group_server_with_news_is_running_unprivileged",
        "group",
        3,
        server_with_news,
    ),
    short(
        "vm_group_long_run_is_a_wait_unprivileged",
        "group",
        3,
        long_run,
    ),
];

/// After a second its server has slept twice in one `run`. Were that a block, the server's other
/// workers would be let run beside the one that it runs.
fn long_run() -> Result<Verdict> {
    in_client(|| {
        with_server(2, |group, me| {
            let server = me;
            let one = worker(group, 0, move |group, _| {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(1600) {
                    std::hint::spin_loop();
                }
                let state = group.state(server)?.state;
                ensure!(state == State::Idle, "its server is {state:?}");
                Ok(())
            });
            serve(group, me, 1)?;
            join_all(vec![one])
        })
    })
}

/// Poked after 8 ms of parking and before the sweep let it sleep for real, or after that: what it
/// blocks in from then on has to be an edge, as its workers may own what it waits for.
fn server_with_news() -> Result<Verdict> {
    in_client(|| {
        with_server(2, |group, me| {
            let sleeper = worker(group, 0, |_, _| {
                for nth in 0..60 {
                    std::thread::sleep(Duration::from_micros(8200 + 100 * nth));
                }
                Ok(())
            });
            let mut waits = 0;
            loop {
                let began = sys::now_ns();
                let event = group.next_event(me, u64::MAX)?;
                if event.reason == Reason::Exited {
                    break;
                }
                if sys::now_ns() - began > 8_000_000 {
                    waits += 1;
                    let state = group.state(me)?.state;
                    ensure!(state == State::Running, "back from a wait: {state:?}");
                }
                if let Ok(event) = group.run(me, event.worker, u64::MAX)
                    && event.reason == Reason::Exited
                {
                    break;
                }
            }
            join_all(vec![sleeper])?;
            ensure!(waits > 5, "only {waits} waits of 8 ms and more");
            Ok(())
        })
    })
}
