//! Whether KVM works here for stock kernels: /dev/kvm may exist and not do, so a boot tells.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::proc::say;
use crate::setup::Tools;
use crate::vm::{End, Vm};

const DEVICE: &str = "/dev/kvm";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// KVM boots in 2-4 s where it works; where it half works the guest hangs.
const PATIENCE: Duration = Duration::from_secs(40);

/// The verdict for this boot of the host, by booting once when there is none yet.
pub fn kvm_works(cache: &Path, tools: &Tools, vmlinuz: &Path, vm: &Vm) -> Result<bool> {
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .is_err()
    {
        return Ok(false);
    }
    let boot_id = fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
    let file = cache.join("kvm-verdict");
    let old = fs::read_to_string(&file).unwrap_or_default();
    if let Some(works) = verdict(&old, boot_id.trim()) {
        return Ok(works);
    }
    say(format_args!(
        "trying KVM (once per boot of this machine, {} s at most)",
        PATIENCE.as_secs()
    ));
    let mut probe = Vm::new(&vm.kernel)?;
    probe.timeout = Some(PATIENCE);
    probe.cwd = "/".into();
    let argv = [OsString::from("true")];
    let outcome = probe.boot(cache, tools, vmlinuz, true, &argv, &mut |_| Ok(()))?;
    let works = outcome.end == End::Exit(0);
    say(format_args!(
        "{}",
        if works {
            "KVM works"
        } else {
            "KVM does not work; using emulation"
        }
    ));
    let word = if works { "works" } else { "fails" };
    fs::write(&file, format!("{} {word}\n", boot_id.trim()))
        .with_context(|| format!("cannot write: {}", file.display()))?;
    Ok(works)
}

fn verdict(text: &str, boot_id: &str) -> Option<bool> {
    let (id, word) = text.trim().split_once(' ')?;
    match word {
        "works" if id == boot_id => Some(true),
        "fails" if id == boot_id => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_counts_for_its_boot_only() {
        assert_eq!(verdict("a works\n", "a"), Some(true));
        assert_eq!(verdict("a fails\n", "a"), Some(false));
        assert_eq!(verdict("a works\n", "b"), None);
        assert_eq!(verdict("", "a"), None);
        assert_eq!(verdict("a wor", "a"), None);
    }
}
