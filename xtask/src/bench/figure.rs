//! From the metric lines of a test to rows: figures, ratios, verdicts.

use crate::bench::record::{Bound, Record};
use crate::bench::rows::{Claim, Ease, Source};
use crate::test::round::{TestEnd, Verdict};

/// What `end` says about `claims`, all those that its test takes: a row for each, by the figures
/// of `base`, which has what all of them have in common.
///
/// A test fails when it misses a bar, and for other reasons, too. If none of its bars was missed,
/// its figures are of something that went wrong: they do not count.
pub fn judge(end: &TestEnd, claims: &[&Claim], base: impl Fn(&Claim) -> Record) -> Vec<Record> {
    let mut rows: Vec<_> = claims
        .iter()
        .map(|claim| take(&end.metrics, claim, base(claim)))
        .collect();
    match &end.verdict {
        Verdict::Ok => {}
        Verdict::Skip(why) => {
            for row in &mut rows {
                row.lack(&format!("{} skipped it: {why}", end.name));
                row.excused = true;
            }
        }
        Verdict::Failed(why) => {
            let explained = rows.iter().any(|row| row.pass == Some(false));
            for row in &mut rows {
                if !explained || row.value.is_none() {
                    row.lack(&format!("{} failed: {why}", end.name));
                }
            }
        }
    }
    rows
}

fn take(lines: &[String], claim: &Claim, mut row: Record) -> Record {
    let find = |from: &Source| find(lines, from).ok_or(from.metric);
    let taken = (|| {
        let value = find(&claim.value)?;
        let beside = claim.beside.map(|(_, from)| find(&from)).transpose()?;
        let ease = match &claim.ease {
            Ease::None => None,
            Ease::Or(from) | Ease::Plus(from) => Some(find(from)?),
            Ease::OrValue(value) => Some(*value),
        };
        Ok((value, beside, ease))
    })();
    row.unit = claim.unit.to_owned();
    row.ref_name = claim.beside.map(|(name, _)| name.to_owned());
    (row.bound, row.bar) = claim.bar.unzip();
    let (value, beside, ease) = match taken {
        Ok(taken) => taken,
        Err(metric) => {
            let metric: &str = metric;
            row.lack(&format!("{} printed no {metric}", claim.test));
            return row;
        }
    };
    row.value = Some(value);
    row.reference = beside;
    row.ratio = beside
        .map(|beside| value / beside)
        .filter(|it| it.is_finite());
    if beside.is_some() && row.ratio.is_none() {
        row.lack(&format!("{}: what it stands beside is 0", claim.test));
        return row;
    }
    // What they print beside a figure of their own are the rounds' ratios.
    if row.ratio.is_some() || claim.value.key == "ratio" {
        row.spread = rounds(lines, &claim.value, "low").zip(rounds(lines, &claim.value, "high"));
    }
    row.n = rounds(lines, &claim.value, "n").map_or(1, |n| n as usize);
    if let Some((bound, bar)) = claim.bar {
        let bar = match ease.map(|ease| ease / beside.unwrap_or(1.0)) {
            None => bar,
            Some(ease) => eased(claim.ease, bound, bar, ease),
        };
        row.bar = Some(bar);
        row.pass = row.judged().map(|figure| bound.holds(figure, bar));
    }
    row
}

fn eased(how: Ease, bound: Bound, bar: f64, ease: f64) -> f64 {
    match (how, bound) {
        (Ease::Plus(_), _) => bar + ease,
        (_, Bound::Least) => bar.min(ease),
        (_, Bound::Most | Bound::Off(_)) => bar.max(ease),
    }
}

/// The newest line of a metric, as pairs.
fn line<'a>(lines: &'a [String], metric: &str) -> Option<Vec<(&'a str, f64)>> {
    let mut words = metric.split(' ');
    let name = words.next()?;
    let wants: Vec<_> = pairs(words).collect();
    lines.iter().rev().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next() == Some(name);
        let all: Vec<_> = pairs(words).collect();
        (is_it && wants.iter().all(|want| all.contains(want))).then_some(all)
    })
}

fn pairs<'a>(words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, f64)> {
    words.filter_map(|word| {
        let (key, value) = word.split_once('=')?;
        Some((key, value.parse().ok()?))
    })
}

fn find(lines: &[String], from: &Source) -> Option<f64> {
    let all = line(lines, from.metric)?;
    let value = |key| all.iter().find(|it| it.0 == key).map(|it| it.1);
    let sum: Option<f64> = from.key.split('+').map(value).sum();
    Some(sum? * from.times).filter(|it| it.is_finite())
}

