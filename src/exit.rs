//! Exit codes, and the errors that carry one.

use std::fmt;

/// Exit codes; `docs/operations.md` lists them, they stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Ended as asked.
    Clean = 0,
    /// Something that nobody foresaw.
    Unexpected = 1,
    /// Wrong flags or values.
    Usage = 2,
    /// This kernel cannot run it.
    Unsupported = 3,
    /// The caller may not.
    Privilege = 4,
    /// Another scheduler is attached.
    Busy = 5,
    /// The kernel ejected it too often.
    Ejected = 6,
}

/// Panics print their place and message and no backtrace: reading debug information takes more
/// heap than the fixed one that scx_rustland_core makes, and running out of it while the panic
/// is printed hangs the process. First call of every program that links that allocator.
pub fn plain_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        eprintln!("bug: thread {:?}: {info}", thread.name().unwrap_or("?"));
    }));
}

/// An expected failure: one sentence for a person, one code for a script.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with its sentence: what failed: the value; what is allowed; what to do.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The code that `err` ends the process with.
pub fn code_of(err: &anyhow::Error) -> Exit {
    err.chain()
        .find_map(|e| e.downcast_ref::<Failure>())
        .map_or(Exit::Unexpected, |f| f.exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn code_of_wrapped_failure_is_its_own() {
        let err = Err::<(), _>(Failure::new(Exit::Busy, "busy"))
            .context("cannot attach")
            .unwrap_err();
        assert_eq!(code_of(&err), Exit::Busy);
        assert_eq!(code_of(&anyhow::anyhow!("x")), Exit::Unexpected);
    }
}
