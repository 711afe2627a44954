//! Scheduling policies for scx_umcg: one trait, one file per policy, no unsafe code.
//!
//! A policy orders workers; it runs none. Whoever owns the server (the agent, or an application
//! with servers of its own) tells it what happened to a worker and asks it what to do. It sees
//! ids and [`Facts`], never shared memory, so it cannot corrupt what it decides about.
//!
//! # States
//!
//! - **RUNNABLE**: the worker wants a CPU and has none.
//! - **RUNNING**: it has one. A picked worker counts as running; of one that nobody picked a staged
//!   policy hears by `block`.
//! - **BLOCKED, IDLE**: it waits for an event, or has parked itself. It wants no CPU.
//! - **gone**: it left, or the caller lost track of it. Its id may come back as another worker.
//!
//! A worker is a **candidate** if the policy is staged, `enqueue` named it, and since then it was
//! neither picked nor named by `block` or `remove`. [`Policy::len`] counts the candidates and
//! nothing else; a keyed policy has none, ever.
//!
//! # Calls
//!
//! | call | candidates, staged | candidates, keyed | the worker is now |
//! |---|---|---|---|
//! | `enqueue(w)` | +1, or 0 if `w` was one: the entry is replaced | 0 | RUNNABLE |
//! | `pick()` | -1, or 0 and `None` if there is none | 0, `None` | chosen to run |
//! | `block(w)` | -1, or 0 if `w` was none | 0 | BLOCKED or IDLE; or RUNNING, picked by nobody |
//! | `remove(w)` | -1, or 0 if `w` was none | 0 | gone |
//! | `assign(w, attrs)` | 0 | 0 | as before |
//! | `len`, `is_empty`, `retune`, `traits`, `name`, `stage_budget_ns` | 0 | 0 | as before |
//!
//! Requires, of the caller:
//! - One call at a time, none from inside another one. `&mut self` sees to the first; a policy
//!   never calls back, which sees to the second. A policy may move between threads.
//! - `remove(w)` before the id `w` stands for another worker. Otherwise the newcomer keeps the
//!   terms and attributes of the old one; nothing else breaks.
//! - `retune` in each turn of a server, before it picks: a policy has its clock from there and
//!   from the facts.
//! - The keys of all candidates lie within 2^63 of each other. Otherwise their order is
//!   unspecified; nothing is lost.
//!
//! Granted, by every policy, and checked by `tests/conformance.rs`:
//! - No candidate is picked twice or lost.
//! - An id of `capacity` or above is ignored: `enqueue` returns [`Terms::default`].
//! - Memory is allocated by [`create`] alone. No other call allocates, blocks or panics; each
//!   takes O(log candidates) or less.
//!
//! # Races
//!
//! News of a worker is a hint and may be late: by the time of the call it can have moved on, and a
//! `block` may arrive after the `enqueue` that followed it in real time. A policy believes the
//! last call. So the caller checks the worker's word after `pick`; a stale choice is dropped (it
//! is no candidate any more) and comes back with its next `enqueue`. CAUTION: a worker that was
//! picked and then could not be run is enqueued again by the caller, or it is forgotten.
//!
//! # Starvation
//!
//! Each policy states it in the header of its file. The contract itself grants none: a policy that
//! never picks a worker is legal. The kernel side bounds the damage (relief valve, watchdog).
//!
//! ```
//! use umcg_policy::{Facts, WorkerId, create};
//!
//! let mut policy = create("fifo", None, 64)?;
//! policy.enqueue(WorkerId(3), &Facts::default());
//! assert_eq!(policy.pick(), Some(WorkerId(3)));
//! assert!(policy.is_empty());
//! # Ok::<(), umcg_policy::PolicyError>(())
//! ```

#![forbid(unsafe_code)]

mod arrival;
mod attrs;
mod bypid;
mod config;
mod deadline;
mod error;
mod fair;
mod fifo;
mod heap;
mod lanes;
mod lifo;
mod nice;
mod ordered;
mod priority;
mod queue;
mod quota;
mod rr;
mod weight;

use std::fmt;
use std::str::FromStr;

