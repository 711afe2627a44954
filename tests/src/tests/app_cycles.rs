//! Workers that block and go on, by the hundred thousand: none is lost.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::app::{Disk, no_slack};
use super::group::faulting_pages;
use super::paths::private_futex;
use super::{Test, full, short};
use crate::client::{self, Progress, in_client, join_all, serve_by, worker};
use crate::harness::{Verdict, metric};

pub const TESTS: &[Test] = &[
    short(
        "vm_app_sleeps_lose_none",
        "app,newest",
        10,
        run::<SLEEP, 4, 4_000>,
    ),
    short(
        "vm_app_pipes_lose_none",
        "app,newest",
        10,
        run::<PIPE, 4, 4_000>,
    ),
    short(
        "vm_app_futexes_lose_none",
        "app,newest",
        10,
        run::<FUTEX, 4, 4_000>,
    ),
    short(
        "vm_app_faults_lose_none",
        "app,newest",
        10,
        run::<FAULT, 4, 2_000>,
    ),
    full(
        "vm_full_app_sleeps_500k_1",
        "app-cycles-a",
        150,
        run::<SLEEP, 1, 500_000>,
    ),
    full(
        "vm_full_app_sleeps_500k_4",
        "app-cycles-a",
        150,
        run::<SLEEP, 4, 500_000>,
    ),
    full(
        "vm_full_app_pipes_500k_1",
        "app-cycles-b",
        200,
        run::<PIPE, 1, 500_000>,
    ),
    full(
        "vm_full_app_pipes_500k_4",
        "app-cycles-b",
        200,
        run::<PIPE, 4, 500_000>,
    ),
    full(
        "vm_full_app_futexes_500k_1",
        "app-cycles-c",
        200,
        run::<FUTEX, 1, 500_000>,
    ),
    full(
        "vm_full_app_futexes_500k_4",
        "app-cycles-c",
        200,
        run::<FUTEX, 4, 500_000>,
    ),
    full(
        "vm_full_app_faults_50k_1",
        "app-cycles-d",
        60,
        run::<FAULT, 1, 50_000>,
    ),
    full(
        "vm_full_app_faults_50k_4",
        "app-cycles-d",
        60,
        run::<FAULT, 4, 50_000>,
    ),
    full(
        "vm_full_app_file_faults_2k_1",
        "app-disk,disk=1024",
        30,
        run::<FILE, 1, 2_000>,
    ),
    full(
        "vm_full_app_file_faults_2k_4",
        "app-disk,disk=1024",
        30,
        run::<FILE, 4, 2_000>,
    ),
];

const SLEEP: usize = 0;
const PIPE: usize = 1;
const FUTEX: usize = 2;
const FAULT: usize = 3;
const FILE: usize = 4;
const NAMES: [&str; 5] = ["sleep", "pipe", "futex", "fault", "file"];

const WORKERS: usize = 8;
/// Cold pages per fault that is asked for: a quick disk has many there before the thread
/// that touched them sleeps.
const FILE_PAGES: usize = 8;
const LIMIT: Duration = Duration::from_secs(900);

/// `N` blocks in calls or faults of `KIND`, with `SERVERS` servers.
fn run<const KIND: usize, const SERVERS: usize, const N: u64>() -> Result<Verdict> {
    let _disk = (KIND == FILE).then(Disk::mount).transpose()?;
    in_client(LIMIT, || cycles(KIND, SERVERS, N))
}

