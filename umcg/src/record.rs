//! The records, field by field as `intf.h` lays them out, made of atomics.
//!
//! Who may write a field and when stands in `intf.h`; the layout is checked
//! against the generated bindings at compile time. A record is only ever used by
//! reference into a BPF map; `new()` is for tests and models.

use std::fmt;

use crate::intf;
use crate::sync::{AtomicI32, AtomicI64, AtomicU32, AtomicU64};

/// CPUs, and so servers, that the maps have room for.
#[doc(alias = "UMCG_MAX_CPUS")]
pub const MAX_CPUS: usize = intf::umcg_limits_UMCG_MAX_CPUS as usize;
/// Worker records; record 0 is never used.
#[doc(alias = "UMCG_MAX_WORKERS")]
pub const MAX_WORKERS: usize = intf::umcg_limits_UMCG_MAX_WORKERS as usize;
/// Slots of a staged ring; two in a model, so that they are used again at once.
#[doc(alias = "UMCG_STAGE_SLOTS")]
pub const STAGE_SLOTS: usize = if cfg!(loom) {
    2
} else {
    intf::umcg_limits_UMCG_STAGE_SLOTS as usize
};
/// Counters of a CPU.
#[doc(alias = "UMCG_NR_COUNTERS")]
pub const NR_COUNTERS: usize = intf::umcg_counter_UMCG_NR_COUNTERS as usize;

/// Who waits, by weight and by what made it wait.
#[doc(alias = "umcg_tier")]
pub const NR_TIERS: usize = intf::umcg_tier_UMCG_NR_TIERS as usize;
/// Buckets of a histogram of waits.
#[doc(alias = "UMCG_WAIT_BUCKETS")]
pub const WAIT_BUCKETS: usize = intf::umcg_waits_UMCG_WAIT_BUCKETS as usize;

/// Bytes that fill a cache line up; nobody reads or writes them.
struct Pad<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> Default for Pad<BYTES> {
    fn default() -> Self {
        Self([0; BYTES])
    }
}

impl<const BYTES: usize> fmt::Debug for Pad<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A worker's record.
#[doc(alias = "umcg_worker")]
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Worker {
    /// The state word, see [`crate::word`].
    pub word: AtomicU64,
    /// Full CLOCK_MONOTONIC time of the last edge.
    pub since_ns: AtomicU64,
    /// CPU time used since it became a worker.
    pub run_ns: AtomicU64,
    /// Time spent RUNNABLE.
    pub wait_ns: AtomicU64,
    /// Its place in the kernel's order.
    pub key: AtomicU64,
    /// Odd while in use; +1 at each alloc and free.
    pub gen_: AtomicU32,
    /// The thread, 0 when the record is free.
    pub pid: AtomicI32,
    /// Moving average of the CPU time between two sleeps.
    pub avg_ns: AtomicU32,
    /// CPU time since it last slept.
    pub burst_ns: AtomicU32,
    /// How often the relief valve released it.
    pub rescues: AtomicU32,
    /// The system group whose terms it has.
    pub sys_now: AtomicU32,

    /// Who runs it, see [`crate::claim`].
    pub claim: AtomicU64,
    /// The word of the RUNNING stint that has to end, 0 = none.
    pub request: AtomicU64,
    /// 0, or 1 + the server that owns the link.
    pub queued: AtomicU32,
    /// Index of the next worker on the list, 0 = end.
    pub next: AtomicU32,
    /// Server that it was last parked on.
    pub home: AtomicU32,
    /// 1..=10000, 100 = nice 0 in the root cgroup.
    pub weight: AtomicU32,
    /// `avg_ns` when the agent was last told.
    pub told_avg_ns: AtomicU32,
    /// Normal, batch or idle, from its scheduling policy.
    #[doc(alias = "umcg_class")]
    pub class_: AtomicU32,
    /// The last take of it that failed.
    #[doc(alias = "umcg_refusal")]
    pub refused: AtomicU64,
    /// When it last woke, or came to be.
    pub woke_ns: AtomicU64,
    /// When it became a worker.
    pub born_ns: AtomicU64,

    /// Added to the key.
    pub bias_ns: AtomicI64,
    /// The key itself, where the policy orders alone.
    pub own_key: AtomicU64,
    /// Scales the weight, 0 = 100 %.
    pub weight_pct: AtomicU32,
    /// 0 = the default slice.
    pub slice_us: AtomicU32,
    /// Generation that the agent wrote these for.
    pub told_gen: AtomicU32,
    /// Its system group.
    pub sys: AtomicU32,
    /// Generation that it was matched for.
    pub sys_gen: AtomicU32,
    /// The value of `ask` that was answered.
    pub answered: AtomicU32,
    /// The value of `ask_all` that was answered.
    pub answered_all: AtomicU32,
    /// Counts what may have changed its system group; see `intf_sys.h`. From here on BPF's.
    pub ask: AtomicU32,
    /// The same for its whole process, whose leader it is.
    pub ask_all: AtomicU32,
    /// Its process.
    pub tgid: AtomicI32,
}

