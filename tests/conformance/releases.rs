//! CANN releases, as the simulator plays them: every golden file and every checkpoint in each, in process and, in a
//! process of its own for each release, through the opened library.

use std::env;
use std::process::Command;

use ascend_moe::Release;
use ascend_moe::layer::RouterMethod;
use libtest_mimic::Trial;

use crate::checkpoints::{Given, load};
use crate::files::{self, DTYPES, GOLDEN, Recorded, assert_near};
use crate::fillings::{LIBRARY_RELEASE, Rig};
use crate::golden::right;
use crate::trial;

const FIRST: Release = Release::new(8, 5, 0);

pub(crate) fn trials() -> Vec<Trial> {
    let releases = [FIRST, Release::new(9, 0, 0), Release::new(9, 1, 0)];
    let through_the_library = |release: Release| {
        ["library::golden::", "library::checkpoints::"]
            .map(|cases| trial(format!("library::releases::{release}::{cases}"), move || run_in(release, cases)))
    };
    // The cases of the newest release are in this process.
    let mut trials: Vec<Trial> = releases[..2].iter().copied().flat_map(through_the_library).collect();
    trials.extend(releases.map(|release| {
        trial(format!("in_process::releases::{release}"), move || {
            let rig = Rig::simulated(|config| config.release = release);
            assert_eq!(rig.cann.release(), release);
            GOLDEN.into_iter().for_each(|stem| right(&rig.device, stem));
            checkpoints(&rig, release);
            rig.close();
        })
    }));
    trials
}

/// Runs cases of this program with a shared library of another release.
fn run_in(release: Release, cases: &str) {
    let mut program = Command::new(env::current_exe().unwrap());
    let ran = program.env(LIBRARY_RELEASE, release.to_string()).args([cases, "--skip", "releases"]).output().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    let last = out.lines().rev().find(|line| line.starts_with("test result: ok. ")).unwrap();
    let passed: usize = last["test result: ok. ".len()..].split(' ').next().unwrap().parse().unwrap();
    assert!(passed >= files::CHECKPOINTS.len(), "{last}");
}

/// Whether the gating operator of a release refuses to divide softmax scores by their sum, as Qwen3 and Mixtral do.
fn is_refused(name: &str, release: Release) -> bool {
    release == FIRST && (name.contains("qwen3") || name.contains("mixtral"))
}

/// Every layer gives what was recorded; what the gating operator refuses is done by others.
fn checkpoints(rig: &Rig, release: Release) {
    for name in files::CHECKPOINTS {
        let checkpoint = files::checkpoint(name);
        for (dtype, tolerance) in DTYPES {
            for &index in checkpoint.moe_layers() {
                let recorded = Recorded::of(&checkpoint, index);
                let layer = load(rig, &checkpoint, index, dtype);
                let result = layer.forward(&rig.stream, Given::new(&layer, &recorded).input()).unwrap();
                let output = result.output.to_f32(&rig.stream).unwrap();
                assert_near(&output, recorded.output.iter().map(|&v| v.into()), tolerance, &format!("{name} {index}"));
                let plan = layer.router().plan();
                if is_refused(name, release) {
                    assert_eq!(plan.method, RouterMethod::FusedSoftmax);
                    assert!(plan.rejected[0].1.contains("9.0.0"), "{:?}", plan.rejected);
                } else if !matches!(name, "deepseek-v4" | "gpt-oss") {
                    assert_eq!((plan.method, plan.rejected.len()), (RouterMethod::Fused, 0), "{name} {release}");
                }
            }
        }
    }
}
