//! Faults on purpose, and planted bugs, for tests: `UMCG_DEBUG_FAULTS`, `UMCG_DEBUG_PLANT`.
//!
//! What happens at the n-th occasion of a fault is a pure function of seed, fault and n, here
//! and in BPF (`fault.bpf.h`): a run can be made again as far as its occasions come again. The
//! seed is told at the start, what was met at the end. Without the variables nothing of this is
//! asked for but a pointer that is null.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use log::{info, warn};
use umcg::intf;

use super::server::now_ns;
use crate::bpf_skel::{BpfSkel, OpenBpfSkel};
use crate::exit::{Exit, Failure};

/// The variable that asks for faults.
pub const FAULTS: &str = "UMCG_DEBUG_FAULTS";
/// The variable that plants a bug.
pub const PLANT: &str = "UMCG_DEBUG_PLANT";

/// Those that BPF makes come first, in the order of `enum umcg_fault`.
const IN_BPF: usize = intf::umcg_fault_UMCG_NR_FAULTS as usize;

/// Rates are of so many.
const WHOLE: u64 = 1000;

/// What the agent itself makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// A choice that the policy has made is not staged.
    Drop = IN_BPF,
    /// A choice is staged after the one that was made after it.
    Reorder,
    /// A turn begins late, by so many microseconds at most.
    Delay,
    /// The ring has no room for a choice.
    RingFull,
    /// A call of a BPF program ends with EAGAIN.
    CallFails,
    /// The clock of a turn is off, by so many milliseconds at most.
    Clock,
    /// The policy panics, which is the end of its server's thread.
    Panic,
}

/// Name, and what of the value after a colon: its unit in ns, and its default.
const KINDS: [(&str, Option<(u64, u64)>); IN_BPF + 7] = [
    ("list-full", None),
    ("due-full", None),
    ("bell-full", None),
    ("timer-late", None),
    ("timer-clock", Some((1_000_000, 20))),
    ("kick-lost", None),
    ("claim-refused", None),
    ("move-fails", None),
    ("drop", None),
    ("reorder", None),
    ("delay", Some((1000, 2000))),
    ("ring-full", None),
    ("call-fails", None),
    ("clock", Some((1_000_000, 20))),
    ("panic", None),
];

const TIMER_CLOCK: usize = intf::umcg_fault_UMCG_FAULT_TIMER_CLOCK as usize;

/// Planted bugs, in the order of `enum umcg_plant` from 1 on.
const PLANTS: [&str; 5] = [
    "lost-wake",
    "double-run",
    "leaked-claim",
    "stuck-slot",
    "stale-kick",
];

/// SplitMix64 of the `n`-th occasion. pairs with fault_mix() in fault.bpf.h
pub const fn mix(seed: u64, kind: usize, n: u64) -> u64 {
    let step = (n.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut x = seed.wrapping_add((kind as u64) << 56).wrapping_add(step);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Whether it happens then; how much of it, never even. pairs with fault_draw()
pub const fn draw(seed: u64, kind: usize, rate: u32, n: u64) -> Option<u64> {
    let x = mix(seed, kind, n);
    if x % WHOLE < rate as u64 {
        Some((x / WHOLE) | 1)
    } else {
        None
    }
}

/// One fault.
#[derive(Debug, Default)]
struct One {
    /// Of [`WHOLE`].
    rate: u32,
    most_ns: u64,
    seen: AtomicU64,
    hits: AtomicU64,
}

/// What was asked for.
#[derive(Debug, Default)]
struct Plan {
    seed: u64,
    kinds: [One; KINDS.len()],
    /// `enum umcg_plant`.
    plant: u32,
}

static ASKED: OnceLock<Option<Plan>> = OnceLock::new();

fn asked() -> Option<&'static Plan> {
    ASKED.get().and_then(Option::as_ref)
}

/// Reads the variables, at the first start.
pub fn read() -> Result<(), Failure> {
    if ASKED.get().is_some() {
        return Ok(());
    }
    let text = |name| std::env::var(name).ok();
    let plan = match (text(FAULTS), text(PLANT)) {
        (None, None) => None,
        (faults, plant) => {
            let faults = faults.unwrap_or_default();
            let mut plan = parse(&faults, now_ns()).map_err(|why| usage(FAULTS, &why))?;
            plan.plant = plant.map_or(Ok(0), |name| number(&name))?;
            Some(plan)
        }
    };
    if let Some(plan) = &plan {
        warn!("for tests only: {}", plan.told());
    }
    let _ = ASKED.set(plan);
    Ok(())
}

fn usage(name: &str, why: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{name}: {why}"))
}

fn number(plant: &str) -> Result<u32, Failure> {
    let at = PLANTS.iter().position(|name| *name == plant);
    let at = at.ok_or_else(|| usage(PLANT, &format!("{plant}: not one of {}", list(&PLANTS))))?;
    Ok(at as u32 + 1)
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}

/// `seed=7,drop=50,delay=20:500`: of 1000 occasions 50 and 20; the latter by 500 us at most.
fn parse(text: &str, seed: u64) -> Result<Plan, String> {
    let mut plan = Plan {
        seed,
        ..Plan::default()
    };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let number = |text: &str| -> Result<u64, String> {
            let wrong = |_| format!("{part}: {text:?} is no number");
            text.parse().map_err(wrong)
        };
        if name == "seed" {
            plan.seed = number(value)?;
            continue;
        }
        let Some(at) = KINDS.iter().position(|kind| kind.0 == name) else {
            let names = KINDS.map(|kind| kind.0);
            return Err(format!("{part}: not seed or one of {}", list(&names)));
        };
        let (rate, most) = match value.split_once(':') {
            Some((rate, most)) => (number(rate)?, Some(number(most)?)),
            None => (number(value)?, None),
        };
        if rate > WHOLE {
            return Err(format!("{part}: {rate} is not within 0..={WHOLE}"));
        }
        let one = &mut plan.kinds[at];
        one.rate = rate as u32;
        one.most_ns = match (KINDS[at].1, most) {
            (Some((unit, most)), None) => unit * most,
            // At most a minute, or nothing would go on.
            (Some((unit, _)), Some(most)) => unit.saturating_mul(most).min(60_000_000_000),
            (None, Some(_)) => return Err(format!("{part}: {name} has no amount")),
            (None, None) => 0,
        };
    }
    Ok(plan)
}

