//! Loads: hogs, benchmarks, churn.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
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
    /// SCHED_BATCH or SCHED_IDLE instead of SCHED_OTHER.
    pub class: i32,
    /// Its name; SIGUSR1 makes it `renamed`.
    pub name: Option<&'static CStr>,
}

extern "C" fn change_name(_: libc::c_int) {
    // SAFETY: the name ends with a zero and lives for ever.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"renamed".as_ptr()) };
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
            if let Some(name) = self.name {
                let handler = change_name as extern "C" fn(libc::c_int);
                // SAFETY: the name lives for ever; the handler makes one system call.
                unsafe {
                    libc::prctl(libc::PR_SET_NAME, name.as_ptr());
                    libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
                }
            }
            set_class(self.class);
            if self.ext {
                let _ = sys::Class::EXT.take();
            }
            if let Some(cpu) = self.cpu {
                pin(0, cpu);
            }
            loop {
                // Not spin_loop(): its pause leaves the emulation, a thousand times slower
                // where instructions are counted.
                std::hint::black_box(());
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

/// Runs the shell `program` as `uid`, in an endless loop.
pub fn shell(program: &Path, uid: u32) -> Result<Spinner> {
    let child = Command::new(program)
        .args(["-c", "while :; do :; done"])
        .uid(uid)
        .spawn()
        .with_context(|| format!("{}", program.display()))?;
    adopt(child.id());
    let pid = child.id() as i32;
    Ok(Spinner { pid })
}

/// The same as root, where a thread that is not the first one of its process runs it.
pub fn shell_of_a_thread(program: &Path) -> Result<Spinner> {
    let path = CString::new(program.as_os_str().as_bytes())?;
    let run = move || {
        let args = [
            path.as_ptr(),
            c"-c".as_ptr(),
            c"while :; do :; done".as_ptr(),
            std::ptr::null(),
        ];
        // SAFETY: text that ends with a zero each, a null pointer at the end.
        unsafe { libc::execv(args[0], args.as_ptr()) };
    };
    let mut command = Command::new(program);
    // SAFETY: this program has one thread, so its child may do whatever it may.
    unsafe {
        command.pre_exec(move || {
            std::thread::scope(|scope| drop(scope.spawn(&run)));
            Err(std::io::Error::last_os_error())
        });
    }
    let child = command
        .spawn()
        .with_context(|| format!("{}", program.display()))?;
    adopt(child.id());
    let pid = child.id() as i32;
    Ok(Spinner { pid })
}

/// Processes that run for some microseconds and sleep for 50, without end.
pub fn sleepers(n: usize) -> Result<Vec<i32>> {
    (0..n).map(|_| sleeper()).collect()
}

/// Ends some of them.
pub fn end(sleepers: Vec<i32>) {
    for pid in sleepers {
        drop(Spinner { pid });
    }
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

/// The calling thread's scheduling policy, if it is not to stay as it is.
fn set_class(class: i32) {
    if class != 0 {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: param lives through the call.
        unsafe { libc::sched_setscheduler(0, class, &raw const param) };
    }
}

/// Gives task `tid`, 0 for the calling one, the lowest priority of SCHED_FIFO.
pub fn fifo(tid: i32) -> Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: param lives through the call.
    let failed = unsafe { libc::sched_setscheduler(tid, libc::SCHED_FIFO, &raw const param) };
    let error = std::io::Error::last_os_error();
    ensure!(failed == 0, "sched_setscheduler: {error}");
    Ok(())
}

/// What this thread, and whom it starts from now on, has for a nice value.
pub fn set_nice(nice: i32) -> Result<()> {
    // SAFETY: no pointers.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    let error = std::io::Error::last_os_error();
    ensure!(failed == 0, "setpriority: {error}");
    Ok(())
}

/// A process that runs and sleeps in turn, with a timer slack of 1 ns.
#[derive(Clone, Copy, Default)]
pub struct Napper {
    /// The only CPU that it may use.
    pub cpu: usize,
    /// Its nice value.
    pub nice: i32,
    /// How long it runs at a time.
    pub work: Duration,
    /// How long it asks to sleep.
    pub sleep: Duration,
    /// As a [`Hog`]'s.
    pub class: i32,
}

impl Napper {
    /// Starts it.
    pub fn start(self) -> Result<Spinner> {
        // SAFETY: the child only spins and sleeps.
        let pid = unsafe { libc::fork() };
        ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: no pointers.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::prctl(libc::PR_SET_TIMERSLACK, 1);
                libc::setpriority(libc::PRIO_PROCESS, 0, self.nice);
            }
            set_class(self.class);
            pin(0, self.cpu);
            loop {
                let began = Instant::now();
                while began.elapsed() < self.work {
                    std::hint::spin_loop();
                }
                std::thread::sleep(self.sleep);
            }
        }
        adopt(pid as u32);
        Ok(Spinner { pid })
    }
}

