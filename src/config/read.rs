//! The file as a whole: its tables, and what they say about each other.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};
use umcg_policy::{Decide, ErrorKind, NAMES, create};

use super::check;
use super::cpus::{CpuSet, Machine};
use super::findings::{Findings, did_you_mean, listed};
use super::glob::Glob;
use super::rule::Rule;
use super::section::{Section, Value, number, seconds, switch, text, word};
use super::{Daemon, Group, NAME_MAX, REST};
use crate::cli::RunArgs;

/// Keys of `[daemon]`, in the order of `config show`.
pub const DAEMON_KEYS: [&str; 12] = [
    "policy",
    "decide",
    "slice_us",
    "quantum_us",
    "stage",
    "timeout_ms",
    "partial",
    "ignore_cpu_max",
    "stats",
    "cpus",
    "share",
    "preempt",
];

/// Keys of `[[group]]`, in the order of `config show`.
pub const GROUP_KEYS: [&str; 10] = [
    "name",
    "match",
    "policy",
    "decide",
    "cpus",
    "share",
    "slice_us",
    "quantum_us",
    "preempt",
    "idle",
];

const MATCH_KEYS: [&str; 4] = ["cgroup", "comm", "uid", "exe"];
const SLICE: std::ops::RangeInclusive<u64> = 100..=100_000;
const SHARE: std::ops::RangeInclusive<u64> = 1..=10_000;
/// The kernel cuts names of threads.
const COMM_MAX: usize = 15;

/// A table that was read, with the places of its values, for what is checked later.
#[derive(Debug)]
pub(super) struct Draft<T> {
    pub it: T,
    /// Its `match` was read without a fault.
    pub sound: bool,
    head: Range<usize>,
    spans: BTreeMap<&'static str, Range<usize>>,
}

impl<T> Draft<T> {
    /// Where `key` has its value, or where the table begins.
    pub fn span(&self, key: &str) -> &Range<usize> {
        self.spans.get(key).unwrap_or(&self.head)
    }
}

/// What `source` says, under the flags of `args`. Findings: all that is wrong with it.
pub fn read(
    source: &str,
    args: &RunArgs,
    machine: &Machine,
    found: &mut Findings,
) -> (Daemon, Vec<Group>) {
    let (root, errors) = DeTable::parse_recoverable(source);
    for err in &errors {
        found.syntax(&err.span().unwrap_or(0..0), err.message());
    }
    let root = root.get_ref();
    let mut top = Section::new("the file", root, &["daemon", "group"], found);
    let empty = DeTable::new();
    let table = top.table("daemon", found).unwrap_or(&empty);
    let daemon = daemon(table, args, machine, found);
    let mut groups = Vec::new();
    if let Some(value) = root.get("group") {
        let list = value.get_ref().as_array();
        match list.filter(|list| list.iter().all(|v| v.get_ref().is_table())) {
            None => found.error(&value.span(), "group: no list of tables; write [[group]]"),
            Some(list) => {
                groups = list
                    .iter()
                    .filter_map(|v| group(v, &daemon.it, machine, found))
                    .collect();
            }
        }
    }
    check::together(&daemon, &groups, machine, found);
    (
        daemon.it,
        groups.into_iter().map(|draft| draft.it).collect(),
    )
}

