//! One layer of every model family, as the family's own modules stored and computed it.

use std::path::{Path, PathBuf};

use ascend_moe::checkpoint::{Checkpoint, TensorFile};
use ascend_moe::spec::FloatType;

use crate::checkpoints::{Given, load};
use crate::files::{Recorded, assert_near};
use crate::fillings::Rig;
use crate::reference::Layer;
use crate::{Case, case};

/// In bfloat16 scores come so close that another expert may be chosen; so many of the tokens choose the same.
const SAME_CHOICE: usize = 6;

pub(crate) fn cases() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families");
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut families: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    families.sort();
    assert!(families.len() > 50);
    let name = |path: &Path| format!("families::{}", path.file_name().unwrap().to_str().unwrap());
    families.into_iter().map(|path| case(name(&path), move |rig: &Rig| family(rig, &path))).collect()
}

fn family(rig: &Rig, dir: &Path) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let activations = TensorFile::open(dir.join("activations.safetensors")).unwrap();
    let numbers = activations
        .tensors()
        .filter_map(|tensor| tensor.name.strip_prefix("layers.")?.strip_suffix(".mlp.input")?.parse::<usize>().ok());
    let [index] = numbers.collect::<Vec<_>>()[..] else { panic!("one layer is recorded") };
    let recorded = Recorded::of(&checkpoint, index);
    let due = || recorded.output.iter().map(|&value| f64::from(value));

    let reference = Layer::of(&checkpoint.layer_weights(index).unwrap());
    let seen = recorded.router_input.as_ref().unwrap_or(&recorded.input);
    let plain = reference.forward_seeing(&recorded.input, seen, Some(&recorded.token_ids));
    let plain: Vec<f32> = plain.into_iter().map(|value| value as f32).collect();
    assert_near(&plain, due(), 3e-5, "the formulas in f64");

    let pass = |dtype: FloatType| {
        let layer = load(rig, &checkpoint, index, dtype);
        let result = layer.forward(&rig.stream, Given::new(&layer, &recorded).input()).unwrap();
        let ids: Vec<i32> = result.expert_ids.to_vec(&rig.stream).unwrap();
        let mut chosen: Vec<Vec<i32>> = ids.chunks(layer.spec().router().choices()).map(<[i32]>::to_vec).collect();
        chosen.iter_mut().for_each(|experts| experts.sort_unstable());
        (result.output.to_f32(&rig.stream).unwrap(), chosen)
    };
    let (output, chosen) = pass(FloatType::F32);
    assert_near(&output, due(), 3e-5, "float32");

    let (narrow, narrow_chosen) = pass(FloatType::Bf16);
    let same: Vec<usize> = (0..recorded.tokens).filter(|&token| chosen[token] == narrow_chosen[token]).collect();
    assert!(same.len() >= SAME_CHOICE, "{} of {} tokens choose the same in bfloat16", same.len(), recorded.tokens);
    let of = |values: &[f32]| -> Vec<f32> {
        same.iter().flat_map(|&token| values[token * recorded.hidden..][..recorded.hidden].to_vec()).collect()
    };
    assert_near(&of(&narrow), of(&recorded.output).into_iter().map(f64::from), 3e-2, "bfloat16");
}
