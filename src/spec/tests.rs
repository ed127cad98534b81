//! Configurations as they are published, and every way to get one wrong.

use serde_json::{Value, json};

use super::*;

fn deepseek() -> Value {
    json!({
        "model_type": "deepseek_v3", "torch_dtype": "bfloat16", "num_hidden_layers": 61, "hidden_size": 7168,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 3, "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
        "hidden_act": "silu", "ep_size": 1, "num_nextn_predict_layers": 1, "num_attention_heads": 128
    })
}

fn qwen() -> Value {
    json!({
        "model_type": "qwen3_moe", "torch_dtype": "bfloat16", "num_hidden_layers": 48, "hidden_size": 2048,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu"
    })
}

fn mixtral() -> Value {
    json!({
        "model_type": "mixtral", "torch_dtype": "bfloat16", "num_hidden_layers": 32, "hidden_size": 4096,
        "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2, "hidden_act": "silu",
        "router_jitter_noise": 0.0, "router_aux_loss_coef": 0.02
    })
}

fn with(mut config: Value, field: &str, value: Value) -> Value {
    config[field] = value;
    config
}

fn without(mut config: Value, field: &str) -> Value {
    config.as_object_mut().unwrap().remove(field);
    config
}

fn read(config: &Value) -> ModelSpec {
    ModelSpec::from_config(config).unwrap()
}

fn refused(config: &Value) -> SpecError {
    match ModelSpec::from_config(config) {
        Err(error) => error,
        Ok(model) => panic!("not refused: {}", model.model_type()),
    }
}

fn moe(config: &Value) -> MoeSpec {
    let model = read(config);
    *model.moe(model.moe_layers()[0]).unwrap()
}

#[test]
fn deepseek_v3_as_published() {
    let model = read(&deepseek());
    assert_eq!((model.model_type(), model.family()), ("deepseek_v3", "deepseek_v3"));
    assert_eq!((model.dtype(), model.num_layers()), (FloatType::Bf16, 61));
    assert_eq!(model.moe_layers(), (3..61).collect::<Vec<_>>());
    let router = RouterSpec {
        choice_bias: true,
        choice: Choice::Groups(GroupSpec::new(8, 4, GroupScore::Top2Sum)),
        norm: Normalise::Sum { eps: 1e-20 },
        scale: 2.5,
        ..RouterSpec::new(Score::Sigmoid, 8)
    };
    let expected = MoeSpec::new(router, ExpertSpec::new(256, 7168, 2048), Some(SharedSpec::new(2048))).unwrap();
    assert_eq!(model.moe(3), Some(&expected));
    assert_eq!((model.moe(2), model.moe(61)), (None, None));
    assert_eq!((expected.router().logits, expected.router().weights), (Precision::F32, Precision::F32));
    assert!(!model.names().transposed() && !model.names().interleaved());
}

#[test]
fn deepseek_v3_variants() {
    for (model_type, family) in
        [("deepseek_v32", "deepseek_v3"), ("kimi_k2", "deepseek_v3"), ("glm4_moe", "glm4_moe"), ("dots1", "glm4_moe")]
    {
        let model = read(&with(deepseek(), "model_type", json!(model_type)));
        assert_eq!((model.model_type(), model.family()), (model_type, family));
        assert_eq!(model.moe(3), read(&deepseek()).moe(3));
    }
    for none in [json!(null), json!(0)] {
        assert_eq!(moe(&with(deepseek(), "n_shared_experts", none)).shared(), None);
    }
    assert_eq!(moe(&with(deepseek(), "n_shared_experts", json!(2))).shared(), Some(&SharedSpec::new(4096)));
    assert_eq!(moe(&with(deepseek(), "norm_topk_prob", json!(false))).router().norm, Normalise::None);
    let every_third = with(deepseek(), "moe_layer_freq", json!(3));
    assert_eq!(read(&every_third).moe_layers(), (3..61).step_by(3).collect::<Vec<_>>());
}

