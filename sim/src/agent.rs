//! The agent: a server per CPU with a policy of its own, and what one turn of it does.
//!
//! The steps are those of `turn()` in `src/agent/server.rs`, on `umcg`'s lists and rings and on the
//! policies' own code. What is different: a policy is made for as many workers as its server is
//! likely to have, not for all, or 256 of them would not fit into memory; so a worker has a *seat*
//! at the server that heard of it last. One that comes when all seats are taken is not told, and
//! waits by BPF's order alone.

use anyhow::Result;
use umcg::record::{Server as Record, Worker as WorkerRecord};
use umcg::ring::Choice;
use umcg::sync::Ordering::Relaxed;
use umcg::word::{State, Word};
use umcg_policy::{Decide, Order, Policy, PolicyConfig, Terms, Traits, WorkerId};

use crate::costs::levels;
use crate::worker::{NONE, Worker, facts, write_terms};

const MS: u64 = 1_000_000;
const BATCH_NOTICES: u32 = 64;
const BATCH_NS: u64 = 16 * MS;
const BATCH_IDLE_NS: u64 = 4000 * MS;
/// A server that has parked for so long was let run once more, and sleeps.
const PARK_MAX_NS: u64 = 8 * MS;
/// Notices unread for so long: the server is absent.
const GRACE_NS: u64 = 2 * MS;
/// Seats of a server, as a multiple of its even share of the workers, and at least.
const SEATS: u32 = 4;
const SEATS_MIN: u32 = 1024;

/// One server and its policy.
#[derive(Debug)]
pub struct Agent {
    /// What it shares with BPF.
    pub record: Record,
    policy: Box<dyn Policy>,
    /// Of the policy.
    pub traits: Traits,
    /// When it ran last.
    pub act_ns: u64,
    /// Parked since then.
    pub parked_ns: u64,
    /// Its bell was rung and has not woken it yet.
    pub ringing: bool,
    /// Who sits where.
    seats: Vec<u32>,
    free: Vec<u32>,
}

/// What a turn did, to be paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Workers that the server heard of.
    pub notices: u64,
    /// Choices that it staged.
    pub picks: u64,
    /// Levels of the policy's queue that both went through.
    pub levels: u64,
    /// Workers without a seat.
    pub unseated: u64,
}

impl Agent {
    fn new(config: &PolicyConfig, seats: u32, now_ns: u64) -> Result<Self> {
        let policy = config.build(seats)?;
        Ok(Agent {
            record: Record::new(),
            traits: policy.traits(),
            policy,
            act_ns: now_ns,
            parked_ns: now_ns,
            ringing: false,
            seats: vec![NONE; seats as usize],
            free: (0..seats).rev().collect(),
        })
    }

    /// The policy picks every next worker.
    pub fn staged(&self) -> bool {
        self.traits.decide == Decide::Staged
    }

    /// Notices wait.
    pub fn has_news(&self) -> bool {
        let record = &self.record;
        record.runnable.head.load(Relaxed) != 0 || record.blocked.head.load(Relaxed) != 0
    }

    /// `server_needed()` of `server.bpf.h`.
    pub fn needed(&self, waiting: usize, rivals: usize, want: bool, now_ns: u64) -> bool {
        let since = now_ns - self.act_ns;
        if self.record.must.load(Relaxed) != 0 {
            return true;
        }
        if self.staged() {
            let own = self.traits.order == Order::Own;
            let choosing = if own { rivals } else { waiting };
            let backlog = || self.record.backlog.load(Relaxed) != 0;
            return choosing >= 2
                && self.record.ring.is_empty_hint()
                && (self.has_news() || backlog());
        }
        if self.traits.tick_ns != 0 && since >= self.traits.tick_ns {
            return true;
        }
        if !self.has_news() {
            return false;
        }
        let unread = self.record.unread.load(Relaxed);
        if rivals < 2 && unread < BATCH_NOTICES {
            return since >= BATCH_IDLE_NS;
        }
        if want && waiting > 0 && since < BATCH_NS {
            return false;
        }
        unread >= BATCH_NOTICES || since >= BATCH_NS
    }

