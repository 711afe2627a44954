//! Processes on CPU 0 that show from outside in which order, how often and how late they ran.

use std::io::Read;
use std::os::fd::FromRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::adopt;
use crate::load::{Spinner, clock_ns, pin};

const RACER_NS: u64 = 20_000_000;

/// One that runs for 20 ms when it is woken.
#[derive(Clone, Copy, Debug)]
pub struct Racer {
    /// Its nice value.
    pub nice: i32,
}

/// A pipe's ends, in the child that uses them and in all others.
#[derive(Clone, Copy)]
struct Pipe {
    read: i32,
    write: i32,
}

impl Pipe {
    fn new() -> Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: ends has room for two descriptors.
        ensure!(unsafe { libc::pipe(ends.as_mut_ptr()) } == 0, "pipe");
        let [read, write] = ends;
        Ok(Self { read, write })
    }

    fn close(self) {
        for end in [self.read, self.write] {
            // SAFETY: a descriptor of ours that nobody uses any more.
            unsafe { libc::close(end) };
        }
    }

    fn get(self) -> u8 {
        let mut byte = 0u8;
        // SAFETY: one byte of a local.
        unsafe { libc::read(self.read, (&raw mut byte).cast(), 1) };
        byte
    }

    fn put(self, byte: u8) {
        // SAFETY: one byte of a local.
        unsafe { libc::write(self.write, (&raw const byte).cast(), 1) };
    }

    /// What all its writers wrote until they ended.
    fn rest(self) -> Result<Vec<u8>> {
        // SAFETY: both ends are ours, and used no more.
        let mut file = unsafe {
            libc::close(self.write);
            std::fs::File::from_raw_fd(self.read)
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text)
    }
}

/// Signed, for who is early or late.
fn now_ns() -> i64 {
    clock_ns(libc::CLOCK_MONOTONIC).cast_signed()
}

/// Computes for so much of the calling thread's CPU time.
pub fn burn(ns: u64) {
    let end = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) + ns;
    while clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) < end {
        for _ in 0..200 {
            std::hint::black_box(());
        }
    }
}

/// Starts a child with that nice value on CPU 0.
fn child(nice: i32, body: impl FnOnce()) -> Result<()> {
    // SAFETY: this program has one thread here; the child makes system calls only.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork");
    if pid > 0 {
        adopt(pid as u32);
        return Ok(());
    }
    // SAFETY: no pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
    pin(0, 0);
    body();
    // SAFETY: ends this process without running what belongs to the parent.
    unsafe { libc::_exit(0) }
}

/// Starts `racers` in the order of their numbers, wakes them in the order `wake` while their CPU
/// is taken, and tells the order in which they ended.
pub fn run(racers: &[Racer], wake: &[usize]) -> Result<Vec<usize>> {
    let done = Pipe::new()?;
    let gates = racers.iter().map(|_| Pipe::new());
    let gates = gates.collect::<Result<Vec<_>>>()?;
    for (number, racer) in racers.iter().enumerate() {
        let gate = gates[number];
        child(racer.nice, || {
            gate.get();
            burn(RACER_NS);
            done.put(number as u8);
        })?;
        // Each is asleep before the next one comes.
        std::thread::sleep(Duration::from_millis(30));
    }
    child(0, || {
        // No short waker, whose wakee would go next as a matter of course.
        burn(3_000_000);
        for &number in wake {
            gates[number].put(1);
            burn(1_000_000);
        }
    })?;
    gates.into_iter().for_each(Pipe::close);
    let order: Vec<usize> = done.rest()?.into_iter().map(usize::from).collect();
    ensure!(order.len() == racers.len(), "{order:?} is not all of them");
    Ok(order)
}

/// Times for which a process that wants to run did not.
#[derive(Clone, Copy, Debug)]
pub struct Gaps {
    /// Those of more than 20 ms.
    pub count: u64,
    /// The longest one.
    pub longest_ms: f64,
}

