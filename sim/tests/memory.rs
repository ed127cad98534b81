//! Allocation, copies and fills.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use ascend_sys::{ACL_EVENT_SYNC, aclrtMemAttr, aclrtMemMallocPolicy, aclrtMemcpyKind, aclrtStream, aclrtStreamStatus};
use cann_sim::{Config, FindingKind, Mode};
use common::{D2D, D2H, DEFAULT, Gate, H2D, H2H, HUGE_FIRST, Rig, c, code, ok};

const NULL: aclrtStream = aclrtStream::NULL;

fn at(pointer: *mut c_void, offset: usize) -> *mut c_void {
    pointer.wrapping_byte_add(offset)
}

fn info(rig: &Rig, attr: aclrtMemAttr) -> (usize, usize) {
    let (mut free, mut total) = (7, 7);
    ok!(rig, aclrtGetMemInfo(attr, &mut free, &mut total));
    (free, total)
}

/// A small strict or lenient simulator.
fn small(mode: Mode) -> Rig {
    Rig::new(Config { mode, hbm: Some(1 << 20), ..Config::default() }).on_device()
}

fn is_idle(rig: &Rig, stream: aclrtStream) -> bool {
    let mut status = aclrtStreamStatus(77);
    ok!(rig, aclrtStreamQuery(stream, &mut status));
    status == aclrtStreamStatus::COMPLETE
}

#[test]
fn allocation_refuses_nothing_and_too_much() {
    let rig = small(Mode::Strict);
    let mut pointer = null_mut();
    code!(rig, aclrtMalloc(null_mut(), 8, HUGE_FIRST), 100_000);
    code!(rig, aclrtMalloc(&mut pointer, 0, HUGE_FIRST), 100_000);
    code!(rig, aclrtMalloc(&mut pointer, usize::MAX, HUGE_FIRST), 100_000);
    code!(rig, aclrtMallocAlign32(&mut pointer, 0, HUGE_FIRST), 100_000);
    code!(rig, aclrtMallocAlign32(null_mut(), 8, HUGE_FIRST), 100_000);
    code!(rig, aclrtMallocHost(null_mut(), 8), 100_000);
    code!(rig, aclrtMallocHost(&mut pointer, 0), 100_000);
    code!(rig, aclrtMalloc(&mut pointer, 2 << 20, HUGE_FIRST), 207_001);
    assert!(rig.error_text().unwrap().starts_with("EL0004: "));
    assert!(pointer.is_null());
    rig.assert_clean();
}

#[test]
fn a_full_device_has_room_again_after_a_free() {
    let rig = small(Mode::Strict);
    let (before, _) = info(&rig, aclrtMemAttr::HBM);
    let mut blocks = Vec::new();
    let mut pointer = null_mut();
    while c!(rig, aclrtMalloc(&mut pointer, 100_000, HUGE_FIRST)).0 == 0 {
        blocks.push(pointer);
    }
    assert_eq!(blocks.len(), before / 100_032);
    assert_eq!(c!(rig, aclrtMalloc(&mut pointer, 100_000, HUGE_FIRST)).0, 207_001);
    ok!(rig, aclrtFree(blocks.pop().unwrap()));
    ok!(rig, aclrtMalloc(&mut pointer, 100_000, HUGE_FIRST));
    blocks.push(pointer);
    for block in blocks {
        ok!(rig, aclrtFree(block));
    }
    assert_eq!(info(&rig, aclrtMemAttr::HBM).0, before);
}

