//! Quantisation by scales that are given, on worked numbers.

use ascend_moe::op::{self, AscendQuant, RoundMode, ScaledDim};
use ascend_moe::{DType, Error, TensorView};
use ascend_sys::OperatorId;

use crate::operators::{bf, read, tensor, zeros};
use crate::rig::Rig;

fn params<'r, 'a>(x: &'r TensorView<'a>, scale: &'r TensorView<'a>) -> AscendQuant<'r, 'a> {
    AscendQuant { x, scale, offset: None, squared: false, rounding: RoundMode::Nearest, dim: ScaledDim::Last }
}

fn run(rig: &Rig, params: &AscendQuant<'_, '_>, shape: &[usize]) -> ascend_moe::Result<(OperatorId, Vec<i8>)> {
    let mut y = zeros(rig, DType::I8, shape);
    let sequence = rig.stream.sequence().unwrap();
    let ran = op::ascend_quant(&sequence, params, &mut y.view_mut())?;
    drop(sequence);
    Ok((ran, y.to_vec(&rig.stream)?))
}

/// A rig, and one without the third version.
fn rigs() -> [(Rig, OperatorId); 2] {
    let without = Rig::with(|config| config.absent = vec![OperatorId::AscendQuantV3.info().phase2]);
    [(Rig::new(), OperatorId::AscendQuantV3), (without, OperatorId::AscendQuant)]
}

#[test]
fn each_way_to_make_numbers_whole() {
    for (rig, due) in rigs() {
        let x = tensor(&rig, &[0.5f32, 1.5, -0.5, -1.5, 2.4, -2.6, 300.0, -300.0], &[2, 4]);
        let (x, one) = (x.view(), tensor(&rig, &[1.0f32], &[1]));
        let one = one.view();
        for (rounding, y) in [
            (RoundMode::Nearest, [0, 2, 0, -2, 2, -3, 127, -128]),
            (RoundMode::Floor, [0, 1, -1, -2, 2, -3, 127, -128]),
            (RoundMode::Ceil, [1, 2, 0, -1, 3, -2, 127, -128]),
            (RoundMode::Truncate, [0, 1, 0, -1, 2, -2, 127, -128]),
        ] {
            let params = AscendQuant { rounding, ..params(&x, &one) };
            assert_eq!(run(&rig, &params, &[2, 4]).unwrap(), (due, y.to_vec()), "{rounding:?}");
        }
    }
}

#[test]
fn scales_and_offsets_by_column() {
    for (rig, due) in rigs() {
        let x = tensor(&rig, &bf(&[1.0, 2.0, 3.0, 4.0]), &[2, 2]);
        let (scale, offset) = (tensor(&rig, &bf(&[2.0, 3.0]), &[2]), tensor(&rig, &bf(&[0.0, -1.0]), &[2]));
        let (x, scale, offset) = (x.view(), scale.view(), offset.view());
        let base = AscendQuant { offset: Some(&offset), ..params(&x, &scale) };
        assert_eq!(run(&rig, &base, &[2, 2]).unwrap(), (due, vec![2, 5, 6, 11]));
        assert_eq!(run(&rig, &AscendQuant { squared: true, ..base }, &[2, 2]).unwrap().1, [4, 17, 12, 35]);
        // Columns as rows.
        let turned = x.transpose().unwrap();
        assert_eq!(run(&rig, &AscendQuant { x: &turned, ..base }, &[2, 2]).unwrap().1, [2, 8, 4, 11]);
    }
}

#[test]
fn scales_by_row() {
    for (rig, due) in rigs() {
        let x = tensor(&rig, &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &[2, 2, 2]);
        // Scales of x of fp32 may be of another dtype.
        let scale = tensor(&rig, &bf(&[1.0, 10.0]), &[2]);
        let (x, scale) = (x.view(), scale.view());
        let answer = run(&rig, &AscendQuant { dim: ScaledDim::BeforeLast, ..params(&x, &scale) }, &[2, 2, 2]);
        match due {
            OperatorId::AscendQuantV3 => assert_eq!(answer.unwrap(), (due, vec![1, 2, 30, 40, 5, 6, 70, 80])),
            _ => assert!(matches!(answer, Err(Error::MissingOperator { tried: [OperatorId::AscendQuantV3], .. }))),
        }
    }
}

#[test]
fn int4_as_such_and_eight_to_an_int32() {
    for (rig, _) in rigs() {
        let x = tensor(&rig, &[-9.0f32, 7.0, -1.0, 0.0, 3.0, -4.0, 1.0, 2.0], &[1, 8]);
        let (x, one) = (x.view(), tensor(&rig, &[1.0f32], &[1]));
        let one = one.view();
        let (mut packed, mut int4) = (zeros(&rig, DType::I32, &[1, 1]), zeros(&rig, DType::I4, &[1, 8]));
        let sequence = rig.stream.sequence().unwrap();
        for y in [&mut packed, &mut int4] {
            op::ascend_quant(&sequence, &params(&x, &one), &mut y.view_mut()).unwrap();
        }
        assert_eq!(read::<i32>(&rig, &packed), [0x21c3_0f78]);
        assert_eq!(read::<u8>(&rig, &int4), 0x21c3_0f78i32.to_le_bytes());
    }
}

#[test]
fn refused_before_the_call() {
    for (rig, due) in rigs() {
        let x = tensor(&rig, &bf(&[1.0; 6]), &[2, 3]);
        let [single, other] = [tensor(&rig, &[1.0f32; 3], &[3]), tensor(&rig, &bf(&[1.0; 2]), &[2])];
        let (x, single, other) = (x.view(), single.view(), other.view());
        let refused = |params: AscendQuant<'_, '_>, shape: &[usize], rule| match run(&rig, &params, shape) {
            Err(Error::Rule(violation)) => assert_eq!((violation.operator, violation.rule), (due, rule)),
            other => panic!("{other:?}"),
        };
        refused(params(&x, &single), &[2, 3], "scale-dtype");
        refused(params(&x, &other), &[2, 3], "scale-shape");
        refused(params(&x, &other), &[3, 2], "y-shape");
        assert_eq!(rig.cann.table().operator_calls().count(), 0);
    }
}

#[test]
fn without_elements_nothing_is_called() {
    let rig = Rig::new();
    let (x, one) = (zeros(&rig, DType::F32, &[0, 4]), tensor(&rig, &[1.0f32], &[1]));
    let answer = run(&rig, &params(&x.view(), &one.view()), &[0, 4]).unwrap();
    assert_eq!(answer, (OperatorId::AscendQuantV3, vec![]));
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}
