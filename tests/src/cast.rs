//! Members of a group in every state, in a process of their own.
//!
//! The worker that is RUNNING obeys: what the caller wants done from inside of a slot, it
//! does there.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umcg::{FOREVER, Group, GroupConfig, Id, Reason, State, Worker};

use crate::boss::{Actor, Boss, LIMIT, actor, is_in_call, is_nobody};
use crate::client::{self, Client};
use crate::harness::wait_until;

/// Who is in the cast, by cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// RUNNING: computes, and obeys.
    Spins = 0,
    /// BLOCKED in a read.
    Reads = 1,
    /// IDLE.
    Waits = 2,
    /// RUNNABLE: it has yielded.
    Yields = 3,
    /// RUNNABLE: not run yet.
    Fresh = 4,
}

/// All of them.
pub const ROLES: [Role; 5] = [
    Role::Spins,
    Role::Reads,
    Role::Waits,
    Role::Yields,
    Role::Fresh,
];

/// What the spinning worker is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To come to its end; so do those who wait and yield.
    End = 1,
    /// exit_group(7).
    Exit = 2,
    /// SIGABRT.
    Abort = 3,
    /// SIGSEGV.
    Fault = 4,
    /// Another program, which exits with 9.
    Exec = 5,
    /// More memory, for ever.
    Eat = 6,
}

/// What the processes of a play share.
pub struct Script {
    words: &'static [AtomicU32; client::WORDS],
    reader: std::io::PipeReader,
    writer: std::io::PipeWriter,
}

/// The first words of a script are the workers' progress, then follow these.
const DEED: usize = 8;
const TIDS: usize = 16;

impl Script {
    /// A fresh one; made before the processes are.
    pub fn new() -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        Ok(Self {
            words: client::shared_words()?,
            reader,
            writer,
        })
    }

    /// Tells the spinning worker, and those who look.
    pub fn tell(&self, deed: Deed) {
        self.words[DEED].store(deed as u32, SeqCst);
    }

    fn told(&self) -> u32 {
        self.words[DEED].load(SeqCst)
    }

    /// How far the worker has come.
    pub fn progress(&self, role: Role) -> u32 {
        self.words[role as usize].load(SeqCst)
    }

    /// Its thread.
    pub fn tid(&self, role: Role) -> i32 {
        self.words[TIDS + role as usize].load(SeqCst) as i32
    }

    /// Gives the reading worker a byte.
    pub fn feed(&self, byte: u8) -> Result<()> {
        use std::io::Write;
        (&self.writer).write_all(&[byte]).context("pipe")
    }
}

fn obey(deed: u32) -> Result<()> {
    match deed {
        // SAFETY: ends the process, with all its threads as they are.
        2 => unsafe { libc::_exit(7) },
        // SAFETY: as above, by a signal.
        3 => unsafe { libc::abort() },
        4 => {
            // Rust's own handler for stack overflows would come first.
            // SAFETY: the default action, and a signal that has it.
            unsafe {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                libc::raise(libc::SIGSEGV);
            }
            bail!("SIGSEGV was survived")
        }
        5 => Err(std::process::Command::new("sh")
            .args(["-c", "exit 9"])
            .exec()
            .into()),
        6 => eat(),
        _ => Ok(()),
    }
}

/// Uses a gigabyte, page by page.
fn eat() -> Result<()> {
    const BYTES: usize = 1 << 30;
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    );
    // SAFETY: a fresh mapping; all writes are inside of it.
    unsafe {
        let base = libc::mmap(std::ptr::null_mut(), BYTES, prot, flags, -1, 0);
        ensure!(base != libc::MAP_FAILED, "mmap");
        for page in (0..BYTES).step_by(4096) {
            base.cast::<u8>().add(page).write_volatile(1);
        }
    }
    bail!("there is a gigabyte")
}

