//! Virtual machines: boots a stock kernel by virtme-ng and runs one command in it as root.
//!
//! ```text
//! xtask ── sh (own process group, dies with us) ── vng ── virtme-run ── qemu, virtiofsd
//!   ▲ stdout, stderr: pipes from the guest's virtio ports
//!   ▲ report file: the guest script writes "started", then "exit N", on a virtio port of ours
//!   ▲ console file: the kernel's warnings, on a second console
//!   ▼ gdb socket: stale breakpoints of the emulation are mended ([`mend`])
//! ```
//!
//! The command's exit code comes from the report alone. So a guest that died is told apart from
//! a command that failed, whatever vng's own exit code is.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::proc::{self, say};
use crate::{cache, kernels, setup};

mod accel;
mod files;
mod group;
mod lines;
mod mend;
mod script;

pub use lines::Lines;

use files::Files;

/// A guest that has not started its command by then never will; emulation takes 12-30 s.
const BOOT_TIMEOUT: Duration = Duration::from_secs(240);

/// vng does not wait until virtiofsd listens: QEMU may find nobody there, and ends at once.
const STARTS_WITHIN: Duration = Duration::from_secs(8);

/// After the command's exit the guest has this long to power off.
const POWEROFF_TIMEOUT: Duration = Duration::from_secs(20);

/// Folders of the host that the guest's init covers with file systems of its own.
const COVERED: [&str; 7] = [
    "/tmp",
    "/var/tmp",
    "/var/cache",
    "/var/log",
    "/run",
    "/dev/shm",
    "/var/lib/private",
];

/// Drivers that udev would load for devices of the emulated machine that nobody here uses:
/// a third of the time of an emulated boot.
const UNUSED: [&str; 10] = [
    "aesni_intel",
    "ahci",
    "button",
    "evdev",
    "ghash_clmulni_intel",
    "i6300esb",
    "kvm_amd",
    "kvm_intel",
    "qemu_fw_cfg",
    "serio_raw",
];

/// One virtual machine to boot.
#[derive(Debug, Clone)]
pub struct Vm {
    /// A series of [`kernels::KNOWN`].
    pub kernel: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Sockets, cores, threads; their product is `cpus`.
    pub topology: Option<(u32, u32, u32)>,
    /// Memory as QEMU takes it.
    pub mem: String,
    /// Size in MB of a scratch disk, `/dev/vda` in the guest.
    pub disk_mb: Option<u64>,
    /// More kernel arguments.
    pub append: Vec<String>,
    /// For the whole run, boot included.
    pub timeout: Option<Duration>,
    /// One guest instruction is one guest nanosecond; one CPU only.
    pub icount: bool,
    /// More environment for the command.
    pub env: Vec<(String, OsString)>,
    /// The command's working directory.
    pub cwd: PathBuf,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The command's own exit code.
    Exit(u8),
    /// The time was over.
    TimedOut,
    /// The guest ended without an exit code: a panic, a reset, or a boot that failed.
    Died {
        /// Whether the command had been started.
        booted: bool,
    },
}

/// What is known after a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The guest kernel's warnings and errors.
    pub console: String,
}

