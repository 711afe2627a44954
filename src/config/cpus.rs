//! Sets of CPUs, and the words that choose them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use scx_utils::{CoreType, Topology};

use super::findings::{did_you_mean, listed};

/// CPUs by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(pub BTreeSet<usize>);

impl CpuSet {
    /// The first `count` CPUs.
    pub fn first(count: usize) -> Self {
        Self((0..count).collect())
    }

    /// Is there a CPU in both?
    pub fn meets(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    /// Bit by CPU, in words of 64.
    pub fn words<const N: usize>(&self) -> [u64; N] {
        let mut words = [0; N];
        for &cpu in &self.0 {
            if let Some(word) = words.get_mut(cpu / 64) {
                *word |= 1u64 << (cpu % 64);
            }
        }
        words
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for &cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let range = |&(first, last): &(usize, usize)| match last - first {
            0 => first.to_string(),
            _ => format!("{first}-{last}"),
        };
        f.write_str(&ranges.iter().map(range).collect::<Vec<_>>().join(","))
    }
}

/// The CPUs of a machine, by what can be asked of them.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// All that can ever be there.
    pub possible: CpuSet,
    /// Those that are there now; the others' caches and kinds are unknown.
    pub online: CpuSet,
    /// By number of the last-level cache.
    pub llcs: BTreeMap<usize, CpuSet>,
    /// By number of the NUMA node.
    pub nodes: BTreeMap<usize, CpuSet>,
    /// The fast ones, where there are two kinds.
    pub big: CpuSet,
    /// The others there.
    pub little: CpuSet,
}

const WORDS: [&str; 3] = ["all", "big", "little"];

impl Machine {
    /// This one. Without a topology only numbers and `all` can be used.
    pub fn this() -> Self {
        let count = *scx_utils::NR_CPU_IDS;
        let mut machine = Self {
            possible: CpuSet::first(count),
            ..Self::default()
        };
        let Ok(topology) = Topology::new() else {
            machine.online = machine.possible.clone();
            return machine;
        };
        for (&id, cpu) in &topology.all_cpus {
            machine.online.0.insert(id);
            machine.llcs.entry(cpu.llc_id).or_default().0.insert(id);
            machine.nodes.entry(cpu.node_id).or_default().0.insert(id);
            match cpu.core_type {
                CoreType::Big { .. } => machine.big.0.insert(id),
                CoreType::Little => machine.little.0.insert(id),
            };
        }
        if machine.big.0.is_empty() || machine.little.0.is_empty() {
            machine.big = CpuSet::default();
            machine.little = CpuSet::default();
        }
        machine
    }

    /// Looks anew, if CPUs have come or gone since.
    pub fn renew(&mut self) {
        let list = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        if let Ok(online) = scx_utils::read_cpulist(list.trim())
            && !self.online.0.iter().eq(&online)
        {
            *self = Self::this();
        }
    }

    /// The CPUs that `text` chooses: words, numbers and ranges, with commas between. All that is
    /// wrong with it, one sentence each.
    pub fn choose(&self, text: &str) -> Result<CpuSet, Vec<String>> {
        let mut set = CpuSet::default();
        let mut wrong = Vec::new();
        for part in text.split(',').map(str::trim) {
            match self.part(part) {
                Ok(cpus) => set.0.extend(&cpus.0),
                Err(text) => wrong.push(text),
            }
        }
        if wrong.is_empty() {
            Ok(set)
        } else {
            Err(wrong)
        }
    }

