//! Runs the tests of one boot word in VMs and reads their verdicts.
//!
//! A guest that dies is infrastructure until it does so twice in the same test. Each boot either
//! finishes tests or uses up one of the two attempts of the test that ran, and there are at most
//! [`MAX_BOOTS`] of them.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::proc::{self, say};
use crate::test::native;
use crate::test::plan::{self, Boot, VmTest};
use crate::test::report::Report;
use crate::test::round::{Line, Round, TestEnd, Verdict, parse};
use crate::vm::{End, Outcome, Vm};

const MAX_BOOTS: usize = 4;

/// Variables that the tests in the guest read: write ceilings anew; a configuration for all of them.
const PASSED_ON: [&str; 2] = ["UMCG_BLESS", "UMCG_VMTEST_CONFIG"];

/// The test binary on one kernel.
#[derive(Debug)]
pub struct Bench {
    kernel: String,
    binary: PathBuf,
    out: PathBuf,
    commit: String,
}

impl Bench {
    /// Prepares the folder for figures and kernel logs.
    pub fn new(kernel: &str, binary: &Path) -> Result<Self> {
        let out = native::target_dir().join("vmtest");
        fs::create_dir_all(&out).with_context(|| format!("cannot create: {}", out.display()))?;
        let mut git = Command::new("git");
        git.args(["describe", "--always", "--dirty"])
            .current_dir(proc::repo());
        let commit = proc::output(&mut git).unwrap_or_else(|_| "unknown".to_owned());
        let commit = commit.trim().to_owned();
        Ok(Self {
            kernel: kernel.to_owned(),
            binary: binary.to_owned(),
            out,
            commit,
        })
    }

    /// Runs the tests of `boot`, in new guests while one dies; how each ended.
    pub fn run(&self, boot: &Boot, report: &mut Report) -> Vec<TestEnd> {
        self.run_each(boot, report, &mut |_| {})
    }

    /// The same; `on_end` is told of each test as it ends.
    pub fn run_each(
        &self,
        boot: &Boot,
        report: &mut Report,
        on_end: &mut dyn FnMut(&TestEnd),
    ) -> Vec<TestEnd> {
        let mut round = Round::new(&boot.tests);
        for number in 1.. {
            let todo = round.todo();
            if todo.is_empty() {
                break;
            }
            if number > MAX_BOOTS {
                round.give_up(&format!("not run: the guest died {MAX_BOOTS} times"));
                round.tell(on_end);
                break;
            }
            let names: Vec<_> = todo.iter().map(|test| test.name.as_str()).collect();
            say(format_args!(
                "{} boot `{}`: {}",
                self.kernel,
                boot.word,
                names.join(" ")
            ));
            let start = Instant::now();
            let ended = self.boot(&boot.word, &todo, &mut round, on_end);
            let took = start.elapsed().as_secs();
            say(format_args!(
                "{} boot `{}`: took {took} s",
                self.kernel, boot.word
            ));
            if !round.todo().is_empty() {
                let what = self.why(&ended, boot, number, &round);
                round.attempt_failed(&what);
                round.tell(on_end);
                report.mishap(&what);
            }
        }
        let ends = round.ends();
        self.count(&ends, report);
        ends
    }

    fn boot(
        &self,
        word: &str,
        todo: &[VmTest],
        round: &mut Round,
        on_end: &mut dyn FnMut(&TestEnd),
    ) -> Result<Outcome> {
        let mut vm = Vm::new(&self.kernel)?;
        plan::configure(&mut vm, word)?;
        vm.timeout = Some(plan::timeout(todo));
        vm.cwd = proc::repo().to_owned();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                vm.env.push((name.to_owned(), value));
            }
        }
        let mut argv: Vec<OsString> = vec![self.binary.clone().into()];
        argv.extend(todo.iter().map(|test| OsString::from(&test.name)));
        vm.run_streaming(&argv, &mut |line| {
            proc::out(&format!("{} {line}\n", self.kernel));
            round.line(line);
            round.tell(on_end);
            match parse(line) {
                Some(Line::Metric(metric)) => self.keep(metric),
                _ => Ok(()),
            }
        })
    }

    /// One sentence on what went wrong in a boot; keeps the kernel's log.
    fn why(&self, ended: &Result<Outcome>, boot: &Boot, number: usize, round: &Round) -> String {
        let what = match ended {
            Err(err) => format!("cannot run the VM: {err:#}"),
            Ok(outcome) => {
                let name = format!("console-{}-{}-{number}.log", self.kernel, boot.word);
                let log = self.out.join(name.replace(['/', ':'], "_"));
                let kept = match fs::write(&log, &outcome.console) {
                    Ok(()) => format!("; kernel log: {}", log.display()),
                    Err(err) => format!("; kernel log lost: {err}"),
                };
                end_text(outcome.end, "umcg-vmtest") + &kept
            }
        };
        let during = round
            .running
            .as_ref()
            .map_or(String::new(), |name| format!(" in {name}"));
        format!("{} boot `{}`{during}: {what}", self.kernel, boot.word)
    }

    fn keep(&self, metric: &str) -> Result<()> {
        let file = self.out.join("metrics.tsv");
        let line = metric_line(&self.commit, &self.kernel, metric);
        let opened = OpenOptions::new().append(true).create(true).open(&file);
        opened
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("cannot write: {}", file.display()))
    }

    fn count(&self, ends: &[TestEnd], report: &mut Report) {
        for end in ends {
            match &end.verdict {
                Verdict::Ok => report.pass(1),
                Verdict::Skip(_) => report.skip(1),
                Verdict::Failed(why) => {
                    report.fail(&format!("{} {}", self.kernel, end.name), why);
                }
            }
        }
    }
}

/// How a boot ended before `program` was done.
pub fn end_text(end: End, program: &str) -> String {
    match end {
        End::Exit(code) => format!("{program} exited with {code} before it was done"),
        End::TimedOut => "the time for this boot was over".to_owned(),
        End::Died { booted: true } => "the guest died".to_owned(),
        End::Died { booted: false } => "the VM did not boot".to_owned(),
    }
}

fn metric_line(commit: &str, kernel: &str, metric: &str) -> String {
    let (name, values) = metric.split_once(' ').unwrap_or((metric, ""));
    format!("{commit}\t{kernel}\t{name}\t{}\n", values.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_line_has_commit_kernel_and_test() {
        assert_eq!(
            metric_line("c1", "7.3", "a k=1 l=2"),
            "c1\t7.3\ta\tk=1 l=2\n"
        );
        assert_eq!(metric_line("c1", "7.3", "a"), "c1\t7.3\ta\t\n");
    }
}
