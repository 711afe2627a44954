//! deadline: earliest deadline first, with an admission test and a rule for overruns. Staged only:
//! a deadline begins with the wake-up, and keys are told before.
//!
//! A worker with a [`Reservation`] has a job per wake-up, due `deadline_us` later. One without has
//! a deadline by its weight, `period_us` x 100 / weight (nice -7: 21 ms, nice 7: 476 ms), a budget
//! of `budget_pct` of that, and runs behind all that have a reservation.
//!
//! Promise: admitted jobs that keep to their runtime and period are done by their deadlines, but
//! for the time for which whoever runs is not taken off: its slice or quantum. Servers that share
//! one queue are counted as one machine (`PolicyConfig::servers`).
//! Admission: GFB (Goossens, Funk and Baruah 2003; for deadlines below the period Bertogna, Cirinei
//! and Lipari 2005): the sum of runtime / deadline is at most m - (m - 1) x the largest of them,
//! here times `limit_pct`. For one server that is EDF's own bound (Liu and Layland 1973).
//! Overrun: the constant bandwidth server (Abeni and Buttazzo 1998). A job that has used its runtime
//! has its deadline put off by a period; one that wakes before its old deadline keeps it, unless
//! what is left of its runtime fits into what is left of the time. So who asks for more than it
//! reserved takes it from itself. Where nobody else waits, it begins anew instead: it took
//! nothing from anybody.
//! Starvation: workers without a reservation, while reservations use all; `limit_pct` leaves them
//! 5 %. Among themselves none: who is late is due now, so one that comes waits for its deadline and
//! a turn of each other one at most; and nobody is due later than two periods from now.

use crate::attrs::within;
use crate::config::Setup;
use crate::error::PolicyError;
use crate::heap::Heap;
use crate::{Attrs, Decide, Facts, Order, Policy, Refused, Reservation, Terms, Traits, WorkerId};

pub(crate) const OPTIONS: &[&str] = &["period_us", "budget_pct", "limit_pct"];

const WHOLE_PPM: u64 = 1_000_000;
/// Behind all deadlines of reservations.
const UNRESERVED: u64 = 1 << 60;
/// A deadline is put off by so much at once at most: 18 minutes.
const FAR_NS: u64 = 1 << 40;
const NONE: Reservation = Reservation::periodic(0, 0);

/// What a worker has to do now.
#[derive(Clone, Copy, Debug, Default)]
struct Job {
    /// Its deadline; 0 = there was no job yet.
    due_ns: u64,
    /// The worker's CPU time when the budget was last full.
    full_at_ns: u64,
    /// The wake-up that it is for, or the last one that came before its deadline.
    woke_ns: u64,
}

/// A reservation in ns, or what stands for one.
#[derive(Clone, Copy, Debug)]
struct Pace {
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
    reserved: bool,
}

#[derive(Debug)]
pub(crate) struct Deadline {
    period_ns: u64,
    budget_pct: u64,
    limit_pct: u64,
    servers: u32,
    waiting: Heap,
    jobs: Box<[Job]>,
    reservations: Box<[Reservation]>,
    /// Of all reservations.
    density_ppm: u64,
    /// Who has one, the densest first. One server needs no such order.
    densest: Heap,
}

fn density_ppm(reservation: &Reservation) -> u64 {
    let (runtime, deadline) = (reservation.runtime_us, reservation.deadline_us);
    (u64::from(runtime) * WHOLE_PPM).div_ceil(u64::from(deadline.max(1)))
}

impl Deadline {
    pub(crate) fn make(setup: &Setup<'_>) -> Result<Self, PolicyError> {
        let capacity = setup.capacity;
        Ok(Deadline {
            period_ns: 1000 * setup.number("period_us", 100_000, 1000, 10_000_000)?,
            budget_pct: setup.number("budget_pct", 20, 1, 100)?,
            limit_pct: setup.number("limit_pct", 95, 1, 100)?,
            servers: setup.servers,
            waiting: Heap::new(capacity),
            jobs: vec![Job::default(); capacity as usize].into(),
            reservations: vec![NONE; capacity as usize].into(),
            density_ppm: 0,
            densest: Heap::new(if setup.servers > 1 { capacity } else { 0 }),
        })
    }

    fn pace(&self, w: WorkerId, facts: &Facts) -> Pace {
        let reservation = self.reservations[w.0 as usize];
        if reservation.runtime_us == 0 {
            let period_ns = self.period_ns * 100 / u64::from(facts.weight.max(1));
            return Pace {
                runtime_ns: (period_ns * self.budget_pct / 100).max(1),
                deadline_ns: period_ns,
                period_ns,
                reserved: false,
            };
        }
        let ns = |us: u32| u64::from(us) * 1000;
        Pace {
            runtime_ns: ns(reservation.runtime_us),
            deadline_ns: ns(reservation.deadline_us),
            period_ns: ns(reservation.period_us),
            reserved: true,
        }
    }

