//! The words' time where its 48 bits wrap.
//!
//! `UMCG_DEBUG_WRAP_MS` has words, and nothing else, run ahead, so that they wrap in a moment.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use scx_umcg::doctor::thread::explain;
use scx_umcg::runfile::RunFile;
use umcg::backend::Backend;
use umcg::kernel::{KernelGroup, sys};
use umcg::word::Word;
use umcg::{ErrorKind, Event, Id, Kind, Reason};

use super::watch::{Told, watch};
use super::{Test, full};
use crate::client::{self, Name, Progress, is_sound, join_all, serve_seen, worker};
use crate::harness::{Sched, Verdict, last_start_ms, metric};
use crate::load::{self, Hog};

pub const TESTS: &[Test] = &[full("vm_word_wraps_unseen", "group", 90, wraps)];

const WRAP: u64 = 1 << 48;
const MS: u64 = 1_000_000;
/// No state lasts for longer here, on a busy machine.
const SANE_NS: u64 = 8000 * MS;
/// The loads run from so long before the wrap until so long after it, at least.
const BEFORE_NS: u64 = 2000 * MS;
const AFTER_NS: u64 = 3000 * MS;
/// Of hogs too.
const KICKER_CPU: usize = 0;
const GROUP_CPU: usize = 1;
/// Kicks come 2 ms apart and turns are shorter: over 100 of the spinner's stints end in a
/// second. So many do on each side of the wrap where the machine is 10 times as slow.
const LEAST: u64 = 10;

/// A scheduler whose words wrap soon.
struct Wrapping {
    sched: Sched,
    /// When they do.
    at_ns: u64,
}

impl Wrapping {
    /// Loading takes a while, on a busy machine a long one: they wrap later there.
    fn start() -> Result<Self> {
        for _ in 0..3 {
            let took = match last_start_ms() {
                0 => 8000,
                ms => u64::from(ms),
            };
            let ms = 2 * took + BEFORE_NS / MS + 1000;
            let sched = Self::launch(ms)?;
            let ahead_ns = RunFile::read()?.context("no agent")?.ahead_ns;
            let now = sys::now_ns();
            let left = WRAP - now.wrapping_add(ahead_ns) % WRAP;
            if (BEFORE_NS..ms * MS).contains(&left) {
                let at_ns = now + left;
                return Ok(Self { sched, at_ns });
            }
            sched.stop()?;
        }
        anyhow::bail!("each load took more than twice as long as the one before it")
    }

    fn launch(ms: u64) -> Result<Sched> {
        // SAFETY: this program has one thread here.
        unsafe { std::env::set_var("UMCG_DEBUG_WRAP_MS", ms.to_string()) };
        let sched = Sched::start(&[]);
        // SAFETY: as above.
        unsafe { std::env::remove_var("UMCG_DEBUG_WRAP_MS") };
        sched
    }

    fn sleep_until(&self, ns: u64) {
        std::thread::sleep(Duration::from_nanos(ns.saturating_sub(sys::now_ns())));
    }

    /// What an operator is shown, before and after; read here, as a command takes long to
    /// start on a busy machine.
    fn both_sides(&self, look: impl Fn(&str) -> Result<()>) -> Result<()> {
        look("before the wrap")?;
        ensure!(sys::now_ns() < self.at_ns, "too late to be before the wrap");
        self.sleep_until(self.at_ns + 700 * MS);
        look("after the wrap")
    }

    fn status_is_sane(&self, when: &str) -> Result<()> {
        let status = serde_json::to_value(scx_umcg::status::read()?)?;
        let up = sys::now_ns() as f64 / 1e9;
        let wait = status["longest_wait"]["ms"].as_f64().unwrap_or(0.0);
        ensure!(
            wait < SANE_NS as f64 / 1e6,
            "{when}: {}",
            status["longest_wait"]
        );
        let since = status["since_s"].as_f64().context("since")?;
        ensure!(
            since < 60.0 && status["mode"] == "server",
            "{when}: {status}"
        );
        for cpu in status["cpus"].as_array().context("cpus")? {
            let text = cpu["server"].as_str().context("server")?;
            let at = text.split('@').nth(1).and_then(|t| t.strip_suffix('s'));
            let at: f64 = at
                .with_context(|| format!("{when}: server {text}"))?
                .parse()?;
            // Its last edge was after the attachment and not in the future.
            ensure!(
                at < up && at > up - 60.0,
                "{when}: server {text}, up {up} s"
            );
            let longest = cpu["longest_wait_ms"].as_f64().context("wait")?;
            ensure!(longest < SANE_NS as f64 / 1e6, "{when}: {cpu}");
        }
        Ok(())
    }
}

fn doctor_is_sane(pid: i32, when: &str) -> Result<()> {
    let told = serde_json::to_value(explain(pid)?)?;
    let age = told["age_ms"].as_f64().context("age")?;
    ensure!((0.0..SANE_NS as f64 / 1e6).contains(&age), "{when}: {told}");
    Ok(())
}

