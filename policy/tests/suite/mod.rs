//! The contract of `umcg_policy` against a simple model, over random operations, with every call
//! watched for allocations. A policy of one's own passes it too: `docs/write-a-policy.md`.

#![allow(dead_code, reason = "each of the crates that include this uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use umcg_policy::{Attrs, Decide, Facts, Order, Policy, Refused, Reservation, Terms, WorkerId};

/// What the model expects of a pick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick {
    /// The earliest by the kernel's order: key, arrival, or [`Terms::own_key`].
    ByKey,
    /// Any candidate.
    Any,
}

/// Runs all of it. `Pick::Any`: the policy's own order is none of the kernel's keys.
pub fn suite(pick: Pick, make: impl Fn(u32) -> Box<dyn Policy>) {
    traits_are_constant_and_sane(&make);
    picks_once_and_loses_none(&make);
    blocked_and_removed_are_never_picked(&make);
    enqueue_again_replaces(&make);
    foreign_ids_are_harmless(&make);
    terms_are_within_bounds_and_stand(&make);
    for capacity in [1, 2, 3, 8, 65, 1000] {
        for seed in 1..=4 {
            random_operations_match_the_model(pick, make(capacity), capacity, seed);
        }
    }
}

fn traits_are_constant_and_sane(make: &impl Fn(u32) -> Box<dyn Policy>) {
    let mut world = World::new(make(8), 8, 1);
    let (traits, name) = (world.policy.0.traits(), world.policy.0.name());
    let budget = world.policy.0.stage_budget_ns();
    match traits.decide {
        Decide::Keyed => assert!(traits.keyed),
        Decide::Staged => assert!(traits.staged),
    }
    (0..100).for_each(|_| world.step());
    assert_eq!(world.policy.0.traits(), traits);
    assert_eq!(world.policy.0.name(), name);
    assert_eq!(world.policy.0.stage_budget_ns(), budget);
}

fn picks_once_and_loses_none(make: &impl Fn(u32) -> Box<dyn Policy>) {
    // Large enough for a loop over all workers in a call to be felt.
    let capacity = 50_000;
    let mut world = World::new(make(capacity), capacity, 2);
    // Past the model, which is slow with so many.
    for id in 0..capacity {
        let facts = world.facts(id);
        world.policy.enqueue(WorkerId(id), &facts);
    }
    let all = if world.staged() { capacity as usize } else { 0 };
    assert_eq!(world.policy.len(), all);
    let mut picked = vec![false; capacity as usize];
    for _ in 0..all {
        let w = world.policy.pick().expect("a candidate is left");
        assert!(
            !std::mem::replace(&mut picked[w.0 as usize], true),
            "{w:?} twice"
        );
    }
    assert_eq!((world.policy.pick(), world.policy.len()), (None, 0));
}

fn blocked_and_removed_are_never_picked(make: &impl Fn(u32) -> Box<dyn Policy>) {
    let mut world = World::new(make(8), 8, 3);
    (0..8).for_each(|id| world.enqueue(id));
    for id in [0, 7, 3] {
        world.block(id);
        world.block(id);
    }
    for id in [1, 6, 3] {
        world.remove(id);
        world.remove(id);
    }
    // Blocked, woken: a candidate again. Removed: the id may serve a new worker.
    world.enqueue(7);
    world.enqueue(6);
    let left = world.drain();
    let want: &[u32] = if world.staged() {
        &[2, 4, 5, 6, 7]
    } else {
        &[]
    };
    assert_eq!(sorted(left), want);
}

fn enqueue_again_replaces(make: &impl Fn(u32) -> Box<dyn Policy>) {
    let mut world = World::new(make(4), 4, 4);
    for id in [0, 1, 2, 1, 1, 0] {
        world.enqueue(id); // the model compares the length
    }
    let left = world.drain();
    let want: &[u32] = if world.staged() { &[0, 1, 2] } else { &[] };
    assert_eq!(sorted(left), want);
    assert!(world.policy.0.is_empty());
}

