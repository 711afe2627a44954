//! The client socket: application groups come and go.
//!
//! A thread of its own, which never stands between a server and its work. A
//! connection belongs to one group; a group ends with its last connection. What a
//! client sends is judged here, what it may do with what it got is judged by BPF.

mod group;
mod proxy;
mod socket;

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use log::{debug, warn};
use umcg::intf;
use umcg::kernel::proto::{self, Op, Reply, Request};

use super::bell::Ringer;
use super::server::now_ns;
use crate::bpf_skel::BpfSkel;
pub use group::inner_map;
use group::{Closed, Group, Outer};
use socket::Peer;

/// Connections at a time, of all users.
const MAX_CONNECTIONS: usize = 1024;
/// Connections of one user; root counts as a user.
const MAX_PER_UID: usize = 256;
/// Groups of one user.
const MAX_GROUPS_PER_UID: usize = 16;
/// Records in the groups of one user.
const MAX_RECORDS_PER_UID: u32 = 65536;
/// Bells in the groups of one user.
const MAX_BELLS_PER_UID: usize = 1024;
/// How long nobody is let in when we have no file descriptor left.
const NO_FDS: Duration = Duration::from_millis(20);
/// How long a group's threads may take to leave it once its owners are gone.
const DRAIN: Duration = Duration::from_secs(5);
/// While a group ends: how often we look whether its threads have left.
const DRAIN_POLL_MS: i32 = 100;
/// While somebody keeps the maps of a group that has ended: how often we look.
const KEPT_POLL_MS: i32 = 1000;
const STACK_BYTES: usize = 256 * 1024;

struct Connection {
    sock: OwnedFd,
    peer: Peer,
    group: Option<u32>,
}

/// All groups of this load.
struct Clients {
    listener: OwnedFd,
    /// Ends the sleep in poll when all is over.
    over: Ringer,
    path: PathBuf,
    connections: Vec<Connection>,
    groups: Vec<Option<Group>>,
    /// Groups without owners, until their threads have left.
    ending: Vec<(Group, Instant)>,
    /// Groups that have ended, until nobody has their maps mapped.
    closed: Vec<Closed>,
    /// Numbers that are free, the longest unused first.
    free: VecDeque<u32>,
    free_bells: VecDeque<u32>,
    /// Free as well, but with a ring buffer in their places yet: each costs an RCU period
    /// to forget, so it is one a turn.
    stale_bells: VecDeque<u32>,
    gens: Vec<u32>,
    outer: Outer,
    full: bool,
}

/// The thread behind the socket.
#[derive(Debug)]
pub struct Handle {
    thread: JoinHandle<()>,
    over: Ringer,
}

impl Handle {
    /// Waits for its end; `stop` must have been set.
    pub fn join(self) {
        self.over.ring();
        if self.thread.join().is_err() {
            warn!("the thread of the client socket panicked; see above");
        }
    }
}

fn socket_path() -> PathBuf {
    std::env::var_os("UMCG_SOCKET").map_or_else(|| proto::SOCKET.into(), PathBuf::from)
}

/// Listens for clients of `skel`'s groups until `stop`.
pub fn spawn(skel: &BpfSkel<'_>, full: bool, stop: Arc<AtomicBool>) -> Result<Handle> {
    let path = socket_path();
    socket::raise_fd_limit();
    let listener =
        socket::listen(&path).with_context(|| format!("client socket {}", path.display()))?;
    let over = Ringer::new()?;
    let mut clients = Clients {
        listener,
        over: over.try_clone()?,
        path,
        connections: Vec::new(),
        groups: (0..intf::umcg_group_limits_UMCG_MAX_GROUPS)
            .map(|_| None)
            .collect(),
        ending: Vec::new(),
        closed: Vec::new(),
        free: (1..intf::umcg_group_limits_UMCG_MAX_GROUPS).collect(),
        free_bells: (1..intf::umcg_group_limits_UMCG_MAX_BELLS).collect(),
        stale_bells: VecDeque::new(),
        gens: vec![0; intf::umcg_group_limits_UMCG_MAX_GROUPS as usize],
        outer: Outer::new(skel, now_ns())?,
        full,
    };
    let thread = std::thread::Builder::new()
        .name("umcg-clients".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            super::caps::drop_unneeded();
            while !stop.load(Ordering::Relaxed) {
                clients.turn();
            }
            clients.end();
        })
        .context("cannot start the thread of the client socket")?;
    Ok(Handle { thread, over })
}