/// The events of one worker.
#[derive(Default)]
struct Story {
    /// Words of the stints that ended.
    stints: HashSet<u64>,
    last: Option<(u64, u64, u64)>,
    /// By kicks before the wrap, and after it.
    preempted: [u64; 2],
}

/// Judges events by the clock that their words have.
struct Judge {
    ahead_ns: u64,
    at_ns: u64,
    stories: HashMap<u64, Story>,
    before: u64,
    after: u64,
    longest_ns: u64,
}

impl Judge {
    fn saw(&mut self, event: &Event, ran: bool) -> Result<()> {
        let (now, word) = (sys::now_ns(), Word(event.tag));
        let edge = word
            .restore(now + self.ahead_ns)
            .wrapping_sub(self.ahead_ns);
        ensure!(
            edge <= now && now - edge < SANE_NS,
            "an edge at {edge}, {} ns from now: {event:?}",
            now.wrapping_sub(edge) as i64
        );
        ensure!(
            event.at_ns <= now && now - event.at_ns < SANE_NS,
            "at_ns, now {now}: {event:?}"
        );
        let story = self.stories.entry(event.cookie).or_default();
        if ran {
            // Its tag is the word of the edge that ended the stint, or that began it.
            ensure!(
                edge <= event.at_ns + MS,
                "{edge} is after its end: {event:?}"
            );
            ensure!(
                story.stints.insert(word.time48()),
                "a tag came twice: {event:?}"
            );
            self.longest_ns = self.longest_ns.max(event.at_ns.saturating_sub(edge));
            let (at, run, wait) = story.last.unwrap_or((0, event.run_ns, event.wait_ns));
            let (ran, waited) = (
                event.run_ns.wrapping_sub(run),
                event.wait_ns.wrapping_sub(wait),
            );
            let passed = event.at_ns.wrapping_sub(at);
            ensure!(
                ran <= passed + MS && waited <= passed + MS,
                "ran {ran}, waited {waited} in {passed} ns: {event:?}"
            );
            story.last = Some((event.at_ns, event.run_ns, event.wait_ns));
            if event.reason == Reason::Preempted {
                story.preempted[usize::from(event.at_ns >= self.at_ns)] += 1;
            }
        }
        match edge < self.at_ns {
            true => self.before += 1,
            false => self.after += 1,
        }
        Ok(())
    }
}

/// When the words of the group wrap, for clients: they are forked after it is set.
static WRAP_AT: AtomicU64 = AtomicU64::new(0);
/// Not 0 once all was looked at; shared with clients.
static OVER: OnceLock<&'static AtomicU32> = OnceLock::new();
const SPINNER: u64 = 3;

fn is_over() -> bool {
    OVER.get()
        .is_none_or(|over| over.load(Ordering::Relaxed) != 0)
}

/// How often the spinner was to be kicked, and how often it ran then.
#[derive(Default)]
struct Kicks {
    tried: AtomicU64,
    taken: AtomicU64,
}