fn foreign_ids_are_harmless(make: &impl Fn(u32) -> Box<dyn Policy>) {
    for capacity in [0, 1, 5] {
        let mut world = World::new(make(capacity), capacity, 5);
        (0..capacity).for_each(|id| world.enqueue(id));
        let before = world.policy.len();
        for id in [capacity, capacity + 1, 1 << 31, u32::MAX - 1, u32::MAX] {
            let facts = world.facts(id);
            for _ in 0..2 {
                assert_eq!(world.policy.block(WorkerId(id), &facts), None);
                world.policy.remove(WorkerId(id));
                let terms = world.policy.enqueue(WorkerId(id), &facts);
                assert_eq!(terms, Terms::default());
            }
        }
        assert_eq!(world.policy.len(), before);
        assert_eq!(world.drain().len(), before);
    }
}

fn terms_are_within_bounds_and_stand(make: &impl Fn(u32) -> Box<dyn Policy>) {
    let mut world = World::new(make(64), 64, 6);
    let order = world.policy.0.traits().order;
    for id in 0..64 {
        let facts = world.facts(id);
        let told = world.policy.enqueue(WorkerId(id), &facts);
        check_terms(&told, order);
        // The same facts again: no new terms out of nothing.
        assert_eq!(world.policy.enqueue(WorkerId(id), &facts), told);
        let first = world.policy.block(WorkerId(id), &facts);
        assert!(
            matches!(world.policy.block(WorkerId(id), &facts), again if again.is_none() || again == first)
        );
    }
}

/// Terms that BPF takes as they are.
fn check_terms(terms: &Terms, order: Order) {
    assert!(terms.bias_ns.abs() <= 5_000_000, "{terms:?}");
    assert!((1..=10_000).contains(&terms.weight_pct), "{terms:?}");
    assert!(
        terms.slice_us == 0 || (100..=100_000).contains(&terms.slice_us),
        "{terms:?}"
    );
    match order {
        // Workers without terms have 0 and come first.
        Order::Own => assert!((1..1 << 62).contains(&terms.own_key), "{terms:?}"),
        Order::Fair | Order::Arrival | Order::Birth => assert_eq!(terms.own_key, 0, "{terms:?}"),
    }
}

fn random_operations_match_the_model(
    pick: Pick,
    policy: Box<dyn Policy>,
    capacity: u32,
    seed: u64,
) {
    let mut world = World::new(policy, capacity, seed);
    world.by_key = pick == Pick::ByKey;
    for _ in 0..10_000 {
        world.step();
    }
    world.drain();
    let World { model, .. } = &world;
    assert_eq!(model.came, model.picked + model.left, "conservation");
    assert!(
        !world.staged() || model.came > 1000 && model.picked > 100,
        "no load"
    );
    assert!(world.staged() || model.came == 0);
}

/// What the contract says, in the plainest way: all candidates with their place in the order.
#[derive(Default)]
struct Model {
    waiting: Vec<(u32, u64, u64)>, // id, key, arrival
    arrivals: u64,
    came: u64,
    picked: u64,
    left: u64,
}

impl Model {
    fn put(&mut self, id: u32, key: u64) {
        self.take(id);
        self.arrivals += 1;
        self.came += 1;
        self.waiting.push((id, key, self.arrivals));
    }

    fn take(&mut self, id: u32) {
        let before = self.waiting.len();
        self.waiting.retain(|&(other, ..)| other != id);
        self.left += (before - self.waiting.len()) as u64;
    }

    /// `picked` leaves, if it waits.
    fn leaves(&mut self, picked: Option<WorkerId>) -> Option<u32> {
        let before = self.waiting.len();
        self.waiting
            .retain(|&(id, ..)| Some(WorkerId(id)) != picked);
        self.picked += (before - self.waiting.len()) as u64;
        picked.filter(|_| self.waiting.len() < before).map(|w| w.0)
    }

    fn first(&mut self) -> Option<u32> {
        let order = |a: &&(u32, u64, u64), b: &&(u32, u64, u64)| {
            (a.1.wrapping_sub(b.1) as i64).cmp(&0).then(a.2.cmp(&b.2))
        };
        let &(id, ..) = self.waiting.iter().min_by(order)?;
        self.waiting.retain(|&(other, ..)| other != id);
        self.picked += 1;
        Some(id)
    }
}

