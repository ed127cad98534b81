//! Buffers: what comes back, when memory is freed, how streams are ordered.

use std::time::Duration;

use ascend_moe::{DeviceBuffer, Error, Event, Family, PinnedBuffer, Stream};
use ascend_sys::FunctionId;

use crate::rig::{Gate, HBM, Rig};

#[test]
fn what_is_written_comes_back() {
    let rig = Rig::new();
    let floats: Vec<f32> = (0..1000).map(|i| i as f32 * 0.5).collect();
    let mut buffer = rig.buffer(&floats);
    assert_eq!(buffer.to_vec(&rig.stream).unwrap(), floats);
    assert_eq!(buffer.len(), 1000);

    let other: Vec<f32> = floats.iter().rev().copied().collect();
    buffer.copy_from_host(&rig.stream, &other).unwrap();
    let mut copy = DeviceBuffer::<f32>::alloc_zeroed(&rig.device, 1000).unwrap();
    assert_eq!(copy.to_vec(&rig.stream).unwrap(), vec![0.0; 1000]);
    copy.copy_from(&rig.stream, &buffer).unwrap();
    let mut read = vec![0.0; 1000];
    copy.copy_to_host(&rig.stream, &mut read).unwrap();
    assert_eq!(read, other);
    copy.zero(&rig.stream).unwrap();
    assert_eq!(copy.to_vec(&rig.stream).unwrap(), vec![0.0; 1000]);

    assert_eq!(rig.buffer(&[i64::MIN, 7]).to_vec(&rig.stream).unwrap(), [i64::MIN, 7]);
    assert_eq!(rig.buffer(&[1u8, 2, 3]).to_vec(&rig.stream).unwrap(), [1, 2, 3]);
}

#[test]
fn lengths_must_agree() {
    let rig = Rig::new();
    let mut buffer = rig.buffer(&[1u32, 2, 3]);
    let legal = |result: ascend_moe::Result<()>| match result {
        Err(Error::Shape { found, legal, .. }) => assert!(found.contains('3') && legal.contains("equal"), "{found}"),
        other => panic!("{other:?}"),
    };
    legal(buffer.copy_to_host(&rig.stream, &mut [0; 4]));
    legal(buffer.copy_from_host(&rig.stream, &[0; 2]));
    legal(buffer.copy_from(&rig.stream, &rig.buffer(&[0u32; 5])));
    assert!(matches!(DeviceBuffer::<u64>::alloc_zeroed(&rig.device, usize::MAX), Err(Error::Shape { .. })));
    assert!(matches!(DeviceBuffer::<u8>::alloc_zeroed(&rig.device, usize::MAX), Err(Error::Shape { .. })));
}

#[test]
fn nothing_is_held_for_no_elements() {
    let rig = Rig::new();
    let mut empty = rig.buffer::<f32>(&[]);
    assert!(empty.is_empty() && empty.address() == 0);
    assert_eq!(rig.device.bytes_in_use(), 0);
    empty.zero(&rig.stream).unwrap();
    empty.copy_from(&rig.stream, &rig.buffer::<f32>(&[])).unwrap();
    let pinned = PinnedBuffer::<f32>::alloc_zeroed(&rig.device, 0).unwrap();
    let pinned = empty.upload(&rig.stream, pinned).unwrap().wait().unwrap();
    drop(empty.download(&rig.stream, pinned).unwrap());
    assert_eq!(empty.to_vec(&rig.stream).unwrap(), [0f32; 0]);
}

#[test]
fn pinned_copies_give_their_buffer_back() {
    let rig = Rig::new();
    let mut device = DeviceBuffer::<i32>::alloc_zeroed(&rig.device, 4).unwrap();
    let gate = Gate::close(&rig.stream);
    let source = PinnedBuffer::from_slice(&rig.device, &[1, 2, 3, 4]).unwrap();
    let upload = device.upload(&rig.stream, source).unwrap();
    let download = device.download(&rig.stream, PinnedBuffer::alloc_zeroed(&rig.device, 4).unwrap()).unwrap();
    assert!(!upload.is_complete().unwrap(), "the stream is held back");
    gate.open();
    assert_eq!(download.wait().unwrap()[..], [1, 2, 3, 4]);
    let mut source = upload.wait().unwrap();
    source[0] = 9;
    let upload = device.upload(&rig.stream, source).unwrap();
    drop(upload);
    assert_eq!(device.to_vec(&rig.stream).unwrap(), [9, 2, 3, 4]);
}

