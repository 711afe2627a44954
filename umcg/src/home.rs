//! Where a member lives: at the kernel, served by the daemon's BPF, or in the words of
//! the book, served by futexes. Each thread moves by itself; nobody waits for another.
//!
//! `kernel` in the book's header is odd while a daemon serves the group; each time that
//! it becomes odd is another *instance*. `home` in a member's record names the instance
//! and its id there; 0 = it lives in the book. A member that does not live in the book is
//! RUNNING without a slot there: the one state in which a wake is remembered and that it
//! may leave in any direction when it comes back.
//!
//! - *To the book.* A call at the kernel says `Gone`. The thread makes `kernel` even, rouses
//!   who sleeps there, makes its `home` 0, and then looks at its last word there: RUNNABLE
//!   or RUNNING, it queues in the book; a wake remembered, it takes it along.
//! - *To the kernel.* Only from RUNNING without a slot. A server that runs nobody gives
//!   its slot in the book up first. IDLE workers stay where they sleep: while `kernel`
//!   is odd, whoever makes one RUNNABLE lets it go on without a slot
//!   ([`send_off`](crate::futex)), and it asks the kernel's servers for one on its way out.
//!
//! No wake is lost when a thread moves, either way, in two columns:
//!
//! ```text
//! waker                              | mover
//!   h = home                         |   home = the new one      (full barrier)
//!   wakes where h says  (full barr.) |   looks for a wake where it was, and
//!   home is another now: again       |   takes it along
//! ```
//!
//! Either the waker finds the new home, or the mover finds the wake. Both: one wake too
//! many, which each wait allows. Models: `loom_home_wake_vs_move_*`.

mod instance;
mod moves;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crate::backend::{Backend, Kind};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Member, Reason, Snapshot, Woken};
use crate::futex::FutexGroup;
use crate::kernel::KernelGroup;
use crate::mode::{GroupConfig, Why};
use crate::sync::Ordering::{Acquire, Relaxed, SeqCst};
use crate::sync::{AtomicU32, AtomicU64, fence};
use crate::word::State;

/// Moves that a waker follows.
const MOVES: u32 = 8;

/// An instance as this process sees it.
#[derive(Clone)]
struct Served {
    number: u32,
    forks: u32,
    group: Arc<KernelGroup>,
}

/// `home` of a member: instance, index and generation there.
fn home_of(number: u32, id: Id) -> u64 {
    u64::from(number as u16) << 48 | u64::from(id.index() as u16) << 32 | u64::from(id.generation())
}

fn is_at(home: u64, served: &Served) -> bool {
    (home >> 48) as u16 == served.number as u16
}

fn id_at_kernel(home: u64) -> Id {
    Id::new((home >> 32) as u16 as u32, home as u32)
}

fn lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Gone | ErrorKind::Stale)
}

