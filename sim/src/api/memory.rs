//! Allocation, copies and fills.

use std::ffi::c_void;
use std::sync::Arc;

use ascend_sys::{aclError, aclrtMemAttr, aclrtMemMallocPolicy, aclrtMemcpyKind, aclrtStream};

use super::{not_null, put};
use crate::errmsg::Refusal;
use crate::instance::Instance;
use crate::memory::{Location, Pinned};
use crate::report::{Finding, FindingKind};
use crate::stream::{DeviceFault, Task};
use crate::trace::Traced;

const PARAM_INVALID: aclError = aclError::RT_PARAM_INVALID;

/// Allocates the size rounded up to 32 bytes plus 32 (1-GiB pages: rounded only), as A2 and A3 do. The policy changes
/// nothing else here.
pub(crate) unsafe fn aclrtMalloc(
    sim: &Arc<Instance>,
    devPtr: *mut *mut c_void,
    size: usize,
    policy: aclrtMemMallocPolicy,
) -> aclError {
    let huge_1g = [aclrtMemMallocPolicy::HUGE1G_ONLY, aclrtMemMallocPolicy::HUGE1G_ONLY_P2P].contains(&policy);
    sim.answer(allocate(sim, "aclrtMalloc", devPtr, size, if huge_1g { 0 } else { 32 }))
}

/// Allocates the size rounded up to 32 bytes.
pub(crate) unsafe fn aclrtMallocAlign32(
    sim: &Arc<Instance>,
    devPtr: *mut *mut c_void,
    size: usize,
    _policy: aclrtMemMallocPolicy,
) -> aclError {
    sim.answer(allocate(sim, "aclrtMallocAlign32", devPtr, size, 0))
}

/// 100000 for a null pointer, no bytes or too many; 107002 without a context; 207001 where the device has no room.
fn allocate(
    sim: &Instance,
    call: &'static str,
    out: *mut *mut c_void,
    size: usize,
    padding: usize,
) -> Result<(), Refusal> {
    not_null("devPtr", out)?;
    let padded =
        padded_size(size, padding).ok_or_else(|| Refusal::value("size", size, "1 up to the memory of the device"))?;
    let device = sim.context(call)?.device;
    let address = sim.memory().allocate(device, padded).ok_or_else(|| {
        let (free, total) = sim.memory().info(device);
        let text =
            format!("EL0004: Out_of_Memory: {call}: {padded} bytes on device {device} with {free} of {total} free");
        Refusal::new(aclError::RT_MEMORY_ALLOCATION, text)
    })?;
    // SAFETY: not null, and writable by the C contract.
    unsafe { put("devPtr", out, address as *mut c_void) }
}

/// Bytes that an allocation gets; `None` for none or more than an address can count.
fn padded_size(size: usize, padding: usize) -> Option<u64> {
    let whole = size.checked_add(31 + padding)?;
    (size > 0).then_some((whole / 32 * 32) as u64)
}

/// Frees at once, whatever is queued. 100000 for null, 107000 for what is no live allocation. Needs no context.
pub(crate) unsafe fn aclrtFree(sim: &Arc<Instance>, devPtr: *mut c_void) -> aclError {
    const CALL: &str = "aclrtFree";
    sim.answer((|| {
        not_null("devPtr", devPtr)?;
        sim.memory().free(devPtr as u64).map_err(|(kind, what)| {
            let text = format!("EL9999: {CALL}: {what}");
            sim.report(Finding::new(kind, CALL, what));
            Refusal::new(PARAM_INVALID, text)
        })
    })())
}

