//! Errors: what was asked for, what there is, and what was probably meant.

use std::error::Error;
use std::fmt;

use crate::{Decide, NAMES};

/// A policy that [`create`](crate::create) cannot make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownPolicy {
    name: String,
    // What was asked for and what it can do, if the name is known.
    decide: Option<(Decide, Decide)>,
}

/// What is wrong with the request, for callers that tell the cases apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// No policy has this name.
    Name,
    /// The policy exists, but cannot decide that way.
    Decide,
}

impl UnknownPolicy {
    pub(crate) fn name(name: &str) -> Self {
        UnknownPolicy {
            name: name.to_owned(),
            decide: None,
        }
    }

    pub(crate) fn decide(name: &str, asked: Decide, can: Decide) -> Self {
        UnknownPolicy {
            name: name.to_owned(),
            decide: Some((asked, can)),
        }
    }

    /// Which of the two is wrong.
    pub fn kind(&self) -> ErrorKind {
        match self.decide {
            None => ErrorKind::Name,
            Some(_) => ErrorKind::Decide,
        }
    }
}

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        if let Some((asked, can)) = self.decide {
            return write!(f, "policy {name:?}: cannot decide {asked}; can: {can}");
        }
        write!(f, "policy {name:?}: unknown; known: {}", NAMES.join(", "))?;
        match closest(name) {
            Some(meant) => write!(f, "; did you mean {meant}?"),
            None => Ok(()),
        }
    }
}

impl Error for UnknownPolicy {}

/// A text that is no [`Decide`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownDecide {
    text: String,
}

impl UnknownDecide {
    pub(crate) fn new(text: &str) -> Self {
        UnknownDecide {
            text: text.to_owned(),
        }
    }
}

impl fmt::Display for UnknownDecide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, key, staged) = (&self.text, Decide::Keyed, Decide::Staged);
        write!(f, "decide {text:?}: unknown; known: {key}, {staged}")
    }
}

impl Error for UnknownDecide {}

/// More typing errors than this and any guess is noise.
const MAX_EDITS: usize = 2;

fn closest(name: &str) -> Option<&'static str> {
    let by_edits = NAMES.iter().map(|&known| (edits(name, known), known));
    let (edits, known) = by_edits.min_by_key(|&(edits, _)| edits)?;
    (edits <= MAX_EDITS).then_some(known)
}

/// Levenshtein distance: insertions, deletions and replacements from `a` to `b`.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create;

    fn error(name: &str, decide: Option<Decide>) -> UnknownPolicy {
        create(name, decide, 4).expect_err(name)
    }

    #[test]
    fn error_unknown_name_lists_the_known() {
        let error = error("lottery", None);
        assert_eq!(error.kind(), ErrorKind::Name);
        let want = r#"policy "lottery": unknown; known: fair, fifo"#;
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn error_near_name_guesses_what_was_meant() {
        let fair = r#"policy "fiar": unknown; known: fair, fifo; did you mean fair?"#;
        assert_eq!(error("fiar", None).to_string(), fair);
        let text = error("fif", Some(Decide::Keyed)).to_string();
        assert!(text.ends_with("; did you mean fifo?"), "{text}");
        let text = error("fairness", None).to_string();
        assert!(!text.contains("mean"), "{text}");
        let text = error("", None).to_string();
        assert!(!text.contains("mean"), "{text}");
    }

    #[test]
    fn error_test_name_is_not_listed_but_checked() {
        let text = error("test-nothing", None).to_string();
        let want = r#"policy "test-nothing": unknown; known: fair, fifo"#;
        assert_eq!(text, want);
    }

    #[test]
    fn error_wrong_decide_is_another_error() {
        let error = error("fifo", Some(Decide::Keyed));
        assert_eq!(error.kind(), ErrorKind::Decide);
        let want = r#"policy "fifo": cannot decide key; can: staged"#;
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn error_odd_name_stays_on_one_line() {
        assert!(
            !error("a\nb\u{1b}[0m", None)
                .to_string()
                .contains(['\n', '\u{1b}'])
        );
    }

    #[test]
    fn error_decide_text_lists_the_known() {
        let error = "keyed".parse::<Decide>().expect_err("not a way to decide");
        let want = r#"decide "keyed": unknown; known: key, staged"#;
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn edits_small_words_are_counted() {
        for (a, b, n) in [
            ("fair", "fair", 0),
            ("fair", "", 4),
            ("", "fair", 4),
            ("fiar", "fair", 2),
            ("fairy", "fair", 1),
            ("foo", "fifo", 2),
            ("pid", "fifo", 3),
        ] {
            assert_eq!(edits(a, b), n, "{a} {b}");
            assert_eq!(edits(b, a), n, "{b} {a}");
        }
    }
}
