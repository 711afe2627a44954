//! One piece of a soak: a boot, what the guest says of it, and the row that is stored.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::proc::{self, say};
use crate::soak::Counts;
use crate::store::{Key, Stored};
use crate::test::guest::end_text;
use crate::test::round::{Line, parse};
use crate::test::target_dir;
use crate::vm::{self, Outcome, Vm};

/// A guest that dies without a word is the emulator's matter, once.
const TRIES: u32 = 2;

/// The boot, the loads' ends, the look at what is held: and a busy machine makes all of it slow.
const BESIDES: Duration = Duration::from_secs(900);

/// What a kernel says when it is not the emulator that ended it.
const LOUD: [&str; 3] = ["Kernel panic", "BUG: ", "Oops: "];

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Of its faults.
    pub seed: u64,
    /// How long they are fired.
    pub minutes: u32,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Nothing was violated.
    Ok,
    /// Something was, or the run could not go on.
    Failed,
    /// The guest died without a word, each time.
    Died,
}

/// A finished piece, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    commit: String,
    kernel: String,
    row: String,
    /// Of its faults.
    pub seed: u64,
    /// How long they were fired.
    pub minutes: u32,
    /// Clean or not.
    pub end: End,
    /// By kind.
    pub faults: Counts,
    /// Ejections, lost wakes, leaks, clients that were excused, and what else the guest counts.
    pub counts: Counts,
    /// A sentence each, with seed and time.
    pub violations: Vec<String>,
    /// Guests that died without a word.
    pub deaths: u32,
    /// Wall time.
    pub seconds: u64,
}

impl Stored for Done {
    fn key(&self) -> Key<'_> {
        Key {
            commit: &self.commit,
            kernel: &self.kernel,
            row: &self.row,
        }
    }
}

impl Piece {
    /// What it is stored by.
    pub fn name(self) -> String {
        format!("seed {} for {} min", self.seed, self.minutes)
    }

    /// Runs it; what `key` says is where.
    pub fn run(self, key: Key<'_>, binary: &Path) -> Result<Done> {
        let mut done = Done::new(key, self);
        let start = Instant::now();
        for number in 1..=TRIES {
            say(format_args!("soak: {} {}", key.kernel, key.row));
            let died = self.boot(key.kernel, binary, &mut done)?;
            let Some(why) = died else { break };
            done.deaths += 1;
            say(format_args!(
                "infrastructure: soak {} {}: {why}",
                key.kernel, key.row
            ));
            if number == TRIES {
                done.end = End::Died;
                done.violations = vec![format!("{}: {why}, {TRIES} times", key.row)];
            }
        }
        done.seconds = start.elapsed().as_secs();
        Ok(done)
    }

    /// One boot; why the guest died, if it did so without a word.
    fn boot(self, kernel: &str, binary: &Path, done: &mut Done) -> Result<Option<String>> {
        let mut vm = Vm::new(kernel)?;
        let time = Duration::from_secs(u64::from(self.minutes) * 60);
        vm.timeout = Some(2 * time + BESIDES);
        vm.cwd = proc::repo().to_owned();
        let mut argv: Vec<OsString> = vec![binary.into(), "soak".into()];
        for (flag, value) in [
            ("--minutes", u64::from(self.minutes)),
            ("--seed", self.seed),
        ] {
            argv.extend([flag.into(), value.to_string().into()]);
        }
        done.forget();
        let outcome = vm.run_streaming(&argv, &mut |line| {
            proc::out(&format!("{kernel} {line}\n"));
            done.line(line);
            Ok(())
        })?;
        if let vm::End::Exit(code) = outcome.end {
            done.exited(code);
            return Ok(None);
        }
        let log = keep(kernel, self, &outcome)?;
        let why = format!(
            "{}; kernel log: {log}",
            end_text(outcome.end, "umcg-vmtest")
        );
        let is_loud = |line: &&str| LOUD.iter().any(|word| line.contains(word));
        let loud = outcome.console.lines().find(is_loud);
        if let Some(line) = loud {
            done.end = End::Failed;
            done.violations
                .push(format!("{}: {}; {why}", self.name(), line.trim()));
            return Ok(None);
        }
        Ok(Some(why))
    }
}

