//! cpu.max that nobody keeps, by wish or by the kernel's lack, and that goes while threads wait.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Test, fair, full};
use crate::cgroup::{self, Cgroup};
use crate::harness::{self, Sched, Verdict, metric, sibling, sysfs, wait_until};
use crate::load::{Hog, Spinner, shares};

pub const TESTS: &[Test] = &[
    full("vm_full_cpu_max_can_be_ignored", "cgroups", 10, ignored),
    full(
        "vm_full_cpu_max_that_vanishes_frees_all",
        "cgroups",
        12,
        vanishes,
    ),
];

/// With `--ignore-cpu-max` a limit is none. Without, a kernel that does not tell of limits is no
/// kernel for full mode while there is one.
fn ignored() -> Result<Verdict> {
    let limited = Cgroup::new("umcg-max")?;
    limited.set("cpu.max", "20000 100000")?;
    let sched = Sched::start(&["--ignore-cpu-max"])?;
    let used = fair::used_by(&limited, 1, Duration::from_secs(3))?;
    metric("cpu_max_ignored", &[("cpus", used)]);
    ensure!(used > 0.85, "a hog got {used:.2} of a CPU all the same");
    sched.stop()?;
    if scx_umcg::kernel::tells_of_limits() {
        return Ok(Verdict::Ok);
    }
    let out = Command::new(sibling("scx_umcg")).output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.code() == Some(3), "{:?}: {text}", out.status);
    ensure!(
        text.contains("umcg-max") && text.contains("--ignore-cpu-max"),
        "says {text:?}"
    );
    ensure!(sysfs("state") == "disabled", "state {:?}", sysfs("state"));
    Ok(Verdict::Ok)
}

/// Each of `hogs`, which waited for tokens, runs within a second; how long the slowest took, in ms.
pub fn all_run_again(hogs: &[Spinner]) -> Result<f64> {
    let mut worst = 0.0f64;
    for hog in hogs {
        let (began, before) = (Instant::now(), hog.cpu_seconds()?);
        let ran = wait_until(Duration::from_secs(1), || {
            hog.cpu_seconds().is_ok_and(|now| now > before)
        });
        ensure!(ran, "a hog waits on 1 s after its limit is gone");
        worst = worst.max(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(worst)
}

/// All members wait for tokens as the controller is taken away from their cgroup, and as they
/// are moved to the root.
fn vanishes() -> Result<Verdict> {
    if !scx_umcg::kernel::tells_of_limits() {
        return Ok(Verdict::Skip(
            "this kernel does not tell of cpu.max".to_owned(),
        ));
    }
    let sched = harness::shared()?;
    let parent = Cgroup::new("umcg-a")?;
    for by_move in [false, true] {
        let limited = parent.child("x")?;
        limited.set("cpu.max", "1000 1000000")?;
        let hogs = Hog::default().start_many(8)?;
        for hog in &hogs {
            limited.add(hog.pid())?;
        }
        std::thread::sleep(Duration::from_secs(1));
        let held: f64 = shares(&hogs, Duration::from_millis(500))?.iter().sum();
        ensure!(held < 0.1, "hogs below 0.1 % got {held:.2} s of 0.5 s");
        if by_move {
            for hog in &hogs {
                cgroup::leave(hog.pid())?;
            }
        } else {
            parent.set("cgroup.subtree_control", "-cpu")?;
        }
        let worst = all_run_again(&hogs)?;
        metric(
            "cpu_max_vanished",
            &[("by_move", f64::from(by_move)), ("worst_ms", worst)],
        );
        let free: f64 = shares(&hogs, Duration::from_secs(1))?.iter().sum();
        ensure!(free > 1.5, "8 hogs got {free:.2} s of 2 s when free");
        drop(hogs);
    }
    let illegal = sched.counter("edge_illegal")?;
    ensure!(illegal == 0, "{illegal} illegal edges");
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
