//! All tests, by what they are about.

mod alone;
mod app;
mod app_cost;
pub mod app_cycles;
mod app_end;
pub mod app_hostile;
mod app_many;
mod app_pair;
mod app_race;
mod app_share;
mod app_stall;
mod bars;
mod blocks;
mod calls;
mod cgroup;
mod changes;
mod churn_cast;
mod class;
mod compile;
mod config;
mod cpus;
mod decide;
mod denied;
mod doctor;
mod ends;
mod examples;
mod fair;
mod faults;
pub mod fuzz;
mod gone;
pub mod group;
mod guard;
mod hammer;
mod hostile;
mod hotplug;
mod idle;
mod idle_group;
mod kernel;
mod late;
pub mod library;
mod life;
mod limits;
mod long_wait;
mod loose;
mod member;
mod model;
mod moved;
mod pairs;
mod partial;
mod paths;
mod planted;
mod policy;
mod policy_two;
mod preempt;
mod preempt_churn;
mod preempt_latency;
mod preempt_load;
mod published;
mod quota;
mod read_only;
mod records;
mod refused;
mod regroup;
mod restart;
mod runtime;
mod see;
mod servers;
mod share;
mod signals;
mod soak;
mod stamps;
mod stats;
mod storm;
mod timens;
mod traced;
mod usage;
mod verify;
mod watch;
mod wrap;

pub use timens::{A_DAY_AHEAD, in_time_namespace};

use anyhow::Result;

use crate::harness::Verdict;

/// One test.
pub struct Test {
    /// Its name, as in `docs/operations.md`.
    pub name: &'static str,
    /// Tests with the same word share a boot; it may hold options of the VM.
    pub boot: &'static str,
    /// Expected seconds in an emulated VM.
    pub seconds: u32,
    /// Only with `--full`.
    pub full: bool,
    /// How often it may be tried: more than once only where it compares times or
    /// shares with a bar, since a busy host makes these worse and never better.
    pub tries: u32,
    /// The test.
    pub run: fn() -> Result<Verdict>,
}

/// `short(name, boot, seconds, run)`: a test of every run.
pub const fn short(
    name: &'static str,
    boot: &'static str,
    seconds: u32,
    run: fn() -> Result<Verdict>,
) -> Test {
    Test {
        name,
        boot,
        seconds,
        full: false,
        tries: 1,
        run,
    }
}

/// A test of every run that compares times or shares with a bar.
pub const fn timed(
    name: &'static str,
    boot: &'static str,
    seconds: u32,
    run: fn() -> Result<Verdict>,
) -> Test {
    Test {
        tries: 3,
        ..short(name, boot, seconds, run)
    }
}

/// The same for `--full` only.
pub const fn full(
    name: &'static str,
    boot: &'static str,
    seconds: u32,
    run: fn() -> Result<Verdict>,
) -> Test {
    Test {
        name,
        boot,
        seconds,
        full: true,
        tries: 1,
        run,
    }
}

/// Every test there is.
pub fn all() -> impl Iterator<Item = &'static Test> {
    [
        life::TESTS,
        usage::TESTS,
        verify::TESTS,
        see::TESTS,
        stats::TESTS,
        doctor::TESTS,
        watch::TESTS,
        changes::TESTS,
        storm::TESTS,
        hostile::TESTS,
        cpus::TESTS,
        hotplug::TESTS,
        kernel::TESTS,
        share::TESTS,
        bars::TESTS,
        late::TESTS,
        fair::TESTS,
        pairs::TESTS,
        compile::TESTS,
        config::TESTS,
        regroup::TESTS,
        cgroup::TESTS,
        limits::TESTS,
        decide::TESTS,
        policy::TESTS,
        policy_two::TESTS,
        alone::TESTS,
        preempt::TESTS,
        preempt_churn::TESTS,
        preempt_latency::TESTS,
        preempt_load::TESTS,
        hammer::TESTS,
        stamps::TESTS,
        idle::TESTS,
        idle_group::TESTS,
        gone::TESTS,
        group::TESTS,
        guard::TESTS,
        long_wait::TESTS,
        class::TESTS,
        records::TESTS,
        model::TESTS,
        moved::TESTS,
        refused::TESTS,
        timens::TESTS,
        wrap::TESTS,
        library::TESTS,
        runtime::TESTS,
        restart::TESTS,
        signals::TESTS,
        soak::TESTS,
        member::TESTS,
        traced::TESTS,
        ends::TESTS,
        servers::TESTS,
        published::TESTS,
        loose::TESTS,
        calls::TESTS,
        read_only::TESTS,
        quota::TESTS,
        app_cycles::TESTS,
        app_many::TESTS,
        app_hostile::TESTS,
        app_cost::TESTS,
        app_stall::TESTS,
        app_end::TESTS,
        app_share::TESTS,
        app_race::TESTS,
        app_pair::TESTS,
        denied::TESTS,
        fuzz::TESTS,
        examples::TESTS,
        partial::TESTS,
        blocks::TESTS,
        faults::TESTS,
        planted::TESTS,
    ]
    .into_iter()
    .flatten()
}
