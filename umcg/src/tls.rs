//! What the calling thread is, found without a look-up and from signal handlers too.
//!
//! [`ME`] is plain cells without a destructor: a handler may read it at any moment.
//! [`SEAT`] owns the membership: whatever ends the thread drops it, and that
//! unregisters. The cells are filled after the seat and emptied before it.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::compiler_fence;

use crate::backend::Kind;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Id;
use crate::futex::sys;
use crate::group::Inner;
use crate::key::KEY_NONE;

/// The calling thread, as its signal handlers see it.
struct Me {
    group: Cell<*const Inner>,
    id: Cell<Id>,
    server: Cell<bool>,
    /// Calls of the library that the thread is in.
    depth: Cell<u32>,
    /// A handler kicked while `depth` was not 0: due when the call ends.
    kicked: Cell<bool>,
    forks: Cell<u32>,
    /// Sections without preemption that the thread is in; each counts in `depth` as well.
    sections: Cell<u32>,
    key: Cell<u64>,
}

/// The membership.
struct Seat {
    group: Arc<Inner>,
    id: Id,
    forks: u32,
}

thread_local! {
    static ME: Me = const {
        Me {
            group: Cell::new(std::ptr::null()),
            id: Cell::new(Id::NONE),
            server: Cell::new(false),
            depth: Cell::new(0),
            kicked: Cell::new(false),
            forks: Cell::new(0),
            sections: Cell::new(0),
            key: Cell::new(KEY_NONE),
        }
    };
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// Forks that led to this process: a child is no member, whatever its memory says.
pub(crate) fn forks() -> u32 {
    sys::FORKS.load(Relaxed)
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.forks == forks() {
            // A thread that ends cannot do anything about a failure.
            let _ = self.group.unregister(self.id);
        }
    }
}

/// The calling thread is member `id` of `group` from now on.
pub(crate) fn sit(group: &Arc<Inner>, id: Id, kind: Kind) {
    let seat = Seat {
        group: group.clone(),
        id,
        forks: forks(),
    };
    SEAT.with_borrow_mut(|old| {
        // A seat of before a fork drops without unregistering.
        *old = Some(seat);
    });
    ME.with(|me| {
        me.id.set(id);
        me.server.set(kind == Kind::Server);
        me.kicked.set(false);
        me.forks.set(forks());
        compiler_fence(SeqCst);
        me.group.set(Arc::as_ptr(group));
    });
}

/// The calling thread is no member any more; unregisters it.
pub(crate) fn stand_up(id: Id) -> Result<()> {
    if current().is_none_or(|(_, me, _)| me != id) {
        return Err(Error::new(ErrorKind::NotFound, "unregister", id.raw()));
    }
    ME.with(|me| {
        me.group.set(std::ptr::null());
        compiler_fence(SeqCst);
        me.id.set(Id::NONE);
        me.kicked.set(false);
    });
    // The thread may be ending and the seat be gone.
    let seat = SEAT.try_with(RefCell::take).ok().flatten();
    // Its drop unregisters.
    match seat {
        Some(seat) => {
            drop(seat);
            Ok(())
        }
        None => Err(Error::new(ErrorKind::NotFound, "unregister", id.raw())),
    }
}

/// The calling thread's group and id, and whether it is a server; `None` for a thread
/// that is no member, so also for the child of a fork. Async-signal-safe.
pub(crate) fn current() -> Option<(&'static Inner, Id, bool)> {
    ME.try_with(|me| {
        let group = me.group.get();
        if group.is_null() || me.forks.get() != forks() {
            return None;
        }
        // SAFETY: the seat holds the group while the pointer is set; callers use the
        // reference within one call of the calling thread, which cannot stand up in
        // between.
        Some((unsafe { &*group }, me.id.get(), me.server.get()))
    })
    .ok()
    .flatten()
}

/// The calling thread's group, for calls that have no handle.
pub(crate) fn current_group() -> Option<(Arc<Inner>, Id, bool)> {
    let (_, id, server) = current()?;
    let group = SEAT.with_borrow(|seat| seat.as_ref().map(|seat| seat.group.clone()))?;
    Some((group, id, server))
}

