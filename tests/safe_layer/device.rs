//! Devices: sharing, mixing, faults, resets, forks, threads.

use std::process::Command;
use std::sync::Arc;

use ascend_moe::checkpoint::{Checkpoint, CheckpointError, HostLayer, TensorFile};
use ascend_moe::layer::{
    ChunkPlan, LayerInput, LayerOptions, LayerOutput, MemoryPlan, MoeLayer, Pass, Probe, RoutedOutput, Router,
    RouterPlan, Step,
};
use ascend_moe::spec::{ModelSpec, MoeSpec, SpecError};
use ascend_moe::{
    Cann, CaptureMode, Device, DeviceBuffer, Error, Event, Family, Footprint, Graph, MemoryInfo, Pending, PinnedBuffer,
    PlannedCall, Sequence, Stream, Tensor, TensorView, TensorViewMut, VendorError, op,
};
use ascend_sys::{FunctionId, Release};
use cann_sim::FindingKind;

use crate::rig::{Gate, Rig};

#[test]
fn a_device_is_claimed_once_and_given_back_once() {
    let rig = Rig::new();
    let table = Arc::clone(rig.cann.table());
    let again = rig.cann.device(0).unwrap();
    let buffer = DeviceBuffer::from_slice(&again, &[1u8]).unwrap();
    assert_eq!(buffer.to_vec(&rig.stream).unwrap(), [1], "one device, whichever handle");
    assert_eq!(table.calls(FunctionId::aclrtSetDevice), 1);
    let other = rig.cann.device(1).unwrap();
    assert_eq!((other.id(), table.calls(FunctionId::aclrtSetDevice)), (1, 2));
    drop((other, again));
    assert_eq!(table.calls(FunctionId::aclrtResetDevice), 1, "device 0 is still held");
    let (sim, cann) = (rig.sim().clone(), rig.cann.clone());
    drop(rig);
    assert_eq!(table.calls(FunctionId::aclrtResetDevice), 1, "the buffer holds it");
    drop(buffer);
    assert_eq!(table.calls(FunctionId::aclrtResetDevice), 2);
    assert_eq!(table.calls(FunctionId::aclFinalize) + table.calls(FunctionId::aclFinalizeReference), 0);
    assert_eq!(sim.report(), []);
    drop(cann);
}

#[test]
fn cann_tells_what_it_is() {
    let rig = Rig::new();
    let cann = &rig.cann;
    assert_eq!((cann.device_count().unwrap(), cann.soc()), (2, "Ascend910_9391"));
    assert_eq!(cann.release(), Release::new(9, 1, 0));
    assert!(cann.is_simulated() && cann.libraries().is_empty() && cann.search().is_none());
    let error = cann.device(7).unwrap_err();
    assert_eq!(error.code(), Some(107_001));
    assert!(error.to_string().contains("ASCEND_RT_VISIBLE_DEVICES"), "{error}");
}

#[test]
fn shutdown_waits_for_nobody_and_is_counted() {
    let rig = Rig::new();
    let sim = rig.sim().clone();
    let table = Arc::clone(rig.cann.table());
    assert!(matches!(rig.cann.clone().shutdown(), Err(Error::InUse { .. })));
    let second = Cann::from_table(sim.table()).unwrap();
    second.shutdown().unwrap();
    rig.device.memory_info().unwrap();
    let cann = rig.cann.clone();
    drop(rig);
    cann.shutdown().unwrap();
    assert_eq!(table.calls(FunctionId::aclFinalizeReference), 1);
    assert_eq!(table.calls(FunctionId::aclFinalize), 0);
}

