//! Starting, watching and ending the scheduler under test.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use scx_umcg::counters::COUNTERS;
use scx_umcg::runfile::RunFile;
use serde_json::Value;

/// How a test that found no fault ended.
pub enum Verdict {
    /// It passed.
    Ok,
    /// It cannot run here, for this reason.
    Skip(String),
}

/// Children that a failing test left behind.
static CHILDREN: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Remembers a child, so that [`clean_up`] ends it whatever happens.
pub fn adopt(pid: u32) {
    CHILDREN
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .push(pid as i32);
}

/// The scheduler of tests that need none of their own, see [`shared`].
static SHARED: Mutex<Option<(bool, Arc<Sched>)>> = Mutex::new(None);

/// Whether the next one that is asked for has to be in partial mode.
static PARTIAL: AtomicBool = AtomicBool::new(false);

/// Runs a test whose shared scheduler is in partial mode.
pub fn in_partial_mode(test: fn() -> Result<Verdict>) -> Result<Verdict> {
    PARTIAL.store(true, Relaxed);
    let verdict = test();
    PARTIAL.store(false, Relaxed);
    verdict
}

/// A variable of every scheduler that is started now, see [`with_variable`].
static VARIABLE: Mutex<Option<(&str, String)>> = Mutex::new(None);

/// The value of that variable, if it has this name.
pub fn variable(name: &str) -> Option<String> {
    let set = VARIABLE.lock().unwrap_or_else(|e| e.into_inner());
    let (_, value) = set.as_ref().filter(|it| it.0 == name)?;
    Some(value.clone())
}

/// Runs `body`, whose schedulers have `name` in their environment; the shared one too.
pub fn with_variable<T>(name: &'static str, value: &str, body: impl FnOnce() -> T) -> T {
    let set = |to| *VARIABLE.lock().unwrap_or_else(|e| e.into_inner()) = to;
    end_shared();
    set(Some((name, value.to_owned())));
    let result = body();
    end_shared();
    set(None);
    result
}

/// A scheduler without options that outlives the test, so that tests in a row need not
/// load one each. It ends when a test starts one of its own, fails, or is of another boot.
pub fn shared() -> Result<Arc<Sched>> {
    let partial = PARTIAL.load(Relaxed);
    let locked = || SHARED.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((mode, sched)) = &*locked()
        && *mode == partial
    {
        return Ok(sched.clone());
    }
    end_shared();
    let args: &[_] = if partial { &["--partial"] } else { &[] };
    let sched = Arc::new(Sched::launch(args, None)?);
    *locked() = Some((partial, sched.clone()));
    Ok(sched)
}

/// Ends the shared scheduler, if there is one: what comes next is about the kernel's own one, or
/// about none.
pub fn end_shared() {
    let shared = SHARED.lock().unwrap_or_else(|e| e.into_inner()).take();
    if let Some((_, sched)) = shared {
        kill(sched.pid() as i32);
        let _ = wait_until(Duration::from_secs(10), || sysfs("state") == "disabled");
    }
}

