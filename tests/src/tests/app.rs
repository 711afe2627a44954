//! What the loads of application groups have in common; the loads are in the files beside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::kernel::sys;

use crate::load;

/// Numbers that this process and its children share.
#[derive(Clone, Copy)]
pub struct Board(&'static [AtomicU64; Self::LEN]);

impl Board {
    /// How many.
    pub const LEN: usize = 512;

    /// A new one, all zero. It stays mapped.
    pub fn new() -> Result<Self> {
        // SAFETY: a fresh shared page, never unmapped, zero, and aligned for anything.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::LEN * size_of::<AtomicU64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        ensure!(page != libc::MAP_FAILED, "mmap");
        // SAFETY: it holds LEN atomics, see above.
        Ok(Self(unsafe { &*page.cast() }))
    }

    /// Number `at`.
    pub fn at(&self, at: usize) -> &'static AtomicU64 {
        &self.0[at]
    }

    /// Its value.
    pub fn get(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::SeqCst)
    }

    /// Sets it.
    pub fn set(&self, at: usize, value: u64) {
        self.0[at].store(value, Ordering::SeqCst);
    }

    /// Adds 1 to it.
    pub fn count(&self, at: usize) {
        self.0[at].fetch_add(1, Ordering::SeqCst);
    }

    /// How much it grows in a second, seen for `during`.
    pub fn rate(&self, at: usize, during: Duration) -> f64 {
        let (began, before) = (sys::now_ns(), self.get(at));
        std::thread::sleep(during);
        let grown = (self.get(at) - before) as f64;
        grown * 1e9 / (sys::now_ns() - began) as f64
    }
}

/// The calling thread's timers are late by no more than the kernel needs.
pub fn no_slack() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// ext4 on the scratch disk, for everybody; unmounted when dropped.
pub struct Disk;

impl Disk {
    /// Where it is.
    pub const DIR: &'static str = "/tmp/umcg-disk";

    /// Makes the file system anew.
    pub fn mount() -> Result<Self> {
        let limit = Duration::from_secs(60);
        load::run(limit, &["mkfs.ext4", "-q", "-F", "/dev/vda"])?;
        std::fs::create_dir_all(Self::DIR)?;
        load::run(limit, &["mount", "-t", "ext4", "/dev/vda", Self::DIR])?;
        load::run(limit, &["chmod", "0777", Self::DIR])?;
        Ok(Self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = load::run(Duration::from_secs(60), &["umount", Self::DIR]);
    }
}