/// Allocates pinned host memory, aligned to 64 bytes.
pub(crate) unsafe fn aclrtMallocHost(sim: &Arc<Instance>, hostPtr: *mut *mut c_void, size: usize) -> aclError {
    const CALL: &str = "aclrtMallocHost";
    sim.answer((|| {
        not_null("hostPtr", hostPtr)?;
        if size == 0 {
            return Err(Refusal::value("size", size, "1 or more"));
        }
        sim.context(CALL)?;
        let address = sim.memory().allocate_pinned(size).ok_or_else(|| {
            let text = format!("EL0004: Out_of_Memory: {CALL}: {size} bytes of host memory");
            Refusal::new(aclError::RT_MEMORY_ALLOCATION, text)
        })?;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("hostPtr", hostPtr, address as *mut c_void) }
    })())
}

/// Frees pinned host memory. 100000 for null, 107000 for what is no live allocation. Needs no context.
pub(crate) unsafe fn aclrtFreeHost(sim: &Arc<Instance>, hostPtr: *mut c_void) -> aclError {
    const CALL: &str = "aclrtFreeHost";
    sim.answer((|| {
        not_null("hostPtr", hostPtr)?;
        if sim.memory().free_pinned(hostPtr as u64) {
            return Ok(());
        }
        let kind = match sim.memory().classify(hostPtr as u64) {
            Location::Device(_) => FindingKind::DevicePointerAsHost,
            Location::PinnedHost => FindingKind::InvalidFree,
            Location::OtherHost => FindingKind::UnknownPointer,
        };
        let what = format!("{hostPtr:p} is no live allocation of aclrtMallocHost");
        let text = format!("EL9999: {CALL}: {what}");
        sim.report(Finding::new(kind, CALL, what));
        Err(Refusal::new(PARAM_INVALID, text))
    })())
}

/// Bytes free and in all; zeros for memory the device does not have. 107016 for an unknown kind of memory.
pub(crate) unsafe fn aclrtGetMemInfo(
    sim: &Arc<Instance>,
    attr: aclrtMemAttr,
    free: *mut usize,
    total: *mut usize,
) -> aclError {
    /// `ACL_MEM_P2P_HUGE1G`, the last one.
    const LAST: u32 = 17;
    sim.answer((|| {
        not_null("free", free)?;
        not_null("total", total)?;
        if attr.0 > LAST {
            let code = aclError::RT_INVALID_MEMORY_TYPE;
            return Err(Refusal::runtime(code, "attr", attr.0, "0 to 17"));
        }
        let device = sim.context("aclrtGetMemInfo")?.device;
        let hbm = [aclrtMemAttr::HBM, aclrtMemAttr::HBM_HUGE, aclrtMemAttr::HBM_NORMAL].contains(&attr);
        let (found_free, found_total) = if hbm { sim.memory().info(device) } else { (0, 0) };
        // SAFETY: both are not null, and writable by the C contract.
        unsafe {
            put("free", free, found_free as usize)?;
            put("total", total, found_total as usize)
        }
    })())
}

/// One end of a copy.
enum End {
    Device(u64),
    Pinned(Arc<Pinned>, u64),
    Host(u64),
}

impl End {
    fn new(sim: &Instance, address: u64) -> Self {
        match (sim.memory().classify(address), sim.memory().pinned(address)) {
            (Location::Device(_), _) => Self::Device(address),
            (_, Some(block)) => Self::Pinned(block, address),
            _ => Self::Host(address),
        }
    }

    fn is_device(&self) -> bool {
        matches!(self, Self::Device(_))
    }

    /// The bytes on the host. What is wrong with them is reported; the error says what to answer in strict mode, or
    /// where there is nothing that hardware could touch.
    fn bytes(&self, sim: &Instance, call: &'static str, len: usize) -> Result<*mut u8, String> {
        let (finding, anyway) = match self {
            Self::Host(address) => return Ok(*address as *mut u8),
            Self::Device(address) => match sim.memory().device_slice(*address, len) {
                Ok(slice) => return Ok(slice.as_ptr()),
                Err(error) => {
                    let anyway = sim.memory().device_bytes(*address, len).map(|slice| slice.as_ptr());
                    (Finding::new(error.finding_kind(), call, error.to_string()), anyway)
                }
            },
            Self::Pinned(block, address) => match sim.memory().check_pinned(block, *address, len as u64) {
                Ok(()) if !block.is_freed() => return Ok(*address as *mut u8),
                Ok(()) => {
                    let what = format!("pinned host memory at {address:#x} ({len} bytes) was freed");
                    (Finding::new(FindingKind::UseAfterFree, call, what), Some(*address as *mut u8))
                }
                Err(error) => (Finding::new(error.finding_kind(), call, error.to_string()), None),
            },
        };
        let what = finding.object.clone();
        sim.report(finding);
        anyway.filter(|_| !sim.strict()).ok_or(what)
    }
}