#[test]
fn groups_of_one_or_none() {
    for one in [json!(1), json!(null)] {
        let config = with(with(deepseek(), "n_group", one.clone()), "topk_group", one);
        assert_eq!(moe(&config).router().choice, Choice::TopK);
    }
    // DeepSeek's own class takes 8 groups where the field is absent, those of the others one.
    let absent = without(without(deepseek(), "n_group"), "topk_group");
    assert!(matches!(refused(&absent), SpecError::Missing { field: "n_group", .. }));
    assert_eq!(moe(&with(absent, "model_type", json!("glm4_moe"))).router().choice, Choice::TopK);
}

#[test]
fn a_nested_text_model() {
    let text = without(with(deepseek(), "model_type", json!("kimi_k2")), "torch_dtype");
    let config = json!({"model_type": "kimi_k25", "dtype": "bfloat16", "text_config": text, "vision_config": {}});
    let model = read(&config);
    assert_eq!((model.model_type(), model.dtype()), ("kimi_k2", FloatType::Bf16));
    assert_eq!(
        refused(&with(config.clone(), "text_config", json!([]))),
        SpecError::NotAnObject { field: "text_config", found: "a list" }
    );
    let wrapped_twice = with(config.clone(), "text_config", config);
    assert!(matches!(refused(&wrapped_twice), SpecError::UnknownFamily { .. }));
}

#[test]
fn qwen3_moe_as_published() {
    let model = read(&qwen());
    assert_eq!((model.family(), model.moe_layers().len()), ("qwen3_moe", 48));
    let router = RouterSpec {
        norm: Normalise::Sum { eps: 0.0 },
        logits: Precision::Model,
        weights: Precision::Model,
        ..RouterSpec::new(Score::Softmax, 8)
    };
    assert_eq!(model.moe(0), Some(&MoeSpec::new(router, ExpertSpec::new(128, 2048, 768), None).unwrap()));
    assert_eq!(moe(&with(qwen(), "norm_topk_prob", json!(false))).router().norm, Normalise::None);
    let renamed = with(without(qwen(), "num_experts"), "num_local_experts", json!(128));
    assert_eq!(read(&renamed).moe(0), model.moe(0));
    let sparse = with(with(qwen(), "decoder_sparse_step", json!(2)), "mlp_only_layers", json!([1, 5, 4]));
    assert_eq!(read(&sparse).moe_layers(), (1..48).step_by(2).filter(|n| ![1, 5].contains(n)).collect::<Vec<_>>());
}

#[test]
fn mixtral_as_published() {
    let model = read(&mixtral());
    let router = RouterSpec {
        norm: Normalise::Sum { eps: 0.0 },
        logits: Precision::Model,
        ..RouterSpec::new(Score::Softmax, 2)
    };
    assert_eq!(model.moe(31), Some(&MoeSpec::new(router, ExpertSpec::new(8, 4096, 14336), None).unwrap()));
}

#[test]
fn the_models_type() {
    for (name, dtype) in [("float32", FloatType::F32), ("torch.float16", FloatType::F16), ("bfloat16", FloatType::Bf16)]
    {
        assert_eq!(read(&with(without(qwen(), "torch_dtype"), "dtype", json!(name))).dtype(), dtype);
    }
    let conflict = refused(&with(qwen(), "dtype", json!("float16")));
    assert!(matches!(conflict, SpecError::Conflict { first: "dtype", second: "torch_dtype", .. }));
    assert!(matches!(refused(&without(qwen(), "torch_dtype")), SpecError::Missing { field: "dtype", .. }));
    for wrong in [json!("float8_e4m3fn"), json!(32)] {
        assert!(matches!(
            refused(&with(qwen(), "torch_dtype", wrong)),
            SpecError::Unsupported { field: "torch_dtype", .. }
        ));
    }
}

#[test]
fn not_an_object() {
    for (value, found) in [(json!(null), "null"), (json!([1]), "a list"), (json!("x"), "a string")] {
        assert_eq!(refused(&value), SpecError::NotAnObject { field: "config.json", found });
    }
}

