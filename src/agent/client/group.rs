//! One group's maps, tokens and bells, as the daemon holds them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::MapFlags;
use libbpf_rs::libbpf_sys as sys;
use umcg::intf;
use umcg::kernel::proto::{self, Request};
use umcg::kernel::record::{Desk, Head, Truth};
use umcg::kernel::sys::Mapping;

use crate::agent::server::run_program;
use crate::bpf_skel::BpfSkel;

/// Tokens that a group may have outstanding; older ones are taken back.
const MAX_TOKENS: usize = 1024;
/// Bells of a group: for each server there may be, and as many that are about to register.
const MAX_BELLS: usize = 2 * intf::umcg_group_limits_UMCG_GROUP_SERVERS as usize;
const BELL_BYTES: u32 = 4096;

/// What all groups share: the outer maps and the programs.
pub struct Outer {
    truths: OwnedFd,
    desks: OwnedFd,
    bells: OwnedFd,
    lent: OwnedFd,
    tokens: OwnedFd,
    admin: OwnedFd,
    proxy: OwnedFd,
    /// The program for clients.
    pub client: OwnedFd,
    /// Of this load.
    pub epoch: u64,
    /// What its words are ahead of CLOCK_MONOTONIC.
    ahead_ns: u64,
}

impl Outer {
    /// The handles of `skel`; `epoch` names this load.
    pub fn new(skel: &BpfSkel<'_>, epoch: u64) -> Result<Self> {
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().context("cannot keep a map");
        Ok(Self {
            truths: own(skel.maps.umcg_truths.as_fd())?,
            desks: own(skel.maps.umcg_desks.as_fd())?,
            bells: own(skel.maps.umcg_group_bells.as_fd())?,
            lent: own(skel.maps.umcg_bells_lent.as_fd())?,
            tokens: own(skel.maps.umcg_tokens.as_fd())?,
            admin: own(skel.progs.umcg_admin.as_fd())?,
            proxy: own(skel.progs.umcg_proxy.as_fd())?,
            client: own(skel.progs.umcg_client.as_fd())?,
            epoch,
            ahead_ns: skel
                .maps
                .rodata_data
                .as_ref()
                .map_or(0, |r| r.umcg_ahead_ns),
        })
    }

    fn admin(&self, op: u32, group: u32, gen_: u32) -> Result<i32> {
        let mut call = intf::umcg_admin_call {
            op,
            ret: 0,
            group,
            gen_,
            epoch: self.epoch,
        };
        run_program(&self.admin, &mut call)?;
        Ok(call.ret)
    }

    /// Makes a client's call; its answer, or the errno.
    pub fn proxy(&self, call: &mut intf::umcg_proxy_call) -> Result<u32, i32> {
        call.call.epoch = self.epoch;
        run_program(&self.proxy, call).map_err(|err| {
            log::warn!("a client's call: {err:#}");
            libc::EIO
        })?;
        u32::try_from(call.call.ret).map_err(|_| -call.call.ret)
    }
}

/// A group. Dropping it does not close it: see [`close`](Self::close).
pub struct Group {
    /// Its number.
    pub number: u32,
    /// And generation, odd.
    pub gen_: u32,
    /// Who made it.
    pub uid: u32,
    /// Records, header included.
    pub capacity: u32,
    /// Frozen: clients map it read-only.
    pub truth: OwnedFd,
    /// Clients write it.
    pub desks: OwnedFd,
    /// Where workers sleep for real: a futex in a BPF map is EFAULT.
    pub futexes: OwnedFd,
    /// Held for life: no client can freeze a map that is mapped writable.
    _desks: Mapping,
    secret: [u64; 2],
    tokens: VecDeque<[u64; 2]>,
    bells: Vec<Lent>,
}

/// A bell that the group has, and the token that came with it.
struct Lent {
    number: u32,
    token: [u64; 2],
}

fn check(ret: i32, what: &'static str) -> Result<()> {
    ensure!(
        ret >= 0,
        "{what}: {}",
        std::io::Error::from_raw_os_error(-ret)
    );
    Ok(())
}

