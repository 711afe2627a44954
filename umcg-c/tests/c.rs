//! The C interface as C uses it: examples compiled by the system's compiler, against
//! the archive and against a shared library with versioned symbols.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's folder of this crate.
fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The newest archive that this build made: cargo names it by a hash.
fn archive() -> PathBuf {
    let files = std::fs::read_dir(built().join("deps"))
        .expect("deps")
        .flatten();
    let archives = files.filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("libumcg_c") && name.ends_with(".a")
    });
    let newest = archives.max_by_key(|file| file.metadata().and_then(|it| it.modified()).ok());
    newest.expect("cargo built the archive").path()
}

/// Where this test's profile puts what it builds.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let deps = test.parent().expect("deps");
    deps.parent().expect("the profile").to_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

const SYSTEM: [&str; 5] = ["-lgcc_s", "-lpthread", "-ldl", "-lm", "-lc"];

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = built().join("umcg-c-tests").join(name);
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

fn compile(source: &str, out: &Path, link: &[&str]) {
    let include = here().join("../umcg/include");
    output(
        Command::new("cc")
            .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-I"])
            .arg(include)
            .arg(here().join(source))
            .arg("-o")
            .arg(out)
            .args(link)
            .args(SYSTEM),
    );
}

/// Of `source`.c, against the archive.
fn built_static(source: &str) -> PathBuf {
    let name = Path::new(source).file_name().expect("a name");
    let program = folder("static").join(name);
    let archive = archive();
    compile(
        &format!("{source}.c"),
        &program,
        &[archive.to_str().expect("a path")],
    );
    program
}

#[test]
fn c_hello_runs_against_the_archive() {
    let text = output(&mut Command::new(built_static("examples/hello")));
    let turns = text.lines().filter(|line| line.starts_with("worker"));
    assert_eq!(turns.count(), 6, "{text}");
    assert!(text.ends_with("done\n"), "{text}");
}

#[test]
fn c_hello_runs_against_the_shared_library_with_versions() {
    let folder = folder("shared");
    let library = folder.join("libumcg.so.1");
    output(
        Command::new("cc")
            .args(["-shared", "-Wl,-soname,libumcg.so.1", "-o"])
            .arg(&library)
            .arg(format!(
                "-Wl,--version-script={}",
                here().join("umcg.map").display()
            ))
            .arg("-Wl,--whole-archive")
            .arg(archive())
            .args(["-Wl,--no-whole-archive", "-Wl,--gc-sections"])
            .args(SYSTEM),
    );
    let symbols = output(
        Command::new("nm")
            .args(["-D", "--defined-only"])
            .arg(&library),
    );
    let map = std::fs::read_to_string(here().join("umcg.map")).expect("the map");
    for name in map.lines().filter_map(|line| line.trim().strip_suffix(';')) {
        if name.starts_with("umcg_") {
            let versioned = format!(" {name}@@UMCG_1.0");
            assert!(symbols.contains(&versioned), "{name} is missing: {symbols}");
        }
    }
    let strangers = symbols.lines().filter(|line| !line.contains("UMCG_1.0"));
    assert_eq!(strangers.collect::<Vec<_>>(), [""; 0]);
    let program = folder.join("hello");
    compile(
        "examples/hello.c",
        &program,
        &[library.to_str().expect("a path")],
    );
    let text = output(Command::new(program).env("LD_LIBRARY_PATH", &folder));
    assert!(text.ends_with("done\n"), "{text}");
}

#[test]
fn c_signals_preempt_hogs() {
    let program = built_static("examples/signals");
    for signal in ["SIGALRM", "SIGPROF", "SIGVTALRM", "timer"] {
        let text = output(Command::new(&program).arg(signal));
        assert!(text.contains("both finished"), "{signal}: {text}");
    }
}

#[test]
fn c_list_names_the_members() {
    let text = output(&mut Command::new(built_static("tests/list")));
    assert_eq!(text, "ok\n");
}

#[test]
fn c_queue_has_the_order_of_the_groups_policy() {
    let text = output(&mut Command::new(built_static("tests/queue")));
    assert_eq!(text, "last came first\ndone\n");
}

#[test]
fn c_calls_answer_as_the_header_says() {
    let text = output(&mut Command::new(built_static("tests/calls")));
    assert_eq!(text, "all calls\ndone\n");
}

#[test]
fn c_header_declares_what_the_map_exports() {
    let header = std::fs::read_to_string(here().join("../umcg/include/umcg.h")).expect("it");
    let map = std::fs::read_to_string(here().join("umcg.map")).expect("the map");
    let mut exported = 0;
    for name in map.lines().filter_map(|line| line.trim().strip_suffix(';')) {
        if name.starts_with("umcg_") {
            assert!(
                header.contains(&format!("{name}(")),
                "{name} is not declared"
            );
            exported += 1;
        }
    }
    let defined = ["src/lib.rs", "src/list.rs", "src/queue.rs"].map(|path| {
        let source = std::fs::read_to_string(here().join(path)).expect("the source");
        source.matches("#[unsafe(no_mangle)]").count()
    });
    assert_eq!(defined.iter().sum::<usize>(), exported);
}
