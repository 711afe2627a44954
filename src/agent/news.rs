//! What the agent is told from outside while it runs: by signals, and by the configuration file.
//!
//! SIGINT and SIGTERM ask for the end, SIGHUP for a reload, and so does a new text of the file.
//! One thread waits for both; a wish stands until it is taken, so none is lost and several of
//! one kind are one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use anyhow::{Context, Result};
use crossbeam::channel::{self, Receiver, Sender};
use log::warn;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::caps;

const STACK_BYTES: usize = 128 * 1024;

/// Why the configuration is to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reload {
    /// The file has a new text, or is gone.
    Changed = 1,
    /// SIGHUP.
    Asked = 2,
}

#[derive(Debug, Default)]
struct Wishes {
    end: AtomicBool,
    /// 0, or a [`Reload`].
    reload: AtomicU8,
}

/// The wishes, for whoever fulfils them.
#[derive(Debug)]
pub struct News {
    wishes: Arc<Wishes>,
    rung: Receiver<()>,
}

impl News {
    /// Of signals alone; SIGHUP asks for the end as well.
    pub fn of_signals() -> Result<Self> {
        Self::start(None, true)
    }

    /// Of signals and of `file`. To be called before there are other threads, which inherit
    /// that these signals are not for them.
    pub fn of_signals_and(file: &Path) -> Result<Self> {
        Self::start(Some(file), false)
    }

    fn start(file: Option<&Path>, hup_ends: bool) -> Result<Self> {
        let mask = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let mask = mask.into_iter().collect::<SigSet>();
        mask.thread_block().context("cannot block signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot catch SIGINT, SIGTERM and SIGHUP")?;
        let watch = file.and_then(|file| match Watch::of(file) {
            Ok(watch) => Some(watch),
            Err(err) => {
                warn!(
                    "{}: changes are not seen, only SIGHUP reloads: {err}",
                    file.display()
                );
                None
            }
        });
        let wishes = Arc::new(Wishes::default());
        let (ring, rung) = channel::bounded(1);
        let ear = Ear {
            signals,
            watch,
            hup_ends,
            wishes: wishes.clone(),
            ring,
        };
        std::thread::Builder::new()
            .name("umcg-news".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                caps::drop_all();
                ear.listen();
            })
            .context("cannot start the thread that waits for signals")?;
        Ok(Self { wishes, rung })
    }

    /// Has the end been asked for? Stays so.
    pub fn is_end_asked(&self) -> bool {
        self.wishes.end.load(Ordering::Acquire)
    }

    /// Why the configuration is to be read again, once.
    pub fn take_reload(&self) -> Option<Reload> {
        match self.wishes.reload.swap(0, Ordering::AcqRel) {
            0 => None,
            1 => Some(Reload::Changed),
            _ => Some(Reload::Asked),
        }
    }

    /// Readable at least once after a wish: ends a wait, says nothing.
    pub fn rung(&self) -> &Receiver<()> {
        &self.rung
    }
}

/// The thread that waits.
struct Ear {
    signals: SignalFd,
    watch: Option<Watch>,
    hup_ends: bool,
    wishes: Arc<Wishes>,
    ring: Sender<()>,
}

