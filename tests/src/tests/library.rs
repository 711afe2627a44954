//! The client library's public calls over the daemon, as nobody.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::policy::{Attrs, NAMES, Reservation};
use umcg::runtime::{Builder, Queue, assign, sleep, yield_now};
use umcg::{ErrorKind, Event, FOREVER, Group, GroupConfig, Id, Mode, Reason, Server, Why, Woken};

use super::{Test, full, short, timed};
use crate::client;
use crate::harness::{self, Sched, Verdict, metric, wait_until};
use crate::{load, race};

pub const TESTS: &[Test] = &[
    short("vm_group_wake_storm_loses_none", "group", 10, wake_storm),
    short("vm_group_api_selftest_unprivileged", "group", 5, api),
    short(
        "vm_group_runtime_selftest_unprivileged",
        "group",
        10,
        runtime,
    ),
    short(
        "vm_group_two_processes_selftest_unprivileged",
        "group",
        5,
        two_processes,
    ),
    short(
        "vm_group_policies_selftest_unprivileged",
        "group",
        10,
        policies,
    ),
    timed("vm_group_share_is_kept_unprivileged", "group", 12, share),
    short(
        "vm_group_daemon_restarts_unprivileged",
        "app,newest",
        60,
        restarts::<3>,
    ),
    full(
        "vm_full_group_daemon_restarts_20",
        "app,newest",
        300,
        restarts::<20>,
    ),
];

const LIMIT: Duration = Duration::from_secs(60);

fn in_client(body: fn() -> Result<()>) -> Result<Verdict> {
    client::in_client(LIMIT, body)
}

fn is_kernel(mode: Mode) -> bool {
    matches!(mode, Mode::Kernel { .. })
}

const STORM: u64 = 60_000;

/// More wakes at once than the group's bucket holds: each takes effect, late maybe.
fn wake_storm_body() -> Result<()> {
    let group = Group::create(&GroupConfig::default())?;
    let server = group.register_server()?;
    let (began, id) = (Instant::now(), server.id());
    let waker = || {
        let group = group.clone();
        std::thread::spawn(move || (0..STORM).try_for_each(|_| group.wake(id)))
    };
    for thread in [waker(), waker()] {
        thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    let rate = 2.0 * STORM as f64 / began.elapsed().as_secs_f64();
    println!("metric group_wake_storm per_s={rate:.0}");
    Ok(())
}

fn wake_storm() -> Result<Verdict> {
    in_client(wake_storm_body)
}

/// What a run of `worker` ended with. None: the relief valve was first, and it blocked,
/// or goes on, without a slot; it is listed again.
fn run_listed(server: &mut Server, worker: Id, limit: u64) -> Result<Option<Event>> {
    match server.run(worker, limit) {
        Err(error) if error.kind() == ErrorKind::WrongState => Ok(None),
        result => Ok(Some(result?)),
    }
}

/// Each call once: a worker that blocks, yields, waits and ends; a wake of the server.
fn api_body() -> Result<()> {
    let group = Group::create(&GroupConfig::default())?;
    ensure!(is_kernel(group.mode()), "mode {}", group.mode());
    let mut server = group.register_server()?;
    let theirs = group.clone();
    let thread = std::thread::spawn(move || -> Result<()> {
        let mut me = theirs.register_worker(77)?;
        std::thread::sleep(Duration::from_millis(5));
        me.yield_now()?;
        ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
        let soon = umcg::after(Duration::from_millis(5));
        ensure!(me.wait(soon)? == Woken::TimedOut, "woken");
        Ok(())
    });
    let mut reasons = Vec::new();
    let mut told = Vec::new();
    let mut woken = false;
    let limit = umcg::after(Duration::from_secs(20));
    while !reasons.contains(&Reason::Exited) {
        let news = server.next_event(limit)?;
        ensure!(news.cookie == 77, "{news:?}");
        if news.reason == Reason::Exited {
            break;
        }
        told.push(news.reason);
        let Some(event) = run_listed(&mut server, news.worker, limit)? else {
            continue;
        };
        ensure!(
            event.cookie == 77 && event.worker == news.worker,
            "{event:?}"
        );
        if event.reason == Reason::Waits && !woken {
            group.wake(news.worker)?;
            woken = true;
        }
        reasons.push(event.reason);
    }
    thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    // Its sleep, or the page that it touched before.
    let blocked = reasons
        .iter()
        .any(|it| matches!(it, Reason::Blocked { .. } | Reason::Fault));
    // Where this machine kept the server away, the relief valve let the worker go on: then
    // it yields without a slot, which is listed, or is listed for more than being new.
    let yielded = reasons.contains(&Reason::Yielded) || told.contains(&Reason::Yielded);
    ensure!(blocked && yielded, "{reasons:?}, {told:?}");
    let first = [Reason::New, Reason::Preempted, Reason::Woken].contains(&told[0]);
    ensure!(first && told.contains(&Reason::TimedOut), "{told:?}");
    group.wake(server.id())?;
    let error = server.next_event(limit).err().map(|it| it.kind());
    ensure!(
        error == Some(ErrorKind::Again),
        "wake of the server: {error:?}"
    );
    let id = server.id();
    let outside = group.clone();
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        outside.wake(id)
    });
    let error = server.next_event(limit).err().map(|it| it.kind());
    ensure!(
        error == Some(ErrorKind::Again),
        "wake of a sleeping server: {error:?}"
    );
    waker.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(group.list()?.len() == 1, "{:?}", group.list()?);
    Ok(())
}