/// What a line says about its rounds, if it does.
fn rounds(lines: &[String], from: &Source, key: &'static str) -> Option<f64> {
    find(
        lines,
        &Source {
            key,
            times: 1.0,
            ..*from
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Standing;
    use crate::bench::rows;

    fn claim(name: &str) -> &'static Claim {
        rows::all().find(|it| it.name == name).unwrap()
    }

    fn end(verdict: Verdict, metrics: &[&str]) -> TestEnd {
        TestEnd {
            name: "vm_x".to_owned(),
            verdict,
            ejections: 0,
            metrics: metrics.iter().map(|&line| line.to_owned()).collect(),
        }
    }

    fn judge_one(name: &str, metrics: &[&str]) -> Record {
        let end = end(Verdict::Ok, metrics);
        judge(&end, &[claim(name)], |_| Record::default()).remove(0)
    }

    #[test]
    fn take_ratio_with_its_rounds() {
        let line =
            "bar_default_messaging eevdf=2.0 ours=1.5 ratio=0.7500 low=0.7 high=0.9 n=9.0000";
        let row = judge_one(
            "clock.messaging",
            &["bar_default_pipe eevdf=1 ours=1", line],
        );
        assert_eq!(
            (row.value, row.reference, row.ratio),
            (Some(1.5), Some(2.0), Some(0.75))
        );
        assert_eq!((row.spread, row.n), (Some((0.7, 0.9)), 9));
        assert_eq!((row.bar, row.pass), (Some(0.85), Some(true)));
        let row = judge_one(
            "clock.messaging",
            &["bar_default_messaging eevdf=2.0 ours=1.8"],
        );
        assert_eq!((row.pass, row.spread, row.n), (Some(false), None, 1));
    }

    #[test]
    fn take_the_newest_line_that_has_all_words() {
        let lines = [
            "group_quantum us=500.0000 median=700",
            "group_quantum us=500.0000 median=510",
            "group_quantum us=100.0000 median=130",
        ];
        let row = judge_one("quantum.slice-500us", &lines);
        assert_eq!((row.value, row.pass), (Some(510.0), Some(true)));
        assert_eq!(row.bound, Some(Bound::Off(500.0)));
        assert_eq!(judge_one("quantum.slice-100us", &lines).pass, Some(false));
    }

    #[test]
    fn take_sums_and_parts_of_other_lines() {
        let row = judge_one(
            "cycles.sleep.1",
            &["app_cycles_sleep blocked=499990 faults=10"],
        );
        assert_eq!((row.value, row.pass), (Some(500_000.0), Some(true)));
        let lines = [
            "hot_path_run instructions=1500 futex_hand_off=1000.0000 ratio=1.5",
            "hot_path_switch instructions=500 futex_hand_off=1000.0000 ratio=0.5",
        ];
        let row = judge_one("group.switch", &lines);
        assert_eq!(
            (row.reference, row.ratio, row.pass),
            (Some(1000.0), Some(0.5), Some(true))
        );
        // There and back is two hand-offs.
        let row = judge_one("group.round-trip", &lines);
        assert_eq!((row.ratio, row.pass), (Some(0.75), Some(false)));
    }

    #[test]
    fn take_bar_that_the_boot_eases() {
        // Half of EEVDF's, or 1.15 of the probe's before whom nobody runs.
        let lines = |floor: f64| {
            [
                format!("hogs_fifo_probe_p99_us eevdf={floor}"),
                "hogs_probe_p99_us eevdf=100 ours=90 n=9".to_owned(),
            ]
        };
        let row = |floor| {
            let lines = lines(floor);
            judge_one("clock.late.p99", &[&lines[0], &lines[1]])
        };
        assert_eq!((row(10.0).bar, row(10.0).pass), (Some(0.5), Some(false)));
        let eased = row(80.0);
        assert!((eased.bar.unwrap() - 0.92).abs() < 1e-9 && eased.pass == Some(true));
        // No figure that the bar depends on, no verdict.
        assert_eq!(
            judge_one("clock.late.p99", &[&lines(1.0)[1]]).standing(),
            Standing::NotTaken
        );
        let row = judge_one("hostile.fork", &["beside_fork eevdf_p99_ms=1 p99_ms=4.9"]);
        assert_eq!((row.bar, row.pass), (Some(5.0), Some(true)));
        let row = judge_one(
            "servers.shared",
            &["app_scaling_shared ratio=1.7 plain_ratio=1.75"],
        );
        assert_eq!(row.pass, Some(true));
        let row = judge_one(
            "reload.stall",
            &["reloads stall_ms=14 without_reloads_ms=3"],
        );
        assert_eq!((row.bar, row.pass), (Some(13.0), Some(false)));
    }

    #[test]
    fn take_nothing_is_not_taken_with_the_reason() {
        let row = judge_one(
            "clock.messaging",
            &["bar_default_messaging eevdf=NaN ours=1"],
        );
        assert_eq!(row.standing(), Standing::NotTaken);
        assert!(
            row.reason
                .unwrap()
                .contains("printed no bar_default_messaging")
        );
        let row = judge_one("clock.messaging", &["bar_default_messaging eevdf=0 ours=1"]);
        assert_eq!((row.standing(), row.value), (Standing::NotTaken, None));
    }

    #[test]
    fn judge_failed_test_spoils_all_unless_a_bar_explains_it() {
        let claims = [
            claim("clock.messaging"),
            claim("clock.pipe"),
            claim("clock.hackbench"),
        ];
        let standings = |pipe: &str| {
            let lines = ["bar_default_messaging eevdf=2 ours=1", pipe];
            let end = end(Verdict::Failed("edge".to_owned()), &lines);
            let rows = judge(&end, &claims, |_| Record::default());
            assert_eq!(rows[2].reason.as_deref(), Some("vm_x failed: edge"));
            [rows[0].standing(), rows[1].standing()]
        };
        assert_eq!(
            standings("bar_default_pipe eevdf=2 ours=3"),
            [Standing::Passed, Standing::Missed]
        );
        assert_eq!(
            standings("bar_default_pipe eevdf=2 ours=1"),
            [Standing::NotTaken; 2]
        );
    }

    #[test]
    fn judge_skipped_test_is_no_fault() {
        let end = end(Verdict::Skip("no SMT".to_owned()), &[]);
        let row = judge(&end, &[claim("clock.pipe")], |_| Record::default()).remove(0);
        assert_eq!(row.standing(), Standing::NotHere);
        assert_eq!(row.reason.as_deref(), Some("vm_x skipped it: no SMT"));
    }
}
