//! What loads with servers and workers of their own share.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::Result;
use umcg::{ErrorKind, Event, FOREVER, Id, Reason, Server, Worker};

/// The next RUNNABLE worker; `None`: one has left.
pub fn next(server: &mut Server) -> Result<Option<Event>> {
    loop {
        match server.next_event(FOREVER) {
            Ok(event) if event.reason == Reason::Exited => return Ok(None),
            Ok(event) if event.reason.is_runnable() => return Ok(Some(event)),
            // News of one that has stopped: it comes again when it is RUNNABLE.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Again => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs a worker until it stops; `None`: it has moved on, and will be told again.
pub fn run(server: &mut Server, worker: Id) -> Result<Option<Event>> {
    match server.run(worker, FOREVER) {
        Ok(event) => Ok(Some(event)),
        Err(error) => match error.kind() {
            ErrorKind::WrongState | ErrorKind::Again | ErrorKind::NotFound => Ok(None),
            _ => Err(error.into()),
        },
    }
}

/// Runs whoever is RUNNABLE, oldest first, until `live` workers have left.
pub fn serve(server: &mut Server, mut live: usize) -> Result<()> {
    while live > 0 {
        let Some(event) = next(server)? else {
            live -= 1;
            continue;
        };
        let end = run(server, event.worker)?;
        live -= usize::from(end.is_some_and(|end| end.reason == Reason::Exited));
    }
    Ok(())
}

/// Where a worker tells others its id.
#[derive(Debug, Default)]
pub struct Name(AtomicU64);

impl Name {
    /// Tells it.
    pub fn set(&self, id: Id) {
        self.0.store(id.raw(), SeqCst);
    }

    /// `None`: it has not come yet.
    pub fn get(&self) -> Option<Id> {
        let id = Id::from_raw(self.0.load(SeqCst));
        (!id.is_none()).then_some(id)
    }

    /// Lets others run until it has come.
    pub fn wait_for(&self, me: &mut Worker) -> Result<Id> {
        loop {
            match self.get() {
                Some(id) => return Ok(id),
                None => me.yield_now()?,
            }
        }
    }
}
