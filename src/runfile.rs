//! `/run/scx_umcg/agent.json`: how other processes find a running instance.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use umcg_policy::Decide;

use crate::cli::RunArgs;

const DIR: &str = "/run/scx_umcg";
const FILE: &str = "/run/scx_umcg/agent.json";

/// BPF map ids of the shared records.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MapIds {
    /// Worker records.
    pub workers: u32,
    /// Server records.
    pub servers: u32,
    /// Per-CPU records.
    pub cpus: u32,
    /// The map of the truth maps of application groups.
    pub groups: u32,
}

/// What `status` has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunFile {
    /// The agent.
    pub pid: u32,
    /// Its version: records of another one are not read.
    pub version: String,
    /// Where the records are.
    pub maps: MapIds,
    /// Possible CPUs.
    pub nr_cpus: usize,
    /// CLOCK_MONOTONIC ns at the attachment.
    pub attached_ns: u64,
    /// What words are ahead of CLOCK_MONOTONIC: 0, but in tests.
    #[serde(default)]
    pub ahead_ns: u64,
    /// Ejections before it.
    pub ejections: u64,
    /// `--policy`.
    pub policy: String,
    /// key or staged.
    pub decide: String,
    /// `--partial`.
    pub partial: bool,
    /// vm.compact_unevictable_allowed before it was changed.
    pub unevictable: Option<String>,
}

impl RunFile {
    /// Describes this process.
    pub fn new(
        args: &RunArgs,
        maps: MapIds,
        nr_cpus: usize,
        ejections: u64,
        decide: Decide,
    ) -> Self {
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            maps,
            nr_cpus,
            attached_ns: crate::agent::server::now_ns(),
            ahead_ns: 0,
            ejections,
            policy: args.policy.clone(),
            decide: decide.to_string(),
            partial: args.partial,
            unevictable: crate::agent::caps::unevictable_sysctl(),
        }
    }

    /// Writes it, whole or not at all.
    pub fn write(&self) -> Result<()> {
        fs::create_dir_all(DIR).with_context(|| format!("cannot make {DIR}"))?;
        let tmp = format!("{FILE}.{}", self.pid);
        fs::write(&tmp, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {tmp}"))?;
        fs::rename(&tmp, FILE).with_context(|| format!("cannot write {FILE}"))
    }

    /// Reads the one of the last instance; None if none ever ran or it ended.
    pub fn read() -> Result<Option<Self>> {
        let text = match fs::read(FILE) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {FILE}"))?,
        };
        let file: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{FILE}: not written by this version; restart the agent"))?;
        if !file.alive() {
            return Ok(None);
        }
        ensure!(
            file.version == env!("CARGO_PKG_VERSION"),
            "the running agent is version {}; this is {}; use the same one",
            file.version,
            env!("CARGO_PKG_VERSION")
        );
        Ok(Some(file))
    }

    /// A pid alone could be somebody else's by now.
    fn alive(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).is_ok_and(|c| c.trim() == "scx_umcg")
    }

    /// The sysctl of an instance that was killed before it could restore it.
    pub fn left_behind() -> Option<String> {
        let file: Self = serde_json::from_slice(&fs::read(FILE).ok()?).ok()?;
        if file.alive() { None } else { file.unevictable }
    }

    /// Removes it; that it is gone already is fine.
    pub fn remove() {
        let _ = fs::remove_file(FILE);
    }
}
