//! A worker's every system call is looked at, as strace does, and every instruction, as a
//! debugger does. Over the daemon, as nobody.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::Id;

use super::member::{RELIEF, goes_on, ptrace};
use super::{Test, short};
use crate::boss::{Boss, in_client};
use crate::cast::{Role, Troupe};
use crate::harness::wait_until;

pub const TESTS: &[Test] = &[
    short("vm_group_strace_selftest_unprivileged", "group", 3, || {
        in_client(strace_body)
    }),
    short(
        "vm_group_single_step_selftest_unprivileged",
        "group",
        3,
        || in_client(single_step_body),
    ),
];

/// How often the thread stops.
const STOPS: usize = 30;
/// A stop for a system call says so by this, beside SIGTRAP.
const SYSCALL_STOP: i32 = 0x80;

/// Where a thread of the cast is: its next instruction, and its system call.
type Place = (u64, i64);

/// The next stop of thread `tid`: its signal and its place.
fn next_stop(tid: i32) -> Result<(i32, Place)> {
    let mut status = 0;
    let stopped = wait_until(RELIEF, || {
        // SAFETY: a thread that this one traces; its status goes to `status`.
        unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) == tid }
    });
    ensure!(
        stopped && libc::WIFSTOPPED(status),
        "{tid} does not stop: {status:#x}"
    );
    // SAFETY: all zero is a valid user_regs_struct.
    let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, tid, (&raw mut regs) as usize)?;
    let place = (regs.rip, regs.orig_rax.cast_signed());
    Ok((libc::WSTOPSIG(status), place))
}

/// Traces thread `tid` and has it go on by `request`, [`STOPS`] times: where it stopped, if each
/// stop was of `signal`.
fn trace(tid: i32, request: u32, signal: i32) -> JoinHandle<Result<Vec<Place>>> {
    std::thread::spawn(move || {
        ptrace(
            libc::PTRACE_SEIZE,
            tid,
            libc::PTRACE_O_TRACESYSGOOD as usize,
        )?;
        ptrace(libc::PTRACE_INTERRUPT, tid, 0)?;
        next_stop(tid)?;
        let mut places = Vec::new();
        for number in 0..STOPS {
            ptrace(request, tid, 0)?;
            let (by, place) = next_stop(tid).with_context(|| format!("stop {number}"))?;
            ensure!(by == signal, "stop {number} by {by:#x}, want {signal:#x}");
            places.push(place);
        }
        ptrace(libc::PTRACE_DETACH, tid, 0)?;
        Ok(places)
    })
}

/// Runs `who` whenever it may be run, until `debugger` is through.
fn serve(boss: &mut Boss, who: Id, debugger: JoinHandle<Result<Vec<Place>>>) -> Result<Vec<Place>> {
    while !debugger.is_finished() {
        boss.run(who, umcg::after(Duration::from_millis(50)))?;
        boss.is_quiet_but(&[who])?;
    }
    debugger.join().ok().context("the debugger panicked")?
}

/// A worker that yields: each way into its calls and out of them is seen, and it gets on.
fn strace_body() -> Result<()> {
    let (troupe, mut boss) = Troupe::start()?;
    let script = &troupe.script;
    let (tid, id) = (script.tid(Role::Yields), troupe.id(Role::Yields));
    let before = script.progress(Role::Yields);
    let debugger = trace(tid, libc::PTRACE_SYSCALL, libc::SIGTRAP | SYSCALL_STOP);
    let places = serve(&mut boss, id, debugger)?;
    let yields = places.iter().filter(|it| it.1 == libc::SYS_sched_yield);
    ensure!(yields.count() > STOPS / 2, "few yields in {places:?}");
    let after = script.progress(Role::Yields);
    ensure!(after > before, "it has not got on in {STOPS} stops");
    goes_on(&troupe, &mut boss)?;
    troupe.end(boss)
}

/// A worker that computes: it goes on by an instruction at a time.
fn single_step_body() -> Result<()> {
    let (troupe, mut boss) = Troupe::start()?;
    let (tid, id) = (troupe.script.tid(Role::Spins), troupe.id(Role::Spins));
    let debugger = trace(tid, libc::PTRACE_SINGLESTEP, libc::SIGTRAP);
    let places = serve(&mut boss, id, debugger)?;
    let moved = places.windows(2).filter(|two| two[0].0 != two[1].0);
    ensure!(moved.count() == STOPS - 1, "it stood still: {places:x?}");
    goes_on(&troupe, &mut boss)?;
    troupe.end(boss)
}
