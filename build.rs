//! Compiles the BPF side and generates its skeleton and the bindings of `intf.h`.

fn main() {
    if !std::env::var("TARGET").is_ok_and(|t| t.starts_with("x86_64-")) {
        panic!("scx_umcg runs on x86-64 only for now");
    }
    println!("cargo:rerun-if-changed=src/bpf");
    scx_cargo::BpfBuilder::new()
        .expect("clang 18 or newer; `cargo xtask setup` installs it")
        .enable_intf("src/bpf/intf.h", "bpf_intf.rs")
        .enable_skel("src/bpf/main.bpf.c", "bpf")
        .build()
        .expect("the BPF program did not compile");
    generate_counters();
}

/// `X(name, "what it counts")` lines of intf.h, as Rust tables.
fn generate_counters() {
    let header = std::fs::read_to_string("src/bpf/intf.h").expect("src/bpf/intf.h");
    let (mut table, mut index) = (String::new(), String::new());
    let lines = header.lines().filter_map(|l| {
        let (name, rest) = l.trim_start().strip_prefix("X(")?.split_once(", \"")?;
        Some((name, rest.split_once('"')?.0))
    });
    for (i, (name, desc)) in lines.enumerate() {
        table += &format!("    Counter {{ name: {name:?}, desc: {desc:?} }},\n");
        index += &format!("    #[doc = {desc:?}]\n    pub const {name}: usize = {i};\n");
    }
    let code = format!(
        "/// All counters.\npub const COUNTERS: &[Counter] = &[\n{table}];\n\n\
         /// Their indexes.\n#[allow(non_upper_case_globals)]\npub mod index {{\n{index}}}\n"
    );
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR").expect("set by cargo"));
    std::fs::write(out.join("counters.rs"), code).expect("OUT_DIR is writable");
}
