//! The clients of a run: loads that are replaced when they end, and guests that faults bring along.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::agent::Agent;
use super::cast::{PATIENCE, ROLES, Role, Stage};
use super::report::{Report, What};
use crate::cgroup::Cgroup;
use crate::client::{Client, group_maps};
use crate::harness::wait_until;

/// At the end each client has come to its own end by then.
const ENDS_WITHIN: Duration = Duration::from_secs(100);

/// A load that runs, and what is done to it.
pub struct Player {
    role: &'static Role,
    pub client: Client,
    pub cgroup: Cgroup,
    /// Killed by a fault: its end says nothing.
    pub killed: bool,
    /// Faults that it is under.
    pub under: u32,
    /// The agent's troubles when it was started; none: it was in one.
    troubles: Option<u64>,
    /// Counts of its parts, and when each last grew.
    seen: Vec<(u32, Instant)>,
}

/// A client that a fault started, and that ends by itself.
struct Guest {
    what: &'static str,
    client: Client,
    troubles: Option<u64>,
    limit: Instant,
}

/// All clients.
pub struct Crowd {
    pub stage: Stage,
    pub players: Vec<Player>,
    guests: Vec<Guest>,
}

impl Crowd {
    /// Nobody yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            stage: Stage::new()?,
            players: Vec::new(),
            guests: Vec::new(),
        })
    }

    /// Starts all loads.
    pub fn start(&mut self, agent: &Agent) -> Result<()> {
        self.stage.set_over(false);
        for role in &ROLES {
            let cgroup = Cgroup::new(&format!("soak-{}", role.name))?;
            let client = role.start(self.stage)?;
            cgroup.add(client.pid)?;
            let parts = role.parts.clone().map(|at| self.stage.get(at));
            self.players.push(Player {
                role,
                client,
                cgroup,
                killed: false,
                under: 0,
                troubles: agent.troubles(),
                seen: parts.map(|count| (count, Instant::now())).collect(),
            });
        }
        Ok(())
    }

    /// The place of the one that a fault means.
    pub fn at(&self, client: u64) -> usize {
        client as usize % self.players.len()
    }

    /// One that ends by itself.
    pub fn invite(&mut self, what: &'static str, client: Client, agent: &Agent) {
        self.guests.push(Guest {
            what,
            client,
            troubles: agent.troubles(),
            limit: Instant::now() + ENDS_WITHIN,
        });
    }

    /// Whoever has ended is judged, and replaced; whoever stands still is told of.
    pub fn look(&mut self, agent: &Agent, report: &mut Report) -> Result<()> {
        for at in 0..self.players.len() {
            if self.players[at].client.has_ended() {
                self.replace(at, agent, report)?;
            }
            let player = &mut self.players[at];
            for (part, seen) in player.role.parts.clone().zip(&mut player.seen) {
                let count = self.stage.get(part);
                if count != seen.0 {
                    *seen = (count, Instant::now());
                } else if player.under == 0 && seen.1.elapsed() > PATIENCE {
                    let text = format!(
                        "part {part} of {} did not get on for {PATIENCE:?}",
                        player.role.name
                    );
                    report.violation(What::Other, &text);
                    seen.1 = Instant::now();
                }
            }
        }
        self.look_at_guests(agent, report);
        Ok(())
    }

    fn replace(&mut self, at: usize, agent: &Agent, report: &mut Report) -> Result<()> {
        let client = self.players[at].role.start(self.stage)?;
        let player = &mut self.players[at];
        // One that is frozen yet has its successor frozen with it.
        player.cgroup.add(client.pid)?;
        let old = std::mem::replace(&mut player.client, client);
        let before = std::mem::replace(&mut player.troubles, agent.troubles());
        let killed = std::mem::take(&mut player.killed);
        let excused = player.role.needs_agent && agent.may_be_blamed(before);
        player.calm();
        let name = player.role.name;
        report.replaced += 1;
        if let Err(error) = old.end() {
            match () {
                () if killed => {}
                () if excused => report.excuse(name, &error),
                () => {
                    let text = format!("client {name}: {error:#}");
                    report.violation(What::Other, &text);
                }
            }
        }
        Ok(())
    }

    fn look_at_guests(&mut self, agent: &Agent, report: &mut Report) {
        for guest in std::mem::take(&mut self.guests) {
            let late = Instant::now() > guest.limit;
            if !guest.client.has_ended() && !late {
                self.guests.push(guest);
                continue;
            }
            if late {
                let text = format!("{} did not end within {ENDS_WITHIN:?}", guest.what);
                report.violation(What::Other, &text);
                guest.client.kill();
                continue;
            }
            match guest.client.end() {
                Ok(()) => {}
                Err(error) if agent.may_be_blamed(guest.troubles) => {
                    report.excuse(guest.what, &error);
                }
                Err(error) => {
                    let text = format!("{}: {error:#}", guest.what);
                    report.violation(What::Other, &text);
                }
            }
        }
    }

    /// Ends all loads; each says whether all of its own came out.
    pub fn end(&mut self, agent: &mut Agent, report: &mut Report) -> Result<()> {
        self.stage.set_over(true);
        let limit = Instant::now() + ENDS_WITHIN;
        for player in std::mem::take(&mut self.players) {
            while !player.client.has_ended() && Instant::now() < limit {
                self.look_at_guests(agent, report);
                agent.check(report)?;
                std::thread::sleep(Duration::from_millis(50));
            }
            let name = player.role.name;
            if !player.client.has_ended() {
                let text = format!("client {name} did not come to its end in {ENDS_WITHIN:?}");
                report.violation(What::Other, &text);
                player.client.kill();
                continue;
            }
            let excused =
                player.killed || player.role.needs_agent && agent.may_be_blamed(player.troubles);
            match player.client.end() {
                Err(error) if !excused => {
                    let text = format!("client {name}: {error:#}");
                    report.violation(What::Other, &text);
                }
                _ => {}
            }
        }
        while !self.guests.is_empty() {
            self.look_at_guests(agent, report);
            std::thread::sleep(Duration::from_millis(50));
        }
        if !wait_until(Duration::from_secs(10), || group_maps() == 0) {
            let text = format!("{} maps of groups are left", group_maps());
            report.violation(What::Leak, &text);
        }
        Ok(())
    }
}

impl Player {
    /// One fault fewer.
    pub fn relieve(&mut self) {
        self.under = self.under.saturating_sub(1);
        self.calm();
    }

    /// Its parts have their whole time again.
    fn calm(&mut self) {
        for seen in &mut self.seen {
            seen.1 = Instant::now();
        }
    }
}