/// The gaps of a process with that nice value, on CPU 0.
pub fn gaps(nice: i32, during: Duration) -> Result<Gaps> {
    let out = Pipe::new()?;
    child(nice, || {
        let end = now_ns() + during.as_nanos() as i64;
        let mut last = now_ns();
        while last < end {
            let now = now_ns();
            let gap_ms = (now - last) / 1_000_000;
            if gap_ms > 20 {
                out.put(u8::try_from(gap_ms / 4).unwrap_or(u8::MAX));
            }
            last = now;
        }
    })?;
    let gaps = out.rest()?;
    let longest = gaps.iter().max().copied().unwrap_or(0);
    Ok(Gaps {
        count: gaps.len() as u64,
        longest_ms: f64::from(longest) * 4.0,
    })
}

/// How often each was taken off its CPU.
pub fn preemptions(spinners: &[Spinner]) -> Result<Vec<u64>> {
    let of = |spinner: &Spinner| {
        let text = std::fs::read_to_string(format!("/proc/{}/status", spinner.pid()))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
        let count = line.context("no nonvoluntary_ctxt_switches")?;
        Ok(count.trim().parse()?)
    };
    spinners.iter().map(of).collect()
}

/// A process that has to be done with a piece of work by the end of each period.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    nice: i32,
    period_ns: i64,
    /// Of its period, in %.
    needs_pct: i64,
}

impl Job {
    /// Its period is what the policy `deadline` makes of the nice value: 100 ms x 100 / weight.
    pub const fn of(nice: i32, needs_pct: i64) -> Self {
        let weight = match nice {
            -7 => 476, // a hundredth less than the kernel's 479
            -4 => 244,
            -1 => 125,
            2 => 64,
            5 => 33,
            7 => 21,
            _ => 100,
        };
        Self {
            nice,
            period_ns: 100_000_000 * 100 / weight,
            needs_pct,
        }
    }

    /// The same work at nice 0.
    pub const fn plain(self) -> Self {
        Self { nice: 0, ..self }
    }
}

/// What became of all jobs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Those that were done.
    pub jobs: u64,
    /// Those that were done after the end of their period.
    pub missed: u64,
    /// The latest end after its period.
    pub latest_ms: f64,
}

/// Runs `jobs` on CPU 0.
pub fn periodic(jobs: &[Job], during: Duration) -> Result<Tally> {
    let out = Pipe::new()?;
    let start = now_ns() + 200_000_000;
    let end = start + during.as_nanos() as i64;
    for (number, job) in jobs.iter().enumerate() {
        let offset = number as i64 * 7_000_000;
        let compute = job.period_ns * job.needs_pct / 100;
        let job = *job;
        child(job.nice, || {
            let mut release = start + offset;
            while release + job.period_ns < end {
                sleep_until(release);
                burn(compute.cast_unsigned());
                let late = now_ns() - release - job.period_ns;
                // 0: in time; else the lateness in units of 0.5 ms.
                out.put(
                    u8::try_from((late + 499_999) / 500_000).unwrap_or(if late > 0 {
                        u8::MAX
                    } else {
                        0
                    }),
                );
                release += job.period_ns;
            }
        })?;
    }
    let ends = out.rest()?;
    let missed = ends.iter().filter(|&&late| late > 0).count() as u64;
    let latest = ends.iter().max().copied().unwrap_or(0);
    Ok(Tally {
        jobs: ends.len() as u64,
        missed,
        latest_ms: f64::from(latest) / 2.0,
    })
}

/// Sleeps until it is `at` ns by CLOCK_MONOTONIC.
pub fn sleep_until(at: i64) {
    let ts = libc::timespec {
        tv_sec: at / 1_000_000_000,
        tv_nsec: at % 1_000_000_000,
    };
    let clock = libc::CLOCK_MONOTONIC;
    // SAFETY: ts lives through the call; no remaining time is asked for.
    unsafe {
        libc::clock_nanosleep(
            clock,
            libc::TIMER_ABSTIME,
            &raw const ts,
            std::ptr::null_mut(),
        )
    };
}
