//! Members and servers that go away, over the daemon, as nobody.

use std::time::Duration;

use anyhow::{Result, ensure};
use umcg::backend::Backend;
use umcg::kernel::sys;
use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Kind, Reason};

use super::{Test, short};
use crate::client::{self, worker};
use crate::harness::{self, Verdict};

pub const TESTS: &[Test] = &[short("vm_group_exits_are_told_once", "group", 10, exits)];

const LIMIT: Duration = Duration::from_secs(30);

fn in_client(body: fn() -> Result<()>) -> Result<Verdict> {
    let sched = harness::shared()?;
    client::spawn(body)?.result(LIMIT)?;
    sched.no_ejection()?;
    Ok(Verdict::Ok)
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
        let event = group.run(me, new.worker, u64::MAX)?;
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

fn exits() -> Result<Verdict> {
    in_client(rescued)?;
    in_client(killed_while_waiting)
}