fn daemon(
    table: &DeTable<'_>,
    args: &RunArgs,
    machine: &Machine,
    found: &mut Findings,
) -> Draft<Daemon> {
    let mut s = Section::new("[daemon]", table, &DAEMON_KEYS, found);
    let or = Daemon::default();
    let on = |flag: bool| flag.then_some(true);
    let read = policy(&mut s, found);
    let policy = s.flag("policy", args.policy.clone(), read, or.policy);
    let read = s.get("decide", found, decide);
    let decide = s.flag("decide", args.decide.map(Some), read.map(Some), None);
    let read = s.get("slice_us", found, number(SLICE, false));
    let slice_us = s.flag("slice_us", args.slice_us, read, or.slice_us);
    let read = s.get("quantum_us", found, number(SLICE, true));
    let quantum_us = s.flag("quantum_us", args.quantum_us, read, or.quantum_us);
    let read = s
        .get("stage", found, number(1..=64, false))
        .map(|n| n as u32);
    let stage = s.flag("stage", args.stage, read, or.stage);
    let read = s
        .get("timeout_ms", found, number(1000..=30_000, false))
        .map(|n| n as u32);
    let timeout_ms = s.flag("timeout_ms", args.timeout_ms, read, or.timeout_ms);
    let read = s.get("partial", found, switch);
    let partial = s.flag("partial", on(args.partial), read, or.partial);
    let read = s.get("ignore_cpu_max", found, switch);
    let ignore_cpu_max = s.flag("ignore_cpu_max", on(args.ignore_cpu_max), read, false);
    let read = s.get("stats", found, seconds);
    let stats = s.flag("stats", args.stats.map(Some), read.map(Some), None);
    let it = Daemon {
        policy,
        decide,
        slice_us,
        quantum_us,
        stage,
        timeout_ms,
        partial,
        ignore_cpu_max,
        stats,
        cpus: cpus(&mut s, machine, found),
        share: s
            .get("share", found, number(SHARE, false))
            .map_or(100, |n| n as u32),
        preempt: s.get("preempt", found, switch).unwrap_or(true),
        verbose: args.verbose,
        origins: s.origins,
    };
    let draft = Draft {
        it,
        sound: true,
        head: 0..0,
        spans: s.spans,
    };
    decides(&draft, &draft.it.policy, draft.it.decide, found);
    draft
}

fn group(
    value: &Value<'_>,
    daemon: &Daemon,
    machine: &Machine,
    found: &mut Findings,
) -> Option<Draft<Group>> {
    let table = value.get_ref().as_table()?;
    let head = value.span();
    let mut s = Section::new("[[group]]", table, &GROUP_KEYS, found);
    let name = s.get("name", found, name);
    if name.is_none() && !s.spans.contains_key("name") {
        found.error(&head, "group without a name; write name = \"...\"");
    }
    let before = found.errors();
    let rule = match s.table("match", found) {
        Some(table) => rule(table, found),
        None => {
            if !s.spans.contains_key("match") {
                let text = "group without a match; write match = {} to take all threads";
                found.error(&head, text);
            }
            Rule::default()
        }
    };
    let sound = found.errors() == before;
    let own = policy(&mut s, found);
    let decide = s.get("decide", found, decide);
    let it = Group {
        name: name.unwrap_or_default(),
        line: found.place(head.start).line,
        rule,
        // How it decides goes with a policy: of another one that may not be possible.
        decide: decide.or(if own.is_some() { None } else { daemon.decide }),
        policy: own.unwrap_or_else(|| daemon.policy.clone()),
        cpus: cpus(&mut s, machine, found),
        share: s
            .get("share", found, number(SHARE, false))
            .map_or(100, |n| n as u32),
        slice_us: s
            .get("slice_us", found, number(SLICE, false))
            .unwrap_or(daemon.slice_us),
        quantum_us: s
            .get("quantum_us", found, number(SLICE, true))
            .unwrap_or(daemon.quantum_us),
        preempt: s.get("preempt", found, switch).unwrap_or(daemon.preempt),
        idle: s
            .get("idle", found, word(&["mask"]))
            .unwrap_or_else(|| "mask".to_owned()),
        origins: s.origins,
    };
    let draft = Draft {
        it,
        sound,
        head,
        spans: s.spans,
    };
    decides(&draft, &draft.it.policy, draft.it.decide, found);
    Some(draft)
}

/// The policy exists, or that was told; can it decide as it shall?
fn decides<T>(draft: &Draft<T>, policy: &str, decide: Option<Decide>, found: &mut Findings) {
    let Err(err) = create(policy, decide, 1) else {
        return;
    };
    let place = ["decide", "policy"]
        .into_iter()
        .find(|key| draft.spans.contains_key(key));
    // Of flags alone: who loads the policy says so.
    if let (ErrorKind::Decide, Some(key)) = (err.kind(), place) {
        found.error(draft.span(key), err.to_string());
    }
}

