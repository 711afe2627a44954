//! The system calls of futex-only mode, each behind a safe function.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// How a futex wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slept {
    /// Woken, interrupted, or there was nothing to wait for.
    Woken,
    /// The deadline came.
    TimedOut,
}

/// Sleeps while `*word` is `value`, at most until `deadline_ns` of CLOCK_MONOTONIC.
pub(crate) fn futex_wait(word: &AtomicU32, value: u32, deadline_ns: u64) -> Slept {
    let time = libc::timespec {
        tv_sec: (deadline_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (deadline_ns % 1_000_000_000) as libc::c_long,
    };
    let time_ptr = match deadline_ns {
        u64::MAX => std::ptr::null(),
        _ => &raw const time,
    };
    // SAFETY: the word lives as long as the reference; the kernel only compares it.
    // `time` outlives the call. Bits: any.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            value,
            time_ptr,
            std::ptr::null::<u32>(),
            u32::MAX,
        )
    };
    if result < 0 && errno() == libc::ETIMEDOUT {
        Slept::TimedOut
    } else {
        Slept::Woken
    }
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the address as a key only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// The calling thread's errno. Async-signal-safe.
pub(crate) fn errno() -> i32 {
    // SAFETY: the address is the calling thread's own.
    unsafe { *libc::__errno_location() }
}

/// Puts errno back, at the end of what a signal handler did.
pub(crate) fn set_errno(errno: i32) {
    // SAFETY: as in errno().
    unsafe { *libc::__errno_location() = errno };
}

/// The calling thread.
pub(crate) fn gettid() -> i32 {
    // SAFETY: no arguments, no effect.
    unsafe { libc::gettid() }
}

/// The calling process.
pub(crate) fn getpid() -> i32 {
    std::process::id() as i32
}

/// The caller's effective uid.
pub(crate) fn geteuid() -> u32 {
    // SAFETY: no arguments, no effect.
    unsafe { libc::geteuid() }
}

/// Sends `signal` (0: asks only) to thread `tid` of process `pid`; false when there is
/// no such thread.
pub(crate) fn tgkill(pid: i32, tid: i32, signal: i32) -> bool {
    // SAFETY: a signal to a thread of the same user; the kernel checks the rest.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
    result == 0 || errno() != libc::ESRCH
}

/// A sealed memory file of `len` zero bytes: it cannot shrink under who maps it.
pub(crate) fn memfd(len: usize) -> Result<OwnedFd> {
    const CALL: &str = "group_create";
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the result is checked.
    let raw = unsafe { libc::memfd_create(c"umcg-group".as_ptr(), flags) };
    if raw < 0 {
        return Err(Error::last_os(CALL));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: plain calls on our own descriptor.
    let done = unsafe {
        libc::ftruncate(raw, len as libc::off_t) == 0
            && libc::fcntl(raw, libc::F_ADD_SEALS, SEALS) == 0
    };
    if done {
        Ok(fd)
    } else {
        Err(Error::last_os(CALL))
    }
}

/// What keeps a mapping safe: nobody can take the memory away.
pub(crate) const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Seals (0 when it is no memory file), size and owner of a passed file.
pub(crate) fn inspect(fd: BorrowedFd<'_>) -> Result<(i32, usize, u32)> {
    // SAFETY: plain calls on a borrowed descriptor; `stat` is ours to write.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd.as_raw_fd(), &mut stat) != 0 {
            return Err(Error::last_os("group_open"));
        }
        let seals = libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS).max(0);
        Ok((seals, stat.st_size as usize, stat.st_uid))
    }
}

/// A shared mapping of a whole sealed file.
#[derive(Debug)]
pub(crate) struct Map {
    start: std::ptr::NonNull<u8>,
    len: usize,
}

// SAFETY: it is plain memory; what lies in it is atomics only (see Book).
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes of `fd`, which is sealed against shrinking.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize) -> Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        match std::ptr::NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast::<libc::c_void>() != libc::MAP_FAILED => {
                Ok(Self { start, len })
            }
            _ => Err(Error::last_os("group_open")),
        }
    }

    /// The `count` records of type T at `offset`.
    ///
    /// # Safety
    ///
    /// T is made of atomics and padding alone, for which every bit pattern is valid.
    pub(crate) unsafe fn records<T>(&self, offset: usize, count: usize) -> &[T] {
        let bytes = count * size_of::<T>();
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + bytes <= self.len);
        // SAFETY: within the mapping, aligned (mappings start at a page), shared with
        // others only through atomics; valid for any bits, by the caller.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset).cast(), count) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the references into it borrowed `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// +1 in the child of each fork(): who is a member before is none in the child.
pub(crate) static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Sees to it that [`FORKS`] counts.
pub(crate) fn watch_forks() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: the handler only adds to an atomic.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(count_fork));
    });
}

/// Sets `handler` for `signal` in this process, restarting interrupted calls.
pub(crate) fn set_handler(signal: i32, handler: extern "C" fn(i32)) -> Result<()> {
    // SAFETY: `action` is filled in whole; the handler is async-signal-safe, see who
    // passes it.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        _ => Err(Error::last_os("register_worker")),
    }
}
