//! Checkpoints that are broken: each way ends with code 2 and the rule.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Tensor, copy, data, edit_json, raw, rewrite};
use crate::tool::Tool;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const GATE: &str = "model.layers.1.mlp.gate.weight";

/// The run of a checkpoint that was changed.
fn fails(name: &str, change: impl FnOnce(&Path), words: &[&str]) {
    let dir: TempDir = copy(name);
    change(dir.path());
    Tool::simulate(dir.path()).fails(2, words);
}

fn config_fails(edit: impl FnOnce(&mut Value), words: &[&str]) {
    fails("deepseek-v3", |dir| edit_json(&dir.join(CONFIG), edit), words);
}

fn weights_fail(edit: impl FnOnce(&mut Vec<Tensor>), words: &[&str]) {
    fails("qwen3-moe", |dir| rewrite(&dir.join(WEIGHTS), edit), words);
}

fn gate(tensors: &mut [Tensor]) -> &mut Tensor {
    tensors.iter_mut().find(|tensor| tensor.name == GATE).unwrap()
}

#[test]
fn folders() {
    Tool::simulate(Path::new("absent")).fails(2, &["checkpoint folder absent does not exist"]);
    Tool::simulate(&data("mixtral").join(CONFIG)).fails(2, &["config.json is not a folder"]);
    fails("mixtral", |dir| fs::remove_file(dir.join(CONFIG)).unwrap(), &["no `config.json` in"]);
    fails("mixtral", |dir| fs::remove_file(dir.join(WEIGHTS)).unwrap(), &["no weights in", WEIGHTS, INDEX]);
}

#[test]
fn configurations_that_are_no_json() {
    for text in ["", "{", "{\"model_type\": }", "\u{0}"] {
        fails("mixtral", |dir| fs::write(dir.join(CONFIG), text).unwrap(), &[CONFIG, "line 1 column"]);
    }
    fails("mixtral", |dir| fs::write(dir.join(CONFIG), "[]").unwrap(), &["`config.json` is a list", "a JSON object"]);
}

#[test]
fn configurations_that_lack_a_field() {
    for field in [
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "n_routed_experts",
        "moe_intermediate_size",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "n_shared_experts",
        "norm_topk_prob",
        "routed_scaling_factor",
        "first_k_dense_replace",
        "dtype",
    ] {
        let missing = format!("field `{field}` is missing");
        config_fails(|config| drop(config.as_object_mut().unwrap().remove(field)), &[CONFIG, &missing, "legal is"]);
    }
}

#[test]
fn configurations_that_make_no_layer() {
    for (field, value, words) in [
        ("hidden_size", json!(0), &["`hidden_size` is 0", "legal is 1 to 1048576"][..]),
        ("hidden_size", json!(1_000_000_000), &["`hidden_size` is 1000000000", "legal is 1 to 1048576"]),
        ("hidden_size", json!(-64), &["`hidden_size` is -64", "legal is 1 to"]),
        ("hidden_size", json!(64.5), &["`hidden_size` is 64.5", "an integer"]),
        ("hidden_size", json!("64"), &["`hidden_size` is \"64\"", "an integer"]),
        ("n_routed_experts", json!(u64::MAX), &["`n_routed_experts` is 18446744073709551615", "1 to 65536"]),
        ("num_hidden_layers", json!(1_000_000), &["`num_hidden_layers` is 1000000", "1 to 10000"]),
        ("first_k_dense_replace", json!(3), &["none of the 3 layers is a mixture of experts"]),
        ("num_experts_per_tok", json!(0), &["top-k", "is 0", "legal is 1 to 16"]),
        ("num_experts_per_tok", json!(17), &["top-k", "is 17", "legal is 1 to 16"]),
        ("num_experts_per_tok", json!(9), &["top-k is 9", "2 groups of 4 experts", "legal is 1 to 8"]),
        ("n_group", json!(3), &["16 experts do not divide into 3 groups"]),
        ("n_group", json!(0), &["`n_group` is 0"]),
        ("topk_group", json!(5), &["`topk_group` is 5", "legal is 1 to 4"]),
        ("topk_group", json!(0), &["`topk_group` is 0", "legal is 1 to 4"]),
        ("model_type", json!("llama"), &["`model_type` \"llama\" is not known", "deepseek_v3, ", "mixtral"]),
        ("dtype", json!("int8"), &["`dtype` is \"int8\"", "float32, float16, bfloat16"]),
        ("routed_scaling_factor", json!(0), &["`routed_scaling_factor` is 0", "above 0"]),
        ("topk_method", json!("greedy"), &["`topk_method` is \"greedy\"", "not supported"]),
    ] {
        config_fails(|config| config[field] = value, words);
    }
    let absurd = |config: &mut Value| {
        config["n_routed_experts"] = json!(1 << 16);
        config["hidden_size"] = json!(1 << 20);
        config["moe_intermediate_size"] = json!(1 << 20);
    };
    config_fails(absurd, &["beyond what is possible", "legal is up to 1099511627776"]);
    // Possible, but not what the weights are.
    config_fails(|config| config["hidden_size"] = json!(128), &["has shape [16, 64]", "it is [16, 128]"]);
}

