//! Queues for which there are formulas, on a machine where nothing costs anything.

use umcg_sim::costs::Costs;
use umcg_sim::machine::{Machine, Settings};
use umcg_sim::stats::Report;

/// `rho` of the machine in exponential requests of 100 us.
fn queue(cpus: u32, rho: f64, policy: &str, service: &str) -> Report {
    let load = format!("request:load={rho},service={service}");
    let load = load.parse().expect("a load");
    let settings = Settings {
        policy: policy.to_owned(),
        costs: Costs::free(),
        seconds: 200.0 / f64::from(cpus),
        warm_up: 5.0,
        ..Settings::new(cpus, 200, load)
    };
    let report = Machine::new(settings).expect("legal").run();
    report.expect("a run")
}

/// Erlang's C: the probability that one of k has to wait, with `a` of work offered.
fn erlang_c(k: u32, a: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 0.0);
    for n in 0..k {
        sum += term;
        term *= a / f64::from(n + 1);
    }
    let waits = term * f64::from(k) / (f64::from(k) - a);
    waits / (sum + waits)
}

#[track_caller]
fn near(what: &str, got: f64, want: f64, percent: f64) {
    let off = 100.0 * (got / want - 1.0);
    assert!(
        off.abs() <= percent,
        "{what}: {got}, not {want}: off by {off:.2} %"
    );
}

#[test]
fn queue_mm1_response_is_that_of_the_formula() {
    for (rho, policy) in [(0.3, "fifo"), (0.5, "fair"), (0.7, "lifo"), (0.8, "rr")] {
        let report = queue(1, rho, policy, "exp:100us");
        // Any order that does not know how long a request is has this mean.
        near(policy, report.responses.mean_us, 100.0 / (1.0 - rho), 4.0);
        near(policy, report.throughput, rho * 1e4, 1.0);
        near(policy, report.work_share, rho, 1.0);
    }
}

#[test]
fn queue_mm1_in_order_of_arrival_has_exponential_responses() {
    let report = queue(1, 0.7, "fifo", "exp:100us");
    let mean = 100.0 / 0.3;
    near("p50", report.responses.p50_us, mean * 2f64.ln(), 4.0);
    near("p99", report.responses.p99_us, mean * 100f64.ln(), 5.0);
}

#[test]
fn queue_mmk_response_is_that_of_erlang() {
    for (cpus, rho, policy) in [(2, 0.7, "fifo"), (8, 0.9, "fair"), (16, 0.8, "fifo")] {
        let report = queue(cpus, rho, policy, "exp:100us");
        let k = f64::from(cpus);
        let wait = erlang_c(cpus, k * rho) * 100.0 / (k * (1.0 - rho));
        near(policy, report.responses.mean_us, 100.0 + wait, 3.0);
        near(policy, report.throughput, k * rho * 1e4, 1.0);
    }
}

#[test]
fn queue_md1_and_heavy_tails_follow_pollaczek_and_khinchine() {
    // Of waits in order of arrival: rho / (1 - rho) * (1 + cv^2) / 2 service times.
    let (rho, part) = (0.6, 0.6 / 0.4);
    let constant = queue(1, rho, "fifo", "100us");
    near(
        "M/D/1",
        constant.responses.mean_us,
        100.0 + part * 50.0,
        2.0,
    );
    let bimodal = queue(1, rho, "fifo", "bimodal:50us/1ms/10");
    let mean: f64 = 0.9 * 50.0 + 0.1 * 1000.0;
    let square = 0.9 * 50.0f64.powi(2) + 0.1 * 1000f64.powi(2);
    let wait = part * square / (2.0 * mean);
    near("M/G/1", bimodal.responses.mean_us, mean + wait, 5.0);
}

#[test]
fn queue_erlang_c_of_one_is_its_load() {
    near("C(1)", erlang_c(1, 0.7), 0.7, 1e-6);
    near("C(2)", erlang_c(2, 1.0), 1.0 / 3.0, 1e-6);
}
