//! The agent of a run: started, taken away, reconfigured and asked, with the watcher beside it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use scx_umcg::runfile::RunFile;

use super::report::{Report, What};
use super::watch::Watcher;
use crate::harness::{Sched, sysfs, wait_until};

/// Counters that have to be zero.
const ZERO: [&str; 2] = ["edge_illegal", "grp_shared"];

/// What all runs begin and end with.
const PLAIN: &str = "[daemon]\nslice_us = 4000\n";

/// Configurations that can be taken over.
const GOOD: [&str; 5] = [
    PLAIN,
    "[daemon]\nslice_us = 1500\nquantum_us = 800\n",
    "[[group]]\nname = \"clients\"\nmatch = { uid = 65534 }\nshare = 300\nslice_us = 2000\n",
    "[[group]]\nname = \"clients\"\nmatch = { uid = 65534 }\ncpus = \"0\"\n\
     [[group]]\nname = \"others\"\nmatch = { uid = [65531, 65532, 65533] }\nshare = 20\n",
    "[daemon]\ncpus = \"0\"\npreempt = false\n\
     [[group]]\nname = \"clients\"\nmatch = { uid = 65534 }\nquantum_us = 500\nslice_us = 1000\n",
];

/// Those that cannot: out of bounds, unknown, no TOML, what cannot change while it runs.
const SPOILT: [&str; 4] = [
    "[daemon]\nslice_us = 1\n",
    "[daemon]\nslice = 4000\n[[group]]\nname = \"x\"\n",
    "[daemon\nslice_us = 4000\n",
    "[daemon]\ntimeout_ms = 4321\n",
];

/// A reload takes no longer on a slow machine, either.
const RELOADS_WITHIN: Duration = Duration::from_secs(20);

/// The daemon, and what belongs to its instance.
pub struct Agent {
    sched: Option<Sched>,
    watcher: Option<Watcher>,
    config: PathBuf,
    policy: &'static str,
    /// Illegal edges and the like that were told of this instance.
    told: [u64; ZERO.len()],
    /// Stops that have not ended.
    stops: u32,
    /// How often it was stopped or taken away.
    troubles: u64,
}

impl Agent {
    /// Starts it with a configuration file of its own.
    pub fn start(policy: &'static str) -> Result<Self> {
        let name = format!("umcg-soak-{}.toml", std::process::id());
        let config = std::env::temp_dir().join(name);
        fs::write(&config, PLAIN).with_context(|| format!("{}", config.display()))?;
        let mut this = Self {
            sched: None,
            watcher: None,
            config,
            policy,
            told: [0; ZERO.len()],
            stops: 0,
            troubles: 0,
        };
        this.launch()?;
        Ok(this)
    }

    fn launch(&mut self) -> Result<()> {
        let config = self.config.display().to_string();
        let sched = Sched::start(&["--config", &config, "--policy", self.policy])?;
        self.told = [0; ZERO.len()];
        self.stops = 0;
        self.sched = Some(sched);
        Ok(())
    }

    /// The instance that runs.
    pub fn sched(&self) -> Result<&Sched> {
        self.sched.as_ref().context("no agent runs")
    }

    /// From now on lost wakes are looked for, or not any more.
    pub fn watch(&mut self, on: bool) -> Result<()> {
        self.watcher = on.then(Watcher::start).transpose()?;
        Ok(())
    }

    /// SIGTERM or SIGKILL, and a new one. The watcher goes first: it would look at records that
    /// nobody writes any more.
    pub fn restart(&mut self, signal: i32, report: &mut Report) -> Result<()> {
        self.troubles += 1;
        let watched = self.watcher.take().is_some();
        if let Some(mut sched) = self.sched.take() {
            self.look_at(&sched, report);
            sched.signal(signal);
            sched.signal(libc::SIGCONT);
            let code = sched.wait(Duration::from_secs(60))?;
            if signal == libc::SIGTERM && code != 0 {
                let text = format!("exit code {code} after SIGTERM; log: {}", sched.text());
                report.violation(What::Other, &text);
            }
            let off = wait_until(Duration::from_secs(20), || sysfs("state") == "disabled");
            ensure!(off, "state {} after its end", sysfs("state"));
        }
        let gone = report.at();
        self.plain_config()?;
        self.launch()?;
        let took = report.at() - gone;
        report.note(&format!("attached again, which took {took:.1} s"));
        self.watch(watched)
    }

