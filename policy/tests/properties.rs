//! What each policy promises, against a simple model or a check of the whole schedule, over many
//! random loads. `conformance.rs` has what holds for all of them.

mod sim;

use sim::{Life, MS, Random, START, Sim, Task, Turn, US};
use umcg_policy::{Attrs, Decide, Facts, Policy, PolicyConfig, Reservation, WorkerId, create};

fn staged(text: &str, capacity: usize) -> Box<dyn Policy> {
    create(text, Some(Decide::Staged), capacity as u32).expect(text)
}

fn level(level: u8) -> Attrs {
    Attrs {
        level: Some(level),
        ..Attrs::default()
    }
}

fn reserve(runtime_us: u64, period_us: u64) -> Attrs {
    Attrs {
        reservation: Some(Reservation::periodic(runtime_us as u32, period_us as u32)),
        ..Attrs::default()
    }
}

/// Hogs and sleepers of all kinds.
fn mixture(random: &mut Random, n: usize) -> Vec<Task> {
    (0..n)
        .map(|_| {
            let compute_ns = 50 * US + random.below(8000) * US;
            let sleep_ns = 100 * US + random.below(20_000) * US;
            Task::new(match random.below(3) {
                0 => Life::Hog,
                _ => Life::Sleeper {
                    sleep_ns,
                    compute_ns,
                },
            })
        })
        .collect()
}

/// Random calls; `place` is the model: of all candidates the one with the least place is next.
fn against_model(text: &str, place: impl Fn(&mut Seen, usize, &Facts) -> u64) {
    const N: usize = 12;
    for seed in 1..=50 {
        let mut random = Random::new(seed);
        let mut policy = staged(text, N);
        let mut waiting: Vec<Option<u64>> = vec![None; N];
        let mut seen = Seen::default();
        let (mut now, mut picks) = (START, 0);
        let mut woke: [u64; N] = std::array::from_fn(|id| START - id as u64);
        for _ in 0..2000 {
            now += 1 + random.below(30 * MS);
            let id = random.below(N as u64) as usize;
            let w = WorkerId(id as u32);
            match random.below(10) {
                0..5 => {
                    let preempted = waiting[id].is_none() && random.below(2) == 0;
                    if !preempted {
                        woke[id] = now;
                    }
                    let facts = Facts {
                        now_ns: now,
                        since_ns: now,
                        woke_ns: woke[id],
                        born_ns: *seen.first[id].get_or_insert(now),
                        weight: [125, 100, 80, 51][id % 4],
                        key: START + random.below(1000),
                        preempted,
                        ..Facts::default()
                    };
                    policy.enqueue(w, &facts);
                    waiting[id] = Some(place(&mut seen, id, &facts));
                }
                5..8 => {
                    let best = (0..N).filter(|&id| waiting[id].is_some());
                    let best = best.min_by_key(|&id| waiting[id]);
                    assert_eq!(
                        policy.pick(),
                        best.map(|id| WorkerId(id as u32)),
                        "{text} {seed}"
                    );
                    if let Some(id) = best {
                        waiting[id] = None;
                        picks += 1;
                    }
                }
                8 => {
                    policy.block(w, &Facts::default());
                    waiting[id] = None;
                }
                _ => {
                    policy.remove(w);
                    waiting[id] = None;
                    seen.first[id] = None;
                }
            }
        }
        assert!(picks > 200, "{picks} picks are no load");
    }
}

/// What a model remembers of the past.
#[derive(Default)]
struct Seen {
    calls: u64,
    first: [Option<u64>; 12],
}

#[test]
fn fifo_is_a_queue() {
    against_model("fifo", |seen, _, _| {
        seen.calls += 1;
        seen.calls
    });
}

#[test]
fn fifo_nobody_runs_while_one_waits_for_longer() {
    for seed in 1..=30 {
        let mut random = Random::new(seed);
        let n = 2 + random.below(8) as usize;
        let tasks = mixture(&mut random, n);
        let mut sim = Sim::new(staged("fifo", n), 1, 1000, tasks, seed);
        sim.run(1000 * MS);
        for pair in sim.turns.windows(2) {
            assert!(
                pair[0].since_ns <= pair[1].since_ns,
                "seed {seed}: {pair:?}"
            );
        }
        assert!(sim.turns.len() > 50, "no load");
    }
}

#[test]
fn fair_is_the_order_of_keys_and_of_coming_within_one() {
    against_model("fair", |seen, _, facts| {
        seen.calls += 1;
        (facts.key - START) * 10_000 + seen.calls
    });
}

