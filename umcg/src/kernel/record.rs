//! The records of a group's two maps, made of atomics; `intf_group.h` tells who
//! writes what. Layouts are checked against the generated bindings.

use crate::intf;
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicI32, AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use crate::word::{PENDING, TIMEDOUT, Word};

/// A member, in the truth map: read only here.
#[doc(alias = "umcg_member")]
#[derive(Debug, Default)]
#[repr(C)]
pub struct Truth {
    pub word: AtomicU64,
    pub since_ns: AtomicU64,
    pub run_ns: AtomicU64,
    pub wait_ns: AtomicU64,
    pub cookie: AtomicU64,
    pub gen_: AtomicU32,
    pub tid: AtomicI32,
    pub kind: AtomicU32,
    pub home: AtomicU32,
    pub parks: AtomicU32,
    pub why: AtomicU32,
    pub slot: AtomicU32,
    pub cur: AtomicU32,
    pub held: AtomicU32,
    pub sys: AtomicU32,
    pub op: AtomicU32,
    pub bell: AtomicU16,
    pub switched: AtomicU16,
    pub target: AtomicU64,
    pub deadline_ns: AtomicU64,
    pub parked_ns: AtomicU64,
    /// A server's: its entry in the idle structure, `idle` in C.
    pub kick: AtomicU64,
    /// A worker's: `kick_ns` in C.
    pub slot_end_ns: AtomicU64,
    pub slot_v: AtomicU64,
    pub slot_cpu: AtomicI32,
    pub ev_seq: AtomicU32,
    pub ev_who: AtomicU64,
    pub ev_tag: AtomicU64,
    pub ev_at_ns: AtomicU64,
    pub ev_run_ns: AtomicU64,
    pub ev_wait_ns: AtomicU64,
    pub ev_reason: AtomicU32,
    pub ev_nr: AtomicI32,
}

impl Truth {
    /// Whether the worker's last wait ended by its time, or by a signal.
    pub fn wait_timed_out(&self) -> bool {
        Word(self.word.load(Relaxed)).flags() & TIMEDOUT != 0
    }

    /// Whether a kick asks for the end of the stint that the worker is in.
    pub fn is_kicked(&self) -> bool {
        const SOURCE: u64 = intf::umcg_source_UMCG_SOURCE_MASK as u64;
        let kick = self.kick.load(Relaxed);
        let stint = self.word.load(Relaxed) & !(PENDING | TIMEDOUT);
        kick != 0 && kick & !SOURCE == stint
        // as kick_stands() in C
    }
}

/// A member's desk, in the client map.
#[doc(alias = "umcg_desk")]
#[derive(Debug)]
#[repr(C)]
pub struct Desk {
    pub op: AtomicU32,
    pub poked: AtomicU32,
    pub target: AtomicU64,
    pub deadline_ns: AtomicU64,
    pub left_id: AtomicU64,
    pub left_cookie: AtomicU64,
    pub left_at_ns: AtomicU64,
    pub left_run_ns: AtomicU64,
    pub left_wait_ns: AtomicU64,
    pub runnable: AtomicU64,
    pub resync: AtomicU32,
    pub asleep: AtomicU32,
    pub queued: AtomicU32,
    pub next: AtomicU32,
    pub nopreempt: AtomicU32,
    pub alone: AtomicU32,
    pub key: AtomicU64,
    _line1: [u32; 6],
}

/// Record 0 of the truth map.
#[doc(alias = "umcg_group")]
#[derive(Debug, Default)]
#[repr(C)]
pub struct Head {
    pub abi: AtomicU32,
    pub group: AtomicU32,
    pub epoch: AtomicU64,
    pub gen_: AtomicU32,
    pub capacity: AtomicU32,
    pub share: AtomicU32,
    pub full: AtomicU32,
    pub servers: AtomicU64,
    pub idle: AtomicU64,
    pub tat_ns: AtomicU64,
    pub cursor: AtomicU32,
    pub members: AtomicU32,
    pub shared: AtomicU64,
    pub uid: AtomicU32,
    pub name: [AtomicU8; 32],
    pub idle_kind: AtomicU32,
    pub idle_top: AtomicU64,
    pub stuck: AtomicU64,
    pub idle_end: AtomicU32,
    pub quantum_us: AtomicU32,
    /// What is added to CLOCK_MONOTONIC in words: 0, but in tests.
    pub ahead_ns: AtomicU64,
    pub policy: [AtomicU8; 32],
    _pad: [u32; 4],
}

macro_rules! same_place {
    ($rust:ident, $c:ident, [$($field:ident),+ $(,)?]) => {
        const _: () = {
            assert!(size_of::<$rust>() == size_of::<intf::$c>());
            $(assert!(
                std::mem::offset_of!($rust, $field) == std::mem::offset_of!(intf::$c, $field),
                stringify!($c.$field)
            );)+
        };
    };
}

same_place!(
    Truth,
    umcg_member,
    [
        word,
        since_ns,
        run_ns,
        wait_ns,
        cookie,
        gen_,
        tid,
        kind,
        home,
        parks,
        why,
        slot,
        cur,
        held,
        sys,
        op,
        bell,
        switched,
        target,
        deadline_ns,
        parked_ns,
        slot_v,
        slot_cpu,
        ev_seq,
        ev_who,
        ev_tag,
        ev_at_ns,
        ev_run_ns,
        ev_wait_ns,
        ev_reason,
        ev_nr,
    ]
);
same_place!(
    Desk,
    umcg_desk,
    [
        op,
        poked,
        target,
        deadline_ns,
        left_id,
        left_cookie,
        left_at_ns,
        left_run_ns,
        left_wait_ns,
        runnable,
        resync,
        asleep,
        queued,
        next,
        nopreempt,
        alone,
        key
    ]
);
same_place!(
    Head,
    umcg_group,
    [
        abi, group, epoch, gen_, capacity, share, full, servers, idle, tat_ns, cursor, members,
        shared, uid, name, idle_kind, idle_top, stuck, idle_end, quantum_us, ahead_ns, policy,
    ]
);
/// `kick` and `idle` share a place in C, `slot_end_ns` and `kick_ns` another.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Truth, kick) == offset_of!(intf::umcg_member, __bindgen_anon_1));
    assert!(offset_of!(Truth, slot_end_ns) == offset_of!(intf::umcg_member, __bindgen_anon_2));
};