/// A process of its own on `cpu` that ends after `body`.
pub fn pinned_child(cpu: usize, body: impl FnOnce()) -> Result<Spinner> {
    // SAFETY: the child makes system calls and computes.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        pin(0, cpu);
        body();
        std::process::exit(0);
    }
    adopt(pid as u32);
    Ok(Spinner { pid })
}

/// A process on `cpu` that sleeps for `nap` and spins from then on.
pub fn late_hog(cpu: usize, nap: Duration) -> Result<Spinner> {
    pinned_child(cpu, || {
        std::thread::sleep(nap);
        loop {
            std::hint::black_box(());
        }
    })
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

/// The value of `clock` in ns: CPU time of the calling thread or process, that is.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: time lives through the call.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
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

/// Page faults of a process so far.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Those that took no reading.
    pub minor: u64,
    /// Those that waited for a disk.
    pub major: u64,
}

/// The faults of all threads of `pid`.
pub fn faults(pid: u32) -> Result<Faults> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest: Vec<_> = text
        .rsplit_once(") ")
        .context("stat")?
        .1
        .split(' ')
        .collect();
    Ok(Faults {
        minor: rest[7].parse()?,
        major: rest[9].parse()?,
    })
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
    let mut child = Command::new(command[0]);
    child.args(&command[1..]);
    finish(limit, child)
}

/// The same with a command that is more than words. Nothing wakes up here while it runs: on a
/// machine that is measured we would be in the figures.
pub fn finish(limit: Duration, mut command: Command) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{:?} is not installed", command.get_program()))?;
    adopt(child.id());
    let (send, texts) = std::sync::mpsc::channel();
    let read = |at: usize, mut pipe: Box<dyn std::io::Read + Send>| {
        let send = send.clone();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = pipe.read_to_string(&mut text);
            let _ = send.send((at, text));
        });
    };
    if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
        read(0, Box::new(out));
        read(1, Box::new(err));
    }
    let end = Instant::now() + limit;
    let mut both = [String::new(), String::new()];
    for _ in 0..both.len() {
        match texts.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((at, text)) => both[at] = text,
            Err(_) => {
                let _ = child.kill();
                bail!("{command:?}: not done after {limit:?}");
            }
        }
    }
    let (status, text) = (child.wait()?, both.concat());
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
    sys::Class::EXT.take().map_err(errno)?;
    let result = work();
    sys::Class::OTHER.take().map_err(errno)?;
    result
}

/// `ext.enabled` of /proc/PID/sched: 1 for a worker.
pub fn is_ext(pid: i32) -> Result<bool> {
    let text = fs::read_to_string(format!("/proc/{pid}/sched"))?;
    let line = text.lines().find(|l| l.starts_with("ext.enabled"));
    let line = line.context("no ext.enabled in /proc/PID/sched")?;
    Ok(line.trim_end().ends_with('1'))
}

/// `hackbench` with two groups of threads: its time in seconds.
pub fn hackbench() -> Result<f64> {
    let command = ["hackbench", "-g", "2", "-l", "100", "-T"];
    let text = run(Duration::from_secs(300), &command)?;
    let time = text.lines().find_map(|l| l.strip_prefix("Time:"));
    let time = time.and_then(|t| t.trim().parse().ok());
    time.with_context(|| format!("no time in: {text}"))
}

/// The messaging benchmark that the acceptance figures use.
pub fn messaging() -> Result<f64> {
    perf_bench(&["sched", "messaging", "-t", "-g", "2", "-l", "100"])
}