    /// SIGSTOP, until [`Agent::go_on`].
    pub fn stop(&mut self) -> Result<()> {
        self.troubles += 1;
        self.stops += 1;
        self.sched()?.signal(libc::SIGSTOP);
        Ok(())
    }

    /// A stop has ended; the last of them lets it go on.
    pub fn go_on(&mut self) {
        self.stops = self.stops.saturating_sub(1);
        if self.stops == 0
            && let Ok(sched) = self.sched()
        {
            sched.signal(libc::SIGCONT);
        }
    }

    fn plain_config(&self) -> Result<()> {
        fs::write(&self.config, PLAIN).context("the configuration")
    }

    /// Writes configuration `file`, good or spoilt, and waits until it was taken over or refused.
    pub fn reload(&mut self, file: u64, good: bool, report: &mut Report) -> Result<()> {
        let text = match good {
            true => GOOD[file as usize % GOOD.len()],
            false => SPOILT[file as usize % SPOILT.len()],
        };
        let count = |file: &RunFile| match good {
            true => file.reloads,
            false => file.reloads_refused,
        };
        let before = RunFile::read()?.as_ref().map_or(0, count);
        fs::write(&self.config, text).context("the configuration")?;
        self.sched()?.signal(libc::SIGHUP);
        if self.stops > 0 {
            return Ok(()); // it reads it when it goes on
        }
        let done = wait_until(
            RELOADS_WITHIN,
            || matches!(RunFile::read(), Ok(Some(file)) if count(&file) > before),
        );
        if !done {
            let word = if good { "taken over" } else { "refused" };
            let text = format!("a reload was not {word} within {RELOADS_WITHIN:?}: {text:?}");
            report.violation(What::Other, &text);
        }
        Ok(())
    }

    /// What a client that begins now has to know of it; none while it is stopped.
    pub fn troubles(&self) -> Option<u64> {
        (self.stops == 0).then_some(self.troubles)
    }

    /// Whether a client that needs it all the time, and began at `began`, may have failed for want
    /// of it.
    pub fn may_be_blamed(&self, began: Option<u64>) -> bool {
        began != Some(self.troubles)
    }

    /// As at the start.
    pub fn reload_plain(&mut self, report: &mut Report) -> Result<()> {
        self.reload(0, true, report)
    }

    /// `status` answers, also while the agent is stopped.
    pub fn status(&self, report: &mut Report) -> Result<()> {
        if let Err(error) = self.sched()?.status() {
            report.violation(What::Other, &format!("no answer: {error:#}"));
        }
        Ok(())
    }

    /// What has gone wrong since the last look. An ejected scheduler is started anew.
    pub fn check(&mut self, report: &mut Report) -> Result<()> {
        for text in self
            .watcher
            .as_mut()
            .map_or(Ok(Vec::new()), Watcher::found)?
        {
            report.violation(What::LostWake, &text);
        }
        let sched = self.sched.take().context("no agent runs")?;
        self.look_at(&sched, report);
        let ejected = sched.no_ejection();
        self.sched = Some(sched);
        if let Err(error) = ejected {
            report.violation(What::Ejection, &format!("{error:#}"));
            self.restart(libc::SIGKILL, report)?;
        }
        Ok(())
    }

    fn look_at(&mut self, sched: &Sched, report: &mut Report) {
        for (name, told) in ZERO.iter().zip(&mut self.told) {
            // Its file may be on its way.
            let count = sched.counter(name).unwrap_or(*told);
            if count > *told {
                report.violation(What::Other, &format!("{name} = {count}, was {told}"));
                *told = count;
            }
        }
    }

    /// Counters of this instance that say how close it came.
    pub fn tell(&self) -> Result<()> {
        let sched = self.sched()?;
        let count = |name| sched.counter(name).unwrap_or(0);
        let status = sched.status()?;
        let idle = status["max_idle_work_ns"].as_u64().unwrap_or(0) as f64 / 1e6;
        println!(
            "metric soak_agent rescued={} grp_unheld={} word_race={} lst_resync={} \
             server_wake_fail={} idle_work_ms={:.3} longest_idle_work_ms={idle:.3}",
            count("rescued"),
            count("grp_unheld"),
            count("word_race"),
            count("lst_resync"),
            count("server_wake_fail"),
            count("idle_work_ns") as f64 / 1e6
        );
        Ok(())
    }

    /// SIGINT, after all.
    pub fn end(mut self) -> Result<()> {
        self.watcher = None;
        let sched = self.sched.take().context("no agent runs")?;
        let _ = fs::remove_file(&self.config);
        sched.stop()
    }
}
