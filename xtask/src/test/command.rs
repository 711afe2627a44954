//! `cargo xtask vm` as a user types it: argv, folder, stdout and exit code are the command's own.

use std::env;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::proc::{self, say};
use crate::test::report::Report;

/// Its name, for the filter and the list of failures.
const NAME: &str = "xtask_vm_passes_all_on";

/// One boot of `kernel` with a command that tells what it was given, and one that is cut short.
pub fn run(kernel: &str, filter: Option<&str>, report: &mut Report) {
    if filter.is_some_and(|filter| !NAME.contains(filter)) {
        return;
    }
    say(format_args!("{kernel} {NAME}"));
    match passes_on(kernel).and_then(|()| ends_in_time(kernel)) {
        Ok(()) => report.pass(1),
        Err(err) => report.fail(&format!("{kernel} {NAME}"), &format!("{err:#}")),
    }
}

fn vm(args: &[&str]) -> Result<Output> {
    let me = env::current_exe().context("cannot find this program")?;
    let mut cmd = Command::new(me);
    cmd.arg("vm").args(args).current_dir(proc::repo());
    cmd.output().context("cannot run xtask vm")
}

fn passes_on(kernel: &str) -> Result<()> {
    let script = "printf '%s|' \"$@\"; pwd; id -u; stat -fc %T /sys/fs/cgroup; \
                  echo aside >&2; exit 7";
    let argv = ["sh", "-c", script, "sh", "two  blanks", "*", "", "--help"];
    let out = vm(&[&["--kernel", kernel, "--timeout", "300", "--"], &argv[..]].concat())?;
    let here = proc::repo().display();
    let want = format!("two  blanks|*||--help|{here}\n0\ncgroup2fs\n");
    let (got, aside) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    ensure!(got == want, "stdout {got:?}, must be {want:?}; {aside}");
    ensure!(aside.contains("aside\n"), "stderr is lost: {aside:?}");
    let code = out.status.code();
    ensure!(code == Some(7), "exit code {code:?}, must be 7");
    Ok(())
}

fn ends_in_time(kernel: &str) -> Result<()> {
    let out = vm(&["--kernel", kernel, "--timeout", "1", "--", "sleep", "1000"])?;
    let code = out.status.code();
    ensure!(
        code == Some(124) && out.stdout.is_empty(),
        "after its time: exit code {code:?}, must be 124; stdout {:?}",
        String::from_utf8_lossy(&out.stdout)
    );
    Ok(())
}
