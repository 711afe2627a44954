//! Loads of an unprivileged user who means no good, or is out of luck.
//!
//! Each runs as `umcg-vmtest --load NAME`: as uid `nobody`, in a cgroup of its own with a
//! limit of processes, where all of it can be killed at once.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::{adopt, wait_until};
use crate::{load, relay};

const CGROUPS: &str = "/sys/fs/cgroup";
const ROOT: &str = "/sys/fs/cgroup/unkind";
const NOBODY: u32 = 65534;
const SCHED_EXT: i32 = 7;

/// One kind of load.
struct Kind {
    name: &'static str,
    /// Processes that it may have.
    pids: u32,
    /// Its two cgroups have weights, so that the scheduler hears of moves between them.
    weighs: bool,
    run: fn() -> !,
}

const KINDS: &[Kind] = &[
    kind("fork", 60, fork_bomb),
    kind("exec", 60, exec_storm),
    kind("exec-thread", 60, exec_by_thread),
    Kind {
        weighs: true,
        ..kind("churn", 60, churn)
    },
    kind("yield", 60, yield_storm),
    kind("stop", 60, stop_storm),
    kind("trace", 60, trace_storm),
    kind("handoff", 60, handoff),
    kind("pipes", 60, pipes),
    kind("micro", 60, micro),
    kind("poll", 60, poll),
    kind("hogs", 3000, hogs),
    kind("nice-hogs", 3000, nice_hogs),
    kind("threads", 12000, threads),
];

/// Those that make up the hostile set.
pub const SET: [&str; 9] = [
    "fork",
    "exec",
    "exec-thread",
    "churn",
    "yield",
    "stop",
    "trace",
    "handoff",
    "micro",
];

const fn kind(name: &'static str, pids: u32, run: fn() -> !) -> Kind {
    Kind {
        name,
        pids,
        weighs: false,
        run,
    }
}

/// Children of `cgroup` have a controller from now on.
fn hand_on(cgroup: &str, controller: &str) -> std::io::Result<()> {
    fs::write(format!("{cgroup}/cgroup.subtree_control"), controller)
}

/// A load that runs until it is dropped.
pub struct Unkind {
    group: String,
    weighs: bool,
    child: Child,
}

