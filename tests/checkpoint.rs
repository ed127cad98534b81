//! Checkpoints: the ones in `tests/data/checkpoints` read as what they are, and their layers compute what the models
//! that wrote them computed. Broken ones are in `checkpoint/broken.rs`.
// The helpers of a test fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "checkpoint/broken.rs"]
mod broken;
#[path = "checkpoint/broken_formats.rs"]
mod broken_formats;
#[path = "checkpoint/formats.rs"]
mod formats;
#[path = "checkpoint/layouts.rs"]
mod layouts;
#[path = "reference/mod.rs"]
mod reference;
#[path = "checkpoint/support.rs"]
mod support;

use ascend_moe::checkpoint::{
    Checkpoint, CheckpointError, HostLayer, HostTensor, NamedTensor, TensorFile, write_tensors,
};
use ascend_moe::spec::{
    Choice, ExpertSpec, FloatType, GroupScore, GroupSpec, MoeSpec, Normalise, Part, Precision, RouterSpec, Score,
    SharedSpec,
};
use half::{bf16, f16};

use support::{Tensor, copy, data, floats, rewrite};

#[test]
fn deepseek_v3_is_what_it_is() {
    let checkpoint = Checkpoint::open(data("deepseek-v3")).unwrap();
    let router = {
        let mut router = RouterSpec::new(Score::Sigmoid, 4);
        router.choice_bias = true;
        router.choice = Choice::Groups(GroupSpec::new(4, 2, GroupScore::Top2Sum));
        router.norm = Normalise::Sum { eps: 1e-20 };
        router.scale = 2.5;
        router
    };
    let spec = MoeSpec::new(router, ExpertSpec::new(16, 64, 32), Some(SharedSpec::new(32))).unwrap();
    assert_eq!(checkpoint.model().family(), "deepseek_v3");
    assert_eq!((checkpoint.model().dtype(), checkpoint.model().num_layers()), (FloatType::F32, 3));
    assert_eq!(checkpoint.moe_layers(), [1, 2]);
    assert_eq!(checkpoint.layer_weights(2).unwrap().spec(), &spec);
    let dense = checkpoint.layer_weights(0).unwrap_err();
    assert!(matches!(&dense, CheckpointError::NotAMoeLayer { layer: 0, .. }));
    assert_eq!(dense.to_string(), "layer 0 is not a mixture of experts; legal is 1-2");
    assert!(checkpoint.tensors().map(|tensor| tensor.bytes.len()).sum::<usize>() == 1_180_096);
}

#[test]
fn qwen3_moe_and_mixtral_are_what_they_are() {
    let mut router = RouterSpec::new(Score::Softmax, 2);
    router.norm = Normalise::Sum { eps: 0.0 };
    router.logits = Precision::Model;
    let mixtral = Checkpoint::open(data("mixtral")).unwrap();
    let spec = MoeSpec::new(router, ExpertSpec::new(4, 64, 64), None).unwrap();
    assert_eq!((mixtral.model().family(), mixtral.moe_layers()), ("mixtral", &[0, 1][..]));
    assert_eq!(mixtral.layer_weights(1).unwrap().spec(), &spec);

    router.weights = Precision::Model;
    let qwen = Checkpoint::open(data("qwen3-moe")).unwrap();
    let spec = MoeSpec::new(router, ExpertSpec::new(8, 64, 32), None).unwrap();
    assert_eq!((qwen.model().family(), qwen.moe_layers()), ("qwen3_moe", &[0, 1][..]));
    assert_eq!(qwen.layer_weights(1).unwrap().spec(), &spec);
}

