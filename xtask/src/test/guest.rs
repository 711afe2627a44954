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
        let mut round = Round::new(&boot.tests);
        for number in 1.. {
            let todo = round.todo();
            if todo.is_empty() {
                break;
            }
            if number > MAX_BOOTS {
                round.give_up(&format!("not run: the guest died {MAX_BOOTS} times"));
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
            let ended = self.boot(&boot.word, &todo, &mut round);
            let took = start.elapsed().as_secs();
            say(format_args!(
                "{} boot `{}`: took {took} s",
                self.kernel, boot.word
            ));
            if !round.todo().is_empty() {
                let what = self.why(&ended, boot, number, &round);
                round.attempt_failed(&what);
                report.mishap(&what);
            }
        }
        let ends = round.ends();
        self.count(&ends, report);
        ends
    }

    fn boot(&self, word: &str, todo: &[VmTest], round: &mut Round) -> Result<Outcome> {
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
            if let Some(Line::Metric(metric)) = parse(line) {
                return self.keep(metric);
            }
            round.line(line);
            Ok(())
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
                end_text(outcome.end) + &kept
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
                Verdict::Skip => report.skip(1),
                Verdict::Failed(why) => {
                    report.fail(&format!("{} {}", self.kernel, end.name), why);
                }
            }
        }
    }
}

fn end_text(end: End) -> String {
    match end {
        End::Exit(code) => format!("umcg-vmtest exited with {code} before its tests were done"),
        End::TimedOut => "the time for this boot was over".to_owned(),
        End::Died { booted: true } => "the guest died".to_owned(),
        End::Died { booted: false } => "the VM did not boot".to_owned(),
    }
}

fn metric_line(commit: &str, kernel: &str, metric: &str) -> String {
    let (name, values) = metric.split_once(' ').unwrap_or((metric, ""));
    format!("{commit}\t{kernel}\t{name}\t{}\n", values.trim())
}

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Ok,
    /// It said why it cannot run here.
    Skip,
    /// Why.
    Failed(String),
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestEnd {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
    /// How often the kernel ejected a scheduler that it had started, all tries together.
    pub ejections: u32,
}

