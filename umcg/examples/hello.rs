//! N:1 in 40 lines: one server runs three workers that take turns.

use std::thread;

use umcg::ErrorKind::{Again, NotFound, WrongState};
use umcg::{FOREVER, Group, GroupConfig, Reason};

fn main() -> umcg::Result<()> {
    let group = Group::create(&GroupConfig::default())?;
    println!("served by: {}", group.mode());
    let mut server = group.register_server()?;

    let threads: Vec<_> = (0..3)
        .map(|number| {
            let group = group.clone();
            thread::spawn(move || -> umcg::Result<()> {
                // Returns when the server runs this worker for the first time.
                let mut me = group.register_worker(number)?;
                for turn in 0..2 {
                    println!("worker {number}, turn {turn}");
                    me.yield_now()?;
                }
                Ok(()) // dropping `me` unregisters: the server gets `Exited`
            })
        })
        .collect();

    let mut live = threads.len();
    while live > 0 {
        // Who is RUNNABLE, oldest first; then let it run until it stops.
        let next = server.next_event(FOREVER);
        let end = next.and_then(|next| match next.reason {
            Reason::Exited => Ok(next), // it left on its own
            _ => server.run(next.worker, FOREVER),
        });
        match end {
            Ok(event) => live -= usize::from(event.reason == Reason::Exited),
            // It was quicker; when it is RUNNABLE it is told again.
            Err(error) if matches!(error.kind(), WrongState | Again | NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    for thread in threads {
        thread.join().expect("no worker panics")?;
    }
    println!("done");
    Ok(())
}
