//! Graphs of several streams, and graphs put on other tensors.

use ascend_moe::op::{self, CubeMath};
use ascend_moe::{Cann, CaptureMode, DType, Error, Graph, Result, Stream, Tensor};
use ascend_sys::FunctionId;

use crate::rig::{Gate, Rig};

fn square(rig: &Rig, value: f32) -> Tensor {
    Tensor::from_slice(&rig.device, &[value, 0.0, 0.0, value], &[2, 2]).unwrap()
}

/// `out = x . x + x`.
fn run(stream: &Stream, x: &Tensor, out: &mut Tensor) -> Result<()> {
    let sequence = stream.sequence()?;
    let mut product = sequence.tensor(DType::F32, &[2, 2])?;
    op::mm(&sequence, &x.view(), &x.view(), CubeMath::KeepDType, &mut product)?;
    op::add(&sequence, &product.as_view(), &x.view(), 1.0, &mut out.view_mut())
}

fn captured(rig: &Rig, x: &Tensor, out: &mut Tensor) -> Graph {
    rig.stream.capture_updatable(CaptureMode::Global, || run(&rig.stream, x, out)).unwrap()
}

fn first(stream: &Stream, tensor: &Tensor) -> f32 {
    tensor.to_vec::<f32>(stream).unwrap()[0]
}

#[test]
fn an_update_is_in_order_with_launches() {
    let rig = Rig::new();
    let (other, updater) = (Stream::new(&rig.device).unwrap(), Stream::new(&rig.device).unwrap());
    let (two, three) = (square(&rig, 2.0), square(&rig, 3.0));
    let (mut a, mut b) = (square(&rig, 0.0), square(&rig, 0.0));
    let mut graph = captured(&rig, &two, &mut a);
    // A launch that is held back still has the captured calls; one after the update has the others.
    let gate = Gate::close(&other);
    graph.launch(&other).unwrap();
    graph.update(&updater, || run(&updater, &three, &mut b)).unwrap();
    graph.launch(&rig.stream).unwrap();
    assert!(!updater.is_idle().unwrap(), "the update waits for the launch");
    gate.open();
    assert_eq!((first(&rig.stream, &a), first(&rig.stream, &b)), (6.0, 12.0));
    // An update held back: a launch on another stream waits for it.
    let mut c = square(&rig, 0.0);
    graph.update(&updater, || run(&updater, &two, &mut c)).unwrap();
    graph.launch(&other).unwrap();
    assert_eq!(first(&other, &c), 6.0);
    assert_eq!(first(&other, &b), 12.0);
}

#[test]
fn a_graph_holds_the_memory_of_its_last_update() {
    let rig = Rig::new();
    let x = square(&rig, 2.0);
    let mut out = square(&rig, 0.0);
    // Once eagerly: the stream has scratch enough for the capture.
    run(&rig.stream, &x, &mut out).unwrap();
    let mut graph = captured(&rig, &x, &mut out);
    graph.launch(&rig.stream).unwrap();
    rig.stream.synchronize().unwrap();
    let (three, mut result) = (square(&rig, 3.0), square(&rig, 0.0));
    let held = rig.device.bytes_in_use();
    drop((x, out));
    assert_eq!(rig.device.bytes_in_use(), held, "held by the graph");
    graph.update(&rig.stream, || run(&rig.stream, &three, &mut result)).unwrap();
    rig.stream.synchronize().unwrap();
    let two = 2 * 64;
    assert_eq!(rig.device.bytes_in_use(), held - two, "no more of those before");
    drop(three);
    assert_eq!(rig.device.bytes_in_use(), held - two, "but the others");
    graph.launch(&rig.stream).unwrap();
    assert_eq!(first(&rig.stream, &result), 12.0);
    drop(graph);
    rig.stream.synchronize().unwrap();
    assert_eq!(rig.device.bytes_in_use(), held - two - 64);
}