impl Worker {
    /// A zeroed record, as BPF makes it.
    pub fn new() -> Self {
        Self::default()
    }
}

/// A list of workers, see [`crate::list`].
#[doc(alias = "umcg_list")]
#[derive(Debug, Default)]
#[repr(C)]
pub struct List {
    /// Index of the newest worker, 0 = empty.
    pub head: AtomicU64,
}

/// A server's staged choices, see [`crate::ring`].
#[doc(alias = "umcg_ring")]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Ring {
    /// Where to take from first: a hint.
    pub head: AtomicU64,
    _head: Pad<56>,
    /// Where the server stages next.
    pub tail: AtomicU64,
    _tail: Pad<56>,
    /// The choices, 0 = free.
    pub slot: [AtomicU64; STAGE_SLOTS],
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            head: AtomicU64::default(),
            _head: Pad::default(),
            tail: AtomicU64::default(),
            _tail: Pad::default(),
            slot: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

impl Ring {
    /// An empty ring.
    pub fn new() -> Self {
        Self::default()
    }
}

/// A server's record.
#[doc(alias = "umcg_server")]
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Server {
    /// The state word, see [`crate::word`].
    pub word: AtomicU64,
    /// Full CLOCK_MONOTONIC time of the last edge.
    pub since_ns: AtomicU64,
    /// Its thread.
    pub tid: AtomicI32,
    /// It is on its DSQ by its own wish.
    pub parked: AtomicU32,
    /// When it parked.
    pub parked_ns: AtomicU64,
    /// When the oldest unread notice was pushed, 0 = none.
    pub unread_ns: AtomicU64,
    /// When it was last given a CPU.
    pub ran_ns: AtomicU64,
    /// It has to run at the next dispatch.
    pub must: AtomicU32,
    /// Reserved.
    pub pad0: AtomicU32,
    _line0: Pad<8>,

    /// Workers that wait, and newcomers.
    pub runnable: List,
    /// Workers that blocked.
    pub blocked: List,
    /// A push failed: walk the records.
    pub resync: AtomicU32,
    /// Notices since the last take: a hint.
    pub unread: AtomicU32,
    /// It sleeps or is about to, see [`crate::sleep`].
    pub asleep: AtomicU32,
    _line1: Pad<36>,

    /// +1 per turn of the server.
    pub epoch: AtomicU32,
    /// Workers that its policy still holds.
    pub backlog: AtomicU32,
    /// The largest key of what it has staged.
    pub worst_key: AtomicU64,

    /// What it has staged.
    pub ring: Ring,
}

impl Server {
    /// A zeroed record, as BPF makes it.
    pub fn new() -> Self {
        Self::default()
    }
}

