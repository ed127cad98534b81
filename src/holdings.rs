//! What a device holds for this layer: streams, events and memory that are alive, events ready for use, memory that waits
//! to be freed. So all of it can be given back in the order that CANN asks for before a device is reset: streams, events,
//! then the device (CANN runtime 9.1.0, `aclrtResetDevice`).

use core::ffi::c_void;
use std::collections::{HashMap, HashSet};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use ascend_sys::{ACL_EVENT_SYNC, aclmdlRI, aclrtEvent, aclrtEventRecordedStatus, aclrtStream};

use crate::device::{Bound, call};
use crate::error::{Error, Result};
use crate::memory::USERS;
use crate::sync::lock;

/// Something to be freed.
#[derive(Clone, Copy)]
pub(crate) enum Freed {
    /// Device memory.
    Device { address: u64 },
    /// Pinned host memory.
    Host { address: usize },
}

/// Events to wait for, one for each stream that may use a piece of memory.
pub(crate) type Events = [Option<aclrtEvent>; USERS];

/// Memory dropped while it may have been in use: freed once all its events have passed.
struct PendingFree {
    freed: Freed,
    events: Events,
}

/// What a device holds.
#[derive(Default)]
pub(crate) struct Holdings {
    graphs: HashSet<aclmdlRI>,
    streams: HashSet<aclrtStream>,
    events: HashSet<aclrtEvent>,
    /// Bytes that each allocation takes, by its address.
    memory: HashMap<u64, u64>,
    /// Events ready to be recorded. They are of the kind that can be recorded again at once: a wait queued before keeps
    /// to what was recorded then (CANN runtime 9.1.0, `aclrtRecordEvent` on events of `aclrtCreateEventExWithFlag`).
    spare_events: Vec<aclrtEvent>,
    pending: Vec<PendingFree>,
}

impl Holdings {
    /// Keeps pinned memory of a lost device until the reset or the last handle.
    pub(crate) fn free_at_reset(&mut self, freed: Option<Freed>) {
        self.pending.extend(freed.map(|freed| PendingFree { freed, events: [None; USERS] }));
    }

    fn forget_memory(&mut self, bound: &Bound<'_>, freed: Freed) {
        if let Freed::Device { address } = freed
            && let Some(held) = self.memory.remove(&address)
        {
            bound.device().in_use.fetch_sub(held, Ordering::Relaxed);
        }
    }

    /// Frees now. What cannot be freed stays among the holdings, and the error is kept.
    fn free(&mut self, bound: &Bound<'_>, freed: Freed) {
        match bound.free_raw(freed) {
            Ok(()) => self.forget_memory(bound, freed),
            Err(error) => bound.device().keep(error),
        }
    }
}