pub(super) fn api() -> Result<Verdict> {
    in_client(api_body)
}

/// A worker of another process, which was passed the group's file.
fn two_processes_body() -> Result<()> {
    let group = Group::create(&GroupConfig::default())?;
    let file = group.as_fd().try_clone_to_owned()?;
    let other = client::spawn(move || {
        let group = Group::open(file)?;
        ensure!(is_kernel(group.mode()), "mode {}", group.mode());
        let mut me = group.register_worker(78)?;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
        }
        Ok(())
    })?;
    let mut server = group.register_server()?;
    let limit = umcg::after(Duration::from_secs(20));
    let (mut blocked, mut waited) = (0, 0);
    loop {
        let news = server.next_event(limit)?;
        if news.reason == Reason::Exited {
            break;
        }
        let Some(event) = run_listed(&mut server, news.worker, limit)? else {
            continue;
        };
        match event.reason {
            Reason::Exited => break,
            Reason::Blocked { .. } | Reason::Fault => blocked += 1,
            Reason::Waits => {
                waited += 1;
                group.wake(news.worker)?;
            }
            other => ensure!(other == Reason::Preempted, "{other:?}"),
        }
    }
    ensure!(
        waited > 10 && blocked > 10,
        "{waited} waits, {blocked} blocks"
    );
    other.result(LIMIT)
}

pub(super) fn two_processes() -> Result<Verdict> {
    in_client(two_processes_body)
}

/// What a task does, blocking in both ways; its sum does not depend on `pause`.
pub fn work(number: u64, pause: Duration) -> u64 {
    let mut sum = 0u64;
    for round in 0..4 {
        match round % 2 {
            0 => sleep(pause),
            _ => std::thread::sleep(pause),
        }
        for i in 0..500 {
            sum = sum.wrapping_mul(31).wrapping_add(number ^ round ^ i);
        }
    }
    sum
}

/// One N:M application: its sum, and the right one.
fn batch(tasks: u64, queue: Queue) -> Result<(u64, Mode)> {
    let runtime = Builder::new()
        .servers(2)
        .policy("fifo")
        .queue(queue)
        .build()?;
    let pause = Duration::from_millis(1);
    let tasks: Vec<_> = (0..tasks)
        .map(|n| runtime.spawn(move || work(n, pause)))
        .collect();
    let mut sum = 0u64;
    for task in tasks {
        sum = sum.wrapping_add(
            task.join()
                .map_err(|_| anyhow::anyhow!("a task panicked"))?,
        );
    }
    let mode = runtime.group().mode();
    runtime.shutdown();
    Ok((sum, mode))
}

/// The sum of so many.
pub fn expected(tasks: u64) -> u64 {
    (0..tasks)
        .map(|n| work(n, Duration::ZERO))
        .fold(0, u64::wrapping_add)
}

fn runtime_body() -> Result<()> {
    for queue in [Queue::Shared, Queue::PerServer] {
        let (sum, mode) = batch(40, queue)?;
        ensure!(sum == expected(40), "{queue:?}: a wrong sum");
        ensure!(is_kernel(mode), "{queue:?}: mode {mode}");
    }
    Ok(())
}

