//! A worker's calls: wait, switch, yield.

use super::{KernelGroup, SERVERS, UNSEEN, sys};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Id, Woken};
use crate::intf;
use crate::sync::Ordering::{Acquire, Relaxed, SeqCst};
use crate::word::{PENDING, State, Word};

/// Hand-overs that found their CPU with other work queued are asked for again.
const RETRIES: u32 = 64;

/// A server that has not looked at its calls for so long serves nobody.
const HUNG_NS: u64 = 5_000_000_000;

impl KernelGroup {
    /// Waits until a server, or a switch, has given `me` a slot. Not before: one that
    /// the relief valve let run hands the CPU back at once, it is inside a call here.
    /// But for one whose wait is over while nobody serves the group: it goes on without
    /// a slot. A `newcomer` waits for the first server.
    pub(super) fn until_run(&self, me: Id, newcomer: bool) -> Result<()> {
        let truth = self.truth(me.index());
        let mut unseen = 0;
        loop {
            if !self.alive() {
                return Err(self.gone("wait", me.raw()));
            }
            // Put out by a change of its class.
            self.find(me, "wait")?;
            let word = Word(truth.word.load(Acquire));
            // RUNNING without a slot it is only after it was RUNNABLE: its wait is over.
            if word.state() == Some(State::Running)
                && (truth.slot.load(Acquire) != 0 || !newcomer && self.is_unserved())
            {
                return Ok(());
            }
            let parks = truth.parks.load(Relaxed);
            let asked = word.state() != Some(State::Idle);
            if asked {
                sys::yield_cpu();
            } else {
                self.idle_again(me, word);
            }
            unseen = if asked && truth.parks.load(Relaxed) == parks {
                unseen + 1
            } else {
                0
            };
            if unseen > UNSEEN {
                return Err(self.unseen(me, "wait"));
            }
        }
    }

    /// No server is left, or all have been away for long: none runs a worker, or waits
    /// for events.
    fn is_unserved(&self) -> bool {
        let head = self.head();
        let servers = head.servers.load(Acquire);
        let now = sys::now_ns();
        let away = |index: u32| {
            let server = self.truth(index);
            let word = Word(server.word.load(Acquire));
            word.state() != Some(State::Idle)
                && server.cur.load(Relaxed) == 0
                && now.saturating_sub(server.since_ns.load(Relaxed)) > HUNG_NS
        };
        (1..=SERVERS)
            .filter(|index| servers >> (index - 1) & 1 == 1)
            .all(away)
    }

    /// It was let run while it waits: to take a wake that came just then, or to sleep.
    fn idle_again(&self, me: Id, word: Word) {
        let (truth, futex) = (self.truth(me.index()), self.futex(me.index()));
        let deadline = truth.deadline_ns.load(Relaxed);
        if word.flags() & PENDING != 0 || sys::now_ns() >= deadline {
            // Held again, BPF takes the wake, or the sweep finds that its time is over; a futex
            // would not put it to sleep, and only an edge tells BPF. No request: held before it
            // yields, it would run again, and make that wait a second time, without the wake.
            sys::yield_cpu();
            return;
        }
        let value = futex.load(SeqCst);
        let word = Word(truth.word.load(SeqCst));
        // pairs with member_wake(), wake_sleeper() and rouse(). A wake, or a slot, of one that
        // is held again here, before it sleeps, wakes no futex: the word is not the same.
        if word.state() == Some(State::Idle) && word.flags() & PENDING == 0 && self.alive() {
            sys::futex_wait(futex, value, &truth.word, word.0, deadline);
        }
    }

    pub(super) fn wait_idle(&self, me: Id, deadline_ns: u64) -> Result<Woken> {
        let switched = self.truth(me.index()).switched.load(Acquire);
        self.wait_since(me, deadline_ns, switched)
    }

