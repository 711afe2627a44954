//! A group that nobody belongs to, and the programs of `bpf/idle.bpf.c` on it: the very
//! functions of the scheduler, with no scheduler attached.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags};
use scx_umcg::agent::client::inner_map;
use scx_umcg::shared::Mapping;
use umcg::Idle;
use umcg::intf;
use umcg::kernel::record::{Desk, Head, Truth};
use umcg::sync::Ordering::Relaxed;
use umcg::word::State;

use crate::skel::idle::IdleSkelBuilder;

/// As `struct idle_call` in idle.bpf.c.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    pub loops: u32,
    pub servers: u32,
    pub first: u32,
    pub span: u32,
    pub puts: u64,
    pub takes: u64,
    pub drops: u64,
    pub none: u64,
    pub twice: u64,
    pub spent_ns: u64,
}

/// Its number.
const GROUP: u32 = 1;

/// The maps of the group, and the programs.
pub struct MadeUp {
    head: Mapping<Head>,
    truth: Mapping<Truth>,
    desks: Mapping<Desk>,
    servers: u32,
    serve: OwnedFd,
    wait: OwnedFd,
    wake: OwnedFd,
    cost: OwnedFd,
}

impl MadeUp {
    /// With `servers` of them and one worker; nobody waits, all have a worker.
    pub fn new(servers: u32) -> Result<Self> {
        let mut object = MaybeUninit::uninit();
        let skel = IdleSkelBuilder::default().open(&mut object)?.load()?;
        let capacity = servers + 2;
        let truth = inner_map("umcg_made_up", size_of::<Truth>(), capacity)?;
        let desks = inner_map("umcg_made_up", size_of::<Desk>(), capacity)?;
        for (outer, inner) in [
            (&skel.maps.umcg_truths, &truth),
            (&skel.maps.umcg_desks, &desks),
        ] {
            outer.update(
                &GROUP.to_ne_bytes(),
                &inner.as_raw_fd().to_ne_bytes(),
                MapFlags::ANY,
            )?;
        }
        let program = |prog: &libbpf_rs::Program<'_>| prog.as_fd().try_clone_to_owned();
        let made = Self {
            head: Mapping::new(&truth, 1, size_of::<Head>(), true)?,
            truth: Mapping::new(&truth, capacity as usize, size_of::<Truth>(), true)?,
            desks: Mapping::new(&desks, capacity as usize, size_of::<Desk>(), true)?,
            servers,
            serve: program(&skel.progs.idle_serve)?,
            wait: program(&skel.progs.idle_wait)?,
            wake: program(&skel.progs.idle_wake)?,
            cost: program(&skel.progs.idle_cost)?,
        };
        made.head().capacity.store(capacity, Relaxed);
        made.head().idle_end.store(servers, Relaxed);
        made.head().servers.store(u64::MAX, Relaxed);
        Ok(made)
    }

    fn head(&self) -> &Head {
        &self.head.records()[0]
    }

    /// The one worker.
    pub fn worker(&self) -> u32 {
        self.servers + 1
    }

    /// Makes it a group with structure `kind` in which `waiting` wait for events and the
    /// others have a worker.
    pub fn arrange(&self, kind: Idle, waiting: &[u32]) -> Result<()> {
        let head = self.head();
        head.idle_kind.store(kind.number(), Relaxed);
        head.idle_top.store(0, Relaxed);
        head.idle.store(0, Relaxed);
        for server in 1..=self.servers as usize {
            let truth = &self.truth.records()[server];
            truth
                .kind
                .store(intf::umcg_member_kind_UMCG_M_SERVER, Relaxed);
            truth.word.store(State::Idle as u64, Relaxed);
            truth.kick.store(0, Relaxed);
            truth.cur.store(self.worker(), Relaxed);
            self.desks.records()[server].runnable.store(0, Relaxed);
        }
        for &server in waiting {
            let truth = &self.truth.records()[server as usize];
            truth.cur.store(0, Relaxed);
            let mut call = Call {
                first: server,
                ..Call::default()
            };
            scx_umcg::agent::server::run_program(&self.wait, &mut call)?;
            ensure!(call.puts == 1, "server {server} was not put: {call:?}");
        }
        Ok(())
    }

    /// Plays servers.
    pub fn serve(&self, call: &mut Call) -> Result<()> {
        scx_umcg::agent::server::run_program(&self.serve, call).context("idle_serve")
    }

    /// Plays a waker.
    pub fn wake(&self, call: &mut Call) -> Result<()> {
        call.servers = self.servers;
        scx_umcg::agent::server::run_program(&self.wake, call).context("idle_wake")
    }

    /// Wakes the one worker, again and again: instructions each, under icount.
    pub fn cost(&self, loops: u32) -> Result<f64> {
        let mut call = Call {
            loops,
            servers: self.servers,
            first: self.worker(),
            ..Call::default()
        };
        scx_umcg::agent::server::run_program(&self.cost, &mut call).context("idle_cost")?;
        Ok(call.spent_ns as f64 / f64::from(loops))
    }
}
