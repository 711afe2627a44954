//! Bad input, from the command line on.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, ensure};

use super::{Test, short};
use crate::harness::{self, Sched, Verdict, sibling, sysfs};

pub const TESTS: &[Test] = &[
    short("vm_bad_input_is_one_sentence", "life", 4, bad_input),
    short("vm_doctor_says_it_can_run", "life", 2, doctor),
    short("vm_not_root_is_told", "life", 2, not_root),
    short("vm_status_without_agent_says_so", "life", 2, no_agent),
    short("vm_monitor_and_status_show_it", "life", 8, monitor),
];

fn bad_input() -> Result<Verdict> {
    for (args, value, allowed) in [
        (vec!["--stage", "300"], "300", "1..=64"),
        (vec!["--policy", "fiffo"], "fiffo", "fifo"),
        (vec!["--slice-us", "banana"], "banana", "100..=100000"),
        (vec!["--frobnicate"], "--frobnicate", "unexpected"),
        (vec!["doctor", "--pid", "0"], "0", "1.."),
        (
            vec!["doctor", "--pid", "banana"],
            "banana",
            "1..=2147483647",
        ),
        (
            vec!["--policy", "fifo", "--decide", "key"],
            "fifo",
            "staged",
        ),
    ] {
        let out = Command::new(sibling("scx_umcg")).args(&args).output()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            out.status.code() == Some(2),
            "{args:?}: exit {:?}: {text}",
            out.status.code()
        );
        ensure!(
            text.contains(value) && text.contains(allowed) && text.trim_end().lines().count() == 1,
            "{args:?}: says {text:?}"
        );
        ensure!(
            sysfs("state") == "disabled",
            "{args:?}: something was attached"
        );
    }
    Ok(Verdict::Ok)
}

fn doctor() -> Result<Verdict> {
    let out = Command::new(sibling("scx_umcg")).arg("doctor").output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "exit {:?}: {text}", out.status);
    ensure!(
        text.contains("scx_umcg can run here") && !text.contains("MISSING"),
        "says {text}"
    );
    Ok(Verdict::Ok)
}

fn not_root() -> Result<Verdict> {
    // A clone below /root is closed to others.
    let program = std::env::temp_dir().join("scx_umcg.not_root");
    std::fs::copy(sibling("scx_umcg"), &program)?;
    for args in [&[][..], &["status"], &["doctor", "--pid", "1"]] {
        let out = Command::new(&program)
            .args(args)
            .uid(65534)
            .gid(65534)
            .output()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            out.status.code() == Some(4),
            "{args:?}: exit {:?}: {text}",
            out.status.code()
        );
        ensure!(
            text.contains("65534") && text.contains("root"),
            "{args:?}: says {text:?}"
        );
    }
    Ok(Verdict::Ok)
}

fn no_agent() -> Result<Verdict> {
    harness::end_shared();
    let out = Command::new(sibling("scx_umcg")).arg("status").output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        !out.status.success() && text.contains("does not run"),
        "says {text:?}"
    );
    Ok(Verdict::Ok)
}

fn monitor() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    let mut child = Command::new(sibling("scx_umcg"))
        .args(["--monitor", "0.5"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    // SAFETY: our own child, not reaped yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let code = child.wait()?;
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        std::io::Read::read_to_string(&mut out, &mut text)?;
    }
    ensure!(
        text.matches("[scx_umcg] switches").count() >= 2,
        "{code}: printed {text:?}"
    );
    sched.stop()?;
    Ok(Verdict::Ok)
}
