//! A thread's place in its application group, for `doctor --pid`.

use serde::Serialize;
use umcg::intf;
use umcg::word::State;

/// A thread's part in an application group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The group's number.
    pub group: u32,
    /// It runs workers; else it is one.
    pub server: bool,
    /// Its number among the servers, or among the workers, from 1.
    pub number: u32,
    /// A worker: the server whose slot it has. A server: the worker that has its slot.
    pub mate: Option<u32>,
    /// BPF holds it: its group decides when it runs.
    pub held: bool,
}

/// The number of the member at `index` of its group, among the servers or among the workers.
pub(crate) const fn number(index: u32) -> u32 {
    const SERVERS: u32 = intf::umcg_group_limits_UMCG_GROUP_SERVERS;
    match index {
        ..=SERVERS => index,
        _ => index - SERVERS,
    }
}

impl Member {
    pub(crate) fn of(thread: &intf::umcg_thread) -> Option<Self> {
        (thread.group != 0).then(|| Self {
            group: thread.group,
            server: thread.kind == intf::umcg_kind_UMCG_K_GSERVER,
            number: number(thread.member),
            mate: (thread.mate != 0).then(|| number(thread.mate)),
            held: thread.held != 0,
        })
    }

    pub(crate) fn text(self) -> String {
        let (group, number) = (self.group, self.number);
        match (self.server, self.mate) {
            (true, None) => format!("server {number} of group {group}"),
            (true, Some(mate)) => {
                format!("server {number} of group {group}; worker {mate} has its slot")
            }
            (false, None) => format!("worker {number} of group {group}, without a slot"),
            (false, Some(mate)) => {
                format!("worker {number} of group {group}, in the slot of server {mate}")
            }
        }
    }

    /// Why one that is held does not run.
    pub(super) fn why(self, state: Option<State>) -> String {
        let (number, group) = (self.number, self.group);
        match (self.server, self.mate, state) {
            (true, Some(mate), _) => {
                format!("its slot is worker {mate}'s, until that one blocks, waits or is preempted")
            }
            (true, None, _) => format!("server {number} of group {group} waits for an event"),
            (false, _, Some(State::Idle)) => {
                format!("worker {number} of group {group} waits until somebody wakes it")
            }
            _ => format!("it wants a cpu, and no server of group {group} has run it yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Member = Member {
        group: 7,
        server: true,
        number: 1,
        mate: None,
        held: true,
    };

    #[test]
    fn member_that_is_held_says_for_whom() {
        let why = |m: Member, state| m.why(Some(state));
        assert!(why(SERVER, State::Idle).contains("waits for an event"));
        let busy = Member {
            mate: Some(3),
            ..SERVER
        };
        assert!(why(busy, State::Running).contains("worker 3's"));
        let worker = Member {
            server: false,
            ..SERVER
        };
        assert!(why(worker, State::Idle).contains("somebody wakes it"));
        assert!(why(worker, State::Runnable).contains("no server of group 7"));
    }

    #[test]
    fn member_numbers_start_at_one() {
        let thread = umcg::intf::umcg_thread {
            group: 7,
            kind: intf::umcg_kind_UMCG_K_GWORKER,
            member: intf::umcg_group_limits_UMCG_GROUP_SERVERS + 1,
            mate: 2,
            held: 1,
            ..super::super::thread::ask(1)
        };
        let worker = Member::of(&thread).unwrap();
        assert_eq!((worker.number, worker.mate), (1, Some(2)));
        assert!(!worker.server && worker.held);
        assert!(worker.text().contains("in the slot of server 2"));
        assert_eq!(Member::of(&super::super::thread::ask(1)), None);
    }
}
