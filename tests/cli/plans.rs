//! `plan-router`: the plans of every checkpoint in every simulated release, for people and for scripts.

use serde_json::{Value, json};

use crate::support::{copy, data, edit_json};
use crate::tool::Tool;

fn plan(name: &str) -> Tool {
    Tool::new(&["plan-router", "--backend", "sim"]).option("--checkpoint", data(name))
}

fn plans(name: &str, arguments: &[&str]) -> Value {
    plan(name).arguments(arguments).report(0).0
}

#[test]
fn every_checkpoint_in_every_release() {
    const FUSED: &str = "fused";
    for (name, old, new, layers) in [
        ("deepseek-v2", FUSED, FUSED, json!([1, 2])),
        ("deepseek-v3", FUSED, FUSED, json!([1, 2])),
        ("deepseek-v4", "composed", "composed", json!([0])),
        ("gpt-oss", "fused softmax", "fused softmax", json!([0, 1])),
        ("qwen3-moe", "fused softmax", FUSED, json!([0, 1])),
        ("mixtral", "fused softmax", FUSED, json!([0, 1])),
    ] {
        for (release, method) in [("8.5.0", old), ("9.0.0", new), ("9.1.0", new)] {
            let report = plans(name, &["--release", release]);
            assert_eq!((&report["backend"]["release"], &report["ok"]), (&release.into(), &true.into()));
            let plan = &report["plans"][0];
            assert_eq!((&plan["method"], &plan["layers"]), (&method.into(), &layers), "{name} {release}");
            let logits = if name == "gpt-oss" { "aclnnAddmm" } else { "aclnnMm" };
            assert_eq!(plan["operators"][0]["name"], logits, "{name} {release}");
            let rejected: Vec<&str> =
                plan["rejected"].as_array().unwrap().iter().map(|way| way["method"].as_str().unwrap()).collect();
            let better = [FUSED, "fused softmax", "fused sigmoid", "fused choice, gathered weights", "composed"];
            assert_eq!(rejected, better[..better.iter().position(|way| *way == method).unwrap()], "{name} {release}");
        }
    }
}

/// DeepSeek-V4's first layer chooses by token id, the others by scores.
#[test]
fn layers_with_other_routers_have_other_plans() {
    let report = plans("deepseek-v4", &[]);
    let layers: Vec<&Value> = report["plans"].as_array().unwrap().iter().map(|plan| &plan["layers"]).collect();
    assert_eq!(layers, [&json!([0]), &json!([1, 2])]);
    let purposes = |plan: usize, purpose: &str| -> Vec<String> {
        let operators = report["plans"][plan]["operators"].as_array().unwrap();
        let of = operators.iter().filter(|operator| operator["purpose"] == purpose);
        of.map(|operator| operator["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(purposes(0, "choice"), ["aclnnEmbedding"]);
    assert_eq!(purposes(1, "choice"), ["aclnnAdd", "aclnnTopk", "aclnnCast"]);
    assert_eq!(purposes(1, "scores"), ["aclnnSoftplus", "aclnnSqrt"]);
    let one = plans("deepseek-v4", &["--layer", "2", "--dtype", "bf16"]);
    assert_eq!((&one["plans"][0]["layers"], &one["dtype"]), (&json!([2]), &"bfloat16".into()));
    assert_eq!(one["plans"].as_array().unwrap().len(), 1);
}

#[test]
fn people_read_the_reason() {
    let ran = plan("mixtral").arguments(&["--release", "8.5.0"]).ends(0);
    for words in [
        "layers 0-1: fused softmax",
        "not fused: aclnnMoeGatingTopK: renorm 1",
        "aclnnMoeGatingTopKSoftmaxV2",
        "CANN 8.5.0, sim",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
}

/// No weight is needed: `config.json` alone says what the routers are.
#[test]
fn weights_are_not_read() {
    let dir = copy("qwen3-moe");
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let tool = Tool::new(&["plan-router", "--backend", "sim"]).option("--checkpoint", dir.path());
    assert_eq!(tool.report(0).0["plans"][0]["method"], "fused");
}

#[test]
fn what_is_not_legal() {
    plan("mixtral").arguments(&["--layer", "2"]).fails(2, &["layer 2 is no mixture of experts", "[0, 1]"]);
    plan("mixtral").arguments(&["--release", "7.0.0"]).fails(2, &["7.0.0", "8.5.0", "9.1.0"]);
    plan("mixtral").arguments(&["--release", "new"]).fails(2, &["new", "9.1.0"]);
    let real = Tool::new(&["plan-router", "--backend", "cann"]).option("--checkpoint", data("mixtral"));
    real.arguments(&["--release", "9.0.0"]).fails(2, &["--release", "--backend sim"]);
    let dir = copy("mixtral");
    edit_json(&dir.path().join("config.json"), |config| config["model_type"] = json!("zaya"));
    let tool = Tool::new(&["plan-router", "--backend", "sim"]).option("--checkpoint", dir.path());
    tool.fails(2, &["\"zaya\" is known and not supported", "layers with state"]);
}
