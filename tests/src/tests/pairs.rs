//! Who hands over to whom on one CPU: what waits on a local queue has its turn as well.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Test, fair, full};
use crate::harness::{self, Sched, Verdict, metric};
use crate::load::{self, shares};
use crate::relay;

pub const TESTS: &[Test] = &[
    Test {
        tries: 3,
        ..full(
            "vm_full_nohz_wakee_has_its_turn",
            "nohz,cpus=3,append=nohz_full=2",
            20,
            nohz_wakee,
        )
    },
    Test {
        tries: 3,
        ..full("vm_full_pair_starves_no_third", "fair", 14, third)
    },
    full("vm_full_lone_hog_asks_no_server", "fair", 6, lone),
];

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

/// A pair and a hog on CPU 0, a hog on CPU 1, whose clock goes faster. Between a third of CPU 0, as of
/// three threads, and half of it, as the ends of the pair never run at once, is the hog's: neither
/// starves. Without hogs the pair's wake-ups, which are SYNC ones, need no dispatch.
fn third() -> Result<Verdict> {
    let sched = harness::shared()?;
    let pair = relay::pair(0)?;
    std::thread::sleep(Duration::from_millis(300));
    let before = sched.counter("sync_local")?;
    std::thread::sleep(Duration::from_secs(1));
    let handed = sched.counter("sync_local")? - before;
    let mut all = vec![fair::pinned(0, 0)?, fair::pinned(1, 0)?];
    all.extend(pair);
    std::thread::sleep(Duration::from_millis(300));
    let got = shares(&all, Duration::from_secs(5))?;
    let share = got[0] / (got[0] + got[2] + got[3]);
    metric(
        "pair_and_third",
        &[("share", share), ("handed_down", handed as f64)],
    );
    ensure!(handed > 500, "{handed} SYNC wake-ups stayed local in 1 s");
    ensure!(
        (0.32..=0.55).contains(&share),
        "a hog beside a pair got {:.1} % of its CPU",
        share * 100.0
    );
    drop(all);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Who has a CPU alone keeps it slice after slice, and no server runs for that.
fn lone() -> Result<Verdict> {
    let sched = harness::shared()?;
    let hog = fair::pinned(0, 0)?;
    std::thread::sleep(Duration::from_secs(1));
    let read =
        || -> Result<[u64; 2]> { Ok([sched.counter("refilled")?, sched.counter("activations")?]) };
    let before = read()?;
    std::thread::sleep(Duration::from_secs(3));
    let after = read()?;
    let [refilled, activations] = [after[0] - before[0], after[1] - before[1]];
    metric(
        "lone_hog",
        &[
            ("refilled", refilled as f64),
            ("activations", activations as f64),
        ],
    );
    ensure!(refilled > 100, "{refilled} slices were refilled in 3 s");
    ensure!(
        activations < 10,
        "{activations} activations for a hog that is alone"
    );
    drop(hog);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