#[test]
fn unknown_families_list_the_known() {
    for name in ["llama", "deepseek_v5", &"x".repeat(1_000_000)] {
        let error = refused(&with(qwen(), "model_type", json!(name)));
        assert!(matches!(&error, SpecError::UnknownFamily { known, .. } if known.contains("deepseek_v3, ")));
        assert!(error.to_string().len() < 2000);
    }
    assert!(matches!(refused(&without(qwen(), "model_type")), SpecError::Missing { field: "model_type", .. }));
    let number = with(qwen(), "model_type", json!(3));
    assert_eq!(refused(&number), SpecError::WrongType { field: "model_type", value: "3".into(), legal: "a string" });
}

#[test]
fn every_field_that_matters_is_needed() {
    let needed = [
        (deepseek(), "num_hidden_layers"),
        (deepseek(), "hidden_size"),
        (deepseek(), "moe_intermediate_size"),
        (deepseek(), "n_routed_experts"),
        (deepseek(), "n_shared_experts"),
        (deepseek(), "num_experts_per_tok"),
        (deepseek(), "topk_group"),
        (deepseek(), "norm_topk_prob"),
        (deepseek(), "routed_scaling_factor"),
        (deepseek(), "first_k_dense_replace"),
        (qwen(), "num_experts"),
        (mixtral(), "num_local_experts"),
        (mixtral(), "intermediate_size"),
    ];
    for (config, name) in needed {
        let error = refused(&without(config, name));
        assert!(matches!(error, SpecError::Missing { field, .. } if field == name), "{name}: {error}");
    }
}

#[test]
fn fields_of_another_json_type() {
    let wrong = [
        ("num_hidden_layers", json!("61")),
        ("hidden_size", json!(7168.0)),
        ("n_routed_experts", json!([256])),
        ("num_experts_per_tok", json!(true)),
        ("n_shared_experts", json!({})),
        ("norm_topk_prob", json!(1)),
        ("routed_scaling_factor", json!("2.5")),
    ];
    for (name, value) in wrong {
        let error = refused(&with(deepseek(), name, value));
        assert!(matches!(error, SpecError::WrongType { field, .. } if field == name), "{name}: {error}");
    }
    for value in [json!(3), json!([[1]]), json!([1.5])] {
        assert!(matches!(
            refused(&with(qwen(), "mlp_only_layers", value)),
            SpecError::WrongType { field: "mlp_only_layers", .. }
        ));
    }
}

#[test]
fn absurd_sizes() {
    let sizes = [
        ("num_hidden_layers", MAX_LAYERS),
        ("hidden_size", MAX_WIDTH),
        ("moe_intermediate_size", MAX_WIDTH),
        ("n_routed_experts", MAX_EXPERTS),
    ];
    for (name, most) in sizes {
        for value in [json!(0), json!(-1), json!(most + 1), json!(1_000_000_000), json!(u64::MAX), json!(i64::MIN)] {
            let expected = SpecError::OutOfRange { field: name, value: value.to_string(), min: 1, max: most };
            assert_eq!(refused(&with(deepseek(), name, value)), expected);
        }
    }
    let steps = [(deepseek(), "moe_layer_freq"), (qwen(), "decoder_sparse_step"), (deepseek(), "n_group")];
    for (config, name) in steps {
        let error = refused(&with(config, name, json!(0)));
        assert!(matches!(error, SpecError::OutOfRange { field, min: 1, .. } if field == name), "{name}: {error}");
    }
    let shared = refused(&with(deepseek(), "n_shared_experts", json!(MAX_WIDTH)));
    assert_eq!(
        shared,
        SpecError::OutOfRange { field: "n_shared_experts", value: "1048576".into(), min: 0, max: MAX_WIDTH / 2048 }
    );
}

