//! Two processes hand one slot to and fro: a request in shared memory costs a switch,
//! not a wake-up and a sleep. The second process joins by the group's file.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, ExitCode};
use std::thread;

use umcg::ErrorKind::{Again, NotFound, WrongState};
use umcg::{FOREVER, Group, GroupConfig, Id, Reason, Worker};

const ROUNDS: u64 = 10_000;
const CLIENT: u64 = 1;
const SERVICE: u64 = 2;

/// The worker with `cookie`, as soon as there is one.
fn find(group: &Group, me: &mut Worker, cookie: u64) -> umcg::Result<Id> {
    loop {
        let members = group.list()?;
        if let Some(member) = members.iter().find(|member| member.cookie == cookie) {
            return Ok(member.id);
        }
        me.yield_now()?;
    }
}

/// Hands the slot to `to` and comes back when it is handed back.
fn call(me: &mut Worker, to: Id) -> umcg::Result<()> {
    loop {
        match me.switch(to, FOREVER) {
            Ok(_) => return Ok(()),
            // It is on its way into its own switch.
            Err(error) if error.kind() == WrongState => me.yield_now()?,
            Err(error) => return Err(error),
        }
    }
}

/// The second process: hands back each time that it is run.
fn service(fd: i32) -> umcg::Result<()> {
    // SAFETY: the parent left this descriptor open for us, and nobody else uses it.
    let group = Group::open(unsafe { OwnedFd::from_raw_fd(fd) })?;
    let mut me = group.register_worker(SERVICE)?;
    let client = find(&group, &mut me, CLIENT)?;
    for _ in 0..ROUNDS {
        call(&mut me, client)?;
    }
    // One of the two came first and waits now for a last hand-off; the other may be
    // gone already.
    let _ = group.wake(client);
    Ok(())
}

fn client(group: &Group) -> umcg::Result<u64> {
    let mut me = group.register_worker(CLIENT)?;
    let service = find(group, &mut me, SERVICE)?;
    let mut rounds = 0;
    while rounds < ROUNDS {
        call(&mut me, service)?;
        rounds += 1;
    }
    // As at the end of the service.
    let _ = group.wake(service);
    Ok(rounds)
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let done = match args.next() {
        Some(fd) => service(fd.parse().unwrap_or(-1)),
        None => both(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The rounds that the client saw, and how often the server ran somebody.
fn serve(group: &Group) -> umcg::Result<(u64, u64)> {
    let mut server = group.register_server()?;
    let thread = thread::spawn({
        let group = group.clone();
        move || client(&group)
    });
    let (mut live, mut runs) = (2u64, 0);
    while live > 0 {
        let next = server.next_event(FOREVER);
        let end = next.and_then(|next| match next.reason {
            Reason::Exited => Ok(next),
            _ => {
                runs += 1;
                server.run(next.worker, FOREVER)
            }
        });
        match end {
            Ok(event) => live -= u64::from(event.reason == Reason::Exited),
            // It is told again.
            Err(error) if matches!(error.kind(), WrongState | Again | NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((thread.join().expect("the client does not panic")?, runs))
}

fn both() -> umcg::Result<()> {
    let group = Group::create(&GroupConfig::default())?;
    let fd = group.as_fd().as_raw_fd();
    // SAFETY: a plain call on our own descriptor: the child shall inherit it.
    unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    let me = std::env::current_exe().expect("a path");
    let mut child = Command::new(me)
        .arg(fd.to_string())
        .spawn()
        .expect("a process");
    let served = serve(&group);
    let status = child.wait().expect("our own child");
    let (rounds, runs) = served?;
    assert!(status.success() && rounds == ROUNDS);
    println!("{rounds} round trips between two processes, {runs} runs by the server");
    assert!(
        runs < ROUNDS,
        "the slot did not go directly from one to the other"
    );
    println!("done");
    Ok(())
}
