//! Stock Debian kernels for the VMs: which ones, fetched and unpacked into the cache folder.

use std::cmp::Ordering;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::PrivateApt;
use crate::cache;
use crate::proc::{self, say};

/// The series with sched_ext that Debian packages, oldest first.
pub const KNOWN: [&str; 5] = ["6.16", "6.17", "6.18", "7.2", "7.3"];

/// The kernel that tasks take when told nothing: the newest.
pub const DEFAULT: &str = "7.3";

/// The kernels that the tests must pass on: the floor and the newest.
pub const TESTED: [&str; 2] = ["6.18", "7.3"];

/// A file of ours in an unpacked kernel's folder, written last: the path of vmlinuz in it.
const MARK: &str = "vmlinuz-path";

/// The mirror has no packages of a series; the text says so.
#[derive(Debug)]
pub struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// What `--kernel` names, else all of `all`.
pub fn asked<'a>(one: Option<&'a str>, all: &[&'a str]) -> Vec<&'a str> {
    one.map_or_else(|| all.to_vec(), |one| vec![one])
}

/// Checks `--kernel`.
pub fn parse_series(arg: &str) -> Result<String, String> {
    if KNOWN.contains(&arg) {
        return Ok(arg.to_owned());
    }
    Err(format!(
        "no such kernel here: {arg}; known are {}; try --kernel {DEFAULT}",
        KNOWN.join(", ")
    ))
}

/// The vmlinuz of `series`, fetched when it is not in the cache folder.
pub fn ensure(cache: &Path, series: &str) -> Result<PathBuf> {
    if let Some(vmlinuz) = unpacked(cache, series) {
        return Ok(vmlinuz);
    }
    let lock = cache::lock(cache)?;
    if let Some(vmlinuz) = unpacked(cache, series) {
        return Ok(vmlinuz);
    }
    let apt = PrivateApt::new(cache, series)?;
    say(format_args!(
        "kernel {series}: fetching it from {}",
        apt.uri()
    ));
    apt.update()?;
    let packages = choose(&apt, series)?;
    let stage = cache::staging(cache, series, &lock)?;
    let debs = apt.download(&packages, &stage)?;
    let root = stage.join("root");
    for deb in &debs {
        proc::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&root))?;
    }
    let inside = finish(&root)?;
    fs::write(root.join(MARK), &inside)?;
    let place = cache.join("kernels").join(series);
    cache::publish(&root, &place)?;
    fs::remove_dir_all(&stage)?;
    say(format_args!("kernel {series}: {} is ready", packages[0]));
    Ok(place.join(inside))
}

fn unpacked(cache: &Path, series: &str) -> Option<PathBuf> {
    let place = cache.join("kernels").join(series);
    let inside = fs::read_to_string(place.join(MARK)).ok()?;
    Some(place.join(inside.trim())).filter(|vmlinuz| vmlinuz.is_file())
}

/// The packages of the newest version of `series`.
fn choose(apt: &PrivateApt, series: &str) -> Result<Vec<String>> {
    // Split packages first: where they exist, linux-image is only their shell.
    for kinds in [&["linux-binary", "linux-modules"][..], &["linux-image"]] {
        let mut lists = Vec::new();
        for kind in kinds {
            lists.push(versions(
                &apt.names(&format!("{kind}-{series}."))?,
                kind,
                series,
            ));
        }
        let everywhere = |v: &&String| lists.iter().all(|list| list.contains(v));
        let newest = lists[0]
            .iter()
            .filter(everywhere)
            .max_by(|a, b| compare(a, b));
        if let Some(version) = newest {
            return Ok(kinds
                .iter()
                .map(|k| format!("{k}-{version}-cloud-amd64"))
                .collect());
        }
    }
    Err(Missing(format!(
        "kernel {series}: not in {} any more (no linux-image-{series}.*-cloud-amd64); \
         known are {}; try --kernel {DEFAULT}",
        apt.uri(),
        KNOWN.join(", ")
    ))
    .into())
}