impl Plan {
    fn told(&self) -> String {
        let mut text = format!("faults by seed {}", self.seed);
        for ((name, _), one) in KINDS.iter().zip(&self.kinds).filter(|it| it.1.rate > 0) {
            let _ = write!(text, ", {name} {} of {WHOLE}", one.rate);
        }
        if let Some(at) = self.plant.checked_sub(1) {
            let _ = write!(text, "; the bug {}", PLANTS[at as usize]);
        }
        text
    }
}

/// How much of `fault` happens now.
fn drawn(fault: Fault) -> Option<u64> {
    let plan = asked()?;
    let one = &plan.kinds[fault as usize];
    if one.rate == 0 {
        return None;
    }
    let n = one.seen.fetch_add(1, Relaxed);
    let drawn = draw(plan.seed, fault as usize, one.rate, n)?;
    one.hits.fetch_add(1, Relaxed);
    Some(drawn)
}

/// Whether `fault` happens now.
pub fn happens(fault: Fault) -> bool {
    drawn(fault).is_some()
}

/// [`Fault::Delay`]: the calling thread sleeps for it.
pub fn delay() {
    if let Some((draw, most)) = amount_ns(Fault::Delay) {
        std::thread::sleep(Duration::from_nanos(draw % (most + 1)));
    }
}

/// [`Fault::CallFails`], as the kernel says it.
pub fn call() -> Result<(), std::io::Error> {
    match happens(Fault::CallFails) {
        true => Err(std::io::Error::from_raw_os_error(libc::EAGAIN)),
        false => Ok(()),
    }
}

/// `now`, or a time beside it by [`Fault::Clock`].
pub fn clock(now: u64) -> u64 {
    match amount_ns(Fault::Clock) {
        Some((draw, most)) => (now + draw % (2 * most + 1)).saturating_sub(most),
        None => now,
    }
}

fn amount_ns(fault: Fault) -> Option<(u64, u64)> {
    let drawn = drawn(fault)?;
    Some((drawn, asked()?.kinds[fault as usize].most_ns))
}

/// BPF's part, before it is loaded.
pub fn configure(skel: &mut OpenBpfSkel<'_>) {
    let (Some(plan), Some(rodata)) = (asked(), skel.maps.rodata_data.as_mut()) else {
        return;
    };
    rodata.umcg_plant = plan.plant;
    rodata.umcg_fault_seed = plan.seed;
    rodata.umcg_fault_step_ns = plan.kinds[TIMER_CLOCK].most_ns;
    for (kind, one) in plan.kinds[..IN_BPF].iter().enumerate() {
        rodata.umcg_fault_rate[kind] = one.rate;
    }
}

/// How often each came about, at the end of an attachment.
pub fn tell(skel: &BpfSkel<'_>) {
    let Some(plan) = asked() else {
        return;
    };
    let bss = skel.maps.bss_data.as_ref();
    let mut text = format!("faults by seed {}:", plan.seed);
    for (kind, one) in plan.kinds.iter().enumerate().filter(|it| it.1.rate > 0) {
        let (hits, seen) = match bss {
            Some(bss) if kind < IN_BPF => (bss.umcg_fault_hits[kind], bss.umcg_fault_seen[kind]),
            _ => (one.hits.load(Relaxed), one.seen.load(Relaxed)),
        };
        let _ = write!(text, " {} {hits}/{seen}", KINDS[kind].0);
    }
    info!("{text}");
}