pub use attrs::{Attrs, Refused, Reservation};
pub use config::{NAMES, PolicyConfig, create, faults, options};
pub use error::{ErrorKind, PolicyError, UnknownDecide};
pub use heap::Heap;
pub use queue::Queue;

/// Index of a worker's record; stable while the worker lives, reused later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct WorkerId(pub u32);

/// What a policy may know about a worker, at the moment of the call.
///
/// The kernel side writes these while the caller reads them: each field is true, but two of them
/// may be some nanoseconds apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// CLOCK_MONOTONIC now.
    pub now_ns: u64,
    /// When it entered its present state.
    pub since_ns: u64,
    /// CPU time used since it became a worker.
    pub run_ns: u64,
    /// Time spent RUNNABLE since it became a worker.
    pub wait_ns: u64,
    /// EWMA of the CPU time between two sleeps; 0 before the first sleep.
    pub avg_ns: u32,
    /// CPU time since it last slept; so it is 0 at a `block`.
    pub burst_ns: u32,
    /// Its share against others on its CPU, by nice value and cgroups; 100 = nice 0 in the root.
    pub weight: u32,
    /// When it last woke, or came to be; not later than `since_ns`. A burst that began then is
    /// still the same one after a preemption.
    pub woke_ns: u64,
    /// When it became a worker.
    pub born_ns: u64,
    /// Its place in the kernel's order: virtual time or arrival. Wraps; compare by difference.
    pub key: u64,
    /// RUNNABLE because it was forced off the CPU.
    pub preempted: bool,
    /// RUNNABLE because it gave up the CPU.
    pub yielded: bool,
    /// Server that it was last parked on.
    pub home: u32,
    /// Its thread id, for policies that people drive by hand.
    pub pid: i32,
}

/// What a keyed policy tells BPF; used at the worker's next enqueue.
///
/// BPF trusts none of it: it clamps the bias and the weight, and takes the default slice for one
/// out of bounds (counted as `bad_hint`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Added to the virtual time, within +-5 ms; negative = earlier. Not charged: it moves a
    /// worker forward once per wait and changes no share.
    pub bias_ns: i64,
    /// Scales the weight, 1..=10000.
    pub weight_pct: u32,
    /// Slice, 100..=100000; 0 = the default one.
    pub slice_us: u32,
    /// The key itself, where the policy keeps the order alone ([`Order::Own`]).
    pub own_key: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            bias_ns: 0,
            weight_pct: 100,
            slice_us: 0,
            own_key: 0,
        }
    }
}

/// Who decides what runs next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Decide {
    /// BPF, by keys that the policy sets ahead of time; the agent is not asked.
    Keyed,
    /// The policy, by `pick`; BPF runs what was staged.
    Staged,
}

impl fmt::Display for Decide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Decide::Keyed => "key",
            Decide::Staged => "staged",
        })
    }
}

impl FromStr for Decide {
    type Err = UnknownDecide;

    fn from_str(text: &str) -> Result<Self, UnknownDecide> {
        match text {
            "key" => Ok(Decide::Keyed),
            "staged" => Ok(Decide::Staged),
            _ => Err(UnknownDecide::new(text)),
        }
    }
}

/// Who keeps the kernel's order. For a staged policy this is the order that serves its workers
/// while the agent is absent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// BPF, by weighted virtual time plus the policy's bias.
    Fair,
    /// BPF, by arrival.
    Arrival,
    /// BPF, by [`Facts::born_ns`].
    Birth,
    /// The policy, by [`Terms::own_key`]; a worker without terms comes first, for one slice: it could starve unheard otherwise.
    Own,
}

/// What a policy is and needs; constant over its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traits {
    /// How this instance decides: as asked of [`create`], or as the policy prefers.
    pub decide: Decide,
    /// The policy can be keyed.
    pub keyed: bool,
    /// The policy can be staged.
    pub staged: bool,
    /// Who keeps the kernel's order.
    pub order: Order,
    /// Wants `block()` as a source of history. Without it BPF makes no notice at a block, which
    /// is most of what an agent costs; `block` may then come late or never.
    pub history: bool,
    /// Keyed: wants a turn at least so often while its server's CPU is busy, news or not; 0 =
    /// only for news. Each turn costs an activation.
    pub tick_ns: u64,
    /// While nobody else waits a worker may go on after its quantum without coming back to the
    /// queue. Not where accounts go by turns: who comes later would find one with a debt.
    pub alone: bool,
}

