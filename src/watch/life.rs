//! A thread's life, put together from looks at its record.
//!
//! A look that finds another word has seen an edge, or several of which only the last one
//! shows. Two things tell: what the word was and is, since not every state follows every
//! other, and the books beside it, since each wait that has ended is in `wait_ns`.

use umcg::word::{ASLEEP, State, Word, legal};

/// What the books of a wait may differ by from its stamps: these step over one another.
const STEP_NS: u64 = 100;

/// Who is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A worker of the system group.
    Worker,
    /// A worker of an application group.
    GroupWorker,
    /// A server of one. Its waits are in no book.
    GroupServer,
}

/// A record, read once.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Its word.
    pub word: Word,
    /// CLOCK_MONOTONIC time of the word's edge.
    pub at_ns: u64,
    /// When it was read.
    pub now_ns: u64,
    /// CPU time, by the record's books.
    pub run_ns: u64,
    /// Time RUNNABLE, by the record's books.
    pub wait_ns: u64,
    /// The CPU that runs it.
    pub cpu: Option<u32>,
    /// Of a group: the server whose slot it has, or the worker that has its slot.
    pub mate: Option<u32>,
}

/// One edge that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// CLOCK_MONOTONIC time.
    pub at_ns: u64,
    /// The word before it.
    pub from: Word,
    /// The word that it made.
    pub to: Word,
    /// How long the state before it lasted; at least so long if edges were missed.
    pub spent_ns: u64,
    /// Edges before this one were missed, all of them within this time.
    pub missed_ns: Option<u64>,
    /// Where it runs, or has run.
    pub cpu: Option<u32>,
    /// As [`Look::mate`].
    pub mate: Option<u32>,
}

/// What is known of one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    /// How often it was entered.
    pub times: u64,
    /// Time in it, while it was watched.
    pub total_ns: u64,
    /// The longest stay, from its beginning on.
    pub longest_ns: u64,
}

/// All that was seen of a thread.
#[derive(Debug)]
pub struct Life {
    kind: Kind,
    /// The last look; its `now_ns` is the last time at which its word was still there.
    last: Look,
    began_ns: u64,
    ran_ns: u64,
    waited_ns: u64,
    /// Edges that were seen.
    pub edges: u64,
    /// How often some were missed.
    pub gaps: u64,
    /// The time in which they were.
    pub gaps_ns: u64,
    stays: [Stay; State::ALL.len()],
}

impl Life {
    /// Begins with `first`.
    pub fn new(kind: Kind, first: Look) -> Self {
        Self {
            kind,
            last: first,
            began_ns: first.now_ns,
            ran_ns: 0,
            waited_ns: 0,
            edges: 0,
            gaps: 0,
            gaps_ns: 0,
            stays: Default::default(),
        }
    }

    /// Adds a look; the edge that it shows.
    pub fn saw(&mut self, look: Look) -> Option<Edge> {
        let last = self.last;
        self.ran_ns += look.run_ns.saturating_sub(last.run_ns);
        self.waited_ns += look.wait_ns.saturating_sub(last.wait_ns);
        self.last = Look {
            cpu: look.cpu.or(last.cpu),
            ..look
        };
        if is_same(last.word, look.word) {
            return None; // a flag without an edge: a wake is remembered
        }
        let missed = self.has_missed(&last, &look);
        let until = if missed { last.now_ns } else { look.at_ns };
        self.leave(&last, until);
        let missed_ns = missed.then(|| look.at_ns.saturating_sub(last.now_ns.max(last.at_ns)));
        if let Some(ns) = missed_ns {
            self.gaps += 1;
            self.gaps_ns += ns;
        }
        self.edges += 1;
        self.enter(look.word);
        Some(Edge {
            at_ns: look.at_ns,
            from: last.word,
            to: look.word,
            spent_ns: until.saturating_sub(last.at_ns),
            missed_ns,
            cpu: self.last.cpu,
            mate: look.mate.or(last.mate),
        })
    }

    /// Goes on with another record of the same thread: it has joined a group, or left one.
    pub fn moved(&mut self, kind: Kind, look: Look) {
        let last = self.last;
        self.leave(&last, look.now_ns);
        self.kind = kind;
        self.last = look;
    }

    fn has_missed(&self, last: &Look, look: &Look) -> bool {
        let (Some(from), Some(to)) = (last.word.state(), look.word.state()) else {
            return true;
        };
        let sleeps = to == State::Idle && look.word.flags() & !last.word.flags() & ASLEEP != 0;
        let follows = match self.kind {
            Kind::Worker => legal(from, to),
            // Its server may end its wait by running it.
            _ => from != to || sleeps,
        };
        let waited = match (from, to) {
            (State::Runnable, State::Running) => look.at_ns.saturating_sub(last.at_ns),
            _ => 0,
        };
        let booked = look.wait_ns.wrapping_sub(last.wait_ns);
        !follows || self.kind != Kind::GroupServer && booked.abs_diff(waited) > STEP_NS
    }

    /// Books the stay that `last` saw, which lasted until `until`.
    fn leave(&mut self, last: &Look, until: u64) {
        let began = self.began_ns;
        if let Some(stay) = last.word.state().map(|s| &mut self.stays[s as usize]) {
            stay.total_ns += until.saturating_sub(last.at_ns.max(began));
            stay.longest_ns = stay.longest_ns.max(until.saturating_sub(last.at_ns));
        }
    }

    fn enter(&mut self, word: Word) {
        if let Some(state) = word.state() {
            self.stays[state as usize].times += 1;
        }
    }

    /// What is known now of each state, the one that it is in included.
    pub fn stays(&self) -> [Stay; State::ALL.len()] {
        let mut all = Self {
            stays: self.stays,
            ..Self::new(self.kind, self.last)
        };
        all.began_ns = self.began_ns;
        all.leave(&self.last, self.last.now_ns);
        all.stays
    }

