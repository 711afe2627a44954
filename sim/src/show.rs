//! A report as text.

use std::fmt::Write;

use crate::stats::{Report, Summary};

/// The report of one run, for people.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let counts = &report.counts;
    let per_second = |n: u64| n as f64 / report.seconds;
    let _ = writeln!(
        text,
        "{} on {} CPU(s), {} worker(s), policy {} ({}), seed {}, {} s",
        report.load,
        report.cpus,
        report.workers,
        report.policy,
        report.decide,
        report.seed,
        report.seconds
    );
    let _ = writeln!(
        text,
        "  throughput   {:>14.1} operations/s",
        report.throughput
    );
    times(&mut text, "wait", &report.waits);
    times(&mut text, "response", &report.responses);
    let _ = writeln!(
        text,
        "  CPU time     work {:.2} %  agent {:.2} %  kernel {:.2} %",
        100.0 * report.work_share,
        100.0 * report.agent_share,
        100.0 * report.kernel_share
    );
    let _ = writeln!(
        text,
        "  fairness     {:.4} (Jain, CPU time by weight)",
        report.fairness
    );
    let _ = writeln!(
        text,
        "  per second   {:.0} switches  {:.0} activations  {:.0} notices  {:.0} bells",
        per_second(counts.switches),
        per_second(counts.activations),
        per_second(counts.notices),
        per_second(counts.bells)
    );
    let of = |n: u64| 100.0 * n as f64 / counts.contended.max(1) as f64;
    let _ = writeln!(
        text,
        "  contended    {}: staged {:.1} %  by key {:.1} %  absent {:.1} %",
        counts.contended,
        of(counts.staged),
        of(counts.by_key),
        of(counts.absent)
    );
    let _ = writeln!(
        text,
        "  placement    direct {}  stolen {}  rotated {}  preempted {}",
        counts.direct, counts.stolen, counts.rotated, counts.preempted
    );
    if counts.unseated > 0 {
        let _ = writeln!(text, "  not told     {} notices: no seat", counts.unseated);
    }
    if !report.assumed.is_empty() {
        let _ = writeln!(text, "  assumed      {}", report.assumed.join(" "));
    }
    text
}

fn times(text: &mut String, name: &str, times: &Summary) {
    let _ = writeln!(
        text,
        "  {name:<12} mean {:.1} us  p50 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}",
        times.mean_us, times.p50_us, times.p99_us, times.p999_us, times.max_us
    );
}
