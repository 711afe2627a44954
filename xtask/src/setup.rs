//! `cargo xtask setup`: what a bare Debian 12 or 13 lacks. The host's apt sources and kernel stay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::proc::{self, say};
use crate::{cache, kernels};

/// What building needs: the scx crates compile BPF and generate bindings while they build.
const BUILD: [&str; 10] = [
    "clang-19",
    "libclang1-19",
    "libelf-dev",
    "zlib1g-dev",
    "libseccomp-dev",
    "libcap-ng-dev",
    "pkg-config",
    "gcc",
    "libc6-dev",
    "make",
];

/// What VMs and the loads in them need. `binutils` for `strings`; without `udev` the guest's
/// output is lost.
const VM: [&str; 8] = [
    "qemu-system-x86",
    "kmod",
    "binutils",
    "busybox-static",
    "udev",
    "python3-venv",
    "file",
    "mount",
];
/// `procps` for `ps`, which tells classes.
const LOADS: [&str; 4] = ["linux-perf", "rt-tests", "stress-ng", "procps"];

const VIRTME_NG: &str = "1.42";
/// As Debian 13 has it. 1.13.3 wants `/` to be a mount point, which it is not in a chroot.
const VIRTIOFSD: &str = "1.13.2";

/// Where Debian 13 puts the Rust virtiofsd; virtme-ng finds it there by itself.
const DEBIAN_VIRTIOFSD: &str = "/usr/libexec/virtiofsd";

const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Flags of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also fetch this kernel; can be given several times
    #[arg(long, value_parser = kernels::parse_series, default_values = kernels::TESTED)]
    kernel: Vec<String>,
}

/// Installs everything and the kernels that the tests use.
pub fn run(args: &Args) -> Result<ExitCode> {
    install(&args.kernel)?;
    Ok(ExitCode::SUCCESS)
}

/// Installs everything and these kernels; says what is there.
pub fn install(all_series: &[String]) -> Result<()> {
    let cache = cache::dir()?;
    packages()?;
    say(format_args!("Debian packages: all there"));
    let tools = tools(&cache)?;
    say(format_args!(
        "virtme-ng {VIRTME_NG}: {}",
        tools.venv.display()
    ));
    say(format_args!("virtiofsd: {}", tools.virtiofsd.display()));
    for series in all_series {
        let vmlinuz = kernels::ensure(&cache, series)?;
        say(format_args!("kernel {series}: {}", vmlinuz.display()));
    }
    say(format_args!("set-up is complete"));
    Ok(())
}

/// The tools for VMs that live in the cache folder; only vng gets them on its `PATH`.
#[derive(Debug)]
pub struct Tools {
    /// virtme-ng's Python environment.
    pub venv: PathBuf,
    /// The Rust virtiofsd.
    pub virtiofsd: PathBuf,
}

/// Installs what VMs need, quick when it is there.
pub fn vm_tools(cache: &Path) -> Result<Tools> {
    packages()?;
    tools(cache)
}

/// Installs the Debian packages that are missing.
pub fn packages() -> Result<()> {
    let wanted: Vec<&str> = BUILD.into_iter().chain(VM).chain(LOADS).collect();
    let missing = missing(&wanted, &installed(&wanted)?);
    if missing.is_empty() {
        return Ok(());
    }
    say(format_args!(
        "installing Debian packages: {}",
        missing.join(" ")
    ));
    apt_get(&["-q", "update"])?;
    apt_get(
        &[
            &["-q", "install", "-y", "--no-install-recommends"],
            &missing[..],
        ]
        .concat(),
    )
    .with_context(|| format!("cannot install: {}", missing.join(" ")))
}

/// dpkg's `name status` lines of the packages it knows.
fn installed(wanted: &[&str]) -> Result<String> {
    let mut query = Command::new("dpkg-query");
    query
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(wanted);
    // It exits 1 when it does not know one of them: that is the answer, not an error.
    let out = query
        .stderr(Stdio::null())
        .output()
        .context("cannot ask dpkg-query; scx_umcg is set up on Debian 12 or 13 only")?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn missing<'a>(wanted: &[&'a str], installed: &str) -> Vec<&'a str> {
    let there = |name: &&&str| {
        !installed
            .lines()
            .any(|line| line == format!("{name} installed"))
    };
    wanted.iter().filter(there).copied().collect()
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut cmd = as_root()?;
    cmd.args([
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]);
    proc::run(cmd.args(args))
}