fn cycles(kind: usize, servers: usize, blocks: u64) -> Result<()> {
    let group = client::group(64)?;
    let all = Arc::new(Progress::default());
    let base = match kind {
        FAULT => faulting_pages(blocks as usize)?,
        FILE => cold_pages(FILE_PAGES * blocks as usize)?,
        _ => 0,
    };
    let began = std::time::Instant::now();
    let threads: Vec<_> = (0..WORKERS)
        .map(|i| {
            let all = all.clone();
            worker(&group, i as u64, move |_, _| {
                let enough = || all.blocks.load(Ordering::Relaxed) >= blocks;
                match kind {
                    SLEEP => sleeps(enough),
                    PIPE => pipes(enough),
                    FUTEX => futexes(enough),
                    FAULT => touch(base, blocks as usize, i, || false),
                    _ => touch(base, FILE_PAGES * blocks as usize, i, enough),
                }
            })
        })
        .collect();
    let seen = serve_by(&group, servers, WORKERS as u64, &all)?;
    join_all(threads)?;
    let sum = |of: fn(&client::Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let (runs, again) = (sum(|it| it.runs), sum(|it| it.again));
    let (blocked, faults) = (sum(|it| it.blocked), sum(|it| it.faults));
    let took = began.elapsed().as_secs_f64();
    metric(
        &format!("app_cycles_{}", NAMES[kind]),
        &[
            ("servers", servers as f64),
            ("runs", runs as f64),
            ("blocked", blocked as f64),
            ("faults", faults as f64),
            ("again", again as f64),
            ("per_s", runs as f64 / took),
        ],
    );
    // A page may be there before the thread that touched it sleeps.
    let (got, least) = match kind {
        FAULT => (faults, blocks * 9 / 10),
        // A stack's first touch is a block too: the workers stop when they count all.
        _ => (blocked + faults, blocks),
    };
    ensure!(got >= least, "{got} blocks of {least}: {seen:?}");
    ensure!(group.shared() == 0, "{} shared slots", group.shared());
    Ok(())
}

fn sleeps(enough: impl Fn() -> bool) -> Result<()> {
    no_slack();
    while !enough() {
        std::thread::sleep(Duration::from_micros(1));
    }
    Ok(())
}

/// Each byte comes back from a thread outside of the group.
pub fn pipes(enough: impl Fn() -> bool) -> Result<()> {
    use std::io::{Read, Write};
    let (mut request, mut tx) = std::io::pipe()?;
    let (mut rx, mut reply) = std::io::pipe()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut byte = [0u8];
        while request.read(&mut byte)? == 1 {
            reply.write_all(&byte)?;
        }
        Ok(())
    });
    let mut sent = 0u8;
    while !enough() {
        sent = sent.wrapping_add(1);
        let mut got = [0u8];
        tx.write_all(&[sent])?;
        rx.read_exact(&mut got)?;
        ensure!(got[0] == sent, "sent {sent}, got {}", got[0]);
    }
    drop(tx);
    end(echo)
}

/// The word goes from this thread to one outside of the group and back.
pub fn futexes(enough: impl Fn() -> bool) -> Result<()> {
    const OVER: u32 = 2;
    let turn: Arc<AtomicU32> = Arc::default();
    let theirs = turn.clone();
    let give = |turn: &AtomicU32, to: u32| {
        turn.store(to, Ordering::SeqCst);
        private_futex(turn, libc::FUTEX_WAKE, 1);
    };
    let other = std::thread::spawn(move || -> std::io::Result<()> {
        loop {
            match theirs.load(Ordering::SeqCst) {
                0 => private_futex(&theirs, libc::FUTEX_WAIT, 0),
                OVER => return Ok(()),
                _ => give(&theirs, 0),
            }
        }
    });
    while !enough() {
        give(&turn, 1);
        while turn.load(Ordering::SeqCst) != 0 {
            private_futex(&turn, libc::FUTEX_WAIT, 1);
        }
    }
    give(&turn, OVER);
    end(other)
}

fn end(thread: JoinHandle<std::io::Result<()>>) -> Result<()> {
    let result = thread.join();
    Ok(result.map_err(|_| anyhow::anyhow!("panicked"))??)
}

/// Reads a byte of each page in worker `i`'s part, until there are enough.
pub fn touch(base: usize, pages: usize, i: usize, enough: impl Fn() -> bool) -> Result<()> {
    for page in pages * i / WORKERS..pages * (i + 1) / WORKERS {
        if enough() {
            break;
        }
        let at = (base + page * 4096) as *const u8;
        // SAFETY: inside of a mapping of `pages` pages, which stays.
        std::hint::black_box(unsafe { at.read_volatile() });
    }
    Ok(())
}

/// A mapped file of which no page is in memory.
fn cold_pages(pages: usize) -> Result<usize> {
    let path = format!("{}/cold", Disk::DIR);
    let mut file = std::fs::File::create(&path)?;
    for _ in 0..pages {
        file.write_all(&[7; 4096])?;
    }
    let file = std::fs::File::open(&path)?;
    file.sync_all().context("sync")?;
    let len = pages * 4096;
    // SAFETY: a fresh mapping that stays, of a file of that length; advice harms none.
    let base = unsafe {
        let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
        let base = libc::mmap(std::ptr::null_mut(), len, prot, flags, file.as_raw_fd(), 0);
        ensure!(base != libc::MAP_FAILED, "mmap");
        // Each page by itself: no reading ahead.
        libc::madvise(base, len, libc::MADV_RANDOM);
        libc::madvise(base, len, libc::MADV_PAGEOUT);
        let ret = libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
        ensure!(ret == 0, "fadvise: errno {ret}");
        base
    };
    Ok(base as usize)
}
