//! How much of the agent's heap is in use. The allocator of scx_rustland_core has one array, locked
//! as a whole: pages tell nothing, its lists of free blocks do.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

const SIZE: u64 = 64 << 20;
/// Its smallest block; those of list `k` are `LEAF << k` long.
const LEAF: u64 = 64;
const LISTS: u64 = 22;
/// At the start of the array: for each list its head and two bitmaps, then all heads.
const ENTRY: u64 = 24;
const HEAD: u64 = 16;

/// The memory of an agent whose heap was found.
struct Heap {
    mem: File,
    at: u64,
}

/// Bytes of `pid`'s heap that are in use, when two looks in a row agree.
pub fn used(pid: u32) -> Result<u64> {
    let heap = Heap::find(pid)?;
    let mut last = None;
    for _ in 0..20 {
        // The agent allocates meanwhile: a list may lead anywhere.
        let now = heap.free().ok();
        if let Some(free) = now
            && now == last
        {
            return Ok(SIZE - free);
        }
        last = now;
    }
    bail!("the agent's heap does not stand still")
}

impl Heap {
    /// The page at which the first words are what the allocator keeps there.
    fn find(pid: u32) -> Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mem = File::open(format!("/proc/{pid}/mem"))?;
        for line in maps.lines().filter(|l| l.contains(" rw-p ")) {
            let range = line.split(' ').next().and_then(|r| r.split_once('-'));
            let (from, to) = range.context("maps")?;
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            for at in (from..to.saturating_sub(SIZE - 1)).step_by(4096) {
                let first = |k| at + LISTS * ENTRY + k * HEAD;
                if (0..LISTS).all(|k| word(&mem, at + k * ENTRY).ok() == Some(first(k))) {
                    return Ok(Self { mem, at });
                }
            }
        }
        bail!("no heap of scx_rustland_core in process {pid}")
    }

    fn free(&self) -> Result<u64> {
        let mut free = 0;
        for k in 0..LISTS {
            let head = self.at + LISTS * ENTRY + k * HEAD;
            let mut block = word(&self.mem, head)?;
            while block != head {
                ensure!(
                    (self.at..self.at + SIZE).contains(&block) && free < SIZE,
                    "a list leads to {block:x}"
                );
                free += LEAF << k;
                block = word(&self.mem, block)?;
            }
        }
        Ok(free)
    }
}

fn word(mem: &File, at: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    mem.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_ne_bytes(bytes))
}
