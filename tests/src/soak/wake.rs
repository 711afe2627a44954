//! What a lost wake is: a worker RUNNABLE for over 100 ms while a place that it may use idles.
//!
//! A look reads words and places one after the other while all of them move. So it takes two looks:
//! the same word, which is a tag that no later wait has again, and the same place idle at both.

/// So long may a worker wait beside an idle place.
pub const MOST_NS: u64 = 100_000_000;

/// Looks that are nearer to each other may have read one move.
pub const APART_NS: u64 = 20_000_000;

/// A worker that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its record.
    pub who: u64,
    /// Its word as a whole.
    pub word: u64,
    /// Since when it is RUNNABLE, of CLOCK_MONOTONIC.
    pub since_ns: u64,
}

/// One look at the machine.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// When it began.
    pub now_ns: u64,
    /// Who waits.
    pub waiting: Vec<Waiting>,
    /// Places that idle: a CPU, or servers of a group that all wait for events.
    pub idle: Vec<u64>,
}

/// The last look, and what was found so far.
#[derive(Debug, Default)]
pub struct Rule {
    last: Look,
    told: Vec<(u64, u64)>,
}

impl Rule {
    /// Nothing idled: whoever waited did so for want of a place. What was told stays told.
    pub fn rest(&mut self) {
        self.last = Look::default();
    }

    /// Who waits too long beside which place, by this look and the one before; `may` says whether
    /// a worker may use a place. A wait is found once.
    pub fn look(
        &mut self,
        look: Look,
        mut may: impl FnMut(&Waiting, u64) -> bool,
    ) -> Option<(Waiting, u64)> {
        if look.now_ns < self.last.now_ns + APART_NS {
            return None;
        }
        let late = |w: &Waiting| look.now_ns.saturating_sub(w.since_ns) > MOST_NS;
        let mut found = None;
        for w in look.waiting.iter().filter(|w| late(w)) {
            let key = (w.who, w.word);
            let before = |it: &Waiting| (it.who, it.word) == key;
            if !self.last.waiting.iter().any(before) || self.told.contains(&key) {
                continue;
            }
            let both = |place: &&u64| self.last.idle.contains(place);
            let mut places = look.idle.iter().copied().filter(|it| both(&it));
            if let Some(place) = places.find(|&place| may(w, place)) {
                self.told.push(key);
                found = Some((*w, place));
                break;
            }
        }
        self.last = look;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const WORD: u64 = 77 << 16 | 2;

    fn worker(who: u64, word: u64, since_ms: u64) -> Waiting {
        Waiting {
            who,
            word,
            since_ns: since_ms * MS,
        }
    }

    fn look(now_ms: u64, waiting: &[Waiting], idle: &[u64]) -> Look {
        Look {
            now_ns: now_ms * MS,
            waiting: waiting.to_vec(),
            idle: idle.to_vec(),
        }
    }

    /// What is found in these looks, 25 ms apart from 1 s on, if all may run everywhere.
    fn found(looks: &[(&[Waiting], &[u64])]) -> Vec<(u64, u64)> {
        let mut rule = Rule::default();
        let at = |(i, (waiting, idle)): (usize, &(&[Waiting], &[u64]))| {
            rule.look(look(1000 + 25 * i as u64, waiting, idle), |_, _| true)
        };
        let found = looks.iter().enumerate().filter_map(at);
        found.map(|(w, place)| (w.who, place)).collect()
    }

    #[test]
    fn rule_finds_a_planted_lost_wake_once() {
        let lost = worker(5, WORD, 850);
        let others = [worker(4, 1 << 16 | 2, 995), lost];
        let look: (&[Waiting], &[u64]) = (&others, &[1]);
        assert_eq!(found(&[look; 4]), [(5, 1)]);
        // It waits once more later: that is another wake.
        let again = [worker(5, WORD + (9 << 16), 700)];
        let next: (&[Waiting], &[u64]) = (&again, &[1]);
        assert_eq!(found(&[look, look, next, next]), [(5, 1), (5, 1)]);
    }

    #[test]
    fn rule_ignores_a_word_that_has_moved() {
        let old = [worker(5, WORD, 850)];
        let new = [worker(5, WORD + (1 << 16), 850)];
        assert_eq!(found(&[(&old, &[1]), (&new, &[1])]), []);
    }

    #[test]
    fn rule_ignores_a_cpu_that_idles_at_one_look() {
        let lost = [worker(5, WORD, 850)];
        assert_eq!(found(&[(&lost, &[1]), (&lost, &[]), (&lost, &[1])]), []);
        assert_eq!(found(&[(&lost, &[0]), (&lost, &[1])]), []);
    }

    #[test]
    fn rule_ignores_who_waits_for_less_or_may_not_run_there() {
        let young = [worker(5, WORD, 930)];
        assert_eq!(found(&[(&young, &[1]), (&young, &[1])]), []);
        let pinned = [worker(5, WORD, 500)];
        let mut rule = Rule::default();
        for now in [1000, 1025, 1050] {
            let found = rule.look(look(now, &pinned, &[1]), |_, place| place == 0);
            assert_eq!(found, None);
        }
        // It may be told of later, when it may run there.
        let found = rule.look(look(1075, &pinned, &[1]), |_, _| true);
        assert!(found.is_some());
    }

    #[test]
    fn rule_looks_too_near_are_one() {
        let lost = [worker(5, WORD, 500)];
        let mut rule = Rule::default();
        for now in [1000, 1005, 1010, 1015] {
            assert_eq!(rule.look(look(now, &lost, &[1]), |_, _| true), None);
        }
        assert!(rule.look(look(1020, &lost, &[1]), |_, _| true).is_some());
    }
}
