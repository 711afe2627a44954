//! `cargo xtask guard`: the hot paths beside their ceilings, and the way to new ceilings.
//!
//! A figure is the median of three boots of the test that every run has, on the kernels that
//! have ceilings. With `--update` it becomes the ceiling, with today's date and the reason given.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use umcg_bench::guard::{Ceilings, Change, Ratios, checked_reason};
use umcg_bench::stats::median;

use crate::test::guest::Bench;
use crate::test::plan::{self, Boot};
use crate::test::programs;
use crate::test::report::Report;
use crate::test::round::TestEnd;
use crate::{commit, kernels, proc, setup};

const TEST: &str = "vm_hot_paths_get_no_dearer";
const FILE: &str = "tests/hot-paths.tsv";
/// What its metric lines begin with; the path's name follows.
const METRIC: &str = "hot_path_";
const BOOTS: usize = 3;

/// Flags of `cargo xtask guard`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Make what is measured now the ceilings, in tests/hot-paths.tsv
    #[arg(long)]
    update: bool,
    /// With --update: why the paths cost what they do now; stands in the file
    #[arg(long, value_name = "WHY", requires = "update")]
    reason: Option<String>,
    /// Only on this kernel, instead of on 6.18 and 7.3
    #[arg(long, value_parser = kernels::parse_series)]
    kernel: Option<String>,
}

impl Args {
    /// The reason for new ceilings, if there are to be some.
    fn why(&self) -> Result<Option<&str>> {
        match (self.update, &self.reason) {
            (false, _) => Ok(None),
            (true, Some(reason)) => checked_reason(reason).map(Some),
            (true, None) => bail!(
                "--update: no reason given, and ceilings move for one alone; add --reason \"WHY\""
            ),
        }
    }
}

/// Measures, tells, and writes what is wanted.
pub fn run(args: &Args) -> Result<ExitCode> {
    let why = args.why()?;
    let path = proc::repo().join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read: {FILE}"))?;
    let mut file = Ceilings::parse(&text).context(FILE)?;
    setup::packages()?;
    let binary = programs::build()?;
    let list = proc::output(Command::new(&binary).arg("--list"))?;
    let boots = plan::parse(&list, Some(TEST))?;
    let [boot] = &boots[..] else {
        bail!("umcg-vmtest has no test {TEST}");
    };
    let kernels = kernels::asked(args.kernel.as_deref(), &kernels::TESTED);
    let mut wrong = false;
    for kernel in kernels {
        let ratios = measured(&Bench::new(kernel, &binary)?, boot, kernel)?;
        for found in file.compare(kernel, &ratios) {
            proc::out(&format!("{kernel} {found}\n"));
            wrong |= found.change() == Change::Wrong;
        }
        if let Some(why) = why {
            file.renew(kernel, &ratios, &commit::today()?, why)?;
        }
    }
    if why.is_some() {
        fs::write(&path, file.text()).with_context(|| format!("cannot write: {FILE}"))?;
        proc::out(&format!("{FILE} is written\n"));
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if wrong {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Medians of boots. The verdict of the test is not asked for: it is about the old ceilings.
fn measured(bench: &Bench, boot: &Boot, kernel: &str) -> Result<Ratios> {
    let mut all = Vec::new();
    for number in 1..=BOOTS {
        let ends = bench.run(boot, &mut Report::default());
        let ratios = ends.first().map(ratios).unwrap_or_default();
        ensure!(
            !ratios.is_empty(),
            "{kernel}, boot {number} of {BOOTS}: {TEST} measured nothing"
        );
        all.push(ratios);
    }
    medians(&all).with_context(|| format!("{kernel}: a boot measured other paths than another"))
}

/// What its metric lines say.
fn ratios(end: &TestEnd) -> Ratios {
    let line = |line: &String| {
        let mut words = line.split_whitespace();
        let path = words.next()?.strip_prefix(METRIC)?.to_owned();
        let ratio = words.find_map(|word| word.strip_prefix("ratio="))?;
        Some((path, ratio.parse().ok()?))
    };
    end.metrics.iter().filter_map(line).collect()
}

fn medians(boots: &[Ratios]) -> Option<Ratios> {
    let first = boots.first()?;
    let same = boots.iter().all(|it| it.keys().eq(first.keys()));
    let middle = |path: &String| {
        let of: Vec<_> = boots.iter().map(|it| it[path]).collect();
        Some((path.clone(), median(&of)?))
    };
    same.then(|| first.keys().filter_map(middle).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::test::round::Verdict;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        let words = [&["guard"], words].concat();
        Cli::try_parse_from(words).unwrap().args
    }

    #[test]
    fn guard_update_without_a_reason_is_refused_in_one_sentence() {
        let told = args(&["--update"]).why().unwrap_err().to_string();
        assert!(
            told.contains("--reason \"WHY\"") && !told.contains('\n'),
            "{told}"
        );
        assert!(args(&["--update", "--reason", " "]).why().is_err());
        let given = args(&["--update", "--reason", "one more check"]);
        assert_eq!(given.why().unwrap(), Some("one more check"));
        assert_eq!(args(&[]).why().unwrap(), None);
        assert!(Cli::try_parse_from(["guard", "--reason", "x"]).is_err());
    }

    #[test]
    fn ratios_are_those_of_hot_paths_alone() {
        let lines = [
            "hot_path_run instructions=11.0000 futex_hand_off=7.0000 ratio=1.5714",
            "hot_path_wake_idle instructions=1.0000 futex_hand_off=7.0000 ratio=0.1429",
            "other ratio=3.0",
        ];
        let end = TestEnd {
            name: TEST.to_owned(),
            verdict: Verdict::Failed("dearer".to_owned()),
            ejections: 0,
            metrics: lines.map(str::to_owned).to_vec(),
        };
        let want = [("run", 1.5714), ("wake_idle", 0.1429)];
        assert_eq!(
            ratios(&end),
            want.map(|(path, it)| (path.to_owned(), it)).into()
        );
    }

    #[test]
    fn medians_are_of_the_same_paths_alone() {
        let boot = |it: f64| Ratios::from([("run".to_owned(), it)]);
        assert_eq!(medians(&[boot(3.0), boot(1.0), boot(2.0)]), Some(boot(2.0)));
        assert_eq!(medians(&[boot(3.0), Ratios::new(), boot(2.0)]), None);
    }
}
