//! The counters that BPF keeps, by name; generated from `intf.h`.

/// A counter: its name and what it counts, in the order of `enum umcg_counter`.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// Name as in `intf.h`, docs and JSON.
    pub name: &'static str,
    /// What one unit of it is.
    pub desc: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/counters.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_match_the_bindings() {
        assert_eq!(
            COUNTERS.len(),
            umcg::intf::umcg_counter_UMCG_NR_COUNTERS as usize
        );
        assert_eq!(COUNTERS[index::blocks].name, "blocks");
    }
}