impl Clients {
    /// Waits for something to do, and does it.
    fn turn(&mut self) {
        let fds: Vec<_> = [self.over.as_fd(), self.listener.as_fd()]
            .into_iter()
            .chain(self.connections.iter().map(|c| c.sock.as_fd()))
            .collect();
        let timeout_ms = if !self.stale_bells.is_empty() {
            0
        } else if !self.ending.is_empty() {
            DRAIN_POLL_MS
        } else if !self.closed.is_empty() {
            KEPT_POLL_MS
        } else {
            -1
        };
        let ready = socket::poll(&fds, timeout_ms);
        // Backwards: removing one leaves the indexes before it as they are.
        for index in (0..self.connections.len()).rev() {
            if ready[index + 2] && !self.serve(index) {
                self.hang_up(index);
            }
        }
        if ready[1] {
            self.accept();
        }
        self.reap();
        if !ready.contains(&true) {
            self.forget_closed();
        }
        if let Some(bell) = self.stale_bells.pop_front() {
            group::forget_bell(&self.outer, bell);
            self.free_bells.push_back(bell);
        }
    }

    fn accept(&mut self) {
        let (sock, peer) = match socket::accept(&self.listener) {
            Ok(Some(client)) => client,
            Ok(None) => return,
            Err(err) => {
                // Who wants to connect stays in the queue: poll() would come back at once.
                debug!("client: {err}");
                std::thread::sleep(NO_FDS);
                return;
            }
        };
        let of_uid = self.connections.iter().filter(|c| c.peer.uid == peer.uid);
        if self.connections.len() >= MAX_CONNECTIONS || of_uid.count() >= MAX_PER_UID {
            debug!("client: uid {} has too many connections", peer.uid);
            socket::send(&sock, &Reply::error(libc::EDQUOT), &[]);
            return;
        }
        self.connections.push(Connection {
            sock,
            peer,
            group: None,
        });
    }

    /// One message of a connection. False: it hung up, or talks nonsense.
    fn serve(&mut self, index: usize) -> bool {
        let connection = &self.connections[index];
        let (request, sender) = match socket::receive(&connection.sock) {
            socket::Received::Nothing => return true,
            socket::Received::HungUp => return false,
            socket::Received::Message(bytes, sender) => (Request::decode(&bytes), sender),
        };
        let peer = connection.peer;
        let answer = request.and_then(|request| match request.op {
            Op::Create => self.create(index, peer, &request),
            Op::Join => self.join(index, peer, &request),
            Op::Tokens => self.tokens(index, peer, &request),
            Op::Ask | Op::Withdraw => self.ask(peer, sender, &request),
            Op::Wake | Op::Kick => self.call(peer, sender, &request),
        });
        let sock = &self.connections[index].sock;
        match answer {
            Ok((reply, fds)) => {
                let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
                socket::send(sock, &reply, &fds)
            }
            Err(errno) => socket::send(sock, &Reply::error(errno), &[]) && errno != libc::EBADMSG,
        }
    }

