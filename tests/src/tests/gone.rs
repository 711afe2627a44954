//! Members and servers that go away, over the daemon, as nobody.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::proto::{self, Op, Request};
use umcg::kernel::sys;
use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Kind, Reason};

use super::{Test, short};
use crate::client::{self, Name, run_past_faults, serve, worker};
use crate::harness::{Sched, Verdict};

pub const TESTS: &[Test] = &[
    short("vm_group_exits_are_told_once", "group", 10, exits),
    short("vm_group_last_server_leaves_waits", "group", 10, waits),
    short(
        "vm_group_short_timeout_ejects_nobody",
        "group",
        10,
        short_timeout,
    ),
    short("vm_group_bells_come_back", "group", 10, bells),
];

const LIMIT: Duration = Duration::from_secs(30);

fn in_client(body: fn() -> Result<()>) -> Result<Verdict> {
    client::in_client(LIMIT, body)
}

/// A process is killed whose worker waits.
fn killed_while_waiting() -> Result<()> {
    let group = Group::create(&GroupConfig::default())?;
    let file = group.as_fd().try_clone_to_owned()?;
    let other = client::spawn(move || {
        let mut me = Group::open(file)?.register_worker(9)?;
        let _ = me.wait(FOREVER)?;
        Ok(())
    })?;
    let mut server = group.register_server()?;
    let limit = umcg::after(Duration::from_secs(10));
    let id = loop {
        let news = server.next_event(limit)?;
        if server.run(news.worker, limit)?.reason == Reason::Waits {
            break news.worker;
        }
    };
    other.signal(libc::SIGKILL);
    let gone = server.next_event(limit)?;
    ensure!(
        gone.worker == id && gone.reason == Reason::Exited && gone.cookie == 9,
        "{gone:?}"
    );
    let twice = server.next_event(umcg::after(Duration::from_millis(50)));
    ensure!(
        twice
            .as_ref()
            .is_err_and(|it| it.kind() == ErrorKind::TimedOut),
        "told twice: {twice:?}"
    );
    let left = group.list()?;
    ensure!(left.len() == 1, "{left:?}");
    Ok(())
}

/// Workers that the relief valve let run come to their end without a slot.
fn rescued() -> Result<()> {
    let group = client::group(4)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    for round in 0..3 {
        let thread = worker(&group, round, |_, _| {
            std::thread::sleep(Duration::from_millis(5));
            Ok(())
        });
        let new = group.next_event(me, u64::MAX)?;
        let event = run_past_faults(&group, me, new.worker)?;
        ensure!(matches!(event.reason, Reason::Blocked { .. }), "{event:?}");
        thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        let limit = sys::now_ns() + 5_000_000_000;
        let gone = group.next_event(me, limit)?;
        ensure!(
            gone.worker == new.worker && gone.reason == Reason::Exited && gone.cookie == round,
            "{gone:?}"
        );
    }
    group.unregister(me)?;
    Ok(())
}

/// The only server goes while workers are inside of wait, yield and switch.
fn unserved() -> Result<()> {
    let group = client::group(8)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let names: Arc<[Name; 3]> = Arc::default();
    let workers: Vec<_> = (0..3)
        .map(|i| {
            let names = names.clone();
            worker(&group, i, move |group, me| {
                names[i as usize].set(me);
                for _ in 0..20 {
                    let until = if i == 1 {
                        sys::now_ns() + 20_000_000
                    } else {
                        u64::MAX
                    };
                    let _ = group.wait(me, until)?;
                    group.yield_now(me)?;
                }
                // Neither is there a slot to hand on.
                let other = names[(i as usize + 1) % 3].get();
                let _ = group.switch(me, other, sys::now_ns() + 1_000_000);
                Ok(())
            })
        })
        .collect();
    // A worker may have to wait for a page before it waits, or be let run meanwhile.
    let mut waiting = HashSet::new();
    while waiting.len() < 3 {
        let news = group.next_event(me, u64::MAX)?;
        match group.run(me, news.worker, u64::MAX) {
            Ok(end) if end.reason == Reason::Waits => {
                waiting.insert(end.worker);
            }
            Err(error) if error.kind() != ErrorKind::WrongState => return Err(error.into()),
            _ => {}
        }
    }
    group.unregister(me)?;
    let limit = Instant::now() + Duration::from_secs(20);
    while !workers.iter().all(|it| it.is_finished()) {
        ensure!(Instant::now() < limit, "they hang: {:?}", group.list()?);
        for name in [&names[0], &names[2]] {
            let _ = group.wake(name.get());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    Ok(())
}

fn waits() -> Result<Verdict> {
    in_client(unserved)
}

/// A worker has yielded, and its server computes for longer than the watchdog waits.
fn late_server() -> Result<()> {
    let group = client::group(4)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let yielder = worker(&group, 1, |group, me| Ok(group.yield_now(me)?));
    let new = group.next_event(me, u64::MAX)?;
    let event = run_past_faults(&group, me, new.worker)?;
    ensure!(event.reason == Reason::Yielded, "{event:?}");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    serve(&group, me, 1)?;
    yielder.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    Ok(())
}

fn short_timeout() -> Result<Verdict> {
    let sched = Sched::start(&["--timeout-ms", "1000"])?;
    client::spawn(late_server)?.result(LIMIT)?;
    sched.no_ejection()?;
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn exits() -> Result<Verdict> {
    in_client(rescued)?;
    in_client(killed_while_waiting)
}

/// More often than a group may have bells: a server comes and goes; a right to be one is
/// asked for and never used.
fn many_servers() -> Result<()> {
    const TIMES: u32 = 150;
    let group = client::group(8)?;
    for time in 0..TIMES {
        let me = group
            .register(Kind::Server, 0, &mut |_| {})
            .with_context(|| format!("server {time}"))?;
        group.unregister(me)?;
    }
    let errno = |errno: i32| std::io::Error::from_raw_os_error(errno);
    let sock = sys::connect(Path::new(proto::SOCKET)).map_err(errno)?;
    let mut create = Request::new(Op::Create);
    create.max_members = 8;
    sys::ask(&sock, &create).map_err(errno)?;
    let mut right = Request::new(Op::Tokens);
    (right.kind, right.count) = (umcg::intf::umcg_member_kind_UMCG_M_SERVER, 1);
    for time in 0..TIMES {
        let asked = sys::ask(&sock, &right).map_err(errno);
        asked.with_context(|| format!("right {time}"))?;
    }
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    group.unregister(me)?;
    Ok(())
}

fn bells() -> Result<Verdict> {
    in_client(many_servers)
}
