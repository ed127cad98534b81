//! One suite of cases for whatever fills the call table: the simulator in process, its shared library opened as if it
//! were CANN, and CANN itself. A case of the third that cannot run here is listed as ignored, with the reason.
//!
//! Names are `<filling>::<subject>::<case>`. What concerns one filling alone is listed under it; what needs no device
//! has no filling in its name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a case that meets the unexpected ends, and says so"
)]

mod axes;
mod checkpoints;
mod compare;
mod determinism;
mod example;
mod families;
mod files;
mod fillings;
mod formats;
mod golden;
#[path = "../../examples/golden/main.rs"]
mod golden_example;
mod kinds;
mod laws;
mod layouts;
mod memory;
mod operators;
mod passes;
mod path;
mod quant;
#[path = "../reference/mod.rs"]
mod reference;
mod releases;
mod synthetic;
mod threads;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use fillings::{Filling, Rig};

/// A case for every filling.
pub(crate) struct Case {
    name: String,
    body: Arc<dyn Fn(&Rig) + Send + Sync>,
}

pub(crate) fn case(name: impl Into<String>, body: impl Fn(&Rig) + Send + Sync + 'static) -> Case {
    Case { name: name.into(), body: Arc::new(body) }
}

/// A case that brings what it runs on. It fails by panicking.
pub(crate) fn trial(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

impl Case {
    fn on(&self, filling: Filling) -> Trial {
        let body = self.body.clone();
        let run = move || {
            let rig = filling.open();
            body(&rig);
            rig.close();
        };
        let trial = trial(format!("{}::{}", filling.name(), self.name), run);
        match filling.absent() {
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    }
}

fn main() -> ExitCode {
    if env::var_os(example::RUN).is_some() {
        return golden_example::main();
    }
    // SAFETY: this is the first thing that the program does; there is one thread.
    unsafe { fillings::configure_library() };
    let arguments = Arguments::from_args();
    let cases = [
        golden::cases(),
        formats::cases(),
        checkpoints::cases(),
        families::cases(),
        operators::cases(),
        path::cases(),
        quant::cases(),
        memory::cases(),
        threads::cases(),
        passes::cases(),
    ];
    let cases: Vec<Case> = cases.into_iter().flatten().collect();
    let mut trials: Vec<Trial> =
        Filling::ALL.into_iter().flat_map(|filling| cases.iter().map(move |case| case.on(filling))).collect();
    trials.extend(golden::trials());
    trials.extend(formats::trials());
    trials.extend(determinism::trials());
    trials.extend(releases::trials());
    trials.extend(axes::trials());
    trials.extend(laws::trials());
    trials.extend(layouts::trials());
    trials.extend(example::trials());
    trials.extend(passes::trials());
    let conclusion = libtest_mimic::run(&arguments, trials);
    fillings::remove_shared_tree();
    conclusion.exit_code()
}