/// A prefix that makes a command root's: `env` when we are root, else `sudo -n`.
fn as_root() -> Result<Command> {
    let uid = proc::output(Command::new("id").arg("-u"))?;
    if uid.trim() == "0" {
        let mut cmd = Command::new("env");
        cmd.arg("--");
        return Ok(cmd);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("-n");
    let mut ask = Command::new("sudo");
    let granted = ask
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if granted.is_ok_and(|status| status.success()) {
        return Ok(sudo);
    }
    bail!(
        "cannot install packages as uid {}; needs root, or sudo without a password; \
         run `cargo xtask setup` once as root",
        uid.trim()
    )
}

fn tools(cache: &Path) -> Result<Tools> {
    if let Some(there) = tools_there(cache) {
        return Ok(there);
    }
    let lock = cache::lock(cache)?;
    if vng_works(&venv_dir(cache)).is_err() {
        install_venv(&venv_dir(cache))?;
    }
    if virtiofsd(cache).is_none() {
        install_virtiofsd(cache, &lock)?;
    }
    tools_there(cache).context("virtme-ng or virtiofsd is not there after its installation")
}

fn tools_there(cache: &Path) -> Option<Tools> {
    let venv = venv_dir(cache);
    vng_works(&venv).ok()?;
    Some(Tools {
        venv,
        virtiofsd: virtiofsd(cache)?,
    })
}

fn venv_dir(cache: &Path) -> PathBuf {
    cache.join(format!("virtme-ng-{VIRTME_NG}"))
}

/// Asks for the version: an interrupted installation or a newer Python leave a broken one.
fn vng_works(venv: &Path) -> Result<()> {
    let version = proc::output(Command::new(venv.join("bin/vng")).arg("--version"))?;
    if !version.contains(VIRTME_NG) {
        bail!("virtme-ng: {}; must be {VIRTME_NG}", version.trim());
    }
    Ok(())
}

/// An environment cannot be moved, so it is built in place; `vng_works` tells if it is whole.
fn install_venv(venv: &Path) -> Result<()> {
    say(format_args!(
        "installing virtme-ng {VIRTME_NG} into {}",
        venv.display()
    ));
    if venv.exists() {
        fs::remove_dir_all(venv).with_context(|| format!("cannot remove: {}", venv.display()))?;
    }
    // Debian's Python, whatever comes first on PATH: the guest and later sessions see the same.
    proc::run(
        Command::new("/usr/bin/python3")
            .args(["-m", "venv"])
            .arg(venv),
    )?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]);
    // The machine's own certificates, as for cargo; older pips bring theirs.
    if std::env::var_os("PIP_CERT").is_none() && Path::new(CERTIFICATES).is_file() {
        pip.env("PIP_CERT", CERTIFICATES);
    }
    proc::run(pip.arg(format!("virtme-ng=={VIRTME_NG}")))
        .with_context(|| format!("cannot install virtme-ng {VIRTME_NG} from PyPI"))
}

fn virtiofsd(cache: &Path) -> Option<PathBuf> {
    let own = virtiofsd_dir(cache).join("bin/virtiofsd");
    [own, PathBuf::from(DEBIAN_VIRTIOFSD)]
        .into_iter()
        .find(|path| path.is_file())
}

fn virtiofsd_dir(cache: &Path) -> PathBuf {
    cache.join(format!("virtiofsd-{VIRTIOFSD}"))
}

/// From Debian where it packages the Rust one (13), else built from its crate (12: 1-2 minutes).
fn install_virtiofsd(cache: &Path, lock: &cache::Lock) -> Result<()> {
    let policy = Command::new("apt-cache")
        .args(["show", "virtiofsd"])
        .output();
    if policy.is_ok_and(|out| out.status.success() && !out.stdout.is_empty()) {
        say(format_args!("installing Debian's virtiofsd"));
        let args = [
            "-q",
            "install",
            "-y",
            "--no-install-recommends",
            "virtiofsd",
        ];
        if apt_get(&args).is_ok() && Path::new(DEBIAN_VIRTIOFSD).is_file() {
            return Ok(());
        }
    }
    say(format_args!("building virtiofsd {VIRTIOFSD} (1-2 minutes)"));
    let stage = cache::staging(cache, "virtiofsd", lock)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "install",
        "--quiet",
        "--locked",
        "--no-track",
        "--version",
        VIRTIOFSD,
        "--root",
    ]);
    cargo.arg(&stage).arg("virtiofsd");
    // Not below this workspace: its configuration is none of virtiofsd's business.
    proc::run(cargo.current_dir(cache))
        .with_context(|| format!("cannot build virtiofsd {VIRTIOFSD} from crates.io"))?;
    cache::publish(&stage, &virtiofsd_dir(cache))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_counts_removed_and_unknown_packages() {
        let dpkg = "gcc installed\nmake config-files\nudev not-installed\nkmod installed\n";
        assert_eq!(
            missing(&["gcc", "make", "udev", "kmod", "clang-19"], dpkg),
            ["make", "udev", "clang-19"]
        );
        assert!(missing(&["gcc"], dpkg).is_empty());
    }
}
