//! What a call breaks is said before any vendor call, with the rule and what is legal.

use ascend_moe::op::{
    self, CubeMath, ExpandedRows, GatingTopK, GroupScore, InitRouting, InitRoutingOutputs, Normalisation,
};
use ascend_moe::{DType, Error, Sequence, Tensor};
use ascend_sys::ops::Violation;
use ascend_sys::{OperatorId, Release};

use crate::rig::Rig;

fn broken(rig: &Rig, rule: &str, result: ascend_moe::Result<()>) -> Violation {
    let violation = match result {
        Err(Error::Rule(violation)) => *violation,
        other => panic!("{rule}: {other:?}"),
    };
    assert_eq!(violation.rule, rule, "{violation}");
    assert!(violation.to_string().contains(violation.operator.name()), "{violation}");
    let table = rig.cann.table();
    let info = violation.operator.info();
    assert_eq!((table.calls(info.phase1), table.calls(info.phase2)), (0, 0), "no vendor call was made");
    violation
}

fn zeros(rig: &Rig, dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::zeros(&rig.device, dtype, shape).unwrap()
}

#[test]
fn shapes_and_dtypes_of_a_product() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, w) = (zeros(&rig, DType::F32, &[2, 3]), zeros(&rig, DType::F32, &[4, 5]));
    let mut out = zeros(&rig, DType::F32, &[2, 5]);
    let mm = |x: &Tensor, w: &Tensor, out: &mut Tensor| {
        op::mm(&sequence, &x.view(), &w.view(), CubeMath::KeepDType, &mut out.view_mut())
    };
    let violation = broken(&rig, "inner-dim", mm(&x, &w, &mut out));
    assert!(violation.found.contains("[2, 3]") && violation.found.contains("[4, 5]"), "{violation}");
    let w = zeros(&rig, DType::F32, &[3, 4]);
    broken(&rig, "out-shape", mm(&x, &w, &mut out));
    let violation =
        broken(&rig, "dtype", mm(&zeros(&rig, DType::I32, &[2, 3]), &w, &mut zeros(&rig, DType::F32, &[2, 4])));
    assert_eq!(violation.parameter, Some("self_"));
    assert!(violation.to_string().contains("self: "), "C's name: {violation}");
}

fn gate(rig: &Rig, params: &GatingTopK) -> ascend_moe::Result<()> {
    let sequence = rig.stream.sequence().unwrap();
    let logits = zeros(rig, DType::F32, &[3, 8]);
    let (mut weights, mut experts) = (zeros(rig, DType::F32, &[3, params.k]), zeros(rig, DType::I32, &[3, params.k]));
    let (mut weights, mut experts) = (weights.view_mut(), experts.view_mut());
    op::moe_gating_top_k(&sequence, &logits.view(), None, params, &mut weights, &mut experts, None)
}

const PLAIN: GatingTopK = GatingTopK {
    k: 2,
    groups: 1,
    kept_groups: 1,
    group_score: GroupScore::Max,
    renormalise: false,
    normalisation: Normalisation::Softmax,
    scale: 1.0,
    eps: 1e-20,
};

#[test]
fn limits_of_the_router_name_the_nearest_legal_value() {
    let rig = Rig::new();
    let violation = broken(&rig, "k", gate(&rig, &GatingTopK { k: 9, ..PLAIN }));
    assert!(violation.found.contains("nearest legal value is 8"), "{violation}");
    broken(&rig, "group-count", gate(&rig, &GatingTopK { groups: 3, ..PLAIN }));
    broken(&rig, "k-group", gate(&rig, &GatingTopK { groups: 4, kept_groups: 5, ..PLAIN }));
    broken(&rig, "group-count", gate(&rig, &GatingTopK { groups: usize::MAX, ..PLAIN }));
}

#[test]
fn rules_are_those_of_the_loaded_release() {
    let rig = Rig::with(|config| config.release = Release::new(8, 5, 0));
    assert_eq!(rig.cann.release(), Release::new(8, 5, 0));
    let violation = broken(&rig, "renorm", gate(&rig, &GatingTopK { renormalise: true, ..PLAIN }));
    assert!(violation.to_string().contains("8.5.0"), "{violation}");
    gate(&rig, &PLAIN).unwrap();
    let newer = Rig::new();
    gate(&newer, &GatingTopK { renormalise: true, ..PLAIN }).unwrap();
}

