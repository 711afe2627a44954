//! The workers that wait to be run, in the order of a policy.
//!
//! Servers that share a queue tell it in any order: one may say that a worker left its
//! slot after another one was told that the worker may run again. The times of the edges
//! say which is true: news of an older edge takes nobody out of the queue.

use umcg_policy::{Attrs, Decide, Facts, Policy, PolicyConfig, Refused, WorkerId};

use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Id, Reason};
use crate::runtime::MakePolicy;

/// How far behind the others a worker that slept may come back: it is not paid for
/// all the time that it slept.
const SLEEPER_NS: u64 = 3_000_000;

/// A queue of RUNNABLE workers.
pub(super) struct Ready {
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

impl Ready {
    /// `policy`: a name, with options or without; or who makes it. `servers` pick from it.
    pub(super) fn new(
        policy: &str,
        make: Option<MakePolicy>,
        max_members: u32,
        servers: u32,
    ) -> Result<Self> {
        let records = max_members + 1;
        let invalid = || Error::new(ErrorKind::Invalid, "runtime policy", 0);
        let policy = match make {
            Some(make) => make(records),
            None => PolicyConfig::parse(policy)
                .and_then(|config| {
                    let config = config.servers(servers).decide(Some(Decide::Staged));
                    config.build(records)
                })
                .map_err(|_| invalid())?,
        };
        if policy.traits().decide != Decide::Staged {
            return Err(invalid());
        }
        Ok(Self {
            policy,
            workers: vec![Account::new(0, 0); records as usize],
            vnow: 0,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.policy.len()
    }

    /// `event`'s worker is RUNNABLE.
    pub(super) fn enqueue(&mut self, event: &Event) {
        let facts = self.facts(event);
        let index = event.worker.index();
        let terms = self.policy.enqueue(WorkerId(index), &facts);
        let account = &mut self.workers[index as usize];
        account.queued_at_ns = event.at_ns;
        account.slice_us = terms.slice_us;
    }

    /// The task that `worker` had is over: it comes back as another one.
    pub(super) fn end_task(&mut self, worker: Id) {
        self.workers[worker.index() as usize].born_ns = 0;
    }

    /// What `worker` asks for. It has a new beginning: what it waits for from now on is due later.
    pub(super) fn assign(&mut self, worker: Id, attrs: &Attrs) -> std::result::Result<(), Refused> {
        let index = worker.index();
        self.policy.assign(WorkerId(index), attrs)?;
        let account = self.account(worker);
        account.woke_ns = clock::now();
        account.weight = attrs.weight.unwrap_or(WEIGHT);
        Ok(())
    }

    /// `event`'s worker waits for something, or is gone.
    pub(super) fn left(&mut self, event: &Event) {
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

    /// The next one, and how many microseconds it may run by its policy's will; 0 = not told.
    pub(super) fn pick(&mut self) -> Option<(Id, u32)> {
        // Nobody reads terms ahead of time here; but the policy has its clock from it.
        while self.policy.retune(clock::now()).is_some() {}
        let index = self.policy.pick()?.0;
        let account = &self.workers[index as usize];
        if account.v.wrapping_sub(self.vnow).cast_signed() > 0 {
            self.vnow = account.v;
        }
        Some((Id::from_raw(account.id), account.slice_us))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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

    #[test]
    fn late_news_of_an_older_wait_takes_nobody_out() {
        let mut ready = Ready::new("fifo", None, 8, 1).unwrap();
        let worker = Id::new(3, 1);
        ready.enqueue(&event(worker, Reason::Woken, 200));
        ready.left(&event(worker, Reason::Waits, 100));
        assert_eq!(ready.pick(), Some((worker, 0)));
        ready.left(&event(worker, Reason::Waits, 300));
        assert_eq!(ready.pick(), None);
    }

    #[test]
    fn late_news_of_an_exit_is_not_about_who_has_the_record_now() {
        let mut ready = Ready::new("fifo", None, 8, 1).unwrap();
        let (old, new) = (Id::new(3, 1), Id::new(3, 3));
        ready.enqueue(&event(new, Reason::New, 200));
        ready.left(&event(old, Reason::Exited, 100));
        assert_eq!(ready.pick(), Some((new, 0)));
    }

    #[test]
    fn fair_turns_are_by_weight_until_the_task_asks_for_nothing() {
        let mut ready = Ready::new("fair", None, 8, 1).unwrap();
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
        let mut turns = |ready: &mut Ready| {
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
