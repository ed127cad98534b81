//! The path that a forward pass takes: which operators run and how often, and what happens where one is missing.

use std::collections::BTreeMap;

use ascend_moe::layer::{LayerOptions, MoeLayer, RouterPlan};
use ascend_moe::spec::FloatType;
use ascend_moe::{Error, OperatorId};

use crate::checkpoints::{Given, load};
use crate::files::{self, CHECKPOINTS, DTYPES, Recorded, assert_near};
use crate::fillings::Rig;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for checkpoint in CHECKPOINTS {
        for (dtype, tolerance) in DTYPES {
            let name = |what: &str| format!("path::{checkpoint}::{dtype}::{what}");
            cases.push(case(name("operators"), move |rig: &Rig| operators(rig, checkpoint, dtype)));
            cases.push(case(name("each_operator_is_needed"), move |rig: &Rig| {
                needed(rig, checkpoint, dtype, tolerance)
            }));
            cases.push(case(name("older_grouped_product"), move |rig: &Rig| {
                older_grouped_product(rig, checkpoint, dtype, tolerance);
            }));
        }
    }
    cases
}

/// What one forward pass runs, in the order of names: what the router's plan says, and the experts' operators. The DeepSeek
/// models have a shared expert; DeepSeek-V4 and gpt-oss clamp.
fn due(checkpoint: &str, dtype: FloatType, plan: &RouterPlan) -> Vec<(&'static str, u64)> {
    let mut due = BTreeMap::from([("GroupedMatmulV5", 2), ("MoeInitRoutingV3", 1)]);
    let mut add = |name, count| *due.entry(name).or_insert(0) += count;
    let router: Vec<&str> = plan.calls.iter().map(|call| call.operator.name()).collect();
    if !matches!(checkpoint, "deepseek-v4" | "gpt-oss") {
        // All but Qwen3, whose router works in the model's type throughout, cast what they take or give.
        let cast = dtype != FloatType::F32 && checkpoint != "qwen3-moe";
        let mut fused = vec!["Mm", "MoeGatingTopK"];
        fused.extend(cast.then_some("Cast"));
        let mut sorted = router.clone();
        sorted.sort_unstable();
        fused.sort_unstable();
        assert_eq!(sorted, fused, "{checkpoint} {dtype}");
    }
    router.into_iter().for_each(|name| add(name, 1));
    let activation = if matches!(checkpoint, "deepseek-v4" | "gpt-oss") { "ClippedSwiglu" } else { "SwiGlu" };
    add(activation, 1);
    let shared = checkpoint.starts_with("deepseek");
    if shared {
        add(activation, 1);
        add("Mm", 2);
    }
    match (shared, dtype) {
        (_, FloatType::F32 | FloatType::Bf16) => add("MoeFinalizeRoutingV2", 1),
        (true, _) => ["Add", "MoeTokenUnpermute"].into_iter().for_each(|name| add(name, 1)),
        (false, _) => add("MoeTokenUnpermute", 1),
    }
    due.into_iter().collect()
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

    let given = Given::new(&layer, &recorded);
    for passes in 1..=3 {
        layer.forward(&rig.stream, given.input()).unwrap();
        let due: Vec<_> =
            due(name, dtype, layer.router().plan()).into_iter().map(|(name, count)| (name, count * passes)).collect();
        assert_eq!(rig.operator_calls(), due, "{passes} passes");
    }

    let other = rig.without(&[]);
    let router = load(&other, &checkpoint, index, dtype);
    router.router().route(&other.stream, Given::new(&router, &recorded).input()).unwrap();
    let mut planned: Vec<&str> = layer.router().plan().calls.iter().map(|call| call.operator.name()).collect();
    planned.sort_unstable();
    let ran: Vec<&str> =
        other.operator_calls().into_iter().flat_map(|(name, count)| vec![name; count as usize]).collect();
    assert_eq!(ran, planned, "the router runs what its plan says");
}

/// Without any one operator the pass fails before anything is queued, and names it; or others do its work.
fn needed(rig: &Rig, name: &str, dtype: FloatType, tolerance: f64) {
    const BOTH: [OperatorId; 2] = [OperatorId::GroupedMatmulV5, OperatorId::GroupedMatmulV4];
    const REPLACED: [OperatorId; 3] =
        [OperatorId::MoeGatingTopK, OperatorId::MoeGatingTopKSoftmaxV2, OperatorId::ClippedSwiglu];
    let checkpoint = files::checkpoint(name);
    let index = checkpoint.moe_layers()[0];
    let recorded = Recorded::of(&checkpoint, index);
    let layer = load(rig, &checkpoint, index, dtype);
    layer.forward(&rig.stream, Given::new(&layer, &recorded).input()).unwrap();
    let used: Vec<OperatorId> = rig.cann.table().operator_calls().map(|(id, _)| id).collect();
    assert!(used.contains(&OperatorId::MoeInitRoutingV3) && used.contains(&BOTH[0]));
    for id in used {
        let absent = if id == BOTH[0] { &BOTH[..] } else { &[id] };
        let rig = rig.without(absent);
        let weights = checkpoint.layer_weights(index).unwrap();
        let options = LayerOptions::new(dtype);
        let plan = MoeLayer::memory_plan(&rig.device, weights.spec(), options, 1);
        let result = MoeLayer::load(&rig.stream, &weights, options, &mut |_, _| {})
            .and_then(|layer| layer.forward(&rig.stream, Given::new(&layer, &recorded).input()));
        match result {
            Err(error @ Error::MissingOperator { tried, release }) => {
                assert!(!REPLACED.contains(&id), "without {absent:?}");
                assert_eq!((tried, release), (absent, rig.cann.release()));
                let text = error.to_string();
                assert!(absent.iter().all(|id| text.contains(&format!("aclnn{}", id.name()))), "{text}");
                assert_eq!(rig.operator_calls(), [], "without {absent:?}");
                assert!(
                    matches!(plan, Err(Error::MissingOperator { .. })),
                    "the plan of a pass that cannot run: {plan:?}"
                );
            }
            Ok(result) => {
                assert!(REPLACED.contains(&id), "{id:?} is used, and a pass without it ran");
                plan.unwrap();
                let output = result.output.to_f32(&rig.stream).unwrap();
                let due = recorded.output.iter().map(|&value| value.into());
                assert_near(&output, due, tolerance, &format!("without {id:?}"));
            }
            other => panic!("without {absent:?}: {other:?}"),
        }
    }
}

/// Where the newest grouped product is missing the one before it runs, and the table says so.
fn older_grouped_product(rig: &Rig, name: &str, dtype: FloatType, tolerance: f64) {
    let checkpoint = files::checkpoint(name);
    let index = checkpoint.moe_layers()[0];
    let recorded = Recorded::of(&checkpoint, index);
    let rig = rig.without(&[OperatorId::GroupedMatmulV5]);
    let layer = load(&rig, &checkpoint, index, dtype);
    let result = layer.forward(&rig.stream, Given::new(&layer, &recorded).input()).unwrap();
    let output = result.output.to_f32(&rig.stream).unwrap();
    assert_near(&output, recorded.output.iter().map(|&v| v.into()), tolerance, "GroupedMatmulV4");
    let mut due = due(name, dtype, layer.router().plan());
    due.iter_mut().filter(|(name, _)| *name == "GroupedMatmulV5").for_each(|(name, _)| *name = "GroupedMatmulV4");
    due.sort_unstable();
    assert_eq!(rig.operator_calls(), due);
}