/// Copies; the ranges may overlap.
fn copy(sim: &Instance, call: &'static str, dst: &End, src: &End, count: usize) -> Result<(), String> {
    let (from, to) = (src.bytes(sim, call, count)?, dst.bytes(sim, call, count)?);
    // SAFETY: ends of the simulator are mapped and long enough (checked, or the whole range lies in the mapping of the
    // device); for those of the program the C contract says so.
    unsafe { core::ptr::copy(from, to, count) };
    Ok(())
}

fn fill(sim: &Instance, call: &'static str, dst: &End, value: i32, count: usize) -> Result<(), String> {
    let to = dst.bytes(sim, call, count)?;
    // SAFETY: as in `copy`.
    unsafe { to.write_bytes(value as u8, count) };
    Ok(())
}

/// A kind of copy: whether destination and source are device memory; `None` leaves it to the pointers.
fn direction(kind: aclrtMemcpyKind) -> Result<Option<(bool, bool)>, Refusal> {
    match kind {
        aclrtMemcpyKind::HOST_TO_HOST => Ok(Some((false, false))),
        aclrtMemcpyKind::HOST_TO_DEVICE | aclrtMemcpyKind::HOST_TO_BUF_TO_DEVICE => Ok(Some((true, false))),
        aclrtMemcpyKind::DEVICE_TO_HOST => Ok(Some((false, true))),
        aclrtMemcpyKind::DEVICE_TO_DEVICE => Ok(Some((true, true))),
        aclrtMemcpyKind::DEFAULT => Ok(None),
        other => Err(Refusal::value("kind", other.0, "0 to 5")),
    }
}

/// Holds the kind against where the pointers lie. CANN corrects the kind; here a wrong one is a finding too.
fn check_direction(
    sim: &Instance,
    call: &'static str,
    wanted: Option<(bool, bool)>,
    dst: (&End, *const c_void),
    src: (&End, *const c_void),
) -> Result<(), Refusal> {
    let Some((dst_device, src_device)) = wanted else { return Ok(()) };
    for (name, (end, pointer), device) in [("dst", dst, dst_device), ("src", src, src_device)] {
        let (kind, is, should) = match (end.is_device(), device) {
            (false, true) => (FindingKind::HostPointerAsDevice, "host", "device"),
            (true, false) => (FindingKind::DevicePointerAsHost, "device", "host"),
            _ => continue,
        };
        let what = format!("{name} {pointer:p} is {is} memory, the kind says {should}");
        let text = format!("EE1017: {call}: {what}");
        sim.report(Finding::new(kind, call, what));
        if sim.strict() {
            return Err(Refusal::new(PARAM_INVALID, text));
        }
    }
    Ok(())
}

fn words(dst: &End, src: &End, count: usize) -> String {
    let name = |end: &End| if end.is_device() { "device" } else { "host" };
    format!("{count} bytes {} to {}", name(src), name(dst))
}

