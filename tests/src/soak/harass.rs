//! What faults do to a client from outside, for a while: processes of their own, so that the run
//! goes on meanwhile.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::plan::{Change, mix};
use crate::client::{self, Client, NOBODY};
use crate::load;
use crate::noise::Noise;
use crate::tests::{app_hostile, fuzz};

/// Users of their own: what they use up is not the loads' quota.
const HOSTILE: u32 = NOBODY - 1;
const GARBAGE: u32 = NOBODY - 2;
const COMES_AND_GOES: u32 = NOBODY - 3;

const SCHED_EXT: i32 = 7;
const EACH: Duration = Duration::from_millis(3);

/// A client that calls, forges and scribbles until it is killed.
pub fn hostile() -> Result<Client> {
    client::spawn_as(HOSTILE, app_hostile::hostile)
}

/// Nonsense on the daemon's socket.
pub fn garbage(seed: u64, time: Duration) -> Result<Client> {
    client::spawn_as(GARBAGE, move || fuzz::garbage(mix(seed), time).map(|_| ()))
}

/// Groups that come and go.
pub fn groups(rounds: u64) -> Result<Client> {
    client::spawn_as(COMES_AND_GOES, move || super::cast::groups(rounds))
}

fn threads(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks
        .filter_map(|task| task.file_name().to_str()?.parse().ok())
        .collect()
}

fn set_policy(tid: i32, policy: i32) {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: param lives through the call.
    unsafe { libc::sched_setscheduler(tid, policy, &raw const param) };
}

fn set_nice(tid: i32, nice: i32) {
    // SAFETY: no pointers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as u32, nice) };
}

/// Changes `what` of one thread of `pid` after the other, then puts all back; `home` is its
/// cgroup. As root.
pub fn change(pid: i32, what: Change, home: String, time: Duration) -> Result<Client> {
    client::spawn_as(0, move || {
        let mut noise = Noise(mix(pid as u64));
        let began = Instant::now();
        while began.elapsed() < time {
            for tid in threads(pid) {
                match what {
                    Change::Affinity => load::pin(tid, noise.below(2) as usize),
                    Change::Nice => set_nice(tid, noise.below(40) as i32 - 20),
                    Change::Policy => {
                        let policies = [
                            libc::SCHED_BATCH,
                            libc::SCHED_IDLE,
                            SCHED_EXT,
                            libc::SCHED_OTHER,
                        ];
                        set_policy(tid, policies[noise.below(4) as usize]);
                    }
                    Change::Cgroup => {
                        let to = ["/sys/fs/cgroup", &home][noise.below(2) as usize];
                        // It may have ended.
                        let _ = fs::write(format!("{to}/cgroup.procs"), pid.to_string());
                    }
                }
                std::thread::sleep(EACH);
            }
            if !fs::exists(format!("/proc/{pid}"))? {
                return Ok(());
            }
        }
        // Twice: a thread that starts meanwhile has what its parent had.
        for tid in threads(pid).into_iter().chain(threads(pid)) {
            load::unpin(tid);
            set_nice(tid, 0);
            set_policy(tid, libc::SCHED_OTHER);
        }
        let _ = fs::write(format!("{home}/cgroup.procs"), pid.to_string());
        Ok(())
    })
}

/// Where scx_stats listens: "root" is its name for the whole of it, no home.
const STATISTICS: &str = concat!("/var/run/scx/", "root/stats");
const ASK: &[u8] = b"{\"req\":\"stats\",\"args\":{\"target\":\"top\"}}\n";

/// Readers of statistics that ask until nothing goes in any more, and do not read.
pub fn stalled_readers() -> Result<Vec<UnixStream>> {
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut socket = UnixStream::connect(STATISTICS).context(STATISTICS)?;
        socket.set_nonblocking(true)?;
        let end = Instant::now() + Duration::from_millis(20);
        while Instant::now() < end && socket.write_all(ASK).is_ok() {}
        readers.push(socket);
    }
    Ok(readers)
}
