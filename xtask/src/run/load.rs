//! The loads and their figures; the same under both schedulers, one after the other.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::proc::{self, show};
use crate::run::report;

/// Counted rounds; one more before them is discarded. It fills caches, and after an attach it
/// runs while the new scheduler still meets every thread for the first time.
const MESSAGING_ROUNDS: usize = 5;
const PIPE_ROUNDS: usize = 3;

/// A load of about a second that has not ended by then never will.
const LIMIT: Duration = Duration::from_secs(60);

/// How much longer than the latency measurement the hogs spin, on either side of it.
const MARGIN_S: u64 = 1;

/// Latency of cyclictest's threads, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Mean over all threads and wake-ups.
    pub mean_us: f64,
    /// The worst one.
    pub max_us: f64,
}

/// What one scheduler achieved; a load that failed has no figures.
#[derive(Debug, Default)]
pub struct Figures {
    /// Seconds per counted round.
    pub messaging: Vec<f64>,
    /// Seconds per counted round.
    pub pipe: Vec<f64>,
    /// Beside hogs.
    pub latency: Option<Latency>,
}

/// Runs all loads, tells of each; what fails goes to `faults` and the next load has its turn.
pub fn measure(under: &str, seconds: u64, hogs: usize, faults: &mut Vec<String>) -> Figures {
    let mut keep = |name: &str, err: anyhow::Error| {
        proc::out(&format!("  {name}: FAILED: {err:#}\n"));
        faults.push(format!("{name} under {under}: {err:#}"));
    };
    let mut figures = Figures::default();
    let messaging = ["messaging", "-t", "-g", "2", "-l", "100"];
    match rounds("messaging", MESSAGING_ROUNDS, &messaging) {
        Ok(all) => figures.messaging = all,
        Err(err) => keep("messaging", err),
    }
    match rounds("pipe", PIPE_ROUNDS, &["pipe", "-l", "3000"]) {
        Ok(all) => figures.pipe = all,
        Err(err) => keep("pipe", err),
    }
    let (what, hogs_text) = ("latency", report::count(hogs as u64, "CPU hog"));
    proc::out(&format!(
        "  {what:<10} {seconds} s beside {hogs_text} ...\n"
    ));
    match latency(seconds, hogs) {
        Ok(found) => {
            let Latency { mean_us, max_us } = found;
            let line = format!("mean {mean_us:.0} us, worst {max_us:.0} us");
            proc::out(&format!("  {what:<10} {line}\n"));
            figures.latency = Some(found);
        }
        Err(err) => keep(what, err),
    }
    figures
}

fn rounds(name: &str, count: usize, bench: &[&str]) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for round in 0..=count {
        let text = finish(
            start("perf", &[&["bench", "sched"], bench].concat())?,
            LIMIT,
        )?;
        let time = total_time(&text)?;
        if round == 0 {
            proc::out(&format!(
                "  {name:<10} warm-up {time:>10.3} s  (not counted)\n"
            ));
        } else {
            proc::out(&format!(
                "  {name:<10} {round} of {count}  {time:>10.3} s\n"
            ));
            all.push(time);
        }
    }
    Ok(all)
}

fn latency(seconds: u64, hogs: usize) -> Result<Latency> {
    let (hogs, spin) = (hogs.to_string(), (seconds + 2 * MARGIN_S).to_string());
    let hogs = start(
        "stress-ng",
        &["--quiet", "--cpu", &hogs, "--timeout", &spin],
    )?;
    std::thread::sleep(Duration::from_secs(MARGIN_S));
    let duration = seconds.to_string();
    let cyclictest = ["-q", "-t2", "-i", "4000", "-D", &duration];
    let limit = LIMIT + Duration::from_secs(seconds);
    let measured = start("cyclictest", &cyclictest).and_then(|child| finish(child, limit));
    // The hogs have to end as well, by themselves.
    finish(hogs, limit)?;
    cyclictest_figures(&measured?)
}

/// A running load, with its command line.
#[derive(Debug)]
struct Load {
    child: Child,
    line: String,
}

