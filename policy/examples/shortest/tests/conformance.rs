//! The suite of the project's own policies, over this one.

#[path = "../../../tests/suite/mod.rs"]
mod suite;

use suite::{Pick, suite};
use umcg_policy_shortest::Shortest;

#[test]
fn suite_shortest() {
    suite(Pick::Any, Shortest::make);
}
