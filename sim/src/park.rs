//! PARK(cpu): waiting workers by key, equals by arrival.
//!
//! BPF has a dispatch queue of the kernel here, a red-black tree; this is a heap with the same
//! order. A worker waits on one PARK at most, so one array of places serves all of them.

/// Whether `a` is before `b`; keys wrap.
pub fn before(a: u64, b: u64) -> bool {
    (a.wrapping_sub(b) as i64) < 0
}

const OUT: u32 = u32::MAX;
const ARITY: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    arrival: u64,
    worker: u32,
}

impl Entry {
    fn before(&self, other: &Entry) -> bool {
        if self.key == other.key {
            return self.arrival < other.arrival;
        }
        before(self.key, other.key)
    }
}

/// The queues of all CPUs.
#[derive(Debug)]
pub struct Parks {
    heaps: Vec<Vec<Entry>>,
    /// A worker's place in the heap that it is in.
    place: Vec<u32>,
    arrivals: u64,
    total: usize,
}

impl Parks {
    /// For CPUs and workers below these.
    pub fn new(cpus: u32, workers: u32) -> Self {
        Parks {
            heaps: vec![Vec::new(); cpus as usize],
            place: vec![OUT; workers as usize],
            arrivals: 0,
            total: 0,
        }
    }

    /// Waiting at `cpu`.
    pub fn len(&self, cpu: u32) -> usize {
        self.heaps[cpu as usize].len()
    }

    /// Waiting anywhere.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Who is first at `cpu`, and its key.
    pub fn head(&self, cpu: u32) -> Option<(u32, u64)> {
        let first = self.heaps[cpu as usize].first()?;
        Some((first.worker, first.key))
    }

    /// Whether `worker` waits.
    pub fn has(&self, worker: u32) -> bool {
        self.place[worker as usize] != OUT
    }

    /// `worker`, which waits nowhere, waits at `cpu`.
    pub fn push(&mut self, cpu: u32, worker: u32, key: u64) {
        assert!(!self.has(worker), "worker {worker} waits twice");
        self.arrivals += 1;
        self.total += 1;
        let entry = Entry {
            key,
            arrival: self.arrivals,
            worker,
        };
        let at = self.heaps[cpu as usize].len();
        self.heaps[cpu as usize].push(entry);
        self.settle(cpu, at, entry);
    }

    /// Takes the first one.
    pub fn pop(&mut self, cpu: u32) -> Option<u32> {
        let (worker, _) = self.head(cpu)?;
        self.remove(cpu, worker);
        Some(worker)
    }

    /// Takes `worker`, which waits at `cpu`.
    pub fn remove(&mut self, cpu: u32, worker: u32) {
        let at = std::mem::replace(&mut self.place[worker as usize], OUT) as usize;
        let heap = &mut self.heaps[cpu as usize];
        assert_eq!(heap.get(at).map(|it| it.worker), Some(worker), "not here");
        self.total -= 1;
        if let Some(last) = heap.pop()
            && at < heap.len()
        {
            self.settle(cpu, at, last);
        }
    }

    /// Puts `entry` where it belongs on the path through `at`, whose old content is void.
    fn settle(&mut self, cpu: u32, mut at: usize, entry: Entry) {
        let heap = &mut self.heaps[cpu as usize];
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if !entry.before(&heap[parent]) {
                break;
            }
            heap[at] = heap[parent];
            self.place[heap[at].worker as usize] = at as u32;
            at = parent;
        }
        loop {
            let first = at * ARITY + 1;
            let children = first..(first + ARITY).min(heap.len());
            let Some(child) = children.reduce(|a, b| if heap[b].before(&heap[a]) { b } else { a })
            else {
                break;
            };
            if !heap[child].before(&entry) {
                break;
            }
            heap[at] = heap[child];
            self.place[heap[at].worker as usize] = at as u32;
            at = child;
        }
        heap[at] = entry;
        self.place[entry.worker as usize] = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn park_order_is_by_key_then_arrival_and_removal_keeps_it() {
        let mut parks = Parks::new(2, 200);
        let key = |w: u32| u64::from(w * 37 % 50).wrapping_sub(20);
        for w in 0..200 {
            parks.push(w % 2, w, key(w));
        }
        for w in (0..200).step_by(6) {
            parks.remove(0, w);
            assert!(!parks.has(w));
        }
        let mut want: Vec<u32> = (0..200).step_by(2).filter(|w| w % 6 != 0).collect();
        want.sort_by_key(|&w| (key(w) as i64, w));
        let got: Vec<u32> = std::iter::from_fn(|| parks.pop(0)).collect();
        assert_eq!(got, want);
        assert_eq!((parks.len(0), parks.len(1), parks.total()), (0, 100, 100));
    }
}
