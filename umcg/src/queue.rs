//! The workers that wait to be run, in the order of a policy.
//!
//! ```
//! use umcg::{Event, FOREVER, Group, GroupConfig, ReadyQueue};
//!
//! let group = Group::create(&GroupConfig {
//!     policy: "lifo".into(),
//!     futex_only: true,
//!     ..GroupConfig::default()
//! })?;
//! let mut server = group.register_server()?;
//! let mut queue = ReadyQueue::new(&group, 1)?;
//! let threads: Vec<_> = (0..3)
//!     .map(|cookie| {
//!         let group = group.clone();
//!         std::thread::spawn(move || group.register_worker(cookie).map(drop))
//!     })
//!     .collect();
//! let mut left = 0;
//! while left < threads.len() {
//!     // All news first: it is the policy that says who is next.
//!     let wait = if queue.is_empty() { FOREVER } else { 0 };
//!     if let Ok(event) = server.next_event(wait) {
//!         queue.told(&event)?;
//!         continue;
//!     }
//!     if let Some((worker, _slice)) = queue.pick() {
//!         let event = server.run_listed(worker, FOREVER)?;
//!         queue.ran(&event)?;
//!         left += usize::from(event.reason == umcg::Reason::Exited);
//!     }
//! }
//! # for thread in threads { thread.join().expect("no panic")?; }
//! # Ok::<(), umcg::Error>(())
//! ```
//!
//! Servers that share a queue, under a lock, tell it in any order: one may say that a worker
//! left its slot after another one was told that the worker may run again. The times of the
//! edges say which is true: news of an older edge takes nobody out of the queue.

use std::fmt;
use std::time::Duration;

use umcg_policy::{Attrs, Decide, Facts, Policy, PolicyConfig, Refused, WorkerId};

use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Reason, Snapshot};
use crate::group::Group;

/// The policy of `text` for workers with indices up to `max_members`, which `servers` servers
/// pick from.
pub(crate) fn made(
    text: &str,
    max_members: u32,
    servers: u32,
    call: &'static str,
) -> Result<Box<dyn Policy>> {
    let refused = |_| Error::new(ErrorKind::Policy, call, text.len() as u64);
    let config = PolicyConfig::parse(text).map_err(refused)?;
    let config = config.servers(servers).decide(Some(Decide::Staged));
    config.build(max_members + 1).map_err(refused)
}

/// How far behind the others a worker that slept may come back: it is not paid for
/// all the time that it slept.
const SLEEPER_NS: u64 = 3_000_000;

/// RUNNABLE workers of a group, in the order of its policy or of one of one's own.
///
/// A server tells it what it hears and asks it whom to run: see [`queue`](self). One that
/// several servers share is behind a lock of the caller's. It allocates when it is made, not
/// later, and calls nobody. Of the facts that a policy reads, `home` and `pid` are 0 here.
#[doc(alias = "umcg_queue")]
pub struct ReadyQueue {
    policy: Box<dyn Policy>,
    workers: Vec<Account>,
    /// Virtual time of who was picked last.
    vnow: u64,
}

/// Of a worker that has asked for no other one.
const WEIGHT: u32 = 100;

/// What the policy's facts are made of.
#[derive(Clone, Copy)]
struct Account {
    id: u64,
    /// Its share against others, by which `v` grows.
    weight: u32,
    /// The edge to RUNNABLE that it was last queued for.
    queued_at_ns: u64,
    v: u64,
    run_ns: u64,
    run_at_sleep_ns: u64,
    woke_ns: u64,
    /// The first edge of its task.
    born_ns: u64,
    avg_ns: u32,
    /// How long it may run, as the policy says; 0 = as the runtime does.
    slice_us: u32,
}

impl Account {
    /// Of a worker that comes when virtual time is `v`.
    fn new(id: u64, v: u64) -> Self {
        Self {
            id,
            weight: WEIGHT,
            queued_at_ns: 0,
            v,
            run_ns: 0,
            run_at_sleep_ns: 0,
            woke_ns: 0,
            born_ns: 0,
            avg_ns: 0,
            slice_us: 0,
        }
    }
}

