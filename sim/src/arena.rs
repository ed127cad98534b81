//! The memory of one simulated device: a range of addresses no host code can touch, the bytes behind them, and the
//! allocator that hands out pieces.
//!
//! Two mappings of one size: the addresses that C sees are reserved without access, the bytes lie in an ordinary
//! mapping at a constant distance. Neither costs memory before bytes are written.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use crate::lock;

/// Allocations start and end on multiples of this.
const GRANULE: u64 = 512;
const PAGE: u64 = 4096;

/// A private anonymous mapping.
struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    fn new(len: usize, protection: i32) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address the kernel picks touches no memory of this process.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, len }) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and no pointer into it is used after its arena is gone.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

// SAFETY: the mapping is plain memory and an address range; who may touch which byte when is the arena's business.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Why an access to an arena is refused. Offsets are turned into addresses by [`crate::memory`].
pub(crate) enum ArenaError {
    /// The address belongs to no allocation, but did before.
    Freed,
    /// The address never belonged to an allocation.
    NeverAllocated,
    /// The access starts in an allocation and leaves it: its first address and its length.
    Beyond { start: u64, len: u64 },
}

/// Why an allocation cannot be freed.
pub(crate) enum FreeError {
    /// It was freed before.
    Twice,
    /// The pointer was never allocated.
    NeverAllocated,
    /// The pointer is inside the allocation that starts here.
    Inside { start: u64 },
}

struct State {
    /// Live allocations: offset to length.
    live: BTreeMap<u64, u64>,
    /// Free ranges: offset to length, never adjacent.
    free: BTreeMap<u64, u64>,
    /// Bytes of live allocations, rounded to granules.
    used: u64,
    /// Every offset below was part of an allocation at some time: the lowest fit is taken, so the range grows without
    /// holes.
    high_water: u64,
}

/// One device's memory.
pub(crate) struct Arena {
    addresses: Mapping,
    bytes: Mapping,
    size: u64,
    state: Mutex<State>,
}

impl Arena {
    pub(crate) fn new(size: u64) -> io::Result<Self> {
        let len = usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let addresses = Mapping::new(len, libc::PROT_NONE)?;
        let bytes = Mapping::new(len, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the range is the mapping just made. Advice: a crash must not write gigabytes of untouched memory.
        unsafe { libc::madvise(bytes.start, bytes.len, libc::MADV_DONTDUMP) };
        let state = State { live: BTreeMap::new(), free: BTreeMap::from([(0, size)]), used: 0, high_water: 0 };
        Ok(Self { addresses, bytes, size, state: Mutex::new(state) })
    }

    /// First address.
    pub(crate) fn base(&self) -> u64 {
        self.addresses.start as u64
    }

    /// Bytes of the device.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes not allocated.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.size - lock(&self.state).used
    }

