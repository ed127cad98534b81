//! Quantised checkpoints: every layout expands to exactly the values it stands for, and gives the codes that it holds.

use ascend_moe::checkpoint::{Checkpoint, HostLayer, QuantError, Stored};
use ascend_moe::layer::ExpertFormat;
use ascend_moe::spec::{FloatType, Part};
use half::{bf16, f16};

use crate::layouts::{ALL, Layout, bytes_of, config, set_config, store, stored_as, wide};
use crate::support::{Tensor, copy, edit_json, floats, rewrite};

const PARTS: [Part; 2] = [Part::W13, Part::W2];

fn values(layer: &HostLayer<'_>, part: Part, dtype: FloatType) -> Vec<u8> {
    let mut bytes = vec![0xAA; layer.spec().fill_bytes(part, dtype) * layer.spec().experts().num];
    layer.fill(part, 0..layer.spec().experts().num, dtype, &mut bytes).unwrap();
    bytes
}

/// E, N and K of a part.
fn sizes(layer: &HostLayer<'_>, part: Part) -> [usize; 3] {
    layer.spec().shape(part).unwrap().try_into().unwrap()
}

fn int8(layer: &HostLayer<'_>, part: Part) -> (Vec<i8>, Vec<f32>, QuantError) {
    let [experts, rows, cols] = sizes(layer, part);
    let (mut codes, mut scales) = (vec![99; experts * rows * cols], vec![f32::NAN; experts * rows]);
    let error = layer.fill_int8(part, 0..experts, &mut codes, &mut scales).unwrap();
    (codes, scales, error)
}

fn int4(layer: &HostLayer<'_>, part: Part, group: Option<usize>) -> (Vec<i8>, Vec<f32>, QuantError) {
    let [experts, rows, cols] = sizes(layer, part);
    let groups = cols / group.unwrap_or(cols);
    let (mut packed, mut scales) = (vec![0x99; experts * rows * cols / 2], vec![f32::NAN; experts * rows * groups]);
    let error = layer.fill_int4(part, 0..experts, group, &mut packed, &mut scales).unwrap();
    let codes = packed.iter().flat_map(|byte| [(byte << 4) as i8 >> 4, *byte as i8 >> 4]).collect();
    (codes, scales, error)
}

/// What codes in groups of so many stand for.
fn dequantised(codes: &[i8], scales: &[f32], group: usize) -> Vec<f32> {
    codes.iter().enumerate().map(|(at, code)| f32::from(*code) * scales[at / group]).collect()
}

/// The measure of an error, in plain arithmetic.
fn measured(values: &[f32], found: &[f32]) -> [f64; 2] {
    let pairs =
        || values.iter().zip(found).map(|(value, found)| (f64::from(*value), f64::from(*value) - f64::from(*found)));
    let squares =
        pairs().fold([0.0, 0.0], |[values, errors], (value, error)| [values + value * value, errors + error * error]);
    let most = pairs()
        .fold([0.0f64, 0.0], |[values, errors], (value, error)| [values.max(value.abs()), errors.max(error.abs())]);
    [(squares[1] / squares[0]).sqrt(), most[1] / most[0]]
}

#[test]
fn every_layout_expands_to_its_values() {
    for layout in ALL {
        let (quantised, plain) = stored_as("qwen3-moe", layout);
        let [quantised, plain] = [&quantised, &plain].map(|dir| Checkpoint::open(dir.path()).unwrap());
        for index in [0, 1] {
            let (layer, due) = (quantised.layer_weights(index).unwrap(), plain.layer_weights(index).unwrap());
            for part in PARTS {
                let exact = floats(&values(&due, part, FloatType::F32));
                assert_eq!(floats(&values(&layer, part, FloatType::F32)), exact, "{layout:?} {part:?}");
                let halves = values(&layer, part, FloatType::Bf16);
                let rounded: Vec<u8> = exact.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
                assert_eq!(halves, rounded, "{layout:?} {part:?}");
                let halves = values(&layer, part, FloatType::F16);
                let rounded: Vec<u8> = exact.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
                assert_eq!(halves, rounded, "{layout:?} {part:?}");
            }
        }
    }
}

#[test]
fn every_layout_is_told() {
    for layout in ALL {
        let due = match layout {
            Layout::Fp8 | Layout::Fp8PowersOfTwo | Layout::Fp8E8m0 => Stored::Fp8Block { block: [16, 16] },
            Layout::Mxfp4 => Stored::Mxfp4,
            Layout::Int8 | Layout::ModelSlimInt8 => Stored::Int8 { group: None },
            Layout::Int4(group) => Stored::Int4 { group },
            Layout::Int4Zeros => Stored::Int4 { group: Some(16) },
            Layout::Int4Bytes | Layout::ModelSlimInt4 => Stored::Int4 { group: None },
        };
        let checkpoint = Checkpoint::open(stored_as("qwen3-moe", layout).0.path()).unwrap();
        let layer = checkpoint.layer_weights(0).unwrap();
        assert_eq!(PARTS.map(|part| layer.stored(part)), [Some(due); 2], "{layout:?}");
        assert_eq!(layer.stored(Part::Router), Some(Stored::Float(FloatType::F32)));
        assert_eq!(layer.stored(Part::SharedW13), None);
    }
}

