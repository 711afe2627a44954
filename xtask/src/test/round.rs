//! The protocol of `umcg-vmtest`: its lines, and what they come to over the boots of a word.

use crate::test::plan::VmTest;

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Ok,
    /// Why it cannot run here.
    Skip(String),
    /// Why.
    Failed(String),
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestEnd {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
    /// How often the kernel ejected a scheduler that it had started, all tries together.
    pub ejections: u32,
    /// The figures of its last try: names, and values behind them.
    pub metrics: Vec<String>,
}

/// A line of the guest's protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A test starts.
    Start(&'a str),
    /// The one that runs is tried again.
    Retry,
    /// It has ended.
    Done(&'a str, Verdict),
    /// Figures: a name, and values behind it.
    Metric(&'a str),
    /// How often the kernel ejected its scheduler.
    Ejected(&'a str, u32),
}

/// Reads one; none: it is anything else.
pub fn parse(line: &str) -> Option<Line<'_>> {
    let (word, rest) = line.trim_end().split_once(' ')?;
    let reason = || {
        rest.split_once(": ")
            .unwrap_or((rest.trim_end_matches(':'), "no reason given"))
    };
    match word {
        "start" => Some(Line::Start(rest)),
        "retry" => Some(Line::Retry),
        "ok" => Some(Line::Done(rest.split(' ').next()?, Verdict::Ok)),
        "FAILED" => {
            let (name, why) = reason();
            Some(Line::Done(name, Verdict::Failed(why.to_owned())))
        }
        "skip" => {
            let (name, why) = reason();
            Some(Line::Done(name, Verdict::Skip(why.to_owned())))
        }
        "metric" => Some(Line::Metric(rest)),
        "ejected" => {
            let (name, count) = rest.split_once(' ')?;
            Some(Line::Ejected(name, count.parse().ok()?))
        }
        _ => None,
    }
}

/// The tests of one boot word, across its boots.
#[derive(Debug)]
pub struct Round {
    tests: Vec<VmTest>,
    verdicts: Vec<Option<Verdict>>,
    attempts: Vec<usize>,
    ejections: Vec<u32>,
    told: Vec<bool>,
    /// The test that runs now.
    pub running: Option<String>,
    metrics: Vec<Vec<String>>,
}

impl Round {
    /// Of these tests.
    pub fn new(tests: &[VmTest]) -> Self {
        Self {
            tests: tests.to_vec(),
            verdicts: vec![None; tests.len()],
            attempts: vec![0; tests.len()],
            ejections: vec![0; tests.len()],
            told: vec![false; tests.len()],
            running: None,
            metrics: vec![Vec::new(); tests.len()],
        }
    }

    /// Those that have not ended.
    pub fn todo(&self) -> Vec<VmTest> {
        let open = self
            .tests
            .iter()
            .zip(&self.verdicts)
            .filter(|(_, verdict)| verdict.is_none());
        open.map(|(test, _)| test.clone()).collect()
    }

    /// Takes a line of the guest in.
    pub fn line(&mut self, line: &str) {
        match parse(line) {
            Some(Line::Start(name)) => {
                self.running = Some(name.to_owned());
                self.forget_metrics();
            }
            // What the try before printed is not what the verdict will be about.
            Some(Line::Retry) => self.forget_metrics(),
            Some(Line::Done(name, verdict)) => {
                // A test that prints such a line for another name must not decide about it.
                if self.running.as_deref() == Some(name)
                    && let Some(at) = self.tests.iter().position(|test| test.name == name)
                {
                    self.verdicts[at] = Some(verdict);
                    self.running = None;
                }
            }
            Some(Line::Ejected(name, count)) => {
                if let Some(at) = self.tests.iter().position(|test| test.name == name) {
                    self.ejections[at] += count;
                }
            }
            Some(Line::Metric(metric)) => {
                if let Some(at) = self.at_running() {
                    self.metrics[at].push(metric.to_owned());
                }
            }
            None => {}
        }
    }

    fn at_running(&self) -> Option<usize> {
        let running = self.running.as_ref()?;
        self.tests.iter().position(|test| test.name == *running)
    }

    fn forget_metrics(&mut self) {
        if let Some(at) = self.at_running() {
            self.metrics[at].clear();
        }
    }

    /// Tells of each test that has ended, once.
    pub fn tell(&mut self, on_end: &mut dyn FnMut(&TestEnd)) {
        for at in 0..self.tests.len() {
            if self.verdicts[at].is_some() && !self.told[at] {
                self.told[at] = true;
                on_end(&self.end(at));
            }
        }
    }

    /// The boot ended early: an attempt of the test that ran, or of all if none did.
    pub fn attempt_failed(&mut self, why: &str) {
        let running = self.running.take();
        for (at, test) in self.tests.iter().enumerate() {
            if running.as_ref().is_some_and(|name| *name != test.name) {
                continue;
            }
            self.attempts[at] += 1;
            if self.attempts[at] == 2 && self.verdicts[at].is_none() {
                let why = format!("did not finish, twice; last: {why}");
                self.verdicts[at] = Some(Verdict::Failed(why));
            }
        }
    }

    /// How all of them ended.
    pub fn ends(&self) -> Vec<TestEnd> {
        (0..self.tests.len()).map(|at| self.end(at)).collect()
    }

    fn end(&self, at: usize) -> TestEnd {
        let verdict = self.verdicts[at].clone();
        TestEnd {
            name: self.tests[at].name.clone(),
            verdict: verdict.unwrap_or_else(|| Verdict::Failed("no verdict".to_owned())),
            ejections: self.ejections[at],
            metrics: self.metrics[at].clone(),
        }
    }

    /// Those that have not ended failed, for this reason.
    pub fn give_up(&mut self, why: &str) {
        for verdict in self.verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
            *verdict = Some(Verdict::Failed(why.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(names: &[&str]) -> Round {
        let test = |name: &&str| VmTest {
            name: (*name).to_owned(),
            seconds: 1.0,
        };
        Round::new(&names.iter().map(test).collect::<Vec<_>>())
    }

    fn feed(round: &mut Round, lines: &[&str]) {
        lines.iter().for_each(|line| round.line(line));
    }

    #[test]
    fn parse_every_line_of_the_protocol() {
        let failed = |why: &str| Verdict::Failed(why.to_owned());
        let skip = |why: &str| Verdict::Skip(why.to_owned());
        let cases = [
            ("start a", Some(Line::Start("a"))),
            ("ok a 1.25", Some(Line::Done("a", Verdict::Ok))),
            ("FAILED a: x: y", Some(Line::Done("a", failed("x: y")))),
            (
                "FAILED a:",
                Some(Line::Done("a", failed("no reason given"))),
            ),
            ("skip a: no SMT", Some(Line::Done("a", skip("no SMT")))),
            ("retry a: late", Some(Line::Retry)),
            ("metric a k=1 l=2", Some(Line::Metric("a k=1 l=2"))),
            ("ejected a 4", Some(Line::Ejected("a", 4))),
            ("ejected a x", None),
            ("anything else", None),
            ("", None),
        ];
        for (line, want) in cases {
            assert_eq!(parse(line), want, "{line}");
        }
    }

    #[test]
    fn round_clean_run_leaves_nothing_to_do() {
        let mut round = round(&["a", "b", "c"]);
        feed(
            &mut round,
            &[
                "start a",
                "ok a 1",
                "start b",
                "FAILED b: why",
                "start c",
                "skip c: x",
            ],
        );
        assert!(round.todo().is_empty());
        let want = [
            Verdict::Ok,
            Verdict::Failed("why".into()),
            Verdict::Skip("x".into()),
        ]
        .map(Some);
        assert_eq!(round.verdicts, want);
    }

    #[test]
    fn round_ejections_of_all_tries_add_up() {
        let mut round = round(&["a", "b"]);
        feed(&mut round, &["start a", "ejected a 1", "FAILED a: x"]);
        feed(
            &mut round,
            &["start b", "ejected b 2", "ejected b 1", "ok b 1"],
        );
        let ends = round.ends();
        let counts: Vec<_> = ends.iter().map(|end| end.ejections).collect();
        assert_eq!(counts, [1, 3]);
        assert_eq!(ends[0].verdict, Verdict::Failed("x".to_owned()));
    }

    #[test]
    fn round_each_end_is_told_once_with_its_last_figures() {
        let mut round = round(&["a", "b"]);
        let mut told = Vec::new();
        for line in [
            "metric of k=0",
            "start a",
            "metric m k=1",
            "retry a: late",
            "metric m k=2",
            "metric n k=3",
            "ok a 1",
            "start b",
            "metric m k=4",
        ] {
            round.line(line);
            round.tell(&mut |end| told.push(end.clone()));
        }
        assert_eq!((told.len(), told[0].name.as_str()), (1, "a"));
        assert_eq!(told[0].metrics, ["m k=2", "n k=3"]);
        feed(&mut round, &["start b", "metric m k=5"]);
        round.give_up("gone");
        round.tell(&mut |end| told.push(end.clone()));
        round.tell(&mut |end| told.push(end.clone()));
        assert_eq!(
            (told.len(), &*told[1].metrics),
            (2, &["m k=5".to_owned()][..])
        );
        assert_eq!(told, round.ends());
    }

    #[test]
    fn round_test_that_dies_twice_fails_and_the_rest_goes_on() {
        let mut round = round(&["a", "b", "c"]);
        feed(&mut round, &["start a", "ok a 1", "start b"]);
        round.attempt_failed("died");
        assert_eq!(round.todo().len(), 2);
        feed(&mut round, &["start b"]);
        round.attempt_failed("died");
        let left: Vec<_> = round.todo().into_iter().map(|test| test.name).collect();
        assert_eq!(left, ["c"]);
        feed(&mut round, &["start c", "ok c 1"]);
        assert!(round.todo().is_empty());
        assert!(matches!(&round.verdicts[1], Some(Verdict::Failed(why)) if why.contains("twice")));
    }

    #[test]
    fn round_that_never_boots_fails_all_after_two() {
        let mut round = round(&["a", "b"]);
        round.attempt_failed("no boot");
        assert_eq!(round.todo().len(), 2);
        round.attempt_failed("no boot");
        assert!(round.todo().is_empty());
    }

    #[test]
    fn round_verdict_for_a_test_that_does_not_run_is_ignored() {
        let mut round = round(&["a", "b"]);
        feed(&mut round, &["start a", "ok b 1", "ok c 1", "ok a 1"]);
        assert_eq!(round.verdicts, [Some(Verdict::Ok), None]);
        round.give_up("gone");
        assert!(matches!(&round.verdicts[1], Some(Verdict::Failed(_))));
    }
}
