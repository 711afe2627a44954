//! The simulator's word beside the machine's: the very same requests, by plain threads under `fair`, at
//! costs that were measured in the same boot.
//!
//! Nobody sends the requests: a free worker takes the next one and sleeps until it is due, so what
//! wakes it is the timer's interrupt where it slept, as in the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umcg::kernel::sys::now_ns;
use umcg_sim::app::{Request, schedule};
use umcg_sim::figures::BARS;
use umcg_sim::load::Load;
use umcg_sim::machine::Settings;
use umcg_sim::validate::{self, Measured};

use super::app::{Board, no_slack};
use super::paths::{beside_yielder, clock_cost, futex_round_trip_on};
use super::{Test, full};
use crate::client::{self, is_sound};
use crate::harness::{Sched, Verdict, median, metric};
use crate::load::pin;
use crate::noise::Noise;

pub const TESTS: &[Test] = &[
    full(
        "vm_full_model_by_instructions",
        "model,newest,icount,cpus=1",
        150,
        one,
    ),
    Test {
        tries: 3,
        ..full("vm_full_model_on_two_cpus", "model,newest,cpus=2", 60, two)
    },
];

const LIMIT: Duration = Duration::from_secs(600);
const WORKERS_PER_CPU: u32 = 8;
const SECONDS: f64 = 4.0;
const WARM_UP: f64 = 0.2;
const SEED: u64 = 1;

/// Open loops at three utilisations, one with long requests among short ones, and a machine that
/// is full of switches, so that its costs alone say what gets done.
const LOADS: [(&str, &str); 5] = [
    ("low", "request:load=0.3,service=exp:200us"),
    ("middle", "request:load=0.6,service=exp:200us"),
    ("high", "request:load=0.8,service=exp:200us"),
    ("bimodal", "request:load=0.6,service=bimodal:100us/2ms/5"),
    ("full", "sleepers:work=exp:20us,sleep=exp:80us"),
];

/// Work by the number of steps, which time off the CPU does not count to.
#[derive(Clone, Copy)]
struct Speed(f64);

impl Speed {
    /// Long beside a tick.
    const PROBE: u64 = 30_000_000;

    fn steps(count: u64) {
        // Not spin_loop(), which leaves the emulation.
        (0..count).for_each(|step| {
            std::hint::black_box(step);
        });
    }

    /// Of each of `cpus` CPUs while all of them compute, and how many CPUs' work that is.
    fn measure(cpus: u32) -> Result<(Self, f64)> {
        let speeds = |busy: u32| -> Result<Vec<f64>> {
            let one = |cpu: u32| {
                std::thread::spawn(move || {
                    pin(0, cpu as usize);
                    let began = now_ns();
                    Self::steps(Self::PROBE);
                    Self::PROBE as f64 / (now_ns() - began) as f64
                })
            };
            let threads: Vec<_> = (0..busy).map(one).collect();
            let join = |it: JoinHandle<f64>| it.join().ok().context("panicked");
            threads.into_iter().map(join).collect()
        };
        let alone = speeds(1)?[0].max(speeds(1)?[0]);
        let all = speeds(cpus)?;
        let sum: f64 = all.iter().sum();
        Ok((Self(sum / f64::from(cpus)), sum / alone))
    }

    fn compute(self, ns: u64) {
        Self::steps((ns as f64 * self.0) as u64);
    }
}

fn sleep_until(at_ns: u64) {
    let time = libc::timespec {
        tv_sec: (at_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (at_ns % 1_000_000_000).cast_signed(),
    };
    let flag = libc::TIMER_ABSTIME;
    // SAFETY: time lives through the call; nothing is asked for.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            flag,
            &raw const time,
            std::ptr::null_mut(),
        )
    };
}

/// What was measured of the boot, in ns.
#[derive(Clone, Copy, Debug)]
struct Costs {
    switch: f64,
    wake: f64,
    block: f64,
    idle_exit: f64,
    /// An interrupt to the other CPU.
    ipi: f64,
    /// So late a timer is on a CPU that computes: no cost, and not in the model.
    late: f64,
}

