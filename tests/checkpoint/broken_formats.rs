//! Every way in which a quantised checkpoint can be wrong, and the error that says so.

use std::path::Path;

use ascend_moe::checkpoint::{Checkpoint, CheckpointError, Stored};
use ascend_moe::spec::{FloatType, Part};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::layouts::{ALL, Layout, config, set_config, stored_as};
use crate::support::{Tensor, edit_json, rewrite};

const UP: &str = "model.layers.1.mlp.experts.3.up_proj.";

fn weights(dir: &Path) -> std::path::PathBuf {
    let names = ["model.safetensors", "quant_model_weight_w8a8_dynamic.safetensors"];
    names.map(|name| dir.join(name)).into_iter().find(|file| file.exists()).unwrap()
}

/// A checkpoint in a layout with one of the tensors of an up projection changed.
fn changed(layout: Layout, end: &str, edit: impl FnOnce(&mut Tensor)) -> TempDir {
    let dir = stored_as("qwen3-moe", layout).0;
    rewrite(&weights(dir.path()), |tensors| {
        edit(tensors.iter_mut().find(|tensor| tensor.name == format!("{UP}{end}")).unwrap());
    });
    dir
}

/// The error of finding the layer.
fn found(dir: &TempDir) -> CheckpointError {
    Checkpoint::open(dir.path()).unwrap().layer_weights(1).unwrap_err()
}

/// The error of expanding the layer, which is that of making int8 and int4 of it too.
fn filled(dir: &TempDir) -> CheckpointError {
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let layer = checkpoint.layer_weights(1).unwrap();
    let spec = layer.spec();
    let experts = spec.experts().num;
    let mut bytes = vec![0; spec.fill_bytes(Part::W13, FloatType::Bf16) * experts];
    let error = layer.fill(Part::W13, 0..experts, FloatType::Bf16, &mut bytes).unwrap_err();
    let elements = spec.elements(Part::W13);
    let [_, rows, cols] = spec.shape(Part::W13).unwrap()[..] else { panic!() };
    let mut scales = vec![0.0; experts * rows];
    let int8 = layer.fill_int8(Part::W13, 0..experts, &mut vec![0; elements], &mut scales).unwrap_err();
    assert_eq!(int8.to_string(), error.to_string());
    let mut scales = vec![0.0; experts * rows * cols / 16];
    let int4 = layer.fill_int4(Part::W13, 0..experts, Some(16), &mut vec![0; elements / 2], &mut scales);
    assert_eq!(int4.unwrap_err().to_string(), error.to_string());
    error
}

/// The name of a layout's scales.
fn scales(layout: Layout) -> &'static str {
    match layout {
        Layout::Fp8 | Layout::Fp8PowersOfTwo => "weight_scale_inv",
        Layout::Fp8E8m0 | Layout::Mxfp4 => "scale",
        _ => "weight_scale",
    }
}

#[test]
fn scales_of_the_wrong_shape() {
    for layout in ALL {
        let name = format!("{UP}{}", scales(layout));
        let dir = changed(layout, scales(layout), |tensor| {
            // One row of the grid fewer.
            let row = tensor.bytes.len() / tensor.shape[0];
            tensor.bytes.truncate(tensor.bytes.len() - row);
            tensor.shape[0] -= 1;
        });
        let error = found(&dir);
        if layout == Layout::ModelSlimInt4 {
            assert!(matches!(&error, CheckpointError::OddNibbles { count: 31, .. }), "{error}");
            continue;
        }
        assert!(matches!(&error, CheckpointError::ScaleShape { tensor, .. } if *tensor == name), "{layout:?}: {error}");
        let dir = changed(layout, scales(layout), |tensor| tensor.shape.insert(0, 1));
        assert!(matches!(&found(&dir), CheckpointError::ScaleShape { .. }), "{layout:?}");
    }
    let dir = changed(Layout::Int4Zeros, "weight_zero_point", |tensor| tensor.shape = vec![tensor.bytes.len() / 4, 1]);
    Checkpoint::open(dir.path()).unwrap().layer_weights(1).unwrap();
    let dir = changed(Layout::Int4Zeros, "weight_zero_point", |tensor| {
        tensor.bytes.truncate(4);
        tensor.shape = vec![1, 1];
    });
    assert!(
        matches!(found(&dir), CheckpointError::ScaleShape { tensor, .. } if tensor == format!("{UP}weight_zero_point"))
    );
}

