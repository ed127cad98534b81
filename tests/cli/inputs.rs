//! Input files: what is refused with code 2, what is compared, and what may be left out.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{Tensor, data, floats, rewrite, safetensors};
use crate::tool::Tool;

const INPUT: &str = "layers.1.mlp.input";
const REFERENCE: &str = "layers.1.mlp.output";

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The recorded activations of the DeepSeek-V3 checkpoint, changed.
fn changed(edit: impl FnOnce(&mut Vec<Tensor>)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, fs::read(data("deepseek-v3").join("activations.safetensors")).unwrap()).unwrap();
    rewrite(&path, edit);
    (dir, path)
}

/// A file of these tensors.
fn file(tensors: &[Tensor]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, safetensors(tensors)).unwrap();
    (dir, path)
}

fn run(input: &Path) -> Tool {
    Tool::simulate(&data("deepseek-v3")).option("--input", input)
}

fn named<'t>(tensors: &'t mut [Tensor], name: &str) -> &'t mut Tensor {
    tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
}

/// Puts a value into a tensor `[T, 64]`.
fn put(tensor: &mut Tensor, token: usize, feature: usize, value: f32) {
    let at = (token * 64 + feature) * 4;
    tensor.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn refused(edit: impl FnOnce(&mut Vec<Tensor>), words: &[&str]) {
    let (_dir, path) = changed(edit);
    run(&path).fails(2, words);
}

#[test]
fn files_that_are_none() {
    run(Path::new("absent.safetensors")).fails(2, &["absent.safetensors", "No such file"]);
    run(Path::new("/dev/null")).fails(2, &["/dev/null is not a regular file"]);
    run(&data("mixtral")).fails(2, &["mixtral is not a regular file"]);
    run(&data("mixtral").join("config.json")).fails(2, &["config.json", "the header claims"]);
    let (_dir, path) = file(&[]);
    fs::write(&path, "short").unwrap();
    run(&path).fails(2, &["5 bytes are too few"]);
}

#[test]
fn shapes_that_no_layer_takes() {
    refused(|t| named(t, INPUT).shape = vec![46, 32], &[INPUT, "[46, 32]", "layer 1 takes [tokens, 64]"]);
    refused(|t| named(t, INPUT).shape = vec![23 * 64], &[INPUT, "[1472]", "[tokens, 64]"]);
    refused(|t| named(t, INPUT).shape = vec![1, 23, 64], &[INPUT, "[1, 23, 64]", "[tokens, 64]"]);
    refused(|t| named(t, INPUT).shape = vec![64, 23], &[INPUT, "[64, 23]", "[tokens, 64]"]);
    let integers = |t: &mut Vec<Tensor>| named(t, INPUT).dtype = "I32".to_owned();
    refused(integers, &[INPUT, "is I32", "legal is F32, F16, BF16 or F64"]);
}

#[test]
fn values_that_are_not_finite() {
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let words = &[INPUT, &format!("holds {word} at token 22, feature 5"), "finite"];
        refused(|t| put(named(t, INPUT), 22, 5, value), words);
    }
    // Also of the last layer, before the first is run; and not of a layer that is not run.
    let edit = |t: &mut Vec<Tensor>| put(named(t, "layers.2.mlp.input"), 0, 0, f32::NAN);
    refused(edit, &["layers.2.mlp.input", "holds NaN"]);
    let (_dir, path) = changed(edit);
    run(&path).arguments(&["--layer", "1"]).ends(0);
}

#[test]
fn tensors_that_are_not_there() {
    refused(|t| t.retain(|tensor| tensor.name != INPUT), &["neither `layers.1.mlp.input` nor `hidden_states`"]);
    let (_dir, path) = file(&[]);
    run(&path).fails(2, &["neither `layers.1.mlp.input` nor `hidden_states`"]);
}

#[test]
fn references_that_are_none() {
    refused(|t| named(t, REFERENCE).shape = vec![64, 23], &[REFERENCE, "[64, 23]", "its input has [23, 64]"]);
    let shorter = |t: &mut Vec<Tensor>| {
        let reference = named(t, REFERENCE);
        reference.shape = vec![22, 64];
        reference.bytes.truncate(22 * 64 * 4);
    };
    refused(shorter, &[REFERENCE, "[22, 64]", "its input has [23, 64]"]);
    refused(|t| put(named(t, REFERENCE), 3, 0, f32::NAN), &[REFERENCE, "holds NaN at token 3, feature 0", "finite"]);
}

/// One value off by twice the tolerance is told, with code 1, in both reports; the output is written nevertheless.
#[test]
fn a_wrong_reference() {
    let off = |by: f32| {
        move |tensors: &mut Vec<Tensor>| {
            let reference = named(tensors, REFERENCE);
            let values = floats(&reference.bytes);
            let largest = values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
            put(reference, 7, 9, values[7 * 64 + 9] + by * 3e-5 * largest);
        }
    };
    let (_dir, path) = changed(off(2.0));
    let ran = run(&path).ends(1);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.stdout.matches("WRONG").count(), 1, "{}", ran.stdout);
    for words in ["tolerance 3e-5", "FAILED: 1 of 2 layers compared"] {
        assert!(ran.stdout.contains(words), "{}", ran.stdout);
    }
    assert!(ran.output().is_file());

    let (report, _) = run(&path).report(1);
    assert_eq!((&report["schema"], &report["ok"]), (&"ascend-moe/run/1".into(), &false.into()));
    let [wrong, right] = [0, 1].map(|layer| &report["layers"][layer]["comparison"]);
    assert_eq!((&wrong["ok"], &right["ok"]), (&false.into(), &true.into()));
    let error = wrong["max_rel_error"].as_f64().unwrap();
    assert!((5e-5..7e-5).contains(&error), "{error}");
    assert!(right["max_rel_error"].as_f64().unwrap() < 3e-5);

    // The layer that is right alone, and half the tolerance.
    run(&path).arguments(&["--layer", "2"]).ends(0);
    let (_dir, path) = changed(off(0.5));
    run(&path).ends(0);
    // The tolerance is that of the type the layer runs in.
    let (_dir, path) = changed(off(2.0));
    run(&path).arguments(&["--dtype", "f16"]).ends(0);
    let (_dir, path) = changed(off(1000.0));
    run(&path).arguments(&["--dtype", "bf16"]).ends(1);
}

