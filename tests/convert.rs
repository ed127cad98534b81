//! Conversions: every storage to every format and read again, interrupted ones, and places that are not possible.
// The helpers of a test fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "shared with the tests of checkpoints")]
#[path = "checkpoint/layouts.rs"]
mod layouts;
#[allow(dead_code, reason = "shared with the tests of checkpoints")]
#[path = "checkpoint/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ascend_moe::checkpoint::{Checkpoint, CheckpointError, HostLayer, Stored};
use ascend_moe::convert::{ConvertError, Format, Options, Report, convert};
use ascend_moe::layer::ExpertFormat;
use ascend_moe::spec::{FloatType, Part};
use serde_json::{Value, json};

use layouts::{ALL, Layout, stored_as};
use support::{Tensor, data, edit_json, floats, rewrite};

/// Formats, and inputs that share a scale.
const FORMATS: [(Format, Option<usize>); 4] =
    [(Format::Bf16, None), (Format::W8a8, None), (Format::W4a8, None), (Format::W4a8, Some(4))];
/// Row by row, and FRACTAL_NZ.
const BOTH: [bool; 2] = [false, true];
const PARTS: [Part; 4] = [Part::W13, Part::W2, Part::SharedW13, Part::SharedW2];

fn done(from: &Path, to: &Path, format: Format) -> Report {
    convert(from, to, Options::new(format), &mut |_| {}).unwrap_or_else(|error| panic!("{}: {error}", from.display()))
}

/// The files of a folder.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    entries.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap())).collect()
}

fn experts(layer: &HostLayer<'_>, part: Part) -> usize {
    if part.per_expert() { layer.spec().experts().num } else { 1 }
}

fn values(layer: &HostLayer<'_>, part: Part, dtype: FloatType) -> Vec<u8> {
    let experts = experts(layer, part);
    let mut bytes = vec![0; layer.spec().fill_bytes(part, dtype) * experts];
    layer.fill(part, 0..experts, dtype, &mut bytes).unwrap();
    bytes
}

/// Codes, scales and the error's root mean square.
fn int8(layer: &HostLayer<'_>, part: Part) -> (Vec<i8>, Vec<f32>, f64) {
    let elements = layer.spec().elements(part);
    let cols = layer.spec().shape(part).and_then(|shape| shape.last().copied()).unwrap_or(1);
    let (mut codes, mut scales) = (vec![0; elements], vec![0.0; elements / cols]);
    let error = layer.fill_int8(part, 0..experts(layer, part), &mut codes, &mut scales).unwrap();
    (codes, scales, error.rms())
}

fn int4(layer: &HostLayer<'_>, part: Part, group: Option<usize>) -> (Vec<u8>, Vec<f32>, f64) {
    let elements = layer.spec().elements(part);
    let cols = layer.spec().shape(part).and_then(|shape| shape.last().copied()).unwrap_or(2);
    let (mut codes, mut scales) = (vec![0; elements / 2], vec![0.0; elements / group.unwrap_or(cols)]);
    let error = layer.fill_int4(part, 0..experts(layer, part), group, &mut codes, &mut scales).unwrap();
    (codes, scales, error.rms())
}

