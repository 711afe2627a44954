//! Workers: the records that BPF and servers share, and what only the model knows.
//!
//! The records are `umcg`'s own, so that its lists and rings work on them; record 0 is nobody, so
//! worker `w` has record `w + 1`. Words move by [`Word::next`], as BPF moves them.

use umcg::record::Worker as Record;
use umcg::sync::Ordering::Relaxed;
use umcg::word::{PREEMPTED, State, Word};
use umcg_policy::{Facts, Terms};

/// No CPU, no seat.
pub const NONE: u32 = u32::MAX;

/// What a worker does; the word in its record says the same, for servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Waits for an event.
    Blocked,
    /// Waits for a CPU.
    Waiting,
    /// Has this CPU.
    Running(u32),
}

/// What the kernel side and the load keep of a worker.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Where it is.
    pub place: Place,
    /// Virtual time, on the clock of `clock_cpu`.
    pub v: u64,
    /// Whose clock that is.
    pub clock_cpu: u32,
    /// Where it ran last.
    pub last_cpu: u32,
    /// Virtual time beyond the lag that it may owe.
    pub owe_ns: u64,
    /// CPU time since it slept or woke somebody.
    pub quiet_ns: u64,
    /// Wants the CPU since then.
    pub waits_since_ns: u64,
    /// CPU time that its operation still needs.
    pub left_ns: u64,
    /// When its operation was asked for.
    pub asked_ns: u64,
    /// Children that have not answered; messages, of a child.
    pub pending: u32,
    /// Its number at its server.
    pub seat: u32,
    /// Which server that is.
    pub seat_cpu: u32,
}

impl Default for Worker {
    fn default() -> Self {
        Worker {
            place: Place::Blocked,
            v: 0,
            clock_cpu: 0,
            last_cpu: 0,
            owe_ns: 0,
            quiet_ns: 0,
            waits_since_ns: 0,
            left_ns: 0,
            asked_ns: 0,
            pending: 0,
            seat: NONE,
            seat_cpu: NONE,
        }
    }
}

/// A record of a worker that was born `now`.
pub fn record(w: u32, weight: u32, home: u32, now_ns: u64) -> Record {
    let record = Record::new();
    record.gen_.store(1, Relaxed);
    record.pid.store(w as i32 + 1, Relaxed);
    record.weight.store(weight, Relaxed);
    record.home.store(home, Relaxed);
    record.born_ns.store(now_ns, Relaxed);
    move_word(&record, now_ns, State::Blocked as u64);
    record
}

/// An edge.
pub fn move_word(record: &Record, now_ns: u64, state_and_flags: u64) {
    let word = Word(record.word.load(Relaxed));
    let since = word.stamp_after(record.since_ns.load(Relaxed), now_ns);
    record
        .word
        .store(Word::make(since, state_and_flags).0, Relaxed);
    record.since_ns.store(since, Relaxed);
}

/// Whether terms count: a server wrote them for this very worker.
pub fn has_terms(record: &Record) -> bool {
    record.told_gen.load(Relaxed) == record.gen_.load(Relaxed)
}

/// What the agent does with terms.
pub fn write_terms(record: &Record, terms: Terms) {
    record.bias_ns.store(terms.bias_ns, Relaxed);
    record.weight_pct.store(terms.weight_pct, Relaxed);
    record.slice_us.store(terms.slice_us, Relaxed);
    record.own_key.store(terms.own_key, Relaxed);
    record.told_gen.store(record.gen_.load(Relaxed), Relaxed);
}

/// What a policy may know.
pub fn facts(record: &Record, word: Word, now_ns: u64) -> Facts {
    Facts {
        now_ns,
        since_ns: record.since_ns.load(Relaxed),
        run_ns: record.run_ns.load(Relaxed),
        wait_ns: record.wait_ns.load(Relaxed),
        avg_ns: record.avg_ns.load(Relaxed),
        burst_ns: record.burst_ns.load(Relaxed),
        weight: record.weight.load(Relaxed),
        woke_ns: record.woke_ns.load(Relaxed),
        born_ns: record.born_ns.load(Relaxed),
        key: record.key.load(Relaxed),
        preempted: word.flags() & PREEMPTED != 0,
        yielded: false,
        home: record.home.load(Relaxed),
        pid: record.pid.load(Relaxed),
    }
}