fn act(role: Role, me: &mut Worker, script: &Script) -> Result<()> {
    let step = || script.words[role as usize].fetch_add(1, SeqCst);
    match role {
        Role::Spins => {
            while script.told() == 0 {
                step();
            }
            obey(script.told())?;
        }
        Role::Reads => {
            let mut pipe = &script.reader;
            let mut byte = [0u8];
            while pipe.read(&mut byte)? == 1 && byte[0] != b'q' {
                step();
            }
        }
        Role::Waits => {
            while script.told() == 0 {
                let _ = me.wait(FOREVER)?;
                step();
            }
        }
        Role::Yields => {
            while script.told() == 0 {
                me.yield_now()?;
                step();
            }
        }
        Role::Fresh => {
            step();
        }
    }
    Ok(())
}

/// The cast in the calling process; returns when all have ended.
pub fn play(group: &Group, script: &Arc<Script>) -> Result<()> {
    let actors: Vec<_> = ROLES
        .map(|role| {
            let script = script.clone();
            let tid = script.clone();
            let actor = actor(group, role as u64, move |me| act(role, me, &script));
            tid.words[TIDS + role as usize].store(actor.tid() as u32, SeqCst);
            actor
        })
        .into();
    actors.into_iter().try_for_each(Actor::end)
}

/// A process with the cast, in the group of the caller, who directs.
pub struct Troupe {
    /// Its process.
    pub client: Client,
    /// What both share.
    pub script: Arc<Script>,
    /// By role.
    pub ids: [Id; ROLES.len()],
}

impl Troupe {
    /// Starts it and brings all but the spinning one into their states.
    pub fn start() -> Result<(Self, Boss)> {
        let group = Group::create(&GroupConfig::default())?;
        let file = group.as_fd().try_clone_to_owned()?;
        let script = Arc::new(Script::new()?);
        let theirs = script.clone();
        let client = client::spawn(move || {
            is_nobody()?;
            play(&Group::open(file)?, &theirs)
        })?;
        let mut boss = Boss::of(group)?;
        let ids = direct(&mut boss, &script, client.pid)?;
        let troupe = Self {
            client,
            script,
            ids,
        };
        Ok((troupe, boss))
    }

    /// The member of `role`.
    pub fn id(&self, role: Role) -> Id {
        self.ids[role as usize]
    }

    /// All are told to end, and do; nobody is left.
    pub fn end(self, mut boss: Boss) -> Result<()> {
        self.script.tell(Deed::End);
        self.script.feed(b'q')?;
        boss.group.wake(self.id(Role::Waits))?;
        // Whoever was taken off the list to look at is to be run yet.
        for id in self.ids {
            if !boss.left.contains(&id) {
                let _ = boss.run(id, umcg::after(Duration::from_millis(50)));
            }
        }
        boss.serve_until(ROLES.len())?;
        self.client.result(LIMIT)?;
        boss.alone()
    }

    /// It has died: all its members have left, each told once, within `limit`.
    pub fn died(&self, boss: &mut Boss, limit: Duration) -> Result<i32> {
        let began = Instant::now();
        let mut status = 0;
        let dead = wait_until(LIMIT, || {
            // SAFETY: a child of ours; its status goes to `status`.
            unsafe { libc::waitpid(self.client.pid, &raw mut status, libc::WNOHANG) > 0 }
        });
        let took = began.elapsed();
        ensure!(dead && took < limit, "it took {took:?} to die");
        for id in self.ids {
            while !boss.left.contains(&id) {
                boss.news_of(id)?;
            }
        }
        Ok(status)
    }
}

/// Brings all but the spinning one into their states.
pub fn direct(boss: &mut Boss, script: &Script, pid: i32) -> Result<[Id; ROLES.len()]> {
    let mut ids = [Id::NONE; ROLES.len()];
    for role in ROLES {
        ids[role as usize] = boss.new_one(role as u64)?;
    }
    let id = |role| ids[role as usize];
    boss.settle(id(Role::Reads), State::Blocked, || {
        is_in_call(pid, script.tid(Role::Reads), libc::SYS_read)
    })?;
    let group = boss.group.clone();
    let waiter = id(Role::Waits);
    boss.settle(waiter, State::Idle, || {
        let state = group.state(waiter);
        state.is_ok_and(|it| it.flags & umcg::word::ASLEEP != 0)
    })?;
    boss.until(id(Role::Yields), |it| it == Reason::Yielded)?;
    Ok(ids)
}
