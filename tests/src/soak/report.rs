//! What a run came to, and its lines.

use std::time::Instant;

use super::plan::{Fault, KINDS};

/// No run tells more: what has gone wrong so often is known by then.
const MOST: usize = 40;

/// What was done and what went wrong.
pub struct Report {
    seed: u64,
    began: Instant,
    /// Of each kind.
    pub faults: [u32; KINDS.len()],
    /// A sentence each.
    pub violations: Vec<String>,
    /// Of them.
    pub ejections: u32,
    pub lost_wakes: u32,
    pub leaks: u32,
    /// Clients that failed for want of an agent that was taken away.
    pub excused: u32,
    /// Faults that this machine cannot have.
    pub skipped: u32,
    /// Clients that took the place of others.
    pub replaced: u32,
}

/// Whom a violation is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Ejection,
    LostWake,
    Leak,
    Other,
}

impl Report {
    /// Begins now.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            began: Instant::now(),
            faults: [0; KINDS.len()],
            violations: Vec::new(),
            ejections: 0,
            lost_wakes: 0,
            leaks: 0,
            excused: 0,
            skipped: 0,
            replaced: 0,
        }
    }

    /// Seconds since the run began.
    pub fn at(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// A fault is about to be applied.
    pub fn fault(&mut self, number: usize, fault: &Fault) {
        self.faults[fault.kind()] += 1;
        println!("fault {number} at {:.1} s: {fault}", self.at());
    }

    /// A line about what is no violation.
    pub fn note(&self, text: &str) {
        println!("note at {:.1} s: {}", self.at(), one_line(text));
    }

    /// A client failed for want of an agent that was taken away.
    pub fn excuse(&mut self, what: &str, error: &anyhow::Error) {
        self.excused += 1;
        let text = format!("{what} failed, as its agent was taken away: {error:#}");
        self.note(&text);
    }

    /// Something was not as it has to be.
    pub fn violation(&mut self, what: What, text: &str) {
        match what {
            What::Ejection => self.ejections += 1,
            What::LostWake => self.lost_wakes += 1,
            What::Leak => self.leaks += 1,
            What::Other => {}
        }
        let text = format!(
            "seed {} at {:.1} s: {}",
            self.seed,
            self.at(),
            one_line(text)
        );
        if self.violations.len() < MOST {
            println!("violation {text}");
        }
        self.violations.push(text);
    }

    /// The figures of a run that has ended.
    pub fn tell(&self) {
        let faults: u32 = self.faults.iter().sum();
        println!(
            "metric soak seconds={:.0} faults={faults} ejections={} lost_wakes={} leaks={} \
             violations={} excused={} skipped={} replaced={}",
            self.at(),
            self.ejections,
            self.lost_wakes,
            self.leaks,
            self.violations.len(),
            self.excused,
            self.skipped,
            self.replaced
        );
        let kinds = KINDS.iter().zip(self.faults);
        let kinds: Vec<_> = kinds.map(|((name, _), n)| format!("{name}={n}")).collect();
        println!("metric soak_faults {}", kinds.join(" "));
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_counts_violations_by_what_they_are() {
        let mut report = Report::new(7);
        for what in [What::LostWake, What::LostWake, What::Leak, What::Other] {
            report.violation(what, "a\nb");
        }
        let counts = (report.ejections, report.lost_wakes, report.leaks);
        assert_eq!((counts, report.violations.len()), ((0, 2, 1), 4));
        assert!(report.violations[0].starts_with("seed 7 at 0."));
        assert!(report.violations[0].ends_with("s: a | b"));
    }
}