fn keep(kernel: &str, piece: Piece, outcome: &Outcome) -> Result<String> {
    let dir = target_dir().join("soak");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create: {}", dir.display()))?;
    let log = dir.join(format!("console-{kernel}-{}.log", piece.seed));
    fs::write(&log, &outcome.console)
        .with_context(|| format!("cannot write: {}", log.display()))?;
    Ok(log.display().to_string())
}

impl Done {
    fn new(key: Key<'_>, piece: Piece) -> Self {
        Self {
            commit: key.commit.to_owned(),
            kernel: key.kernel.to_owned(),
            row: key.row.to_owned(),
            seed: piece.seed,
            minutes: piece.minutes,
            end: End::Failed,
            faults: Counts::new(),
            counts: Counts::new(),
            violations: Vec::new(),
            deaths: 0,
            seconds: 0,
        }
    }

    /// What the boot before said is not about this one.
    fn forget(&mut self) {
        self.faults.clear();
        self.counts.clear();
        self.violations.clear();
    }

    /// Takes a line of the guest in.
    fn line(&mut self, line: &str) {
        if let Some(Line::Metric(metric)) = parse(line) {
            let (name, values) = metric.split_once(' ').unwrap_or((metric, ""));
            match name {
                "soak" => self.counts = counts(values),
                "soak_faults" => self.faults = counts(values),
                _ => {}
            }
        } else if let Some(text) = line.strip_prefix("violation ") {
            self.violations.push(text.to_owned());
        } else if let Some(text) = line.strip_prefix("soak FAILED: ")
            && self.violations.is_empty()
        {
            // It could not go on, and says why.
            self.violations.push(text.to_owned());
        }
    }

    fn exited(&mut self, code: u8) {
        self.end = match code == 0 && self.violations.is_empty() {
            true => End::Ok,
            false => End::Failed,
        };
        if self.end == End::Failed && self.violations.is_empty() {
            let text = format!("{}: umcg-vmtest exited with {code}", self.row);
            self.violations.push(text);
        }
    }
}

/// `a=1 b=2` by name; what is no whole number is left out.
fn counts(values: &str) -> Counts {
    let pair = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    values.split_whitespace().filter_map(pair).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn done(seed: u64, lines: &[&str], code: u8) -> Done {
        let piece = Piece { seed, minutes: 5 };
        let row = piece.name();
        let key = Key {
            commit: "c1",
            kernel: "7.3",
            row: &row,
        };
        let mut done = Done::new(key, piece);
        lines.iter().for_each(|line| done.line(line));
        done.exited(code);
        done
    }

    #[test]
    fn done_of_a_clean_piece_has_its_counts() {
        let lines = [
            "fault 1 at 2.0 s: kill client=3",
            "metric soak seconds=310 faults=4 ejections=0 lost_wakes=0 leaks=0",
            "metric soak_faults kill=3 stop=1",
            "soak ok: seed 7",
        ];
        let done = done(7, &lines, 0);
        assert_eq!(done.end, End::Ok);
        assert_eq!((done.faults["kill"], done.counts["faults"]), (3, 4));
        let text = serde_json::to_string(&done).unwrap();
        assert_eq!(serde_json::from_str::<Done>(&text).unwrap(), done);
    }

    #[test]
    fn done_fails_by_a_violation_a_reason_or_a_code() {
        let bad = done(7, &["violation seed 7 at 3.0 s: x", "soak FAILED: y"], 1);
        assert_eq!(bad.violations, ["seed 7 at 3.0 s: x"]);
        let stuck = done(7, &["soak FAILED: seed 7: cannot start"], 1);
        assert_eq!(stuck.violations, ["seed 7: cannot start"]);
        let silent = done(7, &[], 101);
        assert!(silent.violations[0].contains("exited with 101"));
        for it in [bad, stuck, silent] {
            assert_eq!(it.end, End::Failed);
        }
    }
}
