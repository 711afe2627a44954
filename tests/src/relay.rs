//! Loads that wake each other: pairs that pass a byte.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use umcg::kernel::sys;

use crate::load::{Spinner, pinned_child};

/// How late a thread of `cpu` runs whose only waker, pinned there as well, was short until then
/// and spins from then on.
pub fn hand_over_and_spin(cpu: usize) -> Result<Duration> {
    let (mut wakes, mut woken) = std::io::pipe()?;
    let (mut tells, mut told) = std::io::pipe()?;
    let wakee = pinned_child(cpu, move || {
        let mut sent = [0; 8];
        while wakes.read_exact(&mut sent).is_ok() {
            let late = sys::now_ns().saturating_sub(u64::from_ne_bytes(sent));
            let _ = told.write_all(&late.to_ne_bytes());
        }
    })?;
    std::thread::sleep(Duration::from_millis(50));
    let waker = pinned_child(cpu, move || {
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = woken.write_all(&sys::now_ns().to_ne_bytes());
        loop {
            std::hint::black_box(());
        }
    })?;
    let mut late = [0; 8];
    tells.read_exact(&mut late).context("no wakee")?;
    drop((wakee, waker));
    Ok(Duration::from_nanos(u64::from_ne_bytes(late)))
}
