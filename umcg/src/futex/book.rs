//! The book of a group: a sealed memory file with a record per member, shared by all
//! processes of the group, whatever serves it.
//!
//! Written by the library alone. All of it is atomics, every index that is read from it
//! is checked before use: a member that writes nonsense harms its own group only.
//!
//! | part | count | who writes |
//! |---|---|---|
//! | [`Header`] | 1 | the creator, before anybody else maps it; masks: any thread |
//! | [`record::Server`] | [`SLOTS`] | lists: pushers and takers; the rest: the slot's server |
//! | [`Slot`] | [`SLOTS`] | by `holds`, see [`Slot`] |
//! | [`record::Worker`] | members + 1 | `word`: see [`edge`](super::edge); links: the list's protocol |
//! | [`Side`] | members + 1 | the member's own thread at registration; `asleep`: both sides |

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::alive::Identity;
use super::mask::Mask;
use super::sys::{self, Map};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Id;
use crate::mode::{GroupConfig, Idle, MAX_MEMBERS, MAX_SERVERS, POLICY_BYTES, Preempt};
use crate::record;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicI32, AtomicU32, AtomicU64};

/// Servers that a group has room for, slot 0 included: that is nobody's, its list holds
/// workers for whom there is no server.
pub(crate) const SLOTS: usize = MAX_SERVERS as usize + 1;

const MAGIC: u64 = u64::from_le_bytes(*b"umcgbook");
const VERSION: u32 = 6;

/// What all need to know.
#[derive(Debug, Default)]
#[repr(C, align(4096))]
pub(crate) struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    max_members: AtomicU32,
    /// Numbers in pids of another namespace mean other threads.
    pid_namespace: AtomicU64,
    pub(crate) idle: AtomicU32,
    /// 0, or the signal of [`Preempt::Signal`].
    pub(crate) signal: AtomicU32,
    pub(crate) share: AtomicU32,
    /// Microseconds, 0 = none.
    pub(crate) quantum_us: AtomicU32,
    pub(crate) futex_only: AtomicU32,
    name: [AtomicU64; 4],
    policy: [AtomicU64; 16],
    /// A second process has joined: members may die without a word.
    pub(crate) shared: AtomicU32,
    /// Where the search for a free record starts.
    hint: AtomicU32,
    /// When the members were last looked through for dead ones.
    pub(crate) reaped_ns: AtomicU64,
    /// Where the search for an idle server starts, for [`Idle::Ring`].
    pub(crate) rotor: AtomicU32,
    /// Slots that have a server.
    pub(crate) live: Mask,
    /// Slots whose server sleeps for want of news.
    pub(crate) idlers: Mask,
    /// Odd: a daemon serves the group, each number another one; see [`home`](crate::home).
    pub(crate) kernel: AtomicU32,
    /// 0, or since when somebody asks the daemon for a group.
    pub(crate) entering_ns: AtomicU64,
    /// What others join the kernel's group with; valid while `kernel` is odd.
    pub(crate) ticket: [AtomicU64; 4],
    /// 1: a notice was left while `kernel` was odd, so that it is on no list.
    pub(crate) unlisted: AtomicU32,
    /// Even, another one in each group: what ids have their generations xored with, so
    /// that an id of another group names nobody here.
    salt: AtomicU32,
}

/// Puts `text`, which is shorter than `words`, where no other process looks yet.
fn write_text(words: &[AtomicU64], text: &[u8]) {
    for (word, bytes) in words.iter().zip(text.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(eight), Relaxed);
    }
}

/// What [`write_text`] put there, or whatever another process did.
fn text_of(words: &[AtomicU64]) -> String {
    let words = words.iter().map(|word| word.load(Relaxed));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len() - 1)]).into_owned()
}

/// What a server and the worker that it runs tell each other.
///
/// `holds` says whose the rest is: 0, the server's; a worker's id, that worker's, who
/// writes the event, then exchanges `holds` for 0, then sets `ready`. For a dead worker
/// who found it dead does that: both use a cmpxchg of `holds`, so it is done once.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Slot {
    /// The server's record, 0 = no server.
    pub(crate) member: AtomicU32,
    /// An event is there.
    pub(crate) ready: AtomicU32,
    pub(crate) holds: AtomicU64,
    pub(crate) worker: AtomicU64,
    pub(crate) reason: AtomicU32,
    /// Somebody woke the server itself.
    pub(crate) poked: AtomicU32,
    pub(crate) tag: AtomicU64,
    pub(crate) cookie: AtomicU64,
    pub(crate) run_ns: AtomicU64,
    pub(crate) wait_ns: AtomicU64,
}

