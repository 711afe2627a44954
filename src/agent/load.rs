//! Opens, configures, loads and attaches the BPF program.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle, OpenObject};
use log::{info, warn};
use scx_utils::{
    compat, scx_ops_attach, scx_ops_load, scx_ops_open, try_set_rlimit_infinity, uei_exited,
};
use umcg_policy::{Decide, Policy};

use super::bell::Bell;
use super::client;
use super::control::Control;
use super::faults;
use super::kinds;
use super::live::Live;
use super::matcher::Matcher;
use super::near::Machine;
use super::news::News;
use super::server::{self, Server, Settings, now_ns};
use super::{Ended, caps};
use crate::bpf_skel::{BpfSkel, BpfSkelBuilder, OpenBpfSkel};
use crate::config::{Config, Daemon, Kind};
use crate::runfile::{MapIds, RunFile};
use crate::shared::{Mapping, Shared};

/// A loaded program that is not attached yet.
#[expect(missing_debug_implementations, reason = "the skeleton has none")]
pub struct Loaded<'a> {
    skel: BpfSkel<'a>,
    shared: Arc<Shared>,
    bells: Vec<Bell>,
    policies: Vec<Box<dyn Policy>>,
    decide: Decide,
}

/// Opens and loads for `config`; nothing changes for the system yet.
pub fn load<'a>(object: &'a mut MaybeUninit<OpenObject>, config: &Config) -> Result<Loaded<'a>> {
    let args = &config.daemon;
    let nr_cpus = *scx_utils::NR_CPU_IDS;
    let kinds = config.kinds(nr_cpus);
    kinds::require_heap(&kinds)?;
    faults::read()?;
    try_set_rlimit_infinity();

    let mut builder = BpfSkelBuilder::default();
    builder.obj_builder.debug(args.verbose);
    let mut skel = scx_ops_open!(
        builder,
        object,
        umcg_ops,
        None::<libbpf_rs::libbpf_sys::bpf_object_open_opts>
    )
    .context("cannot open the BPF program")?;
    configure(&mut skel, args, nr_cpus)?;
    let decide = configure_policies(&mut skel, args, &kinds)?;
    faults::configure(&mut skel);

    let skel = scx_ops_load!(skel, umcg_ops, uei).context("cannot load the BPF program")?;
    let shared = Arc::new(map_shared(&skel, nr_cpus)?);
    let bells = (0..nr_cpus)
        .map(|cpu| ring_bell(&skel, cpu))
        .collect::<Result<_>>()?;
    Ok(Loaded {
        skel,
        shared,
        bells,
        policies: kinds::policies(&kinds)?,
        decide,
    })
}

/// Knobs that the verifier may take as constants, and the flags of the ops.
fn configure(skel: &mut OpenBpfSkel<'_>, args: &Daemon, nr_cpus: usize) -> Result<()> {
    let rodata = skel.maps.rodata_data.as_mut().context("no .rodata")?;
    rodata.umcg_nr_cpus = nr_cpus as u32;
    rodata.umcg_timeout_ns = u64::from(args.timeout_ms) * 1_000_000;
    rodata.umcg_partial = args.partial;
    rodata.umcg_ignore_max = args.ignore_cpu_max;
    rodata.umcg_debug = std::env::var_os("UMCG_DEBUG_EDGES").is_some();
    rodata.umcg_ahead_ns = debug_number("UMCG_DEBUG_WRAP_MS").map_or(0, words_ahead);
    Machine::this().fill(&mut rodata.umcg_near, nr_cpus);
    for cpu in nohz_cpus() {
        if let Some(word) = rodata.umcg_nohz.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
            rodata.umcg_tickless = true;
        }
    }
    if let Some(records) = debug_number("UMCG_DEBUG_RECORDS") {
        let most = umcg::intf::umcg_limits_UMCG_MAX_WORKERS;
        rodata.umcg_records = records.clamp(1, u64::from(most)) as u32;
    }

    let names = crate::kernel::tells_of_names();
    skel.progs.umcg_renamed.set_autoload(names);
    skel.progs.umcg_rename.set_autoload(!names);

    let ops = skel.struct_ops.umcg_ops_mut();
    ops.timeout_ms = args.timeout_ms;
    // scx_utils would warn of what nobody can change.
    if !crate::kernel::tells_of_limits() {
        ops.cgroup_set_bandwidth = std::ptr::null_mut();
    }
    if !crate::kernel::calls("cgroup_set_idle") {
        ops.cgroup_set_idle = std::ptr::null_mut();
    }
    ops.flags = *compat::SCX_OPS_ENQ_LAST
        | *compat::SCX_OPS_ENQ_EXITING
        | *compat::SCX_OPS_ENQ_MIGRATION_DISABLED
        | *compat::SCX_OPS_KEEP_BUILTIN_IDLE;
    if args.partial {
        ops.flags |= *compat::SCX_OPS_SWITCH_PARTIAL;
    }
    Ok(())
}

