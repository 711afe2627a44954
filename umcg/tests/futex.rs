//! Futex-only mode through the public calls: semantics, bad input, and storms that end
//! in conservation.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use umcg::{ErrorKind, Event, FOREVER, Group, GroupConfig, Id, Idle, Preempt, Reason, State};
use umcg::{Server, Woken, Worker};

fn group() -> Group {
    with(GroupConfig::default())
}

fn with(config: GroupConfig) -> Group {
    let config = GroupConfig {
        futex_only: true,
        ..config
    };
    Group::create(&config).expect("a group")
}

/// A worker thread that runs `body`; unregisters at its end.
fn worker<T: Send + 'static>(
    group: &Group,
    cookie: u64,
    body: impl FnOnce(&mut Worker) -> T + Send + 'static,
) -> JoinHandle<T> {
    let group = group.clone();
    thread::spawn(move || body(&mut group.register_worker(cookie).expect("a worker")))
}

fn soon() -> u64 {
    umcg::after(Duration::from_secs(20))
}

/// The next worker that waits; there has to be one.
fn next(server: &mut Server) -> Event {
    server.next_event(soon()).expect("an event")
}

fn run(server: &mut Server, worker: Id) -> Event {
    server.run(worker, soon()).expect("it comes back")
}

/// Runs whoever is RUNNABLE, oldest first, until `live` workers have exited.
fn serve(server: &mut Server, mut live: usize) -> usize {
    let mut runs = 0;
    while live > 0 {
        let event = next(server);
        if event.reason == Reason::Exited {
            live -= 1;
            continue;
        }
        match server.run(event.worker, soon()) {
            Ok(event) if event.reason == Reason::Exited => live -= 1,
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WrongState, "{error}"),
        }
        runs += 1;
    }
    runs
}

#[test]
fn selftest_worker_is_told_as_new_with_its_cookie_and_does_not_run_before_run() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let ran = Arc::new(AtomicBool::new(false));
    let seen = ran.clone();
    let thread = worker(&group, 77, move |_| seen.store(true, SeqCst));
    let event = next(&mut server);
    assert_eq!((event.reason, event.cookie), (Reason::New, 77));
    assert_eq!(
        group.state(event.worker).expect("it is").state,
        State::Runnable
    );
    assert!(!ran.load(SeqCst));
    let gone = run(&mut server, event.worker);
    assert_eq!((gone.reason, gone.worker), (Reason::Exited, event.worker));
    assert!(ran.load(SeqCst));
    thread.join().expect("it ran");
    let error = group.state(event.worker).expect_err("it left");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn selftest_wait_then_wake_makes_runnable_not_running() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let thread = worker(&group, 0, |me| me.wait(FOREVER).expect("woken"));
    let id = next(&mut server).worker;
    assert_eq!(run(&mut server, id).reason, Reason::Waits);
    assert_eq!(group.state(id).expect("it is").state, State::Idle);
    let nothing = server.next_event(0).expect_err("no news");
    assert_eq!(nothing.kind(), ErrorKind::TimedOut);
    group.wake(id).expect("it waits");
    assert_eq!(group.state(id).expect("it is").state, State::Runnable);
    let event = next(&mut server);
    assert_eq!((event.worker, event.reason), (id, Reason::Woken));
    assert_eq!(run(&mut server, id).reason, Reason::Exited);
    assert_eq!(thread.join().expect("it ran"), Woken::Woken);
}

#[test]
fn id_of_another_group_names_nobody() {
    let (one, other) = (group(), group());
    let server = one.register_server().expect("a server");
    let theirs = other.clone();
    let (tell, told) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let _server = theirs.register_server().expect("a server");
        told.recv().expect_err("the end");
    });
    while other.list().expect("members").is_empty() {
        thread::yield_now();
    }
    let index = other.list().expect("members")[0].id.index();
    assert_eq!(server.id().index(), index, "else it shows nothing");
    let kind = other.wake(server.id()).expect_err("a stranger").kind();
    assert_eq!(kind, ErrorKind::NotFound);
    drop(tell);
    thread.join().expect("it ran");
}

