"""Writes one tiny mixture-of-experts layer of every model family, with what the family's own modules compute.

    python generate.py [FAMILY ...]

Needs torch, transformers (5.24 wrote what is here) and safetensors. Each folder has `config.json` as `save_pretrained` writes
it, `model.safetensors` with the tensors of one layer under the names `save_pretrained` gives them, and
`activations.safetensors` with that layer's input and output, and what its router sees where that is
something else. Weights are random; what is not of the mixture is left out.
"""

import importlib
import os
import re
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

HERE = os.path.dirname(os.path.abspath(__file__))
COMMON = dict(
    vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    rms_norm_eps=1e-6, tie_word_embeddings=False,
)
mla = dict(q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16, num_key_value_heads=4)
FAMILIES = {
    "afmoe": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, num_dense_layers=1, num_shared_experts=2, route_scale=1.5, layer_types=["full_attention"]*3),
    "aria_text": dict(moe_num_experts=8, moe_topk=2, moe_num_shared_experts=2),
    "axk1": dict(**mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=4, topk_group=2, n_shared_experts=2),
    "axk2": dict(**mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=4, topk_group=2),
    "bailing_hybrid": dict(**mla, num_local_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=4, topk_group=2),
    "beam": dict(mlp_layer_types=["dense", "sparse", "sparse"], num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=4, topk_group=2),
    "cohere2_moe": dict(num_experts=8, num_experts_per_tok=2, num_shared_experts=2, layer_types=["full_attention"]*3),
    "cohere2_moe_sigmoid": dict(model="cohere2_moe", num_experts=8, num_experts_per_tok=2, num_shared_experts=1, expert_selection_fn="sigmoid", shared_expert_combination_strategy="sum", layer_types=["full_attention"]*3),
    "dbrx": dict(d_model=32, n_heads=4, n_layers=3, max_seq_len=128, attn_config=dict(kv_n_heads=2, rope_theta=10000.0, clip_qkv=8.0), ffn_config=dict(hidden_size=32, ffn_hidden_size=32, moe_num_experts=6, moe_top_k=2)),
    "deepseek_ocr2_text": dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, mlp_layer_types=["dense", "sparse", "sparse"]),
    "deepseek_v2": dict(**mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=4, topk_group=2, topk_method="group_limited_greedy", first_k_dense_replace=1, routed_scaling_factor=4.0),
    "deepseek_v32": dict(**mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=4, topk_group=2, first_k_dense_replace=1, index_n_heads=2, index_head_dim=16, index_topk=8),
    "deepseek_v4": dict(num_hidden_layers=3, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, swiglu_limit=0.5),
    "dots1": dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=2, first_k_dense_replace=1, routed_scaling_factor=2.0, norm_topk_prob=True, n_group=4, topk_group=2),
    "dots3_note_text": dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, shared_experts_intermediate_size=24, **mla),
    "ernie4_5_moe": dict(moe_num_experts=8, moe_k=2, moe_intermediate_size=16, moe_num_shared_experts=2, moe_layer_start_index=1),
    "exaone_moe": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, num_shared_experts=1, first_k_dense_replace=1),
    "flex_olmo": dict(num_experts=6, num_experts_per_tok=2, norm_topk_prob=True),
    "flint": dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True),
    "gemma4_text": dict(num_experts=8, top_k_experts=2, moe_intermediate_size=16, enable_moe_block=True, hidden_size_per_layer_input=0, layer_types=["full_attention"]*3),
    "glm4_moe": dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1, first_k_dense_replace=1, routed_scaling_factor=1.5, norm_topk_prob=True),
    "glm4_moe_lite": dict(**mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=2, routed_scaling_factor=1.8),
    "glm4v_moe_text": dict(head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2], partial_rotary_factor=0.5), n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1, first_k_dense_replace=1),
    "glm5_next_text": dict(mlp_layer_types=["dense", "sparse", "sparse"], layer_types=["full_attention"]*3, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, swiglu_limit=0.5, **{**mla, "qk_rope_head_dim": 0}),
    "glm_moe_dsa": dict(**mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1, first_k_dense_replace=1, index_n_heads=2, index_head_dim=16, index_topk=8),
    "gpt_oss": dict(num_local_experts=8, num_experts_per_tok=2, layer_types=["full_attention"]*3),
    "granitemoe": dict(num_local_experts=8, num_experts_per_tok=2),
    "granitemoe_swa": dict(num_local_experts=8, num_experts_per_tok=2, shared_intermediate_size=0),
    "granitemoehybrid": dict(mamba_n_heads=4, num_local_experts=8, num_experts_per_tok=2, shared_intermediate_size=20, layer_types=["attention"]*3),
    "granitemoeshared": dict(num_local_experts=8, num_experts_per_tok=2, shared_intermediate_size=20),
    "hunyuan_v1_moe": dict(num_experts=8, moe_topk=2),
    "hy_v3": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, num_shared_experts=1),
    "hy_v4": dict(**mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1, swiglu_limit=0.5),
    "inkling2_text": dict(vocab_size=200064, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, mlp_gate_softcap=0.5, mlp_up_softcap=0.75, route_scale=1.5),
    "inkling_mm_model": dict(text_config=dict(**COMMON, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=2, route_scale=2.5, swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_head_dim=8, d_rel=4, rel_extent=16, sliding_window_size=16)),
    "inkling_text": dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=2, route_scale=2.5, swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_head_dim=8, d_rel=4, rel_extent=16, sliding_window_size=16),
    "jamba": dict(num_experts=8, num_experts_per_tok=2, expert_layer_period=2, expert_layer_offset=1, attn_layer_period=1, attn_layer_offset=0, use_mamba_kernels=False),
    "kimi_linear": dict(**mla, num_local_experts=8, num_experts_per_tok=2, moe_intermediate_size=16),
    "kolibri1": dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True),
    "laguna": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=20, moe_routed_scaling_factor=1.5, layer_types=["full_attention"]*3),
    "lfm2_moe": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, num_dense_layers=1, use_expert_bias=True, layer_types=["full_attention"]*3, routed_scaling_factor=1.5),
    "llama4_text": dict(num_local_experts=8, num_experts_per_tok=1, interleave_moe_layer_step=1, intermediate_size_mlp=24, attention_chunk_size=64, no_rope_layers=[1, 1, 1]),
    "longcat_flash": dict(num_layers=2, n_routed_experts=8, zero_expert_num=4, moe_topk=3, expert_ffn_hidden_size=16, ffn_hidden_size=24, **mla, routed_scaling_factor=6.0, head_dim=8),
    "mellum": dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True),
    "mimo_v2_flash": dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16),
    "minimax": dict(num_local_experts=8, num_experts_per_tok=2, layer_types=["full_attention"]*3),
    "minimax_m2": dict(num_local_experts=8, num_experts_per_tok=2),
    "minimax_m3_vl_text": dict(num_local_experts=8, num_experts_per_tok=2, dense_intermediate_size=24, shared_intermediate_size=20, swiglu_limit=0.5),
    "mistral4": dict(head_dim=16, **mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=4, topk_group=2),
    "mistral_large4_text": dict(**mla, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=4, topk_group=2),
    "mixtral": dict(num_local_experts=8, num_experts_per_tok=2),
    "muse_spark_text": dict(num_local_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, moe_hidden_size=24),
    "nemotron_h": dict(layers_block_type=["attention", "moe", "moe"], n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, moe_shared_expert_intermediate_size=20, n_shared_experts=1, norm_topk_prob=True, routed_scaling_factor=2.0, n_group=1, topk_group=1),
    "nemotron_h_latent": dict(model="nemotron_h", layers_block_type=["attention", "moe", "moe"], n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, moe_shared_expert_intermediate_size=20, n_shared_experts=1, moe_latent_size=24, n_group=1, topk_group=1),
    "olmoe": dict(num_experts=6, num_experts_per_tok=2, norm_topk_prob=False),
    "phimoe": dict(num_local_experts=8, num_experts_per_tok=2, router_jitter_noise=0.2),
    "qwen2_moe": dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=20, norm_topk_prob=False, decoder_sparse_step=1),
    "qwen3_5_moe_text": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=20, layer_types=["full_attention"]*3),
    "qwen3_moe": dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True, mlp_only_layers=[1], decoder_sparse_step=1),
    "qwen3_next": dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=20, norm_topk_prob=True, layer_types=["full_attention"]*3),
    "qwen3_vl_moe_text": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16),
    "qwen4_exp_text": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=20, layer_types=["linear_attention"] * 3),
    "solar_open": dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1),
    "step3p5": dict(sliding_window=16, num_attention_groups=2, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, share_expert_dim=20, moe_router_scaling_factor=1.5, layer_types=["full_attention"]*3, mlp_layer_types=["dense", "sparse", "sparse"], swiglu_limits=[0, 0, 0.4], swiglu_limits_shared=[0, 0.3, 0]),
}
# Models that the automatic classes do not know.
CLASSES = {"step3p5": ("step3p7", "Step3p7TextModel"), "deepseek_ocr2_text": ("deepseek_ocr2", "DeepseekOcr2TextModel")}
BLOCK = re.compile(r"(?:layers|blocks)\.(\d+)\.(mlp|ffn|block_sparse_moe|feed_forward|moe|mixer)$")
# Parts of a layer that are not of its mixture.
OTHERS = re.compile(r"attn|attention|(?<!post_mlp_layer)(?<!_expert_)norm|conv|mamba|hyper|mlps\.|attn_hc|ffn_hc|hc_|input_mixer|alpha|beta")