/// The layer's weights, the spec and the names together give the output that the model's own modules gave.
#[test]
fn layers_compute_what_was_recorded() {
    for name in ["deepseek-v2", "deepseek-v3", "deepseek-v3-fp8", "deepseek-v4", "gpt-oss", "qwen3-moe", "mixtral"] {
        let checkpoint = Checkpoint::open(data(name)).unwrap();
        let recorded = TensorFile::open(data(name).join("activations.safetensors")).unwrap();
        for &n in checkpoint.moe_layers() {
            let input = recorded.values(&format!("layers.{n}.mlp.input")).unwrap();
            let expected = recorded.values(&format!("layers.{n}.mlp.output")).unwrap();
            assert_eq!((input.shape.as_slice(), expected.shape.as_slice()), (&[23, 64][..], &[23, 64][..]));
            let (_, token_ids) = recorded.integers("input_ids").unwrap();
            let layer = reference::Layer::of(&checkpoint.layer_weights(n).unwrap());
            let output = layer.forward(&input.data, Some(&token_ids));
            let largest = expected.data.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            for (got, want) in output.iter().zip(&expected.data) {
                assert!((got - f64::from(*want)).abs() <= 3e-5 * f64::from(largest), "{name} {n}: {got} {want}");
            }
        }
    }
}

/// Writes whole parts with `fill`, of `count` elements of `dtype`.
fn filled(
    count: usize,
    dtype: FloatType,
    fill: impl FnOnce(FloatType, &mut [u8]) -> Result<(), CheckpointError>,
) -> Vec<u8> {
    let mut dst = vec![0xAA; count * dtype.bytes()];
    fill(dtype, &mut dst).unwrap();
    dst
}

#[test]
fn parts_are_the_tensors_of_the_file() {
    let checkpoint = Checkpoint::open(data("deepseek-v3")).unwrap();
    let layer = checkpoint.layer_weights(1).unwrap();
    let raw = |name: &str| checkpoint.tensor(&format!("model.layers.1.mlp.{name}")).unwrap().bytes.to_vec();
    let mlp = |name: &str, parts: &[&str]| -> Vec<u8> {
        parts.iter().flat_map(|part| raw(&format!("{name}.{part}_proj.weight"))).collect()
    };
    let fill = |part, experts, count| filled(count, FloatType::F32, |t, dst| layer.fill(part, experts, t, dst));
    let experts = |parts: &[&str]| (0..16).flat_map(|e| mlp(&format!("experts.{e}"), parts)).collect::<Vec<u8>>();
    assert_eq!(fill(Part::Router, 0..0, 16 * 64), raw("gate.weight"));
    assert_eq!(fill(Part::ChoiceBias, 0..0, 16), raw("gate.e_score_correction_bias"));
    let all = fill(Part::W13, 0..16, 16 * 64 * 64);
    assert_eq!(all, experts(&["gate", "up"]));
    assert_eq!(fill(Part::W2, 0..16, 16 * 64 * 32), experts(&["down"]));
    assert_eq!(fill(Part::SharedW13, 0..0, 2 * 32 * 64), mlp("shared_experts", &["gate", "up"]));
    assert_eq!(fill(Part::SharedW2, 0..0, 64 * 32), mlp("shared_experts", &["down"]));
    assert_eq!(fill(Part::W13, 5..8, 3 * 64 * 64), all[5 * 64 * 64 * 4..8 * 64 * 64 * 4]);
    assert!(fill(Part::W2, 16..16, 0).is_empty());
}

#[test]
fn parts_are_converted_exactly() {
    let checkpoint = Checkpoint::open(data("mixtral")).unwrap();
    let layer = checkpoint.layer_weights(0).unwrap();
    let fill = |t: FloatType| filled(4 * 128 * 64, t, |t, dst| layer.fill(Part::W13, 0..4, t, dst));
    let exact = floats(&fill(FloatType::F32));
    let bits = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect::<Vec<_>>();
    let bf16s: Vec<u16> = exact.iter().map(|v| bf16::from_f32(*v).to_bits()).collect();
    let f16s: Vec<u16> = exact.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
    assert_eq!(bits(&fill(FloatType::Bf16)), bf16s);
    assert_eq!(bits(&fill(FloatType::F16)), f16s);
}

