//! Workers that hold locks of the kernel which their servers want: no server stands still.
//!
//! How long a server stands still: from the return of one of its calls to the return of the next,
//! while there is something to do, its own work in between included. `run` is something to do, and
//! comes back after its time is over; a poll for events is, when somebody waits in the server's
//! queue; a wait for an event is from when the worker that it tells of became RUNNABLE.
//!
//! A lock of the kernel that is wanted by 18 threads is slow to come under any scheduler: what as
//! many threads of no group wait for the same work under EEVDF, in the same boot, is the floor: the
//! long waits must be no more than theirs, and the longest, one draw of each, at most twice theirs.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use umcg::backend::Backend;
use umcg::kernel::{KernelGroup, sys};
use umcg::{ErrorKind, Id, Kind, Reason};

use super::app::{Board, Disk};
use super::{Test, full, short};
use crate::client::{self, is_sound, join_all, worker};
use crate::cyclic::Cyclic;
use crate::harness::{self, Sched, Verdict, metric};

pub const TESTS: &[Test] = &[
    Test {
        tries: 3,
        ..short(
            "vm_app_faults_stall_no_server",
            "app,newest",
            25,
            stalls::<FAULTS, 5>,
        )
    },
    Test {
        tries: 3,
        ..full(
            "vm_full_app_faults_stall_no_server_60s",
            "app-stall",
            150,
            stalls::<FAULTS, 60>,
        )
    },
    Test {
        tries: 3,
        ..full(
            "vm_full_app_fsync_stalls_no_server_60s",
            "app-disk,disk=1024",
            160,
            stalls::<FSYNC, 60>,
        )
    },
];

const FAULTS: usize = 0;
const FSYNC: usize = 1;
const NAMES: [&str; 2] = ["faults", "fsync"];

const WORKERS: usize = 16;
const SERVERS: usize = 2;
/// A worker's turn.
const TURN_NS: u64 = 10_000_000;
const MOST_NS: u64 = 60_000_000;
/// So many long waits are none, where the plain threads had fewer.
const LONG_MOST: u64 = 5;

/// On the board: the longest stall, how many were above 20 ms, and the rounds of heavy work.
const LONGEST: usize = 0;
const LONG: usize = 1;
const RUNS: usize = 2;
const ROUNDS: usize = 16;

fn stalls<const KIND: usize, const SECS: u64>() -> Result<Verdict> {
    let _disk = (KIND == FSYNC).then(Disk::mount).transpose()?;
    let limit = Duration::from_secs(SECS + 60);
    harness::end_shared();
    let plain = Board::new()?;
    client::spawn(move || crowd(KIND, SECS, plain))?.result(limit)?;
    let board = Board::new()?;
    let sched = Sched::start(&[])?;
    let rescued = sched.counter("grp_unheld")?;
    let client = client::spawn(move || storm(KIND, SECS, board))?;
    // What the machine itself is late by, at the same time.
    let floor = Cyclic {
        seconds: SECS as u32,
        fifo: Some(90),
        exact: true,
    }
    .run()?;
    client.result(limit)?;
    let rescued = sched.counter("grp_unheld")? - rescued;
    is_sound(&sched)?;
    sched.stop()?;
    let rounds_of = |it: Board| (0..WORKERS).map(move |i| it.get(ROUNDS + i));
    let (longest, least) = (board.get(LONGEST), rounds_of(board).min());
    let most = MOST_NS.max(2 * plain.get(LONGEST));
    let [long, plain_long] = [board, plain].map(|it| it.get(LONG));
    metric(
        &format!("app_stall_{}", NAMES[KIND]),
        &[
            ("longest_ms", longest as f64 / 1e6),
            ("above_20ms", long as f64),
            ("runs", board.get(RUNS) as f64),
            ("rounds", rounds_of(board).sum::<u64>() as f64),
            ("least_rounds", least.unwrap_or(0) as f64),
            ("rescued", rescued as f64),
            ("plain_longest_ms", plain.get(LONGEST) as f64 / 1e6),
            ("plain_above_20ms", plain_long as f64),
            ("plain_rounds", rounds_of(plain).sum::<u64>() as f64),
            ("machine_late_ms", floor.max / 1e3),
        ],
    );
    ensure!(
        longest <= most,
        "a server stood still for {:.1} ms, at most {:.1}; a thread of SCHED_FIFO was {:.1} ms late",
        longest as f64 / 1e6,
        most as f64 / 1e6,
        floor.max / 1e3
    );
    ensure!(
        long <= plain_long.max(LONG_MOST),
        "{long} waits above 20 ms, without a group {plain_long}"
    );
    ensure!(least > Some(0), "a worker never came round");
    Ok(Verdict::Ok)
}