def built(name, settings):
    settings = dict(settings)
    model_type = settings.pop("model", name)
    common = {k: v for k, v in COMMON.items() if model_type != "dbrx" or not re.search("hidden|head|position|eps|intermediate", k)}
    config = CONFIG_MAPPING[model_type](**(settings if "text_config" in settings else {**common, **settings}))
    if name == "inkling_mm_model":
        inkling = importlib.import_module("transformers.models.inkling.modeling_inkling")
        # Not of the mixture, and large whatever its configuration.
        inkling.InklingVisionModel = inkling.InklingAudioModel = type("Tower", (inkling.InklingPreTrainedModel,), {})
        return inkling.InklingForConditionalGeneration(config)
    if name in CLASSES:
        module, model = CLASSES[name]
        return getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), model)(config)
    auto = transformers.AutoModelForCausalLM
    auto = auto if type(config) in auto._model_mapping else transformers.AutoModel
    return auto.from_config(config, dtype=torch.float32)


def recorded(name, model):
    """Inputs and outputs of the mixtures in one forward pass over 9 tokens; Granite adds its shared expert outside."""
    found, beside = {}, {}
    flat = lambda x: x.detach().reshape(-1, x.shape[-1]).contiguous().clone()
    for path, module in model.named_modules():
        block = BLOCK.search(path)
        # The mixture of these stands between norms of the layer: its router and its experts are given different things.
        if name.startswith("gemma4") and (part := re.search(r"layers\.(\d+)\.(router|experts)$", path)):

            def keep_part(_, args, out, layer=int(part.group(1)), is_router=part.group(2) == "router"):
                kept = {"router_input": flat(args[0])} if is_router else {"input": flat(args[0]), "output": flat(out)}
                found.setdefault(layer, {}).update(kept)

            module.register_forward_hook(keep_part)
        if block and hasattr(module, "experts"):

            def keep(_, args, kwargs, out, layer=int(block.group(1))):
                x = args[0] if args else next(iter(kwargs.values()))
                found[layer] = {"input": flat(x), "output": flat(out[0] if isinstance(out, tuple) else out)}

            module.register_forward_hook(keep, with_kwargs=True)
        shared = re.search(r"layers\.(\d+)\.shared_mlp$", path)
        if shared and name.startswith("granite"):
            module.register_forward_hook(lambda _, a, out, layer=int(shared.group(1)): beside.update({layer: flat(out)}))
    ids = torch.randint(3, 90, (1, 9))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for layer, out in beside.items():
        found[layer]["output"] = found[layer]["output"] + out
    return ids[0].contiguous(), found