impl Traits {
    /// Staged only, by arrival while no server is there: what most policies differ from in little.
    pub const STAGED: Traits = Traits {
        decide: Decide::Staged,
        keyed: false,
        staged: true,
        order: Order::Arrival,
        history: false,
        tick_ns: 0,
        alone: false,
    };
}

/// A scheduling policy. The crate's documentation has the contract: states, the effect of each
/// call on the number of candidates, and what is required of callers.
pub trait Policy: Send {
    // For everybody: what it is.

    /// The name that [`create`] knows it by.
    fn name(&self) -> &'static str;

    /// What it is and needs.
    fn traits(&self) -> Traits;

    /// Bytes of heap that [`create`] took for each worker of the capacity, each block rounded up
    /// to a power of two, as buddy allocators do. The agent refuses to start where its locked
    /// heap cannot hold one instance per CPU.
    fn bytes_per_worker(&self) -> usize {
        0
    }

    /// Candidates: RUNNABLE workers that `pick` may return.
    fn len(&self) -> usize;

    /// No candidates.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Staged: the caller picks further ones ahead while their expected work (the sum of `avg_ns`)
    /// is below this; 0 = one at a time, when a server has to be given somebody. What was picked
    /// ahead is out of the policy's hands; a better arrival waits behind it.
    fn stage_budget_ns(&self) -> u64 {
        u64::MAX
    }

    // For the owner of the server.

    /// `w` is RUNNABLE. Candidates: staged +1, or 0 if it was one: the new entry replaces the old.
    /// Keyed 0: only the terms count, nothing is kept for `pick`.
    ///
    /// The terms hold from the worker's next enqueue in the kernel until newer ones are returned.
    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms;

    /// The next candidate, which is none from now on. Candidates: -1, or 0 and `None`. Commutes
    /// with nothing: which one it is depends on all calls before.
    fn pick(&mut self) -> Option<WorkerId>;

    /// `w` went BLOCKED or IDLE, or the kernel's order has put a candidate on a CPU. Candidates:
    /// -1, or 0 if it was none. `None`: terms as before.
    fn block(&mut self, w: WorkerId, facts: &Facts) -> Option<Terms>;

    /// `w` is gone, or was found stale. Candidates: -1, or 0 if it was none. What the policy
    /// learned about it is forgotten. Idempotent.
    fn remove(&mut self, w: WorkerId);

    /// What is asked for `w`, from its next `enqueue` on until `remove(w)` or another call.
    /// Attributes that were set before and are not in `attrs` are unset. Candidates: 0.
    ///
    /// # Errors
    ///
    /// An attribute that the policy does not know, a value out of bounds, or a promise that it
    /// could not keep. All is then as before.
    fn assign(&mut self, _w: WorkerId, attrs: &Attrs) -> Result<(), Refused> {
        attrs.only("", self.name())
    }

    /// New terms without news of the worker: called in each turn of the server until it returns
    /// `None`, at least every [`Traits::tick_ns`] while workers wait. Candidates: 0.
    fn retune(&mut self, _now_ns: u64) -> Option<(WorkerId, Terms)> {
        None
    }
}

// Results and structs that hold a policy can be printed.
impl fmt::Debug for dyn Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name())
            .field("traits", &self.traits())
            .field("len", &self.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_default_changes_nothing() {
        let terms = Terms::default();
        assert_eq!((terms.bias_ns, terms.weight_pct), (0, 100));
        assert_eq!((terms.slice_us, terms.own_key), (0, 0));
    }

    #[test]
    fn decide_text_and_back_is_the_same() {
        for (decide, text) in [(Decide::Keyed, "key"), (Decide::Staged, "staged")] {
            assert_eq!(decide.to_string(), text);
            assert_eq!(text.parse(), Ok(decide));
        }
        assert_eq!(format!("{:>8}|", Decide::Keyed), "     key|");
    }

    #[test]
    fn policy_debug_names_it() {
        let policy = create("fifo", None, 4).expect("fifo");
        assert!(format!("{policy:?}").contains("\"fifo\""));
    }
}
