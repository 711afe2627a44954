//! What the kernel's verifier has to walk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::mem::MaybeUninit;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use libbpf_rs::query::ProgInfoIter;
use scx_umcg::agent::load;
use scx_umcg::cli::Cli;
use scx_umcg::config::Config;
use scx_umcg::config::cpus::Machine;

use super::{Test, short};
use crate::harness::{Verdict, metric};

pub const TESTS: &[Test] = &[short(
    "vm_verified_instructions_stay_below_ceilings",
    "life",
    20,
    ceilings,
)];

/// One line per program, one column per kernel.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/verified.tsv");

/// Policies and ways to decide: the verifier drops the code of those that are off.
const MODES: [(&str, &[&str]); 6] = [
    ("fair", &[]),
    ("fair_staged", &["--decide", "staged"]),
    ("fifo", &["--policy", "fifo"]),
    ("own", &["--policy", "test-pid"]),
    (
        "own_staged",
        &["--policy", "test-pid", "--decide", "staged"],
    ),
    ("mixed", &["--config", MIXED]),
];

/// A file with another policy on each of two CPUs.
const MIXED: &str = "/tmp/umcg-verify-mixed.toml";
const MIXED_TEXT: &str = "[daemon]\ncpus = \"0\"\n\
    [[group]]\nname = \"g\"\nmatch = {}\ncpus = \"1\"\npolicy = \"fifo\"\n";

type Counts = BTreeMap<String, u32>;

/// The kernel keeps 15 characters of a name: some programs share one, the longest counts.
fn keep_most(counts: &mut Counts, name: String, insns: u32) {
    let most = counts.entry(name).or_default();
    *most = insns.max(*most);
}

/// Programs of ours that are loaded now: (id, name, verified instructions).
fn programs() -> impl Iterator<Item = (u32, String, u32)> {
    ProgInfoIter::default().filter_map(|p| {
        let name = p.name.to_str()?.to_owned();
        let ours = name.starts_with("umcg_") || name == "relief_timer";
        ours.then_some((p.id, name, p.verified_insns))
    })
}

/// The largest count of each program over all modes.
fn count() -> Result<Counts> {
    let mut most = Counts::new();
    fs::write(MIXED, MIXED_TEXT)?;
    for (mode, args) in MODES {
        let before: BTreeSet<u32> = programs().map(|(id, ..)| id).collect();
        let args = std::iter::once("scx_umcg").chain(args.iter().copied());
        let cli = Cli::try_parse_from(args)?;
        let config = Config::load(&cli.run, &Machine::this())?;
        let mut object = MaybeUninit::uninit();
        let loaded = load::load(&mut object, &config).with_context(|| format!("mode {mode}"))?;
        let mut counts = Counts::new();
        for (_, name, insns) in programs().filter(|(id, ..)| !before.contains(id)) {
            keep_most(&mut counts, name, insns);
        }
        drop(loaded);
        ensure!(
            counts.contains_key("umcg_dispatch") && counts.values().all(|&n| n > 0),
            "mode {mode}: {counts:?}"
        );
        let values: Vec<_> = (counts.iter())
            .map(|(name, &n)| (name.as_str(), f64::from(n)))
            .collect();
        metric(&format!("verified_{mode}"), &values);
        for (name, n) in counts {
            keep_most(&mut most, name, n);
        }
    }
    Ok(most)
}

/// The series of this kernel, as in 7.3.
pub(super) fn series() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut parts = release.split('.');
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => Ok(format!("{major}.{minor}")),
        _ => bail!("kernel release {release:?}"),
    }
}

/// The file: kernels, and by program its ceiling for each of them.
#[derive(Default)]
struct Ceilings {
    kernels: Vec<String>,
    rows: BTreeMap<String, Vec<Option<u32>>>,
}

impl Ceilings {
    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let head = lines.next().unwrap_or("program").split('\t');
        let mut file = Self {
            kernels: head.skip(1).map(str::to_owned).collect(),
            ..Self::default()
        };
        for line in lines {
            let mut fields = line.split('\t');
            let name = fields.next().unwrap_or_default().to_owned();
            let row: Vec<_> = fields.map(|n| n.parse().ok()).collect();
            ensure!(
                row.len() == file.kernels.len(),
                "{FILE}: {line:?}: not one number per kernel"
            );
            file.rows.insert(name, row);
        }
        Ok(file)
    }

    /// The ceiling of `program`; on a kernel without a column the largest there is.
    fn of(&self, program: &str, kernel: &str) -> Option<u32> {
        let row = self.rows.get(program)?;
        match self.kernels.iter().position(|k| k == kernel) {
            Some(at) => row[at],
            None => row.iter().copied().max()?,
        }
    }

    /// The file with a new column for `kernel`, a quarter above `counts`.
    fn blessed(mut self, kernel: &str, counts: &Counts) -> String {
        let number = |k: &str| -> Vec<u32> { k.split('.').flat_map(str::parse).collect() };
        let at = (self.kernels).partition_point(|k| number(k) < number(kernel));
        if self.kernels.get(at).is_none_or(|k| k != kernel) {
            self.kernels.insert(at, kernel.to_owned());
            self.rows.values_mut().for_each(|row| row.insert(at, None));
        }
        self.rows.values_mut().for_each(|row| row[at] = None);
        for (name, n) in counts {
            let width = self.kernels.len();
            let row = (self.rows.entry(name.clone())).or_insert_with(|| vec![None; width]);
            row[at] = Some((n + n / 4).next_multiple_of(50));
        }
        self.rows.retain(|_, row| row.iter().any(Option::is_some));
        let mut text = format!("program\t{}\n", self.kernels.join("\t"));
        for (name, row) in &self.rows {
            let row: Vec<_> = row
                .iter()
                .map(|n| n.map_or("-".to_owned(), |n| n.to_string()))
                .collect();
            let _ = writeln!(text, "{name}\t{}", row.join("\t"));
        }
        text
    }
}

fn ceilings() -> Result<Verdict> {
    let (kernel, counts) = (series()?, count()?);
    let file = Ceilings::parse(&fs::read_to_string(FILE).unwrap_or_default())?;
    if std::env::var_os("UMCG_BLESS").is_some() {
        fs::write(FILE, file.blessed(&kernel, &counts)).context(FILE)?;
        return Ok(Verdict::Ok);
    }
    let wrong: Vec<_> = counts
        .iter()
        .filter_map(|(name, &n)| match file.of(name, &kernel) {
            Some(most) if n <= most => None,
            Some(most) => Some(format!("{name}: {n} verified instructions, ceiling {most}")),
            None => Some(format!("{name}: {n} verified instructions, no ceiling")),
        })
        .collect();
    ensure!(
        wrong.is_empty(),
        "{kernel}: {}; if it is meant: UMCG_BLESS=1 cargo xtask test vm_verified",
        wrong.join("; ")
    );
    Ok(Verdict::Ok)
}
