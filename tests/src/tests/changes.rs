//! What `docs/operations.md#what-changes` tells an operator.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Test, timed};
use crate::harness::{self, Sched, Verdict, adopt, metric, wait_until};
use crate::load::{self, Hog, Spinner, shares};

pub const TESTS: &[Test] = &[timed(
    "vm_what_changes_is_so",
    "see,newest",
    35,
    what_changes,
)];

/// What a command prints, trimmed; a failure is what it says then.
fn said(command: &[&str]) -> Result<String> {
    let out = Command::new(command[0]).args(&command[1..]).output()?;
    let text = [out.stdout, out.stderr].concat();
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

fn classes(sched_args: &[&str]) -> Result<()> {
    let sched = Sched::start(sched_args)?;
    let partial = !sched_args.is_empty();
    // One that sleeps: a SCHED_FIFO hog would keep a CPU's kernel threads off, ours among those
    // that wait for them.
    let normal = Command::new("sleep").arg("1000").spawn()?;
    adopt(normal.id());
    let (tid, pid) = (normal.id() as i32, normal.id().to_string());
    let shown = (
        said(&["ps", "-o", "cls=", "-p", &pid])?,
        said(&["chrt", "-p", &pid])?,
    );
    ensure!(
        shown.0 == "TS" && shown.1.contains("SCHED_OTHER"),
        "ps and chrt show {shown:?}"
    );
    ensure!(
        load::is_ext(tid)? != partial,
        "partial {partial}: ext.enabled of a normal thread"
    );
    said(&["chrt", "-f", "-p", "1", &pid])?;
    let shown = said(&["ps", "-o", "cls=", "-p", &pid])?;
    ensure!(
        shown == "FF" && !load::is_ext(tid)?,
        "a SCHED_FIFO thread: {shown:?}"
    );
    let ext = Hog {
        ext: true,
        ..Hog::default()
    }
    .start()?;
    std::thread::sleep(Duration::from_millis(300));
    let pid = ext.pid().to_string();
    println!(
        "SCHED_EXT: ps {:?}, chrt {:?}",
        said(&["ps", "-o", "cls=", "-p", &pid])?,
        said(&["chrt", "-p", &pid])?
    );
    ensure!(load::is_ext(ext.pid())?, "a SCHED_EXT thread is a worker");
    drop(ext);
    sched.stop()
}

/// The share of CPU 0 that a hog alone in its session gets beside three in another one.
fn lone_session() -> Result<f64> {
    let hog = Hog {
        cpu: Some(0),
        ..Hog::default()
    };
    let mut hogs = hog.start_many(3)?;
    hogs.push(
        Hog {
            session: true,
            ..hog
        }
        .start()?,
    );
    std::thread::sleep(Duration::from_millis(500));
    let got = shares(&hogs, Duration::from_secs(3))?;
    Ok(got[3] / got.iter().sum::<f64>())
}

/// RLIMIT_CPU of 1 s ends a process that spins.
fn cpu_limit() -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -t 1; while :; do :; done"]);
    let mut child = command.spawn()?;
    adopt(child.id());
    let mut status = None;
    wait_until(Duration::from_secs(20), || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    let used = load::cpu_seconds(child.id() as i32).unwrap_or_default();
    let status = status.with_context(|| format!("still runs after {used:.1} s of CPU time"))?;
    ensure!(
        matches!(status.signal(), Some(libc::SIGXCPU | libc::SIGKILL)),
        "ended with {status}"
    );
    Ok(())
}

/// CPU time of a cgroup, and the delay of a thread that waits for its CPU, are counted.
fn accounts() -> Result<()> {
    let dir = "/sys/fs/cgroup/umcg-accounts";
    fs::create_dir_all(dir)?;
    let hogs: Vec<Spinner> = Hog {
        cpu: Some(0),
        ..Hog::default()
    }
    .start_many(2)?;
    let pid = hogs[0].pid();
    fs::write(format!("{dir}/cgroup.procs"), pid.to_string())?;
    let read = || -> Result<(u64, u64)> {
        let stat = fs::read_to_string(format!("{dir}/cpu.stat"))?;
        let usage = stat.lines().find_map(|l| l.strip_prefix("usage_usec "));
        let delay = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
        let delay = delay.split_whitespace().nth(1).context("schedstat")?;
        Ok((usage.context("cpu.stat")?.parse()?, delay.parse()?))
    };
    let before = read()?;
    std::thread::sleep(Duration::from_secs(2));
    let after = read()?;
    drop(hogs);
    let (used, waited) = (after.0 - before.0, (after.1 - before.1) / 1000);
    fs::remove_dir(dir)?;
    ensure!(
        (700_000..1_300_000).contains(&used) && (700_000..1_300_000).contains(&waited),
        "one of two hogs on a CPU in 2 s: {used} us used, {waited} us waited"
    );
    Ok(())
}

fn nice_limit() -> Result<()> {
    let out = Command::new("nice")
        .args(["-n", "-5", "true"])
        .uid(65534)
        .gid(65534)
        .output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        text.contains("ermission denied"),
        "nice -n -5 says {text:?}"
    );
    Ok(())
}

fn what_changes() -> Result<Verdict> {
    classes(&[])?;
    classes(&["--partial"])?;

    fs::write("/proc/sys/kernel/sched_autogroup_enabled", "1")?;
    harness::end_shared();
    let eevdf = lone_session()?;
    let sched = harness::shared()?;
    let ours = lone_session()?;
    metric(
        "what_changes",
        &[("session_eevdf", eevdf), ("session", ours)],
    );
    ensure!(
        eevdf > ours + 0.04 && (ours - 0.25).abs() < 0.03,
        "a session alone beside one of three hogs: EEVDF {eevdf:.2}, here {ours:.2}"
    );
    cpu_limit().context("RLIMIT_CPU")?;
    nice_limit().context("RLIMIT_NICE")?;
    accounts()?;
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
