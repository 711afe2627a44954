//! The tables beside the source of the tests: what they name is there.

use std::fs;

use super::*;
use crate::bench::load;
use crate::proc;

/// The words of the text literals of a source file.
fn words(text: &str) -> Vec<&str> {
    let code = text.lines().filter(|it| !it.trim_start().starts_with("//"));
    let literals = code.flat_map(|line| line.split('"').skip(1).step_by(2));
    // A line that is printed as one text has its keys before a `=`.
    literals
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.split('=').next())
        .map(|word| word.trim_start_matches("{}_"))
        .collect()
}

/// What is left of `name` behind a word; a hole of formatting takes all of it.
fn behind<'a>(word: &str, name: &'a str) -> Option<&'a str> {
    let Some((first, _)) = word.split_once('{') else {
        return name.strip_prefix(word);
    };
    let left = name.strip_prefix(first)?;
    // Few letters and a hole would be any name.
    (first.len() >= 3 || (!first.is_empty() && left.len() <= 2)).then_some("")
}

/// A name is one word, or two with `_` between them.
fn prints(words: &[&str], name: &str) -> bool {
    let is_word = |name: &str| words.iter().any(|word| behind(word, name) == Some(""));
    let is_two = |word: &&str| {
        let rest = behind(word, name).and_then(|left| left.strip_prefix('_'));
        rest.is_some_and(is_word)
    };
    is_word(name) || words.iter().any(is_two)
}

#[test]
fn rows_name_tests_and_figures_that_exist() {
    let dir = proc::repo().join("tests/src");
    let read = |path| fs::read_to_string(path).unwrap();
    let files = fs::read_dir(dir.join("tests")).unwrap();
    let files: Vec<_> = files.map(|file| read(file.unwrap().path())).collect();
    let shared = ["beside.rs", "leak.rs", "tests/churn_cast.rs"];
    let beside = shared.map(|file| read(dir.join(file))).concat();
    let mut wrong = Vec::new();
    for claim in all() {
        let (name, test) = (claim.name, claim.test);
        let Some(text) = files.iter().find(|it| it.contains(&format!("\"{test}\""))) else {
            wrong.push(format!("{name}: no test {test}"));
            continue;
        };
        let words = [words(text), words(&beside)].concat();
        let mut used = vec![claim.value];
        used.extend(claim.beside.map(|(_, from)| from));
        if let Ease::Or(from) | Ease::Plus(from) = claim.ease {
            used.push(from);
        }
        for from in used {
            let (metric, only) = from.metric.split_once(' ').unwrap_or((from.metric, "x"));
            let keys = from.key.split('+').chain(only.split('=').next());
            for word in [metric].into_iter().chain(keys.filter(|key| *key != "x")) {
                if !prints(&words, word) {
                    wrong.push(format!("{name}: {test} prints no {word}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn prints_whole_names_alone() {
    let words = words(
        "m(\"bar_way\", &[(\"pipe\", 1)]); f(\"beside_{name}\"); g(\"s{i}\", \"{}_ends\");\n\
                       // \"comment\"\nprintln!(\"metric cost yield={y:.0}\");",
    );
    for name in [
        "pipe",
        "bar_way_pipe",
        "beside_fork",
        "s0",
        "cost",
        "yield",
        "pipe_ends",
    ] {
        assert!(prints(&words, name), "{name}");
    }
    for name in ["pip", "bar_way_hackbench", "comment", "share", "yields"] {
        assert!(!prints(&words, name), "{name}");
    }
}

#[test]
fn rows_have_names_of_their_own_and_a_bar_or_none() {
    let all: Vec<_> = all().collect();
    for (at, claim) in all.iter().enumerate() {
        let name = claim.name;
        // The command of a row is to take that one alone.
        let others = all.iter().enumerate().filter(|(i, _)| *i != at);
        let loads = load::units(true).into_iter().map(load::Unit::name);
        for other in others.map(|(_, it)| it.name.to_owned()).chain(loads) {
            assert!(!other.contains(name), "{name}, {other}");
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        assert!(name.chars().all(plain), "{name}");
        assert!(
            claim.bar.is_some() || matches!(claim.ease, Ease::None),
            "{name}"
        );
    }
    for wanted in ['A', 'B', 'C', 'D', 'E'] {
        assert!(
            all.iter().any(|it| issue(it.name) == Some(wanted)),
            "{wanted}"
        );
    }
    assert!(all.iter().any(|it| it.is_quick()) && all.iter().any(|it| !it.is_quick()));
}

#[test]
fn is_on_kernels_from_its_first_one_on() {
    let claim = all().find(|it| it.since == Some("7.2")).unwrap();
    let on: Vec<_> = crate::kernels::KNOWN
        .into_iter()
        .filter(|kernel| claim.is_on(kernel))
        .collect();
    assert_eq!(on, ["7.2", "7.3"]);
}

#[test]
fn check_unknown_name_tells_the_nearest_and_all() {
    let rows = ["messaging", "pipe"];
    let names = |name: &str| [name.to_owned()];
    assert!(check(&names("pip"), &rows).is_ok() && check(&[], &rows).is_ok());
    let err = check(&names("mesaging"), &rows).unwrap_err().to_string();
    assert_eq!(
        err,
        "mesaging: no row has that in its name; did you mean messaging? there are messaging, pipe"
    );
    assert!(is_asked(&[], "pipe") && is_asked(&names("pi"), "pipe"));
    assert!(!is_asked(&names("pi"), "messaging"));
}