def write(name, settings):
    torch.manual_seed(sum(name.encode()))
    model = built(name, settings).eval()
    with torch.no_grad():
        for path, values in [*model.named_parameters(), *model.named_buffers()]:
            if not values.is_floating_point():
                continue
            if values.dim() >= 2:
                values.normal_(0, values.shape[-1] ** -0.5)
            if "bias" in path and any(part in path for part in ("score", "expert", "gate", "router")):
                values.normal_(0, 0.3)
            # Ones otherwise, and what a norm gives would be the same to the norm behind it.
            if path.endswith(("router.scale", "per_expert_scale", "pre_feedforward_layernorm_2.weight")):
                values.uniform_(0.5, 1.5)
            if path.endswith("gate.global_scale"):
                values.fill_(1.25)
    ids, found = recorded(name, model)
    # The first mixture where experts are chosen by token id, else the last.
    layer = min(found) if name == "deepseek_v4" else max(found)
    folder = os.path.join(HERE, name)
    with tempfile.TemporaryDirectory() as whole:
        model.save_pretrained(whole)
        tensors = load_file(os.path.join(whole, "model.safetensors"))
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(whole, "config.json")) as source, open(os.path.join(folder, "config.json"), "w") as to:
            to.write(source.read())
    inside = re.compile(rf"(?:layers|blocks)\.{layer}\.")
    kept = {k: v.contiguous() for k, v in tensors.items() if inside.search(k) and not OTHERS.search(k)}
    save_file(kept, os.path.join(folder, "model.safetensors"))
    activations = {f"layers.{layer}.mlp.{what}": values for what, values in found[layer].items()}
    save_file({**activations, "input_ids": ids}, os.path.join(folder, "activations.safetensors"))
    print(name, "layer", layer, sorted(kept)[:4], flush=True)


for name, settings in FAMILIES.items():
    if not sys.argv[1:] or name in sys.argv[1:]:
        write(name, settings)