    fn create(&mut self, index: usize, peer: Peer, request: &Request) -> Answer {
        if self.connections[index].group.is_some() {
            return Err(libc::EALREADY);
        }
        if !(1..=umcg::MAX_MEMBERS).contains(&request.max_members)
            || !(1..=10_000).contains(&request.share)
            || umcg::Idle::from_number(request.idle).is_none()
        {
            return Err(libc::EINVAL);
        }
        let quantum =
            intf::umcg_quantum_UMCG_QUANTUM_MIN_US..=intf::umcg_quantum_UMCG_QUANTUM_MAX_US;
        if request.quantum_us != 0 && !quantum.contains(&request.quantum_us) {
            return Err(libc::ERANGE);
        }
        if request.share > 100 && peer.uid != 0 {
            debug!(
                "client: share {} is for root; uid {}",
                request.share, peer.uid
            );
            return Err(libc::EPERM);
        }
        let capacity = request.max_members + umcg::MAX_SERVERS + 1;
        self.forget_closed();
        let (groups, records) = self.had_by(peer.uid);
        if groups >= MAX_GROUPS_PER_UID || records + capacity > MAX_RECORDS_PER_UID {
            return Err(libc::EDQUOT);
        }
        let number = self.free.pop_front().ok_or(libc::ENOSPC)?;
        let gen_ = self.gens[number as usize] | 1;
        let made = Group::new(
            &self.outer,
            number,
            gen_,
            peer.uid,
            capacity,
            request,
            self.full,
        );
        let group = made.map_err(|err| {
            warn!("cannot make a group: {err:#}");
            self.free.push_back(number);
            libc::ENOMEM
        })?;
        self.gens[number as usize] = gen_;
        match self.enter(&group) {
            Ok(answer) => {
                self.groups[number as usize] = Some(group);
                self.connections[index].group = Some(number);
                Ok(answer)
            }
            Err(errno) => {
                self.forget(group);
                Err(errno)
            }
        }
    }

    /// Groups that BPF knows, those without owners among them.
    fn open(&self) -> impl Iterator<Item = &Group> {
        let ending = self.ending.iter().map(|(group, _)| group);
        self.groups.iter().flatten().chain(ending)
    }

    /// Groups and records of user `uid`.
    fn had_by(&self, uid: u32) -> (usize, u32) {
        let closed = self.closed.iter().map(|it| (it.uid, it.capacity));
        self.open()
            .map(|it| (it.uid, it.capacity))
            .chain(closed)
            .filter(|(of, _)| *of == uid)
            .fold((0, 0), |(groups, records), (_, more)| {
                (groups + 1, records + more)
            })
    }

    /// What a connection that belongs to `group` is told.
    fn enter(&self, group: &Group) -> Answer {
        let reply = Reply {
            group: group.number,
            gen_: group.gen_,
            capacity: group.capacity,
            full: self.full,
            epoch: self.outer.epoch,
            ticket: group.ticket(),
            ..Reply::default()
        };
        let fds = [
            &group.truth,
            &group.desks,
            &self.outer.client,
            &group.futexes,
        ];
        let fds: std::io::Result<Vec<_>> = fds.iter().map(|fd| fd.try_clone()).collect();
        Ok((reply, fds.map_err(|_| libc::EMFILE)?))
    }

    fn join(&mut self, index: usize, peer: Peer, request: &Request) -> Answer {
        if self.connections[index].group.is_some() {
            return Err(libc::EALREADY);
        }
        let group = self.by_ticket(request)?;
        if group.uid != peer.uid {
            return Err(libc::EPERM);
        }
        let answer = self.enter(group)?;
        self.connections[index].group = Some(group.number);
        Ok(answer)
    }

    fn by_ticket(&self, request: &Request) -> Result<&Group, i32> {
        self.groups
            .iter()
            .flatten()
            .find(|group| group.ticket() == request.ticket)
            .ok_or(libc::ENOENT)
    }

    fn tokens(&mut self, index: usize, peer: Peer, request: &Request) -> Answer {
        let number = self.connections[index].group.ok_or(libc::ENOENT)?;
        let group = self.groups[number as usize].as_mut().ok_or(libc::ENOENT)?;
        let server = request.kind == intf::umcg_member_kind_UMCG_M_SERVER;
        if request.kind > intf::umcg_member_kind_UMCG_M_WORKER
            || request.count == 0
            || request.count > if server { 1 } else { proto::MAX_TOKENS as u32 }
        {
            return Err(libc::EINVAL);
        }
        if server {
            return self.server_token(number, peer);
        }
        let mut reply = Reply::default();
        for token in reply.tokens.iter_mut().take(request.count as usize) {
            *token = group
                .issue(&self.outer, peer.uid, peer.pid, request.kind, 0)
                .map_err(|_| libc::ENOSPC)?;
            reply.count += 1;
        }
        Ok((reply, Vec::new()))
    }

