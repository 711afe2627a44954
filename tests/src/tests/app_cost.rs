//! What the way back to a server costs, in instructions: one is a nanosecond here.
//!
//! From the worker's edge to BLOCKED, whose time the event has, to the return of the server's call.
//! Also from right before the worker's system call: that has the kernel's way into its sleep, too.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::{KernelGroup, sys};
use umcg::{Id, Kind, Reason};

use super::app::{Board, no_slack};
use super::paths::{clock_cost, hand_off, private_futex};
use super::{Test, full};
use crate::client::{self, is_sound, join_all, worker};
use crate::harness::{Sched, Verdict, median, metric, sibling};
use crate::load;

pub const TESTS: &[Test] = &[full(
    "vm_full_app_block_to_server_cost",
    "app-cost,icount,cpus=1",
    20,
    cost,
)];

const NOBODY: u32 = 65534;
const ROUNDS: usize = 3000;
/// The first ones touch pages, and fill caches of the kernel's.
const COLD: usize = 300;
const KINDS: [&str; 3] = ["nanosleep", "pipe", "futex"];

/// On the board, per kind: median and p99 from the edge, and the median from the call on.
const FIGURES: usize = 3;

fn cost() -> Result<Verdict> {
    let board = Board::new()?;
    let half = hand_off(board)?;
    let sched = Sched::start(&[])?;
    client::spawn(move || measure(board))?.result(Duration::from_secs(120))?;
    let calls = heap_calls()?;
    is_sound(&sched)?;
    sched.stop()?;
    metric("app_heap", &[("calls", calls)]);
    ensure!(calls == 0.0, "{calls} calls of the allocator");
    let mut missed = Vec::new();
    for (kind, name) in KINDS.iter().enumerate() {
        let at = kind * FIGURES;
        let [middle, p99, call] = [0, 1, 2].map(|i| board.get(at + i) as f64);
        metric(
            &format!("app_block_to_server_{name}"),
            &[
                ("median", middle),
                ("p99", p99),
                ("from_call", call),
                ("futex_hand_off", half),
                ("ratio", middle / half),
            ],
        );
        if middle > 0.5 * half {
            missed.push(format!("{name}: {middle} of {half}"));
        }
    }
    ensure!(
        missed.is_empty(),
        "block to server by a futex hand-off, at most 0.5: {}",
        missed.join("; ")
    );
    Ok(Verdict::Ok)
}

/// What a client of its own counts: see there.
fn heap_calls() -> Result<f64> {
    let mut client = Command::new(sibling("umcg-vmheap"));
    client.uid(NOBODY).gid(NOBODY);
    let text = load::finish(Duration::from_secs(60), client)?;
    let calls = text.trim().rsplit("calls=").next();
    calls
        .and_then(|n| n.parse().ok())
        .with_context(|| text.clone())
}

fn measure(board: Board) -> Result<()> {
    let group = client::group(8)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let clock = clock_cost();
    for (kind, name) in KINDS.iter().enumerate() {
        let blocked_at = Arc::new(AtomicU64::new(0));
        let stamp = blocked_at.clone();
        let thread = worker(&group, 1, move |_, _| blocks(kind, &stamp));
        let [mut all, mut calls] = served(&group, me, &blocked_at)?;
        join_all(vec![thread])?;
        ensure!(
            all.len() > ROUNDS * 8 / 10,
            "{name}: {} of {ROUNDS} came back by a block",
            all.len()
        );
        let middle = median(&mut all) - clock;
        let p99 = all[all.len() * 99 / 100] - clock;
        let call = median(&mut calls) - clock;
        for (i, value) in [middle, p99, call].into_iter().enumerate() {
            board.set(kind * FIGURES + i, value as u64);
        }
    }
    group.unregister(me)?;
    Ok(())
}

/// Runs the worker until it leaves: the times from its edges, and from its calls, to here.
fn served(group: &KernelGroup, me: Id, blocked_at: &AtomicU64) -> Result<[Vec<f64>; 2]> {
    let mut all = [0, 1].map(|_| Vec::with_capacity(2 * ROUNDS));
    let mut runs = 0;
    loop {
        let listed = group.next_event(me, u64::MAX)?;
        if listed.reason == Reason::Exited {
            return Ok(all);
        }
        let ended = group.run(me, listed.worker, u64::MAX);
        let back = sys::now_ns();
        let Ok(ended) = ended else {
            continue; // the relief valve was first
        };
        if ended.reason == Reason::Exited {
            return Ok(all);
        }
        let began = blocked_at.swap(0, Ordering::SeqCst);
        runs += 1;
        if runs > COLD && began > 0 && matches!(ended.reason, Reason::Blocked { .. }) {
            all[0].push((back - ended.at_ns) as f64);
            all[1].push((back - began) as f64);
        }
    }
}

/// Blocks, each time with the clock read right before the call.
fn blocks(kind: usize, stamp: &AtomicU64) -> Result<()> {
    no_slack();
    let (mut request, mut tx) = std::io::pipe()?;
    let (mut rx, mut reply) = std::io::pipe()?;
    let word = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let theirs = word.clone();
    // Somebody outside of the group who sleeps for a while and then answers.
    let other = std::thread::spawn(move || -> Result<()> {
        no_slack();
        let mut byte = [0u8];
        while request.read(&mut byte)? == 1 {
            std::thread::sleep(Duration::from_micros(100));
            if byte[0] == 1 {
                reply.write_all(&byte)?;
            } else {
                theirs.store(0, Ordering::SeqCst);
                private_futex(&theirs, libc::FUTEX_WAKE, 1);
            }
        }
        Ok(())
    });
    let now = || stamp.store(sys::now_ns(), Ordering::SeqCst);
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 100_000,
    };
    for _ in 0..ROUNDS {
        match kind {
            0 => {
                now();
                // SAFETY: time lives through the call; nothing is asked for.
                unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
            }
            1 => {
                tx.write_all(&[1])?;
                now();
                rx.read_exact(&mut [0])?;
            }
            _ => {
                word.store(1, Ordering::SeqCst);
                tx.write_all(&[2])?;
                now();
                while word.load(Ordering::SeqCst) == 1 {
                    private_futex(&word, libc::FUTEX_WAIT, 1);
                }
            }
        }
    }
    drop(tx);
    join_all(vec![other])
}
