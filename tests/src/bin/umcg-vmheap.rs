//! `umcg-vmheap`: a client that counts what it allocates while a worker blocks and goes on.
//!
//! A program of its own: the tests' has the daemon's allocator, and a program has one only.
//! Prints `blocks=N calls=N`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use umcg::{FOREVER, Group, GroupConfig, Mode, Reason};

static CALLS: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to System unchanged, which upholds the contract of GlobalAlloc;
// counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: `layout` is the caller's, as it must be.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: `ptr` came from System with this `layout`, since all of them do.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: as for dealloc; `size` is the caller's.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

/// The first ones may fill what is kept for later.
const COLD: u64 = 100;
const BLOCKS: u64 = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    let group = Group::create(&GroupConfig::default())?;
    if !matches!(group.mode(), Mode::Kernel { .. }) {
        return Err(format!("mode {}", group.mode()).into());
    }
    let mut server = group.register_server()?;
    let members = group.clone();
    let thread = std::thread::spawn(move || -> Result<(), umcg::Error> {
        let mut me = members.register_worker(0)?;
        for round in 0..COLD + BLOCKS {
            std::thread::sleep(Duration::from_micros(100));
            // The other calls, now and then.
            if round % 4 == 0 {
                me.yield_now()?;
                let _ = me.wait(umcg::after(Duration::from_micros(50)))?;
            }
        }
        Ok(())
    });
    let (mut blocks, mut before, mut after) = (0, 0, 0);
    loop {
        let news = server.next_event(FOREVER)?;
        let reason = match news.reason {
            Reason::Exited => break,
            // One that the relief valve let run meanwhile is told again.
            _ => server.run(news.worker, FOREVER).map(|event| event.reason),
        };
        match reason {
            Ok(Reason::Exited) => break,
            Ok(Reason::Blocked { .. }) => blocks += 1,
            _ => {}
        }
        // Up to the last block: what ends a thread may allocate.
        match blocks {
            0..=COLD => before = CALLS.load(Relaxed),
            _ if blocks <= BLOCKS => after = CALLS.load(Relaxed),
            _ => {}
        }
    }
    if let Err(error) = thread.join().map_err(|_| "the worker panicked")? {
        return Err(error.into());
    }
    println!("blocks={blocks} calls={}", after.saturating_sub(before));
    Ok(())
}