impl ReadyQueue {
    /// Of `group`'s policy ([`GroupConfig::policy`](crate::GroupConfig::policy)), for `servers`
    /// servers that pick from it: a promise of shares is for so many. Nobody is in it.
    ///
    /// # Errors
    ///
    /// `Policy`: the group has none.
    ///
    /// Source: ours; the order that UMCG leaves to user space.
    #[doc(alias = "umcg_queue_create")]
    pub fn new(group: &Group, servers: u32) -> Result<Self> {
        let text = group.policy().unwrap_or_default();
        let policy = made(&text, group.max_members(), servers, "ready_queue")?;
        Self::with_policy(policy, group.max_members())
    }

    /// Of a policy of one's own, for workers with indices up to `max_members`.
    ///
    /// # Errors
    ///
    /// `Policy`: it is keyed; nobody would read its keys.
    pub fn with_policy(policy: Box<dyn Policy>, max_members: u32) -> Result<Self> {
        if policy.traits().decide != Decide::Staged {
            return Err(Error::new(ErrorKind::Policy, "ready_queue", 0));
        }
        Ok(Self {
            policy,
            workers: vec![Account::new(0, 0); max_members as usize + 1],
            vnow: 0,
        })
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.policy.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a worker need not come back at the end of its quantum while nobody else waits.
    pub(crate) fn lets_alone(&self) -> bool {
        self.policy.traits().alone
    }

    /// News of [`Server::next_event`](crate::Server::next_event).
    ///
    /// # Errors
    ///
    /// `NotFound`: of a worker that the group has no room for.
    #[doc(alias = "umcg_queue_told")]
    pub fn told(&mut self, event: &Event) -> Result<()> {
        self.check(event.worker)?;
        if event.reason.is_runnable() {
            self.enqueue(event);
        } else {
            self.left(event);
        }
        Ok(())
    }

    /// What [`Server::run`](crate::Server::run) returned. One that is RUNNABLE or was rescued is told by `next_event`, if
    /// it has not been run again: it is not put in here.
    ///
    /// # Errors
    ///
    /// As [`told`](Self::told).
    #[doc(alias = "umcg_queue_ran")]
    pub fn ran(&mut self, event: &Event) -> Result<()> {
        self.check(event.worker)?;
        if !event.reason.is_runnable() && event.reason != Reason::Rescued {
            self.left(event);
        }
        Ok(())
    }

    /// `worker`, which [`pick`](Self::pick) gave, could not be run, as the slot was taken
    /// (`Again`) or it may not run on that server's CPU (`NotHere`): it waits on. `state` is
    /// [`Group::state`]'s.
    ///
    /// # Errors
    ///
    /// As [`told`](Self::told).
    #[doc(alias = "umcg_queue_put_back")]
    pub fn put_back(&mut self, worker: Id, state: &Snapshot) -> Result<()> {
        self.told(&Event {
            worker,
            cookie: 0,
            reason: Reason::Woken,
            source: None,
            tag: state.tag,
            at_ns: state.since_ns,
            run_ns: state.run_ns,
            wait_ns: state.wait_ns,
        })
    }

    /// The next one, who waits no more; and how long it may run by its policy's will, if that
    /// has one. Drop it if `run` says `WrongState` or `NotFound`: it was run elsewhere, or has left.
    #[doc(alias = "umcg_queue_pick")]
    pub fn pick(&mut self) -> Option<(Id, Option<Duration>)> {
        // Nobody reads terms ahead of time here; but the policy has its clock from it.
        while self.policy.retune(clock::now()).is_some() {}
        let index = self.policy.pick()?.0;
        let account = &self.workers[index as usize];
        if account.v.wrapping_sub(self.vnow).cast_signed() > 0 {
            self.vnow = account.v;
        }
        let slice = match account.slice_us {
            0 => None,
            us => Some(Duration::from_micros(us.into())),
        };
        Some((Id::from_raw(account.id), slice))
    }

    /// `worker` asks the policy for `attrs`, until it asks for others. It has a new beginning:
    /// what it waits for from now on is due later.
    ///
    /// # Errors
    ///
    /// What the policy refuses; the attributes are then as before. [`Refused::NoTask`]: the group has
    /// no room for such a worker.
    pub fn assign(&mut self, worker: Id, attrs: &Attrs) -> std::result::Result<(), Refused> {
        self.check(worker).map_err(|_| Refused::NoTask)?;
        let index = worker.index();
        self.policy.assign(WorkerId(index), attrs)?;
        let account = self.account(worker);
        account.woke_ns = clock::now();
        account.weight = attrs.weight.unwrap_or(WEIGHT);
        Ok(())
    }

    fn check(&self, worker: Id) -> Result<()> {
        match worker.is_none() || worker.index() as usize >= self.workers.len() {
            true => Err(Error::new(ErrorKind::NotFound, "ready_queue", worker.raw())),
            false => Ok(()),
        }
    }

    /// `event`'s worker is RUNNABLE.
    fn enqueue(&mut self, event: &Event) {
        let facts = self.facts(event);
        let index = event.worker.index();
        let terms = self.policy.enqueue(WorkerId(index), &facts);
        let account = &mut self.workers[index as usize];
        account.queued_at_ns = event.at_ns;
        account.slice_us = terms.slice_us;
    }

    /// The task that `worker` had is over: it comes back as another one.
    pub(crate) fn end_task(&mut self, worker: Id) {
        self.workers[worker.index() as usize].born_ns = 0;
    }

    /// `event`'s worker waits for something, or is gone.
    fn left(&mut self, event: &Event) {
        let index = event.worker.index();
        if event.at_ns < self.workers[index as usize].queued_at_ns {
            return;
        }
        let facts = self.facts(event);
        match event.reason {
            Reason::Exited => self.policy.remove(WorkerId(index)),
            _ => {
                let account = &mut self.workers[index as usize];
                let burst = account.run_ns.wrapping_sub(account.run_at_sleep_ns);
                let burst = u32::try_from(burst).unwrap_or(u32::MAX);
                account.avg_ns = match account.avg_ns {
                    0 => burst,
                    avg => avg - avg / 4 + burst / 4,
                };
                account.run_at_sleep_ns = account.run_ns;
                self.policy.block(WorkerId(index), &facts);
            }
        }
    }

    /// That of `worker`, not of who had its record before.
    fn account(&mut self, worker: Id) -> &mut Account {
        let account = &mut self.workers[worker.index() as usize];
        if account.id != worker.raw() {
            *account = Account::new(worker.raw(), self.vnow);
        }
        account
    }

    fn facts(&mut self, event: &Event) -> Facts {
        let floor = self.vnow.wrapping_sub(SLEEPER_NS);
        let account = self.account(event.worker);
        let ran = event.run_ns.saturating_sub(account.run_ns);
        account.run_ns += ran;
        let v = ran * u64::from(WEIGHT) / u64::from(account.weight);
        account.v = account.v.wrapping_add(v);
        if account.v.wrapping_sub(floor).cast_signed() < 0 {
            account.v = floor;
        }
        let same_burst = matches!(
            event.reason,
            Reason::Preempted | Reason::Yielded | Reason::Rescued
        );
        if event.reason.is_runnable() && !same_burst {
            account.woke_ns = event.at_ns;
        }
        if event.reason.is_runnable() && account.born_ns == 0 {
            account.born_ns = event.at_ns;
        }
        let burst = account.run_ns.wrapping_sub(account.run_at_sleep_ns);
        Facts {
            now_ns: clock::now(),
            since_ns: event.at_ns,
            run_ns: event.run_ns,
            wait_ns: event.wait_ns,
            avg_ns: account.avg_ns,
            burst_ns: u32::try_from(burst).unwrap_or(u32::MAX),
            weight: account.weight,
            woke_ns: account.woke_ns,
            born_ns: account.born_ns,
            key: account.v,
            preempted: event.reason == Reason::Preempted,
            yielded: event.reason == Reason::Yielded,
            home: 0,
            pid: 0,
        }
    }
}

impl fmt::Debug for ReadyQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyQueue")
            .field("policy", &self.policy.name())
            .field("len", &self.len())
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mode::GroupConfig;

