//! The stamps that BPF gives words, case by case against the library's.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use umcg::word::{State, Word};

use super::{Test, short};
use crate::harness::Verdict;
use crate::skel::hammer::HammerSkelBuilder;

pub const TESTS: &[Test] = &[short(
    "vm_stamps_are_those_of_the_library",
    "hammer,newest",
    3,
    stamps,
)];

const WRAP: u64 = 1 << 48;
const CASES: u64 = 20_000;

/// As `struct stamp` in hammer.bpf.c.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    old: u64,
    since: u64,
    now: u64,
    at: u64,
    word: u64,
}

/// The program, in an object whose words are `ahead` of the clock.
fn program(ahead: u64) -> Result<OwnedFd> {
    let mut object = MaybeUninit::uninit();
    let mut skel = HammerSkelBuilder::default().open(&mut object)?;
    let rodata = skel.maps.rodata_data.as_mut().context("no .rodata")?;
    rodata.umcg_ahead_ns = ahead;
    let skel = skel.load()?;
    Ok(skel.progs.hammer_stamp.as_fd().try_clone_to_owned()?)
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// `since` with its word beside it, and a clock that is equal, behind or ahead, by little or
/// by days.
fn case(seed: &mut u64, ahead: u64) -> Stamp {
    let near = |seed: &mut u64| (random(seed) >> 20) % 2000;
    let wrap = 4 * WRAP + WRAP * (random(seed) >> 62) - ahead % WRAP;
    let since = wrap + near(seed) - 1000;
    let span = random(seed) >> (16 + (random(seed) >> 20) % 47);
    let now = match random(seed) >> 62 {
        0 => since,
        1 => since - near(seed) - 1,
        2 => since + near(seed),
        _ => since + span,
    };
    Stamp {
        old: Word::make(since + ahead, State::Running as u64).0,
        since,
        now,
        ..Stamp::default()
    }
}

fn check(program: &OwnedFd, ahead: u64, mut it: Stamp) -> Result<()> {
    scx_umcg::agent::server::run_program(program, &mut it)?;
    let twin = Word(it.old).stamp_after(it.since + ahead, it.now + ahead) - ahead;
    ensure!(it.at == twin, "{it:?}: the library says {twin}");
    let made = Word::make(it.at + ahead, State::Runnable as u64);
    ensure!(it.word == made.0, "{it:?}: word, not {made:?}");
    ensure!(it.at > it.since && it.at >= it.now, "{it:?}: back");
    let other = Word(it.word).time48() != Word(it.old).time48();
    ensure!(other, "{it:?}: the tag of the word before");
    Ok(())
}

fn stamps() -> Result<Verdict> {
    for ahead in [0, 1, WRAP - 2_000_000_000, WRAP + 12_345] {
        let program = program(ahead)?;
        let mut seed = 0x5eed + ahead;
        for _ in 0..CASES {
            check(&program, ahead, case(&mut seed, ahead))?;
        }
        // Never set: the clock as it is. And whole turns of the 48 bits later.
        let mut first = Stamp {
            now: 77,
            ..Stamp::default()
        };
        scx_umcg::agent::server::run_program(&program, &mut first)?;
        ensure!(first.at == 77, "{first:?}");
        let mut turn = case(&mut seed, ahead);
        turn.now = turn.since + 2 * WRAP;
        check(&program, ahead, turn)?;
    }
    Ok(Verdict::Ok)
}