/// A line of the guest's protocol.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Start(&'a str),
    Done(&'a str, Verdict),
    Metric(&'a str),
    Ejected(&'a str, u32),
}

fn parse(line: &str) -> Option<Line<'_>> {
    let (word, rest) = line.trim_end().split_once(' ')?;
    let reason = || {
        rest.split_once(": ")
            .unwrap_or((rest.trim_end_matches(':'), "no reason given"))
    };
    match word {
        "start" => Some(Line::Start(rest)),
        "ok" => Some(Line::Done(rest.split(' ').next()?, Verdict::Ok)),
        "FAILED" => {
            let (name, why) = reason();
            Some(Line::Done(name, Verdict::Failed(why.to_owned())))
        }
        "skip" => Some(Line::Done(reason().0, Verdict::Skip)),
        "metric" => Some(Line::Metric(rest)),
        "ejected" => {
            let (name, count) = rest.split_once(' ')?;
            Some(Line::Ejected(name, count.parse().ok()?))
        }
        _ => None,
    }
}

/// The tests of one boot word, across its boots.
#[derive(Debug)]
struct Round {
    tests: Vec<VmTest>,
    verdicts: Vec<Option<Verdict>>,
    attempts: Vec<usize>,
    ejections: Vec<u32>,
    running: Option<String>,
}

impl Round {
    fn new(tests: &[VmTest]) -> Self {
        Self {
            tests: tests.to_vec(),
            verdicts: vec![None; tests.len()],
            attempts: vec![0; tests.len()],
            ejections: vec![0; tests.len()],
            running: None,
        }
    }

    fn todo(&self) -> Vec<VmTest> {
        let open = self
            .tests
            .iter()
            .zip(&self.verdicts)
            .filter(|(_, verdict)| verdict.is_none());
        open.map(|(test, _)| test.clone()).collect()
    }

    fn line(&mut self, line: &str) {
        match parse(line) {
            Some(Line::Start(name)) => self.running = Some(name.to_owned()),
            Some(Line::Done(name, verdict)) => {
                // A test that prints such a line for another name must not decide about it.
                if self.running.as_deref() == Some(name)
                    && let Some(at) = self.tests.iter().position(|test| test.name == name)
                {
                    self.verdicts[at] = Some(verdict);
                    self.running = None;
                }
            }
            Some(Line::Ejected(name, count)) => {
                if let Some(at) = self.tests.iter().position(|test| test.name == name) {
                    self.ejections[at] += count;
                }
            }
            Some(Line::Metric(_)) | None => {}
        }
    }

    /// The boot ended early: an attempt of the test that ran, or of all if none did.
    fn attempt_failed(&mut self, why: &str) {
        let running = self.running.take();
        for (at, test) in self.tests.iter().enumerate() {
            if running.as_ref().is_some_and(|name| *name != test.name) {
                continue;
            }
            self.attempts[at] += 1;
            if self.attempts[at] == 2 && self.verdicts[at].is_none() {
                let why = format!("did not finish, twice; last: {why}");
                self.verdicts[at] = Some(Verdict::Failed(why));
            }
        }
    }

    fn ends(&self) -> Vec<TestEnd> {
        let verdicts = self.verdicts.iter().zip(&self.ejections);
        let ends = self.tests.iter().zip(verdicts);
        ends.map(|(test, (verdict, &ejections))| TestEnd {
            name: test.name.clone(),
            verdict: (verdict.clone()).unwrap_or_else(|| Verdict::Failed("no verdict".to_owned())),
            ejections,
        })
        .collect()
    }

    fn give_up(&mut self, why: &str) {
        for verdict in self.verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
            *verdict = Some(Verdict::Failed(why.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(names: &[&str]) -> Round {
        let test = |name: &&str| VmTest {
            name: (*name).to_owned(),
            seconds: 1.0,
        };
        Round::new(&names.iter().map(test).collect::<Vec<_>>())
    }

    fn feed(round: &mut Round, lines: &[&str]) {
        lines.iter().for_each(|line| round.line(line));
    }

    #[test]
    fn parse_every_line_of_the_protocol() {
        let failed = |why: &str| Verdict::Failed(why.to_owned());
        let cases = [
            ("start a", Some(Line::Start("a"))),
            ("ok a 1.25", Some(Line::Done("a", Verdict::Ok))),
            ("FAILED a: x: y", Some(Line::Done("a", failed("x: y")))),
            (
                "FAILED a:",
                Some(Line::Done("a", failed("no reason given"))),
            ),
            ("skip a: no SMT", Some(Line::Done("a", Verdict::Skip))),
            ("metric a k=1 l=2", Some(Line::Metric("a k=1 l=2"))),
            ("ejected a 4", Some(Line::Ejected("a", 4))),
            ("ejected a x", None),
            ("anything else", None),
            ("", None),
        ];
        for (line, want) in cases {
            assert_eq!(parse(line), want, "{line}");
        }
    }

    #[test]
    fn metric_line_has_commit_kernel_and_test() {
        assert_eq!(
            metric_line("c1", "7.3", "a k=1 l=2"),
            "c1\t7.3\ta\tk=1 l=2\n"
        );
        assert_eq!(metric_line("c1", "7.3", "a"), "c1\t7.3\ta\t\n");
    }

    #[test]
    fn round_clean_run_leaves_nothing_to_do() {
        let mut round = round(&["a", "b", "c"]);
        feed(
            &mut round,
            &[
                "start a",
                "ok a 1",
                "start b",
                "FAILED b: why",
                "start c",
                "skip c: x",
            ],
        );
        assert!(round.todo().is_empty());
        let want = [Verdict::Ok, Verdict::Failed("why".into()), Verdict::Skip].map(Some);
        assert_eq!(round.verdicts, want);
    }

    #[test]
    fn round_ejections_of_all_tries_add_up() {
        let mut round = round(&["a", "b"]);
        feed(&mut round, &["start a", "ejected a 1", "FAILED a: x"]);
        feed(
            &mut round,
            &["start b", "ejected b 2", "ejected b 1", "ok b 1"],
        );
        let ends = round.ends();
        let counts: Vec<_> = ends.iter().map(|end| end.ejections).collect();
        assert_eq!(counts, [1, 3]);
        assert_eq!(ends[0].verdict, Verdict::Failed("x".to_owned()));
    }

    #[test]
    fn round_test_that_dies_twice_fails_and_the_rest_goes_on() {
        let mut round = round(&["a", "b", "c"]);
        feed(&mut round, &["start a", "ok a 1", "start b"]);
        round.attempt_failed("died");
        assert_eq!(round.todo().len(), 2);
        feed(&mut round, &["start b"]);
        round.attempt_failed("died");
        let left: Vec<_> = round.todo().into_iter().map(|test| test.name).collect();
        assert_eq!(left, ["c"]);
        feed(&mut round, &["start c", "ok c 1"]);
        assert!(round.todo().is_empty());
        assert!(matches!(&round.verdicts[1], Some(Verdict::Failed(why)) if why.contains("twice")));
    }

    #[test]
    fn round_that_never_boots_fails_all_after_two() {
        let mut round = round(&["a", "b"]);
        round.attempt_failed("no boot");
        assert_eq!(round.todo().len(), 2);
        round.attempt_failed("no boot");
        assert!(round.todo().is_empty());
    }

    #[test]
    fn round_verdict_for_a_test_that_does_not_run_is_ignored() {
        let mut round = round(&["a", "b"]);
        feed(&mut round, &["start a", "ok b 1", "ok c 1", "ok a 1"]);
        assert_eq!(round.verdicts, [Some(Verdict::Ok), None]);
        round.give_up("gone");
        assert!(matches!(&round.verdicts[1], Some(Verdict::Failed(_))));
    }
}
