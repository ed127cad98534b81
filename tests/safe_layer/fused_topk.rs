//! The router with replicas, on worked numbers.

use ascend_moe::op::{self, ExpertReplicas, FusedTopK};
use ascend_moe::spec::FloatType;
use ascend_moe::{DType, Error, Tensor, TensorView};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;

use crate::operators::{near, tensor, zeros};
use crate::rig::Rig;

const PLAIN: FusedTopK = FusedTopK { k: 2, groups: 1, kept_groups: 1, summed: 1, scale: Some(2.5) };

fn route(
    rig: &Rig,
    logits: &TensorView<'_>,
    bias: &[f32],
    replicas: Option<&ExpertReplicas<'_>>,
    params: &FusedTopK,
) -> ascend_moe::Result<(Vec<i32>, Vec<f32>)> {
    let shape = [usize::try_from(logits.dim(0)).unwrap(), params.k];
    let dtype = [FloatType::F32, FloatType::F16, FloatType::Bf16]
        .into_iter()
        .find(|&float| DType::from(float) == logits.dtype())
        .unwrap();
    let bias = Tensor::from_f32(&rig.device, dtype, bias, &[bias.len()])?;
    let (mut weights, mut experts) = (zeros(rig, DType::F32, &shape), zeros(rig, DType::I32, &shape));
    let sequence = rig.stream.sequence().unwrap();
    let (mut wv, mut ev) = (weights.view_mut(), experts.view_mut());
    op::moe_fused_topk(&sequence, logits, &bias.view(), replicas, params, &mut wv, &mut ev)?;
    drop(sequence);
    Ok((experts.to_vec(&rig.stream)?, weights.to_vec(&rig.stream)?))
}

/// Worked example 2a, which this operator computes as well.
#[test]
fn the_bias_chooses_and_does_not_weigh() {
    let rig = Rig::new();
    let (x, bias) = ([0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 1.0, 2.0], [0.0, 0.0, 0.5, 0.0]);
    for dtype in [FloatType::F32, FloatType::F16, FloatType::Bf16] {
        let x = Tensor::from_f32(&rig.device, dtype, &x, &[2, 4]).unwrap();
        let (experts, weights) = route(&rig, &x.view(), &bias, None, &PLAIN).unwrap();
        assert_eq!(experts, [2, 0, 2, 3], "{dtype:?}");
        near(&weights, &[1.25, 1.25, 1.133_877_3, 1.366_122_7]);
    }
    // Strided logits, and weights as they are.
    let swapped = tensor(&rig, &[0f32, 1., 0., -1., 0., 1., 0., 2.], &[4, 2]);
    let x = swapped.view().transpose().unwrap();
    let (experts, weights) = route(&rig, &x, &bias, None, &FusedTopK { scale: None, ..PLAIN }).unwrap();
    assert_eq!(experts, [2, 0, 2, 3]);
    near(&weights, &[0.5, 0.5, 0.731_058_6, 0.880_797_1]);
}

/// Worked example 2b, but that experts of dropped groups are left with a score of 0.
#[test]
fn groups() {
    let rig = Rig::new();
    let x = tensor(&rig, &[2f32, -2., 1., 1., 0., 0., 1., 1.], &[1, 8]);
    let run = |bias: f32, kept_groups, summed| {
        let params = FusedTopK { k: 3, groups: 4, kept_groups, summed, scale: Some(1.0) };
        route(&rig, &x.view(), &[bias; 8], None, &params).unwrap()
    };
    let (experts, weights) = run(0.0, 2, 2);
    assert_eq!(experts, [2, 3, 6]);
    near(&weights, &[1.0 / 3.0; 3]);
    let (experts, weights) = run(0.0, 2, 1);
    assert_eq!(experts, [0, 2, 3]);
    near(&weights, &[0.375_940_8, 0.312_029_6, 0.312_029_6]);
    assert_eq!(run(-2.0, 1, 2).0, [0, 1, 4], "zeros before what is below them");
}

#[test]
fn replicas_take_turns() {
    let rig = Rig::new();
    let x = tensor(&rig, &[3f32, 2., 1.].repeat(4), &[4, 3]);
    // Counts two apart, and a table by column.
    let counts = tensor(&rig, &[2, -9, 0, -9, 3, -9], &[3, 2]);
    let table = tensor(&rig, &[10, 20, 30, 11, -1, 31, -1, -1, 32], &[3, 3]);
    let replicas =
        ExpertReplicas { counts: counts.view().narrow(1, 0..1).unwrap(), table: table.view().transpose().unwrap() };
    let params = FusedTopK { k: 3, ..PLAIN };
    let answer = route(&rig, &x.view(), &[0.0; 3], Some(&replicas), &params);
    let Err(Error::Rule(violation)) = answer else { panic!("counts of two dimensions pass") };
    assert_eq!(violation.rule, "mapping-shapes");
    let counts = tensor(&rig, &[2, 0, 3], &[3]);
    let replicas = ExpertReplicas { counts: counts.view(), ..replicas };
    let (experts, _) = route(&rig, &x.view(), &[0.0; 3], Some(&replicas), &params).unwrap();
    assert_eq!(experts, [10, 20, 30, 11, 20, 31, 10, 20, 32, 11, 20, 30]);
}

#[test]
fn refused_and_not_called() {
    let rig = Rig::new();
    let x = tensor(&rig, &[0f32; 8], &[2, 4]);
    for (params, rule) in [
        (FusedTopK { k: 5, ..PLAIN }, "top-k"),
        (FusedTopK { groups: 3, ..PLAIN }, "group-num"),
        (FusedTopK { groups: usize::MAX, ..PLAIN }, "group-num"),
        (FusedTopK { kept_groups: 2, ..PLAIN }, "group-topk"),
        (FusedTopK { summed: 0, ..PLAIN }, "top-n"),
    ] {
        let answer = route(&rig, &x.view(), &[0.0; 4], None, &params);
        let Err(Error::Rule(violation)) = answer else { panic!("{rule} passes: {answer:?}") };
        assert_eq!((violation.operator, violation.rule), (OperatorId::MoeFusedTopk, rule));
    }
    let none = zeros(&rig, DType::F32, &[0, 4]);
    route(&rig, &none.view(), &[0.0; 4], None, &PLAIN).unwrap();
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}

#[test]
fn found_on_the_device() {
    for count in [3, -1] {
        let mut rig = Rig::new();
        rig.expect_findings();
        let (x, counts) = (tensor(&rig, &[0f32; 8], &[2, 4]), tensor(&rig, &[1, count, 1, 1], &[4]));
        let table = tensor(&rig, &[0i32; 8], &[4, 2]);
        let replicas = ExpertReplicas { counts: counts.view(), table: table.view() };
        assert!(route(&rig, &x.view(), &[0.0; 4], Some(&replicas), &PLAIN).is_err());
        assert!(rig.findings().iter().any(|finding| finding.kind == FindingKind::OutOfBounds));
    }
}
