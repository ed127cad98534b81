//! The path that a forward pass takes: which operators run and how often, and what happens where one is missing.

use ascend_moe::layer::{LayerOptions, MoeLayer};
use ascend_moe::spec::FloatType;
use ascend_moe::{Error, OperatorId};

use crate::checkpoints::{activations, load};
use crate::files::{self, CHECKPOINTS, DTYPES, Recorded, assert_near};
use crate::fillings::Rig;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for checkpoint in CHECKPOINTS {
        for (dtype, tolerance) in DTYPES {
            let name = |what: &str| format!("path::{checkpoint}::{dtype}::{what}");
            cases.push(case(name("operators"), move |rig: &Rig| operators(rig, checkpoint, dtype)));
            cases.push(case(name("each_operator_is_needed"), move |rig: &Rig| needed(rig, checkpoint, dtype)));
            cases.push(case(name("older_grouped_product"), move |rig: &Rig| {
                older_grouped_product(rig, checkpoint, dtype, tolerance);
            }));
        }
    }
    cases
}

/// What one forward pass runs, in the order of names. DeepSeek-V3 has a shared expert and a bias, and routes in f32;
/// Qwen3 and Mixtral route in the model's type, and Mixtral weighs in f32.
fn due(checkpoint: &str, dtype: FloatType) -> Vec<(&'static str, u64)> {
    const SAME: [(&str, u64); 3] = [("GroupedMatmulV5", 2), ("MoeGatingTopK", 1), ("MoeInitRoutingV3", 1)];
    let combine: &[(&str, u64)] = match (checkpoint, dtype) {
        ("deepseek-v3", FloatType::F16) => &[("Add", 1), ("MoeTokenUnpermute", 1)],
        (_, FloatType::F16) => &[("MoeTokenUnpermute", 1)],
        _ => &[("MoeFinalizeRoutingV2", 1)],
    };
    let dense: &[(&str, u64)] = match checkpoint {
        "deepseek-v3" => &[("Mm", 3), ("SwiGlu", 2)],
        _ => &[("Mm", 1), ("SwiGlu", 1)],
    };
    let casts: &[(&str, u64)] = match (checkpoint, dtype) {
        (_, FloatType::F32) | ("qwen3-moe", _) => &[],
        _ => &[("Cast", 1)],
    };
    let mut due = [&SAME[..], combine, dense, casts].concat();
    due.sort_unstable();
    due
}

fn operators(rig: &Rig, name: &str, dtype: FloatType) {
    let checkpoint = files::checkpoint(name);
    let index = checkpoint.moe_layers()[0];
    let recorded = Recorded::of(&checkpoint, index);
    let layer = load(rig, &checkpoint, index, dtype);
    assert_eq!(rig.operator_calls(), [], "loading runs no operator");
    let plan = MoeLayer::memory_plan(&rig.device, layer.spec(), LayerOptions::new(dtype), recorded.tokens).unwrap();
    assert!(plan.device_bytes() > 0);
    assert_eq!(rig.operator_calls(), [], "planning runs no operator");

    let x = activations(&layer, &recorded.input);
    for passes in 1..=3 {
        layer.forward(&rig.stream, x.view()).unwrap();
        let due: Vec<_> = due(name, dtype).into_iter().map(|(name, count)| (name, count * passes)).collect();
        assert_eq!(rig.operator_calls(), due, "{passes} passes");
    }

    let other = rig.without(&[]);
    let router = load(&other, &checkpoint, index, dtype);
    router.router().route(&other.stream, activations(&router, &recorded.input).view()).unwrap();
    let mut planned: Vec<&str> = layer.router().plan().operators().into_iter().map(OperatorId::name).collect();
    planned.sort_unstable();
    let ran: Vec<&str> =
        other.operator_calls().into_iter().flat_map(|(name, count)| vec![name; count as usize]).collect();
    assert_eq!(ran, planned, "the router runs what its plan says");
}

/// Without any one operator the pass fails before anything is queued, and names it.
fn needed(rig: &Rig, name: &str, dtype: FloatType) {
    const BOTH: [OperatorId; 2] = [OperatorId::GroupedMatmulV5, OperatorId::GroupedMatmulV4];
    let checkpoint = files::checkpoint(name);
    let index = checkpoint.moe_layers()[0];
    let input = Recorded::of(&checkpoint, index).input;
    let layer = load(rig, &checkpoint, index, dtype);
    layer.forward(&rig.stream, activations(&layer, &input).view()).unwrap();
    let used: Vec<OperatorId> = rig.cann.table().operator_calls().map(|(id, _)| id).collect();
    assert!(used.contains(&OperatorId::MoeInitRoutingV3) && used.contains(&BOTH[0]));
    for id in used {
        let absent = if id == BOTH[0] { &BOTH[..] } else { &[id] };
        let rig = rig.without(absent);
        let layer = load(&rig, &checkpoint, index, dtype);
        let x = activations(&layer, &input);
        match layer.forward(&rig.stream, x.view()) {
            Err(error @ Error::MissingOperator { tried, release }) => {
                assert_eq!((tried, release), (absent, rig.cann.release()));
                let text = error.to_string();
                assert!(absent.iter().all(|id| text.contains(&format!("aclnn{}", id.name()))), "{text}");
            }
            other => panic!("without {absent:?}: {other:?}"),
        }
        assert_eq!(rig.operator_calls(), [], "without {absent:?}");
        let plan = MoeLayer::memory_plan(&rig.device, layer.spec(), LayerOptions::new(dtype), 1);
        assert!(matches!(plan, Err(Error::MissingOperator { .. })), "the plan of a pass that cannot run: {plan:?}");
    }
}

/// Where the newest grouped product is missing the one before it runs, and the table says so.
fn older_grouped_product(rig: &Rig, name: &str, dtype: FloatType, tolerance: f64) {
    let checkpoint = files::checkpoint(name);
    let index = checkpoint.moe_layers()[0];
    let recorded = Recorded::of(&checkpoint, index);
    let rig = rig.without(&[OperatorId::GroupedMatmulV5]);
    let layer = load(&rig, &checkpoint, index, dtype);
    let result = layer.forward(&rig.stream, activations(&layer, &recorded.input).view()).unwrap();
    let output = result.output.to_f32(&rig.stream).unwrap();
    assert_near(&output, recorded.output.iter().map(|&v| v.into()), tolerance, "GroupedMatmulV4");
    let mut due = due(name, dtype);
    due.iter_mut().filter(|(name, _)| *name == "GroupedMatmulV5").for_each(|(name, _)| *name = "GroupedMatmulV4");
    due.sort_unstable();
    assert_eq!(rig.operator_calls(), due);
}
