//! A filter of system calls, as containers have one: bpf(2) fails.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use anyhow::{Result, ensure};

use crate::harness::Verdict;

/// What bpf(2) fails with in the clients that are started from now on; 0: it works.
static DENIED: AtomicI32 = AtomicI32::new(0);

/// Runs a test whose clients may not use bpf(2).
pub fn without_bpf(errno: i32, test: fn() -> Result<Verdict>) -> Result<Verdict> {
    DENIED.store(errno, Relaxed);
    let verdict = test();
    DENIED.store(0, Relaxed);
    verdict
}

/// In a client: sets the filter that the running test wants.
pub fn as_wanted() -> Result<()> {
    match DENIED.load(Relaxed) {
        0 => Ok(()),
        errno => deny_bpf(errno),
    }
}

/// From now on bpf(2) fails with `errno` in this thread and those that it starts.
pub fn deny_bpf(errno: i32) -> Result<()> {
    let step = |code: u32, jf, k| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0), // the number of the call
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            libc::SYS_bpf as u32,
        ),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the filter lives through the calls; it takes nothing but one call away.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            ) == 0
    };
    ensure!(set, "seccomp: {}", std::io::Error::last_os_error());
    // SAFETY: no such command, so nothing is looked at.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, -1, 0, 0) };
    let got = umcg::kernel::sys::errno();
    ensure!(ret == -1 && got == errno, "bpf(2): {ret}, errno {got}");
    Ok(())
}