/// A switch to `other`, who may be elsewhere.
fn to_and_fro(group: &KernelGroup, me: Id, other: Id) -> Result<()> {
    for round in 0.. {
        if is_over() {
            break;
        }
        match group.switch(me, other, sys::now_ns() + 5 * MS) {
            Err(error) if matches!(error.kind(), ErrorKind::WrongState | ErrorKind::NotFound) => {
                group.yield_now(me)?;
            }
            result => {
                let _ = result?;
            }
        }
        if round % 50 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    let _ = group.wake(other);
    Ok(())
}

/// Workers that block, switch, spin and wait, and threads outside that kick and wake them.
fn actors(
    group: &Arc<KernelGroup>,
    kicks: &Arc<Kicks>,
) -> Vec<std::thread::JoinHandle<Result<()>>> {
    let names: Arc<[Name; 4]> = Arc::default();
    let mut threads = vec![worker(group, 0, |_, _| {
        while !is_over() {
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    })];
    for i in 0..2 {
        let names = names.clone();
        threads.push(worker(group, 1 + i as u64, move |group, me| {
            names[i].set(me);
            to_and_fro(group, me, names[1 - i].get())
        }));
    }
    let told = names.clone();
    threads.push(worker(group, SPINNER, move |_, me| {
        told[2].set(me);
        // Else the waiter might never run: nobody is kicked before both have names.
        let _ = told[3].get();
        while !is_over() {
            std::hint::spin_loop();
        }
        Ok(())
    }));
    let told = names.clone();
    threads.push(worker(group, 4, move |group, me| {
        told[3].set(me);
        while !is_over() {
            let _ = group.wait(me, sys::now_ns() + 3 * MS)?;
        }
        Ok(())
    }));
    let (outside, kicks) = (group.clone(), kicks.clone());
    threads.push(std::thread::spawn(move || {
        // Where the spinner runs, this thread would take the CPU from it, and could kick
        // nobody: then it is RUNNABLE.
        load::pin(0, KICKER_CPU);
        let (spinner, waiter) = (names[2].get(), names[3].get());
        while !is_over() {
            kicks.tried.fetch_add(1, Ordering::SeqCst);
            if outside.kick(spinner).is_ok() {
                kicks.taken.fetch_add(1, Ordering::SeqCst);
            }
            let _ = outside.wake(waiter);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }));
    threads
}

/// In the client: serves them all, and judges what it is told.
fn live_across() -> Result<()> {
    load::pin(0, GROUP_CPU); // and so its threads
    let group = client::group(8)?;
    let me = group.register(Kind::Server, 0, &mut |_| {})?;
    let kicks = Arc::<Kicks>::default();
    let threads = actors(&group, &kicks);
    let mut judge = Judge {
        ahead_ns: group.words_ahead_ns(),
        at_ns: WRAP_AT.load(Ordering::Relaxed),
        stories: HashMap::new(),
        before: 0,
        after: 0,
        longest_ns: 0,
    };
    let seen = serve_seen(&group, me, 5, &Progress::default(), &mut |event, ran| {
        judge.saw(event, ran)
    })?;
    join_all(threads)?;
    group.unregister(me)?;
    seen.check(&group)?;
    let tried = kicks.tried.load(Ordering::SeqCst);
    let kicks = kicks.taken.load(Ordering::SeqCst);
    for (who, story) in &judge.stories {
        let most = if *who == SPINNER { kicks } else { 0 };
        let preempted = story.preempted.iter().sum::<u64>();
        ensure!(
            preempted <= most,
            "worker {who}: {preempted} times preempted by {most} kicks"
        );
        ensure!(!story.stints.is_empty(), "worker {who} never ran");
    }
    let preempted = judge.stories[&SPINNER].preempted;
    ensure!(
        preempted.iter().all(|&n| n >= LEAST),
        "{kicks} of {tried} kicks ended {preempted:?} stints before the wrap and after it"
    );
    // Each stint ends in an event, and the other four have theirs between two of the spinner's.
    ensure!(
        judge.before > 2 * LEAST && judge.after > 2 * LEAST,
        "{} events before the wrap, {} after it",
        judge.before,
        judge.after
    );
    println!(
        "metric wrap_group before={} after={} tried={tried} kicks={kicks} preempted={} longest_ms={:.3}",
        judge.before,
        judge.after,
        preempted[0] + preempted[1],
        judge.longest_ns as f64 / 1e6
    );
    Ok(())
}

/// A hog's life as `watch` tells it, from before the wrap until after it.
fn life_goes_on(told: &Told, at_ns: u64) -> Result<()> {
    told.adds_up()?;
    let text = &told.text;
    let (wrap, now) = (at_ns as f64 / 1e9, sys::now_ns() as f64 / 1e9);
    let at: Vec<f64> = told.edges.iter().map(|edge| edge.at_s).collect();
    ensure!(
        at.is_sorted() && at.iter().all(|&at| at > now - 120.0 && at < now),
        "not in order, or not of the last two minutes, now {now} s: {text}"
    );
    let mut stays = told.edges.iter().filter_map(|edge| edge.after_ms);
    ensure!(
        stays.all(|ms| (0.0..SANE_NS as f64 / 1e6).contains(&ms)),
        "too long a stay: {text}"
    );
    let before = at.iter().filter(|&&at| at < wrap).count();
    let after = at.len() - before;
    metric(
        "wrap_watch",
        &[
            ("before", before as f64),
            ("after", after as f64),
            ("missed_ms", told.missed_ms),
        ],
    );
    ensure!(
        before as u64 >= LEAST && after as u64 >= LEAST,
        "{before} edges before the wrap at {wrap} s, {after} after it: {text}"
    );
    Ok(())
}

/// Members of a group and workers of the system, and who looks at them.
fn wraps() -> Result<Verdict> {
    let words = client::shared_words()?;
    let wrapping = Wrapping::start()?;
    WRAP_AT.store(wrapping.at_ns, Ordering::Relaxed);
    let over = *OVER.get_or_init(|| &words[0]);
    over.store(0, Ordering::Relaxed);
    let client = client::spawn(live_across)?;
    let pinned = Hog {
        cpu: Some(KICKER_CPU),
        ..Hog::default()
    };
    let hogs = pinned.start_many(2)?;
    let left_ns = wrapping.at_ns.saturating_sub(sys::now_ns()) + AFTER_NS;
    let mut life = watch(hogs[0].pid(), left_ns as f64 / 1e9)?;
    life.pin(GROUP_CPU);
    life.first_line()?;
    let looked = wrapping.both_sides(|when| {
        wrapping.status_is_sane(when)?;
        doctor_is_sane(client.pid, when)?;
        doctor_is_sane(hogs[1].pid(), when)
    });
    wrapping.sleep_until(wrapping.at_ns + AFTER_NS);
    over.store(1, Ordering::Relaxed);
    client.result(Duration::from_secs(30))?;
    looked?;
    life_goes_on(&life.end()?, wrapping.at_ns)?;
    is_sound(&wrapping.sched)?;
    drop(hogs);
    wrapping.sched.stop()?;
    Ok(Verdict::Ok)
}
