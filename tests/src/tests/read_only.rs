//! The maps that a client is given: it can change no more of them than it is meant to. Over the
//! daemon, as nobody.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, ensure};
use umcg::kernel::sys;

use super::calls::{Bare, WORKER, os};
use super::{Test, short};
use crate::boss::in_client;
use crate::harness::Verdict;

pub const TESTS: &[Test] = &[short(
    "vm_group_truth_is_read_only_selftest_unprivileged",
    "group",
    2,
    read_only,
)];

const PAGE: usize = 4096;

/// Commands of bpf(2).
const UPDATE_ELEM: libc::c_long = 2;
const DELETE_ELEM: libc::c_long = 3;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_FREEZE: libc::c_long = 22;

/// The errno of a call of bpf(2), 0 = it did what it was to do.
fn bpf(command: libc::c_long, attr: &mut [u64; 8]) -> i32 {
    // SAFETY: zeros stand for what the command does not need; what `attr` points to lives
    // through the call.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if ret < 0 { sys::errno() } else { 0 }
}

/// Maps a page of `fd`, and then asks for `more` access to it: the errno of each.
fn map_page(fd: &OwnedFd, prot: i32, more: i32) -> (i32, i32) {
    let (shared, none) = (libc::MAP_SHARED, std::ptr::null_mut());
    // SAFETY: a fresh mapping, which nobody uses.
    let page = unsafe { libc::mmap(none, PAGE, prot, shared, fd.as_raw_fd(), 0) };
    if page == libc::MAP_FAILED {
        return (sys::errno(), 0);
    }
    // SAFETY: the mapping of above, which nobody uses.
    let changed = unsafe { libc::mprotect(page, PAGE, more) };
    let errno = if changed < 0 { sys::errno() } else { 0 };
    // SAFETY: as above.
    unsafe { libc::munmap(page, PAGE) };
    (0, errno)
}

/// What the group's head begins with, as a reader of the map sees it.
fn first_words(fd: &OwnedFd) -> Result<[u64; 8]> {
    let page = sys::Mapping::new(fd, PAGE, 0, false).map_err(os)?;
    // SAFETY: words of a map that may change at any time.
    let words = unsafe { page.record::<[AtomicU64; 8]>(0) };
    let words = words.context("an empty map")?;
    Ok(std::array::from_fn(|at| words[at].load(Relaxed)))
}

fn expect(what: &str, got: i32, want: i32) -> Result<()> {
    ensure!(got == want, "{what}: errno {got}, want {want}");
    Ok(())
}

/// No command of bpf(2) changes the truth, or the way that others use the desks.
fn by_system_call(bare: &Bare) -> Result<()> {
    let (key, bytes) = (0u32, [0xffu8; 1024]);
    let change = |fd: &OwnedFd, value: u64| {
        let key = (&raw const key) as u64;
        [fd.as_raw_fd() as u64, key, value, 0, 0, 0, 0, 0]
    };
    let value = bytes.as_ptr() as u64;
    expect(
        "an update",
        bpf(UPDATE_ELEM, &mut change(&bare.truth, value)),
        libc::EPERM,
    )?;
    expect(
        "a removal",
        bpf(DELETE_ELEM, &mut change(&bare.truth, 0)),
        libc::EPERM,
    )?;
    let only = |fd: &OwnedFd| [fd.as_raw_fd() as u64, 0, 0, 0, 0, 0, 0, 0];
    expect(
        "a freeze of the desks",
        bpf(MAP_FREEZE, &mut only(&bare.desks)),
        libc::EBUSY,
    )?;

    let mut info = [0u32; 32];
    let size = u64::from(size_of_val(&info) as u32) << 32;
    let mut ask = [
        bare.truth.as_raw_fd() as u64 | size,
        (&raw mut info) as u64,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    expect("facts of the map", bpf(OBJ_GET_INFO_BY_FD, &mut ask), 0)?;
    let id = info[1];
    ensure!(id != 0, "no id: {info:?}");
    let mut by_id = [u64::from(id), 0, 0, 0, 0, 0, 0, 0];
    expect(
        "a file by the map's id",
        bpf(MAP_GET_FD_BY_ID, &mut by_id),
        libc::EPERM,
    )?;
    Ok(())
}

/// What BPF says of members, no client can write, by any way to it; what clients write, none can
/// make read-only for the others.
fn read_only_body() -> Result<()> {
    let both = libc::PROT_READ | libc::PROT_WRITE;
    let bare = Bare::new()?;
    let before = first_words(&bare.truth)?;
    expect(
        "a mapping to write",
        map_page(&bare.truth, both, both).0,
        libc::EPERM,
    )?;
    let (mapped, changed) = map_page(&bare.truth, libc::PROT_READ, both);
    expect("a mapping to read", mapped, 0)?;
    expect("made one to write", changed, libc::EACCES)?;
    let code = libc::PROT_READ | libc::PROT_EXEC;
    let (_, changed) = map_page(&bare.desks, libc::PROT_READ, code);
    expect("made one of code", changed, libc::EACCES)?;
    expect("the desks to write", map_page(&bare.desks, both, both).0, 0)?;

    by_system_call(&bare)?;
    // SAFETY: a file of ours.
    let cut = unsafe { libc::ftruncate(bare.futexes.as_raw_fd(), 0) };
    ensure!(
        cut < 0 && sys::errno() == libc::EPERM,
        "the futexes were cut off"
    );

    ensure!(first_words(&bare.truth)? == before, "the head has changed");
    let ret = bare.register(bare.token(WORKER)?)?;
    ensure!(ret == 0, "a member after all that: {ret}");
    Ok(())
}

fn read_only() -> Result<Verdict> {
    in_client(read_only_body)
}
