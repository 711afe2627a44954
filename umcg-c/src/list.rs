//! `umcg_list`: the members of a group.

use std::ffi::c_int;

use umcg::{ErrorKind, Kind};

use super::{code, errno, group, umcg_group};

/// `struct umcg_member` of `umcg.h`.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Debug)]
#[repr(C)]
pub struct umcg_member {
    pub id: u64,
    pub cookie: u64,
    pub kind: u32,
    pub state: u32,
    pub tid: i32,
    pub reserved: u32,
}

/// See `umcg.h`.
///
/// # Safety
///
/// `it` is NULL or an open group, `members` points to `room` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umcg_list(
    it: *const umcg_group,
    members: *mut umcg_member,
    room: u32,
) -> c_int {
    // SAFETY: by the caller.
    let list = match unsafe { group(it) }.map(|group| group.list().map_err(code)) {
        Ok(Ok(list)) => list,
        Ok(Err(error)) | Err(error) => return error,
    };
    if members.is_null() && room > 0 {
        return errno(ErrorKind::Invalid);
    }
    for (at, member) in list.iter().take(room as usize).enumerate() {
        let value = umcg_member {
            id: member.id.raw(),
            cookie: member.cookie,
            kind: match member.kind {
                Kind::Server => 1,
                Kind::Worker => 2,
            },
            state: member.state as u32,
            tid: member.tid,
            reserved: 0,
        };
        // SAFETY: `at` is below `room`, for which there is room, by the caller.
        unsafe { members.add(at).write(value) };
    }
    c_int::try_from(list.len()).unwrap_or(c_int::MAX)
}
