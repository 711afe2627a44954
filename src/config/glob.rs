//! Patterns of `match`: names of threads, programs and cgroups.
//!
//! `?` is one character but `/`, `*` any number of them: in the name of a thread any text, in
//! a path none with a `/`, where `**` is any text.

use std::fmt;

/// One step of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    One(char),
    /// `?`
    Any,
    /// `*`
    Run,
    /// `**`, or `*` where there are no paths
    All,
}

/// A pattern, and what it is about.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    steps: Vec<Step>,
    /// It holds for what is below a match as well: `/a` for `/a/b`.
    below: bool,
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl Glob {
    /// A pattern for text without parts, as the name of a thread.
    pub fn word(text: &str) -> Self {
        Self::new(text, false, false)
    }

    /// A pattern for the path of a file.
    pub fn file(text: &str) -> Self {
        Self::new(text, true, false)
    }

    /// A pattern for a cgroup and those below it.
    pub fn tree(text: &str) -> Self {
        let text = if text == "/" {
            text
        } else {
            text.trim_end_matches('/')
        };
        Self::new(text, true, true)
    }

    fn new(text: &str, path: bool, below: bool) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        for c in text.chars() {
            let step = match c {
                '*' if !path => Step::All,
                '*' => Step::Run,
                '?' => Step::Any,
                c => Step::One(c),
            };
            match (steps.last(), step) {
                (Some(Step::Run | Step::All), Step::Run) => {
                    steps.pop();
                    steps.push(Step::All);
                }
                (Some(Step::All), Step::All) => {}
                _ => steps.push(step),
            }
        }
        if below && text == "/" {
            // Everything is below the root.
            steps.push(Step::All);
        }
        Self {
            text: text.to_owned(),
            steps,
            below: below && text != "/",
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Characters that a match has at least.
    pub fn least(&self) -> usize {
        let fixed = |s: &&Step| matches!(s, Step::One(_) | Step::Any);
        self.steps.iter().filter(fixed).count()
    }

    /// Does `text` match?
    pub fn holds(&self, text: &str) -> bool {
        let symbols: Vec<Step> = text.chars().map(Step::One).collect();
        self.covers_steps(&symbols)
    }

    /// Is each text that `other` matches one that this one matches? False where it cannot tell.
    pub fn covers(&self, other: &Glob) -> bool {
        other.variants().iter().all(|text| self.covers_steps(text))
    }

    /// Is there a text that both match?
    pub fn meets(&self, other: &Glob) -> bool {
        let (a, b) = (self.variants(), other.variants());
        a.iter().any(|a| b.iter().any(|b| meet(a, b)))
    }

    fn covers_steps(&self, text: &[Step]) -> bool {
        self.variants().iter().any(|steps| cover(steps, text))
    }

    fn variants(&self) -> Vec<Vec<Step>> {
        let mut list = vec![self.steps.clone()];
        if self.below {
            list.push([&self.steps[..], &[Step::One('/'), Step::All]].concat());
        }
        list
    }
}

/// Does `pattern` take all of `text`, whose wildcards stand for themselves?
fn cover(pattern: &[Step], text: &[Step]) -> bool {
    let one = |p: Step, t: Step| match (p, t) {
        (Step::One(a), Step::One(b)) => a == b,
        (Step::Any, Step::One(c)) => c != '/',
        (Step::Any, Step::Any) => true,
        _ => false,
    };
    let many = |p: Step, t: Step| match p {
        Step::All => true,
        Step::Run => !matches!(t, Step::One('/') | Step::All),
        _ => false,
    };
    // row[j]: what was read of the pattern takes text[..j].
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for &p in pattern {
        let mut next = vec![false; text.len() + 1];
        for j in 0..=text.len() {
            let star = matches!(p, Step::All | Step::Run);
            next[j] = (star && row[j])
                || (j > 0 && star && next[j - 1] && many(p, text[j - 1]))
                || (j > 0 && !star && row[j - 1] && one(p, text[j - 1]));
        }
        row = next;
    }
    row[text.len()]
}

/// Is there a text that both take?
fn meet(a: &[Step], b: &[Step]) -> bool {
    let star = |s: Step| matches!(s, Step::All | Step::Run);
    // Of two steps that are taken together: can they be one character?
    let both = |x: Step, y: Step| match (x, y) {
        (Step::One(c), Step::One(d)) => c == d,
        (Step::One('/'), other) | (other, Step::One('/')) => other == Step::All,
        _ => true,
    };
    let mut row = vec![false; b.len() + 1];
    for i in 0..=a.len() {
        let mut next = vec![false; b.len() + 1];
        for j in 0..=b.len() {
            let x = (i > 0).then(|| a[i - 1]);
            let y = (j > 0).then(|| b[j - 1]);
            let empty_x = x.is_some_and(star) && row[j];
            let empty_y = y.is_some_and(star) && next[j - 1];
            let step = match (x, y) {
                (None, None) => true,
                (Some(x), Some(y)) if both(x, y) => {
                    row[j - 1] || (star(x) && next[j - 1]) || (star(y) && row[j])
                }
                _ => false,
            };
            next[j] = empty_x || empty_y || step;
        }
        row = next;
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_word_star_takes_slashes() {
        let glob = Glob::word("kworker/*:?");
        assert!(glob.holds("kworker/0:1") && glob.holds("kworker/u8/3:H"));
        assert!(!glob.holds("kworker/0:") && !glob.holds("a kworker/0:1"));
        assert!(Glob::word("*").holds("") && !Glob::word("").holds("x"));
        assert!(Glob::word("a**b").holds("ab") && Glob::word("*a*a*").holds("banana"));
    }

    #[test]
    fn glob_file_star_stays_in_its_part() {
        let glob = Glob::file("/usr/*/bin/x?");
        assert!(glob.holds("/usr/local/bin/xy"));
        assert!(!glob.holds("/usr/a/b/bin/xy") && !glob.holds("/usr/local/bin/x/"));
        assert!(Glob::file("/usr/**/xy").holds("/usr/a/b/xy"));
        assert!(!Glob::file("/usr/**/xy").holds("/usr/xy"));
    }

    #[test]
    fn glob_tree_holds_below() {
        let glob = Glob::tree("/system.slice/db-*/");
        for (path, want) in [
            ("/system.slice/db-1", true),
            ("/system.slice/db-1/a/b", true),
            ("/system.slice/db", false),
            ("/system.slice", false),
            ("/x/system.slice/db-1", false),
        ] {
            assert_eq!(glob.holds(path), want, "{path}");
        }
        assert!(Glob::tree("/").holds("/") && Glob::tree("/").holds("/a/b"));
    }

    #[test]
    fn glob_covers_what_is_narrower() {
        let tree = Glob::tree;
        assert!(tree("/a").covers(&tree("/a/b")) && tree("/a").covers(&tree("/a")));
        assert!(!tree("/a/b").covers(&tree("/a")) && !tree("/a").covers(&tree("/ab")));
        assert!(tree("/a*").covers(&tree("/ab/c*")) && tree("/").covers(&tree("/x")));
        assert!(Glob::word("p*").covers(&Glob::word("post*")));
        assert!(!Glob::word("post*").covers(&Glob::word("p*")));
        assert!(Glob::word("?b").covers(&Glob::word("?b")));
        assert!(!Glob::file("/a/*").covers(&Glob::file("/a/**")));
    }

    #[test]
    fn glob_meets_where_one_text_fits_both() {
        let word = Glob::word;
        assert!(word("a*").meets(&word("*b")) && word("a?c").meets(&word("ab*")));
        assert!(!word("a*").meets(&word("b*")) && !word("a?").meets(&word("abc")));
        assert!(word("*").meets(&word("")) && word("x").meets(&word("x")));
        assert!(Glob::tree("/a").meets(&Glob::tree("/*/c")));
        assert!(!Glob::tree("/a").meets(&Glob::tree("/b")));
        assert!(!Glob::file("/a/*").meets(&Glob::file("/a/b/c")));
        assert!(Glob::file("/a/**").meets(&Glob::file("/a/b/*")));
    }

    /// Against a plain search over all short texts: covers may be too careful, never wrong.
    #[test]
    fn glob_answers_agree_with_all_short_texts() {
        let parts = ["a", "/", "*", "?", "**"];
        let patterns: Vec<String> = (0..125)
            .map(|n| [parts[n % 5], parts[n / 5 % 5], parts[n / 25]].concat())
            .collect();
        let letters = ['a', 'b', '/'];
        let texts: Vec<String> = (0..5)
            .flat_map(|len| {
                (0..3usize.pow(len)).map(move |n| {
                    (0..len)
                        .map(|i| letters[n / 3usize.pow(i) % 3])
                        .collect::<String>()
                })
            })
            .collect();
        for a in &patterns {
            let a = Glob::file(a);
            for b in &patterns {
                let b = Glob::file(b);
                let common = texts.iter().any(|t| a.holds(t) && b.holds(t));
                assert!(!common || a.meets(&b), "{a:?} {b:?}");
                let counter = texts.iter().find(|t| b.holds(t) && !a.holds(t));
                assert!(
                    !a.covers(&b) || counter.is_none(),
                    "{a:?} {b:?} {counter:?}"
                );
            }
        }
    }
}