#[test]
fn objects_of_two_devices_do_not_mix() {
    let rig = Rig::new();
    let other = rig.cann.device(1).unwrap();
    let mut buffer = DeviceBuffer::from_slice(&other, &[1.0f32; 4]).unwrap();
    let wrong = |result: ascend_moe::Result<()>| match result {
        Err(Error::WrongDevice { expected: 0, found: 1 }) => {}
        other => panic!("{other:?}"),
    };
    wrong(buffer.zero(&rig.stream));
    wrong(buffer.to_vec(&rig.stream).map(drop));
    wrong(buffer.copy_from_host(&rig.stream, &[0.0; 4]));
    wrong(rig.buffer(&[0.0f32; 4]).copy_from(&rig.stream, &buffer));
    let event = Event::new(&other).unwrap();
    wrong(rig.stream.record(&event));
    wrong(rig.stream.wait(&event));
    let there = Tensor::from_slice(&other, &[1.0f32; 4], &[4]).unwrap();
    let here = Tensor::from_slice(&rig.device, &[1.0f32; 4], &[4]).unwrap();
    let mut out = Tensor::from_slice(&rig.device, &[0.0f32; 4], &[4]).unwrap();
    let sequence = rig.stream.sequence().unwrap();
    wrong(op::mul(&sequence, &here.view(), &there.view(), &mut out.view_mut()));
    // Pinned memory is the process's own.
    let pinned = PinnedBuffer::from_slice(&other, &[2.0f32; 4]).unwrap();
    let mut here = rig.buffer(&[0.0f32; 4]);
    here.upload(&rig.stream, pinned).unwrap().wait().unwrap();
    assert_eq!(here.to_vec(&rig.stream).unwrap(), [2.0; 4]);
}

#[test]
fn a_fault_poisons_and_a_reset_heals() {
    // The first asynchronous copy fails on the device.
    let rig = Rig::with_faults("aclrtMemcpyAsync@1=device:507015");
    let source = rig.buffer(&[1u8; 64]);
    let mut target = rig.buffer(&[0u8; 64]);
    target.copy_from(&rig.stream, &source).expect("a launch reports no fault of the device");
    match rig.stream.synchronize() {
        Err(Error::Vendor(error)) => {
            assert_eq!((error.code, error.family), (507_015, Family::DeviceFault));
            assert!(error.call.starts_with("aclrtSynchronize"), "{}", error.call);
        }
        other => panic!("{other:?}"),
    }
    let poisoned = |error: Error| match error {
        Error::Poisoned { device: 0, code: 507_015, call } => assert!(call.starts_with("aclrtSynchronize")),
        other => panic!("{other}"),
    };
    poisoned(target.zero(&rig.stream).unwrap_err());
    poisoned(rig.device.memory_info().unwrap_err());
    poisoned(Stream::new(&rig.device).unwrap_err());
    poisoned(rig.cann.device(0).unwrap().synchronize().unwrap_err());
    assert_eq!(rig.device.fault().map(|(code, _)| code), Some(507_015));
    // The other device is none the worse.
    rig.cann.device(1).unwrap().synchronize().unwrap();

    rig.device.reset().unwrap();
    let healed = rig.cann.device(0).unwrap();
    let stream = Stream::new(&healed).unwrap();
    let buffer = DeviceBuffer::from_slice(&healed, &[9u8; 8]).unwrap();
    assert_eq!(buffer.to_vec(&stream).unwrap(), [9; 8]);
    let gone = |error: Error| assert!(matches!(error, Error::DeviceReset { device: 0 }), "{error}");
    gone(target.to_vec(&rig.stream).unwrap_err());
    gone(target.to_vec(&stream).unwrap_err());
    gone(buffer.to_vec(&rig.stream).unwrap_err());
}

