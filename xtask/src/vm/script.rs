//! The script that the guest runs, and the report that it sends back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::vm::Vm;

/// Name of the virtio port that carries the report.
pub const REPORT_PORT: &str = "umcg.report";

/// Finds the report port without udev and mounts what init did not. A port takes one writer at
/// a time.
const PROLOGUE: &str = r#"#!/bin/sh
for port in /sys/class/virtio-ports/*; do
    [ -r "$port/name" ] && read -r name <"$port/name" || continue
    [ "$name" = umcg.report ] && report=/dev/${port##*/}
done
[ -e "$report" ] || { echo 'xtask: no report port in the guest' >&2; exit 125; }
tell() { until echo "$1" 2>/dev/null >"$report"; do sleep 0.1; done; }
mounted() { grep -q " $1 " /proc/mounts; }
mounted /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mounted /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
mounted /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
"#;

/// Tells where this kernel's `die` is, for [`crate::vm::mend`]. Beside the command: it takes a
/// second or two of an emulated CPU, and no scheduler attaches as soon as that.
const DIE: &str = r#"{
    die=$(sed -n '/ [Tt] die$/{s/\([0-9a-f]*\) .*/die \1/p;q}' /proc/kallsyms)
    tell "$die"
} &
"#;

/// The command runs as a child with the exit code in `$?`. Its output leaves on other ports:
/// `sync` and closing them is init's job, after us.
const EPILOGUE: &str = "code=$?\ntell \"exit $code\"\nexit $code\n";

/// The script as bytes: arguments, directory and environment need not be UTF-8.
pub fn guest_script(vm: &Vm, argv: &[impl AsRef<OsStr>]) -> Vec<u8> {
    let mut text = PROLOGUE.as_bytes().to_vec();
    if vm.disk_mb.is_some() {
        text.extend(b"[ -e /dev/vda ] || modprobe virtio_blk\n");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let env = vm.env.iter().map(|(name, value)| (name.as_str(), value));
    for (name, value) in std::iter::once(("PATH", &path)).chain(env) {
        text.extend(b"export ");
        text.extend(name.as_bytes());
        text.push(b'=');
        quote(value, &mut text);
        text.push(b'\n');
    }
    if !vm.icount {
        text.extend(DIE.as_bytes());
    }
    text.extend(b"tell started\ncd ");
    quote(vm.cwd.as_os_str(), &mut text);
    text.extend(b" &&");
    for word in argv {
        text.push(b' ');
        quote(word.as_ref(), &mut text);
    }
    text.extend(b" </dev/null\n");
    text.extend(EPILOGUE.as_bytes());
    text
}

/// Appends `word` so that a POSIX shell reads exactly these bytes.
fn quote(word: &OsStr, text: &mut Vec<u8>) {
    text.push(b'\'');
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend(b"'\\''"),
            _ => text.push(byte),
        }
    }
    text.push(b'\'');
}

/// What the guest has told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Address of the kernel's `die`.
    pub die: Option<u64>,
    /// Whether the command was started.
    pub started: bool,
    /// The command's exit code.
    pub code: Option<u8>,
}

/// Reads the lines of the report port.
pub fn parse_report(text: &str) -> Report {
    // An unfinished line may still grow: "exit 1" before "exit 12".
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let value = |name| whole.lines().find_map(|line| line.strip_prefix(name));
    Report {
        die: value("die ").and_then(|at| u64::from_str_radix(at, 16).ok()),
        started: whole.lines().any(|line| line == "started"),
        code: value("exit ").and_then(|code| code.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use super::*;

    /// The words that a shell reads after quoting, NUL-terminated by printf.
    fn through_shell(words: &[OsString]) -> Vec<u8> {
        let mut text = b"printf '%s\\0'".to_vec();
        for word in words {
            text.push(b' ');
            quote(word, &mut text);
        }
        let script = OsString::from_vec(text);
        Command::new("sh")
            .arg("-c")
            .arg(script)
            .output()
            .unwrap()
            .stdout
    }

    #[test]
    fn quote_any_bytes_survive_a_shell() {
        let words: Vec<OsString> = [
            &b"plain"[..],
            b"",
            b"two  words",
            b"it's",
            b"\"$HOME\" `id` \\",
            b"new\nline\n",
            b"\xff\xfe",
            b"-n",
            b"*",
            b"!x",
            b"a'b'c''",
            b"\t",
        ]
        .iter()
        .map(|w| OsString::from_vec(w.to_vec()))
        .collect();
        let want: Vec<u8> = words
            .iter()
            .flat_map(|w| [w.as_bytes(), b"\0"].concat())
            .collect();
        assert_eq!(through_shell(&words), want);
    }

    #[test]
    fn guest_script_is_valid_shell_and_names_the_port() {
        let mut vm = Vm::new("7.3").unwrap();
        vm.disk_mb = Some(1);
        vm.env.push(("A".into(), "b c".into()));
        let script = guest_script(&vm, &["echo", "it's"]);
        let text = String::from_utf8_lossy(&script).into_owned();
        assert!(
            text.contains(REPORT_PORT) && text.contains("export A='b c'"),
            "{text}"
        );
        let check = Command::new("sh")
            .args(["-n", "-c", &text])
            .status()
            .unwrap();
        assert!(check.success());
    }

    #[test]
    fn parse_report_waits_for_whole_lines() {
        let told = |text| {
            let report = parse_report(text);
            (report.started, report.code)
        };
        assert_eq!(told(""), (false, None));
        assert_eq!(told("started"), (false, None));
        assert_eq!(told("started\nexit 1"), (true, None));
        assert_eq!(told("started\nexit 12\n"), (true, Some(12)));
        assert_eq!(told("started\nexit 300\n"), (true, None));
        let die = parse_report("die ffffffff81000010\nstarted\n").die;
        assert_eq!(die, Some(0xffff_ffff_8100_0010));
    }
}