#[test]
fn sizes_whose_product_is_absurd() {
    let mut config = qwen();
    for (field, value) in
        [("num_experts", MAX_EXPERTS), ("hidden_size", MAX_WIDTH), ("moe_intermediate_size", MAX_WIDTH)]
    {
        config[field] = json!(value);
    }
    let wide = 1_u128 << 20;
    let elements = (1_u128 << 16) * ((wide + 2) + 2 * wide * (wide + 1) + wide * (wide + 1));
    assert_eq!(refused(&config), SpecError::LayerTooLarge { elements, max: MAX_LAYER_ELEMENTS });
}

#[test]
fn choices_that_are_impossible() {
    let mut config = deepseek();
    config["n_routed_experts"] = json!(16);
    config["n_group"] = json!(4);
    config["topk_group"] = json!(2);
    config["num_experts_per_tok"] = json!(8);
    assert!(ModelSpec::from_config(&config).is_ok());
    let wrong = [
        ("num_experts_per_tok", 0, SpecError::TopK { top_k: 0, experts: 16 }),
        ("num_experts_per_tok", 17, SpecError::TopK { top_k: 17, experts: 16 }),
        ("num_experts_per_tok", 9, SpecError::TopKInGroups { top_k: 9, topk_group: 2, per_group: 4 }),
        ("n_group", 5, SpecError::UnevenGroups { experts: 16, n_group: 5 }),
        ("n_group", 16, SpecError::SmallGroups { per_group: 1 }),
        ("n_group", 1, SpecError::TopkGroup { topk_group: 2, n_group: 1 }),
        ("topk_group", 0, SpecError::TopkGroup { topk_group: 0, n_group: 4 }),
        ("topk_group", 5, SpecError::TopkGroup { topk_group: 5, n_group: 4 }),
    ];
    for (field, value, expected) in wrong {
        assert_eq!(refused(&with(config.clone(), field, json!(value))), expected);
    }
    let more_groups = with(config, "n_group", json!(32));
    assert_eq!(refused(&more_groups), SpecError::OutOfRange { field: "n_group", value: "32".into(), min: 1, max: 16 });
}

#[test]
fn scales_that_are_none() {
    for value in [0.0, -2.5] {
        assert_eq!(
            refused(&with(deepseek(), "routed_scaling_factor", json!(value))),
            SpecError::NotPositive { field: "routed_scaling_factor", value }
        );
    }
    assert_eq!(moe(&with(deepseek(), "routed_scaling_factor", json!(16))).router().scale, 16.0);
}

#[test]
fn two_names_that_disagree() {
    let config = with(qwen(), "num_local_experts", json!(64));
    assert_eq!(
        refused(&config),
        SpecError::Conflict {
            first: "num_experts",
            first_value: "128".into(),
            second: "num_local_experts",
            second_value: "64".into()
        }
    );
    assert!(ModelSpec::from_config(&with(qwen(), "num_local_experts", json!(128))).is_ok());
}

#[test]
fn fields_that_would_change_the_result() {
    let foreign = [
        (deepseek(), "hidden_act", json!("gelu")),
        (deepseek(), "scoring_func", json!("softmax")),
        (deepseek(), "scoring_func", json!("sqrtsoftplus")),
        (deepseek(), "topk_method", json!("group_limited_greedy")),
        (deepseek(), "topk_method", json!(["noaux_tc"])),
        (deepseek(), "swiglu_limit", json!(10.0)),
        (deepseek(), "mlp_only_layers", json!([4])),
        (deepseek(), "num_hash_layers", json!(3)),
        (qwen(), "hidden_act", json!("relu2")),
        (qwen(), "scoring_func", json!("sigmoid")),
        (qwen(), "n_shared_experts", json!(1)),
        (qwen(), "shared_expert_intermediate_size", json!(512)),
        (qwen(), "routed_scaling_factor", json!(2.5)),
        (qwen(), "n_group", json!(4)),
        (qwen(), "first_k_dense_replace", json!(1)),
        (mixtral(), "norm_topk_prob", json!(false)),
        (mixtral(), "decoder_sparse_step", json!(2)),
        (mixtral(), "zero_expert_num", json!(2)),
    ];
    for (config, name, value) in foreign {
        let changed = with(config.clone(), name, value);
        assert!(ModelSpec::from_config(&changed).is_err(), "{name}");
        let error = refused(&changed);
        assert!(matches!(error, SpecError::Unsupported { field, .. } if field == name), "{name}: {error}");
        assert!(ModelSpec::from_config(&with(config, name, json!(null))).is_ok(), "{name} null");
    }
    assert!(ModelSpec::from_config(&with(mixtral(), "norm_topk_prob", json!(true))).is_ok());
}

