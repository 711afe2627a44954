//! `umcg-vmtest`: the tests that need a kernel of their own.
//!
//! `--list [--full]` prints `NAME BOOT SECONDS` per test: what shares a BOOT word
//! shares a boot. With names it runs them in order and prints, for each, `start`,
//! `ejected` if the kernel ejected a scheduler meanwhile, and then one of `ok`,
//! `FAILED` and `skip`. `cargo xtask test` drives it.
//! `--load NAME` is what tests start as load. `soak` is [the chaos soak](soak).

mod beside;
mod boss;
mod cast;
mod cgroup;
mod client;
mod cyclic;
mod harness;
mod heap;
mod laps;
mod leak;
mod load;
mod made_up;
mod noise;
mod race;
mod relay;
mod seccomp;
mod skel;
mod soak;
mod stall;
mod tests;
mod unkind;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use harness::Verdict;

fn main() -> ExitCode {
    scx_umcg::exit::plain_panics();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = &args[..]
        && flag == "--load"
    {
        return match name.as_str() {
            tests::A_DAY_AHEAD => tests::in_time_namespace(),
            _ => unkind::main(name),
        };
    }
    match args.first().map(String::as_str) {
        Some("soak") => return soak::main(&args[1..]),
        Some(soak::watch::COMMAND) => return soak::watch::main(),
        _ => {}
    }
    if args.iter().any(|a| a == "--list") {
        let full = args.iter().any(|a| a == "--full");
        for t in tests::all().filter(|t| full || !t.full) {
            println!("{} {} {}", t.name, t.boot, t.seconds);
        }
        return ExitCode::SUCCESS;
    }
    let mut boot = "";
    for name in &args {
        let Some(test) = tests::all().find(|t| t.name == *name) else {
            eprintln!("test {name:?}: unknown; `umcg-vmtest --list` names them");
            return ExitCode::from(2);
        };
        if test.boot != boot {
            harness::end_shared();
        }
        boot = test.boot;
        println!("start {name}");
        let _ = std::io::stdout().flush();
        let began = Instant::now();
        let mut result = (test.run)();
        harness::clean_up();
        for _ in 1..test.tries {
            let Err(err) = &result else { break };
            harness::end_shared();
            println!("retry {name}: {}", format!("{err:#}").replace('\n', " | "));
            result = (test.run)();
            harness::clean_up();
        }
        let (count, meant) = harness::take_ejections();
        if count > 0 {
            println!("ejected {name} {count}");
        }
        if count > meant && result.is_ok() {
            result = Err(anyhow::anyhow!("{count} ejections, {meant} meant"));
        }
        match result {
            Ok(Verdict::Ok) => println!("ok {name} {:.1}", began.elapsed().as_secs_f64()),
            Ok(Verdict::Skip(why)) => println!("skip {name}: {why}"),
            Err(err) => {
                harness::end_shared();
                println!("FAILED {name}: {}", format!("{err:#}").replace('\n', " | "));
            }
        }
        let _ = std::io::stdout().flush();
    }
    harness::end_shared();
    ExitCode::SUCCESS
}
