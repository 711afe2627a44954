//! Whether a member's thread is still the one that registered.
//!
//! A thread is known by its start time, so that a number that was given out again is
//! noticed, and by where its process's stack begins, which an exec changes.

use super::sys;

/// A thread, told from later ones with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) start: u64,
    pub(crate) stack: u64,
}

impl Identity {
    /// The calling thread's.
    pub(crate) fn mine() -> Self {
        let (pid, tid) = (sys::getpid(), sys::gettid());
        let (start, stack) = stat(pid, tid).unwrap_or_default();
        Self {
            pid,
            tid,
            start,
            stack,
        }
    }

    /// Whether it still runs. A thread that cannot be looked at counts as alive.
    pub(crate) fn is_alive(&self) -> bool {
        if !sys::tgkill(self.pid, self.tid, 0) {
            return false;
        }
        match stat(self.pid, self.tid) {
            Some(seen) => self.start == 0 || seen == (self.start, self.stack),
            // The file may be gone with the thread since the question above.
            None => sys::tgkill(self.pid, self.tid, 0),
        }
    }
}

/// Start time and start of the stack of a thread; `None` also for one that only waits
/// to be reaped.
fn stat(pid: i32, tid: i32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<(u64, u64)> {
    // The name may hold spaces and parentheses: the last one ends it.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace();
    // Fields are counted from 1 in proc(5); after the name comes number 3.
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return Some((u64::MAX, 0));
    }
    let start = fields.nth(22 - 4)?.parse().ok()?;
    let stack = fields.nth(28 - 23)?.parse().ok()?;
    Some((start, stack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_stat_is_parsed_behind_any_name() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 1 2 0 0 20 0 1 0 12345 1000 20 \
                    18446744073709551615 1 2 140001 0 0";
        assert_eq!(parse(text), Some((12345, 140001)));
        assert_eq!(parse("7 (x) Z 1"), Some((u64::MAX, 0)));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn alive_me_and_not_a_dead_thread() {
        assert!(Identity::mine().is_alive());
        let dead = std::thread::spawn(Identity::mine).join().expect("it ran");
        // join() returns before the kernel has done with the thread.
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while dead.is_alive() {
            assert!(std::time::Instant::now() < limit, "alive after its join");
            std::thread::yield_now();
        }
        let other = Identity {
            start: 1,
            ..Identity::mine()
        };
        assert!(!other.is_alive());
    }
}