/// What a member's record lacks.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Side {
    /// 0 nobody, 1 server, 2 worker.
    pub(crate) kind: AtomicU32,
    /// Its thread sleeps, see [`park`](super::park).
    pub(crate) asleep: AtomicU32,
    /// A server's own slot; a worker's: where it runs, valid while RUNNING.
    pub(crate) slot: AtomicU32,
    /// Times that it was run.
    pub(crate) runs: AtomicU32,
    /// 0: it lives in these words. Else its record at the kernel, see [`home`](crate::home).
    pub(crate) home: AtomicU64,
    pub(crate) cookie: AtomicU64,
    pub(crate) pid: AtomicI32,
    pub(crate) tid: AtomicI32,
    start: AtomicU64,
    stack: AtomicU64,
    /// 0, or who left without a slot, so that no `run` tells it: whoever takes the
    /// record off a list exchanges it for 0 and reports that, once.
    pub(crate) notice: AtomicU64,
    pub(crate) notice_tag: AtomicU64,
    /// Who was reported as gone last, or is about to be.
    told: AtomicU64,
    /// Who had the record before, and its cookie.
    last: AtomicU64,
    last_cookie: AtomicU64,
}

impl Side {
    /// Whether the caller is the first to say that `id` has left.
    pub(crate) fn first_told(&self, id: Id) -> bool {
        self.told.swap(id.raw(), AcqRel) != id.raw()
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            pid: self.pid.load(Relaxed),
            tid: self.tid.load(Relaxed),
            start: self.start.load(Relaxed),
            stack: self.stack.load(Relaxed),
        }
    }
}

/// The mapped book.
#[derive(Debug)]
pub(crate) struct Book {
    map: Map,
    fd: OwnedFd,
    max_members: u32,
}

/// Where the parts are.
struct Layout {
    servers: usize,
    slots: usize,
    workers: usize,
    sides: usize,
    len: usize,
}

const fn layout(max_members: u32) -> Layout {
    let records = max_members as usize + 1;
    let servers = size_of::<Header>();
    let slots = servers + SLOTS * size_of::<record::Server>();
    let workers = slots + SLOTS * size_of::<Slot>();
    let sides = workers + records * size_of::<record::Worker>();
    let len = (sides + records * size_of::<Side>()).next_multiple_of(4096);
    Layout {
        servers,
        slots,
        workers,
        sides,
        len,
    }
}

impl Book {
    /// A new book for a group as `config` says.
    pub(crate) fn create(config: &GroupConfig) -> Result<Self> {
        let invalid = |value| Error::new(ErrorKind::Invalid, "group_create", value);
        let max_members = config.max_members;
        if !(1..=MAX_MEMBERS).contains(&max_members) {
            return Err(invalid(u64::from(max_members)));
        }
        if config.share == 0 || config.share > 10_000 {
            return Err(invalid(u64::from(config.share)));
        }
        let signal = match config.preempt {
            Preempt::Call => 0,
            Preempt::Signal(signal) if (1..=libc::SIGRTMAX()).contains(&signal) => signal as u32,
            Preempt::Signal(signal) => return Err(invalid(signal as u64)),
        };
        let quantum_us = config.quantum_us()?;
        let name = config.name.as_bytes();
        if name.len() > 31 || name.contains(&0) {
            return Err(invalid(name.len() as u64));
        }
        let policy = config.policy.as_bytes();
        if policy.len() > POLICY_BYTES || policy.contains(&0) {
            return Err(Error::new(
                ErrorKind::Policy,
                "group_create",
                policy.len() as u64,
            ));
        }
        let len = layout(max_members).len;
        let fd = sys::memfd(len)?;
        let book = Self {
            map: Map::new(fd.as_fd(), len)?,
            fd,
            max_members,
        };
        let header = book.header();
        header.max_members.store(max_members, Relaxed);
        header.pid_namespace.store(pid_namespace(), Relaxed);
        header.idle.store(config.idle.number(), Relaxed);
        header.signal.store(signal, Relaxed);
        header.share.store(config.share, Relaxed);
        header.quantum_us.store(quantum_us, Relaxed);
        header.futex_only.store(config.futex_only.into(), Relaxed);
        write_text(&header.name, name);
        write_text(&header.policy, policy);
        header.salt.store(random() as u32 & !1, Relaxed);
        header.version.store(VERSION, Relaxed);
        header.magic.store(MAGIC, Release);
        Ok(book)
    }

