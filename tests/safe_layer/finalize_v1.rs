//! The first finalize-routing operator, on worked numbers.

use ascend_moe::op::{self, FinalizeRoutingV1};
use ascend_moe::spec::FloatType;
use ascend_moe::{DType, Error, Tensor};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;

use crate::operators::{tensor, zeros};
use crate::rig::Rig;

struct Operands {
    expanded: Tensor,
    row_idx: Tensor,
    /// Columns first.
    x1: Tensor,
    bias: Tensor,
    scales: Tensor,
    expert_idx: Tensor,
}

impl Operands {
    fn new(rig: &Rig, dtype: FloatType, row_idx: [i32; 4], expert_idx: [i32; 4]) -> Self {
        let float = |values: &[f32], shape| Tensor::from_f32(&rig.device, dtype, values, shape).unwrap();
        Self {
            expanded: float(&[1., 2., 3., 4., 5., 6., 7., 8.], &[4, 2]),
            row_idx: tensor(rig, &row_idx, &[4]),
            x1: float(&[100., 300., 200., 400.], &[2, 2]),
            bias: float(&[10., 0., 0., 10., 1., 1.], &[3, 2]),
            scales: float(&[0.5, 0.25, 1., 2.], &[2, 2]),
            expert_idx: tensor(rig, &expert_idx, &[2, 2]),
        }
    }

    fn inputs(&self) -> FinalizeRoutingV1<'_> {
        FinalizeRoutingV1 {
            expanded_x: self.expanded.view(),
            row_idx: self.row_idx.view(),
            x1: self.x1.view().transpose().unwrap(),
            x2: None,
            bias: self.bias.view(),
            scales: self.scales.view(),
            expert_idx: self.expert_idx.view(),
        }
    }
}

fn run(rig: &Rig, inputs: &FinalizeRoutingV1<'_>) -> ascend_moe::Result<Vec<f32>> {
    let mut out = zeros(rig, inputs.expanded_x.dtype(), &[2, 2]);
    let sequence = rig.stream.sequence().unwrap();
    op::moe_finalize_routing(&sequence, inputs, &mut out.view_mut())?;
    drop(sequence);
    out.to_f32(&rig.stream)
}

/// Worked example 9, by column.
#[test]
fn sums_by_column() {
    let rig = Rig::new();
    let exact = [108.25, 206.5, 336., 419.];
    // bf16 steps by 0.5 from 64, by 1 from 128, by 2 from 256 on; ties go to even.
    for (dtype, due) in [(FloatType::F32, exact), (FloatType::F16, exact), (FloatType::Bf16, [108., 206., 336., 420.])]
    {
        let operands = Operands::new(&rig, dtype, [2, 0, 1, 3], [0, 1, 2, 0]);
        let inputs = operands.inputs();
        assert_eq!(run(&rig, &inputs).unwrap(), due, "{dtype:?}");
        let again = Tensor::from_f32(&rig.device, dtype, &[-100., -200., -300., -400.], &[2, 2]).unwrap();
        let both = FinalizeRoutingV1 { x2: Some(again.view()), ..inputs };
        assert_eq!(run(&rig, &both).unwrap(), [8.25, 6.5, 36., 19.], "{dtype:?}");
    }
}

#[test]
fn refused_and_not_called() {
    let rig = Rig::new();
    let operands = Operands::new(&rig, FloatType::Bf16, [2, 0, 1, 3], [0, 1, 2, 0]);
    let wide = tensor(&rig, &[0.5f32, 0.25, 1., 2.], &[2, 2]);
    let answer = run(&rig, &FinalizeRoutingV1 { scales: wide.view(), ..operands.inputs() });
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    assert_eq!((violation.operator, violation.rule), (OperatorId::MoeFinalizeRouting, "scales-dtype"));
    let mut out = zeros(&rig, DType::Bf16, &[0, 2]);
    let sequence = rig.stream.sequence().unwrap();
    op::moe_finalize_routing(&sequence, &operands.inputs(), &mut out.view_mut()).unwrap();
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}

#[test]
fn found_on_the_device() {
    for (row_idx, expert_idx) in
        [([2, 0, 4, 3], [0, 1, 2, 0]), ([2, 0, -1, 3], [0, 1, 2, 0]), ([2, 0, 1, 3], [0, 3, 2, 0])]
    {
        let mut rig = Rig::new();
        rig.expect_findings();
        let operands = Operands::new(&rig, FloatType::F32, row_idx, expert_idx);
        assert!(run(&rig, &operands.inputs()).is_err());
        assert!(rig.findings().iter().any(|finding| finding.kind == FindingKind::OutOfBounds));
    }
}