fn pangu() -> Value {
    json!({
        "model_type": "PanguProMoE", "torch_dtype": "bfloat16", "num_hidden_layers": 48, "hidden_size": 5120,
        "moe_intermediate_size": 1344, "num_experts": 64, "num_experts_per_tok": 8, "mlp_only_layers": [],
        "shared_expert_intermediate_size": 5376, "hidden_act": "silu"
    })
}

fn dbrx() -> Value {
    json!({
        "model_type": "dbrx", "torch_dtype": "bfloat16", "d_model": 6144, "n_layers": 40, "n_heads": 48,
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4, "moe_jitter_eps": 0.01}
    })
}

#[test]
fn one_expert_of_each_group_with_a_factor() {
    let model = moe(&pangu());
    let router = model.router();
    assert_eq!((router.choice, router.top_k), (Choice::EachGroup { n_group: 8 }, 8));
    assert_eq!((router.score, router.norm, router.expert_scale), (Score::Softmax, Normalise::None, true));
    assert_eq!(model.shape(Part::ExpertScale), Some(vec![64]));
    assert_eq!(model.shared().map(|shared| shared.intermediate), Some(5376));
    read(&with(pangu(), "num_groups", json!(8)));
    let error = refused(&with(pangu(), "num_groups", json!(4))).to_string();
    assert!(error.contains("num_groups") && error.contains("num_experts_per_tok"), "{error}");
}

#[test]
fn fields_in_an_object_of_their_own() {
    let model = moe(&dbrx());
    let (router, experts) = (model.router(), model.experts());
    assert_eq!((experts.num, experts.hidden, experts.intermediate, router.top_k), (16, 6144, 10752, 4));
    assert_eq!(router.norm, Normalise::Sum { eps: 0.0 });
    let inner = |field: &str, value: Value| {
        let mut config = dbrx();
        config["ffn_config"][field] = value;
        config
    };
    assert_eq!(moe(&inner("moe_normalize_expert_weights", Value::Null)).router().norm, Normalise::None);
    for (field, value) in [
        ("moe_normalize_expert_weights", json!(2.0)),
        ("ffn_act_fn", json!({"name": "gelu"})),
        ("hidden_size", json!(4096)),
    ] {
        let error = refused(&inner(field, value)).to_string();
        assert!(error.contains(field), "{error}");
    }
    assert!(matches!(refused(&without(dbrx(), "ffn_config")), SpecError::Missing { field: "ffn_config", .. }));
}

fn gemma() -> Value {
    json!({
        "model_type": "gemma4_text", "dtype": "bfloat16", "num_hidden_layers": 30, "hidden_size": 2816,
        "intermediate_size": 2112, "moe_intermediate_size": 704, "num_experts": 128, "top_k_experts": 8,
        "enable_moe_block": true, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6
    })
}