/// int4 for int8 activations, in groups that CANN multiplies with int8 and in others.
#[test]
fn int4_in_groups_runs_as_cann_can() {
    for (inner, group, due) in [
        (512, None, ExpertFormat::W4A8 { group: None }),
        (512, Some(256), ExpertFormat::W4A8 { group: Some(256) }),
        (512, Some(128), ExpertFormat::W4A16 { group: Some(128) }),
        // One group of all inputs, of both projections or of one.
        (512, Some(512), ExpertFormat::W4A8 { group: None }),
        (256, Some(256), ExpertFormat::W4A8 { group: Some(256) }),
        (128, Some(128), ExpertFormat::W4A16 { group: Some(128) }),
    ] {
        let dir = wide(Some(Layout::Int4(group)), 512, inner);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(ExpertFormat::stored(&checkpoint.layer_weights(0).unwrap()), due);
    }
}

/// Whatever the layout, codes times scales are as near to the values as is told; where the layout has such codes, they are it.
#[test]
fn codes_of_every_layout() {
    for layout in ALL {
        let (quantised, _plain) = stored_as("qwen3-moe", layout);
        let checkpoint = Checkpoint::open(quantised.path()).unwrap();
        let layer = checkpoint.layer_weights(1).unwrap();
        for part in PARTS {
            let [.., cols] = sizes(&layer, part);
            let exact = floats(&values(&layer, part, FloatType::F32));
            let check =
                |(codes, scales, error): (Vec<i8>, Vec<f32>, QuantError), group: usize, free: bool, most: f64| {
                    let found = dequantised(&codes, &scales, group);
                    let [rms, max] = measured(&exact, &found);
                    if free {
                        assert_eq!(found, exact, "{layout:?} {part:?}");
                        assert!(error.is_exact());
                    } else {
                        assert!(error.rms() > 0.0 && error.rms() < most, "{layout:?} {part:?}: {}", error.rms());
                    }
                    assert!((error.rms() - rms).abs() <= 1e-4 * rms && (error.max() - max).abs() <= 1e-4 * max);
                };
            let channel_int4 = matches!(layout, Layout::Int4(None) | Layout::Int4Bytes | Layout::ModelSlimInt4);
            let as_int8 = channel_int4 || matches!(layout, Layout::Int8 | Layout::ModelSlimInt8);
            // These random weights have exponents near each other.
            check(int8(&layer, part), cols, as_int8 || layout == Layout::Mxfp4, 0.02);
            check(int4(&layer, part, None), cols, channel_int4, 0.3);
            check(int4(&layer, part, Some(16)), 16, channel_int4 || layout == Layout::Int4(Some(16)), 0.3);
        }
    }
}

/// gpt-oss with its fused experts, `[E, K, N]` with gate and up in turn, in a layout whose codes stay `[in, out]`, and the values
/// `[E, K, N]` that they stand for.
fn turned(store: impl Fn(&str, &[usize], &[f32]) -> (Vec<Tensor>, Vec<f32>), config: serde_json::Value) {
    let [quantised, plain] = [copy("gpt-oss"), copy("gpt-oss")];
    let is_fused = |name: &str| name.ends_with("experts.gate_up_proj") || name.ends_with("experts.down_proj");
    for (dir, exact) in [(&quantised, false), (&plain, true)] {
        rewrite(&dir.path().join("model.safetensors"), |tensors| {
            let (fused, others): (Vec<_>, Vec<_>) =
                std::mem::take(tensors).into_iter().partition(|t| is_fused(&t.name));
            *tensors = others;
            for tensor in fused {
                let (stored, values) = store(&tensor.name, &tensor.shape, &floats(&tensor.bytes));
                if exact {
                    tensors.push(Tensor { bytes: bytes_of(&values), ..tensor });
                } else {
                    tensors.extend(stored);
                }
            }
        });
    }
    set_config(quantised.path(), config);
    let [quantised, plain] = [&quantised, &plain].map(|dir| Checkpoint::open(dir.path()).unwrap());
    let [layer, due] = [&quantised, &plain].map(|checkpoint| checkpoint.layer_weights(0).unwrap());
    for part in PARTS {
        let [.., cols] = sizes(&layer, part);
        let exact = floats(&values(&due, part, FloatType::F32));
        assert_eq!(floats(&values(&layer, part, FloatType::F32)), exact, "{part:?}");
        let (codes, scales, error) = int8(&layer, part);
        let is_int8 = matches!(layer.stored(part), Some(Stored::Int8 { group: None }));
        assert_eq!(error.is_exact(), is_int8, "{part:?}");
        assert_eq!(dequantised(&codes, &scales, cols) == exact, is_int8, "{part:?}");
        assert!(measured(&exact, &dequantised(&codes, &scales, cols))[0] < 0.02);
    }
}

