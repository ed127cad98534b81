//! The experts of a checkpoint, stored again in each quantised layout, with the values that they then have.

use std::path::Path;

use moe_kernels::formats::float8::{E4M3, Overflow, e4m3_from_f32, e8m0};
use moe_kernels::formats::nibbles::E2M1;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Tensor, copy, edit_json, floats, rewrite};

/// A layout of a weight `[N, K]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Layout {
    /// DeepSeek-V3, blocks of 16 x 16: scales `weight_scale_inv` of F32.
    Fp8,
    /// The same with powers of two.
    Fp8PowersOfTwo,
    /// The same with E8M0 under `scale`.
    Fp8E8m0,
    /// DeepSeek-V4: I8 of two E2M1, E8M0 under `scale`.
    Mxfp4,
    /// compressed-tensors `int-quantized`: BF16 scales `[N, 1]`.
    Int8,
    /// msModelSlim W8A8: F32 scales and offsets.
    ModelSlimInt8,
    /// compressed-tensors `pack-quantized`, a scale for each row, or for each so many columns.
    Int4(Option<usize>),
    /// compressed-tensors `int-quantized` of 4 bits: an int4 in each byte.
    Int4Bytes,
    /// msModelSlim W4A8: two rows to a byte.
    ModelSlimInt4,
    /// compressed-tensors `pack-quantized` with zero points.
    Int4Zeros,
}

pub(crate) const ALL: [Layout; 11] = [
    Layout::Fp8,
    Layout::Fp8PowersOfTwo,
    Layout::Fp8E8m0,
    Layout::Mxfp4,
    Layout::Int8,
    Layout::ModelSlimInt8,
    Layout::Int4(None),
    Layout::Int4(Some(16)),
    Layout::Int4Bytes,
    Layout::ModelSlimInt4,
    Layout::Int4Zeros,
];

/// Rows and columns of a block of FP8 here; real ones have 128.
pub(crate) const BLOCK: usize = 16;

pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |most: f32, value| most.max(value.abs())).max(1e-6)
}

/// What `quantization_config` says of a layout; msModelSlim has a description instead.
pub(crate) fn config(layout: Layout) -> Value {
    let weights = |bits: u32, group: Option<usize>| {
        let strategy = if group.is_some() { "group" } else { "channel" };
        json!({"num_bits": bits, "type": "int", "strategy": strategy, "group_size": group, "symmetric": true,
               "dynamic": false, "actorder": null, "block_structure": null, "observer": "minmax"})
    };
    let compressed = |format: &str, weights: Value| {
        let inputs = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true, "symmetric": true});
        json!({"quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
               "ignore": ["lm_head"], "kv_cache_scheme": null, "version": "0.13.0",
               "config_groups": {"group_0": {"targets": ["Linear"], "input_activations": inputs,
                                             "output_activations": null, "weights": weights}}})
    };
    match layout {
        Layout::Fp8 | Layout::Fp8PowersOfTwo | Layout::Fp8E8m0 | Layout::Mxfp4 => json!({
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "scale_fmt": "ue8m0",
            "weight_block_size": [BLOCK, BLOCK]}),
        Layout::Int8 => compressed("int-quantized", weights(8, None)),
        Layout::Int4(group) => compressed("pack-quantized", weights(4, group)),
        Layout::Int4Zeros => compressed("pack-quantized", weights(4, Some(16))),
        Layout::Int4Bytes => compressed("int-quantized", weights(4, None)),
        Layout::ModelSlimInt8 | Layout::ModelSlimInt4 => Value::Null,
    }
}

