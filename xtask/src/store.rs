//! Finished rows, one line of JSON each, appended as they end; the last line of a row counts.
//!
//! So a run that is broken off has kept what it finished, and another one goes on from there.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use umcg_bench::row;

use crate::proc::say;

/// What a row is stored by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// As [`crate::commit::current`] names it.
    pub commit: &'a str,
    /// Series.
    pub kernel: &'a str,
    /// Name of the row.
    pub row: &'a str,
}

/// A row that can be stored.
pub trait Stored: Serialize + DeserializeOwned {
    /// By what.
    fn key(&self) -> Key<'_>;
}

/// The stored rows.
#[derive(Debug)]
pub struct Store<T> {
    file: PathBuf,
    rows: Vec<T>,
    partial: bool,
}

impl<T: Stored> Store<T> {
    /// Reads what is there. A last line without an end, as of a write that was cut off, is
    /// dropped.
    pub fn open(file: PathBuf) -> Result<Self> {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create: {}", dir.display()))?;
        }
        let bytes = match fs::read(&file) {
            Err(err) if err.kind() == ErrorKind::NotFound => Vec::new(),
            bytes => bytes.with_context(|| format!("cannot read: {}", file.display()))?,
        };
        let set = row::read_as(&bytes)
            .with_context(|| format!("{}: spoiled; remove it to start anew", file.display()))?;
        let store = Self {
            file,
            rows: set.rows,
            partial: set.partial,
        };
        if store.partial {
            let file = store.file.display();
            say(format_args!(
                "{file}: its last row was cut off, and is dropped"
            ));
            // Or the next row would go on in that line.
            store.rewrite()?;
        }
        Ok(store)
    }

    /// All of them, also those that later ones took the place of.
    pub fn rows(&self) -> &[T] {
        &self.rows
    }

    /// Whether the run before was cut off while it wrote.
    pub fn partial(&self) -> bool {
        self.partial
    }

    /// The last row that was stored by `key`.
    pub fn get(&self, key: Key<'_>) -> Option<&T> {
        self.rows.iter().rev().find(|row| row.key() == key)
    }

    /// Adds rows, all in one write, on the disk first.
    pub fn put(&mut self, rows: Vec<T>) -> Result<()> {
        let text = lines(&rows)?;
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.file);
        opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write: {}", self.file.display()))?;
        self.rows.extend(rows);
        Ok(())
    }

    /// Removes the rows that `which` says.
    pub fn forget(&mut self, which: impl Fn(Key<'_>) -> bool) -> Result<()> {
        self.rows.retain(|row| !which(row.key()));
        self.rewrite()
    }

    fn rewrite(&self) -> Result<()> {
        write(&self.file, &self.rows)
    }
}

/// Writes rows to a file of their own: all of them, or it stays as it is.
pub fn write<T: Serialize>(file: &Path, rows: &[T]) -> Result<()> {
    let tmp = file.with_added_extension("tmp");
    let text = lines(rows)?;
    fs::write(&tmp, text)
        .and_then(|()| fs::rename(&tmp, file))
        .with_context(|| format!("cannot write: {}", file.display()))
}

fn lines<T: Serialize>(rows: &[T]) -> Result<String> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row).context("cannot write a row")?;
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Line {
        commit: String,
        kernel: String,
        row: String,
        value: u32,
    }

    impl Stored for Line {
        fn key(&self) -> Key<'_> {
            key(&self.commit, &self.kernel, &self.row)
        }
    }

    fn key<'a>(commit: &'a str, kernel: &'a str, row: &'a str) -> Key<'a> {
        Key {
            commit,
            kernel,
            row,
        }
    }

    fn line(commit: &str, row: &str, value: u32) -> Line {
        Line {
            commit: commit.to_owned(),
            kernel: "7.3".to_owned(),
            row: row.to_owned(),
            value,
        }
    }

    /// A file in a folder of its own, which goes with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("xtask-store-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn file(&self) -> PathBuf {
            self.0.join("rows.jsonl")
        }

        fn open(&self) -> Store<Line> {
            Store::open(self.file()).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn store_row_is_found_again_by_its_whole_key() {
        let dir = Scratch::new("whole");
        let mut store = dir.open();
        store.put(vec![line("c1", "loads", 1)]).unwrap();
        store.put(vec![line("c1", "loads", 2)]).unwrap();
        let again = dir.open();
        let found = again.get(key("c1", "7.3", "loads"));
        assert_eq!(found, Some(&line("c1", "loads", 2)));
        assert_eq!((again.rows().len(), again.partial()), (2, false));
        for other in [
            ("c2", "7.3", "loads"),
            ("c1", "6.18", "loads"),
            ("c1", "7.3", "idle"),
        ] {
            assert_eq!(again.get(key(other.0, other.1, other.2)), None);
        }
    }

    #[test]
    fn store_cut_off_line_is_dropped_and_others_stay() {
        let dir = Scratch::new("cut");
        dir.open().put(vec![line("c1", "loads", 1)]).unwrap();
        let text = fs::read_to_string(dir.file()).unwrap();
        fs::write(dir.file(), text + "{\"commit\":\"c1\",\"ker").unwrap();
        let mut again = dir.open();
        let (loads, idle) = (key("c1", "7.3", "loads"), key("c1", "7.3", "idle"));
        assert!(again.partial());
        assert!(again.get(loads).is_some() && again.get(idle).is_none());
        again.put(vec![line("c1", "idle", 1)]).unwrap();
        let last = dir.open();
        assert!(last.get(idle).is_some() && !last.partial());
    }

    #[test]
    fn store_spoiled_file_is_named() {
        let dir = Scratch::new("spoiled");
        dir.open().put(vec![line("c1", "loads", 1)]).unwrap();
        fs::write(dir.file(), "nonsense\n{}\n").unwrap();
        let err = format!("{:#}", Store::<Line>::open(dir.file()).unwrap_err());
        assert!(
            err.contains("rows.jsonl: spoiled") && err.contains("line 1"),
            "{err}"
        );
    }

    #[test]
    fn store_forgets_what_it_is_told() {
        let dir = Scratch::new("forget");
        let mut store = dir.open();
        let rows = vec![line("c1", "loads", 1), line("c2", "loads", 1)];
        store.put(rows).unwrap();
        store.forget(|key| key.commit == "c1").unwrap();
        let again = dir.open();
        assert!(again.get(key("c1", "7.3", "loads")).is_none());
        assert!(again.get(key("c2", "7.3", "loads")).is_some());
    }
}