#[test]
fn allocations_are_padded_as_on_a3() {
    let rig = small(Mode::Strict);
    let (mut padded, mut exact, mut huge) = (null_mut(), null_mut(), null_mut());
    ok!(rig, aclrtMalloc(&mut padded, 33, HUGE_FIRST));
    ok!(rig, aclrtMallocAlign32(&mut exact, 33, HUGE_FIRST));
    ok!(rig, aclrtMalloc(&mut huge, 33, aclrtMemMallocPolicy::HUGE1G_ONLY));
    for (pointer, bytes) in [(padded, 96), (exact, 64), (huge, 64)] {
        assert!((pointer as usize).is_multiple_of(32));
        ok!(rig, aclrtMemset(pointer, bytes, 0, bytes));
        code!(rig, aclrtMemset(pointer, bytes + 1, 0, bytes + 1), 107_000);
    }
    assert_eq!(rig.findings(), [FindingKind::OutOfBounds; 3]);
}

#[test]
fn memory_info() {
    let rig = small(Mode::Strict);
    let (free, total) = info(&rig, aclrtMemAttr::HBM);
    assert!(free == total && total > (1 << 20) / 100 * 95 && total < 1 << 20, "{total}");
    rig.malloc(1000);
    assert!(info(&rig, aclrtMemAttr::HBM).0 <= free - 1056);
    assert_eq!(info(&rig, aclrtMemAttr::HBM_HUGE), info(&rig, aclrtMemAttr::HBM_NORMAL));
    assert_eq!(info(&rig, aclrtMemAttr::DDR), (0, 0), "the device has none");
    let mut value = 0;
    code!(rig, aclrtGetMemInfo(aclrtMemAttr(18), &mut value, &mut value.clone()), 107_016);
    code!(rig, aclrtGetMemInfo(aclrtMemAttr::HBM, null_mut(), &mut value), 100_000);
    code!(rig, aclrtGetMemInfo(aclrtMemAttr::HBM, &mut value, null_mut()), 100_000);
    // The other device has memory of its own.
    ok!(rig, aclrtSetDevice(1));
    assert_eq!(info(&rig, aclrtMemAttr::HBM), (total, total));
}

#[test]
fn fresh_device_memory_is_not_zero_in_strict_mode() {
    let rig = Rig::strict().on_device();
    assert_eq!(rig.download(rig.malloc(64), 64), [0xFF; 64]);
    let block = rig.malloc(64);
    rig.upload(block, &[1; 64]);
    ok!(rig, aclrtFree(block));
    assert_eq!(rig.download(rig.malloc(64), 64), [0xFF; 64], "whoever had it before");
}

#[test]
fn what_cannot_be_freed() {
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = small(mode);
        let (block, pinned) = (rig.malloc(64), rig.malloc_host(64));
        let mut own = [0_u8; 64];
        code!(rig, aclrtFree(null_mut()), 100_000);
        code!(rig, aclrtFreeHost(null_mut()), 100_000);
        rig.assert_clean();
        code!(rig, aclrtFree(at(block, 32)), 107_000);
        code!(rig, aclrtFree(pinned), 107_000);
        code!(rig, aclrtFree(own.as_mut_ptr().cast()), 107_000);
        code!(rig, aclrtFree(at(block, 4096)), 107_000);
        code!(rig, aclrtFreeHost(block), 107_000);
        code!(rig, aclrtFreeHost(at(pinned, 32)), 107_000);
        code!(rig, aclrtFreeHost(own.as_mut_ptr().cast()), 107_000);
        ok!(rig, aclrtFree(block));
        ok!(rig, aclrtFreeHost(pinned));
        code!(rig, aclrtFree(block), 107_000);
        code!(rig, aclrtFreeHost(pinned), 107_000);
        use FindingKind::*;
        let expected = [
            InvalidFree,
            HostPointerAsDevice,
            UnknownPointer,
            UnknownPointer,
            DevicePointerAsHost,
            InvalidFree,
            UnknownPointer,
            DoubleFree,
            UnknownPointer,
        ];
        assert_eq!(rig.findings(), expected);
        assert!(rig.sim.report()[0].object.contains(&format!("{block:p}")), "the allocation is named");
    }
}

#[test]
fn freeing_needs_no_context() {
    let rig = Rig::strict().on_device();
    let (block, pinned) = (rig.malloc(64) as usize, rig.malloc_host(64) as usize);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ok!(rig, aclrtFree(block as *mut _));
            ok!(rig, aclrtFreeHost(pinned as *mut _));
        });
    });
}