#[test]
fn after_a_reset_old_objects_say_so_and_drop_quietly() {
    let rig = Rig::new();
    let second = Stream::new(&rig.device).unwrap();
    let event = Event::new(&rig.device).unwrap();
    let mut buffer = rig.buffer(&[1u8; 64]);
    let pinned = PinnedBuffer::from_slice(&rig.device, &[3u8; 64]).unwrap();
    let kept = PinnedBuffer::from_slice(&rig.device, &[4u8; 64]).unwrap();
    let pending = buffer.upload(&second, pinned).unwrap();
    rig.device.reset().unwrap();

    let gone = |error: Error| assert!(matches!(error, Error::DeviceReset { device: 0 }), "{error}");
    gone(rig.device.reset().unwrap_err());
    gone(rig.device.memory_info().unwrap_err());
    gone(buffer.zero(&second).unwrap_err());
    gone(second.record(&event).unwrap_err());
    gone(event.is_complete().unwrap_err());
    gone(second.synchronize().unwrap_err());
    gone(pending.wait().unwrap_err());
    gone(PinnedBuffer::<u8>::alloc_zeroed(&rig.device, 4).unwrap_err());
    let calls = |id| rig.cann.table().calls(id);
    let before = [FunctionId::aclrtFree, FunctionId::aclrtDestroyStream, FunctionId::aclrtDestroyEvent].map(calls);
    let taken = [FunctionId::aclrtMalloc, FunctionId::aclrtCreateStreamWithConfig].map(calls);
    assert_eq!((before[0], before[1]), (taken[0], taken[1]), "the reset gave back what was alive, streams first");
    drop((second, event, buffer));
    let after = [FunctionId::aclrtFree, FunctionId::aclrtDestroyStream, FunctionId::aclrtDestroyEvent].map(calls);
    assert_eq!(before, after, "nothing that the reset took is given back again");
    assert_eq!(kept[..], [4; 64], "pinned memory is the process's own");

    let anew = rig.cann.device(0).unwrap();
    assert_eq!(anew.bytes_in_use(), 0);
    let stream = Stream::new(&anew).unwrap();
    let mut target = DeviceBuffer::<u8>::alloc_zeroed(&anew, 64).unwrap();
    assert_eq!(target.upload(&stream, kept).unwrap().wait().unwrap()[..], [4; 64]);
}

#[test]
fn a_reset_waits_for_queued_work() {
    let rig = Rig::new();
    let gate = Gate::close(&rig.stream);
    let device = rig.device.clone();
    let resetting = std::thread::spawn(move || device.reset());
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!resetting.is_finished());
    gate.open();
    resetting.join().unwrap().unwrap();
}

#[test]
fn what_vendor_calls_say_is_kept_in_the_error() {
    let rig = Rig::with_faults("aclrtMallocHost@1=207001;aclrtCreateStreamWithConfig@2=207008");
    match PinnedBuffer::<u8>::alloc_zeroed(&rig.device, 64).unwrap_err() {
        Error::Vendor(error) => {
            assert_eq!((error.call, error.code), ("aclrtMallocHost", 207_001));
            assert_eq!(error.name, Some("ACL_ERROR_RT_MEMORY_ALLOCATION"));
            assert!(error.message.as_deref().is_some_and(|text| text.contains("fault script")), "{error}");
        }
        other => panic!("{other}"),
    }
    let text = Stream::new(&rig.device).unwrap_err().to_string();
    assert!(text.contains("1984"), "{text}");
}

#[test]
fn a_missing_function_is_named() {
    let rig = Rig::with(|config| config.absent = vec![FunctionId::aclrtCreateEventExWithFlag]);
    match Event::new(&rig.device) {
        Err(Error::MissingFunction(missing)) => assert_eq!(missing.0, FunctionId::aclrtCreateEventExWithFlag),
        other => panic!("{other:?}"),
    }
}

