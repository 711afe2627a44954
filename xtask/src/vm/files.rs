//! The files that a run of a VM needs on the host.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::proc::{self, say};
use crate::vm::Vm;
use crate::vm::script::{self, Report};

/// The files of one run. In /tmp: the guest sees that folder as it is when it boots, and the
/// path is short enough for the socket that vng makes in it.
#[derive(Debug)]
pub struct Files {
    /// Holds the others, and what vng leaves.
    pub dir: PathBuf,
    /// Written by us, run in the guest.
    pub script: PathBuf,
    /// Written by the guest script through a virtio port.
    pub report: PathBuf,
    /// The guest kernel's log.
    pub console: PathBuf,
    /// QEMU's gdb port, a socket.
    pub gdb: PathBuf,
    /// The scratch disk.
    pub disk: Option<PathBuf>,
}

impl Files {
    /// Makes the folder, an empty configuration for virtme-ng, and the disk.
    pub fn create(vm: &Vm) -> Result<Self> {
        let made = proc::output(Command::new("mktemp").args(["-d", "/tmp/umcg-vm.XXXXXX"]))?;
        let dir = PathBuf::from(made.trim_end());
        let conf = dir.join(".config/virtme-ng");
        fs::create_dir_all(&conf)?;
        fs::write(conf.join("virtme-ng.conf"), "{}")?;
        let disk = vm.disk_mb.map(|_| dir.join("disk"));
        if let (Some(path), Some(mb)) = (&disk, vm.disk_mb) {
            let file = fs::File::create(path)?;
            let made = file.set_len(mb << 20);
            made.with_context(|| format!("cannot make a disk of {mb} MB: {}", path.display()))?;
        }
        let at = |name| dir.join(name);
        Ok(Self {
            script: at("script"),
            report: at("report"),
            console: at("console"),
            gdb: at("gdb"),
            disk,
            dir,
        })
    }

    /// What the guest has told so far.
    pub fn report(&self) -> Report {
        script::parse_report(&fs::read_to_string(&self.report).unwrap_or_default())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_dir_all(&self.dir)
            && err.kind() != std::io::ErrorKind::NotFound
        {
            say(format_args!("cannot remove {}: {err}", self.dir.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_with_their_owner() {
        let mut vm = Vm::new("7.3").unwrap();
        vm.disk_mb = Some(3);
        let files = Files::create(&vm).unwrap();
        let (dir, disk) = (files.dir.clone(), files.disk.clone().unwrap());
        assert_eq!(fs::metadata(disk).unwrap().len(), 3 << 20);
        assert_eq!(files.report(), Report::default());
        fs::write(&files.report, "started\nexit 3\n").unwrap();
        assert!(files.report().started && files.report().code == Some(3));
        drop(files);
        assert!(!dir.exists());
    }
}
