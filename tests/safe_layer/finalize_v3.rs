//! The third finalize-routing operator, on worked numbers.

use ascend_moe::op::{self, DropPadMode, FinalizeRouting};
use ascend_moe::{DType, Error};
use ascend_sys::Release;

use crate::operators::{read, tensor, zeros};
use crate::rig::Rig;

/// What three modes give for the same small operands.
fn run(rig: &Rig) -> ascend_moe::Result<[Vec<f32>; 3]> {
    let sequence = rig.stream.sequence().unwrap();
    let expanded = tensor(rig, &[1.0f32, 2., 3., 4., 5., 6., 7., 8.], &[4, 2]);
    let scales = tensor(rig, &[0.5f32, 0.25, 1.0, 2.0], &[2, 2]);
    let x1 = tensor(rig, &[100.0f32, 200., 300., 400.], &[2, 2]);
    let bias = tensor(rig, &[10.0f32, 0., 0., 10., 1., 1.], &[3, 2]);
    let expert_idx = tensor(rig, &[0i32, 1, 2, 0], &[2, 2]);
    let (row_idx, dropped) = (tensor(rig, &[2i32, 0, 1, 3], &[4]), tensor(rig, &[2i32, -1, -1, 3], &[4]));
    let by_row = FinalizeRouting {
        expanded_x: expanded.view(),
        row_idx: row_idx.view(),
        x1: Some(x1.view()),
        x2: None,
        bias: Some(bias.view()),
        scales: Some(scales.view()),
        expert_idx: Some(expert_idx.view()),
        mode: DropPadMode::DroplessByRow,
    };
    let by_column = FinalizeRouting { mode: DropPadMode::DroplessByColumn, ..by_row };
    let padded = FinalizeRouting {
        expanded_x: expanded.view().reshape(&[2, 2, 2]).unwrap(),
        row_idx: dropped.view(),
        bias: None,
        expert_idx: None,
        mode: DropPadMode::PaddedByRow,
        ..by_row
    };
    let each = |inputs: &FinalizeRouting<'_>| -> ascend_moe::Result<Vec<f32>> {
        let mut out = zeros(rig, DType::F32, &[2, 2]);
        op::moe_finalize_routing_v3(&sequence, inputs, &mut out.view_mut())?;
        Ok(read::<f32>(rig, &out))
    };
    Ok([each(&by_row)?, each(&by_column)?, each(&padded)?])
}

#[test]
fn the_sums_of_the_second_operator() {
    let due = [vec![107.75, 206., 338., 421.], vec![108.25, 206.5, 336., 419.], vec![102.5, 203., 314., 416.]];
    assert_eq!(run(&Rig::new()).unwrap(), due);
}

#[test]
fn older_releases_lack_it() {
    for release in [Release::new(8, 5, 0), Release::new(9, 0, 0)] {
        let rig = Rig::with(|config| config.release = release);
        assert!(matches!(run(&rig), Err(Error::MissingOperator { .. })), "{release}");
    }
}
