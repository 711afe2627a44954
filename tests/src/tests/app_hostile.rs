//! A client that means no good: another group hardly feels it.
//!
//! What is fair to compare with: the same number of threads that do nothing but compute. Each
//! thread of the client wants a CPU all the time and has a right to its share, under any scheduler;
//! a machine with nobody else is no measure. What is more than that comes of what the client does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::proto::{self, Op, Request};
use umcg::kernel::{KernelGroup, sys};
use umcg::{Id, Kind};

use super::app::{Board, no_slack};
use super::{Test, full};
use crate::client::{self, Client, group_maps, is_sound, serve, worker};
use crate::harness::{Sched, Verdict, median, metric, wait_until};
use crate::load::Hog;
use crate::noise::Noise;

pub const TESTS: &[Test] = &[
    Test {
        tries: 2,
        ..full(
            "vm_full_app_hostile_client_5min",
            "app-hostile-full",
            480,
            beside::<10, 30, 10>,
        )
    },
    full(
        "vm_full_app_hostile_client_by_instructions",
        "app-hostile-count,icount,cpus=1",
        240,
        beside::<3, 10, 10>,
    ),
];

/// Its threads that want a CPU all the time: three storms, one of programs, a server.
const THREADS: usize = 5;
const HOSTILE_UID: u32 = 65533;
const MOST: f64 = 1.1;

/// On the board: the end, and a histogram of how late the other group's worker is, in steps of
/// 2 % from 10 us on.
const OVER: usize = 0;
const LATE: usize = 16;
const BUCKETS: usize = 480;
const STEP: f64 = 1.02;
const FIRST_NS: f64 = 10_000.0;

type Histogram = Vec<u64>;

fn histogram(board: Board) -> Histogram {
    (0..BUCKETS).map(|i| board.get(LATE + i)).collect()
}

/// p99 in us, and how many there were, since `before`.
fn p99(board: Board, before: &Histogram) -> (f64, u64) {
    let now = histogram(board);
    let grown: Vec<_> = now.iter().zip(before).map(|(a, b)| a - b).collect();
    let all: u64 = grown.iter().sum();
    let mut seen = 0;
    let at = grown.iter().position(|n| {
        seen += n;
        seen * 100 >= all * 99
    });
    let at = at.unwrap_or(BUCKETS) as f64;
    (FIRST_NS * STEP.powf(at) / 1e3, all)
}

/// Sleeps for 2 ms at a time and notes how late it runs again: its server has to be told, to get
/// a CPU and to run it.
fn victim(board: Board) -> Result<()> {
    let group = client::group(8)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let thread = worker(&group, 0, move |_, _| {
        const SLEEP: Duration = Duration::from_millis(2);
        no_slack();
        while board.get(OVER) == 0 {
            let began = sys::now_ns();
            std::thread::sleep(SLEEP);
            let late = (sys::now_ns() - began).saturating_sub(SLEEP.as_nanos() as u64);
            let at = (late as f64 / FIRST_NS).max(1.0).ln() / STEP.ln();
            board.count(LATE + (at as usize).min(BUCKETS - 1));
        }
        Ok(())
    });
    let seen = serve(&group, me, 1)?;
    client::join_all(vec![thread])?;
    group.unregister(me)?;
    seen.check(&group)
}

/// Goes on until it is killed.
pub fn hostile() -> Result<()> {
    let group = client::group(64)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    dead_server(&group);
    for i in 0..8 {
        let _ = worker(&group, i, move |group, me| {
            loop {
                let _ = group.wait(me, sys::now_ns() + 1_000_000);
                let _ = group.yield_now(me);
                std::thread::sleep(Duration::from_micros(100));
            }
        });
    }
    let storms: [fn(&KernelGroup, u64); 3] = [
        |group, value| group.scribble((value % 140) as u32, value >> 8),
        |group, value| {
            let id = Id::new(60 + (value % 40) as u32, 1 + 2 * (value >> 20 & 1) as u32);
            // Not call after call: that would be slowed down to the group's rate.
            let _ = (group.kick(id), group.wake(id));
        },
        |group, _| {
            if let Ok(id) = group.register(Kind::Server, 0, &mut |_| {}) {
                let _ = group.unregister(id);
            }
        },
    ];
    for (i, storm) in storms.into_iter().enumerate() {
        let group = group.clone();
        std::thread::spawn(move || {
            let mut noise = Noise(88_172_645_463_325_252 + i as u64);
            loop {
                storm(&group, noise.next());
            }
        });
    }
    std::thread::spawn(program_runs);
    loop {
        if let Ok(event) = group.next_event(me, sys::now_ns() + 1_000_000) {
            let _ = group.run(me, event.worker, sys::now_ns() + 5_000_000);
        }
    }
}

