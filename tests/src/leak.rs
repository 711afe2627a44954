//! What an attached scheduler holds: compared before and after a storm, nothing may stay.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use scx_umcg::runfile::RunFile;
use umcg::sync::Ordering::Relaxed;

use crate::harness::{Sched, metric, wait_until};
use crate::{heap, load};

/// Notices that come while one looks, of this program's own threads for one.
const LINKED: usize = 4;
/// Stacks of the agent's threads grow to the deepest use so far, once.
const STACKS_KB: i64 = 256;
/// Two agents differ by what the C libraries keep of their start: up to 4 MB less, and 0.9 MB more,
/// were seen of one that was started beside loads.
const STARTS_KB: i64 = 2048;
/// What the agent may have in hand as one looks.
const HEAP_BYTES: u64 = 4096;
/// Kernel memory that caches of the kernel's own may gain.
const KERNEL_KB: i64 = 4096;

/// One look.
#[derive(Debug)]
pub struct Held {
    pid: u32,
    records: usize,
    tasks: usize,
    linked: usize,
    fds: usize,
    threads: usize,
    /// Its resident pages, counted one by one: those of status are a sum that lags. Stacks, mappings
    /// and what libraries in C allocate: its heap is one array, locked as a whole.
    agent_kb: i64,
    /// Bytes of that array.
    heap: u64,
    maps: u64,
    kernel_kb: i64,
    /// Before it looked, and when it had.
    idle_found: [u64; 2],
}

impl Held {
    /// Looks; the machine should be quiet.
    pub fn now(sched: &Sched) -> Result<Self> {
        // Frees what waits for a grace period only; caches of files are not slab's alone.
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        let idle_found = sched.counter("idle_found")?;
        contend();
        let file = RunFile::read()?.context("no agent runs")?;
        let shared = scx_umcg::status::open_shared(&file)?;
        let all = shared.workers.records().iter();
        let records = all.clone().filter(|w| w.gen_.load(Relaxed) % 2 == 1);
        let linked = all.filter(|w| w.queued.load(Relaxed) != 0);
        let held = shared.servers().iter();
        let held = held.map(|s| s.backlog.load(Relaxed) as usize);
        let proc = format!("/proc/{}", sched.pid());
        Ok(Self {
            pid: sched.pid(),
            records: records.count(),
            tasks: user_threads()?,
            linked: linked.count() + held.sum::<usize>(),
            fds: fs::read_dir(format!("{proc}/fd"))?.count(),
            threads: fs::read_dir(format!("{proc}/task"))?.count(),
            heap: heap::used(sched.pid())?,
            agent_kb: field(&format!("{proc}/smaps_rollup"), "Rss:")?,
            maps: maps_memlock()?,
            kernel_kb: field("/proc/meminfo", "Slab:")? + field("/proc/meminfo", "Percpu:")?,
            idle_found: [idle_found, sched.counter("idle_found")?],
        })
    }

    /// Looks when the agent has started all of its threads.
    pub fn settled(sched: &Sched) -> Result<Self> {
        let mut last = Self::now(sched)?;
        let settled = wait_until(Duration::from_secs(10), || {
            std::thread::sleep(Duration::from_millis(500));
            let Ok(now) = Self::now(sched) else {
                return false;
            };
            let same = (now.threads, now.fds) == (last.threads, last.fds);
            last = now;
            same
        });
        ensure!(settled, "the agent goes on to start threads: {last:?}");
        Ok(last)
    }

