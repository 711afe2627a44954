//! The memory that BPF and user space share, as Rust sees it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use anyhow::{Context, Result, ensure};
use umcg::record::{Cpu, Server, SysCpu, SysGroups, WAIT_BUCKETS, Worker};

use crate::waits::Hist;

/// A shared mapping of an array map whose values are `T`s.
#[derive(Debug)]
pub struct Mapping<T> {
    base: NonNull<T>,
    len: usize,
    bytes: usize,
}

// SAFETY: T's fields are atomics (see umcg::record), so that any thread may use
// them; the mapping itself is never changed after it was made.
unsafe impl<T: Sync> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapping<T> {}

impl<T: Sync> Mapping<T> {
    /// Maps `len` values of the array map `fd`; `stride` is its value size.
    pub fn new(fd: impl AsFd, len: usize, stride: usize, write: bool) -> Result<Self> {
        ensure!(
            stride == size_of::<T>(),
            "map record: {stride} bytes; this build expects {}; daemon and tool differ in version",
            size_of::<T>()
        );
        let bytes = (len * stride).next_multiple_of(4096);
        let prot = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh mapping at an address of the kernel's choice; the map
        // has at least `len` records of `stride` bytes, rounded up to pages.
        let addr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                prot,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        ensure!(
            addr != libc::MAP_FAILED,
            "mmap of a BPF map: {}",
            io::Error::last_os_error()
        );
        let base = NonNull::new(addr.cast()).context("mmap returned the null page")?;
        Ok(Self { base, len, bytes })
    }

    /// The records.
    pub fn records(&self) -> &[T] {
        // SAFETY: mapped for `len` records as long as self lives; T is made of
        // atomics, so that BPF writing to them meanwhile is no data race.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of the mmap in new().
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// All records of the system group.
#[derive(Debug)]
pub struct Shared {
    /// Worker records by index; 0 is never used.
    pub workers: Mapping<Worker>,
    /// Server records by CPU.
    pub servers: Mapping<Server>,
    /// Per-CPU records.
    pub cpus: Mapping<Cpu>,
    /// The system groups' terms: one record.
    pub sys: Mapping<SysGroups>,
    /// What system groups had of each CPU.
    pub sys_cpus: Mapping<SysCpu>,
    /// Possible CPUs: servers and cpus beyond are unused.
    pub nr_cpus: usize,
}

impl Shared {
    /// Sum of counter `which` over all CPUs.
    pub fn counter(&self, which: usize) -> u64 {
        self.cpus.records()[..self.nr_cpus]
            .iter()
            .map(|c| c.cnt[which].load(umcg::sync::Ordering::Relaxed))
            .sum()
    }

    /// Waits of one tier, over all CPUs.
    pub fn waits(&self, tier: usize) -> Hist {
        let cells = tier * WAIT_BUCKETS..(tier + 1) * WAIT_BUCKETS;
        let mut hist = Hist::default();
        for cpu in self.cpus() {
            for (sum, cell) in hist.0.iter_mut().zip(&cpu.waits[cells.clone()]) {
                *sum += cell.load(umcg::sync::Ordering::Relaxed);
            }
        }
        hist
    }

    /// The servers in use.
    pub fn servers(&self) -> &[Server] {
        &self.servers.records()[..self.nr_cpus]
    }

    /// The CPUs in use.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus.records()[..self.nr_cpus]
    }
}
