//! Processes with workers in all states that are killed, stopped or replaced.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::{KernelGroup, sys};
use umcg::{ErrorKind, Id, Kind};

use super::app::Board;
use super::group::faulting_pages;
use super::{Test, timed};
use crate::client::{self, Progress, is_sound, serve_by, worker};
use crate::client::{all_stopped, group_maps};
use crate::harness::{Sched, Verdict, metric, wait_until};
use crate::leak::Held;

pub const TESTS: &[Test] = &[
    timed("vm_app_kill_in_all_states", "app,newest", 20, ends::<KILL>),
    timed("vm_app_stop_in_all_states", "app,newest", 20, ends::<STOP>),
    timed("vm_app_exec_in_all_states", "app,newest", 20, ends::<EXEC>),
];

const KILL: usize = 0;
const STOP: usize = 1;
const EXEC: usize = 2;
const NAMES: [&str; 3] = ["kill", "stop", "exec"];

const WORKERS: usize = 64;
const ROUNDS: usize = 4;
const MOST_MS: f64 = 100.0;

/// On the board: who calls exec, from now on.
const GO: usize = 0;
const BY_WORKER: u64 = 1;
const BY_OTHER: u64 = 2;

fn ends<const HOW: usize>() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    // Once before, for what the first one makes and keeps.
    end_one(&sched, HOW, 0)?;
    let before = Held::settled(&sched)?;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        took.push(end_one(&sched, HOW, round)?);
    }
    let longest = took.iter().copied().fold(0.0, f64::max);
    metric(&format!("app_{}", NAMES[HOW]), &[("longest_ms", longest)]);
    let mut now = Held::now(&sched)?;
    wait_until(Duration::from_secs(10), || {
        if let Ok(held) = Held::now(&sched) {
            now = held;
        }
        now.back_at(&before).is_ok()
    });
    now.back_at(&before)?;
    is_sound(&sched)?;
    sched.stop()?;
    ensure!(
        longest <= MOST_MS,
        "{}: {longest:.1} ms, at most {MOST_MS}; all: {took:.1?}",
        NAMES[HOW]
    );
    Ok(Verdict::Ok)
}

/// One process, and how many ms its end, or its stop, took.
fn end_one(sched: &Sched, how: usize, round: usize) -> Result<f64> {
    let board = Board::new()?;
    let runs = sched.counter("grp_run")?;
    let client = client::spawn(move || crowd(board))?;
    let busy = |runs| {
        wait_until(Duration::from_secs(10), || {
            sched.counter("grp_run").is_ok_and(|now| now > runs + 500)
        })
    };
    ensure!(busy(runs), "no hand-overs");
    let all = threads_of(client.pid);
    let mut began = sys::now_ns();
    let mut reached = || match how {
        // All of its threads, not the first alone.
        KILL => client.is_reaped(),
        STOP => all_stopped(client.pid),
        _ => {
            let threads = threads_of(client.pid);
            if threads == all {
                // A worker on its way to the new program reads its file, and waits for its
                // turn as after any block.
                began = sys::now_ns();
            }
            threads == 1 && name_of(client.pid) == "sleep"
        }
    };
    match how {
        KILL => client.signal(libc::SIGKILL),
        STOP => client.signal(libc::SIGSTOP),
        _ => board.set(GO, [BY_WORKER, BY_OTHER][round % 2]),
    }
    ensure!(
        wait_until(Duration::from_secs(5), &mut reached),
        "{}: not after 5 s, {} threads",
        NAMES[how],
        threads_of(client.pid)
    );
    let ms = (sys::now_ns() - began) as f64 / 1e6;
    if how == STOP {
        client.signal(libc::SIGCONT);
        ensure!(
            busy(sched.counter("grp_run")?),
            "stands still after SIGCONT"
        );
    }
    client.kill();
    ensure!(
        wait_until(Duration::from_secs(5), || group_maps() == 0),
        "{} maps of the group are left",
        group_maps()
    );
    Ok(ms)
}

fn threads_of(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn name_of(pid: i32) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    comm.unwrap_or_default().trim().to_owned()
}

/// Two servers, and workers that compute, yield, wait for a time or for ever, sleep, read, fault.
fn crowd(board: Board) -> Result<()> {
    let group = client::group(128)?;
    let base = faulting_pages(WORKERS * 4096)?;
    for i in 0..WORKERS {
        let _ = worker(&group, i as u64, move |group, me| {
            let mut page = i * 4096;
            let (mut never, _end) = std::io::pipe()?;
            loop {
                match i % 8 {
                    0 => {
                        // Nobody takes it off: its server lets it run for ever.
                        compute_for(2_000_000);
                        group.yield_now(me)?;
                    }
                    1 => group.yield_now(me)?,
                    2 => {
                        let _ = group.wait(me, sys::now_ns() + 5_000_000)?;
                    }
                    3 => {
                        let _ = group.wait(me, u64::MAX)?;
                    }
                    4 => std::thread::sleep(Duration::from_millis(3)),
                    5 => drop(never.read(&mut [0])?),
                    6 => switch(group, me)?,
                    _ => {
                        let at = (base + page * 4096) as *const u8;
                        // SAFETY: inside of the mapping of faulting_pages().
                        std::hint::black_box(unsafe { at.read_volatile() });
                        page = i * 4096 + (page + 1) % 4096;
                        group.yield_now(me)?;
                    }
                }
                if i == 0 && board.get(GO) == BY_WORKER {
                    replace();
                }
            }
        });
    }
    std::thread::spawn(move || {
        while board.get(GO) != BY_OTHER {
            std::thread::sleep(Duration::from_micros(200));
        }
        replace();
    });
    let all = Arc::new(Progress::default());
    serve_by(&group, 2, u64::MAX, &all).map(|_| ())
}

fn compute_for(ns: u64) {
    let end = sys::now_ns() + ns;
    while sys::now_ns() < end {
        std::hint::spin_loop();
    }
}

/// To any worker that waits; most do not.
fn switch(group: &KernelGroup, me: Id) -> Result<()> {
    let others = group.list()?;
    let other = others.iter().find(|it| it.cookie % 8 == 3 && it.id != me);
    let Some(other) = other.filter(|it| it.kind == Kind::Worker) else {
        return Ok(());
    };
    match group.switch(me, other.id, sys::now_ns() + 2_000_000) {
        Err(error)
            if error.kind() == ErrorKind::WrongState || error.kind() == ErrorKind::NotFound =>
        {
            group.yield_now(me)?;
        }
        result => {
            let _ = result?;
        }
    }
    Ok(())
}

/// Another program instead of this one.
fn replace() {
    let error = std::process::Command::new("sleep").arg("1000").exec();
    // Only if it failed; then nobody is replaced, which is seen.
    eprintln!("exec: {error}");
}