/// The output holds, for every layer that is there, what the input gives; nothing is rounded twice.
fn assert_same(from: &Path, to: &Path, format: Format, group: Option<usize>) {
    let [input, output] = [from, to].map(|dir| Checkpoint::open(dir).unwrap());
    let mut layers = 0;
    for &index in input.moe_layers() {
        let Ok(due) = input.layer_weights(index) else { continue };
        let found =
            output.layer_weights(index).unwrap_or_else(|error| panic!("{} {format:?}: {error}", from.display()));
        layers += 1;
        for part in PARTS.into_iter().filter(|part| due.spec().shape(*part).is_some()) {
            let what = format!("{} {format:?} {part:?}", from.display());
            let routed = part.per_expert();
            match format {
                Format::Bf16 => {
                    assert_eq!(found.stored(part), Some(Stored::Float(FloatType::Bf16)), "{what}");
                    assert_eq!(values(&found, part, FloatType::Bf16), values(&due, part, FloatType::Bf16), "{what}");
                }
                Format::W4a8 if routed => {
                    assert_eq!(found.stored(part), Some(Stored::Int4 { group }), "{what}");
                    let (found, due) = (int4(&found, part, group), int4(&due, part, group));
                    assert_eq!(found, (due.0, due.1, 0.0), "{what}");
                }
                _ => {
                    assert_eq!(found.stored(part), Some(Stored::Int8 { group: None }), "{what}");
                    let (codes, scales, error) = int8(&found, part);
                    assert_eq!((&codes, &scales, error), (&int8(&due, part).0, &int8(&due, part).1, 0.0), "{what}");
                }
            }
        }
        for part in Part::ALL.into_iter().filter(|part| !PARTS.contains(part) && !part.is_integer()) {
            assert_eq!(values(&found, part, FloatType::F32), values(&due, part, FloatType::F32), "{part:?}");
        }
    }
    assert!(layers > 0);
}

/// Converts to every format, in the layouts that are said, and compares; the input stays what it was.
fn every_format(from: &Path, layouts: &[bool]) {
    let before = contents(from);
    for &nz in layouts {
        for (format, group) in FORMATS {
            let dir = tempfile::tempdir().unwrap();
            let to = dir.path().join("out");
            let mut options = Options::new(format);
            (options.nz, options.group) = (nz, group);
            // Small enough that every weight comes in pieces.
            options.buffer = 500;
            let report = convert(from, &to, options, &mut |_| {}).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
            assert_eq!((report.format, report.nz, report.group, report.resumed), (format, nz, group, 0));
            assert_same(from, &to, format, group);
            assert!(fs::read_dir(dir.path()).unwrap().count() == 1, "nothing else is left behind");
        }
    }
    assert!(contents(from) == before, "the input is untouched");
}

#[test]
fn checkpoints() {
    for name in ["deepseek-v2", "deepseek-v3", "deepseek-v3-fp8", "deepseek-v4", "gpt-oss", "mixtral", "qwen3-moe"] {
        every_format(&data(name), &BOTH);
    }
}

#[test]
fn every_layout() {
    for layout in ALL {
        every_format(stored_as("qwen3-moe", layout).0.path(), &BOTH);
        every_format(stored_as("deepseek-v2", layout).0.path(), &[false]);
    }
}

