//! Faults as they are applied, and taken back.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::agent::Agent;
use super::crowd::Crowd;
use super::harass;
use super::plan::{Change, Fault};
use super::report::Report;
use super::watch::list;
use crate::client::Client;
use crate::load::{self, Hog, Spinner};
use crate::unkind::{SET, Unkind};

/// What ends a fault.
enum Undo {
    Online(usize),
    GoOn(usize, i32),
    GoOnAgent,
    Unkind(&'static str, #[allow(dead_code)] Unkind),
    Kill(Client),
    Thaw(usize),
    Unlimit(usize),
    Changed(usize),
    Reap(i32),
    Hogs(#[allow(dead_code)] Vec<Spinner>),
    Loud,
    Readers(#[allow(dead_code)] Vec<UnixStream>),
}

/// All that faults are applied to.
pub struct Field {
    pub agent: Agent,
    pub report: Report,
    crowd: Crowd,
    undo: Vec<(Instant, Undo)>,
    /// How many CPUs there are, online or not.
    present: usize,
    /// Those that can be taken offline.
    cpus: Vec<usize>,
    /// The scheduler hears of limits.
    limits: bool,
    looked: Instant,
    checked: Instant,
}

impl Field {
    /// Around `agent`, with no client yet.
    pub fn new(agent: Agent, report: Report) -> Result<Self> {
        let present = fs::read_to_string("/sys/devices/system/cpu/present")?;
        let mut cpus = list(&present);
        let present_cpus = cpus.len();
        cpus.retain(|cpu| fs::exists(online(*cpu)).unwrap_or(false));
        let features = scx_umcg::kernel::features();
        let limits = features
            .iter()
            .any(|it| it.name == "cgroup bandwidth" && it.found);
        Ok(Self {
            agent,
            report,
            crowd: Crowd::new()?,
            undo: Vec::new(),
            present: present_cpus,
            cpus,
            limits,
            looked: Instant::now(),
            checked: Instant::now(),
        })
    }

    /// Starts all loads.
    pub fn start(&mut self) -> Result<()> {
        self.crowd.start(&self.agent)
    }

    /// Goes on for `time`: takes back what is over, and looks at all.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            self.take_back(|at| at <= now)?;
            if self.looked.elapsed() > Duration::from_millis(200) {
                self.looked = now;
                self.crowd.look(&self.agent, &mut self.report)?;
            }
            if self.checked.elapsed() > Duration::from_secs(1) {
                self.checked = now;
                self.agent.check(&mut self.report)?;
            }
            if now >= end {
                return Ok(());
            }
            let next = self.undo.iter().map(|(at, _)| *at).min();
            let until = next
                .unwrap_or(end)
                .min(end)
                .min(now + Duration::from_millis(200));
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }

    fn after(&mut self, ms: u64, undo: Undo) {
        let at = Instant::now() + Duration::from_millis(ms);
        self.undo.push((at, undo));
    }

    /// Applies one; what it lasts for is taken back by [`Field::pass`].
    pub fn apply(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Offline { cpu, ms } => self.offline(cpu, ms)?,
            Fault::Kill { client } => self.kill(client),
            Fault::Stop { client, ms } => self.stop(client, ms),
            Fault::StopAgent { ms } => {
                self.agent.stop()?;
                self.after(ms, Undo::GoOnAgent);
            }
            Fault::EndAgent => self.restart(libc::SIGTERM)?,
            Fault::KillAgent => self.restart(libc::SIGKILL)?,
            Fault::Reload { file } => self.agent.reload(file, true, &mut self.report)?,
            Fault::SpoiltReload { file } => self.agent.reload(file, false, &mut self.report)?,
            Fault::Unkind { load, ms } => self.unkind(SET[load as usize % SET.len()], ms)?,
            Fault::Hostile { ms } => {
                let client = harass::hostile()?;
                self.after(ms, Undo::Kill(client));
            }
            Fault::Garbage { seed, ms } => {
                let client = harass::garbage(seed, Duration::from_millis(ms))?;
                self.crowd.invite("garbage", client, &self.agent);
            }
            Fault::Groups { rounds } => {
                let client = harass::groups(rounds)?;
                self.crowd.invite("groups", client, &self.agent);
            }
            Fault::Change { client, what, ms } => self.change(client, what, ms)?,
            Fault::Freeze { client, ms } => self.freeze(client, ms)?,
            Fault::Limit { client, pct, ms } => self.limit(client, pct, ms),
            Fault::RealTime { cpu, ms } => {
                let cpu = cpu as usize % self.present;
                let pid = load::rt_hog(cpu, Duration::from_millis(ms))?;
                self.after(ms + 200, Undo::Reap(pid));
            }
            Fault::Stall { ms } => self.stall(ms)?,
            Fault::Hush { ms } => {
                self.crowd.stage.set_hush(true);
                self.after(ms, Undo::Loud);
            }
            Fault::Hogs { count, ms } => {
                let hogs = Hog::default().start_many(count as usize)?;
                self.after(ms, Undo::Hogs(hogs));
            }
        }
        Ok(())
    }

    fn skip(&mut self, why: &str) {
        self.report.skipped += 1;
        self.report.note(&format!("skipped: {why}"));
    }

    fn offline(&mut self, cpu: u64, ms: u64) -> Result<()> {
        if self.cpus.is_empty() {
            self.skip("no CPU can be taken offline");
            return Ok(());
        }
        let cpu = self.cpus[cpu as usize % self.cpus.len()];
        fs::write(online(cpu), "0").with_context(|| format!("CPU {cpu} offline"))?;
        self.after(ms, Undo::Online(cpu));
        Ok(())
    }

    fn kill(&mut self, client: u64) {
        let at = self.crowd.at(client);
        self.crowd.players[at].killed = true;
        self.crowd.players[at].client.signal(libc::SIGKILL);
    }

    fn stop(&mut self, client: u64, ms: u64) {
        let at = self.crowd.at(client);
        self.crowd.players[at].under += 1;
        self.crowd.players[at].client.signal(libc::SIGSTOP);
        let pid = self.crowd.players[at].client.pid;
        self.after(ms, Undo::GoOn(at, pid));
    }

    fn restart(&mut self, signal: i32) -> Result<()> {
        // It takes seconds: nothing is to last for longer than it should.
        self.take_back(|_| true)?;
        // The verifier's walk takes a minute of an emulated machine under full load.
        self.crowd.stage.set_hush(true);
        let result = self.agent.restart(signal, &mut self.report);
        self.crowd.stage.set_hush(false);
        result
    }

    fn unkind(&mut self, name: &'static str, ms: u64) -> Result<()> {
        if self
            .undo
            .iter()
            .any(|(_, it)| matches!(it, Undo::Unkind(at, _) if *at == name))
        {
            self.skip(&format!("{name} of the hostile set runs yet"));
            return Ok(());
        }
        let load = Unkind::start(name)?;
        self.after(ms, Undo::Unkind(name, load));
        Ok(())
    }

    fn change(&mut self, client: u64, what: Change, ms: u64) -> Result<()> {
        let at = self.crowd.at(client);
        let player = &mut self.crowd.players[at];
        player.under += 1;
        let home = player.cgroup.file("").display().to_string();
        let home = home.trim_end_matches('/').to_owned();
        let changer = harass::change(player.client.pid, what, home, Duration::from_millis(ms))?;
        self.crowd.invite("change", changer, &self.agent);
        self.after(ms + 500, Undo::Changed(at));
        Ok(())
    }

    fn freeze(&mut self, client: u64, ms: u64) -> Result<()> {
        let at = self.crowd.at(client);
        self.crowd.players[at].cgroup.set("cgroup.freeze", "1")?;
        self.crowd.players[at].under += 1;
        self.after(ms, Undo::Thaw(at));
        Ok(())
    }

    fn limit(&mut self, client: u64, pct: u64, ms: u64) {
        if !self.limits {
            self.skip("this kernel tells nobody of limits");
            return;
        }
        let at = self.crowd.at(client);
        let value = format!("{} 100000", pct * 1000);
        // A load of the hostile set takes the controller away when it ends.
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu");
        if let Err(error) = self.crowd.players[at].cgroup.set("cpu.max", &value) {
            self.skip(&format!("{error:#}"));
            return;
        }
        self.crowd.players[at].under += 1;
        self.after(ms, Undo::Unlimit(at));
    }

    fn stall(&mut self, ms: u64) -> Result<()> {
        self.agent.status(&mut self.report)?;
        match harass::stalled_readers() {
            Ok(readers) => self.after(ms, Undo::Readers(readers)),
            Err(error) => self.skip(&format!("{error:#}")),
        }
        Ok(())
    }

    /// Ends the faults whose time is one that `is_over` says.
    pub fn take_back(&mut self, is_over: impl Fn(Instant) -> bool) -> Result<()> {
        let (over, on): (Vec<_>, Vec<_>) = self.undo.drain(..).partition(|(at, _)| is_over(*at));
        self.undo = on;
        for (_, undo) in over {
            match undo {
                Undo::Online(cpu) => {
                    fs::write(online(cpu), "1").with_context(|| format!("CPU {cpu} online"))?;
                }
                Undo::GoOn(at, pid) => {
                    if self.crowd.players[at].client.pid == pid {
                        self.crowd.players[at].client.signal(libc::SIGCONT);
                    }
                    self.crowd.players[at].relieve();
                }
                Undo::GoOnAgent => self.agent.go_on(),
                Undo::Loud => {
                    let others = self.undo.iter().any(|(_, it)| matches!(it, Undo::Loud));
                    self.crowd.stage.set_hush(others);
                }
                Undo::Unkind(..) | Undo::Hogs(_) | Undo::Readers(_) => {}
                Undo::Kill(client) => client.kill(),
                Undo::Thaw(at) => {
                    self.crowd.players[at].cgroup.set("cgroup.freeze", "0")?;
                    self.crowd.players[at].relieve();
                }
                Undo::Unlimit(at) => {
                    let _ = self.crowd.players[at].cgroup.set("cpu.max", "max");
                    self.crowd.players[at].relieve();
                }
                Undo::Changed(at) => self.crowd.players[at].relieve(),
                // SAFETY: a child of ours that ends by itself; no status is asked for.
                Undo::Reap(pid) => unsafe {
                    libc::waitpid(pid, std::ptr::null_mut(), 0);
                },
            }
        }
        Ok(())
    }

    /// Ends all faults and loads; each load says whether all of its own came out.
    pub fn end(&mut self) -> Result<()> {
        self.take_back(|_| true)?;
        self.agent.check(&mut self.report)?;
        self.crowd.end(&mut self.agent, &mut self.report)
    }
}

fn online(cpu: usize) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/online")
}
