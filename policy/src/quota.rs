//! quota: tiers with a guaranteed and a maximum share of each period. Staged only: what is owed to
//! a tier shows when somebody is picked.
//!
//! `tiers=60-80/30/10`: the first tier is guaranteed 60 % and gets at most 80 % while others wait,
//! the next ones are guaranteed 30 and 10 % and have no maximum. A worker's tier is
//! [`Attrs::tier`], or goes by its nice value: below 0 the first, 0 the second, above 0 the third.
//!
//! Promise: per period of `period_ms`, a tier that always has a candidate gets its guaranteed share
//! of the CPU time of this server, to within a slice. Beyond that tiers share in proportion to what
//! they are guaranteed, up to their maxima. Work conserving: a maximum binds only while a tier
//! below its own one waits, and is passed by a slice per period. Within a tier workers take turns.
//! Starvation: of a tier that is guaranteed 0 %, while the others leave nothing over (it counts as
//! 1 % of a share beside them); never within a tier.
//! Source: the two levels of weighted fair queueing by virtual time (Demers, Keshav and Shenker
//! 1989; start-time fair queueing, Goyal et al. 1996) with the floor and ceiling per period of
//! cgroups' and hypervisors' CPU shares.

use crate::attrs::{Asked, within};
use crate::config::Setup;
use crate::error::PolicyError;
use crate::lanes::{Lanes, MAX_LANES};
use crate::nice;
use crate::{Attrs, Facts, Order, Policy, Refused, Terms, Traits, WorkerId};

pub(crate) const OPTIONS: &[&str] = &["tiers", "period_ms"];

const TIERS: &str = "50/30/20";
const PERIOD_MS: u64 = 100;
/// Its CPU time when it was last charged is not known.
const UNSEEN: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tier {
    guaranteed_pct: u64,
    max_pct: u64,
    /// CPU time in this period.
    used_ns: u64,
    /// CPU time by the guaranteed share: equal where all got what they are due.
    v: u64,
}

impl Tier {
    fn charge(&mut self, ns: u64) {
        self.used_ns += ns;
        self.v += ns * 100 / self.guaranteed_pct.max(1);
    }

    /// 0: below what it is guaranteed; 1: below its maximum; 2: above.
    fn band(&self, period_ns: u64) -> u8 {
        let below = |pct: u64| self.used_ns * 100 < pct * period_ns;
        u8::from(!below(self.guaranteed_pct)) + u8::from(!below(self.max_pct))
    }
}

#[derive(Debug)]
pub(crate) struct Quota {
    period_ns: u64,
    /// When this period began; 0 = none did.
    began_ns: u64,
    tiers: [Tier; MAX_LANES],
    count: usize,
    /// Virtual time of the tier that was picked last.
    vnow: u64,
    /// What has been taken off of all virtual times.
    past_v: u64,
    waiting: Lanes,
    tier_of: Asked,
    charged_ns: Box<[u64]>,
}

impl Quota {
    pub(crate) fn make(setup: &Setup<'_>) -> Result<Self, PolicyError> {
        let text = setup.text("tiers").unwrap_or(TIERS);
        let (tiers, count) = parse(text).ok_or_else(|| {
            let want = "1..=8 of GUARANTEED or GUARANTEED-MAXIMUM in %, as 60-80/30/10";
            setup.bad("tiers", text, want)
        })?;
        let sum = tiers.iter().map(|tier| tier.guaranteed_pct).sum();
        if sum > 100 {
            return Err(setup.shares(sum));
        }
        let period_ms = setup.number("period_ms", PERIOD_MS, 10, 10_000)?;
        Ok(Quota {
            period_ns: period_ms * 1_000_000,
            began_ns: 0,
            tiers,
            count,
            vnow: 0,
            past_v: 0,
            waiting: Lanes::new(setup.capacity),
            tier_of: Asked::new(setup.capacity),
            charged_ns: vec![UNSEEN; setup.capacity as usize].into(),
        })
    }

    fn tier(&self, w: WorkerId, facts: &Facts) -> usize {
        match self.tier_of.get(w) {
            Some(tier) => usize::from(tier),
            None => {
                let by_nice = nice::level(facts.weight).cmp(&20) as i8 + 1;
                (by_nice as usize).min(self.count - 1)
            }
        }
    }