/// A policy, the model of it, and workers that do things at random.
struct World {
    policy: Watched,
    /// The model knows who is next.
    by_key: bool,
    model: Model,
    capacity: u32,
    random: Random,
    now_ns: u64,
    clock: u64,
    pids: Vec<i32>,
    born_ns: Vec<u64>,
    /// What the kernel goes by; None = this worker was told nothing yet.
    told: Vec<Option<Terms>>,
}

impl World {
    fn new(policy: Box<dyn Policy>, capacity: u32, seed: u64) -> Self {
        World {
            policy: Watched(policy),
            by_key: false,
            model: Model::default(),
            capacity,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            now_ns: 1 << 40,
            // The keys of a run cross the end of u64.
            clock: 0u64.wrapping_sub(5_000_000),
            pids: (0..capacity as i32).map(|id| 7 * id % 32_768 + 1).collect(),
            born_ns: (1..=u64::from(capacity)).collect(),
            told: vec![None; capacity as usize],
        }
    }

    fn staged(&self) -> bool {
        self.policy.0.traits().decide == Decide::Staged
    }

    fn facts(&mut self, id: u32) -> Facts {
        self.now_ns += self.random.below(50_000);
        self.clock = self.clock.wrapping_add(self.random.below(2_000));
        // Coarse, so that equal keys are common; within the lag of BPF on both sides.
        let lag = self.random.below(10) * 1_000_000;
        let since_ns = self.now_ns - self.random.below(1000);
        Facts {
            now_ns: self.now_ns,
            since_ns,
            woke_ns: since_ns - self.random.below(1000),
            born_ns: self.born_ns.get(id as usize).copied().unwrap_or(1),
            run_ns: self.random.next(),
            wait_ns: self.random.next(),
            avg_ns: self.random.below(3_000_000) as u32,
            burst_ns: self.random.below(3_000_000) as u32,
            weight: 1 + self.random.below(10_000) as u32,
            key: (self.clock & !0xf_ffff).wrapping_sub(lag),
            preempted: self.random.below(2) == 0,
            yielded: self.random.below(4) == 0,
            home: self.random.below(4) as u32,
            pid: self.pids.get(id as usize).copied().unwrap_or(1),
        }
    }

    fn step(&mut self) {
        let id = self.random.below(u64::from(self.capacity)) as u32;
        match self.random.below(100) {
            0..45 => self.enqueue(id),
            45..75 => self.pick(),
            75..90 => self.block(id),
            90..95 => self.remove(id),
            95..97 => self.assign(id),
            _ => while self.policy.retune(self.now_ns).is_some() {},
        }
    }

    fn enqueue(&mut self, id: u32) {
        let facts = self.facts(id);
        let traits = self.policy.0.traits();
        let terms = self.policy.enqueue(WorkerId(id), &facts);
        check_terms(&terms, traits.order);
        self.told[id as usize] = Some(terms);
        if self.staged() {
            let key = match traits.order {
                Order::Fair => facts.key,
                Order::Arrival => 0,
                Order::Birth => facts.born_ns,
                Order::Own => terms.own_key,
            };
            self.model.put(id, key);
        }
        self.check_len();
    }

    /// Takes what the policy picks from the model: who is next by key, or anybody who waits, if
    /// somebody does.
    fn take_pick(&mut self) -> Option<WorkerId> {
        let picked = self.policy.pick();
        if !self.by_key {
            assert_eq!(picked.is_some(), !self.model.waiting.is_empty());
            assert_eq!(self.model.leaves(picked).map(WorkerId), picked);
        } else {
            assert_eq!(picked, self.model.first().map(WorkerId));
        }
        picked
    }

    fn pick(&mut self) {
        self.take_pick();
        self.check_len();
    }