/// The tensors that hold `values` `[rows, cols]` in a layout under the name `stem` + `weight`, and their values then.
pub(crate) fn store(layout: Layout, stem: &str, values: &[f32], rows: usize, cols: usize) -> (Vec<Tensor>, Vec<f32>) {
    let tensor =
        |end: &str, dtype: &str, shape: &[usize], bytes| Tensor::new(&format!("{stem}{end}"), dtype, shape, bytes);
    match layout {
        Layout::Fp8 | Layout::Fp8PowersOfTwo | Layout::Fp8E8m0 => {
            let grid = [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)];
            let block = |at: usize| (at / cols / BLOCK) * grid[1] + at % cols / BLOCK;
            let mut scales = vec![1e-6f32; grid[0] * grid[1]];
            values
                .iter()
                .enumerate()
                .for_each(|(at, value)| scales[block(at)] = scales[block(at)].max(value.abs() / 448.0));
            let mut exponents = Vec::new();
            if layout != Layout::Fp8 {
                exponents = scales.iter().map(|scale| (scale.log2().ceil() + 127.0) as u8).collect();
                scales = exponents.iter().map(|code| e8m0(*code)).collect();
            }
            let codes: Vec<u8> = values
                .iter()
                .enumerate()
                .map(|(at, value)| e4m3_from_f32(value / scales[block(at)], Overflow::Saturate))
                .collect();
            let due = codes.iter().enumerate().map(|(at, code)| E4M3[usize::from(*code)] * scales[block(at)]).collect();
            let scales = match layout {
                Layout::Fp8E8m0 => tensor("scale", "F8_E8M0", &grid, exponents),
                _ => tensor("weight_scale_inv", "F32", &grid, bytes_of(&scales)),
            };
            (vec![tensor("weight", "F8_E4M3", &[rows, cols], codes), scales], due)
        }
        Layout::Mxfp4 => {
            let (mut codes, mut exponents, mut due) = (Vec::new(), Vec::new(), Vec::new());
            for block in values.chunks(32) {
                let exponent = ((largest(block.iter().copied()) / 6.0).log2().ceil() + 127.0) as u8;
                let nearest = |value: f32| {
                    let scaled = value / e8m0(exponent);
                    (0..16u8).min_by(|a, b| {
                        let far = |code: &u8| (E2M1[usize::from(*code)] - scaled).abs();
                        far(a).total_cmp(&far(b))
                    })
                };
                let block: Vec<u8> = block.iter().map(|value| nearest(*value).unwrap()).collect();
                due.extend(block.iter().map(|code| E2M1[usize::from(*code)] * e8m0(exponent)));
                codes.extend(block.chunks(2).map(|pair| pair[0] | pair[1] << 4));
                exponents.push(exponent);
            }
            let scales = tensor("scale", "F8_E8M0", &[rows, cols / 32], exponents);
            (vec![tensor("weight", "I8", &[rows, cols / 2], codes), scales], due)
        }
        Layout::Int8 | Layout::ModelSlimInt8 => {
            let (codes, scales, due) = integers(values, cols, cols, 127.0, layout == Layout::Int8, 0);
            let bytes = codes.iter().map(|code| *code as u8).collect();
            let mut tensors = vec![tensor("weight", "I8", &[rows, cols], bytes)];
            if layout == Layout::Int8 {
                tensors.push(tensor("weight_scale", "BF16", &[rows, 1], bf16_bytes(&scales)));
            } else {
                tensors.push(tensor("weight_scale", "F32", &[rows, 1], bytes_of(&scales)));
                tensors.push(tensor("weight_offset", "F32", &[rows, 1], vec![0; rows * 4]));
            }
            (tensors, due)
        }
        Layout::Int4Bytes => {
            let (codes, scales, due) = integers(values, cols, cols, 7.0, true, 0);
            let bytes = codes.iter().map(|code| *code as u8).collect();
            let scales = tensor("weight_scale", "BF16", &[rows, 1], bf16_bytes(&scales));
            (vec![tensor("weight", "I8", &[rows, cols], bytes), scales], due)
        }
        Layout::Int4(_) | Layout::Int4Zeros => {
            let zero = if layout == Layout::Int4Zeros { 3 } else { 0 };
            let group = match layout {
                Layout::Int4(group) => group.unwrap_or(cols),
                _ => 16,
            };
            let (codes, scales, due) = integers(values, cols, group, if zero == 0 { 7.0 } else { 4.0 }, true, zero);
            let mut packed = Vec::new();
            for row in codes.chunks(cols) {
                for word in row.chunks(8) {
                    let word = word.iter().rev().fold(0u32, |word, code| word << 4 | (*code + 8) as u32);
                    packed.extend(word.to_le_bytes());
                }
            }
            let shape = [rows as i64, cols as i64].iter().flat_map(|size| size.to_le_bytes()).collect();
            let groups = cols / group;
            let mut tensors = vec![
                tensor("weight_packed", "I32", &[rows, cols.div_ceil(8)], packed),
                tensor("weight_scale", "BF16", &[rows, groups], bf16_bytes(&scales)),
                tensor("weight_shape", "I64", &[2], shape),
            ];
            if zero != 0 {
                // Eight rows of groups to a word.
                let word = (0..8).fold(0u32, |word, _| word << 4 | (zero + 8) as u32);
                let words = (0..rows.div_ceil(8) * groups).flat_map(|_| word.to_le_bytes()).collect();
                tensors.push(tensor("weight_zero_point", "I32", &[rows.div_ceil(8), groups], words));
            }
            (tensors, due)
        }
        Layout::ModelSlimInt4 => {
            let (codes, scales, due) = integers(values, cols, cols, 7.0, false, 0);
            let packed = codes
                .chunks(2 * cols)
                .flat_map(|pair| (0..cols).map(|col| (pair[col] as u8 & 15) | (pair[cols + col] as u8) << 4))
                .collect();
            (
                vec![
                    tensor("weight", "I8", &[rows / 2, cols], packed),
                    tensor("weight_scale", "F32", &[rows, 1], bytes_of(&scales)),
                    tensor("weight_offset", "F32", &[rows, 1], vec![0; rows * 4]),
                    tensor("scale_bias", "F32", &[rows, 1], vec![0; rows * 4]),
                ],
                due,
            )
        }
    }
}

