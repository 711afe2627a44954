//! What a worker may block in: each kind of call, and for long where no signal reaches it.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use umcg::State;

use super::group::{in_client, with_server};
use super::{Test, full, short};
use crate::boss::{self, Boss, actor};
use crate::client::{join_all, serve, worker};
use crate::harness::{Verdict, wait_until};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_each_call_blocks_unprivileged",
        "app,newest",
        2,
        each_call,
    ),
    full(
        "vm_full_group_uninterruptible_10s_unprivileged",
        "app,newest",
        15,
        uninterruptible,
    ),
];

/// So long each call waits for nothing.
const SHORT: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 3_000_000,
};

/// As the kernel's struct io_uring_getevents_arg.
#[repr(C)]
struct GetEvents {
    sigmask: u64,
    sigmask_bytes: u32,
    pad: u32,
    time: u64,
}

/// A wait for a completion that does not come; false: there is no io_uring here.
fn waits_in_uring() -> bool {
    const GET_EVENTS: u32 = 1;
    const EXT_ARG: u32 = 8;
    let mut params = [0u32; 30]; // struct io_uring_params has 120 bytes
    // SAFETY: the params have the size that the kernel writes.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
    if fd < 0 {
        return false;
    }
    // SAFETY: a new descriptor of ours.
    let _ring = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let time = SHORT;
    let arg = GetEvents {
        sigmask: 0,
        sigmask_bytes: 0,
        pad: 0,
        time: std::ptr::from_ref(&time) as u64,
    };
    // SAFETY: arg and the time that it names live through the call.
    unsafe {
        let (arg, bytes) = (&raw const arg, size_of::<GetEvents>());
        libc::syscall(
            libc::SYS_io_uring_enter,
            fd,
            0,
            1,
            GET_EVENTS | EXT_ARG,
            arg,
            bytes,
        );
    }
    true
}

/// Blocks in each of them; those that it has been in.
fn calls_that_wait() -> Result<Vec<i64>> {
    let (epoll, time, word, mut byte) = (libc::SYS_epoll_wait, SHORT, 0u32, 0u8);
    let mut pipe = [0; 2];
    // SAFETY: two ints for two descriptors; all that the calls are given lives through them.
    unsafe {
        ensure!(libc::pipe(pipe.as_mut_ptr()) == 0, "pipe");
        let fd = libc::epoll_create1(0);
        let mut event: libc::epoll_event = std::mem::zeroed();
        libc::syscall(epoll, fd, &raw mut event, 1, 3);
        libc::close(fd);
        libc::syscall(libc::SYS_poll, std::ptr::null_mut::<libc::pollfd>(), 0, 3);
        let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        libc::syscall(libc::SYS_futex, &raw const word, wait, 0, &raw const time);
        let [from, to] = pipe;
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(3));
            libc::write(to, [1u8].as_ptr().cast(), 1)
        });
        libc::read(from, (&raw mut byte).cast(), 1);
        let _ = writer.join();
    }
    std::thread::sleep(Duration::from_millis(3));
    let mut calls = vec![
        epoll,
        libc::SYS_poll,
        libc::SYS_futex,
        libc::SYS_read,
        libc::SYS_clock_nanosleep,
    ];
    if waits_in_uring() {
        calls.push(libc::SYS_io_uring_enter);
    }
    Ok(calls)
}

fn each_call() -> Result<Verdict> {
    in_client(|| {
        with_server(4, |group, me| {
            let (to, from) = std::sync::mpsc::channel();
            let blocker = worker(group, 1, move |_, _| Ok(to.send(calls_that_wait()?)?));
            let seen = serve(group, me, 1)?;
            join_all(vec![blocker])?;
            seen.check(group)?;
            let called = from.recv()?;
            let told = |call: &&i64| seen.calls.contains(&(**call as u32));
            let silent: Vec<_> = called.iter().filter(|call| !told(call)).collect();
            ensure!(silent.is_empty(), "not told of calls {silent:?}: {seen:?}");
            println!("metric group_calls_that_block kinds={}", called.len());
            Ok(())
        })
    })
}

/// The parent of a vfork, which nothing but its end or the child's wakes.
fn sleeps_beside_vfork(time: libc::time_t) -> Result<()> {
    let (flags, none) = (libc::CLONE_VFORK | libc::SIGCHLD, 0);
    // SAFETY: without CLONE_VM the child has memory of its own; it makes two system calls.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, flags, none, none, none, none);
        ensure!(pid >= 0, "clone: {}", std::io::Error::last_os_error());
        if pid == 0 {
            let time = libc::timespec {
                tv_sec: time,
                tv_nsec: 0,
            };
            libc::nanosleep(&raw const time, std::ptr::null_mut());
            libc::_exit(0);
        }
        libc::waitpid(pid as i32, std::ptr::null_mut(), 0);
    }
    Ok(())
}

/// A worker in state D for 10 s is BLOCKED as any other, its server serves on, and it comes back.
fn uninterruptible_body() -> Result<()> {
    let mut boss = Boss::new()?;
    let over = Arc::new(AtomicBool::new(false));
    let stuck = {
        let over = over.clone();
        actor(&boss.group, 1, move |_| {
            sleeps_beside_vfork(10)?;
            over.store(true, SeqCst);
            Ok(())
        })
    };
    let id = boss.new_one(1)?;
    let (tid, group) = (stuck.tid(), boss.group.clone());
    let watcher = std::thread::spawn(move || {
        wait_until(boss::LIMIT, || {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat"));
            let is_d =
                stat.is_ok_and(|it| it.rsplit(") ").next().is_some_and(|s| s.starts_with('D')));
            is_d && group.state(id).is_ok_and(|it| it.state == State::Blocked)
        })
    });
    let began = Instant::now();
    let other = actor(&boss.group, 2, move |_| {
        for _ in 0..500 {
            std::thread::sleep(Duration::from_millis(1));
        }
        ensure!(!over.load(SeqCst), "it had to wait: {:?}", began.elapsed());
        Ok(())
    });
    boss.run(id, boss::soon())?;
    boss.serve_until(2)?;
    stuck.end()?;
    other.end()?;
    let seen = watcher.join().unwrap_or(false);
    ensure!(seen, "it was never seen BLOCKED in state D");
    boss.alone()
}

fn uninterruptible() -> Result<Verdict> {
    boss::in_client(uninterruptible_body)
}