impl<'d> Bound<'d> {
    fn holdings(&self) -> MutexGuard<'d, Holdings> {
        lock(&self.device().holdings)
    }

    pub(crate) fn holds_stream(&self, stream: aclrtStream) {
        self.holdings().streams.insert(stream);
    }

    pub(crate) fn holds_memory(&self, address: u64, held: u64) {
        self.holdings().memory.insert(address, held);
        let in_use = self.device().in_use.fetch_add(held, Ordering::Relaxed) + held;
        self.device().peak.fetch_max(in_use, Ordering::Relaxed);
    }

    pub(crate) fn holds_graph(&self, graph: aclmdlRI) {
        self.holdings().graphs.insert(graph);
    }

    /// Destroys a graph that no stream executes any more.
    pub(crate) fn destroy_graph(&self, graph: aclmdlRI) -> Result<()> {
        // SAFETY: the graph was captured by this layer, and is destroyed once.
        unsafe { call!(self.aclmdlRIDestroy(graph)) }?;
        self.holdings().graphs.remove(&graph);
        Ok(())
    }

    /// Destroys a stream, which waits for its work.
    pub(crate) fn destroy_stream(&self, stream: aclrtStream) -> Result<()> {
        // SAFETY: the stream was made by this layer, and the caller holds the last handle on it.
        unsafe { call!(self.aclrtDestroyStream(stream)) }?;
        self.holdings().streams.remove(&stream);
        Ok(())
    }

    pub(crate) fn create_event(&self, flags: u32) -> Result<aclrtEvent> {
        let mut event = aclrtEvent::NULL;
        // SAFETY: the handle is writable.
        unsafe { call!(self.aclrtCreateEventExWithFlag(&mut event, flags)) }?;
        self.holdings().events.insert(event);
        Ok(event)
    }

    /// Destroys an event; work that waits for it keeps what it needs (`aclrtDestroyEvent`).
    pub(crate) fn destroy_event(&self, event: aclrtEvent) -> Result<()> {
        // SAFETY: the event was made by this layer, and nobody else has it.
        unsafe { call!(self.aclrtDestroyEvent(event)) }?;
        self.holdings().events.remove(&event);
        Ok(())
    }

    /// Records a spare event on a stream, which must not be destroyed meanwhile.
    pub(crate) fn record(&self, stream: aclrtStream) -> Result<aclrtEvent> {
        let spare = self.holdings().spare_events.pop();
        let event = spare.map_or_else(|| self.create_event(ACL_EVENT_SYNC), Ok)?;
        // SAFETY: the event is alive, and the caller keeps the stream alive.
        if let Err(error) = unsafe { call!(self.aclrtRecordEvent(event, stream)) } {
            self.give_event(event);
            return Err(error);
        }
        Ok(event)
    }

    pub(crate) fn give_event(&self, event: aclrtEvent) {
        self.holdings().spare_events.push(event);
    }

    /// Whether what was queued before the event was recorded is done.
    pub(crate) fn has_passed(&self, event: aclrtEvent) -> Result<bool> {
        let mut status = aclrtEventRecordedStatus::NOT_READY;
        // SAFETY: the event is alive, the status writable.
        unsafe { call!(self.aclrtQueryEventStatus(event, &mut status)) }?;
        Ok(status == aclrtEventRecordedStatus::COMPLETE)
    }

    /// Frees once the events have passed; they are spare then.
    pub(crate) fn free_when_passed(&self, freed: Freed, events: Events) {
        let mut holdings = self.holdings();
        if events.iter().all(Option::is_none) {
            holdings.free(self, freed);
        } else {
            holdings.pending.push(PendingFree { freed, events });
        }
    }

    pub(crate) fn is_nothing_waiting(&self) -> bool {
        self.holdings().pending.is_empty()
    }

    /// Frees what waited and whose events have passed.
    ///
    /// # Errors
    /// Those of asking an event; what still waits goes on waiting.
    pub(crate) fn reap(&self) -> Result<()> {
        let mut holdings = self.holdings();
        let mut next = 0;
        while let Some(waiting) = holdings.pending.get(next) {
            let mut passed = true;
            for &event in waiting.events.iter().flatten() {
                passed = passed && self.has_passed(event)?;
            }
            if passed {
                let done = holdings.pending.swap_remove(next);
                holdings.spare_events.extend(done.events.into_iter().flatten());
                holdings.free(self, done.freed);
            } else {
                next += 1;
            }
        }
        Ok(())
    }

    /// Gives everything back that is alive on the device, streams first, which waits for their work. What fails stays to
    /// the reset that follows. Gives the pinned memory that was waiting, to be freed after the reset, and the first error.
    pub(crate) fn tear_down(&self) -> (Vec<Freed>, Option<Error>) {
        let Holdings { graphs, streams, events, memory, pending, .. } = std::mem::take(&mut *self.holdings());
        let mut first = None;
        for result in streams.into_iter().map(|stream| self.destroy_stream(stream)) {
            first = first.or(result.err());
        }
        for result in graphs.into_iter().map(|graph| self.destroy_graph(graph)) {
            first = first.or(result.err());
        }
        for result in events.into_iter().map(|event| self.destroy_event(event)) {
            first = first.or(result.err());
        }
        for result in memory.into_keys().map(|address| self.free_raw(Freed::Device { address })) {
            first = first.or(result.err());
        }
        self.device().in_use.store(0, Ordering::Relaxed);
        let host = pending.into_iter().map(|pending| pending.freed);
        (host.filter(|freed| matches!(freed, Freed::Host { .. })).collect(), first)
    }

    pub(crate) fn free_raw(&self, freed: Freed) -> Result<()> {
        match freed {
            // SAFETY: the address is one of `aclrtMalloc`, freed once, and no stream uses it any more.
            Freed::Device { address } => unsafe { call!(self.aclrtFree(address as *mut c_void)) },
            // SAFETY: the address is one of `aclrtMallocHost`, freed once, and no stream uses it any more.
            Freed::Host { address } => unsafe { call!(self.aclrtFreeHost(address as *mut c_void)) },
        }
    }
}
