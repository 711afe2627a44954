//! Loads of `umcg-bench`, one after the other in a guest, under one scheduler.
//!
//! They have no bar: what they are for is to be looked at, and to be compared by ratios.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use umcg_bench::{LOADS, row};

use crate::bench::record::Record;
use crate::proc::{self, say};
use crate::test::guest::end_text;
use crate::test::target_dir;
use crate::vm::Vm;

/// Of one load; the longest takes about two minutes.
const LIMIT: Duration = Duration::from_secs(600);
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Loads with sides that need no group: what another scheduler can be asked for.
const PLAIN: [&str; 4] = ["switch", "messaging", "hog", "over"];

/// What a load runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// The kernel's own scheduler alone; groups go by futexes.
    Eevdf,
    /// This project's daemon.
    Daemon,
    /// Somebody else's scheduler, by the name of its crate and its program.
    Peer(&'static str),
}

/// All of them, with those that are asked for by `--peers`.
pub const UNDERS: [Under; 4] = [
    Under::Eevdf,
    Under::Daemon,
    Under::Peer("scx_rustland"),
    Under::Peer("scx_bpfland"),
];

impl Under {
    /// As rows name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eevdf => "eevdf",
            Self::Daemon => "scx_umcg",
            Self::Peer(name) => name,
        }
    }

    /// Whether it is somebody else's: what it cannot do is no fault of ours.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Peer(_))
    }
}

/// One load under one scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// The scheduler.
    pub under: Under,
    /// A name of [`LOADS`].
    pub load: &'static str,
}

impl Unit {
    /// What its rows begin with.
    pub fn name(self) -> String {
        format!("load.{}.{}", self.under.name(), self.load)
    }

    /// Whether a row of this name is one of its own.
    pub fn has(self, row: &str) -> bool {
        let rest = row.strip_prefix(&self.name());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Its rows, of what `umcg-bench` wrote, with what `base` has in common with them. Of a
    /// peer's run those of plain threads only.
    pub fn rows(self, written: Vec<Record>, base: &Record) -> Vec<Record> {
        let of_group = |it: &Record| {
            let under = it.name.rsplit('@').next().unwrap_or_default();
            under == "futex-only" || under.starts_with("kernel-")
        };
        let kept = written
            .into_iter()
            .filter(|it| !(self.under.is_peer() && of_group(it)));
        let ours = |it: Record| Record {
            name: format!("load.{}.{}", self.under.name(), it.name),
            kernel: base.kernel.clone(),
            commit: base.commit.clone(),
            date: base.date.clone(),
            command: base.command.clone(),
            ..it
        };
        kept.map(ours).collect()
    }
}

/// All that there are.
pub fn units(peers: bool) -> Vec<Unit> {
    let unders = UNDERS.iter().filter(|under| peers || !under.is_peer());
    let of = |&under: &Under| {
        let wanted = move |load: &&str| !under.is_peer() || PLAIN.contains(load);
        let loads = LOADS.iter().map(|load| load.name).filter(wanted);
        loads.map(move |load| Unit { under, load })
    };
    unders.flat_map(of).collect()
}

/// What `umcg-bench` wrote for a unit, or why nothing.
pub type Taken = Result<Vec<Record>, String>;

/// Runs `units`, all of them under the same scheduler, whose program is `scheduler`; tells of
/// each as it ends.
pub fn run(
    kernel: &str,
    units: &[Unit],
    scheduler: Option<&Path>,
    on_end: &mut dyn FnMut(Unit, Taken),
) -> Result<()> {
    let Some(first) = units.first() else {
        return Ok(());
    };
    let names: Vec<_> = units.iter().map(|unit| unit.load).collect();
    let under = first.under.name();
    say(format_args!(
        "{kernel} loads under {under}: {}",
        names.join(" ")
    ));
    let out = target_dir().join("bench/guest").join(under);
    fs::create_dir_all(&out).with_context(|| format!("cannot create: {}", out.display()))?;
    for name in &names {
        // Of a run before; it need not be there.
        let _ = fs::remove_file(file(&out, name));
    }
    let mut vm = Vm::new(kernel)?;
    vm.timeout = Some(BOOT_LIMIT + LIMIT * units.len() as u32);
    vm.cwd = proc::repo().to_owned();
    let mut told: Vec<Unit> = Vec::new();
    let ended = vm.run_streaming(&argv(*first, scheduler, &out, &names)?, &mut |line| {
        let Some((name, failed)) = parse(line) else {
            proc::out(&format!("{kernel} {line}\n"));
            return Ok(());
        };
        let unit = units
            .iter()
            .find(|it| it.load == name && !told.contains(it));
        if let Some(&unit) = unit {
            told.push(unit);
            let taken = match failed {
                Some(why) => Err(why.to_owned()),
                None => read(&file(&out, name)).map_err(|err| format!("{err:#}")),
            };
            on_end(unit, taken);
        }
        Ok(())
    });
    let why = match ended {
        Ok(outcome) => end_text(outcome.end, "guest-bench"),
        Err(err) => format!("cannot run the VM: {err:#}"),
    };
    for unit in units.iter().filter(|unit| !told.contains(unit)) {
        on_end(*unit, Err(why.clone()));
    }
    Ok(())
}

fn argv(
    first: Unit,
    scheduler: Option<&Path>,
    out: &Path,
    names: &[&str],
) -> Result<Vec<OsString>> {
    let me = std::env::current_exe().context("cannot tell where this program is")?;
    let bench = target_dir().join("release/umcg-bench");
    let mut argv: Vec<OsString> = vec![me.into(), "guest-bench".into()];
    argv.extend(["--bench".into(), bench.into(), "--out".into(), out.into()]);
    if let Some(scheduler) = scheduler {
        let flag = if first.under.is_peer() {
            "--peer"
        } else {
            "--daemon"
        };
        argv.extend([flag.into(), scheduler.into()]);
    }
    argv.extend(names.iter().map(OsString::from));
    Ok(argv)
}

/// Where the guest writes the rows of a load.
pub fn file(out: &Path, load: &str) -> PathBuf {
    out.join(format!("{load}.jsonl"))
}

fn read(file: &Path) -> Result<Vec<Record>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read: {}", file.display()))?;
    let set = row::read_as::<Record>(&bytes).with_context(|| file.display().to_string())?;
    if set.partial {
        bail!("{}: cut off", file.display());
    }
    Ok(set.rows)
}

