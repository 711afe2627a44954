//! The skeletons that libbpf-cargo generates from `bpf/`.
#![allow(missing_docs, missing_debug_implementations)]
#![allow(
    clippy::all,
    clippy::unwrap_used,
    clippy::undocumented_unsafe_blocks,
    unsafe_op_in_unsafe_fn
)]
#![allow(dead_code, unused_imports, non_snake_case, non_camel_case_types)]

pub mod hammer {
    include!(concat!(env!("OUT_DIR"), "/hammer_skel.rs"));
}

pub mod idle {
    include!(concat!(env!("OUT_DIR"), "/idle_skel.rs"));
}

pub mod plant {
    include!(concat!(env!("OUT_DIR"), "/plant_skel.rs"));
}