#[test]
fn wake_that_comes_first_is_remembered_once() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let thread = worker(&group, 0, |me| {
        let group = me.group().clone();
        group.wake(me.id()).expect("myself");
        group.wake(me.id()).expect("myself");
        let first = me.wait(FOREVER).expect("remembered");
        (first, me.wait(0).expect("a poll"))
    });
    let id = next(&mut server).worker;
    assert_eq!(run(&mut server, id).reason, Reason::Exited);
    assert_eq!(
        thread.join().expect("it ran"),
        (Woken::Woken, Woken::TimedOut)
    );
}

#[test]
fn wait_timeout_is_an_event_and_the_worker_is_run_again() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let thread = worker(&group, 0, |me| {
        me.wait(umcg::after(Duration::from_millis(5)))
            .expect("run again")
    });
    let id = next(&mut server).worker;
    assert_eq!(run(&mut server, id).reason, Reason::Waits);
    let event = next(&mut server);
    assert_eq!((event.worker, event.reason), (id, Reason::TimedOut));
    run(&mut server, id);
    assert_eq!(thread.join().expect("it ran"), Woken::TimedOut);
}

#[test]
fn run_of_an_idle_worker_ends_its_wait() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let thread = worker(&group, 0, |me| me.wait(FOREVER).expect("run"));
    let id = next(&mut server).worker;
    run(&mut server, id);
    assert_eq!(run(&mut server, id).reason, Reason::Exited);
    assert_eq!(thread.join().expect("it ran"), Woken::Woken);
}

#[test]
fn yield_is_told_by_run_and_listed() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let thread = worker(&group, 0, |me| me.yield_now().expect("run again"));
    let id = next(&mut server).worker;
    assert_eq!(run(&mut server, id).reason, Reason::Yielded);
    let event = next(&mut server);
    assert_eq!((event.worker, event.reason), (id, Reason::Yielded));
    assert_eq!(run(&mut server, id).reason, Reason::Exited);
    thread.join().expect("it ran");
}

#[test]
fn selftest_switch_hands_the_slot_on_without_the_server() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let (tell, told) = mpsc::channel::<Id>();
    let first = worker(&group, 1, move |me| {
        let to = told.recv().expect("an id");
        me.switch(to, FOREVER).expect("run again")
    });
    let first_id = next(&mut server).worker;
    let second = worker(&group, 2, move |me| {
        let woken = me.wait(FOREVER).expect("handed on");
        me.group().wake(first_id).expect("it waits");
        woken
    });
    let second_id = next(&mut server).worker;
    assert_eq!(run(&mut server, second_id).reason, Reason::Waits);
    tell.send(second_id).expect("it listens");
    // The event names who left the slot at last: the second one, which exited.
    let event = run(&mut server, first_id);
    assert_eq!((event.worker, event.reason), (second_id, Reason::Exited));
    assert_eq!(event.cookie, 2);
    let event = next(&mut server);
    assert_eq!(event.worker, first_id);
    run(&mut server, first_id);
    assert_eq!(first.join().expect("it ran"), Woken::Woken);
    assert_eq!(second.join().expect("it ran"), Woken::Woken);
}

#[test]
fn selftest_bad_calls_have_errors_of_their_own_and_change_nothing() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let kind = |result: umcg::Result<()>| result.expect_err("refused").kind();
    let again = group.register_server().expect_err("a member already");
    assert_eq!(again.kind(), ErrorKind::Registered);
    let me = server.id();
    assert_eq!(kind(server.run(me, 0).map(drop)), ErrorKind::Invalid);
    let nobody = Id::new(99, 1);
    assert_eq!(kind(server.run(nobody, 0).map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(group.wake(Id::NONE)), ErrorKind::NotFound);
    assert_eq!(kind(group.wake(Id::new(u32::MAX, 1))), ErrorKind::NotFound);
    assert_eq!(kind(group.kick(nobody)), ErrorKind::NotFound);
    assert_eq!(kind(umcg::kick_self()), ErrorKind::NotFound);
    let thread = worker(&group, 0, move |me| {
        let myself = me.switch(me.id(), FOREVER).expect_err("myself").kind();
        let server = me
            .switch(server_id(me), FOREVER)
            .expect_err("a server")
            .kind();
        let nobody = me.switch(nobody, FOREVER).expect_err("nobody").kind();
        let twice = me.group().register_worker(0).expect_err("twice").kind();
        (myself, server, nobody, twice)
    });
    let id = next(&mut server).worker;
    assert_eq!(kind(group.kick(id)), ErrorKind::WrongState);
    assert_eq!(run(&mut server, id).reason, Reason::Exited);
    use ErrorKind::{Invalid, Myself, NotFound, Registered};
    let kinds = thread.join().expect("it ran");
    assert_eq!(kinds, (Myself, Invalid, NotFound, Registered));
    assert_eq!(kind(server.run(id, 0).map(drop)), ErrorKind::NotFound);
    assert_eq!(
        server.next_event(0).expect_err("no news").kind(),
        ErrorKind::TimedOut
    );
}