/// While it lives the thread is in a call of the library, and a kick from a handler
/// waits for its end.
#[derive(Debug)]
pub(crate) struct Busy(());

impl Busy {
    pub(crate) fn enter() -> Self {
        let _ = ME.try_with(|me| me.depth.set(me.depth.get() + 1));
        compiler_fence(SeqCst);
        Self(())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        compiler_fence(SeqCst);
        let outermost = ME.try_with(|me| {
            me.depth.set(me.depth.get() - 1);
            me.depth.get() == 0
        });
        if outermost == Ok(true) {
            follow_kick();
        }
    }
}

/// Sections without preemption that the calling thread is in.
pub(crate) fn sections() -> u32 {
    ME.try_with(|me| me.sections.get()).unwrap_or(0)
}

/// The calling thread is in one section more. Async-signal-safe, as its end is.
pub(crate) fn enter_section() {
    let _ = ME.try_with(|me| {
        // First: a handler that comes between must not believe that it may kick.
        me.depth.set(me.depth.get() + 1);
        me.sections.set(me.sections.get() + 1);
    });
    compiler_fence(SeqCst);
    show_sections();
}

/// And in one less; follows what was put off if it was the last. False: it was in none.
pub(crate) fn leave_section() -> bool {
    compiler_fence(SeqCst);
    let left = ME.try_with(|me| {
        let left = me.sections.get().checked_sub(1)?;
        me.sections.set(left);
        Some(left)
    });
    let Some(left) = left.ok().flatten() else {
        return false;
    };
    show_sections();
    compiler_fence(SeqCst);
    let outermost = ME.try_with(|me| {
        me.depth.set(me.depth.get() - 1);
        me.depth.get() == 0
    });
    if left == 0 && outermost == Ok(true) {
        follow_kick();
        if let Some((group, id, false)) = current() {
            group.follow_put_off(id);
        }
    }
    true
    // pairs with put_off() in gkick.bpf.h
}

/// Says so where BPF reads it.
fn show_sections() {
    if let Some((group, id, false)) = current() {
        group.show_sections(id, sections());
    }
}

/// The calling thread's key.
pub(crate) fn key() -> u64 {
    ME.try_with(|me| me.key.get()).unwrap_or(KEY_NONE)
}

/// See [`crate::set_key`].
pub(crate) fn set_key(key: u64) {
    let _ = ME.try_with(|me| me.key.set(key));
    if let Some((group, id, false)) = current() {
        group.show_key(id, key);
    }
}

/// Gives the slot up if the calling worker was kicked meanwhile.
pub(crate) fn follow_kick() {
    let Some((group, id, false)) = current() else {
        return;
    };
    let kicked = ME.with(|me| me.kicked.replace(false));
    if kicked || group.has_request(id) {
        // It may have left RUNNING for another reason meanwhile: that will do.
        let _ = kick_self();
    }
}

/// See [`crate::kick_self`].
pub(crate) fn kick_self() -> Result<()> {
    let none = || Error::new(ErrorKind::NotFound, "kick_self", 0);
    let Some((group, id, false)) = current() else {
        return Err(none());
    };
    let errno = sys::errno();
    let depth = ME.with(|me| me.depth.get());
    let result = if depth == 0 {
        // Not by Busy: its end would come here again.
        loop {
            ME.with(|me| {
                me.kicked.set(false);
                me.depth.set(1);
            });
            compiler_fence(SeqCst);
            let result = group.kick_self(id);
            compiler_fence(SeqCst);
            ME.with(|me| me.depth.set(0));
            // Run again, it may have been kicked on its way out of the call: that is a
            // kick of the new stint.
            let again = ME.with(|me| me.kicked.get()) || group.has_request(id);
            if result.is_err() || !again {
                break result;
            }
        }
    } else {
        // One that waits has given its slot up already.
        if group.is_running(id) {
            ME.with(|me| me.kicked.set(true));
        }
        Ok(())
    };
    sys::set_errno(errno);
    result
}

/// The handler of [`crate::Preempt::Signal`].
pub(crate) extern "C" fn on_signal(_signal: i32) {
    if let Some((group, id, false)) = current()
        && group.has_request(id)
    {
        let _ = kick_self();
    }
}
