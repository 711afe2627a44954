//! The `umcg-bench` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    umcg_bench::cli::main(std::env::args_os())
}
