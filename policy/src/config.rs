//! Which policy, how it decides, and its parameters: what a flag or a configuration file says.

use std::ops::Range;

use crate::error::PolicyError;
use crate::{Decide, Policy};
use crate::{arrival, bypid, deadline, fair, fifo, lifo, priority, quota, rr, weight};

/// What [`build`](PolicyConfig::build) makes a policy of.
///
/// ```
/// use umcg_policy::PolicyConfig;
///
/// let policy = PolicyConfig::new("rr").option("slice_us", "500").build(64)?;
/// assert_eq!(policy.name(), "rr");
/// // The same in one text, as the flag --policy takes it.
/// let policy = PolicyConfig::parse("rr:slice_us=500")?.build(64)?;
/// assert_eq!(policy.name(), "rr");
/// # Ok::<(), umcg_policy::PolicyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyConfig {
    name: String,
    decide: Option<Decide>,
    servers: u32,
    options: Vec<(String, String)>,
}

impl PolicyConfig {
    /// The policy `name` for one server, with its own defaults.
    pub fn new(name: &str) -> Self {
        PolicyConfig {
            name: name.to_owned(),
            decide: None,
            servers: 1,
            options: Vec::new(),
        }
    }

    /// Reads `NAME` or `NAME:KEY=VALUE,KEY=VALUE`.
    ///
    /// # Errors
    ///
    /// An option without a `=`. Names and values are looked at by [`build`](Self::build).
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let Some((name, options)) = text.split_once(':') else {
            return Ok(Self::new(text));
        };
        let mut config = Self::new(name);
        for option in options.split(',') {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| PolicyError::form(name, option))?;
            config = config.option(key.trim(), value.trim());
        }
        Ok(config)
    }

    /// Who decides; `None` = as the policy prefers.
    #[must_use]
    pub fn decide(mut self, decide: Option<Decide>) -> Self {
        self.decide = decide;
        self
    }

    /// How many servers pick from this instance; 1 unless set.
    #[must_use]
    pub fn servers(mut self, servers: u32) -> Self {
        self.servers = servers.max(1);
        self
    }

    /// Sets one parameter; what was set for `key` before is void.
    #[must_use]
    pub fn option(mut self, key: &str, value: &str) -> Self {
        self.options.retain(|(known, _)| known != key);
        self.options.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the policy, for workers with ids below `capacity`. Only this allocates.
    ///
    /// # Errors
    ///
    /// No policy has this name, or it cannot decide that way, or has no such option, or the
    /// option no such value, or its shares cannot be kept: [`PolicyError::kind`] tells which.
    pub fn build(&self, capacity: u32) -> Result<Box<dyn Policy>, PolicyError> {
        let entry = POLICIES
            .iter()
            .find(|entry| entry.name == self.name)
            .ok_or_else(|| PolicyError::name(&self.name))?;
        let decide = match self.decide {
            Some(asked) if asked != entry.preferred && Some(asked) != entry.other => {
                return Err(PolicyError::decide(entry.name, asked, entry.preferred));
            }
            asked => asked.unwrap_or(entry.preferred),
        };
        if let Some((key, _)) = self
            .options
            .iter()
            .find(|(key, _)| !entry.options.contains(&key.as_str()))
        {
            return Err(PolicyError::option(entry.name, key, entry.options));
        }
        (entry.make)(&Setup {
            policy: entry.name,
            decide,
            capacity,
            servers: self.servers,
            options: &self.options,
        })
    }
}

/// Makes the policy of `text`, a name or what [`PolicyConfig::parse`] reads, for workers with ids
/// below `capacity`.
///
/// `decide`: who decides, `None` = as the policy prefers.
///
/// # Errors
///
/// As [`PolicyConfig::build`].
pub fn create(
    text: &str,
    decide: Option<Decide>,
    capacity: u32,
) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyConfig::parse(text)?.decide(decide).build(capacity)
}

/// All that is wrong with `text`, which [`PolicyConfig::parse`] reads: the bytes of the name or of
/// an option, and what of it. Empty: [`create`] makes a policy of it.
pub fn faults(text: &str) -> Vec<(Range<usize>, PolicyError)> {
    let (name, options) = match text.split_once(':') {
        Some((name, options)) => (name, options),
        None => (text, ""),
    };
    if let Err(err) = create(name, None, 1) {
        return vec![(0..name.len(), err)];
    }
    if name == text {
        return Vec::new();
    }
    let key = |option: &str| option.split('=').next().map(|key| key.trim().to_owned());
    let (mut found, mut at) = (Vec::new(), name.len() + 1);
    let mut rest = options.split(',');
    while let Some(option) = rest.next() {
        let start = at + option.len() - option.trim_start().len();
        let place = start..start + option.trim().len();
        at += option.len() + 1;
        if rest.clone().any(|later| key(later) == key(option)) {
            continue;
        }
        // Alone: no option is about another one.
        if let Err(err) = create(&format!("{name}:{option}"), None, 1) {
            found.push((place, err));
        }
    }
    found
}

/// The keys that the policy `name` takes; `None`: there is no such policy.
pub fn options(name: &str) -> Option<&'static [&'static str]> {
    let entry = POLICIES.iter().find(|entry| entry.name == name)?;
    Some(entry.options)
}

/// What a constructor gets; the options have been looked at for unknown keys.
pub(crate) struct Setup<'a> {
    policy: &'static str,
    pub(crate) decide: Decide,
    pub(crate) capacity: u32,
    pub(crate) servers: u32,
    options: &'a [(String, String)],
}

