//! Attaching, detaching and everything that can end a scheduler.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Test, full, short, timed};
use crate::harness::{self, Sched, Verdict, mean_ejections, metric, sibling, sysfs, wait_until};
use crate::load::{self, Hog};

pub const TESTS: &[Test] = &[
    short("vm_attach_detach_is_clean", "life", 4, attach_detach),
    short("vm_second_instance_is_refused", "life", 4, second_instance),
    short("vm_kernel_lacks_are_told", "life", 8, lacks),
    short("vm_sigterm_detaches", "life", 4, sigterm),
    timed("vm_sigkill_reverts_to_eevdf", "life", 5, sigkill),
    timed(
        "vm_agent_stopped_makes_progress",
        "long,newest,append=psi=1",
        20,
        agent_stopped::<8, true>,
    ),
    full(
        "vm_full_agent_stopped_40s",
        "stop",
        60,
        agent_stopped::<40, false>,
    ),
    full(
        "vm_full_agent_stopped_40s_fifo",
        "stop",
        60,
        agent_stopped::<40, true>,
    ),
    short("vm_sysrq_s_ends_it", "life", 5, sysrq),
    short("vm_ejected_reattaches_then_gives_up", "life", 20, ejected),
    short(
        "vm_detach_with_threads_loses_none",
        "long,newest,append=psi=1",
        15,
        detach_with_threads,
    ),
    short(
        "vm_hotplug_needs_no_restart",
        "long,newest,append=psi=1",
        12,
        hotplug,
    ),
    short(
        "vm_partial_leaves_fair_tasks",
        "long,newest,append=psi=1",
        15,
        partial::<8>,
    ),
    full("vm_full_partial_60s", "partial", 75, partial::<60>),
];