    /// The job of `w` as of its `enqueue`.
    fn job(&self, w: WorkerId, pace: &Pace, facts: &Facts) -> Job {
        let mut job = self.jobs[w.0 as usize];
        let used = |job: &Job| facts.run_ns.saturating_sub(job.full_at_ns);
        let burst = u64::from(facts.burst_ns);
        if job.due_ns == 0 || (job.woke_ns != facts.woke_ns && is_over(&job, pace, facts)) {
            job.due_ns = facts.woke_ns.saturating_add(pace.deadline_ns);
            job.full_at_ns = facts.run_ns.saturating_sub(burst);
        }
        job.woke_ns = facts.woke_ns;
        let others = self.waiting.len() - usize::from(self.waiting.contains(w));
        if pace.reserved && self.servers == 1 && others == 0 && used(&job) >= pace.runtime_ns {
            job.due_ns = facts.since_ns.saturating_add(pace.deadline_ns);
            job.full_at_ns = facts.run_ns;
        }
        let overruns = used(&job) / pace.runtime_ns;
        if overruns > 0 {
            let later = overruns.saturating_mul(pace.period_ns).min(FAR_NS);
            job.due_ns = job.due_ns.saturating_add(later);
            job.full_at_ns += overruns * pace.runtime_ns;
        }
        if !pace.reserved {
            // Who is late is due now: in an overload all would be, and a newcomer due later than
            // them for ever.
            let most = facts
                .since_ns
                .saturating_add(pace.deadline_ns + pace.period_ns);
            job.due_ns = job.due_ns.clamp(facts.since_ns, most);
        }
        job
    }

    /// Whether all and `new`, which takes nobody's place, can be promised.
    fn admit(&self, new: &Reservation) -> Result<(), Refused> {
        let own = density_ppm(new);
        let density_ppm = self.density_ppm + own;
        let densest = self.densest.first().map_or(0, |w| self.density_of(w));
        let servers = u64::from(self.servers);
        let bound = servers * WHOLE_PPM - (servers - 1) * densest.max(own);
        let limit_ppm = bound * self.limit_pct / 100;
        if density_ppm <= limit_ppm {
            return Ok(());
        }
        Err(Refused::Unmet {
            density_ppm,
            limit_ppm,
            servers: self.servers,
        })
    }

    fn density_of(&self, w: WorkerId) -> u64 {
        density_ppm(&self.reservations[w.0 as usize])
    }

    /// Without a reservation, and without a job.
    fn withdraw(&mut self, w: WorkerId) {
        self.density_ppm -= self.density_of(w);
        self.densest.remove(w);
        self.reservations[w.0 as usize] = NONE;
        self.jobs[w.0 as usize] = Job::default();
    }

    fn reserve(&mut self, w: WorkerId, new: Reservation) {
        let density = density_ppm(&new);
        self.density_ppm += density;
        self.densest.push(w, WHOLE_PPM - density);
        self.reservations[w.0 as usize] = new;
    }
}

/// The wake-up rule: the old deadline is gone, or what is left of the budget does not fit before it.
fn is_over(job: &Job, pace: &Pace, facts: &Facts) -> bool {
    let time = job.due_ns.saturating_sub(facts.woke_ns);
    let used_before = facts
        .run_ns
        .saturating_sub(job.full_at_ns)
        .saturating_sub(facts.burst_ns.into());
    let left = pace.runtime_ns.saturating_sub(used_before);
    let fits = u128::from(left) * u128::from(pace.period_ns)
        <= u128::from(time) * u128::from(pace.runtime_ns);
    time == 0 || !fits
}

fn check(reservation: &Reservation) -> Result<(), Refused> {
    let Reservation {
        runtime_us,
        deadline_us,
        period_us,
    } = *reservation;
    within("runtime_us", runtime_us.into(), 100, 1_000_000)?;
    within("period_us", period_us.into(), runtime_us.into(), 10_000_000)?;
    within(
        "deadline_us",
        deadline_us.into(),
        runtime_us.into(),
        period_us.into(),
    )
}

