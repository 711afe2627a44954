//! `umcg_queue_*`: RUNNABLE workers in the order of a group's policy.

use std::ffi::{c_char, c_int};

use umcg::{ErrorKind, Event, Group, Id, ReadyQueue, Reason, Source};

use super::{code, errno, group, put, result, umcg_event, umcg_group};

/// `umcg_queue` of `umcg.h`: the queue, and the group whose workers wait in it.
#[allow(non_camel_case_types, missing_debug_implementations)]
pub struct umcg_queue(ReadyQueue, Group);

/// The handle of C; an error for NULL.
///
/// # Safety
///
/// `queue` is NULL or came from this library and was not freed; no other thread uses it now.
unsafe fn queue<'a>(queue: *mut umcg_queue) -> Result<&'a mut umcg_queue, c_int> {
    // SAFETY: by the caller.
    unsafe { queue.as_mut() }.ok_or(errno(ErrorKind::Invalid))
}

/// What [`event_of`](super::event_of) made.
///
/// # Safety
///
/// `event` is NULL or points to an event.
unsafe fn event_from(event: *const umcg_event) -> Result<Event, c_int> {
    let invalid = errno(ErrorKind::Invalid);
    // SAFETY: by the caller.
    let event = unsafe { event.as_ref() }.ok_or(invalid)?;
    let syscall = u32::try_from(event.syscall).ok();
    Ok(Event {
        worker: Id::from_raw(event.worker),
        cookie: event.cookie,
        reason: Reason::from_number(event.reason, syscall).ok_or(invalid)?,
        source: Source::from_number(event.source),
        tag: event.tag,
        at_ns: event.at_ns,
        run_ns: event.run_ns,
        wait_ns: event.wait_ns,
    })
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group, `text` points to `room` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_group_policy(
    it: *const umcg_group,
    text: *mut c_char,
    room: u32,
) -> c_int {
    // SAFETY: by the caller.
    let policy = match unsafe { group(it) } {
        Ok(group) => group.policy().unwrap_or_default(),
        Err(error) => return error,
    };
    if text.is_null() && room > 0 {
        return errno(ErrorKind::Invalid);
    }
    let kept = policy.len().min((room as usize).saturating_sub(1));
    if room > 0 {
        // SAFETY: `kept` bytes and a zero fit into `room`, by the caller.
        unsafe {
            text.copy_from_nonoverlapping(policy.as_ptr().cast(), kept);
            text.add(kept).write(0);
        }
    }
    c_int::try_from(policy.len()).unwrap_or(c_int::MAX)
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_queue_create(
    it: *const umcg_group,
    servers: u32,
    out: *mut *mut umcg_queue,
) -> c_int {
    if out.is_null() || servers == 0 {
        return errno(ErrorKind::Invalid);
    }
    // SAFETY: by the caller.
    let made = unsafe { group(it) }.and_then(|group| {
        let queue = ReadyQueue::new(group, servers).map_err(code)?;
        Ok(umcg_queue(queue, group.clone()))
    });
    result(made.map(|made| {
        // SAFETY: not NULL, and by the caller.
        unsafe { put(out, Box::into_raw(Box::new(made))) };
    }))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or a queue, which is freed by this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_queue_free(it: *mut umcg_queue) {
    if !it.is_null() {
        // SAFETY: made by Box::into_raw, freed once, by the caller.
        drop(unsafe { Box::from_raw(it) });
    }
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or a queue that no other thread uses now, `event` NULL or an event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_queue_told(it: *mut umcg_queue, event: *const umcg_event) -> c_int {
    // SAFETY: by the caller.
    let both = unsafe { queue(it).and_then(|queue| Ok((queue, event_from(event)?))) };
    result(both.and_then(|(queue, event)| queue.0.told(&event).map_err(code)))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or a queue that no other thread uses now, `event` NULL or an event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_queue_ran(it: *mut umcg_queue, event: *const umcg_event) -> c_int {
    // SAFETY: by the caller.
    let both = unsafe { queue(it).and_then(|queue| Ok((queue, event_from(event)?))) };
    result(both.and_then(|(queue, event)| queue.0.ran(&event).map_err(code)))
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or a queue that no other thread uses now; `worker` and `slice_ns` are NULL or
/// writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_queue_pick(
    it: *mut umcg_queue,
    worker: *mut u64,
    slice_ns: *mut u64,
) -> c_int {
    // SAFETY: by the caller.
    let queue = match unsafe { queue(it) } {
        Ok(queue) if !worker.is_null() => queue,
        Ok(_) => return errno(ErrorKind::Invalid),
        Err(error) => return error,
    };
    let Some((id, slice)) = queue.0.pick() else {
        return errno(ErrorKind::Again);
    };
    // SAFETY: by the caller.
    unsafe {
        put(worker, id.raw());
        put(slice_ns, slice.map_or(0, |it| it.as_nanos() as u64));
    }
    0
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or a queue that no other thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_queue_put_back(it: *mut umcg_queue, worker: u64) -> c_int {
    let id = Id::from_raw(worker);
    // SAFETY: by the caller.
    let done = unsafe { queue(it) }.and_then(|queue| {
        let state = queue.1.state(id).map_err(code)?;
        queue.0.put_back(id, &state).map_err(code)
    });
    result(done)
}
