//! Whole files: what is made of them, and the golden texts of what is wrong.

use super::cpus::{CpuSet, Machine};
use super::*;

/// Two caches of two CPUs, all of one kind.
fn machine() -> Machine {
    let set = |cpus: &[usize]| CpuSet(cpus.iter().copied().collect());
    Machine {
        possible: CpuSet::first(4),
        online: CpuSet::first(3),
        llcs: [(0, set(&[0, 1])), (1, set(&[2, 3]))].into(),
        nodes: [(0, CpuSet::first(4))].into(),
        ..Machine::default()
    }
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse("c.toml", text, &RunArgs::default(), &machine())
}

fn errors(text: &str) -> Vec<String> {
    parse(text).expect_err(text)
}

const GOOD: &str = r#"
[daemon]
policy = "fair"
slice_us = 3_000
stats = 2

[[group]]
name = "db"
match = { cgroup = "/system.slice/postgres*", uid = [0, "root"] }
cpus = "llc:1"
share = 300
quantum_us = 500

[[group]]
name = "batch"
match.comm = ["cc1*", "ld"]
match.uid = 1
preempt = false
idle = "mask"
"#;

#[test]
fn config_good_file_is_read_whole() {
    let config = parse(GOOD).unwrap();
    let d = &config.daemon;
    assert_eq!(
        (d.policy.as_str(), d.slice_us, d.stats),
        ("fair", 3000, Some(2.0))
    );
    assert_eq!(
        (d.timeout_ms, d.share, d.cpus.to_string().as_str()),
        (10_000, 100, "0-3")
    );
    let [db, batch] = &config.groups[..] else {
        panic!("{config:?}");
    };
    assert_eq!((db.name.as_str(), db.line, db.share), ("db", 7, 300));
    assert_eq!(
        (db.cpus.to_string().as_str(), db.slice_us, db.quantum_us),
        ("2-3", 3000, 500)
    );
    assert_eq!(db.rule.uid, [0, 0]);
    assert!(batch.rule.comm[0].holds("cc1plus") && !batch.preempt && db.preempt);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn config_flags_override_the_file_and_say_so() {
    let args = RunArgs {
        slice_us: Some(1000),
        ..RunArgs::default()
    };
    let config = Config::parse("c.toml", GOOD, &args, &machine()).unwrap();
    assert_eq!(config.daemon.slice_us, 1000);
    assert_eq!(config.groups[0].slice_us, 1000, "groups inherit what holds");
    let text = show::text(&config);
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
    assert!(line("slice_us = 1000").ends_with("# flag"), "{text}");
    assert!(line("timeout_ms = 10000").ends_with("# default"), "{text}");
    assert!(line("stats = 2").ends_with("# file:5"), "{text}");
    assert!(line("match = { cgroup").ends_with("# file:9"), "{text}");
    let groups = text.split_once("[[group]]").unwrap().1;
    assert!(
        groups.contains("slice_us = 1000                  # flag"),
        "{text}"
    );
}

#[test]
fn config_shown_is_a_file_that_says_the_same() {
    let shown = show::text(&parse(GOOD).unwrap());
    let again = show::text(&parse(&shown).unwrap());
    let values = |text: &str| -> Vec<String> {
        let value = |line: &str| {
            line.split(" # ")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        text.lines().map(value).collect()
    };
    assert_eq!(values(&shown), values(&again));
}

#[test]
fn config_empty_file_means_the_defaults() {
    let config = parse("").unwrap();
    assert!(config.groups.is_empty() && config.daemon.origins.is_empty());
}

/// Each kind of fault once, in one file: all are told, each at its place.
#[test]
fn config_wrong_file_tells_everything_at_once() {
    let text = r#"
slice_us = 5
[daemon]
polcy = "fair"
policy = "fiffo"
decide = "stage"
slice_us = 99
quantum_us = 50
stage = 8.5
timeout_ms = "10000"
partial = "true"
stats = 0
cpus = "0-4, bgi"
share = 0

[[group]]
name = "a b"
match = { comm = "a_name_that_is_too_long", cgroup = "system.slice", pid = 7 }
policy = "fair"
decide = "both"
idle = "stack"

[[group]]
match = 5
cpus = "llc:7"

[[group]]
name = "default"
preempt = 1

[[group]]
name = "lists"
match.comm = ["ok", "longer_than_16_bytes", "*_is_longer_too_than_it"]
match.cgroup = ["a", "/b", "c"]
match.uid = [0, 1.5, -1]
match.exe = []
policy = "quota:tiers=60/50, perod_ms=5,period_ms=1"
"#;
    let known_d = "policy, decide, slice_us, quantum_us, stage, timeout_ms, partial, \
                   ignore_cpu_max, stats, cpus, share, preempt";
    let names = umcg_policy::NAMES.join(", ");
    let want = [
        r#"2:1: key "slice_us": unknown in the file; known: daemon, group"#.to_owned(),
        format!(r#"4:1: key "polcy": unknown in [daemon]; known: {known_d}; did you mean "policy"?"#),
        format!(r#"5:10: policy = "fiffo": unknown; known: {names}; did you mean "fifo"?"#),
        r#"6:10: decide = "stage": unknown; known: key, staged; did you mean "staged"?"#.to_owned(),
        "7:12: slice_us = 99: not a whole number within 100..=100000".to_owned(),
        "8:14: quantum_us = 50: not 0 (off) or a whole number within 100..=100000".to_owned(),
        "9:9: stage = 8.5: not a whole number within 1..=64".to_owned(),
        r#"10:14: timeout_ms = "10000": not a whole number within 1000..=30000"#.to_owned(),
        r#"11:11: partial = "true": not true or false; did you mean true, without quotes?"#.to_owned(),
        "12:9: stats = 0: not within 0.1..=86400 seconds".to_owned(),
        r#"13:8: cpus = "0-4, bgi": "0-4": not all there; this machine has 0-3; "bgi": no CPUs; known: N, N-M, llc:N, node:N, all, big, little; did you mean "big"?"#.to_owned(),
        "14:9: share = 0: not a whole number within 1..=10000".to_owned(),
        r#"17:8: name = "a b": no name; 1 to 31 letters, digits, `_`, `.`, `-`"#.to_owned(),
        r#"18:18: comm = "a_name_that_is_too_long": "a_name_that_is_too_long" never matches; the kernel cuts names after 15 bytes; did you mean "a_name_that_is_"?"#.to_owned(),
        r#"18:54: cgroup = "system.slice": "system.slice" does not begin at the root; did you mean "/system.slice"?"#.to_owned(),
        r#"18:70: key "pid": unknown in match; known: cgroup, comm, uid, exe; did you mean "uid"?"#.to_owned(),
        r#"20:10: decide = "both": unknown; known: key, staged"#.to_owned(),
        r#"21:8: idle = "stack": unknown; known: mask"#.to_owned(),
        "23:1: group without a name; write name = \"...\"".to_owned(),
        "24:9: match = 5: no table".to_owned(),
        r#"25:8: cpus = "llc:7": "llc:7": not on this machine; it has llc:0, llc:1"#.to_owned(),
        "27:1: group without a match; write match = {} to take all threads".to_owned(),
        r#"28:8: name = "default": the name of all threads that no group takes; [daemon] is about default"#.to_owned(),
        "29:11: preempt = 1: not true or false".to_owned(),
        r#"33:21: comm = "longer_than_16_bytes": "longer_than_16_bytes" never matches; the kernel cuts names after 15 bytes; did you mean "longer_than_16_"?"#.to_owned(),
        r#"33:45: comm = "*_is_longer_too_than_it": "*_is_longer_too_than_it" never matches; the kernel cuts names after 15 bytes; did you mean "*_is_longer_too"?"#.to_owned(),
        r#"34:17: cgroup = "a": "a" does not begin at the root; did you mean "/a"?"#.to_owned(),
        r#"34:28: cgroup = "c": "c" does not begin at the root; did you mean "/c"?"#.to_owned(),
        "35:17: uid = 1.5: neither a number nor the name of a user".to_owned(),
        "35:22: uid = -1: not within 0..=4294967295".to_owned(),
        "36:13: exe = []: takes nothing; leave the key out to take all".to_owned(),
        r#"37:17: policy "quota": guaranteed shares 110 % in all; at most 100; lower some"#.to_owned(),
        r#"37:30: policy "quota": option "perod_ms": unknown; known: tiers, period_ms; did you mean period_ms?"#.to_owned(),
        r#"37:41: policy "quota": period_ms "1": not a whole number within 10..=10000"#.to_owned(),
    ];
    let want: Vec<String> = want
        .into_iter()
        .map(|line| format!("c.toml:{line}"))
        .collect();
    let got = errors(text);
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got, want);
    }
    assert_eq!(got.len(), want.len(), "{got:#?}");
}

#[test]
fn config_syntax_errors_do_not_hide_each_other_or_the_rest() {
    let got = errors("[daemon]\nslice_us = \npolicy = \"fiffo\"\nstage = 1 2\n[[group]\n");
    let at = |line: usize| {
        got.iter()
            .any(|text| text.starts_with(&format!("c.toml:{line}:")))
    };
    assert_eq!(
        got.iter()
            .filter(|text| text.starts_with("c.toml:2:"))
            .count(),
        1
    );
    assert!(at(2) && at(3) && at(4) && at(5), "{got:#?}");
    assert!(got.iter().all(|text| !text.contains('\n')), "{got:#?}");
}

#[test]
fn config_groups_that_hide_others_are_refused() {
    let text = r#"
[[group]]
name = "all"
match = { cgroup = "/a" }
[[group]]
name = "some"
match = { cgroup = "/a/b", comm = "x" }
[[group]]
name = "all"
match = {}
"#;
    let got = errors(text);
    let want = [
        "c.toml:7:9: group \"some\" gets no thread: group \"all\" of line 2 takes all that match; \
         the first match wins; put the narrower one first",
        "c.toml:9:8: name = \"all\": the group of line 2 has it",
    ];
    assert_eq!(got, want);
}

#[test]
fn config_doubtful_values_are_warned_of() {
    let text = r#"
[[group]]
name = "a"
match = { comm = "x*" }
quantum_us = 8000
cpus = "3"
[[group]]
name = "b"
match = { comm = "*y" }
[[group]]
name = "c"
match = { cgroup = "/c", comm = "z" }
[[group]]
name = "d"
match = { cgroup = "/d", uid = 5 }
"#;
    let want = [
        "c.toml:5:14: warning: quantum_us = 8000: has no effect, slice_us = 4000 ends first",
        "c.toml:6:8: warning: cpus = \"3\": none of them is online; all CPUs serve until one is",
        "c.toml:9:9: warning: may overlap with the match of group \"a\" of line 2, which gets what \
         both take",
        "c.toml:15:9: warning: may overlap with the match of group \"a\" of line 2, which gets what \
         both take",
        "c.toml:15:9: warning: may overlap with the match of group \"b\" of line 7, which gets what \
         both take",
    ];
    assert_eq!(parse(text).unwrap().warnings, want);
}

#[test]
fn config_policies_share_no_cpu() {
    let file = |rest: &str, group: &str| {
        format!(
            "[daemon]\ncpus = \"{rest}\"\n[[group]]\nname = \"g\"\nmatch = {{ comm = \"x\" }}\n\
             policy = \"fifo\"\ncpus = \"{group}\"\n"
        )
    };
    assert!(parse(&file("0-1", "2-3")).is_ok());
    let want = "c.toml:6:10: policy fifo (staged) of group \"g\" on CPUs 1: \"default\" has \
                fair (key) there; one CPU has one policy; give them different cpus, or one policy";
    assert_eq!(errors(&file("0-1", "1-2")), [want]);
    let got = errors("[daemon]\npolicy = \"fifo\"\ndecide = \"key\"\n");
    assert_eq!(
        got,
        ["c.toml:3:10: policy \"fifo\": cannot decide key; can: staged"]
    );
}

#[test]
fn config_options_of_a_policy_are_checked() {
    assert!(parse("[daemon]\npolicy = \"rr:slice_us=1000\"\n").is_ok());
    let all = "[daemon]\npolicy = \"quota:tiers=60/50\"\n[[group]]\nname = \"g\"\nmatch = {}\n\
               policy = \"rr:slice_us=5\"\n";
    let got = errors(all);
    let wants = [
        (
            "c.toml:2:17: policy \"quota\": guaranteed shares 110 %",
            "at most 100; lower some",
        ),
        (
            "c.toml:6:14: policy \"rr\": slice_us \"5\": ",
            "100..=100000",
        ),
    ];
    assert_eq!(got.len(), wants.len(), "{got:?}");
    for (line, (start, end)) in got.iter().zip(wants) {
        assert!(line.starts_with(start) && line.contains(end), "{line}");
    }
}

#[test]
fn config_example_of_the_docs_is_without_fault() {
    let text = include_str!("../../docs/config.example.toml");
    let config = parse(text).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    let names: Vec<_> = config.groups.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(names, ["db", "build"]);
    assert_eq!(
        (config.groups[0].share, config.groups[1].quantum_us),
        (300, 1000)
    );
}

#[test]
fn config_any_bytes_end_in_errors_or_values_never_in_a_panic() {
    let mut seed = 7u64;
    for _ in 0..3000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % bytes.len().max(1);
            match seed >> 60 {
                _ if bytes.is_empty() => bytes.push(b'['),
                0..6 => bytes[at] = b" \"[]{}=.\n'#\\,0aZ"[(seed >> 20) as usize % 16],
                6..11 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let path = Path::new("c.toml");
        match Config::from_bytes(path, &bytes, &RunArgs::default(), &machine()) {
            Ok(_) => {}
            Err(err) => {
                let text = err.to_string();
                assert!(
                    text.lines().all(|line| line.starts_with("c.toml:")),
                    "{text}"
                );
            }
        }
    }
}
