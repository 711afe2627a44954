//! The configuration file: what is told about it, reloads, system groups.

use std::ffi::CStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use scx_umcg::runfile::RunFile;
use umcg::sync::Ordering::Relaxed;

use super::{Test, full, short, timed};
use crate::cgroup::Cgroup;
use crate::harness::{Sched, Verdict, metric, sibling, wait_until};
use crate::load::{self, Hog, Napper, Spinner, end, sleepers};
use crate::race;
use crate::stall;

pub const TESTS: &[Test] = &[
    short("vm_config_check_needs_no_root", "see,newest", 3, check),
    short(
        "vm_config_reload_is_whole_or_not_at_all",
        "see,newest",
        6,
        reload,
    ),
    timed("vm_config_groups_share_a_cpu", "cgroup", 12, share),
    short("vm_config_threads_change_groups", "cgroup", 14, change),
    short("vm_config_groups_have_policies", "cgroup", 8, policies),
    short(
        "vm_config_matches_by_user_and_program",
        "see,newest",
        5,
        matches,
    ),
    short(
        "vm_config_terms_of_groups_act",
        "cost,newest,icount,cpus=1",
        12,
        terms,
    ),
    short(
        "vm_config_reloads_lose_nobody",
        "see,newest",
        12,
        reloads::<6>,
    ),
    // Where the host holds the machine up for a while, the longest stall says more of that.
    Test {
        tries: 3,
        ..full(
            "vm_full_config_1000_reloads",
            "config-full",
            900,
            reloads::<1000>,
        )
    },
];

pub(super) fn file(name: &str, text: &str) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("umcg-{name}-{}.toml", std::process::id()));
    fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}

/// As nobody: stdout and exit code.
fn config(args: &[&str]) -> Result<(String, i32)> {
    let mut command = Command::new(sibling("scx_umcg"));
    let out = command
        .arg("config")
        .args(args)
        .uid(65534)
        .gid(65534)
        .output()?;
    let code = out.status.code().unwrap_or(-1);
    Ok((String::from_utf8_lossy(&out.stdout).into_owned(), code))
}

fn check() -> Result<Verdict> {
    let text = "[daemon]\npolicy = \"fiffo\"\nquantum_us = 50\n[[group]]\nname = \"g\"\n\
                match = {}\ncpus = \"0-99\"\n";
    let path = file("bad", text)?;
    let name = path.display().to_string();
    let (out, code) = config(&["check", &name])?;
    ensure!(code == 2, "exit code {code}: {out}");
    let lines: Vec<&str> = out.lines().collect();
    for (place, word) in [
        ("2:10", "did you mean \"fifo\"?"),
        ("3:14", "50"),
        ("7:8", "0-99"),
    ] {
        let start = format!("{name}:{place}: ");
        let told = |line: &&str| line.starts_with(&start) && line.contains(word);
        ensure!(lines.iter().any(told), "no {start}...{word} in {out}");
    }
    ensure!(lines.len() == 3, "more than 3 lines: {out}");
    let path = file("good", "[daemon]\nslice_us = 1500\n")?;
    let name = path.display().to_string();
    let (out, code) = config(&["check", &name])?;
    ensure!(
        code == 0 && out.contains("valid"),
        "exit code {code}: {out}"
    );
    let (out, code) = config(&["show", &name, "--quantum-us", "300"])?;
    ensure!(code == 0, "show: exit code {code}: {out}");
    for want in [
        format!("{name}:2"),
        "quantum_us = 300".into(),
        "# flag".into(),
        "# default".into(),
    ] {
        ensure!(out.contains(&want), "no {want:?} in {out}");
    }
    Ok(Verdict::Ok)
}

/// The number `key` of the run file, which each reload writes.
fn reload_counts() -> Result<(u64, u64)> {
    let file = RunFile::read()?.context("no agent runs")?;
    Ok((file.reloads, file.reloads_refused))
}

fn until_counts(sched: &Sched, want: (u64, u64)) -> Result<()> {
    let done = wait_until(Duration::from_secs(5), || {
        reload_counts().is_ok_and(|c| c == want)
    });
    ensure!(
        done,
        "counts {:?}, not {want:?}; log: {}",
        reload_counts(),
        sched.text()
    );
    Ok(())
}