#[test]
fn pinned_memory_is_the_hosts_own() {
    let rig = Rig::strict().on_device();
    let (pinned, block) = (rig.malloc_host(100), rig.malloc(100));
    assert!((pinned as usize).is_multiple_of(64));
    // SAFETY: 100 bytes of host memory.
    unsafe { pinned.cast::<u8>().write_bytes(9, 100) };
    ok!(rig, aclrtMemcpy(block, 100, pinned, 100, H2D));
    assert_eq!(rig.download(block, 100), [9; 100]);
    ok!(rig, aclrtFreeHost(pinned));
    rig.assert_clean();
}

#[test]
fn copies_in_every_direction() {
    let rig = Rig::strict().on_device();
    let (a, b) = (rig.malloc(16), rig.malloc(16));
    let (first, mut second, mut third) = ([3_u8; 16], [0_u8; 16], [0_u8; 16]);
    ok!(rig, aclrtMemcpy(a, 16, first.as_ptr().cast(), 16, H2D));
    ok!(rig, aclrtMemcpy(b, 16, a, 16, D2D));
    ok!(rig, aclrtMemcpy(second.as_mut_ptr().cast(), 16, b, 16, D2H));
    ok!(rig, aclrtMemcpy(third.as_mut_ptr().cast(), 16, second.as_ptr().cast(), 16, H2H));
    assert_eq!(third, [3; 16]);
    // The kind may be left to the pointers, and 5 is host to device through a buffer.
    ok!(rig, aclrtMemcpy(a, 16, [4_u8; 16].as_ptr().cast(), 16, aclrtMemcpyKind::HOST_TO_BUF_TO_DEVICE));
    ok!(rig, aclrtMemcpy(b, 16, a, 16, DEFAULT));
    ok!(rig, aclrtMemcpy(second.as_mut_ptr().cast(), 16, b, 16, DEFAULT));
    ok!(rig, aclrtMemcpy(a, 16, third.as_ptr().cast(), 16, DEFAULT));
    assert_eq!((second, rig.download(a, 16)), ([4; 16], vec![3; 16]));
    // Between devices, and overlapping.
    ok!(rig, aclrtSetDevice(1));
    let far = rig.malloc(16);
    ok!(rig, aclrtMemcpy(far, 16, a, 16, D2D));
    rig.upload(far, &[0, 1, 2, 3, 4, 5, 6, 7]);
    ok!(rig, aclrtMemcpy(at(far, 1), 15, far, 8, D2D));
    assert_eq!(rig.download(far, 10), [0, 0, 1, 2, 3, 4, 5, 6, 7, 3]);
    rig.assert_clean();
}

