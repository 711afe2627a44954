//! Room in a group: its records are found, used again, and who finds none is told.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::sys::Class;
use umcg::{ErrorKind, Group, GroupConfig, Id, Kind, MAX_SERVERS};

use super::group::{in_client, with_server};
use super::{Test, short};
use crate::client::{self, join_all, worker};
use crate::harness::{self, Verdict, in_partial_mode};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_records_are_found_again_selftest_unprivileged",
        "group",
        6,
        found_again,
    ),
    short(
        "vm_group_servers_are_64_selftest_unprivileged",
        "group",
        3,
        servers,
    ),
    short(
        "vm_partial_class_comes_back_unprivileged",
        "member,newest",
        3,
        || in_partial_mode(class_comes_back),
    ),
];

const LIMIT: Duration = Duration::from_secs(60);
/// More in a row than a search for a free record may pass.
const STAY: u64 = 300;
const COME_AND_GO: u64 = 600;

fn found_again() -> Result<Verdict> {
    in_client(|| {
        with_server(STAY as u32 + 8, |group, me| {
            let ids = Arc::new(Mutex::new(Vec::<Id>::new()));
            let stay: Vec<_> = (0..STAY)
                .map(|cookie| {
                    let ids = ids.clone();
                    worker(group, cookie, move |group, me| {
                        ids.lock().expect("not poisoned").push(me);
                        group.wait(me, u64::MAX).map(|_| ())?;
                        Ok(())
                    })
                })
                .collect();
            let others = {
                let group = group.clone();
                thread::spawn(move || -> Result<()> {
                    while (ids.lock().expect("not poisoned").len() as u64) < STAY {
                        thread::sleep(Duration::from_millis(1));
                    }
                    for nth in 0..COME_AND_GO {
                        join_all(vec![worker(&group, nth, |_, _| Ok(()))])
                            .with_context(|| format!("{nth} came and went"))?;
                    }
                    for id in ids.lock().expect("not poisoned").iter() {
                        group.wake(*id)?;
                    }
                    Ok(())
                })
            };
            let seen = client::serve(group, me, STAY + COME_AND_GO)?;
            others.join().expect("no panic")?;
            join_all(stay)?;
            seen.check(group)
        })
    })
}

/// The 65th is told so, and finds room when one has gone.
fn servers() -> Result<Verdict> {
    client::run_in(&*harness::shared()?, LIMIT, || {
        let group = Group::create(&GroupConfig::default())?;
        let (last, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let until = |flag: &AtomicBool| {
            while !flag.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        };
        let counted = Mutex::new(0);
        thread::scope(|scope| -> Result<()> {
            for nth in 1..=MAX_SERVERS {
                let (group, counted, last, over) = (group.clone(), &counted, &last, &over);
                scope.spawn(move || {
                    let server = group.register_server();
                    *counted.lock().expect("not poisoned") += i32::from(server.is_ok());
                    until(if nth == 1 { last } else { over });
                });
            }
            let all = || *counted.lock().expect("not poisoned") == MAX_SERVERS as i32;
            while !all() {
                thread::sleep(Duration::from_millis(1));
            }
            let one_more = group.register_server().map(|_| ());
            last.store(true, SeqCst);
            let kind = one_more.as_ref().map_err(umcg::Error::kind);
            let mut refusal = None;
            let room = harness::wait_until(Duration::from_secs(5), || {
                refusal = group.register_server().err();
                refusal.is_none()
            });
            over.store(true, SeqCst);
            ensure!(kind == Err(ErrorKind::Full), "the 65th: {one_more:?}");
            ensure!(room, "one has gone, and there is no room: {refusal:?}");
            Ok(())
        })
    })?;
    Ok(Verdict::Ok)
}

/// A member of partial mode is SCHED_EXT; who leaves is what it was.
fn class_comes_back() -> Result<Verdict> {
    in_client(|| {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: param lives through the call; 0 is the calling thread.
        let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) };
        ensure!(set == 0, "SCHED_BATCH is refused");
        let before = Class::mine().map_err(std::io::Error::from_raw_os_error)?;
        let group = client::group(2)?;
        let me = group.register(Kind::Server, 0, &mut |_| {})?;
        let member = Class::mine().map_err(std::io::Error::from_raw_os_error)?;
        group.unregister(me)?;
        let after = Class::mine().map_err(std::io::Error::from_raw_os_error)?;
        ensure!(member == Class::EXT, "a member is {member:?}");
        ensure!(after == before, "{before:?} became {after:?}");
        Ok(())
    })
}