/// Copies at once; streams are not waited for. In this order: no bytes is success, even with null pointers; null 100000;
/// kinds above 5 100000; no room or too little 107000; a copy onto itself is success; no context 107002.
pub(crate) unsafe fn aclrtMemcpy(
    sim: &Arc<Instance>,
    dst: *mut c_void,
    destMax: usize,
    src: *const c_void,
    count: usize,
    kind: aclrtMemcpyKind,
) -> aclError {
    const CALL: &str = "aclrtMemcpy";
    if count == 0 {
        return aclError::SUCCESS;
    }
    sim.answer((|| {
        not_null("dst", dst)?;
        not_null("src", src)?;
        let wanted = direction(kind)?;
        room(CALL, count, destMax)?;
        if dst.cast_const() == src {
            return Ok(());
        }
        let context = sim.context(CALL)?;
        sim.may_copy(CALL, &context, aclError::RT_CAPTURE_MODE_NOT_SUPPORT)?;
        let device = context.device;
        let (to, from) = (End::new(sim, dst as u64), End::new(sim, src as u64));
        check_direction(sim, CALL, wanted, (&to, dst), (&from, src))?;
        at_once(sim, CALL, device, || words(&to, &from, count), || copy(sim, CALL, &to, &from, count))
    })())
}

/// Copies in the stream. With pageable host memory CANN waits for the stream and copies in the call; only pinned memory
/// is asynchronous. Checks as [`aclrtMemcpy`], but a copy from host to host is refused (207000), and one onto itself is
/// success only after the context was looked at. 107003 for a stream of another context.
pub(crate) unsafe fn aclrtMemcpyAsync(
    sim: &Arc<Instance>,
    dst: *mut c_void,
    destMax: usize,
    src: *const c_void,
    count: usize,
    kind: aclrtMemcpyKind,
    stream: aclrtStream,
) -> aclError {
    const CALL: &str = "aclrtMemcpyAsync";
    if count == 0 {
        return aclError::SUCCESS;
    }
    sim.answer((|| {
        not_null("dst", dst)?;
        not_null("src", src)?;
        let wanted = direction(kind)?;
        room(CALL, count, destMax)?;
        let stream = sim.own_stream(CALL, stream)?;
        let (to, from) = (End::new(sim, dst as u64), End::new(sim, src as u64));
        check_direction(sim, CALL, wanted, (&to, dst), (&from, src))?;
        if !to.is_device() && !from.is_device() {
            return Err(Refusal::unsupported(format!("{CALL}: from host to host")));
        }
        if dst.cast_const() == src {
            return Ok(());
        }
        if matches!(to, End::Host(_)) || matches!(from, End::Host(_)) {
            sim.may_wait(CALL)?;
            sim.may_copy(CALL, &stream.context, blocked(sim))?;
            sim.not_captured(CALL, &stream)?;
            sim.synced(CALL, aclError::RT_STREAM_SYNC_TIMEOUT, stream.synchronize(None))?;
            let device = stream.context.device;
            return at_once(sim, CALL, device, || words(&to, &from, count), || copy(sim, CALL, &to, &from, count));
        }
        let detail = if sim.trace().wants_detail() { words(&to, &from, count) } else { String::new() };
        stream.enqueue(
            sim,
            Task::new(CALL, detail, move |sim: &Instance| fault(CALL, copy(sim, CALL, &to, &from, count))),
        )
    })())
}

/// Sets bytes at once. No bytes is success, even with a null pointer; null 100000; no room 107000; no context 107002.
/// Host memory has to come from `aclrtMallocHost` (107000).
pub(crate) unsafe fn aclrtMemset(
    sim: &Arc<Instance>,
    devPtr: *mut c_void,
    maxCount: usize,
    value: i32,
    count: usize,
) -> aclError {
    const CALL: &str = "aclrtMemset";
    if count == 0 {
        return aclError::SUCCESS;
    }
    sim.answer((|| {
        not_null("devPtr", devPtr)?;
        room(CALL, count, maxCount)?;
        let context = sim.context(CALL)?;
        sim.may_copy(CALL, &context, aclError::RT_CAPTURE_MODE_NOT_SUPPORT)?;
        let device = context.device;
        let to = settable(sim, CALL, devPtr)?;
        at_once(sim, CALL, device, || format!("{count} bytes"), || fill(sim, CALL, &to, value, count))
    })())
}

