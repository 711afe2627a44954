//! The C interface of [`umcg`]: what `umcg.h` declares, on top of the Rust calls.
//!
//! A thread's handle lives in a thread-local, so C needs none; the end of the thread
//! unregisters it. Each function returns 0 or -errno; none unwinds into C: a panic ends
//! the process, as Rust does at the border of `extern "C"`.

mod list;
mod queue;

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use umcg::{Error, ErrorKind, Event, Group, GroupConfig, Id, Idle, Mode, Preempt, Reason};
use umcg::{Server, Source, Woken, Worker};

/// `umcg_group` of `umcg.h`.
#[allow(non_camel_case_types, missing_debug_implementations)]
pub struct umcg_group(Group);

/// `struct umcg_config` of `umcg.h`.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Debug)]
#[repr(C)]
pub struct umcg_config {
    pub size: u32,
    pub flags: u32,
    pub max_members: u32,
    pub share: u32,
    pub idle: u32,
    pub preempt_signal: u32,
    pub name: *const c_char,
    pub quantum_ns: u64,
    pub policy: *const c_char,
}

/// `struct umcg_event` of `umcg.h`.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Debug)]
#[repr(C)]
pub struct umcg_event {
    pub worker: u64,
    pub cookie: u64,
    pub reason: u32,
    pub syscall: i32,
    pub source: u32,
    pub reserved: u32,
    pub tag: u64,
    pub at_ns: u64,
    pub run_ns: u64,
    pub wait_ns: u64,
}

/// `struct umcg_snapshot` of `umcg.h`.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Debug)]
#[repr(C)]
pub struct umcg_snapshot {
    pub state: u32,
    pub flags: u32,
    pub since_ns: u64,
    pub run_ns: u64,
    pub wait_ns: u64,
    pub tag: u64,
}

/// Never ask for the daemon.
const UMCG_FUTEX_ONLY: u32 = 1;

enum Handle {
    Server(Server),
    Worker(Worker),
}

thread_local! {
    static HANDLE: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

type Done = Result<(), c_int>;

fn code(error: Error) -> c_int {
    -error.errno()
}

fn result(done: Done) -> c_int {
    done.err().unwrap_or(0)
}

fn errno(kind: ErrorKind) -> c_int {
    -kind.errno()
}

/// The calling thread as a server.
fn server<T>(call: impl FnOnce(&mut Server) -> umcg::Result<T>) -> Result<T, c_int> {
    HANDLE.with(|handle| match handle.try_borrow_mut().as_deref_mut() {
        Ok(Some(Handle::Server(server))) => call(server).map_err(code),
        _ => Err(errno(ErrorKind::NotFound)),
    })
}

/// The calling thread as a worker.
fn worker<T>(call: impl FnOnce(&mut Worker) -> umcg::Result<T>) -> Result<T, c_int> {
    HANDLE.with(|handle| match handle.try_borrow_mut().as_deref_mut() {
        Ok(Some(Handle::Worker(worker))) => call(worker).map_err(code),
        _ => Err(errno(ErrorKind::NotFound)),
    })
}

/// The handle of C; an error for NULL.
///
/// # Safety
///
/// `group` is NULL or came from this library and was not closed.
unsafe fn group<'a>(group: *const umcg_group) -> Result<&'a Group, c_int> {
    // SAFETY: by the caller.
    let group = unsafe { group.as_ref() };
    group.map(|group| &group.0).ok_or(errno(ErrorKind::Invalid))
}

/// Writes `value` where C wants it.
///
/// # Safety
///
/// `out` may be written, if it is not NULL.
unsafe fn put<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: by the caller.
        unsafe { out.write(value) };
    }
}

fn event_of(event: &Event) -> umcg_event {
    umcg_event {
        worker: event.worker.raw(),
        cookie: event.cookie,
        reason: event.reason.number(),
        syscall: match event.reason {
            Reason::Blocked {
                syscall: Some(number),
            } => number as i32,
            _ => -1,
        },
        source: event.source.map_or(0, Source::number),
        reserved: 0,
        tag: event.tag,
        at_ns: event.at_ns,
        run_ns: event.run_ns,
        wait_ns: event.wait_ns,
    }
}

