//! Each example runs to its end and says so.

#![cfg(not(loom))]

use std::process::Command;

fn run(name: &str) -> String {
    let test = std::env::current_exe().expect("a path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("it");
    let program = profile.join("examples").join(name);
    let output = Command::new(&program).output().expect("it was built");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}{errors}");
    assert!(text.ends_with("done\n"), "{name}: {text}{errors}");
    text
}

#[test]
fn example_hello_takes_turns() {
    let text = run("hello");
    let turns = text.lines().filter(|line| line.starts_with("worker"));
    assert_eq!(turns.count(), 6, "{text}");
}

#[test]
fn example_pool_runs_all_shapes() {
    assert_eq!(run("pool").matches("40 tasks").count(), 3);
}

#[test]
fn example_lockstep_is_repeatable() {
    assert_eq!(run("lockstep"), run("lockstep"));
}

#[test]
fn example_httpd_answers_all() {
    assert!(run("httpd").contains("64 requests"));
}

#[test]
fn example_hog_is_preempted_in_three_ways() {
    assert_eq!(run("hog").matches("was preempted").count(), 3);
}

#[test]
fn example_handoff_crosses_processes() {
    assert!(run("handoff").contains("10000 round trips"));
}

#[test]
fn example_sigalrm_forces_the_hogs_off() {
    assert!(run("sigalrm").contains("SIGALRM: the hogs were forced off"));
}

#[test]
fn example_sigprof_forces_the_hogs_off() {
    assert!(run("sigprof").contains("SIGPROF: the hogs were forced off"));
}

#[test]
fn example_sigvtalrm_forces_the_hogs_off() {
    assert!(run("sigvtalrm").contains("SIGVTALRM: the hogs were forced off"));
}

/// Lines without their indentation.
fn trimmed(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn example_tutorial_is_what_the_tutorial_shows() {
    assert!(run("tutorial").contains("three workers took turns"));
    let program = trimmed(include_str!("../examples/tutorial.rs"));
    let tutorial = include_str!("../../docs/library.md");
    let blocks = tutorial.split("```rust\n").skip(1);
    let blocks = blocks.filter_map(|it| it.split_once("```").map(|(code, _)| code));
    let mut seen = 0;
    for block in blocks.take(2) {
        let shown = block.lines().filter(|line| !line.starts_with("# "));
        let shown = trimmed(&shown.collect::<Vec<_>>().join("\n"));
        assert!(program.contains(&shown), "not in the program: {shown}");
        seen += 1;
    }
    assert_eq!(seen, 2);
}