impl Costs {
    fn json(&self) -> Value {
        let at_least_0 = |it: f64| it.max(0.0).round();
        json!({
            "insn_ns": 1.0,
            "switch": at_least_0(self.switch),
            "wake": at_least_0(self.wake),
            "block": at_least_0(self.block),
            "idle_exit_ns": at_least_0(self.idle_exit),
            "ipi_llc_ns": at_least_0(self.ipi),
            // Emulated CPUs have no caches.
            "cold_llc_ns": 0.0,
            "line_llc_ns": 0.0,
        })
    }

    /// What they are called, and on the board from here on.
    const NAMES: [&str; 6] = ["switch", "wake", "block", "idle_exit", "ipi", "late"];

    fn write(&self, board: Board) {
        let all = [
            self.switch,
            self.wake,
            self.block,
            self.idle_exit,
            self.ipi,
            self.late,
        ];
        for (at, cost) in all.into_iter().enumerate() {
            board.set(at, cost.to_bits());
        }
    }

    fn read(board: Board, side: &str) -> Self {
        let all = [0, 1, 2, 3, 4, 5].map(|at| f64::from_bits(board.get(at)));
        let named: Vec<_> = Self::NAMES.into_iter().zip(all).collect();
        metric(&format!("model_{side}_costs"), &named);
        let [switch, wake, block, idle_exit, ipi, late] = all;
        Self {
            switch,
            wake,
            block,
            idle_exit,
            ipi,
            late,
        }
    }

    fn measure(cpus: u32) -> Result<Self> {
        pin(0, 0);
        let switch = yields()?;
        let clock = clock_cost();
        let [late, taken, given] = beside_a_hog()?;
        let idle = alone()?;
        let (wake, block) = (taken - switch - clock, given - switch - clock);
        let idle_exit = (idle - late - wake - switch).max(0.0);
        let ipi = match cpus {
            1 => 0.0,
            _ => futex_round_trip_on(Some([0, 1]), 2000)? / 2.0 - wake - switch - idle_exit,
        };
        Ok(Self {
            switch,
            wake,
            block,
            idle_exit,
            ipi,
            late,
        })
    }
}

/// A switch: two threads that yield to each other on this CPU.
fn yields() -> Result<f64> {
    const ROUNDS: usize = 3000;
    let mut rounds = beside_yielder(|| {
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let began = now_ns();
            std::thread::yield_now();
            rounds.push((now_ns() - began) as f64);
        }
        rounds
    })?;
    Ok((median(&mut rounds[ROUNDS / 10..]) - clock_cost()) / 2.0)
}

const SLEEPS: usize = 400;
/// So long that the hog is one, whom a short sleeper preempts.
const NAP_NS: u64 = 3_000_000;

/// When a hog last had the CPU, and when a sleeper last wanted to sleep.
#[derive(Default)]
struct Stamps {
    hog: AtomicU64,
    sleeper: AtomicU64,
    stop: AtomicBool,
}

/// A hog that looks at the clock: how long after the sleeper's wish it had the CPU again.
fn watching_hog(stamps: &Arc<Stamps>) -> JoinHandle<Vec<f64>> {
    let stamps = stamps.clone();
    std::thread::spawn(move || {
        let (mut given, mut last) = (Vec::new(), now_ns());
        while !stamps.stop.load(SeqCst) {
            let now = now_ns();
            let asleep = stamps.sleeper.load(SeqCst);
            if (last..now).contains(&asleep) {
                given.push((now - asleep) as f64);
            }
            stamps.hog.store(now, SeqCst);
            last = now;
        }
        given
    })
}

