//! Errors: what was asked for, what there is, and what was probably meant.

use std::error::Error;
use std::fmt;

use crate::{Decide, NAMES};

/// A policy that [`create`](crate::create) cannot make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyError {
    policy: String,
    what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    Name,
    Decide {
        asked: Decide,
        can: Decide,
    },
    Form {
        option: String,
    },
    Option {
        key: String,
        known: &'static [&'static str],
    },
    Value {
        key: String,
        value: String,
        want: String,
    },
    Shares {
        sum_pct: u64,
    },
}

/// What is wrong with the request, for callers that tell the cases apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No policy has this name.
    Name,
    /// The policy exists, but cannot decide that way.
    Decide,
    /// The policy has no such option, or it is not of the form KEY=VALUE.
    Option,
    /// The option has no such value.
    Value,
    /// More than the whole was promised.
    Shares,
}

impl PolicyError {
    fn new(policy: &str, what: What) -> Self {
        PolicyError {
            policy: policy.to_owned(),
            what,
        }
    }

    pub(crate) fn name(name: &str) -> Self {
        Self::new(name, What::Name)
    }

    pub(crate) fn decide(name: &str, asked: Decide, can: Decide) -> Self {
        Self::new(name, What::Decide { asked, can })
    }

    pub(crate) fn form(name: &str, option: &str) -> Self {
        let option = option.to_owned();
        Self::new(name, What::Form { option })
    }

    pub(crate) fn option(name: &str, key: &str, known: &'static [&'static str]) -> Self {
        let key = key.to_owned();
        Self::new(name, What::Option { key, known })
    }

    pub(crate) fn value(name: &str, key: &str, value: &str, want: &str) -> Self {
        let (key, value, want) = (key.to_owned(), value.to_owned(), want.to_owned());
        Self::new(name, What::Value { key, value, want })
    }

    pub(crate) fn shares(name: &str, sum_pct: u64) -> Self {
        Self::new(name, What::Shares { sum_pct })
    }

    /// Which part of the request is wrong.
    pub fn kind(&self) -> ErrorKind {
        match self.what {
            What::Name => ErrorKind::Name,
            What::Decide { .. } => ErrorKind::Decide,
            What::Form { .. } | What::Option { .. } => ErrorKind::Option,
            What::Value { .. } => ErrorKind::Value,
            What::Shares { .. } => ErrorKind::Shares,
        }
    }

    fn no_option(
        &self,
        f: &mut fmt::Formatter<'_>,
        key: &str,
        known: &[&'static str],
    ) -> fmt::Result {
        let name = &self.policy;
        if known.is_empty() {
            return write!(f, "policy {name:?}: option {key:?}: unknown; it has none");
        }
        write!(
            f,
            "policy {name:?}: option {key:?}: unknown; known: {}",
            known.join(", ")
        )?;
        guess(f, key, known)
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.policy;
        match &self.what {
            What::Name => {
                write!(f, "policy {name:?}: unknown; known: {}", NAMES.join(", "))?;
                guess(f, name, NAMES)
            }
            What::Decide { asked, can } => {
                write!(f, "policy {name:?}: cannot decide {asked}; can: {can}")
            }
            What::Form { option } => {
                write!(f, "policy {name:?}: option {option:?}: not KEY=VALUE")
            }
            What::Option { key, known } => self.no_option(f, key, known),
            What::Value { key, value, want } => {
                write!(f, "policy {name:?}: {key} {value:?}: not {want}")
            }
            What::Shares { sum_pct } => write!(
                f,
                "policy {name:?}: guaranteed shares {sum_pct} % in all; at most 100; lower some"
            ),
        }
    }
}

fn guess(f: &mut fmt::Formatter<'_>, text: &str, known: &[&'static str]) -> fmt::Result {
    match closest(text, known) {
        Some(meant) => write!(f, "; did you mean {meant}?"),
        None => Ok(()),
    }
}

impl Error for PolicyError {}

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

fn closest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let by_edits = known.iter().map(|&known| (edits(name, known), known));
    let (edits, known) = by_edits.min_by_key(|&(edits, _)| edits)?;
    // All letters replaced is no likeness.
    (edits <= MAX_EDITS && edits < known.len()).then_some(known)
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

    fn error(name: &str, decide: Option<Decide>) -> PolicyError {
        create(name, decide, 4).expect_err(name)
    }

    fn unknown(name: &str) -> String {
        format!("policy {name:?}: unknown; known: {}", NAMES.join(", "))
    }

    #[test]
    fn error_unknown_name_lists_the_known() {
        let error = error("lottery", None);
        assert_eq!(error.kind(), ErrorKind::Name);
        assert_eq!(error.to_string(), unknown("lottery"));
    }

    #[test]
    fn error_near_name_guesses_what_was_meant() {
        let fair = unknown("fiar") + "; did you mean fair?";
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
        assert_eq!(text, unknown("test-nothing"));
    }

    #[test]
    fn error_wrong_decide_is_another_error() {
        let error = error("fifo", Some(Decide::Keyed));
        assert_eq!(error.kind(), ErrorKind::Decide);
        let want = r#"policy "fifo": cannot decide key; can: staged"#;
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn error_options_tell_key_value_and_what_is_allowed() {
        for (text, kind, want) in [
            (
                "fifo:slice_us=5",
                ErrorKind::Option,
                r#"policy "fifo": option "slice_us": unknown; it has none"#,
            ),
            (
                "rr:slice=5",
                ErrorKind::Option,
                r#"policy "rr": option "slice": unknown; known: slice_us"#,
            ),
            (
                "rr:slce_us=500",
                ErrorKind::Option,
                r#"policy "rr": option "slce_us": unknown; known: slice_us; did you mean slice_us?"#,
            ),
            (
                "rr:slice_us",
                ErrorKind::Option,
                r#"policy "rr": option "slice_us": not KEY=VALUE"#,
            ),
            (
                "rr:slice_us=5",
                ErrorKind::Value,
                r#"policy "rr": slice_us "5": not a whole number within 100..=100000"#,
            ),
            (
                "quota:tiers=60/50",
                ErrorKind::Shares,
                r#"policy "quota": guaranteed shares 110 % in all; at most 100; lower some"#,
            ),
        ] {
            let error = error(text, None);
            assert_eq!((error.kind(), error.to_string()), (kind, want.to_owned()));
        }
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