fn attach_detach() -> Result<Verdict> {
    let began = Instant::now();
    let sched = Sched::start(&[])?;
    metric("attach", &[("seconds", began.elapsed().as_secs_f64())]);
    let name = sysfs("root/ops");
    ensure!(name.contains("umcg"), "ops name {name:?}");
    ensure!(
        sysfs("switch_all") == "1",
        "switch_all {:?}",
        sysfs("switch_all")
    );
    let status = sched.status()?;
    ensure!(status["mode"] == "server", "mode {}", status["mode"]);
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn second_instance() -> Result<Verdict> {
    let sched = Sched::start(&[])?;
    let out = Command::new(sibling("scx_umcg")).output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        out.status.code() == Some(5),
        "second instance: {:?}: {text}",
        out.status
    );
    ensure!(text.contains("one at a time"), "says {text:?}");
    sched.no_ejection()?;
    sched.status()?;
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// What a kernel may lack, hidden in a mount namespace: one sentence, the code for it, and
/// nothing is attached.
fn lacks() -> Result<Verdict> {
    let kfunc = r"types=$(mktemp); btf=/sys/kernel/btf/vmlinux
        LC_ALL=C sed 's/\x00scx_bpf_dsq_move\x00/\x00scx_bpf_dsq_none\x00/' $btf > $types
        mount --bind $types $btf";
    let seq = sysfs("enable_seq");
    for (hide, lack) in [
        ("mount -t tmpfs none /sys/kernel", "sched_ext"),
        ("mount -t tmpfs none /sys/kernel/btf", "BTF"),
        (kfunc, "dsq_move"),
    ] {
        for command in ["", "doctor"] {
            let script = format!("{hide}\nexec \"$0\" {command}");
            let out = Command::new("unshare")
                .args(["-m", "sh", "-ec", &script])
                .arg(sibling("scx_umcg"))
                .output()?;
            let text = String::from_utf8_lossy(&out.stderr);
            ensure!(
                out.status.code() == Some(3),
                "{command} without {lack}: {:?}: {text}",
                out.status
            );
            ensure!(
                text.contains(&format!("has no {lack};")) && text.lines().count() == 1,
                "{command} without {lack} says {text:?}"
            );
        }
    }
    ensure!(
        sysfs("state") == "disabled" && sysfs("enable_seq") == seq,
        "something was attached"
    );
    Ok(Verdict::Ok)
}

fn sigterm() -> Result<Verdict> {
    let sysctl = "/proc/sys/vm/compact_unevictable_allowed";
    let before = fs::read_to_string(sysctl)?;
    let mut sched = Sched::start(&[])?;
    ensure!(
        fs::read_to_string(sysctl)?.trim() == "0",
        "{sysctl} is not 0 while it runs"
    );
    sched.signal(libc::SIGTERM);
    let code = sched.wait(Duration::from_secs(20))?;
    ensure!(code == 0, "exit code {code}: {}", sched.text());
    ensure!(
        fs::read_to_string(sysctl)? == before,
        "{sysctl} was not restored"
    );
    Ok(Verdict::Ok)
}

fn sigkill() -> Result<Verdict> {
    let mut sched = Sched::start(&[])?;
    let hogs = Hog::default().start_many(3)?;
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    sched.signal(libc::SIGKILL);
    sched.wait(Duration::from_secs(5))?;
    ensure!(
        wait_until(Duration::from_secs(1), || sysfs("state") == "disabled"),
        "state {:?} 1 s after SIGKILL",
        sysfs("state")
    );
    metric(
        "sigkill",
        &[("revert_seconds", began.elapsed().as_secs_f64())],
    );
    for share in load::shares(&hogs, Duration::from_millis(800))? {
        ensure!(
            share > 0.05,
            "a hog got {share:.3} s of 0.8 s after the revert"
        );
    }
    Ok(Verdict::Ok)
}

fn agent_stopped<const SECS: u64, const FIFO: bool>() -> Result<Verdict> {
    let args: &[&str] = if FIFO { &["--policy", "fifo"] } else { &[] };
    // Keyed, servers decide when they are activated; staged, they choose.
    let decisions = if FIFO { "staged" } else { "activations" };
    let sched = Sched::start(args)?;
    let hogs = Hog::default().start_many(3)?;
    let messaging = || load::perf_bench(&["sched", "messaging", "-t", "-g", "1", "-l", "20"]);
    messaging()?;
    sched.signal(libc::SIGSTOP);
    let began = Instant::now();
    let mut rounds = 0;
    let mut seen = false;
    while began.elapsed() < Duration::from_secs(SECS) {
        messaging()?;
        rounds += 1;
        let status = sched.status()?;
        let mode = (status["mode"].as_str(), status["reason"].as_str());
        ensure!(
            mode == (Some("kernel"), Some("stopped")),
            "status says {mode:?} while stopped"
        );
        let since = status["since_s"].as_f64().unwrap_or(-1.0);
        ensure!(
            (0.0..=began.elapsed().as_secs_f64()).contains(&since),
            "status says since {since} s, stopped for {:?}",
            began.elapsed()
        );
        seen = true;
    }
    ensure!(seen && rounds > 0, "no messaging round in {SECS} s");
    for share in load::shares(&hogs, Duration::from_secs(1))? {
        ensure!(
            share > 0.02,
            "a hog got {share:.3} s of 1 s while the agent was stopped"
        );
    }
    sched.no_ejection()?;
    // Hogs leave keyed servers nothing to decide.
    load::sleepers(4)?;
    let before = sched.counter(decisions)?;
    sched.signal(libc::SIGCONT);
    let back = Instant::now();
    let grown = wait_until(Duration::from_secs(1), || {
        sched.counter(decisions).is_ok_and(|now| now > before)
    });
    ensure!(grown, "no server decision within 1 s after SIGCONT");
    metric(
        "stopped",
        &[
            ("seconds", SECS as f64),
            ("rounds", f64::from(rounds)),
            ("back_seconds", back.elapsed().as_secs_f64()),
        ],
    );
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn sysrq() -> Result<Verdict> {
    mean_ejections(1);
    let mut sched = Sched::start(&[])?;
    fs::write("/proc/sys/kernel/sysrq", "1")?;
    fs::write("/proc/sysrq-trigger", "S")?;
    let code = sched.wait(Duration::from_secs(20))?;
    ensure!(code == 6, "exit code {code}: {}", sched.text());
    ensure!(sysfs("state") == "disabled", "state {:?}", sysfs("state"));
    ensure!(
        sched.text().to_lowercase().contains("sysrq"),
        "says {:?}",
        sched.text()
    );
    Ok(Verdict::Ok)
}

fn ejected() -> Result<Verdict> {
    mean_ejections(4);
    let mut sched = Sched::start(&[])?;
    for round in 1..=4 {
        crate::tests::hammer::inject_error()?;
        if round < 4 {
            let again = format!("attaching again ({round} of 3)");
            ensure!(
                wait_until(Duration::from_secs(20), || sched.text().contains(&again)
                    && sched.text().matches("attached:").count() == round + 1
                    && sysfs("state") == "enabled"),
                "no re-attachment {round}: {}",
                sched.text()
            );
        }
    }
    let code = sched.wait(Duration::from_secs(20))?;
    ensure!(code == 6, "exit code {code}: {}", sched.text());
    ensure!(
        sched.text().contains("injected"),
        "the reason is not shown: {}",
        sched.text()
    );
    ensure!(sysfs("state") == "disabled", "state {:?}", sysfs("state"));
    Ok(Verdict::Ok)
}

fn detach_with_threads() -> Result<Verdict> {
    const THREADS: usize = 1500;
    let sched = Sched::start(&[])?;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let stop = stop.clone();
            std::thread::Builder::new()
                .stack_size(32 * 1024)
                .spawn(move || {
                    let mut turns = 0u64;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(50));
                        turns += 1;
                    }
                    turns
                })
        })
        .collect::<std::io::Result<_>>()?;
    std::thread::sleep(Duration::from_secs(1));
    sched.stop()?;
    std::thread::sleep(Duration::from_secs(1));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let turns: Vec<u64> = threads.into_iter().filter_map(|t| t.join().ok()).collect();
    ensure!(
        turns.len() == THREADS && turns.iter().all(|&t| t > 0),
        "a thread made no progress"
    );
    Ok(Verdict::Ok)
}

