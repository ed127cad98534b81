//! Memory: where an address lies, what may be done with it, and its bytes.
//!
//! Device memory has addresses of its own that no host code can touch; pinned host memory comes from
//! `aclrtMallocHost`; every other address is the program's own and is taken as it is.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::Pod;

use crate::arena::{Arena, ArenaError, FreeError};
use crate::lock;
use crate::report::FindingKind;

/// Alignment of pinned host memory.
const PINNED_ALIGN: usize = 64;

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// In the address range of a device, allocated or not.
    Device(u32),
    /// In a live allocation of `aclrtMallocHost`.
    PinnedHost,
    /// Anywhere else.
    OtherHost,
}

/// Why an access is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MemoryError {
    /// The address is no device address.
    #[error("{address:#x} is a host address, a device address is wanted")]
    NotDevice {
        /// The address.
        address: u64,
    },
    /// The address was freed.
    #[error("device memory at {address:#x} ({len} bytes) was freed")]
    Freed {
        /// The address.
        address: u64,
        /// Bytes wanted.
        len: u64,
    },
    /// The address was never allocated.
    #[error("device memory at {address:#x} ({len} bytes) was never allocated")]
    NeverAllocated {
        /// The address.
        address: u64,
        /// Bytes wanted.
        len: u64,
    },
    /// The access leaves its allocation.
    #[error("{len} bytes at {address:#x} leave the allocation of {size} bytes at {start:#x}")]
    OutOfBounds {
        /// The address.
        address: u64,
        /// Bytes wanted.
        len: u64,
        /// First address of the allocation.
        start: u64,
        /// Bytes of the allocation, the padding of `aclrtMalloc` included.
        size: u64,
    },
    /// The elements cannot lie at the address, or no whole number of them fits.
    #[error("{len} bytes at {address:#x} are no elements of {size} bytes aligned to {align}")]
    Misaligned {
        /// The address.
        address: u64,
        /// Bytes wanted.
        len: u64,
        /// Bytes of one element.
        size: usize,
        /// Alignment of one element.
        align: usize,
    },
}

impl MemoryError {
    /// The kind of finding this is.
    pub(crate) fn finding_kind(&self) -> FindingKind {
        match self {
            Self::NotDevice { .. } => FindingKind::HostPointerAsDevice,
            Self::Freed { .. } => FindingKind::UseAfterFree,
            Self::NeverAllocated { .. } => FindingKind::UnknownPointer,
            Self::OutOfBounds { .. } => FindingKind::OutOfBounds,
            Self::Misaligned { .. } => FindingKind::Misaligned,
        }
    }
}

/// Bytes of device memory, as the host sees them. Its memory stays mapped for as long as its simulator lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceSlice {
    bytes: *mut u8,
    len: usize,
    address: u64,
    device: u32,
}

impl DeviceSlice {
    /// The device the memory belongs to.
    pub(crate) fn device(&self) -> u32 {
        self.device
    }

    /// First byte, on the host.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.bytes
    }

    /// The elements.
    ///
    /// # Errors
    /// [`MemoryError::Misaligned`] where `T`s cannot lie there or no whole number of them fits.
    ///
    /// # Safety
    /// The simulator must outlive `'a`, and nothing may write to the bytes during `'a`. (A program whose streams race
    /// on them reads what a device would: something.)
    pub(crate) unsafe fn as_slice<'a, T: Pod>(&self) -> Result<&'a [T], MemoryError> {
        // SAFETY: the bytes are mapped and initialised (fresh pages read as zeros); the caller vouches for the rest.
        let bytes = unsafe { core::slice::from_raw_parts(self.bytes, self.len) };
        bytemuck::try_cast_slice(bytes).map_err(|_| self.misaligned::<T>())
    }

    /// The elements, to be written.
    ///
    /// # Errors
    /// As [`Self::as_slice`].
    ///
    /// # Safety
    /// As [`Self::as_slice`], and nothing else may read them during `'a`.
    pub(crate) unsafe fn as_mut_slice<'a, T: Pod>(&self) -> Result<&'a mut [T], MemoryError> {
        // SAFETY: as above.
        let bytes = unsafe { core::slice::from_raw_parts_mut(self.bytes, self.len) };
        bytemuck::try_cast_slice_mut(bytes).map_err(|_| self.misaligned::<T>())
    }

    fn misaligned<T>(&self) -> MemoryError {
        MemoryError::Misaligned {
            address: self.address,
            len: self.len as u64,
            size: size_of::<T>(),
            align: align_of::<T>(),
        }
    }
}