impl Setup<'_> {
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        let (_, value) = self.options.iter().find(|(known, _)| known == key)?;
        Some(value)
    }

    /// A whole number within the bounds, or `default`.
    pub(crate) fn number(
        &self,
        key: &str,
        default: u64,
        low: u64,
        high: u64,
    ) -> Result<u64, PolicyError> {
        let Some(text) = self.text(key) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            _ => Err(self.bad(key, text, &format!("a whole number within {low}..={high}"))),
        }
    }

    pub(crate) fn bad(&self, key: &str, value: &str, want: &str) -> PolicyError {
        PolicyError::value(self.policy, key, value, want)
    }

    pub(crate) fn shares(&self, sum_pct: u64) -> PolicyError {
        PolicyError::shares(self.policy, sum_pct)
    }
}

type Make = fn(&Setup<'_>) -> Result<Box<dyn Policy>, PolicyError>;

/// What [`create`] knows of a policy. Agrees with its traits(): a test compares.
struct Entry {
    name: &'static str,
    preferred: Decide,
    other: Option<Decide>,
    options: &'static [&'static str],
    make: Make,
}

const fn entry(
    name: &'static str,
    (preferred, other): (Decide, Option<Decide>),
    options: &'static [&'static str],
    make: Make,
) -> Entry {
    Entry {
        name,
        preferred,
        other,
        options,
        make,
    }
}

const KEYED: (Decide, Option<Decide>) = (Decide::Keyed, None);
const STAGED: (Decide, Option<Decide>) = (Decide::Staged, None);
const KEYED_FIRST: (Decide, Option<Decide>) = (Decide::Keyed, Some(Decide::Staged));

const POLICIES: &[Entry] = &[
    entry("fair", KEYED_FIRST, &[], |s| {
        Ok(Box::new(fair::Fair::new(s.decide, s.capacity)))
    }),
    entry("fifo", STAGED, &[], |s| {
        Ok(Box::new(fifo::Fifo::new(s.capacity)))
    }),
    entry("lifo", STAGED, &[], |s| {
        Ok(Box::new(lifo::Lifo::new(s.capacity)))
    }),
    entry("rr", KEYED_FIRST, rr::OPTIONS, |s| {
        Ok(Box::new(rr::RoundRobin::make(s)?))
    }),
    entry("arrival", KEYED_FIRST, &[], |s| {
        Ok(Box::new(arrival::Arrival::new(s.decide, s.capacity)))
    }),
    entry("priority", STAGED, priority::OPTIONS, |s| {
        Ok(Box::new(priority::Priority::make(s)?))
    }),
    entry("deadline", STAGED, deadline::OPTIONS, |s| {
        Ok(Box::new(deadline::Deadline::make(s)?))
    }),
    entry("quota", STAGED, quota::OPTIONS, |s| {
        Ok(Box::new(quota::Quota::make(s)?))
    }),
    entry("test-pid", KEYED_FIRST, &[], |s| {
        Ok(Box::new(bypid::ByPid::new(s.decide, false, s.capacity)))
    }),
    entry("test-pid-reverse", KEYED_FIRST, &[], |s| {
        Ok(Box::new(bypid::ByPid::new(s.decide, true, s.capacity)))
    }),
    entry("test-weight", KEYED, &[], |s| {
        Ok(Box::new(weight::TestWeight::new(s.capacity)))
    }),
];

/// The policies for users, as [`create`] knows them. Those for tests (`test-...`) are left out.
pub const NAMES: &[&str] = &[
    "fair", "fifo", "lifo", "rr", "arrival", "priority", "deadline", "quota",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn create_known_names_make_what_was_asked() {
        for name in NAMES {
            let policy = create(name, None, 4).expect("a listed name");
            assert_eq!(policy.name(), *name);
            assert!(!name.starts_with("test-"));
            assert!(options(name).is_some());
        }
        let staged = create("fair", Some(Decide::Staged), 4).expect("fair can be staged");
        assert_eq!(staged.traits().decide, Decide::Staged);
        assert_eq!(options("lottery"), None);
    }

    #[test]
    fn create_lists_all_that_are_not_for_tests() {
        let known = POLICIES.iter().map(|entry| entry.name);
        let known: Vec<_> = known.filter(|name| !name.starts_with("test-")).collect();
        assert_eq!(known, NAMES);
    }

    #[test]
    fn create_without_decide_takes_the_preferred() {
        for entry in POLICIES {
            let traits = create(entry.name, None, 4).expect("listed").traits();
            assert_eq!(traits.decide, entry.preferred, "{}", entry.name);
        }
    }

    #[test]
    fn config_option_set_twice_counts_once() {
        let config = PolicyConfig::parse("rr:slice_us=1, slice_us = 700").expect("two options");
        assert_eq!(config.name(), "rr");
        assert!(config.build(4).is_ok(), "the first one is void");
    }

    #[test]
    fn faults_are_told_of_each_option_at_its_place() {
        let parts = |text: &'static str| -> Vec<(&str, ErrorKind)> {
            let told = |(at, err): (Range<usize>, PolicyError)| (&text[at], err.kind());
            faults(text).into_iter().map(told).collect()
        };
        let wrong = "quota:tiers=60/50, perod_ms=5,x ,period_ms=1";
        let want = [
            ("tiers=60/50", ErrorKind::Shares),
            ("perod_ms=5", ErrorKind::Option),
            ("x", ErrorKind::Option),
            ("period_ms=1", ErrorKind::Value),
        ];
        assert_eq!(parts(wrong), want);
        assert_eq!(parts("fiffo:x=1"), [("fiffo", ErrorKind::Name)]);
        assert_eq!(parts("fifo:"), [("", ErrorKind::Option)]);
        for right in ["fair", "rr:slice_us=1,slice_us=500", "quota:period_ms=50"] {
            assert_eq!(
                (parts(right), create(right, None, 1).is_ok()),
                (vec![], true)
            );
        }
    }
}
