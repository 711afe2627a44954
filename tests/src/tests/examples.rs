//! The library's examples, and the facts that events tell, over the daemon, as nobody.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::{FOREVER, Group, GroupConfig, Reason};

use super::{Test, short};
use crate::boss::{in_client, soon};
use crate::client;
use crate::harness::{self, Verdict, sibling};
use crate::load::clock_ns;

pub const TESTS: &[Test] = &[
    short("vm_group_examples_unprivileged", "group", 25, examples),
    short("vm_group_c_programs_unprivileged", "group", 5, in_c),
    short("vm_group_times_selftest_unprivileged", "group", 3, times),
];

/// Each with a line that only a run to its end prints.
const EXAMPLES: [(&str, &str); 10] = [
    ("hello", "worker 2, turn 1"),
    ("tutorial", "three workers took turns"),
    ("pool", "40 tasks"),
    ("lockstep", "done"),
    ("httpd", "64 requests"),
    ("hog", "was preempted"),
    ("handoff", "10000 round trips"),
    ("sigalrm", "SIGALRM: the hogs were forced off"),
    ("sigprof", "SIGPROF: the hogs were forced off"),
    ("sigvtalrm", "SIGVTALRM: the hogs were forced off"),
];

/// The same in C, with its arguments.
const IN_C: [(&str, &str); 5] = [
    ("c-hello", "worker 2, turn 1"),
    ("c-signals SIGALRM", "preempted: yes"),
    ("c-signals timer", "preempted: yes"),
    ("c-calls kernel", "all calls"),
    ("c-queue kernel", "last came first"),
];

fn example(command: &str, wanted: &str) -> Result<()> {
    let mut words = command.split(' ');
    let name = words.next().unwrap_or_default();
    let program = sibling("examples").join(name);
    let began = Instant::now();
    let output = Command::new(&program)
        .args(words)
        .output()
        .with_context(|| format!("{}: not built", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let done = output.status.success() && text.ends_with("done\n") && text.contains(wanted);
    ensure!(done, "{name}: {}: {text}{errors}", output.status);
    let seconds = began.elapsed().as_secs_f64();
    println!("metric group_example name={name} s={seconds:.2}");
    Ok(())
}

fn served(programs: &'static [(&str, &str)]) -> Result<Verdict> {
    let sched = harness::shared()?;
    for (name, wanted) in programs {
        let before = sched.counter("grp_run")?;
        client::spawn(|| example(name, wanted))?.result(Duration::from_secs(120))?;
        let runs = sched.counter("grp_run")? - before;
        ensure!(runs > 0, "{name} was not served by the daemon");
    }
    client::is_sound(&sched)?;
    Ok(Verdict::Ok)
}

fn examples() -> Result<Verdict> {
    served(&EXAMPLES)
}

fn in_c() -> Result<Verdict> {
    served(&IN_C)
}

const MS: u64 = 1_000_000;
const BURN_NS: u64 = 30 * MS;
const SLEEP_NS: u64 = 50 * MS;
/// What a thread may use for its yield, on a slow machine.
const REST_NS: u64 = 20 * MS;

/// A worker's CPU time, without its sleep, and its time in the queue, without its server's.
fn times_body() -> Result<()> {
    let group = Group::create(&GroupConfig::default())?;
    let mut server = group.register_server()?;
    let theirs = group.clone();
    let thread = std::thread::spawn(move || -> Result<u64> {
        let mut me = theirs.register_worker(0)?;
        let began = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        while clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) < began + BURN_NS {}
        std::thread::sleep(Duration::from_nanos(SLEEP_NS));
        let used = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        me.yield_now()?;
        Ok(used)
    });
    let mut ready = server.next_event(soon())?;
    let id = ready.worker;
    // So long it is RUNNABLE, and the server has not run it.
    std::thread::sleep(Duration::from_nanos(SLEEP_NS));
    let left = loop {
        let end = server.run(id, FOREVER)?;
        ensure!(end.worker == id && end.cookie == 0, "{end:?}");
        if end.reason == Reason::Yielded {
            break end;
        }
        ready = server.next_event(soon())?;
        ensure!(
            ready.worker == id && ready.at_ns >= end.at_ns,
            "{end:?}, then {ready:?}"
        );
    };
    ensure!(server.next_event(soon())?.reason == Reason::Yielded);
    let gone = server.run(id, FOREVER)?;
    ensure!(gone.reason == Reason::Exited, "{gone:?}");
    let used = thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    println!(
        "metric group_times run_ms={} used_ms={} wait_ms={}",
        left.run_ns / MS,
        used / MS,
        left.wait_ns / MS
    );
    let is_cpu_time = (BURN_NS..used + REST_NS).contains(&left.run_ns);
    ensure!(is_cpu_time, "{left:?}: run_ns, of {used} that it used");
    ensure!(left.wait_ns >= SLEEP_NS / 2, "{left:?}: wait_ns");
    ensure!(gone.run_ns >= left.run_ns, "{left:?}, then {gone:?}");
    ensure!(gone.wait_ns >= left.wait_ns, "{left:?}, then {gone:?}");
    Ok(())
}

fn times() -> Result<Verdict> {
    in_client(times_body)
}
