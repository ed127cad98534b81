//! Sequences and plans: scratch memory, who may hold it, what it costs.

use ascend_moe::op::{self, CubeMath, GatingTopK, GroupScore, Normalisation};
use ascend_moe::{DType, Error, Footprint, Result, Sequence, Stream, Tensor, TensorView, TensorViewMut};
use ascend_sys::{FunctionId, OperatorId};

use crate::rig::{Gate, Rig};

#[test]
fn temporary_tensors_do_not_overlap_and_are_aligned() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let mut tensors: Vec<_> =
        [1usize, 512, 513, 7].iter().map(|&n| sequence.tensor(DType::U8, &[n]).unwrap()).collect();
    let mut end = 0;
    for tensor in &tensors {
        let address = tensor.desc().data;
        assert_eq!(address % 512, 0);
        assert!(end == 0 || address >= end + 32, "32 bytes of slack");
        end = if address == tensors[3].desc().data { 0 } else { address + tensor.dim(0) as u64 };
    }
    for (value, tensor) in (1u8..).zip(&mut tensors) {
        tensor.copy_from_host(&rig.stream, &vec![value; tensor.dim(0) as usize]).unwrap();
    }
    for (value, tensor) in (1u8..).zip(&tensors) {
        let read: Vec<u8> = tensor.as_view().to_vec(&rig.stream).unwrap();
        assert!(read.iter().all(|&byte| byte == value), "tensor {value}");
    }
    assert_eq!(sequence.footprint(), Footprint { tensors: 512 + 1024 + 1024 + 512, workspace: 0 });
}

#[test]
fn the_next_sequence_uses_the_same_bytes() {
    let rig = Rig::new();
    let first = rig.stream.sequence().unwrap().tensor(DType::F32, &[1000]).unwrap().desc().data;
    let held = rig.device.bytes_in_use();
    let second = rig.stream.sequence().unwrap().tensor(DType::F32, &[900]).unwrap().desc().data;
    assert_eq!((first, rig.device.bytes_in_use()), (second, held));
    // One that outgrows them gets others, and the old ones are freed in stream order.
    let gate = Gate::close(&rig.stream);
    let sequence = rig.stream.sequence().unwrap();
    sequence.tensor(DType::F32, &[100_000]).unwrap();
    drop(sequence);
    assert!(rig.device.bytes_in_use() > held + 400_000, "both are there while the stream is held back");
    gate.open();
    rig.stream.synchronize().unwrap();
    assert!((400_000..401_000).contains(&rig.device.bytes_in_use()), "{}", rig.device.bytes_in_use());
}

#[test]
fn tensors_survive_growth_within_a_sequence() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let mut small = sequence.tensor(DType::I32, &[4]).unwrap();
    small.copy_from_host(&rig.stream, &[1, 2, 3, 4]).unwrap();
    let mut large = sequence.tensor(DType::U8, &[1 << 20]).unwrap();
    large.zero(&sequence).unwrap();
    assert_eq!(small.as_view().to_vec::<i32>(&rig.stream).unwrap(), [1, 2, 3, 4]);
    assert_eq!(large.as_view().to_vec::<u8>(&rig.stream).unwrap(), vec![0; 1 << 20]);
    let needed = sequence.footprint();
    drop(sequence);
    // The chunk that is left holds it all.
    let mallocs = rig.cann.table().calls(FunctionId::aclrtMallocAlign32);
    drop(rig.stream.sequence_with(needed).unwrap());
    assert_eq!(rig.cann.table().calls(FunctionId::aclrtMallocAlign32), mallocs);
}

#[test]
fn one_thread_at_a_time_holds_a_stream() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    assert!(matches!(rig.stream.sequence(), Err(Error::SequenceOpen)));
    assert!(matches!(rig.stream.clone().sequence_with(Footprint::default()), Err(Error::SequenceOpen)));
    let other = Stream::new(&rig.device).unwrap();
    drop(other.sequence().unwrap());
    let stream = rig.stream.clone();
    let waiting = std::thread::spawn(move || stream.sequence().map(drop).is_ok());
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!waiting.is_finished());
    drop(sequence);
    assert!(waiting.join().unwrap());
    drop(rig.stream.sequence().unwrap());
}

#[test]
fn scratch_belongs_to_its_stream() {
    let rig = Rig::new();
    let other = Stream::new(&rig.device).unwrap();
    let (here, there) = (rig.stream.sequence().unwrap(), other.sequence().unwrap());
    let mut scratch = here.tensor(DType::F32, &[4]).unwrap();
    scratch.copy_from_host(&rig.stream, &[1.0f32; 4]).unwrap();
    let mut out = Tensor::zeros(&rig.device, DType::F32, &[4]).unwrap();
    let refused = op::muls(&there, &scratch.as_view(), 2.0, &mut out.view_mut());
    assert!(matches!(refused, Err(Error::WrongStream)), "{refused:?}");
    assert!(matches!(scratch.as_view().to_vec::<f32>(&other), Err(Error::WrongStream)));
    assert!(matches!(scratch.copy_from_host(&other, &[0.0f32; 4]), Err(Error::WrongStream)));
    assert!(matches!(scratch.zero(&there), Err(Error::WrongStream)));
    op::muls(&here, &scratch.as_view(), 2.0, &mut out.view_mut()).unwrap();
    assert_eq!(out.to_vec::<f32>(&rig.stream).unwrap(), [2.0; 4]);
}

