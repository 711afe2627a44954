//! The order that BPF keeps by itself: the twin of `src/bpf/key.bpf.h`, rule for rule.
//!
//! Not here: cgroups, system groups and scheduling classes, as no load of the model has them.

use umcg::record::Worker as Record;
use umcg::sync::Ordering::Relaxed;
use umcg_policy::Order;

use crate::park::before;
use crate::worker::{Worker, has_terms};

const MS: u64 = 1_000_000;
/// What a sleeper may bank, and the CPU time that it may owe.
pub const LAG_NS: u64 = 5 * MS;
const OWE_NS: u64 = 500 * MS;
/// Quiet for so long: may be preempted.
pub const HOG_NS: u64 = 2 * MS;
/// Bursts up to here may preempt.
pub const SHORT_NS: u32 = 4_000_000;
const SHORT_RATIO: u64 = 4;
/// CPUs that a wakee looks at for one whose worker it beats.
pub const BEATEN_TRIES: usize = 8;

/// Weight by nice value and the policy's terms.
pub fn weight(record: &Record) -> u64 {
    let weight = u64::from(record.weight.load(Relaxed));
    let pct = u64::from(record.weight_pct.load(Relaxed));
    if !has_terms(record) || pct == 0 {
        return weight.max(1);
    }
    (weight * pct.min(10_000) / 100).max(1)
}

/// CPU time as virtual time.
pub fn weighted(ns: u64, weight: u64) -> u64 {
    ns * 100 / weight
}

/// How long it may run at once.
pub fn slice_ns(record: &Record, default_ns: u64) -> u64 {
    match record.slice_us.load(Relaxed) {
        us @ 100..=100_000 if has_terms(record) => u64::from(us) * 1000,
        _ => default_ns,
    }
}

fn bias(record: &Record) -> u64 {
    if !has_terms(record) {
        return 0;
    }
    let bias = record.bias_ns.load(Relaxed);
    bias.clamp(-(LAG_NS as i64), LAG_NS as i64) as u64
}

/// `used` ns of CPU time more.
pub fn charge(worker: &mut Worker, record: &Record, used: u64) {
    let weight = weight(record);
    worker.v = worker.v.wrapping_add(weighted(used, weight));
    worker.owe_ns = match weight {
        100.. => 0,
        light => weighted(LAG_NS, light).min(OWE_NS) - LAG_NS,
    };
    worker.quiet_ns += used;
    let burst = record.burst_ns.load(Relaxed);
    let more = u32::try_from(used).unwrap_or(u32::MAX);
    record.burst_ns.store(burst.saturating_add(more), Relaxed);
    record.run_ns.fetch_add(used, Relaxed);
}

/// It sleeps: a burst is over.
pub fn burst_end(worker: &mut Worker, record: &Record) {
    let (avg, burst) = (record.avg_ns.load(Relaxed), record.burst_ns.load(Relaxed));
    let avg = (3 * u64::from(avg) + u64::from(burst)) / 4;
    record.avg_ns.store(avg as u32, Relaxed);
    record.burst_ns.store(0, Relaxed);
    worker.quiet_ns = 0;
}

/// Its virtual time on the clock of `cpu`.
pub fn v_on(worker: &Worker, clocks: &[u64], cpu: u32) -> u64 {
    let (there, here) = (clocks[cpu as usize], clocks[worker.clock_cpu as usize]);
    worker.v.wrapping_add(there).wrapping_sub(here)
}

/// From its CPU's clock to that of `cpu`.
pub fn clock_move(worker: &mut Worker, clocks: &[u64], cpu: u32) {
    worker.v = v_on(worker, clocks, cpu);
    worker.clock_cpu = cpu;
}

/// It wakes up at `cpu`: within the lag of that clock.
pub fn place(worker: &mut Worker, clocks: &[u64], cpu: u32) {
    clock_move(worker, clocks, cpu);
    let vnow = clocks[cpu as usize];
    let (low, high) = (
        vnow.wrapping_sub(LAG_NS),
        vnow.wrapping_add(LAG_NS + worker.owe_ns),
    );
    if before(worker.v, low) {
        worker.v = low;
    } else if before(high, worker.v) {
        worker.v = high;
    }
}

/// Its key with the virtual time `v`.
pub fn key(order: Order, record: &Record, v: u64, now_ns: u64) -> u64 {
    match order {
        // Without terms first: parked last it would starve unheard.
        Order::Own if has_terms(record) => record.own_key.load(Relaxed),
        Order::Own => 0,
        Order::Arrival => now_ns,
        Order::Birth => record.born_ns.load(Relaxed),
        Order::Fair => v.wrapping_add(bias(record)),
    }
}

/// Who runs on a CPU, as a wakee sees it.
#[derive(Clone, Copy, Debug)]
pub struct Current {
    /// Virtual time by now.
    pub v: u64,
    /// CPU time since it slept or woke somebody.
    pub quiet_ns: u64,
    /// CPU time of its burst so far, or its average, whichever is more.
    pub burst_ns: u64,
}

/// Whether the wakee, whose virtual time there is `v`, beats it.
pub fn beats(record: &Record, v: u64, current: &Current) -> bool {
    let avg = record.avg_ns.load(Relaxed);
    avg <= SHORT_NS
        && current.quiet_ns >= HOG_NS
        && current.burst_ns >= SHORT_RATIO * u64::from(avg)
        && before(v.wrapping_add(bias(record)), current.v)
}