fn secret() -> Result<[u64; 2]> {
    let mut words = [0u64; 2];
    // SAFETY: sixteen bytes into sixteen bytes.
    let got = unsafe { libc::getrandom(words.as_mut_ptr().cast(), 16, 0) };
    ensure!(got == 16, "getrandom: {}", std::io::Error::last_os_error());
    Ok(words)
}

/// A group's map of `capacity` records, for the daemon's maps of maps.
pub fn inner_map(name: &str, record: usize, capacity: u32) -> Result<OwnedFd> {
    let name = std::ffi::CString::new(name).context("name")?;
    let opts = sys::bpf_map_create_opts {
        sz: size_of::<sys::bpf_map_create_opts>() as sys::size_t,
        map_flags: sys::BPF_F_MMAPABLE | sys::BPF_F_INNER_MAP,
        ..Default::default()
    };
    // SAFETY: name and opts live through the call.
    let fd = unsafe {
        sys::bpf_map_create(
            sys::BPF_MAP_TYPE_ARRAY,
            name.as_ptr(),
            4,
            record as u32,
            capacity,
            &raw const opts,
        )
    };
    check(fd, "cannot make a map")?;
    // SAFETY: fd was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One u32 per member, of a size that nobody can change.
fn futexes(capacity: u32) -> Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a C string.
    let fd = unsafe { libc::memfd_create(c"umcg_futexes".as_ptr(), flags) };
    ensure!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: fd was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no pointers.
    let failed = unsafe {
        libc::ftruncate(fd.as_raw_fd(), i64::from(capacity) * 4) != 0
            || libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) != 0
    };
    ensure!(!failed, "memfd: {}", std::io::Error::last_os_error());
    Ok(fd)
}

fn set<T>(map: &OwnedFd, key: &[u8], value: &T) -> Result<()> {
    // SAFETY: key and value live through the call; the callers pass what the map's
    // key and value sizes are.
    let ret = unsafe {
        sys::bpf_map_update_elem(
            map.as_raw_fd(),
            key.as_ptr().cast(),
            std::ptr::from_ref(value).cast(),
            MapFlags::ANY.bits(),
        )
    };
    check(ret, "cannot update a map")
}

/// True if it was there.
fn unset(map: &OwnedFd, key: &[u8]) -> bool {
    // SAFETY: key lives through the call and has the map's key size.
    unsafe { sys::bpf_map_delete_elem(map.as_raw_fd(), key.as_ptr().cast()) == 0 }
}

/// False: it is not there. `value` has the size of the map's values.
fn get<T>(map: &OwnedFd, key: &[u8], value: &mut T) -> bool {
    // SAFETY: key and value live through the call; the callers pass what the map's
    // key and value sizes are.
    unsafe {
        sys::bpf_map_lookup_elem(
            map.as_raw_fd(),
            key.as_ptr().cast(),
            (&raw mut *value).cast(),
        ) == 0
    }
}

/// Whether nobody has used `token` yet.
fn is_unused(outer: &Outer, token: [u64; 2]) -> bool {
    let mut value = [0u8; size_of::<intf::umcg_token>()];
    get(&outer.tokens, &token_key(token), &mut value)
}

/// Whether bell `number` belongs to a token or a server, see group.bpf.h.
fn is_lent(outer: &Outer, number: u32) -> bool {
    let mut lent = 1u32;
    !get(&outer.lent, &number.to_ne_bytes(), &mut lent) || lent != 0
}

fn token_key(token: [u64; 2]) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&token[0].to_ne_bytes());
    key[8..].copy_from_slice(&token[1].to_ne_bytes());
    key
}

