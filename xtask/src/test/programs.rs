//! What the tests in VMs run: the daemon, `umcg-vmtest`, and programs of the client library.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::native::{cargo, target_dir};
use crate::lib_task::SYSTEM;
use crate::proc::{self, say};

/// Programs in C, and what they are called beside the examples in Rust.
const IN_C: [(&str, &str); 4] = [
    ("umcg-c/examples/hello.c", "c-hello"),
    ("umcg-c/examples/signals.c", "c-signals"),
    ("umcg-c/tests/calls.c", "c-calls"),
    ("umcg-c/tests/queue.c", "c-queue"),
];

/// Builds them all; where `umcg-vmtest` is.
pub fn build() -> Result<PathBuf> {
    say(format_args!("building the scheduler and the VM tests"));
    let mut build = cargo();
    build.args(["build", "--release", "-p", "scx_umcg", "-p", "umcg-vmtest"]);
    build.args([
        "-p",
        "umcg",
        "-p",
        "umcg-c",
        "--lib",
        "--bins",
        "--examples",
    ]);
    proc::run(&mut build).context("cannot build the VM tests")?;
    let release = target_dir().join("release");
    for (source, name) in IN_C {
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-I"])
            .arg(proc::repo().join("umcg/include"))
            .arg(proc::repo().join(source))
            .arg("-o")
            .arg(release.join("examples").join(name))
            .arg(release.join("libumcg_c.a"))
            .args(SYSTEM);
        proc::run(&mut cc).with_context(|| format!("cannot build {source}"))?;
    }
    Ok(release.join("umcg-vmtest"))
}
