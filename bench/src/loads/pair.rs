//! Two threads that hand over to each other and back, in five ways.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::thread;

use anyhow::{Result, anyhow};
use umcg::{ErrorKind, FOREVER, Group, GroupConfig, Id, Reason, Worker};

use super::member::{self, Name};
use crate::context::Context;
use crate::pace::{Budget, Pace, Place};
use crate::plan::Under;
use crate::sys;

/// What a pair hands over by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A word, and a futex.
    Futex,
    /// A byte in a pipe each way.
    Pipe,
    /// A word, and sched_yield while it is the other one's turn.
    Yield,
    /// A worker switches to the other one.
    Switch,
    /// A server runs a worker, which waits.
    Run,
}

impl By {
    /// Its name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Futex => "futex",
            Self::Pipe => "pipe",
            Self::Yield => "yield",
            Self::Switch => "worker",
            Self::Run => "server",
        }
    }

    /// What it runs under.
    pub const fn under(self) -> Under {
        match self {
            Self::Futex | Self::Pipe | Self::Yield => Under::Threads,
            Self::Switch | Self::Run => Under::Group,
        }
    }
}

/// Hand-offs in a round trip.
const HAND_OFFS: f64 = 2.0;

/// One pair, for as long as `budget` says: what one hand-off took, and how much `watched` grew
/// meanwhile, per nanosecond.
pub fn measure(
    context: &Context,
    by: By,
    place: Place,
    budget: Budget,
    watched: Option<&AtomicU64>,
) -> Result<(f64, Option<f64>)> {
    let pace = || Pace::start(budget, watched);
    let pace = match by {
        By::Futex => threads(&ByFutex::default(), place, pace),
        By::Yield => threads(&ByYield::default(), place, pace),
        By::Pipe => threads(&ByPipe::new()?, place, pace),
        By::Switch => workers(context, place, pace),
        By::Run => server(context, place, pace),
    }?;
    Ok((pace.ns_per_step()? / HAND_OFFS, pace.growth()))
}

/// Waits for a thread of ours; that one panics is a bug of ours.
pub fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// What two plain threads pass to each other; number 0 has it first.
trait Baton: Sync {
    /// Returns when it is `me`'s turn.
    fn wait(&self, me: u32) -> Result<()>;
    /// From `me` to the other one.
    fn pass(&self, me: u32) -> Result<()>;
}

#[derive(Default)]
struct ByFutex(AtomicU32);

impl Baton for ByFutex {
    fn wait(&self, me: u32) -> Result<()> {
        while self.0.load(SeqCst) != me {
            sys::futex_wait(&self.0, 1 - me);
        }
        Ok(())
    }

    fn pass(&self, me: u32) -> Result<()> {
        self.0.store(1 - me, SeqCst);
        sys::futex_wake(&self.0);
        Ok(())
    }
}

#[derive(Default)]
struct ByYield(AtomicU32);

impl Baton for ByYield {
    fn wait(&self, me: u32) -> Result<()> {
        while self.0.load(SeqCst) != me {
            thread::yield_now();
        }
        Ok(())
    }

    fn pass(&self, me: u32) -> Result<()> {
        self.0.store(1 - me, SeqCst);
        Ok(())
    }
}

/// A pipe to each of the two.
struct ByPipe([(PipeReader, PipeWriter); 2]);

impl ByPipe {
    fn new() -> Result<Self> {
        let pipes = [io::pipe()?, io::pipe()?];
        // The first one's turn.
        (&pipes[0].1).write_all(&[0])?;
        Ok(Self(pipes))
    }
}

impl Baton for ByPipe {
    fn wait(&self, me: u32) -> Result<()> {
        (&self.0[me as usize].0).read_exact(&mut [0])?;
        Ok(())
    }

    fn pass(&self, me: u32) -> Result<()> {
        (&self.0[1 - me as usize].1).write_all(&[0])?;
        Ok(())
    }
}

