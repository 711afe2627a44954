//! Loads: hogs, benchmarks, churn.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use umcg::kernel::sys;

use crate::harness::adopt;

/// What a hog is to be.
#[derive(Clone, Copy, Default)]
pub struct Hog {
    /// The only CPU that it may use.
    pub cpu: Option<usize>,
    /// Its nice value.
    pub nice: i32,
    /// In SCHED_EXT by its own wish, as partial mode needs.
    pub ext: bool,
    /// In a session of its own.
    pub session: bool,
}

/// A process that spins until it is killed.
pub struct Spinner {
    pid: i32,
}

impl Hog {
    /// Starts it.
    pub fn start(self) -> Result<Spinner> {
        // SAFETY: this program has one thread; the child only spins.
        let pid = unsafe { libc::fork() };
        ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: no pointers but a cpu_set_t that lives through the call.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::setpriority(libc::PRIO_PROCESS, 0, self.nice);
                if self.session {
                    libc::setsid();
                }
            }
            if self.ext {
                let _ = sys::set_policy(true);
            }
            if let Some(cpu) = self.cpu {
                pin(0, cpu);
            }
            loop {
                std::hint::spin_loop();
            }
        }
        adopt(pid as u32);
        Ok(Spinner { pid })
    }

    /// Starts `n` of it.
    pub fn start_many(self, n: usize) -> Result<Vec<Spinner>> {
        (0..n).map(|_| self.start()).collect()
    }
}

/// Processes that run for some microseconds and sleep for 50, without end.
pub fn sleepers(n: usize) -> Result<Vec<i32>> {
    (0..n).map(|_| sleeper()).collect()
}

fn sleeper() -> Result<i32> {
    // SAFETY: this program has one thread; the child spins and sleeps.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            for _ in 0..2000 {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    adopt(pid as u32);
    Ok(pid)
}

/// A process on `cpu` that runs for `work`, sleeps for `rest`, and so on.
pub fn napper(cpu: usize, nice: i32, work: Duration, rest: Duration) -> Result<Spinner> {
    // SAFETY: the child only spins and sleeps.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: no pointers.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_TIMERSLACK, 1);
            libc::setpriority(libc::PRIO_PROCESS, 0, nice);
        }
        pin(0, cpu);
        loop {
            let began = Instant::now();
            while began.elapsed() < work {
                std::hint::spin_loop();
            }
            std::thread::sleep(rest);
        }
    }
    adopt(pid as u32);
    Ok(Spinner { pid })
}

/// A thread of SCHED_FIFO that owns `cpu` for `time`, if the kernel lets it.
pub fn rt_hog(cpu: usize, time: Duration) -> Result<i32> {
    // SAFETY: the child only spins, and ends by itself.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        pin(0, cpu);
        let param = libc::sched_param { sched_priority: 50 };
        // SAFETY: name and param live through the calls.
        let ret = unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_NAME, c"rt-hog".as_ptr());
            libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param)
        };
        let end = Instant::now() + time;
        while ret == 0 && Instant::now() < end {
            std::hint::spin_loop();
        }
        std::process::exit(ret);
    }
    adopt(pid as u32);
    Ok(pid)
}

/// Lets `pid` use every CPU again.
pub fn unpin(pid: i32) {
    // SAFETY: an all-ones cpu_set_t is valid, and it lives through the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (0..libc::CPU_SETSIZE as usize).for_each(|cpu| libc::CPU_SET(cpu, &mut set));
        libc::sched_setaffinity(pid, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Memory that ksmd may scan: every page alike. Unmapped when dropped.
pub struct Mergeable(*mut libc::c_void, usize);

/// `bytes` of it.
pub fn mergeable(bytes: usize) -> Result<Mergeable> {
    // SAFETY: a fresh private mapping of that size, written once over its length.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0);
        ensure!(
            at != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        libc::memset(at, 7, bytes);
        let ret = libc::madvise(at, bytes, libc::MADV_MERGEABLE);
        ensure!(ret == 0, "madvise: {}", std::io::Error::last_os_error());
        Ok(Mergeable(at, bytes))
    }
}

impl Drop for Mergeable {
    fn drop(&mut self) {
        // SAFETY: our own mapping, as it was made.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

/// The first process of that name.
pub fn find_process(name: &str) -> Result<Option<i32>> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if comm.trim() == name {
            let pid = path.file_name().and_then(|n| n.to_str()?.parse().ok());
            return Ok(pid);
        }
    }
    Ok(None)
}

/// Lets `pid` use one CPU only; 0 is the caller.
pub fn pin(pid: i32, cpu: usize) {
    // SAFETY: an all-zero cpu_set_t is valid, and it lives through the calls.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(pid, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

impl Spinner {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// CPU time so far, in seconds, to the nanosecond.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid)
    }
}

/// CPU time of a process's main thread in seconds, by /proc/PID/schedstat.
pub fn cpu_seconds(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).context("schedstat")?;
    let ns: f64 = text
        .split_whitespace()
        .next()
        .context("schedstat")?
        .parse()?;
    Ok(ns / 1e9)
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // SAFETY: our own child; reaped here or by clean_up, whoever is first.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// CPU seconds that each of `spinners` gets while `during` passes.
pub fn shares(spinners: &[Spinner], during: Duration) -> Result<Vec<f64>> {
    let before: Vec<f64> = spinners
        .iter()
        .map(Spinner::cpu_seconds)
        .collect::<Result<_>>()?;
    std::thread::sleep(during);
    spinners
        .iter()
        .zip(before)
        .map(|(s, b)| Ok(s.cpu_seconds()? - b))
        .collect()
}

/// Runs a command to its end; an error names it, its code and its last words.
pub fn run(limit: Duration, command: &[&str]) -> Result<String> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} is not installed", command[0]))?;
    adopt(child.id());
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_string(&mut text);
            }
            text
        })
    };
    let out = read(out.take().map(|p| Box::new(p) as _));
    let err = read(err.take().map(|p| Box::new(p) as _));
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            bail!("{command:?}: not done after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = out.join().unwrap_or_default() + &err.join().unwrap_or_default();
    ensure!(
        status.success(),
        "{command:?}: {status}: {}",
        last_words(&text)
    );
    Ok(text)
}

fn last_words(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// `Total time: X [sec]` of a `perf bench`.
pub fn perf_bench(args: &[&str]) -> Result<f64> {
    let command: Vec<_> = ["perf", "bench"].iter().chain(args).copied().collect();
    let text = run(Duration::from_secs(300), &command)?;
    text.lines()
        .find_map(|l| {
            l.trim()
                .strip_prefix("Total time:")?
                .trim()
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("no total time in: {text}"))
}

/// Runs `work` with this thread, and so what it starts, in SCHED_EXT by their own wish.
pub fn in_ext<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let errno = |errno| std::io::Error::from_raw_os_error(errno);
    sys::set_policy(true).map_err(errno)?;
    let result = work();
    sys::set_policy(false).map_err(errno)?;
    result
}

/// `ext.enabled` of /proc/PID/sched: 1 for a worker.
pub fn is_ext(pid: i32) -> Result<bool> {
    let text = fs::read_to_string(format!("/proc/{pid}/sched"))?;
    let line = text.lines().find(|l| l.starts_with("ext.enabled"));
    let line = line.context("no ext.enabled in /proc/PID/sched")?;
    Ok(line.trim_end().ends_with('1'))
}

/// The messaging benchmark that the acceptance figures use.
pub fn messaging() -> Result<f64> {
    perf_bench(&["sched", "messaging", "-t", "-g", "2", "-l", "100"])
}