#[test]
fn groups_that_do_not_divide() {
    let dir = stored_as("qwen3-moe", Layout::Int4(Some(16))).0;
    for group in [24, 48, 1000] {
        let mut changed = config(Layout::Int4(Some(16)));
        changed["config_groups"]["group_0"]["weights"]["group_size"] = group.into();
        set_config(dir.path(), changed);
        assert!(matches!(found(&dir), CheckpointError::GroupSize { group: g, size: 64 | 32, .. } if g == group));
    }
    // The scales say how many groups there are where nothing else does.
    let dir = changed(Layout::ModelSlimInt8, "weight_scale", |tensor| {
        tensor.bytes = tensor.bytes.repeat(3);
        tensor.shape[1] = 3;
    });
    assert!(matches!(found(&dir), CheckpointError::GroupCount { groups: 3, size: 64, .. }));
    let checkpoint = Checkpoint::open(stored_as("qwen3-moe", Layout::Int8).0.path()).unwrap();
    let layer = checkpoint.layer_weights(0).unwrap();
    for group in [0, 24, 128] {
        let error = layer.fill_int4(Part::W13, 0..1, Some(group), &mut [], &mut []).unwrap_err();
        assert!(matches!(error, CheckpointError::Groups { inputs: 64, group: g, .. } if g == group));
    }
}

#[test]
fn codes_that_are_not_laid_out() {
    let dir =
        changed(Layout::Int4(None), "weight_shape", |tensor| tensor.bytes[8..].copy_from_slice(&90i64.to_le_bytes()));
    assert!(matches!(found(&dir), CheckpointError::Layout { dtype: Dtype::I32, .. }));
    // An odd number of columns is possible in words of eight, the last of which are not all in use.
    let dir =
        changed(Layout::Int4(None), "weight_shape", |tensor| tensor.bytes[8..].copy_from_slice(&63i64.to_le_bytes()));
    assert!(matches!(found(&dir), CheckpointError::WrongShape { found, .. } if found == [32, 63]));
    let dir = changed(Layout::Int8, "weight", |tensor| tensor.dtype = "U8".into());
    assert!(matches!(found(&dir), CheckpointError::Layout { dtype: Dtype::U8, .. }));
    let dir = changed(Layout::Int4(None), "weight_packed", |tensor| tensor.dtype = "F32".into());
    assert!(matches!(found(&dir), CheckpointError::Layout { dtype: Dtype::F32, .. }));
    let dir = changed(Layout::Mxfp4, "weight", |tensor| {
        tensor.bytes.truncate(32 * 24);
        tensor.shape[1] = 24;
    });
    assert!(matches!(found(&dir), CheckpointError::GroupSize { group: 32, size: 48, .. }));
    let dir = changed(Layout::Fp8, "weight", |tensor| tensor.dtype = "F8_E5M2".into());
    assert!(matches!(found(&dir), CheckpointError::WrongDtype { found: Dtype::F8_E5M2, .. }));
    let dir = changed(Layout::Fp8, "weight_scale_inv", |tensor| tensor.dtype = "I32".into());
    assert!(matches!(found(&dir), CheckpointError::WrongDtype { found: Dtype::I32, .. }));
}