#[test]
fn a_pending_copy_dropped_early_frees_its_buffer_later() {
    let rig = Rig::new();
    let table = rig.cann.table();
    let mut device = DeviceBuffer::<u8>::alloc_zeroed(&rig.device, 1 << 16).unwrap();
    let gate = Gate::close(&rig.stream);
    let pinned = PinnedBuffer::from_slice(&rig.device, &[5u8; 1 << 16]).unwrap();
    drop(device.upload(&rig.stream, pinned).unwrap());
    assert_eq!(table.calls(FunctionId::aclrtFreeHost), 0, "the copy is under way");
    gate.open();
    rig.stream.synchronize().unwrap();
    assert_eq!(table.calls(FunctionId::aclrtFreeHost), 1);
    assert_eq!(device.to_vec(&rig.stream).unwrap(), vec![5; 1 << 16]);
}

#[test]
fn a_buffer_dropped_in_use_lives_until_the_work_is_done() {
    let rig = Rig::new();
    let source = rig.buffer(&[3.5f32; 4096]);
    let mut target = DeviceBuffer::<f32>::alloc_zeroed(&rig.device, 4096).unwrap();
    let held = rig.device.bytes_in_use();
    let gate = Gate::close(&rig.stream);
    target.copy_from(&rig.stream, &source).unwrap();
    let address = source.address();
    drop(source);
    assert_eq!(rig.device.bytes_in_use(), held, "not freed while the stream is held back");
    // Memory allocated meanwhile is other memory.
    let other = rig.buffer(&[-1.0f32; 4096]);
    assert_ne!(other.address(), address);
    gate.open();
    assert_eq!(target.to_vec(&rig.stream).unwrap(), vec![3.5; 4096]);
    assert_eq!(rig.device.bytes_in_use(), held, "one freed at the synchronisation, one allocated");
    // A buffer that no stream works on is freed at once.
    drop(other);
    assert_eq!(rig.device.bytes_in_use(), held / 2);
}

#[test]
fn a_stream_sees_what_another_wrote_before() {
    let rig = Rig::new();
    let second = Stream::new(&rig.device).unwrap();
    let source = rig.buffer(&[7i32; 256]);
    let mut middle = DeviceBuffer::<i32>::alloc_zeroed(&rig.device, 256).unwrap();
    let mut target = DeviceBuffer::<i32>::alloc_zeroed(&rig.device, 256).unwrap();
    let gate = Gate::close(&rig.stream);
    middle.copy_from(&rig.stream, &source).unwrap();
    target.copy_from(&second, &middle).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(!second.is_idle().unwrap(), "it waits for the first stream");
    gate.open();
    assert_eq!(target.to_vec(&second).unwrap(), [7; 256]);
}

#[test]
fn a_stream_does_not_overwrite_what_another_still_reads() {
    let rig = Rig::new();
    let second = Stream::new(&rig.device).unwrap();
    let mut source = rig.buffer(&[7i32; 256]);
    let mut target = DeviceBuffer::<i32>::alloc_zeroed(&rig.device, 256).unwrap();
    let gate = Gate::close(&rig.stream);
    target.copy_from(&rig.stream, &source).unwrap();
    source.zero(&second).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(!second.is_idle().unwrap(), "it waits for the first stream");
    gate.open();
    assert_eq!(target.to_vec(&rig.stream).unwrap(), [7; 256]);
    assert_eq!(source.to_vec(&second).unwrap(), [0; 256]);
}

