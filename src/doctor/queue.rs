//! Where a thread is queued, for `doctor --pid`.

use serde::Serialize;
use umcg::intf;

/// A dispatch queue, as [design.md](../../docs/design.md#queues) names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "name", content = "cpu")]
pub enum Queue {
    /// Waiting workers by key.
    Park(u32),
    /// Chosen or rescued workers.
    Hand(u32),
    /// A parked server.
    Server(u32),
    /// Its cgroup's `cpu.max` is used up; the number is that of the cgroup's record.
    Throttle(u32),
    /// None: BPF holds it until its application group lets it run.
    Held,
    /// Kernel threads, anonymous tasks and some that exit.
    #[serde(rename = "kernel-fair")]
    KernelFair(u32),
    /// The kernel's own local queue of a CPU: it runs next there.
    Local(u32),
    /// A queue of the kernel's, as during suspend.
    Kernel,
    /// On none.
    None,
}

impl Queue {
    pub(super) fn of(dsq: u64, cpu: u32) -> Self {
        const BUILTIN: u64 = 1 << 63;
        const LOCAL: u64 = BUILTIN | 2;
        let at = (dsq & 0xffff) as u32;
        match dsq {
            0 => Self::None,
            LOCAL => Self::Local(cpu),
            _ if dsq & BUILTIN != 0 => Self::Kernel,
            _ => match (dsq >> 16) as u32 {
                intf::umcg_queue_UMCG_Q_PARK => Self::Park(at),
                intf::umcg_queue_UMCG_Q_HAND => Self::Hand(at),
                intf::umcg_queue_UMCG_Q_SERVER => Self::Server(at),
                intf::umcg_queue_UMCG_Q_KERNEL => Self::KernelFair(at),
                intf::umcg_queue_UMCG_Q_THROTTLE => Self::Throttle(at),
                _ => Self::Kernel,
            },
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Park(cpu) => format!("PARK of cpu {cpu}, where workers wait by key"),
            Self::Hand(cpu) => format!("HAND of cpu {cpu}, chosen to run there"),
            Self::Server(cpu) => format!("SERVER of cpu {cpu}"),
            Self::KernelFair(cpu) => format!("kernel-fair queue of cpu {cpu}"),
            Self::Local(cpu) => format!("local queue of cpu {cpu}, next to run there"),
            Self::Throttle(_) => {
                "THROTTLE of its cgroup, until there is time to use again".to_owned()
            }
            Self::Held => "none: held for its group".to_owned(),
            Self::Kernel => "one of the kernel's own".to_owned(),
            Self::None => "none".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_ids_are_told_apart() {
        let id = |kind: u32| u64::from(kind) << 16 | 3;
        assert_eq!(
            Queue::of(id(intf::umcg_queue_UMCG_Q_PARK), 0),
            Queue::Park(3)
        );
        assert_eq!(
            Queue::of(id(intf::umcg_queue_UMCG_Q_HAND), 0),
            Queue::Hand(3)
        );
        assert_eq!(
            Queue::of(id(intf::umcg_queue_UMCG_Q_KERNEL), 0),
            Queue::KernelFair(3)
        );
        assert_eq!(Queue::of(1 << 63 | 2, 5), Queue::Local(5));
        assert_eq!(Queue::of(1 << 63 | 3, 5), Queue::Kernel);
        assert_eq!(Queue::of(0, 5), Queue::None);
        assert_eq!(
            serde_json::to_string(&Queue::KernelFair(3)).unwrap(),
            r#"{"name":"kernel-fair","cpu":3}"#
        );
    }
}
