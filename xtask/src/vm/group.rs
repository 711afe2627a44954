//! vng in a process group of its own that cannot outlive us.
//!
//! A watcher in the group reads a pipe whose other end only we hold. When we close it, or die of
//! anything, it removes the run's folder and kills the group: QEMU and virtiofsd with it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::vm::Piece;

/// `$0` is the folder of the run, the rest is the command. Output redirected from the watcher:
/// it must not hold the pipes open that tell us that the guest is gone.
const SUPERVISOR: &str = r#"
exec 3<&0 </dev/null
{ read -r _ <&3; rm -rf -- "$0"; kill -KILL 0; } >/dev/null 2>&1 &
exec 3<&-
"$@"
"#;

enum Chunk {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

/// A running vng with all its children.
#[derive(Debug)]
pub struct Group {
    child: Child,
    leash: Option<ChildStdin>,
    // Unbounded: QEMU drops what a full pipe cannot take when the guest powers off, so a slow
    // reader of ours must not fill it.
    chunks: Receiver<Chunk>,
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, bytes) = match self {
            Self::Out(bytes) => ("Out", bytes),
            Self::Err(bytes) => ("Err", bytes),
        };
        write!(f, "{name}({} bytes)", bytes.len())
    }
}

impl Group {
    /// Starts `cmd` with its environment and directory; `dir` goes away with the group.
    pub fn spawn(cmd: &Command, dir: &Path) -> Result<Self> {
        let mut sh = Command::new("sh");
        sh.args(["-c", SUPERVISOR])
            .arg(dir)
            .arg(cmd.get_program())
            .args(cmd.get_args());
        sh.envs(
            cmd.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        if let Some(cwd) = cmd.get_current_dir() {
            sh.current_dir(cwd);
        }
        sh.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = sh
            .spawn()
            .context("cannot start sh for the virtual machine")?;
        let (leash, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (send, chunks) = channel();
        if let (Some(out), Some(err)) = (out, err) {
            forward(out, send.clone(), Chunk::Out);
            forward(err, send, Chunk::Err);
        }
        Ok(Self {
            child,
            leash,
            chunks,
        })
    }

    /// Waits up to `patience` for output and hands it over. False when no more can come.
    pub fn next(
        &mut self,
        patience: Duration,
        on: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<bool> {
        match self.chunks.recv_timeout(patience) {
            Ok(chunk) => deliver(&chunk, on)?,
            Err(RecvTimeoutError::Timeout) => {
                // virtiofsd may keep the pipes open for longer than vng lives.
                let gone = self
                    .child
                    .try_wait()
                    .context("cannot wait for vng")?
                    .is_some();
                return Ok(!gone);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
        Ok(true)
    }

    /// Hands over what has arrived and was not asked for yet.
    pub fn drain(&mut self, on: &mut dyn FnMut(Piece<'_>) -> Result<()>) -> Result<()> {
        while let Ok(chunk) = self.chunks.try_recv() {
            deliver(&chunk, on)?;
        }
        Ok(())
    }

    /// Kills whatever is left of the group and reaps its leader.
    pub fn kill(&mut self) {
        drop(self.leash.take());
        // Its only failure is "already reaped".
        let _ = self.child.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn deliver(chunk: &Chunk, on: &mut dyn FnMut(Piece<'_>) -> Result<()>) -> Result<()> {
    match chunk {
        Chunk::Out(bytes) => on(Piece::Out(bytes)),
        Chunk::Err(bytes) => on(Piece::Err(bytes)),
    }
}

fn forward(mut from: impl Read + Send + 'static, to: Sender<Chunk>, kind: fn(Vec<u8>) -> Chunk) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.send(kind(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn group_output_is_split_and_ends() {
        let dir = scratch("out");
        let mut cmd = Command::new("sh");
        cmd.args(["-c", "echo out; echo err >&2"]).env("X", "y");
        let mut group = Group::spawn(&cmd, &dir).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut on = |piece: Piece<'_>| {
            match piece {
                Piece::Out(bytes) => out.extend(bytes),
                Piece::Err(bytes) => err.extend(bytes),
            }
            Ok(())
        };
        while group.next(Duration::from_millis(50), &mut on).unwrap() {}
        group.drain(&mut on).unwrap();
        assert_eq!(
            (out.as_slice(), err.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
    }

    #[test]
    fn kill_takes_grandchildren_and_the_folder() {
        let dir = scratch("kill");
        let mut cmd = Command::new("sh");
        cmd.args(["-c", "sleep 1000 & echo $!; wait"]);
        let mut group = Group::spawn(&cmd, &dir).unwrap();
        let mut pid = String::new();
        while !pid.ends_with('\n') {
            let mut on = |piece: Piece<'_>| {
                if let Piece::Out(bytes) = piece {
                    pid += std::str::from_utf8(bytes).unwrap();
                }
                Ok(())
            };
            assert!(group.next(Duration::from_secs(5), &mut on).unwrap());
        }
        group.kill();
        let proc = format!("/proc/{}/stat", pid.trim());
        let end = Instant::now() + Duration::from_secs(5);
        let alive = || std::fs::read_to_string(&proc).is_ok_and(|stat| !stat.contains(") Z "));
        while alive() || dir.exists() {
            assert!(
                Instant::now() < end,
                "{pid} or {} is still there",
                dir.display()
            );
            std::thread::yield_now();
        }
    }
}