/// A server that never looks: it sleeps outside of any call.
fn dead_server(group: &Arc<KernelGroup>) {
    let group = group.clone();
    std::thread::spawn(move || {
        let _ = group.register(Kind::Server, 0, &mut |_| {});
        std::thread::sleep(Duration::from_secs(100_000));
    });
}

/// The program that clients are given, with anything as its argument; it ends when it cannot.
pub(super) fn program_runs() -> Result<()> {
    use std::os::fd::AsRawFd;
    let sock = sys::connect(Path::new(proto::SOCKET)).map_err(std::io::Error::from_raw_os_error)?;
    let mut request = Request::new(Op::Create);
    request.max_members = 4;
    let (reply, fds) = sys::ask(&sock, &request).map_err(std::io::Error::from_raw_os_error)?;
    ensure!(fds.len() == 4, "{} files", fds.len());
    let (mut noise, program) = (Noise(4_711), fds[2].as_raw_fd());
    loop {
        let value = noise.next();
        let mut call = umcg::intf::umcg_group_call {
            op: (value % 7) as u32,
            ret: 0,
            // The right one now and then, or nothing further is tried.
            epoch: if value & 8 == 0 { reply.epoch } else { value },
            token: [value, noise.next()],
            target: noise.next() & 0x3_0000_007f,
            cookie: u64::from(reply.gen_) << 32 | u64::from(reply.group),
            me: value,
        };
        let _ = sys::run_program(program, &mut call);
    }
}

/// `ROUNDS` times beside the hostile client for `BAD` seconds and beside hogs for `PLAIN`.
fn beside<const ROUNDS: usize, const BAD: u64, const PLAIN: u64>() -> Result<Verdict> {
    let board = Board::new()?;
    let sched = Sched::start(&[])?;
    let other = client::spawn(move || victim(board))?;
    let runs = wait_until(Duration::from_secs(10), || {
        p99(board, &vec![0; BUCKETS]).1 > 100
    });
    ensure!(runs, "the other group does not run");
    let (mut plain, mut bad) = (Vec::new(), Vec::new());
    let mut least = u64::MAX;
    let mut window = |secs: u64, to: &mut Vec<f64>| {
        std::thread::sleep(Duration::from_millis(500));
        let before = histogram(board);
        std::thread::sleep(Duration::from_secs(secs));
        let (late, count) = p99(board, &before);
        least = least.min(count);
        to.push(late);
    };
    for _ in 0..ROUNDS {
        let hogs = Hog::default().start_many(THREADS)?;
        window(PLAIN, &mut plain);
        drop(hogs);
        let client: Client = client::spawn_as(HOSTILE_UID, hostile)?;
        window(BAD, &mut bad);
        ensure!(!client.is_reaped(), "the hostile client has ended");
        client.kill();
        sched.no_ejection()?;
    }
    board.set(OVER, 1);
    other.result(Duration::from_secs(20))?;
    let (plain, bad) = (median(&mut plain), median(&mut bad));
    metric(
        "app_hostile",
        &[
            ("beside_hogs_us", plain),
            ("beside_hostile_us", bad),
            ("ratio", bad / plain),
            ("least_samples", least as f64),
        ],
    );
    ensure!(
        wait_until(Duration::from_secs(10), || group_maps() == 0),
        "{} maps of groups are left",
        group_maps()
    );
    is_sound(&sched)?;
    sched.stop()?;
    ensure!(least > 100, "only {least} samples in a window");
    ensure!(
        bad <= MOST * plain,
        "p99 beside the hostile client {bad:.0} us, beside {THREADS} hogs {plain:.0} us: {:.3}, \
         at most {MOST}",
        bad / plain
    );
    Ok(Verdict::Ok)
}
