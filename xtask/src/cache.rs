//! The cache folder that all clones of one user share: kernels, virtme-ng, virtiofsd.
//!
//! `$UMCG_CACHE`, else `$XDG_CACHE_HOME/scx_umcg`, else `~/.cache/scx_umcg`. Whoever adds to it
//! holds [`lock`], builds the new entry under [`staging`] and renames it, so an interrupted
//! run never leaves half an entry.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::proc::say;

/// The cache folder, created when missing.
pub fn dir() -> Result<PathBuf> {
    let path = choose(&|name| std::env::var_os(name).filter(|v| !v.is_empty()))?;
    fs::create_dir_all(&path)
        .with_context(|| format!("cannot create the cache folder: {}", path.display()))?;
    Ok(path)
}

fn choose(env: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let path = if let Some(own) = env("UMCG_CACHE") {
        PathBuf::from(own)
    } else if let Some(xdg) = env("XDG_CACHE_HOME") {
        Path::new(&xdg).join("scx_umcg")
    } else if let Some(home) = env("HOME") {
        Path::new(&home).join(".cache/scx_umcg")
    } else {
        bail!("no place for the cache folder: HOME is not set; set UMCG_CACHE to a folder");
    };
    check(&path)?;
    Ok(path)
}

/// virtme-ng passes paths through shells and the kernel's command line without quotes.
fn check(path: &Path) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    let ok = path.is_absolute() && path.to_str().is_some_and(|s| s.chars().all(plain));
    if !ok {
        bail!(
            "unusable cache folder: {}; must be an absolute path of letters, digits and /._-+@%; \
             set UMCG_CACHE to another one",
            path.display()
        );
    }
    Ok(())
}

/// The lock on the cache folder; dropping it lets the next process in.
#[derive(Debug)]
#[must_use = "dropping this lets another process change the cache folder"]
pub struct Lock {
    _file: File,
}

/// Waits until no other process changes the cache folder.
pub fn lock(cache: &Path) -> Result<Lock> {
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create: {}", path.display()))?;
    if file.try_lock().is_err() {
        say(format_args!(
            "waiting for another process that fills {}",
            cache.display()
        ));
        file.lock()
            .with_context(|| format!("cannot lock: {}", path.display()))?;
    }
    Ok(Lock { _file: file })
}

/// An empty folder to build the entry `name` in. Needs the [`Lock`]: it throws away what an
/// interrupted run left there.
pub fn staging(cache: &Path, name: &str, _lock: &Lock) -> Result<PathBuf> {
    let path = cache.join("staging").join(name);
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("cannot empty: {}", path.display()))?;
    }
    fs::create_dir_all(&path).with_context(|| format!("cannot create: {}", path.display()))?;
    Ok(path)
}

/// Moves a finished entry to its place.
pub fn publish(staged: &Path, place: &Path) -> Result<()> {
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    if place.exists() {
        fs::remove_dir_all(place)
            .with_context(|| format!("cannot replace: {}", place.display()))?;
    }
    fs::rename(staged, place)
        .with_context(|| format!("cannot move {} to {}", staged.display(), place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.into())
        }
    }

    #[test]
    fn choose_takes_the_first_that_is_set() {
        let all = [
            ("UMCG_CACHE", "/c"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/h"),
        ];
        let all: &'static _ = Box::leak(Box::new(all));
        assert_eq!(choose(&env(all)).unwrap(), Path::new("/c"));
        assert_eq!(choose(&env(&all[1..])).unwrap(), Path::new("/x/scx_umcg"));
        assert_eq!(
            choose(&env(&all[2..])).unwrap(),
            Path::new("/h/.cache/scx_umcg")
        );
        assert!(
            choose(&env(&[]))
                .unwrap_err()
                .to_string()
                .contains("UMCG_CACHE")
        );
    }

    #[test]
    fn choose_path_that_vng_cannot_take_is_refused() {
        for bad in ["/a b", "relative", "/a'b", "/a$b"] {
            let err = check(Path::new(bad)).unwrap_err().to_string();
            assert!(err.contains(bad) && err.contains("UMCG_CACHE"), "{err}");
        }
    }

    #[test]
    fn publish_replaces_and_staging_starts_empty() {
        let top = std::env::temp_dir().join(format!("xtask-cache-{}", std::process::id()));
        fs::create_dir_all(&top).unwrap();
        let held = lock(&top).unwrap();
        for text in ["one", "two"] {
            let staged = staging(&top, "k", &held).unwrap();
            assert_eq!(fs::read_dir(&staged).unwrap().count(), 0);
            fs::write(staged.join("f"), text).unwrap();
            publish(&staged, &top.join("kernels/k")).unwrap();
            assert_eq!(fs::read_to_string(top.join("kernels/k/f")).unwrap(), text);
        }
        fs::remove_dir_all(&top).unwrap();
    }
}
