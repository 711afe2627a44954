//! A worker that never calls the library, preempted in three ways, so that another one
//! on the same server gets its turns:
//!
//! - by the server: `run` with a deadline, and the group's signal where the kernel does
//!   not do it;
//! - by any thread: `kick`;
//! - by itself: a timer of its own thread whose handler calls `kick_self`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use umcg::timer::{ThreadTimer, TimerClock, kick_on};
use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Id, Preempt, Reason, Server};

const TURNS: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Deadline,
    Kick,
    Timer,
}

fn beside_a_hog(way: Way) -> umcg::Result<(u64, u64)> {
    let group = Group::create(&GroupConfig {
        preempt: Preempt::Signal(libc::SIGURG),
        ..GroupConfig::default()
    })?;
    let mut server = group.register_server()?;
    let stop = Arc::new(AtomicBool::new(false));
    let hog_id = Arc::new(AtomicU64::new(0));

    let hog = thread::spawn({
        let (group, stop, hog_id) = (group.clone(), stop.clone(), hog_id.clone());
        move || {
            let me = group.register_worker(0).expect("a worker");
            let timer = (way == Way::Timer).then(|| {
                let ms = Duration::from_millis(5);
                ThreadTimer::start(TimerClock::ThreadCpu, ms, libc::SIGALRM).expect("a timer")
            });
            hog_id.store(me.id().raw(), Relaxed);
            while !stop.load(Relaxed) {}
            drop(timer);
        }
    });
    let polite = thread::spawn({
        let (group, stop, hog_id) = (group.clone(), stop.clone(), hog_id.clone());
        move || {
            let mut me = group.register_worker(1).expect("a worker");
            let mut turns = 0;
            while turns < TURNS {
                me.yield_now().expect("it is run again");
                turns += u64::from(hog_id.load(Relaxed) != 0); // beside the hog
            }
            stop.store(true, Relaxed);
        }
    });
    let kicker = thread::spawn({
        let (group, stop) = (group.clone(), stop.clone());
        move || {
            while way == Way::Kick && !stop.load(Relaxed) {
                // Refused while it waits for its turn.
                let _ = group.kick(Id::from_raw(hog_id.load(Relaxed)));
                thread::sleep(Duration::from_millis(1));
            }
        }
    });

    let quantum = |way| match way {
        Way::Deadline => umcg::after(Duration::from_millis(1)),
        _ => FOREVER,
    };
    let counts = serve(&mut server, || quantum(way))?;
    for thread in [hog, polite, kicker] {
        thread.join().expect("no thread panics");
    }
    Ok(counts)
}

/// Runs both until they have exited; how often the hog was preempted, and all runs.
fn serve(server: &mut Server, quantum: impl Fn() -> u64) -> umcg::Result<(u64, u64)> {
    let (mut live, mut preempted, mut runs) = (2, 0, 0);
    let mut ready = VecDeque::new();
    // Who did not leave in time has the slot until next_event tells of it.
    let mut occupied = false;
    while live > 0 {
        if occupied || ready.is_empty() {
            let news = match server.next_event(FOREVER) {
                Err(error) if error.kind() == ErrorKind::Again => continue, // the server was woken
                news => news?,
            };
            occupied = false;
            live -= u64::from(news.reason == Reason::Exited);
            preempted += u64::from(news.reason == Reason::Preempted);
            if news.reason.is_runnable() {
                ready.push_back(news.worker);
            }
            continue;
        }
        let Some(worker) = ready.pop_front() else {
            continue;
        };
        match server.run(worker, quantum()) {
            // One that is RUNNABLE comes by next_event as well, with the same reason.
            Ok(event) => {
                runs += 1;
                live -= u64::from(event.reason == Reason::Exited);
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => occupied = true,
            Err(error) if error.kind() == ErrorKind::Again => {
                ready.push_front(worker);
                occupied = true;
            }
            // Told twice, and run before; or it has left, which is told.
            Err(error) if matches!(error.kind(), ErrorKind::WrongState | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((preempted, runs))
}

fn main() -> umcg::Result<()> {
    kick_on(libc::SIGALRM)?;
    for way in [Way::Deadline, Way::Kick, Way::Timer] {
        let (preempted, runs) = beside_a_hog(way)?;
        assert!(preempted > 0, "{way:?}: {runs} runs");
        println!("{way:?}: {runs} runs, the hog was preempted");
    }
    println!("done");
    Ok(())
}
