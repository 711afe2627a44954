//! Who reads statistics may stall, go away or send what is none: nobody waits for it.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Test, short};
use crate::harness::{self, Sched, Verdict, metric, sibling};
use crate::load::{Hog, shares};

pub const TESTS: &[Test] = &[
    short(
        "vm_stalled_statistics_readers_stop_nothing",
        "life",
        9,
        stalled,
    ),
    short("vm_garbage_to_statistics_is_answered", "life", 3, garbage),
];

// Where scx_stats listens: "root" is its name for the whole of it, no home.
const SOCKET: &str = concat!("/var/run/scx/", "root/stats");
const ASK: &[u8] = b"{\"req\":\"stats\",\"args\":{\"target\":\"top\"}}\n";
/// Clients that ask and never read.
const CLIENTS: usize = 8;

fn connect() -> Result<UnixStream> {
    // It listens a moment after it is attached; until then its predecessor's socket may be there.
    harness::wait_until(Duration::from_secs(10), || {
        UnixStream::connect(SOCKET).is_ok()
    });
    let socket = UnixStream::connect(SOCKET).context(SOCKET)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

/// A pipe that holds a page, and how much of it is full.
struct Stalled(std::io::PipeReader);

impl Stalled {
    fn new() -> Result<(Self, std::io::PipeWriter)> {
        let (reader, writer) = std::io::pipe()?;
        // SAFETY: our own descriptor, no pointers.
        let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
        ensure!(size == 4096, "a pipe of {size} bytes");
        Ok((Self(reader), writer))
    }

    fn bytes(&self) -> i32 {
        let mut bytes = 0;
        // SAFETY: bytes lives through the call.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
        bytes
    }
}

/// stdout is a full pipe, and clients ask without reading: others are answered, hogs go on, and
/// SIGINT ends it at once.
fn stalled() -> Result<Verdict> {
    let (pipe, stdout) = Stalled::new()?;
    let sched = Sched::start_to(stdout, &["--stats", "0.1"])?;
    let hogs = Hog::default().start_many(2)?;
    let mut last = (0, Instant::now());
    let full = harness::wait_until(Duration::from_secs(20), || {
        let bytes = pipe.bytes();
        if bytes != last.0 {
            last = (bytes, Instant::now());
        }
        bytes > 2048 && last.1.elapsed() > Duration::from_secs(1)
    });
    ensure!(full, "--stats fills no pipe: {} bytes", pipe.bytes());
    let clients = (0..CLIENTS)
        .map(|_| connect())
        .collect::<Result<Vec<_>>>()?;
    for mut client in &clients {
        client.set_nonblocking(true)?;
        // Until all that lies between us is full.
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end {
            match client.write_all(ASK) {
                Err(err) if err.kind() != ErrorKind::WouldBlock => return Err(err.into()),
                _ => {}
            }
        }
    }
    let asked = Instant::now();
    let mut other = connect()?;
    other.write_all(ASK)?;
    let answer = answer(&mut BufReader::new(&other))?;
    let late = asked.elapsed().as_secs_f64() * 1e3;
    ensure!(answer["errno"] == 0, "another reader is told {answer}");
    for share in shares(&hogs, Duration::from_secs(1))? {
        ensure!(share > 0.5, "a hog got {share:.2} s of 1 s");
    }
    drop(hogs);
    let asked = Instant::now();
    sched.stop()?;
    let end = asked.elapsed().as_secs_f64() * 1e3;
    metric("stalled_readers", &[("answer_ms", late), ("end_ms", end)]);
    ensure!(end < 5000.0, "it took {end:.0} ms to end");
    drop((clients, pipe));
    Ok(Verdict::Ok)
}

fn answer(reader: &mut impl BufRead) -> Result<Value> {
    let mut line = String::new();
    reader.read_line(&mut line).context("no answer")?;
    serde_json::from_str(&line).with_context(|| format!("answer {line:?}"))
}

/// Each line that is no request is refused, one that is cut off is dropped, and who asks next is
/// answered: the same client, another one, and `--monitor`.
fn garbage() -> Result<Verdict> {
    let sched = harness::shared()?;
    for wrong in [
        &b"{{{\n"[..],
        b"\n",
        b"[1, 2]\n",
        b"{\"req\":\"stats\",\"args\":{\"target\":\"none\"}}\n",
        b"{\"req\":\"rm -rf\",\"args\":{}}\n",
    ] {
        let mut socket = connect()?;
        let mut reader = BufReader::new(socket.try_clone()?);
        socket.write_all(wrong)?;
        let text = String::from_utf8_lossy(wrong);
        let refused = answer(&mut reader).with_context(|| format!("after {text:?}"))?;
        ensure!(refused["errno"] == libc::EINVAL, "{text:?}: {refused}");
        socket.write_all(ASK)?;
        let answer = answer(&mut reader)?;
        ensure!(answer["errno"] == 0, "after {text:?}: {answer}");
    }
    for cut in [&b"{\"req\":\"sta"[..], b"\xff\xfe\n", b""] {
        connect()?.write_all(cut)?;
    }
    let mut monitor = Command::new(sibling("scx_umcg"))
        .args(["--monitor", "0.5"])
        .stdout(Stdio::piped())
        .spawn()?;
    harness::adopt(monitor.id());
    let out = monitor.stdout.take().context("stdout")?;
    let told = BufReader::new(out)
        .lines()
        .map_while(Result::ok)
        .filter(|line| line.contains("[scx_umcg] switches"))
        .take(2)
        .count();
    ensure!(told == 2, "--monitor ended after {told} lines");
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}
