//! What a task asks of the runtime's policy for itself.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use umcg_policy::{Attrs, Refused};

use super::{Shared, yield_now};
use crate::event::Id;

thread_local! {
    static HERE: RefCell<Option<(Arc<Shared>, Id)>> = const { RefCell::new(None) };
    /// What the task has now; nothing between two tasks.
    static ATTRS: Cell<Attrs> = const { Cell::new(NOTHING) };
}

const NOTHING: Attrs = Attrs {
    weight: None,
    level: None,
    tier: None,
    reservation: None,
};

/// Asks the policy for `attrs` for the calling task, until it ends or asks for others. Then gives
/// the slot up, so that the policy chooses by them: returns when it picks the task again.
///
/// With [`Queue::PerServer`](super::Queue::PerServer) each queue's policy has to agree, as
/// the task may come to run from any of them.
///
/// ```
/// use umcg::policy::{Attrs, Refused, Reservation};
/// use umcg::runtime::{Builder, assign};
///
/// let runtime = Builder::new().policy("deadline").build()?;
/// let task = runtime.spawn(|| {
///     let attrs = |runtime_us| Attrs {
///         reservation: Some(Reservation::periodic(runtime_us, 10_000)),
///         ..Attrs::default()
///     };
///     // 0.98 of a server is more than the 0.95 that can be promised.
///     assert!(matches!(assign(&attrs(9_800)), Err(Refused::Unmet { .. })));
///     assign(&attrs(2_000))
/// });
/// assert_eq!(task.join().expect("no panic"), Ok(()));
/// # Ok::<(), umcg::Error>(())
/// ```
///
/// # Errors
///
/// What the policy refuses; the attributes are then as before. [`Refused::NoTask`] elsewhere.
pub fn assign(attrs: &Attrs) -> Result<(), Refused> {
    let (shared, me) = HERE.with_borrow(Clone::clone).ok_or(Refused::NoTask)?;
    let old = ATTRS.get();
    for (at, queue) in shared.ready.iter().enumerate() {
        let refused = queue.lock().assign(me, attrs).err();
        let Some(refused) = refused else {
            continue;
        };
        for queue in &shared.ready[..at] {
            // What it granted before, and nobody else asked meanwhile for what it gives back here.
            let _ = queue.lock().assign(me, &old);
        }
        return Err(refused);
    }
    ATTRS.set(*attrs);
    yield_now();
    Ok(())
}

/// The calling thread runs tasks of `shared` as `me`.
pub(super) fn enter(shared: &Arc<Shared>, me: Id) {
    HERE.set(Some((shared.clone(), me)));
}

/// It runs no more.
pub(super) fn leave() {
    HERE.set(None);
}

/// A task has ended: the next one on this thread starts with nothing.
pub(super) fn end_task(shared: &Shared, me: Id) {
    let had = ATTRS.replace(NOTHING) != NOTHING;
    for queue in &shared.ready {
        let mut ready = queue.lock();
        ready.end_task(me);
        if had {
            // To ask for nothing is never refused.
            let _ = ready.assign(me, &NOTHING);
        }
    }
}