#[test]
fn a_router_with_a_norm_of_its_own() {
    let model = read(&gemma());
    assert_eq!(model.moe_layers(), (0..30).collect::<Vec<_>>());
    let router = RouterSpec {
        input_norm: Some(InputNorm { eps: 1e-6, scale: 2816_f64.powf(-0.5) }),
        logits: Precision::Model,
        norm: Normalise::Sum { eps: 0.0 },
        expert_scale: true,
        ..RouterSpec::new(Score::Softmax, 8)
    };
    let activation = Activation::new(ActivationFn::GeluTanh);
    let experts = ExpertSpec { activation, ..ExpertSpec::new(128, 2816, 704) };
    let expected = MoeSpec::new(router, experts, None).unwrap();
    assert_eq!(model.moe(29), Some(&expected));
    assert_eq!(expected.shape(Part::RouterNorm), Some(vec![2816]));
    assert_eq!(expected.part_type(Part::RouterNorm, FloatType::Bf16), FloatType::Bf16);
    let wrapped = json!({"model_type": "gemma4", "dtype": "bfloat16", "text_config": gemma(), "vision_config": {}});
    assert_eq!(read(&wrapped).moe(29), Some(&expected));
    // What its class takes for fields that are not written.
    assert_eq!(moe(&without(without(gemma(), "rms_norm_eps"), "hidden_activation")), expected);

    // A dense model does not say how large a mixture would be.
    let dense = without(without(without(gemma(), "num_experts"), "top_k_experts"), "moe_intermediate_size");
    for dense in [with(dense.clone(), "enable_moe_block", json!(false)), without(dense, "enable_moe_block")] {
        assert_eq!(refused(&dense), SpecError::NoMoeLayer { num_layers: 30, rule: "`enable_moe_block`" });
    }
    for field in ["num_experts", "top_k_experts", "moe_intermediate_size"] {
        assert!(
            matches!(refused(&with(gemma(), field, json!(null))), SpecError::Missing { field: f, .. } if f == field)
        );
    }
    let erf = refused(&with(gemma(), "hidden_activation", json!("gelu")));
    assert!(matches!(erf, SpecError::Unsupported { field: "hidden_activation", .. }), "{erf:?}");

    let normed = |eps, scale| {
        MoeSpec::new(RouterSpec { input_norm: Some(InputNorm { eps, scale }), ..router }, experts, None).unwrap_err()
    };
    assert_eq!(normed(-1.0, 1.0), SpecError::Epsilon { value: -1.0 });
    for value in [0.0, -1.0, f64::INFINITY] {
        assert_eq!(normed(0.0, value), SpecError::NotPositive { field: "input_norm.scale", value });
    }
}

#[test]
fn the_sparse_mixer_chooses_two() {
    let phi = with(mixtral(), "model_type", json!("phimoe"));
    let phi = with(phi, "router_jitter_noise", json!(0.01));
    assert_eq!(moe(&phi).router().weigh, Weigh::SparseMixer { jitter: 0.01 });
    assert!(refused(&with(phi.clone(), "num_experts_per_tok", json!(3))).to_string().contains("num_experts_per_tok"));
    assert!(matches!(refused(&with(phi, "router_jitter_noise", json!(0.0))), SpecError::NotPositive { .. }));
    let mut router = RouterSpec::new(Score::Logits, 2);
    router.weigh = Weigh::SparseMixer { jitter: 0.01 };
    router.choice = Choice::EachGroup { n_group: 2 };
    let error = MoeSpec::new(router, ExpertSpec::new(8, 16, 16), None);
    assert!(matches!(error, Err(SpecError::MixedChoice)), "{error:?}");
}

#[test]
fn models_without_a_mixture() {
    for first in [61, 10_000] {
        let error = refused(&with(deepseek(), "first_k_dense_replace", json!(first)));
        assert!(matches!(error, SpecError::NoMoeLayer { num_layers: 61, .. }));
    }
    let dense = with(with(qwen(), "num_hidden_layers", json!(2)), "mlp_only_layers", json!([0, 1, 7]));
    assert!(matches!(refused(&dense), SpecError::NoMoeLayer { num_layers: 2, .. }));
}

