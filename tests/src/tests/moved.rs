//! Who waits is moved about: what bounds its wait counts on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use umcg::{FOREVER, Group, GroupConfig};

use super::group::in_client;
use super::{Test, short};
use crate::client::join_all;
use crate::load;

pub const TESTS: &[Test] = &[short(
    "vm_group_held_and_moved_is_let_go_unprivileged",
    "group",
    16,
    || in_client(held_and_moved),
)];

/// Longer than the watchdog waits.
const MOVES: usize = 130;
const EACH: Duration = Duration::from_millis(100);

/// A worker that no server runs is let go in time, or it would be ejected; whatever queues it
/// anew meanwhile.
fn held_and_moved() -> Result<()> {
    let group = Group::create(&GroupConfig::default())?;
    let mut server = group.register_server()?;
    let (stop, tid) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicI32::new(0)),
    );
    let spins = |cookie| {
        let (group, stop, tid) = (group.clone(), stop.clone(), tid.clone());
        thread::spawn(move || -> Result<()> {
            // SAFETY: no pointers.
            tid.store(unsafe { libc::gettid() }, SeqCst);
            let _me = group.register_worker(cookie)?;
            while !stop.load(SeqCst) {
                std::hint::spin_loop();
            }
            Ok(())
        })
    };
    let first = spins(1);
    let hog = server.next_event(FOREVER)?;
    let second = spins(2);
    let held = server.next_event(FOREVER)?;
    let (over, moved) = (stop.clone(), tid.load(SeqCst));
    let moves = thread::spawn(move || -> Result<()> {
        for nth in 0..MOVES {
            load::pin(moved, nth % 2);
            thread::sleep(EACH);
        }
        over.store(true, SeqCst);
        Ok(())
    });
    server.run(hog.worker, FOREVER)?;
    // It has left by itself, or does so now.
    let _ = server.run(held.worker, FOREVER);
    join_all(vec![first, second, moves])
}