/// Codes, scales of groups and values; scales are BF16 where it says so.
fn integers(
    values: &[f32],
    cols: usize,
    group: usize,
    limit: f32,
    bf16: bool,
    zero: i8,
) -> (Vec<i8>, Vec<f32>, Vec<f32>) {
    assert!(cols.is_multiple_of(group));
    let (mut codes, mut scales, mut due) = (Vec::new(), Vec::new(), Vec::new());
    for values in values.chunks(group) {
        let mut scale = largest(values.iter().copied()) / limit;
        if bf16 {
            scale = half::bf16::from_f32(scale * 1.01).to_f32();
        }
        scales.push(scale);
        for value in values {
            let code = (value / scale).round_ties_even() as i8 + zero;
            codes.push(code);
            due.push(f32::from(code - zero) * scale);
        }
    }
    (codes, scales, due)
}

/// Whether a tensor of the tiny checkpoints is a weight of a routed or shared expert.
pub(crate) fn is_expert(name: &str) -> bool {
    name.contains("expert") && name.ends_with("_proj.weight")
}

/// A copy of `name` whose experts are stored in a layout, and one in floats that have the same values.
pub(crate) fn stored_as(name: &str, layout: Layout) -> (TempDir, TempDir) {
    let (quantised, plain) = (copy(name), copy(name));
    let file = |dir: &TempDir| dir.path().join("model.safetensors");
    let mut description = json!({"version": "1.0.0", "group_size": 0, "model_quant_type": "W8A8_DYNAMIC"});
    rewrite(&file(&plain), |tensors| {
        for tensor in tensors.iter_mut().filter(|tensor| is_expert(&tensor.name)) {
            let stem = tensor.name.trim_end_matches("weight");
            tensor.bytes = bytes_of(&store(layout, stem, &floats(&tensor.bytes), tensor.shape[0], tensor.shape[1]).1);
        }
    });
    rewrite(&file(&quantised), |tensors| {
        let (experts, others): (Vec<_>, Vec<_>) =
            std::mem::take(tensors).into_iter().partition(|tensor| is_expert(&tensor.name));
        others.iter().for_each(|tensor| description[&tensor.name] = "FLOAT".into());
        *tensors = others;
        for tensor in experts {
            let stem = tensor.name.trim_end_matches("weight");
            let kind = if layout == Layout::ModelSlimInt4 { "W4A8_DYNAMIC" } else { "W8A8_DYNAMIC" };
            let stored = store(layout, stem, &floats(&tensor.bytes), tensor.shape[0], tensor.shape[1]).0;
            stored.iter().for_each(|tensor| description[&tensor.name] = kind.into());
            tensors.extend(stored);
        }
    });
    if config(layout).is_null() {
        std::fs::write(quantised.path().join("quant_model_description.json"), description.to_string()).unwrap();
        let named = quantised.path().join("quant_model_weight_w8a8_dynamic.safetensors");
        std::fs::rename(file(&quantised), named).unwrap();
    } else {
        set_config(quantised.path(), config(layout));
    }
    (quantised, plain)
}

/// A Qwen3 of these widths whose experts are stored in a layout, or in floats, of few different values.
pub(crate) fn wide(layout: Option<Layout>, hidden: usize, inner: usize) -> TempDir {
    let dir = copy("qwen3-moe");
    edit_json(&dir.path().join("config.json"), |config| {
        (config["hidden_size"], config["moe_intermediate_size"]) = (hidden.into(), inner.into());
    });
    if let Some(layout) = layout {
        set_config(dir.path(), config(layout));
    }
    rewrite(&dir.path().join("model.safetensors"), |tensors| {
        for tensor in std::mem::take(tensors).into_iter().filter(|tensor| tensor.name.contains(".mlp.")) {
            let [rows, cols] = match tensor.name.contains("down_proj") {
                true => [hidden, inner],
                false if is_expert(&tensor.name) => [inner, hidden],
                false => [tensor.shape[0], hidden],
            };
            let values: Vec<f32> = (0..rows * cols).map(|at| (at % 13) as f32 - 6.0).collect();
            match layout.filter(|_| is_expert(&tensor.name)) {
                Some(layout) => {
                    tensors.extend(store(layout, tensor.name.trim_end_matches("weight"), &values, rows, cols).0);
                }
                None => tensors.push(Tensor::new(&tensor.name, "F32", &[rows, cols], bytes_of(&values))),
            }
        }
    });
    dir
}

pub(crate) fn set_config(dir: &Path, config: Value) {
    edit_json(&dir.join("config.json"), |whole| whole["quantization_config"] = config);
}
