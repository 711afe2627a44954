//! Who hands over to whom on one CPU: what waits on a local queue has its turn as well.

use anyhow::{Result, ensure};

use super::{Test, full};
use crate::harness::{Sched, Verdict, metric};
use crate::load;
use crate::relay;

pub const TESTS: &[Test] = &[Test {
    tries: 3,
    ..full(
        "vm_full_nohz_wakee_has_its_turn",
        "nohz,cpus=3,append=nohz_full=2",
        20,
        nohz_wakee,
    )
}];

/// A thread that was short so far wakes its pinned partner on a nohz_full CPU, where nobody else
/// waits and no tick ends a slice, and then never sleeps again. What ended such waits before were
/// kernel threads of that CPU, once or twice a second, or the watchdog.
fn nohz_wakee() -> Result<Verdict> {
    load::pin(0, 0);
    let sched = Sched::start(&["--timeout-ms", "3000"])?;
    let mut worst = 0.0f64;
    for _ in 0..12 {
        let late = relay::hand_over_and_spin(2)?;
        worst = worst.max(late.as_secs_f64() * 1e3);
    }
    load::unpin(0);
    metric("nohz_wakee", &[("worst_ms", worst)]);
    sched.no_ejection()?;
    ensure!(
        worst < 200.0,
        "behind a waker that does not sleep its wakee waited {worst:.0} ms"
    );
    sched.stop()?;
    Ok(Verdict::Ok)
}