/// A ring buffer of its own as bell `number`.
fn make_bell(outer: &Outer, number: u32) -> Result<OwnedFd> {
    let opts = sys::bpf_map_create_opts {
        sz: size_of::<sys::bpf_map_create_opts>() as sys::size_t,
        ..Default::default()
    };
    // SAFETY: opts live through the call; the name is a C string.
    let fd = unsafe {
        sys::bpf_map_create(
            sys::BPF_MAP_TYPE_RINGBUF,
            c"umcg_app_bell".as_ptr(),
            0,
            0,
            BELL_BYTES,
            &raw const opts,
        )
    };
    check(fd, "cannot make a ring buffer")?;
    // SAFETY: fd was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&outer.bells, &number.to_ne_bytes(), &fd.as_raw_fd())?;
    Ok(fd)
}

/// Frees the memory of bell `number`, which nobody has. Waits for an RCU period.
pub fn forget_bell(outer: &Outer, number: u32) {
    unset(&outer.bells, &number.to_ne_bytes());
}

impl Group {
    /// Makes the maps, freezes the truth, and lets BPF know.
    pub fn new(
        outer: &Outer,
        number: u32,
        gen_: u32,
        uid: u32,
        capacity: u32,
        request: &Request,
        full: bool,
    ) -> Result<Self> {
        let truth = inner_map("umcg_truth", size_of::<Truth>(), capacity)?;
        let desks = inner_map("umcg_desk", size_of::<Desk>(), capacity)?;
        let mut name = request.name;
        let mut policy = request.policy;
        (name[31], policy[31]) = (0, 0);
        let head = intf::umcg_group {
            abi: intf::UMCG_ABI,
            group: number,
            epoch: outer.epoch,
            gen_,
            capacity,
            share: request.share,
            full: full.into(),
            servers: 0,
            idle: 0,
            tat_ns: 0,
            cursor: 0,
            members: 0,
            shared: 0,
            uid,
            name,
            idle_kind: request.idle,
            idle_top: 0,
            idle_end: 0,
            stuck: 0,
            quantum_us: request.quantum_us,
            ahead_ns: outer.ahead_ns,
            policy,
            pad: [0; 4],
        };
        const { assert!(size_of::<Head>() == size_of::<Truth>()) };
        set(&truth, &0u32.to_ne_bytes(), &head)?;
        // SAFETY: an fd of ours.
        let frozen = unsafe { sys::bpf_map_freeze(truth.as_raw_fd()) };
        check(frozen, "cannot freeze a map")?;
        let bytes = capacity as usize * size_of::<Desk>();
        let Ok(mapped) = Mapping::new(&desks, bytes, 0, true) else {
            bail!("cannot map a client map");
        };
        let group = Self {
            number,
            gen_,
            uid,
            capacity,
            truth,
            desks,
            futexes: futexes(capacity)?,
            _desks: mapped,
            secret: secret()?,
            tokens: VecDeque::new(),
            bells: Vec::new(),
        };
        let key = number.to_ne_bytes();
        let opened = set(&outer.truths, &key, &group.truth.as_raw_fd())
            .and_then(|()| set(&outer.desks, &key, &group.desks.as_raw_fd()))
            .and_then(|()| outer.admin(intf::umcg_admin_op_UMCG_ADMIN_OPEN, number, gen_));
        if opened.is_err() {
            // Or its maps would stay until the number is used again.
            for map in [&outer.truths, &outer.desks] {
                unset(map, &key);
            }
        }
        opened.map(|_| group)
    }

    /// What another process of the same user joins with.
    pub fn ticket(&self) -> [u8; 32] {
        proto::ticket(self.number, self.gen_, self.secret)
    }

    /// A right to register once.
    pub fn issue(
        &mut self,
        outer: &Outer,
        uid: u32,
        tgid: i32,
        kind: u32,
        bell: u32,
    ) -> Result<[u64; 2]> {
        let token = secret()?;
        let value = intf::umcg_token {
            group: self.number,
            gen_: self.gen_,
            uid,
            tgid,
            kind,
            bell,
        };
        set(&outer.tokens, &token_key(token), &value)?;
        self.tokens.push_back(token);
        if self.tokens.len() > MAX_TOKENS {
            // Most have been used.
            self.tokens.retain(|&token| is_unused(outer, token));
        }
        if self.tokens.len() > MAX_TOKENS
            && let Some(old) = self.tokens.pop_front()
            && unset(&outer.tokens, &token_key(old))
            && let Some(lent) = self.bells.iter().find(|lent| lent.token == old)
        {
            set(&outer.lent, &lent.number.to_ne_bytes(), &0u32)?;
        }
        Ok(token)
    }