/// `KIND-VERSION-cloud-amd64` → VERSION, for those of `series`.
fn versions(names: &[String], kind: &str, series: &str) -> Vec<String> {
    let version = |name: &String| {
        let rest = name.strip_prefix(kind)?.strip_prefix('-')?;
        let version = rest.strip_suffix("-cloud-amd64")?;
        let minor = version.strip_prefix(series)?.strip_prefix('.')?;
        let release = minor.starts_with(|c: char| c.is_ascii_digit()) && minor.contains("+deb");
        release.then(|| version.to_owned())
    };
    names.iter().filter_map(version).collect()
}

/// Version order: runs of digits compare as numbers, the rest as text.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let text = (take(&mut a, false), take(&mut b, false));
        let number = (take(&mut a, true), take(&mut b, true));
        let order = text
            .0
            .cmp(text.1)
            .then_with(|| value(number.0).cmp(&value(number.1)));
        if order != Ordering::Equal || (a.is_empty() && b.is_empty()) {
            return order;
        }
    }
}

fn take<'a>(rest: &mut &'a str, digits: bool) -> &'a str {
    let end = rest
        .find(|c: char| c.is_ascii_digit() != digits)
        .unwrap_or(rest.len());
    let (head, tail) = rest.split_at(end);
    *rest = tail;
    head
}

fn value(digits: &str) -> u64 {
    digits.parse().unwrap_or(0)
}

/// Makes an unpacked kernel bootable; returns the path of vmlinuz inside `root`.
fn finish(root: &Path) -> Result<String> {
    // depmod looks in lib/modules, newer packages fill usr/lib/modules.
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    let modules = root.join("lib/modules");
    let first = fs::read_dir(&modules)
        .with_context(|| format!("no modules in the packages: {}", modules.display()))?
        .next()
        .context("no modules in the packages")??;
    let release = first.file_name().to_string_lossy().into_owned();
    let depmod = proc::find("depmod").context("depmod not found; run cargo xtask setup")?;
    // Without modules.order and modules.builtin it warns; neither is in these packages.
    proc::output(Command::new(depmod).arg("-b").arg(root).arg(&release))?;
    let places = [
        format!("usr/lib/modules/{release}/vmlinuz"),
        format!("boot/vmlinuz-{release}"),
    ];
    let found = places
        .into_iter()
        .find(|inside| root.join(inside).is_file());
    found.with_context(|| format!("no vmlinuz of {release} in the packages"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_series_unknown_names_value_and_known_ones() {
        let err = parse_series("5.10").unwrap_err();
        assert!(
            err.contains("5.10") && err.contains("6.16, 6.17, 6.18, 7.2, 7.3"),
            "{err}"
        );
        assert!(!err.contains('\n'));
        assert_eq!(parse_series(DEFAULT).unwrap(), DEFAULT);
        assert!(TESTED.iter().all(|k| KNOWN.contains(k)) && KNOWN.contains(&DEFAULT));
    }

    #[test]
    fn compare_counts_runs_of_digits_as_numbers() {
        let mut list = [
            "7.2.9+deb13",
            "7.2.12+deb13",
            "7.2.6+deb13",
            "7.2.12+deb13.1",
            "7.2.11+deb13",
        ];
        list.sort_by(|a, b| compare(a, b));
        let want = [
            "7.2.6+deb13",
            "7.2.9+deb13",
            "7.2.11+deb13",
            "7.2.12+deb13",
            "7.2.12+deb13.1",
        ];
        assert_eq!(list, want);
        assert_eq!(compare("a1", "a1"), Ordering::Equal);
        assert_eq!(compare("a1", "b0"), Ordering::Less);
    }

    #[test]
    fn versions_takes_the_series_and_no_unsigned_or_dbg() {
        let names = [
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.30.1+deb13-cloud-amd64",
            "linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64-dbg",
            "linux-binary-7.3.4+deb13-amd64",
        ]
        .map(str::to_owned);
        assert_eq!(versions(&names, "linux-binary", "7.3"), ["7.3.4+deb13"]);
    }
}
