//! The configuration while the agent runs: reloads, whole or not at all.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use log::{info, warn};

use super::matcher::Matcher;
use super::news::Reload;
use super::sysgroups::{self, Seated, Seats};
use crate::cli::RunArgs;
use crate::config::cpus::Machine;
use crate::config::{Config, Daemon, Kind, Origin, file_of};
use crate::exit::Failure;
use crate::runfile::RunFile;
use crate::shared::Shared;

/// What holds now, and whoever has to hear of a change.
#[derive(Debug)]
pub struct Live {
    args: RunArgs,
    machine: Machine,
    config: Config,
    /// What was last read of the file; the same text again is no change.
    text: Option<Vec<u8>>,
    seats: Seats,
    shared: Arc<Shared>,
    stage: Arc<AtomicU32>,
    parts: Option<Parts>,
}

/// What there is only while attached.
#[derive(Debug)]
struct Parts {
    apply: OwnedFd,
    matcher: Matcher,
    file: RunFile,
}

impl Live {
    /// Of `config`, which `args` led to; its terms are in BPF's table when this returns.
    pub fn new(args: &RunArgs, machine: &Machine, config: &Config, shared: Arc<Shared>) -> Self {
        let mut live = Self {
            args: args.clone(),
            machine: machine.clone(),
            config: config.clone(),
            text: config.file.as_ref().map(|_| config.text.clone()),
            seats: Seats::default(),
            shared,
            stage: Arc::new(AtomicU32::new(config.daemon.stage)),
            parts: None,
        };
        live.write();
        live
    }

    /// Choices per activation, for the servers.
    pub fn stage(&self) -> Arc<AtomicU32> {
        self.stage.clone()
    }

    /// What holds now.
    pub fn daemon(&self) -> &Daemon {
        &self.config.daemon
    }

    /// Attached: `apply` and `matcher` hear of all changes from now on, `file` shows them.
    pub fn attached(&mut self, apply: OwnedFd, matcher: Matcher, file: RunFile) {
        self.parts = Some(Parts {
            apply,
            matcher,
            file,
        });
        self.take_effect();
    }

    /// The groups that run, the rest first.
    pub fn groups(&self) -> &[Seated] {
        self.parts.as_ref().map_or(&[], |parts| &parts.file.system)
    }

    /// What the next attachment runs, where what is fixed in this one may change.
    pub fn next(mut self) -> Config {
        let name = self.name();
        self.machine.renew();
        let read = Config::load(&self.args, &self.machine);
        let (config, told) = after_ejection(self.config, read, &name);
        told.iter().for_each(|line| warn!("{line}"));
        config
    }

    /// The end of the attachment.
    pub fn detached(&mut self) {
        if let Some(parts) = self.parts.take() {
            parts.matcher.join();
        }
    }

    /// Writes the terms of `self.config` to BPF's table; the seats of all groups.
    fn write(&mut self) -> Vec<Seated> {
        let had = &self.shared.sys_cpus.records()[..self.shared.nr_cpus];
        let seated = sysgroups::seat(&self.config, &mut self.seats, had);
        let table = &self.shared.sys.records()[0];
        sysgroups::write(table, &self.config, &seated, &self.machine.possible);
        seated
    }

    fn take_effect(&mut self) {
        let seated = self.write();
        self.stage
            .store(self.config.daemon.stage, Ordering::Relaxed);
        let Some(parts) = &mut self.parts else {
            return;
        };
        if let Err(err) = sysgroups::apply(&parts.apply) {
            warn!("BPF does not take over the CPUs of groups: {err:#}");
        }
        let seats = seated.iter().skip(1).map(|group| group.seat as u32);
        let rules = self.config.groups.iter().map(|group| group.rule.clone());
        parts.matcher.use_rules(rules.zip(seats).collect());
        parts.file.system = seated;
        parts.file.config = self.config.file.as_ref().map(|f| f.display().to_string());
        if let Err(err) = parts.file.write() {
            warn!("`scx_umcg status` shows an old configuration: {err:#}");
        }
    }