    /// A new period: what was used in the old one is over.
    fn advance(&mut self, now_ns: u64) {
        let gone = now_ns.saturating_sub(self.began_ns) / self.period_ns;
        if gone == 0 {
            return;
        }
        self.began_ns += gone * self.period_ns;
        let floor = self.floor();
        for tier in &mut self.tiers[..self.count] {
            tier.used_ns = 0;
            // From the floor on, so that it never grows without bound.
            tier.v = tier.v.saturating_sub(floor);
        }
        self.vnow -= floor;
        self.past_v += floor;
    }

    /// What a tier may have been owed at most: one period. Less was used because it slept, or by
    /// its maximum.
    fn floor(&self) -> u64 {
        self.vnow.saturating_sub(self.period_ns)
    }

    /// The CPU time since its last charge, to its tier. A period at most: more was used elsewhere.
    fn charge(&mut self, w: WorkerId, facts: &Facts) {
        self.advance(facts.now_ns);
        let tier = self.tier(w, facts);
        let charged = &mut self.charged_ns[w.0 as usize];
        let ns = match std::mem::replace(charged, facts.run_ns) {
            UNSEEN => 0,
            before => facts.run_ns.saturating_sub(before),
        };
        self.tiers[tier].charge(ns.min(self.period_ns));
    }

    /// For the kernel's order while no server is there: by what the tier is owed as its worker
    /// comes; behind all others above its maximum. By arrival it would be the one held back that
    /// is picked, as it has waited longest.
    fn key(&self, tier: usize) -> u64 {
        let held_back = match self.tiers[tier].band(self.period_ns) {
            2 => self.period_ns * 100,
            _ => 0,
        };
        (self.past_v + self.tiers[tier].v + held_back).clamp(1, 1 << 61)
    }

    /// Of the tiers with candidates the one that is owed most.
    fn next(&self) -> Option<usize> {
        let owed = |&at: &usize| (self.tiers[at].band(self.period_ns), self.tiers[at].v);
        let waiting = (0..self.count).filter(|&at| !self.waiting.is_empty(at));
        waiting.min_by_key(owed)
    }
}

/// The tiers of `text`, and how many.
fn parse(text: &str) -> Option<([Tier; MAX_LANES], usize)> {
    let mut tiers = [Tier::default(); MAX_LANES];
    let mut count = 0;
    let pct = |text: &str| text.parse().ok().filter(|pct| (0..=100).contains(pct));
    for part in text.split('/') {
        let (guaranteed, max) = part.split_once('-').unwrap_or((part, "100"));
        let tier = tiers.get_mut(count)?;
        tier.guaranteed_pct = pct(guaranteed)?;
        tier.max_pct = pct(max).filter(|&max| max >= tier.guaranteed_pct)?;
        count += 1;
    }
    Some((tiers, count))
}