    fn block(&mut self, id: u32) {
        let facts = self.facts(id);
        let (w, told) = (WorkerId(id), self.told[id as usize]);
        let news = self.policy.block(w, &facts);
        if let Some(terms) = news {
            check_terms(&terms, self.policy.0.traits().order);
            self.told[id as usize] = Some(terms);
        } else if told.is_some() && !self.staged() {
            // None: the terms are as before, or this would be other ones.
            assert_eq!(Some(self.policy.enqueue(w, &facts)), told);
        }
        self.model.take(id);
        self.check_len();
    }

    fn remove(&mut self, id: u32) {
        self.policy.remove(WorkerId(id));
        self.model.take(id);
        // The id serves another thread from now on, which was told nothing yet.
        self.born_ns[id as usize] = self.now_ns;
        self.pids[id as usize] = 1 + self.random.below(4_194_304) as i32;
        self.told[id as usize] = None;
        self.check_len();
    }

    /// Any attributes: they change no candidate, and what is refused changes nothing.
    fn assign(&mut self, id: u32) {
        let some = |random: &mut Random, most| (random.below(3) > 0).then(|| random.below(most));
        let attrs = Attrs {
            weight: some(&mut self.random, 20_000).map(|weight| weight as u32),
            level: some(&mut self.random, 50).map(|level| level as u8),
            tier: some(&mut self.random, 5).map(|tier| tier as u8),
            reservation: some(&mut self.random, 100_000)
                .map(|us| Reservation::periodic(us as u32, 1_000_000)),
        };
        let _ = self.policy.assign(WorkerId(id), &attrs);
        self.told[id as usize] = None;
        self.check_len();
    }

    fn drain(&mut self) -> Vec<u32> {
        let mut out = Vec::new();
        while let Some(w) = self.take_pick() {
            out.push(w.0);
        }
        assert_eq!(self.policy.len(), 0);
        assert!(
            self.model.waiting.is_empty(),
            "lost: {:?}",
            self.model.waiting
        );
        out
    }

    fn check_len(&self) {
        assert_eq!(self.policy.len(), self.model.waiting.len());
    }
}

/// A policy whose calls must not touch the allocator.
struct Watched(Box<dyn Policy>);

impl Watched {
    fn enqueue(&mut self, w: WorkerId, facts: &Facts) -> Terms {
        without_allocating(|| self.0.enqueue(w, facts))
    }

    fn pick(&mut self) -> Option<WorkerId> {
        without_allocating(|| self.0.pick())
    }

    fn block(&mut self, w: WorkerId, facts: &Facts) -> Option<Terms> {
        without_allocating(|| self.0.block(w, facts))
    }

    fn remove(&mut self, w: WorkerId) {
        without_allocating(|| self.0.remove(w));
    }

    fn retune(&mut self, now_ns: u64) -> Option<(WorkerId, Terms)> {
        without_allocating(|| self.0.retune(now_ns))
    }

    fn assign(&mut self, w: WorkerId, attrs: &Attrs) -> Result<(), Refused> {
        without_allocating(|| self.0.assign(w, attrs))
    }

    fn len(&self) -> usize {
        let len = without_allocating(|| self.0.len());
        assert_eq!(self.0.is_empty(), len == 0);
        len
    }
}

#[track_caller]
fn without_allocating<T>(call: impl FnOnce() -> T) -> T {
    let before = CALLS.get();
    let result = call();
    assert_eq!(CALLS.get() - before, 0, "a call used the allocator");
    result
}

thread_local! {
    // Per thread: the tests of this binary run side by side.
    pub static CALLS: Cell<u64> = const { Cell::new(0) };
    /// Allocated, each block rounded up to a power of two.
    pub static BYTES: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to System unchanged, which upholds the contract of GlobalAlloc. Counting
// does not allocate: the thread local has a constant initial value and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        BYTES.set(BYTES.get() + layout.size().next_power_of_two() as u64);
        // SAFETY: `layout` is the caller's, as it must be.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: `ptr` came from System with this `layout`, since all of them do.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: as for dealloc; `size` is the caller's.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids
}

/// xorshift64*: repeats with its seed, needs no crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform enough; 0 for 0.
    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound.max(1)
    }
}