    /// How long it was watched.
    pub fn watched_ns(&self) -> u64 {
        self.last.now_ns.saturating_sub(self.began_ns)
    }

    /// CPU time and time RUNNABLE meanwhile, by the record's books, which miss nothing.
    pub fn booked(&self) -> (u64, u64) {
        (self.ran_ns, self.waited_ns)
    }
}

/// The same edge: flags may come without one.
fn is_same(a: Word, b: Word) -> bool {
    a.time48() == b.time48() && a.state() == b.state()
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Blocked, Idle, Runnable, Running};

    const WRAP: u64 = 1 << 48;

    fn word(at_ns: u64, state: State, flags: u64) -> Word {
        Word((at_ns % WRAP) << 16 | flags | state as u64)
    }

    fn look(at_ns: u64, now_ns: u64, state: State, wait_ns: u64) -> Look {
        Look {
            word: word(at_ns, state, 0),
            at_ns,
            now_ns,
            run_ns: 0,
            wait_ns,
            cpu: None,
            mate: None,
        }
    }

    #[test]
    fn life_without_gaps_adds_up() {
        let base = WRAP - 5000; // the words wrap in the middle
        let at = |ns| base + ns;
        let mut life = Life::new(Kind::Worker, look(at(0), at(1000), Running, 0));
        let mut spent = Vec::new();
        for (ns, now, state, wait) in [
            (3000, 3100, Blocked, 0),
            (6000, 6100, Runnable, 0),
            (9000, 9100, Running, 3000),
            (9500, 10_000, Runnable, 3000),
        ] {
            let edge = life.saw(look(at(ns), at(now), state, wait)).unwrap();
            assert_eq!((edge.missed_ns, edge.at_ns), (None, at(ns)));
            spent.push(edge.spent_ns);
            assert_eq!(life.saw(look(at(ns), at(now + 50), state, wait)), None);
        }
        assert_eq!(spent, [3000, 3000, 3000, 500]);
        let stays = life.stays();
        let of = |s: State| (stays[s as usize].times, stays[s as usize].total_ns);
        // It had been RUNNING for a microsecond before it was watched.
        assert_eq!(of(Running), (1, 2000 + 500));
        assert_eq!(stays[Running as usize].longest_ns, 3000);
        assert_eq!(of(Blocked), (1, 3000));
        assert_eq!(of(Runnable), (2, 3000 + 550));
        let total: u64 = stays.iter().map(|s| s.total_ns).sum();
        assert_eq!((total, life.gaps), (life.watched_ns(), 0));
        assert_eq!(life.booked().1, 3000);
    }

    #[test]
    fn life_same_state_with_another_stamp_is_a_gap() {
        let mut life = Life::new(Kind::Worker, look(0, 1_000_000, Blocked, 0));
        let edge = life.saw(look(1_300_000, 1_400_000, Blocked, 7000)).unwrap();
        assert_eq!(edge.missed_ns, Some(300_000));
        assert_eq!(edge.spent_ns, 1_000_000, "so long at least");
        assert_eq!((life.gaps, life.gaps_ns), (1, 300_000));
        let total: u64 = life.stays().iter().map(|s| s.total_ns).sum();
        assert_eq!(total + life.gaps_ns, life.watched_ns());
    }

    #[test]
    fn life_books_tell_of_a_turn_between_states_that_may_follow() {
        // RUNNING, then BLOCKED: by its books it has waited in between.
        let mut life = Life::new(Kind::Worker, look(0, 100_000, Running, 5000));
        let edge = life.saw(look(150_000, 160_000, Blocked, 6000)).unwrap();
        assert_eq!(edge.missed_ns, Some(50_000));
        // RUNNABLE, then RUNNING, and has waited for less than that took.
        let mut life = Life::new(Kind::Worker, look(0, 100_000, Runnable, 5000));
        let edge = life.saw(look(190_000, 200_000, Running, 6000)).unwrap();
        assert_eq!(edge.missed_ns, Some(90_000));
        // A server's waits are in no book.
        let mut life = Life::new(Kind::GroupServer, look(0, 100_000, Runnable, 0));
        assert_eq!(
            life.saw(look(190_000, 200_000, Running, 0))
                .unwrap()
                .missed_ns,
            None
        );
    }

    #[test]
    fn life_knows_which_edges_groups_have() {
        let sees =
            |kind, from: Look, to: Look| Life::new(kind, from).saw(to).unwrap().missed_ns.is_some();
        let (idle, run) = (look(0, 10, Idle, 0), look(50, 60, Running, 0));
        assert!(sees(Kind::Worker, idle, run));
        assert!(!sees(Kind::GroupWorker, idle, run));
        let asleep = Look {
            word: word(50, Idle, ASLEEP),
            ..look(50, 60, Idle, 0)
        };
        assert!(!sees(Kind::GroupWorker, idle, asleep));
        let again = Look {
            word: word(90, Idle, ASLEEP),
            ..look(90, 99, Idle, 0)
        };
        assert!(sees(Kind::GroupWorker, asleep, again));
        let odd = Look {
            word: Word(0x5_0007),
            ..look(5, 60, Idle, 0)
        };
        assert!(sees(Kind::Worker, idle, odd), "no state of ours");
    }

    #[test]
    fn life_a_flag_alone_is_no_edge() {
        let mut life = Life::new(Kind::GroupWorker, look(7, 10, Running, 0));
        let woken = Look {
            word: word(7, Running, umcg::word::PENDING),
            ..look(7, 20, Running, 0)
        };
        assert_eq!(life.saw(woken), None);
        assert_eq!(life.edges, 0);
    }
}
