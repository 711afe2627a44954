//! What is wrong or doubtful in a configuration file, each with its place.

use std::fmt::Display;
use std::ops::Range;

/// Where something stands, from 1 on; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    place: Place,
    warning: bool,
    text: String,
}

/// All findings of one file.
#[derive(Debug)]
pub struct Findings {
    file: String,
    text: String,
    list: Vec<Finding>,
    /// Where the text is no TOML: what is read there after all says nothing.
    broken: Vec<Place>,
}

/// Longer values are cut in messages.
const QUOTED: usize = 60;

impl Findings {
    /// None yet, about `file`, which holds `text`.
    pub fn of(file: &str, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            list: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// The place of byte `at`.
    pub fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Place {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }

    /// What stands there, on one line and not too long.
    pub fn quote(&self, span: &Range<usize>) -> String {
        let text = self.text.get(span.clone()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        if line.len() == text.len() && line.chars().count() <= QUOTED {
            return line.to_owned();
        }
        line.chars().take(QUOTED).chain("...".chars()).collect()
    }

    /// Where `part` of `text` stands, the string whose value is at `span`: all of that, if it has
    /// escapes and so is no text of the file.
    pub fn part(&self, span: &Range<usize>, text: &str, part: &Range<usize>) -> Range<usize> {
        let value = self.text.get(span.clone()).unwrap_or_default();
        match value.find(text) {
            Some(at) => span.start + at + part.start..span.start + at + part.end,
            None => span.clone(),
        }
    }

    /// No TOML. To be told before what is read there.
    pub fn syntax(&mut self, span: &Range<usize>, text: &str) {
        self.add(span, false, text.to_owned());
        self.broken.push(self.place(span.start));
    }

    /// Something that cannot be used.
    pub fn error(&mut self, span: &Range<usize>, text: impl Into<String>) {
        self.add(span, false, text.into());
    }

    /// Something that can be used and is hardly meant.
    pub fn warn(&mut self, span: &Range<usize>, text: impl Into<String>) {
        self.add(span, true, text.into());
    }

    fn add(&mut self, span: &Range<usize>, warning: bool, text: String) {
        let place = self.place(span.start);
        if self.broken.contains(&place) {
            return;
        }
        self.list.push(Finding {
            place,
            warning,
            text: text.replace(char::is_control, " "),
        });
    }

    /// How many of them make the file useless.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|f| !f.warning).count()
    }

    /// One line per finding, in the order of the file.
    pub fn told(&self) -> Vec<String> {
        let mut list: Vec<&Finding> = self.list.iter().collect();
        list.sort();
        let tell = |f: &Finding| {
            let Place { line, column } = f.place;
            let kind = if f.warning { "warning: " } else { "" };
            format!("{}:{line}:{column}: {kind}{}", self.file, f.text)
        };
        list.into_iter().map(tell).collect()
    }
}

/// `; did you mean "x"?` for the known name that is nearest, if one is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = known
        .into_iter()
        .map(|name| (strsim::osa_distance(word, name), name))
        .min_by_key(|(edits, _)| *edits);
    match near {
        // More typing errors than letters that are right: a guess would be noise.
        Some((edits, name)) if edits <= 2 && 2 * edits < name.len().max(2) => {
            format!("; did you mean {name:?}?")
        }
        _ => String::new(),
    }
}

/// `a, b, c`.
pub fn listed<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|n| n.to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_counts_lines_and_characters() {
        let text = "a = 1\nü = \"ö\" # x\n\nend";
        let found = Findings::of("f", text);
        let place = |at| {
            let Place { line, column } = found.place(at);
            (line, column)
        };
        assert_eq!(place(0), (1, 1));
        assert_eq!(place(4), (1, 5));
        assert_eq!(place(text.find('"').unwrap()), (2, 5));
        assert_eq!(place(text.find('#').unwrap()), (2, 9));
        assert_eq!(place(text.find("end").unwrap()), (4, 1));
        assert_eq!(place(text.len()), (4, 4));
        assert_eq!(Findings::of("f", "").place(0), Place { line: 1, column: 1 });
        assert_eq!(found.quote(&(0..5)), "a = 1");
        assert_eq!(found.quote(&(0..8)), "a = 1...");
    }

    #[test]
    fn part_of_a_string_has_a_place_of_its_own_unless_it_has_escapes() {
        let text = r#"a = "x:y,z" b = "x\u003ay""#;
        let found = Findings::of("f", text);
        assert_eq!(&text[found.part(&(4..11), "x:y,z", &(2..3))], "y");
        let span = 16..text.len();
        assert_eq!(found.part(&span, "x:y", &(2..3)), span);
    }

    #[test]
    fn findings_come_in_the_order_of_the_file_one_line_each() {
        let mut found = Findings::of("c.toml", "a\nb\n");
        found.error(&(2..3), "second\nline");
        found.error(&(0..1), "first");
        found.warn(&(0..1), "doubtful");
        assert_eq!(
            found.told(),
            [
                "c.toml:1:1: first",
                "c.toml:1:1: warning: doubtful",
                "c.toml:2:1: second line"
            ]
        );
        assert_eq!(found.errors(), 2);
        let mut found = Findings::of("c.toml", "a\nb\n");
        found.syntax(&(2..3), "no TOML\nexpected x");
        found.error(&(2..3), "not a number");
        assert_eq!(found.told(), ["c.toml:2:1: no TOML expected x"]);
    }

    #[test]
    fn guess_is_made_only_when_a_name_is_near() {
        let known = ["fair", "fifo"];
        assert_eq!(did_you_mean("fiffo", known), r#"; did you mean "fifo"?"#);
        assert_eq!(did_you_mean("fiar", known), r#"; did you mean "fair"?"#);
        assert_eq!(did_you_mean("lottery", known), "");
        assert_eq!(did_you_mean("", known), "");
        assert_eq!(did_you_mean("x", ["y"]), "");
    }
}