/// Groups that CANN multiplies with int8 stay what they are, also where one is as wide as a weight; others are refused before
/// anything is written, and so are groups of anything but int4.
#[test]
fn int4_in_groups() {
    let from = layouts::wide(None, 512, 256);
    let dir = tempfile::tempdir().unwrap();
    let converted = |to: &str, format, group| {
        let mut options = Options::new(format);
        options.group = Some(group);
        convert(from.path(), &dir.path().join(to), options, &mut |_| {})
    };
    let report = converted("256", Format::W4a8, 256).unwrap();
    let way = |name: &str| &report.tensors.iter().find(|tensor| tensor.name.contains(name)).unwrap().to;
    assert_eq!(way("up_proj"), "int4 in groups of 256");
    let [input, output] = [from.path(), &dir.path().join("256")].map(|dir| Checkpoint::open(dir).unwrap());
    let [due, found] = [&input, &output].map(|checkpoint| checkpoint.layer_weights(0).unwrap());
    assert_eq!(ExpertFormat::stored(&found), ExpertFormat::W4A8 { group: Some(256) });
    for part in [Part::W13, Part::W2] {
        let due = int4(&due, part, Some(256));
        assert_eq!(int4(&found, part, Some(256)), (due.0, due.1, 0.0));
    }
    for group in [512, 24, 0] {
        let error = converted("refused", Format::W4a8, group).unwrap_err();
        let ConvertError::Checkpoint(CheckpointError::GroupSize { group: told, .. }) = error else { panic!("{error}") };
        assert_eq!(told, group);
    }
    let error = converted("refused", Format::W8a8, 256).unwrap_err();
    assert!(matches!(error, ConvertError::NoGroups { format: Format::W8a8 }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written for what is refused");
}

/// Every storage there is: fused, transposed, alternating, stacked, flat.
#[test]
fn every_family() {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families");
    let mut count = 0;
    for entry in fs::read_dir(families).unwrap() {
        let dir = entry.unwrap().path();
        if dir.is_dir() {
            every_format(&dir, &[false]);
            count += 1;
        }
    }
    assert!(count > 50);
}

/// gpt-oss as it is published: fused MXFP4, `[out, in]` though its floats are `[in, out]`.
#[test]
fn gpt_oss_in_mxfp4() {
    let dir = support::copy("gpt-oss");
    rewrite(&dir.path().join("model.safetensors"), |tensors| {
        let (experts, mut others): (Vec<_>, Vec<_>) = std::mem::take(tensors).into_iter().partition(|tensor| {
            tensor.name.ends_with("experts.gate_up_proj") || tensor.name.ends_with("experts.down_proj")
        });
        for tensor in experts {
            let [count, cols, rows] = tensor.shape[..] else { panic!() };
            let [mut blocks, mut scales] = [Vec::new(), Vec::new()];
            for matrix in floats(&tensor.bytes).chunks(rows * cols) {
                let turned: Vec<f32> = (0..rows * cols).map(|at| matrix[at % cols * rows + at / cols]).collect();
                let stored = layouts::store(Layout::Mxfp4, "", &turned, rows, cols).0;
                blocks.extend_from_slice(&stored[0].bytes);
                scales.extend_from_slice(&stored[1].bytes);
            }
            let named = |end: &str| format!("{}{end}", tensor.name);
            others.push(Tensor::new(&named("_blocks"), "U8", &[count, rows, cols / 32, 16], blocks));
            others.push(Tensor::new(&named("_scales"), "U8", &[count, rows, cols / 32], scales));
        }
        *tensors = others;
    });
    layouts::set_config(dir.path(), json!({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let (layer, plain) = (checkpoint.layer_weights(0).unwrap(), Checkpoint::open(data("gpt-oss")).unwrap());
    let plain = plain.layer_weights(0).unwrap();
    assert_eq!(layer.stored(Part::W13), Some(Stored::Mxfp4));
    for part in [Part::W13, Part::W2] {
        let [found, exact] = [&layer, &plain].map(|layer| floats(&values(layer, part, FloatType::F32)));
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        let error = squares(&mut found.iter().zip(&exact).map(|(found, exact)| found - exact));
        let error = (error / squares(&mut exact.iter().copied())).sqrt();
        assert!(error > 0.05 && error < 0.2, "{part:?}: {error}: every value is at its place");
        assert_eq!(int8(&layer, part).2, 0.0, "exponents are near each other");
    }
    every_format(dir.path(), &BOTH);
    // As bf16 nothing is lost, and another reader finds the family's own storage.
    let to = tempfile::tempdir().unwrap();
    let report = done(dir.path(), &to.path().join("bf16"), Format::Bf16);
    assert!(report.tensors.iter().all(|tensor| tensor.rms == 0.0 && tensor.from == "MXFP4"));
    let output = Checkpoint::open(to.path().join("bf16")).unwrap();
    let name = "model.layers.0.mlp.experts.gate_up_proj";
    assert_eq!(output.tensor(name).unwrap().shape, plain_shape(&data("gpt-oss"), name));
}

fn plain_shape(dir: &Path, name: &str) -> Vec<usize> {
    Checkpoint::open(dir).unwrap().tensor(name).unwrap().shape.to_vec()
}

#[test]
fn other_tensors() {
    // Attention in FP8 is expanded, in every format, and what is not quantised is copied bit for bit.
    let dir = support::copy("deepseek-v3-fp8");
    let attention = "model.layers.1.self_attn.o_proj.weight";
    let mut due = Vec::new();
    rewrite(&dir.path().join("model.safetensors"), |tensors| {
        let at = tensors.iter().position(|tensor| tensor.name == attention).unwrap();
        let old = tensors.remove(at);
        let [rows, cols] = old.shape[..] else { panic!() };
        let stem = attention.trim_end_matches("weight");
        let (stored, exact) = layouts::store(Layout::Fp8PowersOfTwo, stem, &floats(&old.bytes), rows, cols);
        due = exact;
        tensors.extend(stored);
    });
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    for format in [Format::Bf16, Format::W8a8, Format::W4a8] {
        let to = tempfile::tempdir().unwrap();
        let out = to.path().join("out");
        let report = done(dir.path(), &out, format);
        let [input, output] = [dir.path(), &out].map(|dir| Checkpoint::open(dir).unwrap());
        let expanded = output.tensor(attention).unwrap();
        let found: Vec<f32> =
            expanded.bytes.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        assert_eq!(found, due, "exact, as scales are powers of two");
        assert!(output.tensor(&format!("{attention}_scale_inv")).is_err());
        let of_attention = report.tensors.iter().find(|tensor| tensor.name == attention).unwrap();
        assert_eq!((of_attention.to.as_str(), of_attention.rms), ("bfloat16", 0.0));
        let embedding = "model.embed_tokens.weight";
        assert_eq!(output.tensor(embedding).unwrap().bytes, input.tensor(embedding).unwrap().bytes);
        assert_eq!(fs::read(out.join("tokenizer.json")).unwrap(), b"{}");
        assert!(!out.join("activations.safetensors").exists());
        let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config.get("quantization_config").is_some(), format != Format::Bf16);
        let told: Report = serde_json::from_slice(&fs::read(out.join("conversion.json")).unwrap()).unwrap();
        assert_eq!(
            (told.format, told.copied, told.tensors.len()),
            (report.format, report.copied, report.tensors.len())
        );
    }
}

/// What W8A8 and W4A8 have lost is what is told, and as much as is to be expected.
#[test]
fn errors_are_told() {
    let to = tempfile::tempdir().unwrap();
    for (format, least, most) in [(Format::Bf16, 1e-3, 3e-3), (Format::W8a8, 3e-3, 9e-3), (Format::W4a8, 6e-2, 0.15)] {
        let report = done(&data("qwen3-moe"), &to.path().join(format.name()), format);
        assert_eq!(report.tensors.len(), 2 * 8 * 3);
        for tensor in &report.tensors {
            assert!(tensor.rms > least && tensor.rms < most, "{}: {}", tensor.name, tensor.rms);
            assert!(tensor.max > 0.0 && tensor.max <= 1.0 / 14.0 + 1e-6);
        }
    }
}

/// An interruption at any file, then the same again.
#[test]
fn interrupted_conversions_go_on() {
    let from = data("deepseek-v3");
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    done(&from, &whole, Format::W8a8);
    for stop in 1..=10 {
        let to = dir.path().join(format!("out-{stop}"));
        let partial = dir.path().join(format!("out-{stop}.partial"));
        let stopped = catch_unwind(AssertUnwindSafe(|| {
            let mut seen = Vec::new();
            let _ = convert(&from, &to, Options::new(Format::W8a8), &mut |progress| {
                if !seen.contains(&progress.file.to_owned()) {
                    seen.push(progress.file.to_owned());
                }
                assert!(seen.len() < stop, "the power fails");
            });
        }));
        assert!(stopped.is_err());
        assert!(!to.exists() && partial.exists());
        assert!(
            matches!(Checkpoint::open(&partial), Err(CheckpointError::NoConfig { .. })),
            "half is not taken for whole"
        );
        let report = done(&from, &to, Format::W8a8);
        assert_eq!(report.resumed, stop - 1);
        assert!(!partial.exists());
        let mut found = contents(&to);
        let mut due = contents(&whole);
        // How many files were there is told.
        [&mut found, &mut due].into_iter().for_each(|files| drop(files.remove(Path::new("conversion.json")).unwrap()));
        assert!(found == due, "the same as without an interruption");
    }
}

/// Files of an earlier try that are not what was written are written again.
#[test]
fn damaged_files_are_written_again() {
    let from = data("deepseek-v3");
    let dir = tempfile::tempdir().unwrap();
    let (to, partial) = (dir.path().join("out"), dir.path().join("out.partial"));
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        convert(&from, &to, Options::new(Format::W4a8), &mut |progress| {
            assert!(!progress.file.starts_with("model-00006"), "the power fails");
        })
    }));
    assert!(stopped.is_err());
    let file = |number: usize| partial.join(format!("model-{number:05}-of-00010.safetensors"));
    let mut bytes = fs::read(file(1)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(file(1), &bytes).unwrap();
    fs::OpenOptions::new().write(true).open(file(2)).unwrap().set_len(100).unwrap();
    fs::remove_file(file(3)).unwrap();
    fs::write(file(7), "what is not noted").unwrap();
    let report = done(&from, &to, Format::W4a8);
    assert_eq!(report.resumed, 2);
    assert_same(&from, &to, Format::W4a8, None);
}

#[test]
fn places_that_are_not_possible() {
    let from = support::copy("deepseek-v3");
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out");
    let refused = |to: &Path, format| convert(from.path(), to, Options::new(format), &mut |_| {}).unwrap_err();
    assert!(matches!(refused(dir.path(), Format::W8a8), ConvertError::Exists { .. }));
    assert!(matches!(refused(&from.path().join("out"), Format::W8a8), ConvertError::InsideInput { .. }));
    assert!(matches!(refused(&dir.path().join("no/such/place"), Format::W8a8), ConvertError::Io { .. }));
    fs::create_dir(dir.path().join("out.partial")).unwrap();
    fs::write(dir.path().join("out.partial/mine.txt"), "mine").unwrap();
    assert!(matches!(refused(&to, Format::W8a8), ConvertError::OtherConversion { what: "what it was made by", .. }));
    fs::remove_dir_all(dir.path().join("out.partial")).unwrap();

    let stopped = catch_unwind(AssertUnwindSafe(|| {
        convert(from.path(), &to, Options::new(Format::W8a8), &mut |progress| {
            assert!(!progress.file.starts_with("model-00004"), "the power fails");
        })
    }));
    assert!(stopped.is_err());
    assert!(matches!(refused(&to, Format::W4a8), ConvertError::OtherConversion { what: "formats", .. }));
    edit_json(&from.path().join("config.json"), |config| config["new"] = 1.into());
    let error = refused(&to, Format::W8a8);
    assert!(matches!(&error, ConvertError::OtherConversion { what: "the files of the input", .. }), "{error}");
    assert!(!to.exists());
}

#[test]
fn values_that_have_no_code() {
    let from = support::copy("qwen3-moe");
    let name = "model.layers.1.mlp.experts.3.up_proj.weight";
    rewrite(&from.path().join("model.safetensors"), |tensors| {
        let up = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        up.bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let before = contents(from.path());
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out");
    for format in [Format::W8a8, Format::W4a8] {
        let error = convert(from.path(), &to, Options::new(format), &mut |_| {}).unwrap_err();
        assert!(matches!(
            error,
            ConvertError::Checkpoint(CheckpointError::NotFinite { tensor, row: 0, .. }) if tensor == name
        ));
        assert!(!to.exists());
        let left = fs::read_dir(dir.path().join("out.partial")).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), [".conversion"], "no file that is not whole");
        fs::remove_dir_all(dir.path().join("out.partial")).unwrap();
    }
    assert!(contents(from.path()) == before);
    let dense = support::copy("mixtral");
    rewrite(&dense.path().join("model.safetensors"), |tensors| {
        tensors.retain(|tensor| !tensor.name.contains("layers"))
    });
    let error = convert(dense.path(), &to, Options::new(Format::Bf16), &mut |_| {}).unwrap_err();
    assert!(matches!(error, ConvertError::NoExperts { .. }), "{error}");
}
