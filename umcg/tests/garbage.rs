//! Nonsense in the memory that a group's members share: the group may stand still, its threads
//! do not fall over, and another group does not notice.

#![cfg(not(loom))]

use std::os::fd::AsRawFd;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use umcg::{FOREVER, Group, GroupConfig, Reason};

/// Set: this process is the one that may come to harm.
const CHILD: &str = "UMCG_TEST_GARBAGE";
const SECONDS: u64 = 1;
/// The first page is of the group's attributes, which are read once.
const FROM: usize = 4096;

fn group() -> Group {
    let config = GroupConfig {
        futex_only: true,
        max_members: 16,
        ..GroupConfig::default()
    };
    Group::create(&config).expect("a group")
}

/// The words of the group's file that its members write all the time.
fn words(group: &Group) -> &'static [AtomicU64] {
    // SAFETY: a stat of all zeros is filled in by the call on a file of ours.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let fd = group.as_fd().as_raw_fd();
    // SAFETY: as above.
    assert_eq!(unsafe { libc::fstat(fd, &raw mut stat) }, 0);
    let len = stat.st_size as usize;
    // SAFETY: a fresh shared mapping of the whole file, which is never cut off and stays mapped.
    let base = unsafe {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, 0)
    };
    assert_ne!(base, libc::MAP_FAILED);
    // SAFETY: inside of that mapping; all of it is atomics.
    unsafe { std::slice::from_raw_parts(base.add(FROM).cast(), (len - FROM) / 8) }
}

/// Small numbers, words of other places, single bits, and anything.
fn scribble(words: &[AtomicU64], until: Instant, seed: u64) {
    let mut noise = seed;
    let mut next = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    while Instant::now() < until {
        for _ in 0..100 {
            let (at, value) = (next() as usize % words.len(), next());
            let from = next() as usize % words.len();
            match value % 4 {
                0 => words[at].store(value >> 2 & 0x1f, SeqCst),
                1 => words[at].store(words[from].load(SeqCst), SeqCst),
                2 => drop(words[at].fetch_xor(1 << (value >> 2 & 63), SeqCst)),
                _ => words[at].store(value, SeqCst),
            }
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Calls of all kinds with short deadlines; what they return is of no interest.
fn worker(group: &Group, cookie: u64) {
    let Ok(mut me) = group.register_worker(cookie) else {
        return;
    };
    let mut ids = vec![me.id()];
    for round in 0.. {
        let soon = umcg::after(Duration::from_micros(200));
        let to = ids[round % ids.len()];
        let _ = match round % 4 {
            0 => me.yield_now(),
            1 => me.wait(soon).map(drop),
            2 => me.switch(to, soon).map(drop),
            _ => group.wake(to).and_then(|()| group.kick(to)),
        };
        if let Ok(list) = group.list()
            && !list.is_empty()
        {
            ids = list.iter().map(|it| it.id).collect();
        }
        let _ = group.state(to);
    }
}

fn server(group: &Group) {
    let Ok(mut me) = group.register_server() else {
        return;
    };
    loop {
        let soon = || umcg::after(Duration::from_millis(1));
        if let Ok(news) = me.next_event(soon()) {
            let _ = me.run(news.worker, soon());
        }
    }
}

/// Each of the group's workers is run, waits, is woken and ends.
fn works(group: &Group) {
    let threads: Vec<_> = (0..4)
        .map(|cookie| {
            let group = group.clone();
            thread::spawn(move || {
                let mut me = group.register_worker(cookie).expect("a worker");
                let _ = me.wait(umcg::after(Duration::from_millis(1))).expect("run");
                me.yield_now().expect("run");
            })
        })
        .collect();
    let mut me = group.register_server().expect("a server");
    let mut live = threads.len();
    while live > 0 {
        let news = me.next_event(umcg::after(Duration::from_secs(10)));
        let news = news.expect("news");
        let end = match news.reason {
            Reason::Exited => Ok(news),
            _ => me.run(news.worker, FOREVER),
        };
        live -= usize::from(end.is_ok_and(|it| it.reason == Reason::Exited));
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
}

fn child(seed: u64) {
    // A panic of any thread is the process's end.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::abort();
    }));
    let (bad, good) = (Arc::new(group()), group());
    for cookie in 0..4 {
        let bad = bad.clone();
        thread::spawn(move || worker(&bad, cookie));
    }
    for _ in 0..2 {
        let bad = bad.clone();
        thread::spawn(move || server(&bad));
    }
    thread::sleep(Duration::from_millis(20));
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let words = words(&bad);
    let scribbler = thread::spawn(move || scribble(words, until, seed));
    let mut rounds = 0;
    while Instant::now() < until {
        works(&good);
        rounds += 1;
    }
    scribbler.join().expect("no panic");
    works(&good);
    println!("another group: {rounds} rounds");
    // Threads of the group that came to harm may never end.
    std::process::exit(0);
}

/// The status of a process within a minute, and what it said.
fn run_child(seed: u64) -> (Option<ExitStatus>, String) {
    let test = std::env::current_exe().expect("a path");
    let mut child = Command::new(test)
        .args([
            "--exact",
            "stress_garbage_in_the_book_ends_nobody",
            "--nocapture",
        ])
        .env(CHILD, seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let limit = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().expect("our child") {
            None if Instant::now() < limit => thread::sleep(Duration::from_millis(20)),
            status => break status,
        }
    };
    let _ = child.kill();
    let errors = child.wait_with_output().expect("our child").stderr;
    (status, String::from_utf8_lossy(&errors).into_owned())
}

#[test]
fn stress_garbage_in_the_book_ends_nobody() {
    if let Ok(seed) = std::env::var(CHILD) {
        child(seed.parse().expect("a number"));
    }
    for seed in [88_172_645_463_325_252, 4_711, 0x9e37_79b9_7f4a_7c15] {
        let (status, errors) = run_child(seed);
        let well = status.is_some_and(|it| it.success());
        assert!(well, "seed {seed}: {status:?}: {errors}");
    }
}
