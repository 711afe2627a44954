//! What holds for each policy, each mode and each load.

use umcg_policy::{Decide, NAMES, create};
use umcg_sim::costs::Costs;
use umcg_sim::idle::IdleKind;
use umcg_sim::machine::{Machine, Settings};
use umcg_sim::stats::Report;

const LOADS: [&str; 7] = [
    "cpu:work=exp:700us",
    "cpu:work=3ms,weights=100/300/15",
    "sleepers:work=exp:50us,load=0.9",
    "sleepers:work=lognormal:30us/1.5,load=1.5",
    "request:load=0.8,service=pareto:20us/1.5",
    "request:load=1.2,service=bimodal:20us/6ms/2",
    "messaging:work=exp:5us,fan=7",
];

fn settings(cpus: u32, workers: u32, load: &str) -> Settings {
    Settings {
        seconds: 0.15,
        warm_up: 0.02,
        ..Settings::new(cpus, workers, load.parse().expect(load))
    }
}

/// Runs and audits.
fn run(settings: Settings) -> Report {
    let what = format!("{settings:?}");
    let mut machine = Machine::new(settings).expect("legal");
    machine.simulate().expect("a run");
    machine.audit().expect(&what);
    let (asked, ended) = machine.conserved();
    assert!(ended > 0 && ended <= asked, "{what}: {ended} of {asked}");
    machine.report()
}

/// Each policy in each mode that it has.
fn modes() -> Vec<(&'static str, Decide)> {
    let both = [Decide::Keyed, Decide::Staged];
    let all = NAMES
        .iter()
        .flat_map(|&name| both.map(|decide| (name, decide)));
    all.filter(|&(name, decide)| create(name, Some(decide), 4).is_ok())
        .collect()
}

#[test]
fn every_operation_ends_once_and_nobody_runs_twice() {
    assert!(modes().len() > NAMES.len(), "some policies have both modes");
    for (policy, decide) in modes() {
        for load in LOADS {
            for cpus in [1, 2, 9] {
                let report = run(Settings {
                    policy: policy.to_owned(),
                    decide: Some(decide),
                    ..settings(cpus, 41, load)
                });
                let shares = report.work_share + report.agent_share + report.kernel_share;
                assert!(shares <= 1.01, "{policy} {load}: {shares} of the time");
            }
        }
    }
}

#[test]
fn every_idle_structure_and_depth_conserves_operations() {
    for idle in [
        IdleKind::Kernel,
        IdleKind::Stack,
        IdleKind::Ring,
        IdleKind::Mask,
    ] {
        for stage in [1, 64] {
            for policy in ["fifo", "priority"] {
                let report = run(Settings {
                    idle,
                    stage,
                    policy: policy.to_owned(),
                    ..settings(70, 300, "request:load=0.6,service=exp:100us")
                });
                assert!(report.counts.direct > 0, "{idle:?}");
            }
        }
    }
}

#[test]
fn a_seed_repeats_a_run_and_another_does_not() {
    for (policy, load) in [("fair", LOADS[2]), ("fifo", LOADS[4]), ("lifo", LOADS[6])] {
        let seeded = |seed| {
            let report = run(Settings {
                seed,
                policy: policy.to_owned(),
                ..settings(5, 80, load)
            });
            serde_json::to_string(&report).expect("JSON")
        };
        assert_eq!(seeded(7), seeded(7), "{policy}");
        let (one, other) = (seeded(7), seeded(8).replace("\"seed\":8", "\"seed\":7"));
        assert_ne!(one, other, "{policy}");
    }
}

#[test]
fn an_empty_machine_costs_nothing() {
    for (policy, decide) in modes() {
        let settings = Settings {
            policy: policy.to_owned(),
            decide: Some(decide),
            ..settings(64, 1000, "request:rate=0.000001,service=1ms")
        };
        let report = Machine::new(settings).expect("legal").run().expect("a run");
        assert_eq!(
            report.counts,
            umcg_sim::stats::Counts::default(),
            "{policy}"
        );
        let spent = [report.work_share, report.agent_share, report.kernel_share];
        assert_eq!(spent, [0.0; 3], "{policy}");
        assert_eq!(report.events, 0);
    }
}

#[test]
fn a_keyed_policy_that_needs_no_news_costs_no_agent() {
    let base = settings(4, 100, "sleepers:work=exp:50us,load=2");
    let arrival = run(Settings {
        policy: "arrival".to_owned(),
        ..base.clone()
    });
    let staged = run(Settings {
        policy: "lifo".to_owned(),
        ..base
    });
    assert!(arrival.agent_share < 0.01, "{}", arrival.agent_share);
    assert!(staged.agent_share > 0.05, "{}", staged.agent_share);
    assert_eq!(arrival.counts.staged, 0);
    assert!(staged.counts.staged > 9 * staged.counts.by_key);
}

#[test]
fn the_agent_takes_more_with_shorter_work_and_less_with_more_ahead() {
    let agent = |work: &str, stage: u32| {
        let load = format!("sleepers:work=exp:{work},load=2");
        let report = run(Settings {
            policy: "fifo".to_owned(),
            stage,
            ..settings(1, 64, &load)
        });
        report.agent_share
    };
    let shares = [agent("1ms", 8), agent("100us", 8), agent("10us", 8)];
    assert!(shares.is_sorted(), "{shares:?}");
    let depths = [agent("10us", 32), agent("10us", 8), agent("10us", 1)];
    assert!(depths.is_sorted(), "{depths:?}");
}

#[test]
fn distance_costs() {
    let run = |llc_cpus, node_cpus| {
        run(Settings {
            domains: umcg_sim::costs::Domains {
                llc_cpus,
                node_cpus,
            },
            ..settings(32, 400, "sleepers:work=exp:50us,load=0.8")
        })
    };
    let (one_cache, many_nodes) = (run(32, 32), run(1, 1));
    assert!(many_nodes.kernel_share > 1.05 * one_cache.kernel_share);
}

#[test]
fn a_switch_costs_what_the_table_says() {
    // Two that hand over to each other: a wake-up and a switch each, as a pipe's two ends.
    let report = run(settings(1, 2, "messaging:fan=1,work=1ns"));
    let per_switch = 1e9 * report.kernel_share / (report.counts.switches as f64 / report.seconds);
    let costs = Costs::default();
    let want = costs.switch + costs.wake;
    assert!((per_switch / want - 1.0).abs() < 0.01, "{per_switch}");
}
