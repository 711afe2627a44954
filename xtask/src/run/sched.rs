//! scx_umcg while it is measured: started, watched by the kernel's own word, ended.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::proc;
use crate::run::{load, report};

/// The kernel's word on sched_ext.
pub const SYSFS: &str = "/sys/kernel/sched_ext";

/// Loading BPF takes 1-3 s in emulation.
const ATTACH_LIMIT: Duration = Duration::from_secs(60);
const DETACH_LIMIT: Duration = Duration::from_secs(30);

/// One of its files.
pub fn sysfs(name: &str) -> String {
    let text = fs::read_to_string(Path::new(SYSFS).join(name)).unwrap_or_default();
    text.trim().to_owned()
}

/// Refuses when a scheduler is attached already.
pub fn check_free() -> Result<()> {
    match sysfs("state").as_str() {
        "disabled" => Ok(()),
        state => bail!(
            "cannot attach: sched_ext is {state:?} with scheduler {:?}; must be \"disabled\", one \
             scheduler at a time; stop it first",
            sysfs("root/ops")
        ),
    }
}

/// What `scx_umcg status --json` counted since the attach.
#[derive(Debug, Default, PartialEq)]
pub struct Counts {
    /// Seconds since the attach.
    pub attached_s: f64,
    /// By the kernel.
    pub ejections: u64,
    /// Workers put on a CPU.
    pub switches: u64,
    /// Of these, with two or more waiting.
    pub contended: u64,
    /// Who decided these: a server that staged its choices,
    pub staged: u64,
    /// terms that the servers set ahead,
    pub by_key: u64,
    /// or the kernel's order, as the server was absent.
    pub absent: u64,
    /// Switches to a worker of another CPU's queue.
    pub stolen: u64,
    /// Wake-ups that went straight to an idle CPU.
    pub direct: u64,
    /// Servers given a CPU.
    pub activations: u64,
}

impl Counts {
    fn parse(json: &str) -> Result<Self> {
        let status: Value = serde_json::from_str(json).context("status is not JSON")?;
        let lack = |name: &str| format!("status tells no {name}: {}", json.trim());
        let counter = |name: &str| {
            let value = status["counters"][name].as_u64();
            value.with_context(|| lack(name))
        };
        Ok(Self {
            attached_s: status["attached_s"]
                .as_f64()
                .with_context(|| lack("attached_s"))?,
            ejections: status["ejections"]
                .as_u64()
                .with_context(|| lack("ejections"))?,
            switches: counter("switches")?,
            contended: counter("contended")?,
            staged: counter("staged")?,
            by_key: counter("by_key")?,
            absent: counter("absent")?,
            stolen: counter("stolen")?,
            direct: counter("direct")?,
            activations: counter("activations")?,
        })
    }
}

/// A running scx_umcg. Its drop ends it, so that a failing run leaves nothing behind.
#[derive(Debug)]
pub struct Sched {
    daemon: PathBuf,
    child: Child,
    messages: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
    seq: String,
}