    /// Fails for whatever is more than it was in `before`.
    pub fn back_at(&self, before: &Self) -> Result<()> {
        // A record for each normal thread but the servers: no leak hides in more threads.
        let grown = |now: usize, was: usize| now.saturating_sub(was);
        ensure!(
            grown(self.records, before.records) <= grown(self.tasks, before.tasks),
            "records leak: {before:?} -> {self:?}"
        );
        ensure!(
            self.linked <= before.linked + LINKED,
            "notices stay unread: {before:?} -> {self:?}"
        );
        ensure!(
            self.fds == before.fds && self.threads == before.threads,
            "file descriptors or threads leak: {before:?} -> {self:?}"
        );
        let may_grow = match self.pid == before.pid {
            true => STACKS_KB,
            false => STARTS_KB,
        };
        ensure!(
            self.agent_kb <= before.agent_kb + may_grow,
            "the agent's memory grew: {before:?} -> {self:?}"
        );
        ensure!(
            self.heap <= before.heap + HEAP_BYTES,
            "the agent's heap grew: {before:?} -> {self:?}"
        );
        ensure!(
            self.maps <= before.maps,
            "maps grew: {before:?} -> {self:?}"
        );
        ensure!(
            self.kernel_kb <= before.kernel_kb + KERNEL_KB,
            "kernel memory grew: {before:?} -> {self:?}"
        );
        Ok(())
    }

    /// What of it are figures of the agent's own, and by how much they are more than `before`.
    pub fn tell(&self, before: &Self) {
        metric(
            "held",
            &[
                ("heap_bytes", self.heap as f64),
                ("agent_kb", self.agent_kb as f64),
                ("records", self.records as f64),
            ],
        );
        let grown = |now: u64, was: u64| now as f64 - was as f64;
        metric(
            "grown",
            &[
                ("heap_bytes", grown(self.heap, before.heap)),
                ("maps_bytes", grown(self.maps, before.maps)),
                ("kernel_kb", (self.kernel_kb - before.kernel_kb) as f64),
            ],
        );
    }

    /// Fails if, since `before`, idle CPUs were kicked all the time: then the count of
    /// parked workers is above zero though none is parked.
    pub fn none_pending_since(&self, before: &Self, seconds: f64) -> Result<()> {
        let rate = (self.idle_found[0] - before.idle_found[1]) as f64 / seconds;
        ensure!(
            rate < 5.0,
            "parked workers were miscounted: {rate:.1} looks/s on an idle machine"
        );
        Ok(())
    }
}

/// Three that spin on each CPU for longer than BATCH_NS: with two that wait, what a staged policy
/// asks for, each server takes the notices that may lie for seconds on an idle machine.
fn contend() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let spin = |cpu| {
        std::thread::spawn(move || {
            load::pin(0, cpu);
            let end = Instant::now() + Duration::from_millis(80);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        })
    };
    let threads: Vec<_> = (0..3 * cpus).map(|i| spin(i / 3)).collect();
    for thread in threads {
        let _ = thread.join();
    }
}

fn field(path: &str, name: &str) -> Result<i64> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|l| l.strip_prefix(name));
    let value = value.and_then(|v| v.split_whitespace().next());
    value
        .with_context(|| format!("{name} in {path}"))?
        .parse()
        .context("a number")
}

/// Threads with memory of their own: what has a record in full mode.
fn user_threads() -> Result<usize> {
    let mut sum = 0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let named = path.file_name().and_then(|n| n.to_str());
        if !named.is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) {
            continue;
        }
        let exe = fs::read(path.join("cmdline")).unwrap_or_default();
        if !exe.is_empty() {
            sum += fs::read_dir(path.join("task")).map_or(0, Iterator::count);
        }
    }
    Ok(sum)
}

/// `memlock` of all BPF maps of the machine, in bytes.
fn maps_memlock() -> Result<u64> {
    use libbpf_rs::MapHandle;
    let mut sum = 0;
    for map in libbpf_rs::query::MapInfoIter::default() {
        // It may be gone by now.
        let Ok(handle) = MapHandle::from_map_id(map.id) else {
            continue;
        };
        use std::os::fd::AsRawFd;
        let fd = handle.as_fd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
        let value = text.lines().find_map(|l| l.strip_prefix("memlock:"));
        sum += value.context("memlock")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}