/// A CPU's record: BPF writes it, others only read.
#[doc(alias = "umcg_cpu")]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Cpu {
    /// Virtual time of the running worker when it started.
    pub cur_v: AtomicU64,
    /// When the running worker started.
    pub cur_start_ns: AtomicU64,
    /// Its CPU time since it slept or woke somebody, when it started.
    pub cur_quiet_ns: AtomicU64,
    /// When the running task last woke somebody.
    pub last_wake_ns: AtomicU64,
    /// Weight of the running worker, with 10 more bits than [`Worker::weight`].
    pub cur_weight: AtomicU32,
    /// Its average burst.
    pub cur_avg_ns: AtomicU32,
    /// Its burst when it started.
    pub cur_burst_ns: AtomicU32,
    /// Record of the running worker, 0 = none.
    pub cur_idx: AtomicU32,
    /// A preemption by key is under way.
    pub preempting: AtomicU32,
    /// Class of the running worker.
    pub cur_class: AtomicU32,
    /// It belongs to an application group.
    pub cur_member: AtomicU32,
    /// Who runs next has the least virtual time of those that waited here.
    pub by_key: AtomicU32,

    /// The CPU's virtual clock.
    pub vnow: AtomicU64,
    /// 0 = busy.
    pub idle_since_ns: AtomicU64,
    /// Start of the last idle period, until somebody ran after it.
    pub idle_start_ns: AtomicU64,
    /// When it last stopped to be idle.
    pub idle_end_ns: AtomicU64,
    /// All idle periods that have ended.
    pub idle_ns: AtomicU64,
    /// When the running task was picked.
    pub picked_ns: AtomicU64,
    /// CPU time that it was granted since then, refills included.
    pub granted_ns: AtomicU64,
    /// Last dispatch.
    pub dispatch_ns: AtomicU64,
    /// CPU time of the running task when it started.
    pub run_exec: AtomicU64,
    /// CPU time of the kernel-fair queue.
    pub kq_ns: AtomicU64,
    /// CPU time of workers.
    pub wk_ns: AtomicU64,
    /// The longest idle time beside work that then ran here.
    pub max_idle_work_ns: AtomicU64,
    /// A short wakee waits: let the tick look.
    pub want: AtomicU32,
    /// Looks at pending work before going idle.
    pub idle_tries: AtomicU32,
    /// Whom the last kick was for, 0 = nobody.
    pub kick_idx: AtomicU32,
    /// Taken down by hotplug.
    pub offline: AtomicU32,
    /// 0 = HAND holds nobody.
    pub hand: AtomicU32,
    /// 0 = the kernel-fair queue holds nobody.
    pub kernel: AtomicU32,
    /// What the frequency governor was told, of 1024.
    pub perf: AtomicU32,
    /// Who runs here may be on any CPU, whatever its system group says.
    pub cur_free: AtomicU32,
    /// Last activation of the server here.
    pub act_ns: AtomicU64,
    /// The last try to take a worker from its queue that failed.
    pub unfit: AtomicU64,
    /// Weight of the workers parked here; 0 without cgroups.
    pub parked_weight: AtomicU64,
    /// Members of groups to be put here.
    pub due: AtomicU64,
    _line2: Pad<32>,

    /// The counters, by `umcg_counter`.
    #[doc(alias = "umcg_counter")]
    pub cnt: [AtomicU64; NR_COUNTERS],
    /// How many workers waited how long, by tier and then by bucket.
    #[doc(alias = "umcg_tier")]
    pub waits: [AtomicU64; NR_TIERS * WAIT_BUCKETS],
}

