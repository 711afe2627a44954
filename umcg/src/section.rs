//! Sections in which a worker is not forced off its slot.

use std::marker::PhantomData;

use crate::tls;

/// A section of the calling thread without preemption; dropping it ends the section.
#[doc(alias = "umcg_preempt_disable")]
#[derive(Debug)]
#[must_use = "dropping it ends the section"]
pub struct NoPreempt {
    not_send: PhantomData<*mut ()>,
}

/// Begins a section in which the calling worker is not forced off: by a kick, the deadline
/// of its run, its group's quantum, or a handler of its own. Sections nest. No system call,
/// and none at the end either, but for a kick that came meanwhile: the worker gives its
/// slot up there, as if it were kicked then.
///
/// For the time that a lock of user space is held, so that no other worker meets it while
/// its owner waits for a server. In kernel mode one that lasts for longer than 1 ms after a
/// kick is ended by force, and counted (`grp_abuse` of `scx_umcg status`). In futex-only
/// mode nothing ends it.
///
/// No promise about the CPU: the system scheduler may give that to another thread, or the
/// worker may block. On a thread that is no worker it does nothing.
///
/// Source: UMCG's LOCKED flag; `schedctl_start` of Solaris.
#[doc(alias = "umcg_preempt_disable")]
pub fn no_preempt() -> NoPreempt {
    enter();
    NoPreempt {
        not_send: PhantomData,
    }
}

impl Drop for NoPreempt {
    fn drop(&mut self) {
        leave();
    }
}

/// As [`no_preempt`], for who has no place for what it returns.
#[doc(hidden)]
pub fn enter() {
    tls::enter_section();
}

/// Ends the section that [`enter`] began; false: the thread is in none.
#[doc(hidden)]
pub fn leave() -> bool {
    tls::leave_section()
}