/// A piece of what the guest command printed.
#[derive(Debug)]
pub enum Piece<'a> {
    /// Its stdout.
    Out(&'a [u8]),
    /// Its stderr, and what vng and QEMU say.
    Err(&'a [u8]),
}

impl Vm {
    /// A VM with the defaults of `cargo xtask vm` and the caller's directory.
    pub fn new(kernel: &str) -> Result<Self> {
        Ok(Self {
            kernel: kernel.to_owned(),
            cpus: 2,
            topology: None,
            mem: "4G".to_owned(),
            disk_mb: None,
            append: Vec::new(),
            timeout: None,
            icount: false,
            env: Vec::new(),
            cwd: std::env::current_dir().context("cannot tell the current directory")?,
        })
    }

    /// Boots, runs `argv`, and hands over every piece of output as it comes. An error of `on`
    /// stops the guest and is returned.
    pub fn run(
        &self,
        argv: &[OsString],
        on: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<Outcome> {
        let cache = cache::dir()?;
        let tools = setup::vm_tools(&cache)?;
        let vmlinuz = kernels::ensure(&cache, &self.kernel)?;
        let kvm = !self.icount && accel::kvm_works(&cache, &tools, &vmlinuz, self)?;
        let start = Instant::now();
        let outcome = self.boot(&cache, &tools, &vmlinuz, kvm, argv, on)?;
        if outcome.end != (End::Died { booted: false }) || start.elapsed() > STARTS_WITHIN {
            return Ok(outcome);
        }
        say(format_args!("QEMU did not start; once more"));
        self.boot(&cache, &tools, &vmlinuz, kvm, argv, on)
    }

    /// As [`Vm::run`], with the guest's stdout line by line and its stderr on ours.
    pub fn run_streaming(
        &self,
        argv: &[OsString],
        on_line: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Outcome> {
        let mut lines = Lines::default();
        let outcome = self.run(argv, &mut |piece| match piece {
            Piece::Out(bytes) => lines.push(bytes, on_line),
            Piece::Err(bytes) => lines::to_stderr(bytes),
        })?;
        lines.finish(on_line)?;
        Ok(outcome)
    }

    fn boot(
        &self,
        cache: &Path,
        tools: &setup::Tools,
        vmlinuz: &Path,
        kvm: bool,
        argv: &[OsString],
        on: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<Outcome> {
        let files = Files::create(self)?;
        fs::write(&files.script, script::guest_script(self, argv))
            .with_context(|| format!("cannot write: {}", files.script.display()))?;
        let mut vng = self.vng(tools, vmlinuz, kvm, &files);
        for dir in self.shares(cache)? {
            vng.arg("--rwdir").arg(dir);
        }
        let mut group = group::Group::spawn(&vng, &files.dir)?;
        // Only threads that emulate side by side need mending.
        let gdb = (!kvm && !self.icount).then_some(&*files.gdb);
        let end = self.watch(&mut group, &files, gdb, on);
        // Before the kill, which takes the files along.
        let console = fs::read(&files.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        group.kill();
        Ok(Outcome { end: end?, console })
    }

    /// Hands output over until the guest is gone, its time is over or it cannot be booting still.
    fn watch(
        &self,
        group: &mut group::Group,
        files: &Files,
        gdb: Option<&Path>,
        on: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<End> {
        let start = Instant::now();
        let mut exited: Option<(u8, Instant)> = None;
        let mut booted = false;
        let mut unmended = gdb;
        loop {
            let open = group.next(Duration::from_millis(100), on)?;
            if exited.is_none() {
                let report = files.report();
                booted |= report.started;
                if let (Some(gdb), Some(die)) = (unmended, report.die) {
                    mend::spawn(gdb, die);
                    unmended = None;
                }
                exited = report.code.map(|code| (code, Instant::now()));
            }
            match exited {
                Some((code, at)) if !open || at.elapsed() > POWEROFF_TIMEOUT => {
                    group.drain(on)?;
                    return Ok(End::Exit(code));
                }
                None if !open => return Ok(End::Died { booted }),
                None if self.timeout.is_some_and(|limit| start.elapsed() > limit) => {
                    return Ok(End::TimedOut);
                }
                None if !booted && start.elapsed() > BOOT_TIMEOUT => {
                    return Ok(End::Died { booted });
                }
                _ => {}
            }
        }
    }

    fn vng(&self, tools: &setup::Tools, vmlinuz: &Path, kvm: bool, files: &Files) -> Command {
        let mut cmd = Command::new(tools.venv.join("bin/vng"));
        cmd.arg("--run")
            .arg(vmlinuz)
            .args(["--rw", "--disable-microvm", "--memory", &self.mem]);
        cmd.args(["--cpus", &self.smp()]);
        if !kvm {
            cmd.arg("--disable-kvm");
        }
        // The kernel's warnings go to a console of ours; ttyS0 stays /dev/console. (Not to ttyS1:
        // the kernel takes one 8250 console only.)
        cmd.arg("--append=loglevel=5 console=hvc0 console=ttyS0");
        cmd.arg(format!("--append=modprobe.blacklist={}", UNUSED.join(",")));
        for arg in &self.append {
            cmd.arg(format!("--append={arg}"));
        }
        cmd.arg(format!("--exec=sh {}", files.script.display()));
        cmd.arg(format!("--qemu-opts={}", self.qemu_opts(files, kvm)));
        let dirs = [tools.venv.join("bin"), tools.virtiofsd.with_file_name("")];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let all = dirs
            .into_iter()
            .chain(std::env::split_paths(&path))
            .chain(more);
        cmd.env("PATH", std::env::join_paths(all).unwrap_or(path));
        // Neither the user's virtme-ng configuration nor leftovers in a shared folder.
        cmd.env("HOME", &files.dir)
            .env("TMPDIR", &files.dir)
            .current_dir("/");
        cmd
    }

    fn smp(&self) -> String {
        match self.topology {
            Some((s, c, t)) => format!("{},sockets={s},cores={c},threads={t}", self.cpus),
            None => self.cpus.to_string(),
        }
    }

    fn qemu_opts(&self, files: &Files, kvm: bool) -> String {
        let mut opts = format!(
            "-device virtio-serial-pci,id=umcg \
             -chardev file,id=umcglog,path={} -device virtconsole,bus=umcg.0,chardev=umcglog \
             -chardev file,id=umcgreport,path={} \
             -device virtserialport,bus=umcg.0,name={},chardev=umcgreport \
             -chardev socket,id=umcggdb,path={},server=on,wait=off -gdb chardev:umcggdb",
            files.console.display(),
            files.report.display(),
            script::REPORT_PORT,
            files.gdb.display(),
        );
        if let Some(disk) = &files.disk {
            let file = disk.display();
            opts += &format!(
                " -drive if=none,id=umcgdisk,format=raw,file={file} \
                 -device virtio-blk-pci,drive=umcgdisk,serial=scratch"
            );
        }
        if !kvm {
            // Where these tell that `rep movsb` is quick the kernel copies and clears by it: byte by
            // byte, under emulation.
            opts += " -cpu max,-erms,-fsrm";
            if self.topology.is_some() {
                // The emulated AMD CPU has no topoext: wrong threads, and one L3 cache per CPU.
                opts += ",vendor=GenuineIntel";
            }
        }
        if self.icount {
            opts += " -icount shift=0,sleep=off";
        }
        opts
    }

    /// Folders that the guest must see although its init covers them.
    fn shares(&self, cache: &Path) -> Result<Vec<PathBuf>> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in [cache, proc::repo(), &self.cwd] {
            if covered(dir) && !dirs.iter().any(|have| dir.starts_with(have)) {
                dirs.push(dir.to_owned());
            }
        }
        for dir in &dirs {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
            if !dir.to_str().is_some_and(|s| s.chars().all(plain)) {
                bail!(
                    "cannot share with the guest: {}; below {} a path must be of letters, digits \
                     and /._-+@%; move it elsewhere",
                    dir.display(),
                    COVERED.join(", ")
                );
            }
        }
        Ok(dirs)
    }
}

fn covered(dir: &Path) -> bool {
    COVERED
        .iter()
        .any(|top| dir.starts_with(top) && dir != Path::new(top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covered_folders_and_their_tops() {
        assert!(covered(Path::new("/tmp/clone")) && covered(Path::new("/run/user/1")));
        assert!(!covered(Path::new("/tmp")) && !covered(Path::new("/home/me")));
        assert!(!covered(Path::new("/tmpfoo/x")));
    }

    #[test]
    fn shares_take_each_covered_folder_once() {
        let mut vm = Vm::new("7.3").unwrap();
        vm.cwd = "/var/tmp/a/b".into();
        let found = vm.shares(Path::new("/var/tmp/a")).unwrap();
        assert!(found.contains(&PathBuf::from("/var/tmp/a")));
        assert!(!found.contains(&vm.cwd));
        vm.cwd = "/tmp/with space".into();
        let err = vm.shares(Path::new("/c")).unwrap_err().to_string();
        assert!(err.contains("/tmp/with space"), "{err}");
    }

    #[test]
    fn smp_with_and_without_topology() {
        let mut vm = Vm::new("7.3").unwrap();
        assert_eq!(vm.smp(), "2");
        (vm.cpus, vm.topology) = (8, Some((2, 2, 2)));
        assert_eq!(vm.smp(), "8,sockets=2,cores=2,threads=2");
    }
}
