//! What happens when: a radix heap, as no event is ever put before the last one taken.
//!
//! An entry is in the bucket of the highest bit in which its time differs from the last one taken.
//! Taking the earliest spreads its bucket over lower ones, so an entry moves once per bit at most
//! and always in a row: a million timers cost no more cache misses than a thousand, which a binary
//! heap does not offer. Two of one time leave in the order in which they came, whatever happens
//! between, so a run repeats exactly.

/// What an event means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What this CPU does ends, if its stamp is still this one.
    Cpu(u32, u32),
    /// This CPU has a tick on which somebody waits.
    Tick(u32),
    /// The bell of this CPU's server was heard.
    Bell(u32),
    /// A kick reaches this CPU.
    Kick(u32),
    /// This worker's sleep ends.
    Wake(u32),
    /// The next request comes from outside.
    Arrival,
}

const BUCKETS: usize = 65;

/// Events, the earliest first.
#[derive(Debug)]
pub struct Events {
    buckets: Vec<Vec<(u64, Event)>>,
    /// Of bucket 0, what was taken already.
    taken: usize,
    last: u64,
    len: usize,
}

impl Default for Events {
    fn default() -> Self {
        Events {
            buckets: vec![Vec::new(); BUCKETS],
            taken: 0,
            last: 0,
            len: 0,
        }
    }
}

impl Events {
    /// Events that are to come.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is to come.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn bucket(&self, at_ns: u64) -> usize {
        (u64::BITS - (at_ns ^ self.last).leading_zeros()) as usize
    }

    /// Puts `event` at `at_ns`, not before the last one that was taken.
    pub fn put(&mut self, at_ns: u64, event: Event) {
        debug_assert!(at_ns >= self.last, "an event in the past");
        let bucket = self.bucket(at_ns.max(self.last));
        self.buckets[bucket].push((at_ns.max(self.last), event));
        self.len += 1;
    }

    /// Takes the earliest, if it is not after `until_ns`.
    pub fn take(&mut self, until_ns: u64) -> Option<(u64, Event)> {
        if self.taken == self.buckets[0].len() {
            self.buckets[0].clear();
            self.taken = 0;
            self.spread(until_ns)?;
        }
        let entry = self.buckets[0][self.taken];
        if entry.0 > until_ns {
            return None;
        }
        self.taken += 1;
        self.len -= 1;
        Some(entry)
    }

    /// Moves on to the earliest time and fills bucket 0 with what is then.
    fn spread(&mut self, until_ns: u64) -> Option<()> {
        let first = self.buckets.iter().position(|it| !it.is_empty())?;
        let earliest = self.buckets[first].iter().map(|it| it.0).min()?;
        if earliest > until_ns {
            return None;
        }
        self.last = earliest;
        let mut moving = std::mem::take(&mut self.buckets[first]);
        for &(at, event) in &moving {
            let bucket = self.bucket(at);
            self.buckets[bucket].push((at, event));
        }
        // Its memory serves the next ones.
        moving.clear();
        self.buckets[first] = moving;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(events: &mut Events) -> Vec<(u64, Event)> {
        std::iter::from_fn(|| events.take(u64::MAX)).collect()
    }

    #[test]
    fn events_come_by_time_and_then_by_arrival() {
        let mut events = Events::default();
        for (w, at) in [(0, 700), (1, 3), (2, 700), (3, 0), (4, 1 << 40), (5, 3)] {
            events.put(at, Event::Wake(w));
        }
        assert_eq!(events.len(), 6);
        let order: Vec<_> = drain(&mut events).iter().map(|it| it.1).collect();
        assert_eq!(order, [3, 1, 5, 0, 2, 4].map(Event::Wake));
        assert!(events.is_empty());
    }

    #[test]
    fn events_are_sorted_when_puts_and_takes_mix() {
        let mut events = Events::default();
        let (mut state, mut now, mut order) = (7u64, 0, 0u32);
        let mut pending: Vec<(u64, u32)> = Vec::new();
        for round in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if round % 3 != 2 {
                let at = now + (state >> 33) % [1, 2, 50, 1_000_000][round % 4];
                events.put(at, Event::Wake(order));
                pending.push((at, order));
                order += 1;
            } else {
                let &least = pending.iter().min().expect("more puts than takes");
                pending.retain(|it| *it != least);
                assert_eq!(events.take(u64::MAX), Some((least.0, Event::Wake(least.1))));
                now = least.0;
            }
        }
        pending.sort_unstable();
        let rest: Vec<_> = drain(&mut events).iter().map(|it| it.0).collect();
        assert_eq!(rest, pending.iter().map(|it| it.0).collect::<Vec<_>>());
    }

    #[test]
    fn events_after_the_end_stay() {
        let mut events = Events::default();
        events.put(10, Event::Arrival);
        assert_eq!(events.take(9), None);
        events.put(5, Event::Tick(1));
        assert_eq!(events.take(9), Some((5, Event::Tick(1))));
        assert_eq!(events.take(10), Some((10, Event::Arrival)));
    }
}
