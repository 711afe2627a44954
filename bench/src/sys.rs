//! System calls that std has no name for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU32;

/// Sleeps while `word` is `value`; may return early.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    futex(word, libc::FUTEX_WAIT, value);
}

/// Wakes one that sleeps on `word`.
pub fn futex_wake(word: &AtomicU32) {
    futex(word, libc::FUTEX_WAKE, 1);
}

fn futex(word: &AtomicU32, op: i32, value: u32) {
    let op = op | libc::FUTEX_PRIVATE_FLAG;
    let no_time = std::ptr::null::<libc::timespec>();
    // SAFETY: the word lives through the call, and the kernel writes nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, value, no_time) };
}

/// The CPUs that the calling thread may use.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is an empty one, and it lives through the call.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        set
    };
    let all = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: below CPU_SETSIZE.
    all.filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect()
}

/// The calling thread may use `cpu` alone.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty one, and it lives through the calls; the CPU
    // comes from allowed_cpus(), so it is below CPU_SETSIZE.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    check(failed)
}

/// Timers of the calling thread are as exact as the kernel can.
pub fn exact_timers() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// CPU time of the calling thread.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Reads and writes of `file` fail instead of waiting.
pub fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: no pointers, on a descriptor that is open.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })
}

/// The kernel need not keep what it has read of `file`: the next read may have to wait.
pub fn forget_pages(file: &File, at: u64, bytes: u64) {
    let (at, bytes) = (at.cast_signed(), bytes.cast_signed());
    // SAFETY: no pointers, on a descriptor that is open. A file system that cannot do it keeps
    // the pages, and the read is quick.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), at, bytes, libc::POSIX_FADV_DONTNEED) };
}

fn check(failed: i32) -> io::Result<()> {
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_leaves_one_cpu_of_the_thread() {
        let all = allowed_cpus();
        let last = *all.last().unwrap();
        std::thread::spawn(move || {
            pin(last).unwrap();
            assert_eq!(allowed_cpus(), [last]);
        })
        .join()
        .unwrap();
        assert_eq!(allowed_cpus(), all);
    }
}
