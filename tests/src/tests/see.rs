//! What an operator is shown.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Test, short};
use crate::harness::{Sched, Verdict, wait_until};
use crate::load::Hog;

pub const TESTS: &[Test] = &[short(
    "vm_status_shows_longest_wait_and_rescued",
    "see",
    12,
    longest_wait,
)];

/// Two hogs on CPU 0 in strict order: the one with the higher thread id starves.
fn longest_wait() -> Result<Verdict> {
    let sched = Sched::start(&["--policy", "test-pid"])?;
    let pinned = Hog {
        cpu: Some(0),
        ..Hog::default()
    };
    let hogs = pinned.start_many(2)?;
    let loser = i64::from(hogs[0].pid().max(hogs[1].pid()));
    let long_wait = |status: &Value| {
        let wait = &status["longest_wait"];
        wait["pid"] == loser && wait["ms"].as_f64().is_some_and(|ms| ms > 500.0)
    };
    let seen = |done: &dyn Fn(&Value) -> bool| {
        let mut last = Value::Null;
        let found = wait_until(Duration::from_secs(20), || {
            last = sched.status().unwrap_or_default();
            done(&last)
        });
        ensure!(found, "pid {loser} should wait or be rescued: {last}");
        Ok(last)
    };
    let status = seen(&long_wait)?;
    let wait = &status["longest_wait"];
    ensure!(wait["cpu"] == 0, "it waits on CPU 0: {wait}");
    ensure!(wait["comm"] == "umcg-vmtest", "its name: {wait}");
    let on_cpu = status["cpus"][0]["longest_wait_ms"].as_f64();
    ensure!(on_cpu == wait["ms"].as_f64(), "the row of CPU 0: {status}");

    sched.signal(libc::SIGSTOP);
    let rescued = |status: &Value| {
        let workers = status["rescued"]["workers"].as_array();
        workers.is_some_and(|w| w.iter().any(|w| w["pid"] == loser))
    };
    let status = seen(&rescued)?;
    let total = status["rescued"]["total"].as_u64().context("no total")?;
    ensure!(total >= 1, "rescued: {}", status["rescued"]);
    seen(&long_wait).context("while the agent was stopped")?;
    sched.signal(libc::SIGCONT);
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}