/// An allocation of `aclrtMallocHost`. Work that is queued on it holds it, so that freeing it early is a finding and
/// not a crash.
pub(crate) struct Pinned {
    bytes: *mut u8,
    layout: Layout,
    freed: AtomicBool,
}

// SAFETY: plain bytes; the program orders the accesses, as it has to on CANN.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    fn start(&self) -> u64 {
        self.bytes as u64
    }

    /// Whether the program has freed it.
    pub(crate) fn is_freed(&self) -> bool {
        self.freed.load(Ordering::Acquire)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `allocate_pinned`, and this is the last owner.
        unsafe { dealloc(self.bytes, self.layout) };
    }
}

/// All memory of one simulator.
pub(crate) struct Memory {
    arenas: Vec<Arena>,
    pinned: Mutex<BTreeMap<u64, Arc<Pinned>>>,
    /// Whether fresh memory is filled with `0xFF`.
    poison: bool,
}

impl Memory {
    pub(crate) fn new(devices: u32, bytes: u64, poison: bool) -> io::Result<Self> {
        let arenas = (0..devices).map(|_| Arena::new(bytes)).collect::<Result<_, _>>()?;
        Ok(Self { arenas, pinned: Mutex::default(), poison })
    }

    fn arena_of(&self, address: u64) -> Option<(u32, &Arena, u64)> {
        (0..).zip(&self.arenas).find_map(|(device, arena)| Some((device, arena, arena.offset(address)?)))
    }

    /// Bytes free and in all on a device.
    pub(crate) fn info(&self, device: u32) -> (u64, u64) {
        self.arenas.get(device as usize).map_or((0, 0), |arena| (arena.free_bytes(), arena.size()))
    }

    /// Allocates device memory; `None` where the device has no room.
    pub(crate) fn allocate(&self, device: u32, len: u64) -> Option<u64> {
        let arena = self.arenas.get(device as usize)?;
        let address = arena.allocate(len)?;
        if self.poison
            && let Some(bytes) = arena.offset(address).and_then(|offset| arena.bytes(offset, len))
        {
            // SAFETY: the bytes of a live allocation that nobody knows of yet.
            unsafe { bytes.write_bytes(0xFF, len as usize) };
        }
        Some(address)
    }

    /// Frees device memory.
    pub(crate) fn free(&self, address: u64) -> Result<(), (FindingKind, String)> {
        let Some((_, arena, offset)) = self.arena_of(address) else {
            let kind = match self.classify(address) {
                Location::PinnedHost => FindingKind::HostPointerAsDevice,
                _ => FindingKind::UnknownPointer,
            };
            return Err((kind, format!("{address:#x} is a host address")));
        };
        arena.free(offset).map_err(|error| match error {
            FreeError::Twice => (FindingKind::DoubleFree, format!("device memory at {address:#x} was freed before")),
            FreeError::NeverAllocated => {
                (FindingKind::UnknownPointer, format!("device memory at {address:#x} was never allocated"))
            }
            FreeError::Inside { start } => {
                (FindingKind::InvalidFree, format!("{address:#x} lies inside the allocation that starts at {start:#x}"))
            }
        })
    }

    /// Frees everything on a device; what was live: address and bytes.
    pub(crate) fn free_device(&self, device: u32) -> Vec<(u64, u64)> {
        self.arenas.get(device as usize).map(Arena::free_all).unwrap_or_default()
    }

    /// Allocates pinned host memory; `None` where the host has no room.
    pub(crate) fn allocate_pinned(&self, len: usize) -> Option<u64> {
        let layout = Layout::from_size_align(len.checked_next_multiple_of(32)?, PINNED_ALIGN).ok()?;
        // SAFETY: `len` is at least 1 (checked by the call), so the layout is not empty.
        let bytes = unsafe { alloc(layout) };
        if bytes.is_null() {
            return None;
        }
        // SAFETY: fresh memory of that size. It is initialised because simulated operators may read it.
        unsafe { bytes.write_bytes(if self.poison { 0xFF } else { 0 }, layout.size()) };
        lock(&self.pinned).insert(bytes as u64, Arc::new(Pinned { bytes, layout, freed: AtomicBool::new(false) }));
        Some(bytes as u64)
    }

    /// Frees pinned host memory; false where the address starts no live allocation.
    pub(crate) fn free_pinned(&self, address: u64) -> bool {
        let removed = lock(&self.pinned).remove(&address);
        removed.inspect(|pinned| pinned.freed.store(true, Ordering::Release)).is_some()
    }

