//! Graphs: captured once, launched many times, with the values of eager calls.

use ascend_moe::checkpoint::Checkpoint;
use ascend_moe::layer::{LayerOptions, MoeLayer};
use ascend_moe::op::{self, CubeMath, GroupListKind, GroupedMatmul, Groups};
use ascend_moe::spec::FloatType;
use ascend_moe::{CaptureMode, DType, DeviceBuffer, Error, Event, Result, Stream, Tensor};
use ascend_sys::FunctionId;
use half::bf16;

use crate::rig::{Gate, Rig};

/// Operands of a short sequence: a product, a sum, a grouped product.
struct Operands {
    x: Tensor,
    square: Tensor,
    bias: Tensor,
    experts: Tensor,
    list: Tensor,
    out: Tensor,
}

fn values(round: usize) -> Vec<bf16> {
    (0..6 * 4).map(|i| bf16::from_f32(((i * 7 + round * 5) % 11) as f32 / 3.0 - 1.5)).collect()
}

impl Operands {
    fn new(rig: &Rig) -> Self {
        let ramp = |n: usize| (0..n).map(|i| bf16::from_f32((i % 9) as f32 / 4.0 - 1.0)).collect::<Vec<_>>();
        let tensor = |shape: &[usize]| Tensor::from_slice(&rig.device, &ramp(shape.iter().product()), shape).unwrap();
        Self {
            x: Tensor::from_slice(&rig.device, &values(0), &[6, 4]).unwrap(),
            square: tensor(&[4, 4]),
            bias: tensor(&[4]),
            experts: tensor(&[3, 4, 2]),
            list: Tensor::from_slice(&rig.device, &[2i64, 1, 3], &[3]).unwrap(),
            out: Tensor::zeros(&rig.device, DType::Bf16, &[6, 2]).unwrap(),
        }
    }

    fn run(&mut self, stream: &Stream) -> Result<()> {
        let sequence = stream.sequence()?;
        let mut product = sequence.tensor(DType::Bf16, &[6, 4])?;
        let mut sum = sequence.tensor(DType::Bf16, &[6, 4])?;
        op::mm(&sequence, &self.x.view(), &self.square.view(), CubeMath::KeepDType, &mut product)?;
        op::add(&sequence, &product.as_view(), &self.bias.view(), 1.0, &mut sum)?;
        let inputs = GroupedMatmul {
            x: &[sum.as_view()],
            weight: &[self.experts.view()],
            bias: &[],
            groups: Groups::Rows { list: &self.list.view(), kind: GroupListKind::Count },
        };
        op::grouped_matmul(&sequence, &inputs, &mut [self.out.view_mut()])?;
        Ok(())
    }

    fn set(&mut self, stream: &Stream, round: usize) {
        self.x.view_mut().copy_from_host(stream, &values(round)).unwrap();
    }

    fn read(&self, stream: &Stream) -> Vec<bf16> {
        self.out.to_vec(stream).unwrap()
    }
}

#[test]
fn launches_give_what_eager_calls_give() {
    let rig = Rig::new();
    let mut operands = Operands::new(&rig);
    let graph = rig.stream.capture(CaptureMode::Global, || operands.run(&rig.stream)).unwrap();
    assert_eq!(operands.read(&rig.stream), [bf16::ZERO; 12], "nothing ran");
    let other = Stream::new(&rig.device).unwrap();
    for (round, stream) in [(1, &rig.stream), (2, &other), (3, &rig.stream), (4, &other)] {
        operands.set(&rig.stream, round);
        operands.run(&rig.stream).unwrap();
        let eager = operands.read(&rig.stream);
        operands.out.view_mut().copy_from_host(&rig.stream, &[bf16::ZERO; 12]).unwrap();
        let calls = rig.cann.table().calls(FunctionId::aclnnMm);
        graph.launch(stream).unwrap();
        assert_eq!(rig.cann.table().calls(FunctionId::aclnnMm), calls, "a launch calls no operator");
        assert_eq!(operands.read(&rig.stream), eager, "round {round}");
        assert!(eager.iter().any(|value| *value != bf16::ZERO));
    }
}