impl Unkind {
    /// Starts load `name`.
    pub fn start(name: &str) -> Result<Self> {
        let kind = KINDS.iter().find(|k| k.name == name);
        let kind = kind.with_context(|| format!("no load {name}"))?;
        let group = format!("{ROOT}/{name}");
        fs::create_dir_all(ROOT)?;
        // Not there on a kernel without the controller: then there is no limit.
        let _ = hand_on(CGROUPS, "+pids");
        let _ = hand_on(ROOT, "+pids");
        for part in ["", "/a", "/b"] {
            let path = format!("{group}{part}");
            fs::create_dir_all(&path).with_context(|| path.clone())?;
            std::os::unix::fs::chown(format!("{path}/cgroup.procs"), Some(NOBODY), None)?;
        }
        if kind.weighs {
            for path in [CGROUPS, ROOT, &group] {
                hand_on(path, "+cpu").with_context(|| format!("+cpu below {path}"))?;
            }
        }
        fs::write(format!("{group}/pids.max"), kind.pids.to_string())?;
        let procs = fs::OpenOptions::new()
            .write(true)
            .open(format!("{group}/a/cgroup.procs"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--load", name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: only system calls between fork and exec; procs outlives the call.
        unsafe { command.pre_exec(move || (&procs).write_all(b"0")) };
        let child = command.spawn().context("cannot start a load")?;
        adopt(child.id());
        let mut this = Self {
            group,
            weighs: kind.weighs,
            child,
        };
        // A storm that ends at once is none.
        std::thread::sleep(Duration::from_millis(300));
        ensure!(
            this.child.try_wait()?.is_none(),
            "load {name} ended at once"
        );
        Ok(this)
    }

    /// How many processes it has.
    pub fn processes(&self) -> Result<u32> {
        let text = fs::read_to_string(format!("{}/pids.current", self.group))?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for Unkind {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/cgroup.kill", self.group), "1");
        let events = format!("{}/cgroup.events", self.group);
        wait_until(Duration::from_secs(20), || {
            let text = fs::read_to_string(&events).unwrap_or_default();
            // Ours to reap, or it stays as a zombie.
            let _ = self.child.try_wait();
            text.contains("populated 0")
        });
        // Other loads weigh as many threads as they have.
        for path in [&self.group, ROOT, CGROUPS] {
            let _ = self.weighs.then(|| hand_on(path, "-cpu"));
        }
        for part in ["/a", "/b", ""] {
            let _ = fs::remove_dir(format!("{}{part}", self.group));
        }
    }
}

/// The other end of [`Unkind::start`].
pub fn main(name: &str) -> ExitCode {
    let Some(kind) = KINDS.iter().find(|k| k.name == name) else {
        eprintln!("load {name:?}: unknown");
        return ExitCode::from(2);
    };
    // SAFETY: plain system calls; the limit lives through the call. After exec the
    // process may be nobody already, then the first three fail, as they may.
    unsafe {
        // May raise its own nice values: what churn needs.
        let limit = libc::rlimit {
            rlim_cur: 40,
            rlim_max: 40,
        };
        libc::setrlimit(libc::RLIMIT_NICE, &raw const limit);
        libc::setgid(NOBODY);
        libc::setuid(NOBODY);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
    }
    (kind.run)()
}

/// Whoever cannot go on ends.
fn or_exit<T, E>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|_| std::process::exit(1))
}

/// A child that does `body` for ever; its pid. 0 if there may be no more.
fn child(body: impl FnOnce()) -> i32 {
    // SAFETY: loads have one thread when they fork.
    match unsafe { libc::fork() } {
        0 => {
            body();
            std::process::exit(0)
        }
        pid => pid.max(0),
    }
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

fn spin_for_ever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn wait_for_ever() -> ! {
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

/// All fork as fast as they can, and most fail: the limit is reached at once. Some end, so
/// that forks go on to succeed.
fn fork_bomb() -> ! {
    loop {
        // SAFETY: one thread; no status is asked for.
        let pid = unsafe {
            libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG);
            libc::fork()
        };
        if pid == 0 && std::process::id().is_multiple_of(3) {
            spin(Duration::from_millis(5));
            std::process::exit(0);
        }
    }
}

fn exec_storm() -> ! {
    for _ in 0..8 {
        child(|| {
            loop {
                let _ = Command::new("/bin/true").status();
            }
        });
    }
    wait_for_ever()
}

/// A thread that is not the leader execs: thread ids change hands.
fn exec_by_thread() -> ! {
    // The first process makes four of them; what they exec finds the mark.
    if std::env::var_os("UNKIND").is_none() {
        for _ in 0..4 {
            child(exec_self);
        }
        wait_for_ever()
    }
    exec_self();
    std::process::exit(1)
}

fn exec_self() {
    let threads: Vec<_> = (0..3)
        .map(|i| {
            std::thread::spawn(move || {
                if i == 1 {
                    std::thread::sleep(Duration::from_millis(1));
                    let _ = Command::new("/proc/self/exe")
                        .args(["--load", "exec-thread"])
                        .env("UNKIND", "1")
                        .exec();
                }
                spin(Duration::from_millis(3));
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
}

/// Affinity, nice, policy and cgroup of hogs and sleepers change all the time.
fn churn() -> ! {
    let mut pids = Vec::new();
    for i in 0..6 {
        pids.push(child(move || {
            if i % 2 == 0 {
                spin_for_ever()
            }
            loop {
                spin(Duration::from_micros(20));
                std::thread::sleep(Duration::from_micros(50));
            }
        }));
    }
    let param = libc::sched_param { sched_priority: 0 };
    let group = or_exit(fs::read_to_string("/proc/self/cgroup"));
    let group = group.lines().find_map(|l| l.strip_prefix("0::"));
    let group = or_exit(group.context("cgroup"));
    let base = format!("/sys/fs/cgroup{}", group.trim_end_matches("/a"));
    for i in 0u32.. {
        for &pid in &pids {
            match i % 5 {
                0 | 3 => load::pin(pid, (i as usize / 5 + pid as usize) % 2),
                // SAFETY: plain system calls on children; param lives through them.
                1 => unsafe {
                    libc::setpriority(libc::PRIO_PROCESS, pid as u32, (i / 5 % 20) as i32);
                },
                2 => {
                    let policies = [
                        libc::SCHED_BATCH,
                        libc::SCHED_IDLE,
                        libc::SCHED_OTHER,
                        SCHED_EXT,
                    ];
                    // SAFETY: as above.
                    unsafe {
                        libc::sched_setscheduler(
                            pid,
                            policies[i as usize / 5 % 4],
                            &raw const param,
                        )
                    };
                }
                _ => {
                    let part = if i / 5 % 2 == 0 { "a" } else { "b" };
                    let _ = fs::write(format!("{base}/{part}/cgroup.procs"), pid.to_string());
                }
            }
        }
    }
    unreachable!()
}

fn yield_storm() -> ! {
    for _ in 0..8 {
        child(|| {
            loop {
                std::thread::yield_now();
            }
        });
    }
    wait_for_ever()
}

fn busy_and_sleepy(n: usize) -> Vec<i32> {
    (0..n)
        .map(|i| {
            child(move || {
                loop {
                    spin(Duration::from_micros(300));
                    if i % 2 == 0 {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                }
            })
        })
        .collect()
}

fn stop_storm() -> ! {
    let pids = busy_and_sleepy(6);
    loop {
        for signal in [libc::SIGSTOP, libc::SIGCONT, libc::SIGTSTP, libc::SIGCONT] {
            for &pid in &pids {
                // SAFETY: a signal to a child.
                unsafe { libc::kill(pid, signal) };
            }
            spin(Duration::from_micros(200));
        }
    }
}

fn trace_storm() -> ! {
    let pids = busy_and_sleepy(4);
    let none = std::ptr::null_mut::<libc::c_void>();
    for &pid in &pids {
        // SAFETY: children of ours; no addresses are passed.
        unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) };
    }
    loop {
        for &pid in &pids {
            // SAFETY: as above.
            unsafe {
                libc::ptrace(libc::PTRACE_INTERRUPT, pid, none, none);
                libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
                libc::ptrace(libc::PTRACE_CONT, pid, none, none);
            }
        }
    }
}

/// A pair that passes a byte round, each end working for `work` first.
fn pair(cpu: Option<usize>, work: Duration) {
    for end in or_exit(relay::ends(work)) {
        child(move || {
            if let Some(cpu) = cpu {
                load::pin(0, cpu);
            }
            end();
        });
    }
}

/// Pairs of which each end runs for less than a tick.
fn handoff() -> ! {
    for cpu in [Some(0), Some(1), None] {
        pair(cpu, Duration::from_micros(3500));
        pair(cpu, Duration::from_micros(100));
    }
    wait_for_ever()
}

/// One pair on each CPU that does nothing but hand over.
fn pipes() -> ! {
    let cpus = std::thread::available_parallelism().map_or(2, Into::into);
    for cpu in 0..cpus {
        pair(Some(cpu), Duration::ZERO);
    }
    wait_for_ever()
}

/// Sleeps of one microsecond.
fn micro() -> ! {
    for i in 0..8 {
        child(move || {
            if i < 4 {
                load::pin(0, i % 2);
            }
            loop {
                std::thread::sleep(Duration::from_micros(1));
            }
        });
    }
    wait_for_ever()
}

/// An io_uring thread of the kernel on CPU 0 that polls for work for a minute.
fn poll() -> ! {
    const SQPOLL_AND_AFFINITY: u32 = 2 | 4;
    let mut params = [0u32; 30];
    // flags, sq_thread_cpu, sq_thread_idle in ms.
    (params[2], params[3], params[4]) = (SQPOLL_AND_AFFINITY, 0, 60_000);
    // SAFETY: params is as large as struct io_uring_params and lives through the call; the
    // ring that is mapped is of one page, and its offsets come from the kernel.
    unsafe {
        let fd = libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr());
        if fd < 0 {
            std::process::exit(1);
        }
        let map = |at| {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let none = std::ptr::null_mut();
            libc::mmap(none, 4096, prot, libc::MAP_SHARED, fd as i32, at)
        };
        let (ring, entries) = (map(0), map(0x1000_0000));
        if ring == libc::MAP_FAILED || entries == libc::MAP_FAILED {
            std::process::exit(1);
        }
        // It polls only after it had something to do: one request of zeros, a no-op.
        let (tail, array) = (params[11] as usize, params[16] as usize);
        ring.byte_add(array).cast::<u32>().write_volatile(0);
        ring.byte_add(tail).cast::<u32>().write_volatile(1);
        let (none, wake) = (std::ptr::null::<libc::c_void>(), 2);
        libc::syscall(libc::SYS_io_uring_enter, fd, 0, 0, wake, none, 0);
    }
    wait_for_ever()
}

/// A crowd that starts to spin at once, when all are there: `n` of each of these nice values.
/// They wait stopped: whatever has a lock would let them go one by one.
fn crowd(of: &[(usize, i32)]) -> ! {
    // SAFETY: no pointers in any of these; one thread.
    unsafe {
        libc::setpgid(0, 0);
        for &(n, nice) in of {
            libc::setpriority(libc::PRIO_PROCESS, 0, nice);
            for _ in 0..n {
                match libc::fork() {
                    0 => {
                        libc::raise(libc::SIGSTOP);
                        spin_for_ever()
                    }
                    pid if pid < 0 => std::process::exit(1),
                    _ => {}
                }
            }
        }
        // More than once: the last ones may not have stopped yet.
        loop {
            libc::kill(0, libc::SIGCONT);
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

fn hogs() -> ! {
    crowd(&[(900, 0)])
}

fn nice_hogs() -> ! {
    crowd(&[(60, 0), (400, 19)])
}

/// Ten thousand threads that wake up now and then.
fn threads() -> ! {
    for i in 0..10_000u64 {
        let thread = std::thread::Builder::new().stack_size(16 * 1024);
        let _ = thread.spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(400 + i % 200));
            }
        });
    }
    wait_for_ever()
}
