//! Time: CLOCK_MONOTONIC ns, of the machine in words and of the caller in calls.
//!
//! A time namespace shifts CLOCK_MONOTONIC for its processes; words are shared with
//! BPF and with processes of other namespaces, so they hold the machine's own.

use std::sync::OnceLock;

/// A deadline that never comes.
#[doc(alias = "UMCG_FOREVER")]
pub const FOREVER: u64 = u64::MAX;

/// CLOCK_MONOTONIC now, as deadlines and events have it.
#[doc(alias = "umcg_now")]
#[allow(unsafe_code)]
pub fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is ours to write; the call has no other effect.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The deadline `duration` from now.
pub fn after(duration: std::time::Duration) -> u64 {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(FOREVER);
    now().saturating_add(ns)
}

/// CLOCK_MONOTONIC of the machine now, as words have it.
pub(crate) fn machine_now() -> u64 {
    to_machine(now())
}

/// The machine's time at the caller's time `ns`.
pub(crate) fn to_machine(ns: u64) -> u64 {
    shift(ns, -offset())
}

/// The caller's time at the machine's time `ns`.
pub(crate) fn to_caller(ns: u64) -> u64 {
    shift(ns, offset())
}

/// A time that is long over stays so, and one that never comes.
fn shift(ns: u64, by: i64) -> u64 {
    match ns {
        FOREVER => FOREVER,
        ns => ns.saturating_add_signed(by),
    }
}

/// What this time namespace adds to CLOCK_MONOTONIC. It cannot change while a process
/// runs: a new offset is for children. Asked for at registration first, so that no
/// signal handler is the one to read the file.
pub(crate) fn offset() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        std::fs::read_to_string("/proc/self/timens_offsets")
            .ok()
            .and_then(|text| parse_offset(&text))
            .unwrap_or(0)
    })
}

/// The line of CLOCK_MONOTONIC: `monotonic  SECONDS  NANOSECONDS`.
fn parse_offset(text: &str) -> Option<i64> {
    let line = text.lines().find(|line| line.starts_with("monotonic"))?;
    let mut fields = line.split_whitespace().skip(1);
    let seconds: i64 = fields.next()?.parse().ok()?;
    let ns: i64 = fields.next()?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(ns)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn clock_offset_is_read_from_the_monotonic_line() {
        let text = "monotonic           86400  500\nboottime  1  2\n";
        assert_eq!(parse_offset(text), Some(86_400_000_000_500));
        assert_eq!(parse_offset("monotonic -5 0"), Some(-5_000_000_000));
        assert_eq!(parse_offset("boottime 1 2"), None);
        assert_eq!(parse_offset(""), None);
    }

    #[test]
    fn clock_machine_time_and_back_is_the_same() {
        let time = now();
        assert_eq!(to_caller(to_machine(time)), time);
        assert!(now() >= time);
        assert_eq!(after(std::time::Duration::MAX), FOREVER);
    }
}