    fn event(worker: Id, reason: Reason, at_ns: u64) -> Event {
        Event {
            worker,
            cookie: 0,
            reason,
            source: None,
            tag: 0,
            at_ns,
            run_ns: 0,
            wait_ns: 0,
        }
    }

    fn queue(policy: &str) -> ReadyQueue {
        ReadyQueue::with_policy(made(policy, 8, 1, "test").unwrap(), 8).unwrap()
    }

    #[test]
    fn queue_of_a_group_has_its_policy_and_the_rest_is_refused() {
        let config = |policy: &str| GroupConfig {
            policy: policy.into(),
            max_members: 8,
            futex_only: true,
            ..GroupConfig::default()
        };
        let group = Group::create(&config("rr:slice_us=500")).unwrap();
        assert_eq!(group.policy().as_deref(), Some("rr:slice_us=500"));
        let file = group.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(Group::open(file).unwrap().policy(), group.policy());
        let mut queue = ReadyQueue::new(&group, 1).unwrap();
        let worker = Id::new(8, 1);
        queue.told(&event(worker, Reason::New, 1)).unwrap();
        let slice = Duration::from_micros(500);
        assert_eq!(queue.pick(), Some((worker, Some(slice))));
        for stranger in [Id::NONE, Id::new(9, 1), Id::new(u32::MAX, 1)] {
            let told = event(stranger, Reason::New, 2);
            for refused in [queue.told(&told), queue.ran(&told)] {
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
            }
            let refused = queue.assign(stranger, &Attrs::default());
            assert_eq!(refused, Err(Refused::NoTask));
        }
        assert!(queue.is_empty());

        let own = Group::create(&config("")).unwrap();
        assert_eq!(own.policy(), None);
        let error = ReadyQueue::new(&own, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Policy);
        let long = format!("rr:slice_us={:0>120}", 500);
        for bad in ["ffo", "rr:slice=500", "rr:slice_us=x", "rr:", long.as_str()] {
            let error = Group::create(&config(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Policy, "{bad}");
        }
        let keyed = PolicyConfig::parse("fair")
            .unwrap()
            .decide(Some(Decide::Keyed));
        let refused = ReadyQueue::with_policy(keyed.build(9).unwrap(), 8).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Policy);
    }

