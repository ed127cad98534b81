//! The command line tool as a user or a script meets it: the program is spawned in an empty folder with a clean
//! environment, and its exit code, its output, its words and what it leaves behind are looked at.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected ends, and says so"
)]

#[cfg(feature = "sim")]
#[path = "cli/backends.rs"]
mod backends;
#[cfg(feature = "sim")]
#[path = "cli/checkpoints.rs"]
mod checkpoints;
#[cfg(feature = "sim")]
#[path = "cli/conversions.rs"]
mod conversions;
#[path = "cli/doctor.rs"]
mod doctor;
#[cfg(feature = "sim")]
#[path = "cli/inputs.rs"]
mod inputs;
#[cfg(feature = "sim")]
#[path = "cli/plans.rs"]
mod plans;
#[cfg(feature = "sim")]
#[path = "reference/mod.rs"]
mod reference;
#[cfg(feature = "sim")]
#[path = "cli/results.rs"]
mod results;
#[path = "checkpoint/support.rs"]
#[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "what is broken or compared is run on the simulator"))]
mod support;
#[path = "cli/tool.rs"]
#[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "as above"))]
mod tool;
#[cfg(feature = "sim")]
#[path = "cli/usage.rs"]
mod usage;

/// A build without the simulator has the same commands, and says what it lacks.
#[cfg(not(feature = "sim"))]
#[test]
fn a_build_without_the_simulator() {
    let words = ["has no simulator", "feature `sim`"];
    tool::Tool::simulate(&support::data("mixtral")).fails(3, &words);
    let (report, _) = tool::Tool::new(&["doctor", "--backend", "sim"]).report(3);
    assert!(report["reason"].as_str().unwrap().contains(words[0]), "{report}");
    assert!(report["advice"].as_array().unwrap().iter().any(|advice| advice.as_str().unwrap().contains(words[1])));
    if tool::is_bare_host() {
        tool::Tool::run(&support::data("mixtral")).fails(3, &words);
    }
}
