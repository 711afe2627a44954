//! Compiles the BPF programs of tests against the scheduler's own BPF headers.

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed=../src/bpf");
    for name in ["hammer", "idle", "plant"] {
        scx_cargo::BpfBuilder::new()
            .expect("clang 18 or newer; `cargo xtask setup` installs it")
            .add_include_path("../src/bpf")
            .enable_skel(&format!("bpf/{name}.bpf.c"), name)
            .build()
            .expect("the BPF program did not compile");
    }
}