impl Drop for Load {
    fn drop(&mut self) {
        // Their only failure is "has ended".
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that dies with us, whatever we die of.
pub fn leashed(signal: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut cmd = Command::new("setpriv");
    cmd.args(["--pdeathsig", signal, "--"]).arg(program);
    cmd.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    cmd
}

fn start(program: &str, args: &[&str]) -> Result<Load> {
    if proc::find(program).is_none() {
        bail!("{program} is not installed; run `cargo xtask setup`");
    }
    let mut cmd = leashed("KILL", program);
    let line = [&[program], args].concat().join(" ");
    let child = cmd.args(args).spawn();
    let child = child.with_context(|| format!("cannot start: {}", show(&cmd)))?;
    Ok(Load { child, line })
}

/// Waits for the load's end and returns what it printed. The loads print less than a pipe holds.
fn finish(mut load: Load, limit: Duration) -> Result<String> {
    let end = Instant::now() + limit;
    let status = loop {
        let status = load.child.try_wait();
        match status.with_context(|| format!("cannot wait for: {}", load.line))? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                bail!("not done after {} s: {}", limit.as_secs(), load.line)
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let mut text = String::new();
    let (out, err) = (load.child.stdout.take(), load.child.stderr.take());
    for pipe in [out.map(pipe), err.map(pipe)].into_iter().flatten() {
        let read = std::io::read_to_string(pipe);
        text += &read.with_context(|| format!("cannot read from: {}", load.line))?;
    }
    if !status.success() {
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        bail!(
            "{}: {status}; {}",
            load.line,
            last.unwrap_or("it said nothing").trim()
        );
    }
    Ok(text)
}

fn pipe(from: impl std::io::Read + 'static) -> Box<dyn std::io::Read> {
    Box::new(from)
}

/// perf bench's `Total time: 0.377 [sec]`.
fn total_time(text: &str) -> Result<f64> {
    let time = text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("Total time:")?;
        rest.trim().strip_suffix("[sec]")?.trim().parse().ok()
    });
    time.with_context(|| format!("perf bench told no total time: {}", text.trim()))
}

/// cyclictest's `T: 0 (  453) P: 0 I:4000 C:    982 Min:    152 Act:  217 Avg:  856 Max:    9166`.
fn cyclictest_figures(text: &str) -> Result<Latency> {
    let (mut cycles, mut sum, mut max_us) = (0.0, 0.0, 0.0_f64);
    for line in text
        .lines()
        .filter(|line| line.trim_start().starts_with("T:"))
    {
        let field = |name: &str| -> Option<f64> {
            let rest = line.split_once(name)?.1;
            rest.split_whitespace().next()?.parse().ok()
        };
        let all = (field("C:"), field("Avg:"), field("Max:"));
        let (Some(count), Some(mean), Some(max)) = all else {
            bail!("cannot read cyclictest's line: {line}");
        };
        cycles += count;
        sum += count * mean;
        max_us = max_us.max(max);
    }
    if cycles == 0.0 {
        bail!("cyclictest measured nothing: {}", text.trim());
    }
    let mean_us = sum / cycles;
    Ok(Latency { mean_us, max_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGING: &str = "\
# Running 'sched/messaging' benchmark:
# 20 sender and receiver threads per group
# 2 groups == 80 threads run

     Total time: 0.377 [sec]
";
    const CYCLIC: &str = "\
# /dev/cpu_dma_latency set to 0us
T: 0 (  453) P: 0 I:4000 C:    900 Min:    152 Act:  217 Avg:  800 Max:    9166
T: 1 (  454) P: 0 I:4500 C:    300 Min:     12 Act:  290 Avg:  400 Max:    8790
";

    #[test]
    fn total_time_is_found_or_the_text_shown() {
        assert_eq!(total_time(MESSAGING).unwrap(), 0.377);
        let err = total_time("Total time: x [sec]").unwrap_err().to_string();
        assert!(err.contains("x [sec]"), "{err}");
        assert!(total_time("").is_err());
    }

    #[test]
    fn cyclictest_mean_is_over_wakeups_and_max_over_threads() {
        let want = Latency {
            mean_us: 700.0,
            max_us: 9166.0,
        };
        assert_eq!(cyclictest_figures(CYCLIC).unwrap(), want);
    }

    #[test]
    fn cyclictest_odd_or_no_lines_are_errors() {
        for bad in [
            "",
            "T: 0 (1) C: x Avg: 1 Max: 2",
            "T: 0 (1) C: 0 Avg: 0 Max: 0",
        ] {
            assert!(cyclictest_figures(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn finish_failing_and_hanging_loads_are_named() {
        let sh = |text: &str| start("sh", &["-c", text]).unwrap();
        assert_eq!(
            finish(sh("echo out; echo err >&2"), LIMIT).unwrap(),
            "out\nerr\n"
        );
        let err = finish(sh("echo why; exit 3"), LIMIT)
            .unwrap_err()
            .to_string();
        assert!(
            err.contains("exit status: 3") && err.contains("why"),
            "{err}"
        );
        let err = finish(sh("sleep 60"), Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(err.contains("not done after 0 s: sh -c sleep 60"), "{err}");
        assert!(
            start("no-such-load", &[])
                .unwrap_err()
                .to_string()
                .contains("setup")
        );
    }
}
