//! More of what the published UMCG selftests look for: switches without turns, servers that wake
//! servers, and a page fault at a bad moment. Over the daemon, as nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::{ErrorKind, Group, GroupConfig, Id, Reason, Server, Woken};

use super::group::faulting_pages;
use super::{Test, short};
use crate::boss::{Boss, actor, in_client, refused, soon};
use crate::client::Name;
use crate::harness::{Verdict, metric};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_loose_swaps_selftest_unprivileged",
        "group",
        3,
        loose_swaps,
    ),
    short(
        "vm_group_server_wakes_server_selftest_unprivileged",
        "group",
        2,
        server_wakes_server,
    ),
    short(
        "vm_group_fault_in_section_selftest_unprivileged",
        "group",
        2,
        fault_in_section,
    ),
];

/// The CPU that the calling thread is on, counted from 1.
fn here() -> u32 {
    // SAFETY: no arguments.
    (unsafe { libc::sched_getcpu() } + 1) as u32
}

/// Two workers switch to each other without regard to whose turn it is, and are late, refused or
/// the last one now and then: both come to their end, most switches need no server, and who is
/// switched to goes on where the other one was.
fn loose_swaps_body() -> Result<()> {
    const ROUNDS: u32 = 500;
    let mut boss = Boss::new()?;
    let names: Arc<[Name; 2]> = Arc::default();
    // Where the one was that switches; switches that found the other one; on the same CPU.
    let [from, direct, same]: [Arc<AtomicU32>; 3] = Default::default();
    let swap = |i: usize| {
        let names = names.clone();
        let (from, direct, same) = (from.clone(), direct.clone(), same.clone());
        actor(&boss.group, i as u64, move |me| {
            names[i].set(me.id());
            let to = names[1 - i].get();
            for _ in 0..ROUNDS {
                from.store(here(), SeqCst);
                match me.switch(to, umcg::after(Duration::from_millis(20))) {
                    Ok(Woken::Woken) => {
                        let was = from.swap(0, SeqCst);
                        direct.fetch_add(u32::from(was != 0), SeqCst);
                        same.fetch_add(u32::from(was == here()), SeqCst);
                    }
                    Ok(Woken::TimedOut) => from.store(0, SeqCst),
                    Err(error) => {
                        from.store(0, SeqCst);
                        match error.kind() {
                            ErrorKind::WrongState => me.yield_now()?,
                            ErrorKind::NotFound => break, // the other one is through
                            _ => return Err(error.into()),
                        }
                    }
                }
            }
            let _ = me.group().wake(to);
            Ok(())
        })
    };
    let actors = [swap(0), swap(1)];
    boss.serve_until(2)?;
    let runs = boss.runs;
    for it in actors {
        it.end()?;
    }
    let [direct, same] = [direct, same].map(|it| it.load(SeqCst));
    println!("metric group_loose_swaps direct={direct} same_cpu={same} runs={runs}");
    ensure!(
        direct >= ROUNDS && runs < u64::from(ROUNDS),
        "{direct} switches, {runs} runs"
    );
    // One may be moved between its switch and its look.
    ensure!(
        same >= direct * 9 / 10,
        "{same} of {direct} on the same CPU"
    );
    boss.alone()
}

fn loose_swaps() -> Result<Verdict> {
    in_client(loose_swaps_body)
}

/// Two servers wake each other out of their wait for news, in turn, and nobody else moves them.
fn server_wakes_server_body() -> Result<()> {
    const ROUNDS: u32 = 100;
    let group = Group::create(&GroupConfig::default())?;
    let mut me = group.register_server()?;
    let turn = Arc::new(AtomicU32::new(0));
    let until = |me: &mut Server, turn: &AtomicU32, mine: u32| -> Result<()> {
        while turn.load(SeqCst) % 2 != mine {
            refused("news", me.next_event(soon()), ErrorKind::Again)?;
        }
        Ok(())
    };
    let (first, name): (Id, Arc<Name>) = (me.id(), Arc::default());
    let other = {
        let (group, turn, name) = (group.clone(), turn.clone(), name.clone());
        std::thread::spawn(move || -> Result<()> {
            let mut me = group.register_server()?;
            name.set(me.id());
            for _ in 0..ROUNDS {
                until(&mut me, &turn, 1)?;
                turn.fetch_add(1, SeqCst);
                group.wake(first)?;
            }
            Ok(me.unregister()?)
        })
    };
    let second = name.get();
    let began = Instant::now();
    for _ in 0..ROUNDS {
        turn.fetch_add(1, SeqCst);
        group.wake(second)?;
        until(&mut me, &turn, 0)?;
    }
    let us = began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    metric("group_server_wakes_server", &[("round_trip_us", us)]);
    other.join().ok().context("a server panicked")??;
    // At most the wake of the last turn, where its look at the turn came first.
    let _ = me.next_event(0);
    refused("a second wake", me.next_event(0), ErrorKind::TimedOut)
}

fn server_wakes_server() -> Result<Verdict> {
    in_client(server_wakes_server_body)
}

/// A page fault inside of a section without preemption: the server is told of it as of any
/// other, and the section goes on when the worker is run.
fn fault_in_section_body() -> Result<()> {
    const PAGES: usize = 50;
    let base = faulting_pages(PAGES)?;
    let mut boss = Boss::new()?;
    let worker = actor(&boss.group, 1, move |_| {
        for page in 0..PAGES {
            let section = umcg::no_preempt();
            let at = (base + page * 4096) as *const u8;
            // SAFETY: inside of the mapping of faulting_pages().
            let byte = unsafe { at.read_volatile() };
            ensure!(byte == 0, "page {page}: {byte}");
            drop(section);
        }
        Ok(())
    });
    let id = boss.new_one(1)?;
    let mut faults = 0;
    while !boss.left.contains(&id) {
        match boss.run(id, soon())? {
            Some(end) if end.reason == Reason::Exited => break,
            Some(end) => faults += usize::from(end.reason == Reason::Fault),
            None => {}
        }
        boss.news_of(id)?;
    }
    worker.end()?;
    // Now and then the page is there before the faulting thread sleeps.
    ensure!(faults >= PAGES * 9 / 10, "{faults} faults of {PAGES}");
    boss.alone()
}

fn fault_in_section() -> Result<Verdict> {
    in_client(fault_in_section_body)
}