#[test]
fn scales_that_are_no_numbers() {
    for layout in ALL {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let dir = changed(layout, scales(layout), |tensor| {
                let last = tensor.bytes.len();
                match tensor.dtype.as_str() {
                    "F8_E8M0" => tensor.bytes[last - 1] = 255,
                    "F32" => tensor.bytes[last - 4..].copy_from_slice(&wrong.to_le_bytes()),
                    _ => tensor.bytes[last - 2..].copy_from_slice(&half::bf16::from_f32(wrong).to_le_bytes()),
                }
            });
            let name = format!("{UP}{}", scales(layout));
            let error = filled(&dir);
            assert!(
                matches!(&error, CheckpointError::BadScale { tensor, .. } if *tensor == name),
                "{layout:?}: {error}"
            );
        }
    }
}

#[test]
fn codes_that_are_no_numbers() {
    for code in [0x7f, 0xff] {
        let dir = changed(Layout::Fp8, "weight", |tensor| tensor.bytes[5 * 64 + 7] = code);
        let error = filled(&dir);
        assert!(matches!(error, CheckpointError::NotANumber { row: 5, col: 7, code: c, .. } if c == code));
    }
    for code in [8i8, -9, 127] {
        let dir = changed(Layout::Int4Bytes, "weight", |tensor| tensor.bytes[31 * 64 + 63] = code as u8);
        let error = filled(&dir);
        assert!(matches!(error, CheckpointError::NotANumber { row: 31, col: 63, code: c, .. } if c == code as u8));
    }
}