fn server_id(me: &Worker) -> Id {
    let members = me.group().list().expect("members");
    let server = members.iter().find(|it| it.kind == umcg::Kind::Server);
    server.expect("it runs me").id
}

#[test]
fn run_listed_leaves_a_wait_alone_that_run_ends() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let thread = worker(&group, 0, |me| me.wait(FOREVER).map(|_| ()));
    let id = next(&mut server).worker;
    assert_eq!(run(&mut server, id).reason, Reason::Waits);
    let waits = server.run_listed(id, soon()).expect_err("it waits");
    assert_eq!(waits.kind(), ErrorKind::WrongState);
    assert_eq!(group.state(id).expect("it is there").state, State::Idle);
    assert_eq!(run(&mut server, id).reason, Reason::Exited);
    thread.join().expect("no panic").expect("it was run");
}

#[test]
fn run_timed_out_keeps_the_slot_until_the_worker_calls() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    let go_on = Arc::new(AtomicBool::new(false));
    let seen = go_on.clone();
    let thread = worker(&group, 0, move |me| {
        while !seen.load(SeqCst) {
            thread::yield_now();
        }
        me.checkpoint();
    });
    let id = next(&mut server).worker;
    let late = server.run(id, umcg::after(Duration::from_millis(2)));
    assert_eq!(late.expect_err("it computes").kind(), ErrorKind::TimedOut);
    let busy = server.run(id, 0).expect_err("occupied");
    assert_eq!(busy.kind(), ErrorKind::Again);
    go_on.store(true, SeqCst);
    let mut reasons = vec![next(&mut server).reason];
    reasons.push(next(&mut server).reason);
    assert_eq!(reasons, [Reason::Preempted; 2]);
    assert_eq!(run(&mut server, id).reason, Reason::Exited);
    thread.join().expect("it ran");
}

#[test]
fn run_deadline_preempts_a_hog_by_signal() {
    let group = with(GroupConfig {
        preempt: Preempt::Signal(libc::SIGURG),
        ..GroupConfig::default()
    });
    let mut server = group.register_server().expect("a server");
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let hog = worker(&group, 0, move |_| {
        let mut rounds = 0u64;
        while !seen.load(SeqCst) {
            rounds += 1;
        }
        rounds
    });
    let id = next(&mut server).worker;
    let mut preempted = 0;
    while preempted < 20 {
        match server.run(id, umcg::after(Duration::from_millis(1))) {
            Ok(event) => {
                assert_eq!(event.reason, Reason::Preempted);
                preempted += 1;
                assert_eq!(next(&mut server).reason, Reason::Preempted);
            }
            Err(error) => {
                // The signal took longer than its grace on a busy machine.
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                next(&mut server);
            }
        }
    }
    stop.store(true, SeqCst);
    while run(&mut server, id).reason != Reason::Exited {
        next(&mut server);
    }
    assert!(hog.join().expect("it ran") > 0);
}

