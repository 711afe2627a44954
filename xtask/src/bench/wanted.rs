//! Which rows a run is to take: by names, by flags, by what the tests are.

use anyhow::{Context, Result, ensure};

use crate::bench::Args;
use crate::bench::load::{self, Unit};
use crate::bench::rows::{self, Claim};
use crate::test::plan::Boot;

/// What was asked for.
#[derive(Debug)]
pub struct Wanted {
    /// Claims.
    pub claims: Vec<&'static Claim>,
    /// Loads.
    pub units: Vec<Unit>,
}

impl Wanted {
    /// As the command line says.
    pub fn of(args: &Args) -> Result<Self> {
        let units = load::units(args.peers);
        let loads: Vec<_> = units.iter().map(|unit| unit.name()).collect();
        let names = rows::all().map(|claim| claim.name);
        let names: Vec<_> = names.chain(loads.iter().map(String::as_str)).collect();
        rows::check(&args.names, &names)?;
        let asked = |name: &str| rows::is_asked(&args.names, name);
        let claims = rows::all().filter(|it| asked(it.name) && (!args.quick || it.is_quick()));
        // By the wall clock, and for long.
        let loads = !args.quick && !args.icount;
        let units = units.into_iter().filter(|it| loads && asked(&it.name()));
        let wanted = Self {
            claims: claims.collect(),
            units: units.collect(),
        };
        wanted.check("of a short test")?;
        Ok(wanted)
    }

    fn check(&self, what: &str) -> Result<()> {
        let any = !self.claims.is_empty() || !self.units.is_empty();
        ensure!(any, "nothing to run: none of these rows is {what}");
        Ok(())
    }

    /// Each claim's test has to exist; with `icount` those stay that are counted.
    pub fn fit(&mut self, boots: &[Boot], icount: bool) -> Result<()> {
        let mut fit = Vec::new();
        for claim in &self.claims {
            let of_it = |boot: &&Boot| boot.tests.iter().any(|test| test.name == claim.test);
            let boot = boots.iter().find(of_it).with_context(|| {
                let (name, test) = (claim.name, claim.test);
                format!("row {name}: no test {test}; see umcg-vmtest --list --full")
            })?;
            if !icount || boot.word.split(',').any(|part| part == "icount") {
                fit.push(*claim);
            }
        }
        self.claims = fit;
        self.check("counted by instructions")
    }

    /// Whether a row of this name is one of them.
    pub fn has(&self, row: &str) -> bool {
        self.claims.iter().any(|it| it.name == row) || self.units.iter().any(|it| it.has(row))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::test::plan;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn wanted(words: &str) -> Result<Wanted> {
        let words = ["bench"].into_iter().chain(words.split_whitespace());
        Wanted::of(&Cli::try_parse_from(words)?.args)
    }

    #[test]
    fn wanted_by_names_and_flags() {
        let all = wanted("").unwrap();
        assert_eq!(all.claims.len(), rows::all().count());
        assert_eq!(all.units, load::units(false));
        let some = wanted("count.pipe load.eevdf.hog").unwrap();
        assert_eq!((some.claims.len(), some.units.len()), (1, 1));
        assert!(some.has("count.pipe") && some.has("load.eevdf.hog.x") && !some.has("clock.pipe"));
        let quick = wanted("--quick").unwrap();
        assert!(quick.units.is_empty() && quick.claims.iter().all(|it| it.is_quick()));
        assert!(wanted("--icount").unwrap().units.is_empty());
        let peers = wanted("--peers bpfland").unwrap();
        assert!(!peers.units.is_empty() && peers.claims.is_empty());
    }

    #[test]
    fn wanted_nothing_is_told() {
        for (words, what) in [
            ("--quick count.pipe", "of a short test"),
            ("clok.messaging", "did you mean clock.messaging"),
            ("bpfland", "no row has that in its name"),
            ("--peers --quick", "--peers"),
            ("--kernel 5.10", "6.18"),
        ] {
            let err = wanted(words).unwrap_err().to_string();
            assert!(err.contains(what), "{words}: {err}");
        }
    }

    #[test]
    fn fit_keeps_what_is_counted_and_names_a_test_that_is_gone() {
        let list = "vm_full_throughput_beside_eevdf bars 1\n\
                    vm_full_throughput_by_instructions x,icount,cpus=1 1\n";
        let boots = plan::parse(list, None).unwrap();
        let fit = |icount| {
            let mut it = wanted("hackbench").unwrap();
            it.claims.retain(|claim| !claim.name.starts_with("staged"));
            it.fit(&boots, icount).unwrap();
            it.claims.iter().map(|it| it.name).collect::<Vec<_>>()
        };
        assert_eq!(fit(false), ["clock.hackbench", "count.hackbench"]);
        assert_eq!(fit(true), ["count.hackbench"]);
        let err = wanted("make")
            .unwrap()
            .fit(&boots, false)
            .unwrap_err()
            .to_string();
        assert!(err.contains("no test vm_full_make"), "{err}");
        let mut clock = wanted("hackbench").unwrap();
        clock.claims.retain(|claim| claim.name == "clock.hackbench");
        let err = clock.fit(&boots, true).unwrap_err().to_string();
        assert!(err.contains("counted by instructions"), "{err}");
    }
}