#[test]
fn a_layer_is_captured_and_launched() {
    let rig = Rig::new();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/checkpoints/mixtral");
    let checkpoint = Checkpoint::open(path).unwrap();
    let weights = checkpoint.layer_weights(0).unwrap();
    let layer = MoeLayer::load(&rig.stream, &weights, LayerOptions::new(FloatType::F32), &mut |_, _| {}).unwrap();
    let hidden = layer.spec().experts().hidden;
    let input = |round: usize| -> Vec<f32> {
        (0..5 * hidden).map(|i| ((i * 13 + round * 29) % 31) as f32 / 10.0 - 1.5).collect()
    };
    let mut x = Tensor::from_slice(&rig.device, &input(0), &[5, hidden]).unwrap();
    let mut eager = layer.new_output(5).unwrap();
    let mut captured = layer.new_output(5).unwrap();
    layer.forward_into(&rig.stream, x.view(), &mut eager).unwrap();
    let capture = || layer.forward_into(&rig.stream, x.view(), &mut captured);
    let graph = rig.stream.capture(CaptureMode::ThreadLocal, capture).unwrap();
    for round in 1..4 {
        x.view_mut().copy_from_host(&rig.stream, &input(round)).unwrap();
        layer.forward_into(&rig.stream, x.view(), &mut eager).unwrap();
        graph.launch(&rig.stream).unwrap();
        let read = |tensor: &Tensor| tensor.to_vec::<f32>(&rig.stream).unwrap();
        assert_eq!(read(&captured.output), read(&eager.output), "round {round}");
        assert_eq!(
            captured.expert_ids.to_vec::<i32>(&rig.stream).unwrap(),
            eager.expert_ids.to_vec::<i32>(&rig.stream).unwrap()
        );
    }
}

#[test]
fn what_waits_is_refused_in_a_capture_and_the_stream_goes_on() {
    let rig = Rig::new();
    let mut operands = Operands::new(&rig);
    let event = Event::new(&rig.device).unwrap();
    let refused = |result: Result<()>| assert!(matches!(result, Err(Error::Capturing { .. })), "{result:?}");
    let graph = rig.stream.capture(CaptureMode::Global, || {
        operands.run(&rig.stream)?;
        refused(rig.stream.synchronize());
        refused(rig.stream.is_idle().map(drop));
        refused(rig.stream.record(&event));
        refused(rig.stream.wait(&event));
        refused(operands.out.to_vec::<bf16>(&rig.stream).map(drop));
        refused(operands.x.view_mut().copy_from_host(&rig.stream, &values(1)));
        refused(rig.stream.capture(CaptureMode::Global, || Ok(())).map(drop));
        // CANN refuses what is done at once, and says so.
        let made = Tensor::zeros(&rig.device, DType::F32, &[1]);
        assert_eq!(made.unwrap_err().code(), Some(107_030));
        Ok(())
    });
    graph.unwrap().launch(&rig.stream).unwrap();
    let launched = operands.read(&rig.stream);
    // An error of the calls throws the capture away, and so does a panic.
    refused(rig.stream.capture(CaptureMode::Global, || rig.stream.synchronize()).map(drop));
    let panics = || rig.stream.capture(CaptureMode::Global, || panic!("on purpose"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
    operands.run(&rig.stream).unwrap();
    assert_eq!(operands.read(&rig.stream), launched);
    let _open = rig.stream.sequence().unwrap();
    let refused = rig.stream.capture(CaptureMode::Global, || Ok(()));
    assert!(matches!(refused, Err(Error::SequenceOpen)));
}

#[test]
fn memory_lives_as_long_as_the_graph() {
    let rig = Rig::new();
    let mut operands = Operands::new(&rig);
    let result = rig.buffer(&[0u16; 12]);
    let mut source = rig.buffer(&[7u16; 12]);
    let mut target: DeviceBuffer<u16> = rig.buffer(&[0; 12]);
    let graph = rig
        .stream
        .capture(CaptureMode::Global, || {
            operands.run(&rig.stream)?;
            target.copy_from(&rig.stream, &source)?;
            source.copy_from(&rig.stream, &result)
        })
        .unwrap();
    let held = rig.device.bytes_in_use();
    drop((operands, source, result));
    assert_eq!(rig.device.bytes_in_use(), held);
    // The stream's scratch outgrown, and its work held back: a launch still has its own.
    rig.stream.sequence().unwrap().tensor(DType::U8, &[64 << 20]).unwrap();
    graph.launch(&rig.stream).unwrap();
    assert_eq!(target.to_vec(&rig.stream).unwrap(), [7; 12]);
    let gate = Gate::close(&rig.stream);
    graph.launch(&rig.stream).unwrap();
    gate.open();
    drop(graph);
    rig.stream.synchronize().unwrap();
    assert_eq!(target.to_vec(&rig.stream).unwrap(), [0; 12], "the second launch copied what the first had put there");
    assert!(rig.device.bytes_in_use() < (64 << 20) + 4096);
}

#[test]
fn a_device_with_a_graph_can_be_reset() {
    let rig = Rig::new();
    let mut operands = Operands::new(&rig);
    let graph = rig.stream.capture(CaptureMode::Relaxed, || operands.run(&rig.stream)).unwrap();
    rig.device.reset().unwrap();
    assert!(matches!(graph.launch(&rig.stream), Err(Error::DeviceReset { .. })));
}