fn woken(result: Result<Woken, c_int>) -> c_int {
    match result {
        Ok(Woken::Woken) => 0,
        Ok(Woken::TimedOut) => -libc::ETIMEDOUT,
        Err(error) => error,
    }
}

/// What a config of C asks for.
///
/// # Safety
///
/// `config` is NULL or points to `size` readable bytes, `name` and `policy` are NULL or C
/// strings.
unsafe fn config_of(config: *const umcg_config) -> Result<GroupConfig, c_int> {
    let mut made = GroupConfig::default();
    // SAFETY: by the caller; read field by field after the size was checked.
    let Some(config) = (unsafe { config.as_ref() }) else {
        return Ok(made);
    };
    let known = config.flags & !UMCG_FUTEX_ONLY == 0;
    if config.size as usize != size_of::<umcg_config>() || !known {
        return Err(errno(ErrorKind::Version));
    }
    made.futex_only = config.flags & UMCG_FUTEX_ONLY != 0;
    if config.max_members != 0 {
        made.max_members = config.max_members;
    }
    if config.share != 0 {
        made.share = config.share;
    }
    made.idle = Idle::from_number(config.idle).ok_or_else(|| errno(ErrorKind::Invalid))?;
    if config.preempt_signal != 0 {
        made.preempt = Preempt::Signal(config.preempt_signal as i32);
    }
    made.quantum = Duration::from_nanos(config.quantum_ns);
    for (to, from) in [
        (&mut made.name, config.name),
        (&mut made.policy, config.policy),
    ] {
        if !from.is_null() {
            // SAFETY: by the caller.
            let from = unsafe { CStr::from_ptr(from) };
            *to = from.to_string_lossy().into_owned();
        }
    }
    Ok(made)
}