/// What the guest tells of a load that has ended.
pub fn told(load: &str, failed: Option<&str>) -> String {
    match failed {
        None => format!("load {load} done\n"),
        Some(why) => format!("load {load} failed: {}\n", why.replace('\n', " ")),
    }
}

/// The load, and why it failed if it did.
fn parse(line: &str) -> Option<(&str, Option<&str>)> {
    let (load, rest) = line.trim_end().strip_prefix("load ")?.split_once(' ')?;
    match rest.strip_prefix("failed: ") {
        Some(why) => Some((load, Some(why))),
        None => (rest == "done").then_some((load, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_line_is_parsed_as_it_was_meant() {
        assert_eq!(parse(&told("hog", None)), Some(("hog", None)));
        let line = told("hog", Some("it was ejected:\nstall"));
        assert_eq!(parse(&line), Some(("hog", Some("it was ejected: stall"))));
        for other in ["load hog", "load hog x", "done", "metric load done", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn units_of_peers_are_plain_and_asked_for() {
        let ours = units(false);
        assert_eq!(ours.len(), 2 * LOADS.len());
        let all = units(true);
        assert_eq!(all.len(), ours.len() + 2 * PLAIN.len());
        let names: Vec<_> = all.iter().map(|unit| unit.name()).collect();
        assert!(
            names.contains(&"load.scx_bpfland.over".to_owned()),
            "{names:?}"
        );
        for load in PLAIN {
            assert!(LOADS.iter().any(|it| it.name == load), "{load}");
        }
    }

    #[test]
    fn unit_knows_its_rows_and_takes_them_over() {
        let written = |name: &str| Record {
            name: name.to_owned(),
            kernel: "7.3.0-cloud".to_owned(),
            value: Some(1.0),
            n: 9,
            ..Record::default()
        };
        let base = Record {
            kernel: "7.3".to_owned(),
            ..Record::default()
        };
        let all = || {
            vec![
                written("hog.futex.x@rustland"),
                written("hog.worker.x@futex-only"),
            ]
        };
        let peer = Unit {
            under: Under::Peer("scx_rustland"),
            load: "hog",
        };
        let rows = peer.rows(all(), &base);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].name, "load.scx_rustland.hog.futex.x@rustland");
        assert_eq!(
            (&*rows[0].kernel, rows[0].value, rows[0].n),
            ("7.3", Some(1.0), 9)
        );
        assert!(peer.has(&rows[0].name) && peer.has(&peer.name()));
        let own = Unit {
            under: Under::Eevdf,
            ..peer
        };
        assert_eq!(own.rows(all(), &base).len(), 2);
        assert!(!own.has(&rows[0].name) && !own.has("load.eevdf.hogs.x"));
    }
}
