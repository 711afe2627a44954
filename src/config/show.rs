//! `config check` and `config show`: no root, no sched_ext.

use std::fmt::Write as _;
use std::path::Path;

use umcg_policy::{Decide, create};

use super::cpus::Machine;
use super::rule::Rule;
use super::{Config, Daemon, Group, Origin, Origins, file_of};
use crate::cli::RunArgs;
use crate::exit::{Exit, Failure};

/// Tells all that is wrong with the file that `args` mean, and what is doubtful.
pub fn check(args: &RunArgs) -> Result<(), Failure> {
    let (path, required) = file_of(args);
    if !required && !path.exists() {
        println!("{}: no such file; the defaults apply", path.display());
        return Ok(());
    }
    match Config::load(args, &Machine::this()) {
        Ok(config) => {
            config.warnings.iter().for_each(|line| println!("{line}"));
            println!("{}: valid; {} groups", path.display(), config.groups.len());
            Ok(())
        }
        Err(err) => {
            let lines = err.to_string();
            println!("{lines}");
            let wrong = lines.lines().filter(|line| !line.contains(": warning: "));
            let (count, name) = (wrong.count(), path.display());
            let errors = if count == 1 { "error" } else { "errors" };
            let text = format!("{name}: {count} {errors}; see above");
            Err(Failure::new(Exit::Usage, text))
        }
    }
}

/// Prints the effective values as a file, each with its origin.
pub fn show(args: &RunArgs) -> Result<(), Failure> {
    let config = Config::load(args, &Machine::this())?;
    for line in &config.warnings {
        log::warn!("{line}");
    }
    print!("{}", text(&config));
    Ok(())
}

/// `config` as a file that says the same.
pub fn text(config: &Config) -> String {
    let file = config.file.as_deref();
    let mut out = "[daemon]\n".to_owned();
    rows(
        &mut out,
        &daemon_rows(&config.daemon),
        &config.daemon.origins,
        file,
    );
    for group in &config.groups {
        out += "\n[[group]]\n";
        let origins = with_inherited(&group.origins, &config.daemon.origins);
        rows(&mut out, &group_rows(group), &origins, file);
    }
    out
}

/// What a group does not say holds as the daemon's does, from where that comes.
fn with_inherited(own: &Origins, daemon: &Origins) -> Origins {
    let mut all = own.clone();
    let policy = match own.contains_key("policy") {
        true => &[][..],
        false => &["policy", "decide"],
    };
    for &key in ["slice_us", "quantum_us", "preempt"].iter().chain(policy) {
        if let (false, Some(origin)) = (own.contains_key(key), daemon.get(key)) {
            all.insert(key, *origin);
        }
    }
    all
}

fn rows(out: &mut String, rows: &[(&str, String)], origins: &Origins, file: Option<&Path>) {
    for (key, value) in rows {
        let origin = match origins.get(key) {
            None => "default".to_owned(),
            Some(Origin::Flag) => "flag".to_owned(),
            Some(Origin::File(line)) => {
                format!("{}:{line}", file.unwrap_or(Path::new("file")).display())
            }
        };
        // What is off has no value that one could write.
        let text = match value.as_str() {
            "" => format!("# {key} is off"),
            value => format!("{key} = {value}"),
        };
        // Into a String: cannot fail.
        let _ = writeln!(out, "{text:<32} # {origin}");
    }
}

fn decide(policy: &str, decide: Option<Decide>) -> String {
    let made = create(policy, decide, 1).map(|policy| policy.traits().decide);
    made.or(decide.ok_or(()))
        .map_or(String::new(), |d| format!("\"{d}\""))
}

fn daemon_rows(d: &Daemon) -> Vec<(&'static str, String)> {
    vec![
        ("policy", format!("{:?}", d.policy)),
        ("decide", decide(&d.policy, d.decide)),
        ("slice_us", d.slice_us.to_string()),
        ("quantum_us", d.quantum_us.to_string()),
        ("stage", d.stage.to_string()),
        ("timeout_ms", d.timeout_ms.to_string()),
        ("partial", d.partial.to_string()),
        ("ignore_cpu_max", d.ignore_cpu_max.to_string()),
        ("stats", d.stats.map_or(String::new(), |s| s.to_string())),
        ("cpus", format!("\"{}\"", d.cpus)),
        ("share", d.share.to_string()),
        ("preempt", d.preempt.to_string()),
    ]
}

fn group_rows(g: &Group) -> Vec<(&'static str, String)> {
    vec![
        ("name", format!("{:?}", g.name)),
        ("match", rule(&g.rule)),
        ("policy", format!("{:?}", g.policy)),
        ("decide", decide(&g.policy, g.decide)),
        ("cpus", format!("\"{}\"", g.cpus)),
        ("share", g.share.to_string()),
        ("slice_us", g.slice_us.to_string()),
        ("quantum_us", g.quantum_us.to_string()),
        ("preempt", g.preempt.to_string()),
        ("idle", format!("{:?}", g.idle)),
    ]
}

fn rule(rule: &Rule) -> String {
    let globs = [
        ("cgroup", &rule.cgroup),
        ("comm", &rule.comm),
        ("exe", &rule.exe),
    ];
    let mut parts: Vec<String> = globs
        .iter()
        .filter(|(_, globs)| !globs.is_empty())
        .map(|(key, globs)| format!("{key} = {globs:?}"))
        .collect();
    if !rule.uid.is_empty() {
        parts.push(format!("uid = {:?}", rule.uid));
    }
    if parts.is_empty() {
        return "{}".to_owned();
    }
    format!("{{ {} }}", parts.join(", "))
}
