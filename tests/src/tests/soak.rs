//! The chaos soak, in its short form.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Test, full};
use crate::harness::{Verdict, end_shared};
use crate::soak::{Args, run};

pub const TESTS: &[Test] = &[full(
    "vm_full_soak_half_a_minute",
    "soak,newest",
    110,
    half_a_minute,
)];

/// Within half a minute it deals all kinds but two: no `hostile`, no `end_agent`.
const SEED: u64 = 7470;

fn half_a_minute() -> Result<Verdict> {
    end_shared();
    let report = run(Args {
        time: Duration::from_secs(30),
        seed: SEED,
    })?;
    let first = report.violations.first();
    ensure!(
        first.is_none(),
        "{} violations; the first: {}",
        report.violations.len(),
        first.map_or("", String::as_str)
    );
    Ok(Verdict::Ok)
}
