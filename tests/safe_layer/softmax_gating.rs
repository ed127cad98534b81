//! The routers that choose by softmax alone, on worked numbers.

use ascend_moe::op::{self, SoftmaxOver};
use ascend_moe::{DType, Error, Tensor};
use ascend_sys::OperatorId;

use crate::operators::{near, read, tensor, zeros};
use crate::rig::Rig;

const X: [f32; 8] = [0.0, std::f32::consts::LN_2, 1.098_612_3, 0.0, 5.0, 5.0, 5.0, 5.0];

fn finished(rig: &Rig) -> Tensor {
    let mut flags = zeros(rig, DType::Bool, &[2]);
    flags.view_mut().copy_from_host(&rig.stream, &[0u8, 1]).unwrap();
    flags
}

#[test]
fn softmax_then_choice() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, done) = (tensor(&rig, &X, &[2, 4]), finished(&rig));
    let [mut y, mut ids, mut rows] = [DType::F32, DType::I32, DType::I32].map(|dtype| zeros(&rig, dtype, &[2, 2]));
    let (mut yv, mut iv, mut rv) = (y.view_mut(), ids.view_mut(), rows.view_mut());
    op::moe_gating_top_k_softmax(&sequence, &x.view(), Some(&done.view()), &mut yv, &mut iv, &mut rv).unwrap();
    assert_eq!(read::<i32>(&rig, &ids), [2, 1, 4, 4]);
    assert_eq!(read::<i32>(&rig, &rows), [0, 2, 1, 3]);
    near(&read::<f32>(&rig, &y), &[3.0 / 7.0, 2.0 / 7.0, 0.25, 0.25]);

    // Strided logits.
    let swapped: Vec<f32> = (0..8).map(|i| X[i % 2 * 4 + i / 2]).collect();
    let swapped = tensor(&rig, &swapped, &[4, 2]);
    let (mut yv, mut iv, mut rv) = (y.view_mut(), ids.view_mut(), rows.view_mut());
    let x = swapped.view().transpose().unwrap();
    op::moe_gating_top_k_softmax(&sequence, &x, None, &mut yv, &mut iv, &mut rv).unwrap();
    assert_eq!(read::<i32>(&rig, &ids), [2, 1, 0, 1]);
}

#[test]
fn either_order() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, done) = (tensor(&rig, &X, &[2, 4]), finished(&rig));
    let (mut y, mut ids) = (zeros(&rig, DType::F32, &[2, 2]), zeros(&rig, DType::I32, &[2, 2]));
    let mut all = zeros(&rig, DType::F32, &[2, 4]);
    let (xv, dv) = (x.view(), done.view());
    let (mut yv, mut iv, mut av) = (y.view_mut(), ids.view_mut(), all.view_mut());
    let over = SoftmaxOver::All;
    op::moe_gating_top_k_softmax_v2(&sequence, &xv, Some(&dv), over, &mut yv, &mut iv, Some(&mut av)).unwrap();
    assert_eq!(read::<i32>(&rig, &ids), [2, 1, 4, 4]);
    near(&read::<f32>(&rig, &y), &[3.0 / 7.0, 2.0 / 7.0, 0.25, 0.25]);
    near(&read::<f32>(&rig, &all)[..4], &[1.0 / 7.0, 2.0 / 7.0, 3.0 / 7.0, 1.0 / 7.0]);

    let (mut yv, mut iv) = (y.view_mut(), ids.view_mut());
    op::moe_gating_top_k_softmax_v2(&sequence, &xv, None, SoftmaxOver::Chosen, &mut yv, &mut iv, None).unwrap();
    near(&read::<f32>(&rig, &y)[..2], &[0.6, 0.4]);
}

#[test]
fn what_is_refused_and_what_is_not_called() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let x = tensor(&rig, &X, &[2, 4]);
    let route = |x: &Tensor, tokens: usize, k: usize| {
        let shape = [tokens, k];
        let [mut y, mut ids, mut rows] = [DType::F32, DType::I32, DType::I32].map(|dtype| zeros(&rig, dtype, &shape));
        let (mut yv, mut iv, mut rv) = (y.view_mut(), ids.view_mut(), rows.view_mut());
        op::moe_gating_top_k_softmax(&sequence, &x.view(), None, &mut yv, &mut iv, &mut rv)
    };
    for k in [0, 5] {
        let Err(Error::Rule(violation)) = route(&x, 2, k) else { panic!("k {k} passes") };
        assert_eq!((violation.operator, violation.rule), (OperatorId::MoeGatingTopKSoftmax, "k"));
    }
    route(&zeros(&rig, DType::F32, &[0, 4]), 0, 2).unwrap();
    let (mut y, mut ids) = (zeros(&rig, DType::F32, &[2, 2]), zeros(&rig, DType::I32, &[2, 2]));
    let mut all = zeros(&rig, DType::F32, &[2, 4]);
    let (mut yv, mut iv, mut av) = (y.view_mut(), ids.view_mut(), all.view_mut());
    let over = SoftmaxOver::Chosen;
    let answer = op::moe_gating_top_k_softmax_v2(&sequence, &x.view(), None, over, &mut yv, &mut iv, Some(&mut av));
    assert!(matches!(answer, Err(Error::Shape { .. })), "{answer:?}");
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}