#[test]
fn fair_hogs_share_by_weight_to_within_a_slice() {
    for seed in 1..=30 {
        let mut random = Random::new(seed);
        let n = 2 + random.below(8) as usize;
        let weights: Vec<u64> = (0..n).map(|_| 10 + random.below(1000)).collect();
        let hog = |&weight: &u64| Task::new(Life::Hog).weight(weight as u32);
        let tasks = weights.iter().map(hog).collect();
        let mut sim = Sim::new(staged("fair", n), 1, 1000, tasks, seed);
        sim.run(5000 * MS);
        // By their weights all are as far, but for a slice that one of them may be ahead.
        let v = |id: usize| sim.run_ns(id) * 100 / weights[id];
        let least = (0..n).map(v).min().expect("some");
        for id in 0..n {
            let ahead = v(id) - least;
            let slice = MS * 100 / weights[id];
            assert!(
                ahead <= slice + MS / 100,
                "seed {seed}: {id} of {weights:?} by {ahead}"
            );
        }
    }
}

#[test]
fn fair_starves_nobody() {
    for seed in 1..=30 {
        let mut random = Random::new(seed);
        let n = 3 + random.below(8) as usize;
        let mut tasks = mixture(&mut random, n);
        tasks[0] = Task::new(Life::Hog);
        let mut sim = Sim::new(staged("fair", n), 1, 1000, tasks, seed);
        sim.run(5000 * MS);
        // Each other one may have what a sleeper banks, and a slice.
        let bound = n as u64 * 6 * MS;
        for turn in &sim.turns {
            let waited = turn.from_ns - turn.since_ns;
            assert!(waited <= bound, "seed {seed}: {waited} > {bound}: {turn:?}");
        }
        assert!(sim.turns.len() > 1000, "no load");
    }
}

#[test]
fn lifo_is_a_stack_of_wakeups() {
    against_model("lifo", |_, _, facts| u64::MAX - facts.woke_ns);
}

#[test]
fn rr_is_a_queue() {
    against_model("rr", |seen, _, _| {
        seen.calls += 1;
        seen.calls
    });
}

#[test]
fn arrival_is_the_order_of_first_comings() {
    against_model("arrival", |seen, id, _| seen.first[id].expect("it came"));
}

#[test]
fn priority_is_coming_plus_a_step_per_level() {
    // Weights of nice -1, 0, 1 and 3.
    against_model("priority:aging_ms=20", |_, id, facts| {
        facts.since_ns + [19, 20, 21, 23][id % 4] * 20 * MS
    });
}

#[test]
fn rr_turns_are_even() {
    for seed in 1..=30 {
        let mut random = Random::new(seed);
        let n = 2 + random.below(8) as usize;
        let mut sim = Sim::new(
            staged("rr:slice_us=1000", n),
            1,
            9000,
            mixture(&mut random, n),
            seed,
        );
        sim.run(2000 * MS);
        for turn in &sim.turns {
            assert!(turn.to_ns - turn.from_ns <= MS, "a slice of {turn:?}");
            // While it waited each other one had one turn at most.
            let mut turns = vec![0; n];
            let waited =
                |other: &&Turn| other.from_ns >= turn.since_ns && other.from_ns < turn.from_ns;
            for other in sim.turns.iter().filter(waited) {
                turns[other.id] += 1;
            }
            assert!(turns.iter().all(|&turns| turns <= 1), "{turn:?}: {turns:?}");
        }
    }
}

#[test]
fn arrival_nobody_runs_while_an_earlier_one_waits() {
    for seed in 1..=30 {
        let mut random = Random::new(seed);
        let tasks = mixture(&mut random, 6);
        let mut sim = Sim::new(staged("arrival", 6), 1, 1000, tasks, seed);
        sim.run(1000 * MS);
        let mut came = [u64::MAX; 6];
        for turn in &sim.turns {
            came[turn.id] = came[turn.id].min(turn.since_ns);
        }
        for turn in &sim.turns {
            let passed =
                |other: &&Turn| other.from_ns > turn.since_ns && other.from_ns < turn.from_ns;
            for other in sim.turns.iter().filter(passed) {
                assert!(
                    came[other.id] <= came[turn.id],
                    "{seed}: {other:?} before {turn:?}"
                );
            }
        }
        assert!(sim.turns.len() > 100, "no load");
    }
}