    /// Offset of an address, if it is one of this device.
    pub(crate) fn offset(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.base()).filter(|&offset| offset < self.size)
    }

    /// The bytes from `offset` on; `None` where they leave the device.
    pub(crate) fn bytes(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        // SAFETY: the offset lies in the mapping, or at its end.
        (end <= self.size).then(|| unsafe { self.bytes.start.cast::<u8>().add(offset as usize) })
    }

    /// Allocates; the address, or `None` where no free range is long enough.
    pub(crate) fn allocate(&self, len: u64) -> Option<u64> {
        let room = len.max(1).checked_next_multiple_of(GRANULE)?;
        let mut state = lock(&self.state);
        let (&offset, &found) = state.free.iter().find(|&(_, &free)| free >= room)?;
        state.free.remove(&offset);
        if found > room {
            state.free.insert(offset + room, found - room);
        }
        state.live.insert(offset, len);
        state.used += room;
        state.high_water = state.high_water.max(offset + room);
        Some(self.base() + offset)
    }

    /// Frees; gives the memory back to the host.
    pub(crate) fn free(&self, offset: u64) -> Result<(), FreeError> {
        let mut state = lock(&self.state);
        let Some(len) = state.live.remove(&offset) else {
            let before = state.live.range(..offset).next_back();
            return Err(match before {
                Some((&start, &len)) if offset < start + len => FreeError::Inside { start: self.base() + start },
                _ if offset < state.high_water => FreeError::Twice,
                _ => FreeError::NeverAllocated,
            });
        };
        let room = len.max(1).next_multiple_of(GRANULE);
        state.used -= room;
        let (mut start, mut end) = (offset, offset + room);
        if let Some((&left, &len)) =
            state.free.range(..offset).next_back().filter(|&(&left, &len)| left + len == offset)
        {
            state.free.remove(&left);
            debug_assert_eq!(left + len, start);
            start = left;
        }
        if let Some(len) = state.free.remove(&end) {
            end += len;
        }
        state.free.insert(start, end - start);
        self.discard(offset, room);
        Ok(())
    }

    /// Frees everything; the allocations that were live: address and length.
    pub(crate) fn free_all(&self) -> Vec<(u64, u64)> {
        let mut state = lock(&self.state);
        let live = std::mem::take(&mut state.live);
        state.free = BTreeMap::from([(0, self.size)]);
        state.used = 0;
        self.discard(0, state.high_water);
        live.into_iter().map(|(offset, len)| (self.base() + offset, len)).collect()
    }

    /// Whether `[offset, offset + len)` lies in one live allocation.
    pub(crate) fn check(&self, offset: u64, len: u64) -> Result<(), ArenaError> {
        let state = lock(&self.state);
        match state.live.range(..=offset).next_back() {
            Some((&start, &size)) if offset < start + size => {
                if len <= start + size - offset {
                    Ok(())
                } else {
                    Err(ArenaError::Beyond { start: self.base() + start, len: size })
                }
            }
            // The gap between an allocation and its granule is beyond it.
            Some((&start, &size)) if offset < start + size.next_multiple_of(GRANULE) => {
                Err(ArenaError::Beyond { start: self.base() + start, len: size })
            }
            _ if offset < state.high_water => Err(ArenaError::Freed),
            _ => Err(ArenaError::NeverAllocated),
        }
    }

    /// Drops the whole pages of a range; they read as zeros from now on.
    fn discard(&self, offset: u64, len: u64) {
        let start = offset.next_multiple_of(PAGE);
        let end = (offset + len) & !(PAGE - 1);
        if start < end {
            // SAFETY: whole pages of the mapping of bytes, none of them part of a live allocation.
            unsafe { libc::madvise(self.bytes.start.add(start as usize), (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(arena: &Arena, len: u64) -> u64 {
        arena.allocate(len).unwrap() - arena.base()
    }

    #[test]
    fn the_lowest_fit_is_taken_and_neighbours_grow_together() {
        let arena = Arena::new(1 << 20).unwrap();
        let [a, b, c] = [100, 512, 513].map(|len| offset(&arena, len));
        assert_eq!([a, b, c], [0, 512, 1024]);
        assert_eq!(arena.free_bytes(), (1 << 20) - 512 - 512 - 1024);
        assert!(arena.free(a).is_ok());
        assert!(arena.free(b).is_ok());
        assert_eq!(offset(&arena, 1024), 0, "a and b became one range");
        assert!(arena.free(0).is_ok());
        assert!(arena.free(c).is_ok());
        assert_eq!(lock(&arena.state).free, BTreeMap::from([(0, 1 << 20)]));
        assert!(arena.allocate(1 << 20).is_some());
        assert!(arena.allocate(1).is_none());
    }

    #[test]
    fn accesses_are_held_against_live_allocations() {
        let arena = Arena::new(1 << 20).unwrap();
        let a = offset(&arena, 100);
        assert!(arena.check(a, 100).is_ok());
        assert!(arena.check(a + 99, 1).is_ok());
        assert!(matches!(arena.check(a, 101), Err(ArenaError::Beyond { len: 100, .. })));
        assert!(matches!(arena.check(a + 100, 1), Err(ArenaError::Beyond { len: 100, .. })));
        assert!(matches!(arena.check(a + 4096, 1), Err(ArenaError::NeverAllocated)));
        assert!(matches!(arena.check(a, u64::MAX), Err(ArenaError::Beyond { .. })));
        assert!(matches!(arena.free(a + 32), Err(FreeError::Inside { .. })));
        assert!(matches!(arena.free(4096), Err(FreeError::NeverAllocated)));
        assert!(arena.free(a).is_ok());
        assert!(matches!(arena.free(a), Err(FreeError::Twice)));
        assert!(matches!(arena.check(a, 1), Err(ArenaError::Freed)));
    }

    #[test]
    fn bytes_stay_inside() {
        let arena = Arena::new(1 << 20).unwrap();
        assert!(arena.bytes(0, 1 << 20).is_some());
        assert!(arena.bytes(1, 1 << 20).is_none());
        assert!(arena.bytes(u64::MAX, 2).is_none());
        assert_eq!(arena.offset(arena.base() + (1 << 20)), None);
        assert_eq!(arena.offset(arena.base() - 1), None);
    }

    #[test]
    fn freed_memory_goes_back_to_the_host() {
        let arena = Arena::new(1 << 20).unwrap();
        let a = offset(&arena, 64 << 10);
        let bytes = arena.bytes(a, 64 << 10).unwrap();
        // SAFETY: 64 KiB of the mapping.
        unsafe { bytes.write_bytes(7, 64 << 10) };
        assert!(arena.free(a).is_ok());
        // SAFETY: as above.
        assert_eq!(unsafe { bytes.add(5000).read() }, 0);
    }
}
