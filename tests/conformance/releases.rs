//! CANN releases, as the simulator plays them: which golden files each can answer, and what it says of the others.

use ascend_moe::layer::{LayerOptions, MoeLayer};
use ascend_moe::spec::FloatType;
use ascend_moe::{Device, Error, Release, Stream};
use libtest_mimic::Trial;

use crate::checkpoints::load;
use crate::files::{self, GOLDEN};
use crate::fillings::Rig;
use crate::golden::{answered, right};
use crate::trial;

const FIRST: Release = Release::new(8, 5, 0);

pub(crate) fn trials() -> Vec<Trial> {
    let releases = [FIRST, Release::new(9, 0, 0), Release::new(9, 1, 0)];
    releases
        .map(|release| {
            trial(format!("in_process::releases::{release}"), move || {
                let rig = Rig::simulated(|config| config.release = release);
                assert_eq!(rig.cann.release(), release);
                GOLDEN.into_iter().for_each(|stem| golden(&rig.device, stem, release));
                checkpoints(&rig, release);
                rig.close();
            })
        })
        .into()
}

/// Whether the gating operator of a release refuses to divide softmax scores by their sum, as Qwen3 and Mixtral do.
fn is_unsupported(family: &str, release: Release) -> bool {
    release == FIRST && (family.contains("qwen3") || family.contains("mixtral")) && family != "qwen3_moe_nonorm"
}

fn golden(device: &Device, stem: &str, release: Release) {
    if is_unsupported(stem, release) {
        let error = answered(device, &files::golden(stem)).unwrap_err();
        refused(error.downcast_ref().unwrap(), stem, release);
    } else {
        right(device, stem);
    }
}

fn checkpoints(rig: &Rig, release: Release) {
    for name in files::CHECKPOINTS {
        let checkpoint = files::checkpoint(name);
        let weights = checkpoint.layer_weights(checkpoint.moe_layers()[0]).unwrap();
        let options = LayerOptions::new(FloatType::Bf16);
        if is_unsupported(name, release) {
            let stream = Stream::new(&rig.device).unwrap();
            let loaded =
                MoeLayer::load(&stream, &weights, options, &mut |_, _| panic!("nothing is copied")).unwrap_err();
            refused(&loaded, name, release);
            refused(&MoeLayer::memory_plan(&rig.device, weights.spec(), options, 8).unwrap_err(), name, release);
            assert_eq!(rig.device.bytes_in_use(), 0, "{name}: a layer that is refused holds nothing");
        } else {
            load(rig, &checkpoint, checkpoint.moe_layers()[0], FloatType::Bf16);
        }
    }
}

fn refused(error: &Error, what: &str, on: Release) {
    match error {
        Error::UnsupportedRouter { release, .. } => {
            assert_eq!(*release, on);
            let text = error.to_string();
            assert!(text.contains("8.5.0") && text.contains("divided by their sum"), "{text}");
        }
        other => panic!("{what}: {other:?}"),
    }
}