/// The policies of `kinds`, by CPU; how the daemon's own one decides.
fn configure_policies(skel: &mut OpenBpfSkel<'_>, args: &Daemon, kinds: &[Kind]) -> Result<Decide> {
    let own = kinds::traits(&[Kind::new(&args.policy, args.decide)])?[0];
    let rodata = skel.maps.rodata_data.as_mut().context("no .rodata")?;
    rodata.umcg_staged = own.decide == Decide::Staged;
    rodata.umcg_order = kinds::order_code(own.order);
    rodata.umcg_history = own.history;
    rodata.umcg_tick_ns = own.tick_ns;
    for (cpu, traits) in kinds::traits(kinds)?.iter().enumerate() {
        rodata.umcg_mixed |= *traits != own;
        rodata.umcg_kinds[cpu] = kinds::kind_code(traits);
        rodata.umcg_ticks[cpu] = traits.tick_ns;
    }
    Ok(own.decide)
}

/// The number in an environment variable that tests set.
fn debug_number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What words have to be ahead of CLOCK_MONOTONIC for their time to wrap in `ms` from now.
fn words_ahead(ms: u64) -> u64 {
    const WRAP: u64 = 1 << 48;
    let to_wrap = WRAP - now_ns() % WRAP;
    // Not 0 whatever `ms` is, which would mean that they are not ahead.
    to_wrap + WRAP - ms.min(3_600_000) * 1_000_000
}

/// CPUs whose tick the kernel stops when one thread runs there alone.
fn nohz_cpus() -> Vec<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/nohz_full").unwrap_or_default();
    // "(null)" without any.
    scx_utils::read_cpulist(text.trim()).unwrap_or_default()
}

fn map_shared(skel: &BpfSkel<'_>, nr_cpus: usize) -> Result<Shared> {
    use umcg::intf::{umcg_limits_UMCG_MAX_CPUS as CPUS, umcg_limits_UMCG_MAX_WORKERS as WORKERS};

    let workers = &skel.maps.umcg_workers;
    let servers = &skel.maps.umcg_servers;
    let cpus = &skel.maps.bss_cpus;
    let (sys, sys_cpus) = (&skel.maps.bss_sys, &skel.maps.bss_syscpu);
    Ok(Shared {
        workers: Mapping::new(
            workers.as_fd(),
            WORKERS as usize,
            workers.value_size() as usize,
            true,
        )?,
        servers: Mapping::new(
            servers.as_fd(),
            CPUS as usize,
            servers.value_size() as usize,
            true,
        )?,
        cpus: Mapping::new(
            cpus.as_fd(),
            CPUS as usize,
            cpus.value_size() as usize / CPUS as usize,
            false,
        )?,
        sys: Mapping::new(sys.as_fd(), 1, sys.value_size() as usize, true)?,
        sys_cpus: Mapping::new(
            sys_cpus.as_fd(),
            CPUS as usize,
            sys_cpus.value_size() as usize / CPUS as usize,
            false,
        )?,
        nr_cpus,
    })
}

fn ring_bell(skel: &BpfSkel<'_>, cpu: usize) -> Result<Bell> {
    let bell = Bell::new()?;
    skel.maps
        .umcg_bells
        .update(
            &(cpu as u32).to_ne_bytes(),
            &bell.fd().as_raw_fd().to_ne_bytes(),
            MapFlags::ANY,
        )
        .with_context(|| format!("cannot give server {cpu} its bell"))?;
    Ok(bell)
}