    #[test]
    fn policy_error_names_all_that_there_are() {
        for name in umcg_policy::NAMES {
            assert!(ErrorKind::Policy.text().contains(name), "{name}");
        }
    }

    #[test]
    fn late_news_of_an_older_wait_takes_nobody_out() {
        let mut ready = queue("fifo");
        let worker = Id::new(3, 1);
        ready.enqueue(&event(worker, Reason::Woken, 200));
        ready.left(&event(worker, Reason::Waits, 100));
        assert_eq!(ready.pick(), Some((worker, None)));
        ready.left(&event(worker, Reason::Waits, 300));
        assert_eq!(ready.pick(), None);
    }

    #[test]
    fn late_news_of_an_exit_is_not_about_who_has_the_record_now() {
        let mut ready = queue("fifo");
        let (old, new) = (Id::new(3, 1), Id::new(3, 3));
        ready.enqueue(&event(new, Reason::New, 200));
        ready.left(&event(old, Reason::Exited, 100));
        assert_eq!(ready.pick(), Some((new, None)));
    }

    #[test]
    fn fair_turns_are_by_weight_until_the_task_asks_for_nothing() {
        let mut ready = queue("fair");
        let workers = [Id::new(3, 1), Id::new(4, 1)];
        let (mut at_ns, mut ran_ns) = (1_000_000, [0; 2]);
        // The one has not been seen here yet, as in the queue of another server.
        let weight = |weight| Attrs {
            weight: Some(weight),
            ..Attrs::default()
        };
        ready.assign(workers[0], &weight(300)).unwrap();
        for worker in workers {
            ready.enqueue(&event(worker, Reason::New, at_ns));
        }
        let mut turns = |ready: &mut ReadyQueue| {
            let mut turns = [0u64; 2];
            for _ in 0..400 {
                let (worker, _) = ready.pick().unwrap();
                let who = usize::from(worker == workers[1]);
                turns[who] += 1;
                ran_ns[who] += 1_000_000;
                at_ns += 1_000_000;
                ready.enqueue(&Event {
                    run_ns: ran_ns[who],
                    ..event(worker, Reason::Preempted, at_ns)
                });
            }
            turns
        };
        assert_eq!(turns(&mut ready), [300, 100]);
        ready.assign(workers[0], &Attrs::default()).unwrap();
        let even = turns(&mut ready);
        assert!(even[0].abs_diff(200) <= 2, "{even:?}");
    }
}
