//! Finished rows, one line each: `target/gate/rows.tsv`. Appended as they end; the last line counts.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::gate::{End, Outcome};
use crate::proc::say;

/// What a row is stored by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Commit, with `-dirty` when the tree differed from it.
    pub commit: String,
    /// Series.
    pub kernel: String,
    /// Name of the row.
    pub row: String,
}

impl Key {
    /// A key of its parts.
    pub fn new(commit: &str, kernel: &str, row: &str) -> Self {
        Self {
            commit: commit.to_owned(),
            kernel: kernel.to_owned(),
            row: row.to_owned(),
        }
    }
}

/// The stored rows.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    rows: Vec<(Key, Outcome)>,
}

impl Store {
    /// Reads what is there; a line that is none, as of a write that was cut off, is dropped.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create: {}", dir.display()))?;
        let file = dir.join("rows.tsv");
        let text = match fs::read_to_string(&file) {
            Err(err) if err.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read: {}", file.display()))?,
        };
        let mut rows = Vec::new();
        for line in text.lines() {
            match parse(line) {
                Some(row) => rows.push(row),
                None => say(format_args!("{}: dropped: {line:?}", file.display())),
            }
        }
        let store = Self { file, rows };
        if !text.is_empty() && !text.ends_with('\n') {
            store.rewrite()?;
        }
        Ok(store)
    }

    /// The last outcome stored by `key`.
    pub fn get(&self, key: &Key) -> Option<&Outcome> {
        let found = self.rows.iter().rev().find(|(have, _)| have == key);
        found.map(|(_, outcome)| outcome)
    }

    /// Adds a row, on the disk first.
    pub fn put(&mut self, key: Key, outcome: Outcome) -> Result<()> {
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.file);
        opened
            .and_then(|mut file| file.write_all(line(&key, &outcome).as_bytes()))
            .with_context(|| format!("cannot write: {}", self.file.display()))?;
        self.rows.push((key, outcome));
        Ok(())
    }

    /// Removes the rows that `which` says.
    pub fn forget(&mut self, which: impl Fn(&Key) -> bool) -> Result<()> {
        self.rows.retain(|(key, _)| !which(key));
        self.rewrite()
    }

    fn rewrite(&self) -> Result<()> {
        let text: String = self.rows.iter().map(|(k, o)| line(k, o)).collect();
        let tmp = self.file.with_extension("tmp");
        fs::write(&tmp, text)
            .and_then(|()| fs::rename(&tmp, &self.file))
            .with_context(|| format!("cannot write: {}", self.file.display()))
    }
}

fn line(key: &Key, o: &Outcome) -> String {
    let end = match o.end {
        End::Ok => "ok",
        End::Failed => "failed",
        End::Missing => "missing",
    };
    let Key {
        commit,
        kernel,
        row,
    } = key;
    format!(
        "{commit}\t{kernel}\t{row}\t{end}\t{}\t{}\t{}\t{}\t{}\n",
        o.passed, o.skipped, o.ejections, o.seconds, o.note
    )
}

fn parse(line: &str) -> Option<(Key, Outcome)> {
    let fields: Vec<_> = line.splitn(9, '\t').collect();
    let [
        commit,
        kernel,
        row,
        end,
        passed,
        skipped,
        ejections,
        seconds,
        note,
    ] = fields[..]
    else {
        return None;
    };
    let outcome = Outcome {
        end: match end {
            "ok" => End::Ok,
            "failed" => End::Failed,
            "missing" => End::Missing,
            _ => return None,
        },
        passed: passed.parse().ok()?,
        skipped: skipped.parse().ok()?,
        ejections: ejections.parse().ok()?,
        seconds: seconds.parse().ok()?,
        note: note.to_owned(),
    };
    Some((Key::new(commit, kernel, row), outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(end: End, note: &str) -> Outcome {
        Outcome {
            end,
            passed: 3,
            skipped: 1,
            ejections: 2,
            seconds: 77,
            note: note.to_owned(),
        }
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-gate-{name}-{}", std::process::id()))
    }

    #[test]
    fn store_row_is_found_again_by_its_whole_key() {
        let dir = scratch("whole");
        let key = Key::new("c1", "7.3", "loads");
        let mut store = Store::open(&dir).unwrap();
        store
            .put(key.clone(), outcome(End::Failed, "x: y"))
            .unwrap();
        store.put(key.clone(), outcome(End::Ok, "")).unwrap();
        let again = Store::open(&dir).unwrap();
        assert_eq!(again.get(&key), Some(&outcome(End::Ok, "")));
        for other in [
            ("c2", "7.3", "loads"),
            ("c1", "6.18", "loads"),
            ("c1", "7.3", "idle"),
        ] {
            assert_eq!(again.get(&Key::new(other.0, other.1, other.2)), None);
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn store_cut_off_line_is_dropped_and_others_stay() {
        let dir = scratch("cut");
        let key = Key::new("c1", "7.3", "loads");
        let mut store = Store::open(&dir).unwrap();
        store.put(key.clone(), outcome(End::Ok, "")).unwrap();
        let file = dir.join("rows.tsv");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text + "c1\t7.3\tidle\tok\t1").unwrap();
        let mut again = Store::open(&dir).unwrap();
        let idle = Key::new("c1", "7.3", "idle");
        assert!(again.get(&key).is_some() && again.get(&idle).is_none());
        again.put(idle.clone(), outcome(End::Ok, "")).unwrap();
        assert!(Store::open(&dir).unwrap().get(&idle).is_some());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn store_forgets_what_it_is_told() {
        let dir = scratch("forget");
        let mut store = Store::open(&dir).unwrap();
        for commit in ["c1", "c2"] {
            let key = Key::new(commit, "7.3", "loads");
            store.put(key, outcome(End::Ok, "")).unwrap();
        }
        store.forget(|key| key.commit == "c1").unwrap();
        let again = Store::open(&dir).unwrap();
        assert!(again.get(&Key::new("c1", "7.3", "loads")).is_none());
        assert!(again.get(&Key::new("c2", "7.3", "loads")).is_some());
        fs::remove_dir_all(&dir).unwrap();
    }
}
