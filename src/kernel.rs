//! What the running kernel has, found by looking, not by its version.

use std::fs;
use std::path::Path;

use scx_utils::compat;

use crate::exit::{Exit, Failure};

const SYSFS: &str = "/sys/kernel/sched_ext";

/// Reads a file of `/sys/kernel/sched_ext`; None if there is none.
pub fn sched_ext_file(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(SYSFS).join(name))
        .ok()
        .map(|s| s.trim().to_owned())
}

/// The release string, as of `uname -r`.
pub fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|s| s.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// One thing that scx_umcg wants of a kernel.
#[derive(Debug)]
pub struct Feature {
    /// Short name, as `doctor` prints it.
    pub name: &'static str,
    /// Is it there?
    pub found: bool,
    /// Can scx_umcg not run without it?
    pub required: bool,
    /// What it is for, or what happens without it.
    pub note: &'static str,
}

fn ksym(name: &str) -> bool {
    compat::ksym_exists(name).unwrap_or(false)
}

fn field(of: &str, name: &str) -> bool {
    compat::struct_has_field(of, name).unwrap_or(false)
}

/// Does this kernel call a scheduler's `name`?
pub fn calls(name: &str) -> bool {
    field("sched_ext_ops", name)
}

/// Can a program be run when a thread has got its new name?
pub fn tells_of_names() -> bool {
    ksym("__set_task_comm")
}

/// Does this kernel tell a scheduler of `cpu.max`?
pub fn tells_of_limits() -> bool {
    calls("cgroup_set_bandwidth")
}

/// Everything that matters, in the order in which `doctor` prints it.
pub fn features() -> Vec<Feature> {
    let feature = |name, found, required, note| Feature {
        name,
        found,
        required,
        note,
    };
    let sched_ext = Path::new(SYSFS).is_dir();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let mut list = vec![
        feature(
            "sched_ext",
            sched_ext,
            true,
            "needs CONFIG_SCHED_CLASS_EXT=y",
        ),
        feature("BTF", btf, true, "needs CONFIG_DEBUG_INFO_BTF=y"),
    ];
    if !sched_ext || !btf {
        return list;
    }
    list.extend([
        feature("ops.dump", field("sched_ext_ops", "dump"), true, "needs Linux 6.12 or newer"),
        feature("dsq_move", ksym("scx_bpf_dsq_move"), true, "moves chosen workers; needs Linux 6.13 or newer"),
        feature("dsq_move_to_local", ksym("scx_bpf_dsq_move_to_local") || ksym("scx_bpf_dsq_move_to_local___v2"),
                true, "puts workers on their CPU; needs Linux 6.13 or newer"),
        feature("migration-disabled tasks", compat::read_enum("scx_ops_flags", "SCX_OPS_ENQ_MIGRATION_DISABLED").is_ok(),
                true, "without it such tasks escape every policy"),
        feature("kfunc prototypes", compat::malformed_scx_kfuncs().is_empty(), true,
                "a pahole before 1.26 left hidden arguments in this kernel's BTF, with which no scheduler loads; \
                 another build of it is needed"),
        feature("dsq_peek", ksym("scx_bpf_dsq_peek"), false, "else the head of a queue is found by an iterator"),
        feature("task_set_slice", ksym("scx_bpf_task_set_slice"), false, "else slices are written directly"),
        feature("ext server", field("rq", "ext_server"), false,
                "keeps 5 % of a CPU for normal tasks beside a real-time hog; without it such a hog gets the scheduler ejected"),
        feature("cgroup bandwidth", tells_of_limits(), false,
                "tells of cpu.max; without it full mode is refused where a cgroup has a limit"),
        feature("function tracer", Path::new("/proc/sys/kernel/ftrace_enabled").exists(), true,
                "the loader of the scx crates needs CONFIG_FUNCTION_TRACER=y"),
        feature("bpf(2)", bpf_allowed(), true,
                "denied by a seccomp filter or a security module; clients of application groups go by the daemon's socket \
                 then, the daemon itself cannot"),
    ]);
    list
}