#[test]
fn bytes_of_the_weights() {
    let spec = moe(&deepseek());
    let bytes = |part| spec.part_bytes(part, FloatType::Bf16);
    assert_eq!(bytes(Part::Router), 256 * 7168 * 4, "the router is float32 in any case");
    assert_eq!(bytes(Part::ChoiceBias), 256 * 4);
    assert_eq!(bytes(Part::W13), 256 * 2 * 2048 * 7168 * 2);
    assert_eq!(bytes(Part::W2), 256 * 7168 * 2048 * 2);
    assert_eq!(bytes(Part::SharedW13), spec.fill_bytes(Part::W13, FloatType::Bf16), "as large as one expert's");
    assert_eq!(bytes(Part::SharedGate), 0);
    assert_eq!(spec.weight_bytes(FloatType::Bf16), 7_340_032 + 1024 + 257 * 3 * 2048 * 7168 * 2);
    let qwen = moe(&qwen());
    assert_eq!(qwen.part_bytes(Part::Router, FloatType::Bf16), 128 * 2048 * 2);
    assert_eq!(qwen.weight_bytes(FloatType::F32), 4 * (128 * 2048 + 128 * 3 * 768 * 2048));
    assert_eq!(qwen.part_bytes(Part::SharedW13, FloatType::F32), 0);
}

#[test]
fn fields_about_experts_that_nobody_reads() {
    let on = [
        ("moe_router_temperature", json!(2.0)),
        ("expert_gains", json!([1.0, 0.5])),
        ("use_moe_skip", json!(true)),
        ("router_kind", json!("cosine")),
        ("routed_bias", json!({"scale": 2})),
        ("moe_gate", json!("sinkhorn")),
        ("router_dtype", json!("bf16")),
        ("norm_expert_weight", json!(false)),
    ];
    for (config, (name, value)) in [deepseek(), qwen(), mixtral()].into_iter().cycle().zip(on) {
        let error = refused(&with(config, name, value));
        let named = match &error {
            SpecError::UnknownField { field, .. } => field == name,
            SpecError::Unsupported { field, .. } => *field == name,
            _ => false,
        };
        assert!(named && error.to_string().contains("legal is"), "{name}: {error}");
    }
    for off in [json!(null), json!(false), json!(0), json!(0.0), json!(""), json!([]), json!({})] {
        assert!(ModelSpec::from_config(&with(qwen(), "moe_router_temperature", off)).is_ok());
    }
    // What training adds and serving distributes, generation, attention.
    let of_no_account = [
        ("router_z_loss_coef", json!(0.001)),
        ("moe_aux_loss_coeff", json!(0.01)),
        ("router_jitter_noise", json!(0.1)),
        ("moe_capacity", json!([64, 64, 64])),
        ("moe_router_bias_update_speed", json!(0.001)),
        ("expert_model_parallel_size", json!(8)),
        ("ep_size", json!(8)),
        ("output_router_logits", json!(true)),
        ("index_topk", json!(2048)),
        ("top_k", json!(50)),
        ("moe_gate", json!("topk")),
        ("router_dtype", json!("fp32")),
    ];
    for (name, value) in of_no_account {
        assert!(ModelSpec::from_config(&with(deepseek(), name, value)).is_ok(), "{name}");
    }
    let long = refused(&with(qwen(), &"moe".repeat(100_000), json!("x".repeat(100_000))));
    assert!(matches!(long, SpecError::UnknownField { .. }) && long.to_string().len() < 400);
}

#[test]
fn floors_that_are_none() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/families/ernie4_5_moe/config.json");
    let ernie: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let model = read(&ernie);
    assert_eq!(model.moe(model.moe_layers()[0]).unwrap().router().norm, Normalise::SumFloor { min: 1e-12 });
    for value in [json!(-1e-12), json!(-1), json!("0.1"), json!(true)] {
        let error = refused(&with(ernie.clone(), "moe_norm_min", value.clone()));
        let due =
            SpecError::WrongType { field: "moe_norm_min", value: value.to_string(), legal: "a number, 0 or above" };
        assert_eq!(error, due);
    }
}