#[test]
fn several_threads_use_one_device() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (device, shared) = (&rig.device, &rig.stream);
            scope.spawn(move || {
                let own = Stream::new(device).unwrap();
                for round in 0..50 {
                    let stream = if round % 2 == 0 { &own } else { shared };
                    let value = thread * 1000 + round;
                    let source = DeviceBuffer::from_slice(device, &[value; 100]).unwrap();
                    let mut target = DeviceBuffer::<u32>::alloc_zeroed(device, 100).unwrap();
                    target.copy_from(stream, &source).unwrap();
                    drop(source);
                    assert_eq!(target.to_vec(stream).unwrap(), [value; 100]);
                }
            });
        }
    });
    // A buffer made here, used there, dropped there.
    let buffer = rig.buffer(&[1u8; 16]);
    let stream = rig.stream.clone();
    std::thread::spawn(move || assert_eq!(buffer.to_vec(&stream).unwrap(), [1; 16])).join().unwrap();
    drop(rig.buffer(&[0u8; 1]));
    rig.stream.synchronize().unwrap();
    assert_eq!(rig.device.bytes_in_use(), 0);
}

#[test]
fn handles_may_cross_threads() {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<Cann>();
    send_sync::<Device>();
    send_sync::<Stream>();
    send_sync::<Event>();
    send_sync::<DeviceBuffer<f32>>();
    send_sync::<PinnedBuffer<f32>>();
    send_sync::<Pending<f32>>();
    send_sync::<Tensor>();
    send_sync::<TensorView<'static>>();
    send_sync::<TensorViewMut<'static>>();
    send_sync::<Error>();
    send_sync::<(VendorError, MemoryInfo, Footprint, PlannedCall, Release)>();
    send_sync::<(Graph, CaptureMode)>();
    send_sync::<(MoeLayer, Router, RouterPlan, LayerOutput, RoutedOutput, LayerInput<'static>)>();
    send_sync::<(LayerOptions, Pass, MemoryPlan, ChunkPlan, Probe, Step)>();
    send_sync::<(MoeSpec, ModelSpec, SpecError, Checkpoint, HostLayer<'static>, TensorFile, CheckpointError)>();

    // A sequence is one thread's: this does not compile where it is `Send`, as both implementations would fit.
    trait IfSend<A> {
        fn is_not_send() {}
    }
    struct Yes;
    impl<T: ?Sized> IfSend<()> for T {}
    impl<T: ?Sized + Send> IfSend<Yes> for T {}
    <Sequence<'static> as IfSend<_>>::is_not_send();
}

/// Set where this test binary runs as the process that forks.
const FORKING: &str = "ASCEND_MOE_TEST_FORKING";

#[test]
fn a_fork_is_refused() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "device::the_process_that_forks", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(FORKING, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("forked and refused"), "{text}");
}

#[test]
#[ignore = "run by a_fork_is_refused in a process of its own"]
fn the_process_that_forks() {
    if std::env::var_os(FORKING).is_none() {
        return;
    }
    let rig = Rig::new();
    let buffer = rig.buffer(&[1u8; 8]);
    // SAFETY: the child only looks at what the layer says, and leaves without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = in_the_child(&rig, buffer);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "the child ended by {status}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "see in_the_child for the step");
    assert!(!rig.findings().iter().any(|finding| finding.kind == FindingKind::Fork), "no vendor call in the child");
    assert_eq!(rig.stream.synchronize().map_err(|error| error.to_string()), Ok(()));
    println!("forked and refused");
}

/// The number of the first step that did not say what it should, 0 for none.
fn in_the_child(rig: &Rig, buffer: DeviceBuffer<u8>) -> i32 {
    let forked =
        |error: Error| matches!(error, Error::Forked { init_pid, pid } if init_pid != pid && pid == std::process::id());
    let steps = [
        buffer.to_vec(&rig.stream).map(drop),
        rig.device.synchronize(),
        rig.cann.device_count().map(drop),
        rig.cann.device(1).map(drop),
        PinnedBuffer::<u8>::alloc_zeroed(&rig.device, 8).map(drop),
        rig.device.reset(),
    ];
    for (step, result) in (1..).zip(steps) {
        if !result.is_err_and(forked) {
            return step;
        }
    }
    let before = rig.cann.table().calls(FunctionId::aclrtFree);
    drop(buffer);
    if rig.cann.table().calls(FunctionId::aclrtFree) == before { 0 } else { 100 }
}