    /// Bells that it has now.
    pub fn bells(&self) -> usize {
        self.bells.len()
    }

    /// False: all its servers may have one, and as many more have been promised.
    pub fn has_room_for_bell(&self) -> bool {
        self.bells.len() < MAX_BELLS
    }

    /// Takes from it the bells of servers that have gone; when it has no room then, that of
    /// the oldest token that nobody has used.
    pub fn take_back_bells(&mut self, outer: &Outer) -> Vec<u32> {
        let mut back = Vec::new();
        self.bells.retain(|lent| {
            let keep = is_lent(outer, lent.number);
            if !keep {
                back.push(lent.number);
            }
            keep
        });
        if !self.has_room_for_bell() {
            let unused = |lent: &Lent| unset(&outer.tokens, &token_key(lent.token));
            if let Some(at) = self.bells.iter().position(unused) {
                back.push(self.bells.remove(at).number);
            }
        }
        back
    }

    /// A right to register one server once, and its bell `number`.
    pub fn issue_server(
        &mut self,
        outer: &Outer,
        uid: u32,
        tgid: i32,
        number: u32,
    ) -> Result<([u64; 2], OwnedFd)> {
        let fd = make_bell(outer, number)?;
        set(&outer.lent, &number.to_ne_bytes(), &1u32)?;
        let kind = intf::umcg_member_kind_UMCG_M_SERVER;
        let token = self.issue(outer, uid, tgid, kind, number)?;
        self.bells.push(Lent { number, token });
        Ok((token, fd))
    }

    /// Nobody is held any more. How many members it still has; if BPF did not hear of it, many:
    /// closed now, those that are held would be let go by nobody.
    pub fn drain(&self, outer: &Outer) -> i32 {
        let op = intf::umcg_admin_op_UMCG_ADMIN_DRAIN;
        let left = outer.admin(op, self.number, self.gen_);
        left.unwrap_or(i32::MAX)
    }

    /// Takes it out of BPF's sight. What stays of it, and the numbers of its bells, which are
    /// free again but for [`forget_bell`].
    pub fn close(self, outer: &Outer, next_gen: u32) -> (Closed, Vec<u32>) {
        let op = intf::umcg_admin_op_UMCG_ADMIN_CLOSE;
        if let Err(err) = outer.admin(op, self.number, next_gen) {
            log::warn!("group {}: {err:#}", self.number);
        }
        for token in &self.tokens {
            unset(&outer.tokens, &token_key(*token));
        }
        let closed = Closed {
            number: self.number,
            gen_: next_gen,
            uid: self.uid,
            capacity: self.capacity,
        };
        (
            closed,
            self.bells.into_iter().map(|lent| lent.number).collect(),
        )
    }
}

/// A group that has ended: its number, and the memory of its maps.
pub struct Closed {
    /// Its number.
    pub number: u32,
    gen_: u32,
    /// Who made it.
    pub uid: u32,
    /// Records, header included.
    pub capacity: u32,
}

impl Closed {
    /// Whether somebody has its maps open or mapped: they cannot be taken away.
    pub fn is_kept(&self, outer: &Outer) -> bool {
        let op = intf::umcg_admin_op_UMCG_ADMIN_KEPT;
        outer
            .admin(op, self.number, self.gen_)
            .map_or(true, |kept| kept > 0)
    }

    /// Takes the maps out of BPF's: when this returns nobody writes them any more.
    pub fn forget(self, outer: &Outer) {
        for map in [&outer.truths, &outer.desks] {
            unset(map, &self.number.to_ne_bytes());
        }
    }
}
