//! Reading values of one table of the file, each with a sentence when it is wrong.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Origin;
use super::findings::{Findings, did_you_mean, listed};

/// A value and where it stands.
pub type Value<'i> = Spanned<DeValue<'i>>;

/// One table: what was read of it, and from where.
#[derive(Debug)]
pub struct Section<'a, 'i> {
    table: &'a DeTable<'i>,
    /// Where each value that was read came from.
    pub origins: BTreeMap<&'static str, Origin>,
    /// And its place.
    pub spans: BTreeMap<&'static str, Range<usize>>,
}

impl<'a, 'i> Section<'a, 'i> {
    /// `table`, called `title`, whose keys are `known`.
    pub fn new(
        title: &str,
        table: &'a DeTable<'i>,
        known: &[&'static str],
        found: &mut Findings,
    ) -> Self {
        for (key, _) in table {
            let name = key.get_ref();
            if !known.contains(&name.as_ref()) {
                let guess = did_you_mean(name, known.iter().copied());
                let keys = listed(known);
                let text = format!("key {name:?}: unknown in {title}; known: {keys}{guess}");
                found.error(&key.span(), text);
            }
        }
        Self {
            table,
            origins: BTreeMap::new(),
            spans: BTreeMap::new(),
        }
    }

    /// The value of `key` as `read` takes it; a finding if it does not.
    pub fn get<T>(
        &mut self,
        key: &'static str,
        found: &mut Findings,
        read: impl FnOnce(&DeValue<'i>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.value(key, found)?;
        taken(key, value, read(value.get_ref()), found)
    }

    /// The values of `key`, one or a list of them; a finding for each that `read` does not take.
    pub fn each<T>(
        &mut self,
        key: &'static str,
        found: &mut Findings,
        read: impl Fn(&DeValue<'i>) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = self.value(key, found) else {
            return Vec::new();
        };
        let list = match value.get_ref().as_array() {
            Some(list) => &list[..],
            None => std::slice::from_ref(value),
        };
        if list.is_empty() {
            let nothing = "takes nothing; leave the key out to take all";
            taken::<T>(key, value, Err(nothing.to_owned()), found);
        }
        list.iter()
            .filter_map(|value| taken(key, value, read(value.get_ref()), found))
            .collect()
    }

    /// The value of `key`, which is from the file.
    fn value(&mut self, key: &'static str, found: &Findings) -> Option<&'a Value<'i>> {
        let value = self.table.get(key)?;
        self.spans.insert(key, value.span());
        let line = found.place(value.span().start).line;
        self.origins.insert(key, Origin::File(line));
        Some(value)
    }

    /// What holds of a flag, the file's value and the default.
    pub fn flag<T>(&mut self, key: &'static str, flag: Option<T>, file: Option<T>, or: T) -> T {
        if flag.is_some() {
            self.origins.insert(key, Origin::Flag);
        }
        flag.or(file).unwrap_or(or)
    }

    /// A table inside; a finding if it is something else.
    pub fn table(&mut self, key: &'static str, found: &mut Findings) -> Option<&'a DeTable<'i>> {
        let value = self.value(key, found)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            let text = format!("{key} = {}: no table", found.quote(&value.span()));
            found.error(&value.span(), text);
        }
        table
    }
}

/// What was `read` of `value`; a finding if that failed.
fn taken<T>(
    key: &str,
    value: &Value<'_>,
    read: Result<T, String>,
    found: &mut Findings,
) -> Option<T> {
    let text = match read {
        Ok(read) => return Some(read),
        Err(text) => text,
    };
    let quoted = found.quote(&value.span());
    found.error(&value.span(), format!("{key} = {quoted}: {text}"));
    None
}

/// A whole number within `range`, or 0 where that means off.
pub fn number(
    range: RangeInclusive<u64>,
    off: bool,
) -> impl FnOnce(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        let number = value.as_integer();
        let number = number.and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
        let (low, high) = (range.start(), range.end());
        match number {
            Some(n) if range.contains(&n) || (off && n == 0) => Ok(n),
            _ if off => Err(format!(
                "not 0 (off) or a whole number within {low}..={high}"
            )),
            _ => Err(format!("not a whole number within {low}..={high}")),
        }
    }
}

/// `true` or `false`.
pub fn switch(value: &DeValue<'_>) -> Result<bool, String> {
    match (value, value.as_str()) {
        (DeValue::Boolean(on), _) => Ok(*on),
        (_, Some(word @ ("true" | "false"))) => Err(format!(
            "not true or false; did you mean {word}, without quotes?"
        )),
        _ => Err("not true or false".to_owned()),
    }
}

/// Any text.
pub fn text(value: &DeValue<'_>) -> Result<String, String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| "no text; write it in quotes".to_owned())
}

/// One of `known`.
pub fn word<'k>(known: &'k [&'k str]) -> impl FnOnce(&DeValue<'_>) -> Result<String, String> + 'k {
    move |value| {
        let word = text(value)?;
        if known.contains(&word.as_str()) {
            return Ok(word);
        }
        let guess = did_you_mean(&word, known.iter().copied());
        Err(format!("unknown; known: {}{guess}", listed(known)))
    }
}

/// Seconds.
pub fn seconds(value: &DeValue<'_>) -> Result<f64, String> {
    let seconds = match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(int) => int.as_str().parse().ok(),
        _ => None,
    };
    match seconds {
        Some(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("not within 0.1..=86400 seconds".to_owned()),
    }
}
