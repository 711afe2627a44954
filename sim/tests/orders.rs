//! What each order promises, as far as the model can show it.

use umcg_policy::Decide;
use umcg_sim::machine::{Machine, Settings};
use umcg_sim::stats::Report;

fn run(cpus: u32, workers: u32, load: &str, policy: &str, decide: Option<Decide>) -> Report {
    let settings = Settings {
        policy: policy.to_owned(),
        decide,
        seconds: 20.0,
        warm_up: 1.0,
        ..Settings::new(cpus, workers, load.parse().expect(load))
    };
    let report = Machine::new(settings).expect("legal").run();
    report.expect("a run")
}

#[test]
fn fair_shares_are_by_weight() {
    for decide in [Decide::Keyed, Decide::Staged] {
        let load = "cpu:work=1ms,weights=100/300/50";
        let report = run(1, 6, load, "fair", Some(decide));
        // Jain's index of what each got by its weight.
        assert!(report.fairness > 0.999, "{decide}: {}", report.fairness);
    }
}

#[test]
fn fair_hogs_share_more_cpus_evenly() {
    let report = run(4, 7, "cpu:work=1ms", "fair", None);
    assert!(report.fairness > 0.995, "{}", report.fairness);
    assert!(report.counts.rotated > 0);
}

#[test]
fn turns_are_not_shares_by_weight() {
    let report = run(1, 6, "cpu:work=1ms,weights=100/300", "rr", None);
    // Each as much, so by weight 3 to 1: (3 + 1)^2 / 2 (9 + 1).
    assert!((report.fairness - 0.8).abs() < 0.01, "{}", report.fairness);
}

#[test]
fn rr_and_fifo_bound_the_wait_by_the_others_slices() {
    for policy in ["rr", "fifo"] {
        let report = run(1, 10, "cpu:work=1ms", policy, None);
        let slices = 9.0 * 4000.0;
        let waits = report.waits;
        assert!(waits.max_us < 1.05 * slices, "{policy}: {waits:?}");
        assert!(waits.p50_us > 0.95 * slices, "{policy}: {waits:?}");
    }
}

#[test]
fn fifo_is_in_order_and_lifo_is_not() {
    let load = "request:load=0.8,service=exp:100us";
    let (fifo, lifo) = (
        run(1, 400, load, "fifo", None),
        run(1, 400, load, "lifo", None),
    );
    // The same mean, near enough, but who came last is not made to wait for the rest.
    assert!(lifo.waits.p50_us < 0.5 * fifo.waits.p50_us);
    assert!(lifo.waits.p999_us > 1.5 * fifo.waits.p999_us);
}

#[test]
fn fair_short_sleepers_pass_hogs() {
    let mixed = "sleepers:work=exp:100us,sleep=10ms";
    let alone = run(1, 20, mixed, "fair", None);
    assert!(alone.waits.p99_us < 4000.0, "{:?}", alone.waits);
}

#[test]
fn arrival_lets_the_first_ones_run() {
    // More than the CPU can do: of those who came first all is done, of the last nothing.
    let load = "sleepers:work=exp:1ms,sleep=exp:9ms";
    let report = run(1, 40, load, "arrival", None);
    let fair = run(1, 40, load, "fair", None);
    assert!(report.fairness < 0.5, "{}", report.fairness);
    assert!(fair.fairness > 0.95, "{}", fair.fairness);
}