fn is_unknown(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// The calling thread's member `id` is none any more: another class than BPF's had the thread,
/// for good or while it held a lock that a real-time thread waited for.
fn was_put_out(error: &Error, served: &Served, id: Id) -> bool {
    is_unknown(error) && served.group.has_left(id)
}

/// A group with both ways to serve it.
pub(crate) struct Home {
    pub(crate) futex: Arc<FutexGroup>,
    served: RwLock<Option<Served>>,
    /// One thread of the process at a time asks the daemon.
    entering: Mutex<()>,
    /// The instance that this process could not join.
    refused: AtomicU32,
    next_try_ns: AtomicU64,
    /// A server that is served by nobody but the book looks no sooner whether that has changed.
    stay_until_ns: AtomicU64,
    why: AtomicU32,
    config: GroupConfig,
}

impl Home {
    pub(crate) fn create(config: &GroupConfig) -> Result<Self> {
        let home = Self::over(FutexGroup::create(config, Why::NoDaemon)?, config.clone());
        home.enter();
        Ok(home)
    }

    pub(crate) fn open(fd: OwnedFd) -> Result<Self> {
        let futex = FutexGroup::open(fd, Why::NoDaemon)?;
        let config = GroupConfig {
            max_members: futex.book().max_members(),
            name: futex.book().name(),
            policy: futex.book().policy(),
            share: futex.book().header().share.load(Relaxed),
            quantum: Duration::from_micros(futex.book().header().quantum_us.load(Relaxed).into()),
            idle: futex.book().idle(),
            ..GroupConfig::default()
        };
        let home = Self::over(futex, config);
        home.enter();
        Ok(home)
    }

    fn over(futex: FutexGroup, config: GroupConfig) -> Self {
        let asked = futex.book().header().futex_only.load(Relaxed) != 0;
        let why = if asked { Why::Asked } else { Why::NoDaemon };
        Self {
            futex: Arc::new(futex),
            served: RwLock::new(None),
            entering: Mutex::new(()),
            refused: AtomicU32::new(0),
            next_try_ns: AtomicU64::new(if asked { u64::MAX } else { 0 }),
            stay_until_ns: AtomicU64::new(0),
            why: AtomicU32::new(why as u32),
            config,
        }
    }

    fn number(&self) -> u32 {
        self.futex.book().header().kernel.load(Acquire)
    }

    fn home(&self, id: Id) -> u64 {
        let member = self.futex.book().member(id);
        member.map_or(0, |(_, side)| side.home.load(Acquire))
    }

    /// Where `id` lives, if that is an instance that this process has joined.
    fn at_kernel(&self, id: Id) -> Option<(Served, Id)> {
        let home = self.home(id);
        if home == 0 {
            return None;
        }
        let served = self.served().filter(|it| is_at(home, it))?;
        Some((served, id_at_kernel(home)))
    }

    /// The same by its `home`, from a handler.
    fn at_kernel_now(&self, home: u64) -> Option<(Served, Id)> {
        if home == 0 {
            return None;
        }
        let served = self.served_now().filter(|it| is_at(home, it))?;
        Some((served, id_at_kernel(home)))
    }

    /// The kernel's event in the group's names.
    fn named(&self, event: Event) -> Event {
        let id = Id::from_raw(event.cookie);
        let mut named = Event {
            worker: id,
            at_ns: clock::to_caller(event.at_ns),
            ..event
        };
        if let Some(side) = self.futex.book().sides().get(id.index() as usize) {
            named.cookie = self.futex.book().cookie(id);
            if event.reason == Reason::Exited {
                side.first_told(id);
                self.futex.forget_dead(id);
            }
            if event.reason == Reason::New && side.runs.load(Relaxed) != 0 {
                named.reason = Reason::Woken;
            }
        }
        named
    }

    pub(crate) fn register(&self, kind: Kind, cookie: u64, told: &mut dyn FnMut(Id)) -> Result<Id> {
        let id = match self.futex.admit(kind, cookie) {
            Err(error) if error.kind() == ErrorKind::Full => {
                self.bury_dead();
                self.futex.admit(kind, cookie)?
            }
            admitted => admitted?,
        };
        told(id);
        let done = match self.enter() {
            Some(served) => self.to_kernel(id, kind, &served),
            None => Ok(false),
        };
        if !done? {
            match kind {
                Kind::Server => self.futex.enter_slot(id)?,
                Kind::Worker => self.queue_up(id)?,
            }
        }
        Ok(id)
    }

    pub(crate) fn unregister(&self, me: Id) -> Result<()> {
        let told = self.at_kernel(me).is_some_and(|(served, id)| {
            // BPF may have seen it leave before, by a change of class.
            served.group.unregister(id).is_ok() || served.group.has_left(id)
        });
        self.futex.leave(me, told)?;
        self.call_for_unlisted();
        Ok(())
    }

    /// A server at the kernel has to look at the book, where somebody left a notice.
    fn call_for_unlisted(&self) {
        if self.futex.book().header().unlisted.load(Relaxed) == 0 {
            return;
        }
        let members = self.futex.list().unwrap_or_default();
        let server = members.iter().find(|it| it.kind == Kind::Server);
        if let Some(server) = server {
            let _ = self.wake(server.id);
        }
        // pairs with next_event()
    }

    pub(crate) fn run(
        &self,
        me: Id,
        worker: Id,
        ends_wait: bool,
        deadline_ns: u64,
    ) -> Result<Event> {
        self.settle(me)?;
        let theirs = self.home(worker);
        let Some((served, id)) = self.at_kernel(me) else {
            if self.home(me) != 0 {
                self.put_out_server(me, None)?;
            }
            if theirs != 0 {
                return Err(self.not_here_yet(worker));
            }
            return self.futex.run_if(me, worker, ends_wait, deadline_ns);
        };
        if theirs == 0 || !is_at(theirs, &served) {
            self.futex_member(worker)?;
            return Err(self.not_here_yet(worker));
        }
        if let Some((_, side)) = self.futex.book().member(worker) {
            side.runs.store(1, Relaxed);
        }
        let to = clock_to_machine(deadline_ns);
        let ran = served.group.run_if(id, id_at_kernel(theirs), ends_wait, to);
        match ran {
            Ok(event) => Ok(self.named(event)),
            Err(error) if lost(&error) => {
                self.server_to_book(me, &served)?;
                Ok(self.rescued(worker))
            }
            Err(error) if was_put_out(&error, &served, id) => {
                self.put_out_server(me, Some(&served))?;
                Err(self.not_here_yet(worker))
            }
            Err(error) => Err(error),
        }
    }

    fn futex_member(&self, id: Id) -> Result<()> {
        self.futex.state(id).map(|_| ())
    }

    pub(crate) fn next_event(&self, me: Id, deadline_ns: u64) -> Result<Event> {
        loop {
            self.settle(me)?;
            let Some((served, id)) = self.at_kernel(me) else {
                if self.home(me) != 0 {
                    self.put_out_server(me, None)?;
                }
                return self.futex.next_event(me, deadline_ns);
            };
            if let Some(event) = self.futex.take_unlisted() {
                return Ok(event);
            }
            match served.group.next_event(id, clock_to_machine(deadline_ns)) {
                Ok(event) => return Ok(self.named(event)),
                Err(error) if lost(&error) => self.server_to_book(me, &served)?,
                Err(error) if was_put_out(&error, &served, id) => {
                    self.put_out_server(me, Some(&served))?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn wait(&self, me: Id, deadline_ns: u64) -> Result<Woken> {
        if let Some((served, id)) = self.at_kernel(me) {
            match served.group.wait(id, clock_to_machine(deadline_ns)) {
                Err(error) if lost(&error) => {
                    if let Some(woken) = self.worker_to_book(me, &served, deadline_ns)? {
                        return Ok(woken);
                    }
                }
                Err(error) if was_put_out(&error, &served, id) => {
                    self.come_again(me, &served)?;
                    return self.wait(me, deadline_ns);
                }
                result => return result,
            }
        } else if self.home(me) != 0 {
            self.to_book(me, Kind::Worker, None);
        }
        let woken = self.futex.wait(me, deadline_ns);
        self.move_on(me);
        woken
    }

    pub(crate) fn switch(&self, me: Id, to: Id, deadline_ns: u64) -> Result<Woken> {
        let theirs = self.home(to);
        if let Some((served, id)) = self.at_kernel(me) {
            if is_at(theirs, &served) && theirs != 0 {
                let deadline = clock_to_machine(deadline_ns);
                match served.group.switch(id, id_at_kernel(theirs), deadline) {
                    Err(error) if lost(&error) => {
                        let _ = self.wake(to);
                        if let Some(woken) = self.worker_to_book(me, &served, deadline_ns)? {
                            return Ok(woken);
                        }
                    }
                    Err(error) if was_put_out(&error, &served, id) => {
                        self.come_again(me, &served)?;
                        return self.switch(me, to, deadline_ns);
                    }
                    result => return result,
                }
            } else {
                self.wake(to)?;
            }
            return self.wait(me, deadline_ns);
        }
        if self.home(me) != 0 {
            self.to_book(me, Kind::Worker, None);
        }
        if theirs != 0 {
            self.wake(to)?;
            return self.wait(me, deadline_ns);
        }
        let woken = self.futex.switch(me, to, deadline_ns);
        self.move_on(me);
        woken
    }

    pub(crate) fn yield_now(&self, me: Id) -> Result<()> {
        if let Some((served, id)) = self.at_kernel(me) {
            match served.group.yield_now(id) {
                Err(error) if lost(&error) => {
                    if self.worker_to_book(me, &served, 0)?.is_some() {
                        return Ok(());
                    }
                }
                // Listed anew, it has given its slot up.
                Err(error) if was_put_out(&error, &served, id) => {
                    return self.come_again(me, &served);
                }
                result => return result,
            }
        } else if self.home(me) != 0 {
            self.to_book(me, Kind::Worker, None);
        }
        let done = self.futex.yield_now(me);
        self.move_on(me);
        done
    }

    pub(crate) fn wake(&self, who: Id) -> Result<()> {
        self.futex_member(who)?;
        for _ in 0..MOVES {
            let home = self.home(who);
            let served = match home {
                0 => None,
                _ => self.enter().filter(|it| is_at(home, it)),
            };
            // An instance that nobody serves: it looks here when it comes.
            let woken = match &served {
                Some(served) => served.group.wake(id_at_kernel(home)),
                None => self.futex.wake(who),
            };
            fence(SeqCst);
            if self.home(who) == home {
                match woken {
                    Err(error) if home != 0 && error.kind() == ErrorKind::WrongState => continue,
                    Err(error) if home != 0 && is_unknown(&error) => {
                        // Put out in its sleep, it has to look.
                        served.inspect(|it| it.group.wake_sleeper(id_at_kernel(home)));
                        break;
                    }
                    Err(error) if home != 0 && lost(&error) => break,
                    woken => return woken,
                }
            }
            // pairs with to_kernel() and to_book()
        }
        self.futex.wake(who)
    }

    pub(crate) fn kick(&self, who: Id) -> Result<()> {
        let home = self.home(who);
        if home != 0
            && let Some(served) = self.enter().filter(|it| is_at(home, it))
        {
            return served.group.kick(id_at_kernel(home));
        }
        self.futex.kick(who)
    }

    /// Async-signal-safe.
    pub(crate) fn kick_self(&self, me: Id) -> Result<()> {
        let home = self.home(me);
        if home == 0 {
            return self.futex.kick_self(me);
        }
        match self.at_kernel_now(home) {
            Some((served, id)) => served.group.kick_self(id),
            None => Err(Error::new(ErrorKind::Again, "kick_self", me.raw())),
        }
    }

    /// The kernel's side alone has a quantum.
    pub(crate) fn show_alone(&self, server: Id, alone: bool) {
        if let Some((served, id)) = self.at_kernel(server) {
            served.group.show_alone(id, alone);
        }
    }

    /// Async-signal-safe; the kernel's side alone forces anybody off in a section.
    pub(crate) fn show_sections(&self, me: Id, count: u32) {
        if let Some((served, id)) = self.at_kernel_now(self.home(me)) {
            served.group.show_sections(id, count);
        }
    }

    /// Async-signal-safe; nobody is forced off by keys in futex-only mode.
    pub(crate) fn show_key(&self, me: Id, key: u64) {
        if let Some((served, id)) = self.at_kernel_now(self.home(me)) {
            served.group.show_key(id, key);
        }
    }

    /// Async-signal-safe.
    pub(crate) fn follow_put_off(&self, me: Id) {
        if let Some((served, id)) = self.at_kernel_now(self.home(me)) {
            served.group.follow_put_off(id);
        }
    }

    /// Async-signal-safe; yes in doubt.
    pub(crate) fn is_running(&self, me: Id) -> bool {
        let home = self.home(me);
        let state = match home {
            0 => self.futex.state(me),
            _ => match self.at_kernel_now(home) {
                Some((served, id)) => served.group.state(id),
                None => return true,
            },
        };
        state.is_ok_and(|it| it.state == State::Running)
    }

    pub(crate) fn state(&self, who: Id) -> Result<Snapshot> {
        if let Some((served, id)) = self.at_kernel(who)
            && let Ok(mut state) = served.group.state(id)
        {
            state.since_ns = clock::to_caller(state.since_ns);
            return Ok(state);
        }
        self.futex.state(who)
    }

    /// Removes members that died without a word: servers, of which nobody tells, and
    /// workers that lived on for a while after they had left the kernel's side, as one
    /// does that runs another program.
    fn bury_dead(&self) {
        let has_left = |id| {
            let kernel = self.at_kernel(id);
            kernel.is_some_and(|(served, id)| served.group.has_left(id))
        };
        for member in self.futex.list().unwrap_or_default() {
            if member.kind == Kind::Server || has_left(member.id) {
                self.futex.forget_dead(member.id);
            }
        }
    }

    pub(crate) fn list(&self) -> Result<Vec<Member>> {
        self.bury_dead();
        let mut members = self.futex.list()?;
        for member in &mut members {
            if let Ok(state) = self.state(member.id) {
                member.state = state.state;
            }
        }
        Ok(members)
    }
}

/// A deadline in the machine's time; 0 and for ever stay.
fn clock_to_machine(deadline_ns: u64) -> u64 {
    match deadline_ns {
        0 | u64::MAX => deadline_ns,
        _ => clock::to_machine(deadline_ns),
    }
}
