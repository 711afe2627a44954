//! The instance that serves the group: the daemon is asked for one, or to join it, and an
//! instance that serves nobody any more is retired.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, TryLockError};

use super::{Home, Served};
use crate::backend::Backend;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{self, KernelGroup, proto};
use crate::mode::{Mode, Why};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::sync::fence;
use crate::tls::{self, Busy};

/// How often servers look for a daemon while there is none.
pub(super) const TRY_NS: u64 = 250_000_000;
/// Who asks the daemon for longer than this has died meanwhile.
const ENTER_NS: u64 = 5_000_000_000;

impl Home {
    /// The instance that this process has joined, if it still is the group's.
    pub(super) fn served(&self) -> Option<Served> {
        // A handler must not find the lock held by its own thread.
        let _busy = Busy::enter();
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        let it = served.as_ref()?;
        (it.number == self.number() && it.forks == tls::forks()).then(|| it.clone())
    }

    /// The same, from a handler: `None` also when the lock is taken.
    pub(super) fn served_now(&self) -> Option<Served> {
        let served = self.served.try_read().ok()?;
        let it = served.as_ref()?;
        (it.number == self.number()).then(|| it.clone())
    }

    /// The instance that serves the group; asks the daemon for one, or to join it, at
    /// most every [`TRY_NS`].
    pub(super) fn enter(&self) -> Option<Served> {
        if let Some(served) = self.served() {
            return Some(served);
        }
        let number = self.number();
        let now = clock::machine_now();
        let soon = number & 1 == 0 || number == self.refused.load(Relaxed);
        if soon && now < self.next_try_ns.load(Relaxed) {
            return None;
        }
        let _busy = Busy::enter();
        let _one = match self.entering.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            // A daemon that does not answer holds up the one who asks, nobody else.
            Err(TryLockError::WouldBlock) if number & 1 == 0 => return None,
            Err(TryLockError::WouldBlock) => {
                self.entering.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        if let Some(served) = self.served() {
            return Some(served);
        }
        if soon && now < self.next_try_ns.load(Relaxed) {
            return None;
        }
        self.next_try_ns.store(now.saturating_add(TRY_NS), Relaxed);
        let made = match number & 1 {
            1 => self.join(number),
            _ => self.found(number, now),
        };
        match made {
            Ok(served) => {
                let mut slot = self.served.write().unwrap_or_else(PoisonError::into_inner);
                *slot = Some(served.clone());
                drop(slot);
                if number & 1 == 0 {
                    self.futex.call_servers();
                }
                Some(served)
            }
            Err(error) => {
                let why = match error.kind() {
                    ErrorKind::Denied => Why::Denied,
                    ErrorKind::Quota | ErrorKind::Version | ErrorKind::Foreign => Why::Refused,
                    ErrorKind::Full | ErrorKind::Invalid => Why::Refused,
                    _ if number == 0 => Why::NoDaemon,
                    _ => Why::DaemonGone,
                };
                self.why.store(why as u32, Relaxed);
                self.refused.store(number, Relaxed);
                None
            }
        }
    }

    fn socket() -> PathBuf {
        std::env::var_os("UMCG_SOCKET").map_or_else(|| PathBuf::from(proto::SOCKET), PathBuf::from)
    }

    fn serve_by(&self, mut group: KernelGroup, number: u32) -> Served {
        let futex = self.futex.clone();
        group.watch(move || futex.book().header().kernel.load(Acquire) == number);
        Served {
            number,
            forks: tls::forks(),
            group: Arc::new(group),
        }
    }

    fn join(&self, number: u32) -> Result<Served> {
        let words = &self.futex.book().header().ticket;
        let mut ticket = [0; 32];
        for (bytes, word) in ticket.chunks_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Relaxed).to_le_bytes());
        }
        match kernel::join(&Self::socket(), &ticket) {
            Ok(group) => Ok(self.serve_by(group, number)),
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    self.retire(number, None);
                }
                Err(error)
            }
        }
    }

    /// Asks the daemon for a new instance. One process at a time.
    fn found(&self, number: u32, now: u64) -> Result<Served> {
        let header = self.futex.book().header();
        let since = header.entering_ns.load(Relaxed);
        let busy = || Error::new(ErrorKind::Again, "group_create", since);
        let mine = (since == 0 || now.saturating_sub(since) > ENTER_NS)
            && header
                .entering_ns
                .compare_exchange(since, now, AcqRel, Relaxed)
                .is_ok();
        if !mine {
            return Err(busy());
        }
        let made = kernel::connect(&Self::socket(), &self.config).and_then(|group| {
            let ticket = group.ticket();
            for (bytes, word) in ticket.chunks(8).zip(&header.ticket) {
                let mut eight = [0; 8];
                eight.copy_from_slice(bytes);
                word.store(u64::from_le_bytes(eight), Relaxed);
            }
            let next = number.wrapping_add(1);
            let won = header
                .kernel
                .compare_exchange(number, next, AcqRel, Relaxed)
                .is_ok();
            won.then(|| self.serve_by(group, next)).ok_or_else(busy)
        });
        header.entering_ns.store(0, Release);
        made
    }

    /// Instance `number` serves nobody any more.
    pub(super) fn retire(&self, number: u32, group: Option<&KernelGroup>) {
        let kernel = &self.futex.book().header().kernel;
        let next = number.wrapping_add(1);
        let first = kernel
            .compare_exchange(number, next, AcqRel, Relaxed)
            .is_ok();
        self.why.store(Why::DaemonGone as u32, Relaxed);
        if first && let Some(group) = group {
            fence(SeqCst);
            group.rouse();
        }
    }

    pub(crate) fn is_bpf_denied(&self) -> bool {
        self.served().is_some_and(|it| it.group.is_denied())
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.served() {
            Some(served) => served.group.mode(),
            None => Mode::FutexOnly(Why::from_number(self.why.load(Relaxed))),
        }
    }
}