impl Sched {
    /// Starts it with `flags` and waits until it is attached.
    pub fn start(daemon: &Path, flags: &[&str]) -> Result<Self> {
        let start = Instant::now();
        let mut cmd = load::leashed("TERM", daemon);
        let mut child = cmd
            .args(flags)
            .spawn()
            .with_context(|| format!("cannot start: {}", proc::show(&cmd)))?;
        let (tell, messages) = channel();
        let mut readers = Vec::new();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            readers.push(each_line(out, |line| proc::out(&report::live(line))));
            readers.push(each_line(err, move |line| {
                if let Some(line) = report::message(line) {
                    proc::out(&line);
                }
                // Nobody listens any more once it is attached.
                let _ = tell.send(line.to_owned());
            }));
        }
        let mut sched = Self {
            daemon: daemon.to_owned(),
            child,
            messages,
            readers,
            seq: String::new(),
        };
        sched.wait_attached(start)?;
        sched.seq = sysfs("enable_seq");
        sched.still_attached()?;
        Ok(sched)
    }

    fn wait_attached(&mut self, start: Instant) -> Result<()> {
        let mut last = String::new();
        loop {
            let left = ATTACH_LIMIT.saturating_sub(start.elapsed());
            match self.messages.recv_timeout(left) {
                Ok(line) if report::without_level(&line).starts_with("attached:") => return Ok(()),
                Ok(line) => last = line,
                Err(RecvTimeoutError::Timeout) => {
                    let limit = ATTACH_LIMIT.as_secs();
                    bail!("scx_umcg did not attach within {limit} s; it said last: {last}");
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().context("cannot wait for scx_umcg")?;
                    bail!("scx_umcg did not attach: {status}; it said last: {last}");
                }
            }
        }
    }

    /// Fails unless the same attachment is in force since the start.
    pub fn still_attached(&mut self) -> Result<()> {
        if let Ok(Some(status)) = self.child.try_wait() {
            bail!("scx_umcg ended too early: {status}");
        }
        let (state, seq, ops) = (sysfs("state"), sysfs("enable_seq"), sysfs("root/ops"));
        if state != "enabled" || !ops.contains("umcg") {
            bail!("scx_umcg is not attached any more: sched_ext is {state:?}, scheduler {ops:?}");
        }
        if seq != self.seq {
            let before = &self.seq;
            bail!("scx_umcg was ejected and attached again: enable_seq {before} became {seq}");
        }
        Ok(())
    }

    /// Whether the process is gone.
    pub fn ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// `scx_umcg status --json`.
    pub fn status(&self) -> Result<Counts> {
        Counts::parse(&proc::output(
            Command::new(&self.daemon).args(["status", "--json"]),
        )?)
    }

    /// SIGINT, as Ctrl-C; it must detach and exit with 0.
    pub fn stop(mut self) -> Result<()> {
        let Some(status) = self.end()? else {
            let limit = DETACH_LIMIT.as_secs();
            bail!("scx_umcg did not end within {limit} s after SIGINT; killed");
        };
        for reader in self.readers.drain(..) {
            // A panic of a reader has been printed, and costs output only.
            let _ = reader.join();
        }
        let state = sysfs("state");
        if !status.success() || state != "disabled" {
            bail!("scx_umcg did not end as asked: {status}, sched_ext is {state:?}");
        }
        Ok(())
    }

    /// Its status, or none when it had to be killed.
    fn end(&mut self) -> Result<Option<ExitStatus>> {
        if self.child.try_wait()?.is_none() {
            let pid = self.child.id().to_string();
            proc::output(Command::new("sh").args(["-c", "kill -INT \"$0\"", &pid]))?;
        }
        let end = Instant::now() + DETACH_LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }
}

impl Drop for Sched {
    fn drop(&mut self) {
        if !matches!(self.end(), Ok(Some(_))) {
            // Their only failure is "has ended".
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Hands over each line of a child's pipe until its end.
pub fn each_line(
    from: impl Read + Send + 'static,
    mut on: impl FnMut(&str) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            on(&String::from_utf8_lossy(&line));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{
        "mode": "server", "attached_s": 13.1, "ejections": 1, "cpus": [],
        "counters": {
            "switches": 19118, "contended": 5999, "staged": 1, "by_key": 5998, "absent": 0,
            "stolen": 469, "direct": 2185, "activations": 703, "blocks": 5
        }
    }"#;

    #[test]
    fn counts_from_status_json() {
        let counts = Counts::parse(STATUS).unwrap();
        assert_eq!((counts.attached_s, counts.ejections), (13.1, 1));
        assert_eq!(
            (counts.switches, counts.contended, counts.by_key),
            (19118, 5999, 5998)
        );
        assert_eq!(
            (counts.stolen, counts.direct, counts.activations),
            (469, 2185, 703)
        );
    }

    #[test]
    fn counts_missing_counter_is_named() {
        let err = Counts::parse(&STATUS.replace("by_key", "bykey")).unwrap_err();
        assert!(err.to_string().contains("by_key"), "{err}");
        assert!(Counts::parse("no").is_err());
    }

    #[test]
    fn start_that_ends_at_once_tells_its_last_words() {
        let dir = std::env::temp_dir().join(format!("xtask-sched-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let fake = dir.join("fake");
        fs::write(&fake, "#!/bin/sh\necho '[ERROR] no luck' >&2\nexit 3\n").unwrap();
        proc::run(Command::new("chmod").arg("+x").arg(&fake)).unwrap();
        let err = Sched::start(&fake, &[]).unwrap_err().to_string();
        assert!(
            err.contains("exit status: 3") && err.contains("no luck"),
            "{err}"
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