#[test]
fn priority_waits_no_longer_than_its_aging_bound() {
    const AGING: u64 = 30 * MS;
    let mut aged = 0;
    for seed in 1..=30 {
        let mut random = Random::new(seed);
        let n = 3 + random.below(6) as usize;
        let levels: Vec<u8> = (0..n).map(|_| random.below(8) as u8).collect();
        let mut tasks = mixture(&mut random, n);
        for (task, &wanted) in tasks.iter_mut().zip(&levels) {
            *task = task.attrs(level(wanted));
        }
        let mut sim = Sim::new(staged("priority:aging_ms=30", n), 1, 1000, tasks, seed);
        sim.run(3000 * MS);
        for turn in &sim.turns {
            let steps = u64::from(levels[turn.id] - levels.iter().min().expect("some"));
            // What came before it is too late may have a slice each, after that.
            let bound = steps * AGING + (n as u64 + 1) * MS;
            let waited = turn.from_ns - turn.since_ns;
            assert!(waited <= bound, "seed {seed}: {waited} > {bound}: {turn:?}");
        }
        let long = |turn: &&Turn| turn.from_ns - turn.since_ns > 2 * AGING;
        aged += sim.turns.iter().filter(long).count();
    }
    assert!(aged > 100, "only {aged} waits of more than two steps");
}

/// Random periodic tasks with that utilisation in all, none above `most_pct`.
fn task_set(random: &mut Random, util_pct: u64, most_pct: u64) -> Vec<(u64, u64)> {
    let (mut left, mut set) = (util_pct * 1000, Vec::new());
    while left > 2000 {
        let share = (2000 + random.below(most_pct * 1000 - 2000)).min(left);
        let period_us = 20_000 + random.below(480_000);
        set.push((period_us * share / 100_000, period_us));
        left -= share;
    }
    set
}

fn periodic(random: &mut Random, set: &[(u64, u64)], reserved: bool) -> Vec<Task> {
    set.iter()
        .map(|&(runtime_us, period_us)| {
            let task = Task::new(Life::Periodic {
                offset_ns: random.below(period_us) * US,
                period_ns: period_us * US,
                compute_ns: runtime_us * US,
            });
            match reserved {
                true => task.attrs(reserve(runtime_us, period_us)),
                false => task,
            }
        })
        .collect()
}

/// Jobs that were done after their deadline plus `grace`, and all jobs.
fn misses(sim: &Sim, set: &[(u64, u64)], grace_ns: u64) -> (usize, usize) {
    let done = sim.done.iter().filter(|done| done.id < set.len());
    let late = |done: &&sim::Done| done.done_ns > done.released_ns + set[done.id].1 * US + grace_ns;
    (done.clone().filter(late).count(), done.count())
}

#[test]
fn deadline_admitted_jobs_are_done_in_time() {
    for (servers, util_pct, most_pct) in [(1, 95, 40), (1, 90, 20), (2, 170, 20), (4, 320, 20)] {
        for seed in 1..=10 {
            let mut random = Random::new(seed);
            let set = task_set(&mut random, util_pct, most_pct);
            let config = PolicyConfig::new("deadline")
                .servers(servers)
                .option("limit_pct", "100");
            let policy = config.build(set.len() as u32).expect("deadline");
            let tasks = periodic(&mut random, &set, true);
            let mut sim = Sim::new(policy, servers as usize, 100, tasks, seed);
            sim.run(20_000 * MS);
            // Whoever runs is not taken off before its budget's end.
            let grace = set.iter().map(|&(runtime_us, _)| runtime_us * US).max();
            let (late, all) = misses(&sim, &set, grace.expect("some"));
            assert!(
                all > 300 && late == 0,
                "{servers} servers, seed {seed}: {late} of {all} late"
            );
        }
    }
}

#[test]
fn deadline_overrun_harms_nobody_else() {
    for seed in 1..=10 {
        let mut random = Random::new(seed);
        let set = task_set(&mut random, 60, 20);
        let mut tasks = periodic(&mut random, &set, true);
        // Reserves 30 % and never stops; one without a reservation beside it.
        tasks.push(Task::new(Life::Hog).attrs(reserve(3000, 10_000)));
        tasks.push(Task::new(Life::Hog));
        let n = tasks.len();
        let mut sim = Sim::new(staged("deadline:limit_pct=100", n), 1, 100, tasks, seed);
        sim.run(20_000 * MS);
        let grace = set.iter().map(|&(runtime_us, _)| runtime_us * US).max();
        let (late, all) = misses(&sim, &set, grace.expect("some").max(3 * MS));
        assert!(all > 100 && late == 0, "seed {seed}: {late} of {all} late");
        let share = sim.run_ns(n - 2) as f64 / (20_000 * MS) as f64;
        assert!(
            share > 0.29,
            "seed {seed}: the one that overruns keeps what it reserved: {share}"
        );
    }
}

