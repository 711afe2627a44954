//! What one user may have of the daemon: records, connections, tokens. Over the daemon, as
//! nobody.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umcg::kernel::proto::{self, Op, Reply, Request};
use umcg::kernel::{self, sys};
use umcg::{ErrorKind, GroupConfig};

use super::calls::{Bare, WORKER, os};
use super::{Test, short};
use crate::boss::in_client;
use crate::harness::{Verdict, wait_until};

pub const TESTS: &[Test] = &[
    short(
        "vm_group_quota_of_records_selftest_unprivileged",
        "group",
        2,
        records,
    ),
    short(
        "vm_group_quota_of_connections_selftest_unprivileged",
        "group",
        2,
        connections,
    ),
    short(
        "vm_group_quota_of_tokens_selftest_unprivileged",
        "group",
        2,
        tokens,
    ),
    short(
        "vm_group_quota_counts_kept_maps_selftest_unprivileged",
        "group",
        10,
        kept_maps,
    ),
];

/// A connection, and the answer to a group for so many.
fn ask_for(max_members: u32) -> Result<(OwnedFd, Result<Reply, i32>)> {
    let sock = sys::connect(Path::new(proto::SOCKET)).map_err(os)?;
    let mut create = Request::new(Op::Create);
    create.max_members = max_members;
    let answer = sys::ask(&sock, &create).map(|(reply, _)| reply);
    Ok((sock, answer))
}

/// Three of the largest groups are as many records as a user may have.
fn records_body() -> Result<()> {
    let mut groups = Vec::new();
    for number in 0..3 {
        let (sock, answer) = ask_for(umcg::MAX_MEMBERS)?;
        answer
            .map_err(os)
            .with_context(|| format!("group {number}"))?;
        groups.push(sock);
    }
    let errno = ask_for(umcg::MAX_MEMBERS)?.1.err();
    ensure!(errno == Some(libc::EDQUOT), "a fourth one: {errno:?}");
    let (small, answer) = ask_for(4)?;
    answer.map_err(os).context("a small one beside them")?;
    drop((groups, small));
    Ok(())
}

fn records() -> Result<Verdict> {
    in_client(records_body)
}

/// The errno that a connection is told without a request: it is hung up on by then.
fn unasked(sock: &OwnedFd) -> Result<i32> {
    let mut reply = [0u8; proto::REPLY_BYTES];
    // SAFETY: the buffer lives through the call and has the size given.
    let got = unsafe { libc::recv(sock.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0) };
    ensure!(got > 0, "recv: {got}, errno {}", sys::errno());
    Ok(Reply::decode(&reply[..got as usize]).map_err(os)?.errno)
}

/// Connections of one user.
const CONNECTIONS: usize = 256;

/// One connection more than a user may have is told so; who has one is served on.
fn connections_body() -> Result<()> {
    let (first, answer) = ask_for(4)?;
    answer.map_err(os)?;
    let more = (1..CONNECTIONS).map(|_| sys::connect(Path::new(proto::SOCKET)).map_err(os));
    let mut all = more.collect::<Result<VecDeque<_>, _>>()?;
    let errno = unasked(&sys::connect(Path::new(proto::SOCKET)).map_err(os)?)?;
    ensure!(errno == libc::EDQUOT, "one more: errno {errno}");
    let refused = kernel::connect(Path::new(proto::SOCKET), &GroupConfig::default());
    let kind = refused.map(|_| ()).map_err(|error| error.kind());
    ensure!(kind == Err(ErrorKind::Quota), "one more group: {kind:?}");
    let mut tokens = Request::new(Op::Tokens);
    (tokens.kind, tokens.count) = (WORKER, 1);
    sys::ask(&first, &tokens)
        .map_err(os)
        .context("the first one")?;
    let last = all.pop_back().context("no connection")?;
    let mut create = Request::new(Op::Create);
    create.max_members = 4;
    sys::ask(&last, &create)
        .map_err(os)
        .context("the last one")?;
    drop(last);
    let room = || ask_for(4).is_ok_and(|(_, answer)| answer.is_ok());
    ensure!(
        wait_until(Duration::from_secs(10), room),
        "no room when one has gone"
    );
    Ok(())
}

fn connections() -> Result<Verdict> {
    in_client(connections_body)
}

/// Unused tokens of a group.
const TOKENS: usize = 1024;

/// The oldest of too many tokens are void, the newest and the oldest of those that are left are
/// good.
fn tokens_body() -> Result<()> {
    const MORE: usize = 40;
    let bare = Bare::new()?;
    let tokens = (0..TOKENS + MORE).map(|_| bare.token(WORKER));
    let tokens = tokens.collect::<Result<Vec<_>>>()?;
    for (number, want) in [
        (0, -libc::EKEYREJECTED),
        (MORE - 1, -libc::EKEYREJECTED),
        (MORE, 0),
        (TOKENS + MORE - 1, 0),
    ] {
        let ret = bare.register(tokens[number])?;
        ensure!(ret == want, "token {number}: {ret}, want {want}");
    }
    Ok(())
}

fn tokens() -> Result<Verdict> {
    in_client(tokens_body)
}

/// Groups of one user.
const GROUPS: usize = 16;

/// The memory of a group that has ended counts as long as somebody has it mapped.
fn kept_maps_body() -> Result<()> {
    let mut mapped = Vec::new();
    for number in 0..GROUPS {
        let sock = sys::connect(Path::new(proto::SOCKET)).map_err(os)?;
        let mut create = Request::new(Op::Create);
        create.max_members = 4;
        let (_, fds) = sys::ask(&sock, &create)
            .map_err(os)
            .with_context(|| format!("group {number}"))?;
        mapped.push(sys::Mapping::new(&fds[0], 4096, 0, false).map_err(os)?);
    }
    // They have no members, so all that they are kept for is the mappings.
    let room = || ask_for(4).is_ok_and(|(_, answer)| answer.is_ok());
    ensure!(
        !wait_until(Duration::from_secs(2), room),
        "{GROUPS} groups are mapped, and there is room for one more"
    );
    mapped.pop();
    ensure!(
        wait_until(Duration::from_secs(5), room),
        "no room when one mapping has gone"
    );
    Ok(())
}

fn kept_maps() -> Result<Verdict> {
    in_client(kept_maps_body)
}
