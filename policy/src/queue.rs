//! Intrusive FIFO of workers: links in arrays by worker index, all made at the start.
//!
//! push_back, pop_front and remove are O(1). A worker is in at most once; an id outside the
//! arrays is never in.

use crate::WorkerId;

/// End of the list. No worker has this id: ids are below a capacity that is a u32.
const END: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

/// Workers, the first come first.
#[derive(Debug)]
pub struct Queue {
    /// A link whose `next` is itself is not in the list: in a list that never happens.
    links: Box<[Link]>,
    head: u32,
    tail: u32,
    len: usize,
}

impl Queue {
    /// See [`Policy::bytes_per_worker`](crate::Policy::bytes_per_worker).
    pub(crate) const BYTES: usize = size_of::<Link>();

    /// For ids below `capacity`; the only call that allocates.
    pub fn new(capacity: u32) -> Self {
        let out = |id| Link { prev: id, next: id };
        Queue {
            links: (0..capacity).map(out).collect(),
            head: END,
            tail: END,
            len: 0,
        }
    }

    /// Nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Workers in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Puts `w` at the tail, wherever it was before.
    pub fn push_back(&mut self, w: WorkerId) {
        self.remove(w);
        let tail = self.tail;
        let Some(link) = self.links.get_mut(w.0 as usize) else {
            return;
        };
        *link = Link {
            prev: tail,
            next: END,
        };
        *self.next_of(tail) = w.0;
        self.tail = w.0;
        self.len += 1;
    }

    /// Takes out the first one.
    pub fn pop_front(&mut self) -> Option<WorkerId> {
        let w = (self.head != END).then_some(WorkerId(self.head))?;
        self.remove(w);
        Some(w)
    }

    /// Takes `w` out, wherever it is.
    pub fn remove(&mut self, w: WorkerId) {
        let Some(link) = self.links.get_mut(w.0 as usize) else {
            return;
        };
        let Link { prev, next } = *link;
        if next == w.0 {
            return;
        }
        link.next = w.0;
        *self.next_of(prev) = next;
        *self.prev_of(next) = prev;
        self.len -= 1;
    }

    /// What points forward to the successor of `id`: the head, for the start of the list.
    fn next_of(&mut self, id: u32) -> &mut u32 {
        match id {
            END => &mut self.head,
            _ => &mut self.links[id as usize].next,
        }
    }

    /// What points back to the predecessor of `id`: the tail, for the end of the list.
    fn prev_of(&mut self, id: u32) -> &mut u32 {
        match id {
            END => &mut self.tail,
            _ => &mut self.links[id as usize].prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(capacity: u32, ids: &[u32]) -> Queue {
        let mut queue = Queue::new(capacity);
        ids.iter().for_each(|&id| queue.push_back(WorkerId(id)));
        queue
    }

    fn drain(queue: &mut Queue) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop_front().map(|w| w.0)).collect()
    }

    #[test]
    fn queue_pushed_come_out_in_order() {
        let mut queue = queue(4, &[2, 0, 3, 1]);
        assert_eq!(queue.len(), 4);
        assert_eq!(drain(&mut queue), [2, 0, 3, 1]);
        assert_eq!(queue.len(), 0);
        assert_eq!(queue.pop_front(), None);
    }

    #[test]
    fn queue_remove_head_middle_tail_keeps_the_rest() {
        for (gone, rest) in [
            (2, [0, 3, 1]),
            (0, [2, 3, 1]),
            (3, [2, 0, 1]),
            (1, [2, 0, 3]),
        ] {
            let mut queue = queue(4, &[2, 0, 3, 1]);
            queue.remove(WorkerId(gone));
            queue.remove(WorkerId(gone));
            assert_eq!(queue.len(), 3);
            assert_eq!(drain(&mut queue), rest);
        }
    }

    #[test]
    fn queue_push_of_a_member_moves_it_to_the_tail() {
        assert_eq!(drain(&mut queue(4, &[2, 0, 3, 2])), [0, 3, 2]);
        assert_eq!(drain(&mut queue(4, &[2, 0, 3, 3])), [2, 0, 3]);
        assert_eq!(drain(&mut queue(4, &[1, 1])), [1]);
    }

    #[test]
    fn queue_foreign_ids_are_ignored() {
        let mut queue = queue(2, &[2, 0, u32::MAX]);
        queue.remove(WorkerId(u32::MAX));
        queue.remove(WorkerId(2));
        assert_eq!(queue.len(), 1);
        assert_eq!(drain(&mut queue), [0]);
    }

    #[test]
    fn queue_without_capacity_is_empty() {
        let mut queue = queue(0, &[0, 1]);
        assert_eq!((queue.len(), queue.pop_front()), (0, None));
    }

    #[test]
    fn queue_emptied_works_again() {
        let mut queue = queue(3, &[0, 1]);
        drain(&mut queue);
        queue.push_back(WorkerId(1));
        queue.remove(WorkerId(1));
        queue.push_back(WorkerId(2));
        queue.push_back(WorkerId(1));
        assert_eq!(drain(&mut queue), [2, 1]);
    }
}