/// The same work by as many threads of no group.
fn crowd(kind: usize, secs: u64, board: Board) -> Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    let work = |i: usize| {
        let over = over.clone();
        std::thread::spawn(move || -> Result<()> {
            let mut work = Work::new(kind, i)?;
            while !over.load(Ordering::Relaxed) {
                if i < WORKERS {
                    work.heavy()?;
                    board.count(ROUNDS + i);
                    continue;
                }
                let began = sys::now_ns();
                work.light()?;
                stood(board, sys::now_ns() - began);
            }
            Ok(())
        })
    };
    let all = (0..WORKERS + SERVERS).map(work).collect();
    std::thread::sleep(Duration::from_secs(secs));
    over.store(true, Ordering::SeqCst);
    join_all(all)
}

fn stood(board: Board, ns: u64) {
    board.at(LONGEST).fetch_max(ns, Ordering::SeqCst);
    if ns > 20_000_000 {
        board.count(LONG);
    }
}

fn storm(kind: usize, secs: u64, board: Board) -> Result<()> {
    let group = client::group(64)?;
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..WORKERS)
        .map(|i| {
            let over = over.clone();
            worker(&group, i as u64, move |_, _| {
                let mut work = Work::new(kind, i)?;
                while !over.load(Ordering::Relaxed) {
                    work.heavy()?;
                    board.count(ROUNDS + i);
                }
                Ok(())
            })
        })
        .collect();
    let serve = |i: usize| {
        let (group, over) = (group.clone(), over.clone());
        std::thread::spawn(move || -> Result<()> {
            let me = group.register(Kind::Server, 0, &mut |_| {})?;
            let mut server = Server {
                group: &group,
                me,
                ready: VecDeque::new(),
                last_ns: sys::now_ns(),
                board,
            };
            let mut work = Work::new(kind, WORKERS + i)?;
            while !(over.load(Ordering::Relaxed) && group.list()?.len() <= SERVERS) {
                server.turn()?;
                work.light()?;
            }
            Ok(())
        })
    };
    let servers: Vec<_> = (0..SERVERS).map(serve).collect();
    std::thread::sleep(Duration::from_secs(secs));
    over.store(true, Ordering::SeqCst);
    join_all(workers)?;
    join_all(servers)
}

struct Server<'a> {
    group: &'a KernelGroup,
    me: Id,
    ready: VecDeque<Id>,
    last_ns: u64,
    board: Board,
}

impl Server<'_> {
    /// A call has returned; there was something to do since `since`, or since the last return.
    fn returned(&mut self, since: u64) {
        let now = sys::now_ns();
        stood(self.board, now.saturating_sub(since.max(self.last_ns)));
        self.last_ns = now;
    }

    /// One call for events, or for a worker to run.
    fn turn(&mut self) -> Result<()> {
        let waits = !self.ready.is_empty();
        let deadline = if waits { 0 } else { sys::now_ns() + 20_000_000 };
        match self.group.next_event(self.me, deadline) {
            Ok(event) => {
                self.returned(if waits { 0 } else { event.at_ns });
                if event.reason != Reason::Exited && !self.ready.contains(&event.worker) {
                    self.ready.push_back(event.worker);
                }
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                self.returned(if waits { 0 } else { u64::MAX });
            }
            Err(error) => bail!("next_event: {error}"),
        }
        let Some(next) = self.ready.pop_front() else {
            return Ok(());
        };
        let result = self.group.run(self.me, next, sys::now_ns() + TURN_NS);
        self.returned(0);
        match result {
            Ok(_) => self.board.count(RUNS),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Again | ErrorKind::WrongState | ErrorKind::NotFound
                ) => {}
            Err(error) => bail!("run: {error}"),
        }
        Ok(())
    }
}

/// What takes locks of the kernel: of the address space, or of a file system.
enum Work {
    Faults,
    File(std::fs::File, u64),
}

impl Work {
    fn new(kind: usize, number: usize) -> Result<Self> {
        if kind == FAULTS {
            return Ok(Self::Faults);
        }
        let path = format!("{}/stall-{number}", Disk::DIR);
        Ok(Self::File(std::fs::File::create(path)?, 0))
    }

    fn heavy(&mut self) -> Result<()> {
        match self {
            Self::Faults => touch_new(64),
            Self::File(file, at) => {
                file.write_all_at(&[7; 4096], *at % (1 << 20))?;
                *at += 4096;
                file.sync_all()?;
                Ok(())
            }
        }
    }

    /// The same locks, without waiting for the disk by itself.
    fn light(&mut self) -> Result<()> {
        match self {
            Self::Faults => touch_new(2),
            Self::File(file, at) => {
                file.write_all_at(&[8; 512], *at % (1 << 16))?;
                *at += 512;
                file.set_len(*at % (1 << 16))?;
                Ok(())
            }
        }
    }
}

/// Maps `pages`, writes to each, unmaps them.
fn touch_new(pages: usize) -> Result<()> {
    let len = pages * 4096;
    // SAFETY: a fresh mapping, written inside of its length, unmapped as it was made.
    unsafe {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        let base = libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0);
        ensure!(base != libc::MAP_FAILED, "mmap");
        for page in 0..pages {
            base.cast::<u8>().add(page * 4096).write_volatile(1);
        }
        libc::munmap(base, len);
    }
    Ok(())
}