/// A thread that sleeps beside a hog: how late the timer is, from the hog's last step to the
/// sleeper's first, and from the sleeper's last to the hog's first.
fn beside_a_hog() -> Result<[f64; 3]> {
    no_slack();
    let stamps = Arc::new(Stamps::default());
    let hog = watching_hog(&stamps);
    let (mut late, mut taken) = (Vec::new(), Vec::new());
    for _ in 0..SLEEPS {
        let due = now_ns() + NAP_NS;
        stamps.sleeper.store(now_ns(), SeqCst);
        sleep_until(due);
        let now = now_ns();
        let last = stamps.hog.load(SeqCst);
        late.push(last.saturating_sub(due) as f64);
        taken.push((now - last) as f64);
    }
    stamps.stop.store(true, SeqCst);
    let mut given = hog.join().ok().context("the hog panicked")?;
    ensure!(
        given.len() > SLEEPS / 2,
        "{} of {SLEEPS} sleeps seen",
        given.len()
    );
    Ok([median(&mut late), median(&mut taken), median(&mut given)])
}

/// A thread that sleeps on an idle CPU: from when it was due to its first step.
fn alone() -> Result<f64> {
    let mut took = Vec::new();
    for _ in 0..SLEEPS {
        let due = now_ns() + NAP_NS / 4;
        sleep_until(due);
        took.push((now_ns() - due) as f64);
    }
    Ok(median(&mut took))
}

/// Operations of a load: when each was due and when it ended, in ns from its beginning.
type Done = Vec<(u64, u64)>;

/// Runs `worker` in so many threads, each with its number and the load's beginning.
fn with_workers(
    count: u32,
    worker: impl Fn(u32, u64) -> Done + Send + Sync + 'static,
) -> Result<Done> {
    let worker = Arc::new(worker);
    // All threads are there by then.
    let began = now_ns() + 20_000_000;
    let threads: Vec<_> = (0..count)
        .map(|number| {
            let worker = worker.clone();
            std::thread::spawn(move || {
                no_slack();
                worker(number, began)
            })
        })
        .collect();
    let mut all = Done::new();
    for thread in threads {
        all.extend(thread.join().ok().context("a worker panicked")?);
    }
    Ok(all)
}

/// A free worker takes the next request, and sleeps until it is due.
fn serve(speed: Speed, workers: u32, requests: Vec<Request>) -> Result<Done> {
    let next = AtomicUsize::new(0);
    with_workers(workers, move |_, began| {
        let mut done = Done::with_capacity(requests.len());
        while let Some(request) = requests.get(next.fetch_add(1, SeqCst)) {
            let due = began + request.due_ns;
            if now_ns() < due {
                sleep_until(due);
            }
            speed.compute(request.work_ns);
            done.push((request.due_ns, now_ns() - began));
        }
        done
    })
}

/// Each worker computes and sleeps in turn, by exponential times.
fn sleepers(speed: Speed, workers: u32, work_ns: f64, sleep_ns: f64) -> Result<Done> {
    let exp = |noise: &mut Noise, mean: f64| {
        let share = (noise.below(1 << 40) + 1) as f64 / (1u64 << 40) as f64;
        (-share.ln() * mean) as u64
    };
    let end = ((WARM_UP + SECONDS) * 1e9) as u64;
    with_workers(workers, move |number, began| {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ u64::from(number + 1) << 20);
        let mut done = Done::with_capacity(1 << 17);
        let mut due = exp(&mut noise, sleep_ns);
        while due < end {
            sleep_until(began + due);
            speed.compute(exp(&mut noise, work_ns));
            let ended = now_ns() - began;
            done.push((due, ended));
            due = ended + exp(&mut noise, sleep_ns);
        }
        done
    })
}

/// The load on this machine: operations per second, and p99 in us of the time from when an
/// operation was due to its end, less what the timer was late by.
fn run(speed: Speed, settings: &Settings, late: f64) -> Result<[f64; 2]> {
    use umcg_sim::load::Kind;
    let (cpus, workers) = (settings.cpus, settings.workers);
    let [from, to] = [WARM_UP, WARM_UP + SECONDS].map(|s| (s * 1e9) as u64);
    let done = match settings.load.resolve(cpus, workers)? {
        Kind::Sleepers { work, sleep, .. } => sleepers(speed, workers, work.mean(), sleep.mean())?,
        kind => serve(speed, workers, schedule(kind, settings.seed, to))?,
    };
    let counted = done.into_iter().filter(|it| (from..to).contains(&it.1));
    let mut took: Vec<_> = counted.map(|(due, ended)| (ended - due) as f64).collect();
    ensure!(took.len() > 1000, "{} operations alone", took.len());
    took.sort_by(f64::total_cmp);
    let p99 = took[took.len() * 99 / 100] - late;
    Ok([took.len() as f64 / SECONDS, p99 / 1e3])
}