pub(super) fn runtime() -> Result<Verdict> {
    in_client(runtime_body)
}

/// What a task may ask of that policy.
fn asks(policy: &str, number: u64) -> Attrs {
    let third = (number % 3) as u8;
    Attrs {
        weight: (policy == "fair").then(|| 100 * (1 + u32::from(third))),
        level: (policy == "priority").then_some(third),
        tier: (policy == "quota").then_some(third),
        reservation: (policy == "deadline").then(|| Reservation::periodic(5000, 500_000)),
    }
}

/// Longer than a quantum, and a turn in between.
fn computes_and_works(policy: &str, number: u64) -> Result<u64> {
    assign(&asks(policy, number))?;
    race::burn(4_000_000);
    yield_now();
    Ok(work(number, Duration::from_millis(1)))
}

/// Under each policy tasks on two servers that compute, block, wait and yield, with a quantum.
fn policies_body() -> Result<()> {
    const TASKS: u64 = 20;
    for policy in NAMES {
        let group = GroupConfig {
            quantum: Duration::from_millis(1),
            ..GroupConfig::default()
        };
        let builder = Builder::new().servers(2).policy(policy).group(group);
        let runtime = builder.build()?;
        let tasks: Vec<_> = (0..TASKS)
            .map(|n| runtime.spawn(move || computes_and_works(policy, n)))
            .collect();
        let mut sum = 0u64;
        for task in tasks {
            let its = task.join().map_err(|_| anyhow::anyhow!("panicked"))?;
            sum = sum.wrapping_add(its.with_context(|| (*policy).to_owned())?);
        }
        let mode = runtime.group().mode();
        let stats = runtime.shutdown();
        metric(
            &format!("group_policy_{policy}"),
            &[
                ("runs", stats.runs as f64),
                ("preempted", stats.preempted as f64),
                ("blocked", stats.blocked as f64),
                ("waits", stats.waits as f64),
                ("yields", stats.yields as f64),
            ],
        );
        ensure!(
            sum == expected(TASKS) && is_kernel(mode),
            "{policy}: sum {sum}, mode {mode}"
        );
        let each = [stats.blocked, stats.waits, stats.yields];
        // One that stood still with its CPU has computed enough in one turn.
        ensure!(
            stats.completed == TASKS && stats.preempted > 0 && each.iter().all(|&n| n >= TASKS),
            "{policy}: {stats:?}"
        );
    }
    Ok(())
}

fn policies() -> Result<Verdict> {
    in_client(policies_body)
}

/// A group of half a share that spins on CPU 0 until it is killed.
fn half_share_body() -> Result<()> {
    load::pin(0, 0);
    let config = |share| GroupConfig {
        name: "half".into(),
        policy: "quota:tiers=60/30/10".into(),
        share,
        ..GroupConfig::default()
    };
    // What an ordinary user must not have: more than a thread of their own would get.
    let greedy = Group::create(&config(200))?;
    let mode = greedy.mode();
    ensure!(
        mode == Mode::FutexOnly(Why::Refused),
        "a share of 200: mode {mode}"
    );
    drop(greedy);
    let group = Group::create(&config(50))?;
    ensure!(is_kernel(group.mode()), "mode {}", group.mode());
    let mut server = group.register_server()?;
    let theirs = group.clone();
    std::thread::spawn(move || -> Result<()> {
        let _me = theirs.register_worker(1)?;
        loop {
            std::hint::spin_loop();
        }
    });
    loop {
        let news = server.next_event(FOREVER)?;
        run_listed(&mut server, news.worker, FOREVER)?;
    }
}