#[test]
fn the_order_of_the_checks_of_a_copy() {
    let rig = Rig::strict();
    let mut host = [0_u8; 8];
    let own: *mut c_void = host.as_mut_ptr().cast();
    let other: *const c_void = [1_u8; 8].as_ptr().cast();
    let unknown = aclrtMemcpyKind(6);
    // Nothing of this needs a context.
    ok!(rig, aclrtMemcpy(null_mut(), 0, null(), 0, unknown));
    code!(rig, aclrtMemcpy(null_mut(), 0, other, 8, unknown), 100_000);
    code!(rig, aclrtMemcpy(own, 0, null(), 8, unknown), 100_000);
    code!(rig, aclrtMemcpy(own, 7, other, 8, unknown), 100_000);
    code!(rig, aclrtMemcpy(own, 8, other, 8, aclrtMemcpyKind(7)), 100_000);
    code!(rig, aclrtMemcpy(own, 7, other, 8, H2H), 107_000);
    ok!(rig, aclrtMemcpy(own, 8, own, 8, H2H));
    code!(rig, aclrtMemcpy(own, 8, other, 8, H2H), 107_002);
    let rig = rig.on_device();
    ok!(rig, aclrtMemcpy(own, 8, other, 8, H2H));
    rig.assert_clean();

    let (a, b) = (rig.malloc(8), rig.malloc(8));
    ok!(rig, aclrtMemcpyAsync(null_mut(), 0, null(), 0, unknown, NULL));
    code!(rig, aclrtMemcpyAsync(null_mut(), 8, b, 8, D2D, NULL), 100_000);
    code!(rig, aclrtMemcpyAsync(a, 8, null(), 8, D2D, NULL), 100_000);
    code!(rig, aclrtMemcpyAsync(a, 8, b, 8, unknown, NULL), 100_000);
    code!(rig, aclrtMemcpyAsync(a, 7, b, 8, D2D, NULL), 107_000);
    ok!(rig, aclrtMemcpyAsync(a, 8, a, 8, D2D, NULL));
    code!(rig, aclrtMemcpyAsync(own, 8, other, 8, H2H, NULL), 207_000);
    code!(rig, aclrtMemcpyAsync(own, 8, other, 8, DEFAULT, NULL), 207_000);
    rig.assert_clean();
}

#[test]
fn a_kind_that_the_pointers_contradict() {
    use FindingKind::{DevicePointerAsHost, HostPointerAsDevice};
    let mut host = [0_u8; 8];
    let own: *mut c_void = host.as_mut_ptr().cast();
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = small(mode);
        let (block, pinned) = (rig.malloc(8), rig.malloc_host(8));
        rig.upload(block, &[6; 8]);
        let cases: [(*mut c_void, *const c_void, _, _); 6] = [
            (block, own, D2D, HostPointerAsDevice),
            (block, own, H2H, DevicePointerAsHost),
            (own, block, D2D, HostPointerAsDevice),
            (own, block, H2H, DevicePointerAsHost),
            (pinned, block, D2D, HostPointerAsDevice),
            (block, pinned, D2D, HostPointerAsDevice),
        ];
        let expected = if mode == Mode::Strict { 107_000 } else { 0 };
        for (index, (dst, src, kind, found)) in cases.into_iter().enumerate() {
            code!(rig, aclrtMemcpy(dst, 8, src, 8, kind), expected);
            code!(rig, aclrtMemcpyAsync(dst, 8, src, 8, kind, NULL), expected);
            ok!(rig, aclrtSynchronizeStream(NULL));
            assert_eq!(rig.findings()[2 * index..], [found; 2]);
        }
    }
}

#[test]
fn lenient_mode_corrects_the_kind() {
    let rig = small(Mode::Lenient);
    let block = rig.malloc(4);
    let mut back = [0_u8; 4];
    ok!(rig, aclrtMemcpy(block, 4, [1_u8, 2, 3, 4].as_ptr().cast(), 4, D2H));
    ok!(rig, aclrtMemcpy(back.as_mut_ptr().cast(), 4, block, 4, H2D));
    assert_eq!(back, [1, 2, 3, 4]);
}

#[test]
fn a_copy_with_pageable_memory_is_done_when_the_call_returns() {
    let rig = Rig::strict().on_device();
    let (stream, block) = (rig.stream(), rig.malloc(8));
    let mut host = [0_u8; 8];
    // What was queued before comes first: the copy waits for the stream.
    ok!(rig, aclrtMemsetAsync(block, 8, 5, 8, stream));
    ok!(rig, aclrtMemcpyAsync(host.as_mut_ptr().cast(), 8, block, 8, D2H, stream));
    assert_eq!(host, [5; 8]);
    assert!(is_idle(&rig, stream));
    ok!(rig, aclrtMemcpyAsync(block, 8, [6_u8; 8].as_ptr().cast(), 8, H2D, stream));
    assert_eq!(rig.download(block, 8), [6; 8]);
}