impl Loaded<'_> {
    fn map_ids(&self) -> Result<MapIds> {
        let maps = &self.skel.maps;
        Ok(MapIds {
            workers: maps.umcg_workers.info()?.info.id,
            servers: maps.umcg_servers.info()?.info.id,
            cpus: maps.bss_cpus.info()?.info.id,
            sys: maps.bss_sys.info()?.info.id,
            sys_cpus: maps.bss_syscpu.info()?.info.id,
            groups: maps.umcg_truths.info()?.info.id,
        })
    }

    /// Starts the servers, attaches, and runs until a signal or an ejection.
    pub fn run(mut self, news: &News, live: &mut Live, ejections: u64) -> Result<Ended> {
        let args = live.daemon().clone();
        let stop = Arc::new(AtomicBool::new(false));
        let servers = self.start_servers(&args, live.stage(), &stop)?;
        let link = scx_ops_attach!(self.skel, umcg_ops).map_err(|e| {
            stop.store(true, Ordering::Relaxed);
            servers.iter().for_each(server::Handle::ring);
            attach_failure(e)
        })?;
        servers.iter().for_each(server::Handle::ring);
        let exec = self.skel.progs.umcg_exec.attach();
        let exec = exec.context("cannot follow exec, which ends a membership")?;
        let deaf = Arc::new(AtomicBool::new(false));
        let clients = match client::spawn(&self.skel, !args.partial, deaf.clone()) {
            Ok(clients) => Some(clients),
            Err(err) => {
                warn!("no application groups: {err:#}");
                None
            }
        };
        let matcher = self.start_matcher()?;
        let apply = self
            .skel
            .progs
            .umcg_sys_apply
            .as_fd()
            .try_clone_to_owned()?;
        let (_settled, file) = self.settle(&args, ejections)?;
        live.attached(apply, matcher, file);
        info!(
            "attached: {} mode, policy {}, decided by {}; Ctrl-C detaches",
            if args.partial { "partial" } else { "full" },
            args.policy,
            self.decide
        );
        if let Err(err) = self.move_timer() {
            warn!("the timer may stay on a nohz_full CPU: {err:#}");
        }

        let control = Control::new(self.shared.clone(), ejections);
        let served = control.run(live, news, || uei_exited!(&self.skel, uei));
        live.detached();
        faults::tell(&self.skel);

        let ejected = uei_exited!(&self.skel, uei);
        deaf.store(true, Ordering::Relaxed);
        if let Some(clients) = clients {
            clients.join();
        }
        drop(exec);
        drop(link);
        stop.store(true, Ordering::Relaxed);
        for server in servers {
            server.ring();
            server.join();
        }
        served?;
        if !ejected {
            info!("detached: the kernel's own scheduler runs");
            return Ok(Ended::Asked);
        }
        let data = self.skel.maps.data_data.as_ref();
        let kind = data.map_or(0, |data| data.uei.kind);
        Ok(Ended::Ejected(uei_read(&self.skel), kind))
    }

    /// They register before the attachment: the first decision finds them ready.
    fn start_servers(
        &mut self,
        args: &Daemon,
        depth: Arc<AtomicU32>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<server::Handle>> {
        let settings = Settings {
            forwards: self.forwards(),
            depth,
            partial: args.partial,
        };
        let program = self.skel.progs.umcg_register_server.as_fd();
        let register = program.try_clone_to_owned()?;
        let parts = self.bells.drain(..).zip(self.policies.drain(..));
        parts
            .enumerate()
            .map(|(cpu, (bell, policy))| {
                let server = Server::new(
                    cpu as u32,
                    self.shared.clone(),
                    bell,
                    policy,
                    settings.clone(),
                );
                server::spawn(server, register.try_clone()?, stop.clone())
            })
            .collect()
    }

    /// Does a worker that waits at another server need to be named to that one? Not where
    /// BPF keeps all orders.
    fn forwards(&self) -> bool {
        self.policies
            .iter()
            .any(|policy| policy.traits().decide == Decide::Staged)
    }

    fn start_matcher(&self) -> Result<Matcher> {
        let map = MapHandle::try_from(&self.skel.maps.umcg_ask_bell)?;
        Matcher::spawn(self.shared.clone(), Bell::on(map)?)
    }

    /// The records that BPF and the agent share.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Off the CPUs without ticks, where the attachment may have started it.
    fn move_timer(&self) -> Result<()> {
        let nohz = nohz_cpus();
        if nohz.is_empty() {
            return Ok(());
        }
        let before = caps::affinity()?;
        let mut keep = before;
        nohz.iter().for_each(|&cpu| caps::leave_out(&mut keep, cpu));
        caps::set_affinity(&keep)?;
        let program = self
            .skel
            .progs
            .umcg_move_timer
            .as_fd()
            .try_clone_to_owned()?;
        let mut moved = Ok(());
        for _ in 0..100 {
            let mut call = umcg::intf::umcg_call {
                index: 0,
                gen_: 0,
                ret: 0,
                pad0: 0,
            };
            moved = server::run_program(&program, &mut call).and_then(|()| {
                anyhow::ensure!(call.ret == 0, "BPF answered {}", call.ret);
                Ok(())
            });
            if moved.is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        caps::set_affinity(&before)?;
        moved
    }

    /// What follows an attachment: no page faults, a way to be found, no spare rights.
    fn settle(&self, args: &Daemon, ejections: u64) -> Result<(Settled, RunFile)> {
        if let Some(value) = RunFile::left_behind() {
            caps::restore_sysctl(&value);
        }
        let nr_cpus = self.shared.nr_cpus;
        let mut file = RunFile::new(args, self.map_ids()?, nr_cpus, ejections, self.decide);
        file.ahead_ns = (self.skel.maps.rodata_data.as_ref()).map_or(0, |r| r.umcg_ahead_ns);
        caps::lock_memory();
        let settled = Settled;
        caps::drop_unneeded();
        Ok((settled, file))
    }
}

/// What [`Loaded::settle`] did to the system; undone however the attachment ends.
struct Settled;

impl Drop for Settled {
    fn drop(&mut self) {
        caps::unlock_memory();
        RunFile::remove();
    }
}

fn uei_read(skel: &BpfSkel<'_>) -> scx_utils::UserExitInfo {
    scx_utils::uei_read!(skel, uei)
}

fn attach_failure(err: anyhow::Error) -> anyhow::Error {
    match crate::kernel::attached() {
        Some(ops) => crate::kernel::busy(&ops).into(),
        None => err.context("cannot attach the scheduler"),
    }
}