#[test]
fn a_violation_of_init_routing_does_not_wait_for_the_second_phase() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, ids) = (zeros(&rig, DType::F32, &[3, 4]), zeros(&rig, DType::I32, &[3, 2]));
    let mut expanded = zeros(&rig, DType::F32, &[6, 4]);
    let (mut rows, mut counts) = (zeros(&rig, DType::I32, &[6]), zeros(&rig, DType::I64, &[5]));
    let mut run = |params: &InitRouting, sequence: &Sequence<'_>| {
        let outputs = InitRoutingOutputs {
            expanded_x: &mut expanded.view_mut(),
            row_idx: &mut rows.view_mut(),
            counts: &mut counts.view_mut(),
            scale: None,
        };
        op::moe_init_routing_v3(sequence, &x.view(), &ids.view(), ExpandedRows::Copied(None), params, outputs)
    };
    broken(&rig, "expert-range", run(&InitRouting { range: (2, 9), ..InitRouting::dropless(8) }, &sequence));
    broken(&rig, "counts-shape", run(&InitRouting::dropless(8), &sequence));
    run(&InitRouting::dropless(5), &sequence).unwrap();
}

#[test]
fn alpha_of_integers_is_whole() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (a, b) = (zeros(&rig, DType::I32, &[2]), zeros(&rig, DType::I32, &[2]));
    let mut out = zeros(&rig, DType::I32, &[2]);
    let result = op::add(&sequence, &a.view(), &b.view(), 0.5, &mut out.view_mut());
    assert!(matches!(result, Err(Error::DType { .. })), "{result:?}");
    op::add(&sequence, &a.view(), &b.view(), 3.0, &mut out.view_mut()).unwrap();
    let result = op::sub(&sequence, &a.view(), &b.view(), 0.5, &mut out.view_mut());
    assert!(matches!(result, Err(Error::DType { .. })), "{result:?}");
    op::sub(&sequence, &a.view(), &b.view(), 3.0, &mut out.view_mut()).unwrap();
}

#[test]
fn an_empty_mask_is_no_mask() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (mut x, mask) = (zeros(&rig, DType::F32, &[2, 3]), zeros(&rig, DType::Bool, &[0, 3]));
    broken(&rig, "mask-shape", op::masked_fill(&sequence, &mut x.view_mut(), &mask.view(), 1.0));
    op::masked_fill(&sequence, &mut zeros(&rig, DType::F32, &[0, 3]).view_mut(), &mask.view(), 1.0).unwrap();
}

#[test]
fn an_operator_that_is_not_there_is_named() {
    let absent = OperatorId::SwiGlu.info().phase2;
    let rig = Rig::with(|config| config.absent = vec![absent]);
    let sequence = rig.stream.sequence().unwrap();
    let x = zeros(&rig, DType::F32, &[2, 4]);
    match op::swiglu(&sequence, &x.view(), -1, &mut zeros(&rig, DType::F32, &[2, 2]).view_mut()) {
        Err(error @ Error::MissingOperator { tried: &[OperatorId::SwiGlu], .. }) => {
            assert!(error.to_string().contains("aclnnSwiGlu"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_are_copied_only_as_what_they_are() {
    let rig = Rig::new();
    let mut tensor = Tensor::from_slice(&rig.device, &[1.0f32, 2.0], &[2]).unwrap();
    assert!(matches!(tensor.to_vec::<i32>(&rig.stream), Err(Error::DType { .. })));
    assert!(matches!(tensor.view_mut().copy_from_host(&rig.stream, &[1i64, 2]), Err(Error::DType { .. })));
    assert!(matches!(tensor.view_mut().copy_from_host(&rig.stream, &[1f32]), Err(Error::Shape { .. })));
    assert!(matches!(Tensor::from_slice(&rig.device, &[1f32; 3], &[2, 2]), Err(Error::Shape { .. })));
    let flags = Tensor::zeros(&rig.device, DType::Bool, &[3]).unwrap();
    assert_eq!(flags.to_vec::<u8>(&rig.stream).unwrap(), [0; 3]);
    let wide = Tensor::from_slice(&rig.device, &[1f32, 2., 3., 4., 5., 6.], &[3, 2]).unwrap();
    assert_eq!(wide.view().rows(1..3).unwrap().to_vec::<f32>(&rig.stream).unwrap(), [3., 4., 5., 6.]);
    assert!(matches!(wide.view().transpose().unwrap().to_vec::<f32>(&rig.stream), Err(Error::Shape { .. })));
}