#[test]
fn a_copy_with_pinned_memory_is_asynchronous() {
    let rig = Rig::strict().on_device();
    let (stream, gate) = (rig.stream(), Gate::new());
    let (block, other, pinned) = (rig.malloc(8), rig.malloc(8), rig.malloc_host(8));
    // SAFETY: 8 bytes of pinned memory.
    unsafe { pinned.cast::<u8>().write_bytes(1, 8) };
    rig.block(stream, gate);
    ok!(rig, aclrtMemcpyAsync(block, 8, pinned, 8, H2D, stream));
    ok!(rig, aclrtMemcpyAsync(other, 8, block, 8, D2D, stream));
    ok!(rig, aclrtMemsetAsync(block, 8, 3, 8, stream));
    gate.reached();
    assert!(!is_idle(&rig, stream), "the calls have returned, the work waits at the gate");
    // The copy reads what is there when it runs.
    // SAFETY: nobody reads the bytes before the gate opens.
    unsafe { pinned.cast::<u8>().write_bytes(2, 8) };
    gate.open();
    ok!(rig, aclrtSynchronizeStream(stream));
    assert_eq!((rig.download(other, 8), rig.download(block, 8)), (vec![2; 8], vec![3; 8]));
    rig.assert_clean();
}

#[test]
fn a_synchronous_copy_waits_for_no_stream() {
    let rig = Rig::strict().on_device();
    let (stream, gate, block) = (rig.stream(), Gate::new(), rig.malloc(8));
    rig.block(stream, gate);
    rig.upload(block, &[1; 8]);
    ok!(rig, aclrtMemset(block, 8, 2, 8));
    assert_eq!(rig.download(block, 8), [2; 8]);
    assert!(!is_idle(&rig, stream));
    gate.open();
}

#[test]
fn accesses_are_checked_at_the_call() {
    use FindingKind::{OutOfBounds, UnknownPointer, UseAfterFree};
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = small(mode);
        let (block, freed, pinned) = (rig.malloc(32), rig.malloc(32), rig.malloc_host(32));
        ok!(rig, aclrtFree(freed));
        let mut host = [0_u8; 4096];
        let own: *mut c_void = host.as_mut_ptr().cast();
        let expected = if mode == Mode::Strict { 107_000 } else { 0 };
        // An allocation of 32 bytes has 64.
        code!(rig, aclrtMemcpy(own, 4096, block, 65, D2H), expected);
        code!(rig, aclrtMemcpy(at(block, 60), 5, own, 5, H2D), expected);
        code!(rig, aclrtMemcpy(own, 4096, freed, 1, D2H), expected);
        code!(rig, aclrtMemset(freed, 1, 0, 1), expected);
        code!(rig, aclrtMemcpy(own, 4096, at(block, 65_536), 8, D2H), expected);
        assert_eq!(rig.findings(), [OutOfBounds, OutOfBounds, UseAfterFree, UseAfterFree, UnknownPointer]);
        // Beyond pinned memory, or the whole device, there is nothing to touch.
        code!(rig, aclrtMemcpy(pinned, 4096, own, 4096, H2H), 107_000);
        code!(rig, aclrtMemcpy(own, 64 << 20, block, 64 << 20, D2H), 107_000);
        assert_eq!(rig.findings()[5..], [OutOfBounds; 2]);
    }
}