/// A kick that meets a hog on its way out of the call in which it followed another one
/// must not be taken for that one: the hog would never be forced off.
#[test]
fn run_deadline_in_the_past_preempts_a_hog_each_time() {
    let group = with(GroupConfig {
        preempt: Preempt::Signal(libc::SIGURG),
        ..GroupConfig::default()
    });
    let mut server = group.register_server().expect("a server");
    for _ in 0..200 {
        let stop = Arc::new(AtomicBool::new(false));
        let quit = stop.clone();
        let hog = worker(&group, 1, move |_| while !quit.load(SeqCst) {});
        let mut preempted = 0;
        while preempted < 5 {
            let hog = next(&mut server);
            match server.run(hog.worker, umcg::after(Duration::ZERO)) {
                Ok(event) => {
                    assert_eq!(event.reason, Reason::Preempted);
                    preempted += 1;
                }
                // Late: next() tells of it, and of what it is listed for.
                Err(error) => assert!(
                    [ErrorKind::TimedOut, ErrorKind::WrongState].contains(&error.kind()),
                    "{error}"
                ),
            }
        }
        stop.store(true, SeqCst);
        serve(&mut server, 1);
        hog.join().expect("no panic");
    }
}

#[test]
fn wake_of_a_sleeping_server_ends_its_wait() {
    let group = group();
    let (tell, told) = mpsc::channel();
    let other = group.clone();
    let thread = thread::spawn(move || {
        let mut server = other.register_server().expect("a server");
        tell.send(server.id()).expect("somebody listens");
        server.next_event(soon()).expect_err("no event").kind()
    });
    group
        .wake(told.recv().expect("an id"))
        .expect("it is a member");
    assert_eq!(thread.join().expect("it ran"), ErrorKind::Again);
}

#[test]
fn selftest_forked_child_is_no_member() {
    let group = group();
    let server = group.register_server().expect("a server");
    // SAFETY: the child makes calls of the library that neither allocate nor lock, and
    // leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let kicked = umcg::kick_self().map_err(|error| error.kind());
        let mut server = server;
        let called = server.next_event(0).map_err(|error| error.kind());
        let void = kicked == Err(ErrorKind::NotFound)
            && called.is_err_and(|kind| kind == ErrorKind::NotFound);
        drop(server);
        // SAFETY: ends the child.
        unsafe { libc::_exit(if void { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: our own child; `status` is ours.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0, "the child took itself for a member");
    assert_eq!(
        group.state(server.id()).expect("still one").state,
        State::Running
    );
}

#[test]
fn dead_server_leaves_its_workers_to_others() {
    let group = group();
    let gone = group.clone();
    let thread = worker(&group, 5, |_| ());
    thread::spawn(move || {
        let mut server = gone.register_server().expect("a server");
        // It took the worker off its list, and ends without running it.
        next(&mut server).worker
    })
    .join()
    .expect("it ran");
    let mut server = group.register_server().expect("a server");
    let event = next(&mut server);
    assert_eq!(event.cookie, 5);
    assert_eq!(run(&mut server, event.worker).reason, Reason::Exited);
    thread.join().expect("it ran");
}

#[test]
fn unannounced_exit_of_a_thread_is_told() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    for round in 0..3 {
        let other = group.clone();
        let thread = thread::spawn(move || {
            std::mem::forget(other.register_worker(round).expect("a worker"));
        });
        let id = next(&mut server).worker;
        let event = run(&mut server, id);
        assert_eq!((event.reason, event.cookie), (Reason::Exited, round));
        thread.join().expect("it ran");
    }
    assert_eq!(group.list().expect("members").len(), 1);
}

#[test]
fn killed_process_leaves_nothing_behind() {
    let group = group();
    let fd = group.as_fd().try_clone_to_owned().expect("a file");
    // SAFETY: the test harness's other threads hold no lock that the child needs: it
    // opens the book anew and waits to be killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let run = || -> umcg::Result<()> {
            let group = Group::open(fd)?;
            let mut worker = group.register_worker(9)?;
            loop {
                // Returns at once: it computes in the slot until it is killed.
                let _ = worker.wait(0)?;
            }
        };
        let _ = run();
        // SAFETY: ends the child.
        unsafe { libc::_exit(1) };
    }
    let mut server = group.register_server().expect("a server");
    let event = next(&mut server);
    assert_eq!(event.cookie, 9);
    let killer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        // SAFETY: our own child.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    });
    let event = run(&mut server, event.worker);
    assert_eq!((event.reason, event.cookie), (Reason::Exited, 9));
    killer.join().expect("it ran");
    assert_eq!(group.list().expect("members").len(), 1);
}