/// The slice of the rest, as it is in force.
fn slice_us() -> Result<u64> {
    let file = RunFile::read()?.context("no agent runs")?;
    let shared = scx_umcg::status::open_shared(&file)?;
    let slice_ns = shared.sys.records()[0].sys[0].slice_ns.load(Relaxed);
    let told = file.system[0].slice_us;
    ensure!(
        told * 1000 == slice_ns,
        "told {told} us, in force {slice_ns} ns"
    );
    Ok(told)
}

fn reload() -> Result<Verdict> {
    let path = file("reload", "[daemon]\nslice_us = 4000\n")?;
    let name = path.display().to_string();
    let sched = Sched::start(&["--config", &name])?;
    until_counts(&sched, (0, 0))?;
    ensure!(slice_us()? == 4000, "not in force");
    fs::write(&path, "[daemon]\nslice_us = 1000\n")?;
    until_counts(&sched, (1, 0))?;
    ensure!(slice_us()? == 1000, "not in force after a reload");
    // One thing that is wrong keeps all of it out.
    fs::write(&path, "[daemon]\nslice_us = 2000\nstage = 99\n")?;
    until_counts(&sched, (1, 1))?;
    let told = format!("{name}:3:9: stage = 99");
    ensure!(
        sched.text().contains(&told),
        "no {told} in {}",
        sched.text()
    );
    ensure!(slice_us()? == 1000, "half of a wrong file is in force");
    // So does what cannot change.
    fs::write(&path, "[daemon]\nslice_us = 2000\npolicy = \"fifo\"\n")?;
    until_counts(&sched, (1, 2))?;
    let told = "policy = fifo (staged): cannot change";
    ensure!(sched.text().contains(told), "{}", sched.text());
    // As editors do: a new file in the place of the old one.
    let new = file("reload-new", "[daemon]\nslice_us = 3000\n")?;
    fs::rename(new, &path)?;
    until_counts(&sched, (2, 2))?;
    sched.signal(libc::SIGHUP);
    until_counts(&sched, (3, 2))?;
    fs::remove_file(&path)?;
    until_counts(&sched, (3, 3))?;
    ensure!(slice_us()? == 3000, "gone with its file");
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// A hog called `name`.
fn hog(name: &'static CStr) -> Result<Spinner> {
    Hog {
        name: Some(name),
        ..Hog::default()
    }
    .start()
}

/// The CPU on which it ran last.
fn cpu_of(pid: i32) -> Result<usize> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("no name in stat")?;
    // Field 39; after the name comes field 3.
    let field = rest.split_whitespace().nth(36).context("no CPU in stat")?;
    Ok(field.parse()?)
}

/// Waits until all are in group `name`.
pub(super) fn join(hogs: &[Spinner], name: &str) -> Result<()> {
    // Written after the attachment.
    let runs = wait_until(Duration::from_secs(5), || {
        RunFile::read().is_ok_and(|file| file.is_some())
    });
    ensure!(runs, "no run file");
    let file = RunFile::read()?.context("no agent runs")?;
    let shared = scx_umcg::status::open_shared(&file)?;
    let seat = file.system.iter().find(|group| group.name == name);
    let seat = seat.with_context(|| format!("no group {name}"))?.seat as u32;
    let is_in = |hog: &Spinner| {
        let mut records = shared.workers.records().iter();
        let record = records.find(|w| w.pid.load(Relaxed) == hog.pid());
        record.is_some_and(|w| w.sys_now.load(Relaxed) == seat)
    };
    let joined = wait_until(Duration::from_secs(3), || hogs.iter().all(is_in));
    ensure!(joined, "not all are in group {name}");
    Ok(())
}

