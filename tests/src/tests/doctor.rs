//! `doctor --pid`: why a thread does not run.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umcg::Kind;
use umcg::backend::Backend;

use super::{Test, short};
use crate::cgroup::Cgroup;
use crate::client;
use crate::harness::{self, Sched, Verdict, adopt, sibling, wait_until};
use crate::load::{self, Hog};

pub const TESTS: &[Test] = &[
    short(
        "vm_doctor_pid_explains_each_state",
        "see,newest",
        15,
        each_state,
    ),
    short(
        "vm_doctor_pid_names_refused_takes",
        "see,newest",
        15,
        refusals,
    ),
    short(
        "vm_doctor_pid_knows_groups_and_limits",
        "see,newest",
        12,
        held_back,
    ),
    short(
        "vm_doctor_pid_refuses_what_is_no_worker",
        "see,newest",
        12,
        no_worker,
    ),
];

fn doctor(pid: i32, more: &[&str]) -> Result<Output> {
    Ok(Command::new(sibling("scx_umcg"))
        .args(["doctor", "--pid", &pid.to_string()])
        .args(more)
        .output()?)
}

fn explained(pid: i32) -> Result<Value> {
    let out = doctor(pid, &["--json"])?;
    ensure!(
        out.status.success(),
        "doctor --pid {pid}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// Asks until the answer is as wanted; that answer.
fn until(pid: i32, what: &str, done: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let found = wait_until(Duration::from_secs(15), || {
        last = explained(pid).unwrap_or_default();
        done(&last)
    });
    ensure!(found, "pid {pid}: {what} never seen; last: {last}");
    Ok(last)
}

fn is(value: &Value, state: &str) -> bool {
    value["state"] == state
}

fn says(value: &Value, field: &str, text: &str) -> bool {
    value[field].as_str().is_some_and(|s| s.contains(text))
}

fn sleeper() -> Result<Child> {
    let child = Command::new("sleep").arg("1000").spawn()?;
    adopt(child.id());
    Ok(child)
}

/// In strict order on one CPU: who runs, who waits for it, who sleeps, who is stopped.
fn each_state() -> Result<Verdict> {
    let sched = Sched::start(&["--policy", "test-pid"])?;
    let pinned = Hog {
        cpu: Some(0),
        ..Hog::default()
    };
    let hogs = pinned.start_many(2)?;
    let (first, last) = (hogs[0].pid(), hogs[1].pid());
    let (first, last) = (first.min(last), first.max(last));
    let sleeper = sleeper()?;
    let asleep = sleeper.id() as i32;

    let waits = |v: &Value| is(v, "RUNNABLE") && v["queue"]["name"] == "park";
    let check = |when: &str| -> Result<()> {
        until(first, "RUNNING", |v| {
            is(v, "RUNNING") && says(v, "why", "it runs")
        })?;
        // While the winner holds the CPU; the relief valve lets the other one run now and then.
        let v = until(last, "waiting for the winner", |v| {
            waits(v) && says(v, "why", &format!("has run {first} (umcg-vmtest)"))
        })?;
        let ok = v["queue"]["cpu"] == 0
            && v["affinity"] == "0"
            && v["weight"] == 100
            && v["policy"] == "SCHED_OTHER"
            && says(&v, "owner", "server 0")
            && v["ahead"].is_u64()
            && v["age_ms"].as_f64().is_some_and(|ms| ms > 0.0);
        ensure!(ok, "{when}: {v}");
        until(asleep, "BLOCKED", |v| {
            is(v, "BLOCKED") && says(v, "why", "in a system call") && v["queue"]["name"] == "none"
        })?;
        Ok(())
    };
    check("at work")?;
    sched.signal(libc::SIGSTOP);
    check("while the agent was stopped")?;
    sched.signal(libc::SIGCONT);

    // SAFETY: our own child, not reaped yet.
    unsafe { libc::kill(asleep, libc::SIGSTOP) };
    until(asleep, "stopped", |v| {
        is(v, "BLOCKED") && says(v, "why", "stopped by a signal")
    })?;

    let text = String::from_utf8_lossy(&doctor(last, &[])?.stdout).into_owned();
    let labels: Vec<_> = text.lines().filter_map(|l| l.split(':').next()).collect();
    let want = [
        "thread", "why", "state", "queue", "owner", "affinity", "weight", "refused",
    ];
    ensure!(labels.starts_with(&want), "one line each: {text}");
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// Threads that may use CPU 0 only, and CPU 1 with nothing to do.
fn refusals() -> Result<Verdict> {
    if fs::metadata("/sys/devices/system/cpu/cpu1").is_err() {
        return Ok(Verdict::Skip("one CPU: nobody else could take".into()));
    }
    for (args, reason) in [
        (&["--policy", "fair"][..], "nobody who waited on its queue"),
        (&["--policy", "fifo"], "its affinity does not allow"),
    ] {
        // Long slices: CPU 1 must be found idle within one wait, and this program uses it too.
        let args = [args, &["--slice-us", "100000"]].concat();
        let sched = Sched::start(&args)?;
        let pinned = Hog {
            cpu: Some(0),
            ..Hog::default()
        };
        let hogs = pinned.start_many(4)?;
        let told = |v: &Value| {
            v["refusals"].as_array().is_some_and(|all| {
                all.iter()
                    .any(|r| r["cpu"] == 1 && says(r, "reason", reason))
            })
        };
        let mut last = Value::Null;
        let found = wait_until(Duration::from_secs(20), || {
            hogs.iter().any(|hog| {
                last = explained(hog.pid()).unwrap_or_default();
                told(&last)
            })
        });
        ensure!(found, "{args:?}: {reason:?} never seen; last: {last}");
        ensure!(
            last["refusals"][0]["ago_ms"].as_f64() <= last["age_ms"].as_f64(),
            "a refusal of an earlier wait: {last}"
        );
        drop(hogs);
        sched.stop()?;
    }
    Ok(Verdict::Ok)
}

/// A server that lets its worker run once and then waits for events, while the worker waits.
fn idle_group() -> Result<()> {
    let group = client::group(8)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let _worker = client::worker(&group, 0, |group, me| {
        group.wait(me, u64::MAX).map(drop).map_err(Into::into)
    });
    loop {
        let event = group.next_event(me, u64::MAX)?;
        group.run(me, event.worker, u64::MAX)?;
    }
}

/// Members of a group that nobody wakes, and a hog whose cgroup has used its time up.
fn held_back() -> Result<Verdict> {
    let sched = harness::shared()?;
    let client = client::spawn(idle_group)?;
    until(client.pid, "a server without work", |v| {
        v["member"]["server"] == true
            && is(v, "IDLE")
            && (says(v, "why", "waits for an event") || says(v, "why", "waits for its group"))
    })?;
    let mut told = String::new();
    let found = wait_until(Duration::from_secs(15), || {
        let tasks = fs::read_dir(format!("/proc/{}/task", client.pid));
        let tids = tasks.into_iter().flatten().flatten();
        tids.filter_map(|t| t.file_name().to_str()?.parse::<i32>().ok())
            .filter(|&tid| tid != client.pid)
            .any(|tid| {
                let v = explained(tid).unwrap_or_default();
                told += &format!("{v}\n");
                v["member"]["server"] == false
                    && v["member"]["number"] == 1
                    && is(&v, "IDLE")
                    && says(&v, "detail", "in a wait of its group")
            })
    });
    ensure!(found, "no worker that waits: {told}");
    client.signal(libc::SIGKILL);

    if scx_umcg::kernel::tells_of_limits() {
        let limited = Cgroup::new("umcg-doctor")?;
        limited.set("cpu.max", "5000 200000")?;
        let hog = Hog::default().start()?;
        limited.add(hog.pid())?;
        until(hog.pid(), "throttled", |v| {
            v["queue"]["name"] == "throttle" && says(v, "why", "used up its cpu.max")
        })?;
    }
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

/// Exit code 1 and one sentence that holds `want`.
fn refused(pid: i32, want: &str) -> Result<()> {
    let out = doctor(pid, &["--json"])?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        out.status.code() == Some(1) && out.stdout.is_empty(),
        "doctor --pid {pid}: code {:?}, signal {:?}: {text}",
        out.status.code(),
        out.status.signal()
    );
    ensure!(
        text.contains(want) && text.trim_end().lines().count() == 1,
        "doctor --pid {pid} should say {want:?}, says {text:?}"
    );
    Ok(())
}

/// The thread below `dir` whose name starts so.
fn named(dir: &str, comm: &str) -> Result<i32> {
    fs::read_dir(dir)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|tid: &i32| {
            fs::read_to_string(format!("{dir}/{tid}/comm")).is_ok_and(|c| c.starts_with(comm))
        })
        .with_context(|| format!("no thread {comm}"))
}

fn no_worker() -> Result<Verdict> {
    harness::end_shared();
    refused(1, "does not run")?;
    let mut gone = Command::new("true").stdin(Stdio::null()).spawn()?;
    gone.wait()?;
    let zombie = Command::new("true").stdin(Stdio::null()).spawn()?;
    adopt(zombie.id());
    let normal = sleeper()?.id() as i32;
    let fifo = sleeper()?.id() as i32;
    load::fifo(fifo)?;

    let sched = Sched::start(&[])?;
    refused(gone.id() as i32, "does not exist")?;
    refused(zombie.id() as i32, "has ended")?;
    refused(fifo, "SCHED_FIFO")?;
    refused(named("/proc", "ksoftirqd/0")?, "kernel thread of cpu 0")?;
    refused(named("/proc", "kworker/u")?, "kernel-fair queue")?;
    let server = named(&format!("/proc/{}/task", sched.pid()), "umcg-server/0")?;
    refused(server, "server 0 of the agent")?;
    explained(normal).context("in full mode a normal thread is a worker")?;
    sched.stop()?;

    let sched = Sched::start(&["--partial"])?;
    refused(normal, "--partial")?;
    let ext = Hog {
        ext: true,
        ..Hog::default()
    }
    .start()?;
    until(ext.pid(), "a SCHED_EXT worker", |v| {
        v["policy"] == "SCHED_EXT" && is(v, "RUNNING")
    })?;
    drop(ext);
    sched.stop()?;
    Ok(Verdict::Ok)
}
