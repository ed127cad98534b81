//! The format cast and the storage shape it packs into.

use ascend_sys::ops::{Dims, Phase, Refusal, TensorDesc, format_cast_storage};
use ascend_sys::{OperatorId, aclDataType, aclFormat};

use crate::base;
use crate::build::{BF16, Built, Case, F16, F32, I8, packed, tensor};

fn in_format(mut desc: TensorDesc, format: aclFormat) -> TensorDesc {
    desc.format = format;
    desc
}

fn cast(source: TensorDesc, target: TensorDesc) -> Built {
    Built::new(OperatorId::NpuFormatCast).set("srcTensor", source).set("dstTensor", target)
}

pub(crate) fn legal() -> Vec<Built> {
    let pack = |dtype, shape: &[i64]| cast(tensor(dtype, shape), packed(tensor(dtype, shape)));
    vec![
        pack(BF16, &[32, 64]),
        pack(BF16, &[4, 32, 64]),
        pack(I8, &[3, 20]),
        pack(F32, &[1, 1]),
        pack(F16, &[1, 2, 3, 4, 5, 6]),
        cast(packed(tensor(BF16, &[4, 32, 64])), tensor(BF16, &[4, 32, 64])),
        cast(in_format(tensor(F16, &[2, 3, 4, 5]), aclFormat::NCHW), packed(tensor(F16, &[2, 3, 4, 5]))),
    ]
}

pub(crate) fn violations() -> Vec<Case> {
    let call = || base(OperatorId::NpuFormatCast);
    let case = |call, rule| Case::new(call, rule, 161002);
    let mut short = packed(tensor(BF16, &[32, 64]));
    short.storage.as_mut_slice()[0] = 3;
    let image = in_format(tensor(BF16, &[2, 3, 4, 5]), aclFormat::NCHW);
    vec![
        Case::new(cast(tensor(BF16, &[0, 64]), packed(tensor(BF16, &[0, 64]))), "empty", 361001),
        case(cast(tensor(BF16, &[32, 64]), tensor(BF16, &[32, 64])), "format-pair"),
        case(cast(packed(tensor(BF16, &[32, 64])), packed(tensor(BF16, &[32, 64]))), "format-pair"),
        case(cast(in_format(image, aclFormat::NHWC), packed(image)), "format-pair"),
        Case::new(cast(image, in_format(image, aclFormat::NC1HWC0)), "image-formats", 561003),
        case(call().set("dstTensor", packed(tensor(F16, &[32, 64]))), "dst-dtype"),
        case(call().set("srcTensor", tensor(BF16, &[64])), "unpacked-rank"),
        case(call().set("srcTensor", tensor(BF16, &[1, 1, 1, 1, 1, 32, 64])), "unpacked-rank"),
        case(call().set("dstTensor", short), "storage"),
        case(call().set("srcTensor", tensor(BF16, &[32, 65])), "storage"),
    ]
}

const SAME: aclDataType = aclDataType::UNDEFINED;

#[test]
fn storage_shapes() {
    let cases: &[(aclDataType, &[i64], aclDataType, &[i64])] = &[
        (BF16, &[8, 64, 96], SAME, &[8, 6, 4, 16, 16]),
        (F16, &[3, 20], SAME, &[2, 1, 16, 16]),
        (I8, &[17, 33], SAME, &[2, 2, 16, 32]),
        (aclDataType::UINT8, &[16, 32], SAME, &[1, 1, 16, 32]),
        (F32, &[16, 17], SAME, &[3, 1, 16, 8]),
        (aclDataType::INT32, &[2, 16, 8], SAME, &[2, 1, 1, 16, 8]),
        (F32, &[16, 32], BF16, &[2, 1, 16, 16]),
        (BF16, &[1, 2, 3, 4, 5, 6], SAME, &[1, 2, 3, 4, 1, 1, 16, 16]),
    ];
    for (dtype, shape, additional, due) in cases {
        let found = format_cast_storage(&tensor(*dtype, shape), aclFormat::FRACTAL_NZ, *additional);
        assert_eq!(found, Ok(Dims::new(due).unwrap()), "{dtype:?} {shape:?}");
    }
    let source = packed(tensor(BF16, &[8, 64, 96]));
    assert_eq!(format_cast_storage(&source, aclFormat::ND, SAME), Ok(source.shape));
}

#[test]
fn refused_storage() {
    let matrix = tensor(BF16, &[32, 64]);
    let image = in_format(tensor(BF16, &[2, 3, 4, 5]), aclFormat::NCHW);
    let mut negative = matrix;
    negative.shape.as_mut_slice()[0] = -1;
    let (nz, nd) = (aclFormat::FRACTAL_NZ, aclFormat::ND);
    let cases = [
        (tensor(aclDataType::DOUBLE, &[32, 64]), nz, SAME, "dtype", 161002),
        (matrix, nz, aclDataType::INT4, "additional-dtype", 161002),
        (image, aclFormat::NC1HWC0, SAME, "image-formats", 561003),
        (matrix, nd, SAME, "format-pair", 361001),
        (matrix, aclFormat::UNDEFINED, SAME, "format-pair", 361001),
        (tensor(BF16, &[0, 64]), nz, SAME, "empty", 361001),
        (tensor(BF16, &[64]), nz, SAME, "unpacked-rank", 161002),
        (tensor(BF16, &[1, 1, 1, 1, 1, 32, 64]), nz, SAME, "unpacked-rank", 161002),
        (negative, nz, SAME, "unpacked-rank", 161002),
    ];
    for (source, target, additional, rule, code) in cases {
        let violation = format_cast_storage(&source, target, additional).unwrap_err();
        assert_eq!((violation.rule, violation.code.0), (rule, code), "{violation}");
        assert_eq!((violation.operator, violation.phase), (OperatorId::NpuFormatCast, Phase::One));
        assert_eq!(violation.refusal == Refusal::NotCarried, code == 561003);
    }
}
