//! Servers whose waits are long enough for the sweep to let them sleep for real.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::{KernelGroup, sys};
use umcg::word::State;
use umcg::{Id, Kind, Reason};

use super::group::{in_client, with_server};
use super::{Test, short, timed};
use crate::boss::signal_thread;
use crate::client::{self, WORDS, is_sound, join_all, serve, worker};
use crate::harness::{self, Verdict, metric, wait_until};
use crate::load::{self, Hog, clock_ns};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_server_with_news_is_running_unprivileged",
        "group",
        3,
        server_with_news,
    ),
    short(
        "vm_group_long_run_is_a_wait_unprivileged",
        "group",
        3,
        long_run,
    ),
    timed(
        "vm_group_server_beside_its_worker_gets_one_share_unprivileged",
        "group",
        8,
        beside_its_worker,
    ),
];

/// After a second its server has slept twice in one `run`. Were that a block, the server's other
/// workers would be let run beside the one that it runs.
fn long_run() -> Result<Verdict> {
    in_client(|| {
        with_server(2, |group, me| {
            let server = me;
            let one = worker(group, 0, move |group, _| {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(1600) {
                    std::hint::spin_loop();
                }
                let state = group.state(server)?.state;
                ensure!(state == State::Idle, "its server is {state:?}");
                Ok(())
            });
            serve(group, me, 1)?;
            join_all(vec![one])
        })
    })
}

/// Poked after 8 ms of parking and before the sweep let it sleep for real, or after that: what it
/// blocks in from then on has to be an edge, as its workers may own what it waits for.
fn server_with_news() -> Result<Verdict> {
    in_client(|| {
        with_server(2, |group, me| {
            let sleeper = worker(group, 0, |_, _| {
                for nth in 0..60 {
                    std::thread::sleep(Duration::from_micros(8200 + 100 * nth));
                }
                Ok(())
            });
            let mut waits = 0;
            loop {
                let began = sys::now_ns();
                let event = group.next_event(me, u64::MAX)?;
                if event.reason == Reason::Exited {
                    break;
                }
                if sys::now_ns() - began > 8_000_000 {
                    waits += 1;
                    let state = group.state(me)?.state;
                    ensure!(state == State::Running, "back from a wait: {state:?}");
                }
                if let Ok(event) = group.run(me, event.worker, u64::MAX)
                    && event.reason == Reason::Exited
                {
                    break;
                }
            }
            join_all(vec![sleeper])?;
            ensure!(waits > 5, "only {waits} waits of 8 ms and more");
            Ok(())
        })
    })
}

/// Where the pair counts its rounds.
const ROUNDS: usize = 0;
/// The only CPU of the pair and of a hog.
const CPU: usize = 0;
/// What the worker uses while its server waits, and then while it does not.
const ALONE: Duration = Duration::from_millis(40);
const BESIDE: Duration = Duration::from_millis(40);

static SEEN: AtomicU64 = AtomicU64::new(0);
static WORKER: OnceLock<(Arc<KernelGroup>, Id)> = OnceLock::new();

/// The server, which a signal has woken from its `run`, is runnable until the slot is back.
extern "C" fn stays_until_back(_: libc::c_int) {
    SEEN.fetch_add(1, SeqCst);
    while let Some((group, worker)) = WORKER.get()
        && group
            .state(*worker)
            .is_ok_and(|it| it.state == State::Running)
    {
        sys::yield_cpu();
    }
}

/// Until so much CPU time is used.
fn spin(time: Duration) {
    let used = || Duration::from_nanos(clock_ns(libc::CLOCK_THREAD_CPUTIME_ID));
    let began = used();
    while used() - began < time {
        std::hint::spin_loop();
    }
}

/// A pair that does so again and again, until it is killed.
fn pair_beside(words: &[AtomicU32; WORDS]) -> Result<()> {
    let handler = stays_until_back as extern "C" fn(libc::c_int);
    // SAFETY: the handler reads mapped memory and statics, and yields; no other pointers.
    let server = unsafe {
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        libc::gettid()
    };
    load::pin(0, CPU);
    let group = client::group(2)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    worker(&group, 1, move |group, me| {
        loop {
            spin(ALONE);
            let seen = SEEN.load(SeqCst);
            signal_thread(std::process::id() as i32, server, libc::SIGUSR1)?;
            // It is let run to sleep for real, sooner or later.
            while SEEN.load(SeqCst) == seen {
                std::hint::spin_loop();
            }
            spin(BESIDE);
            let _ = group.wait(me, u64::MAX)?;
        }
    });
    let mut next = group.next_event(me, u64::MAX)?.worker;
    let _ = WORKER.set((group.clone(), next));
    loop {
        match group.run(me, next, u64::MAX) {
            Ok(end) if end.reason == Reason::Waits => {
                words[ROUNDS].fetch_add(1, SeqCst);
            }
            // A page that it touches for the first time, or the relief valve was first.
            _ => next = group.next_event(me, u64::MAX)?.worker,
        }
    }
}

/// A server that is runnable while its worker runs has the time of before in its hands. Were it
/// the slot's when that is back, what the worker used would be for nothing.
fn beside_its_worker() -> Result<Verdict> {
    let sched = harness::shared()?;
    let words = client::shared_words()?;
    let rounds = || words[ROUNDS].load(SeqCst);
    let hog = Hog {
        cpu: Some(CPU),
        ..Hog::default()
    }
    .start()?;
    let client = client::spawn(move || pair_beside(words))?;
    let up = wait_until(Duration::from_secs(10), || {
        rounds() > 2 || client.has_ended()
    });
    ensure!(up, "no pair: {} rounds", rounds());
    let (before, count, began) = (hog.cpu_seconds()?, rounds(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let took = began.elapsed().as_secs_f64();
    let share = (hog.cpu_seconds()? - before) / took;
    let per_s = f64::from(rounds() - count) / took;
    client.kill();
    metric("group_beside", &[("hog", share), ("rounds_per_s", per_s)]);
    ensure!(per_s > 1.0, "{per_s:.1} rounds a second");
    ensure!(
        share >= 0.45,
        "a hog beside the pair got {:.1} % of its CPU",
        share * 100.0
    );
    is_sound(&sched)?;
    Ok(Verdict::Ok)
}
