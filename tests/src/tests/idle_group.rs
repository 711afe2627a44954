//! What a wake costs in a group with threads, by the structure of its idle servers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::{self, KernelGroup, proto, sys};
use umcg::{ErrorKind, GroupConfig, Id, Idle, Kind, Reason, State};

use super::idle::KINDS;
use super::{Test, full, short};
use crate::client;
use crate::harness::{self, Verdict, median, metric, wait_until};
use crate::load;

pub const TESTS: &[Test] = &[
    short(
        "vm_idle_group_wake_cost",
        "cost,newest,icount,cpus=1",
        15,
        few,
    ),
    full(
        "vm_idle_group_wake_cost_64",
        "cost,newest,icount,cpus=1",
        30,
        many,
    ),
];

const WORKERS: u32 = 16;
const LIMIT: Duration = Duration::from_secs(120);
/// How long a server waits before it looks whether it is to be busy.
const LOOK_NS: u64 = 50_000_000;

struct Crowd {
    group: Arc<KernelGroup>,
    /// Servers with a smaller number serve, the others block elsewhere.
    serving: AtomicU32,
    stop: AtomicBool,
    left: AtomicU32,
}

impl Crowd {
    fn serve(&self, number: u32) -> Result<()> {
        let me = self.group.register(Kind::Server, 0, &mut |_| {})?;
        while self.left.load(SeqCst) > 0 {
            if number >= self.serving.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            match self.group.next_event(me, sys::now_ns() + LOOK_NS) {
                Ok(event) if event.reason == Reason::Exited => self.one_left(),
                Ok(event) => self.run(me, event.worker)?,
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Again) => {}
                Err(error) => return Err(error).context("next_event"),
            }
        }
        self.group.unregister(me).context("unregister")
    }

    fn run(&self, me: Id, worker: Id) -> Result<()> {
        match self.group.run(me, worker, u64::MAX) {
            Ok(event) if event.reason == Reason::Exited => self.one_left(),
            Ok(_) => {}
            // It was let run meanwhile, and comes by the list again.
            Err(error) if matches!(error.kind(), ErrorKind::WrongState | ErrorKind::Again) => {}
            Err(error) => return Err(error).context("run"),
        }
        Ok(())
    }

    fn one_left(&self) {
        self.left.fetch_sub(1, SeqCst);
    }

    fn all_wait(&self, ids: &[Id]) -> bool {
        ids.iter().all(|&id| {
            let state = self.group.state(id).map(|it| it.state);
            state.is_ok_and(|it| it == State::Idle)
        })
    }

    /// Median cost of a wake while `serving` servers wait and the others are blocked.
    fn wakes(&self, ids: &[Id], servers: u32, serving: u32) -> Result<f64> {
        self.serving.store(servers, SeqCst);
        let idle = wait_until(LIMIT, || self.all_wait(ids));
        ensure!(idle, "workers do not wait");
        self.serving.store(serving, SeqCst);
        // Longer than a server waits: those that are to be busy are.
        std::thread::sleep(Duration::from_nanos(2 * LOOK_NS));
        let mut costs = Vec::new();
        for &id in ids {
            let from = sys::now_ns();
            self.group.wake(id)?;
            costs.push((sys::now_ns() - from) as f64);
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(median(&mut costs))
    }
}

fn crowd(idle: Idle, servers: u32) -> Result<()> {
    let config = GroupConfig {
        idle,
        max_members: WORKERS,
        ..GroupConfig::default()
    };
    let group = kernel::connect(&PathBuf::from(proto::SOCKET), &config).context("connect")?;
    let crowd = Arc::new(Crowd {
        group: Arc::new(group),
        serving: AtomicU32::new(servers),
        stop: AtomicBool::new(false),
        left: AtomicU32::new(WORKERS),
    });
    let mut threads = Vec::new();
    for number in 0..servers {
        let it = crowd.clone();
        threads.push(std::thread::spawn(move || it.serve(number)));
    }
    for cookie in 0..WORKERS {
        let it = crowd.clone();
        threads.push(client::worker(
            &crowd.group,
            cookie.into(),
            move |group, me| {
                while !it.stop.load(SeqCst) {
                    let _ = group.wait(me, u64::MAX)?;
                }
                Ok(())
            },
        ));
    }
    let listed = |kind| -> Result<Vec<Id>> {
        let members = crowd.group.list()?;
        Ok(members
            .iter()
            .filter(|it| it.kind == kind)
            .map(|it| it.id)
            .collect())
    };
    let here = wait_until(LIMIT, || {
        let count = |kind| listed(kind).map_or(0, |it| it.len() as u32);
        (count(Kind::Server), count(Kind::Worker)) == (servers, WORKERS)
    });
    ensure!(here, "members are missing");
    let ids = listed(Kind::Worker)?;
    // No server runs before a wake has returned.
    load::fifo(0)?;
    for share in [0, 1, 10, 50, 100] {
        let insns = crowd.wakes(&ids, servers, (servers * share).div_ceil(100))?;
        metric(
            "idle_group",
            &[
                ("kind", idle.number().into()),
                ("servers", servers.into()),
                ("share", share.into()),
                ("insns", insns),
            ],
        );
    }
    crowd.serving.store(servers, SeqCst);
    crowd.stop.store(true, SeqCst);
    for &id in &ids {
        crowd.group.wake(id)?;
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    Ok(())
}

/// By structure, for groups with so many server threads; the waker has real-time priority, so that
/// nothing else is counted.
fn cost(counts: &[u32]) -> Result<Verdict> {
    let sched = harness::shared()?;
    for idle in KINDS {
        for &servers in counts {
            client::spawn_as(0, || crowd(idle, servers))?
                .result(LIMIT)
                .with_context(|| format!("{idle:?}, {servers} servers"))?;
        }
    }
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

fn few() -> Result<Verdict> {
    cost(&[2, 8])
}

fn many() -> Result<Verdict> {
    cost(&[64])
}
