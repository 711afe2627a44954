//! Application groups, as `status` shows them: read from their own maps.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use serde::Serialize;
use umcg::intf;
use umcg::kernel::record::{Head, Truth};
use umcg::sync::AtomicU8;
use umcg::sync::Ordering::{Acquire, Relaxed};
use umcg::word::{State, Word};

use crate::shared::Mapping;

/// One group of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// Its number.
    pub group: u32,
    /// What its creator called it; may be empty.
    pub name: String,
    /// By which policy its servers choose; empty: by the application's own code.
    pub policy: String,
    /// Who made it.
    pub uid: u32,
    /// Registered servers.
    pub servers: u32,
    /// Those of them that wait for an event.
    pub idle: u32,
    /// Registered workers.
    pub workers: u32,
    /// Workers that it has records for.
    pub capacity: u32,
    /// Weight of each server, in percent of a thread's.
    pub share: u32,
    /// After which a worker is forced off its slot, 0 = never.
    pub quantum_us: u32,
}

impl GroupStatus {
    /// `truth`: the records, by index.
    fn of(head: &Head, truth: &[Truth]) -> Self {
        let live = head.servers.load(Acquire);
        let servers = live.count_ones();
        let own = intf::umcg_group_limits_UMCG_GROUP_SERVERS + 1;
        Self {
            group: head.group.load(Relaxed),
            name: tamed(&head.name),
            policy: tamed(&head.policy),
            uid: head.uid.load(Relaxed),
            servers,
            idle: (truth.iter().zip(0..).skip(1))
                .filter(|&(server, bit)| live >> (bit - 1) & 1 == 1 && waits(server))
                .count() as u32,
            workers: head.members.load(Relaxed).saturating_sub(servers),
            capacity: head.capacity.load(Relaxed).saturating_sub(own),
            share: head.share.load(Relaxed),
            quantum_us: head.quantum_us.load(Relaxed),
        }
    }
}

/// Whoever may make a group chose it: no control characters on a terminal.
fn tamed(text: &[AtomicU8]) -> String {
    let bytes: Vec<_> = (text.iter())
        .map(|byte| byte.load(Relaxed))
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).replace(char::is_control, "?")
}

/// Whether a server waits for an event: held or asleep, with no worker in its slot.
fn waits(server: &Truth) -> bool {
    let word = Word(server.word.load(Acquire));
    word.state() == Some(State::Idle) && server.cur.load(Relaxed) == 0
}

/// All groups, by number; `outer` is the id of the map of their truth maps.
pub fn read(outer: u32) -> Result<Vec<GroupStatus>> {
    let outer =
        MapHandle::from_map_id(outer).with_context(|| format!("cannot open BPF map {outer}"))?;
    let mut groups = Vec::new();
    for number in 1..intf::umcg_group_limits_UMCG_MAX_GROUPS {
        let id = outer.lookup(&number.to_ne_bytes(), MapFlags::ANY)?;
        let Some(Ok(id)) = id.map(<[u8; 4]>::try_from) else {
            continue;
        };
        // It may end between the two looks.
        let Ok(map) = MapHandle::from_map_id(u32::from_ne_bytes(id)) else {
            continue;
        };
        let own = intf::umcg_group_limits_UMCG_GROUP_SERVERS as usize + 1;
        let bytes = map.value_size() as usize;
        let head: Mapping<Head> = Mapping::new(map.as_fd(), 1, bytes, false)?;
        let truth: Mapping<Truth> = Mapping::new(map.as_fd(), own, bytes, false)?;
        groups.push(GroupStatus::of(&head.records()[0], truth.records()));
    }
    Ok(groups)
}

/// The records of group `number`, by index; none if it has ended.
pub fn truth(outer: u32, number: u32) -> Result<Option<Mapping<Truth>>> {
    let outer =
        MapHandle::from_map_id(outer).with_context(|| format!("cannot open BPF map {outer}"))?;
    let id = outer.lookup(&number.to_ne_bytes(), MapFlags::ANY)?;
    let Some(Ok(id)) = id.map(<[u8; 4]>::try_from) else {
        return Ok(None);
    };
    let Ok(map) = MapHandle::from_map_id(u32::from_ne_bytes(id)) else {
        return Ok(None);
    };
    let (records, bytes) = (map.max_entries() as usize, map.value_size() as usize);
    Mapping::new(map.as_fd(), records, bytes, false).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_counts_servers_apart_and_tames_its_name() {
        let head = Head::default();
        head.group.store(3, Relaxed);
        head.servers.store(0b1011, Relaxed);
        head.members.store(10, Relaxed);
        head.capacity.store(64 + 1 + 20, Relaxed);
        for (to, from) in head.name.iter().zip(b"a\x1b[m") {
            to.store(*from, Relaxed);
        }
        let truth: Vec<_> = (0..5).map(|_| Truth::default()).collect();
        for server in [2, 3, 4] {
            // Server 3 has left, server 4 has a worker in its slot.
            truth[server].word.store(State::Idle as u64, Relaxed);
        }
        truth[4].cur.store(70, Relaxed);
        let group = GroupStatus::of(&head, &truth);
        assert_eq!((group.servers, group.idle, group.workers), (3, 1, 7));
        assert_eq!((group.capacity, group.name.as_str()), (20, "a?[m"));
    }
}
