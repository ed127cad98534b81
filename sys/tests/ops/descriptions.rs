//! Tensor descriptions: contiguous, transposed and blocked layouts, and arguments that count as not given.

use ascend_sys::ops::{Arg, Dims, MAX_RANK, TensorDesc};

use crate::build::{BF16, F32, spread, tensor, transposed};

fn strided(shape: &[i64], strides: &[i64]) -> TensorDesc {
    TensorDesc { strides: Dims::new(strides).unwrap(), ..tensor(BF16, shape) }
}

#[test]
fn contiguous() {
    for shape in [&[][..], &[1], &[7], &[3, 4], &[2, 3, 4], &[0, 4], &[2, 0]] {
        assert!(tensor(BF16, shape).is_contiguous(), "{shape:?}");
    }
    assert_eq!((tensor(BF16, &[3, 4]).offset, tensor(BF16, &[3, 4]).storage), (0, Dims::new(&[3, 4]).unwrap()));
    assert!(strided(&[3, 1, 4], &[4, 99, 1]).is_contiguous(), "the stride of a dimension of 1 does not count");
    assert!(!spread(tensor(BF16, &[3, 4])).is_contiguous());
    assert!(!transposed(BF16, &[3, 4]).is_contiguous());
    assert!(!strided(&[3, 4], &[8, 1]).is_contiguous());
    assert!(!strided(&[3, 4], &[4]).is_contiguous(), "a stride is missing");
}

#[test]
fn transposed_views() {
    assert!(transposed(BF16, &[3, 4]).is_transposed());
    assert!(transposed(BF16, &[2, 3, 4]).is_transposed());
    assert!(transposed(BF16, &[5, 2, 3, 4]).is_transposed());
    assert!(strided(&[7, 1], &[1, 7]).is_transposed(), "strides alone decide");
    assert!(strided(&[1, 7], &[1, 1]).is_transposed(), "strides alone decide");
    for shape in [&[3, 4][..], &[1, 7], &[7, 1], &[2, 3, 4], &[4], &[]] {
        assert!(!tensor(BF16, shape).is_transposed(), "{shape:?}");
    }
    assert!(!strided(&[1, 1], &[1, 1]).is_transposed(), "one element");
    assert!(!strided(&[0, 4], &[1, 0]).is_transposed(), "no element");
    assert!(!strided(&[2, 3, 4], &[13, 1, 3]).is_transposed(), "leading dimensions with a gap");
    assert!(!strided(&[3, 4], &[1, 4]).is_transposed(), "a gap");
    assert!(!strided(&[3, 4, 2], &[1, 3]).is_transposed(), "a stride is missing");
}

#[test]
fn dims() {
    assert_eq!(Dims::new(&[1; MAX_RANK + 1]), None);
    assert_eq!(Dims::collect([2; MAX_RANK + 1]), None);
    assert_eq!(Dims::collect([2, 3]), Dims::new(&[2, 3]));
    assert_eq!(Dims::EMPTY.elements(), Some(1));
    assert_eq!(Dims::new(&[i64::MAX, 3]).unwrap().elements(), None);
    assert_eq!(Dims::new(&[-1, -1]).unwrap().elements(), None);
    assert_eq!(Dims::new(&[2, 3]).unwrap().to_string(), "[2, 3]");
}

#[test]
fn blocks() {
    let blocks = |shape: &[i64]| Dims::new(shape).unwrap().fractal_nz(BF16);
    assert_eq!(blocks(&[17, 16]), Dims::new(&[1, 2, 16, 16]));
    assert_eq!(blocks(&[0, 16]), Dims::new(&[1, 0, 16, 16]));
    assert_eq!(blocks(&[16]), None);
    assert_eq!(blocks(&[1, 1, 1, 1, 1, 16, 16]), None, "more than MAX_RANK");
    assert_eq!(blocks(&[-1, 16]), None);
    assert_eq!(Dims::new(&[16, 16]).unwrap().fractal_nz(ascend_sys::aclDataType::STRING), None);
}

#[test]
fn descriptions_read_well() {
    assert_eq!(tensor(BF16, &[3, 4]).to_string(), "ACL_BF16[3, 4]");
    assert_eq!(transposed(F32, &[3, 4]).to_string(), "ACL_FLOAT[3, 4] strides [1, 3]");
    assert_eq!(crate::build::packed(tensor(BF16, &[16, 16])).to_string(), "ACL_BF16[16, 16] ACL_FORMAT_FRACTAL_NZ");
    assert_eq!(tensor(BF16, &[3, 4]).storage_bytes(), Some(24));
    assert_eq!(tensor(ascend_sys::aclDataType::INT4, &[3]).storage_bytes(), Some(2));
}

#[test]
fn what_counts_as_not_given() {
    let (given, empty) = (tensor(F32, &[4]), tensor(F32, &[0]));
    assert!(Arg::Tensor(None).is_absent());
    assert!(!Arg::Tensor(Some(&empty)).is_absent());
    assert!(Arg::Scalar(None).is_absent());
    assert!(Arg::Ints(None).is_absent());
    assert!(!Arg::Ints(Some(&[])).is_absent());
    assert!(!Arg::Int(0).is_absent());
    for absent in [None, Some(&[][..]), Some(&[None]), Some(&[None, Some(given)]), Some(&[Some(empty)])] {
        assert!(Arg::Tensors(absent).is_absent(), "{absent:?}");
    }
    for present in [&[Some(given)][..], &[Some(empty), Some(empty)], &[Some(given), None]] {
        assert!(!Arg::Tensors(Some(present)).is_absent(), "{present:?}");
    }
}