fn kill(pid: i32) {
    // SAFETY: a signal to a child of ours; it may have ended already.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

/// Ends what a test left running, but for the shared scheduler, and waits until no
/// other one is attached.
pub fn clean_up() {
    for pid in CHILDREN.lock().unwrap_or_else(|e| e.into_inner()).drain(..) {
        kill(pid);
    }
    if SHARED.lock().unwrap_or_else(|e| e.into_inner()).is_none() {
        let _ = wait_until(Duration::from_secs(10), || sysfs("state") == "disabled");
    }
}

/// A file of /sys/kernel/sched_ext, trimmed; empty if there is none.
pub fn sysfs(name: &str) -> String {
    fs::read_to_string(format!("/sys/kernel/sched_ext/{name}"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Whether a scheduler is attached.
pub fn attached() -> bool {
    sysfs("state") == "enabled"
}

/// How long the last start of a scheduler took in this boot, 0 = there was none.
static LAST_START_MS: AtomicU32 = AtomicU32::new(0);

/// The same in ms.
pub fn last_start_ms() -> u32 {
    LAST_START_MS.load(Relaxed)
}

/// Polls every 5 ms; false on a time-out.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A file beside this program.
pub fn sibling(name: &str) -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(name)))
        .unwrap_or_else(|| name.into())
}

/// A running scx_umcg.
pub struct Sched {
    child: Child,
    log: PathBuf,
    seq: String,
    /// Ejections in its log that are in [`EJECTIONS`] already.
    noted: AtomicU32,
}

/// Ejections of the schedulers that [`Sched`] started, until they are asked for.
static EJECTIONS: AtomicU32 = AtomicU32::new(0);

/// How many of them the test brings about by itself.
static MEANT: AtomicU32 = AtomicU32::new(0);

/// The test is about to have `count` ejections: any more fail it.
pub fn mean_ejections(count: u32) {
    MEANT.fetch_add(count, Relaxed);
}

/// How often the kernel ejected a scheduler since this was asked, and how often it was meant.
pub fn take_ejections() -> (u32, u32) {
    if let Some((_, sched)) = &*SHARED.lock().unwrap_or_else(|e| e.into_inner()) {
        sched.note_ejections();
    }
    (EJECTIONS.swap(0, Relaxed), MEANT.swap(0, Relaxed))
}

/// Has every scheduler that is started without a file use the one of this name.
const CONFIG: &str = "UMCG_VMTEST_CONFIG";

fn configured(args: &[&str]) -> Vec<OsString> {
    match std::env::var_os(CONFIG) {
        Some(file) if !args.contains(&"--config") => vec!["--config".into(), file],
        _ => Vec::new(),
    }
}

impl Drop for Sched {
    fn drop(&mut self) {
        self.note_ejections();
    }
}

impl Sched {
    /// Starts it with `args` and waits until it is attached and its servers are up.
    pub fn start(args: &[&str]) -> Result<Self> {
        end_shared();
        let sched = Self::launch(args, None)?;
        adopt(sched.pid());
        Ok(sched)
    }

    /// The same; what it writes to stdout goes elsewhere.
    pub fn start_to(stdout: impl Into<Stdio>, args: &[&str]) -> Result<Self> {
        end_shared();
        let sched = Self::launch(args, Some(stdout.into()))?;
        adopt(sched.pid());
        Ok(sched)
    }

    fn launch(args: &[&str], stdout: Option<Stdio>) -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let began = Instant::now();
        let run = RUNS.fetch_add(1, Relaxed);
        let log = std::env::temp_dir().join(format!("scx_umcg.{}.{run}.log", std::process::id()));
        let out = File::create(&log).context("log file")?;
        let set = VARIABLE.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let child = Command::new(sibling("scx_umcg"))
            .args(args)
            .args(configured(args))
            .envs(set)
            .stdin(Stdio::null())
            .stdout(stdout.map_or_else(|| out.try_clone().map(Stdio::from), Ok)?)
            .stderr(out)
            .spawn()
            .context("cannot start scx_umcg")?;
        let mut sched = Self {
            child,
            log,
            seq: String::new(),
            noted: AtomicU32::new(0),
        };
        let up = wait_until(Duration::from_secs(180), || {
            sched.text().contains("attached:") || !matches!(sched.child.try_wait(), Ok(None))
        });
        if !(up && sched.text().contains("attached:") && sysfs("state") == "enabled") {
            kill(sched.pid() as i32);
            bail!(
                "not attached: state {:?}, log: {}",
                sysfs("state"),
                sched.text()
            );
        }
        sched.seq = sysfs("enable_seq");
        LAST_START_MS.store(began.elapsed().as_millis() as u32, Relaxed);
        Ok(sched)
    }

    fn note_ejections(&self) {
        let count = self.text().matches("ejected: ").count() as u32;
        let noted = self.noted.swap(count, Relaxed);
        EJECTIONS.fetch_add(count.saturating_sub(noted), Relaxed);
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `scx_umcg status --json`.
    pub fn status(&self) -> Result<Value> {
        let out = Command::new(sibling("scx_umcg"))
            .args(["status", "--json"])
            .output()?;
        ensure!(
            out.status.success(),
            "status: {}; log: {}",
            String::from_utf8_lossy(&out.stderr),
            self.text()
        );
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// One of its counters, read from the shared records.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let which = COUNTERS
            .iter()
            .position(|c| c.name == name)
            .with_context(|| format!("no counter {name}"))?;
        let file = RunFile::read()?.context("no agent runs")?;
        Ok(scx_umcg::status::open_shared(&file)?.counter(which))
    }

    /// Fails if the kernel ejected it since it was started.
    pub fn no_ejection(&self) -> Result<()> {
        let (seq, state) = (sysfs("enable_seq"), sysfs("state"));
        if seq == self.seq && state == "enabled" {
            return Ok(());
        }
        // The agent hears of it a moment later, and says why.
        wait_until(Duration::from_secs(3), || self.text().contains("ejected: "));
        bail!(
            "ejected: enable_seq {} -> {seq}, state {state}, log: {}",
            self.seq,
            self.text()
        )
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for its end; its exit code, or -signal.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        use std::os::unix::process::ExitStatusExt;
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-status.signal().unwrap_or(0)));
            }
            if Instant::now() > end {
                bail!(
                    "still runs after {limit:?}, {}; log: {}",
                    at_work(self.pid()),
                    self.text()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGINT; must end with 0, with no ejection before.
    pub fn stop(self) -> Result<()> {
        self.end().map(drop)
    }

    /// The same; what it has printed.
    pub fn end(mut self) -> Result<String> {
        self.no_ejection()?;
        self.signal(libc::SIGINT);
        let code = self.wait(Duration::from_secs(20))?;
        ensure!(
            code == 0,
            "exit code {code} after SIGINT; log: {}",
            self.text()
        );
        ensure!(
            sysfs("state") == "disabled",
            "state {} after its end",
            sysfs("state")
        );
        Ok(self.text())
    }
}

/// What the threads of `pid` are doing: name, state, and where in the kernel.
fn at_work(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let told = tasks.flatten().map(|task| {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find_map(|l| l.strip_prefix("State:\t"));
        let stack = read("stack").replace('\n', " ");
        format!("{} {}: {stack}", read("comm").trim(), state.unwrap_or("?"))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Prints a measured value for the driver to keep.
pub fn metric(name: &str, values: &[(&str, f64)]) {
    let values: Vec<_> = values.iter().map(|(k, v)| format!("{k}={v:.4}")).collect();
    println!("metric {name} {}", values.join(" "));
}

/// Median of a non-empty list.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