#[test]
fn a_write_waits_for_every_reader_however_many() {
    let rig = Rig::new();
    let mut shared = rig.buffer(&[1i64; 64]);
    let readers: Vec<Stream> = (0..7).map(|_| Stream::new(&rig.device).unwrap()).collect();
    let gates: Vec<Gate> = readers.iter().map(Gate::close).collect();
    let mut copies: Vec<DeviceBuffer<i64>> =
        readers.iter().map(|_| DeviceBuffer::alloc_zeroed(&rig.device, 64).unwrap()).collect();
    for (copy, reader) in copies.iter_mut().zip(&readers) {
        copy.copy_from(reader, &shared).unwrap();
    }
    shared.zero(&rig.stream).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    for gate in gates.iter().rev() {
        assert!(!rig.stream.is_idle().unwrap());
        gate.open();
    }
    for (copy, reader) in copies.iter().zip(&readers) {
        assert_eq!(copy.to_vec(reader).unwrap(), [1; 64]);
    }
    assert_eq!(shared.to_vec(&rig.stream).unwrap(), [0; 64]);
}

#[test]
fn program_order_holds_however_streams_are_scheduled() {
    for seed in 0..6 {
        let rig = Rig::with(|config| config.seed = Some(seed));
        let streams: Vec<Stream> = (0..4).map(|_| Stream::new(&rig.device).unwrap()).collect();
        let ones = rig.buffer(&[1u64; 32]);
        let mut cells: Vec<DeviceBuffer<u64>> = (0..3u64).map(|value| rig.buffer(&[value; 32])).collect();
        let mut expected: Vec<u64> = (0..3).collect();
        // A walk that is the same for every seed: copy from one cell to another, or write one, on changing streams.
        for step in 0..60usize {
            let (from, to, stream) = (step * 7 % 3, (step * 7 + 1 + step % 2) % 3, &streams[step * 5 % 4]);
            let mut target = std::mem::replace(&mut cells[to], rig.buffer(&[0u64; 32]));
            match step % 5 {
                0 => target.copy_from(stream, &ones).unwrap(),
                3 => target.zero(stream).unwrap(),
                _ => target.copy_from(stream, &cells[from]).unwrap(),
            }
            expected[to] = [1, expected[from], expected[from], 0, expected[from]][step % 5];
            // What stood in for the cell meanwhile is dropped, and its memory may be used again.
            cells[to] = target;
        }
        for (cell, expected) in cells.iter().zip(expected) {
            assert_eq!(cell.to_vec(&rig.stream).unwrap(), [expected; 32], "seed {seed}");
        }
    }
}

#[test]
fn work_on_one_stream_needs_no_events() {
    let rig = Rig::new();
    let source = rig.buffer(&[1u8; 64]);
    let mut target = rig.buffer(&[2u8; 64]);
    for _ in 0..10 {
        target.copy_from(&rig.stream, &source).unwrap();
        target.zero(&rig.stream).unwrap();
    }
    rig.stream.synchronize().unwrap();
    for call in [FunctionId::aclrtCreateEventExWithFlag, FunctionId::aclrtRecordEvent, FunctionId::aclrtStreamWaitEvent]
    {
        assert_eq!(rig.cann.table().calls(call), 0, "{call:?}");
    }
}

#[test]
fn a_stream_that_is_gone_is_not_waited_for() {
    let rig = Rig::new();
    let mut buffer = DeviceBuffer::<u8>::alloc_zeroed(&rig.device, 64).unwrap();
    let short_lived = Stream::new(&rig.device).unwrap();
    buffer.zero(&short_lived).unwrap();
    drop(short_lived);
    buffer.zero(&rig.stream).unwrap();
    assert_eq!(rig.cann.table().calls(FunctionId::aclrtRecordEvent), 0, "a destroyed stream has done its work");
    assert_eq!(buffer.to_vec(&rig.stream).unwrap(), [0; 64]);
}

#[test]
fn memory_that_runs_out_says_how_much_there_was() {
    let rig = Rig::new();
    let total = rig.device.memory_info().unwrap().total;
    assert!(total < HBM);
    let kept = unsafe_uninit(&rig, 1 << 20);
    match DeviceBuffer::<u8>::alloc_zeroed(&rig.device, HBM as usize) {
        Err(Error::OutOfMemory { device: 0, requested, free, total: t }) => {
            assert_eq!((requested, t), (HBM, total));
            assert_eq!(free, rig.device.memory_info().unwrap().free);
        }
        other => panic!("{other:?}"),
    }
    drop(kept);
    drop(unsafe_uninit(&rig, 1 << 20));
}