#[test]
fn a_layer_stored_in_another_type_reads_the_same() {
    let dir = copy("qwen3-moe");
    let as_bf16 = |t: &mut Tensor| {
        t.dtype = "BF16".into();
        t.bytes = floats(&t.bytes).iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
    };
    rewrite(&dir.path().join("model.safetensors"), |tensors| tensors.iter_mut().for_each(as_bf16));
    let (bf16_file, f32_file) = (Checkpoint::open(dir.path()).unwrap(), Checkpoint::open(data("qwen3-moe")).unwrap());
    let (stored, exact) = (bf16_file.layer_weights(1).unwrap(), f32_file.layer_weights(1).unwrap());
    let w2 = |layer: &HostLayer<'_>, t| filled(8 * 64 * 32, t, |t, dst| layer.fill(Part::W2, 0..8, t, dst));
    assert_eq!(w2(&stored, FloatType::Bf16), w2(&exact, FloatType::Bf16));
    let widened: Vec<f32> =
        w2(&stored, FloatType::Bf16).as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect();
    assert_eq!(floats(&w2(&stored, FloatType::F32)), widened);
}

#[test]
fn sizes_are_known_before() {
    let checkpoint = Checkpoint::open(data("deepseek-v3")).unwrap();
    for dtype in [FloatType::F32, FloatType::Bf16] {
        for &n in checkpoint.moe_layers() {
            let layer = checkpoint.layer_weights(n).unwrap();
            let spec = layer.spec();
            for part in Part::ALL {
                let dtype = spec.part_type(part, dtype);
                layer.fill(part, 3..4, dtype, &mut vec![0; spec.fill_bytes(part, dtype)]).unwrap();
                if part.per_expert() {
                    layer.fill(part, 0..16, dtype, &mut vec![0; 16 * spec.fill_bytes(part, dtype)]).unwrap();
                }
            }
        }
    }
    let qwen = Checkpoint::open(data("qwen3-moe")).unwrap();
    let layer = qwen.layer_weights(0).unwrap();
    layer.fill(Part::ChoiceBias, 0..0, FloatType::F32, &mut []).unwrap();
    layer.fill(Part::SharedW13, 0..0, FloatType::Bf16, &mut []).unwrap();
    assert!(matches!(
        layer.fill(Part::SharedW2, 0..0, FloatType::F32, &mut [0]),
        Err(CheckpointError::Destination { needed: 0, .. })
    ));
}

#[test]
fn destinations_and_ranges_are_checked() {
    let checkpoint = Checkpoint::open(data("mixtral")).unwrap();
    let layer = checkpoint.layer_weights(0).unwrap();
    let each = layer.spec().fill_bytes(Part::W13, FloatType::F16);
    let mut short = vec![0; 2 * each - 1];
    let error = layer.fill(Part::W13, 1..3, FloatType::F16, &mut short).unwrap_err();
    assert!(matches!(error, CheckpointError::Destination { bytes, needed, .. } if bytes + 1 == needed));
    let reversed = std::ops::Range { start: 3, end: 1 };
    for (range, (first, past)) in
        [(2..5, (2, 5)), (reversed, (3, 1)), (usize::MAX - 1..usize::MAX, (usize::MAX - 1, usize::MAX))]
    {
        let error = layer.fill(Part::W2, range, FloatType::F16, &mut short).unwrap_err();
        assert!(
            matches!(error, CheckpointError::ExpertRange { start, end, experts: 4 } if (start, end) == (first, past))
        );
    }
}

#[test]
fn tensors_survive_writing_and_reading() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.safetensors");
    std::fs::write(&path, "what was there before").unwrap();
    let output = HostTensor { shape: vec![2, 3], data: vec![0.0, -1.5, f32::MIN_POSITIVE, 3.25, f32::MAX, -0.0] };
    let empty = HostTensor { shape: vec![0, 7], data: vec![] };
    write_tensors(&path, &[NamedTensor::of("layers.1.mlp.output", &output), NamedTensor::of("nothing", &empty)])
        .unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.tensors().len(), 2);
    assert_eq!(file.values("layers.1.mlp.output").unwrap(), output);
    assert_eq!(file.values("nothing").unwrap(), empty);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the file");
}