fn hotplug() -> Result<Verdict> {
    let online = "/sys/devices/system/cpu/cpu1/online";
    if !std::path::Path::new(online).exists() {
        return Ok(Verdict::Skip(
            "this machine has no CPU 1 to take away".into(),
        ));
    }
    let sched = harness::shared()?;
    let hogs = Hog::default().start_many(3)?;
    for _ in 0..3 {
        fs::write(online, "0")?;
        for share in load::shares(&hogs, Duration::from_millis(1500))? {
            ensure!(
                share > 0.1,
                "a hog got {share:.3} s of 1.5 s with CPU 1 offline"
            );
        }
        fs::write(online, "1")?;
        let total: f64 = load::shares(&hogs, Duration::from_millis(1500))?
            .iter()
            .sum();
        ensure!(
            total > 1.8,
            "CPU 1 is back but the hogs got only {total:.2} s of 3 s"
        );
    }
    sched.no_ejection()?;
    drop(hogs);
    sched.no_ejection()?;
    Ok(Verdict::Ok)
}

fn partial<const SECS: u64>() -> Result<Verdict> {
    let sched = Sched::start(&["--partial"])?;
    ensure!(
        sysfs("switch_all") == "0",
        "switch_all {:?}",
        sysfs("switch_all")
    );
    let fair = Hog::default().start()?;
    std::thread::sleep(Duration::from_millis(500));
    let before = sched.counter("switches")?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        sched.counter("switches")? - before < 20,
        "a fair task is scheduled by us"
    );
    drop(fair);
    // It goes before all SCHED_EXT threads: one that leaves them some time.
    let fair = load::sleepers(1)?[0];

    let hogs = Hog {
        ext: true,
        ..Hog::default()
    }
    .start_many(3)?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(SECS) {
        load::messaging()?;
        let before = sched.counter("switches")?;
        load::in_ext(load::messaging)?;
        let switches = sched.counter("switches")? - before;
        ensure!(
            switches > 500,
            "messaging in SCHED_EXT: {switches} switches of ours"
        );
        ensure!(!load::is_ext(fair)?, "a fair task was taken");
    }
    for share in load::shares(&hogs, Duration::from_secs(1))? {
        ensure!(share > 0.1, "a SCHED_EXT hog got {share:.3} s of 1 s");
    }
    ensure!(
        sched.counter("switches")? > before,
        "SCHED_EXT tasks are not ours"
    );
    sched.no_ejection()?;
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}