/// A float that has no code is found when codes are made; as a float it stays what it is.
#[test]
fn values_without_codes() {
    let dir = crate::support::copy("qwen3-moe");
    rewrite(&weights(dir.path()), |tensors| {
        let up = tensors.iter_mut().find(|tensor| tensor.name == format!("{UP}weight")).unwrap();
        up.bytes[4 * 64 * 9..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let layer = checkpoint.layer_weights(1).unwrap();
    let error = layer.fill_int8(Part::W13, 3..4, &mut [0; 64 * 64], &mut [0.0; 64]).unwrap_err();
    assert!(matches!(error, CheckpointError::NotFinite { row: 9, .. }));
    let error = layer.fill_int4(Part::W13, 3..4, None, &mut [0; 64 * 32], &mut [0.0; 64]).unwrap_err();
    assert!(matches!(error, CheckpointError::NotFinite { row: 9, .. }));
    for part in [Part::Router, Part::W13Bias, Part::ExpertTable] {
        assert!(matches!(layer.fill_int8(part, 0..1, &mut [], &mut []), Err(CheckpointError::NoCodes { .. })));
        assert!(matches!(layer.fill_int4(part, 0..1, None, &mut [], &mut []), Err(CheckpointError::NoCodes { .. })));
    }
    let sizes = |codes: usize, scales: usize| {
        layer.fill_int8(Part::W2, 0..2, &mut vec![0; codes], &mut vec![0.0; scales]).is_ok()
    };
    assert!(sizes(2 * 64 * 32, 128) && !sizes(2 * 64 * 32 - 1, 128) && !sizes(2 * 64 * 32, 127));
    let error = layer.fill_int8(Part::W2, 7..9, &mut [], &mut []).unwrap_err();
    assert!(matches!(error, CheckpointError::ExpertRange { start: 7, end: 9, experts: 8 }));
}

#[test]
fn experts_that_are_not_stored_alike() {
    let int8 = stored_as("qwen3-moe", Layout::Int8).0;
    let plain = stored_as("qwen3-moe", Layout::Int8).1;
    let mut floats = Vec::new();
    rewrite(&weights(plain.path()), |tensors| floats = std::mem::take(tensors));
    rewrite(&weights(int8.path()), |tensors| {
        tensors.retain(|tensor| !tensor.name.starts_with(UP));
        tensors.extend(floats.into_iter().filter(|tensor| tensor.name.starts_with(UP)));
    });
    let error = found(&int8);
    assert!(matches!(
        &error,
        CheckpointError::MixedFormats { tensor, found: Stored::Float(_), as_first: Stored::Int8 { .. }, .. }
            if *tensor == format!("{UP}weight")
    ));
    // Another layer is not concerned.
    Checkpoint::open(int8.path()).unwrap().layer_weights(0).unwrap();
}

#[test]
fn scales_that_are_not_there() {
    for layout in ALL.into_iter().filter(|layout| *layout != Layout::Int4Zeros) {
        let dir = stored_as("qwen3-moe", layout).0;
        let name = format!("{UP}{}", scales(layout));
        rewrite(&weights(dir.path()), |tensors| tensors.retain(|tensor| tensor.name != name));
        let error = found(&dir);
        assert!(
            matches!(&error, CheckpointError::NoScales { legal, .. } if legal.contains(&name)),
            "{layout:?}: {error}"
        );
    }
    // Scales beside a float weight belong to nothing.
    let dir = crate::support::copy("qwen3-moe");
    let name = format!("{UP}weight_scale_inv");
    rewrite(&weights(dir.path()), |tensors| tensors.push(Tensor::new(&name, "F32", &[1], vec![0; 4])));
    assert!(matches!(found(&dir), CheckpointError::UnexpectedTensor { tensor, .. } if tensor == name));
}

/// What is stored is what the configuration says.
#[test]
fn another_format_than_configured() {
    for (layout, other) in [
        (Layout::Int8, Layout::Fp8),
        (Layout::Fp8, Layout::Int8),
        (Layout::Int4(None), Layout::Int8),
        (Layout::Mxfp4, Layout::Int4Bytes),
    ] {
        let dir = stored_as("qwen3-moe", layout).0;
        set_config(dir.path(), config(other));
        let error = found(&dir);
        assert!(
            matches!(error, CheckpointError::Quantised { .. } | CheckpointError::ScaleShape { .. }),
            "{layout:?} as {other:?}: {error}"
        );
        set_config(dir.path(), Value::Null);
        assert!(matches!(found(&dir), CheckpointError::Quantised { .. }), "{layout:?} without a configuration");
    }
    let dir = stored_as("qwen3-moe", Layout::ModelSlimInt8).0;
    edit_json(&dir.path().join("quant_model_description.json"), |types| {
        types[format!("{UP}weight")] = "W8A8_NEXT".into()
    });
    assert!(matches!(found(&dir), CheckpointError::Quantised { legal, .. } if legal.contains("W8A8_DYNAMIC")));
}

#[test]
fn configurations_that_are_not_known() {
    let dir = crate::support::copy("qwen3-moe");
    let refused = |config: Value, field: &str| {
        set_config(dir.path(), config.clone());
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, CheckpointError::UnknownQuantisation { field: f, .. } if f == field),
            "{config}: {error}"
        );
        assert!(error.to_string().contains("legal"));
    };
    let with = |mut config: Value, field: &str, value: Value| {
        *config.pointer_mut(field).unwrap() = value;
        config
    };
    for method in ["gptq", "awq", "bitsandbytes", "fbgemm_fp8", "modelopt"] {
        refused(json!({"quant_method": method, "bits": 4}), "quantization_config.quant_method");
    }
    refused(json!({"bits": 4}), "quantization_config.quant_method");
    let fp8 = config(Layout::Fp8);
    refused(with(fp8.clone(), "/fmt", json!("e5m2")), "quantization_config.fmt");
    refused(with(fp8.clone(), "/scale_fmt", json!("e4m3")), "quantization_config.scale_fmt");
    refused(with(fp8.clone(), "/activation_scheme", json!("static")), "quantization_config.activation_scheme");
    for block in [json!([128]), json!([0, 128]), json!([1, 2, 3]), json!("128"), json!([-1, 128]), json!([1.5, 2])] {
        refused(with(fp8.clone(), "/weight_block_size", block), "quantization_config.weight_block_size");
    }
    let mut surprise = fp8;
    surprise["rotation"] = json!("hadamard");
    refused(surprise, "quantization_config.rotation");
    refused(json!({"quant_method": "mxfp4", "group": 16}), "quantization_config.group");

    let int4 = config(Layout::Int4(Some(16)));
    let weights = "/config_groups/group_0/weights";
    let at = "quantization_config.config_groups.group_0.weights";
    for (field, value) in [
        ("num_bits", json!(3)),
        ("num_bits", json!(null)),
        ("type", json!("nvint")),
        ("strategy", json!("tensor_group")),
        ("group_size", json!(null)),
        ("group_size", json!("many")),
        ("dynamic", json!(true)),
        ("actorder", json!("group")),
    ] {
        refused(with(int4.clone(), &format!("{weights}/{field}"), value), &format!("{at}.{field}"));
    }
    refused(with(int4.clone(), "/format", json!("marlin-24")), "quantization_config.format");
    refused(with(int4.clone(), "/quantization_status", json!("frozen")), "quantization_config.quantization_status");
    let inputs = "quantization_config.config_groups.group_0.input_activations.dynamic";
    refused(with(int4.clone(), "/config_groups/group_0/input_activations/dynamic", json!(false)), inputs);
    refused(with(int4.clone(), "/config_groups", json!(null)), "quantization_config.config_groups");
    refused(with(int4, "/config_groups/group_0/weights", json!(null)), at);
    set_config(dir.path(), Value::Null);
    edit_json(&dir.path().join("config.json"), |config| config["quantization"] = json!({"bits": 4, "group_size": 64}));
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, CheckpointError::UnknownQuantisation { field, .. } if field == "quantization.quant_method")
    );
}