fn policy(s: &mut Section<'_, '_>, found: &mut Findings) -> Option<String> {
    let policy = s.get("policy", found, text)?;
    let span = s.spans.get("policy")?;
    let faults = umcg_policy::faults(&policy);
    for (part, err) in &faults {
        if err.kind() == ErrorKind::Name {
            let guess = did_you_mean(&policy[part.clone()], NAMES.iter().copied());
            let (quoted, names) = (found.quote(span), listed(NAMES));
            let text = format!("policy = {quoted}: unknown; known: {names}{guess}");
            found.error(span, text);
        } else {
            found.error(&found.part(span, &policy, part), err.to_string());
        }
    }
    faults.is_empty().then_some(policy)
}

fn decide(value: &DeValue<'_>) -> Result<Decide, String> {
    let name = word(&["key", "staged"])(value)?;
    name.parse()
        .map_err(|err: umcg_policy::UnknownDecide| err.to_string())
}

fn name(value: &DeValue<'_>) -> Result<String, String> {
    let name = text(value)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name == REST {
        return Err(format!(
            "the name of all threads that no group takes; [daemon] is about {REST}"
        ));
    }
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fits) {
        return Err(format!(
            "no name; 1 to {NAME_MAX} letters, digits, `_`, `.`, `-`"
        ));
    }
    Ok(name)
}

fn cpus(s: &mut Section<'_, '_>, machine: &Machine, found: &mut Findings) -> CpuSet {
    let read = |value: &DeValue<'_>| {
        let text = text(value)?;
        machine.choose(&text).map_err(|wrong| wrong.join("; "))
    };
    let chosen = s.get("cpus", found, read);
    chosen.unwrap_or_else(|| machine.possible.clone())
}

fn rule(table: &DeTable<'_>, found: &mut Findings) -> Rule {
    let mut s = Section::new("match", table, &MATCH_KEYS, found);
    Rule {
        cgroup: s.each("cgroup", found, |v| path(v, Glob::tree)),
        comm: s.each("comm", found, comm),
        uid: s.each("uid", found, user),
        exe: s.each("exe", found, |v| path(v, Glob::file)),
    }
}

fn path(value: &DeValue<'_>, glob: impl Fn(&str) -> Glob) -> Result<Glob, String> {
    let path = text(value)?;
    if path.starts_with(['/', '*']) {
        return Ok(glob(&path));
    }
    Err(format!(
        "{path:?} does not begin at the root; did you mean {:?}?",
        format!("/{path}")
    ))
}

fn comm(value: &DeValue<'_>) -> Result<Glob, String> {
    let glob = Glob::word(&text(value)?);
    if glob.least() > COMM_MAX {
        let cut: String = glob.text().chars().take(COMM_MAX).collect();
        return Err(format!(
            "{glob:?} never matches; the kernel cuts names after {COMM_MAX} bytes; \
             did you mean {cut:?}?"
        ));
    }
    Ok(glob)
}

/// A user by number or by name.
fn user(value: &DeValue<'_>) -> Result<u32, String> {
    if let Some(n) = value.as_integer() {
        let uid = u32::from_str_radix(n.as_str(), n.radix());
        return uid.map_err(|_| format!("not within 0..={}", u32::MAX));
    }
    let name = text(value).map_err(|_| "neither a number nor the name of a user".to_owned())?;
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let users = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse::<u32>().ok()?))
    });
    let users: Vec<(&str, u32)> = users.collect();
    let uid = users
        .iter()
        .find(|(user, _)| *user == name)
        .map(|(_, uid)| *uid);
    uid.ok_or_else(|| {
        let guess = did_you_mean(&name, users.iter().map(|(user, _)| *user));
        format!("no user {name:?} in /etc/passwd; write the number{guess}")
    })
}
