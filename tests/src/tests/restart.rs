//! Wakes counted while the daemon goes and comes back, with bare servers and workers: none is
//! lost, whichever side of a move it meets. Over the daemon, as nobody.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Id, Mode, Reason, Server, Woken};

use super::{Test, full, short};
use crate::boss::{LIMIT, actor, is_nobody};
use crate::client::{self, Name, is_sound};
use crate::harness::{Sched, Verdict, metric, wait_until};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_wakes_survive_restarts_selftest_unprivileged",
        "app,newest",
        15,
        wakes_over_restarts::<1>,
    ),
    full(
        "vm_full_group_wakes_survive_restarts_selftest_unprivileged",
        "app,newest",
        150,
        wakes_over_restarts::<10>,
    ),
];

/// What the two processes share: the end; wakes that ended a wait, of each worker; runs that
/// ended because the daemon went away; whether it serves the group.
const OVER: usize = 0;
const ENDED: [usize; 2] = [1, 2];
const RESCUED: usize = 3;
const SERVED: usize = 4;

type Words = &'static [AtomicU32; client::WORDS];

/// Wakes worker `id` again and again, each time when its wait has ended; how often.
fn wake_each(group: &Group, id: Id, ended: &AtomicU32, over: &AtomicU32) -> Result<u32> {
    let mut sent = 0;
    while over.load(SeqCst) == 0 {
        let before = ended.load(SeqCst);
        group.wake(id)?;
        sent += 1;
        let limit = Instant::now() + LIMIT;
        while ended.load(SeqCst) == before {
            ensure!(
                Instant::now() < limit,
                "wake {sent} is lost: mode {}, {:?}",
                group.mode(),
                group.list()?
            );
            std::thread::yield_now();
        }
        match sent % 64 {
            // So long that it is asleep, and not on its way there.
            0 => std::thread::sleep(Duration::from_millis(1)),
            n if n % 3 == 0 => std::thread::sleep(Duration::from_micros(1)),
            _ => {}
        }
    }
    Ok(sent)
}

/// Runs whoever is told of until two have left; rescued ones and modes are noted in `words`.
fn serve(server: &mut Server, words: Words) -> Result<()> {
    let mut left = 0;
    while left < 2 {
        let served = matches!(server.group().mode(), Mode::Kernel { .. });
        words[SERVED].store(served.into(), SeqCst);
        let next = server.next_event(umcg::after(Duration::from_millis(20)));
        let end = next.and_then(|next| match next.reason {
            Reason::Exited => Ok(next),
            _ => server.run(next.worker, umcg::after(LIMIT)),
        });
        match end {
            Ok(end) if end.reason == Reason::Exited => left += 1,
            Ok(end) if end.reason == Reason::Rescued => {
                words[RESCUED].fetch_add(1, SeqCst);
            }
            Ok(_) => {}
            Err(error) => {
                use ErrorKind::{Again, NotFound, TimedOut, WrongState};
                let kind = error.kind();
                let fair = matches!(kind, WrongState | Again | NotFound | TimedOut);
                ensure!(fair, "{error}");
            }
        }
    }
    Ok(())
}

/// One server and two workers: one that only waits, and one that sleeps in the kernel too.
fn application<const RESTARTS: u32>(words: Words) -> Result<()> {
    is_nobody()?;
    let group = Group::create(&GroupConfig::default())?;
    let mut server = group.register_server()?;
    let names: &'static [Name; 2] = Box::leak(Box::default());
    let workers: Vec<_> = (0..2usize)
        .map(|at| {
            actor(&group, at as u64, move |me| {
                names[at].set(me.id());
                while words[OVER].load(SeqCst) == 0 {
                    ensure!(me.wait(FOREVER)? == Woken::Woken, "timed out");
                    if at == 1 {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                    words[ENDED[at]].fetch_add(1, SeqCst);
                }
                Ok(())
            })
        })
        .collect();
    let wakers: Vec<_> = (0..2usize)
        .map(|at| {
            let group = group.clone();
            std::thread::spawn(move || -> Result<u32> {
                let id = names[at].get();
                let (ended, over) = (&words[ENDED[at]], &words[OVER]);
                let sent = wake_each(&group, id, ended, over);
                // Its worker may wait for a wake yet; it is gone if not.
                over.store(1, SeqCst);
                let _ = group.wake(id);
                sent
            })
        })
        .collect();
    serve(&mut server, words)?;
    workers.into_iter().try_for_each(|it| it.end())?;
    for (at, waker) in wakers.into_iter().enumerate() {
        let sent = waker.join().ok().context("a waker panicked")??;
        let ended = words[ENDED[at]].load(SeqCst);
        println!("metric group_restart_wakes worker={at} sent={sent} ended={ended}");
        // A wait may end without a wake, where its worker moves.
        let more = ended.saturating_sub(sent + 1);
        ensure!(
            ended >= sent && more <= 4 * RESTARTS,
            "{sent} wakes ended {ended} waits of {at}"
        );
    }
    Ok(())
}

fn wakes_over_restarts<const RESTARTS: u32>() -> Result<Verdict> {
    let words = client::shared_words()?;
    let mut sched = Sched::start(&[])?;
    let app = client::spawn(move || application::<RESTARTS>(words))?;
    let go_on = |when: &str, served: u32| -> Result<()> {
        let there = wait_until(LIMIT, || words[SERVED].load(SeqCst) == served);
        ensure!(there, "{when}: not noticed");
        for at in ENDED {
            let before = words[at].load(SeqCst);
            let more = wait_until(LIMIT, || words[at].load(SeqCst) > before + 50);
            ensure!(more, "{when}: worker {at} had no 50 wakes in {LIMIT:?}");
        }
        Ok(())
    };
    let result = (|| -> Result<()> {
        for _ in 0..RESTARTS {
            go_on("served", 1)?;
            sched.signal(libc::SIGKILL);
            sched.wait(Duration::from_secs(10))?;
            go_on("killed", 0)?;
            sched = Sched::start(&[])?;
        }
        go_on("served again", 1)
    })();
    words[OVER].store(1, SeqCst);
    // Its own error says more.
    app.result(2 * LIMIT)?;
    result?;
    let rescued = words[RESCUED].load(SeqCst);
    metric("group_restart_rescued", &[("runs", f64::from(rescued))]);
    is_sound(&sched)?;
    sched.stop()?;
    Ok(Verdict::Ok)
}