/// Sets bytes in the stream. Checks as [`aclrtMemset`]; 107003 for a stream of another context.
pub(crate) unsafe fn aclrtMemsetAsync(
    sim: &Arc<Instance>,
    devPtr: *mut c_void,
    maxCount: usize,
    value: i32,
    count: usize,
    stream: aclrtStream,
) -> aclError {
    const CALL: &str = "aclrtMemsetAsync";
    if count == 0 {
        return aclError::SUCCESS;
    }
    sim.answer((|| {
        not_null("devPtr", devPtr)?;
        room(CALL, count, maxCount)?;
        let stream = sim.own_stream(CALL, stream)?;
        let to = settable(sim, CALL, devPtr)?;
        let detail = if sim.trace().wants_detail() { format!("{count} bytes") } else { String::new() };
        stream.enqueue(
            sim,
            Task::new(CALL, detail, move |sim: &Instance| fault(CALL, fill(sim, CALL, &to, value, count))),
        )
    })())
}

/// The code for an asynchronous copy of pageable memory in a capture: its own since 9.1.0.
fn blocked(sim: &Instance) -> aclError {
    if sim.release() >= ascend_sys::Release::new(9, 1, 0) {
        aclError::RT_CAPTURE_MODE_BLOCK_ASYNC
    } else {
        aclError::RT_CAPTURE_MODE_NOT_SUPPORT
    }
}

fn room(call: &str, count: usize, max: usize) -> Result<(), Refusal> {
    if count <= max {
        return Ok(());
    }
    Err(Refusal::runtime(PARAM_INVALID, &format!("{call}: count"), count, &format!("at most {max}")))
}

/// What may be set: device memory, or pinned host memory.
fn settable(sim: &Instance, call: &'static str, pointer: *mut c_void) -> Result<End, Refusal> {
    match End::new(sim, pointer as u64) {
        End::Host(_) => {
            let what = format!("{pointer:p} is neither device memory nor from aclrtMallocHost");
            let text = format!("EE1017: {call}: {what}");
            sim.report(Finding::new(FindingKind::HostPointerAsDevice, call, what));
            Err(Refusal::new(PARAM_INVALID, text))
        }
        end => Ok(end),
    }
}

/// Does in the call what does not go through a stream, and traces it.
fn at_once(
    sim: &Instance,
    call: &'static str,
    device: u32,
    detail: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<(), String>,
) -> Result<(), Refusal> {
    let trace = sim.trace();
    let began = if trace.wants_detail() { trace.now() } else { 0 };
    let result = work();
    if trace.wants_detail() {
        let code = result.as_ref().err().map_or(0, |_| PARAM_INVALID.0);
        trace.add(Traced {
            function: call,
            detail: detail(),
            device,
            stream: None,
            queued_ns: began,
            started_ns: began,
            fault: code,
        });
    }
    result.map_err(|what| Refusal::new(PARAM_INVALID, format!("EE1017: {call}: {what}")))
}

/// What a copy in a stream leaves when it cannot be made.
fn fault(call: &str, result: Result<(), String>) -> Result<(), DeviceFault> {
    result.map_err(|what| DeviceFault { code: aclError::RT_AICORE_EXCEPTION, message: format!("{call}: {what}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_padded_as_on_a3() {
        assert_eq!(padded_size(1, 32), Some(64));
        assert_eq!(padded_size(32, 32), Some(64));
        assert_eq!(padded_size(33, 32), Some(96));
        assert_eq!(padded_size(2 << 20, 32), Some((2 << 20) + 32));
        assert_eq!(padded_size(1, 0), Some(32));
        assert_eq!(padded_size(2 << 20, 0), Some(2 << 20));
        assert_eq!(padded_size(0, 32), None);
        assert_eq!(padded_size(usize::MAX - 10, 32), None);
    }
}