#[test]
fn filling() {
    let rig = Rig::strict();
    let mut host = [0_u8; 8];
    let own: *mut c_void = host.as_mut_ptr().cast();
    ok!(rig, aclrtMemset(null_mut(), 0, 0, 0));
    code!(rig, aclrtMemset(null_mut(), 8, 0, 8), 100_000);
    code!(rig, aclrtMemset(own, 7, 0, 8), 107_000);
    code!(rig, aclrtMemset(own, 8, 0, 8), 107_002);
    let rig = rig.on_device();
    rig.assert_clean();
    code!(rig, aclrtMemset(own, 8, 0, 8), 107_000);
    code!(rig, aclrtMemsetAsync(own, 8, 0, 8, NULL), 107_000);
    assert_eq!(rig.findings(), [FindingKind::HostPointerAsDevice; 2]);
    let (block, pinned) = (rig.malloc(8), rig.malloc_host(8));
    ok!(rig, aclrtMemset(block, 8, 0x1_02, 4));
    assert_eq!(rig.download(block, 8), [2, 2, 2, 2, 0xFF, 0xFF, 0xFF, 0xFF], "one byte, the lowest, for each");
    ok!(rig, aclrtMemset(pinned, 8, 4, 8));
    // SAFETY: 8 bytes of pinned memory.
    assert_eq!(unsafe { pinned.cast::<u8>().read() }, 4);
    ok!(rig, aclrtMemsetAsync(null_mut(), 0, 0, 0, NULL));
    code!(rig, aclrtMemsetAsync(null_mut(), 8, 0, 8, NULL), 100_000);
    code!(rig, aclrtMemsetAsync(block, 7, 0, 8, NULL), 107_000);
    ok!(rig, aclrtMemsetAsync(block, 8, 7, 8, NULL));
    ok!(rig, aclrtSynchronizeStream(NULL));
    assert_eq!(rig.download(block, 8), [7; 8]);
}

#[test]
fn memory_freed_under_queued_work() {
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = small(mode);
        let (stream, gate) = (rig.stream(), Gate::new());
        let (block, other) = (rig.malloc(8), rig.malloc(8));
        rig.block(stream, gate);
        ok!(rig, aclrtMemcpyAsync(other, 8, block, 8, D2D, stream));
        ok!(rig, aclrtFree(block));
        rig.assert_clean();
        gate.open();
        code!(rig, aclrtSynchronizeStream(stream), if mode == Mode::Strict { 507_015 } else { 0 });
        assert_eq!(rig.findings(), [FindingKind::UseAfterFree]);
        let finding = &rig.sim.report()[0];
        assert_eq!(finding.call, "aclrtMemcpyAsync");
        assert!(finding.object.contains(&format!("{block:p}")), "{finding}");
    }
}

#[test]
fn an_event_makes_a_free_safe() {
    let rig = Rig::strict().on_device();
    let (stream, event) = (rig.stream(), rig.event_ex(ACL_EVENT_SYNC));
    for _ in 0..50 {
        let (block, other) = (rig.malloc(8), rig.malloc(8));
        ok!(rig, aclrtMemcpyAsync(other, 8, block, 8, D2D, stream));
        ok!(rig, aclrtRecordEvent(event, stream));
        ok!(rig, aclrtSynchronizeEvent(event));
        ok!(rig, aclrtFree(block));
        ok!(rig, aclrtFree(other));
    }
    ok!(rig, aclrtSynchronizeStream(stream));
    rig.assert_clean();
}

#[test]
fn pinned_memory_freed_under_queued_work() {
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = small(mode);
        let (stream, gate) = (rig.stream(), Gate::new());
        let (block, pinned) = (rig.malloc(8), rig.malloc_host(8));
        rig.block(stream, gate);
        ok!(rig, aclrtMemcpyAsync(pinned, 8, block, 8, D2H, stream));
        ok!(rig, aclrtFreeHost(pinned));
        gate.open();
        code!(rig, aclrtSynchronizeStream(stream), if mode == Mode::Strict { 507_015 } else { 0 });
        assert_eq!(rig.findings(), [FindingKind::UseAfterFree]);
    }
}

#[test]
fn an_asynchronous_copy_out_of_bounds_is_told_at_the_synchronisation() {
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = small(mode);
        let (block, other) = (rig.malloc(8), rig.malloc(4096));
        ok!(rig, aclrtMemcpyAsync(other, 4096, block, 4096, D2D, NULL));
        code!(rig, aclrtSynchronizeStream(NULL), if mode == Mode::Strict { 507_015 } else { 0 });
        assert_eq!(rig.findings(), [FindingKind::OutOfBounds]);
    }
}