/// Whether bpf(2) looks at its arguments: a map that nobody has is told as such.
fn bpf_allowed() -> bool {
    const MAP_LOOKUP_ELEM: libc::c_long = 1;
    let attr = [u32::MAX, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the attributes are readable for their whole size; no file has this number.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_LOOKUP_ELEM,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    let errno = std::io::Error::last_os_error().raw_os_error();
    ret >= 0 || !matches!(errno, Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
}

/// Refuses, in one sentence, what cannot work.
pub fn require() -> Result<(), Failure> {
    if let Some(lack) = features().iter().find(|f| f.required && !f.found) {
        return Err(Failure::new(
            Exit::Unsupported,
            format!(
                "cannot load: kernel {} has no {}; {}; see `scx_umcg doctor` and docs/operations.md#kernels",
                release(),
                lack.name,
                lack.note
            ),
        ));
    }
    // SAFETY: geteuid has no preconditions and cannot fail.
    let uid = unsafe { libc::geteuid() };
    if uid != 0 {
        return Err(Failure::new(
            Exit::Privilege,
            format!(
                "cannot load: running as uid {uid}; needs root to load BPF; try `sudo scx_umcg`"
            ),
        ));
    }
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Some(cpus) = isolated(&cmdline) {
        let text = format!(
            "cannot attach: isolcpus={cpus}; the kernel takes no sched_ext scheduler beside isolcpus; \
             boot without it, nohz_full and cpusets will do"
        );
        return Err(Failure::new(Exit::Unsupported, text));
    }
    let (cpus, most) = (
        *scx_utils::NR_CPU_IDS,
        umcg::intf::umcg_limits_UMCG_MAX_CPUS,
    );
    if cpus > most as usize {
        let text = format!(
            "cannot load: {cpus} possible CPUs; at most {most}; boot with possible_cpus={most}"
        );
        return Err(Failure::new(Exit::Unsupported, text));
    }
    match attached() {
        Some(ops) => Err(busy(&ops)),
        None => Ok(()),
    }
}

/// The refusal where scheduler `ops` is attached.
pub fn busy(ops: &str) -> Failure {
    let text =
        format!("cannot attach: scheduler {ops:?} is attached; one at a time; stop it first");
    Failure::new(Exit::Busy, text)
}

/// What isolcpus= takes out of the scheduler's domains, if it does: its flags `nohz` and
/// `managed_irq` alone do not (kernel/sched/isolation.c).
fn isolated(cmdline: &str) -> Option<&str> {
    let value = cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("isolcpus="))
        .next_back()?;
    let mut flags = value
        .split(',')
        .take_while(|part| ["nohz", "domain", "managed_irq"].contains(part))
        .peekable();
    (flags.peek().is_none() || flags.any(|flag| flag == "domain")).then_some(value)
}

/// The name of the scheduler that is attached now.
pub fn attached() -> Option<String> {
    match sched_ext_file("state").as_deref() {
        None | Some("disabled") => None,
        Some(_) => Some(sched_ext_file("root/ops").unwrap_or_else(|| "unknown".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::isolated;

    #[test]
    fn isolcpus_counts_where_it_is_about_domains() {
        for (cmdline, want) in [
            ("quiet ro", None),
            ("a=b isolcpus=2", Some("2")),
            ("isolcpus=1 isolcpus=2-3 x", Some("2-3")),
            ("isolcpus=nohz,2", None),
            ("isolcpus=managed_irq,2-4", None),
            ("isolcpus=nohz,domain,2", Some("nohz,domain,2")),
            ("isolcpus=all", Some("all")),
            ("nohz_full=2", None),
        ] {
            assert_eq!(isolated(cmdline), want, "{cmdline}");
        }
    }
}
