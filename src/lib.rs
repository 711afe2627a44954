//! scx_umcg: user-managed concurrency groups on stock Linux kernels.
//!
//! This library is the daemon without its `main`: loading and attaching the BPF
//! program, the server threads, statistics, and the commands that look at a
//! running instance. `docs/design.md` tells how it works.

pub mod agent;
pub mod bpf_skel;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod counters;
pub mod doctor;
pub mod exit;
pub mod groups;
pub mod kernel;
pub mod runfile;
pub mod shared;
pub mod stats;
pub mod status;
pub mod system;
pub mod waits;
pub mod watch;

#[cfg(test)]
mod tests {
    /// `umcg` builds without clang, so its bindings of `intf.h` are in the tree.
    /// After a change of the header: `UMCG_BLESS=1 cargo test --release bindings`.
    #[test]
    fn bindings_in_the_tree_match_intf_h() {
        let generated = include_str!(concat!(env!("OUT_DIR"), "/bpf_intf.rs"));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/umcg/src/intf.rs");
        if std::env::var_os("UMCG_BLESS").is_some() {
            std::fs::write(path, generated).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap();
        assert!(
            kept == generated,
            "umcg/src/intf.rs is stale; run this test with UMCG_BLESS=1"
        );
    }
}
