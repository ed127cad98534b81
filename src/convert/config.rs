//! The configuration of the output.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::plan::Plan;
use super::{Format, Options};

/// Fields about how the input was quantised.
const QUANTISATION: [&str; 5] =
    ["quantization_config", "quantization", "compression_config", "expert_dtype", "quantize"];

/// The input's configuration with what the output's weights are.
pub(super) fn converted(mut config: Value, plan: &Plan<'_>, options: Options) -> Value {
    for place in ["", "/text_config"] {
        if let Some(fields) = config.pointer_mut(place).and_then(Value::as_object_mut) {
            QUANTISATION.iter().for_each(|field| {
                fields.remove(*field);
            });
        }
    }
    if let (true, Some(fields)) = (options.format != Format::Bf16, config.as_object_mut()) {
        fields.insert("quantization_config".to_owned(), quantisation(plan, options));
    }
    config
}

/// compressed-tensors: a group for each number of bits, whose targets are the modules that have it.
fn quantisation(plan: &Plan<'_>, options: Options) -> Value {
    let formats_of = [(8, "int-quantized", None, &plan.int8), (4, "pack-quantized", options.group, &plan.int4)];
    let inputs = json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true});
    let mut groups = serde_json::Map::new();
    let mut formats = Vec::new();
    for (bits, format, inputs_of_scale, modules) in formats_of {
        if modules.is_empty() {
            continue;
        }
        let targets: BTreeSet<String> = modules.iter().map(|module| pattern(module)).collect();
        let mut weights =
            json!({"num_bits": bits, "type": "int", "symmetric": true, "strategy": "channel", "dynamic": false});
        if let Some(size) = inputs_of_scale {
            (weights["strategy"], weights["group_size"]) = ("group".into(), size.into());
        }
        let group = json!({"targets": targets, "weights": weights, "input_activations": inputs, "format": format});
        groups.insert(format!("group_{}", groups.len()), group);
        formats.push(format);
    }
    let format = match formats.as_slice() {
        [format] => format,
        _ => "mixed-precision",
    };
    let mut config = json!({
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": format,
        "config_groups": groups,
        "ignore": [],
    });
    if options.nz {
        config["ascend_moe_layout"] = "fractal_nz".into();
    }
    config
}

/// A regular expression for the names of modules that differ from this one in numbers only.
fn pattern(module: &str) -> String {
    let parts: Vec<String> = module
        .split('.')
        .map(|part| if part.bytes().all(|byte| byte.is_ascii_digit()) { "\\d+".to_owned() } else { part.to_owned() })
        .collect();
    format!("re:^{}$", parts.join("\\."))
}

#[cfg(test)]
mod tests {
    #[test]
    fn modules_that_differ_in_numbers_have_one_pattern() {
        let of = super::pattern("model.layers.12.mlp.experts.3.up_proj");
        assert_eq!(of, "re:^model\\.layers\\.\\d+\\.mlp\\.experts\\.\\d+\\.up_proj$");
        assert_eq!(of, super::pattern("model.layers.4.mlp.experts.100.up_proj"));
    }
}