#[test]
fn activations_of_every_float_type_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.safetensors");
    let values = [1.0_f32, -2.5, 0.1];
    let tensor = |name: &str, dtype: &str, bytes: Vec<u8>| Tensor::new(name, dtype, &[3], bytes);
    let tensors = [
        tensor("f64", "F64", values.iter().flat_map(|v| (f64::from(*v) + 1e-12).to_le_bytes()).collect()),
        tensor("f32", "F32", values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        tensor("f16", "F16", values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
        tensor("bf16", "BF16", values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()),
        tensor("i64", "I64", vec![0; 24]),
    ];
    std::fs::write(&path, support::safetensors(&tensors)).unwrap();
    let file = TensorFile::open(&path).unwrap();
    let read = |name: &str| file.values(name).unwrap().data;
    assert_eq!(read("f64"), values);
    assert_eq!(read("f32"), values);
    assert_eq!(read("f16"), values.map(|v| f16::from_f32(v).to_f32()));
    assert_eq!(read("bf16"), values.map(|v| bf16::from_f32(v).to_f32()));
    assert!(matches!(file.values("i64"), Err(CheckpointError::WrongDtype { found: safetensors::Dtype::I64, .. })));
    assert!(matches!(file.values("absent"), Err(CheckpointError::NoTensor { .. })));
}

#[test]
fn checkpoints_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Checkpoint>();
    crosses::<HostLayer<'static>>();
    crosses::<TensorFile>();
    crosses::<CheckpointError>();
}

/// The tensors of a checkpoint under other names, and experts in one tensor each, give the same weights: DeepSeek's own
/// names, Hugging Face's fused ones, and those of serving engines.
#[test]
fn every_storage_gives_the_same_weights() {
    let original = Checkpoint::open(data("deepseek-v3")).unwrap();
    let tensors = || original.tensors().map(|t| Tensor::new(t.name, &t.dtype.to_string(), t.shape, t.bytes.to_vec()));
    let parts = |checkpoint: &Checkpoint, layer: usize| -> Vec<Vec<u8>> {
        let weights = checkpoint.layer_weights(layer).unwrap();
        let spec = *weights.spec();
        let fill = |part| {
            let elements = spec.elements(part);
            filled(elements, FloatType::F32, |t, dst| weights.fill(part, 0..spec.experts().num, t, dst))
        };
        Part::ALL.into_iter().map(fill).collect()
    };
    let same = |what: &str, tensors: &[Tensor]| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(data("deepseek-v3").join("config.json"), dir.path().join("config.json")).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), support::safetensors(tensors)).unwrap();
        let stored = Checkpoint::open(dir.path()).unwrap();
        for &layer in original.moe_layers() {
            assert!(parts(&stored, layer) == parts(&original, layer), "{what}, layer {layer}");
        }
    };
    same("as it is", &tensors().collect::<Vec<_>>());

    let native = |name: &str| {
        let pairs = [
            ("model.layers.", "layers."),
            (".mlp.", ".ffn."),
            ("gate.e_score_correction_bias", "gate.bias"),
            ("gate_proj", "w1"),
            ("up_proj", "w3"),
            ("down_proj", "w2"),
        ];
        pairs.into_iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
    };
    same("DeepSeek's names", &tensors().map(|t| Tensor { name: native(&t.name), ..t }).collect::<Vec<_>>());

    // `[E, 2I, H]` and `[E, H, I]`.
    let fused = |[gate_up, down]: [&str; 2]| -> Vec<Tensor> {
        let mut all: Vec<Tensor> = tensors().filter(|t| !t.name.contains(".mlp.experts.")).collect();
        for &layer in original.moe_layers() {
            let block = format!("model.layers.{layer}.mlp.");
            let of = |parts: &[&str]| -> Vec<u8> {
                let names = (0..16).flat_map(|expert| parts.iter().map(move |part| (expert, *part)));
                names
                    .flat_map(|(expert, part)| {
                        original.tensor(&format!("{block}experts.{expert}.{part}_proj.weight")).unwrap().bytes.to_vec()
                    })
                    .collect()
            };
            all.push(Tensor::new(&format!("{block}{gate_up}"), "F32", &[16, 64, 64], of(&["gate", "up"])));
            all.push(Tensor::new(&format!("{block}{down}"), "F32", &[16, 64, 32], of(&["down"])));
        }
        all
    };
    same("Hugging Face's fused names", &fused(["experts.gate_up_proj", "experts.down_proj"]));
    same("the names of serving engines", &fused(["experts.w13_weight", "experts.w2_weight"]));
}