impl Policy for Deadline {
    fn name(&self) -> &'static str {
        "deadline"
    }

    fn bytes_per_worker(&self) -> usize {
        let heap = Heap::bytes_per_worker(Decide::Staged);
        let densest = if self.servers > 1 { heap } else { 0 };
        let each =
            size_of::<Job>().next_power_of_two() + size_of::<Reservation>().next_power_of_two();
        heap + densest + each
    }

    fn traits(&self) -> Traits {
        Traits {
            order: Order::Own,
            alone: true,
            ..Traits::STAGED
        }
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    // A choice made ahead would run before an earlier deadline that comes meanwhile.
    fn stage_budget_ns(&self) -> u64 {
        0
    }

    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms {
        if w.0 as usize >= self.jobs.len() {
            return Terms::default();
        }
        let pace = self.pace(w, facts);
        let job = self.job(w, &pace, facts);
        self.jobs[w.0 as usize] = job;
        let behind = if pace.reserved { 0 } else { UNRESERVED };
        let own_key = job.due_ns.clamp(1, UNRESERVED - 1) + behind;
        self.waiting.push(w, own_key);
        // Up to where its budget ends, so that an overrun shows there.
        let left = (job.full_at_ns + pace.runtime_ns).saturating_sub(facts.run_ns) / 1000;
        Terms {
            own_key,
            slice_us: if pace.reserved {
                left.clamp(100, 100_000) as u32
            } else {
                0
            },
            ..Terms::default()
        }
    }

    fn pick(&mut self) -> Option<WorkerId> {
        self.waiting.pop()
    }

    fn block(&mut self, w: WorkerId, _facts: &Facts) -> Option<Terms> {
        self.waiting.remove(w);
        None
    }

    fn remove(&mut self, w: WorkerId) {
        self.waiting.remove(w);
        if (w.0 as usize) < self.jobs.len() {
            self.withdraw(w);
        }
    }

    fn assign(&mut self, w: WorkerId, attrs: &Attrs) -> Result<(), Refused> {
        attrs.only("reservation", self.name())?;
        let capacity = self.jobs.len() as u32;
        if w.0 >= capacity {
            return Err(Refused::Worker { id: w.0, capacity });
        }
        let Some(new) = attrs.reservation else {
            self.withdraw(w);
            return Ok(());
        };
        check(&new)?;
        let (old, job) = (self.reservations[w.0 as usize], self.jobs[w.0 as usize]);
        self.withdraw(w);
        match self.admit(&new) {
            Ok(()) => self.reserve(w, new),
            Err(refused) => {
                if old.runtime_us != 0 {
                    self.reserve(w, old);
                }
                self.jobs[w.0 as usize] = job;
                return Err(refused);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicyConfig;

    const MS: u64 = 1_000_000;
    const W: WorkerId = WorkerId(1);

    fn make(servers: u32) -> Box<dyn Policy> {
        let config = PolicyConfig::new("deadline").servers(servers);
        config
            .option("limit_pct", "100")
            .build(16)
            .expect("deadline")
    }

    fn reserve(runtime_ms: u32, period_ms: u32) -> Attrs {
        Attrs {
            reservation: Some(Reservation::periodic(runtime_ms * 1000, period_ms * 1000)),
            ..Attrs::default()
        }
    }

    /// Woke at `woke_ms`, has run for `run_ms` in all and for `burst_ms` since.
    fn facts(woke_ms: u64, since_ms: u64, run_ms: u64, burst_ms: u64) -> Facts {
        Facts {
            now_ns: since_ms * MS,
            since_ns: since_ms * MS,
            woke_ns: woke_ms * MS,
            run_ns: run_ms * MS,
            burst_ns: (burst_ms * MS) as u32,
            preempted: woke_ms != since_ms,
            weight: 100,
            ..Facts::default()
        }
    }

    fn due_ms(policy: &mut dyn Policy, w: WorkerId, facts: &Facts) -> u64 {
        policy.enqueue(w, facts).own_key / MS
    }

    #[test]
    fn deadline_admission_is_gfb() {
        let mut one = make(1);
        for id in 0..5 {
            assert_eq!(one.assign(WorkerId(id), &reserve(20, 100)), Ok(()));
        }
        let refused = one.assign(WorkerId(5), &reserve(1, 100));
        let want = Refused::Unmet {
            density_ppm: 1_010_000,
            limit_ppm: 1_000_000,
            servers: 1,
        };
        assert_eq!(refused, Err(want));
        // Two servers, none above 0.2: 2 - 0.2 = 1.8.
        let mut two = make(2);
        for id in 0..9 {
            assert_eq!(two.assign(WorkerId(id), &reserve(20, 100)), Ok(()));
        }
        assert!(two.assign(WorkerId(9), &reserve(1, 100)).is_err());
        two.remove(WorkerId(0));
        assert!(two.assign(WorkerId(9), &reserve(20, 100)).is_ok());
        // A denser one lowers what all may have: 2 - 0.5 < 1.3 + 0.5.
        two.remove(WorkerId(1));
        two.remove(WorkerId(2));
        assert!(two.assign(WorkerId(1), &reserve(50, 100)).is_err());
    }

    #[test]
    fn deadline_refused_change_leaves_the_old_reservation() {
        let mut policy = make(1);
        policy.assign(W, &reserve(50, 100)).expect("half");
        policy.assign(WorkerId(2), &reserve(40, 100)).expect("less");
        assert!(policy.assign(W, &reserve(70, 100)).is_err());
        assert!(policy.assign(WorkerId(3), &reserve(11, 100)).is_err());
        assert_eq!(policy.assign(W, &reserve(60, 100)), Ok(()));
        assert_eq!(policy.assign(W, &Attrs::default()), Ok(()));
        assert_eq!(policy.assign(WorkerId(3), &reserve(60, 100)), Ok(()));
    }

    #[test]
    fn deadline_nonsense_is_refused() {
        let mut policy = make(1);
        for (runtime_us, deadline_us, period_us, attr) in [
            (99, 1000, 1000, "runtime_us"),
            (500, 400, 1000, "deadline_us"),
            (500, 1001, 1000, "deadline_us"),
            (500, 400, 400, "period_us"),
            (500, 1000, 10_000_001, "period_us"),
        ] {
            let attrs = Attrs {
                reservation: Some(Reservation {
                    runtime_us,
                    deadline_us,
                    period_us,
                }),
                ..Attrs::default()
            };
            let refused = policy.assign(W, &attrs);
            assert!(matches!(refused, Err(Refused::Range { attr: a, .. }) if a == attr));
        }
        assert!(matches!(
            policy.assign(WorkerId(16), &reserve(1, 10)),
            Err(Refused::Worker { .. })
        ));
    }

    #[test]
    fn deadline_stands_for_a_job_and_moves_with_the_next() {
        let mut policy = make(1);
        policy.assign(W, &reserve(10, 100)).expect("a tenth");
        let p = policy.as_mut();
        assert_eq!(due_ms(p, W, &facts(1000, 1000, 0, 0)), 1100);
        assert_eq!(due_ms(p, W, &facts(1000, 1020, 5, 5)), 1100, "preempted");
        assert_eq!(due_ms(p, W, &facts(1100, 1100, 9, 0)), 1200, "the next job");
        // 60 ms later it has used 5 of 10 ms: that fits into the 40 ms left, if 5 of 40 <= 10 of 100.
        assert_eq!(
            due_ms(p, W, &facts(1160, 1160, 14, 0)),
            1260,
            "5 ms do not fit"
        );
        assert_eq!(due_ms(p, W, &facts(1200, 1200, 23, 0)), 1260, "1 ms does");
    }

    #[test]
    fn deadline_overrun_puts_it_off_by_periods() {
        let mut policy = make(1);
        policy.assign(W, &reserve(10, 100)).expect("a tenth");
        let p = policy.as_mut();
        let other = WorkerId(2);
        due_ms(p, other, &facts(1000, 1000, 0, 0));
        assert_eq!(due_ms(p, W, &facts(1000, 1000, 0, 0)), 1100);
        assert_eq!(due_ms(p, W, &facts(1000, 1015, 15, 15)), 1200);
        assert_eq!(due_ms(p, W, &facts(1000, 1040, 35, 35)), 1400);
        p.block(other, &facts(1040, 1040, 0, 0));
        assert_eq!(
            due_ms(p, W, &facts(1000, 1050, 45, 45)),
            1150,
            "alone: anew"
        );
    }

    #[test]
    fn deadline_without_a_reservation_is_by_weight_and_behind() {
        let mut policy = make(1);
        policy.assign(W, &reserve(10, 1000)).expect("little");
        let p = policy.as_mut();
        due_ms(p, W, &facts(1000, 1000, 0, 0));
        for (id, weight) in [(2, 50), (3, 200), (4, 100)] {
            let facts = Facts {
                weight,
                ..facts(1000, 1000, 0, 0)
            };
            assert_eq!(
                due_ms(p, WorkerId(id), &facts) - UNRESERVED / MS,
                1000 + 10_000 / u64::from(weight)
            );
        }
        let order: Vec<_> = std::iter::from_fn(|| p.pick().map(|w| w.0)).collect();
        assert_eq!(order, [1, 3, 4, 2]);
    }
}
