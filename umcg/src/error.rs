//! Errors: one opaque type, a kind for code, a sentence for people.

use std::fmt;

use crate::mode;

/// What the library's calls return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did nothing.
///
/// `{}` says what failed and with which value; [`kind`](Self::kind) tells the cases
/// apart. A call that returns an error has changed nothing, but for
/// [`ErrorKind::TimedOut`], whose call says what holds then.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    // Which call: static, so that no error allocates.
    call: &'static str,
    value: u64,
}

/// The cases that a caller may want to tell apart.
#[doc(alias = "umcg_strerror")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The worker's or the caller's state does not allow the call.
    WrongState,
    /// No such member: it left, or never was; or the calling thread is none.
    NotFound,
    /// The member or the group belongs to somebody else.
    Foreign,
    /// A worker cannot switch to itself.
    Myself,
    /// The calling thread is a member already.
    Registered,
    /// The group has no room for another member, or the machine for another group.
    Full,
    /// The user's quota of groups or members is used up.
    Quota,
    /// The registration token was used before or never issued.
    Token,
    /// The daemon or the other process speaks another version.
    Version,
    /// The system does not allow it: a seccomp filter, a security module, file modes.
    Denied,
    /// Registered with a daemon that has been replaced.
    Stale,
    /// Not at this moment; the same call may succeed later.
    Again,
    /// The worker may not run on this server's CPU.
    NotHere,
    /// The time was over first.
    TimedOut,
    /// What served the group is no more.
    Gone,
    /// A value outside of what the call takes.
    Invalid,
    /// A quantum outside of its bounds, which the error names.
    Quantum,
    /// No such policy, or it has no such option, or it cannot choose for servers.
    Policy,
    /// The system failed in a way that none of the others names.
    Io,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [Self; 19] = [
        Self::WrongState,
        Self::NotFound,
        Self::Foreign,
        Self::Myself,
        Self::Registered,
        Self::Full,
        Self::Quota,
        Self::Token,
        Self::Version,
        Self::Denied,
        Self::Stale,
        Self::Again,
        Self::NotHere,
        Self::TimedOut,
        Self::Gone,
        Self::Invalid,
        Self::Quantum,
        Self::Policy,
        Self::Io,
    ];

    /// The errno that stands for it in the C interface, positive; each kind has its own.
    pub const fn errno(self) -> i32 {
        match self {
            Self::WrongState => libc::EBUSY,
            Self::NotFound => libc::ESRCH,
            Self::Foreign => libc::EPERM,
            Self::Myself => libc::EDEADLK,
            Self::Registered => libc::EEXIST,
            Self::Full => libc::ENOSPC,
            Self::Quota => libc::EDQUOT,
            Self::Token => libc::EKEYREJECTED,
            Self::Version => libc::EPROTO,
            Self::Denied => libc::EACCES,
            Self::Stale => libc::ESTALE,
            Self::Again => libc::EAGAIN,
            Self::NotHere => libc::EXDEV,
            Self::TimedOut => libc::ETIMEDOUT,
            Self::Gone => libc::EOWNERDEAD,
            Self::Invalid => libc::EINVAL,
            Self::Quantum => libc::ERANGE,
            Self::Policy => libc::EDOM,
            Self::Io => libc::EIO,
        }
    }

    /// The kind whose [`errno`](Self::errno) is `errno`; else `Io`.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOMEM | libc::EMFILE | libc::ENFILE => Self::Full,
            libc::ENOENT => Self::NotFound,
            libc::ENOSYS => Self::Denied,
            _ => Self::ALL
                .into_iter()
                .find(|kind| kind.errno() == errno)
                .unwrap_or(Self::Io),
        }
    }

    /// What `umcg_strerror` says of it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::WrongState => "the member's state does not allow the call",
            Self::NotFound => "no such member",
            Self::Foreign => "belongs to somebody else",
            Self::Myself => "a worker cannot switch to itself",
            Self::Registered => "the calling thread is a member already",
            Self::Full => "no room for another one",
            Self::Quota => "the user's quota is used up",
            Self::Token => "the registration token was used before or never issued",
            Self::Version => "the other side speaks another version",
            Self::Denied => "not allowed by the system",
            Self::Stale => "registered with a daemon that has been replaced",
            Self::Again => "not at this moment",
            Self::NotHere => "the worker may not run on this server's CPU",
            Self::TimedOut => "the time is over",
            Self::Gone => "what served the group is no more",
            Self::Invalid => "a value outside of what the call takes",
            Self::Quantum => "a quantum is within 100 us..=1 s, or 0 for none",
            Self::Policy => {
                "no such policy; take fifo, lifo, rr, fair, deadline, priority, arrival or \
                 quota, with options of its own: rr:slice_us=500"
            }
            Self::Io => "the system failed",
        }
    }
}

#[cfg_attr(loom, allow(dead_code))]
impl Error {
    /// `call` failed on `value`, which is an index, an id, a state or an errno.
    pub(crate) const fn new(kind: ErrorKind, call: &'static str, value: u64) -> Self {
        Self { kind, call, value }
    }

    /// `call` failed with the calling thread's errno.
    pub(crate) fn last_os(call: &'static str) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Self::new(ErrorKind::from_errno(errno), call, errno as u64)
    }

    /// Which case it is.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The errno that stands for it, positive.
    pub const fn errno(&self) -> i32 {
        self.kind.errno()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == ErrorKind::Quantum {
            let (min, max) = (mode::QUANTUM_MIN.as_nanos(), mode::QUANTUM_MAX.as_nanos());
            return write!(
                f,
                "{}: quantum {} ns; not within {min}..={max} ns; take one of these, or 0 for none",
                self.call, self.value
            );
        }
        write!(f, "{}: {:#x}; {}", self.call, self.value, self.kind.text())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::TimedOut => std::io::ErrorKind::TimedOut,
            ErrorKind::Denied | ErrorKind::Foreign => std::io::ErrorKind::PermissionDenied,
            ErrorKind::NotFound => std::io::ErrorKind::NotFound,
            ErrorKind::Again => std::io::ErrorKind::WouldBlock,
            ErrorKind::Invalid | ErrorKind::Quantum | ErrorKind::Policy => {
                std::io::ErrorKind::InvalidInput
            }
            _ => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn errno_each_kind_has_its_own() {
        let mut seen = std::collections::HashSet::new();
        for kind in ErrorKind::ALL {
            assert!(seen.insert(kind.errno()), "{kind:?}");
            assert_eq!(ErrorKind::from_errno(kind.errno()), kind);
        }
        assert_eq!(ErrorKind::from_errno(libc::EXFULL), ErrorKind::Io);
    }

    #[test]
    fn error_display_names_call_value_and_meaning() {
        let error = Error::new(ErrorKind::Myself, "switch", 5);
        assert_eq!(
            error.to_string(),
            "switch: 0x5; a worker cannot switch to itself"
        );
        assert_eq!(error.errno(), libc::EDEADLK);
    }
}