/// A small router: what a layer would do, written once for running and for planning.
fn route(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    router: &TensorView<'_>,
    weights: &mut TensorViewMut<'_>,
    experts: &mut TensorViewMut<'_>,
) -> Result<()> {
    let tokens = x.dim(0) as usize;
    let count = router.dim(0) as usize;
    let mut logits = sequence.tensor(DType::F32, &[tokens, count])?;
    op::mm(sequence, x, &router.transpose()?, CubeMath::KeepDType, &mut logits)?;
    let params = GatingTopK {
        k: experts.dim(1) as usize,
        groups: 1,
        kept_groups: 1,
        group_score: GroupScore::Max,
        renormalise: false,
        normalisation: Normalisation::Sigmoid,
        scale: 1.0,
        eps: 1e-20,
    };
    op::moe_gating_top_k(sequence, &logits.as_view(), None, &params, weights, experts, None)
}

#[test]
fn a_plan_tells_what_running_needs() {
    let rig = Rig::new();
    let table = rig.cann.table();
    let plan = rig.device.plan();
    assert!(plan.stream().is_none());
    let x = TensorView::planned(DType::F32, &[40, 64]).unwrap();
    let router = TensorView::planned(DType::F32, &[16, 64]).unwrap();
    let mut weights = TensorViewMut::planned(DType::F32, &[40, 4]).unwrap();
    let mut experts = TensorViewMut::planned(DType::I32, &[40, 4]).unwrap();
    route(&plan, &x, &router, &mut weights, &mut experts).unwrap();
    let needed = plan.footprint();
    drop(plan);
    assert_eq!(needed.tensors, 2 * (40 * 16 * 4 + 512));
    assert!(needed.workspace > 0, "{needed:?}");
    assert_eq!(table.calls(FunctionId::aclnnMm), 0, "a plan runs nothing");
    assert_eq!(table.calls(FunctionId::aclDestroyAclOpExecutor), 2, "and leaves nothing behind");
    assert_eq!(rig.device.bytes_in_use(), 0);

    let x = Tensor::from_slice(&rig.device, &vec![0.25f32; 40 * 64], &[40, 64]).unwrap();
    let ramp: Vec<f32> = (0..16 * 64).map(|i| (i / 64) as f32 * 0.01).collect();
    let router = Tensor::from_slice(&rig.device, &ramp, &[16, 64]).unwrap();
    let mut weights = Tensor::zeros(&rig.device, DType::F32, &[40, 4]).unwrap();
    let mut experts = Tensor::zeros(&rig.device, DType::I32, &[40, 4]).unwrap();
    let tensors = rig.device.bytes_in_use();
    for round in 0..3 {
        let sequence = rig.stream.sequence_with(needed).unwrap();
        route(&sequence, &x.view(), &router.view(), &mut weights.view_mut(), &mut experts.view_mut()).unwrap();
        assert_eq!(sequence.footprint(), needed, "round {round}");
    }
    assert_eq!(experts.to_vec::<i32>(&rig.stream).unwrap(), [15, 14, 13, 12].repeat(40));
    assert_eq!(rig.device.bytes_in_use() - tensors, needed.allocation(), "announced and held are the same");
    assert_eq!(table.calls(FunctionId::aclrtMallocAlign32), 1);
    assert_eq!(table.operator_calls().collect::<Vec<_>>(), [(OperatorId::Mm, 3), (OperatorId::MoeGatingTopK, 3)]);
}

#[test]
fn what_is_planned_does_not_run() {
    let rig = Rig::new();
    let planned = TensorView::planned(DType::F32, &[4]).unwrap();
    let mut out = Tensor::zeros(&rig.device, DType::F32, &[4]).unwrap();
    let sequence = rig.stream.sequence().unwrap();
    assert!(matches!(op::muls(&sequence, &planned, 2.0, &mut out.view_mut()), Err(Error::Planned)));
    assert!(matches!(planned.to_vec::<f32>(&rig.stream), Err(Error::Planned)));
    // Scratch of a stream is no argument of a plan, but tensors are.
    let scratch = sequence.tensor(DType::F32, &[4]).unwrap();
    let plan = rig.device.plan();
    let mut target = plan.tensor(DType::F32, &[4]).unwrap();
    assert!(matches!(op::muls(&plan, &scratch.as_view(), 2.0, &mut target), Err(Error::WrongStream)));
    op::muls(&plan, &out.view(), 2.0, &mut target).unwrap();
    target.zero(&plan).unwrap();
}

#[test]
fn workspace_that_does_not_fit_is_an_error_that_leaves_nothing() {
    let rig = Rig::with(|config| config.hbm = Some(8 << 20));
    let x = Tensor::zeros(&rig.device, DType::F32, &[2, 8]).unwrap();
    let mut out = Tensor::zeros(&rig.device, DType::F32, &[2, 2]).unwrap();
    let right = Tensor::zeros(&rig.device, DType::F32, &[8, 2]).unwrap();
    let sequence = rig.stream.sequence().unwrap();
    let result = op::mm(&sequence, &x.view(), &right.view(), CubeMath::KeepDType, &mut out.view_mut());
    assert!(matches!(result, Err(Error::OutOfMemory { .. })), "{result:?}");
    let table = rig.cann.table();
    assert_eq!(table.calls(FunctionId::aclnnMmGetWorkspaceSize), 1);
    assert_eq!(table.calls(FunctionId::aclDestroyAclOpExecutor), 1, "between the phases the executor is ours");
    assert_eq!(table.calls(FunctionId::aclnnMm), 0);
}