    /// The pinned allocation that an address lies in.
    pub(crate) fn pinned(&self, address: u64) -> Option<Arc<Pinned>> {
        let pinned = lock(&self.pinned);
        let (_, block) = pinned.range(..=address).next_back()?;
        (address < block.start() + block.layout.size() as u64).then(|| Arc::clone(block))
    }

    /// Whether `[address, address + len)` stays in the pinned allocation it starts in.
    pub(crate) fn check_pinned(&self, block: &Pinned, address: u64, len: u64) -> Result<(), MemoryError> {
        let (start, size) = (block.start(), block.layout.size() as u64);
        if len <= start + size - address {
            return Ok(());
        }
        Err(MemoryError::OutOfBounds { address, len, start, size })
    }

    /// Where an address lies.
    pub(crate) fn classify(&self, address: u64) -> Location {
        match self.arena_of(address) {
            Some((device, ..)) => Location::Device(device),
            None if self.pinned(address).is_some() => Location::PinnedHost,
            None => Location::OtherHost,
        }
    }

    /// Host view of device memory.
    ///
    /// # Errors
    /// Unless `[address, address + len)` lies in one live allocation of a device.
    pub(crate) fn device_slice(&self, address: u64, len: usize) -> Result<DeviceSlice, MemoryError> {
        let (_, arena, offset) = self.arena_of(address).ok_or(MemoryError::NotDevice { address })?;
        arena.check(offset, len as u64).map_err(|error| match error {
            ArenaError::Freed => MemoryError::Freed { address, len: len as u64 },
            ArenaError::NeverAllocated => MemoryError::NeverAllocated { address, len: len as u64 },
            ArenaError::Beyond { start, len: size } => {
                MemoryError::OutOfBounds { address, len: len as u64, start, size }
            }
        })?;
        self.device_bytes(address, len).ok_or(MemoryError::NotDevice { address })
    }

    /// Host view of device memory, allocated or not: what hardware would touch. `None` where the range leaves the
    /// device.
    pub(crate) fn device_bytes(&self, address: u64, len: usize) -> Option<DeviceSlice> {
        let (device, arena, offset) = self.arena_of(address)?;
        let bytes = arena.bytes(offset, len as u64)?;
        Some(DeviceSlice { bytes, len, address, device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_classified() {
        let memory = Memory::new(2, 1 << 20, true).unwrap();
        let on_second = memory.allocate(1, 64).unwrap();
        let pinned = memory.allocate_pinned(100).unwrap();
        assert_eq!(memory.classify(on_second), Location::Device(1));
        assert_eq!(memory.classify(pinned + 99), Location::PinnedHost);
        assert_eq!(memory.classify(&raw const memory as u64), Location::OtherHost);
        assert!(memory.free_pinned(pinned));
        assert!(!memory.free_pinned(pinned));
        assert_eq!(memory.classify(pinned), Location::OtherHost);
    }

    #[test]
    fn fresh_memory_is_not_a_number_where_asked() {
        let memory = Memory::new(1, 1 << 20, true).unwrap();
        let slice = memory.device_slice(memory.allocate(0, 64).unwrap(), 64).unwrap();
        // SAFETY: the memory lives on and nobody writes to it.
        let floats: &[f32] = unsafe { slice.as_slice() }.unwrap();
        assert!(floats.len() == 16 && floats.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn odd_elements_are_refused() {
        let memory = Memory::new(1, 1 << 20, false).unwrap();
        let address = memory.allocate(0, 64).unwrap();
        // SAFETY: the memory lives on and nobody else touches it.
        unsafe {
            let odd = memory.device_slice(address + 1, 8).unwrap();
            assert!(matches!(odd.as_slice::<u32>(), Err(MemoryError::Misaligned { .. })));
            assert!(matches!(odd.as_mut_slice::<u32>(), Err(MemoryError::Misaligned { .. })));
            let short = memory.device_slice(address, 7).unwrap();
            assert!(matches!(short.as_slice::<u32>(), Err(MemoryError::Misaligned { .. })));
            assert_eq!(short.as_slice::<u8>().map(<[u8]>::len), Ok(7));
        }
    }

    #[test]
    fn a_pinned_allocation_outlives_its_free_while_it_is_held() {
        let memory = Memory::new(1, 1 << 20, false).unwrap();
        let address = memory.allocate_pinned(64).unwrap();
        let held = memory.pinned(address + 8).unwrap();
        assert!(memory.check_pinned(&held, address + 8, 56).is_ok());
        assert!(memory.check_pinned(&held, address + 8, 57).is_err());
        assert!(!held.is_freed());
        assert!(memory.free_pinned(address));
        assert!(held.is_freed());
        assert!(memory.pinned(address).is_none());
    }
}
