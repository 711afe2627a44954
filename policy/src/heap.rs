//! Indexed binary heap of workers by key, all memory made at the start.
//!
//! push, pop and remove are O(log n). A worker is in at most once; an id outside the arrays is
//! never in. Keys are points in a time that wraps: `a` is before `b` if the difference is negative
//! as a signed number. That is an order only among keys within 2^63 of each other; beyond that
//! entries come out in some order, but all of them do. Equal keys come out in order of arrival.

use crate::{Decide, WorkerId};

/// Not in the heap. No position has this value: there are fewer than 2^32 - 1 workers before it.
const OUT: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    arrival: u64,
    w: WorkerId,
}

impl Entry {
    fn before(&self, other: &Entry) -> bool {
        match self.key.wrapping_sub(other.key) as i64 {
            0 => self.arrival < other.arrival,
            ahead => ahead < 0,
        }
    }
}

/// Workers by key, the earliest first: what most policies keep their candidates in.
#[derive(Debug)]
pub struct Heap {
    /// Parent of `i` at `(i - 1) / 2`, not after its children. Never grows beyond its capacity,
    /// since each worker is in once.
    entries: Vec<Entry>,
    /// Where each worker is in `entries`.
    place: Box<[u32]>,
    /// 64 bits: at a push per nanosecond they last for 584 years.
    arrivals: u64,
}

impl Heap {
    /// For ids below `capacity`; the only call that allocates.
    pub fn new(capacity: u32) -> Self {
        Heap {
            entries: Vec::with_capacity(capacity as usize),
            place: vec![OUT; capacity as usize].into(),
            arrivals: 0,
        }
    }

    /// The candidates of a policy that can be either. Keyed: without capacity, so that it ignores
    /// all workers.
    pub(crate) fn candidates(decide: Decide, capacity: u32) -> Self {
        Heap::new(match decide {
            Decide::Keyed => 0,
            Decide::Staged => capacity,
        })
    }

    /// What [`candidates`](Self::candidates) takes, see
    /// [`Policy::bytes_per_worker`](crate::Policy::bytes_per_worker).
    pub(crate) fn bytes_per_worker(decide: Decide) -> usize {
        match decide {
            Decide::Keyed => 0,
            Decide::Staged => size_of::<Entry>().next_power_of_two() + size_of::<u32>(),
        }
    }

    /// Nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Workers in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The earliest worker.
    pub fn first(&self) -> Option<WorkerId> {
        Some(self.entries.first()?.w)
    }

    /// Whether `w` is in it.
    pub fn contains(&self, w: WorkerId) -> bool {
        self.place
            .get(w.0 as usize)
            .is_some_and(|&place| place != OUT)
    }

    /// Puts `w` in with `key`, or updates its key. Either way it arrives now: its equals are ahead.
    pub fn push(&mut self, w: WorkerId, key: u64) {
        let Some(&place) = self.place.get(w.0 as usize) else {
            return;
        };
        self.arrivals += 1;
        let entry = Entry {
            key,
            arrival: self.arrivals,
            w,
        };
        let at = match place {
            OUT => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
            _ => place as usize,
        };
        self.settle(at, entry);
    }

    /// Takes out the earliest worker.
    pub fn pop(&mut self) -> Option<WorkerId> {
        let w = self.entries.first()?.w;
        self.remove(w);
        Some(w)
    }

    /// Takes `w` out, wherever it is.
    pub fn remove(&mut self, w: WorkerId) {
        let Some(place) = self.place.get_mut(w.0 as usize) else {
            return;
        };
        if *place == OUT {
            return;
        }
        let at = *place as usize;
        *place = OUT;
        // The last entry fills the gap; it may belong above or below it.
        if let Some(last) = self.entries.pop()
            && at < self.entries.len()
        {
            self.settle(at, last);
        }
    }

