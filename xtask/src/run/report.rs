//! What `cargo xtask run` prints: headings, live lines, the table and the last sentence.

use std::fmt::Write;

use umcg_bench::stats::median;

use crate::run::load::Figures;
use crate::run::sched::Counts;

/// Above the live lines.
pub const LIVE_HEADING: &str =
    "  | every second: switches, and who chose where two or more were waiting\n";

/// Bold and colours, only for a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    color: bool,
}

impl Style {
    /// With or without.
    pub fn new(color: bool) -> Self {
        Self { color }
    }

    /// Whether it is for a terminal.
    pub fn color(self) -> bool {
        self.color
    }

    /// Bold.
    pub fn bold(self, text: &str) -> String {
        self.escape("1", text)
    }

    /// A line that starts a part.
    pub fn heading(self, text: &str) -> String {
        format!("\n{}\n", self.bold(&format!("==> {text}")))
    }

    fn escape(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 CPU hog", "2 CPU hogs".
pub fn count(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", grouped(number))
}

/// A statistics line of scx_umcg, in less than 80 columns; any other line as it is.
pub fn live(line: &str) -> String {
    let words: Vec<&str> = line
        .split_whitespace()
        .map(|word| word.trim_matches(['(', ')', '%']))
        .collect();
    let number = |name: &str| -> Option<f64> {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    let fields = ["switches", "contended", "staged", "key", "absent", "cpu"].map(number);
    let [
        Some(switches),
        Some(contended),
        Some(staged),
        Some(key),
        Some(absent),
        Some(cpu),
    ] = fields
    else {
        return format!("  | {line}\n");
    };
    let who = if contended == 0.0 {
        "nothing to choose".to_owned()
    } else {
        format!("staged {staged:>3.0}%  key {key:>3.0}%  absent {absent:>3.0}%")
    };
    let switches = grouped(switches as u64);
    format!("  | {switches:>9} switches   {who:<35} server CPU {cpu:>4.1}%\n")
}

/// A message of scx_umcg without its `[INFO] `.
pub fn without_level(line: &str) -> &str {
    line.split_once("] ").map_or(line, |(_, rest)| rest)
}

/// A message of scx_umcg for the terminal; what it did, and all that is not plain information.
pub fn message(line: &str) -> Option<String> {
    let text = without_level(line);
    let told = text.starts_with("attached:") || text.starts_with("detached:");
    (told || !line.starts_with("[INFO]")).then(|| format!("  scx_umcg: {text}\n"))
}

/// What happened while it was attached.
pub fn decisions(counts: &Counts) -> String {
    let share = |part: u64| match counts.contended {
        0 => String::new(),
        all => format!("{:>6.1} %", part as f64 * 100.0 / all as f64),
    };
    let mut text = format!("While scx_umcg was attached, {:.0} s:\n", counts.attached_s);
    let rows = [
        (
            counts.switches,
            "switches: a thread was put on a CPU",
            String::new(),
        ),
        (
            counts.contended,
            "of these with two or more waiting, and who chose:",
            String::new(),
        ),
        (
            counts.staged,
            "  staged ahead by a server",
            share(counts.staged),
        ),
        (
            counts.by_key,
            "  by key, in the order that the servers set",
            share(counts.by_key),
        ),
        (
            counts.absent,
            "  in kernel order, for an absent server",
            share(counts.absent),
        ),
        (
            counts.direct,
            "wake-ups that went direct to an idle CPU",
            String::new(),
        ),
        (
            counts.stolen,
            "threads stolen from another CPU's queue",
            String::new(),
        ),
        (counts.activations, "activations of a server", String::new()),
        (counts.ejections, "ejections by the kernel", String::new()),
    ];
    for (number, what, share) in rows {
        let line = format!("{:>12}  {what:<50}{share}", grouped(number));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Both schedulers beside each other, a row per load.
pub fn comparison(eevdf: &Figures, umcg: &Figures) -> String {
    let seconds = |value: f64| format!("{value:.3} s");
    let micros = |value: f64| format!("{} us", grouped(value.round() as u64));
    let mean = |figures: &Figures| figures.latency.map(|latency| latency.mean_us);
    let worst = |figures: &Figures| figures.latency.map(|latency| latency.max_us);
    let mut text = format!(
        "\n{:<42}{:>11}{:>12}{:>9}\n",
        "Lower is better", "EEVDF", "scx_umcg", "ratio"
    );
    let messaging = (median(&eevdf.messaging), median(&umcg.messaging));
    let pipe = (median(&eevdf.pipe), median(&umcg.pipe));
    let mut row =
        |name: &str, (old, new): (Option<f64>, Option<f64>), unit: &dyn Fn(f64) -> String| {
            let cell = |value: Option<f64>| value.map_or("-".to_owned(), unit);
            let ratio = match (old, new) {
                (Some(old), Some(new)) if old > 0.0 => format!("{:.2}x", new / old),
                _ => "-".to_owned(),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "  {name:<40}{:>11}{:>12}{ratio:>9}",
                cell(old),
                cell(new)
            );
        };
    let of = |what: &str, rounds: &Vec<f64>| format!("{what} (median of {})", rounds.len());
    row(
        &of("messaging, 80 threads", &eevdf.messaging),
        messaging,
        &seconds,
    );
    row(&of("pipe, 3,000 round trips", &eevdf.pipe), pipe, &seconds);
    row(
        "wake-up latency beside hogs, mean",
        (mean(eevdf), mean(umcg)),
        &micros,
    );
    row(
        "wake-up latency beside hogs, worst",
        (worst(eevdf), worst(umcg)),
        &micros,
    );
    text
}

/// Below the table when no KVM was there: what the figures are worth.
pub const EMULATED: &str = "\
(An emulated CPU, no KVM: times vary with the load of the machine around the VM.
Compare the columns with each other, not with figures of other machines.)
";

/// The last sentence: whether it stayed attached, or all that went wrong.
pub fn verdict(style: Style, attached_s: f64, faults: &[String]) -> String {
    if faults.is_empty() {
        let text = format!(
            "scx_umcg stayed attached for all {attached_s:.0} s: no ejection, and every load ended."
        );
        return format!("\n{}\n", style.escape("1;32", &text));
    }
    let text = format!("FAILED: {}.", faults.join("; "));
    format!("\n{}\n", style.escape("1;31", &text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::load::Latency;

    const STATS: &str = "[scx_umcg] switches    3195 contended    2646 (staged   0.0% key  99.6% \
        absent  0.4%) stolen    82 direct    351 preempt   101 activations   126 server cpu  2.0% \
        waiting   0 rescued 0";

    #[test]
    fn live_line_fits_a_terminal() {
        let line = live(STATS);
        assert_eq!(
            line,
            "  |     3,195 switches   staged   0%  key 100%  absent   0%  server CPU  2.0%\n"
        );
        let busy = live(
            &STATS
                .replace("   3195", "9999999")
                .replace("2.0%", "100.0%"),
        );
        assert!(busy.len() <= 80, "{busy}");
        let idle = live(&STATS.replace("2646", "0"));
        assert!(idle.contains("nothing to choose"), "{idle}");
    }

    #[test]
    fn live_unknown_line_is_shown_as_it_is() {
        assert_eq!(live("[scx_umcg] new words"), "  | [scx_umcg] new words\n");
    }

    #[test]
    fn message_keeps_warnings_and_the_life_cycle() {
        let attached = "[INFO] attached: full mode";
        assert_eq!(
            message(attached).unwrap(),
            "  scx_umcg: attached: full mode\n"
        );
        assert!(
            message("[WARN] ejected: stall")
                .unwrap()
                .contains("ejected")
        );
        assert_eq!(message("[INFO] kernel features: x=no"), None);
        assert_eq!(
            message("panicked at x").unwrap(),
            "  scx_umcg: panicked at x\n"
        );
    }

    #[test]
    fn grouped_numbers_and_plurals() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, want) in cases {
            assert_eq!(grouped(number), want);
        }
        assert_eq!(
            (count(1, "hog"), count(2, "hog")),
            ("1 hog".into(), "2 hogs".into())
        );
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn decisions_shares_are_of_the_contended() {
        let counts = Counts {
            attached_s: 12.6,
            switches: 19_118,
            contended: 4,
            staged: 1,
            by_key: 3,
            ..Counts::default()
        };
        let text = decisions(&counts);
        assert!(
            text.contains("attached, 13 s") && text.contains("19,118  switches"),
            "{text}"
        );
        assert!(text.contains("25.0 %") && text.contains("75.0 %"), "{text}");
        assert!(text.lines().all(|line| line.len() < 80), "{text}");
        assert!(!decisions(&Counts::default()).contains("NaN"));
    }

    #[test]
    fn comparison_has_units_ratios_and_gaps() {
        let eevdf = Figures {
            messaging: vec![1.0, 2.0, 9.0],
            pipe: vec![0.5],
            latency: Some(Latency {
                mean_us: 856.4,
                max_us: 9166.0,
            }),
        };
        let umcg = Figures {
            messaging: vec![1.0],
            ..Figures::default()
        };
        let text = comparison(&eevdf, &umcg);
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap();
        assert!(
            row("messaging").ends_with("2.000 s     1.000 s    0.50x"),
            "{text}"
        );
        assert!(
            row("pipe").ends_with("0.500 s           -        -"),
            "{text}"
        );
        assert!(
            row("worst").contains("9,166 us") && row("mean").contains("856 us"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.len() < 80), "{text}");
    }

    #[test]
    fn verdict_colour_only_when_asked() {
        let plain = verdict(Style::new(false), 24.2, &[]);
        assert!(plain.contains("stayed attached for all 24 s") && !plain.contains('\x1b'));
        let faults = ["pipe: not done".to_owned(), "ejected".to_owned()];
        let failed = verdict(Style::new(true), 0.0, &faults);
        assert!(failed.contains("FAILED: pipe: not done; ejected.") && failed.contains("\x1b["));
    }
}