    /// `server_absent()`.
    pub fn absent(&self, now_ns: u64) -> bool {
        let unread = self.record.unread_ns.load(Relaxed);
        let away = self.ringing || self.asleep(now_ns);
        away && unread != 0 && now_ns - unread > GRACE_NS && self.has_news()
    }

    /// It has parked for so long that it was let go to sleep.
    pub fn asleep(&self, now_ns: u64) -> bool {
        now_ns - self.parked_ns > PARK_MAX_NS
    }

    fn level(&self) -> u64 {
        levels(self.policy.len())
    }

    fn give_back(&mut self, seat: u32) {
        self.policy.remove(WorkerId(seat));
        self.seats[seat as usize] = NONE;
        self.free.push(seat);
    }
}

/// All servers.
#[derive(Debug)]
pub struct Agents {
    all: Vec<Agent>,
    depth: usize,
    scratch: Vec<u32>,
    notices: Vec<(u32, Word)>,
}

impl Agents {
    /// A server per CPU, each with a policy of `config`, for so many workers in all.
    ///
    /// # Errors
    ///
    /// The policy cannot be made.
    pub fn new(
        config: &PolicyConfig,
        cpus: u32,
        workers: u32,
        depth: u32,
        now_ns: u64,
    ) -> Result<Self> {
        let share = u64::from(workers.div_ceil(cpus)) * u64::from(SEATS);
        let seats = share.max(u64::from(SEATS_MIN)).min(u64::from(workers)) as u32;
        let agents = (0..cpus).map(|_| Agent::new(config, seats, now_ns));
        Ok(Agents {
            all: agents.collect::<Result<_>>()?,
            depth: depth as usize,
            scratch: Vec::new(),
            notices: Vec::new(),
        })
    }

    /// The server of `cpu`.
    pub fn of(&self, cpu: u32) -> &Agent {
        &self.all[cpu as usize]
    }

    /// The same, to change.
    pub fn of_mut(&mut self, cpu: u32) -> &mut Agent {
        &mut self.all[cpu as usize]
    }

    /// One activation of the server of `me`.
    pub fn turn(
        &mut self,
        me: u32,
        records: &[WorkerRecord],
        workers: &mut [Worker],
        now_ns: u64,
    ) -> Turn {
        let mut turn = Turn::default();
        let mut notices = std::mem::take(&mut self.notices);
        notices.clear();
        let each = |index, word| notices.push((index, word));
        self.all[me as usize]
            .record
            .drain(records, &mut self.scratch, me, each);
        let (staged, own) = (self.of(me).staged(), self.of(me).traits.order == Order::Own);
        for &(index, word) in &notices {
            if staged && self.forward(me, records, index, word, now_ns) {
                continue;
            }
            self.tell(me, records, workers, (index, word), now_ns, &mut turn);
        }
        if staged && own && !notices.is_empty() {
            // A newcomer may come before what is staged: choose again among all.
            let mut back = Vec::new();
            self.of(me)
                .record
                .ring
                .recall(|choice| back.push(choice.index()));
            for index in back {
                let word = Word(records[index as usize].word.load(Relaxed));
                self.tell(me, records, workers, (index, word), now_ns, &mut turn);
            }
        }
        let agent = &mut self.all[me as usize];
        while let Some((WorkerId(seat), terms)) = agent.policy.retune(now_ns) {
            if let Some(&w) = agent.seats.get(seat as usize)
                && w != NONE
            {
                write_terms(&records[w as usize + 1], terms);
            }
        }
        if staged {
            stage(agent, me, records, self.depth, now_ns, &mut turn);
        }
        let backlog = u32::try_from(agent.policy.len()).unwrap_or(u32::MAX);
        agent.record.backlog.store(backlog, Relaxed);
        self.notices = notices;
        turn
    }

