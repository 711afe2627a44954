//! The hot paths get no dearer: each beside its ceiling in `hot-paths.tsv`.

use std::fs;
use std::mem::MaybeUninit;

use anyhow::{Context, Result, ensure};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use umcg_bench::guard::{Ceilings, Change, Found, Ratios};

use super::app::Board;
use super::paths::{ALL, Path, hand_off};
use super::verify::series;
use super::{Test, full, short};
use crate::client::is_sound;
use crate::harness::{Sched, Verdict, metric};
use crate::skel::plant::PlantSkelBuilder;

/// A boot of their own: what others leave behind is in no figure.
const BOOT: &str = "hot-paths,newest,icount,cpus=1";

pub const TESTS: &[Test] = &[
    short("vm_hot_paths_get_no_dearer", BOOT, 30, no_dearer),
    full("vm_full_guard_catches_five_percent", BOOT, 150, catches),
];

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hot-paths.tsv");
const UPDATE: &str = "cargo xtask guard --update --reason \"WHY\"";

fn ceilings() -> Result<Ceilings> {
    let text = fs::read_to_string(FILE).context(FILE)?;
    Ceilings::parse(&text).context(FILE)
}

/// All ten beside the hand-off: ratios to it.
fn measured(board: Board) -> Result<Ratios> {
    let half = hand_off(board)?;
    let sched = Sched::start(&[])?;
    let mut ratios = Ratios::new();
    for path in &ALL {
        let insns = path.measure(board)?;
        metric(
            &format!("hot_path_{}", path.name),
            &[
                ("instructions", insns),
                ("futex_hand_off", half),
                ("ratio", insns / half),
            ],
        );
        ratios.insert(path.name.to_owned(), insns / half);
    }
    is_sound(&sched)?;
    sched.stop()?;
    Ok(ratios)
}

fn no_dearer() -> Result<Verdict> {
    let (kernel, ratios) = (series()?, measured(Board::new()?)?);
    let file = ceilings()?;
    if !file.knows(&kernel) {
        return Ok(Verdict::Skip(format!(
            "no ceilings for {kernel} in tests/hot-paths.tsv; {UPDATE} --kernel {kernel}"
        )));
    }
    let found = file.compare(&kernel, &ratios);
    found.iter().for_each(|it| println!("{it}"));
    let of = |change| -> Vec<String> {
        let all = found.iter().filter(|it| it.change() == change);
        all.map(Found::to_string).collect()
    };
    let (cheaper, wrong) = (of(Change::Cheaper), of(Change::Wrong));
    if !cheaper.is_empty() {
        println!("cheaper: {}; to keep it so: {UPDATE}", cheaper.join("; "));
    }
    ensure!(
        wrong.is_empty(),
        "{kernel}: {}; if it is meant: {UPDATE}",
        wrong.join("; ")
    );
    Ok(Verdict::Ok)
}

/// Makes `path` about 5 % dearer by a BPF program of this test's in switches and calls, nothing of the
/// scheduler's being changed: what it took before, and takes with that.
fn planted(path: &Path, board: Board) -> Result<[f64; 2]> {
    const MEANT: f64 = 1.05;
    const TRY: u32 = 40;
    let plain = path.measure(board)?;
    let mut object = MaybeUninit::uninit();
    let mut skel = PlantSkelBuilder::default().open(&mut object)?.load()?;
    skel.attach()?;
    let mut with = |loops: u32| -> Result<f64> {
        let data = skel.maps.bss_data.as_mut();
        data.context("no .bss")?.plant_loops = loops;
        path.measure(board)
    };
    // To get there costs something as well, of a short path more than that.
    let bare = with(0)?;
    let left = MEANT * plain - bare;
    if left <= 0.0 {
        return Ok([plain, bare]);
    }
    let each = (with(TRY)? - bare) / f64::from(TRY);
    ensure!(each > 0.0, "{}: the program does not run in it", path.name);
    Ok([plain, with((left / each).round() as u32)?])
}

fn catches() -> Result<Verdict> {
    let board = Board::new()?;
    let half = hand_off(board)?;
    let (kernel, file) = (series()?, ceilings()?);
    let sched = Sched::start(&[])?;
    let mut missed = Vec::new();
    for path in &ALL {
        let [plain, dearer] = planted(path, board)?;
        let by = dearer / plain - 1.0;
        let ratio = |insns: f64| Ratios::from([(path.name.to_owned(), insns / half)]);
        let mut of_this_boot = Ceilings::default();
        of_this_boot.renew(&kernel, &ratio(plain), "-", "as it is")?;
        let caught = |file: &Ceilings| {
            let mut found = file.compare(&kernel, &ratio(dearer)).into_iter();
            found.any(|it| it.path == path.name && it.change() == Change::Wrong)
        };
        let (by_file, by_boot) = (caught(&file), caught(&of_this_boot));
        metric(
            &format!("hot_path_planted_{}", path.name),
            &[
                ("plain", plain),
                ("dearer", dearer),
                ("by", by),
                ("caught", f64::from(u8::from(by_file))),
            ],
        );
        if !(by_file && by_boot && (0.04..0.09).contains(&by)) {
            missed.push(format!("{} {:+.1} %", path.name, 100.0 * by));
        }
    }
    is_sound(&sched)?;
    sched.stop()?;
    ensure!(missed.is_empty(), "not caught: {}", missed.join(", "));
    Ok(Verdict::Ok)
}