/// The tensors of a weight in any layout.
const ENDS: [&str; 9] = [
    "weight",
    "weight_packed",
    "weight_shape",
    "weight_scale",
    "weight_scale_inv",
    "scale",
    "weight_offset",
    "weight_zero_point",
    "weight_nz",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever a tensor's type, shape and bytes are: an error or values, and no panic.
    #[test]
    fn any_tensor_in_place_of_another(
        layout in prop::sample::select(ALL.to_vec()),
        end in prop::sample::select(ENDS.to_vec()),
        dtype in prop::sample::select(vec![("U8", 1), ("I8", 1), ("F8_E4M3", 1), ("F8_E8M0", 1), ("I32", 4), ("I64", 8), ("F32", 4), ("BF16", 2)]),
        shape in prop::collection::vec(prop::sample::select(vec![0usize, 1, 2, 3, 4, 16, 31, 32, 64, 1 << 40]), 0..4),
        byte in any::<u8>(),
    ) {
        let (dtype, size) = dtype;
        let elements = shape.iter().try_fold(1usize, |all, axis| all.checked_mul(*axis)).filter(|all| *all < 1 << 20);
        let shape = if elements.is_some() { shape } else { vec![1 << 40, 1 << 40, 0] };
        let elements = elements.unwrap_or(0);
        let dir = stored_as("qwen3-moe", layout).0;
        rewrite(&weights(dir.path()), |tensors| {
            let name = format!("{UP}{end}");
            tensors.retain(|tensor| tensor.name != name);
            tensors.push(Tensor::new(&name, dtype, &shape, vec![byte; elements * size]));
        });
        if let Ok(checkpoint) = Checkpoint::open(dir.path())
            && let Ok(layer) = checkpoint.layer_weights(1)
        {
            let mut bytes = vec![0; layer.spec().fill_bytes(Part::W13, FloatType::F32)];
            let _ = layer.fill(Part::W13, 3..4, FloatType::F32, &mut bytes);
            let _ = layer.fill_int8(Part::W13, 3..4, &mut [0; 64 * 64], &mut [0.0; 64]);
            let _ = layer.fill_int4(Part::W13, 3..4, Some(16), &mut [0; 64 * 32], &mut [0.0; 64 * 4]);
        }
    }
}
