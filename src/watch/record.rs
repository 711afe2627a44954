//! Where a thread's word is, and how it is read.

use anyhow::{Context, Result};
use umcg::intf;
use umcg::kernel::record::Truth;
use umcg::sync::Ordering::{Acquire, Relaxed};
use umcg::sync::{AtomicU32, AtomicU64};
use umcg::word::{State, Word};

use super::life::{Kind, Look};
use crate::agent::server::now_ns;
use crate::doctor::member::{Member, number};
use crate::groups;
use crate::runfile::RunFile;
use crate::shared::{Mapping, Shared};
use crate::status::edge_ns;

/// The record of one thread, in the system group or in an application's.
pub struct Record<'a> {
    shared: &'a Shared,
    /// Its place in the system group, which CPUs name it by.
    index: u32,
    /// Of a member: its group's records, and its place there.
    group: Option<(Mapping<Truth>, u32)>,
    /// The record is its own as long as it has this generation.
    generation: u32,
    kind: Kind,
    ahead_ns: u64,
    place: (u32, u32, u32, u32),
}

/// What identifies the records of `thread`.
fn place(thread: &intf::umcg_thread) -> (u32, u32, u32, u32) {
    (thread.index, thread.gen_, thread.group, thread.member)
}

impl<'a> Record<'a> {
    /// That of `thread`.
    pub fn open(file: &RunFile, shared: &'a Shared, thread: &intf::umcg_thread) -> Result<Self> {
        let member = Member::of(thread);
        let group = match member {
            Some(it) => {
                groups::truth(file.maps.groups, it.group)?.map(|truth| (truth, thread.member))
            }
            None => None,
        };
        let mut record = Self {
            shared,
            index: thread.index,
            group,
            generation: thread.gen_,
            kind: match member {
                Some(it) if it.server => Kind::GroupServer,
                Some(_) => Kind::GroupWorker,
                None => Kind::Worker,
            },
            ahead_ns: file.ahead_ns,
            place: place(thread),
        };
        if let Some((truth, index)) = &record.group {
            let truth = truth.records().get(*index as usize);
            record.generation = truth
                .context("a member without a record")?
                .gen_
                .load(Acquire);
        }
        Ok(record)
    }

    /// Who it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether `thread`, asked for later, has the same records.
    pub fn is_of(&self, thread: &intf::umcg_thread) -> bool {
        self.place == place(thread)
    }

    fn fields(&self) -> (&AtomicU32, [&AtomicU64; 4]) {
        match &self.group {
            Some((truth, index)) => {
                let m = &truth.records()[*index as usize];
                (&m.gen_, [&m.word, &m.since_ns, &m.run_ns, &m.wait_ns])
            }
            None => {
                let workers = self.shared.workers.records();
                let w = &workers[self.index as usize % workers.len()];
                (&w.gen_, [&w.word, &w.since_ns, &w.run_ns, &w.wait_ns])
            }
        }
    }

    /// Its word; none if the record is somebody else's by now.
    pub fn word(&self) -> Option<Word> {
        let (generation, [word, ..]) = self.fields();
        let word = Word(word.load(Acquire));
        (generation.load(Acquire) == self.generation).then_some(word)
    }

    /// All of it, at one moment: while the word changes it is read again.
    pub fn look(&self) -> Option<Look> {
        let (_, [_, since, run, wait]) = self.fields();
        loop {
            let now_ns = now_ns();
            let word = self.word()?;
            let look = Look {
                word,
                at_ns: edge_ns(word, since.load(Acquire), self.ahead_ns, now_ns),
                now_ns,
                run_ns: run.load(Acquire),
                wait_ns: wait.load(Acquire),
                cpu: self.cpu(word),
                mate: self.mate(),
            };
            if self.word()? == word {
                return Some(look);
            }
        }
    }

    fn cpu(&self, word: Word) -> Option<u32> {
        if word.state() != Some(State::Running) {
            return None;
        }
        let cpus = self.shared.cpus().iter().zip(0..);
        cpus.filter(|(cpu, _)| cpu.cur_idx.load(Relaxed) == self.index)
            .map(|(_, number)| number)
            .next()
    }

    fn mate(&self) -> Option<u32> {
        let (truth, index) = self.group.as_ref()?;
        let m = &truth.records()[*index as usize];
        let mate = match self.kind {
            Kind::GroupServer => m.cur.load(Relaxed),
            _ => m.slot.load(Relaxed),
        };
        (mate != 0).then(|| number(mate))
    }
}
