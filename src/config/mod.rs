//! The configuration: defaults, below the file, below the flags.
//!
//! A file is taken whole or not at all. All that is wrong with it is told at once, each with its
//! place; nothing falls back to a default in silence. `docs/operations.md` has the keys.

mod check;
pub mod cpus;
pub mod findings;
pub mod glob;
mod read;
pub mod rule;
pub mod section;
pub mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use umcg_policy::Decide;

use crate::cli::RunArgs;
use crate::exit::{Exit, Failure};
use cpus::{CpuSet, Machine};
use findings::Findings;
use rule::Rule;

/// Read if it is there and no other is named.
pub const FILE: &str = "/etc/scx_umcg/config.toml";
/// A file of more bytes is none that a person wrote, and the agent's heap is small.
const FILE_MAX: usize = 256 << 10;
/// The name of the group of all threads that no other one takes.
pub const REST: &str = "default";
/// Groups beside it.
pub const MAX_GROUPS: usize = 15;
/// Bytes of a group's name.
pub const NAME_MAX: usize = 31;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This line of the file.
    File(usize),
    /// The command line.
    Flag,
}

/// Where values come from that are no defaults.
pub type Origins = BTreeMap<&'static str, Origin>;

/// `[daemon]` and the flags: the scheduler as a whole, and the threads that no group takes.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Who orders waiting workers.
    pub policy: String,
    /// Where decisions are made; None: as the policy prefers.
    pub decide: Option<Decide>,
    /// CPU time per pick.
    pub slice_us: u64,
    /// Forced preemption after so long; 0 = off.
    pub quantum_us: u64,
    /// Choices that a server stages per activation.
    pub stage: u32,
    /// The watchdog's.
    pub timeout_ms: u32,
    /// Only SCHED_EXT threads.
    pub partial: bool,
    /// Lift `cpu.max`.
    pub ignore_cpu_max: bool,
    /// Print statistics every so many seconds.
    pub stats: Option<f64>,
    /// CPUs of the threads that no group takes.
    pub cpus: CpuSet,
    /// Their share against groups.
    pub share: u32,
    /// They may preempt on wake-up.
    pub preempt: bool,
    /// Say more.
    pub verbose: bool,
    /// Where the values come from.
    pub origins: Origins,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            policy: "fair".to_owned(),
            decide: None,
            slice_us: 4000,
            quantum_us: 0,
            stage: 8,
            timeout_ms: 10_000,
            partial: false,
            ignore_cpu_max: false,
            stats: None,
            cpus: CpuSet::default(),
            share: 100,
            preempt: true,
            verbose: false,
            origins: Origins::new(),
        }
    }
}

/// One `[[group]]`.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Line of the file where it begins.
    pub line: usize,
    /// Which threads it takes.
    pub rule: Rule,
    /// Its policy, that of its CPUs.
    pub policy: String,
    /// How that decides.
    pub decide: Option<Decide>,
    /// CPUs that its threads may use.
    pub cpus: CpuSet,
    /// Its weight against other groups, in percent.
    pub share: u32,
    /// CPU time per pick.
    pub slice_us: u64,
    /// Forced preemption after so long; 0 = off.
    pub quantum_us: u64,
    /// Its threads may preempt on wake-up.
    pub preempt: bool,
    /// How idle servers are found.
    pub idle: String,
    /// Where the values come from.
    pub origins: Origins,
}

/// All that is configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// The scheduler and the threads that no group takes.
    pub daemon: Daemon,
    /// The groups; the first one that matches takes a thread.
    pub groups: Vec<Group>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What it held.
    pub text: Vec<u8>,
    /// One line each.
    pub warnings: Vec<String>,
}

/// The file that `args` mean: another one than [`FILE`] has to be there.
pub fn file_of(args: &RunArgs) -> (&Path, bool) {
    match &args.config {
        Some(path) => (path, true),
        None => (Path::new(FILE), false),
    }
}

/// A policy, and how it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub policy: String,
    /// How it decides; None: there is no such policy.
    pub decide: Option<Decide>,
}

impl Kind {
    /// `policy`, which decides as asked, or else as it prefers.
    pub fn new(policy: &str, decide: Option<Decide>) -> Self {
        let made = umcg_policy::create(policy, decide, 1);
        Self {
            policy: policy.to_owned(),
            decide: made.map_or(decide, |policy| Some(policy.traits().decide)),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.decide {
            Some(decide) => write!(f, "{} ({decide})", self.policy),
            None => f.write_str(&self.policy),
        }
    }
}

impl Config {
    /// The policy of each of the first `count` CPUs: that of whoever has the CPU. All who have
    /// one have the same, or the file was refused.
    pub fn kinds(&self, count: usize) -> Vec<Kind> {
        let d = &self.daemon;
        let rest = Kind::new(&d.policy, d.decide);
        let of = |cpu: usize| {
            let group = self.groups.iter().find(|g| g.cpus.0.contains(&cpu));
            match group {
                Some(g) if !d.cpus.0.contains(&cpu) => Kind::new(&g.policy, g.decide),
                _ => rest.clone(),
            }
        };
        (0..count).map(of).collect()
    }

    /// The effective configuration under `args`.
    ///
    /// # Errors
    ///
    /// One line for each thing that is wrong with the file.
    pub fn load(args: &RunArgs, machine: &Machine) -> Result<Self, Failure> {
        let (path, required) = file_of(args);
        match std::fs::read(path) {
            Ok(bytes) => Self::from_bytes(path, &bytes, args, machine),
            Err(err) if err.kind() == ErrorKind::NotFound && !required => {
                Self::parse("", "", args, machine)
                    .map_err(|lines| Failure::new(Exit::Usage, lines.join("\n")))
            }
            Err(err) => {
                let text = format!("{}: cannot read: {err}; see --config", path.display());
                Err(Failure::new(Exit::Usage, text))
            }
        }
    }

    /// What the file `path` says that holds `bytes`, under `args`.
    ///
    /// # Errors
    ///
    /// One line for each thing that is wrong with it.
    pub fn from_bytes(
        path: &Path,
        bytes: &[u8],
        args: &RunArgs,
        machine: &Machine,
    ) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let wrong = |text: String| Failure::new(Exit::Usage, format!("{name}:1:1: {text}"));
        if bytes.len() > FILE_MAX {
            return Err(wrong(format!("{} bytes; at most {FILE_MAX}", bytes.len())));
        }
        let text = std::str::from_utf8(bytes).map_err(|err| {
            wrong(format!(
                "byte {} is no UTF-8; write the file in UTF-8",
                err.valid_up_to()
            ))
        })?;
        let mut config = Self::parse(&name, text, args, machine)
            .map_err(|lines| Failure::new(Exit::Usage, lines.join("\n")))?;
        config.file = Some(path.to_owned());
        config.text = bytes.to_owned();
        Ok(config)
    }

    /// What `text`, the text of the file called `name`, says under `args`.
    ///
    /// # Errors
    ///
    /// One line for each thing that is wrong with it or doubtful.
    pub fn parse(
        name: &str,
        text: &str,
        args: &RunArgs,
        machine: &Machine,
    ) -> Result<Self, Vec<String>> {
        let mut found = Findings::of(name, text);
        let (daemon, groups) = read::read(text, args, machine, &mut found);
        if found.errors() > 0 {
            return Err(found.told());
        }
        Ok(Self {
            daemon,
            groups,
            file: None,
            text: Vec::new(),
            warnings: found.told(),
        })
    }
}