/// See `umcg.h`.
///
/// # Safety
///
/// `config` and `out` are as `umcg.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_group_create(
    config: *const umcg_config,
    out: *mut *mut umcg_group,
) -> c_int {
    if out.is_null() {
        return errno(ErrorKind::Invalid);
    }
    // SAFETY: by the caller.
    let made = unsafe { config_of(config) }.and_then(|it| Group::create(&it).map_err(code));
    result(made.map(|made| {
        // SAFETY: not NULL, and by the caller.
        unsafe { put(out, Box::into_raw(Box::new(umcg_group(made)))) };
    }))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `out` is as `umcg.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_group_open(fd: c_int, out: *mut *mut umcg_group) -> c_int {
    if out.is_null() || fd < 0 {
        return errno(ErrorKind::Invalid);
    }
    // SAFETY: the caller's descriptor, for the time of this call.
    let copy = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned();
    let Ok(copy) = copy else {
        return errno(ErrorKind::Invalid);
    };
    result(Group::open(copy).map_err(code).map(|made| {
        // SAFETY: not NULL, and by the caller.
        unsafe { put(out, Box::into_raw(Box::new(umcg_group(made)))) };
    }))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_group_fd(it: *const umcg_group) -> c_int {
    // SAFETY: by the caller.
    match unsafe { group(it) } {
        Ok(group) => group.as_fd().as_raw_fd(),
        Err(error) => error,
    }
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_group_mode(it: *const umcg_group) -> c_int {
    // SAFETY: by the caller.
    match unsafe { group(it) }.map(Group::mode) {
        Ok(Mode::FutexOnly(_)) => 0,
        Ok(Mode::Kernel { full: false }) => 1,
        Ok(Mode::Kernel { full: true }) => 2,
        Err(error) => error,
    }
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_group_bpf_denied(it: *const umcg_group) -> c_int {
    // SAFETY: by the caller.
    match unsafe { group(it) } {
        Ok(group) => group.is_bpf_denied().into(),
        Err(error) => error,
    }
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group, `ns` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_group_quantum(it: *const umcg_group, ns: *mut u64) -> c_int {
    // SAFETY: by the caller.
    let quantum = unsafe { group(it) }.map(Group::quantum);
    result(quantum.map(|quantum| {
        // SAFETY: by the caller.
        unsafe { put(ns, quantum.map_or(0, |it| it.as_nanos() as u64)) };
    }))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group, which is closed by this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_group_close(it: *mut umcg_group) {
    if !it.is_null() {
        // SAFETY: made by Box::into_raw, closed once, by the caller.
        drop(unsafe { Box::from_raw(it) });
    }
}

/// Keeps the calling thread's handle.
fn keep(handle: Handle) {
    HANDLE.with(|it| it.replace(Some(handle)));
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group, `id` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_register_server(it: *mut umcg_group, id: *mut u64) -> c_int {
    // SAFETY: by the caller.
    let made = unsafe { group(it) }.and_then(|group| group.register_server().map_err(code));
    result(made.map(|server| {
        // SAFETY: by the caller.
        unsafe { put(id, server.id().raw()) };
        keep(Handle::Server(server));
    }))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group, `id` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_register_worker(
    it: *mut umcg_group,
    cookie: u64,
    id: *mut u64,
) -> c_int {
    // SAFETY: by the caller.
    let made = unsafe { group(it) }.and_then(|it| it.register_worker(cookie).map_err(code));
    result(made.map(|worker| {
        // SAFETY: by the caller.
        unsafe { put(id, worker.id().raw()) };
        keep(Handle::Worker(worker));
    }))
}

/// See `umcg.h`.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_unregister() -> c_int {
    let handle = HANDLE.with(RefCell::take);
    result(match handle {
        Some(Handle::Server(server)) => server.unregister().map_err(code),
        Some(Handle::Worker(worker)) => worker.unregister().map_err(code),
        None => Err(errno(ErrorKind::NotFound)),
    })
}

/// See `umcg.h`.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_self() -> u64 {
    HANDLE.with(|handle| match handle.try_borrow().as_deref() {
        Ok(Some(Handle::Server(server))) => server.id().raw(),
        Ok(Some(Handle::Worker(worker))) => worker.id().raw(),
        _ => 0,
    })
}

/// See `umcg.h`.
///
/// # Safety
///
/// `event` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_run(who: u64, deadline_ns: u64, event: *mut umcg_event) -> c_int {
    let told = server(|server| server.run(Id::from_raw(who), deadline_ns));
    // SAFETY: by the caller.
    result(told.map(|told| unsafe { put(event, event_of(&told)) }))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `event` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_run_listed(
    who: u64,
    deadline_ns: u64,
    event: *mut umcg_event,
) -> c_int {
    let told = server(|server| server.run_listed(Id::from_raw(who), deadline_ns));
    // SAFETY: by the caller.
    result(told.map(|told| unsafe { put(event, event_of(&told)) }))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `event` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_next_event(deadline_ns: u64, event: *mut umcg_event) -> c_int {
    let told = server(|server| server.next_event(deadline_ns));
    // SAFETY: by the caller.
    result(told.map(|told| unsafe { put(event, event_of(&told)) }))
}

/// See `umcg.h`.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_wait(deadline_ns: u64) -> c_int {
    woken(worker(|worker| worker.wait(deadline_ns)))
}

/// See `umcg.h`.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_switch(to: u64, deadline_ns: u64) -> c_int {
    woken(worker(|worker| {
        worker.switch(Id::from_raw(to), deadline_ns)
    }))
}

/// See `umcg.h`.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_yield() -> c_int {
    result(worker(Worker::yield_now))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_wake(it: *mut umcg_group, who: u64) -> c_int {
    // SAFETY: by the caller.
    result(unsafe { group(it) }.and_then(|it| it.wake(Id::from_raw(who)).map_err(code)))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_kick(it: *mut umcg_group, who: u64) -> c_int {
    // SAFETY: by the caller.
    result(unsafe { group(it) }.and_then(|it| it.kick(Id::from_raw(who)).map_err(code)))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group, `state` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_state(
    it: *mut umcg_group,
    who: u64,
    state: *mut umcg_snapshot,
) -> c_int {
    // SAFETY: by the caller.
    let seen = unsafe { group(it) }.and_then(|it| it.state(Id::from_raw(who)).map_err(code));
    result(seen.map(|seen| {
        let made = umcg_snapshot {
            state: seen.state as u32,
            flags: seen.flags as u32,
            since_ns: seen.since_ns,
            run_ns: seen.run_ns,
            wait_ns: seen.wait_ns,
            tag: seen.tag,
        };
        // SAFETY: by the caller.
        unsafe { put(state, made) };
    }))
}

/// See `umcg.h`. Async-signal-safe: it does not look at the handle.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_kick_self() -> c_int {
    result(umcg::kick_self().map_err(code))
}

/// See `umcg.h`. Async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_set_key(key: u64) {
    umcg::set_key(key);
}

/// See `umcg.h`. Async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_preempt_disable() {
    umcg::section::enter();
}

/// See `umcg.h`. Async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_preempt_enable() -> c_int {
    match umcg::section::leave() {
        true => 0,
        false => errno(ErrorKind::Invalid),
    }
}

/// See `umcg.h`.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_kick_on(signal: c_int) -> c_int {
    result(umcg::timer::kick_on(signal).map_err(code))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `timer` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_thread_timer(
    clock: libc::clockid_t,
    interval_ns: u64,
    signal: c_int,
    timer: *mut libc::timer_t,
) -> c_int {
    use umcg::timer::{TimerClock, raw_thread_timer};
    let clock = match clock {
        libc::CLOCK_MONOTONIC => TimerClock::Monotonic,
        libc::CLOCK_THREAD_CPUTIME_ID => TimerClock::ThreadCpu,
        _ => return errno(ErrorKind::Invalid),
    };
    if timer.is_null() {
        return errno(ErrorKind::Invalid);
    }
    let made = raw_thread_timer(clock, Duration::from_nanos(interval_ns), signal);
    // SAFETY: not NULL, and by the caller.
    result(made.map_err(code).map(|made| unsafe { put(timer, made) }))
}

/// See `umcg.h`.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_now() -> u64 {
    umcg::now()
}

/// See `umcg.h`.
#[unsafe(no_mangle)]
pub extern "C" fn umcg_strerror(error: c_int) -> *const c_char {
    let text = match error.checked_abs() {
        Some(0) => c"success",
        Some(errno) => c_text(ErrorKind::from_errno(errno)),
        None => c"the system failed",
    };
    text.as_ptr()
}

/// [`ErrorKind::text`] as C strings; a test compares the two.
const fn c_text(kind: ErrorKind) -> &'static CStr {
    match kind {
        ErrorKind::WrongState => c"the member's state does not allow the call",
        ErrorKind::NotFound => c"no such member",
        ErrorKind::Foreign => c"belongs to somebody else",
        ErrorKind::Myself => c"a worker cannot switch to itself",
        ErrorKind::Registered => c"the calling thread is a member already",
        ErrorKind::Full => c"no room for another one",
        ErrorKind::Quota => c"the user's quota is used up",
        ErrorKind::Token => c"the registration token was used before or never issued",
        ErrorKind::Version => c"the other side speaks another version",
        ErrorKind::Denied => c"not allowed by the system",
        ErrorKind::Stale => c"registered with a daemon that has been replaced",
        ErrorKind::Again => c"not at this moment",
        ErrorKind::NotHere => c"the worker may not run on this server's CPU",
        ErrorKind::TimedOut => c"the time is over",
        ErrorKind::Quantum => c"a quantum is within 100 us..=1 s, or 0 for none",
        ErrorKind::Policy => {
            c"no such policy; take fifo, lifo, rr, fair, deadline, priority, arrival or quota, \
              with options of its own: rr:slice_us=500"
        }
        ErrorKind::Gone => c"what served the group is no more",
        ErrorKind::Invalid => c"a value outside of what the call takes",
        _ => c"the system failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strerror_says_what_rust_says() {
        for kind in ErrorKind::ALL {
            // SAFETY: a static C string.
            let text = unsafe { CStr::from_ptr(umcg_strerror(-kind.errno())) };
            assert_eq!(text.to_str(), Ok(kind.text()));
        }
    }
}