/// CPU time of each tier in each whole period.
fn by_period(sim: &Sim, tier_of: &[usize], tiers: usize, period_ns: u64) -> Vec<Vec<u64>> {
    let periods = ((sim.now() - START) / period_ns) as usize;
    let mut used = vec![vec![0; tiers]; periods + 1];
    for turn in &sim.turns {
        let mut from = turn.from_ns - START;
        while from < turn.to_ns - START {
            let period = (from / period_ns) as usize;
            let to = (turn.to_ns - START).min((period as u64 + 1) * period_ns);
            used[period][tier_of[turn.id]] += to - from;
            from = to;
        }
    }
    used.truncate(periods - 1); // turns that have not ended are not in yet
    used
}

#[test]
fn quota_hogs_get_what_their_tier_is_guaranteed_in_each_period() {
    for (text, shares) in [
        ("60/30/10", [0.60, 0.30, 0.10]),
        ("30/20/10", [0.50, 0.333, 0.167]), // the rest in proportion
        ("20-25/20/20", [0.25, 0.375, 0.375]), // up to the maximum
        ("0-10/50/40", [0.0099, 0.55, 0.44]), // as 1 beside 50 and 40
    ] {
        for seed in 1..=10 {
            let mut random = Random::new(seed);
            let tier_of: Vec<usize> = (0..9)
                .map(|at| if at < 3 { at } else { random.below(3) as usize })
                .collect();
            let tasks = tier_of.iter().map(|&tier| {
                Task::new(Life::Hog).attrs(Attrs {
                    tier: Some(tier as u8),
                    ..Attrs::default()
                })
            });
            let policy = staged(&format!("quota:tiers={text}"), 9);
            let mut sim = Sim::new(policy, 1, 1000, tasks.collect(), seed);
            sim.run(10_000 * MS);
            let used = by_period(&sim, &tier_of, 3, 100 * MS);
            for (tier, want) in shares.into_iter().enumerate() {
                let all: u64 = used.iter().map(|period| period[tier]).sum();
                let share = all as f64 / (10_000 * MS) as f64;
                assert!(
                    (share - want).abs() < 0.02,
                    "{text}: tier {tier} has {share}"
                );
                // To within a slice at each end of a period.
                let least = used
                    .iter()
                    .map(|period| period[tier])
                    .min()
                    .expect("periods");
                let floor = want * 1e8 - 2.1e6;
                assert!(
                    least as f64 >= floor,
                    "{text}: tier {tier} had {least} ns in a period"
                );
            }
        }
    }
}

#[test]
fn quota_conserves_work_and_keeps_the_guarantee_of_those_that_want_it() {
    for seed in 1..=20 {
        let mut random = Random::new(seed);
        let tier_of: Vec<usize> = (0..8).map(|_| random.below(3) as usize).collect();
        let mut tasks = mixture(&mut random, 8);
        tasks[0] = Task::new(Life::Hog);
        for (task, &tier) in tasks.iter_mut().zip(&tier_of) {
            *task = task.attrs(Attrs {
                tier: Some(tier as u8),
                ..Attrs::default()
            });
        }
        let policy = staged("quota:tiers=50-60/30-40/10-20", 8);
        let mut sim = Sim::new(policy, 1, 1000, tasks, seed);
        sim.run(5000 * MS);
        let used = by_period(&sim, &tier_of, 3, 100 * MS);
        let guaranteed = [50, 30, 10][tier_of[0]] * MS;
        for period in &used {
            assert_eq!(
                period.iter().sum::<u64>(),
                100 * MS,
                "a hog wants all that is left"
            );
            assert!(
                period[tier_of[0]] + 3 * MS >= guaranteed,
                "seed {seed}: {period:?}"
            );
        }
    }
}

#[test]
fn deadline_overload_without_reservations_starves_nobody() {
    for seed in 1..=20 {
        let mut random = Random::new(seed);
        let n = 4 + random.below(8) as usize;
        let tasks = mixture(&mut random, n);
        let mut sim = Sim::new(staged("deadline:budget_pct=50", n), 1, 1000, tasks, seed);
        sim.run(5000 * MS);
        // Of nice 0: due in 100 ms, put off by 100 ms at most, and a slice of each.
        let bound = (200 + n as u64) * MS;
        for turn in &sim.turns {
            let waited = turn.from_ns - turn.since_ns;
            assert!(waited <= bound, "seed {seed}: {waited} > {bound}: {turn:?}");
        }
        assert!(sim.turns.len() > 1000, "no load");
    }
}