    fn part(&self, part: &str) -> Result<CpuSet, String> {
        match part {
            "all" => return Ok(self.possible.clone()),
            "big" => return self.kind(part, &self.big),
            "little" => return self.kind(part, &self.little),
            _ => {}
        }
        if let Some((word, number)) = part.split_once(':') {
            let map = match word {
                "llc" => &self.llcs,
                "node" => &self.nodes,
                _ => return Err(unknown(part, word, ["llc", "node"])),
            };
            let found = number.parse().ok().and_then(|n: usize| map.get(&n));
            return found.cloned().ok_or_else(|| {
                let known = map.keys().map(|n| format!("{word}:{n}"));
                format!("{part:?}: not on this machine; it has {}", listed(known))
            });
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
            return Err(unknown(part, part, WORDS));
        };
        if first > last {
            return Err(format!(
                "{part:?}: ends before it begins; write {last}-{first}"
            ));
        }
        let most = self.possible.0.last().copied().unwrap_or(0);
        if last > most {
            let what = if first == last {
                "no such CPU"
            } else {
                "not all there"
            };
            return Err(format!(
                "{part:?}: {what}; this machine has {}",
                self.possible
            ));
        }
        Ok(CpuSet((first..=last).collect()))
    }

    fn kind(&self, word: &str, set: &CpuSet) -> Result<CpuSet, String> {
        if set.0.is_empty() {
            return Err(format!(
                "{word:?}: all CPUs of this machine are of one kind; write \"all\""
            ));
        }
        Ok(set.clone())
    }
}

fn unknown<const N: usize>(part: &str, word: &str, near: [&str; N]) -> String {
    let guess = did_you_mean(word, near);
    format!(
        "{part:?}: no CPUs; known: N, N-M, llc:N, node:N, {}{guess}",
        WORDS.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        CpuSet(cpus.iter().copied().collect())
    }

    fn machine() -> Machine {
        Machine {
            possible: CpuSet::first(8),
            online: CpuSet::first(7),
            llcs: [(0, set(&[0, 1, 2, 3])), (4, set(&[4, 5, 6]))].into(),
            nodes: [(0, CpuSet::first(7))].into(),
            big: set(&[0, 1]),
            little: set(&[2, 3, 4, 5, 6]),
        }
    }

    #[test]
    fn cpus_are_chosen_by_numbers_and_words() {
        for (text, want) in [
            ("0", "0"),
            ("0-3", "0-3"),
            ("5, 1-2,0", "0-2,5"),
            ("llc:4", "4-6"),
            ("llc:0,7", "0-3,7"),
            ("node:0", "0-6"),
            ("big", "0-1"),
            ("little,0", "0,2-6"),
            ("all", "0-7"),
        ] {
            assert_eq!(machine().choose(text).unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn cpus_that_are_none_are_told_all_at_once() {
        let told = |text| machine().choose(text).unwrap_err();
        let known = "known: N, N-M, llc:N, node:N, all, big, little";
        for (text, want) in [
            ("8", r#""8": no such CPU; this machine has 0-7"#.to_owned()),
            (
                "4-9",
                r#""4-9": not all there; this machine has 0-7"#.to_owned(),
            ),
            (
                "3-1",
                r#""3-1": ends before it begins; write 1-3"#.to_owned(),
            ),
            (
                "llc:1",
                r#""llc:1": not on this machine; it has llc:0, llc:4"#.to_owned(),
            ),
            (
                "bgi",
                format!(r#""bgi": no CPUs; {known}; did you mean "big"?"#),
            ),
            (
                "lcl:0",
                format!(r#""lcl:0": no CPUs; {known}; did you mean "llc"?"#),
            ),
            ("", format!(r#""": no CPUs; {known}"#)),
            ("-1", format!(r#""-1": no CPUs; {known}"#)),
        ] {
            assert_eq!(told(text), [want]);
        }
        assert_eq!(told("8,bgi,0").len(), 2);
        let one_kind = Machine {
            little: CpuSet::default(),
            ..machine()
        };
        let text = one_kind.choose("little").unwrap_err().remove(0);
        assert!(text.contains("of one kind"), "{text}");
    }

    #[test]
    fn cpu_words_have_a_bit_for_each() {
        assert_eq!(set(&[0, 3, 64, 127, 700]).words::<2>(), [9, 1 | 1 << 63]);
        assert!(set(&[1, 2]).meets(&set(&[2])) && !set(&[1]).meets(&set(&[2])));
    }
}
