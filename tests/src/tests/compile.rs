//! The bars of a release: a build, which forks, execs, computes and waits for its children.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Test, full};
use crate::beside::{Bars, Figure, Rounds};
use crate::harness::Verdict;
use crate::load;

pub const TESTS: &[Test] = &[
    full("vm_full_make_beside_eevdf", "make", 800, make::<9, 105>),
    full(
        "vm_full_make_by_instructions",
        "make-count,icount,cpus=1",
        1200,
        make::<2, 102>,
    ),
];

const FILES: usize = 32;
const FUNCTIONS: usize = 40;

/// One file of the tree: no headers, and nothing that depends on the machine.
fn source(file: usize) -> String {
    let mut text = String::from("struct node { struct node *next; long key, count[4]; };\n");
    for function in 0..FUNCTIONS {
        let (a, b) = (3 + (file * 7 + function) % 11, 1 + (function * 5) % 13);
        let _ = write!(
            text,
            "long f{file}_{function}(struct node *n, const char *s, long limit)\n{{\n\
             \tlong sum = {a}, i;\n\
             \tfor (i = 0; n && i < limit; n = n->next, i++) {{\n\
             \t\tn->count[i & 3] += n->key * {a} - (i >> {b} % 8);\n\
             \t\tswitch ((n->key ^ i) % {a}) {{\n\
             \t\tcase 0: sum += n->count[0] / {b}; break;\n\
             \t\tcase 1: sum ^= n->count[1] << ({a} % 5); break;\n\
             \t\tcase 2: while (*s && *s != '{b}') sum = sum * 31 + *s++; break;\n\
             \t\tdefault: sum -= n->count[2] > sum ? n->count[3] : {b};\n\
             \t\t}}\n\t}}\n\treturn sum;\n}}\n"
        );
    }
    text
}

/// The tree, removed when dropped.
struct Tree(PathBuf);

impl Tree {
    fn write() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("umcg-tree.{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
        let mut objects = String::new();
        for file in 0..FILES {
            fs::write(dir.join(format!("f{file}.c")), source(file))?;
            let _ = write!(objects, " f{file}.o");
        }
        let rules = format!("all:{objects}\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n");
        fs::write(dir.join("Makefile"), rules)?;
        Ok(Self(dir))
    }

    /// Guest seconds of `make -j4` for these targets, from nothing.
    fn make(&self, targets: &[&str]) -> Result<f64> {
        for file in 0..FILES {
            let _ = fs::remove_file(self.0.join(format!("f{file}.o")));
        }
        let mut command = Command::new("make");
        command.args(["-s", "-j4", "-C"]).arg(&self.0).args(targets);
        let began = Instant::now();
        load::finish(Duration::from_secs(900), command)?;
        Ok(began.elapsed().as_secs_f64())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// At most `PERCENT` of EEVDF's guest time; with icount that is instructions, which repeat within
/// 2 %: two rounds, as nine would take more than an hour.
fn make<const ROUNDS: usize, const PERCENT: usize>() -> Result<Verdict> {
    let tree = Tree::write()?;
    let discard = || tree.make(&["f0.o", "f1.o"]).map(|_| ());
    let build = || -> Result<Vec<Figure>> { Ok(vec![("seconds", tree.make(&["all"])?)]) };
    let rounds = Rounds::take(ROUNDS, &[], &[], discard, build)?;
    let mut bars = Bars::default();
    bars.ratio(&rounds, "make", "seconds", PERCENT as f64 / 100.0)?;
    bars.kept()?;
    Ok(Verdict::Ok)
}
