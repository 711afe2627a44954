//! What wakes a server that sleeps: a BPF ring buffer for BPF, an eventfd for us.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapHandle, MapType, RingBuffer, RingBufferBuilder, libbpf_sys};

const RING_BYTES: u32 = 4096;

/// The receiving end, owned by one server thread.
pub struct Bell {
    ring: RingBuffer<'static>,
    map: MapHandle,
    event: OwnedFd,
}

/// The sending end for other threads of the agent.
#[derive(Debug)]
pub struct Ringer(OwnedFd);

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").field("event", &self.event).finish()
    }
}

/// An eventfd that nobody has rung.
fn event() -> Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    ensure!(fd >= 0, "eventfd: {}", io::Error::last_os_error());
    // SAFETY: fd was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Bell {
    /// Makes the ring buffer and the eventfd.
    pub fn new() -> Result<Self> {
        Self::on(Self::map()?)
    }

    fn map() -> Result<MapHandle> {
        let opts = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        MapHandle::create(MapType::RingBuf, Some("umcg_bell"), 0, 0, RING_BYTES, &opts)
            .context("cannot make a ring buffer")
    }

    /// On a ring buffer that is there already.
    pub fn on(map: MapHandle) -> Result<Self> {
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&map, |_| 0)
            .context("cannot read a ring buffer")?;
        let ring = builder.build().context("cannot map a ring buffer")?;
        let event = event()?;
        Ok(Self { ring, map, event })
    }

    /// The ring buffer's map, for BPF.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// An end that another thread may ring.
    pub fn ringer(&self) -> Result<Ringer> {
        Ok(Ringer(self.event.try_clone()?))
    }

    /// Sleeps until BPF or the agent rings, or a signal comes.
    pub fn wait(&self) {
        self.wait_for(-1);
    }

    /// The same, for so many ms at most, -1 = for ever. False: the time is over.
    pub fn wait_for(&self, ms: i32) -> bool {
        let mut fds =
            [self.map.as_fd().as_raw_fd(), self.event.as_raw_fd()].map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
        // SAFETY: fds is an array of two pollfd that live through the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, ms) };
        if fds[0].revents != 0 {
            // The message says nothing: that it came is all. An error would show
            // as a ring that stays readable; the server then only turns more often.
            let _ = self.ring.consume();
        }
        if fds[1].revents != 0 {
            let mut count = 0u64;
            // SAFETY: eight bytes into a u64, as eventfd wants.
            unsafe { libc::read(fds[1].fd, (&raw mut count).cast(), 8) };
        }
        ready != 0
    }
}

impl AsFd for Ringer {
    /// Readable once it was rung, for those who poll it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Ringer {
    /// One without a bell, for a thread that polls it itself.
    pub fn new() -> Result<Self> {
        Ok(Self(event()?))
    }

    /// The same, for who rings.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Wakes who sleeps there.
    pub fn ring(&self) {
        let one = 1u64;
        // SAFETY: eight bytes from a u64, as eventfd wants; a full counter is awake.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}