    /// Waits, unless a switch has come since `switched` was so.
    fn wait_since(&self, me: Id, deadline_ns: u64, switched: u16) -> Result<Woken> {
        let truth = self.find(me, "wait")?;
        let mut unseen = 0;
        loop {
            if !self.alive() {
                return Err(self.gone("wait", me.raw()));
            }
            if deadline_ns == 0 && Word(truth.word.load(Acquire)).flags() & PENDING == 0 {
                return Ok(Woken::TimedOut);
            }
            let seq = truth.ev_seq.load(Acquire);
            let anyhow = truth.slot.load(Acquire) == 0 && self.is_unserved();
            let mut how = u64::from(switched) << intf::umcg_wait_UMCG_WAIT_SINCE_SHIFT
                | u64::from(intf::umcg_wait_UMCG_WAIT_SINCE);
            if anyhow {
                how |= u64::from(intf::umcg_wait_UMCG_WAIT_ANYHOW);
            }
            let op = intf::umcg_op_UMCG_OP_WAIT;
            if !self.request(me, op, Id::from_raw(how), deadline_ns) {
                unseen += 1;
                if unseen == UNSEEN {
                    return Err(self.unseen(me, "wait"));
                }
                continue;
            }
            self.until_run(me, false)?;
            if truth.ev_seq.load(Acquire) != seq {
                continue; // it had no slot, and has one now, or nobody serves
            }
            if !truth.wait_timed_out() {
                return Ok(Woken::Woken);
            }
            if sys::now_ns() >= deadline_ns {
                return Ok(Woken::TimedOut);
            }
            // A signal, or a late ring of its futex, ended its real sleep: it waits on.
        }
    }

    pub(super) fn switch_to(&self, me: Id, to: Id, deadline_ns: u64) -> Result<Woken> {
        let truth = self.find(me, "switch")?;
        if me == to {
            return Err(Error::new(ErrorKind::Myself, "switch", to.raw()));
        }
        self.find(to, "switch")?;
        let switched = truth.switched.load(Acquire);
        let mut woken = false;
        let comes_back = || {
            let state = self.without_slot(to);
            matches!(state, Some(State::Running | State::Runnable | State::Idle))
        };
        for times in 1..=RETRIES {
            let seq = truth.ev_seq.load(Acquire);
            if !self.request(me, intf::umcg_op_UMCG_OP_SWITCH, to, deadline_ns) {
                continue;
            }
            if truth.ev_seq.load(Acquire) == seq {
                self.until_run(me, false)?;
                if !truth.wait_timed_out() {
                    return Ok(Woken::Woken);
                }
                if sys::now_ns() >= deadline_ns {
                    return Ok(Woken::TimedOut);
                }
                return self.wait_since(me, deadline_ns, switched);
            }
            match -truth.ev_nr.load(Relaxed) {
                libc::EINTR => {}
                // On its way to a real sleep, BPF has left it a wake.
                libc::EAGAIN => {
                    self.wake_sleeper(to);
                    woken = true;
                    break;
                }
                libc::EPERM => {
                    // Refused when it was held: it has one by now.
                    if truth.slot.load(Acquire) == 0 {
                        self.yield_slot(me)?;
                    }
                    if truth.slot.load(Acquire) == 0 {
                        break; // nobody serves: there is no slot to hand on
                    }
                }
                // Let run, it is held again as soon as it comes to run.
                libc::EBUSY if times < RETRIES && comes_back() => sys::yield_cpu(),
                libc::EBUSY => return Err(Error::new(ErrorKind::WrongState, "switch", to.raw())),
                errno => {
                    return Err(Error::new(ErrorKind::from_errno(errno), "switch", to.raw()));
                }
            }
        }
        // It slept for real, or this CPU is never free: it comes by its server.
        if !woken {
            self.wake(to)?;
        }
        self.wait_since(me, deadline_ns, switched)
    }

    /// The calling thread, worker `me`, is in so many sections without preemption.
    pub fn show_sections(&self, me: Id, count: u32) {
        self.desk(me.index()).nopreempt.store(count, Relaxed);
        // pairs with put_off()
    }

    /// The calling thread, worker `me`, has this key.
    pub fn show_key(&self, me: Id, key: u64) {
        self.desk(me.index()).key.store(key, Relaxed);
        // pairs with key_on_wake()
    }

    /// Gives the slot up if a kick was put off for a section that has ended now. A yield
    /// without a request is where BPF meets it.
    pub fn follow_put_off(&self, me: Id) {
        if self.truth(me.index()).is_kicked() {
            sys::yield_cpu();
        }
    }

    pub(super) fn yield_slot(&self, me: Id) -> Result<()> {
        self.find(me, "yield")?;
        for _ in 0..UNSEEN {
            if self.request(me, intf::umcg_op_UMCG_OP_YIELD, Id::NONE, u64::MAX) {
                return self.until_run(me, false);
            }
        }
        Err(self.unseen(me, "yield"))
    }
}
