//! Claims of the simulator: what it says beside what the machine does.

use super::{Claim, row, source};

/// Operations per second by the model and by the machine, at costs of the same boot.
const fn throughput(name: &'static str, test: &'static str, metric: &'static str) -> Claim {
    row(name, test, metric, "model_per_s")
        .unit("1/s")
        .beside("machine", source(metric, "machine_per_s"))
        .near(1.0, 0.15)
}

/// The 99th percentile of the time from asking for an operation to its end.
const fn p99(name: &'static str, test: &'static str, metric: &'static str, off: f64) -> Claim {
    row(name, test, metric, "model_p99_us")
        .unit("us")
        .beside("machine", source(metric, "machine_p99_us"))
        .near(1.0, off)
}

const ONE: &str = "vm_full_model_by_instructions";
const TWO: &str = "vm_full_model_on_two_cpus";

pub const ROWS: &[Claim] = &[
    throughput("model.one.low.rate", ONE, "model_one_low"),
    throughput("model.one.middle.rate", ONE, "model_one_middle"),
    throughput("model.one.high.rate", ONE, "model_one_high"),
    throughput("model.one.bimodal.rate", ONE, "model_one_bimodal"),
    throughput("model.one.full.rate", ONE, "model_one_full"),
    p99("model.one.low.p99", ONE, "model_one_low", 0.15),
    p99("model.one.middle.p99", ONE, "model_one_middle", 0.15),
    p99("model.one.high.p99", ONE, "model_one_high", 0.15),
    p99("model.one.bimodal.p99", ONE, "model_one_bimodal", 0.15),
    p99("model.one.full.p99", ONE, "model_one_full", 0.15),
    throughput("model.two.low.rate", TWO, "model_two_low"),
    throughput("model.two.middle.rate", TWO, "model_two_middle"),
    throughput("model.two.high.rate", TWO, "model_two_high"),
    throughput("model.two.bimodal.rate", TWO, "model_two_bimodal"),
    throughput("model.two.full.rate", TWO, "model_two_full"),
    p99("model.two.low.p99", TWO, "model_two_low", 0.3),
    p99("model.two.middle.p99", TWO, "model_two_middle", 0.3),
    p99("model.two.high.p99", TWO, "model_two_high", 0.3),
    p99("model.two.bimodal.p99", TWO, "model_two_bimodal", 0.3),
    p99("model.two.full.p99", TWO, "model_two_full", 0.3),
];
