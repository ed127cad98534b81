//! `convert` as a program: its output runs, its report, its refusals.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{copy, data, edit_json};
use crate::tool::Tool;

fn convert(from: &Path, to: &Path, format: &str) -> Tool {
    Tool::new(&["convert", "--format", format]).option("--from", from).option("--to", to)
}

#[test]
fn what_is_converted_runs() {
    let dir = tempfile::tempdir().unwrap();
    // How far outputs are from the recorded ones, relative to the largest; of int4 it is much, and these weights are random.
    for (format, group, most) in
        [("bf16", None, 1e-2), ("w8a8", None, 3e-2), ("w4a8", None, 0.4), ("w4a8", Some("32"), 0.4)]
    {
        for nz in [false, true] {
            let to = dir.path().join(format!("{format}-{group:?}-{nz}"));
            let mut more = if nz { vec!["--nz"] } else { Vec::new() };
            more.extend(group.iter().flat_map(|group| ["--group", group]));
            let (report, _) = convert(&data("deepseek-v3-fp8"), &to, format).arguments(&more).report(0);
            assert_eq!((report["schema"].as_str(), report["ok"].as_bool()), (Some("ascend-moe/convert/1"), Some(true)));
            assert_eq!((report["format"].as_str(), report["nz"].as_bool()), (Some(format), Some(nz)));
            let tensors = report["tensors"].as_array().unwrap();
            assert_eq!(tensors.len(), 2 * 3 * 17);
            assert!(tensors.iter().all(|tensor| tensor["rms"].as_f64().unwrap() < 0.15));
            let input = data("deepseek-v3-fp8").join("activations.safetensors");
            let (run, _) = Tool::simulate(&to).option("--input", input).arguments(&["--dtype", "f32"]).report(1);
            for layer in run["layers"].as_array().unwrap() {
                let error = layer["comparison"]["max_rel_error"].as_f64().unwrap();
                assert!(error > 0.0 && error < most, "{format}: {error}");
            }
        }
    }
}

#[test]
fn the_report_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let ran = convert(&data("qwen3-moe"), &dir.path().join("out"), "w8a8").ends(0);
    for word in
        ["w8a8 of ", "copied", "model.layers.1.mlp.experts.*.up_proj.weight", "float32", "int8 per channel", " %"]
    {
        assert!(ran.stdout.contains(word), "{word} in\n{}", ran.stdout);
    }
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out");
    convert(&data("mixtral"), dir.path(), "w8a8").fails(2, &["is there; legal is the path of a new folder"]);
    convert(&dir.path().join("absent"), &to, "w8a8").fails(2, &["does not exist"]);
    convert(&data("mixtral"), &to, "w4a4").fails(2, &["w4a4", "w4a8"]);
    let grouped = |format: &str, group: &str| convert(&data("mixtral"), &to, format).arguments(&["--group", group]);
    grouped("w8a8", "32").fails(2, &["w8a8", "groups", "legal is w4a8"]);
    grouped("w4a8", "48").fails(2, &["48", "64"]);
    grouped("w4a8", "0").fails(2, &["--group"]);
    let from = copy("mixtral");
    edit_json(&from.path().join("config.json"), |config| {
        config["quantization_config"] = Value::from_iter([("quant_method", "gptq")])
    });
    convert(from.path(), &to, "bf16").fails(2, &["quantization_config.quant_method", "gptq", "legal is fp8"]);
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is left behind");
}
