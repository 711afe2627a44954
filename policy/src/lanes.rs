//! Several FIFO queues over one array of links: a worker is in one of them at most.
//!
//! push_back, pop_front and remove are O(1). An id outside the array is never in.

use crate::WorkerId;

/// Most queues that there can be.
pub(crate) const MAX_LANES: usize = 8;

/// End of a queue, or no worker. No worker has this id: ids are below a capacity that is a u32.
const END: u32 = u32::MAX;
const OUT: u8 = u8::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    head: u32,
    tail: u32,
    len: u32,
}

#[derive(Debug)]
pub(crate) struct Lanes {
    links: Box<[Link]>,
    /// In which queue each worker is.
    lane: Box<[u8]>,
    ends: [Ends; MAX_LANES],
    len: usize,
}

impl Lanes {
    /// See [`Policy::bytes_per_worker`](crate::Policy::bytes_per_worker).
    pub(crate) const BYTES: usize = size_of::<Link>() + size_of::<u8>();

    pub(crate) fn new(capacity: u32) -> Self {
        let none = Link {
            prev: END,
            next: END,
        };
        let empty = Ends {
            head: END,
            tail: END,
            len: 0,
        };
        Lanes {
            links: vec![none; capacity as usize].into(),
            lane: vec![OUT; capacity as usize].into(),
            ends: [empty; MAX_LANES],
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self, lane: usize) -> bool {
        self.ends[lane].len == 0
    }

    /// Puts `w` at the tail of `lane`, wherever it was before.
    pub(crate) fn push_back(&mut self, lane: usize, w: WorkerId) {
        self.remove(w);
        let Some(link) = self.links.get_mut(w.0 as usize) else {
            return;
        };
        let ends = &mut self.ends[lane];
        *link = Link {
            prev: ends.tail,
            next: END,
        };
        let before = std::mem::replace(&mut ends.tail, w.0);
        ends.len += 1;
        match before {
            END => ends.head = w.0,
            before => self.links[before as usize].next = w.0,
        }
        self.lane[w.0 as usize] = lane as u8;
        self.len += 1;
    }

    pub(crate) fn pop_front(&mut self, lane: usize) -> Option<WorkerId> {
        let head = self.ends[lane].head;
        let w = (head != END).then_some(WorkerId(head))?;
        self.remove(w);
        Some(w)
    }

    pub(crate) fn remove(&mut self, w: WorkerId) {
        let Some(&lane) = self.lane.get(w.0 as usize) else {
            return;
        };
        if lane == OUT {
            return;
        }
        let Link { prev, next } = self.links[w.0 as usize];
        let ends = &mut self.ends[usize::from(lane)];
        ends.len -= 1;
        match prev {
            END => ends.head = next,
            prev => self.links[prev as usize].next = next,
        }
        match next {
            END => ends.tail = prev,
            next => self.links[next as usize].prev = prev,
        }
        self.lane[w.0 as usize] = OUT;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(lanes: &mut Lanes, lane: usize) -> Vec<u32> {
        std::iter::from_fn(|| lanes.pop_front(lane).map(|w| w.0)).collect()
    }

    #[test]
    fn lanes_are_queues_of_their_own() {
        let mut lanes = Lanes::new(8);
        for (lane, id) in [(0, 3), (1, 5), (0, 1), (1, 2), (0, 7)] {
            lanes.push_back(lane, WorkerId(id));
        }
        assert_eq!((lanes.len(), lanes.is_empty(2)), (5, true));
        assert_eq!(drain(&mut lanes, 1), [5, 2]);
        assert_eq!(drain(&mut lanes, 0), [3, 1, 7]);
        assert_eq!(lanes.len(), 0);
    }

    #[test]
    fn lanes_member_changes_its_lane_and_leaves_from_anywhere() {
        let mut lanes = Lanes::new(8);
        for id in 0..5 {
            lanes.push_back(0, WorkerId(id));
        }
        lanes.push_back(1, WorkerId(2));
        for gone in [0, 4, 0, 9] {
            lanes.remove(WorkerId(gone));
        }
        lanes.push_back(0, WorkerId(9));
        assert_eq!(lanes.len(), 3);
        assert_eq!(drain(&mut lanes, 0), [1, 3]);
        assert_eq!(drain(&mut lanes, 1), [2]);
    }
}
