//! N:1 in 40 lines: one server runs three workers that take turns.

use std::thread;

use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Reason};

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
        let next = server.next_event(FOREVER)?;
        let reason = match next.reason {
            Reason::Exited => Reason::Exited, // it left on its own
            _ => match server.run(next.worker, FOREVER) {
                Err(error) if error.kind() == ErrorKind::WrongState => continue, // told again
                end => end?.reason,
            },
        };
        if reason == Reason::Exited {
            live -= 1;
        }
    }
    for thread in threads {
        thread.join().expect("no worker panics")?;
    }
    println!("done");
    Ok(())
}