impl Policy for Quota {
    fn name(&self) -> &'static str {
        "quota"
    }

    fn bytes_per_worker(&self) -> usize {
        Lanes::BYTES + Asked::BYTES + size_of::<u64>()
    }

    fn traits(&self) -> Traits {
        Traits {
            order: Order::Own,
            ..Traits::STAGED
        }
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    // What one choice uses decides about the next one.
    fn stage_budget_ns(&self) -> u64 {
        0
    }

    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms {
        if !self.tier_of.knows(w) {
            return Terms::default();
        }
        self.charge(w, facts);
        let tier = self.tier(w, facts);
        self.tiers[tier].v = self.tiers[tier].v.max(self.floor());
        self.waiting.push_back(tier, w);
        Terms {
            own_key: self.key(tier),
            ..Terms::default()
        }
    }

    fn pick(&mut self) -> Option<WorkerId> {
        let tier = self.next()?;
        self.vnow = self.vnow.max(self.tiers[tier].v);
        self.waiting.pop_front(tier)
    }

    fn block(&mut self, w: WorkerId, facts: &Facts) -> Option<Terms> {
        if self.tier_of.knows(w) {
            self.charge(w, facts);
            self.waiting.remove(w);
        }
        None
    }

    fn remove(&mut self, w: WorkerId) {
        self.waiting.remove(w);
        self.tier_of.forget(w);
        if self.tier_of.knows(w) {
            self.charged_ns[w.0 as usize] = UNSEEN;
        }
    }

    fn retune(&mut self, now_ns: u64) -> Option<(WorkerId, Terms)> {
        self.advance(now_ns);
        None
    }

    fn assign(&mut self, w: WorkerId, attrs: &Attrs) -> Result<(), Refused> {
        attrs.only("tier", self.name())?;
        if let Some(tier) = attrs.tier {
            within("tier", tier.into(), 0, self.count as u64 - 1)?;
        }
        self.tier_of.set(w, attrs.tier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, create};

    fn tiers(text: &str) -> Option<Vec<(u64, u64)>> {
        let (tiers, count) = parse(text)?;
        let shares = tiers[..count].iter();
        Some(
            shares
                .map(|tier| (tier.guaranteed_pct, tier.max_pct))
                .collect(),
        )
    }

    #[test]
    fn quota_tiers_are_read_or_refused() {
        assert_eq!(
            tiers("60-80/30/0"),
            Some(vec![(60, 80), (30, 100), (0, 100)])
        );
        for bad in [
            "",
            "60/",
            "101",
            "-5",
            "60-50",
            "a/b",
            "1/1/1/1/1/1/1/1/1",
            "5-101",
        ] {
            assert_eq!(tiers(bad), None, "{bad}");
        }
    }

    #[test]
    fn quota_over_the_whole_is_refused() {
        let error = create("quota:tiers=60/41", None, 4).expect_err("101 %");
        assert_eq!(error.kind(), ErrorKind::Shares);
        assert!(create("quota:tiers=60/40", None, 4).is_ok());
        let error = create("quota:tiers=60/x", None, 4).expect_err("no number");
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("60-80/30/10"), "{error}");
    }

    #[test]
    fn quota_tier_that_is_none_is_refused() {
        let mut quota = create("quota:tiers=60/40", None, 4).expect("two tiers");
        let tier = |tier| Attrs {
            tier: Some(tier),
            ..Attrs::default()
        };
        assert_eq!(quota.assign(WorkerId(1), &tier(1)), Ok(()));
        let refused = quota.assign(WorkerId(1), &tier(2));
        assert!(matches!(
            refused,
            Err(Refused::Range {
                value: 2,
                high: 1,
                ..
            })
        ));
        let refused = quota.assign(WorkerId(4), &tier(1));
        assert!(matches!(refused, Err(Refused::Worker { .. })));
    }

    #[test]
    fn quota_maximum_binds_only_while_others_wait() {
        let mut quota = create("quota:tiers=10-20/10", None, 4).expect("two tiers");
        let facts = |now_ms: u64, run_ms: u64, weight| Facts {
            now_ns: now_ms * 1_000_000,
            run_ns: run_ms * 1_000_000,
            weight,
            ..Facts::default()
        };
        let (capped, other) = (WorkerId(0), WorkerId(1));
        quota.enqueue(capped, &facts(1000, 0, 125));
        quota.enqueue(capped, &facts(1030, 30, 125));
        assert_eq!(quota.pick(), Some(capped), "alone, above its maximum");
        quota.enqueue(capped, &facts(1040, 40, 125));
        quota.enqueue(other, &facts(1040, 0, 100));
        quota.enqueue(other, &facts(1080, 40, 100));
        assert_eq!(
            quota.pick(),
            Some(other),
            "40 of 100 ms, but below its maximum"
        );
        let held_back = quota.enqueue(capped, &facts(1080, 60, 125)).own_key;
        let key = quota.enqueue(other, &facts(1090, 50, 100)).own_key;
        assert!(key < held_back, "nor by the kernel's order: {key}");
    }

    #[test]
    fn quota_kernel_order_is_by_what_a_tier_is_owed_in_later_periods_too() {
        let mut quota = create("quota:tiers=60/10", None, 4).expect("two tiers");
        let mut facts = Facts::default();
        let mut keys = [0; 2];
        for turn in 1..=1000 {
            facts.now_ns = turn * 20_000_000;
            facts.run_ns = turn * 10_000_000;
            for (who, weight) in [125, 100].into_iter().enumerate() {
                facts.weight = weight;
                let key = quota.enqueue(WorkerId(who as u32), &facts).own_key;
                assert!(key > keys[who] || turn == 1, "turn {turn}, tier {who}");
                keys[who] = key;
                quota.pick();
            }
        }
        assert!(
            keys[0] < keys[1],
            "as much for the one that is owed six times as much"
        );
    }
}
