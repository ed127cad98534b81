//! The simulator's bits: the same whatever the number of threads, the order of streams, and the way it is reached.

use libtest_mimic::Trial;

use crate::checkpoints::{Bits, load};
use crate::files::{self, CHECKPOINTS, DTYPES, Recorded};
use crate::fillings::{Filling, Rig};
use crate::threads::threads;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("in_process::determinism::number_of_threads", number_of_threads),
        trial("in_process::determinism::order_of_streams", order_of_streams),
        trial("library::determinism::same_bits_as_in_process", same_bits_as_in_process),
    ]
}

/// Every layer of every checkpoint in every type, on enough tokens that work is split.
fn all(rig: &Rig) -> Vec<Bits> {
    let mut results = Vec::new();
    for name in CHECKPOINTS {
        let checkpoint = files::checkpoint(name);
        for &index in checkpoint.moe_layers() {
            let recorded = Recorded::of(&checkpoint, index);
            // No two tokens alike.
            let mut many = recorded.repeated(500);
            many.input.iter_mut().enumerate().for_each(|(i, value)| *value *= 1.0 + i as f32 * 1e-5);
            for (dtype, _) in DTYPES {
                results.push(Bits::recorded(&rig.stream, &load(rig, &checkpoint, index, dtype), &many));
            }
        }
    }
    results
}

fn number_of_threads() {
    let [one, two, five] = [1, 2, 5].map(|threads| {
        let rig = Rig::simulated(|config| config.threads = threads);
        let results = all(&rig);
        rig.close();
        results
    });
    assert!(one == two && one == five, "bits depend on the number of threads");
}

/// Streams that run into each other in other orders, as a seed says.
fn order_of_streams() {
    for seed in [1, 2, 3] {
        let rig = Rig::simulated(|config| config.seed = Some(seed));
        threads(&rig, false);
        rig.close();
    }
}

fn same_bits_as_in_process() {
    let [in_process, library] = [Filling::InProcess, Filling::Library].map(|filling| {
        let rig = filling.open();
        let results = all(&rig);
        rig.close();
        results
    });
    assert!(in_process == library, "bits depend on the way the simulator is reached");
}