#[test]
fn without_a_reference_nothing_is_called_right() {
    let (_dir, path) = changed(|tensors| tensors.retain(|tensor| !tensor.name.ends_with("mlp.output")));
    let ran = run(&path).ends(0);
    assert!(ran.stdout.contains("nothing was compared") && !ran.stdout.contains("right:"), "{}", ran.stdout);
    let (report, _) = run(&path).report(0);
    assert_eq!(report["layers"][0]["comparison"], serde_json::Value::Null);
    let (_dir, path) = changed(|tensors| tensors.retain(|tensor| tensor.name != REFERENCE));
    let ran = run(&path).ends(0);
    assert!(ran.stdout.contains("right: 1 of 2 layers compared"), "{}", ran.stdout);
}

/// The same activations for every layer, in other types.
#[test]
fn hidden_states_are_for_every_layer() {
    let values: Vec<f32> = (0..3 * 64).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
    let own = |layer: usize| Tensor::new(&format!("layers.{layer}.mlp.input"), "F32", &[3, 64], bytes(&values));
    let (_dir, each) = file(&[own(1), own(2)]);
    let expected = fs::read(run(&each).ends(0).output()).unwrap();
    let narrow: Vec<u8> = values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
    let wide: Vec<u8> = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
    for (dtype, bytes) in [("F32", bytes(&values)), ("F16", narrow), ("F64", wide)] {
        let (_dir, path) = file(&[Tensor::new("hidden_states", dtype, &[3, 64], bytes)]);
        assert!(fs::read(run(&path).ends(0).output()).unwrap() == expected, "{dtype}");
    }
    // A layer's own goes first.
    let zeros = Tensor::new("hidden_states", "F32", &[3, 64], vec![0; 3 * 64 * 4]);
    let (_dir, path) = file(&[zeros, own(1), own(2)]);
    assert!(fs::read(run(&path).ends(0).output()).unwrap() == expected);
}

#[test]
fn no_tokens_and_one() {
    let empty = [INPUT, REFERENCE].map(|name| Tensor::new(name, "F32", &[0, 64], Vec::new()));
    let (_dir, path) = file(&empty);
    for tool in [
        run(&path).arguments(&["--layer", "1"]),
        Tool::simulate(&data("deepseek-v3")).arguments(&["--tokens", "0", "--layer", "1"]),
    ] {
        let (report, ran) = tool.report(0);
        let layer = &report["layers"][0];
        assert_eq!((&layer["tokens"], &layer["comparison"]), (&0.into(), &serde_json::Value::Null));
        assert_eq!(layer["expert_counts"], serde_json::json!(vec![0; 16]));
        assert_eq!(report["operators"], serde_json::json!([]), "no operator takes an empty tensor");
        let written = ascend_moe::checkpoint::TensorFile::open(ran.output()).unwrap();
        assert_eq!(written.tensor("layers.1.mlp.output").unwrap().shape, [0, 64]);
        assert_eq!(written.tensor("layers.1.mlp.topk_idx").unwrap().shape, [0, 4]);
    }
    let ran = Tool::simulate(&data("deepseek-v3")).arguments(&["--tokens", "0"]).ends(0);
    assert!(ran.stdout.contains("nothing to compute") && ran.stdout.contains("no operator"), "{}", ran.stdout);

    // The first token alone is what it is among others.
    let (_dir, path) = changed(|tensors| {
        for name in [INPUT, REFERENCE] {
            let tensor = named(tensors, name);
            tensor.shape = vec![1, 64];
            tensor.bytes.truncate(64 * 4);
        }
    });
    let (report, _) = run(&path).arguments(&["--layer", "1"]).report(0);
    assert_eq!((&report["layers"][0]["tokens"], &report["layers"][0]["comparison"]["ok"]), (&1.into(), &true.into()));
}

/// What a router sees in place of the experts' input has its shape; a layer that had it gives something else without
/// it.
#[test]
fn inputs_of_a_router() {
    let seen = |shape: &[usize]| {
        Tensor::new("layers.1.mlp.router_input", "F32", shape, bytes(&vec![0.5; shape.iter().product()]))
    };
    refused(|tensors| tensors.push(seen(&[1, 64])), &["layers.1.mlp.router_input", "[1, 64]"]);

    let gemma = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families/gemma4_text");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::copy(gemma.join("activations.safetensors"), &path).unwrap();
    let tool = || Tool::simulate(&gemma).option("--layer", "2").option("--input", &path);
    tool().ends(0);
    rewrite(&path, |tensors| tensors.retain(|tensor| !tensor.name.ends_with("router_input")));
    tool().ends(1);
}
