//! cyclictest: how late threads wake up that asked for a time.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load;

/// Microseconds that its histogram holds; what is later counts as this late in a p99.
const LONGEST_US: usize = 20_000;

/// What to run.
#[derive(Clone, Copy)]
pub struct Cyclic {
    /// For how long.
    pub seconds: u32,
    /// The class and priority of its threads: SCHED_FIFO, or none.
    pub fifo: Option<u32>,
    /// Timer slack of 1 ns in place of 50 us.
    pub exact: bool,
}

/// Lateness over both threads, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Late {
    /// Of all wake-ups.
    pub mean: f64,
    /// By the histogram, whose overflow counts at its end.
    pub p99: f64,
    /// Of all wake-ups.
    pub max: f64,
    /// The higher one of the threads' means.
    pub worst_mean: f64,
}

impl Cyclic {
    /// Its command: two threads, 4 ms.
    pub fn command(self) -> Command {
        let mut command = Command::new("cyclictest");
        command.args(["-q", "-t2", "-i", "4000", "-D", &self.seconds.to_string()]);
        command.args(["-h", &LONGEST_US.to_string()]);
        if let Some(priority) = self.fifo {
            command.args(["-p", &priority.to_string(), "--policy=fifo"]);
        }
        command
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<Late> {
        let limit = Duration::from_secs(u64::from(self.seconds) * 3 + 60);
        if self.exact {
            timer_slack_ns(1);
        }
        let text = load::finish(limit, self.command());
        // 0 is what this thread had from the start.
        timer_slack_ns(0);
        parse(&text?)
    }

    /// Runs it while `body` is called again and again, from its start to its end.
    pub fn beside(self, mut body: impl FnMut() -> Result<()>) -> Result<Late> {
        let thread = std::thread::spawn(move || self.run());
        let mut result = Ok(());
        while result.is_ok() && !thread.is_finished() {
            result = body();
        }
        let late = thread.join().ok().context("cyclictest's thread panicked")?;
        result.and(late)
    }
}

/// Ours, before the fork: what a child sets after it is lost as it changes its class, which goes
/// back to the slack that it was born with.
fn timer_slack_ns(ns: libc::c_ulong) {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, ns) };
}

/// Reads the histogram and the lines below it.
pub fn parse(text: &str) -> Result<Late> {
    let fields = |name: &str| -> Result<[f64; 2]> {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        let line = line.with_context(|| format!("cyclictest: no line {name:?}"))?;
        let all: Vec<f64> = line.split_whitespace().flat_map(str::parse).collect();
        <[f64; 2]>::try_from(all).map_err(|_| anyhow::anyhow!("cyclictest: {name}{line}"))
    };
    let (means, maxima) = (fields("# Avg Latencies:")?, fields("# Max Latencies:")?);
    let over = fields("# Histogram Overflows:")?;
    let mut counts = Vec::with_capacity(LONGEST_US + 1);
    for line in text
        .lines()
        .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()))
    {
        let all: Vec<f64> = line.split_whitespace().flat_map(str::parse).collect();
        ensure!(all.len() == 3, "cyclictest: histogram line {line:?}");
        counts.push([all[1], all[2]]);
    }
    let sum = |thread: usize| counts.iter().map(|c| c[thread]).sum::<f64>() + over[thread];
    let cycles = [sum(0), sum(1)];
    let all = cycles[0] + cycles[1];
    ensure!(
        cycles[0] >= 20.0 && cycles[1] >= 20.0,
        "cyclictest woke up {cycles:?} times"
    );
    let mut seen = 0.0;
    let p99 = counts.iter().position(|c| {
        seen += c[0] + c[1];
        seen >= 0.99 * all
    });
    Ok(Late {
        mean: (means[0] * cycles[0] + means[1] * cycles[1]) / all,
        p99: p99.unwrap_or(counts.len()) as f64,
        max: maxima[0].max(maxima[1]),
        worst_mean: means[0].max(means[1]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(overflows: &str) -> String {
        format!(
            "# /dev/cpu_dma_latency set to 0us\n# Histogram\n000000 000050\t000010\n\
             000001 000040\t000080\n000002 000009\t000010\n# Total: 000000099 000000100\n\
             # Min Latencies: 00000 00000\n# Avg Latencies: 00010 00020\n\
             # Max Latencies: 00002 00090\n# Histogram Overflows: {overflows}\n"
        )
    }

    #[test]
    fn parse_overflow_counts_at_the_end_of_the_histogram() {
        let late = parse(&text("00001 00000")).unwrap();
        assert_eq!((late.p99, late.max, late.worst_mean), (2.0, 90.0, 20.0));
        assert_eq!(late.mean, 15.0);
        assert_eq!(parse(&text("00001 00100")).unwrap().p99, 3.0);
    }

    #[test]
    fn parse_missing_or_odd_lines_are_errors() {
        for bad in ["", "00001", "x y"] {
            assert!(parse(&text(bad)).is_err(), "{bad}");
        }
        assert!(parse("").is_err());
        assert!(parse(&text("00000 00000").replace("000009\t", "")).is_err());
    }
}