#[test]
fn killed_process_whose_worker_waits_is_told() {
    let group = group();
    let fd = group.as_fd().try_clone_to_owned().expect("a file");
    // SAFETY: as above.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = Group::open(fd)
            .and_then(|group| group.register_worker(9))
            .and_then(|mut me| me.wait(FOREVER));
        // SAFETY: ends the child.
        unsafe { libc::_exit(1) };
    }
    let mut server = group.register_server().expect("a server");
    let id = next(&mut server).worker;
    assert_eq!(run(&mut server, id).reason, Reason::Waits);
    // SAFETY: our own child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    let event = next(&mut server);
    assert_eq!((event.worker, event.reason), (id, Reason::Exited));
    assert_eq!(event.cookie, 9);
    let twice = server.next_event(0).expect_err("told once");
    assert_eq!(twice.kind(), ErrorKind::TimedOut);
}

#[test]
fn exit_of_a_worker_whose_server_left_is_told_to_the_next_one() {
    for ends_first in [false, true] {
        let group = group();
        let go_on = Arc::new(AtomicBool::new(false));
        let seen = go_on.clone();
        let thread = worker(&group, 7, move |_| {
            while !seen.load(SeqCst) {
                thread::yield_now();
            }
        });
        let mut first = group.register_server().expect("a server");
        let id = next(&mut first).worker;
        let late = first.run(id, umcg::after(Duration::from_millis(5)));
        assert_eq!(late.expect_err("it computes").kind(), ErrorKind::TimedOut);
        // The worker goes on without a slot.
        first.unregister().expect("a member");
        go_on.store(ends_first, SeqCst);
        if ends_first {
            while !group.list().expect("members").is_empty() {
                thread::yield_now();
            }
        }
        let mut second = group.register_server().expect("a server");
        go_on.store(true, SeqCst);
        let event = next(&mut second);
        assert_eq!((event.worker, event.reason), (id, Reason::Exited));
        assert_eq!(event.cookie, 7);
        thread.join().expect("it ran");
    }
}

/// `servers` threads serve `count` workers that run `body(round, ids, me)` `rounds`
/// times; ends when all have exited. Never two RUNNING workers per server: checked by
/// each worker at both ends of its round, as it may be moved only inside of calls.
fn storm(
    idle: Idle,
    servers: usize,
    count: usize,
    rounds: usize,
    body: impl Fn(usize, usize, &[Id], &mut Worker) + Send + Sync + 'static,
) {
    let group = with(GroupConfig {
        idle,
        ..GroupConfig::default()
    });
    let (tell, told) = mpsc::channel();
    let body = Arc::new(body);
    let ids = Arc::new(std::sync::OnceLock::<Vec<Id>>::new());
    let left = Arc::new(AtomicUsize::new(count));
    let running = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..count)
        .map(|at| {
            let (body, ids, tell) = (body.clone(), ids.clone(), tell.clone());
            let running = running.clone();
            worker(&group, at as u64, move |me| {
                tell.send((at, me.id())).expect("somebody listens");
                while ids.get().is_none() {
                    me.yield_now().expect("run again");
                }
                let ids = ids.get().expect("set");
                for round in 0..rounds {
                    let now = running.fetch_add(1, SeqCst) + 1;
                    assert!(now <= servers, "{now} run on {servers} servers");
                    running.fetch_sub(1, SeqCst);
                    body(at, round, ids, me);
                }
            })
        })
        .collect();
    let serving: Vec<_> = (0..servers)
        .map(|_| {
            let (group, left) = (group.clone(), left.clone());
            thread::spawn(move || {
                let mut server = group.register_server().expect("a server");
                while left.load(SeqCst) > 0 {
                    let short = umcg::after(Duration::from_millis(20));
                    let Ok(event) = server.next_event(short) else {
                        continue;
                    };
                    match server.run(event.worker, soon()) {
                        Ok(event) if event.reason == Reason::Exited => {
                            left.fetch_sub(1, SeqCst);
                        }
                        Ok(_) => {}
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
                        }
                    }
                }
            })
        })
        .collect();
    let mut all = vec![Id::NONE; count];
    for _ in 0..count {
        let (at, id) = told
            .recv_timeout(Duration::from_secs(60))
            .expect("all are run");
        all[at] = id;
    }
    ids.set(all).expect("once");
    for thread in workers.into_iter().chain(serving) {
        thread.join().expect("nothing was lost");
    }
    assert!(group.list().expect("members").is_empty());
}

