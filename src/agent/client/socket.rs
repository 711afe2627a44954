//! SOCK_SEQPACKET with credentials and file descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use umcg::kernel::proto::Reply;

const BACKLOG: i32 = 64;
const MAX_MESSAGE: usize = 256;

/// Who connected, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub uid: u32,
    pub pid: i32,
}

/// What came from a connection.
pub enum Received {
    Nothing,
    HungUp,
    /// And who sent it, as the kernel says: maybe not who connected.
    Message(Vec<u8>, Peer),
}

/// As many file descriptors as we may have: connections and groups take some each.
pub fn raise_fd_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: limit lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above. Where it fails there are fewer clients, see accept().
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// A listening socket at `path`, for everybody: who may do what is judged later.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err).context("stale"),
        _ => {}
    }
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all zero is a valid sockaddr_un.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    ensure!(
        bytes.len() < addr.sun_path.len(),
        "{} bytes; at most {}",
        bytes.len(),
        addr.sun_path.len() - 1
    );
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    ensure!(fd >= 0, "socket: {}", io::Error::last_os_error());
    // SAFETY: fd was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let yes: libc::c_int = 1;
    let size = size_of_val(&yes) as libc::socklen_t;
    // Connections have it from the listener, so their first message has it, too.
    // SAFETY: yes lives through the call and has the size given.
    let ret = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSCRED,
            (&raw const yes).cast(),
            size,
        )
    };
    ensure!(ret == 0, "SO_PASSCRED: {}", io::Error::last_os_error());
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: addr lives through the call and has the size given.
    let ret = unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), size) };
    ensure!(ret == 0, "bind: {}", io::Error::last_os_error());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).context("chmod")?;
    // SAFETY: no pointers.
    let ret = unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) };
    ensure!(ret == 0, "listen: {}", io::Error::last_os_error());
    Ok(fd)
}

/// Which of `fds` have something to read, or hung up; waits for one.
pub fn poll(fds: &[BorrowedFd<'_>], timeout_ms: i32) -> Vec<bool> {
    let mut polls: Vec<_> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: polls is an array of that many pollfd that lives through the call.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
    polls.iter().map(|poll| poll.revents != 0).collect()
}

/// The next one who wants to connect; an error if there is one whom we have no means for.
pub fn accept(listener: &OwnedFd) -> io::Result<Option<(OwnedFd, Peer)>> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let null = std::ptr::null_mut();
    // SAFETY: no address is asked for.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), null, null.cast(), flags) };
    if fd < 0 {
        let err = io::Error::last_os_error();
        return match err.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => Err(err),
            _ => Ok(None),
        };
    }
    // SAFETY: fd was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut cred = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: cred and size live through the call; size is cred's.
    let ret = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut size,
        )
    };
    Ok((ret == 0).then_some((
        fd,
        Peer {
            uid: cred.uid,
            pid: cred.pid,
        },
    )))
}

/// One message; file descriptors that come with it are not taken.
pub fn receive(sock: &OwnedFd) -> Received {
    let mut bytes = vec![0u8; MAX_MESSAGE];
    let mut iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // Room for who sent it, which comes first, and for nothing else.
    let mut control = [0u64; 4];
    // SAFETY: all zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: msg points to one iovec and a control buffer that live through the call.
    let got = unsafe { libc::recvmsg(sock.as_raw_fd(), &raw mut msg, flags) };
    match got {
        0 => Received::HungUp,
        got if got > 0 => {
            bytes.truncate(got as usize);
            Received::Message(bytes, sender(&msg))
        }
        _ => match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Received::Nothing,
            _ => Received::HungUp,
        },
    }
}

/// Nobody, if the message does not say who sent it.
fn sender(msg: &libc::msghdr) -> Peer {
    let mut sender = Peer {
        uid: u32::MAX,
        pid: 0,
    };
    // SAFETY: msg was filled by recvmsg; the CMSG macros stay inside of its buffer.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(msg);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::SOL_SOCKET && (*cmsg).cmsg_type == libc::SCM_CREDENTIALS
            {
                let cred = libc::CMSG_DATA(cmsg).cast::<libc::ucred>().read_unaligned();
                sender = Peer {
                    uid: cred.uid,
                    pid: cred.pid,
                };
            }
            cmsg = libc::CMSG_NXTHDR(msg, cmsg);
        }
    }
    sender
}

/// Sends without waiting: a client that does not read is hung up on. False: it failed.
pub fn send(sock: &OwnedFd, reply: &Reply, fds: &[RawFd]) -> bool {
    let mut bytes = reply.encode();
    let mut control = [0u64; 8];
    let mut iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    if !fds.is_empty() {
        let data = size_of_val(fds);
        msg.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the control buffer has room for the header and up to ten fds; the
        // CMSG macros stay inside of msg_controllen.
        unsafe {
            msg.msg_controllen = libc::CMSG_SPACE(data as u32) as usize;
            let cmsg = libc::CMSG_FIRSTHDR(&raw const msg);
            (*cmsg).cmsg_level = libc::SOL_SOCKET;
            (*cmsg).cmsg_type = libc::SCM_RIGHTS;
            (*cmsg).cmsg_len = libc::CMSG_LEN(data as u32) as usize;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(cmsg), data);
        }
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: msg points to one iovec and a control buffer that live through the call.
    unsafe { libc::sendmsg(sock.as_raw_fd(), &raw const msg, flags) == bytes.len() as isize }
}
