//! Sorting and counting by expert, on worked numbers.

use ascend_moe::{DType, Error, op};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;

use crate::operators::{read, tensor, zeros};
use crate::rig::Rig;

const X: [f32; 6] = [1., 2., 3., 4., 5., 6.];

#[test]
fn permuted_and_back() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let x = tensor(&rig, &X, &[3, 2]);
    let wide = tensor(&rig, &[2i64, 0, 1, 2, 3, 2], &[3, 2]);
    let ids = tensor(&rig, &[2i32, 1, 3, 0, 2, 2], &[2, 3]);
    // The second list of experts is the first one, strided.
    for indices in [wide.view(), ids.view().transpose().unwrap()] {
        let (mut permuted, mut sorted) = (zeros(&rig, DType::F32, &[6, 2]), zeros(&rig, DType::I32, &[6]));
        let (mut pv, mut sv) = (permuted.view_mut(), sorted.view_mut());
        op::moe_token_permute(&sequence, &x.view(), &indices, &mut pv, &mut sv).unwrap();
        assert_eq!(read::<i32>(&rig, &sorted), [2, 0, 1, 3, 5, 4]);
        assert_eq!(read::<f32>(&rig, &permuted), [1., 2., 3., 4., 1., 2., 3., 4., 5., 6., 5., 6.]);

        let probs = tensor(&rig, &[0.5f32; 6], &[3, 2]);
        let mut back = zeros(&rig, DType::F32, &[3, 2]);
        let (pv, sv, probs) = (permuted.view(), sorted.view(), probs.view());
        op::moe_token_unpermute(&sequence, &pv, &sv, Some(&probs), &mut back.view_mut()).unwrap();
        assert_eq!(read::<f32>(&rig, &back), X);
    }
    // Four rows are kept, the index is whole.
    let (mut permuted, mut sorted) = (zeros(&rig, DType::F32, &[4, 2]), zeros(&rig, DType::I32, &[6]));
    let (mut pv, mut sv) = (permuted.view_mut(), sorted.view_mut());
    op::moe_token_permute(&sequence, &x.view(), &wide.view(), &mut pv, &mut sv).unwrap();
    assert_eq!(read::<f32>(&rig, &permuted), [1., 2., 3., 4., 1., 2., 3., 4.]);
    assert_eq!(read::<i32>(&rig, &sorted), [2, 0, 1, 3, 5, 4]);
}

#[test]
fn counted() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let experts = tensor(&rig, &[0i32, 0, 2, 2, 2, 4], &[6]);
    let mut ends = zeros(&rig, DType::I32, &[6]);
    op::moe_compute_expert_tokens(&sequence, &experts.view(), &mut ends.view_mut()).unwrap();
    assert_eq!(read::<i32>(&rig, &ends), [2, 2, 5, 5, 6, 6]);
    let none = zeros(&rig, DType::I32, &[0]);
    op::moe_compute_expert_tokens(&sequence, &none.view(), &mut ends.view_mut()).unwrap();
    assert_eq!(read::<i32>(&rig, &ends), [0; 6]);
}

#[test]
fn refused_before_the_call_and_found_on_the_device() {
    let mut rig = Rig::new();
    rig.expect_findings();
    let sequence = rig.stream.sequence().unwrap();
    let x = tensor(&rig, &X, &[3, 2]);
    let (mut permuted, mut sorted) = (zeros(&rig, DType::F32, &[3, 2]), zeros(&rig, DType::I32, &[3]));
    let few = tensor(&rig, &[0i32, 1], &[2]);
    let (mut pv, mut sv) = (permuted.view_mut(), sorted.view_mut());
    let answer = op::moe_token_permute(&sequence, &x.view(), &few.view(), &mut pv, &mut sv);
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    assert_eq!((violation.operator, violation.rule), (OperatorId::MoeTokenPermute, "tokens"));

    let negative = tensor(&rig, &[0i32, -1, 1], &[3]);
    let (mut pv, mut sv) = (permuted.view_mut(), sorted.view_mut());
    op::moe_token_permute(&sequence, &x.view(), &negative.view(), &mut pv, &mut sv).unwrap();
    assert!(rig.stream.synchronize().is_err());
    assert!(rig.findings().iter().any(|finding| finding.kind == FindingKind::OutOfBounds));
}
