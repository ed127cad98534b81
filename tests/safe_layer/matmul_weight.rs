//! Weights in the layout that the cube unit likes best: how much memory they take, and the cast in place.

use ascend_moe::op::{self, CubeMath};
use ascend_moe::{DType, Error, TensorView};
use ascend_sys::{FunctionId, OperatorId};

use crate::operators::{bf, read, tensor, zeros};
use crate::rig::Rig;

/// Both last dimensions in blocks: of 16 by 16, of 16 by 32 for one byte.
#[test]
fn sizes() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let size = |shape: &[i64], dtype| op::matmul_weight_size(&sequence, shape, dtype);
    for dtype in [DType::F16, DType::Bf16] {
        assert_eq!(size(&[3, 20], dtype).unwrap(), 512);
        assert_eq!(size(&[16, 16], dtype).unwrap(), 256);
        assert_eq!(size(&[2, 17, 33], dtype).unwrap(), 2 * 32 * 48);
    }
    assert_eq!(size(&[3, 20], DType::I8).unwrap(), 16 * 32);
    assert_eq!(size(&[2, 17, 33], DType::I8).unwrap(), 2 * 32 * 64);
    assert_eq!(size(&[0, 20], DType::Bf16).unwrap(), 0);
    for (shape, dtype) in [(&[16, 16][..], DType::F32), (&[16], DType::Bf16), (&[-1, 16], DType::Bf16)] {
        match size(shape, dtype) {
            Err(Error::Vendor(error)) => assert_eq!(error.code, 161_002, "{shape:?} {dtype}"),
            other => panic!("{shape:?} {dtype}: {other:?}"),
        }
    }
    let calls = [FunctionId::aclnnCalculateMatmulWeightSizeV2, FunctionId::aclnnCalculateMatmulWeightSize];
    assert_eq!(calls.map(|call| rig.cann.table().calls(call)), [12, 0]);
}

/// Where the second version is missing the first one answers for 16 bits, which are all that it knows.
#[test]
fn sizes_by_the_first_version() {
    let rig = Rig::with(|config| config.absent = [FunctionId::aclnnCalculateMatmulWeightSizeV2].into_iter().collect());
    let sequence = rig.stream.sequence().unwrap();
    assert_eq!(op::matmul_weight_size(&sequence, &[3, 20], DType::Bf16).unwrap(), 512);
    assert_eq!(op::matmul_weight_size(&sequence, &[2, 17, 33], DType::F16).unwrap(), 2 * 32 * 48);
    let answer = op::matmul_weight_size(&sequence, &[3, 20], DType::I8);
    assert!(matches!(answer, Err(Error::MissingFunction(_))), "{answer:?}");
}

/// A weight that went through the cast multiplies as before; one whose memory is too short is refused.
#[test]
fn cast_in_place() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let x = tensor(&rig, &bf(&[1.; 16]), &[1, 16]);
    let values: Vec<f32> = (0..16 * 16).map(|i| (i % 7) as f32 - 3.0).collect();
    let mut weight = tensor(&rig, &bf(&values), &[16, 16]);
    let multiply = |weight: TensorView<'_>| {
        let mut out = zeros(&rig, DType::F32, &[1, 16]);
        op::mm(&sequence, &x.view(), &weight, CubeMath::KeepDType, &mut out.view_mut()).unwrap();
        read::<f32>(&rig, &out)
    };
    let due: Vec<f32> = (0..16).map(|n| (0..16).map(|k| values[k * 16 + n]).sum()).collect();
    assert_eq!(multiply(weight.view()), due);
    op::trans_matmul_weight(&sequence, &mut weight.view_mut()).unwrap();
    assert_eq!(multiply(weight.view()), due);
    let calls: Vec<_> = rig.cann.table().operator_calls().collect();
    assert!(calls.contains(&(OperatorId::TransMatmulWeight, 1)), "{calls:?}");

    let mut short = zeros(&rig, DType::Bf16, &[3, 20]);
    match op::trans_matmul_weight(&sequence, &mut short.view_mut()) {
        Err(Error::Shape { found, legal, .. }) => {
            assert!(found.contains("60") && legal.contains("512"), "{found}; {legal}");
        }
        other => panic!("{other:?}"),
    }
    // A view of enough memory; and nothing for nothing.
    let mut long = zeros(&rig, DType::I8, &[512]);
    op::trans_matmul_weight(&sequence, &mut long.view_mut().narrow(0, 0..60).unwrap().reshape(&[3, 20]).unwrap())
        .unwrap();
    op::trans_matmul_weight(&sequence, &mut zeros(&rig, DType::Bf16, &[0, 20]).view_mut()).unwrap();
    let mut wide = zeros(&rig, DType::F32, &[16, 16]);
    assert!(op::trans_matmul_weight(&sequence, &mut wide.view_mut()).is_err());
}
