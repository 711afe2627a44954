//! The suites that need no VM.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::proc::{self, say};
use crate::test::report::Report;
use crate::tidy;

/// The cargo that runs us, in the top folder of the repository.
pub fn cargo() -> Command {
    let mut cmd = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd.current_dir(proc::repo());
    cmd
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    let set = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    proc::repo().join(set.unwrap_or_else(|| "target".into()))
}

/// Runs all native suites, or what of them matches `filter`.
pub fn run(filter: Option<&str>, report: &mut Report) {
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    for (name, args) in [
        ("fmt", &["fmt", "--all", "--check"][..]),
        (
            "clippy",
            &[
                "clippy",
                "--release",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
    ] {
        if wanted(name) {
            say(format_args!("native: {name}"));
            verdict(name, proc::run(cargo().args(args)), report);
        }
    }
    for check in tidy::CHECKS.iter().filter(|check| wanted(check.name)) {
        verdict(check.name, tidy::run_check(check), report);
    }
    let mut tests = cargo();
    tests.args([
        "test",
        "--release",
        "--workspace",
        "--exclude",
        "umcg-vmtest",
        "--no-fail-fast",
    ]);
    // A backtrace does not fit into the fixed heap of scx_rustland_core, see exit.rs.
    tests.env("RUST_BACKTRACE", "0");
    tests.args(filter);
    suite("cargo test", tests, report);
    loom(filter, report);
}

fn verdict(name: &str, result: Result<()>, report: &mut Report) {
    match result {
        Ok(()) => report.pass(1),
        Err(err) => report.fail(name, &format!("{err:#}")),
    }
}

fn loom_tests() -> Command {
    let mut cmd = cargo();
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    cmd.env("RUSTFLAGS", format!("{flags} --cfg loom"));
    cmd.args([
        "test",
        "--release",
        "-p",
        "umcg",
        "--lib",
        "--tests",
        "--target-dir",
    ]);
    cmd.arg(target_dir().join("loom"));
    cmd
}

/// The models are the tests named `loom_*`; nothing else of the crate can run under loom.
fn loom(filter: Option<&str>, report: &mut Report) {
    let list = match proc::output(loom_tests().args(["--", "--list", "loom_"])) {
        Ok(list) => list,
        Err(err) => return report.fail("loom", &format!("{err:#}")),
    };
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| filter.is_none_or(|filter| name.contains(filter)))
        .collect();
    if names.is_empty() {
        return;
    }
    // A process for each CPU: threads of one would wait for its memory map, which loom changes for
    // every stack.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let commands = (0..cpus.min(names.len()))
        .map(|nth| {
            let mut cmd = loom_tests();
            cmd.args(["--", "--exact", "--test-threads=1"]);
            cmd.args(names.iter().skip(nth).step_by(cpus));
            cmd
        })
        .collect();
    suites("loom", commands, report);
}

/// Runs one `cargo test`, its output passed on to stderr and counted.
fn suite(name: &str, cmd: Command, report: &mut Report) {
    suites(name, vec![cmd], report);
}

/// Runs several side by side.
fn suites(name: &str, commands: Vec<Command>, report: &mut Report) {
    say(format_args!("native: {name}"));
    let start = Instant::now();
    let ends: Vec<_> = std::thread::scope(|scope| {
        let run = |cmd| scope.spawn(move || counted(cmd));
        let threads: Vec<_> = commands.into_iter().map(run).collect();
        let panicked = |_| Err(anyhow::anyhow!("a thread of the test runner panicked"));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(panicked))
            .collect()
    });
    say(format_args!(
        "native: {name}: took {} s",
        start.elapsed().as_secs()
    ));
    for end in ends {
        count(name, end, report);
    }
}

fn count(name: &str, end: Result<(bool, Counts)>, report: &mut Report) {
    match end {
        Err(err) => report.fail(name, &format!("{err:#}")),
        Ok((ok, counts)) => {
            report.pass(counts.passed);
            report.skip(counts.ignored);
            for test in &counts.failures {
                report.fail(name, test);
            }
            let unnamed = counts.failed.saturating_sub(counts.failures.len());
            for _ in 0..unnamed {
                report.fail(name, "a test that it does not name; see above");
            }
            if !ok && counts.failed == 0 {
                report.fail(name, "ended with an error and no failed test; see above");
            }
        }
    }
}

fn counted(mut cmd: Command) -> Result<(bool, Counts)> {
    cmd.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = cmd
        .spawn()
        .with_context(|| format!("cannot start: {}", proc::show(&cmd)))?;
    let Some(out) = child.stdout.take() else {
        bail!("no output: {}", proc::show(&cmd))
    };
    let mut counts = Counts::default();
    for line in BufReader::new(out).split(b'\n') {
        let line = line.context("cannot read from cargo test")?;
        let line = String::from_utf8_lossy(&line);
        // A closed stderr must not stop the tests.
        let _ = writeln!(std::io::stderr(), "{line}");
        counts.line(&line);
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    Ok((status.success(), counts))
}

/// What the output of `cargo test` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
    failures: Vec<String>,
    /// Names below the last `failures:`, kept when the total line follows.
    listed: Option<Vec<String>>,
}

impl Counts {
    fn line(&mut self, line: &str) {
        if line == "failures:" {
            self.listed = Some(Vec::new());
        } else if let Some(name) = line.strip_prefix("    ") {
            if let Some(listed) = &mut self.listed {
                listed.push(name.trim_end().to_owned());
            }
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let count = |word: &str| {
                let field = rest
                    .split([';', '.'])
                    .find_map(|f| f.trim().strip_suffix(word));
                field.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
            self.failures.extend(self.listed.take().unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a ... ok
test b ... FAILED

failures:

---- m::b stdout ----
    an indented line of the test
failures:

failures:
    m::b
    m::c

test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 1 test
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s
";

    #[test]
    fn counts_sum_over_suites_and_name_failures() {
        let mut counts = Counts::default();
        OUTPUT.lines().for_each(|line| counts.line(line));
        assert_eq!((counts.passed, counts.failed, counts.ignored), (5, 2, 1));
        assert_eq!(counts.failures, ["m::b", "m::c"]);
    }

    fn sh(script: &str) -> Command {
        let mut cmd = Command::new("sh");
        cmd.args(["-c", script]);
        cmd
    }

    #[test]
    fn suite_that_cannot_build_is_one_failure() {
        let mut report = Report::default();
        suite("x", sh("exit 101"), &mut report);
        assert!(report.summary().contains("1 failed"));
    }

    #[test]
    fn suite_counts_failed_tests_without_a_name() {
        let mut report = Report::default();
        let text = "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 101";
        suites(
            "x",
            vec![sh(text), sh("echo test result: ok. 4 passed")],
            &mut report,
        );
        assert!(report.summary().contains("5 passed; 2 failed; 0 skipped"));
    }
}
