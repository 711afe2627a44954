//! `cargo xtask lib`: the client library for C, installed below a prefix.
//!
//! Makes `lib/libumcg.a`, `lib/libumcg.so.1` with versioned symbols, `include/umcg.h` and
//! `lib/pkgconfig/umcg.pc`. The shared library is linked here and not by cargo: rustc
//! passes a version script of its own, beside which the linker takes no second one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::proc::{self, say};

/// What the archive needs of the system.
pub const SYSTEM: [&str; 5] = ["-lgcc_s", "-lpthread", "-ldl", "-lm", "-lc"];

/// Flags of `cargo xtask lib`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to install below
    #[arg(long, default_value = "target/umcg")]
    prefix: PathBuf,
}

/// Builds and installs.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the project's folder has no parent")?;
    proc::run(
        Command::new("cargo")
            .args(["build", "--release", "-p", "umcg-c"])
            .current_dir(root),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let archive = target.join("release/libumcg_c.a");
    let lib = args.prefix.join("lib");
    let include = args.prefix.join("include");
    for folder in [&lib.join("pkgconfig"), &include] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    copy(&archive, &lib.join("libumcg.a"))?;
    copy(&root.join("umcg/include/umcg.h"), &include.join("umcg.h"))?;
    let map = root.join("umcg-c/umcg.map");
    proc::run(
        Command::new("cc")
            .args(["-shared", "-Wl,-soname,libumcg.so.1", "-o"])
            .arg(lib.join("libumcg.so.1"))
            .arg(format!("-Wl,--version-script={}", map.display()))
            .arg("-Wl,--whole-archive")
            .arg(&archive)
            .args(["-Wl,--no-whole-archive", "-Wl,--gc-sections"])
            .args(SYSTEM),
    )?;
    let link = lib.join("libumcg.so");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("libumcg.so.1", &link)
        .with_context(|| format!("cannot link {}", link.display()))?;
    let pc = root.join("umcg-c/umcg.pc.in");
    let text = fs::read_to_string(&pc).with_context(|| format!("cannot read {}", pc.display()))?;
    let prefix = fs::canonicalize(&args.prefix).context("the prefix is gone")?;
    let text = text
        .replace("@prefix@", &prefix.to_string_lossy())
        .replace("@version@", env!("CARGO_PKG_VERSION"));
    fs::write(lib.join("pkgconfig/umcg.pc"), text).context("cannot write umcg.pc")?;
    say(format_args!("installed below {}", prefix.display()));
    Ok(ExitCode::SUCCESS)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As docs/library.md says it, with another prefix.
    #[test]
    fn lib_compiles_and_runs_as_pkg_config_says() {
        let prefix = std::env::temp_dir().join(format!("xtask-lib-{}", std::process::id()));
        let args = Args {
            prefix: prefix.clone(),
        };
        run(&args).unwrap();
        let flags = |flag: &str| {
            let mut ask = Command::new("pkg-config");
            ask.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
            proc::output(ask.args([flag, "umcg"])).unwrap()
        };
        assert_eq!(flags("--modversion").trim(), env!("CARGO_PKG_VERSION"));
        let hello = prefix.join("hello");
        let source = proc::repo().join("umcg-c/examples/hello.c");
        let mut cc = Command::new("cc");
        cc.arg(source).arg("-o").arg(&hello);
        cc.args(flags("--cflags").split_whitespace());
        cc.args(flags("--libs").split_whitespace());
        proc::run(&mut cc).unwrap();
        let mut hello = Command::new(hello);
        let text = proc::output(hello.env("LD_LIBRARY_PATH", prefix.join("lib"))).unwrap();
        assert!(text.contains("worker"), "{text}");
        fs::remove_dir_all(prefix).unwrap();
    }
}
