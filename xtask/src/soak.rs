//! `cargo xtask soak`: the scheduler under real loads while seeded faults are fired at it, on one
//! kernel after the other.
//!
//! What runs in the guest is `umcg-vmtest soak`. A run is cut into pieces of five minutes, each in
//! a boot of its own: the emulator stays well for so long, and little is lost when it does not. A
//! piece has the seed of the run plus its number, so that it can be had again alone. It is stored
//! by (commit, kernel, seed and minutes) as it ends, so that `--resume` goes on from there, whether
//! or not it was clean: who repeats what failed until it does not proves nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::proc::{self, say};
use crate::store::{Key, Store};
use crate::test::{programs, target_dir};
use crate::{cache, commit, kernels, setup};

mod piece;
mod table;

use piece::{Done, End, Piece};

/// Minutes of a boot.
const PIECE: u32 = 5;
/// Minutes on the kernels that the tests must pass on, and on the others.
const DEFAULT: [u32; 2] = [30, 10];
/// A day and a night.
const MOST: u32 = 24 * 60;

/// Flags of `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long faults are fired on each kernel [default: 30 on 6.18 and 7.3, 10 on the others]
    #[arg(long, value_name = "N", value_parser = parse_minutes)]
    minutes: Option<u32>,
    /// Only on this kernel, instead of on all that are known
    #[arg(long, value_parser = kernels::parse_series)]
    kernel: Option<String>,
    /// The same faults in the same order for the same number
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Take over the pieces that an earlier run of this commit and seed has done
    #[arg(long)]
    resume: bool,
}

fn parse_minutes(arg: &str) -> Result<u32, String> {
    let minutes = arg.parse().ok().filter(|it| (1..=MOST).contains(it));
    minutes.ok_or_else(|| format!("{arg}: not within 1..={MOST} minutes; try {}", DEFAULT[0]))
}

/// Runs what was asked for; all pieces, whatever is found on the way.
pub fn run(args: &Args) -> Result<ExitCode> {
    let kernels = kernels::asked(args.kernel.as_deref(), &kernels::KNOWN);
    let commit = commit::current(args.resume)?;
    setup::packages()?;
    let binary = programs::build()?;
    let mut run = Run {
        store: Store::open(target_dir().join("soak/rows.jsonl"))?,
        commit,
        binary,
        seed: args.seed,
    };
    let mut soaked = Vec::new();
    for kernel in kernels {
        let minutes = args.minutes.unwrap_or_else(|| default_minutes(kernel));
        soaked.push(run.on(kernel, minutes, args.resume)?);
    }
    proc::out(&table::show(&run.commit, run.seed, &soaked));
    Ok(match soaked.iter().all(table::Soaked::is_clean) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn default_minutes(kernel: &str) -> u32 {
    DEFAULT[usize::from(!kernels::TESTED.contains(&kernel))]
}

/// The pieces of so many minutes.
fn pieces(minutes: u32, seed: u64) -> Vec<Piece> {
    let piece = |at: u32| Piece {
        seed: seed.wrapping_add(at.into()),
        minutes: PIECE.min(minutes - at * PIECE),
    };
    (0..minutes.div_ceil(PIECE)).map(piece).collect()
}

struct Run {
    store: Store<Done>,
    commit: String,
    binary: PathBuf,
    seed: u64,
}

impl Run {
    /// All pieces of one kernel, as far as they are not there.
    fn on(&mut self, kernel: &str, minutes: u32, resume: bool) -> Result<table::Soaked> {
        let mut soaked = table::Soaked {
            kernel: kernel.to_owned(),
            minutes,
            ..table::Soaked::default()
        };
        if let Err(err) = cache::dir().and_then(|cache| kernels::ensure(&cache, kernel)) {
            say(format_args!("{err:#}"));
            soaked.lacking = Some(format!("{err:#}"));
            return Ok(soaked);
        }
        let commit = self.commit.clone();
        for piece in pieces(minutes, self.seed) {
            let row = piece.name();
            let key = Key {
                commit: &commit,
                kernel,
                row: &row,
            };
            if !resume {
                self.store.forget(|it| it == key)?;
            }
            let kept = self.store.get(key).filter(|it| it.end != End::Died);
            let done = match kept {
                Some(kept) => kept.clone(),
                None => {
                    let done = piece.run(key, &self.binary)?;
                    self.store.put(vec![done.clone()])?;
                    done
                }
            };
            soaked.pieces.push(done);
        }
        Ok(soaked)
    }
}

/// Counts by name.
type Counts = BTreeMap<String, u64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_and_have_seeds_of_their_own() {
        let of = |minutes, seed| -> Vec<_> {
            let pieces = pieces(minutes, seed);
            pieces.iter().map(|it| (it.seed, it.minutes)).collect()
        };
        assert_eq!(of(12, 7), [(7, 5), (8, 5), (9, 2)]);
        assert_eq!(of(5, 1), [(1, 5)]);
        assert_eq!(of(1, 0), [(0, 1)]);
        assert_eq!(of(6, u64::MAX), [(u64::MAX, 5), (0, 1)]);
    }

    #[test]
    fn minutes_out_of_bounds_are_named() {
        assert_eq!(parse_minutes("1"), Ok(1));
        assert_eq!(parse_minutes("1440"), Ok(1440));
        for bad in ["0", "1441", "-1", "x", ""] {
            let err = parse_minutes(bad).unwrap_err();
            assert!(err.contains(bad) && err.contains("1..=1440"), "{err}");
        }
    }

    #[test]
    fn default_minutes_are_more_where_all_tests_run() {
        let of = kernels::KNOWN.map(|kernel| (kernel, default_minutes(kernel)));
        let want = [
            ("6.16", 10),
            ("6.17", 10),
            ("6.18", 30),
            ("7.2", 10),
            ("7.3", 30),
        ];
        assert_eq!(of, want);
    }
}
