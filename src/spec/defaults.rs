//! What the configuration classes take for fields that a `config.json` does not write.
//!
//! Only fields that the table of families reads and whose absence is not legal by itself; sizes are always demanded.
//! Source: the configuration classes of transformers 5.24. Not there: `deepseek_v3`, `deepseek_v32` and `kimi_k2`, which
//! are published with modelling code of their own whose defaults differ, so that the fields must be written.

use serde_json::{Value, json};

/// The defaults of a model type, an object; empty where none are known.
pub(super) fn defaults(model_type: &str) -> Value {
    match model_type {
        "qwen3_moe" | "olmoe" | "flex_olmo" => json!({"norm_topk_prob": false}),
        "axk1" => {
            json!({"first_k_dense_replace": 1, "n_group": 8, "n_shared_experts": 1, "norm_topk_prob": true, "rms_norm_eps": 1e-6, "routed_scaling_factor": 2.5, "topk_group": 4})
        }
        "cohere2_moe" => {
            json!({"expert_selection_fn": "softmax", "first_k_dense_replace": 0, "norm_topk_prob": true, "num_shared_experts": 0, "shared_expert_combination_strategy": "average"})
        }
        "dbrx" => json!({"moe_normalize_expert_weights": 1.0}),
        "muse_spark_text" => {
            json!({"output_multiplier": 0.1767766952966369, "post_norm_eps": 1e-8, "rms_norm_eps": 1e-5, "routed_scaling_factor": 1.0})
        }
        "inkling2_text" => json!({"mlp_gate_softcap": 4.0, "mlp_up_softcap": 25.0, "route_scale": 8.0}),
        "phimoe" => json!({"router_jitter_noise": 0.01}),
        "gpt_oss" => json!({"swiglu_alpha": 1.702, "swiglu_limit": 7.0}),
        "glm4_moe" | "glm4v_moe_text" => {
            json!({"first_k_dense_replace": 1, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.0})
        }
        "dots1" => {
            json!({"first_k_dense_replace": 0, "n_group": 1, "n_shared_experts": null, "norm_topk_prob": false, "routed_scaling_factor": 1.0})
        }
        "solar_open" | "mistral4" => {
            json!({"first_k_dense_replace": 0, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.0})
        }
        "glm4_moe_lite" => {
            json!({"first_k_dense_replace": 1, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.8})
        }
        "kimi_linear" => {
            json!({"first_k_dense_replace": 1, "moe_renormalize": true, "num_expert_group": 1, "num_shared_experts": 1, "routed_scaling_factor": 2.446})
        }
        "exaone_moe" => {
            json!({"first_k_dense_replace": 1, "n_group": 1, "norm_topk_prob": true, "num_shared_experts": 1, "routed_scaling_factor": 2.5})
        }
        "dots3_note_text" => {
            json!({"first_k_dense_replace": 1, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.0, "shared_experts_intermediate_size": 1536})
        }
        "bailing_hybrid" => {
            json!({"first_k_dense_replace": 2, "moe_renormalize": true, "num_expert_group": 8, "num_shared_experts": 1, "routed_scaling_factor": 2.5, "topk_group": 4})
        }
        "glm_moe_dsa" => {
            json!({"first_k_dense_replace": 3, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5})
        }
        "mimo_v2_flash" => {
            json!({"first_k_dense_replace": 1, "n_group": 1, "n_shared_experts": null, "norm_topk_prob": true, "routed_scaling_factor": 1.0})
        }
        "beam" => {
            json!({"first_k_dense_replace": 3, "n_group": 8, "n_shared_experts": null, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "topk_group": 4})
        }
        "axk2" => {
            json!({"first_k_dense_replace": 1, "n_group": null, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5})
        }
        "hy_v4" => {
            json!({"first_k_dense_replace": 1, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.827, "swiglu_limit": 10.0})
        }
        "glm5_next_text" => {
            json!({"first_k_dense_replace": 3, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "swiglu_limit": 10.0})
        }
        "nemotron_h" => {
            json!({"moe_latent_size": null, "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.0})
        }
        "deepseek_v2" => json!({"first_k_dense_replace": 0, "n_shared_experts": 2, "routed_scaling_factor": 1.0}),
        "mistral_large4_text" => {
            json!({"first_k_dense_replace": 1, "n_group": 1, "n_shared_experts": 1, "routed_scaling_factor": 1.0})
        }
        "deepseek_v4" => {
            json!({"n_shared_experts": 1, "num_hash_layers": 3, "routed_scaling_factor": 1.5, "swiglu_limit": 10.0})
        }
        "longcat_flash" => json!({"routed_scaling_factor": 6.0, "zero_expert_num": 256}),
        "hy_v3" => json!({"num_shared_experts": 1, "router_scaling_factor": 2.826}),
        "afmoe" => json!({"num_dense_layers": 1, "num_shared_experts": 2, "route_scale": 1.0}),
        "ernie4_5_moe" => json!({"moe_norm_min": 1e-12, "moe_num_shared_experts": 2}),
        "lfm2_moe" => {
            json!({"norm_topk_prob": true, "num_dense_layers": 2, "routed_scaling_factor": 1.0, "use_expert_bias": true})
        }
        "mellum" | "qwen3_omni_moe_text" => json!({"norm_topk_prob": true}),
        "qwen2_moe" => json!({"norm_topk_prob": false, "shared_expert_intermediate_size": 5632}),
        "qwen3_next" | "qwen4_exp_text" => json!({"norm_topk_prob": true, "shared_expert_intermediate_size": 512}),
        "qwen3_5_moe_text" => json!({"shared_expert_intermediate_size": 512}),
        "flint" => json!({"mlp_only_layers": [0, 1], "norm_topk_prob": true, "shared_expert_intermediate_size": 1024}),
        "kolibri1" => json!({"norm_topk_prob": false, "shared_expert_intermediate_size": 512}),
        "minimax_m3_vl_text" => {
            json!({"routed_scaling_factor": 2.0, "shared_intermediate_size": 3072, "swiglu_alpha": 1.702, "swiglu_limit": 7.0})
        }
        "step3p5" => json!({"moe_router_scaling_factor": 1.0, "share_expert_dim": 1280}),
        "laguna" => json!({"moe_routed_scaling_factor": 1.0, "shared_expert_intermediate_size": 512}),
        "granitemoeshared" | "granitemoe_swa" => json!({"shared_intermediate_size": 0}),
        "granitemoehybrid" => json!({"shared_intermediate_size": 1024}),
        "inkling_text" => json!({"dense_mlp_idx": 0, "n_shared_experts": 2, "route_scale": 8.0}),
        "aria_text" => json!({"moe_num_shared_experts": 2}),
        "deepseek_ocr2_text" | "unlimited_ocr_text" => {
            json!({"first_k_dense_replace": 1, "n_shared_experts": 2, "routed_scaling_factor": 1.0})
        }
        "gemma4_text" => {
            json!({"enable_moe_block": false, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6})
        }
        _ => json!({}),
    }
}