#[test]
fn memory_waiting_to_be_freed_is_waited_for_before_giving_up() {
    let rig = Rig::new();
    let bytes = (HBM / 2) as usize;
    let mut first = unsafe_uninit(&rig, bytes);
    let gate = Gate::close(&rig.stream);
    first.zero(&rig.stream).unwrap();
    drop(first);
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        gate.open();
    });
    let second = unsafe_uninit(&rig, bytes);
    opener.join().unwrap();
    assert_eq!(second.len(), bytes);
}

/// A buffer whose contents do not matter.
fn unsafe_uninit(rig: &Rig, bytes: usize) -> DeviceBuffer<u8> {
    // SAFETY: nothing reads it.
    unsafe { DeviceBuffer::alloc_uninit(&rig.device, bytes) }.unwrap()
}

#[test]
fn bytes_are_counted_with_the_allocators_padding() {
    let rig = Rig::new();
    assert_eq!(rig.device.bytes_in_use(), 0);
    let first = rig.buffer(&[0u8; 1]);
    assert_eq!(rig.device.bytes_in_use(), 64);
    let second = rig.buffer(&[0u8; 33]);
    assert_eq!(rig.device.bytes_in_use(), 64 + 96);
    drop(first);
    assert_eq!(rig.device.bytes_in_use(), 96);
    drop(second);
    assert_eq!((rig.device.bytes_in_use(), rig.device.peak_bytes()), (0, 160));
}

#[test]
fn an_error_of_a_drop_surfaces_at_the_next_call_and_once() {
    let rig = Rig::with_faults("aclrtFree@1=207002;aclrtFree@2=207002");
    drop((rig.buffer(&[1u8; 8]), rig.buffer(&[2u8; 8])));
    match rig.device.memory_info() {
        Err(error @ Error::Deferred { .. }) => {
            let text = error.to_string();
            assert!(text.contains("aclrtFree") && text.contains("207002"), "{text}");
            let Error::Deferred { source, others } = error else { unreachable!() };
            assert_eq!(others, 1);
            match *source {
                Error::Vendor(error) => assert_eq!((error.call, error.family), ("aclrtFree", Family::Resource)),
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
    rig.device.memory_info().unwrap();
    // What could not be freed is freed when the device is given back, or the simulator would find it.
    assert_eq!(rig.device.bytes_in_use(), 128);
}

#[test]
fn events_order_streams_and_tell_time() {
    let rig = Rig::new();
    let second = Stream::new(&rig.device).unwrap();
    let event = Event::new(&rig.device).unwrap();
    assert!(event.is_complete().unwrap(), "never recorded");
    let gate = Gate::close(&rig.stream);
    rig.stream.record(&event).unwrap();
    second.wait(&event).unwrap();
    assert!(!event.is_complete().unwrap() && !second.is_idle().unwrap());
    gate.open();
    event.synchronize().unwrap();
    second.synchronize().unwrap();
    assert!(event.is_complete().unwrap() && second.is_idle().unwrap());

    let (start, end) = (Event::timed(&rig.device).unwrap(), Event::timed(&rig.device).unwrap());
    rig.stream.record(&start).unwrap();
    let gate = Gate::close(&rig.stream);
    rig.stream.record(&end).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    gate.open();
    rig.stream.synchronize().unwrap();
    let ms = end.elapsed_ms(&start).unwrap();
    assert!(ms >= 1.0, "{ms}");
    assert!(matches!(end.elapsed_ms(&event), Err(Error::Shape { .. })));
    let never = Event::timed(&rig.device).unwrap();
    assert_eq!(never.elapsed_ms(&start).unwrap_err().code(), Some(507_000));
    assert!(rig.device.fault().is_none(), "507000 of an event ends nothing");
}
