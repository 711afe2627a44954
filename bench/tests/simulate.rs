//! `umcg-bench simulate`: rows, exit codes, and one sentence for bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    let out = Command::new(env!("CARGO_BIN_EXE_umcg-bench"))
        .arg("simulate")
        .args(args)
        .output();
    out.expect("the command runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file of this test's own, gone with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("umcg-sim-{}-{name}", std::process::id()));
        fs::write(&path, text).expect("a scratch file");
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn run_prints_json_that_says_what_is_assumed() {
    let output = sim(&["run", "--cpus", "2", "--seconds", "0.05", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(report["cpus"], 2);
    assert!(report["throughput"].as_f64() > Some(0.0));
    let assumed = report["assumed"].as_array().expect("a list");
    assert!(assumed.iter().any(|key| key == "turn"));
}

#[test]
fn sweep_has_a_row_per_machine_in_both_forms() {
    let list = ["--cpus", "1,4", "--workers", "10,50", "--seconds", "0.02"];
    let csv = sim(&[&["sweep"], &list[..]].concat());
    let rows = stdout(&csv);
    let lines: Vec<_> = rows.lines().collect();
    assert_eq!(lines.len(), 5, "{rows}");
    assert!(lines[0].starts_with("load,policy,decide,cpus,workers,"));
    let json = sim(&[&["sweep", "--format", "json"], &list[..]].concat());
    for line in stdout(&json).lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(row["agent_share"].is_number());
    }
    assert_eq!(stdout(&json).lines().count(), 4);
}

#[test]
fn validate_tells_errors_in_percent_and_fails_beyond_the_bars() {
    let load = "request:rate=2000,service=exp:100us";
    let out = sim(&["run", "--load", load, "--workers", "50", "--json"]);
    let own: serde_json::Value = serde_json::from_str(&stdout(&out)).expect("JSON");
    let throughput = own["throughput"].as_f64().expect("a number");
    let row = |by: f64| {
        serde_json::json!({"load": load, "cpus": 1, "workers": 50, "kernel": "7.3",
            "throughput": throughput * by, "p99_us": own["responses"]["p99_us"]})
    };
    let rows = Scratch::new("rows", &format!("{}\n\n{}\n", row(1.0), row(2.0)));
    let out = sim(&["validate", rows.path(), "--json"]);
    assert!(out.status.success(), "{}", stderr(&out));
    let compared: Vec<serde_json::Value> = (stdout(&out).lines())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let off = |at: usize| {
        compared[at]["throughput_error_pct"]
            .as_f64()
            .expect("a number")
    };
    assert!(off(0).abs() < 1e-6 && (off(1) + 50.0).abs() < 1e-6);
    assert_eq!(compared[0]["p99_error_pct"], 0.0);
    let within = |pct: &str| sim(&["validate", rows.path(), "--within-throughput", pct]);
    assert_eq!(within("49").status.code(), Some(1));
    assert_eq!(within("51").status.code(), Some(0));
}

#[test]
fn costs_printed_are_costs_read() {
    let printed = stdout(&sim(&["costs"]));
    assert!(printed.contains("# assumed\nkeep = 1000.0"), "{printed}");
    let file = Scratch::new(
        "costs",
        &printed.replace("switch = 5153.0", "switch = 9000.0"),
    );
    let again = stdout(&sim(&["costs", "--costs", file.path()]));
    assert!(again.contains("# given: the file of costs\nswitch = 9000.0"));
}

#[test]
fn plot_writes_chart_and_tables_and_marks_what_was_not_measured() {
    let docs = std::env::temp_dir().join(format!("umcg-sim-docs-{}", std::process::id()));
    fs::create_dir_all(&docs).expect("a folder");
    let marks = "# Scale\n<!-- by `umcg-bench simulate plot`: -->\n<!-- end -->\nrest\n";
    fs::write(docs.join("scale.md"), marks).expect("a file");
    let missing = sim(&["plot", "--docs", "/nonexistent/docs"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("/nonexistent/docs/scale.md"));
    plot_here(&docs);
    let _ = fs::remove_dir_all(&docs);
}

fn plot_here(docs: &Path) {
    let out = sim(&["plot", "--quick", "--docs", docs.to_str().expect("plain")]);
    assert!(out.status.success(), "{}", stderr(&out));
    let text = fs::read_to_string(docs.join("scale.md")).expect("written");
    assert!(text.starts_with("# Scale\n") && text.ends_with("rest\n"));
    assert!(text.contains("| 16 |") && text.contains("| 1000 |"));
    assert!(text.contains("all of the above is extrapolation"));
    let svg = fs::read_to_string(docs.join("scale.svg")).expect("drawn");
    assert!(svg.matches("extrapolation").count() == 4);
}

#[test]
fn bad_input_is_one_sentence_and_exit_code_2() {
    let costs = Scratch::new("bad-costs", "[costs]\nswitch = -1\n");
    let rows = Scratch::new("bad-rows", "{\"load\": \"cpu\", \"cpus\": 1");
    let none = Scratch::new("none", "\n");
    let cases: [(&[&str], &str); 16] = [
        (&["run", "--cpus", "0"], "cpus 0: not within 1..=256"),
        (&["run", "--cpus", "257"], "cpus 257: not within 1..=256"),
        (
            &["run", "--workers", "0"],
            "workers 0: not within 1..=1000000",
        ),
        (&["run", "--workers", "1000001"], "not within 1..=1000000"),
        (&["run", "--stage", "65"], "stage 65: not within 1..=64"),
        (&["run", "--load", "disk"], "\"disk\": not cpu, sleepers"),
        (&["run", "--policy", "lottery"], "lottery"),
        (&["run", "--decide", "both"], "both"),
        (&["run", "--policy", "lifo", "--decide", "key"], "lifo"),
        (&["run", "--idle", "heap"], "\"heap\": not kernel, stack"),
        (&["run", "--seconds", "0"], "seconds 0: not within 0.001"),
        (&["run", "--costs", costs.path()], "costs.switch -1"),
        (
            &["sweep", "--cpus", "1,300"],
            "--cpus 300: not within 1..=256",
        ),
        (&["validate", rows.path()], ":1: not a measured row"),
        (&["validate", none.path()], "no rows; at least one"),
        (&["frobnicate"], "frobnicate"),
    ];
    for (args, part) in cases {
        let output = sim(args);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{args:?}: {told}");
        assert!(told.contains(part), "{args:?}: {told}");
    }
}
