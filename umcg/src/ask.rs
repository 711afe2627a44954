//! How the agent finds the system group of a worker without missing a change.
//!
//! The protocol stands in `intf_sys.h`; the kernel's half is `sys_ask()` in
//! `src/bpf/sysgroup.bpf.h`, with [`Worker::ask`] and [`take_asleep`] as twins.
//!
//! ```text
//! agent: begin_sleep, is_asked           | BPF: sys_ask
//!   asleep = 1       (full barrier)      |   the thread changes
//!   looks: ask != answered?              |   ask += 1         (full barrier)
//!   reads ask, the thread; answers ask   |   xchg(asleep, 0) == 1 -> one message
//! ```
//!
//! One of the two sees the other, as in [`crate::sleep`]. `ask` is read before the
//! thread is: what changes after that is another count, which the answer does not
//! cover. Model: `loom_ask_vs_look`.

use crate::record::Worker;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::sync::{AtomicU32, fence};

/// The agent's thread is about to sleep: who asks from here on sends a message.
pub fn begin_sleep(asleep: &AtomicU32) {
    asleep.store(1, Relaxed);
    fence(SeqCst);
    // pairs with sys_ask()
}

/// Twin of the kernel's decision who writes the message, after it has asked.
#[must_use = "who takes it owes the agent a message"]
pub fn take_asleep(asleep: &AtomicU32) -> bool {
    asleep.swap(0, AcqRel) != 0
    // pairs with begin_sleep()
}

impl Worker {
    /// Twin of the kernel's count: something about the thread has changed.
    #[doc(alias = "sys_ask")]
    pub fn ask(&self) {
        self.ask.fetch_add(1, AcqRel);
        // In the kernel the addition is this barrier.
        fence(SeqCst);
    }

    /// Whether it is still to be looked at. Agent's thread only.
    pub fn is_asked(&self) -> bool {
        self.ask.load(Relaxed) != self.answered.load(Relaxed)
    }

    /// The count that a look which begins now will answer. Agent's thread only.
    pub fn begin_look(&self) -> u32 {
        self.ask.load(Acquire)
    }

    /// The group that was found for it; before that the one that it came to be in. It has that
    /// group's terms from its next turn on.
    #[doc(alias = "sys_told")]
    pub fn group(&self) -> u32 {
        if self.sys_gen.load(Acquire) == self.gen_.load(Relaxed) {
            self.sys.load(Relaxed)
        } else {
            self.sys_now.load(Relaxed)
        }
    }

    /// What was found, for the worker of this generation and for what was asked
    /// until `ask`. Agent's thread only.
    pub fn answer(&self, generation: u32, group: u32, ask: u32) {
        self.sys.store(group, Relaxed);
        // BPF reads the group only behind its own generation.
        self.sys_gen.store(generation, Release);
        self.answered.store(ask, Release);
    }
}