fn threads<'a>(
    baton: &impl Baton,
    place: Place,
    pace: impl FnOnce() -> Pace<'a> + Send,
) -> Result<Pace<'a>> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let second = scope.spawn(|| -> Result<()> {
            place.take()?;
            loop {
                baton.wait(1)?;
                let last = over.load(SeqCst);
                baton.pass(1)?;
                if last {
                    return Ok(());
                }
            }
        });
        let first = scope.spawn(|| -> Result<Pace<'a>> {
            place.take()?;
            let mut pace = pace();
            loop {
                baton.wait(0)?;
                let last = !pace.goes_on();
                over.store(last, SeqCst);
                baton.pass(0)?;
                if last {
                    return Ok(pace);
                }
            }
        });
        let pace = join(first);
        join(second)?;
        pace
    })
}

/// Hands the slot to `to`, and returns when it is handed back.
fn switch(me: &mut Worker, to: Id) -> umcg::Result<()> {
    loop {
        match me.switch(to, FOREVER) {
            Ok(_) => return Ok(()),
            // It is on its way into its own switch.
            Err(error) if error.kind() == ErrorKind::WrongState => me.yield_now()?,
            Err(error) => return Err(error),
        }
    }
}

fn workers<'a>(
    context: &Context,
    place: Place,
    pace: impl FnOnce() -> Pace<'a> + Send,
) -> Result<Pace<'a>> {
    let group = context.group(GroupConfig::default())?;
    let names = [Name::default(), Name::default()];
    let over = AtomicBool::new(false);
    let come = |me: &mut Worker, mine: usize| {
        names[mine].set(me.id());
        names[1 - mine].wait_for(me)
    };
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            place.take()?;
            member::serve(&mut group.register_server()?, 2)
        });
        let second = scope.spawn(|| -> Result<()> {
            place.take()?;
            let mut me = group.register_worker(1)?;
            let other = come(&mut me, 1)?;
            while !over.load(SeqCst) {
                match switch(&mut me, other) {
                    // The other one is done, and has left.
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    done => done?,
                }
            }
            Ok(())
        });
        let first = scope.spawn(|| first_worker(&group, place, pace, come, &over));
        let pace = join(first);
        join(second)?;
        join(server)?;
        pace
    })
}

fn first_worker<'a>(
    group: &Group,
    place: Place,
    pace: impl FnOnce() -> Pace<'a>,
    come: impl Fn(&mut Worker, usize) -> Result<Id>,
    over: &AtomicBool,
) -> Result<Pace<'a>> {
    place.take()?;
    let mut me = group.register_worker(0)?;
    let other = come(&mut me, 0)?;
    let mut pace = pace();
    while pace.goes_on() {
        switch(&mut me, other)?;
    }
    over.store(true, SeqCst);
    // It waits in its switch, or is about to look at `over`; then the wake is too much.
    let _ = group.wake(other);
    Ok(pace)
}

fn server<'a>(
    context: &Context,
    place: Place,
    pace: impl FnOnce() -> Pace<'a> + Send,
) -> Result<Pace<'a>> {
    let group = context.group(GroupConfig::default())?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<()> {
            place.take()?;
            let mut me = group.register_worker(0)?;
            while !over.load(SeqCst) {
                let _ = me.wait(FOREVER)?;
            }
            Ok(())
        });
        let server = scope.spawn(|| run_over_and_over(&group, place, pace, &over));
        let pace = join(server);
        // It may have had no server any more, if that one failed.
        join(worker)?;
        pace
    })
}

fn run_over_and_over<'a>(
    group: &Group,
    place: Place,
    pace: impl FnOnce() -> Pace<'a>,
    over: &AtomicBool,
) -> Result<Pace<'a>> {
    place.take()?;
    let mut server = group.register_server()?;
    let Some(new) = member::next(&mut server)? else {
        return Err(anyhow!("the worker left before its first turn"));
    };
    let mut pace = pace();
    loop {
        let goes_on = pace.goes_on();
        over.store(!goes_on, SeqCst);
        // Until it waits again: in kernel mode it may have been off for a page fault before.
        loop {
            match member::run(&mut server, new.worker)?.map(|end| end.reason) {
                Some(Reason::Waits) => break,
                Some(Reason::Exited) => return Ok(pace),
                _ => {}
            }
            if member::next(&mut server)?.is_none() {
                return Ok(pace);
            }
        }
    }
}