/// The number of planted bug `name`, for tests that load other objects. 0: there is none such.
pub fn plant_number(name: &str) -> u32 {
    number(name).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_same_seed_same_draws_other_seed_others() {
        let draws =
            |seed, kind| -> Vec<_> { (0..2000).map(|n| draw(seed, kind, 100, n)).collect() };
        assert_eq!(draws(7, 3), draws(7, 3));
        assert_ne!(draws(7, 3), draws(8, 3));
        assert_ne!(draws(7, 3), draws(7, 4));
        let hits = draws(7, 3).iter().flatten().count();
        assert!((140..260).contains(&hits), "{hits} of 2000 by 100 of 1000");
        assert!((0..1000).all(|n| draw(1, 0, 0, n).is_none()));
        assert!((0..1000).all(|n| draw(1, 0, 1000, n).is_some()));
    }

    #[test]
    fn faults_are_read_with_rates_amounts_and_defaults() {
        let plan = parse("seed=7,drop=50,delay=20:500,clock=5,kick-lost=1000", 1).unwrap();
        let of = |fault: Fault| &plan.kinds[fault as usize];
        assert_eq!((plan.seed, of(Fault::Drop).rate), (7, 50));
        assert_eq!(
            (of(Fault::Delay).rate, of(Fault::Delay).most_ns),
            (20, 500_000)
        );
        assert_eq!(of(Fault::Clock).most_ns, 20_000_000);
        assert_eq!(of(Fault::RingFull).rate, 0);
        let told = "faults by seed 7, kick-lost 1000 of 1000, drop 50 of 1000, delay 20 of 1000, \
                    clock 5 of 1000";
        assert_eq!(plan.told(), told);
        assert_eq!(parse("", 9).unwrap().seed, 9);
        assert_eq!(
            parse("delay=1:99999999", 1).unwrap().kinds[Fault::Delay as usize].most_ns,
            60_000_000_000
        );
    }

    #[test]
    fn faults_wrong_text_is_told_with_what_is_allowed() {
        for (text, want) in [
            ("drpo=5", "not seed or one of list-full, due-full"),
            ("drop=1001", "1001 is not within 0..=1000"),
            ("drop", "\"\" is no number"),
            ("drop=5:7", "drop has no amount"),
            ("seed=x", "\"x\" is no number"),
            ("delay=5:x", "\"x\" is no number"),
        ] {
            let err = parse(text, 1).unwrap_err();
            assert!(err.contains(want) && err.starts_with(text), "{err}");
        }
        assert_eq!(plant_number("stale-kick"), 5);
        assert_eq!(plant_number("lost-wake"), 1);
        let err = number("lost").unwrap_err().to_string();
        assert!(
            err.starts_with("UMCG_DEBUG_PLANT: lost: not one of lost-wake"),
            "{err}"
        );
    }

    #[test]
    fn faults_names_are_in_the_order_of_their_numbers() {
        for (fault, name) in [
            (Fault::Drop, "drop"),
            (Fault::Reorder, "reorder"),
            (Fault::Delay, "delay"),
            (Fault::RingFull, "ring-full"),
            (Fault::CallFails, "call-fails"),
            (Fault::Clock, "clock"),
            (Fault::Panic, "panic"),
        ] {
            assert_eq!(KINDS[fault as usize].0, name);
        }
        use umcg::intf::*;
        for (fault, name) in [
            (umcg_fault_UMCG_FAULT_LIST_FULL, "list-full"),
            (umcg_fault_UMCG_FAULT_DUE_FULL, "due-full"),
            (umcg_fault_UMCG_FAULT_BELL_FULL, "bell-full"),
            (umcg_fault_UMCG_FAULT_TIMER_LATE, "timer-late"),
            (umcg_fault_UMCG_FAULT_TIMER_CLOCK, "timer-clock"),
            (umcg_fault_UMCG_FAULT_KICK_LOST, "kick-lost"),
            (umcg_fault_UMCG_FAULT_CLAIM_REFUSED, "claim-refused"),
            (umcg_fault_UMCG_FAULT_MOVE_FAILS, "move-fails"),
        ] {
            assert_eq!(KINDS[fault as usize].0, name);
        }
        let plants = [
            umcg_plant_UMCG_PLANT_LOST_WAKE,
            umcg_plant_UMCG_PLANT_DOUBLE_RUN,
            umcg_plant_UMCG_PLANT_LEAKED_CLAIM,
            umcg_plant_UMCG_PLANT_STUCK_SLOT,
            umcg_plant_UMCG_PLANT_STALE_KICK,
        ];
        assert_eq!(plants, [1, 2, 3, 4, 5]);
    }
}