/// On the board: costs first, then two figures of each load, and how many CPUs' work the guest's do.
const COSTS: usize = Costs::NAMES.len();
const WORTH: usize = COSTS + 2 * LOADS.len();
/// Less than that of each: the host has other things to do.
const WORTH_LEAST: f64 = 0.9;

fn measure(board: Board, cpus: u32) -> Result<()> {
    let (speed, before) = Speed::measure(cpus)?;
    let costs = std::thread::spawn(move || Costs::measure(cpus));
    let costs = costs.join().ok().context("panicked")??;
    costs.write(board);
    for (number, (_, text)) in LOADS.into_iter().enumerate() {
        let load: Load = text.parse()?;
        let settings = Settings {
            seed: SEED,
            ..Settings::new(cpus, WORKERS_PER_CPU * cpus, load)
        };
        for (at, value) in run(speed, &settings, costs.late)?.into_iter().enumerate() {
            board.set(COSTS + 2 * number + at, value.to_bits());
        }
    }
    let (_, after) = Speed::measure(cpus)?;
    board.set(WORTH, before.min(after).to_bits());
    Ok(())
}

fn compare(side: &str, cpus: u32, p99_most: f64) -> Result<Verdict> {
    let board = Board::new()?;
    let sched = Sched::start(&[])?;
    client::spawn(move || measure(board, cpus))?.result(LIMIT)?;
    is_sound(&sched)?;
    sched.stop()?;
    let value = |at: usize| f64::from_bits(board.get(at));
    let costs = Costs::read(board, side);
    let base = Settings::new(cpus, 1, LOADS[0].1.parse()?);
    let (mut rows, mut off) = (Vec::new(), Vec::new());
    for (number, (name, load)) in LOADS.into_iter().enumerate() {
        let [throughput, p99_us] = [0, 1].map(|at| value(COSTS + 2 * number + at));
        let row = json!({
            "name": format!("{side} CPU: {name}"),
            "load": load,
            "cpus": cpus,
            "workers": WORKERS_PER_CPU * cpus,
            "seconds": SECONDS,
            "warm_up": WARM_UP,
            "seed": SEED,
            "costs": costs.json(),
            "throughput": throughput,
            "p99_us": p99_us,
        });
        // As `umcg-bench simulate plot --validated` takes it.
        println!("model-row {row}");
        let compared = serde_json::from_value::<Measured>(row)?.compare(&base)?;
        metric(
            &format!("model_{side}_{name}"),
            &[
                ("model_per_s", compared.throughput),
                ("machine_per_s", throughput),
                ("model_p99_us", compared.p99_us),
                ("machine_p99_us", p99_us),
            ],
        );
        if !compared.within(Some(BARS[0]), Some(p99_most)) {
            off.push(name);
        }
        rows.push(compared);
    }
    print!("{}", validate::table(&rows));
    let worth = value(WORTH);
    metric(&format!("model_{side}_worth"), &[("cpus", worth)]);
    if worth < WORTH_LEAST * f64::from(cpus) {
        return Ok(Verdict::Skip(format!(
            "{cpus} CPUs of this guest do the work of {worth:.2}: the host has other things to do"
        )));
    }
    ensure!(
        off.is_empty(),
        "the model is off by more than {} % (throughput) or {p99_most} % (p99): {}",
        BARS[0],
        off.join(", ")
    );
    Ok(Verdict::Ok)
}

fn one() -> Result<Verdict> {
    compare("one", 1, BARS[1])
}

fn two() -> Result<Verdict> {
    compare("two", 2, BARS[2])
}