    /// A worker that waits elsewhere by now is news for the server there.
    fn forward(
        &self,
        me: u32,
        records: &[WorkerRecord],
        index: u32,
        word: Word,
        now_ns: u64,
    ) -> bool {
        let worker = &records[index as usize];
        let home = worker.home.load(Relaxed);
        if home == me || word.state() != Some(State::Runnable) {
            return false;
        }
        let there = &self.of(home).record;
        there.push(&there.runnable, home, worker, index, now_ns);
        true
    }

    /// Passes one notice on; the word is the truth.
    fn tell(
        &mut self,
        me: u32,
        records: &[WorkerRecord],
        workers: &mut [Worker],
        (index, word): (u32, Word),
        now_ns: u64,
        turn: &mut Turn,
    ) {
        turn.notices += 1;
        let Some(seat) = self.seat(me, index - 1, workers) else {
            turn.unseated += 1;
            return;
        };
        let record = &records[index as usize];
        let agent = &mut self.all[me as usize];
        turn.levels += agent.level();
        let (id, staged) = (WorkerId(seat), agent.staged());
        let facts = facts(record, word, now_ns);
        let terms = match word.state() {
            Some(State::Runnable) => Some(agent.policy.enqueue(id, &facts)),
            Some(State::Running) if !staged => Some(agent.policy.enqueue(id, &facts)),
            _ => agent.policy.block(id, &facts),
        };
        let keys = !staged || agent.traits.order == Order::Own;
        if let Some(terms) = terms
            && (keys || terms.slice_us != 0)
        {
            write_terms(record, terms);
        }
    }

    /// The seat of worker `w` at `me`; the one that it had elsewhere is given back.
    fn seat(&mut self, me: u32, w: u32, workers: &mut [Worker]) -> Option<u32> {
        let worker = &mut workers[w as usize];
        if worker.seat_cpu == me {
            return Some(worker.seat);
        }
        if worker.seat_cpu != NONE {
            self.all[worker.seat_cpu as usize].give_back(worker.seat);
        }
        (worker.seat_cpu, worker.seat) = (NONE, NONE);
        let agent = &mut self.all[me as usize];
        let seat = agent.free.pop()?;
        agent.seats[seat as usize] = w;
        (worker.seat_cpu, worker.seat) = (me, seat);
        Some(seat)
    }
}

/// Fills the ring with the policy's next choices.
fn stage(
    agent: &mut Agent,
    me: u32,
    records: &[WorkerRecord],
    depth: usize,
    now_ns: u64,
    turn: &mut Turn,
) {
    let budget = agent.policy.stage_budget_ns();
    let (mut count, mut work, mut worst) = (agent.record.ring.len_hint(), 0u64, None);
    // Without a budget one at a time: what it does decides who is next.
    while count < depth && (work < budget || (budget == 0 && count == 0)) {
        let level = agent.level();
        let Some(WorkerId(seat)) = agent.policy.pick() else {
            break;
        };
        turn.levels += level;
        let index = agent.seats[seat as usize] + 1;
        let worker = &records[index as usize];
        let word = Word(worker.word.load(Relaxed));
        let facts = facts(worker, word, now_ns);
        if word.state() != Some(State::Runnable) || facts.home != me {
            continue;
        }
        let choice = Choice::new(index, worker.gen_.load(Relaxed), word);
        if !agent.record.ring.push(choice) {
            let _: Terms = agent.policy.enqueue(WorkerId(seat), &facts);
            break;
        }
        count += 1;
        turn.picks += 1;
        work += u64::from(facts.avg_ns);
        worst = Some(match worst {
            Some(key) if crate::park::before(facts.key, key) => key,
            _ => facts.key,
        });
    }
    if let Some(key) = worst {
        agent.record.worst_key.store(key, Relaxed);
    }
}
