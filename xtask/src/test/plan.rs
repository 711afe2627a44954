//! Which VM tests there are and which of them share a boot: `umcg-vmtest --list`.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::vm::Vm;

/// Time for the boot itself, and a factor for a busy machine.
const BOOT_SECONDS: f64 = 120.0;
const SLACK: f64 = 4.0;

/// One test of the guest side.
#[derive(Debug, Clone, PartialEq)]
pub struct VmTest {
    /// Its name.
    pub name: String,
    /// How long it takes when all is well.
    pub seconds: f64,
}

/// The tests that share one boot.
#[derive(Debug, Clone, PartialEq)]
pub struct Boot {
    /// The boot word: labels and options, separated by commas.
    pub word: String,
    /// In the order of the list.
    pub tests: Vec<VmTest>,
}

impl Boot {
    /// Without `--full` and `--kernel` on the newest kernel alone: what these tests are about
    /// does not change with the kernel, and the gate runs them on all.
    pub fn is_for_newest(&self) -> bool {
        self.word.split(',').any(|part| part == "newest")
    }
}

/// Reads the list; keeps tests whose name contains `filter`, in boots by first appearance.
pub fn parse(list: &str, filter: Option<&str>) -> Result<Vec<Boot>> {
    let mut boots: Vec<Boot> = Vec::new();
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        let (word, test) = parse_line(line)
            .with_context(|| format!("umcg-vmtest --list: {line:?}; must be NAME BOOT SECONDS"))?;
        if filter.is_some_and(|filter| !test.name.contains(filter)) {
            continue;
        }
        match boots.iter_mut().find(|boot| boot.word == word) {
            Some(boot) => boot.tests.push(test),
            None => boots.push(Boot {
                word,
                tests: vec![test],
            }),
        }
    }
    Ok(boots)
}

fn parse_line(line: &str) -> Option<(String, VmTest)> {
    let mut fields = line.split_whitespace();
    let (name, word) = (fields.next()?.to_owned(), fields.next()?.to_owned());
    let seconds: f64 = fields.next()?.parse().ok()?;
    let sane = seconds.is_finite() && seconds >= 0.0 && fields.next().is_none();
    sane.then_some((word, VmTest { name, seconds }))
}

/// How long a boot with these tests may take.
pub fn timeout(tests: &[VmTest]) -> Duration {
    let sum: f64 = tests.iter().map(|test| test.seconds).sum();
    Duration::from_secs_f64(sum * SLACK + BOOT_SECONDS)
}

/// Applies a boot word to `vm`. A part without `=` that is no option is a label.
pub fn configure(vm: &mut Vm, word: &str) -> Result<()> {
    for part in word.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let number = || {
            value
                .parse()
                .with_context(|| format!("boot word {word}: {part}"))
        };
        match key {
            "icount" if value.is_empty() => vm.icount = true,
            "cpus" => vm.cpus = number()?,
            "disk" => vm.disk_mb = Some(u64::from(number()?)),
            "mem" => value.clone_into(&mut vm.mem),
            "topology" => {
                let shape = crate::vm_task::parse_topology(value).map_err(anyhow::Error::msg)?;
                (vm.cpus, vm.topology) = (shape.0 * shape.1 * shape.2, Some(shape));
            }
            "append" => vm.append.push(value.to_owned()),
            _ if !part.contains('=') => {}
            _ => bail!(
                "boot word {word}: {part}; options are cpus=, topology=, mem=, disk=, append=, icount"
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "vm_a cpus=2 3\nvm_b cpus=4,icount 1.5\n\nvm_ab cpus=2 10\n";

    #[test]
    fn parse_groups_by_boot_word_in_order() {
        let boots = parse(LIST, None).unwrap();
        let names = |i: usize| {
            boots[i]
                .tests
                .iter()
                .map(|t| t.name.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (boots.len(), names(0), names(1)),
            (2, vec!["vm_a", "vm_ab"], vec!["vm_b"])
        );
        assert_eq!(timeout(&boots[0].tests), Duration::from_secs(13 * 4 + 120));
    }

    #[test]
    fn is_for_newest_by_label() {
        let boots = parse("vm_a newest,icount 1\nvm_b newests 1\n", None).unwrap();
        assert!(boots[0].is_for_newest() && !boots[1].is_for_newest());
    }

    #[test]
    fn parse_filter_is_a_substring_of_names_only() {
        assert_eq!(parse(LIST, Some("b")).unwrap().len(), 2);
        assert_eq!(parse(LIST, Some("vm_ab")).unwrap()[0].tests.len(), 1);
        assert!(parse(LIST, Some("cpus")).unwrap().is_empty());
    }

    #[test]
    fn parse_bad_line_is_named() {
        for line in [
            "vm_a",
            "vm_a b",
            "vm_a b x",
            "vm_a b 1 2",
            "vm_a b -1",
            "vm_a b inf",
        ] {
            let err = parse(line, None).unwrap_err().to_string();
            assert!(
                err.contains(line) && err.contains("NAME BOOT SECONDS"),
                "{err}"
            );
        }
    }

    #[test]
    fn configure_options_labels_and_unknown_keys() {
        let mut vm = Vm::new("7.3").unwrap();
        configure(&mut vm, "life,cpus=3,icount,mem=1G,disk=64,append=a=b").unwrap();
        assert_eq!(
            (vm.cpus, vm.icount, vm.mem.as_str(), vm.disk_mb),
            (3, true, "1G", Some(64))
        );
        assert_eq!(vm.append, ["a=b"]);
        configure(&mut vm, "topology=1:2:2").unwrap();
        assert_eq!((vm.cpus, vm.topology), (4, Some((1, 2, 2))));
        for bad in ["cpu=2", "cpus=x", "topology=2"] {
            let err = format!("{:#}", configure(&mut vm, bad).unwrap_err());
            assert!(err.contains(bad.split('=').next_back().unwrap()), "{err}");
        }
    }
}