    /// Reads the file again. Whatever is wrong with it is told, and then nothing has changed.
    pub fn reload(&mut self, why: Reload) {
        match self.read(why) {
            Ok(None) => {}
            Ok(Some(config)) => {
                config.warnings.iter().for_each(|line| warn!("{line}"));
                self.config = config;
                if let Some(parts) = &mut self.parts {
                    parts.file.reloads += 1;
                }
                self.take_effect();
                let groups = self.config.groups.len();
                info!("configuration reloaded: {}; {groups} groups", self.name());
            }
            Err(err) => {
                format!("{err:#}").lines().for_each(|line| warn!("{line}"));
                if let Some(parts) = &mut self.parts {
                    parts.file.reloads_refused += 1;
                    // Counted for whoever watches; the next write tells it too.
                    let _ = parts.file.write();
                }
                warn!(
                    "configuration not reloaded: {}; what ran before goes on",
                    self.name()
                );
            }
        }
    }

    fn name(&self) -> String {
        file_of(&self.args).0.display().to_string()
    }

    /// A configuration that can be taken over; none, if nothing has changed.
    fn read(&mut self, why: Reload) -> Result<Option<Config>> {
        let path = file_of(&self.args).0;
        let read = std::fs::read(path);
        if read.is_err() && self.text.is_none() {
            info!("{}: no such file; nothing to reload", path.display());
            return Ok(None);
        }
        let text = read.with_context(|| format!("{}: cannot read", path.display()))?;
        if self.text.as_ref() == Some(&text) && why == Reload::Changed {
            return Ok(None);
        }
        self.machine.renew();
        let config = Config::from_bytes(path, &text, &self.args, &self.machine);
        // Wrong ones too: the same text again is no news.
        self.text = Some(text);
        let config = config?;
        let fixed = fixed(&self.config, &config, &self.name(), self.shared.nr_cpus);
        anyhow::ensure!(fixed.is_empty(), "{}", fixed.join("\n"));
        Ok(Some(config))
    }
}

/// The new configuration or, if there is none to take over, the old one; what is to be told of it.
fn after_ejection(old: Config, new: Result<Config, Failure>, name: &str) -> (Config, Vec<String>) {
    let wrong = match new {
        // The file that is read if it is there: gone is no wish for the defaults.
        Ok(new) if new.file.is_none() && old.file.is_some() => format!("{name}: no such file"),
        Ok(new) => {
            let told = new.warnings.clone();
            return (new, told);
        }
        Err(err) => err.to_string(),
    };
    let kept = format!("configuration not taken over: {name}; what ran before goes on");
    let told = wrong.lines().map(str::to_owned).chain([kept]).collect();
    (old, told)
}

