//! A simulator whose processes are threads that run one at a time, in simulated time:
//! the server is the clock. The same input gives the same output, always, and nothing
//! inside a process needs a lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use umcg::ErrorKind::{Again, NotFound, WrongState};
use umcg::{FOREVER, Group, GroupConfig, Id, Reason, Server, Worker};

/// Simulated time, and when the running process wants to go on.
#[derive(Default)]
struct Clock {
    now: AtomicU64,
    until: AtomicU64,
}

impl Clock {
    /// The calling process goes on `time` later.
    fn pass(&self, me: &mut Worker, time: u64) {
        self.until.store(self.now.load(Relaxed) + time, Relaxed);
        // Nobody wakes it: the server runs it when its time has come.
        let _ = me.wait(FOREVER).expect("it runs");
    }
}

/// Nobody else runs meanwhile, also while `process` waits in the kernel, for a page, say.
/// False: it has ended.
fn run_until_it_waits(server: &mut Server, process: Id) -> umcg::Result<bool> {
    loop {
        match server.run(process, FOREVER) {
            Ok(end) if end.reason == Reason::Waits => return Ok(true),
            Ok(end) if end.reason == Reason::Exited => return Ok(false),
            Err(error) if !matches!(error.kind(), WrongState | Again | NotFound) => {
                return Err(error);
            }
            _ => {} // it is told of when it is RUNNABLE again
        }
        let news = server.next_event(FOREVER)?;
        if news.worker == process && news.reason == Reason::Exited {
            return Ok(false);
        }
    }
}

fn simulate() -> umcg::Result<Vec<String>> {
    let group = Group::create(&GroupConfig::default())?;
    let mut server = group.register_server()?;
    let clock = Arc::new(Clock::default());
    let log = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut threads = Vec::new();
    // Due processes by (time, number): equal times go by number.
    let mut due: BTreeMap<(u64, u64), Id> = BTreeMap::new();
    for number in 0..5u64 {
        let (group, clock, log) = (group.clone(), clock.clone(), log.clone());
        threads.push(thread::spawn(move || {
            let mut me = group.register_worker(number).expect("a worker");
            for step in 0..4 {
                let line = format!("t={} process {number} step {step}", clock.now.load(Relaxed));
                log.lock().expect("one at a time").push(line);
                clock.pass(&mut me, 3 + (number * 7 + step * 5) % 4);
            }
        }));
        let event = loop {
            let event = server.next_event(FOREVER)?;
            if event.cookie == number {
                break event; // an earlier one may be told of again
            }
        };
        due.insert((0, number), event.worker);
    }
    while let Some(((time, number), process)) = due.pop_first() {
        clock.now.store(time, Relaxed);
        if run_until_it_waits(&mut server, process)? {
            due.insert((clock.until.load(Relaxed), number), process);
        }
    }
    for thread in threads {
        thread.join().expect("no process panics");
    }
    let log = log.lock().expect("all are done").clone();
    Ok(log)
}

fn main() -> umcg::Result<()> {
    let first = simulate()?;
    for line in &first {
        println!("{line}");
    }
    assert_eq!(first.len(), 20);
    assert_eq!(first, simulate()?, "two runs of the same input differ");
    println!("done");
    Ok(())
}