#[test]
fn int8_that_is_transposed_passes() {
    turned(
        |name, shape, values| {
            let [experts, rows, cols] = shape[..] else { panic!() };
            let (mut codes, mut scales, mut due) = (Vec::new(), Vec::new(), Vec::new());
            for matrix in values.chunks(rows * cols) {
                let of =
                    |col: usize| matrix.iter().skip(col).step_by(cols).fold(0f32, |most, v| most.max(v.abs())) / 127.0;
                let scale: Vec<f32> = (0..cols).map(of).collect();
                let code = |(at, value): (usize, &f32)| (value / scale[at % cols]).round_ties_even() as i8;
                let of_matrix: Vec<i8> = matrix.iter().enumerate().map(code).collect();
                due.extend(of_matrix.iter().enumerate().map(|(at, code)| f32::from(*code) * scale[at % cols]));
                codes.extend(of_matrix.iter().map(|code| *code as u8));
                scales.extend(scale);
            }
            let scales = Tensor::new(&format!("{name}_scale"), "F32", &[experts, 1, cols], bytes_of(&scales));
            (vec![Tensor::new(name, "I8", shape, codes), scales], due)
        },
        config(Layout::Int8),
    );
}

#[test]
fn fp8_in_one_tensor_for_all_experts() {
    turned(
        |name, shape, values| {
            let [experts, rows, cols] = shape[..] else { panic!() };
            let (mut codes, mut scales, mut due) = (Vec::new(), Vec::new(), Vec::new());
            for matrix in values.chunks(rows * cols) {
                let (stored, exact) = store(Layout::Fp8, "", matrix, rows, cols);
                codes.extend_from_slice(&stored[0].bytes);
                scales.extend_from_slice(&stored[1].bytes);
                due.extend(exact);
            }
            let grid = [experts, rows.div_ceil(16), cols.div_ceil(16)];
            let scales = Tensor::new(&format!("{name}_scale_inv"), "F32", &grid, scales);
            (vec![Tensor::new(name, "F8_E4M3", shape, codes), scales], due)
        },
        config(Layout::Fp8),
    );
}

/// DeepSeek-V4 as it is published: routed experts in MXFP4, the shared one in FP8 with E8M0 scales.
#[test]
fn deepseek_v4_has_two_formats() {
    let [quantised, plain] = [copy("deepseek-v4"), copy("deepseek-v4")];
    let layout = |name: &str| match name {
        _ if name.contains(".ffn.experts.") => Some(Layout::Mxfp4),
        _ if name.contains(".ffn.shared_experts.") => Some(Layout::Fp8E8m0),
        _ => None,
    };
    for (dir, exact) in [(&quantised, false), (&plain, true)] {
        rewrite(&dir.path().join("model.safetensors"), |tensors| {
            for tensor in std::mem::take(tensors) {
                let Some(layout) = layout(&tensor.name) else {
                    tensors.push(tensor);
                    continue;
                };
                let stem = tensor.name.trim_end_matches("weight");
                let (stored, values) = store(layout, stem, &floats(&tensor.bytes), tensor.shape[0], tensor.shape[1]);
                if exact {
                    tensors.push(Tensor { bytes: bytes_of(&values), ..tensor });
                } else {
                    tensors.extend(stored);
                }
            }
        });
    }
    set_config(quantised.path(), config(Layout::Mxfp4));
    edit_json(&quantised.path().join("config.json"), |config| config["expert_dtype"] = "fp4".into());
    let [quantised, plain] = [&quantised, &plain].map(|dir| Checkpoint::open(dir.path()).unwrap());
    for &index in quantised.moe_layers() {
        let [layer, due] = [&quantised, &plain].map(|checkpoint| checkpoint.layer_weights(index).unwrap());
        assert_eq!(layer.stored(Part::W13), Some(Stored::Mxfp4));
        assert_eq!(layer.stored(Part::SharedW13), Some(Stored::Fp8Block { block: [16, 16] }));
        for part in [Part::W13, Part::W2, Part::SharedW13, Part::SharedW2] {
            let experts = if part.per_expert() { layer.spec().experts().num } else { 1 };
            let fill = |layer: &HostLayer<'_>| {
                let mut bytes = vec![0; layer.spec().fill_bytes(part, FloatType::F32) * experts];
                layer.fill(part, 0..experts, FloatType::F32, &mut bytes).unwrap();
                floats(&bytes)
            };
            let exact = fill(&due);
            assert_eq!(fill(&layer), exact, "{part:?}");
            let cols = *layer.spec().shape(part).unwrap().last().unwrap();
            let (mut codes, mut scales) = (vec![0; exact.len()], vec![0.0; exact.len() / cols]);
            let error = layer.fill_int8(part, 0..experts, &mut codes, &mut scales).unwrap();
            assert_eq!(error.is_exact(), part.per_expert(), "{part:?}");
            assert!(measured(&exact, &dequantised(&codes, &scales, cols))[0] <= error.rms() + 1e-6);
        }
    }
}
