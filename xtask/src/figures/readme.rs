//! The table of README.md: one row per question that people ask, from the rows of the bench.

use anyhow::{Context, Result};

use crate::bench::record::{Record, Standing, number};
use crate::bench::table::{bar, with_unit};

const BEGIN: &str = "<!-- figures: made by `cargo xtask figures` -->\n";
const END: &str = "<!-- end of figures -->\n";

/// What it answers, the row of the bench, what that is.
const ROWS: [(&str, &str, &str); 14] = [
    (
        "switch",
        "group.switch",
        "worker to worker, of a hand-off by futex; instructions",
    ),
    (
        "",
        "group.round-trip",
        "server to worker to server, of a round trip by futex; instructions",
    ),
    (
        "wake",
        "group.wake-listed",
        "a wake beside a busy server, of a hand-off by futex; instructions",
    ),
    (
        "",
        "block.futex",
        "from a worker's block to its server in user space, of the same; instructions",
    ),
    (
        "throughput",
        "clock.messaging",
        "`perf bench sched messaging`, time of EEVDF's",
    ),
    ("", "clock.pipe", "`perf bench sched pipe`, the same"),
    (
        "",
        "count.make",
        "a build by `make -j4`, instructions of EEVDF's",
    ),
    (
        "latency",
        "clock.late.p99",
        "a timer thread beside 4 hogs, 99th percentile of EEVDF's",
    ),
    (
        "",
        "count.late.p99",
        "the same beside 2 hogs on one CPU, by instructions",
    ),
    (
        "fairness",
        "share.cgroup.one-cpu",
        "share of weight 100 beside 300",
    ),
    (
        "scale",
        "workers-10k.parked",
        "a hand-off among 10,000 workers, of one among 10",
    ),
    ("", "workers-10k.asleep", "a block and a wake of the same"),
    (
        "idle cost",
        "idle.agent",
        "CPU time of the agent on an idle machine",
    ),
    ("memory", "workers-10k.memory", "for each of 10,000 workers"),
];

/// `readme` with the table for `rows` in the place of the one that it has.
pub fn renewed(readme: &str, rows: &[Record]) -> Result<String> {
    let lacks = || {
        format!(
            "README.md lacks the lines {} and {}",
            BEGIN.trim(),
            END.trim()
        )
    };
    let (before, rest) = readme.split_once(BEGIN).with_context(lacks)?;
    let (_, after) = rest.split_once(END).with_context(lacks)?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", table(rows)))
}

fn table(rows: &[Record]) -> String {
    let mut kernels: Vec<&str> = rows.iter().map(|row| row.kernel.as_str()).collect();
    kernels.sort_unstable();
    kernels.dedup();
    kernels.reverse();
    let commit = rows.first().map_or("", |row| row.commit.as_str());
    let mut text =
        format!("Commit `{commit}`; each row by `cargo xtask bench --kernel K ROW`.\n\n");
    let heads: String = kernels.iter().map(|it| format!(" {it} |")).collect();
    text += &format!("| | what | row |{heads} bar | date |\n|---|---|---|");
    text += &"---|".repeat(kernels.len() + 2);
    text.push('\n');
    for (topic, name, what) in ROWS {
        let of = |kernel: &&str| {
            let mut all = rows.iter();
            all.find(|row| row.name == name && row.kernel == **kernel)
        };
        let found: Vec<_> = kernels.iter().map(of).collect();
        let cells: String = found
            .iter()
            .map(|row| format!(" {} |", cell(*row)))
            .collect();
        let one = found.iter().flatten().find(|row| row.value.is_some());
        let (bar, date) = one.map_or_else(Default::default, |row| (bar(row), row.date.clone()));
        text += &format!("| {topic} | {what} | `{name}` |{cells} {bar} | {date} |\n");
    }
    text
}

/// Its ratio if it has one, with the spread of its rounds.
fn cell(row: Option<&Record>) -> String {
    let Some(row) = row.filter(|row| row.value.is_some()) else {
        return "not taken".into();
    };
    let mut text = match row.ratio {
        Some(ratio) => number(ratio),
        None => with_unit(row.value, &row.unit),
    };
    if let Some((low, high)) = row.spread {
        text += &format!(" ({} .. {})", number(low), number(high));
    }
    match row.standing() {
        Standing::Missed => format!("**{text}**"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::record;
    use crate::bench::rows;

    #[test]
    fn readme_has_the_table_in_the_place_of_the_old_one() {
        let mut missed = record("group.switch", "7.3", "c1");
        (missed.ratio, missed.pass) = (Some(0.81), Some(false));
        let rows = [missed, record("clock.messaging", "6.18", "c1")];
        let old = format!("a\n{BEGIN}old\n{END}b\n");
        let new = renewed(&old, &rows).unwrap();
        assert!(new.starts_with(&format!("a\n{BEGIN}Commit `c1`")), "{new}");
        assert!(
            new.ends_with(&format!("{END}b\n")) && !new.contains("old"),
            "{new}"
        );
        assert!(new.contains("| 7.3 | 6.18 | bar |"), "{new}");
        let line = |name: &str| new.lines().find(|it| it.contains(name)).unwrap().to_owned();
        let switch = line("`group.switch`");
        assert!(
            switch.contains("| **0.810 (0.750 .. 0.900)** | not taken |"),
            "{switch}"
        );
        assert!(
            line("`clock.messaging`").contains("| not taken | 0.800"),
            "{new}"
        );
        assert_eq!(renewed(&new, &rows).unwrap(), new);
        assert!(renewed("nothing", &rows).is_err());
    }

    #[test]
    fn readme_asks_for_rows_that_there_are() {
        for (_, name, _) in ROWS {
            assert!(rows::all().any(|row| row.name == name), "{name}");
        }
    }
}