    /// The book in a passed file.
    pub(crate) fn open(fd: OwnedFd) -> Result<Self> {
        let error = |kind, value| Error::new(kind, "group_open", value);
        let (seals, len, uid) = sys::inspect(fd.as_fd())?;
        if seals & sys::SEALS != sys::SEALS || len < size_of::<Header>() {
            return Err(error(ErrorKind::Invalid, len as u64));
        }
        if uid != sys::geteuid() {
            return Err(error(ErrorKind::Foreign, u64::from(uid)));
        }
        let mut book = Self {
            map: Map::new(fd.as_fd(), len)?,
            fd,
            max_members: 0,
        };
        let header = book.header();
        if header.magic.load(Acquire) != MAGIC {
            return Err(error(ErrorKind::Invalid, len as u64));
        }
        let version = header.version.load(Relaxed);
        if version != VERSION {
            return Err(error(ErrorKind::Version, u64::from(version)));
        }
        if header.pid_namespace.load(Relaxed) != pid_namespace() {
            let other = header.pid_namespace.load(Relaxed);
            return Err(error(ErrorKind::Foreign, other));
        }
        let max_members = header.max_members.load(Relaxed);
        if max_members as usize >= record::MAX_WORKERS || layout(max_members).len != len {
            return Err(error(ErrorKind::Invalid, u64::from(max_members)));
        }
        header.shared.store(1, Relaxed);
        book.max_members = max_members;
        Ok(book)
    }

    /// The file, to be passed on.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Members that it has room for.
    pub(crate) const fn max_members(&self) -> u32 {
        self.max_members
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: Header is made of atomics.
        unsafe { &self.map.records::<Header>(0, 1)[0] }
    }

    pub(crate) fn servers(&self) -> &[record::Server] {
        // SAFETY: made of atomics and padding bytes.
        unsafe { self.map.records(layout(self.max_members).servers, SLOTS) }
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        // SAFETY: made of atomics.
        unsafe { self.map.records(layout(self.max_members).slots, SLOTS) }
    }

    pub(crate) fn workers(&self) -> &[record::Worker] {
        let count = self.max_members as usize + 1;
        // SAFETY: made of atomics and padding bytes.
        unsafe { self.map.records(layout(self.max_members).workers, count) }
    }

    pub(crate) fn sides(&self) -> &[Side] {
        let count = self.max_members as usize + 1;
        // SAFETY: made of atomics.
        unsafe { self.map.records(layout(self.max_members).sides, count) }
    }

    /// The name that it was created with.
    pub(crate) fn name(&self) -> String {
        text_of(&self.header().name)
    }

    /// The policy that it was created with; empty if none.
    pub(crate) fn policy(&self) -> String {
        text_of(&self.header().policy)
    }

    /// The idle structure that it was created with.
    pub(crate) fn idle(&self) -> Idle {
        Idle::from_number(self.header().idle.load(Relaxed)).unwrap_or_default()
    }

    /// Takes a free record for the calling thread; its word stays NONE.
    pub(crate) fn take_record(&self, kind: u32, cookie: u64) -> Result<Id> {
        let header = self.header();
        let start = header.hint.fetch_add(1, Relaxed);
        // Those with a notice last: a second one would take its place.
        for offset in 0..2 * self.max_members {
            let index = start.wrapping_add(offset) % self.max_members + 1;
            let worker = &self.workers()[index as usize];
            let generation = worker.gen_.load(Relaxed);
            let notice = self.sides()[index as usize].notice.load(Relaxed) != 0;
            let taken = generation & 1 == 0
                && (!notice || offset >= self.max_members)
                && worker
                    .gen_
                    .compare_exchange(generation, generation.wrapping_add(1), AcqRel, Relaxed)
                    .is_ok();
            if !taken {
                continue;
            }
            let side = &self.sides()[index as usize];
            let identity = Identity::mine();
            worker.run_ns.store(0, Relaxed);
            worker.wait_ns.store(0, Relaxed);
            worker.request.store(0, Relaxed);
            worker.home.store(0, Relaxed);
            worker.pid.store(identity.tid, Relaxed);
            side.cookie.store(cookie, Relaxed);
            side.pid.store(identity.pid, Relaxed);
            side.tid.store(identity.tid, Relaxed);
            side.start.store(identity.start, Relaxed);
            side.stack.store(identity.stack, Relaxed);
            side.slot.store(0, Relaxed);
            side.runs.store(0, Relaxed);
            side.home.store(0, Relaxed);
            side.asleep.store(0, Relaxed);
            side.kind.store(kind, Release);
            return Ok(self.id(index, generation.wrapping_add(1)));
        }
        Err(Error::new(
            ErrorKind::Full,
            "register",
            u64::from(self.max_members),
        ))
    }