/// A share of 50 beside a hog gets a third of the CPU, and `status` knows whose it is.
fn share() -> Result<Verdict> {
    let sched = harness::shared()?;
    let hog = load::Hog {
        cpu: Some(0),
        ..load::Hog::default()
    }
    .start()?;
    let client = client::spawn(half_share_body)?;
    let half = || -> Result<Option<serde_json::Value>> {
        let status = sched.status()?;
        let groups = status["groups"].as_array().cloned().unwrap_or_default();
        Ok(groups.into_iter().find(|group| group["name"] == "half"))
    };
    ensure!(
        wait_until(Duration::from_secs(10), || half()
            .is_ok_and(|group| group.is_some_and(|it| it["workers"] == 1))),
        "status shows no such group: {:?}",
        half()?
    );
    std::thread::sleep(Duration::from_millis(500));
    let before = hog.cpu_seconds()?;
    std::thread::sleep(Duration::from_secs(4));
    let share = 1.0 - (hog.cpu_seconds()? - before) / 4.0;
    let group = half()?.unwrap_or_default();
    let [servers, percent, uid] = ["servers", "share", "uid"].map(|field| group[field].as_u64());
    client.signal(libc::SIGKILL);
    drop(hog);
    metric("group_share", &[("share", share)]);
    ensure!(
        (servers, percent, uid) == (Some(1), Some(50), Some(u64::from(client::NOBODY))),
        "{group}"
    );
    ensure!(group["policy"] == "quota", "{group}");
    ensure!(
        (share - 1.0 / 3.0).abs() <= 0.05,
        "a share of 50 got {:.1} % beside a hog",
        share * 100.0
    );
    ensure!(
        wait_until(Duration::from_secs(10), || half()
            .is_ok_and(|it| it.is_none())),
        "a group that has ended is shown"
    );
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// What a long application and who watches it share.
struct Watch {
    stop: &'static AtomicU32,
    rounds: &'static AtomicU32,
    /// Whether the last round ended in kernel mode.
    at_kernel: &'static AtomicU32,
}

/// Runs one N:M application until it is told to stop, in rounds that each have to be right.
fn long_application(watch: &Watch) -> Result<()> {
    let runtime = Builder::new().servers(2).policy("fifo").build()?;
    let right = expected(16);
    let (mut kernel, mut futex) = (0, 0);
    while watch.stop.load(Ordering::SeqCst) == 0 {
        let pause = Duration::from_millis(1);
        let tasks: Vec<_> = (0..16)
            .map(|n| runtime.spawn(move || work(n, pause)))
            .collect();
        let mut sum = 0u64;
        for task in tasks {
            sum = sum.wrapping_add(task.join().map_err(|_| anyhow::anyhow!("panicked"))?);
        }
        ensure!(
            sum == right,
            "round {}: a wrong sum",
            watch.rounds.load(Ordering::SeqCst)
        );
        let at_kernel = is_kernel(runtime.group().mode());
        match at_kernel {
            true => kernel += 1,
            false => futex += 1,
        }
        watch.at_kernel.store(at_kernel.into(), Ordering::SeqCst);
        watch.rounds.fetch_add(1, Ordering::SeqCst);
    }
    println!("metric group_restarts_rounds kernel={kernel} futex={futex}");
    let mode = runtime.group().mode();
    ensure!(is_kernel(mode), "at the end: mode {mode}");
    ensure!(kernel > 0 && futex > 0, "kernel {kernel}, futex {futex}");
    runtime.shutdown();
    Ok(())
}

/// The daemon is killed and started again `N` times under a running application.
fn restarts<const N: u32>() -> Result<Verdict> {
    let [stop, rounds, at_kernel, ..] = client::shared_words()?;
    let watch = Watch {
        stop,
        rounds,
        at_kernel,
    };
    let mut sched = Sched::start(&[])?;
    let app = client::spawn(move || long_application(&watch))?;
    let go_on = |when: &str, wanted: u32| -> Result<()> {
        let before = rounds.load(Ordering::SeqCst);
        let began = Instant::now();
        let goes_on = || {
            at_kernel.load(Ordering::SeqCst) == wanted && rounds.load(Ordering::SeqCst) > before + 2
        };
        ensure!(
            wait_until(Duration::from_secs(20), goes_on),
            "{when}: {} rounds in 20 s, in kernel mode {} of {wanted}",
            rounds.load(Ordering::SeqCst) - before,
            at_kernel.load(Ordering::SeqCst)
        );
        metric(
            "group_restart_resume",
            &[("ms", began.elapsed().as_secs_f64() * 1e3)],
        );
        Ok(())
    };
    for _ in 0..N {
        go_on("served", 1)?;
        sched.signal(libc::SIGKILL);
        sched.wait(Duration::from_secs(10))?;
        go_on("killed", 0)?;
        sched = Sched::start(&[])?;
    }
    go_on("served again", 1)?;
    stop.store(1, Ordering::SeqCst);
    app.result(LIMIT)?;
    sched.stop()?;
    Ok(Verdict::Ok)
}
