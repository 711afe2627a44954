//! Schedulers of others beside which loads are measured: installed by cargo, started in the guest.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::proc::{self, say};
use crate::run::load::leashed;
use crate::run::sched::{each_line, sysfs};
use crate::test::{cargo, target_dir};

const ATTACH_LIMIT: Duration = Duration::from_secs(60);
const DETACH_LIMIT: Duration = Duration::from_secs(30);
/// One that was ejected has so long to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The program of `krate`, installed below the target folder if it is not there.
pub fn install(krate: &str) -> Result<PathBuf> {
    let root = target_dir().join("bench/peers");
    let program = root.join("bin").join(krate);
    if program.is_file() {
        return Ok(program);
    }
    say(format_args!("{krate}: installing it"));
    let mut cmd = cargo();
    cmd.args(["install", "--locked", "--root"])
        .arg(&root)
        .arg(krate);
    proc::run(&mut cmd).with_context(|| format!("cannot install {krate}; it takes a network"))?;
    Ok(program)
}

/// A running one. Its drop ends it.
pub struct Peer {
    name: String,
    child: Child,
    last: Arc<Mutex<String>>,
    seq: String,
}

impl Peer {
    /// Starts it and waits until the kernel says that it is attached.
    pub fn start(program: &Path) -> Result<Self> {
        let name = program.file_name().unwrap_or(program.as_os_str());
        let before = sysfs("enable_seq");
        let mut cmd = leashed("TERM", program);
        let mut child = cmd
            .spawn()
            .with_context(|| format!("cannot start: {}", proc::show(&cmd)))?;
        let last = Arc::new(Mutex::new(String::new()));
        let keep = || {
            let last = last.clone();
            move |line: &str| {
                if let (false, Ok(mut last)) = (line.trim().is_empty(), last.lock()) {
                    line.trim().clone_into(&mut last);
                }
            }
        };
        // Their ends come with the child's.
        let _ = child.stdout.take().map(|out| each_line(out, keep()));
        let _ = child.stderr.take().map(|err| each_line(err, keep()));
        let mut peer = Self {
            name: name.to_string_lossy().into_owned(),
            child,
            last,
            seq: String::new(),
        };
        peer.wait_attached(&before)?;
        peer.seq = sysfs("enable_seq");
        Ok(peer)
    }

    /// `before`: how often any scheduler was attached until it was started.
    fn wait_attached(&mut self, before: &str) -> Result<()> {
        let start = Instant::now();
        while sysfs("state") != "enabled" || sysfs("enable_seq") == before {
            if let Some(status) = self.child.try_wait()? {
                std::thread::sleep(LAST_WORDS);
                bail!(
                    "{} does not load: {status}; it said last: {}",
                    self.name,
                    self.last()
                );
            }
            if start.elapsed() > ATTACH_LIMIT {
                let limit = ATTACH_LIMIT.as_secs();
                bail!(
                    "{} did not attach within {limit} s; it said last: {}",
                    self.name,
                    self.last()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn last(&self) -> String {
        self.last.lock().map(|it| it.clone()).unwrap_or_default()
    }

    /// Fails unless the same attachment is in force since the start.
    pub fn still_attached(&mut self) -> Result<()> {
        let (state, seq) = (sysfs("state"), sysfs("enable_seq"));
        if self.child.try_wait()?.is_none() && state == "enabled" && seq == self.seq {
            return Ok(());
        }
        std::thread::sleep(LAST_WORDS);
        bail!("{} was ejected; it said last: {}", self.name, self.last());
    }

    /// SIGINT, as Ctrl-C.
    pub fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        if self.child.try_wait()?.is_none() {
            proc::output(Command::new("sh").args(["-c", "kill -INT \"$0\"", &pid]))?;
        }
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > DETACH_LIMIT {
                bail!(
                    "{} did not end within {} s; killed",
                    self.name,
                    DETACH_LIMIT.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Their only failure is "has ended".
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn start_that_does_not_load_tells_its_last_words() {
        let dir = std::env::temp_dir().join(format!("xtask-peer-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let fake = dir.join("scx_fake");
        fs::write(&fake, "#!/bin/sh\necho 'Error: no luck' >&2\nexit 3\n").unwrap();
        proc::run(Command::new("chmod").arg("+x").arg(&fake)).unwrap();
        let err = Peer::start(&fake).err().unwrap().to_string();
        assert!(
            err.contains("scx_fake does not load: exit status: 3") && err.contains("no luck"),
            "{err}"
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