/// What cannot change while it runs, and would: a line for each.
fn fixed(now: &Config, new: &Config, name: &str, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (a, b) = (&now.daemon, &new.daemon);
    let mut same = |key: &str, now: String, new: String, line: Option<&Origin>| {
        if now != new {
            let line = match line {
                Some(Origin::File(line)) => *line,
                _ => 1,
            };
            lines.push(format!(
                "{name}:{line}:1: {key} = {new}: cannot change while it runs, it is {now}; \
                 put it back, or restart"
            ));
        }
    };
    let at = |key: &str| b.origins.get(key);
    let (have, want) = (now.kinds(count), new.kinds(count));
    let (own, want_own) = (
        Kind::new(&a.policy, a.decide),
        Kind::new(&b.policy, b.decide),
    );
    same(
        "policy",
        own.to_string(),
        want_own.to_string(),
        at("policy").or(at("decide")),
    );
    same(
        "timeout_ms",
        a.timeout_ms.to_string(),
        b.timeout_ms.to_string(),
        at("timeout_ms"),
    );
    same(
        "partial",
        a.partial.to_string(),
        b.partial.to_string(),
        at("partial"),
    );
    for (cpu, (have, want)) in have.iter().zip(&want).enumerate() {
        let group = new.groups.iter().find(|g| g.cpus.0.contains(&cpu));
        let line = Origin::File(group.map_or(1, |group| group.line));
        let key = format!("policy of CPU {cpu}");
        // What the daemon's own policy makes of its CPUs was told above.
        if (have, want) != (&own, &want_own) {
            same(&key, have.to_string(), want.to_string(), Some(&line));
        }
    }
    let max = |d: &Daemon| d.ignore_cpu_max.to_string();
    same("ignore_cpu_max", max(a), max(b), at("ignore_cpu_max"));
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::cpus::CpuSet;

    fn read(text: &str) -> Result<Config, Failure> {
        let machine = Machine {
            possible: CpuSet::first(2),
            online: CpuSet::first(2),
            ..Machine::default()
        };
        let (path, args) = (Path::new("c.toml"), RunArgs::default());
        Config::from_bytes(path, text.as_bytes(), &args, &machine)
    }

    fn parse(text: &str) -> Config {
        read(text).unwrap()
    }

    #[test]
    fn reload_refuses_what_is_fixed_and_tells_all_of_it() {
        let now = parse("[daemon]\nslice_us = 1000\n");
        let free =
            parse("[daemon]\nslice_us = 500\nquantum_us = 100\nstage = 3\nstats = 1\nshare = 7\n");
        assert!(fixed(&now, &free, "c.toml", 2).is_empty());
        let new = parse("[daemon]\npolicy = \"fifo\"\n\ntimeout_ms = 2000\npartial = true\n");
        let want = [
            "c.toml:2:1: policy = fifo (staged): cannot change while it runs, it is fair (key); put it \
             back, or restart",
            "c.toml:4:1: timeout_ms = 2000: cannot change while it runs, it is 10000; put it back, \
             or restart",
            "c.toml:5:1: partial = true: cannot change while it runs, it is false; put it back, or restart",
        ];
        assert_eq!(fixed(&now, &new, "c.toml", 2), want);
        let text = "[daemon]\ncpus = \"0\"\n[[group]]\nname = \"g\"\nmatch = {}\ncpus = \"1\"\npolicy = \"fifo\"\n";
        let want = "c.toml:3:1: policy of CPU 1 = fifo (staged): cannot change while it runs, it is \
                    fair (key); put it back, or restart";
        assert_eq!(fixed(&now, &parse(text), "c.toml", 2), [want]);
        assert_eq!(fixed(&parse(text), &now, "c.toml", 2).len(), 1);
    }

    #[test]
    fn ejection_with_a_wrong_or_vanished_file_keeps_what_ran_and_tells_it() {
        let old = || parse("[daemon]\nslice_us = 1000\n");
        let kept = "configuration not taken over: c.toml; what ran before goes on";
        let wrong = read("[daemon]\nslice_us = 5\nstage = 0\n");
        let (config, told) = after_ejection(old(), wrong, "c.toml");
        assert_eq!(config.daemon.slice_us, 1000);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("c.toml:2:12: slice_us = 5"), "{told:?}");
        assert_eq!(told[2], kept);
        let gone = Config {
            file: None,
            ..parse("")
        };
        let (config, told) = after_ejection(old(), Ok(gone.clone()), "c.toml");
        assert_eq!(config.daemon.slice_us, 1000);
        assert_eq!(told, ["c.toml: no such file", kept]);
        // There never was one.
        let (config, told) = after_ejection(gone.clone(), Ok(gone), "c.toml");
        assert_eq!((config.daemon.slice_us, told.len()), (4000, 0));
        // What a reload may not change.
        let new = read("[daemon]\npolicy = \"fifo\"\nquantum_us = 8000\n");
        let (config, told) = after_ejection(old(), new, "c.toml");
        assert_eq!((config.daemon.policy.as_str(), told.len()), ("fifo", 1));
    }
}