#[test]
fn shared_experts_weighted_with_the_others() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/families/inkling_text/config.json");
    let inkling: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let first = |config: &Value| *read(config).moe(0).unwrap();
    let spec = first(&inkling);
    let (router, experts) = (spec.router(), spec.experts());
    assert_eq!((experts.num, router.top_k, router.always, router.choices()), (10, 2, 2, 4));
    assert_eq!((router.scale, router.weight_scale, spec.shared()), (2.5, true, None));
    let shapes = [Part::Router, Part::ChoiceBias, Part::WeightScale].map(|part| spec.shape(part).unwrap());
    assert_eq!(shapes, [vec![10, 32], vec![8], vec![1]]);
    // Beside the width of dense layers `intermediate_size` is an expert's.
    assert_eq!((experts.intermediate, inkling["intermediate_size"].as_u64()), (16, Some(24)));
    let apart = with(inkling.clone(), "dense_intermediate_size", json!(40));
    assert_eq!(first(&apart).experts().intermediate, 24);
    let sink = refused(&with(inkling.clone(), "shared_expert_sink", json!(false)));
    assert!(matches!(sink, SpecError::Unsupported { field: "shared_expert_sink", .. }), "{sink}");
    let none = refused(&with(inkling, "n_shared_experts", json!(0)));
    assert!(matches!(none, SpecError::OutOfRange { field: "n_shared_experts", .. }), "{none}");
}

#[test]
fn fields_that_contradict_each_other() {
    let conflicts = |config: &Value, names: [&str; 2]| match refused(config) {
        SpecError::Conflict { first, second, .. } => assert_eq!([first, second], names),
        other => panic!("{other}"),
    };
    let twice = with(qwen(), "experts_per_token", json!(4));
    conflicts(&twice, ["num_experts_per_tok", "experts_per_token"]);
    assert!(ModelSpec::from_config(&with(twice, "experts_per_token", json!(8))).is_ok());
    conflicts(&with(deepseek(), "num_shared_experts", json!(2)), ["n_shared_experts", "num_shared_experts"]);
    conflicts(&with(deepseek(), "moe_renormalize", json!(false)), ["norm_topk_prob", "moe_renormalize"]);
    let kinds = |count: usize| with(deepseek(), "mlp_layer_types", json!(vec!["sparse"; count]));
    conflicts(&kinds(60), ["mlp_layer_types", "num_hidden_layers"]);
    assert!(ModelSpec::from_config(&kinds(61)).is_ok());
    let flags = with(deepseek(), "moe_layer_freq", json!(vec![1; 60]));
    conflicts(&flags, ["moe_layer_freq", "num_hidden_layers"]);
}

mod mutated {
    use proptest::prelude::*;

    use super::*;

    fn anything() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|b| json!(b)),
            any::<i64>().prop_map(|n| json!(n)),
            any::<u64>().prop_map(|n| json!(n)),
            (0_u64..40).prop_map(|n| json!(n)),
            any::<f64>().prop_map(|x| json!(x)),
            ".*".prop_map(|s| json!(s)),
            prop::collection::vec(any::<i32>(), 0..4).prop_map(|v| json!(v)),
        ]
    }

    proptest! {
        /// Whatever two fields become, the answer is a legal model or an error of readable length, never a panic.
        #[test]
        fn never_a_panic(
            base in 0_usize..3,
            changes in prop::collection::vec((any::<prop::sample::Index>(), anything()), 1..3),
        ) {
            let mut config = [deepseek(), qwen(), mixtral()][base].clone();
            let names: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
            for (which, value) in changes {
                config[which.get(&names)] = value;
            }
            match ModelSpec::from_config(&config) {
                Ok(model) => {
                    let spec = model.moe(model.moe_layers()[0]).unwrap();
                    prop_assert!(spec.router().top_k <= spec.experts().num);
                    prop_assert!(spec.weight_bytes(FloatType::F32) > 0);
                }
                Err(error) => prop_assert!(error.to_string().len() < 2000),
            }
        }
    }
}
