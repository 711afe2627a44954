//! Two hogs that share a server, made to take turns by a signal of the application's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use umcg::ErrorKind::{Again, NotFound, WrongState};
use umcg::timer::kick_on;
use umcg::{FOREVER, Group, GroupConfig, Reason, Source};

/// How often each hog has to be forced off.
const TURNS: u32 = 5;
/// Much longer than a preemption takes, or nobody would come to work.
const PERIOD_US: libc::suseconds_t = 10_000;

/// Starts the process's timer `which`, or stops it.
fn set_timer(which: i32, period_us: libc::suseconds_t) {
    let period = libc::timeval {
        tv_sec: 0,
        tv_usec: period_us,
    };
    let times = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: the struct is filled in whole and outlives the call.
    let set = unsafe { libc::setitimer(which as _, &times, std::ptr::null_mut()) };
    assert_eq!(set, 0, "setitimer: {}", std::io::Error::last_os_error());
}

/// Blocks `signal` in the calling thread and those that it starts, or lets it in.
fn mask(how: i32, signal: i32) {
    // SAFETY: the set is initialised before it is used, and outlives the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    }
}

/// Runs both until each was forced off [`TURNS`] times by the timer `which`, whose signal is
/// `signal`: how often each was. `step` is what a hog does all the time.
pub fn take_turns(signal: i32, which: i32, step: fn()) -> umcg::Result<[u32; 2]> {
    let group = Group::create(&GroupConfig::default())?;
    let mut server = group.register_server()?;
    // The handler: umcg::kick_self(), for whichever thread the signal interrupted.
    kick_on(signal)?;
    // It goes to any thread of the process that does not block it: to the workers alone.
    mask(libc::SIG_BLOCK, signal);

    let stop = Arc::new(AtomicBool::new(false));
    let hogs: Vec<_> = (0..2)
        .map(|number| {
            let (group, stop) = (group.clone(), stop.clone());
            thread::spawn(move || {
                let _me = group.register_worker(number).expect("there is room");
                mask(libc::SIG_UNBLOCK, signal);
                while !stop.load(Relaxed) {
                    step(); // no call of the library
                }
                mask(libc::SIG_BLOCK, signal);
            })
        })
        .collect();
    set_timer(which, PERIOD_US);

    let (mut live, mut turns) = (hogs.len(), [0; 2]);
    while live > 0 {
        let news = server.next_event(FOREVER);
        let end = news.and_then(|news| match news.reason {
            Reason::Exited => Ok(news),
            _ => server.run(news.worker, FOREVER),
        });
        let end = match end {
            // It is told again.
            Err(error) if matches!(error.kind(), WrongState | Again | NotFound) => continue,
            end => end?,
        };
        live -= usize::from(end.reason == Reason::Exited);
        if end.reason == Reason::Preempted {
            // In kernel mode events say what forced a worker off.
            assert!(matches!(end.source, None | Some(Source::Signal)), "{end:?}");
            turns[end.cookie as usize] += 1;
        }
        if turns.iter().all(|&n| n >= TURNS) {
            stop.store(true, Relaxed);
        }
    }
    set_timer(which, 0);
    for hog in hogs {
        hog.join().expect("no hog panics");
    }
    Ok(turns)
}
