//! The code of the first two examples of docs/library.md, which a test compares: a program, so that
//! it can be run under the daemon too.

/// "One server, three workers"
fn turns() -> umcg::Result<()> {
    use std::thread;
    use umcg::ErrorKind::{Again, NotFound, WrongState};
    use umcg::{FOREVER, Group, GroupConfig, Reason};

    let group = Group::create(&GroupConfig::default())?;
    let mut server = group.register_server()?;

    let threads: Vec<_> = (0..3)
        .map(|number| {
            let group = group.clone();
            thread::spawn(move || {
                // Returns when the server runs this worker for the first time.
                let mut me = group.register_worker(number).expect("there is room");
                me.yield_now().expect("it is run again");
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
            Err(error) if matches!(error.kind(), WrongState | Again | NotFound) => {} // rule 3
            Err(error) => return Err(error),
        }
    }
    for thread in threads {
        thread.join().expect("no worker panics");
    }
    Ok(())
}

/// "Waiting, waking, switching"
fn waits() -> umcg::Result<()> {
    use std::thread;
    use umcg::ErrorKind::{Again, WrongState};
    use umcg::{FOREVER, Group, GroupConfig, Id, Reason, Server, Woken};

    fn run(server: &mut Server, worker: Id) -> umcg::Result<Reason> {
        loop {
            match server.run(worker, FOREVER) {
                Ok(end) if matches!(end.reason, Reason::Waits | Reason::Exited) => {
                    return Ok(end.reason);
                }
                Err(error) if !matches!(error.kind(), WrongState | Again) => return Err(error),
                _ => server.next_event(FOREVER)?,
            };
        }
    }

    let group = Group::create(&GroupConfig::default())?;
    let mut server = group.register_server()?;
    let thread = thread::spawn({
        let group = group.clone();
        move || {
            let mut me = group.register_worker(0).expect("there is room");
            let late = umcg::now() + 50_000_000;
            let first = me.wait(late).expect("it is run");
            let second = me.wait(FOREVER).expect("it is run");
            (first, second)
        }
    });

    let worker = server.next_event(FOREVER)?.worker;
    assert_eq!(run(&mut server, worker)?, Reason::Waits);
    assert_eq!(server.next_event(FOREVER)?.reason, Reason::TimedOut);
    assert_eq!(run(&mut server, worker)?, Reason::Waits);
    group.wake(worker)?;
    assert_eq!(server.next_event(FOREVER)?.reason, Reason::Woken);
    assert_eq!(run(&mut server, worker)?, Reason::Exited);
    let ended = thread.join().expect("no panic");
    assert_eq!(ended, (Woken::TimedOut, Woken::Woken));
    Ok(())
}

fn main() -> umcg::Result<()> {
    turns()?;
    println!("three workers took turns");
    waits()?;
    println!("done");
    Ok(())
}
