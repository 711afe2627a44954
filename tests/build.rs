//! Compiles the hammer against the scheduler's own BPF headers.

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed=../src/bpf");
    scx_cargo::BpfBuilder::new()
        .expect("clang 18 or newer; `cargo xtask setup` installs it")
        .add_include_path("../src/bpf")
        .enable_skel("bpf/hammer.bpf.c", "hammer")
        .build()
        .expect("the BPF program did not compile");
}