/// Pairs of workers take turns, 100,000 hand-offs by wake and wait.
fn ping_pong(idle: Idle, servers: usize) {
    let turns: Arc<Vec<AtomicU64>> = Arc::new((0..4).map(|_| AtomicU64::new(0)).collect());
    storm(idle, servers, 4, 25_000, move |at, round, ids, me| {
        let (mine, other) = (at as u64 % 2, at ^ 1);
        let turn = &turns[at / 2];
        while turn.load(SeqCst) != 2 * round as u64 + mine {
            let woken = me.wait(soon()).expect("run again");
            assert_eq!(woken, Woken::Woken, "a wake was lost");
        }
        turn.fetch_add(1, SeqCst);
        // The partner's last round may be over by then.
        let _ = me.group().wake(ids[other]);
    });
}

#[test]
fn stress_ping_pong_on_one_server() {
    ping_pong(Idle::Stack, 1);
}

#[test]
fn stress_ping_pong_on_two_servers() {
    ping_pong(Idle::Stack, 2);
    ping_pong(Idle::Ring, 3);
}

#[test]
fn stress_ping_pong_on_four_servers() {
    ping_pong(Idle::Mask, 4);
}

#[test]
fn stress_yields_on_two_servers() {
    storm(Idle::Mask, 2, 8, 12_500, |_, _, _, me| {
        me.yield_now().expect("run again");
    });
}

#[test]
fn stress_switches_race_wakes_and_yields() {
    storm(Idle::Mask, 2, 8, 12_500, |at, round, ids, me| {
        let to = ids[(at + 1 + round % 7) % 8];
        let short = umcg::after(Duration::from_micros(200));
        match me.switch(to, short) {
            Ok(_) => {}
            Err(error) => {
                let kind = error.kind();
                let fair = matches!(
                    kind,
                    ErrorKind::WrongState | ErrorKind::Myself | ErrorKind::NotFound
                );
                assert!(fair, "{error}");
                let _ = me.group().wake(to);
                me.yield_now().expect("run again");
            }
        }
    });
}

#[test]
fn stress_timeouts_race_wakes() {
    // The wakes of the left neighbour meet the end of short waits.
    storm(Idle::Stack, 2, 4, 25_000, |at, round, ids, me| {
        let _ = me.group().wake(ids[(at + 1) % 4]);
        let short = umcg::now() + (round as u64 % 64) * 1000;
        let _ = me.wait(short).expect("run again");
    });
}

#[test]
fn stress_workers_come_and_go() {
    let group = group();
    let mut server = group.register_server().expect("a server");
    for batch in 0..50 {
        let threads: Vec<_> = (0..20)
            .map(|at| worker(&group, batch * 20 + at, |me| me.yield_now().expect("run")))
            .collect();
        serve(&mut server, 20);
        for thread in threads {
            thread.join().expect("it ran");
        }
    }
    assert_eq!(group.list().expect("members").len(), 1);
}

#[test]
fn limits_are_told_and_room_is_found_again() {
    let made = Group::create(&GroupConfig {
        futex_only: true,
        max_members: umcg::MAX_MEMBERS + 1,
        ..GroupConfig::default()
    });
    let kind = |error: umcg::Error| error.kind();
    assert_eq!(made.map(drop).map_err(kind), Err(ErrorKind::Invalid));
    let group = group();
    let (done, over) = (mpsc::channel(), Arc::new(AtomicBool::new(false)));
    let threads: Vec<_> = (0..umcg::MAX_SERVERS)
        .map(|_| {
            let (group, done, over) = (group.clone(), done.0.clone(), over.clone());
            thread::spawn(move || {
                let _server = group.register_server().expect("room");
                done.send(()).expect("somebody counts");
                while !over.load(SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
            })
        })
        .collect();
    threads
        .iter()
        .for_each(|_| done.1.recv().expect("a server"));
    let one_more = group.register_server().map(drop);
    assert_eq!(one_more.map_err(kind), Err(ErrorKind::Full));
    over.store(true, SeqCst);
    threads
        .into_iter()
        .for_each(|it| it.join().expect("no panic"));
    assert!(group.register_server().is_ok());
}
