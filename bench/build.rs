//! Which commit the program is of: rows of two commits are not to be mixed up.

use std::process::Command;

/// What the program is made of, from the top folder.
const SOURCES: [&str; 5] = ["bench", "sim", "umcg", "policy", "Cargo.lock"];

fn main() {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    let mut changes = vec!["status", "--porcelain", "--"];
    changes.extend(SOURCES);
    let mark = match git(&changes) {
        Some(changes) if !changes.is_empty() => "+",
        _ => "",
    };
    // From an unpacked archive there is no telling.
    let commit = commit.unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=UMCG_BENCH_COMMIT={commit}{mark}");
    for name in SOURCES {
        println!("cargo:rerun-if-changed=../{name}");
    }
    // Each commit and checkout appends to it.
    if let Some(log) = git(&[
        "rev-parse",
        "--path-format=absolute",
        "--git-path",
        "logs/HEAD",
    ]) {
        println!("cargo:rerun-if-changed={log}");
    }
}

/// The output of git in the top folder, `None` if it fails or there is none.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir("..").output();
    let output = output.ok().filter(|it| it.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