#[test]
fn files_that_are_no_safetensors() {
    let write = |bytes: Vec<u8>| move |dir: &Path| fs::write(dir.join(WEIGHTS), bytes).unwrap();
    let cut = |to: usize| {
        move |dir: &Path| {
            let bytes = fs::read(dir.join(WEIGHTS)).unwrap();
            fs::write(dir.join(WEIGHTS), &bytes[..bytes.len().min(to)]).unwrap();
        }
    };
    fails("mixtral", write(Vec::new()), &[WEIGHTS, "0 bytes are too few"]);
    fails("mixtral", write(b"no tensors here".to_vec()), &[WEIGHTS, "the header claims", "legal is up to 7"]);
    fails("mixtral", write(u64::MAX.to_le_bytes().to_vec()), &["claims 18446744073709551615 bytes", "up to 0"]);
    fails("mixtral", write(raw("{\"a\": 3}", &[])), &[WEIGHTS, "line 1 column"]);
    fails("mixtral", cut(100), &["the header claims", "legal is up to 92"]);
    let whole = fs::metadata(data("mixtral").join(WEIGHTS)).unwrap().len() as usize;
    fails("mixtral", cut(whole - 1), &["ends at byte", "cut short"]);
    let folder = |dir: &Path| {
        fs::remove_file(dir.join(WEIGHTS)).unwrap();
        fs::create_dir(dir.join(WEIGHTS)).unwrap();
    };
    fails("mixtral", folder, &[WEIGHTS, "is not a regular file"]);
}

#[test]
fn headers_that_lie() {
    for (header, word) in [
        (json!({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}), "needs 8 bytes"),
        (json!({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}), "no byte may be left out"),
        (json!({"a": {"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 4 << 20]}}), "its header lies"),
        (json!({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}), "no byte may be left over"),
        (json!({"a": {"dtype": "F32", "shape": [u64::MAX], "data_offsets": [0, 8]}}), "no possible size"),
        (json!({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}), "F99"),
    ] {
        let bytes = raw(&header.to_string(), &[0; 8]);
        fails("mixtral", |dir| fs::write(dir.join(WEIGHTS), bytes).unwrap(), &[WEIGHTS, word]);
    }
}

#[test]
fn shards_and_their_index() {
    let shard = "model-00004-of-00010.safetensors";
    fails("deepseek-v3", |dir| fs::remove_file(dir.join(shard)).unwrap(), &[INDEX, shard, "not in its folder"]);
    let outside = data("mixtral").join(WEIGHTS);
    for entry in [outside.to_str().unwrap(), "../model.safetensors", "..", "a/../b"] {
        let leads_out = |index: &mut Value| index["weight_map"][GATE] = json!(entry);
        let words = &[INDEX, GATE, entry, "legal is the name of a file in the same folder"];
        fails("deepseek-v3", |dir| edit_json(&dir.join(INDEX), leads_out), words);
    }
    let elsewhere = |index: &mut Value| index["weight_map"][GATE] = json!("model-00001-of-00010.safetensors");
    fails("deepseek-v3", |dir| edit_json(&dir.join(INDEX), elsewhere), &[GATE, "where the index has it"]);
    fails("deepseek-v3", |dir| fs::write(dir.join(INDEX), "{}").unwrap(), &[INDEX, "weight_map"]);
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    weights_fail(|tensors| tensors.retain(|tensor| tensor.name != GATE), &[GATE, "is not in"]);
    weights_fail(|tensors| gate(tensors).shape.reverse(), &[GATE, "has shape [64, 8]", "it is [8, 64]"]);
    weights_fail(|tensors| gate(tensors).dtype = "I32".to_owned(), &[GATE, "is I32", "F32, F16 or BF16"]);
    let bias = "model.layers.1.mlp.experts.3.up_proj.bias";
    weights_fail(|tensors| tensors.push(Tensor::new(bias, "F32", &[32], vec![0; 128])), &[bias]);
    let quantised = |tensors: &mut Vec<Tensor>| {
        let gate = gate(tensors);
        (gate.dtype, gate.bytes) = ("F8_E4M3".to_owned(), vec![0; 8 * 64]);
    };
    weights_fail(quantised, &[GATE, "FP8 E4M3", "not quantised", "`quantization_config`"]);
    // What is wrong with the last layer is found before the first is run, and with a layer not asked for never.
    let dir = copy("qwen3-moe");
    rewrite(&dir.path().join(WEIGHTS), |tensors| gate(tensors).shape.reverse());
    Tool::simulate(dir.path()).arguments(&["--layer", "0"]).ends(0);
}
