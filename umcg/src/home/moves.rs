//! A member moves between the kernel and the book, by its own thread. The protocol is in
//! [`super`].

use super::instance::TRY_NS;
use super::{Home, Served, home_of, id_at_kernel, lost};
use crate::backend::{Backend, Kind};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Reason, Woken};
use crate::sync::Ordering::{Relaxed, SeqCst};
use crate::sync::fence;
use crate::word::{PENDING, State, TIMEDOUT, Word};

impl Home {
    /// The calling thread's member `me`, RUNNING without a slot in the book, moves to the
    /// kernel; a worker returns when a server there runs it. False: it stays, and so it does where
    /// there is no room: `Full`.
    pub(super) fn to_kernel(&self, me: Id, kind: Kind, served: &Served) -> Result<bool> {
        let Some((_, side)) = self.futex.book().member(me) else {
            return Ok(false);
        };
        let mut told = |id: Id| {
            side.home.store(home_of(served.number, id), SeqCst);
            fence(SeqCst);
            if kind == Kind::Worker && self.futex.take_wake(me) {
                let _ = served.group.wake(id);
            }
            // pairs with wake()
        };
        let newcomer = side.runs.load(Relaxed) == 0;
        let mut enlist = || served.group.enlist(kind, me.raw(), newcomer, &mut told);
        let mut result = enlist();
        if (result.as_ref()).is_err_and(|error| error.kind() == ErrorKind::Registered) {
            // In an instance that is over for the group, but not for BPF.
            served.group.leave_any();
            result = enlist();
        }
        match result {
            Ok(_) => Ok(true),
            Err(error) => {
                if lost(&error) {
                    self.retire(served.number, Some(&served.group));
                }
                self.to_book(me, kind, Some(served));
                match error.kind() {
                    ErrorKind::Full => Err(error),
                    _ => Ok(false),
                }
            }
        }
    }

    /// The calling thread's member `me` moves to the book, RUNNING without a slot; a
    /// worker takes its wake along. Its last word at the kernel.
    pub(super) fn to_book(&self, me: Id, kind: Kind, served: Option<&Served>) -> Word {
        let Some((_, side)) = self.futex.book().member(me) else {
            return Word(0);
        };
        let home = side.home.swap(0, SeqCst);
        fence(SeqCst);
        // pairs with wake()
        if home == 0 {
            return Word(0);
        }
        let id = id_at_kernel(home);
        let word = match served {
            Some(served) => served.group.last_word(id),
            None => Word(PENDING), // nobody knows: one wake too many
        };
        if kind == Kind::Worker && word.flags() & PENDING != 0 {
            let _ = self.futex.wake(me);
        }
        if let Some(served) = served {
            // It may be served yet, when only this thread was not.
            let _ = served.group.move_away(id);
        }
        word
    }

    /// What the kernel says of the calling worker is over: it goes on in the book.
    /// Returns when it is run there, `Some` if its wait is over.
    ///
    /// RUNNING, not only RUNNABLE, means that it is: as BPF ends, it lets all run, with
    /// no slot. Or the wait had not begun: then it ends early, as if woken.
    pub(super) fn worker_to_book(
        &self,
        me: Id,
        served: &Served,
        deadline_ns: u64,
    ) -> Result<Option<Woken>> {
        self.retire(served.number, Some(&served.group));
        let word = self.to_book(me, Kind::Worker, Some(served));
        if !matches!(word.state(), Some(State::Runnable | State::Running)) {
            return Ok(None);
        }
        let late = word.flags() & TIMEDOUT != 0 && clock::now() >= deadline_ns;
        self.queue_up(me)?;
        Ok(Some(if late { Woken::TimedOut } else { Woken::Woken }))
    }

    /// A worker that was let go without a slot asks the kernel's servers for one.
    pub(super) fn move_on(&self, me: Id) {
        while self.home(me) == 0 && self.number() & 1 == 1 && self.futex.is_slotless(me) {
            let Some(served) = self.enter() else { break };
            if self.to_kernel(me, Kind::Worker, &served).unwrap_or(false) {
                break;
            }
            if self.number() == served.number {
                break; // refused: it runs on without a slot
            }
            if self.futex.queue_me(me).is_err() {
                break;
            }
        }
    }

    /// The calling worker, which BPF has put out, is listed anew; it returns when a server runs
    /// it, or at once without a slot, if its class is another one yet.
    pub(super) fn come_again(&self, me: Id, served: &Served) -> Result<()> {
        self.to_book(me, Kind::Worker, Some(served));
        self.queue_up(me)
    }

    /// The calling worker is listed; it returns when a server runs it, wherever it is by then.
    pub(super) fn queue_up(&self, me: Id) -> Result<()> {
        self.futex.queue_me(me)?;
        self.move_on(me);
        Ok(())
    }

    /// A server that runs nobody moves to where the group is served.
    pub(super) fn settle(&self, me: Id) -> Result<()> {
        if self.home(me) != 0 {
            return Ok(());
        }
        let now = clock::machine_now();
        if now < self.stay_until_ns.load(Relaxed) {
            return Ok(());
        }
        let Some(served) = self.enter() else {
            return Ok(());
        };
        if self.futex.try_exit_slot(me) {
            if !self.to_kernel(me, Kind::Server, &served).unwrap_or(false) {
                let until = now.saturating_add(TRY_NS);
                self.stay_until_ns.store(until, Relaxed);
                return self.arrive(me);
            }
            // As in arrive().
            let _ = served.group.wake(id_at_kernel(self.home(me)));
        }
        Ok(())
    }

    /// Server `me` takes a slot in the book. A wake of the server itself may have missed
    /// it on the way: it finds one.
    pub(super) fn arrive(&self, me: Id) -> Result<()> {
        self.futex.enter_slot(me)?;
        self.futex.wake(me)
    }

    pub(super) fn server_to_book(&self, me: Id, served: &Served) -> Result<()> {
        self.retire(served.number, Some(&served.group));
        for event in served.group.take_all_left() {
            self.futex
                .tell_left(Id::from_raw(event.cookie), Word(event.tag));
        }
        self.put_out_server(me, Some(served))
    }

    /// `worker` lives elsewhere than the server that wants to run it: one that waits is
    /// woken, one that sits in the book, RUNNABLE and maybe on nobody's list any more,
    /// is sent off; it is listed when it has moved.
    pub(super) fn not_here_yet(&self, worker: Id) -> Error {
        let idle = self.state(worker).is_ok_and(|it| it.state == State::Idle);
        if idle {
            let _ = self.wake(worker);
        } else {
            self.futex.send_off(worker.index());
        }
        let kind = if idle {
            ErrorKind::Again
        } else {
            ErrorKind::WrongState
        };
        Error::new(kind, "run", worker.raw())
    }

    /// What `run` says when the daemon went away meanwhile.
    pub(super) fn rescued(&self, worker: Id) -> Event {
        let side = self.futex.book().sides().get(worker.index() as usize);
        Event {
            worker,
            cookie: side.map_or(0, |side| side.cookie.load(Relaxed)),
            reason: Reason::Rescued,
            source: None,
            tag: 0,
            at_ns: clock::now(),
            run_ns: 0,
            wait_ns: 0,
        }
    }

    /// Server `me` lives no more at its instance, which is `None` if that is over: the next
    /// [`settle`](Self::settle) looks where it may.
    pub(super) fn put_out_server(&self, me: Id, served: Option<&Served>) -> Result<()> {
        self.to_book(me, Kind::Server, served);
        self.arrive(me)
    }
}
