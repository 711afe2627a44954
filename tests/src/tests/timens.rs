//! Where a time namespace moves the clock of a program.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::{ErrorKind, Group, GroupConfig, Reason, Woken};

use super::{Test, short};
use crate::client::{self, is_sound};
use crate::harness::Verdict;
use crate::load;

pub const TESTS: &[Test] = &[short(
    "vm_time_namespace_is_restored",
    "group",
    2,
    time_namespace,
)];

const MS: u64 = 1_000_000;
/// No state lasts for longer here, on a busy machine.
const SANE_NS: u64 = 8000 * MS;

/// What the program is started with to live in another time namespace.
pub const A_DAY_AHEAD: &str = "a-day-ahead";
const MACHINE: &str = "UMCG_TEST_MACHINE_NS";

/// CLOCK_MONOTONIC is a day ahead from exec on.
fn to_a_time_namespace() -> std::io::Result<()> {
    // SAFETY: no pointers; this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWTIME) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    std::fs::write("/proc/self/timens_offsets", "monotonic 86400 500\n")?;
    // SAFETY: no pointers.
    unsafe {
        libc::setgid(client::NOBODY);
        libc::setuid(client::NOBODY);
    }
    Ok(())
}

fn time_namespace() -> Result<Verdict> {
    use std::os::unix::process::CommandExt;
    let sched = crate::harness::shared()?;
    let mut program = Command::new(std::env::current_exe()?);
    program
        .args(["--load", A_DAY_AHEAD])
        .env(MACHINE, umcg::now().to_string());
    // SAFETY: this program has one thread here, so its child may do anything.
    unsafe { program.pre_exec(to_a_time_namespace) };
    load::finish(Duration::from_secs(25), program)?;
    is_sound(&sched)?;
    Ok(Verdict::Ok)
}

/// The program in that namespace.
pub fn in_time_namespace() -> ExitCode {
    match a_day_ahead() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err:#}");
            ExitCode::FAILURE
        }
    }
}

/// Deadlines go in and times come out by the caller's clock.
fn a_day_ahead() -> Result<()> {
    let machine: u64 = std::env::var(MACHINE)?.parse()?;
    let day = umcg::now() - machine;
    ensure!(day > 86_400_000 * MS, "no time namespace: {day} ns ahead");
    let group = Group::create(&GroupConfig::default())?;
    ensure!(
        matches!(group.mode(), umcg::Mode::Kernel { .. }),
        "mode {}",
        group.mode()
    );
    let mut server = group.register_server()?;
    let theirs = group.clone();
    let waiter = std::thread::spawn(move || -> Result<()> {
        let mut me = theirs.register_worker(1)?;
        for ms in [5, 50] {
            let until = umcg::now() + ms * MS;
            let woken = me.wait(until)?;
            let late = umcg::now().wrapping_sub(until) as i64;
            ensure!(woken == Woken::TimedOut, "{ms} ms: {woken:?}");
            ensure!(
                (0..2_000_000_000).contains(&late),
                "{ms} ms: {late} ns late"
            );
        }
        Ok(())
    });
    let near = |ns: u64| ns <= umcg::now() && umcg::now() - ns < SANE_NS;
    loop {
        let event = server.next_event(umcg::now() + 5000 * MS)?;
        ensure!(near(event.at_ns), "{event:?} at {}", umcg::now());
        if event.reason == Reason::Exited {
            break;
        }
        let state = group.state(event.worker)?;
        ensure!(near(state.since_ns), "{state:?} at {}", umcg::now());
        match server.run(event.worker, umcg::FOREVER) {
            Ok(end) => {
                ensure!(near(end.at_ns), "{end:?} at {}", umcg::now());
                if end.reason == Reason::Exited {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::WrongState => {}
            Err(error) => Err(error)?,
        }
    }
    let none = server
        .next_event(umcg::now() + 20 * MS)
        .map(|event| event.reason);
    let over = none.is_err_and(|error| error.kind() == ErrorKind::TimedOut);
    ensure!(over, "no event, and a deadline of 20 ms");
    waiter.join().map_err(|_| anyhow::anyhow!("it panicked"))?
}