impl Default for Cpu {
    fn default() -> Self {
        Self {
            cur_v: AtomicU64::default(),
            cur_start_ns: AtomicU64::default(),
            cur_quiet_ns: AtomicU64::default(),
            last_wake_ns: AtomicU64::default(),
            cur_weight: AtomicU32::default(),
            cur_avg_ns: AtomicU32::default(),
            cur_burst_ns: AtomicU32::default(),
            cur_idx: AtomicU32::default(),
            preempting: AtomicU32::default(),
            cur_class: AtomicU32::default(),
            cur_member: AtomicU32::default(),
            by_key: AtomicU32::default(),
            vnow: AtomicU64::default(),
            idle_since_ns: AtomicU64::default(),
            idle_start_ns: AtomicU64::default(),
            idle_end_ns: AtomicU64::default(),
            idle_ns: AtomicU64::default(),
            picked_ns: AtomicU64::default(),
            granted_ns: AtomicU64::default(),
            dispatch_ns: AtomicU64::default(),
            run_exec: AtomicU64::default(),
            kq_ns: AtomicU64::default(),
            wk_ns: AtomicU64::default(),
            max_idle_work_ns: AtomicU64::default(),
            want: AtomicU32::default(),
            idle_tries: AtomicU32::default(),
            kick_idx: AtomicU32::default(),
            offline: AtomicU32::default(),
            hand: AtomicU32::default(),
            kernel: AtomicU32::default(),
            perf: AtomicU32::default(),
            cur_free: AtomicU32::default(),
            act_ns: AtomicU64::default(),
            unfit: AtomicU64::default(),
            parked_weight: AtomicU64::default(),
            due: AtomicU64::default(),
            _line2: Pad::default(),
            cnt: std::array::from_fn(|_| AtomicU64::default()),
            waits: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

impl Cpu {
    /// A zeroed record, as BPF makes it.
    pub fn new() -> Self {
        Self::default()
    }
}

/// System groups; group 0 takes the threads that no other one does.
#[doc(alias = "UMCG_MAX_SYS")]
pub const MAX_SYS: usize = intf::umcg_sys_limits_UMCG_MAX_SYS as usize;

/// A system group's terms, as the agent writes them.
#[doc(alias = "umcg_sys")]
#[derive(Debug, Default)]
#[repr(C)]
pub struct Sys {
    /// CPU time per pick.
    pub slice_ns: AtomicU64,
    /// Forced preemption after so long, 0 = only the slice.
    pub quantum_ns: AtomicU64,
    /// Its weight against other groups, in percent.
    pub share: AtomicU32,
    /// Its workers preempt nobody on wake-up.
    pub quiet: AtomicU32,
    /// A bit for each CPU that it may use.
    pub cpus: [AtomicU64; MAX_CPUS / 64],
}

/// All system groups.
#[doc(alias = "umcg_sysgroups")]
#[derive(Debug, Default)]
#[repr(C)]
pub struct SysGroups {
    /// There is more than group 0 on all CPUs.
    pub on: AtomicU32,
    /// The thread that matches sleeps or is about to.
    pub asleep: AtomicU32,
    /// The groups.
    pub sys: [Sys; MAX_SYS],
}

/// What a system group had of one CPU.
#[doc(alias = "umcg_sys_use")]
#[derive(Debug, Default)]
#[repr(C)]
pub struct SysUse {
    /// CPU time.
    pub run_ns: AtomicU64,
    /// Time RUNNABLE before it ran there.
    pub wait_ns: AtomicU64,
    /// Workers put there.
    pub switches: AtomicU64,
    /// Wake-ups that preempted somebody.
    pub preempts: AtomicU64,
}

/// The same of all groups.
#[doc(alias = "umcg_sys_cpu")]
#[derive(Debug, Default)]
#[repr(C)]
pub struct SysCpu {
    /// By group.
    pub use_: [SysUse; MAX_SYS],
}

/// Size, alignment, and each field's offset and size equal those of the C struct;
/// the list of fields is complete, or the pattern would not compile.
#[cfg(not(loom))]
macro_rules! same_layout {
    ($rust:ident, $c:ident, [$($field:ident),+ $(,)?], pads [$($pad:ident),* $(,)?]) => {
        const _: () = {
            const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
                size_of::<F>()
            }
            assert!(size_of::<$rust>() == size_of::<intf::$c>());
            assert!(align_of::<$rust>() == align_of::<intf::$c>());
            $(
                assert!(
                    std::mem::offset_of!($rust, $field) == std::mem::offset_of!(intf::$c, $field),
                    stringify!($c.$field)
                );
                assert!(
                    size_of_field(|r: &$rust| &r.$field) == size_of_field(|c: &intf::$c| &c.$field),
                    stringify!($c.$field)
                );
            )+
            #[allow(dead_code)]
            fn fields_are_complete(c: intf::$c) {
                let intf::$c { $($field: _,)+ $($pad: _,)* } = c;
            }
        };
    };
}

#[cfg(not(loom))]
same_layout!(
    Worker,
    umcg_worker,
    [
        word,
        since_ns,
        run_ns,
        wait_ns,
        key,
        gen_,
        pid,
        avg_ns,
        burst_ns,
        rescues,
        sys_now,
        claim,
        request,
        queued,
        next,
        home,
        weight,
        told_avg_ns,
        class_,
        refused,
        woke_ns,
        born_ns,
        bias_ns,
        own_key,
        weight_pct,
        slice_us,
        told_gen,
        sys,
        sys_gen,
        answered,
        answered_all,
        ask,
        ask_all,
        tgid,
    ],
    pads []
);

#[cfg(not(loom))]
same_layout!(List, umcg_list, [head], pads []);

#[cfg(not(loom))]
same_layout!(Ring, umcg_ring, [head, tail, slot], pads [__bindgen_padding_0, __bindgen_padding_1]);

#[cfg(not(loom))]
same_layout!(
    Server,
    umcg_server,
    [
        word, since_ns, tid, parked, parked_ns, unread_ns, ran_ns, must, pad0, runnable, blocked,
        resync, unread, asleep, epoch, backlog, worst_key, ring,
    ],
    pads [__bindgen_padding_0, __bindgen_padding_1]
);

#[cfg(not(loom))]
same_layout!(
    Cpu,
    umcg_cpu,
    [
        cur_v,
        cur_start_ns,
        cur_quiet_ns,
        last_wake_ns,
        cur_weight,
        cur_avg_ns,
        cur_burst_ns,
        cur_idx,
        preempting,
        cur_class,
        cur_member,
        by_key,
        vnow,
        idle_since_ns,
        idle_start_ns,
        idle_end_ns,
        idle_ns,
        picked_ns,
        granted_ns,
        dispatch_ns,
        run_exec,
        kq_ns,
        wk_ns,
        max_idle_work_ns,
        want,
        idle_tries,
        kick_idx,
        offline,
        hand,
        kernel,
        perf,
        cur_free,
        act_ns,
        unfit,
        parked_weight,
        due,
        cnt,
        waits,
    ],
    pads[__bindgen_padding_0]
);

#[cfg(not(loom))]
same_layout!(Sys, umcg_sys, [slice_ns, quantum_ns, share, quiet, cpus], pads []);

#[cfg(not(loom))]
same_layout!(SysGroups, umcg_sysgroups, [on, asleep, sys], pads []);

#[cfg(not(loom))]
same_layout!(SysUse, umcg_sys_use, [run_ns, wait_ns, switches, preempts], pads []);

#[cfg(not(loom))]
same_layout!(SysCpu, umcg_sys_cpu, [use_], pads []);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn record_writers_do_not_share_a_line() {
        let line = |offset: usize| offset / 64;
        assert_ne!(
            line(offset_of!(Worker, burst_ns)),
            line(offset_of!(Worker, claim))
        );
        assert_ne!(
            line(offset_of!(Worker, class_)),
            line(offset_of!(Worker, bias_ns))
        );
        assert_ne!(
            line(offset_of!(Server, must)),
            line(offset_of!(Server, runnable))
        );
        assert_ne!(
            line(offset_of!(Server, asleep)),
            line(offset_of!(Server, epoch))
        );
        assert_ne!(
            line(offset_of!(Server, worst_key)),
            line(offset_of!(Server, ring))
        );
        assert_ne!(line(offset_of!(Ring, head)), line(offset_of!(Ring, tail)));
        assert_ne!(line(offset_of!(Ring, tail)), line(offset_of!(Ring, slot)));
    }

    #[test]
    fn record_new_is_zeroed() {
        use crate::sync::Ordering::Relaxed;
        assert_eq!(Worker::new().word.load(Relaxed), 0);
        assert_eq!(
            Server::new()
                .ring
                .slot
                .iter()
                .map(|s| s.load(Relaxed))
                .sum::<u64>(),
            0
        );
        assert_eq!(
            Cpu::new().cnt.iter().map(|c| c.load(Relaxed)).sum::<u64>(),
            0
        );
    }

    #[test]
    fn record_indexes_can_be_masked() {
        assert!(MAX_CPUS.is_power_of_two());
        assert!(MAX_WORKERS.is_power_of_two());
        assert!(STAGE_SLOTS.is_power_of_two());
    }
}
