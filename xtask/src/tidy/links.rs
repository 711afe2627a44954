//! Relative links in markdown lead to a file, and to a heading when they name one.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use crate::tidy::{Findings, SourceFile, Tree};

/// Links that lead nowhere.
pub fn links(tree: &Tree) -> Result<Findings> {
    let mut errors = Vec::new();
    for file in tree.files.iter().filter(|file| file.has_suffix(&[".md"])) {
        for (line, link) in targets(&file.text) {
            if let Some(why) = broken(tree, file, &link) {
                errors.push(format!("{}:{line}: {link}: {why}", file.path));
            }
        }
    }
    Ok(Findings::errors(errors))
}

fn broken(tree: &Tree, from: &SourceFile, link: &str) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let folder = Path::new(&from.path).parent().unwrap_or(Path::new(""));
    let path = if path.is_empty() {
        PathBuf::from(&from.path)
    } else {
        folder.join(path)
    };
    let Some(inside) = normal(&path) else {
        return Some("leads out of the repository");
    };
    let known = tree
        .files
        .iter()
        .find(|file| Path::new(&file.path) == inside);
    match known {
        None if tree.root.join(&inside).exists() => None,
        None => Some("no such file"),
        Some(file) if heading.is_empty() || !file.has_suffix(&[".md"]) => None,
        Some(file) if headings(&file.text).contains(heading) => None,
        Some(_) => Some("no such heading"),
    }
}

/// Resolves `..` without asking the file system.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// The lines outside fenced code, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((at + 1, line));
        }
    }
    lines
}

fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, line) in prose(text) {
        // Code between backticks is every second piece.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for piece in plain.split("](").skip(1) {
            if let Some((target, _)) = piece.split_once(')') {
                let path = target.split_whitespace().next().unwrap_or_default();
                found.push((at, path.to_owned()));
            }
        }
        if let Some((_, target)) = plain
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
        {
            found.push((at, target.trim().to_owned()));
        }
    }
    found
}

/// The names that headings get on a forge: lower case, `-` for blanks, other marks dropped.
fn headings(text: &str) -> HashSet<String> {
    let mut slugs = HashSet::new();
    for (_, line) in prose(text)
        .into_iter()
        .filter(|(_, line)| line.starts_with('#'))
    {
        let title = line.trim_start_matches('#').trim();
        let keep = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let slug: String = title.chars().filter(keep).collect();
        let slug = slug.to_lowercase().replace(' ', "-");
        let numbered = (1..).map(|n| format!("{slug}-{n}"));
        let free = std::iter::once(slug.clone())
            .chain(numbered)
            .find(|s| !slugs.contains(s));
        slugs.extend(free);
    }
    slugs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let other = ("docs/b.md", "# A Title: with `code`\n# Twice\n# Twice\n");
        let tree = Tree::of(&[
            ("docs/a.md", text),
            other,
            ("README.md", "# Top\n"),
            ("src/x.rs", ""),
        ]);
        links(&tree).unwrap().errors
    }

    #[test]
    fn links_that_resolve() {
        let text = "# Here\n[a](b.md) [b](../README.md#top) [c](https://x/y) [d](#here)\n\
                    [e](b.md#a-title-with-code) [f](b.md#twice-1) [g](../src/x.rs \"t\") `[h](no)`\n\
                    ```\n[i](none.md)\n```\n[r]: b.md\n";
        assert_eq!(errors(text), [""; 0]);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for bad in [
            "none.md",
            "b.md#none",
            "#none",
            "../../x",
            "/README.md",
            "../x.md",
        ] {
            let found = errors(&format!("x\n[a]({bad})\n"));
            assert_eq!(found.len(), 1, "{bad}");
            assert!(
                found[0].starts_with(&format!("docs/a.md:2: {bad}: ")),
                "{found:?}"
            );
        }
        assert_eq!(errors("[r]: none.md\n").len(), 1);
    }
}