impl Ear {
    fn listen(mut self) {
        loop {
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            if let Some(watch) = &self.watch {
                fds.push(PollFd::new(watch.inotify.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(err) => {
                    warn!("no signal is heard any more: poll: {err}; SIGKILL ends the agent");
                    return;
                }
            }
            drop(fds);
            while let Ok(Some(info)) = self.signals.read_signal() {
                let hup = info.ssi_signo == Signal::SIGHUP as u32;
                if hup && !self.hup_ends {
                    self.wish_reload(Reload::Asked);
                } else {
                    self.wishes.end.store(true, Ordering::Release);
                    self.ring();
                }
            }
            if self.watch.as_mut().is_some_and(Watch::has_news) {
                self.wish_reload(Reload::Changed);
            }
        }
    }

    fn wish_reload(&self, why: Reload) {
        self.wishes.reload.fetch_max(why as u8, Ordering::AcqRel);
        self.ring();
    }

    fn ring(&self) {
        // Full: it was rung already, and whoever is woken looks at all wishes.
        let _ = self.ring.try_send(());
    }
}

/// Looks at the folder, not at the file: editors put a new file in the place of the old one. And
/// at those above, as the folder may go and come back, or come.
struct Watch {
    file: PathBuf,
    inotify: Inotify,
    /// Names of the file, each with its folder.
    files: BTreeSet<(WatchDescriptor, OsString)>,
    /// Folders on the way to it.
    folders: BTreeSet<(WatchDescriptor, OsString)>,
}

impl Watch {
    fn of(file: &Path) -> Result<Self, Errno> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let mut watch = Self {
            file: std::path::absolute(file).unwrap_or(file.to_owned()),
            inotify: Inotify::init(flags)?,
            files: BTreeSet::new(),
            folders: BTreeSet::new(),
        };
        watch.look()?;
        Ok(watch)
    }

    /// Watches the folders that are there now. From the root on: one that comes meanwhile is met
    /// by the next step, or is news of the folder above.
    fn look(&mut self) -> Result<(), Errno> {
        // The same for all: one folder may be on the way to the file and to what a link leads to.
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        self.files.clear();
        self.folders.clear();
        // A link: what it leads to may change as well as the link itself.
        let places = [Some(self.file.clone()), self.file.canonicalize().ok()];
        for file in places.into_iter().flatten().collect::<BTreeSet<PathBuf>>() {
            let way: Vec<&Path> = file.ancestors().collect();
            for step in way.windows(2).rev() {
                let (path, folder) = (step[0], step[1]);
                let Some(name) = path.file_name() else {
                    continue;
                };
                let names = if path == file {
                    &mut self.files
                } else {
                    &mut self.folders
                };
                match self.inotify.add_watch(folder, events) {
                    Ok(watch) => drop(names.insert((watch, name.to_owned()))),
                    Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                    // Only what becomes of the folder itself is not heard of.
                    Err(_) if path != file => {}
                    Err(err) => return Err(err),
                }
            }
        }
        Ok(())
    }

    /// Reads all events; is one of them about the file?
    fn has_news(&mut self) -> bool {
        let (mut news, mut moved) = (false, false);
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                news |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let Some(name) = event.name else {
                    continue;
                };
                let named = (event.wd, name);
                // What is made here is news when it has been written.
                let made = event.mask.contains(AddWatchFlags::IN_CREATE);
                news |= !made && self.files.contains(&named);
                if self.folders.contains(&named) {
                    moved = true;
                    // One that is deleted was empty: that the file is gone was told.
                    news |= event.mask.contains(AddWatchFlags::IN_MOVED_FROM);
                }
            }
        }
        if moved {
            if let Err(err) = self.look() {
                warn!(
                    "{}: changes are not seen any more, only SIGHUP reloads: {err}",
                    self.file.display()
                );
            }
            news |= self.file.exists();
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("umcg-news-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn watch_sees_the_file_written_replaced_and_removed_and_nothing_else() {
        let folder = folder("file");
        let file = folder.join("c.toml");
        let mut watch = Watch::of(&file).unwrap();
        assert!(!watch.has_news());
        fs::write(folder.join("other"), "x").unwrap();
        assert!(!watch.has_news());
        fs::write(&file, "x").unwrap();
        assert!(watch.has_news() && !watch.has_news());
        fs::rename(folder.join("other"), &file).unwrap();
        assert!(watch.has_news());
        fs::remove_file(&file).unwrap();
        assert!(watch.has_news());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn watch_follows_a_link_to_its_folder() {
        let folder = folder("link");
        fs::create_dir_all(folder.join("real")).unwrap();
        fs::write(folder.join("real/x.toml"), "").unwrap();
        let link = folder.join("c.toml");
        std::os::unix::fs::symlink(folder.join("real/x.toml"), &link).unwrap();
        let mut watch = Watch::of(&link).unwrap();
        fs::write(folder.join("real/x.toml"), "y").unwrap();
        assert!(watch.has_news());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn watch_sees_a_folder_come_go_and_come_again() {
        let root = folder("comes");
        let folder = root.join("a/b");
        let file = folder.join("c.toml");
        let mut watch = Watch::of(&file).unwrap();
        assert!(!watch.has_news());
        for _ in 0..2 {
            fs::create_dir_all(&folder).unwrap();
            assert!(!watch.has_news(), "there is no file yet");
            fs::write(&file, "x").unwrap();
            assert!(watch.has_news() && !watch.has_news());
            fs::remove_dir_all(root.join("a")).unwrap();
            assert!(watch.has_news() && !watch.has_news());
        }
        // With the file in it, and away again.
        fs::create_dir_all(root.join("new/b")).unwrap();
        fs::write(root.join("new/b/c.toml"), "x").unwrap();
        assert!(!watch.has_news());
        fs::rename(root.join("new"), root.join("a")).unwrap();
        assert!(watch.has_news() && !watch.has_news());
        fs::rename(root.join("a"), root.join("old")).unwrap();
        assert!(watch.has_news() && !watch.has_news());
        fs::write(root.join("old/b/c.toml"), "y").unwrap();
        assert!(!watch.has_news(), "another file by now");
        fs::remove_dir_all(root).unwrap();
    }
}
