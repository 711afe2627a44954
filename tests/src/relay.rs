//! Loads that wake each other: pairs that pass a byte, a server and its clients over TCP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umcg::kernel::sys;

use crate::load::{Spinner, pinned_child};

/// How late a thread of `cpu` runs whose only waker, pinned there as well, was short until then
/// and spins from then on.
pub fn hand_over_and_spin(cpu: usize) -> Result<Duration> {
    let (mut wakes, mut woken) = std::io::pipe()?;
    let (mut tells, mut told) = std::io::pipe()?;
    let wakee = pinned_child(cpu, move || {
        let mut sent = [0; 8];
        while wakes.read_exact(&mut sent).is_ok() {
            let late = sys::now_ns().saturating_sub(u64::from_ne_bytes(sent));
            let _ = told.write_all(&late.to_ne_bytes());
        }
    })?;
    std::thread::sleep(Duration::from_millis(50));
    let waker = pinned_child(cpu, move || {
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = woken.write_all(&sys::now_ns().to_ne_bytes());
        loop {
            std::hint::black_box(());
        }
    })?;
    let mut late = [0; 8];
    tells.read_exact(&mut late).context("no wakee")?;
    drop((wakee, waker));
    Ok(Duration::from_nanos(u64::from_ne_bytes(late)))
}

/// The two ends of a pair that passes a byte round, each working for `work` first; both are to
/// run in processes of their own.
pub fn ends(work: Duration) -> Result<[Box<dyn FnOnce()>; 2]> {
    let (mut r1, mut w1) = std::io::pipe()?;
    let (mut r2, mut w2) = std::io::pipe()?;
    let spin = move || {
        let began = Instant::now();
        while began.elapsed() < work {
            std::hint::spin_loop();
        }
    };
    let first = move || {
        let mut byte = [0];
        while r1.read_exact(&mut byte).is_ok() {
            spin();
            let _ = w2.write_all(&byte);
        }
    };
    let second = move || {
        let mut byte = [0];
        loop {
            spin();
            if w1.write_all(&byte).is_err() || r2.read_exact(&mut byte).is_err() {
                return;
            }
        }
    };
    Ok([Box::new(first), Box::new(second)])
}

/// A pair on `cpu` that does nothing but hand over.
pub fn pair(cpu: usize) -> Result<Vec<Spinner>> {
    let ends = ends(Duration::ZERO)?.into_iter();
    ends.map(|end| pinned_child(cpu, end)).collect()
}

/// Seconds that one thread takes to answer `rounds` requests of each of `clients`, over loopback
/// TCP.
pub fn tcp(clients: usize, rounds: usize) -> Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let at = listener.local_addr()?;
    let client = move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        let mut message = [0; 64];
        for _ in 0..rounds {
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
        }
        Ok(())
    };
    let threads: Vec<_> = (0..clients).map(|_| std::thread::spawn(client)).collect();
    let mut served = Vec::new();
    for _ in 0..clients {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        served.push(stream);
    }
    let began = Instant::now();
    while !served.is_empty() {
        let of = |stream: &TcpStream| libc::pollfd {
            fd: stream.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds: Vec<_> = served.iter().map(of).collect();
        // SAFETY: the array lives through the call and has that many elements.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
        ensure!(ready > 0, "poll: {}", std::io::Error::last_os_error());
        let mut asked = fds.iter().map(|fd| fd.revents != 0);
        served.retain_mut(|stream| {
            let mut message = [0; 64];
            asked.next() != Some(true)
                || stream
                    .read_exact(&mut message)
                    .and_then(|()| stream.write_all(&message))
                    .is_ok()
        });
    }
    let took = began.elapsed().as_secs_f64();
    for thread in threads {
        let ended = thread.join().ok().context("a client panicked")?;
        ended.context("a client")?;
    }
    Ok(took)
}
