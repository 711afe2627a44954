//! What came out: counts, every failure by name, and the infrastructure's own mishaps.

use std::fmt::Write;

use crate::proc::say;

/// The results so far.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<String>,
    mishaps: Vec<String>,
}

impl Report {
    /// Counts `n` passed tests.
    pub fn pass(&mut self, n: usize) {
        self.passed += n;
    }

    /// Counts `n` tests that did not run and say why themselves.
    pub fn skip(&mut self, n: usize) {
        self.skipped += n;
    }

    /// Counts one failure and keeps it for the list at the end.
    pub fn fail(&mut self, name: &str, reason: &str) {
        say(format_args!("FAILED {name}: {reason}"));
        self.failed += 1;
        self.failures.push(format!("{name}: {reason}"));
    }

    /// Notes a guest that died: not a test's verdict, but not to be hidden either.
    pub fn mishap(&mut self, what: &str) {
        say(format_args!("infrastructure: {what}"));
        self.mishaps.push(what.to_owned());
    }

    /// Whether not one test was found.
    pub fn is_empty(&self) -> bool {
        self.passed + self.failed + self.skipped == 0
    }

    /// Whether nothing failed.
    pub fn passed_all(&self) -> bool {
        self.failed == 0
    }

    /// The end of the output: mishaps, failures, the total line last.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for (title, list) in [
            ("infrastructure, guests that ended early", &self.mishaps),
            ("failures", &self.failures),
        ] {
            if !list.is_empty() {
                let _ = writeln!(
                    text,
                    "\n{title}: {}\n    {}",
                    list.len(),
                    list.join("\n    ")
                );
            }
        }
        let word = if self.passed_all() { "ok" } else { "FAILED" };
        let Self {
            passed,
            failed,
            skipped,
            ..
        } = self;
        let _ = writeln!(
            text,
            "\ntest result: {word}. {passed} passed; {failed} failed; {skipped} skipped"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_last_line_is_the_total() {
        let mut report = Report::default();
        assert!(report.is_empty());
        report.pass(3);
        report.skip(1);
        let last = |r: &Report| r.summary().lines().last().map(str::to_owned);
        let want = "test result: ok. 3 passed; 0 failed; 1 skipped";
        assert_eq!(last(&report).as_deref(), Some(want));
        report.fail("7.3 vm_x", "why");
        report.mishap("7.3 boot `a`: died");
        let want = "test result: FAILED. 3 passed; 1 failed; 1 skipped";
        assert_eq!(last(&report).as_deref(), Some(want));
        assert!(!report.passed_all() && !report.is_empty());
    }

    #[test]
    fn summary_names_every_failure_and_mishap() {
        let mut report = Report::default();
        report.fail("a", "one");
        report.fail("b", "two");
        report.mishap("boot died");
        let text = report.summary();
        for part in [
            "failures: 2",
            "a: one",
            "b: two",
            "infrastructure, guests that ended early: 1",
            "boot died",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }
}
