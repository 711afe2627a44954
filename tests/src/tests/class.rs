//! A member whose scheduling class changes: for a moment, by a lock with priority inheritance, or
//! for good.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::{ErrorKind, Group, GroupConfig, Reason, Server};

use super::{Test, short};
use crate::client::{self, is_sound};
use crate::harness::{self, Verdict, metric, wait_until};
use crate::load;

pub const TESTS: &[Test] = &[
    short("vm_group_boosted_worker_comes_again", "group", 4, boosted),
    short("vm_group_class_change_ends_no_wait", "group", 4, changed),
];

const LIMIT: Duration = Duration::from_secs(60);
const YIELDS: u64 = 50;
const WAKES: u32 = 5;

/// A mutex with priority inheritance.
struct PiLock(std::cell::UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a pthread mutex is for many threads.
unsafe impl Sync for PiLock {}

impl PiLock {
    fn new() -> Result<Box<Self>> {
        let lock = Box::new(Self(libc::PTHREAD_MUTEX_INITIALIZER.into()));
        // SAFETY: attr is initialised by the first call, and both live through the last.
        let done = unsafe {
            let mut attr = std::mem::zeroed();
            libc::pthread_mutexattr_init(&raw mut attr)
                | libc::pthread_mutexattr_setprotocol(&raw mut attr, libc::PTHREAD_PRIO_INHERIT)
                | libc::pthread_mutex_init(lock.0.get(), &raw const attr)
        };
        ensure!(done == 0, "no mutex with priority inheritance: {done}");
        Ok(lock)
    }

    fn lock(&self) {
        // SAFETY: initialised by new().
        unsafe { libc::pthread_mutex_lock(self.0.get()) };
    }

    fn unlock(&self) {
        // SAFETY: initialised by new(); the caller holds it.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }
}

/// The calling thread's id.
fn mine() -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::gettid() }
}

/// Whether the calling thread has the priority of a real-time one: that is below -1.
fn is_boosted() -> bool {
    let path = format!("/proc/self/task/{}/stat", mine());
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let priority = fields.split_whitespace().nth(15);
    priority.is_some_and(|it| it.parse().is_ok_and(|it: i32| it < -1))
}

/// Serves until `exits` have left; the runs that ended by a yield.
fn serve(server: &mut Server, exits: u64) -> Result<u64> {
    let (mut gone, mut yields) = (0, 0);
    while gone < exits {
        let event = match server.next_event(umcg::after(LIMIT)) {
            // A wake of the server itself: it has to look at what has moved.
            Err(error) if error.kind() == ErrorKind::Again => continue,
            event => event?,
        };
        if event.reason == Reason::Exited {
            gone += 1;
            continue;
        }
        match server.run(event.worker, umcg::after(LIMIT)) {
            Ok(event) => {
                gone += u64::from(event.reason == Reason::Exited);
                yields += u64::from(event.reason == Reason::Yielded);
            }
            Err(error) => ensure!(
                matches!(
                    error.kind(),
                    ErrorKind::Again | ErrorKind::WrongState | ErrorKind::NotFound
                ),
                "run: {error}"
            ),
        }
    }
    Ok(yields)
}

/// A real-time thread waits for a lock of a worker, which has its class as long as it holds it.
fn boosted() -> Result<Verdict> {
    let sched = harness::shared()?;
    client::spawn_as(0, || {
        let group = Group::create(&GroupConfig::default())?;
        let mut server = group.register_server()?;
        let lock = PiLock::new()?;
        let held = AtomicU64::new(0);
        thread::scope(|scope| -> Result<()> {
            let worker = scope.spawn(|| -> Result<()> {
                let mut me = group.register_worker(1)?;
                lock.lock();
                held.store(1, SeqCst);
                let boosted = wait_until(LIMIT, is_boosted);
                lock.unlock();
                ensure!(boosted, "no boost was seen");
                for _ in 0..YIELDS {
                    me.yield_now()?;
                }
                me.wait(umcg::after(Duration::from_millis(20)))
                    .map(|_| ())?;
                Ok(())
            });
            let waits = scope.spawn(|| -> Result<()> {
                ensure!(
                    wait_until(LIMIT, || held.load(SeqCst) == 1),
                    "no lock was taken"
                );
                load::fifo(0)?;
                lock.lock();
                lock.unlock();
                Ok(())
            });
            let yields = serve(&mut server, 1);
            worker.join().expect("no panic")?;
            waits.join().expect("no panic")?;
            let yields = yields?;
            metric("group_boosted", &[("yields", yields as f64)]);
            ensure!(
                yields >= YIELDS - 1,
                "{yields} of {YIELDS} yields were told"
            );
            Ok(())
        })
    })?
    .result(LIMIT)?;
    is_sound(&sched)?;
    Ok(Verdict::Ok)
}

/// Real-time for good: it goes on without a slot, its waits end by wakes all the same.
fn changed() -> Result<Verdict> {
    let sched = harness::shared()?;
    client::spawn_as(0, || {
        let group = Group::create(&GroupConfig::default())?;
        let mut server = group.register_server()?;
        let (tid, woken, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| -> Result<()> {
            let worker = scope.spawn(|| -> Result<()> {
                let mut me = group.register_worker(1)?;
                tid.store(mine() as u64, SeqCst);
                while !over.load(SeqCst) {
                    me.wait(umcg::after(LIMIT)).map(|_| ())?;
                    woken.fetch_add(1, SeqCst);
                }
                Ok(())
            });
            let changes = scope.spawn(|| -> Result<()> {
                let wake = || -> Result<()> {
                    for member in group.list()? {
                        if member.kind == umcg::Kind::Worker {
                            group.wake(member.id)?;
                        }
                    }
                    Ok(())
                };
                let came = wait_until(LIMIT, || tid.load(SeqCst) != 0);
                thread::sleep(Duration::from_millis(100));
                let done = load::fifo(tid.load(SeqCst) as i32);
                let each_is_heard = || -> Result<()> {
                    for nth in 0..WAKES {
                        thread::sleep(Duration::from_millis(20));
                        let before = woken.load(SeqCst);
                        wake()?;
                        let heard = wait_until(LIMIT / 10, || woken.load(SeqCst) > before);
                        ensure!(heard, "wake {nth} is lost");
                    }
                    Ok(())
                };
                let heard = each_is_heard();
                over.store(true, SeqCst);
                wake()?;
                ensure!(came, "no worker came");
                done.and(heard)
            });
            let served = serve(&mut server, 1);
            changes.join().expect("no panic")?;
            worker.join().expect("no panic")?;
            served.map(|_| ())
        })
    })?
    .result(LIMIT)?;
    is_sound(&sched)?;
    Ok(Verdict::Ok)
}