#[test]
fn updates_that_do_not_fit() {
    let rig = Rig::new();
    let (two, three) = (square(&rig, 2.0), square(&rig, 3.0));
    let (mut out, mut buffers) = (square(&rig, 0.0), [rig.buffer(&[1u8; 8]), rig.buffer(&[0u8; 8])]);
    let plain = rig.stream.capture(CaptureMode::Global, || run(&rig.stream, &two, &mut out));
    let refused = plain.unwrap().update(&rig.stream, || Ok(()));
    assert!(matches!(refused, Err(Error::NotUpdatable { call: "this graph" })), "{refused:?}");

    let mut graph = captured(&rig, &two, &mut out);
    graph.launch(&rig.stream).unwrap();
    assert_eq!(first(&rig.stream, &out), 6.0);
    let torn = |graph: &Graph| {
        assert!(matches!(graph.launch(&rig.stream), Err(Error::TornGraph)));
        rig.stream.synchronize().unwrap();
    };
    // Another operator, too few, too many, an error of the calls, a panic.
    let other = graph
        .update(&rig.stream, || op::add(&rig.stream.sequence()?, &two.view(), &two.view(), 1.0, &mut out.view_mut()));
    let error = other.unwrap_err().to_string();
    assert!(error.contains("207019"), "{error}");
    torn(&graph);
    let few = graph.update(&rig.stream, || Ok(()));
    assert_eq!(few.unwrap_err().code(), Some(107_033));
    torn(&graph);
    let many = graph.update(&rig.stream, || {
        run(&rig.stream, &two, &mut out)?;
        run(&rig.stream, &two, &mut out)
    });
    let error = many.unwrap_err().to_string();
    assert!(error.contains("207019"), "{error}");
    torn(&graph);
    let failed = graph.update(&rig.stream, || {
        run(&rig.stream, &two, &mut out)?;
        rig.stream.synchronize()
    });
    assert!(matches!(failed, Err(Error::Capturing { .. })), "{failed:?}");
    torn(&graph);
    let panics = || graph.update(&rig.stream, || panic!("on purpose"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
    torn(&graph);
    let [source, target] = &mut buffers;
    for copy in [true, false] {
        let refused = graph.update(&rig.stream, || {
            if copy { target.copy_from(&rig.stream, source) } else { target.zero(&rig.stream) }
        });
        assert!(matches!(refused, Err(Error::NotUpdatable { .. })), "{refused:?}");
        torn(&graph);
        let refused = rig.stream.capture_updatable(CaptureMode::Global, || {
            if copy { target.copy_from(&rig.stream, source) } else { target.zero(&rig.stream) }
        });
        assert!(matches!(refused, Err(Error::NotUpdatable { .. })), "{refused:?}");
    }
    assert_eq!(target.to_vec(&rig.stream).unwrap(), [0; 8], "nothing was copied");
    {
        let _open = rig.stream.sequence().unwrap();
        assert!(matches!(graph.update(&rig.stream, || Ok(())), Err(Error::SequenceOpen)));
    }
    // One that fits makes it whole again.
    graph.update(&rig.stream, || run(&rig.stream, &three, &mut out)).unwrap();
    graph.launch(&rig.stream).unwrap();
    assert_eq!(first(&rig.stream, &out), 12.0);
    // Not on a stream in capture, nor within another update.
    let within = rig.stream.capture(CaptureMode::Global, || {
        let refused = graph.update(&rig.stream, || Ok(()));
        assert!(matches!(refused, Err(Error::Capturing { .. })), "{refused:?}");
        Ok(())
    });
    within.unwrap();
    graph.launch(&rig.stream).unwrap();
}

#[test]
fn libraries_without_task_groups() {
    let rig = Rig::new();
    let table = rig.cann.table().without(&[FunctionId::aclmdlRICaptureTaskGrpBegin]);
    let cann = Cann::from_table(std::sync::Arc::new(table)).unwrap();
    let stream = Stream::new(&cann.device(0).unwrap()).unwrap();
    let refused = stream.capture_updatable(CaptureMode::Global, || Ok(()));
    assert!(matches!(refused, Err(Error::MissingFunction(_))), "{refused:?}");
    stream.synchronize().unwrap();
    stream.capture(CaptureMode::Global, || Ok(())).unwrap();
}

/// What goes back and forth between the streams of a capture is captured in order, whatever is joined when.
#[test]
fn streams_captured_together() {
    let rig = Rig::new();
    let sides = [0, 1].map(|_| Stream::new(&rig.device).unwrap());
    let x = square(&rig, 2.0);
    let (mut a, mut b, mut c) = (square(&rig, 0.0), square(&rig, 0.0), square(&rig, 0.0));
    let waits = || rig.cann.table().calls(FunctionId::aclrtStreamWaitEvent);
    let mut orders = 0;
    let mut input = square(&rig, 2.0);
    let graph = rig
        .stream
        .capture_with(&[&sides[0], &sides[1]], CaptureMode::Global, || {
            let before = waits();
            run(&rig.stream, &input, &mut a)?;
            run(&sides[0], &a, &mut b)?;
            run(&sides[1], &a, &mut c)?;
            // Written anew once both have read it, of which one is still to come in either order.
            let sequence = rig.stream.sequence()?;
            op::add(&sequence, &b.view(), &c.view(), 1.0, &mut a.view_mut())?;
            orders = waits() - before;
            Ok(())
        })
        .unwrap();
    assert_eq!(orders, 6, "two that read what the first wrote; it reads what they wrote, and writes what they read");
    for (value, stream) in [(2.0f32, &rig.stream), (3.0, &sides[0]), (1.0, &sides[1])] {
        input.view_mut().copy_from_host(stream, &[value, 0.0, 0.0, value]).unwrap();
        graph.launch(stream).unwrap();
        let once = value * value + value;
        assert_eq!(first(stream, &a), 2.0 * (once * once + once), "{value}");
    }
    // The streams are free again, each by itself.
    run(&sides[0], &x, &mut b).unwrap();
    run(&sides[1], &x, &mut c).unwrap();
    assert_eq!(first(&sides[0], &b), first(&sides[1], &c));
    let events = rig.cann.table().calls(FunctionId::aclrtDestroyEvent);
    drop(graph);
    assert!(rig.cann.table().calls(FunctionId::aclrtDestroyEvent) >= events + 4, "its events go with it");
}

#[test]
fn streams_that_cannot_be_captured_together() {
    let rig = Rig::with(|config| config.devices = 2);
    let side = Stream::new(&rig.device).unwrap();
    let foreign = Stream::new(&rig.cann.device(1).unwrap()).unwrap();
    let capture = |sides: &[&Stream]| rig.stream.capture_with(sides, CaptureMode::Global, || Ok(()));
    assert!(matches!(capture(&[&foreign]), Err(Error::WrongDevice { .. })));
    assert!(matches!(capture(&[&rig.stream]), Err(Error::SequenceOpen)));
    assert!(matches!(capture(&[&side, &side]), Err(Error::SequenceOpen)));
    let within = side.capture(CaptureMode::Relaxed, || {
        assert!(matches!(capture(&[&side]), Err(Error::Capturing { .. })));
        Ok(())
    });
    within.unwrap();
    // An error or a panic of the calls sets all of them free.
    let failed = rig.stream.capture_with(&[&side], CaptureMode::Global, || side.synchronize());
    assert!(matches!(failed, Err(Error::Capturing { .. })));
    let panics = || rig.stream.capture_with(&[&side], CaptureMode::Global, || panic!("on purpose"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
    for stream in [&rig.stream, &side] {
        stream.synchronize().unwrap();
    }
    capture(&[&side]).unwrap().launch(&side).unwrap();
    side.synchronize().unwrap();
}
