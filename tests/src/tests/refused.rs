//! Requests that are refused again and again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::sys;

use super::group::with_server;
use super::{Test, timed};
use crate::client::{self, is_sound, join_all, worker};
use crate::harness::{self, Verdict, metric};
use crate::load::{self, Hog, shares};

pub const TESTS: &[Test] = &[timed(
    "vm_group_refused_requests_wait_their_turn_unprivileged",
    "group",
    6,
    refused,
)];

const LIMIT: Duration = Duration::from_secs(60);
const CPU: usize = 0;
const LASTS: Duration = Duration::from_secs(3);

/// A server that asks for a worker which sleeps, all the time.
fn asks() -> Result<()> {
    load::pin(0, CPU);
    with_server(2, |group, me| {
        let sleeper = worker(group, 0, |_, _| {
            std::thread::sleep(LASTS);
            Ok(())
        });
        let new = group.next_event(me, u64::MAX)?;
        let (began, mut refusals) = (Instant::now(), 0u64);
        let mut left = false;
        while began.elapsed() < LASTS {
            // Until it sleeps it runs.
            match group.run(me, new.worker, sys::now_ns() + 1_000_000) {
                Ok(event) => left = event.reason == umcg::Reason::Exited,
                Err(_) => refusals += 1,
            }
        }
        if !left {
            client::serve(group, me, 1)?;
        }
        join_all(vec![sleeper])?;
        ensure!(refusals > 1000, "only {refusals} refusals");
        Ok(())
    })
}

/// Who waits on its CPU gets the share of any other thread.
fn refused() -> Result<Verdict> {
    let sched = harness::shared()?;
    let client = client::spawn(asks)?;
    let hogs = Hog {
        cpu: Some(CPU),
        ..Hog::default()
    }
    .start_many(1)?;
    std::thread::sleep(Duration::from_millis(500));
    let got = shares(&hogs, Duration::from_secs(2))?[0];
    metric("group_refused", &[("hog", got / 2.0)]);
    drop(hogs);
    client.result(LIMIT)?;
    is_sound(&sched)?;
    ensure!(
        got > 0.6,
        "beside a server that is refused a hog got {got:.2} s of 2 s"
    );
    Ok(Verdict::Ok)
}