fn stays_on(hogs: &[Spinner], group: &str, cpu: usize, what: &str) -> Result<()> {
    join(hogs, group).context(what.to_owned())?;
    let all_there = || {
        hogs.iter()
            .all(|hog| cpu_of(hog.pid()).is_ok_and(|at| at == cpu))
    };
    ensure!(
        wait_until(Duration::from_secs(3), all_there),
        "{what}: not all on CPU {cpu}"
    );
    for _ in 0..200 {
        for hog in hogs {
            let at = cpu_of(hog.pid())?;
            ensure!(at == cpu, "{what}: {} on CPU {at}, not {cpu}", hog.pid());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn share() -> Result<Verdict> {
    let text = "[[group]]\nname = \"heavy\"\nmatch.comm = \"cfg-a*\"\ncpus = \"0\"\nshare = 300\n\
                [[group]]\nname = \"light\"\nmatch.comm = \"cfg-b*\"\ncpus = \"0\"\nshare = 100\n";
    let path = file("share", text)?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    // One against three: a group's share does not grow with its threads.
    let hogs = [c"cfg-a1", c"cfg-b1", c"cfg-b2", c"cfg-b3"];
    let hogs = hogs.into_iter().map(hog).collect::<Result<Vec<_>>>()?;
    join(&hogs[..1], "heavy")?;
    stays_on(&hogs[1..], "light", 0, "groups of CPU 0")?;
    std::thread::sleep(Duration::from_secs(1));
    let got = load::shares(&hogs, Duration::from_secs(3))?;
    let heavy = got[0] / got.iter().sum::<f64>();
    metric("config_share", &[("heavy", heavy)]);
    ensure!(
        (heavy - 0.75).abs() < 0.04,
        "300 against 100: {:.1} %",
        heavy * 100.0
    );
    let status = sched.status()?;
    for (index, name, workers) in [(1, "heavy", 1), (2, "light", 3)] {
        let group = &status["system"][index];
        ensure!(
            group["name"] == name && group["workers"] == workers,
            "{group}"
        );
        ensure!(
            group["run_s"].as_f64() > Some(0.5),
            "no time counted: {group}"
        );
    }
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn change() -> Result<Verdict> {
    let groups = |first: &str, second: &str| {
        format!(
            "[[group]]\nname = \"byname\"\nmatch.comm = \"cfg-c\"\ncpus = \"{first}\"\n\
             [[group]]\nname = \"bygroup\"\nmatch.cgroup = \"/cfg-d\"\ncpus = \"{second}\"\n"
        )
    };
    let path = file("change", &groups("0", "1"))?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    let cgroup = Cgroup::new("cfg-d")?;
    let hogs = [hog(c"cfg-c")?, hog(c"cfg-c")?];
    stays_on(&hogs, "byname", 0, "by name")?;
    for hog in &hogs {
        // SAFETY: a signal to a child of ours.
        unsafe { libc::kill(hog.pid(), libc::SIGUSR1) };
        cgroup.add(hog.pid())?;
    }
    stays_on(&hogs, "bygroup", 1, "by cgroup")?;
    let child = Hog::default();
    // A pinned thread runs where it is pinned, whatever its group says.
    let pinned = [Hog {
        cpu: Some(0),
        ..child
    }
    .start()?];
    cgroup.add(pinned[0].pid())?;
    stays_on(&pinned, "bygroup", 0, "pinned elsewhere")?;
    drop(pinned);
    fs::write(&path, groups("1", "0"))?;
    until_counts(&sched, (1, 0))?;
    stays_on(&hogs, "bygroup", 0, "after a reload")?;
    for hog in &hogs {
        crate::cgroup::leave(hog.pid())?;
    }
    let both = || {
        let at: Vec<_> = hogs
            .iter()
            .filter_map(|hog| cpu_of(hog.pid()).ok())
            .collect();
        at.contains(&0) && at.contains(&1)
    };
    ensure!(
        wait_until(Duration::from_secs(3), both),
        "of no group, and not on all CPUs"
    );
    sched.no_ejection()?;
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn policies() -> Result<Verdict> {
    let text = "[daemon]\ncpus = \"0\"\n[[group]]\nname = \"fifo\"\nmatch.comm = \"cfg-f\"\n\
                cpus = \"1\"\npolicy = \"fifo\"\n";
    let path = file("policies", text)?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    let rest = [c"cfg-r"; 2]
        .into_iter()
        .map(hog)
        .collect::<Result<Vec<_>>>()?;
    let fifo = [c"cfg-f"; 3]
        .into_iter()
        .map(hog)
        .collect::<Result<Vec<_>>>()?;
    stays_on(&rest, "default", 0, "the rest")?;
    stays_on(&fifo, "fifo", 1, "fifo")?;
    let (staged, by_key) = (sched.counter("staged")?, sched.counter("by_key")?);
    let got = load::shares(&fifo, Duration::from_secs(2))?;
    let (staged, by_key) = (
        sched.counter("staged")? - staged,
        sched.counter("by_key")? - by_key,
    );
    metric(
        "config_policies",
        &[("staged", staged as f64), ("by_key", by_key as f64)],
    );
    ensure!(staged > 50, "fifo staged {staged} times in 2 s");
    ensure!(
        got.iter().all(|&seconds| seconds > 0.2),
        "fifo starves: {got:?}"
    );
    let status = sched.status()?;
    ensure!(
        status["policy"] == "fair" && status["system"][1]["policy"] == "fifo",
        "{status}"
    );
    ensure!(sched.counter("edge_illegal")? == 0, "illegal edges");
    drop((rest, fifo));
    sched.stop()?;
    Ok(Verdict::Ok)
}

fn matches() -> Result<Verdict> {
    let shell = fs::canonicalize("/bin/sh")?;
    let copy = std::env::temp_dir().join(format!("umcg-shell-{}", std::process::id()));
    fs::copy(shell, &copy)?;
    let text = format!(
        "[[group]]\nname = \"user\"\nmatch.uid = 65534\ncpus = \"0\"\n\
         [[group]]\nname = \"program\"\nmatch.exe = \"{}\"\ncpus = \"1\"\n",
        copy.display()
    );
    let path = file("matches", &text)?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    // The first one matches both rules, the last one none.
    let user = [load::shell(&copy, 65534)?];
    let program = [load::shell(&copy, 0)?, load::shell_of_a_thread(&copy)?];
    let rest = [load::shell("/bin/sh".as_ref(), 0)?];
    stays_on(&user, "user", 0, "by user")?;
    stays_on(&program, "program", 1, "by program")?;
    join(&rest, "default").context("another program")?;
    drop((user, program, rest));
    fs::remove_file(copy)?;
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// How often a second two hogs called `name`, of a group of that name, are taken off their CPU.
fn turns(name: &'static CStr) -> Result<f64> {
    let hogs = [hog(name)?, hog(name)?];
    join(&hogs, name.to_str()?)?;
    let count = || -> Result<u64> { Ok(race::preemptions(&hogs)?.iter().sum()) };
    let (before, began) = (count()?, Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    Ok((count()? - before) as f64 / began.elapsed().as_secs_f64())
}

/// How many wake-ups of the group `naps` preempt a hog of no group in a second.
fn wakes_that_preempt(sched: &Sched) -> Result<u64> {
    let cgroup = Cgroup::new("cfg-naps")?;
    let hog = Hog {
        cpu: Some(0),
        ..Hog::default()
    };
    let napper = Napper {
        cpu: 0,
        work: Duration::from_micros(100),
        sleep: Duration::from_millis(5),
        ..Napper::default()
    };
    let (hog, napper) = (hog.start()?, [napper.start()?]);
    cgroup.add(napper[0].pid())?;
    join(&napper, "naps")?;
    let count = || -> Result<u64> {
        let status = sched.status()?;
        let mut groups = status["system"].as_array().into_iter().flatten();
        let naps = groups.find(|group| group["name"] == "naps");
        let count = naps.and_then(|group| group["preempts"].as_u64());
        count.context("no preempts of naps")
    };
    let before = count()?;
    std::thread::sleep(Duration::from_secs(1));
    let during = count()? - before;
    crate::cgroup::leave(napper[0].pid())?;
    drop((hog, napper));
    Ok(during)
}

fn terms() -> Result<Verdict> {
    let text = |preempt: bool| {
        let group = |name: &str, terms: &str| {
            format!(
                "[[group]]\nname = \"{name}\"\nmatch.comm = \"{name}\"\ncpus = \"0\"\n{terms}\n"
            )
        };
        // Slices end at ticks of 4 ms.
        group("cfg-long", "slice_us = 50000")
            + &group("cfg-short", "slice_us = 4000")
            + &group("cfg-quant", "slice_us = 50000\nquantum_us = 1000")
            + "[[group]]\nname = \"naps\"\nmatch.cgroup = \"/cfg-naps\"\n"
            + &format!("preempt = {preempt}\n")
    };
    let path = file("terms", &text(true))?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    let [long, slice, quantum] = [c"cfg-long", c"cfg-short", c"cfg-quant"].map(turns);
    let (long, slice, quantum) = (long?, slice?, quantum?);
    let preempts = wakes_that_preempt(&sched)?;
    fs::write(&path, text(false))?;
    until_counts(&sched, (1, 0))?;
    let refrains = wakes_that_preempt(&sched)?;
    metric(
        "config_terms",
        &[
            ("long_per_s", long),
            ("slice_per_s", slice),
            ("quantum_per_s", quantum),
            ("preempts", preempts as f64),
            ("without", refrains as f64),
        ],
    );
    ensure!(
        long < 80.0 && slice > 120.0,
        "{long:.0} turns a second by slices of 50 ms, {slice:.0} of 4 ms"
    );
    ensure!(
        quantum > 400.0,
        "{quantum:.0} turns a second by a quantum of 1 ms"
    );
    ensure!(
        preempts > 50 && refrains == 0,
        "{preempts} wake-ups preempt, {refrains} where they may not"
    );
    sched.no_ejection()?;
    sched.stop()?;
    Ok(Verdict::Ok)
}

/// A reload may keep nobody waiting for so much longer.
const STALL_MS: f64 = 10.0;
/// Until CPUs and shares are the same again: 3 by 7.
const LAYOUTS: u64 = 21;

fn reloads<const COUNT: u64>() -> Result<Verdict> {
    // Three groups whose CPUs, shares and names change with each round.
    let text = |round: u64| {
        let (cpus, share) = (["0", "1", "0-1"], 50 + round % 7 * 50);
        let of = |group: u64| cpus[((round + group) % 3) as usize];
        format!(
            "[daemon]\nslice_us = {}\n\
             [[group]]\nname = \"g{}\"\nmatch.comm = \"cfg-a\"\ncpus = \"{}\"\nshare = {share}\n\
             [[group]]\nname = \"fix\"\nmatch.comm = \"cfg-b\"\ncpus = \"{}\"\nquantum_us = 500\n\
             [[group]]\nname = \"all\"\nmatch = {{}}\ncpus = \"{}\"\n",
            1000 + round % 3 * 1000,
            round % 20,
            of(0),
            of(1),
            of(2)
        )
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let path = file("reloads", &text(0))?;
    let sched = Sched::start(&["--config", &path.display().to_string()])?;
    let hogs = [c"cfg-a", c"cfg-a", c"cfg-b", c"cfg-c"];
    let hogs = hogs.into_iter().map(hog).collect::<Result<Vec<_>>>()?;
    let short = sleepers(4)?;
    // Groups that share one CPU wait for each other: each layout at rest first.
    let mut still = Duration::ZERO;
    for round in 1..=LAYOUTS {
        fs::write(&path, text(round))?;
        until_counts(&sched, (round, 0))?;
        let rest = Duration::from_millis(if COUNT < 1000 { 100 } else { 1500 });
        std::thread::sleep(rest / 4);
        let met = stall::during(2, || {
            std::thread::sleep(rest);
            Ok(())
        })?;
        still = still.max(met.own);
    }
    let before: Vec<f64> = hogs
        .iter()
        .map(Spinner::cpu_seconds)
        .collect::<Result<_>>()?;
    let began = Instant::now();
    let moving = stall::during(2, || {
        for round in LAYOUTS + 1..=LAYOUTS + COUNT {
            fs::write(&path, text(round))?;
            until_counts(&sched, (round, 0))?;
        }
        Ok(())
    })?;
    let each = began.elapsed().as_secs_f64() * 1e3 / COUNT as f64;
    metric(
        "reloads",
        &[
            ("each_ms", each),
            ("stall_ms", ms(moving.own)),
            ("with_machine_ms", ms(moving.longest)),
            ("without_reloads_ms", ms(still)),
        ],
    );
    // A few rounds tell nothing of the longest one.
    ensure!(
        COUNT < 1000 || ms(moving.own) <= ms(still) + STALL_MS,
        "a thread stood still for {:.1} ms, for {:.1} without reloads; at most {STALL_MS} more",
        ms(moving.own),
        ms(still)
    );
    std::thread::sleep(Duration::from_secs(1));
    for (hog, before) in hogs.iter().zip(before) {
        let now = hog.cpu_seconds()?;
        ensure!(
            now > before + 0.1,
            "a hog stood still: {before} s, now {now} s"
        );
    }
    let end_of = &sched.status()?["system"];
    ensure!(
        end_of[2]["name"] == "fix" && end_of[2]["workers"] == 1,
        "{end_of}"
    );
    ensure!(sched.counter("edge_illegal")? == 0, "illegal edges");
    sched.no_ejection()?;
    end(short);
    drop(hogs);
    sched.stop()?;
    Ok(Verdict::Ok)
}
