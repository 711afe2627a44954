//! The program as a whole: what it says when it is asked for nonsense, and every load, short and
//! in futex-only mode.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use umcg_bench::LOADS;
use umcg_bench::row::{self, Row};

/// The program, where no daemon is to be found.
fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umcg-bench"));
    command
        .args(args)
        .env("UMCG_SOCKET", "/nowhere/client.sock");
    command.output().expect("it was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it says, in one line, with exit code 2.
fn refused(args: &[&str]) -> String {
    let output = bench(args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
    said
}

#[test]
fn unknown_bench_names_the_nearest_and_the_list() {
    let said = refused(&["run", "mesaging"]);
    assert!(
        said.starts_with("umcg-bench: mesaging: no such bench; did you mean messaging? there are "),
        "{said}"
    );
    for load in LOADS {
        assert!(said.contains(load.name), "{said}");
    }
    // Nothing runs if one of them is wrong.
    refused(&["run", "switch", "swich"]);
}

#[test]
fn bad_flags_are_refused_in_one_line() {
    for args in [
        &["run"][..],
        &["lst"],
        &["run", "switch", "--rounds", "0"],
        &["run", "switch", "--seconds", "-1"],
        &["run", "switch", "--seconds"],
        &["run", "switch", "--fast"],
    ] {
        assert!(
            refused(args).ends_with("see `umcg-bench --help`\n"),
            "{args:?}"
        );
    }
    assert!(refused(&[]).contains("no command; there are list, run and simulate"));
    let said = refused(&["run", "switch", "--rounds", "1001"]);
    assert!(said.contains("1001") && said.contains("1..=1000"), "{said}");
    let said = refused(&["run", "switch", "--json", "-", "--csv", "-"]);
    assert!(said.contains("--csv -: stdout has"), "{said}");
    let said = refused(&["run", "switch", "--csv", "/nowhere/rows.csv"]);
    assert!(
        said.contains("--csv /nowhere/rows.csv: cannot write it"),
        "{said}"
    );
}

#[test]
fn list_shows_every_load() {
    let output = bench(&["list"]);
    let names: Vec<String> = text(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    let want: Vec<_> = LOADS.iter().map(|load| load.name).collect();
    assert!(output.status.success());
    assert_eq!(names, want);
}

/// Loads want all CPUs: one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Rows of a load, and what it said.
fn rows(load: &str, seconds: &str) -> (Vec<Row>, String) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = |end: &str| -> PathBuf {
        let name = format!("umcg-bench-{}-{load}.{end}", std::process::id());
        std::env::temp_dir().join(name)
    };
    let (json, csv) = (path("json"), path("csv"));
    let files = [&json, &csv].map(|path| path.to_str().expect("a plain name"));
    let output = bench(&[
        "run",
        load,
        "--rounds",
        "2",
        "--seconds",
        seconds,
        "--json",
        files[0],
        "--csv",
        files[1],
    ]);
    let said = text(&output.stdout);
    assert!(
        output.status.success(),
        "{load}: {said}{}",
        text(&output.stderr)
    );
    assert!(said.contains("futex only: no daemon"), "{said}");
    // No terminal, no progress.
    assert_eq!(text(&output.stderr), "", "{load}");
    let set = row::read(&std::fs::read(&json).expect("it was made")).expect("rows");
    let lines = std::fs::read_to_string(&csv).expect("it was made");
    for path in [json, csv] {
        std::fs::remove_file(path).expect("it is there");
    }
    assert!(!set.partial);
    let below_head = lines.lines().count().saturating_sub(1);
    assert_eq!(below_head, set.rows.len(), "{load}: {lines}");
    for row in &set.rows {
        let (low, high) = row.spread;
        let judged = row.ratio.unwrap_or(row.value);
        assert!(
            row.value >= 0.0 && low <= judged && judged <= high,
            "{row:?}"
        );
        assert!(
            row.n == 2 && row.bar.is_none() && row.pass.is_none(),
            "{row:?}"
        );
    }
    (set.rows, said)
}

/// The names without what they ran under, of rows that have a time above zero.
fn names(load: &str, seconds: &str) -> Vec<String> {
    let (rows, _) = rows(load, seconds);
    let names: Vec<String> = rows
        .iter()
        .map(|row| {
            let (name, under) = row.name.split_once('@').expect("what it ran under");
            assert!(
                !under.is_empty() && (row.unit != "ns" || row.value > 0.0),
                "{row:?}"
            );
            name.to_owned()
        })
        .collect();
    let of = |name: &String| names.iter().filter(|it| *it == name).count();
    // Rows are kept by their names.
    assert!(names.iter().all(|name| of(name) == 1), "{names:?}");
    names
}

fn has(names: &[String], want: &[&str]) {
    for want in want {
        assert!(
            names.iter().any(|name| name == want),
            "no {want} in {names:?}"
        );
    }
}

#[test]
fn switch_has_each_way_pinned_and_free() {
    let names = names("switch", "0.02");
    let ways = ["futex", "pipe", "yield", "worker", "server"];
    let want: Vec<String> = ["pinned", "free"]
        .into_iter()
        .flat_map(|place| ways.map(|way| format!("switch.{place}.{way}")))
        .collect();
    assert_eq!(names, want);
}

#[test]
fn wake_has_percentiles_of_both() {
    let names = names("wake", "0.1");
    has(
        &names,
        &[
            "wake.futex.p50",
            "wake.futex.max",
            "wake.worker.p50",
            "wake.worker.max",
        ],
    );
}

#[test]
fn block_is_not_here_without_the_kernel() {
    let (rows, said) = rows("block", "0.02");
    assert!(rows.is_empty());
    assert!(said.contains("block: not here: futex-only mode"), "{said}");
}

#[test]
fn preempt_has_percentiles_beside_a_hand_off() {
    let (rows, _) = rows("preempt", "0.3");
    let p50 = rows
        .iter()
        .find(|row| row.name == "preempt.worker.p50@futex-only");
    let p50 = p50.expect("it is there");
    assert!(
        p50.ref_name
            .as_deref()
            .is_some_and(|name| name.starts_with("futex@"))
    );
    assert!(p50.ratio.is_some_and(|ratio| ratio > 0.0), "{p50:?}");
}

#[test]
fn messaging_has_sockets_and_pipes() {
    let want = ["sockets", "pipes"]
        .into_iter()
        .flat_map(|over| ["threads", "workers"].map(|side| format!("messaging.{over}.{side}")));
    assert_eq!(names("messaging", "0.02"), want.collect::<Vec<_>>());
}

#[test]
fn request_has_three_services_and_sides() {
    let names = names("request", "0.1");
    for service in ["poisson", "bimodal", "heavy"] {
        for side in ["threads", "workers", "quantum"] {
            has(&names, &[&format!("request.{service}.{side}.p50")]);
            has(&names, &[&format!("request.{service}.{side}.max")]);
        }
    }
}

#[test]
fn pool_has_sleeps_and_files_on_three_pools() {
    let want = ["sleep", "file"].into_iter().flat_map(|job| {
        ["32-threads", "2-threads", "workers"].map(|side| format!("pool.{job}.{side}"))
    });
    assert_eq!(names("pool", "0.05"), want.collect::<Vec<_>>());
}

#[test]
fn hog_has_the_pairs_and_what_the_hog_got() {
    let names = names("hog", "0.1");
    for by in ["futex", "yield", "worker"] {
        has(
            &names,
            &[
                &format!("hog.{by}.hand-off"),
                &format!("hog.{by}.hog-share"),
            ],
        );
    }
}

#[test]
fn over_has_each_degree() {
    let names = names("over", "0.2");
    for degree in [1, 4, 16] {
        for side in ["threads", "workers"] {
            has(&names, &[&format!("over.{degree}.{side}.piece")]);
        }
    }
}

#[test]
fn rows_on_stdout_are_alone_there() {
    let output = bench(&[
        "run",
        "wake",
        "--rounds",
        "1",
        "--seconds",
        "0.02",
        "--json",
        "-",
    ]);
    let set = row::read(&output.stdout).expect("rows and nothing else");
    assert!(output.status.success() && !set.partial && !set.rows.is_empty());
    assert!(text(&output.stderr).contains("wake.worker.p50@futex-only"));
}

/// A run that is killed leaves whole rows behind, and maybe a piece.
#[test]
fn rows_of_a_run_that_was_killed_are_kept() {
    let path = std::env::temp_dir().join(format!("umcg-bench-{}-killed.json", std::process::id()));
    let file = path.to_str().expect("a plain name");
    let mut command = Command::new(env!("CARGO_BIN_EXE_umcg-bench"));
    command
        .args([
            "run",
            "all",
            "--rounds",
            "1",
            "--seconds",
            "0.01",
            "--json",
            file,
        ])
        .env("UMCG_SOCKET", "/nowhere/client.sock")
        .stdout(std::process::Stdio::null());
    let mut child = command.spawn().expect("it was built");
    let read = || row::read(&std::fs::read(&path).unwrap_or_default()).expect("rows");
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while read().rows.is_empty() && std::time::Instant::now() < patience {
        std::thread::yield_now();
    }
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    let set = read();
    std::fs::remove_file(&path).expect("it was made");
    assert!(
        set.rows[0].name.starts_with("switch.pinned.futex@"),
        "{:?}",
        set.rows
    );
}