    /// A right to register a server in group `number`, with its bell.
    fn server_token(&mut self, number: u32, peer: Peer) -> Answer {
        let group = self.groups[number as usize].as_mut().ok_or(libc::ENOENT)?;
        self.stale_bells.extend(group.take_back_bells(&self.outer));
        let bell = match self.free_bell(number, peer.uid) {
            Ok(bell) => bell,
            Err(_) => {
                for group in self.groups.iter_mut().flatten() {
                    if group.uid == peer.uid {
                        self.stale_bells.extend(group.take_back_bells(&self.outer));
                    }
                }
                self.free_bell(number, peer.uid)?
            }
        };
        let group = self.groups[number as usize].as_mut().ok_or(libc::ENOENT)?;
        match group.issue_server(&self.outer, peer.uid, peer.pid, bell) {
            Ok((token, fd)) => {
                let mut reply = Reply {
                    count: 1,
                    ..Reply::default()
                };
                reply.tokens[0] = token;
                Ok((reply, vec![fd]))
            }
            Err(err) => {
                warn!("cannot make a bell: {err:#}");
                self.stale_bells.push_back(bell);
                Err(libc::ENOMEM)
            }
        }
    }

    /// A bell that nobody has, for group `number` of user `uid`.
    fn free_bell(&mut self, number: u32, uid: u32) -> Result<u32, i32> {
        let group = self.groups[number as usize].as_ref().ok_or(libc::ENOENT)?;
        let bells: usize = self.open().filter(|g| g.uid == uid).map(Group::bells).sum();
        if !group.has_room_for_bell() || bells >= MAX_BELLS_PER_UID {
            return Err(libc::EDQUOT);
        }
        let stale = self.stale_bells.pop_back();
        stale
            .or_else(|| self.free_bells.pop_front())
            .ok_or(libc::ENOSPC)
    }

    fn hang_up(&mut self, index: usize) {
        let gone = self.connections.swap_remove(index);
        let Some(number) = gone.group else {
            return;
        };
        if self.connections.iter().any(|c| c.group == Some(number)) {
            return;
        }
        if let Some(group) = self.groups[number as usize].take() {
            group.drain(&self.outer);
            self.ending.push((group, Instant::now()));
        }
    }

    /// Groups whose threads have left, or have had their time.
    fn reap(&mut self) {
        let mut index = 0;
        while index < self.ending.len() {
            let (group, since) = &self.ending[index];
            if group.drain(&self.outer) > 0 && since.elapsed() < DRAIN {
                index += 1;
                continue;
            }
            let (group, _) = self.ending.swap_remove(index);
            self.forget(group);
        }
    }

    fn forget(&mut self, group: Group) {
        let number = group.number;
        self.gens[number as usize] = group.gen_.wrapping_add(1);
        let (closed, bells) = group.close(&self.outer, self.gens[number as usize]);
        self.stale_bells.extend(bells);
        self.closed.push(closed);
        self.forget_closed();
    }

    /// Groups that have ended, and whose maps nobody has any more.
    fn forget_closed(&mut self) {
        for at in (0..self.closed.len()).rev() {
            if !self.closed[at].is_kept(&self.outer) {
                let closed = self.closed.swap_remove(at);
                self.free.push_back(closed.number);
                closed.forget(&self.outer);
            }
        }
    }

    fn end(&mut self) {
        for slot in 0..self.groups.len() {
            if let Some(group) = self.groups[slot].take() {
                group.drain(&self.outer);
                self.forget(group);
            }
        }
        while let Some((group, _)) = self.ending.pop() {
            self.forget(group);
        }
        for closed in self.closed.drain(..) {
            closed.forget(&self.outer);
        }
        unlink(&self.path);
    }
}

type Answer = Result<(Reply, Vec<OwnedFd>), i32>;

fn unlink(path: &Path) {
    if let Err(err) = std::fs::remove_file(path) {
        debug!("{}: {err}", path.display());
    }
}