    /// Gives a record back whose word is NONE. It may still be linked: who takes it off
    /// that list finds whoever has the record then.
    pub(crate) fn free_record(&self, id: Id) {
        if let Some((worker, side)) = self.member(id) {
            worker.pid.store(0, Relaxed);
            side.last_cookie.store(side.cookie.load(Relaxed), Relaxed);
            side.last.store(id.raw(), Release);
            side.kind.store(0, Relaxed);
            let generation = self.generation(id);
            let next = generation.wrapping_add(1);
            let _ = worker
                .gen_
                .compare_exchange(generation, next, AcqRel, Relaxed);
        }
    }

    /// The records of `id`, while it is a member.
    pub(crate) fn member(&self, id: Id) -> Option<(&record::Worker, &Side)> {
        let index = id.index() as usize;
        let worker = self.workers().get(index)?;
        let generation = self.generation(id);
        if index == 0 || generation & 1 == 0 || worker.gen_.load(Acquire) != generation {
            return None;
        }
        Some((worker, &self.sides()[index]))
    }

    /// The cookie of `id`, also when it has just left.
    pub(crate) fn cookie(&self, id: Id) -> u64 {
        let index = id.index() as usize;
        let Some(side) = self.sides().get(index) else {
            return 0;
        };
        let now = side.cookie.load(Acquire);
        match self.workers()[index].gen_.load(Acquire) == self.generation(id) {
            true => now,
            false if side.last.load(Acquire) == id.raw() => side.last_cookie.load(Relaxed),
            false => 0,
        }
    }

    /// Who has record `index` now.
    pub(crate) fn id_at(&self, index: u32) -> Option<Id> {
        let generation = self.workers().get(index as usize)?.gen_.load(Acquire);
        (index != 0 && generation & 1 == 1).then(|| self.id(index, generation))
    }

    fn id(&self, index: u32, generation: u32) -> Id {
        Id::new(index, generation ^ self.header().salt.load(Relaxed))
    }

    /// What `id`'s record has in `gen_` while it is a member.
    fn generation(&self, id: Id) -> u32 {
        id.generation() ^ self.header().salt.load(Relaxed)
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// The caller's pid namespace.
fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(max_members: u32) -> GroupConfig {
        GroupConfig {
            name: "book".into(),
            max_members,
            ..GroupConfig::default()
        }
    }

    #[test]
    fn book_opened_by_its_file_is_the_same_book() {
        let book = Book::create(&config(7)).unwrap();
        let id = book.take_record(2, 99).unwrap();
        let other = Book::open(book.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.max_members(), 7);
        assert_eq!(other.name(), "book");
        assert_eq!(other.member(id).unwrap().1.cookie.load(Relaxed), 99);
        assert_eq!(book.header().shared.load(Relaxed), 1);
    }

    #[test]
    fn book_full_refuses_and_a_freed_record_has_a_new_generation() {
        let book = Book::create(&config(2)).unwrap();
        let first = book.take_record(2, 0).unwrap();
        let second = book.take_record(2, 0).unwrap();
        assert_ne!(first.index(), second.index());
        let error = book.take_record(2, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        book.free_record(first);
        assert!(book.member(first).is_none());
        let third = book.take_record(2, 0).unwrap();
        assert_eq!(third.index(), first.index());
        assert_ne!(third, first);
        assert!(book.member(third).is_some());
    }

    #[test]
    fn book_bad_config_is_invalid() {
        let mut bad = vec![config(0), config(65_536)];
        bad.push(GroupConfig {
            name: "x".repeat(32),
            ..config(1)
        });
        bad.push(GroupConfig {
            share: 0,
            ..config(1)
        });
        bad.push(GroupConfig {
            preempt: Preempt::Signal(0),
            ..config(1)
        });
        for config in bad {
            let error = Book::create(&config).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{config:?}");
        }
    }

    #[test]
    fn book_open_of_another_file_is_refused() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let error = Book::open(file.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let blank = sys::memfd(8192).unwrap();
        let error = Book::open(blank).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn book_open_of_another_version_says_so() {
        let book = Book::create(&config(4)).unwrap();
        book.header().version.store(VERSION + 1, Relaxed);
        let error = Book::open(book.as_fd().try_clone_to_owned().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Version);
    }

    #[test]
    fn book_open_with_a_wrong_size_is_refused() {
        let book = Book::create(&config(4)).unwrap();
        book.header().max_members.store(60_000, Relaxed);
        let error = Book::open(book.as_fd().try_clone_to_owned().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
