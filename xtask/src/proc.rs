//! Child processes with errors that say which command failed, and our voice on stderr.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Prints one line of ours to stderr; stdout belongs to the guest command.
///
/// A closed stderr is not worth dying for.
pub fn say(line: fmt::Arguments<'_>) {
    if cfg!(test) {
        // Captured by the test harness; the other way is not.
        return eprintln!("xtask: {line}");
    }
    let _ = writeln!(std::io::stderr().lock(), "xtask: {line}");
}

/// Prints to stdout. A reader that has gone must not stop the tests.
pub fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// The command line as a person would type it, for messages.
pub fn show(cmd: &Command) -> String {
    let words = std::iter::once(cmd.get_program()).chain(cmd.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `cmd` with its output on our stderr and fails unless it exits 0.
pub fn run(cmd: &mut Command) -> Result<()> {
    cmd.stdin(Stdio::null()).stdout(std::io::stderr());
    let status = cmd
        .status()
        .with_context(|| format!("cannot start: {}", show(cmd)))?;
    if !status.success() {
        bail!("command failed: {}; {status}", show(cmd));
    }
    Ok(())
}

/// Runs `cmd` and returns what it printed on stdout; fails unless it exits 0.
pub fn output(cmd: &mut Command) -> Result<String> {
    cmd.stdin(Stdio::null());
    let out = cmd
        .output()
        .with_context(|| format!("cannot start: {}", show(cmd)))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!(
            "command failed: {}; {}; {}",
            show(cmd),
            out.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Where `tool` is on `PATH` or in the sbin folders that a user's `PATH` may lack.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file())
}

/// The top of the repository: the folder that holds `xtask/`.
pub fn repo() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_failing_command_names_it() {
        let err = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(err.to_string().contains("sh -c exit 3"), "{err}");
        assert!(run(&mut Command::new("true")).is_ok());
    }

    #[test]
    fn output_failing_command_tells_what_it_said() {
        let err = output(Command::new("sh").args(["-c", "echo why >&2; exit 1"])).unwrap_err();
        assert!(err.to_string().contains("why"), "{err}");
        assert_eq!(output(Command::new("echo").arg("x")).unwrap(), "x\n");
    }

    #[test]
    fn find_known_and_unknown_tool() {
        assert!(find("sh").is_some());
        assert!(find("no-such-tool-at-all").is_none());
    }
}