    /// Puts `entry` where it belongs on the path through `at`, whose old content is void.
    fn settle(&mut self, mut at: usize, entry: Entry) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !entry.before(&self.entries[parent]) {
                break;
            }
            self.set(at, self.entries[parent]);
            at = parent;
        }
        while let Some(child) = self.earlier_child(at) {
            if !self.entries[child].before(&entry) {
                break;
            }
            self.set(at, self.entries[child]);
            at = child;
        }
        self.set(at, entry);
    }

    fn earlier_child(&self, at: usize) -> Option<usize> {
        let left = 2 * at + 1;
        let (l, r) = (self.entries.get(left)?, self.entries.get(left + 1));
        Some(left + usize::from(r.is_some_and(|r| r.before(l))))
    }

    fn set(&mut self, at: usize, entry: Entry) {
        self.entries[at] = entry;
        self.place[entry.w.0 as usize] = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heap(capacity: u32, entries: &[(u32, u64)]) -> Heap {
        let mut heap = Heap::new(capacity);
        for &(id, key) in entries {
            heap.push(WorkerId(id), key);
        }
        heap
    }

    fn drain(heap: &mut Heap) -> Vec<u32> {
        std::iter::from_fn(|| heap.pop().map(|w| w.0)).collect()
    }

    #[test]
    fn heap_keys_come_out_in_order() {
        let mut heap = heap(5, &[(0, 50), (1, 10), (2, 40), (3, 20), (4, 30)]);
        assert_eq!(heap.len(), 5);
        assert_eq!(drain(&mut heap), [1, 3, 4, 2, 0]);
        assert_eq!(heap.len(), 0);
    }

    #[test]
    fn heap_equal_keys_come_out_by_arrival() {
        let same: Vec<_> = [6, 2, 5, 0, 4, 1, 3].map(|id| (id, 7)).into();
        assert_eq!(drain(&mut heap(7, &same)), [6, 2, 5, 0, 4, 1, 3]);
    }

    #[test]
    fn heap_keys_around_the_wrap_keep_their_order() {
        let keys = [(0, 3), (1, u64::MAX), (2, 0), (3, u64::MAX - 9)];
        assert_eq!(drain(&mut heap(4, &keys)), [3, 1, 2, 0]);
    }

    #[test]
    fn heap_push_of_a_member_updates_its_key() {
        let start = [(0, 10), (1, 20), (2, 30)];
        for (key, want) in [(5, [2, 0, 1]), (15, [0, 2, 1]), (40, [0, 1, 2])] {
            let mut heap = heap(3, &start);
            heap.push(WorkerId(2), key);
            assert_eq!(heap.len(), 3);
            assert_eq!(drain(&mut heap), want);
        }
    }

    #[test]
    fn heap_push_with_the_same_key_goes_behind_its_equals() {
        assert_eq!(
            drain(&mut heap(3, &[(0, 1), (1, 1), (2, 1), (0, 1)])),
            [1, 2, 0]
        );
    }

    #[test]
    fn heap_remove_anywhere_keeps_the_order() {
        // Found by hand: taking 5 out moves the last entry up, past the gap.
        let tree = [(0, 1), (1, 10), (2, 2), (3, 11), (4, 12), (5, 3), (6, 4)];
        for gone in 0..7 {
            let mut heap = heap(7, &tree);
            heap.remove(WorkerId(gone));
            heap.remove(WorkerId(gone));
            assert_eq!(heap.len(), 6);
            let mut want = vec![0, 2, 5, 6, 1, 3, 4];
            want.retain(|&id| id != gone);
            assert_eq!(drain(&mut heap), want, "without {gone}");
        }
    }

    #[test]
    fn heap_last_entry_rises_when_a_cousin_leaves() {
        // Leaves below 1 are late, those below 2 early: entry 6 must pass its new parent.
        let tree = [(0, 0), (1, 100), (2, 1), (3, 101), (4, 102), (5, 2), (6, 3)];
        let mut heap = heap(7, &tree);
        heap.remove(WorkerId(3));
        assert_eq!(drain(&mut heap), [0, 2, 5, 6, 1, 4]);
    }

    #[test]
    fn heap_foreign_ids_are_ignored() {
        let mut heap = heap(2, &[(2, 0), (1, 5), (u32::MAX, 0)]);
        heap.remove(WorkerId(2));
        heap.remove(WorkerId(u32::MAX));
        assert_eq!(heap.len(), 1);
        assert_eq!(drain(&mut heap), [1]);
        assert_eq!(self::heap(0, &[(0, 1)]).pop(), None);
    }

    #[test]
    fn heap_keys_without_an_order_all_come_out() {
        // Each is before the next, and the last before the first.
        let third = u64::MAX / 3;
        let around: Vec<_> = (0..30)
            .map(|id| (id, u64::from(id).wrapping_mul(third)))
            .collect();
        let mut heap = heap(30, &around);
        (0..30).step_by(3).for_each(|id| heap.remove(WorkerId(id)));
        let mut out = drain(&mut heap);
        out.sort_unstable();
        assert_eq!(out, (0..30).filter(|id| id % 3 != 0).collect::<Vec<_>>());
    }
}
