//! What a run gives: the report, the output file, and that both are the same again.

use std::fs;
use std::path::Path;

use ascend_moe::checkpoint::{Checkpoint, TensorFile};
use serde_json::Value;

use crate::reference::Layer;
use crate::support::{data, floats};
use crate::tool::{Ran, Tool};

const CHECKPOINTS: [&str; 6] = ["deepseek-v2", "deepseek-v3", "deepseek-v4", "gpt-oss", "qwen3-moe", "mixtral"];

/// A run on the activations that were recorded with the checkpoint.
fn recorded(name: &str) -> Tool {
    Tool::simulate(&data(name)).option("--input", data(name).join("activations.safetensors"))
}

fn i32s(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// A layer's part of an output file: output `[T, H]`, expert ids and weights `[T, k]`.
fn written(ran: &Ran, layer: &Value) -> (Vec<f32>, Vec<i32>, Vec<f32>) {
    let file = TensorFile::open(ran.output()).unwrap();
    let [tokens, hidden, top_k] = ["tokens", "hidden", "top_k"].map(|key| layer[key].as_u64().unwrap() as usize);
    let part = |what: &str, dtype: &str, width: usize| {
        let tensor = file.tensor(&format!("layers.{}.mlp.{what}", layer["layer"])).unwrap();
        assert_eq!((tensor.dtype.to_string().as_str(), tensor.shape), (dtype, &[tokens, width][..]), "{what}");
        tensor.bytes.to_vec()
    };
    let (output, weights) = (part("output", "F32", hidden), part("topk_weight", "F32", top_k));
    (floats(&output), i32s(&part("topk_idx", "I32", top_k)), floats(&weights))
}

#[test]
fn every_checkpoint_is_right_in_every_type() {
    for name in CHECKPOINTS {
        for (dtype, long, tolerance) in [("f32", "float32", 3e-5), ("bf16", "bfloat16", 2e-2), ("f16", "float16", 4e-3)]
        {
            let (report, ran) = recorded(name).arguments(&["--dtype", dtype]).report(0);
            assert_eq!((&report["ok"], &report["dtype"]), (&true.into(), &long.into()), "{name} {dtype}");
            assert_eq!(ran.stderr, "");
            let layers = report["layers"].as_array().unwrap();
            assert_eq!(layers.len(), if name == "deepseek-v4" { 3 } else { 2 }, "{name} {dtype}");
            for layer in layers {
                let comparison = &layer["comparison"];
                let error = comparison["max_rel_error"].as_f64().unwrap();
                assert_eq!((&comparison["ok"], &comparison["tolerance"]), (&true.into(), &tolerance.into()));
                // A comparison with itself would give 0.
                assert!(0.0 < error && error <= tolerance, "{name} {dtype}: {error}");
            }
        }
    }
}

/// Each layer is as far from itself in floating point as int8, or int4, has to be, and no farther.
#[test]
fn quantised_experts_are_as_near_as_they_can_be() {
    for (quant, least, most) in [("w8a8", 5e-3, 3e-2), ("w4a8", 5e-2, 3e-1)] {
        // What gpt-oss has between its projections has biases, which W4A8 has no place for.
        for name in CHECKPOINTS.into_iter().filter(|&name| quant == "w8a8" || name != "gpt-oss") {
            let (report, _) = recorded(name).arguments(&["--quant", quant]).report(0);
            assert_eq!((&report["ok"], &report["dtype"]), (&true.into(), &"bfloat16".into()), "{name} {quant}");
            for layer in report["layers"].as_array().unwrap() {
                assert_eq!(layer["expert_plan"]["format"], quant);
                let clamped = matches!(name, "deepseek-v4" | "gpt-oss");
                assert_eq!(layer["expert_plan"]["fused"].is_null(), clamped, "{name} {quant}");
                assert_eq!(layer["expert_plan"]["reason"].is_string(), clamped, "{name} {quant}");
                for of in ["comparison", "from_float"] {
                    assert_eq!(layer[of]["measure"], "root_mean_square");
                    let error = layer[of]["rms_rel_error"].as_f64().unwrap();
                    assert!(least < error && error <= most, "{name} {quant} {of}: {error}");
                }
            }
            let ran = |name: &str| {
                report["operators"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|operator| operator["name"].as_str().unwrap().starts_with(&format!("aclnn{name}")))
            };
            assert_eq!(ran("GroupedMatmulSwigluQuant"), report["layers"][0]["expert_plan"]["fused"].is_string());
            assert!(ran("GroupedMatmul"), "{name} {quant}");
        }
    }
    recorded("gpt-oss").arguments(&["--quant", "w4a8"]).fails(3, &["w4a8 experts", "biases", "legal is"]);
    recorded("deepseek-v3").arguments(&["--quant", "w4a8-groups"]).fails(3, &["64 inputs in groups of 256", "w4a16"]);
    recorded("mixtral").arguments(&["--quant", "w8a8", "--dtype", "f32"]).fails(3, &["w8a8 experts", "f32"]);
}

#[test]
fn the_types_default_is_the_checkpoints() {
    let (report, _) = recorded("mixtral").report(0);
    assert_eq!(report["dtype"], "float32");
}

/// Report and file tell the same, and the error is the one that the file has.
#[test]
fn the_output_file_is_what_the_report_says() {
    for name in CHECKPOINTS {
        let (report, ran) = recorded(name).report(0);
        let reference = TensorFile::open(data(name).join("activations.safetensors")).unwrap();
        for layer in report["layers"].as_array().unwrap() {
            let (output, ids, _) = written(&ran, layer);
            let expected = reference.values(&format!("layers.{}.mlp.output", layer["layer"])).unwrap().data;
            let error =
                output.iter().zip(&expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).fold(0.0, f64::max);
            assert_eq!(layer["comparison"]["max_abs_error"].as_f64(), Some(error), "{name}");
            let first: Vec<f32> = layer["output"]["first"].as_array().unwrap().iter().map(as_f32).collect();
            assert_eq!(first, output[..4], "{name}");
            let largest = output.iter().map(|&value| f64::from(value).abs()).fold(0.0, f64::max);
            assert_eq!(layer["output"]["max_abs"].as_f64(), Some(largest), "{name}");

            let mut counts = vec![0_i64; layer["experts"].as_u64().unwrap() as usize];
            ids.iter().for_each(|&id| counts[id as usize] += 1);
            assert_eq!(layer["expert_counts"], serde_json::json!(counts), "{name}");
            let load = &layer["load"];
            assert_eq!(load["max"].as_i64(), counts.iter().max().copied());
            assert_eq!(load["min"].as_i64(), counts.iter().min().copied());
            assert_eq!(load["empty"].as_u64(), Some(counts.iter().filter(|&&count| count == 0).count() as u64));
            let mean = ids.len() as f64 / counts.len() as f64;
            assert_eq!(load["imbalance"].as_f64(), counts.iter().max().map(|&most| most as f64 / mean));
        }
    }
}

fn as_f32(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

/// The router in `f64`: rows hold the experts that it chooses in its order, and the weights are theirs.
#[test]
fn chosen_experts_are_in_the_routers_order() {
    for name in CHECKPOINTS {
        let (report, ran) = recorded(name).report(0);
        let checkpoint = Checkpoint::open(data(name)).unwrap();
        let activations = TensorFile::open(data(name).join("activations.safetensors")).unwrap();
        let (_, token_ids) = activations.integers("input_ids").unwrap();
        for layer in report["layers"].as_array().unwrap() {
            let number = layer["layer"].as_u64().unwrap() as usize;
            let top_k = layer["top_k"].as_u64().unwrap() as usize;
            let x = activations.values(&format!("layers.{number}.mlp.input")).unwrap();
            let reference = Layer::router_of(&checkpoint.layer_weights(number).unwrap());
            let (_, ids, weights) = written(&ran, layer);
            for (token, x) in x.data.chunks(64).enumerate() {
                let (ids, weights) = (&ids[token * top_k..][..top_k], &weights[token * top_k..][..top_k]);
                let x: Vec<f64> = x.iter().map(|&value| value.into()).collect();
                let (chosen, due): (Vec<usize>, Vec<f64>) =
                    reference.route(&x, Some(token_ids[token])).into_iter().unzip();
                assert!(ids.iter().map(|&id| id as usize).eq(chosen), "{name} {number}, token {token}: {ids:?}");
                for (&weight, due) in weights.iter().zip(due) {
                    assert!((f64::from(weight) - due).abs() < 1e-5, "{name} token {token}: {weight} {due}");
                }
            }
        }
    }
}

#[test]
fn layers_are_run_as_they_are_asked_for() {
    let (report, ran) = recorded("deepseek-v3").arguments(&["--layer", "2", "--layer", "1"]).report(0);
    let layers: Vec<_> = report["layers"].as_array().unwrap().iter().map(|layer| layer["layer"].clone()).collect();
    assert_eq!(layers, [2, 1]);
    assert_eq!(TensorFile::open(ran.output()).unwrap().tensors().len(), 6);
    let (report, ran) = recorded("deepseek-v3").arguments(&["--layer", "2"]).report(0);
    assert_eq!(report["layers"].as_array().unwrap().len(), 1);
    assert_eq!(TensorFile::open(ran.output()).unwrap().tensors().len(), 3);
}

fn random(name: &str, seed: &str) -> Tool {
    Tool::simulate(&data(name)).arguments(&["--tokens", "37", "--seed", seed])
}

/// A report without what a clock told.
fn untimed(mut report: Value) -> Value {
    for layer in report["layers"].as_array_mut().unwrap() {
        for step in layer["steps"].as_array_mut().unwrap() {
            assert!(step["milliseconds"].as_f64().unwrap() >= 0.0);
            step.as_object_mut().unwrap().remove("milliseconds");
        }
    }
    report
}

#[test]
fn a_run_is_reproducible() {
    for name in CHECKPOINTS {
        let (report, ran) = random(name, "5").report(0);
        let (report, bytes) = (untimed(report), fs::read(ran.output()).unwrap());
        for threads in ["1", "3"] {
            let (again, ran) = random(name, "5").variable("RAYON_NUM_THREADS", threads).report(0);
            assert_eq!(untimed(again), report, "{name}");
            assert!(fs::read(ran.output()).unwrap() == bytes, "{name} with {threads} threads");
        }
        let ran = random(name, "6").ends(0);
        assert!(fs::read(ran.output()).unwrap() != bytes, "{name}");
    }
}

#[test]
fn random_input_has_defaults_and_differs_between_layers() {
    let plain = fs::read(Tool::simulate(&data("qwen3-moe")).ends(0).output()).unwrap();
    let said = Tool::simulate(&data("qwen3-moe")).arguments(&["--tokens", "16", "--seed", "0"]).ends(0);
    assert!(fs::read(said.output()).unwrap() == plain);
    // A layer's input does not depend on which others are run.
    let (one, alone) = Tool::simulate(&data("qwen3-moe")).arguments(&["--layer", "1"]).report(0);
    let (all, both) = Tool::simulate(&data("qwen3-moe")).report(0);
    let [first, second] = [0, 1].map(|layer| written(&both, &all["layers"][layer]));
    assert!(written(&alone, &one["layers"][0]) == second && first != second);
}

/// The keys that scripts read. A key that is gone, or new, is a change of the schema.
#[test]
fn the_keys_of_the_report() {
    let (report, _) = recorded("deepseek-v3").report(0);
    assert_eq!(report["schema"], "ascend-moe/run/1");
    keys(&report, "backend checkpoint dtype input layers model_type ok operators schema");
    keys(&report["backend"], "arithmetic clock name reason release simulated soc");
    let layer = &report["layers"][0];
    keys(
        layer,
        "chunk comparison expert_counts expert_plan experts from_float hidden layer load memory output router steps \
         tokens top_k",
    );
    keys(&layer["comparison"], "max_abs_error max_reference max_rel_error measure ok rms_rel_error tolerance");
    keys(&layer["expert_plan"], "format fused reason stored weight_error");
    keys(&layer["output"], "first max_abs mean standard_deviation");
    keys(&layer["load"], "empty imbalance max min");
    keys(&layer["memory"], "announced peak");
    keys(&layer["steps"][0], "milliseconds name");
    keys(&report["operators"][0], "count name");
    // What was announced is what was held.
    assert_eq!(layer["memory"]["announced"], layer["memory"]["peak"]);
}

fn keys(object: &Value, expected: &str) {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys.join(" "), expected);
}

/// The operators are those of the layer's steps, counted at the call table; and their times are the simulator's.
#[test]
fn a_simulated_run_says_so_and_names_its_operators() {
    let (report, _) = recorded("deepseek-v3").report(0);
    let backend = &report["backend"];
    assert_eq!((&backend["name"], &backend["simulated"]), (&"simulator".into(), &true.into()));
    assert!(backend["clock"].as_str().unwrap().contains("simulator"), "{backend}");
    let operators: Vec<(&str, u64)> = report["operators"]
        .as_array()
        .unwrap()
        .iter()
        .map(|operator| (operator["name"].as_str().unwrap(), operator["count"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("aclnnMm", 6),
        ("aclnnMoeGatingTopK", 2),
        ("aclnnMoeInitRoutingV3", 2),
        ("aclnnGroupedMatmulV5", 4),
        ("aclnnSwiGlu", 4),
        ("aclnnMoeFinalizeRoutingV2", 2),
    ];
    assert_eq!(operators.iter().map(|(_, count)| count).sum::<u64>(), 20, "{operators:?}");
    for operator in expected {
        assert!(operators.contains(&operator), "{operator:?} in {operators:?}");
    }
    let steps = report["layers"][0]["steps"].as_array().unwrap();
    let steps: Vec<_> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(steps, ["route", "shared expert", "expand", "gate and up", "activation", "down", "combine"]);

    let text = recorded("deepseek-v3").ends(0).stdout;
    for words in [
        "deepseek_v3 on a simulator of CANN 9.1.0",
        "no device was used",
        "chosen explicitly",
        "layer 1: 23 tokens of 64, 4 of 16 experts each",
        "of the largest value",
        "rows, largest",
        "host clock of the simulator, not a device's",
        "gate and up",
        "aclnnGroupedMatmulV5",
        "right: 2 of 2 layers compared, all within tolerance",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

/// Paths need not be absolute, and a name without a folder is one in the current folder.
#[test]
fn paths_are_relative_to_the_current_folder() {
    let tool = Tool::new(&["run", "--backend", "sim", "--checkpoint", "c", "--output", "results/o"]);
    std::os::unix::fs::symlink(data("mixtral"), tool.folder.path().join("c")).unwrap();
    fs::create_dir(tool.folder.path().join("results")).unwrap();
    let ran = tool.ends(0);
    assert_eq!(crate::tool::names(&ran.folder.path().join("results")), ["o"]);
    TensorFile::open(ran.folder.path().join(Path::new("results/o"))).unwrap();
}
